"""What a network costs: parameters, multiply-adds and the memory of a training step."""

import difflib
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from emodecode.errors import InputError
from emodecode.models.catalogue import KINDS
from emodecode.models.conv1d import NETWORKS
from emodecode.models.networks3d import (
    NETWORKS3D,
    Shape,
    available3d,
    build_network3d,
    options3d,
)

_BATCH = 2
"""Samples in the counted pass: batch normalisation in training refuses a single value."""


@dataclass(frozen=True)
class Cost:
    """Cost of a network for one sample.

    Parameters
    ----------
    n_parameters, n_trainable : int
        Without buffers (batch normalisation's running means and variances), which Keras counts as
        parameters that are not trained.
    multiply_adds : int
        Of convolutions, dense layers and products of matrices (attention, recurrent units) in one
        forward pass; a padded voxel counts as any other. Not counted: normalisation, activations,
        biases, sums.
    saved_bytes : int
        What a training step keeps of one sample until its backward pass; weights, gradients and
        the optimiser's state come on top, once.
    """

    n_parameters: int
    n_trainable: int
    multiply_adds: int
    saved_bytes: int


def measure_cost(network: nn.Module, shape: tuple[int, ...]) -> Cost:
    """Count what one sample costs, from shapes alone.

    The network runs once, in training mode, on tensors without values (torch's meta device): no
    arithmetic is done, the network's own weights and statistics stay untouched, and a ResNet-152
    takes a third of a second.

    Parameters
    ----------
    network : nn.Module
    shape : tuple of int
        Of one sample: ``(1, x, y, z)``, ``(k, x, y, z)`` for windows, ``(n_features,)``.

    Returns
    -------
    cost : Cost
    """
    state = {
        name: part.detach().to("meta").requires_grad_(part.requires_grad)
        for name, part in network.named_parameters()
    }
    state |= {name: part.to("meta") for name, part in network.named_buffers()}
    own = {part.untyped_storage()._cdata for part in state.values()}
    kept: dict[int, Any] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()  # held, so that its number is not given out again
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    sample = torch.empty(_BATCH, *shape, device="meta")
    counter = FlopCounterMode(display=False)
    with _training(network), counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        torch.func.functional_call(network, state, (sample,))
    parameters = list(network.parameters())
    return Cost(
        n_parameters=sum(part.numel() for part in parameters),
        n_trainable=sum(part.numel() for part in parameters if part.requires_grad),
        multiply_adds=counter.get_total_flops() // (2 * _BATCH),
        saved_bytes=sum(storage.nbytes() for storage in kept.values()) // _BATCH,
    )


def cost_rows(
    kind: str,
    *,
    shape: Shape = (64, 64, 44),
    n_classes: int = 3,
    n_features: int = 300,
    window: int | None = None,
) -> list[dict[str, Any]]:
    """Return one row for each variant of a network: options, input and the fields of `Cost`.

    Kinds without layers (the classical decoders) have no rows. S2's 1-D network is counted as it
    is written, layer after layer.

    Parameters
    ----------
    kind : str
        A key of `NETWORKS` or :data:`emodecode.models.networks3d.NETWORKS3D`.
    shape : (x, y, z), default (64, 64, 44)
        Voxels of a volume, for the 3-D networks.
    n_classes : int, default 3
    n_features : int, default 300
        Length of a vector, for the 1-D networks.
    window : int, optional
        3-D networks: the form for windows of so many volumes.

    Raises
    ------
    InputError
        A shape or a length that the network cannot take.
    """
    if kind in NETWORKS:
        sizes: dict[str, Any] = {"n_features": n_features, "n_classes": n_classes}
        written = {"composed": False} if kind == "s2_conv1d" else {}
        with torch.device("meta"):
            network = NETWORKS[kind](**sizes, **written)
        return [_row({}, (n_features,), network)]
    if kind not in NETWORKS3D:
        return []
    rows = []
    for options in NETWORKS3D[kind].variants:
        with torch.device("meta"):
            network = build_network3d(
                kind, shape=shape, n_classes=n_classes, window=window, **options
            )
        rows.append(_row(options, (window or 1, *shape), network))
    return rows


def list_kinds(kind: str | None = None, **sizes: Any) -> list[dict[str, Any]]:
    """Return what there is to decode with: kind, description, parameters, costs, why not.

    Parameters
    ----------
    kind : str, optional
        Only this one; what it cannot take is an error then, and a remark otherwise.
    **sizes
        See :func:`cost_rows`.

    Raises
    ------
    InputError
        Unknown kind, or sizes that the named kind cannot take.
    """
    names = list(dict.fromkeys([*KINDS, *available3d()]))
    if kind is not None and kind not in names:
        near = difflib.get_close_matches(kind, names, n=1, cutoff=0.4)
        raise InputError(
            f"model kind {kind!r}",
            found="no decoder of that kind",
            expected=f"one of {', '.join(names)}",
            remedy=f"Did you mean {near[0]!r}?" if near else "`emodecode models` lists them.",
        )
    found = []
    for name in names:
        if kind in (None, name):
            known = KINDS.get(name)
            about = known.description if known else NETWORKS3D[name].description
            parameters = known.defaults if known else options3d(name)
            entry = {"kind": name, "description": about, "parameters": parameters}
            found.append(entry | _costs(name, sizes, strict=kind is not None))
    return found


def _costs(kind: str, sizes: dict[str, Any], *, strict: bool) -> dict[str, Any]:
    try:
        return {"costs": cost_rows(kind, **sizes), "why_not": None}
    except InputError as error:
        if strict:
            raise
        return {"costs": [], "why_not": f"{error.found}; expected {error.expected}"}


def _row(options: dict[str, Any], shape: tuple[int, ...], network: nn.Module) -> dict[str, Any]:
    return {"options": options, "input": list(shape)} | asdict(measure_cost(network, shape))


class _training:
    """Training mode for as long as this lasts, then every part's own mode again."""

    def __init__(self, network: nn.Module):
        self.network = network

    def __enter__(self) -> None:
        self.modes = [(part, part.training) for part in self.network.modules()]
        self.network.train()

    def __exit__(self, *_: object) -> None:
        for part, mode in self.modes:
            part.training = mode

"""The 3-D networks by name: how each is built, for single volumes and for windows of them."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from emodecode.errors import InputError

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Network3D:
    """One kind of 3-D network.

    Parameters
    ----------
    description : str
    module : str
        Where it is defined, in ``emodecode.models``; imported when one is built.
    name : str
        Of its class or function there: takes ``n_classes``, ``shape`` if it depends on it, and
        options by keyword.
    variants : tuple of dict
        Options worth a row of their own in a table.
    """

    description: str
    module: str
    name: str
    variants: tuple[dict[str, Any], ...] = ({},)


NETWORKS3D: dict[str, Network3D] = {
    "separable3d": Network3D(
        "S1's depthwise-separable CNN on volumes of any shape; its published weights load",
        "separable3d",
        "Separable3D",
    ),
    "resnet3d": Network3D(
        "3-D residual network of depth 18, 34, 50, 101 or 152 (MONAI, first stride 2)",
        "resnet3d",
        "resnet3d",
        tuple({"depth": depth} for depth in (18, 34, 50, 101, 152)),
    ),
    "efficientnet3d": Network3D(
        "3-D EfficientNet of size b0 to b7 (MONAI)",
        "resnet3d",
        "efficientnet3d",
        tuple({"size": size} for size in ("b0", "b1", "b2", "b3")),
    ),
    "small3d": Network3D(
        "small separable network of ours that trains on a laptop",
        "small3d",
        "Small3D",
    ),
}
"""Kind -> 3-D network."""

_GIVEN = {"self", "shape", "n_classes", "encoder", "n_features", "window"}
"""Parameters of a network that are no options."""


def available3d() -> list[str]:
    """Return the kinds of 3-D network that are there."""
    return [
        kind
        for kind, network in NETWORKS3D.items()
        if find_spec(f"emodecode.models.{network.module}") is not None
    ]


def options3d(kind: str) -> dict[str, Any]:
    """Return the options of a 3-D network and their defaults.

    Raises
    ------
    InputError
        Unknown kind.
    """
    return _options_of(_made_by(kind))


def build_network3d(
    kind: str,
    *,
    shape: Shape,
    n_classes: int,
    window: int | None = None,
    window_options: dict[str, Any] | None = None,
    **options: Any,
) -> "nn.Module":
    """Return an untrained 3-D network.

    Parameters
    ----------
    kind : str
        A key of :data:`NETWORKS3D`.
    shape : (x, y, z)
        Voxels of a volume.
    n_classes : int
    window : int, optional
        None: a network on single volumes ``(batch, 1, x, y, z)``. k: the same network without its
        last layer as the encoder of a :class:`emodecode.models.windowed3d.Windowed3D` on
        ``(batch, k, x, y, z)``; 1 is the window's own special case.
    window_options : dict, optional
        Of `Windowed3D`: ``how``, ``width``, ``n_heads``, ``dropout``.
    **options
        Of the network: ``dropout`` (separable3d), ``depth`` (resnet3d), ``size`` (efficientnet3d).

    Returns
    -------
    network : nn.Module
        With ``penalised``, the names of its convolution and dense kernels: what an L2 penalty in
        the manner of Keras is on.

    Raises
    ------
    InputError
        Unknown kind or option (the nearest known one is named), a bad shape, a value out of range.
    """
    if window is None:
        if window_options:
            raise _bad(kind, f"window_options {sorted(window_options)}", "them with a window only")
        network = _build(kind, shape, n_classes, options)
    else:
        from emodecode.models.windowed3d import Windowed3D

        more = window_options or {}
        _check_options(f"{kind} window", more, Windowed3D)
        encoder, n_features = encoder3d(kind, shape=shape, **options)
        network = Windowed3D(encoder, n_features, n_classes, window, **more)
    any_network: Any = network
    any_network.penalised = _kernels(network)
    return network


def encoder3d(kind: str, *, shape: Shape, **options: Any) -> "tuple[nn.Module, int]":
    """Return a 3-D network without its last layer, and how many features it gives.

    Parameters
    ----------
    kind, shape, **options
        See :func:`build_network3d`.

    Returns
    -------
    encoder : nn.Module
        Volumes ``(batch, 1, x, y, z)`` -> ``(batch, n_features)``. The last dense layer is cut off,
        so that no weight is left without a gradient.
    n_features : int

    Raises
    ------
    InputError
        As :func:`build_network3d`.
    """
    from torch import nn

    network = _build(kind, shape, 2, options)
    dense = [(name, part) for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    name, last = dense[-1]
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, nn.Identity())
    return network, last.in_features


def _made_by(kind: str) -> Callable[..., "nn.Module"]:
    if kind not in available3d():
        raise _bad(kind, "no such 3-D network", f"one of {', '.join(available3d())}")
    network = NETWORKS3D[kind]
    return getattr(import_module(f"emodecode.models.{network.module}"), network.name)


def _build(kind: str, shape: Sequence[int], n_classes: int, options: dict) -> "nn.Module":
    make = _made_by(kind)
    if len(shape) != 3 or min(shape) < 1:
        raise _bad(kind, f"a volume of shape {tuple(shape)}", "three numbers of voxels, (x, y, z)")
    _check_options(kind, options, make)
    sizes: dict[str, Any] = {"shape": tuple(shape), "n_classes": n_classes}
    taken = inspect.signature(make).parameters
    return make(**{name: size for name, size in sizes.items() if name in taken}, **options)


def _options_of(made_by: Callable) -> dict[str, Any]:
    parameters = inspect.signature(made_by).parameters
    return {name: each.default for name, each in parameters.items() if name not in _GIVEN}


def _check_options(where: str, options: dict, made_by: Callable) -> None:
    known = _options_of(made_by)
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            found = f"unknown option {name!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
            raise _bad(where, found, f"one of {', '.join(known)}" if known else "no options")


def _kernels(network: "nn.Module") -> tuple[str, ...]:
    """Name the kernels of all convolutions, dense layers and recurrent units."""
    return tuple(
        name
        for name, part in network.named_parameters()
        if part.ndim > 1 and name.rpartition(".")[2].startswith("weight")
    )


def _bad(kind: str, found: str, expected: str) -> InputError:
    remedy = "Correct it in the study; `emodecode models` lists what there is."
    return InputError(f"model {kind}", found=found, expected=expected, remedy=remedy)

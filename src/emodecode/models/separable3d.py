"""S1's depthwise-separable 3-D network on whole volumes, and its published weights."""

import itertools
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from emodecode.errors import DataMissingError, InputError

CHANNELS = (32, 64, 128, 256, 256)
"""Channels after S1's first convolution and after each of its four blocks."""
EXPANSION = 2
"""Widening inside a block, in multiples of the channels that come in."""


class LeanRelu6(torch.autograd.Function):
    """min(max(x, 0), 6) that keeps its output for the backward pass instead of its input.

    The next convolution keeps that output anyway, so that a training step needs a third less
    memory than with torch's own. Outputs and gradients are the same bits: the output is 0 or 6
    where the gradient is none.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        """Clip, and keep the result."""
        clipped = functional.relu6(x)
        ctx.save_for_backward(clipped)
        return clipped

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Pass the gradient where nothing was clipped."""
        (clipped,) = ctx.saved_tensors
        return torch.ops.aten.hardtanh_backward(gradient, clipped, 0.0, 6.0)


def _relu6(x: torch.Tensor, *, training: bool) -> torch.Tensor:
    return LeanRelu6.apply(x) if training else functional.relu6(x, inplace=True)


class SeparableBlock(nn.Module):
    """Widen by a 1x1x1 convolution, filter every channel by itself, mix by 1x1x1.

    ``h = BN3(P BN2-ReLU6(D BN1-ReLU6(E x)))`` with E: n_in -> 2 n_in (1x1x1), D: 3x3x3 depthwise
    with stride 2 and padding 1, P: 2 n_in -> n_out (1x1x1). No convolution has a bias, nothing
    follows BN3 and there is no short cut: with stride 2 S1's "residual" flag is never used.
    """

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        n_wide = EXPANSION * n_in
        self.expand = nn.Conv3d(n_in, n_wide, 1, bias=False)
        self.bn1 = nn.BatchNorm3d(n_wide)
        self.dwconv = nn.Conv3d(n_wide, n_wide, 3, stride=2, padding=1, groups=n_wide, bias=False)
        self.bn2 = nn.BatchNorm3d(n_wide)
        self.project = nn.Conv3d(n_wide, n_out, 1, bias=False)
        self.bn3 = nn.BatchNorm3d(n_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``(batch, n_out, ...)``, every axis half as long (rounded up)."""
        wide = _relu6(self.bn1(self.expand(x)), training=self.training)
        filtered = _relu6(self.bn2(self.dwconv(wide)), training=self.training)
        return self.bn3(self.project(filtered))


class Separable3D(nn.Module):
    """S1's network ("Bigger3DCNN"): a convolution, four separable blocks, a mean, a dense layer.

    424,549 parameters at 5 classes and 1.55 G multiply-adds for a 64x64x64 volume. The mean over
    the volume makes the parameters independent of its shape: S1's weights were trained on
    80x80x35. The names of the weights are those of S1's file, so that it loads strictly.

    Parameters
    ----------
    n_classes : int, default 5
    dropout : float, default 0.3
        Before the dense layer.

    References
    ----------
    S1 (spec S1.11). Layers and weights are those of its published code; its text gives 70x70x35
    volumes and its figure 64x64x64.
    """

    def __init__(self, n_classes: int = 5, dropout: float = 0.3):
        super().__init__()
        self.conv1 = nn.Conv3d(1, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm3d(CHANNELS[0])
        self.ds1, self.ds2, self.ds3, self.ds4 = (
            SeparableBlock(n_in, n_out) for n_in, n_out in itertools.pairwise(CHANNELS)
        )
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(CHANNELS[-1], n_classes)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes ``(batch, 1, x, y, z)`` -> means of the last channels ``(batch, 256)``."""
        x = _relu6(self.bn1(self.conv1(x)), training=self.training)
        for block in (self.ds1, self.ds2, self.ds3, self.ds4):
            x = block(x)
        return x.mean((2, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes ``(batch, 1, x, y, z)`` -> logits ``(batch, n_classes)``."""
        return self.fc(self.dropout(self.features(x)))


def load_weights(net: nn.Module, path: str | Path) -> None:
    """Load a file of weights (``torch.save(net.state_dict(), path)``) into a network, strictly.

    The file is read without pickled code (``weights_only=True``). Names, shapes and values are
    checked before the first weight is replaced: a refused file leaves the network as it was.

    Parameters
    ----------
    net : nn.Module
        For S1's published file ``Separable3D(n_classes=5)``.
    path : str or Path

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No file of weights, a damaged one, or one of another network; the first weight that differs
        is named.
    """
    state = _read(Path(path))
    _check(state, net.state_dict(), where=str(path), network=type(net).__name__)
    net.load_state_dict(state, strict=True)


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a file of weights",
            remedy="Correct the path, or fetch the file.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the message below says all that they would
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own, pickle's and the system's
        raise InputError(
            str(path),
            found=f"no readable weights ({type(error).__name__})",
            expected="a complete file written by torch.save(net.state_dict(), ...)",
            remedy="Fetch or copy the file again; files that hold code are not read.",
        ) from error
    named = isinstance(state, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    )
    if not named:
        raise InputError(
            str(path),
            found=f"an object of type {type(state).__name__} that is no table of weights",
            expected="names and tensors, as net.state_dict() gives them",
            remedy="Save net.state_dict() and nothing else.",
        )
    return state


def _check(
    state: dict[str, torch.Tensor],
    wanted: dict[str, torch.Tensor],
    *,
    where: str,
    network: str,
) -> None:
    """Name the first weight that is missing, unknown, of another shape or not finite."""

    def refuse(found: str, expected: str) -> InputError:
        remedy = f"Load it into the network it was saved from; {network} has other weights."
        return InputError(where, found=found, expected=expected, remedy=remedy)

    for name, value in wanted.items():
        shape = tuple(value.shape)
        if name not in state:
            raise refuse(f"no weight {name!r}", f"{name} of shape {shape}")
        if tuple(state[name].shape) != shape:
            raise refuse(f"{name} of shape {tuple(state[name].shape)}", f"{name} of shape {shape}")
        if not state[name].isfinite().all():
            raise InputError(
                where,
                found=f"{name} has values that are not finite",
                expected="finite weights",
                remedy="The training of this file failed: take an earlier one.",
            )
    for name in state:
        if name not in wanted:
            raise refuse(f"an unknown weight {name!r}", f"the {len(wanted)} of {network}")

"""3-D residual networks and EfficientNets of MONAI, set up for one-channel fMRI volumes."""

from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from emodecode.errors import DataMissingError, InputError

DEPTHS = (18, 34, 50, 101, 152)
"""Layers of the residual networks."""
SIZES = tuple(f"b{number}" for number in range(8))
"""Sizes of the EfficientNets."""
KERNEL = 7
"""Width of a ResNet's first kernel."""
LEAST = 32
"""EfficientNets halve a volume five times: shorter axes are padded to this many voxels."""


def resnet3d(depth: int = 50, n_classes: int = 2) -> nn.Module:
    """Return a 3-D residual network, volumes ``(batch, 1, x, y, z)`` -> logits.

    MONAI's, with stride 2 in the first 7x7x7 convolution (MONAI's default of 1 does 28.4 G
    multiply-adds for a 64x64x44 volume where S2's network does 3.55), short cuts by 1x1x1
    convolutions (type B) and biases in them. ResNet-50 has 46,165,059 parameters at 3 classes and
    3.69 G multiply-adds for a 64x64x44 volume.

    It is not S2's network: that one is a Keras model with *pre-activation* (normalisation and ReLU
    before each convolution, once more before the mean), biases in all convolutions, 46,223,490
    parameters of which 46,178,050 are trained, 3.55 G multiply-adds, and its down-sampling stride
    in the first convolution of a block. MONAI's normalises after each convolution (He et al.
    2016a) and has the stride in the 3x3x3 convolution. Depth, width, kernel sizes and the 2,048
    last features are the same.

    Parameters
    ----------
    depth : {18, 34, 50, 101, 152}, default 50
    n_classes : int, default 2

    Raises
    ------
    InputError
        Another depth.
    DataMissingError
        MONAI is not installed.

    References
    ----------
    He et al. 2016, CVPR, "Deep residual learning" (this form) and ECCV, "Identity mappings" (S2's
    form); S2, experiment B (spec S2.30).
    """
    if depth not in DEPTHS:
        raise _unknown("resnet3d", f"depth = {depth!r}", DEPTHS)
    make = getattr(_monai_nets(), f"resnet{depth}")
    network = make(spatial_dims=3, n_input_channels=1, num_classes=n_classes, conv1_t_stride=2)
    network.register_forward_pre_hook(_not_under_the_first_kernel)
    return network


def efficientnet3d(n_classes: int = 2, size: str = "b0") -> nn.Module:
    """Return a 3-D EfficientNet, volumes ``(batch, 1, x, y, z)`` -> logits.

    MONAI's, which pads for one fixed image size and fails on volumes with an axis under 32 voxels;
    here such axes are padded with zeros to 32.

    Parameters
    ----------
    n_classes : int, default 2
    size : {"b0", ..., "b7"}, default "b0"

    Raises
    ------
    InputError
        Another size.
    DataMissingError
        MONAI is not installed.

    References
    ----------
    Tan and Le 2019, ICML, "EfficientNet"; S2 names it as future work (spec F7).
    """
    if size not in SIZES:
        raise _unknown("efficientnet3d", f"size = {size!r}", SIZES)
    network = _monai_nets().EfficientNetBN(
        f"efficientnet-{size}",
        pretrained=False,
        spatial_dims=3,
        in_channels=1,
        num_classes=n_classes,
    )
    return nn.Sequential(OrderedDict(pad=PadTo(LEAST), network=network))


class PadTo(nn.Module):
    """Pad the axes of a volume that are shorter than `n_voxels` with zeros on both sides."""

    def __init__(self, n_voxels: int):
        super().__init__()
        self.n_voxels = n_voxels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes ``(batch, 1, x, y, z)`` -> the same with no axis under `n_voxels`."""
        widths: list[int] = []
        for length in reversed(x.shape[2:]):
            missing = max(self.n_voxels - length, 0)
            widths += [missing // 2, missing - missing // 2]
        return functional.pad(x, widths) if any(widths) else x


def _not_under_the_first_kernel(network: nn.Module, given: tuple[torch.Tensor]) -> Any:
    """Pad axes under 8 voxels: on a CPU the first convolution's gradient is wrong there.

    torch 2.13 (oneDNN) leaves memory uninitialised where a kernel of 7 with stride 2 meets an
    axis of 7 voxels or fewer; `tests/test_resnet3d.py` shows it.
    """
    return (PadTo(KERNEL + 1)(given[0]),)


def _monai_nets() -> Any:
    try:
        from monai.networks import nets
    except ImportError as error:
        raise DataMissingError(
            "installation",
            found="monai is not installed",
            expected="monai 1.4 or later",
            remedy="pip install 'emodecode[torch]'",
        ) from error
    return nets


def _unknown(kind: str, found: str, known: tuple) -> InputError:
    return InputError(
        f"model {kind}",
        found=found,
        expected=f"one of {', '.join(map(str, known))}",
        remedy="Correct it in the study.",
    )

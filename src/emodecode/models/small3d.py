"""Small3D: a small 3-D network of ours that reads places and products of two places."""

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from emodecode.errors import InputError

EXTENT = 24
"""Volumes are down-sampled until no axis is longer, voxels."""
SINGLE = 0.5
"""Factor of the single places beside the products of two."""


class LocalFilters(nn.Module):
    """Filters that each look at one place: a convolution that shares no weights between places.

    The places lie on a grid over the volume. Filter k is ``h_k = sum over c, p of
    g_k(p) w_k,c(p) x_c(p)`` with a fixed Gaussian window g_k of standard deviation `width` grid
    steps, and starts from random weights with ``|g_k w_k| = 1``.

    Parameters
    ----------
    n_channels : int
    shape : (x, y, z)
    grid : (int, int, int)
        Places along each axis; as many filters as places.
    width : float, default 0.4
    """

    def __init__(
        self, n_channels: int, shape: Sequence[int], grid: Sequence[int], *, width: float = 0.4
    ):
        super().__init__()
        windows = _windows(shape, grid, width).flatten(1).repeat(1, n_channels)
        self.register_buffer("windows", windows, persistent=False)
        start = torch.randn(windows.shape)
        self.weight = nn.Parameter(start / (start * windows).norm(dim=1, keepdim=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes ``(batch, n_channels, x, y, z)`` -> ``(batch, n_places)``."""
        return functional.linear(x.flatten(1), self.weight * self.get_buffer("windows"))


class Small3D(nn.Module):
    """A small network of ours on volumes, for codes of single places and of pairs of places.

    Emotion may be coded by whether two regions move together. Then class means are equal, and a
    network must multiply what two distant places say. A mean over the volume, as at the end of S1's
    network, has lost the places; filters over the whole volume have a thousand weights for a few
    hundred blocks and learn single subjects. Here each filter sees one place::

        z = stem(x + noise)             (noise in training, inside the brain)
        h = local filters (z)           (one a place)
        logits = A dropout([0.5 h, h_i h_j / sqrt(2), i < j])

    Squares of h are left out and h counts half: both are fitted to the training subjects sooner
    than the products are found. Filters that carry nothing are shrunk by a strong decoupled weight
    decay (about 3 at a learning rate of 4e-3); without it nothing is found.

    The stem halves the volume as often as it takes for no axis to be longer than `EXTENT`: a
    convolution of stride 2, then depthwise-separable ones, each with batch normalisation and no
    ReLU, which would lose the sign that the products need. Coarse volumes have no stem.

    Parameters
    ----------
    shape : (x, y, z)
        Of the volumes.
    n_classes : int
    n_filters : int, default 36
        About so many places, on a grid of nearly cubic cells.
    dropout : float, default 0
        Of the products.
    noise : float, default 1
        Standard deviation of the noise; voxels are expected to have variance 1. Voxels that are
        exactly 0, as outside the mask, get none.
    n_channels : int, default 8
        Of the stem.
    n_stages : int, optional
        Halvings; None: by `EXTENT`.

    Raises
    ------
    InputError
        A shape that is no volume.
    """

    penalised = ("*.weight",)

    def __init__(
        self,
        shape: Sequence[int],
        n_classes: int,
        *,
        n_filters: int = 36,
        dropout: float = 0.0,
        noise: float = 1.0,
        n_channels: int = 8,
        n_stages: int | None = None,
    ):
        super().__init__()
        _check(shape, n_filters)
        self.noise, self.dropout = noise, dropout
        if n_stages is None:
            n_stages = max(0, math.ceil(math.log2(max(shape) / EXTENT)))
        self.stem = nn.Sequential(*(_stage(number, n_channels) for number in range(n_stages)))
        for _ in range(n_stages):
            shape = [(size + 1) // 2 for size in shape]
        grid = _grid(shape, n_filters)
        self.filters = LocalFilters(n_channels if n_stages else 1, shape, grid)
        pairs = torch.triu_indices(math.prod(grid), math.prod(grid), 1)
        self.register_buffer("first", pairs[0], persistent=False)
        self.register_buffer("second", pairs[1], persistent=False)
        self.output = nn.Linear(math.prod(grid) + pairs.shape[1], n_classes)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes ``(batch, 1, x, y, z)`` -> places and their products ``(batch, n)``."""
        if self.training and self.noise:
            x = x + self.noise * torch.randn_like(x) * (x != 0)
        h = self.filters(self.stem(x))
        products = h[:, self.get_buffer("first")] * h[:, self.get_buffer("second")] / 2**0.5
        return torch.cat([SINGLE * h, products], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes ``(batch, 1, x, y, z)`` -> logits ``(batch, n_classes)``."""
        return self.output(functional.dropout(self.features(x), self.dropout, self.training))


def _stage(number: int, n_channels: int) -> nn.Sequential:
    """Halve every axis (rounded up): a full convolution first, depthwise-separable ones then."""
    n_in = n_channels if number else 1
    groups = n_in if number else 1
    halve = nn.Conv3d(n_in, n_channels, 3, stride=2, padding=1, groups=groups, bias=False)
    mix = [nn.Conv3d(n_channels, n_channels, 1, bias=False)] if number else []
    return nn.Sequential(halve, *mix, nn.BatchNorm3d(n_channels, affine=False))


def _grid(shape: Sequence[int], n_places: int) -> tuple[int, ...]:
    """Divide a volume into about `n_places` nearly cubic cells."""
    edge = (math.prod(shape) / n_places) ** (1 / 3)
    return tuple(min(size, max(1, round(size / edge))) for size in shape)


def _windows(shape: Sequence[int], grid: Sequence[int], width: float) -> torch.Tensor:
    """Gaussian windows ``(n_places, x, y, z)`` around the centres of the grid's cells."""
    axes = []
    for size, n in zip(shape, grid, strict=True):
        centre = (torch.arange(n) + 0.5) * size / n - 0.5
        distance = (torch.arange(size) - centre[:, None]) * n / size
        axes.append(torch.exp(-0.5 * (distance / width) ** 2))
    return torch.einsum("ax,by,cz->abcxyz", *axes).reshape(-1, *shape)


def _check(shape: Sequence[int], n_filters: int) -> None:
    if len(shape) != 3 or min(shape) < 1 or n_filters < 2:
        raise InputError(
            "model small3d",
            found=f"a volume of shape {tuple(shape)} and {n_filters} filters",
            expected="three numbers of voxels, (x, y, z), and two filters or more",
            remedy="Give it voxels with their mask, and n_filters of 2 or more.",
        )

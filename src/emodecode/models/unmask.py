"""Unmask: vectors of voxels back to volumes, in front of a 3-D network."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Unmask(nn.Module):
    """Scatter ``(batch, n_voxels)`` into ``(batch, 1, x, y, z)`` by a mask and apply a network.

    So every network sits in the same pipeline as the other decoders. A windowed network gets
    ``(batch, k, n_voxels)``, the newest volume last, as volumes ``(batch, k, x, y, z)``; a volume
    that does not exist is NaN throughout. Voxels outside the mask are 0.

    Parameters
    ----------
    network : Module
        Volumes -> logits; a windowed one also takes ``valid (batch, k)``.
    mask : ndarray of bool, shape (x, y, z)
    mean, scale : ndarray of shape (n_voxels,), optional
        Subtracted and divided by; a scale of inf makes a voxel 0.
    by_volume : bool
        Standardise each volume by the mean and standard deviation of its own voxels.
    shift_vox : int
        In training, move each volume by up to so many voxels along each axis, at random.
    intensity : float
        In training, multiply each volume by 1 plus a normal deviate of this standard deviation.
    """

    def __init__(
        self,
        network: nn.Module,
        mask: np.ndarray,
        *,
        mean: np.ndarray | None = None,
        scale: np.ndarray | None = None,
        by_volume: bool = False,
        shift_vox: int = 0,
        intensity: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        self.shape = tuple(int(size) for size in mask.shape)
        inside = torch.from_numpy(np.flatnonzero(mask))
        n_voxels = len(inside)
        mean = np.zeros(n_voxels) if mean is None else mean
        factor = np.ones(n_voxels) if scale is None else 1 / scale
        self.register_buffer("inside", inside)
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("factor", torch.as_tensor(factor, dtype=torch.float32))
        self.by_volume, self.shift_vox, self.intensity = by_volume, shift_vox, intensity

    @property
    def penalised(self) -> tuple[str, ...]:
        """Weights that penalties are on: the network's."""
        patterns = getattr(self.network, "penalised", ("*",))
        return tuple(f"network.{pattern}" for pattern in patterns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Voxels ``(batch, n_voxels)`` or ``(batch, k, n_voxels)`` -> logits."""
        volumes = self.to_volumes(x)
        if x.ndim == 2:
            return self.network(volumes)
        return self.network(volumes, ~torch.isnan(x[..., 0]))

    def to_volumes(self, x: torch.Tensor) -> torch.Tensor:
        """Return standardised volumes ``(batch, 1 or k, x, y, z)``; augmented in training."""
        standard = self._standardise(x)
        if x.ndim == 3:
            standard = torch.nan_to_num(standard)
        flat = standard.reshape(-1, standard.shape[-1])
        volumes = flat.new_zeros(len(flat), self.shape[0] * self.shape[1] * self.shape[2])
        volumes[:, self.inside] = flat  # type: ignore[index]
        volumes = volumes.view(len(x), -1, *self.shape)
        if self.training and self.intensity:
            factor = 1 + self.intensity * torch.randn(len(x), 1, 1, 1, 1, device=x.device)
            volumes = volumes * factor
        if self.training and self.shift_vox:
            volumes = _shifted(volumes, self.shift_vox)
        return volumes

    def _standardise(self, x: torch.Tensor) -> torch.Tensor:
        if not self.by_volume:
            mean, factor = self.get_buffer("mean"), self.get_buffer("factor")
            return (x - mean) * factor
        spread = x.std(dim=-1, correction=0, keepdim=True)
        return (x - x.mean(dim=-1, keepdim=True)) / torch.where(spread > 0, spread, torch.inf)


def _shifted(volumes: torch.Tensor, most: int) -> torch.Tensor:
    """Move every sample by its own whole number of voxels; zeros come in at the border."""
    padded = functional.pad(volumes, [most] * 6)
    corners: Any = torch.randint(0, 2 * most + 1, (len(volumes), 3)).tolist()
    x, y, z = volumes.shape[2:]
    return torch.stack(
        [
            each[:, i : i + x, j : j + y, k : k + z]
            for each, (i, j, k) in zip(padded, corners, strict=True)
        ]
    )

"""The brain of the simulation: mask, grid and named regions."""

from dataclasses import dataclass, field
from typing import Literal

import nibabel as nib
import numpy as np

from emodecode.errors import InputError
from emodecode.simulate.recipe import Recipe

CENTRE_MM = np.array([0.0, -18.0, 14.0])
SEMI_AXES_MM = np.array([60.0, 78.0, 54.0])
EXTENT_MM = np.array([150.0, 180.0, 150.0])
MIN_REGION_VOXELS = 4

Role = Literal["interaction", "linear", "decoy", "none"]


@dataclass(frozen=True)
class Region:
    """A named sphere and what it carries.

    `isc_factor` multiplies the decoy's inter-subject correlation.
    """

    name: str
    role: Role
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius_mm: float = 12.0
    isc_factor: float = 1.0


REGIONS = (
    Region("amygdala_R", "interaction", (22, -4, -18)),
    Region("mPFC", "interaction", (0, 46, 4)),
    Region("insula_L", "linear", (-38, 14, -2)),
    Region("insula_R", "linear", (38, 14, -2)),
    Region("ACC", "linear", (0, 22, 34)),
    Region("V1", "decoy", (0, -82, 6), isc_factor=3.0),
    Region("STG_L", "decoy", (-48, -22, 4)),
    Region("STG_R", "decoy", (48, -22, 4)),
    Region("amygdala_L", "none", (-22, -4, -18)),
    Region("PCC", "none", (0, -52, 28)),
    Region("motor_L", "none", (-34, -22, 50)),
    Region("motor_R", "none", (34, -22, 50)),
)
"""Regions of the brain on disk: plausible MNI centres; the first two are A and B."""


@dataclass(frozen=True, eq=False)
class Brain:
    """A mask on a grid and the region of each of its voxels.

    Parameters
    ----------
    inside : ndarray of bool, shape (x, y, z)
    affine : ndarray of shape (4, 4)
        Voxel index to mm RAS+.
    labels : ndarray of int, shape (n_voxels,)
        Region number from 1, 0 elsewhere; in the C order of the True voxels of `inside`.
    regions : tuple of Region
    """

    inside: np.ndarray = field(repr=False)
    affine: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    regions: tuple[Region, ...]

    @property
    def n_voxels(self) -> int:
        """Voxels inside the mask."""
        return len(self.labels)

    @property
    def voxel_mm(self) -> float:
        """Edge of a voxel."""
        return float(abs(self.affine[0, 0]))

    def numbers(self, role: Role) -> list[int]:
        """Numbers (from 0) of the regions with that role."""
        return [number for number, region in enumerate(self.regions) if region.role == role]

    def columns(self, number: int) -> np.ndarray:
        """Voxel columns of region `number` (from 0)."""
        return np.flatnonzero(self.labels == number + 1)

    def coordinates_mm(self) -> np.ndarray:
        """Centre of each voxel, shape (n_voxels, 3)."""
        return nib.affines.apply_affine(self.affine, np.argwhere(self.inside))

    def mask_image(self) -> nib.Nifti1Image:
        """The mask as an image of 0 and 1."""
        return nib.Nifti1Image(self.inside.astype(np.uint8), self.affine)

    def region_image(self) -> nib.Nifti1Image:
        """The region numbers (from 1) as an image."""
        volume = np.zeros(self.inside.shape, dtype=np.int16)
        volume[self.inside] = self.labels
        return nib.Nifti1Image(volume, self.affine)


def make_brain(recipe: Recipe) -> Brain:
    """Make an ellipsoid brain on an MNI-like grid with the regions of `REGIONS`.

    Raises
    ------
    InputError
        When the grid cuts the brain or is too coarse for a region.
    """
    wanted = np.ceil(EXTENT_MM / recipe.voxel_mm).astype(int) + 1
    shape = np.array(recipe.shape) if recipe.shape is not None else wanted
    affine = np.diag([recipe.voxel_mm] * 3 + [1.0])
    affine[:3, 3] = CENTRE_MM - (shape - 1) / 2 * recipe.voxel_mm
    if np.any((shape - 1) * recipe.voxel_mm < 2 * SEMI_AXES_MM):
        raise InputError(
            "simulation: shape",
            found=f"a grid of {tuple(map(int, shape))} voxels of {recipe.voxel_mm:g} mm",
            expected=f"a grid that holds the brain ({tuple(2 * SEMI_AXES_MM)} mm)",
            remedy=f"Leave out shape, or use at least {tuple(map(int, wanted))}.",
        )
    grid = np.moveaxis(np.indices(tuple(shape)), 0, -1)
    mm = nib.affines.apply_affine(affine, grid)
    inside = (((mm - CENTRE_MM) / SEMI_AXES_MM) ** 2).sum(-1) <= 1
    labels = np.zeros(int(inside.sum()), dtype=np.int16)
    for number, region in enumerate(REGIONS, start=1):
        distance = np.linalg.norm(mm[inside] - np.array(region.centre_mm), axis=1)
        labels[distance <= region.radius_mm] = number
        if (labels == number).sum() < MIN_REGION_VOXELS:
            raise InputError(
                "simulation: voxel_mm",
                found=f"{(labels == number).sum()} voxels in {region.name}",
                expected=f"at least {MIN_REGION_VOXELS} voxels in each region",
                remedy="Use smaller voxels (voxel_mm = 6 or less).",
            )
    return Brain(inside=inside, affine=affine, labels=labels, regions=REGIONS)


def make_patch(recipe: Recipe) -> Brain:
    """Make the bare regions of the array path: `n_regions` x `n_region_voxels` in a row.

    Regions 1 and 2 are A and B, 3 and 4 linear, 5 and 6 decoys, more carry nothing.
    """
    roles: list[Role] = ["interaction", "interaction", "linear", "linear", "decoy", "decoy"]
    roles += ["none"] * (recipe.n_regions - len(roles))
    regions = tuple(Region(f"region_{n}", role) for n, role in enumerate(roles, start=1))
    n_voxels = recipe.n_regions * recipe.n_region_voxels
    return Brain(
        inside=np.ones((n_voxels, 1, 1), dtype=bool),
        affine=np.eye(4),
        labels=np.repeat(np.arange(1, recipe.n_regions + 1), recipe.n_region_voxels),
        regions=regions,
    )

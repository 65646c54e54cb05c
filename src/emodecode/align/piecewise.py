"""Pieces of the brain that are aligned each on its own: parcels of an atlas, or searchlights.

References
----------
Guntupalli et al. 2016, Cerebral Cortex 26, 2919-2934 (searchlights); Bazeille et al. 2021,
NeuroImage 245, 118683 (parcels).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.spatial import cKDTree

from emodecode.align.linearmap import LinearMap
from emodecode.errors import InputError


@dataclass(frozen=True, eq=False)
class PieceMap:
    """A subject's way into a common space that has the same voxels: one small map per piece.

    A voxel of several pieces gets the mean of what their maps give; a voxel of none passes as it
    is.

    Parameters
    ----------
    pieces : sequence of ndarray of int
        Columns of each piece.
    maps : sequence of LinearMap
        One a piece, to as many columns as it has.
    n_voxels : int
    """

    pieces: Sequence[np.ndarray] = field(repr=False)
    maps: Sequence[LinearMap] = field(repr=False)
    n_voxels: int
    cover: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cover", count_cover(self.pieces, self.n_voxels))

    @property
    def n_common(self) -> int:
        """Columns that go out: as many as come in."""
        return self.n_voxels

    @property
    def nbytes(self) -> int:
        """Memory of all maps, bytes; an array that they share counts once."""
        arrays = [
            part
            for each in self.maps
            for part in (each.left, each.right, each.mean_in, each.mean_out, each.std_in)
            if part is not None
        ]
        return sum(part.nbytes for part in {id(part): part for part in arrays}.values())

    def __call__(self, X: np.ndarray) -> np.ndarray:
        """Map ``(n_samples, n_voxels)`` to the same shape; float32 for float32."""
        X = np.asarray(X)
        if X.ndim != 2 or X.shape[1] != self.n_voxels:
            raise InputError(
                "alignment",
                found=f"data of shape {X.shape}",
                expected=f"(n_samples, {self.n_voxels}) as in the fit of this subject's maps",
                remedy="Extract the samples with the mask that the maps were fitted on.",
            )
        kind = np.float32 if X.dtype == np.float32 else np.float64
        mapped = np.zeros(X.shape, dtype=kind)
        for columns, part in zip(self.pieces, self.maps, strict=True):
            mapped[:, columns] += part(X[:, columns])
        if (self.cover > 1).any():
            mapped /= np.maximum(self.cover, 1).astype(kind)
        free = self.cover == 0
        if free.any():
            mapped[:, free] = X[:, free]
        return mapped

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turn weights of the common space into weights of this subject's voxels.

        Parameters
        ----------
        coef : ndarray of shape (n_classes, n_voxels)
        intercept : ndarray of shape (n_classes,)
        """
        shared = coef / np.maximum(self.cover, 1)
        back = np.where(self.cover == 0, coef, 0.0)
        for columns, part in zip(self.pieces, self.maps, strict=True):
            weights, intercept = part.weights_to_input(shared[:, columns], intercept)
            back[:, columns] += weights
        return back, intercept


def searchlights(
    coordinates_mm: np.ndarray, *, radius_mm: float, stride: int = 1
) -> list[np.ndarray]:
    """Return the voxels of each sphere around a voxel.

    Parameters
    ----------
    coordinates_mm : ndarray of shape (n_voxels, 3)
        Voxels' centres, mm.
    radius_mm : float
        Voxels whose centre is at most this far away belong to a sphere.
    stride : int, default 1
        Every `stride`-th voxel is a centre; so is each voxel that no sphere would hold otherwise.

    Returns
    -------
    list of ndarray of int
        Ascending columns, a sphere each.
    """
    coordinates_mm = np.asarray(coordinates_mm, dtype=np.float64)
    good = coordinates_mm.ndim == 2 and coordinates_mm.shape[1:] == (3,)
    if not good or not radius_mm > 0 or stride < 1:
        raise InputError(
            "searchlights",
            found=f"coordinates of shape {coordinates_mm.shape}, radius {radius_mm} mm, "
            f"stride {stride}",
            expected="(n_voxels, 3), a radius above 0 and a stride from 1",
            remedy="Correct align.searchlight_mm in the study.",
        )
    tree = cKDTree(coordinates_mm)
    spheres = _spheres(tree, coordinates_mm[::stride], radius_mm)
    free = np.flatnonzero(count_cover(spheres, len(coordinates_mm)) == 0)
    while free.size:
        more = _spheres(tree, coordinates_mm[free[:1]], radius_mm)
        spheres += more
        free = np.setdiff1d(free, more[0])
    return spheres


def piece_columns(
    pieces: np.ndarray | Sequence[np.ndarray] | None, n_voxels: int
) -> list[np.ndarray] | None:
    """Return the columns of each piece; None for the brain as a whole.

    Parameters
    ----------
    pieces : ndarray of shape (n_voxels,) of int, sequence of ndarray of int, or None
        Parcel of each voxel (0: in none), or the columns of each piece, which may overlap.

    Raises
    ------
    InputError
        Labels of another number of voxels, columns that there are not, no piece at all.
    """
    if pieces is None:
        return None
    parts = list(pieces)
    if parts and all(np.ndim(part) == 0 for part in parts):
        labels = np.asarray(pieces)
        if labels.shape != (n_voxels,) or labels.dtype.kind not in "iu" or labels.min() < 0:
            raise _bad_pieces(
                f"labels of shape {labels.shape}, {labels.dtype}",
                f"the parcel of each of {n_voxels} voxels, whole numbers from 0 (0: in none)",
            )
        parts = [np.flatnonzero(labels == label) for label in np.unique(labels[labels > 0])]
    parts = [np.asarray(part) for part in parts if np.size(part)]
    if not parts:
        raise _bad_pieces("no piece that holds a voxel", "at least one")
    for part in parts:
        whole = part.ndim == 1 and part.dtype.kind in "iu" and len(np.unique(part)) == len(part)
        if not whole or part.min() < 0 or part.max() >= n_voxels:
            raise _bad_pieces(
                f"a piece of shape {part.shape}, {part.dtype}, from {part.min()} to {part.max()}",
                f"columns from 0 to {n_voxels - 1}, each once",
            )
    return parts


def put_together(
    parts: Sequence[np.ndarray], pieces: Sequence[np.ndarray], n_voxels: int
) -> np.ndarray:
    """Put templates of pieces, each (n_keys, n_columns), into (n_keys, n_voxels).

    The mean where pieces overlap, zero where there is none.
    """
    whole = np.zeros((len(parts[0]), n_voxels))
    for columns, part in zip(pieces, parts, strict=True):
        whole[:, columns] += part
    return whole / np.maximum(count_cover(pieces, n_voxels), 1)


def count_cover(pieces: Sequence[np.ndarray], n_voxels: int) -> np.ndarray:
    """Return how many pieces hold each voxel."""
    if not len(pieces):
        return np.zeros(n_voxels, dtype=np.intp)
    return np.bincount(np.concatenate(pieces), minlength=n_voxels)


def _spheres(tree: cKDTree, centres: np.ndarray, radius_mm: float) -> list[np.ndarray]:
    found = tree.query_ball_point(centres, radius_mm * (1 + 1e-9), return_sorted=True)
    return [np.asarray(columns, dtype=np.intp) for columns in found]


def _bad_pieces(found: str, expected: str) -> InputError:
    return InputError(
        "alignment: pieces",
        found=found,
        expected=expected,
        remedy="Make them from the mask of the samples (align.pieces, align.searchlight_mm).",
    )

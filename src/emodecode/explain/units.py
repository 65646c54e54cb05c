"""Units of occlusion: boxes, regions, searchlights, any sets of voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from emodecode.errors import InputError


@dataclass(frozen=True, eq=False)
class Units:
    """Sets of columns that are occluded together.

    Parameters
    ----------
    names : sequence of str
    columns : sequence of ndarray of int
        The columns of each set; none is empty.
    n_features : int
        Columns there are.
    """

    names: tuple[str, ...]
    columns: tuple[np.ndarray, ...]
    n_features: int

    def __len__(self) -> int:
        return len(self.names)

    @property
    def membership(self) -> csr_array:
        """1 where a column is in a set, (n_features, n_units)."""
        sizes = [len(each) for each in self.columns]
        rows = np.concatenate(self.columns)
        which = np.repeat(np.arange(len(self)), sizes)
        shape = (self.n_features, len(self))
        return csr_array((np.ones(len(rows)), (rows, which)), shape=shape)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Give each column the mean value of the sets that it is in, 0 where it is in none.

        Parameters
        ----------
        values : ndarray of shape (..., n_units)

        Returns
        -------
        ndarray of shape (..., n_features)
        """
        member = self.membership
        count = np.maximum(np.asarray(member.sum(axis=1)), 1)
        flat = np.asarray(values).reshape(-1, len(self))
        return ((member @ flat.T).T / count).reshape(*np.shape(values)[:-1], -1)

    def largest(self, values: np.ndarray) -> np.ndarray:
        """Give each column the largest value of the sets that it is in, 0 where it is in none.

        Parameters
        ----------
        values : ndarray of shape (n_units,)
            None below 0.
        """
        found = np.zeros(self.n_features)
        for own, value in zip(self.columns, values, strict=True):
            found[own] = np.maximum(found[own], value)
        return found


def make_units(sets: dict[str, np.ndarray], *, n_features: int) -> Units:
    """Return named sets of columns; a set is column numbers or a mask ``(n_features,)``.

    Raises
    ------
    InputError
        No set, an empty one, or columns that there are not.
    """
    columns = [
        np.flatnonzero(each) if np.asarray(each).dtype == bool else np.unique(each)
        for each in sets.values()
    ]
    for name, own in zip(sets, columns, strict=True):
        if not len(own) or own[0] < 0 or own[-1] >= n_features:
            raise _wrong(f"unit {name!r}", f"{len(own)} columns", f"some of 0 to {n_features - 1}")
    if not columns:
        raise _wrong("units", "none", "one at least")
    return Units(tuple(map(str, sets)), tuple(columns), n_features)


def box_units(
    mask: np.ndarray, *, box_vox: int | Sequence[int] = 2, stride_vox: int | Sequence[int] = 2
) -> Units:
    """Return the voxels of a mask in each box of a grid that starts at voxel 0.

    Parameters
    ----------
    mask : ndarray of bool, shape (x, y, z)
        Its voxels in C order are the columns.
    box_vox, stride_vox : int or (int, int, int)

    Notes
    -----
    Boxes without a voxel of the mask are left out; boxes that reach over the last voxel are not
    (S1 left out its last slice so).
    """
    mask = np.asarray(mask) != 0
    box, stride = triple(box_vox, "box_vox"), triple(stride_vox, "stride_vox")
    number = np.full(mask.shape, -1)
    number[mask] = np.arange(mask.sum())
    names, columns = [], []
    for corner in np.ndindex(*(-(-n // s) for n, s in zip(mask.shape, stride, strict=True))):
        start = [c * s for c, s in zip(corner, stride, strict=True)]
        part = number[tuple(slice(a, a + b) for a, b in zip(start, box, strict=True))]
        own = part[part >= 0]
        if len(own):
            names.append("{}-{}-{}".format(*start))
            columns.append(np.sort(own))
    if not columns:
        raise _wrong("mask", "no voxel", "voxels to occlude")
    return Units(tuple(names), tuple(columns), int(mask.sum()))


def region_units(labels: np.ndarray, *, names: dict[int, str] | None = None) -> Units:
    """Return the columns of each region.

    Parameters
    ----------
    labels : ndarray of int, shape (n_features,)
        Region of each column; 0 for none.
    names : dict, optional
        Of the regions.
    """
    known = [int(each) for each in np.unique(labels) if each != 0]
    sets = {(names or {}).get(each, str(each)): np.flatnonzero(labels == each) for each in known}
    if len(sets) != len(known):
        raise _wrong("names of regions", "one name for two regions", "a name for each")
    return make_units(sets, n_features=len(labels))


def searchlight_units(
    mask: np.ndarray, affine: np.ndarray, *, radius_mm: float = 6.0, every_vox: int = 1
) -> Units:
    """Return the voxels within a radius of each centre.

    Parameters
    ----------
    mask : ndarray of bool, shape (x, y, z)
    affine : ndarray of shape (4, 4)
        Voxels to mm.
    radius_mm : float
    every_vox : int
        Centres are the voxels of the mask whose three indices are multiples of this.
    """
    voxels = np.argwhere(np.asarray(mask) != 0)
    places = voxels @ np.asarray(affine)[:3, :3].T
    centres = np.flatnonzero((voxels % every_vox == 0).all(axis=1))
    if not len(centres) or radius_mm <= 0:
        found = f"radius_mm = {radius_mm}, {len(centres)} centres"
        raise _wrong("searchlights", found, "a radius above 0 and centres in the mask")
    near = cKDTree(places).query_ball_point(places[centres], radius_mm)
    names = tuple("{}-{}-{}".format(*voxels[each]) for each in centres)
    return Units(names, tuple(np.sort(each) for each in near), len(voxels))


def triple(value: int | Sequence[int], name: str) -> tuple[int, int, int]:
    """Return three whole numbers from one or three."""
    parts = [value] * 3 if isinstance(value, int | np.integer) else list(value)
    if len(parts) != 3 or any(int(each) != each or each < 1 for each in parts):
        raise _wrong(name, repr(value), "a whole number from 1, or three of them")
    x, y, z = (int(each) for each in parts)
    return x, y, z


def _wrong(where: str, found: str, expected: str) -> InputError:
    return InputError(where, found=found, expected=expected, remedy="Correct it.")

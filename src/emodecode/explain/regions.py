"""Where a map is large: peaks, clusters and means by region, with the regions' names."""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from emodecode.errors import InputError
from emodecode.explain.atlas import Atlas, check_space, landmarks
from emodecode.explain.mapinput import checked_values, inside_of, read_map

Sign = Literal["both", "positive", "negative"]
_SIGNS: dict[str, tuple[int, ...]] = {"both": (1, -1), "positive": (1,), "negative": (-1,)}


def find_peaks(
    values: np.ndarray,
    mask_image: SpatialImage,
    *,
    space: str | None,
    atlas: Atlas | None = None,
    top_k: int | None = None,
    threshold: float | None = None,
    apart_mm: float = 8.0,
    sign: Sign = "both",
    any_template: bool = False,
) -> pd.DataFrame:
    """Return the peaks of a map with the names of their places, the largest first.

    A peak is a voxel none of whose 26 neighbours of the same sign is larger in size; of a plateau
    of equal values the voxel nearest to its middle. Of two peaks of one sign nearer than
    `apart_mm` the larger one stays.

    Parameters
    ----------
    values : ndarray of shape (n_voxels,)
        The map, in the order of the mask's voxels (C order).
    mask_image : SpatialImage
        3-D, not 0 inside.
    space : str or None
        Template that the map is in (`emodecode.explain.spaces.MNI_SPACES`).
    atlas : Atlas, optional
        By default the landmarks.
    top_k : int, optional
        Peaks at most; by default all.
    threshold : float, optional
        Only peaks with an absolute value above it.
    apart_mm : float
        Least distance of two peaks of the same sign, in mm.
    sign : {"both", "positive", "negative"}
    any_template : bool
        As in `emodecode.explain.atlas.check_space`.

    Returns
    -------
    DataFrame
        ``x_mm``, ``y_mm``, ``z_mm`` (RAS+), ``value``, ``place`` (text for people), ``region``
        (name at the peak, "" outside all), ``nearest_region`` and ``nearest_mm`` (0 inside).
        ``attrs`` holds atlas, space, licence, source and notes.

    Raises
    ------
    InputError
        A map in another space than the atlas, an empty map, nothing above the threshold.
    """
    there = _Map(values, mask_image, space=space, atlas=atlas, any_template=any_template)
    chosen = there.above(threshold, sign=sign)
    tops = there.tops(np.where(chosen, 0, -1))
    return there.table(there.at(there.apart(tops, apart_mm)[:top_k]))


def find_clusters(
    values: np.ndarray,
    mask_image: SpatialImage,
    *,
    space: str | None,
    atlas: Atlas | None = None,
    top_voxels: int | None = None,
    threshold: float | None = None,
    min_voxels: int = 5,
    sign: Sign = "both",
    any_template: bool = False,
) -> pd.DataFrame:
    """Return the clusters of a map (26 neighbours, one sign each), the highest peak first.

    Parameters
    ----------
    values, mask_image, space, atlas, sign, any_template
        As in `find_peaks`.
    top_voxels : int, optional
        The voxels with the largest absolute values (S1 took 500).
    threshold : float, optional
        Absolute values above it. One of the two is needed; with both, both hold.
    min_voxels : int
        Smaller clusters are left out (their number is in ``attrs["n_small"]``).

    Returns
    -------
    DataFrame
        ``cluster`` (from 1), ``n_voxels``, ``volume_mm3``, the columns of `find_peaks` for the
        cluster's peak, ``mean``, ``overlap`` (text, the four largest shares) and ``shares``
        (dict: region -> share of the cluster's voxels; ``"outside"``: in no region).

    Raises
    ------
    InputError
        As `find_peaks`; no cluster of the size asked for.
    """
    there = _Map(values, mask_image, space=space, atlas=atlas, any_template=any_template)
    clusters = there.clusters(top_voxels, threshold, min_voxels=min_voxels, sign=sign)
    leading = clusters.tops[clusters.first_top]
    return there.cluster_table(clusters, there.at(leading))


def region_table(
    map_image: str | os.PathLike | SpatialImage,
    atlas: Atlas | None = None,
    *,
    space: str | None,
    top_voxels: int | None = None,
    threshold: float | None = None,
    min_voxels: int = 5,
    peaks_per_cluster: int = 3,
    apart_mm: float = 8.0,
    sign: Sign = "both",
    any_template: bool = False,
) -> pd.DataFrame:
    """Return the clusters of a map image and the peaks in each, one row a peak.

    Parameters
    ----------
    map_image : path or SpatialImage
        3-D; zeros and values that are not finite count as outside the map.
    atlas, space, threshold, min_voxels, apart_mm, sign, any_template
        As in `find_clusters` and `find_peaks`.
    top_voxels : int, optional
        As in `find_clusters`; 500 where neither it nor `threshold` is given.
    peaks_per_cluster : int
        Peaks named in each cluster at most, the largest first.

    Returns
    -------
    DataFrame
        ``cluster``, ``peak`` (both from 1) and the columns of `find_clusters`; coordinates,
        value and place are those of the peak, size, mean and overlap those of its cluster.
    """
    values, mask_image = read_map(map_image)
    there = _Map(values, mask_image, space=space, atlas=atlas, any_template=any_template)
    if top_voxels is None and threshold is None:
        top_voxels = 500
    clusters = there.clusters(top_voxels, threshold, min_voxels=min_voxels, sign=sign)
    whole = there.cluster_table(clusters, there.at(clusters.tops[clusters.first_top]))
    rows = []
    for cluster in whole.to_dict("records"):
        tops = clusters.tops[clusters.of_top == cluster["cluster"] - 1]
        kept = there.apart(tops, apart_mm)[:peaks_per_cluster]
        rows += [
            {**cluster, "peak": order, **peak} for order, peak in enumerate(there.at(kept), start=1)
        ]
    table = there.table(rows)[["cluster", "peak", *whole.columns[1:]]]
    table.attrs = whole.attrs
    return table


def region_means(
    values: np.ndarray,
    mask_image: SpatialImage,
    atlas: Atlas | None = None,
    *,
    space: str | None,
    any_template: bool = False,
) -> pd.DataFrame:
    """Return mean, sum and peak of a map in each region that has voxels in the mask.

    Parameters
    ----------
    values, mask_image, atlas, space, any_template
        As in `find_peaks`.

    Returns
    -------
    DataFrame
        In the order of the labels: ``index`` (label), ``region``, ``n_voxels``, ``mean``, ``sum``,
        ``mean_abs``, ``share`` (of the sum of absolute values of the whole map), ``peak`` (value
        of the largest size) and its ``x_mm``, ``y_mm``, ``z_mm``. ``attrs["outside_share"]``: what
        lies in no region; ``attrs["absent"]``: regions without a voxel in the mask.
    """
    there = _Map(values, mask_image, space=space, atlas=atlas, any_template=any_template)
    total = np.abs(there.values).sum()
    rows = []
    for label in np.unique(there.labels[there.labels != 0]):
        voxels = np.flatnonzero(there.labels == label)
        here = there.values[voxels]
        peak = there.largest_first(voxels)[0]
        row = {
            "index": int(label),
            "region": there.atlas.names[int(label)],
            "n_voxels": len(voxels),
            "mean": float(here.mean()),
            "sum": float(here.sum()),
            "mean_abs": float(np.abs(here).mean()),
            "share": float(np.abs(here).sum() / total),
            "peak": float(there.values[peak]),
        }
        rows.append(row | _coordinates(there.places_mm[peak]))
    if not rows:
        raise InputError(
            there.atlas.name,
            found=f"no region has a voxel in the mask ({len(there.values)} voxels)",
            expected="an atlas that covers the mask",
            remedy="Take an atlas of that part of the brain.",
        )
    table = there.table(rows)
    absent = [n for k, n in there.atlas.names.items() if k and k not in set(table["index"])]
    table.attrs |= {"outside_share": float(1 - table["share"].sum()), "absent": absent}
    return table


@dataclass(frozen=True, eq=False)
class _Clusters:
    """Voxels of each cluster; local maxima in them, the largest first, and their clusters."""

    voxels: list[np.ndarray]
    tops: np.ndarray
    of_top: np.ndarray
    n_small: int

    @property
    def first_top(self) -> np.ndarray:
        """Position in `tops` of each cluster's largest."""
        return np.unique(self.of_top, return_index=True)[1]


class _Map:
    """A checked map: values, places in mm and labels of its voxels."""

    def __init__(self, values, mask_image, *, space, atlas, any_template) -> None:
        self.atlas = landmarks() if atlas is None else atlas
        self.space = space
        self.notes = check_space(space, self.atlas, any_template=any_template)
        self.inside = inside_of(mask_image)
        self.values = checked_values(values, n_voxels=int(self.inside.sum()))
        self.voxel_mm3 = float(abs(np.linalg.det(mask_image.affine[:3, :3])))
        affine = mask_image.affine
        self.places_mm = np.argwhere(self.inside) @ affine[:3, :3].T + affine[:3, 3]
        self.atlas.check_field_of_view(mask_image)
        self.labels = self.atlas.labels_at(self.places_mm)

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        return _neighbours(self.inside)

    def above(self, threshold: float | None, *, sign: Sign) -> np.ndarray:
        """Voxels of the sign above the threshold, shape (n_voxels,)."""
        if sign not in _SIGNS:
            raise InputError(
                "sign",
                found=repr(sign),
                expected="one of " + ", ".join(_SIGNS),
                remedy="Correct the argument.",
            )
        sizes = [np.where(side * self.values > 0, np.abs(self.values), 0) for side in _SIGNS[sign]]
        size = np.max(sizes, axis=0)
        chosen = size > max(threshold or 0.0, 0.0)
        if not chosen.any():
            raise InputError(
                "map",
                found=f"no voxel above {threshold or 0:g} ({sign} values; largest {size.max():g})",
                expected="at least one",
                remedy="Lower the threshold, or choose by rank (top_k, top_voxels).",
            )
        return chosen

    def tops(self, group: np.ndarray) -> np.ndarray:
        """Local maxima of either sign, the largest first; one of each plateau in each group.

        `group` (n_voxels,) numbers the voxels to look at; -1: not looked at.
        """
        first, second = self.pairs
        found = []
        for side in (1, -1):
            size = np.where(side * self.values > 0, np.abs(self.values), 0.0)
            beaten = np.zeros(len(size), dtype=bool)
            beaten[first[size[first] < size[second]]] = True
            beaten[second[size[second] < size[first]]] = True
            equal = (size[first] == size[second]) & (size[first] > 0)
            plateau = _components(first[equal], second[equal], len(size))
            lost = np.zeros(plateau.max() + 1, dtype=bool)
            lost[plateau[beaten]] = True
            tops = np.flatnonzero(~lost[plateau] & (size > 0) & (group >= 0))
            found.append(tops[self._middles(tops, plateau[tops] * len(size) + group[tops])])
        return self.largest_first(np.concatenate(found))

    def apart(self, voxels: np.ndarray, apart_mm: float) -> np.ndarray:
        """Those of some voxels that no earlier one of the same sign is too near to."""
        tree = cKDTree(self.places_mm[voxels])
        positive = self.values[voxels] > 0
        free = np.ones(len(voxels), dtype=bool)
        kept = []
        for number, voxel in enumerate(voxels):
            if free[number]:
                kept.append(voxel)
                near = np.array(tree.query_ball_point(self.places_mm[voxel], apart_mm - 1e-6))
                free[near[positive[near] == positive[number]].astype(int)] = False
        return np.array(kept, dtype=int)

    def clusters(
        self, top_voxels: int | None, threshold: float | None, *, min_voxels: int, sign: Sign
    ) -> "_Clusters":
        """Clusters of voxels of one sign, the highest peak first."""
        if top_voxels is None and threshold is None:
            raise InputError(
                "clusters",
                found="neither top_voxels nor threshold",
                expected="one of them: a map without a threshold is one cluster",
                remedy="Pass top_voxels=500 as in S1, or a threshold.",
            )
        chosen = self.above(threshold, sign=sign)
        if top_voxels is not None:
            kept = self.largest_first(np.flatnonzero(chosen))[:top_voxels]
            chosen = np.zeros_like(chosen)
            chosen[kept] = True
        first, second = self.pairs
        together = chosen[first] & chosen[second]
        together &= (self.values[first] > 0) == (self.values[second] > 0)
        component = _components(first[together], second[together], len(chosen))
        order = self.largest_first(np.flatnonzero(chosen))
        groups = pd.Series(order).groupby(component[order], sort=False)
        found = [group.to_numpy() for _, group in groups]
        large = [voxels for voxels in found if len(voxels) >= min_voxels]
        if not large:
            raise InputError(
                "clusters",
                found=f"{len(found)} clusters, the largest of {max(map(len, found))} voxels",
                expected=f"one of at least {min_voxels} voxels",
                remedy="Lower min_voxels or the threshold.",
            )
        of_voxel = np.full(len(chosen), -1)
        for number, voxels in enumerate(large):
            of_voxel[voxels] = number
        tops = self.tops(of_voxel)
        # a plateau that `top_voxels` cuts may have its larger neighbours in another cluster
        bare = np.setdiff1d(np.arange(len(large)), of_voxel[tops])
        tops = self.largest_first(
            np.append(tops, [large[number][0] for number in bare]).astype(int)
        )
        return _Clusters(large, tops, of_voxel[tops], n_small=len(found) - len(large))

    def cluster_table(self, clusters: "_Clusters", leading: list[dict]) -> pd.DataFrame:
        rows = []
        for number, (voxels, peak) in enumerate(zip(clusters.voxels, leading, strict=True)):
            shares = self._shares(voxels)
            size = {
                "cluster": number + 1,
                "n_voxels": len(voxels),
                "volume_mm3": len(voxels) * self.voxel_mm3,
            }
            named = [f"{name} {100 * share:.0f} %" for name, share in list(shares.items())[:4]]
            rest = {
                "mean": float(self.values[voxels].mean()),
                "overlap": ", ".join(named),
                "shares": shares,
            }
            rows.append(size | peak | rest)
        table = self.table(rows)
        table.attrs["n_small"] = clusters.n_small
        return table

    def at(self, voxels: np.ndarray) -> list[dict]:
        """Coordinates, value and names of some voxels."""
        places = self.places_mm[voxels]
        nearest, distances_mm = self.atlas.nearest(places)
        rows = []
        for voxel, name, distance_mm in zip(voxels, nearest, distances_mm, strict=True):
            region = self.atlas.names.get(int(self.labels[voxel]), "") if self.labels[voxel] else ""
            near = region or name
            away_mm = 0.0 if region else round(float(distance_mm), 1)
            prefix = "near " if self.atlas.kind == "landmarks" else ""
            row = _coordinates(self.places_mm[voxel]) | {
                "value": float(self.values[voxel]),
                "place": prefix + region if region else f"{away_mm:.0f} mm from {near}",
                "region": region,
                "nearest_region": near,
                "nearest_mm": away_mm,
            }
            rows.append(row)
        return rows

    def table(self, rows: list[dict]) -> pd.DataFrame:
        table = pd.DataFrame(rows)
        table.attrs = {
            "atlas": self.atlas.name,
            "space": self.space,
            "licence": self.atlas.licence,
            "source": self.atlas.source,
            "notes": self.notes,
        }
        return table

    def largest_first(self, voxels: np.ndarray) -> np.ndarray:
        """Order by size; ties by coordinates, so that no storage order of voxels matters."""
        x, y, z = np.round(self.places_mm[voxels], 3).T
        return voxels[np.lexsort((z, y, x, -np.abs(self.values[voxels])))]

    def _shares(self, cluster: np.ndarray) -> dict[str, float]:
        labels, counts = np.unique(self.labels[cluster], return_counts=True)
        names = ["outside" if label == 0 else self.atlas.names[int(label)] for label in labels]
        shares = pd.Series(counts / len(cluster), index=names).groupby(level=0).sum()
        largest = shares.sort_index().sort_values(ascending=False, kind="stable")
        return {str(name): float(share) for name, share in largest.items()}

    def _middles(self, tops: np.ndarray, plateau: np.ndarray) -> np.ndarray:
        """Position in `tops` of the voxel nearest to the middle of each plateau."""
        _, group, counts = np.unique(plateau, return_inverse=True, return_counts=True)
        places = self.places_mm[tops]
        sums = [np.bincount(group, weights=axis) for axis in places.T]
        off = np.linalg.norm(places - (np.array(sums) / counts).T[group], axis=1)
        x, y, z = np.round(places, 3).T
        order = np.lexsort((z, y, x, np.round(off, 3), group))
        return order[np.unique(group[order], return_index=True)[1]]


def _neighbours(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of voxels of a mask that share a face, an edge or a corner (each pair once)."""
    number = np.full(np.array(inside.shape) + 2, -1, dtype=np.int64)
    number[1:-1, 1:-1, 1:-1][inside] = np.arange(inside.sum())
    offsets = [o for o in np.ndindex(3, 3, 3) if o > (1, 1, 1)]
    first, second = [], []
    here = number[1:-1, 1:-1, 1:-1]
    for offset in offsets:
        cut = tuple(slice(o, o + n) for o, n in zip(offset, inside.shape, strict=True))
        there = number[cut]
        both = (here >= 0) & (there >= 0)
        first.append(here[both])
        second.append(there[both])
    return np.concatenate(first), np.concatenate(second)


def _components(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(n, n))
    return connected_components(graph, directed=False)[1]


def _coordinates(place_mm: np.ndarray) -> dict[str, float]:
    rounded = [round(float(part), 1) + 0.0 for part in place_mm]
    return dict(zip(("x_mm", "y_mm", "z_mm"), rounded, strict=True))

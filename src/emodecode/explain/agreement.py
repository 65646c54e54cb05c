"""How far maps agree: over voxels and over regions."""

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from emodecode.errors import InputError


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Return the absolute Spearman correlation of two maps, of several classes its mean.

    Parameters
    ----------
    one, other : ndarray of shape (n_features,) or (n_classes, n_features)

    Returns
    -------
    float
        NaN where a map is constant.
    """
    pairs = zip(*as_rows(one, other), strict=True)
    return float(np.mean([abs(_spearman(a, b)) for a, b in pairs]))


def agreement(maps: dict[str, np.ndarray], *, parcels: np.ndarray | None = None) -> pd.DataFrame:
    """Return how far methods agree, over voxels and over means of regions.

    Parameters
    ----------
    maps : dict of name -> ndarray of shape (n_features,) or (n_classes, n_features)
        Of several classes the correlations are averaged.
    parcels : ndarray of int, shape (n_features,), optional
        Region of each feature; 0: none.

    Returns
    -------
    DataFrame
        ``first second over_voxels over_regions n_voxels n_regions``, one row a pair; Spearman
        correlations with sign, NaN where a map is constant or there are no regions.
    """
    if len(maps) < 2:
        raise _bad(f"{len(maps)} maps", "two or more to compare", "Pass a dict of name -> map.")
    names = list(maps)
    stacks = dict(zip(names, as_rows(*maps.values()), strict=True))
    n_voxels = stacks[names[0]].shape[1]
    means: dict[str, np.ndarray] = {}
    n_regions = 0
    if parcels is not None:
        regions = np.asarray(parcels)
        if regions.shape != (n_voxels,) or regions.dtype.kind not in "iu" or not regions.any():
            raise _bad(
                f"regions of type {regions.dtype} and shape {regions.shape}",
                f"whole numbers of shape ({n_voxels},), not all 0",
                "Pass the region's number of each feature.",
            )
        known, which = np.unique(regions, return_inverse=True)
        sizes = np.bincount(which)
        n_regions = int((known != 0).sum())
        for name, rows in stacks.items():
            sums = np.stack([np.bincount(which, weights=row) for row in rows])
            means[name] = (sums / sizes)[:, known != 0]
    found = []
    for first, second in combinations(names, 2):
        over_voxels = _mean_spearman(stacks[first], stacks[second])
        over_regions = _mean_spearman(means[first], means[second]) if n_regions > 1 else np.nan
        found.append((first, second, over_voxels, over_regions, n_voxels, n_regions))
    columns = ["first", "second", "over_voxels", "over_regions", "n_voxels", "n_regions"]
    return pd.DataFrame(found, columns=columns)


def _mean_spearman(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.mean([_spearman(a, b) for a, b in zip(one, other, strict=True)]))


def _spearman(one: np.ndarray, other: np.ndarray) -> float:
    a, b = (rankdata(each) - (len(each) + 1) / 2 for each in (one, other))
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def as_rows(*maps: np.ndarray) -> list[np.ndarray]:
    """Return finite maps of one shape as arrays ``(n_classes, n_features)``."""
    rows = [np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in maps]
    for each in rows:
        if each.ndim != 2 or each.shape != rows[0].shape or not np.isfinite(each).all():
            raise _bad(
                f"maps of shapes {', '.join(str(np.shape(m)) for m in maps)}, "
                f"{sum(int((~np.isfinite(e)).sum()) for e in rows)} values not finite",
                "finite maps of one shape, (n_features,) or (n_classes, n_features)",
                "Compare maps of the same voxels and classes.",
            )
    return rows


def _bad(found: str, expected: str, remedy: str) -> InputError:
    return InputError("agreement of maps", found=found, expected=expected, remedy=remedy)

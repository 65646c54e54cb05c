"""Maps of a group: which voxels have an effect over subjects, with family-wise correction."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from emodecode.errors import InputError

EXACT_UP_TO = 4096
"""Most sign patterns (2^n) that are all gone through: 12 subjects."""
CONNECTIVITY = {6: 1, 18: 2, 26: 3}
"""Neighbours that belong to one cluster, and scipy's name for them."""
MOST_STEPS = 1000
"""Thresholds of TFCE; what |t| exceeds the last one by does not count."""
_BYTES = 2**26
_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class GroupMap:
    """Test of the mean over subjects at each feature.

    Parameters
    ----------
    mean, t : ndarray of shape (n_features,)
        t with n_subjects - 1 degrees of freedom.
    p : ndarray of shape (n_features,)
        Two-sided, corrected for all features (family-wise): of the statistic tested.
    p_single : ndarray of shape (n_features,)
        Two-sided, of t at this feature alone, not corrected.
    tfce : ndarray of shape (n_features,), optional
        With the sign of t.
    tested : {"t", "tfce"}
        What `p` is of.
    p_smallest : float
        What p can be at least.
    n_subjects, n_flips : int
    exact : bool
        All sign patterns, or a sample of them.
    """

    mean: np.ndarray
    t: np.ndarray
    p: np.ndarray
    p_single: np.ndarray
    tfce: np.ndarray | None
    tested: str
    p_smallest: float
    n_subjects: int
    n_flips: int
    exact: bool

    @property
    def sentence(self) -> str:
        """How it was tested, for the report."""
        patterns = f"{self.n_flips:,} sign patterns"
        how = f"all {patterns}" if self.exact else f"{patterns}, drawn at random"
        name = "t" if self.tested == "t" else "TFCE"
        return (
            f"sign flips over {self.n_subjects} subjects ({how}), "
            f"largest |{name}| over the map, two-sided; p can be {self.p_smallest:.2g} at least"
        )


def infer_group(
    maps: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    connectivity: int = 26,
    dh: float = 0.1,
    n_flips: int = 5000,
    seed: int = 0,
) -> GroupMap:
    """Test the mean over subjects at every feature, corrected for their number.

    Under the null hypothesis each subject's map is as likely as its negative. The statistic is
    compared with the largest absolute one over the map under flipped signs (whole maps): p is the
    share of the patterns whose largest reaches it, which controls the family-wise error strongly.

    Parameters
    ----------
    maps : ndarray of shape (n_subjects, n_features)
        A map per subject, of an effect whose null value is 0: a drop of probability by occlusion,
        a pattern, map minus what chance gives. Weights' absolute values have no null value of 0.
    mask : ndarray of bool, shape (x, y, z), optional
        Its True voxels are the features, in C order. With it the statistic is TFCE, without it t.
    connectivity, dh
        See `tfce`.
    n_flips : int
        Random patterns where 2^n > 4096, p = (b + 1) / (n_flips + 1); else all are gone through
        (by symmetry half of them suffice), p = b / 2^n.
    seed : int

    Raises
    ------
    InputError
        Fewer than two subjects, values that are not finite, a feature with one value in all
        subjects that is not 0, a mask of another size, parameters out of range.

    References
    ----------
    Nichols & Holmes 2002, Human Brain Mapping 15:1-25. Phipson & Smyth 2010, Statistical
    Applications in Genetics and Molecular Biology 9:39. Smith & Nichols 2009, NeuroImage 44:83-98.
    """
    maps = _checked(maps, mask, n_flips)
    if mask is not None:
        _check_settings(connectivity, dh)
    n, exact = len(maps), 2 ** len(maps) <= EXACT_UP_TO
    squares = (maps**2).sum(axis=0)
    own = _unit(maps.sum(axis=0)[None], squares, n)[0]
    # |sum| / sqrt(n sum of squares) orders as |t| does and is finite
    reached_single = np.zeros(maps.shape[1])
    reached = np.zeros(maps.shape[1])
    statistic = np.abs(own)
    enhanced = None
    if mask is not None:
        mask = np.asarray(mask) != 0
        enhanced = tfce(_t_of(own, n), mask=mask, connectivity=connectivity, dh=dh)
        statistic = np.abs(enhanced)
    count = 0
    for signs in _signs(n, exact, n_flips, seed, width=maps.shape[1]):
        flipped = _unit(signs @ maps, squares, n)
        reached_single += (np.abs(flipped) >= np.abs(own) - _TOLERANCE).sum(axis=0)
        if mask is None:
            largest = np.abs(flipped).max(axis=1)
        else:
            largest = np.array(
                [
                    np.abs(tfce(_t_of(each, n), mask=mask, connectivity=connectivity, dh=dh)).max()
                    for each in flipped
                ]
            )
        near = statistic - _TOLERANCE * np.maximum(1, statistic)
        reached += (largest[:, None] >= near).sum(axis=0)
        count += len(signs)
    extra = 0 if exact else 1
    return GroupMap(
        mean=maps.mean(axis=0),
        t=_t_of(own, n),
        p=(reached + extra) / (count + extra),
        p_single=(reached_single + extra) / (count + extra),
        tfce=enhanced,
        tested="t" if mask is None else "tfce",
        p_smallest=1 / (count + extra),
        n_subjects=n,
        n_flips=2 * count if exact else count,
        exact=exact,
    )


def tfce(
    t: np.ndarray,
    *,
    mask: np.ndarray,
    connectivity: int = 26,
    dh: float = 0.1,
    extent_power: float = 0.5,
    height_power: float = 2.0,
) -> np.ndarray:
    """Return threshold-free cluster enhancement of a map, each sign by itself.

    ::

        TFCE(v) = sum over h = dh, 2 dh, ... <= |t(v)| of e(h)^E h^H dh

    with e(h) the voxels of the cluster of ``|t| >= h`` that holds v.

    Parameters
    ----------
    t : ndarray of shape (n_features,)
    mask : ndarray of bool, shape (x, y, z)
    connectivity : {26, 18, 6}
        Voxels that share a corner, an edge or a face belong together.
    dh : float
        Step of the threshold, the same for the map and its flips, at most 1000 of them. 0.1, as in
        the paper, suits t; values change by some per cent with it, p hardly.
    extent_power, height_power : float
        E and H; the paper's.

    Returns
    -------
    ndarray of shape (n_features,)
        Negative where t is.

    References
    ----------
    Smith & Nichols 2009, NeuroImage 44:83-98, equation 1.
    """
    _check_settings(connectivity, dh)
    mask = np.asarray(mask) != 0
    structure = ndimage.generate_binary_structure(3, CONNECTIVITY[connectivity])
    volume = np.zeros(mask.shape)
    volume[mask] = t
    found = np.zeros(mask.shape)
    for sign in (1.0, -1.0):
        rest, out = sign * volume, found
        steps = int(min(MOST_STEPS, np.floor(rest.max(initial=0.0) / dh + _TOLERANCE)))
        for step in range(1, steps + 1):
            height = step * dh
            above = rest >= height * (1 - _TOLERANCE)
            if not above.any():
                break
            box = ndimage.find_objects(above.astype(np.int8))[0]
            rest, out, above = rest[box], out[box], above[box]
            labels, _ = ndimage.label(above, structure)
            extents = np.bincount(labels.ravel()).astype(float)
            extents[0] = 0
            out += sign * (extents**extent_power)[labels] * height**height_power * dh
    return found[mask]


def _unit(sums: np.ndarray, squares: np.ndarray, n: int) -> np.ndarray:
    """Sum over subjects divided by the largest that it could be; 0 where all values are 0."""
    scale = np.sqrt(n * squares)
    return np.divide(sums, scale, out=np.zeros_like(sums), where=scale > 0)


def _t_of(unit: np.ndarray, n: int) -> np.ndarray:
    """t = u sqrt((n - 1) / (1 - u^2)); the largest that doubles tell from infinity at most."""
    return unit * np.sqrt((n - 1) / np.maximum(1 - unit**2, 1e-12))


def _signs(n: int, exact: bool, n_flips: int, seed: int, *, width: int) -> Iterator[np.ndarray]:
    """Sign patterns in parts; of all patterns those that leave the first subject as it is."""
    rows = max(1, _BYTES // (8 * max(1, width)))
    total = 2 ** (n - 1) if exact else n_flips
    rng = np.random.default_rng(seed)
    for start in range(0, total, rows):
        size = min(rows, total - start)
        if exact:
            codes = np.arange(start, start + size)[:, None]
            others = 1.0 - 2.0 * ((codes >> np.arange(n - 1)) & 1)
            yield np.column_stack([np.ones(size), others])
        else:
            yield rng.choice([-1.0, 1.0], size=(size, n))


def _checked(maps: np.ndarray, mask: np.ndarray | None, n_flips: int) -> np.ndarray:
    maps = np.asarray(maps, dtype=np.float64)
    if maps.ndim != 2 or len(maps) < 2 or not maps.shape[1] or n_flips < 1:
        raise _bad(
            f"maps of shape {maps.shape} and {n_flips} flips",
            "(n_subjects, n_features) of two subjects or more, and 1 flip or more",
            "Pass one map per subject.",
        )
    bad = ~np.isfinite(maps).all(axis=0)
    if bad.any():
        raise _bad(
            f"values that are not finite in {int(bad.sum())} of {maps.shape[1]} features",
            "finite numbers",
            "Leave out features that some subject lacks.",
        )
    same = (maps == maps[0]).all(axis=0) & (maps[0] != 0)
    if same.any():
        raise _bad(
            f"{int(same.sum())} features with one value in all subjects",
            "values that vary over subjects (or are 0 throughout)",
            "Pass the subjects' own maps, not the group's.",
        )
    if mask is not None and (np.ndim(mask) != 3 or int(np.count_nonzero(mask)) != maps.shape[1]):
        raise _bad(
            f"a mask of shape {np.shape(mask)} with {np.count_nonzero(mask)} voxels "
            f"for {maps.shape[1]} features",
            "a 3-D mask whose voxels are the features",
            "Pass the mask that the samples were extracted with.",
        )
    return maps


def _check_settings(connectivity: int, dh: float) -> None:
    if connectivity not in CONNECTIVITY or not dh > 0:
        raise _bad(
            f"connectivity = {connectivity}, dh = {dh}",
            "6, 18 or 26 neighbours and a step above 0",
            "Take 26 and 0.1.",
        )


def _bad(found: str, expected: str, remedy: str) -> InputError:
    return InputError("maps of a group", found=found, expected=expected, remedy=remedy)

"""Hyperalignment: one common space of many subjects, by three levels of Procrustes maps.

Pure functions. ``z`` is the column z-score (ddof 0), ``a_i`` subject i's data in the common space:

- Level 1: ``common = z(X_ref)``; each other subject in order is mapped to it,
  ``a_i = z(mapped)``, and moves it, ``common = z((a_i + common) / 2)``.
- Level 2: ``common = mean_i a_i``; each subject is mapped to the mean of the others,
  ``z((p common - a_i) / (p - 1))``; `level2_niter` times.
- Level 3: ``common = z(mean_i a_i)`` is frozen, and each subject, new ones too, is mapped to it.

Within the levels data are kept as n_samples - 1 orthonormal contrasts and a mean.

References
----------
Haxby et al. 2011, Neuron 72, 404-416; alpha: Xu et al. 2012, IEEE Statistical Signal Processing
Workshop, 229-232. The order of operations is that of PyMVPA 2.6.5, whose numbers it reproduces.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from emodecode.align.linearmap import LinearMap
from emodecode.align.lowrank import column_std, from_contrasts, safe_svd, signed
from emodecode.align.procrustes import (
    Factor,
    factor,
    factor_contrasts,
    linear_map,
    procrustes,
    rotate,
    template,
)
from emodecode.errors import InputError

LEVEL1_WEIGHTS = ("running", "equal", "pymvpa-equal")
ALPHA_SCALES = ("pymvpa", "relative")
DROPPED = np.empty((0, 0))


@dataclass(frozen=True)
class Options:
    """Options of `hyperalign`, where they are described; checked when made."""

    level2_niter: int = 1
    ref: int | None = None
    zscore_all: bool = False
    zscore_common: bool = True
    level1_weight: str = "running"
    alpha: float = 1.0
    alpha_scale: str = "pymvpa"
    output_dim: int | None = None
    scaling: bool = True
    reflection: bool = True

    def __post_init__(self) -> None:
        allowed = (
            ("level2_niter", _is_whole(self.level2_niter, 0), "a whole number from 0"),
            ("ref", self.ref is None or _is_whole(self.ref, 0), "the number of a data set"),
            ("level1_weight", self.level1_weight in LEVEL1_WEIGHTS, f"one of {LEVEL1_WEIGHTS}"),
            ("alpha", 0 <= self.alpha <= 1, "a number from 0 to 1"),
            ("alpha_scale", self.alpha_scale in ALPHA_SCALES, f"one of {ALPHA_SCALES}"),
            ("output_dim", self.output_dim is None or _is_whole(self.output_dim, 1), "from 1"),
        )
        for name, good, expected in allowed:
            if not good:
                raise _bad_option(name, getattr(self, name), expected)


class Levels(NamedTuple):
    """What `hyperalign_levels` returns.

    Parameters
    ----------
    level1 : ndarray of shape (n_samples, n_common)
        Common space after level 1.
    level2 : tuple of ndarray of shape (n_samples, n_common)
        Mean of the aligned data after level 1 and after each sweep of level 2: `level2_niter` + 1.
    common : ndarray of shape (n_samples, n_common)
        The frozen common space.
    mappers : list of LinearMap
        One a data set, in their order.
    output_axes : ndarray of shape (n_common, output_dim) or None
        Axes appended to the maps; `map_to_common` needs them for a new subject.
    ref : int
        Number of the reference.
    residuals : tuple of ndarray of shape (n_datasets,)
        Frobenius norms of ``a_i - common``, common as it was when subject i was mapped: one for
        level 1 (0 for the reference) and one for each sweep.
    """

    level1: np.ndarray
    level2: tuple[np.ndarray, ...]
    common: np.ndarray
    mappers: list[LinearMap]
    output_axes: np.ndarray | None
    ref: int
    residuals: tuple[np.ndarray, ...]


def hyperalign(
    datasets: Sequence[np.ndarray | Factor],
    *,
    level2_niter: int = 1,
    ref: int | None = None,
    zscore_all: bool = False,
    zscore_common: bool = True,
    level1_weight: str = "running",
    alpha: float = 1.0,
    alpha_scale: str = "pymvpa",
    output_dim: int | None = None,
    scaling: bool = True,
    reflection: bool = True,
) -> tuple[np.ndarray, list[LinearMap]]:
    """Align the data of several subjects.

    Parameters
    ----------
    datasets : sequence of ndarray of shape (n_samples, n_voxels_i), or of Factor
        One a subject; row k is the same time point (or class) in all. Computed in float64; may be
        float32 or read-only memory maps, which are read twice. Factors (`factor` with the same
        `zscore_all` and `alpha`) save work where the same subject serves in many folds.
    level2_niter : int, default 1
        Sweeps of level 2.
    ref : int, optional
        Reference; by default the data set with the most voxels, the first among equals. The
        common space has its number of voxels.
    zscore_all : bool, default False
        Z-score every voxel of every subject first; the maps do so with the same mean and sd.
    zscore_common : bool, default True
        Z-score where the levels say ``z``. With `zscore_all` the reference is not z-scored again
        when it becomes the first common space (it matters for alpha < 1 only).
    level1_weight : {"running", "equal", "pymvpa-equal"}, default "running"
        How the subject that comes after k others moves the common space:
        ``(a_i + common) / 2``, ``(a_i + k common) / (k + 1)``, or with the two weights of
        "equal" swapped, as PyMVPA's `level1_equal_weight` has them.
    alpha : float in [0, 1], default 1
        Below 1 each subject's data are first multiplied by
        ``((1 - alpha) X'X + alpha I)^(-1/2)`` on the row space of X; 0 whitens.
    alpha_scale : {"pymvpa", "relative"}, default "pymvpa"
        "relative": X'X divided by the mean of its eigenvalues that are not zero. In PyMVPA's form
        they are about n_samples on z-scored data, so that alpha = .5 is nearly pure whitening.
    output_dim : int, optional
        Append the first axes of the mean of the aligned data (SVD of its centred form) to the
        maps. The sign of an axis is that of its largest weight. The common space stays whole.
    scaling, reflection : bool, default True
        As in `procrustes`.

    Returns
    -------
    common_space : ndarray of shape (n_samples, n_voxels of the reference), float64
    mappers : list of LinearMap
        One a data set, each callable on ``(n_samples, n_voxels_i)``; what they return is not
        z-scored. They are kept in the precision of the data.

    Raises
    ------
    InputError
        Fewer than two data sets, different numbers of samples, fewer than three samples, values
        that are not finite, nothing that varies, or an option out of range.
    """
    options = Options(
        level2_niter=level2_niter,
        ref=ref,
        zscore_all=zscore_all,
        zscore_common=zscore_common,
        level1_weight=level1_weight,
        alpha=alpha,
        alpha_scale=alpha_scale,
        output_dim=output_dim,
        scaling=scaling,
        reflection=reflection,
    )
    ref, cores = _start(datasets, options)
    common = _find_common(cores, ref, options)
    return _level3(datasets, cores, common, options)[:2]


def hyperalign_levels(
    datasets: Sequence[np.ndarray | Factor], options: Options | None = None
) -> Levels:
    """Align as `hyperalign` does and also return what each level left behind.

    Parameters
    ----------
    datasets : sequence
        As in `hyperalign`.
    options : Options, optional
        The keyword arguments of `hyperalign`, same names and defaults.
    """
    options = options or Options()
    ref, cores = _start(datasets, options)
    log = _Log()
    space = _find_common(cores, ref, options, log)
    common, mappers, axes = _level3(datasets, cores, space, options)
    residuals = tuple(np.asarray(norms) for norms in log.residuals if norms)
    return Levels(log.spaces[0], tuple(log.spaces[1:]), common, mappers, axes, ref, residuals)


def map_to_common(
    dataset: np.ndarray | Factor,
    common: np.ndarray | Factor,
    *,
    zscore_all: bool = False,
    alpha: float = 1.0,
    alpha_scale: str = "pymvpa",
    output_axes: np.ndarray | None = None,
    scaling: bool = True,
    reflection: bool = True,
) -> LinearMap:
    """Map a subject, who may be new, to a frozen common space (level 3).

    Parameters
    ----------
    dataset : ndarray of shape (n_samples, n_voxels) or Factor
        The same time points as in the common space.
    common : ndarray of shape (n_samples, n_common), or Factor
        What `hyperalign` returned, or `template` of it, which saves work and memory for several
        subjects.
    zscore_all, alpha, alpha_scale, scaling, reflection
        As in the `hyperalign` that made the common space.
    output_axes : ndarray of shape (n_common, output_dim), optional
        `Levels.output_axes` of a common space made with `output_dim`.

    Raises
    ------
    InputError
        Different numbers of samples, an option out of range, and what `factor` refuses.
    """
    options = Options(zscore_all=zscore_all, alpha=alpha, alpha_scale=alpha_scale)
    source = _factored(dataset, options, "subject to be mapped")
    if not isinstance(common, Factor):
        common = template(common, dtype=source.dtype)
    mapper = procrustes(source, common, scaling=scaling, reflection=reflection)
    return mapper if output_axes is None else mapper.through(output_axes)


class _Space(NamedTuple):
    """Samples of the common space as contrasts (n_samples - 1, n_common) and mean."""

    rows: np.ndarray
    mean: np.ndarray

    def z(self, wanted: bool) -> "_Space":
        """Z-score in place, if wanted."""
        if not wanted:
            return self
        std = column_std(self.rows, len(self.rows) + 1)
        rows = np.divide(self.rows, np.where(std > 0, std, np.inf), out=self.rows)
        return _Space(rows, np.zeros_like(self.mean))

    def samples(self) -> np.ndarray:
        return from_contrasts(self.rows) + self.mean

    def distance(self, other: "_Space") -> float:
        offset = np.linalg.norm(self.mean - other.mean) * np.sqrt(len(self.rows) + 1)
        return float(np.hypot(np.linalg.norm(self.rows - other.rows), offset))


class _Log:
    """What the levels leave behind: common spaces and distances to them."""

    def __init__(self) -> None:
        self.spaces: list[np.ndarray] = []
        self.residuals: list[list[float]] = []
        self.norms: list[float] = []

    def subject(self, aligned: _Space, common: _Space) -> None:
        self.norms.append(aligned.distance(common))

    def level(self, common: _Space) -> None:
        self.spaces.append(common.samples())
        self.residuals.append(self.norms)
        self.norms = []


def _find_common(
    cores: Sequence[Factor], ref: int, options: Options, log: _Log | None = None
) -> _Space:
    """Levels 1 and 2: the common space that is frozen."""
    aligned = _level1(cores, ref, options, log)
    common = _mean(aligned)
    if log:
        log.level(common)
    for _ in range(options.level2_niter):
        for i, core in enumerate(cores):
            target = _mean_of_others(common, aligned[i], len(cores)).z(options.zscore_common)
            aligned[i] = _align(core, target, options)
            if log:
                log.subject(aligned[i], common)
        common = _mean(aligned)
        if log:
            log.level(common)
    return common.z(options.zscore_common)


def _level1(cores: Sequence[Factor], ref: int, options: Options, log: _Log | None) -> list[_Space]:
    first = _entry(cores[ref])
    common = _Space(first.rows.copy(), first.mean)
    common = common.z(options.zscore_common and not options.zscore_all)
    aligned, n_before = [], 1
    for i, core in enumerate(cores):
        mapped = first if i == ref else _align(core, common, options)
        aligned.append(mapped)
        if log:
            log.subject(common if i == ref else mapped, common)
        if i != ref:
            share = _share(options.level1_weight, n_before)
            common = _mixed(mapped, common, share).z(options.zscore_common)
            n_before += 1
    if log:
        log.level(common)
    return aligned


def _level3(
    datasets: Sequence[np.ndarray | Factor],
    cores: Sequence[Factor],
    space: _Space,
    options: Options,
) -> tuple[np.ndarray, list[LinearMap], np.ndarray | None]:
    common = space.samples()
    target = template(common)
    turn = {"scaling": options.scaling, "reflection": options.reflection}
    rotations = [rotate(core, target, **turn) for core in cores]
    axes = None
    if options.output_dim is not None:
        pairs = zip(cores, rotations, strict=True)
        aligned = sum(c.core @ r.left @ (r.right * r.scale) for c, r in pairs)
        _, _, loadings = safe_svd(aligned / len(cores))
        axes = signed(target.spread(loadings[: options.output_dim]).T)
    if target.rows is not None:
        dtype = np.result_type(*(core.dtype for core in cores))
        target = replace(target, rows=target.rows.astype(dtype, copy=False))
    mappers = []
    for dataset, core, rotation in zip(datasets, cores, rotations, strict=True):
        whole = _factored(dataset, options, "") if core.rows is DROPPED else core
        mapper = linear_map(whole, target, rotation)
        mappers.append(mapper if axes is None else mapper.through(axes))
    return common, mappers, axes


def _align(core: Factor, target: _Space, options: Options) -> _Space:
    """Map a subject's data to a target: ``a_i``."""
    found = factor_contrasts(target.rows, target.mean)
    left, right, scale = rotate(core, found, scaling=options.scaling, reflection=options.reflection)
    rows = found.spread((core.core @ left) @ (right * scale))
    return _Space(rows, target.mean).z(options.zscore_common)


def _entry(factor: Factor) -> _Space:
    """Return the reference's own data as they came (centred where z-scored or projected)."""
    came_as_is = factor.std is None and factor.gain is None
    mean = factor.mean if came_as_is else np.zeros_like(factor.mean)
    if factor.rows is None:
        return _Space(factor.core, mean)
    if not factor.orthonormal:
        return _Space(factor.rows, mean)
    return _Space(factor.core @ factor.rows, mean)


def _mean(spaces: Sequence[_Space]) -> _Space:
    rows = spaces[0].rows.copy()
    for space in spaces[1:]:
        rows += space.rows
    rows /= len(spaces)
    return _Space(rows, np.mean([space.mean for space in spaces], axis=0))


def _mean_of_others(common: _Space, own: _Space, n_subjects: int) -> _Space:
    rows = common.rows * n_subjects
    rows -= own.rows
    rows /= n_subjects - 1
    return _Space(rows, (n_subjects * common.mean - own.mean) / (n_subjects - 1))


def _mixed(new: _Space, common: _Space, share: float) -> _Space:
    """Move the common space; its array is used up."""
    rows = np.multiply(common.rows, 1 - share, out=common.rows)
    rows += new.rows * share
    return _Space(rows, share * new.mean + (1 - share) * common.mean)


def _share(weight: str, n_before: int) -> float:
    """Share of the subject that comes after `n_before` others in the common space of level 1."""
    equal = 1 / (n_before + 1)
    return {"running": 0.5, "equal": equal, "pymvpa-equal": 1 - equal}[weight]


def _start(datasets: Sequence[np.ndarray | Factor], options: Options) -> tuple[int, list[Factor]]:
    """Check and factor the data; only the reference keeps its voxels, where these are many."""
    _check_datasets(datasets)
    widths = [d.n_voxels if isinstance(d, Factor) else np.shape(d)[1] for d in datasets]
    ref = int(np.argmax(widths)) if options.ref is None else options.ref
    if ref >= len(datasets):
        raise _bad_option("ref", ref, f"the number of a data set, 0 to {len(datasets) - 1}")
    cores = []
    for i, dataset in enumerate(datasets):
        found = _factored(dataset, options, f"data set {i}")
        thin = found.n_voxels >= found.n_samples
        cores.append(replace(found, rows=DROPPED) if thin and i != ref else found)
    largest = min(cores[ref].n_samples - 1, widths[ref])
    if options.output_dim is not None and options.output_dim > largest:
        raise _bad_option("output_dim", options.output_dim, f"at most {largest} for these data")
    return ref, cores


def _factored(dataset: np.ndarray | Factor, options: Options, where: str) -> Factor:
    if isinstance(dataset, Factor):
        if (dataset.std is not None, dataset.gain is not None) != (
            options.zscore_all,
            options.alpha < 1,
        ):
            raise InputError(
                where,
                found="a Factor made with other options",
                expected=f"zscore={options.zscore_all} and alpha={options.alpha}",
                remedy="Pass the same options to factor(...).",
            )
        return dataset
    try:
        return factor(
            dataset,
            zscore=options.zscore_all,
            alpha=options.alpha,
            alpha_scale=options.alpha_scale,
        )
    except InputError as error:
        raise InputError(
            where, found=error.found, expected=error.expected, remedy=error.remedy
        ) from error


def _check_datasets(datasets: Sequence[np.ndarray | Factor]) -> None:
    if len(datasets) < 2:
        raise InputError(
            "hyperalignment",
            found=f"{len(datasets)} data set(s)",
            expected="at least two, one a subject",
            remedy="Pass a list of arrays (n_samples, n_voxels).",
        )
    shapes = [(d.n_samples, d.n_voxels) if isinstance(d, Factor) else np.shape(d) for d in datasets]
    for i, shape in enumerate(shapes):
        if len(shape) != 2 or shape[0] < 3 or not shape[1]:
            raise InputError(
                f"data set {i}",
                found=f"data of shape {shape}",
                expected="(n_samples, n_voxels) with at least 3 samples and 1 voxel",
                remedy="Align on a run with more volumes.",
            )
    lengths = sorted({shape[0] for shape in shapes})
    if len(lengths) > 1:
        raise InputError(
            "hyperalignment",
            found=f"data sets with {' and '.join(map(str, lengths[:5]))} samples",
            expected="the same time points (or classes), in the same order, in every data set",
            remedy="Cut all data sets to the part that they share.",
        )


def _is_whole(value: int, least: int) -> bool:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return whole and int(value) >= least


def _bad_option(name: str, value: object, expected: str) -> InputError:
    return InputError(
        f"option {name}",
        found=f"{name} = {str(value)[:60]}",
        expected=expected,
        remedy=f"Correct {name}.",
    )

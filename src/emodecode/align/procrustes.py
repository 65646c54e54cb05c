"""Procrustes: the rotation (and scale) that brings one subject's voxels onto another's.

With source S and target T, both centred, and ``T'S = U diag(s) V'``::

    R = argmin over R'R = I of || S R - T ||_F = V U'      scale = sum(s) / |S|_F^2

A subject is kept as a `Factor`; with fewer samples than voxels everything happens between small
cores, and a map is the product of two thin matrices.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.align.linearmap import LinearMap
from emodecode.align.lowrank import (
    EPS,
    centre,
    contrasts,
    gram_core,
    safe_svd,
    thin_qr,
    whitening,
)
from emodecode.errors import InputError

FLOAT64 = np.dtype(np.float64)


@dataclass(frozen=True, eq=False)
class Factor:
    """A subject's centred data as ``contrasts = core @ axes``: compute it once, use it often.

    Parameters
    ----------
    core : ndarray of shape (n_samples - 1, rank), float64
    rows : ndarray of shape (rank, n_voxels) or None
        Where `axes`, whose rows are orthonormal, come from. None: `axes` is the identity (no more
        voxels than samples - 1).
    orthonormal : bool
        True: ``axes = rows``; False: ``rows`` are the contrasts, ``axes = core^-1 rows``.
    mean : ndarray of shape (n_voxels,)
        Of the data as they came.
    std : ndarray of shape (n_voxels,) or None
        The data were z-scored by it; infinite for constant voxels.
    gain : ndarray of shape (rank,) or None
        The data were multiplied by ``axes' diag(gain) axes`` (alpha < 1).
    constant : ndarray of int
        Voxels that are constant; zero in the data from here on.
    dtype : numpy dtype
        Precision in which maps from this subject are kept: float32 for float32 data.
    """

    core: np.ndarray = field(repr=False)
    rows: np.ndarray | None = field(repr=False)
    mean: np.ndarray = field(repr=False)
    orthonormal: bool = True
    std: np.ndarray | None = field(default=None, repr=False)
    gain: np.ndarray | None = field(default=None, repr=False)
    constant: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    dtype: np.dtype = FLOAT64

    @property
    def n_samples(self) -> int:
        """Rows of the data."""
        return len(self.core) + 1

    @property
    def n_voxels(self) -> int:
        """Columns of the data."""
        return len(self.mean)

    def spread(self, coordinates: np.ndarray) -> np.ndarray:
        """Return ``coordinates (k, rank) @ axes``: back to voxels, (k, n_voxels)."""
        if self.rows is None:
            return coordinates
        if self.orthonormal:
            return coordinates @ self.rows
        return solve_triangular(self.core, coordinates.T, lower=True, trans="T").T @ self.rows


class Rotation(NamedTuple):
    """Procrustes between two cores: ``source.core @ left @ right * scale`` is near target.core."""

    left: np.ndarray
    right: np.ndarray
    scale: float


def factor_contrasts(rows: np.ndarray, mean: np.ndarray) -> Factor:
    """Factor contrasts (n_samples - 1, n_voxels), the thin way if there are more voxels."""
    if rows.shape[1] <= len(rows):
        return Factor(rows, None, mean)
    core = gram_core(rows)
    return Factor(*thin_qr(rows), mean) if core is None else Factor(core, rows, mean, False)


def template(common: np.ndarray, *, dtype: np.dtype | type = np.float64) -> Factor:
    """Factor a frozen common space, so that the maps to it share their common side.

    Parameters
    ----------
    common : ndarray of shape (n_samples, n_common)
    dtype : numpy dtype, default float64
        Precision of the shared factor: that of the data that will be mapped.
    """
    _check_shape(common)
    centred, mean, std = centre(common)
    _check_varies(std)
    rows = contrasts(centred)
    if rows.shape[1] <= len(rows):
        return Factor(rows, None, mean)
    core, axes = thin_qr(rows)
    return Factor(core, axes.astype(dtype, copy=False), mean)


def factor(
    X: np.ndarray, *, zscore: bool = False, alpha: float = 1.0, alpha_scale: str = "pymvpa"
) -> Factor:
    """Factor a subject's data for `procrustes`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        May be a read-only memory map; computed in float64.
    zscore : bool, default False
        Z-score every voxel first; the map does the same with the mean and sd of this data.
    alpha : float in [0, 1], default 1
        Below 1 (regularised hyperalignment), ``X W`` stands for X, with
        ``W = ((1 - alpha) X'X + alpha I)^(-1/2)`` on the row space of X.
    alpha_scale : {"pymvpa", "relative"}, default "pymvpa"
        "relative" divides X'X by the mean of its eigenvalues that are not zero, so that alpha
        does not depend on the scale and number of samples.

    Raises
    ------
    InputError
        Fewer than three samples, values that are not finite, nothing that varies, or an option
        out of range.
    """
    X = X if isinstance(X, np.ndarray) else np.asarray(X)
    _check_shape(X)
    if not 0 <= alpha <= 1 or alpha_scale not in ("pymvpa", "relative"):
        raise InputError(
            "alignment",
            found=f"alpha = {alpha}, alpha_scale = {alpha_scale}",
            expected="alpha from 0 to 1 and alpha_scale 'pymvpa' or 'relative'",
            remedy="Correct alpha or alpha_scale.",
        )
    centred, mean, std = centre(X)
    _check_varies(std)
    divisor = np.where(std > 0, std, np.inf) if zscore else None
    if divisor is not None:
        centred /= divisor
    if alpha < 1:
        whole = centred if zscore else centred + np.where(std > 0, mean, 0.0)
        coordinates, gain, axes = whitening(whole, alpha=alpha, relative=alpha_scale == "relative")
        found = Factor(contrasts(coordinates - coordinates.mean(axis=0)), axes, mean, gain=gain)
    else:
        found = factor_contrasts(contrasts(centred), mean)
    dtype = np.dtype(np.float32) if X.dtype == np.float32 else FLOAT64
    return replace(found, std=divisor, constant=np.flatnonzero(std == 0), dtype=dtype)


def procrustes(
    source: np.ndarray | Factor,
    target: np.ndarray | Factor,
    *,
    scaling: bool = True,
    reflection: bool = True,
) -> LinearMap:
    """Fit ``x -> (x - mean_source) @ R * scale + mean_target``.

    Directions in which source and target share nothing are left out (a partial isometry): outside
    the span of the fitting data nothing arbitrary is added. Unequal numbers of voxels act as if
    the narrower data were padded with zero columns.

    Parameters
    ----------
    source, target : ndarray of shape (n_samples, n_voxels) or Factor
        The same time points (or classes) in the same order; each may have its own number of
        voxels. The factor of a target is one of plain data.
    scaling : bool, default True
        Fit a scale; otherwise it is 1.
    reflection : bool, default True
        Allow reflections. False demands a proper rotation; this binds only where source and
        target have the same number of voxels and share every direction.

    Returns
    -------
    LinearMap
        In the precision of the source; the common side of maps to one target `Factor` with
        fewer samples than voxels, made by `template`, is the same array, held once.

    Raises
    ------
    InputError
        Different numbers of samples, and what `factor` refuses.

    References
    ----------
    Schonemann 1966, Psychometrika 31, 1-10; for the proper rotation Kabsch 1976, Acta
    Crystallographica A32, 922-923.
    """
    source = source if isinstance(source, Factor) else factor(source)
    target = target if isinstance(target, Factor) else factor(target)
    if target.std is not None or target.gain is not None:
        raise InputError(
            "alignment",
            found="a target factored with zscore or alpha",
            expected="a factor of plain data",
            remedy="Z-score the target before factor(...), or pass the array.",
        )
    return linear_map(
        source, target, rotate(source, target, scaling=scaling, reflection=reflection)
    )


def linear_map(source: Factor, target: Factor, rotation: Rotation) -> LinearMap:
    """Turn what `rotate` found between two cores into the map between voxels."""
    left, right, scale = rotation
    if target.rows is not None:
        left, right = left @ right, target.rows
        if not target.orthonormal:
            right = solve_triangular(target.core, right, lower=True)
    if source.gain is not None:
        left = source.gain[:, None] * left
    left = source.spread(left.T).T
    if len(source.constant):
        left = left.copy()
        left[source.constant] = 0.0
    kind = source.dtype
    return LinearMap(
        left.astype(kind, copy=False),
        right.astype(kind, copy=False),
        source.mean,
        target.mean,
        scale,
        std_in=source.std,
        constant=source.constant,
    )


def rotate(source: Factor, target: Factor, *, scaling: bool, reflection: bool) -> Rotation:
    """Solve the Procrustes problem between two cores.

    Singular values of the normalised product below its rounding error are null and dropped.

    Returns
    -------
    Rotation
        left (rank of source, k), right (k, rank of target), scale.
    """
    if source.n_samples != target.n_samples:
        raise InputError(
            "alignment",
            found=f"{source.n_samples} and {target.n_samples} samples",
            expected="the same time points (or classes), in the same order, in source and target",
            remedy="Cut both to the part that they share.",
        )
    norm_source, norm_target = np.linalg.norm(source.core), np.linalg.norm(target.core)
    U, s, Vt = safe_svd(target.core.T @ source.core)
    s /= norm_source * norm_target
    rank = int((s > EPS * max(len(U), Vt.shape[1])).sum())
    left, right, total = Vt[:rank].T, U[:, :rank].T, s[:rank].sum()
    if not reflection and _reflects(source, target, left, right):
        left = left * np.where(np.arange(rank) < rank - 1, 1.0, -1.0)
        total -= 2 * s[rank - 1]
    return Rotation(left, right, float(total * norm_target / norm_source) if scaling else 1.0)


def _reflects(source: Factor, target: Factor, left: np.ndarray, right: np.ndarray) -> bool:
    """Whether ``axes_source' left right axes_target`` is a reflection that cannot be undone.

    It can where a direction is free: more voxels than samples - 1, unequal numbers of voxels that
    vary, or null singular values. Then the sign is taken up there and the map stays as it is.
    """
    if max(source.n_voxels, target.n_voxels) >= source.n_samples:
        return False
    sign, rank = 1.0, left.shape[1]
    for data, part in ((source, left), (target, right.T)):
        varies = data.core.any(axis=0)
        if varies.sum() != rank:
            return False
        sign *= np.linalg.slogdet(part[varies])[0]
        if data.gain is not None and data.rows is not None:
            sign *= np.linalg.slogdet(np.delete(data.rows, data.constant, axis=1))[0]
    return sign < 0


class Procrustes(TransformerMixin, BaseEstimator):
    """Align one data set with another; the estimator form of `procrustes`.

    Parameters
    ----------
    scaling, reflection : bool, default True
        As in `procrustes`.

    Attributes
    ----------
    map_ : LinearMap
    scale_ : float
    """

    def __init__(self, *, scaling: bool = True, reflection: bool = True):
        self.scaling = scaling
        self.reflection = reflection

    def fit(self, source: np.ndarray, target: np.ndarray) -> "Procrustes":
        self.map_ = procrustes(source, target, scaling=self.scaling, reflection=self.reflection)
        self.scale_ = self.map_.scale
        self.n_features_in_ = self.map_.n_voxels
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Map ``(n_samples, n_voxels_source)`` to ``(n_samples, n_voxels_target)``."""
        check_is_fitted(self, "map_")
        return self.map_(X)


def _check_varies(std: np.ndarray) -> None:
    if not std.any():
        raise InputError(
            "alignment",
            found="data in which no voxel varies",
            expected="signal that changes over the samples",
            remedy="Check the mask and the run.",
        )


def _check_shape(X: np.ndarray) -> None:
    if X.ndim != 2 or len(X) < 3 or not X.shape[1]:
        raise InputError(
            "alignment",
            found=f"data of shape {X.shape}",
            expected="(n_samples, n_voxels) with at least 3 samples and 1 voxel",
            remedy="Align on a run with more volumes.",
        )

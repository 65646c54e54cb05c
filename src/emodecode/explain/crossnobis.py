"""Cross-validated distances between conditions (crossnobis), and one RDM for each subject."""

from typing import Literal

import numpy as np

from emodecode.errors import InputError
from emodecode.explain.noise import ShrunkNoise, cell_residuals, estimate_noise
from emodecode.explain.rdm import (
    check_labels,
    condition_means,
    correlation_rdm,
    finite_matrix,
    is_symmetric,
)


def crossnobis_rdm(
    X: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    *,
    noise: np.ndarray | ShrunkNoise | Literal["identity"] | None = None,
) -> np.ndarray:
    """Return the cross-validated squared Mahalanobis distances of one subject (crossnobis).

    With m_fi the mean of condition i in fold f, C the noise covariance and p voxels::

        d_ij = mean over pairs of folds f, g of (m_fi - m_fj) C^-1 (m_gi - m_gj)' / p

    The noise of two folds is independent, so equal conditions have distance 0 on average, and a
    distance may be negative; it is not clipped.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        Samples of one subject.
    labels, folds : ndarray of shape (n_samples,)
        Condition and fold (the run) of each sample; every fold holds every condition, and every
        fold counts the same.
    noise : optional
        None: shrunk covariance of the samples around the mean of their condition and fold, pooled
        over folds (`emodecode.explain.noise`). An estimate of other data: `ShrunkNoise`, or a
        precision (inverse covariance) of shape (n_voxels, n_voxels). One precision a fold,
        (n_folds, n_voxels, n_voxels) in sorted order of the folds: each pair of folds is whitened
        by the inverse of its mean covariance. "identity": no whitening.

    Returns
    -------
    ndarray of shape (n_conditions, n_conditions)
        In sorted order of the conditions, divided by the number of voxels.

    Raises
    ------
    InputError
        One fold, a condition missing from a fold, a noise that does not fit, or nothing to
        estimate it from (one sample per condition and fold).

    Notes
    -----
    Where each condition has one sample a fold, what is left after taking off the means of
    conditions and folds is no substitute: it is made of the very differences between folds that
    enter the distances, which are then too large. Take the noise from other data.

    References
    ----------
    Walther et al. 2016, NeuroImage 137:188-200.
    """
    X = finite_matrix(X, "patterns")
    means, cells = _fold_means(X, labels, folds)
    # a pattern that all conditions share has no part in a distance, but costs digits
    means = means - means.mean(axis=1, keepdims=True)
    if not (noise is None or isinstance(noise, (str, ShrunkNoise))):
        noise = _check_precisions(noise, means)
    if isinstance(noise, np.ndarray) and noise.ndim == 3:
        product = _product_by_pair(means, noise)
    else:
        product = _product(means, _whiten(means, noise, X, cells))
    size = np.diag(product)
    rdm = (size[:, None] + size - product - product.T) / X.shape[1]
    np.fill_diagonal(rdm, 0)
    return (rdm + rdm.T) / 2


def subject_rdms(
    X: np.ndarray,
    labels: np.ndarray,
    subjects: np.ndarray,
    *,
    folds: np.ndarray | None = None,
    noise: np.ndarray | ShrunkNoise | Literal["identity"] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return one RDM a subject: crossnobis where `folds` are given, 1 - r of means otherwise.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
    labels, subjects : ndarray of shape (n_samples,)
    folds : ndarray of shape (n_samples,), optional
    noise : optional
        As in `crossnobis_rdm`, the same for all subjects; None: each subject's own.

    Returns
    -------
    rdms : ndarray of shape (n_subjects, n_conditions, n_conditions)
    names : ndarray of shape (n_subjects,)
        Sorted.

    Raises
    ------
    InputError
        A subject without one of the conditions, or data that the measure refuses.
    """
    X = finite_matrix(X, "patterns")
    labels = check_labels(labels, len(X), where="labels")
    subjects = check_labels(subjects, len(X), where="subjects")
    folds = folds if folds is None else check_labels(folds, len(X), where="folds")
    conditions, rdms = np.unique(labels), []
    names = np.unique(subjects)
    for name in names:
        rows = np.flatnonzero(subjects == name)
        _require_all(conditions, labels[rows], f"subject {name}")
        if folds is None:
            rdms.append(correlation_rdm(condition_means(X[rows], labels[rows])[0]))
        else:
            rdms.append(crossnobis_rdm(X[rows], labels[rows], folds[rows], noise=noise))
    return np.stack(rdms), names


def _fold_means(X, labels, folds) -> tuple[np.ndarray, np.ndarray]:
    """Means (n_folds, n_conditions, n_voxels) and the cell of each sample."""
    labels = check_labels(labels, len(X), where="labels")
    folds = check_labels(folds, len(X), where="folds")
    conditions, column = np.unique(labels, return_inverse=True)
    names, row = np.unique(folds, return_inverse=True)
    if len(names) < 2 or len(conditions) < 2:
        raise InputError(
            "cross-validated distances",
            found=f"{len(names)} fold(s) and {len(conditions)} condition(s)",
            expected="two folds and two conditions or more",
            remedy="Give the run of each sample as its fold, or use correlation_rdm.",
        )
    for name in names:
        _require_all(conditions, labels[folds == name], f"fold {name}")
    cells = row * len(conditions) + column
    sums = np.zeros((len(names) * len(conditions), X.shape[1]))
    np.add.at(sums, cells, X)
    means = sums / np.bincount(cells)[:, None]
    return means.reshape(len(names), len(conditions), -1), cells


def _whiten(means, noise, X, cells) -> np.ndarray:
    """Multiply the means by one precision; same shape."""
    flat = means.reshape(-1, means.shape[2])
    if isinstance(noise, str):
        if noise != "identity":
            raise _bad_noise(f"noise = {noise!r}")
        return means
    if noise is None:
        residuals, df = cell_residuals(X, cells)
        if df < 1:
            raise _bad_noise("one sample per condition and fold: nothing to estimate it from")
        noise = estimate_noise(residuals, df=df)
    if isinstance(noise, ShrunkNoise):
        if noise.n_voxels != X.shape[1]:
            raise _bad_noise(f"a noise of {noise.n_voxels} voxels for {X.shape[1]}")
        return noise.solve(flat).reshape(means.shape)
    return (flat @ noise).reshape(means.shape)


def _product(means: np.ndarray, whitened: np.ndarray) -> np.ndarray:
    """Mean over ordered pairs of different folds of M_f C^-1 M_g': all pairs less equal ones."""
    n_folds = len(means)
    every = means.sum(axis=0) @ whitened.sum(axis=0).T
    same = np.einsum("fiv,fjv->ij", means, whitened, optimize=True)
    return (every - same) / (n_folds * (n_folds - 1))


def _product_by_pair(means: np.ndarray, precisions: np.ndarray) -> np.ndarray:
    """As `_product`, with the precision of each pair of folds."""
    covariances = np.linalg.inv(precisions)
    first, second = np.triu_indices(len(means), k=1)
    total = np.zeros((means.shape[1], means.shape[1]))
    for f, g in zip(first, second, strict=True):
        total += means[f] @ np.linalg.solve((covariances[f] + covariances[g]) / 2, means[g].T)
    return (total + total.T) / (2 * len(first))


def _check_precisions(noise, means: np.ndarray) -> np.ndarray:
    n_folds, _, p = means.shape
    noise = np.asarray(noise)
    if noise.dtype.kind not in "fiu" or noise.shape not in {(p, p), (n_folds, p, p)}:
        raise _bad_noise(f"a noise of shape {noise.shape} and type {noise.dtype}")
    noise = noise.astype(np.float64)
    if not np.isfinite(noise).all() or not is_symmetric(noise):
        raise _bad_noise("a precision that is not finite and symmetric")
    try:
        np.linalg.cholesky(noise)
    except np.linalg.LinAlgError as error:
        raise _bad_noise("a precision that is not positive definite") from error
    return noise


def _bad_noise(found: str) -> InputError:
    return InputError(
        "noise of the patterns",
        found=found,
        expected="two samples or more in some condition of a fold, or a noise of other data: "
        "ShrunkNoise, a precision (n_voxels, n_voxels) or one a fold",
        remedy="Estimate it from other samples (estimate_noise), or take noise='identity'.",
    )


def _require_all(conditions: np.ndarray, found: np.ndarray, where: str) -> None:
    missing = np.setdiff1d(conditions, found)
    if len(missing):
        raise InputError(
            where,
            found=f"no sample of {', '.join(map(str, missing))}",
            expected=f"all {len(conditions)} conditions",
            remedy=f"Leave out {where}, or the condition.",
        )

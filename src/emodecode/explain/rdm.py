"""Dissimilarities between conditions (RDMs): of brains, of network layers and of models."""

import numpy as np
import pandas as pd
from scipy.spatial.distance import pdist, squareform

from emodecode.errors import InputError

_SYMMETRIC = 1e-8


def condition_means(X: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average the samples of each condition.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
    labels : ndarray of shape (n_samples,)
        Condition of each sample.

    Returns
    -------
    means : ndarray of shape (n_conditions, n_voxels), float64
    conditions : ndarray of shape (n_conditions,)
        Sorted; the order of all RDMs here.

    Raises
    ------
    InputError
        Values that are not finite, labels of another number or missing ones.
    """
    X, labels = finite_matrix(X, "patterns"), check_labels(labels, len(X), where="labels")
    conditions, position = np.unique(labels, return_inverse=True)
    means = np.zeros((len(conditions), X.shape[1]))
    np.add.at(means, position, X)
    return means / np.bincount(position)[:, None], conditions


def correlation_rdm(patterns: np.ndarray) -> np.ndarray:
    """Return 1 - r (Pearson over voxels) of every two mean patterns.

    Parameters
    ----------
    patterns : ndarray of shape (n_conditions, n_voxels)

    Returns
    -------
    ndarray of shape (n_conditions, n_conditions)
        0 to 2. It is not cross-validated: noise makes it larger than 0 for equal conditions too.

    Raises
    ------
    InputError
        Fewer than two conditions or three voxels, a constant pattern, values that are not finite.

    References
    ----------
    Kriegeskorte, Mur & Bandettini 2008, Frontiers in Systems Neuroscience 2:4.
    """
    patterns = finite_matrix(patterns, "patterns")
    n, n_voxels = patterns.shape
    if n < 2 or n_voxels < 3:
        raise InputError(
            "patterns",
            found=f"{n} conditions of {n_voxels} voxels",
            expected="two conditions and three voxels or more",
            remedy="A correlation over fewer voxels says nothing.",
        )
    centred = patterns - patterns.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1)
    flat = np.flatnonzero(norms <= 1e-12 * np.linalg.norm(patterns, axis=1))
    if len(flat):
        raise InputError(
            "patterns",
            found=f"the pattern of condition {flat[0]} (from 0) has the same value everywhere",
            expected="patterns that vary over voxels",
            remedy="Leave that condition out, or check its samples.",
        )
    unit = centred / norms[:, None]
    rdm = np.clip(1 - unit @ unit.T, 0, 2)
    np.fill_diagonal(rdm, 0)
    return (rdm + rdm.T) / 2


def layer_rdm(activations: np.ndarray, labels: np.ndarray, *, zscore: bool = False) -> np.ndarray:
    """Return 1 - r between the mean activations of the classes in a layer of a network.

    Parameters
    ----------
    activations : ndarray of shape (n_samples, ...)
        Of any layer; all axes but the first become one.
    labels : ndarray of shape (n_samples,)
    zscore : bool, default False
        Standardise every feature over the samples first, as S1 did (spec S1.24); a feature that
        is constant becomes 0.

    Returns
    -------
    ndarray of shape (n_classes, n_classes)
        In sorted order of the classes.
    """
    values = np.asarray(activations, dtype=np.float64)
    values = finite_matrix(values.reshape(len(values), -1), "activations")
    if zscore:
        spread = values.std(axis=0)
        spread[spread <= 1e-12 * np.abs(values).max(axis=0, initial=0)] = np.inf
        values = (values - values.mean(axis=0)) / spread
    return correlation_rdm(condition_means(values, labels)[0])


def category_rdm(categories: np.ndarray) -> np.ndarray:
    """Return 0 for two conditions of one category and 1 for others: (n,) -> (n, n)."""
    categories = check_labels(categories, len(categories), where="categories")
    return (categories[:, None] != categories[None, :]).astype(np.float64)


def distance_rdm(coordinates: np.ndarray) -> np.ndarray:
    """Return Euclidean distances: coordinates (n_conditions, n_axes) or (n_conditions,) -> (n, n).

    For conditions with a mean valence and arousal the axes should have the same unit.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    points = finite_matrix(points[:, None] if points.ndim == 1 else points, "coordinates")
    return squareform(pdist(points))


def rater_rdm(shares: np.ndarray) -> np.ndarray:
    """Return how differently raters voted on two conditions.

    Half the sum of absolute differences of the shares (total variation): 0 for equal votes, 1 where
    no answer was given to both.

    Parameters
    ----------
    shares : ndarray of shape (n_conditions, n_answers)
        Share (or number) of votes for each answer in the moments of each condition; every row is
        divided by its sum.

    Returns
    -------
    ndarray of shape (n_conditions, n_conditions)

    Raises
    ------
    InputError
        Negative shares, or a condition without votes.
    """
    shares = finite_matrix(shares, "shares of votes")
    sums = shares.sum(axis=1)
    if (shares < 0).any() or (sums <= 0).any():
        raise InputError(
            "shares of votes",
            found="a negative share, or a condition without any vote",
            expected="shares from 0, some above 0 in every row",
            remedy="Leave out conditions that nobody rated.",
        )
    return squareform(pdist(shares / sums[:, None], "cityblock")) / 2


def check_labels(labels: np.ndarray, n: int, *, where: str) -> np.ndarray:
    """Return one label a sample as an array of shape (n,); InputError if some are missing."""
    found = np.asarray(labels)
    if found.shape != (n,) or not n or pd.isna(found).any():
        raise InputError(
            where,
            found=f"shape {found.shape}, {int(np.sum(pd.isna(found)))} missing",
            expected=f"one value for each of the {n} rows",
            remedy="Give one value a row; leave out rows without one.",
        )
    return found.astype(str) if found.dtype == object else found


def check_rdm(rdm: np.ndarray, *, where: str = "RDM") -> np.ndarray:
    """Return a float64 RDM of shape (n, n), or a stack (n_subjects, n, n), that is one.

    Raises
    ------
    InputError
        Not square, not finite, not symmetric (to 1e-8 of its largest value), a diagonal other than
        0.
    """
    found = np.asarray(rdm, dtype=np.float64)
    if found.ndim not in (2, 3) or found.shape[-1] != found.shape[-2] or found.shape[-1] < 2:
        raise _bad_rdm(where, f"shape {found.shape}")
    if not np.isfinite(found).all():
        raise _bad_rdm(where, f"{int((~np.isfinite(found)).sum())} values that are not finite")
    if not is_symmetric(found):
        raise _bad_rdm(where, "a matrix that is not symmetric")
    if np.abs(np.diagonal(found, axis1=-2, axis2=-1)).max() > _SYMMETRIC * np.abs(found).max():
        raise _bad_rdm(where, "a diagonal that is not 0")
    return found


def pairs_of(rdm: np.ndarray) -> np.ndarray:
    """Return the values above the diagonal, by rows: (..., n, n) -> (..., n (n - 1) / 2)."""
    rows, columns = np.triu_indices(rdm.shape[-1], k=1)
    return rdm[..., rows, columns]


def is_symmetric(values: np.ndarray) -> bool:
    """Say whether matrices (..., n, n) equal their transposes to 1e-8 of the largest value."""
    gap = np.abs(values - np.swapaxes(values, -1, -2)).max()
    return bool(gap <= _SYMMETRIC * np.abs(values).max())


def _bad_rdm(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="finite dissimilarities (n, n), symmetric, with 0 on the diagonal",
        remedy="Make it with correlation_rdm, crossnobis_rdm or a model of emodecode.explain.rdm.",
    )


def finite_matrix(values: np.ndarray, where: str) -> np.ndarray:
    """Return float64 rows and columns; InputError if a value is not finite."""
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 2 or not found.size or not np.isfinite(found).all():
        raise InputError(
            where,
            found=f"shape {found.shape}, {int((~np.isfinite(found)).sum())} values not finite",
            expected="finite numbers in rows and columns",
            remedy="Leave out samples or voxels with missing values.",
        )
    return found

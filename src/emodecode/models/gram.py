"""Exact coordinates for data with more voxels than samples, from the matrix of inner products.

n samples span at most n - 1 dimensions around their mean. With the centred data ``A`` (n x p) and
the eigenvectors of the Gram matrix ``A A' = U diag(l) U'``, the rows of ``Z = U sqrt(l)`` are the
samples in an orthonormal basis ``V = A' U / sqrt(l)`` of that span: ``A = Z V'``. A method that a
rotation of the voxels leaves unchanged (ridge, logistic regression with L2, SVM, LDA with
isotropic shrinkage) gives the same decoder on Z as on the voxels, without one p x p matrix.
"""

from collections.abc import Iterator

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import InputError

CHUNK_VOXELS = 2048
"""Columns that are held in float64 at once: 16 kB a sample."""


class GramCoordinates(TransformerMixin, BaseEstimator):
    """Express samples in the n - 1 dimensions that the training samples span.

    Distances and angles between training samples are those of the voxels. Inner products are
    taken in float64 by blocks of columns: beyond the data this needs three n x n matrices and
    one block.

    Attributes
    ----------
    X_ : ndarray of shape (n_samples, n_voxels)
        The training samples themselves (a reference, no copy): `transform` and `to_voxels` need
        them. Keep this step only as long as they are at hand.
    mean_ : ndarray of shape (n_voxels,)
    duals_ : ndarray of shape (n_samples, n_dimensions)
        ``U / sqrt(l)``: the basis is ``(X_ - mean_)' duals_``.
    """

    def fit(self, X: np.ndarray, y=None) -> "GramCoordinates":
        self.fit_transform(X)
        return self

    def fit_transform(self, X: np.ndarray, y=None) -> np.ndarray:
        """Return the training samples' coordinates (n_samples, n_dimensions), float64."""
        self.n_features_in_ = X.shape[1]
        self.X_ = X
        gram, self.mean_ = centred_gram(X)
        values, vectors = linalg.eigh(
            gram, driver="evd", overwrite_a=True, check_finite=False, lower=False
        )
        kept = values > values[-1] * len(X) * np.finfo(np.float64).eps
        root = np.sqrt(values[kept][::-1])
        vectors = vectors[:, kept][:, ::-1]
        self.duals_ = vectors / root
        return vectors * root

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the coordinates of other samples; what lies outside the span is dropped."""
        check_is_fitted(self, "duals_")
        cross, _ = centred_products(X, self.X_, self.mean_)
        return cross @ self.duals_

    def to_voxels(self, coef: np.ndarray) -> np.ndarray:
        """Turn weights of coordinates (n_outputs, n_dimensions) into weights of voxels."""
        check_is_fitted(self, "duals_")
        alpha = coef @ self.duals_.T
        alpha = alpha - alpha.mean(axis=1, keepdims=True)
        weights = np.empty((len(alpha), self.n_features_in_))
        for columns in _blocks(self.n_features_in_):
            block = self.X_[:, columns] - self.mean_[columns]
            weights[:, columns] = alpha @ block
        return weights


def centred_gram(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(X - mean) (X - mean)'`` and the mean, both accumulated in float64.

    Raises
    ------
    InputError
        Values that are not finite.
    """
    gram, mean = np.zeros((len(X), len(X))), np.empty(X.shape[1])
    for columns in _blocks(X.shape[1]):
        block = np.asarray(X[:, columns], dtype=np.float64)
        with np.errstate(invalid="ignore"):
            mean[columns] = block.mean(axis=0)
        if not np.isfinite(mean[columns]).all():
            raise _not_finite(X, columns, mean[columns])
        block = block - mean[columns]
        gram += block @ block.T
    return gram, mean


def centred_products(
    X: np.ndarray, others: np.ndarray, mean: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(X - mean) (others - mean)'`` and the squared norms of the rows of ``X - mean``."""
    cross, norms = np.zeros((len(X), len(others))), np.zeros(len(X))
    for columns in _blocks(X.shape[1]):
        block = X[:, columns] - mean[columns]
        cross += block @ (others[:, columns] - mean[columns]).T
        norms += np.einsum("ij,ij->i", block, block)
    return cross, norms


def _blocks(n_voxels: int) -> Iterator[slice]:
    for start in range(0, n_voxels, CHUNK_VOXELS):
        yield slice(start, min(start + CHUNK_VOXELS, n_voxels))


def _not_finite(X: np.ndarray, columns: slice, mean: np.ndarray) -> InputError:
    bad = np.flatnonzero(~np.isfinite(mean))
    column = columns.start + int(bad[0])
    rows = np.flatnonzero(~np.isfinite(X[:, column]))
    return InputError(
        "training samples",
        found=f"values that are not finite in {len(bad)} of {len(mean)} voxels "
        f"(column {column}, {len(rows)} rows)",
        expected="finite values",
        remedy="Drop those volumes, or leave those voxels out of the mask.",
    )

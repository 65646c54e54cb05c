"""Standardise every voxel by the training samples, in bounded memory."""

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import InputError
from emodecode.features.anova import column_moments


class VoxelScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Subtract each voxel's training mean and divide by its training standard deviation.

    As scikit-learn's StandardScaler, with three differences that whole volumes need: the moments
    are streamed (StandardScaler takes 3 GB on top of 1.4 GB of data), float32 stays float32, and a
    voxel that is constant in training becomes 0 everywhere instead of passing unscaled.

    Attributes
    ----------
    mean_, scale_ : ndarray of shape (n_voxels,), float64
        `scale_` is inf for voxels that are constant in training.
    """

    def fit(self, X: np.ndarray, y=None) -> "VoxelScaler":
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        self.n_features_in_ = X.shape[1]
        mean, variance = column_moments(X)
        kind = np.float32 if X.dtype == np.float32 else np.float64
        self.mean_ = mean.astype(kind).astype(np.float64)
        deviation = np.sqrt(variance).astype(kind).astype(np.float64)
        self.scale_ = np.where(deviation > 0, deviation, np.inf)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return standardised samples of the same shape; float32 for float32."""
        check_is_fitted(self, "mean_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        kind = np.float32 if X.dtype == np.float32 else np.float64
        scaled = np.subtract(X, self.mean_.astype(kind), dtype=kind)
        scaled /= self.scale_.astype(kind)
        return scaled

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turn weights of standardised voxels into weights of the voxels as they came in."""
        coef = coef / self.scale_
        return coef, intercept - coef @ self.mean_


def check_finite(X: np.ndarray) -> None:
    """Refuse samples with values that are not finite."""
    bad = ~np.isfinite(X).all(axis=1)
    if bad.any():
        raise InputError(
            "features",
            found=f"values that are not finite in {int(bad.sum())} of {len(X)} samples",
            expected="finite numbers",
            remedy="Look for missing values in the data, and for voxels outside the brain.",
        )


def check_width(X: np.ndarray, n_columns: int) -> None:
    """Refuse samples whose number of columns differs from training."""
    if X.ndim != 2 or X.shape[1] != n_columns:
        raise InputError(
            "features",
            found=f"data of shape {X.shape}",
            expected=f"(n_samples, {n_columns}) as in training",
            remedy="Extract the samples with the mask that the decoder was trained on.",
        )

"""Linear discriminant analysis whose shrinkage means the same in any coordinates."""

import numpy as np
from scipy import linalg
from sklearn.base import BaseEstimator, ClassifierMixin

from emodecode.errors import InputError


class ShrunkLda(ClassifierMixin, BaseEstimator):
    """LDA with the pooled within-class covariance shrunk towards an isotropic one.

    ::

        S     = 1/n  sum_i r_i r_i',    r_i = x_i - mean of its class
        Sigma = (1 - s) S + s (tr S / p) I
        score_k(x) = x' Sigma^-1 m_k - 1/2 m_k' Sigma^-1 m_k + log prior_k

    with p the number of voxels. Nothing here depends on the axes, so the coordinates of
    :class:`~emodecode.models.gram.GramCoordinates` give the decoder of the voxels exactly, if `fit`
    is told p. (scikit-learn's ``shrinkage="auto"`` standardises the voxels first, which does.)

    Parameters
    ----------
    shrinkage : "auto" or float in [0, 1], default "auto"
        ``"auto"``: Ledoit and Wolf's s for the residuals ``r_i`` taken as n independent samples.
        fMRI volumes are not independent, so it tends to be too small; tune it where this matters.
    class_weight : "balanced" or None, default "balanced"
        ``"balanced"``: equal priors. ``None``: the classes' shares in training.

    Attributes
    ----------
    shrinkage_ : float
        The s that was used.
    coef_, intercept_ : ndarray
        One row a class; one row in all for two classes (second minus first).

    References
    ----------
    Ledoit and Wolf (2004), J Multivariate Analysis 88:365-411.
    """

    def __init__(
        self, *, shrinkage: float | str = "auto", class_weight: str | None = "balanced"
    ) -> None:
        self.shrinkage = shrinkage
        self.class_weight = class_weight

    def fit(self, X: np.ndarray, y: np.ndarray, *, n_voxels: int | None = None) -> "ShrunkLda":
        """Fit on voxels, or on coordinates that stand for `n_voxels` voxels.

        Raises
        ------
        InputError
            No variance within the classes, or ``shrinkage = 0`` where the covariance is singular.
        """
        X = np.asarray(X, dtype=np.float64)
        self.n_features_in_ = X.shape[1]
        self.classes_, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes)
        means = np.stack([X[codes == k].mean(axis=0) for k in range(len(counts))])
        residuals = X - means[codes]
        covariance = residuals.T @ residuals / len(X)
        p = n_voxels or X.shape[1]
        self.shrinkage_ = (
            ledoit_wolf(residuals, covariance, p)
            if self.shrinkage == "auto"
            else float(self.shrinkage)
        )
        target = np.trace(covariance) / p
        self._check(target, rank=len(X) - len(counts))
        covariance *= 1.0 - self.shrinkage_
        covariance.flat[:: len(covariance) + 1] += self.shrinkage_ * target
        centre = means.mean(axis=0)
        offset = means - centre
        factor = linalg.cho_factor(covariance, overwrite_a=True)
        coef = linalg.cho_solve(factor, offset.T).T
        shares = np.full(len(counts), 1 / len(counts))
        if self.class_weight is None:
            shares = counts / len(X)
        intercept = np.log(shares) - 0.5 * (coef * offset).sum(axis=1) - coef @ centre
        if len(counts) == 2:
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        self.coef_, self.intercept_ = coef, intercept
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return the scores (n_samples, n_classes), or (n_samples,) for two classes."""
        scores = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        scores = self.decision_function(X)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]

    def _check(self, target: float, *, rank: int) -> None:
        if target <= 0:
            raise InputError(
                "lda",
                found="no variance within the classes",
                expected="samples of a class that differ",
                remedy="Check the features: are they labels, or constant?",
            )
        if self.shrinkage_ == 0 and self.n_features_in_ > rank:
            raise InputError(
                "lda",
                found=f"shrinkage = 0 with {self.n_features_in_} dimensions of which the "
                f"samples determine {rank}",
                expected="a shrinkage above 0 where there are more voxels than samples",
                remedy='Use shrinkage = "auto" or a small number, or select fewer voxels.',
            )


def ledoit_wolf(residuals: np.ndarray, covariance: np.ndarray, n_voxels: int) -> float:
    """Return Ledoit and Wolf's shrinkage of centred samples with `n_voxels` voxels.

    ::

        s = min(b, d) / d,   d = |S|^2 - (tr S)^2 / p,   b = (mean |r_i|^4 - |S|^2) / n

    Every term is an inner product, so coordinates serve as well as voxels.
    """
    n = len(residuals)
    norms = np.einsum("ij,ij->i", residuals, residuals)
    square = float((covariance**2).sum())
    distance = square - float(np.trace(covariance)) ** 2 / n_voxels
    spread = (float((norms**2).mean()) - square) / n
    return min(max(spread, 0.0), distance) / distance if distance > 0 else 1.0

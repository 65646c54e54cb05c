"""Support vector machine with a Gaussian kernel, for any number of voxels."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.svm import SVC
from sklearn.utils.validation import check_is_fitted

from emodecode.features.scale import check_width
from emodecode.models.gram import centred_gram, centred_products
from emodecode.models.linear import as_probabilities, check_classes, choose


class RbfSvm(ClassifierMixin, BaseEstimator):
    """SVM with the kernel ``exp(-gamma |x - z|^2)``; distances come from blocks of columns.

    The same decoder as scikit-learn's ``SVC(break_ties=True)``, which on whole volumes recomputes
    distances without end. With more voxels than samples the kernel matrix is formed once from the
    centred Gram matrix.

    Parameters
    ----------
    C : float, default 1
    gamma : "scale" or float, default "scale"
        ``"scale"``: ``1 / (n_voxels * variance of X)``, from all voxels.
    class_weight : "balanced" or None, default "balanced"

    Attributes
    ----------
    gamma_ : float
    support_rows_ : ndarray of shape (n_support, n_voxels)
        A copy of the support vectors, in the type of the data.
    """

    def __init__(
        self,
        *,
        C: float = 1.0,
        gamma: float | str = "scale",
        class_weight: str | None = "balanced",
    ) -> None:
        self.C = C
        self.gamma = gamma
        self.class_weight = class_weight

    def fit(self, X: np.ndarray, y: np.ndarray) -> "RbfSvm":
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_classes(y)
        self.n_features_in_ = X.shape[1]
        self.by_gram_ = X.shape[1] > len(X)
        if self.by_gram_:
            self._fit_by_gram(X, y)
        else:
            self.mean_ = X.mean(axis=0, dtype=np.float64)
            values = X - self.mean_
            spread = (values**2).sum() / len(X) + _between(self.mean_)
            self.gamma_ = 1.0 / spread if self.gamma == "scale" else float(self.gamma)
            self.svm_ = self._svm("rbf", self.gamma_).fit(values, y)
        self.classes_ = self.svm_.classes_
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return scores (n_samples, n_classes), or (n_samples,) for two classes."""
        check_is_fitted(self, "svm_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        if not self.by_gram_:
            return self.svm_.decision_function(X - self.mean_)
        cross, norms = centred_products(X, self.support_rows_, self.mean_)
        kernel = np.zeros((len(X), self.svm_.shape_fit_[0]))
        squared = norms[:, None] + self.support_norms_ - 2 * cross
        kernel[:, self.svm_.support_] = np.exp(-self.gamma_ * squared)
        return self.svm_.decision_function(kernel)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[choose(self.decision_function(X))]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the softmax of the scores: they order the samples but are not calibrated.

        (scikit-learn's ``probability=True`` shuffles volumes over folds of its own, across blocks.)
        """
        return as_probabilities(self.decision_function(X))

    def _fit_by_gram(self, X: np.ndarray, y: np.ndarray) -> None:
        gram, self.mean_ = centred_gram(X)
        norms = gram.diagonal().copy()
        spread = norms.mean() + _between(self.mean_)
        self.gamma_ = 1.0 / spread if self.gamma == "scale" else float(self.gamma)
        gram *= -2
        gram += norms
        gram += norms[:, None]
        gram *= -self.gamma_
        self.svm_ = self._svm("precomputed", "scale").fit(np.exp(gram, out=gram), y)
        self.support_rows_ = X[self.svm_.support_]
        self.support_norms_ = norms[self.svm_.support_]

    def _svm(self, kernel: str, gamma: float | str) -> SVC:
        return SVC(
            C=self.C,
            kernel=kernel,
            gamma=gamma,
            class_weight=self.class_weight,
            break_ties=True,
            cache_size=500,
        )


def _between(mean: np.ndarray) -> float:
    """Return what the differences between the voxels' means add to n_voxels * variance of X."""
    return float(((mean - mean.mean()) ** 2).sum())

"""Gradient-boosted trees, with a selection of voxels where there are too many."""

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import DataMissingError
from emodecode.features.scale import check_width
from emodecode.features.select import TopVoxels
from emodecode.models.linear import check_classes


class BoostedTrees(ClassifierMixin, BaseEstimator):
    """xgboost's histogram trees on string labels.

    xgboost's memory grows with the voxels (7 GB on top at 22,528 voxels and 1,950 samples), so with
    more than `max_voxels` columns only those with the highest ANOVA F *of the training samples* are
    used. The selection is part of `fit` and so stays inside the fold.

    Parameters
    ----------
    n_estimators : int, default 100
        Boosting rounds (one tree a class in each).
    max_depth : int, default 3
    learning_rate : float, default 0.1
    reg_lambda : float, default 1
        L2 penalty on the leaves.
    subsample, colsample_bynode : float in (0, 1], default 1 and 0.3
        Shares of the samples per tree and of the voxels per node.
    max_bin : int, default 64
        Values that a voxel is rounded to; a quarter of xgboost's own default takes a third of the
        time and is fine enough for some thousand samples.
    max_voxels : int, default 5000
    class_weight : "balanced" or None, default "balanced"
    n_jobs : int, default 1
    random_state : int, default 0

    Attributes
    ----------
    reduction_ : TopVoxels or None
        The selection, where there was one.
    """

    def __init__(
        self,
        *,
        n_estimators: int = 100,
        max_depth: int = 3,
        learning_rate: float = 0.1,
        reg_lambda: float = 1.0,
        subsample: float = 1.0,
        colsample_bynode: float = 0.3,
        max_bin: int = 64,
        max_voxels: int = 5000,
        class_weight: str | None = "balanced",
        n_jobs: int = 1,
        random_state: int = 0,
    ) -> None:
        self.n_estimators = n_estimators
        self.max_depth = max_depth
        self.learning_rate = learning_rate
        self.reg_lambda = reg_lambda
        self.subsample = subsample
        self.colsample_bynode = colsample_bynode
        self.max_bin = max_bin
        self.max_voxels = max_voxels
        self.class_weight = class_weight
        self.n_jobs = n_jobs
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> "BoostedTrees":
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_classes(y)
        self.n_features_in_ = X.shape[1]
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.reduction_ = None
        if X.shape[1] > self.max_voxels:
            self.reduction_ = TopVoxels(self.max_voxels).fit(X, y)
            X = self.reduction_.transform(X)
        weight = compute_sample_weight(self.class_weight, y) if self.class_weight else None
        self.trees_ = self._trees().fit(X, codes, sample_weight=weight)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the probabilities, shape (n_samples, n_classes)."""
        check_is_fitted(self, "trees_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        if self.reduction_ is not None:
            X = self.reduction_.transform(X)
        return self.trees_.predict_proba(X)

    def _trees(self):
        try:
            from xgboost import XGBClassifier
        except ImportError as error:
            raise DataMissingError(
                "boosted_trees",
                found="xgboost is not installed",
                expected="xgboost 3 or later",
                remedy="pip install 'emodecode[trees]'",
            ) from error
        return XGBClassifier(
            tree_method="hist",
            n_estimators=self.n_estimators,
            max_depth=self.max_depth,
            learning_rate=self.learning_rate,
            reg_lambda=self.reg_lambda,
            subsample=self.subsample,
            colsample_bynode=self.colsample_bynode,
            max_bin=self.max_bin,
            n_jobs=self.n_jobs,
            random_state=self.random_state,
        )

"""Multi-layer perceptron for any number of voxels."""

from collections.abc import Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neural_network import MLPClassifier
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.validation import check_is_fitted

from emodecode.features.scale import check_width
from emodecode.models.linear import check_classes, coordinates_of


class Perceptron(ClassifierMixin, BaseEstimator):
    """scikit-learn's MLPClassifier, trained in the samples' own dimensions.

    With more voxels than samples the first layer only ever sees the span of the training samples,
    so it is trained on :class:`~emodecode.models.gram.GramCoordinates` and its weights then go back
    to the voxels: the networks that can be reached are the same, the path of the optimiser is not
    (Adam and the initial weights depend on the axes). Inputs are multiplied by one common factor
    that makes their mean variance 1; `alpha` refers to these. There is no early stopping: its
    validation set would be shuffled volumes of the same blocks.

    Parameters
    ----------
    hidden_layer_sizes : sequence of int, default (100,)
    activation : {"relu", "tanh", "logistic", "identity"}, default "relu"
    alpha : float, default 1
        L2 penalty.
    learning_rate_init : float, default 0.003
    max_iter : int, default 2000
        Epochs at most; training stops when the loss no longer falls.
    class_weight : "balanced" or None, default "balanced"
    random_state : int, default 0
    """

    def __init__(
        self,
        *,
        hidden_layer_sizes: Sequence[int] = (100,),
        activation: str = "relu",
        alpha: float = 1.0,
        learning_rate_init: float = 0.003,
        max_iter: int = 2000,
        class_weight: str | None = "balanced",
        random_state: int = 0,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.class_weight = class_weight
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Perceptron":
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_classes(y)
        values, back, mean, _ = coordinates_of(X)
        factor = np.sqrt(values.size / max((values**2).sum(), np.finfo(float).tiny))
        network = MLPClassifier(
            hidden_layer_sizes=tuple(self.hidden_layer_sizes),
            activation=self.activation,
            alpha=self.alpha,
            learning_rate_init=self.learning_rate_init,
            max_iter=self.max_iter,
            random_state=self.random_state,
        )
        weight = compute_sample_weight(self.class_weight, y) if self.class_weight else None
        network.fit(values * factor, y, sample_weight=weight)
        self.n_features_in_, self.classes_ = X.shape[1], network.classes_
        first = back(network.coefs_[0].T * factor).T
        shift = network.intercepts_[0] - mean @ first
        network.coefs_ = [first, *network.coefs_[1:]]
        network.intercepts_ = [shift, *network.intercepts_[1:]]
        network.n_features_in_ = X.shape[1]
        if X.dtype == np.float32:
            network.coefs_ = [layer.astype(np.float32) for layer in network.coefs_]
        self.network_ = network
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the network's output, shape (n_samples, n_classes)."""
        check_is_fitted(self, "network_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        return self.network_.predict_proba(X)

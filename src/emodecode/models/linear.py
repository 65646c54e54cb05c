"""Linear decoders for any number of voxels, and their weights in units of the input."""

from collections.abc import Callable

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import InputError
from emodecode.features.scale import check_width
from emodecode.models.gram import GramCoordinates
from emodecode.models.lda import ShrunkLda

_ROWS = 256
_HESSIAN = 1024
"""Largest number of weights for which Newton's method forms their Hessian."""


class LinearByGram(ClassifierMixin, BaseEstimator):
    """Fit a linear classifier in the samples' own dimensions where there are more voxels.

    With more voxels than samples the classifier is fitted on
    :class:`~emodecode.models.gram.GramCoordinates` and its weights go back to the voxels by one
    product; otherwise it is fitted on the centred voxels. Both give the same decoder (ridge,
    logistic regression with L2, linear SVM, :class:`~emodecode.models.lda.ShrunkLda`), so the same
    pipeline serves 300 voxels and 180,000. Centring changes no decoder but the linear SVM's, whose
    penalised intercept would else depend on the scanner's offset.

    Parameters
    ----------
    classifier : estimator
        With `coef_` and `intercept_` after `fit`, unchanged by rotations of the voxels.

    Attributes
    ----------
    coef_ : ndarray of shape (n_classes, n_voxels), or (1, n_voxels) for two classes
    intercept_ : ndarray of shape (n_classes,) or (1,)
    route_ : str
        ``"gram"`` or ``"direct"``.
    """

    def __init__(self, classifier: BaseEstimator) -> None:
        self.classifier = classifier

    def fit(self, X: np.ndarray, y: np.ndarray) -> "LinearByGram":
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        return self.fit_in(X, y, coordinates=coordinates_of(X))

    def fit_in(self, X: np.ndarray, y: np.ndarray, *, coordinates: "Coordinates") -> "LinearByGram":
        """Fit with coordinates that were made from the same `X` before (:func:`coordinates_of`)."""
        check_classes(y)
        values, back, mean, self.route_ = coordinates
        classifier = _with_solver(clone(self.classifier), values, y)
        if isinstance(classifier, ShrunkLda):
            classifier.fit(values, y, n_voxels=X.shape[1])
        else:
            classifier.fit(values, y)
        self.n_features_in_ = X.shape[1]
        self.classes_ = classifier.classes_
        self.coef_ = back(np.atleast_2d(classifier.coef_))
        self.intercept_ = np.atleast_1d(classifier.intercept_) - self.coef_ @ mean
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return ``X coef_' + intercept_``: (n_samples, n_classes), or (n_samples,) for two."""
        check_is_fitted(self, "coef_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        scores = np.empty((len(X), len(self.coef_)))
        for start in range(0, len(X), _ROWS):
            rows = slice(start, start + _ROWS)
            scores[rows] = np.asarray(X[rows], dtype=np.float64) @ self.coef_.T
        scores += self.intercept_
        return scores[:, 0] if len(self.coef_) == 1 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[choose(self.decision_function(X))]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return the softmax of the scores, shape (n_samples, n_classes).

        For logistic regression and LDA these are the model's probabilities. For ridge and SVM they
        only order the samples: they are not calibrated.
        """
        return as_probabilities(self.decision_function(X))


def _with_solver(classifier: BaseEstimator, values: np.ndarray, y: np.ndarray) -> BaseEstimator:
    """Take Newton's method for logistic regression where its Hessian is small.

    On 13,000 samples x 481 voxels it needs .7 s at any penalty, L-BFGS 1 to 40 s.
    """
    if not isinstance(classifier, LogisticRegression):
        return classifier
    n_classes = len(np.unique(y))
    n_weights = values.shape[1] * (1 if n_classes == 2 else n_classes)
    return classifier.set_params(solver="newton-cholesky" if n_weights <= _HESSIAN else "lbfgs")


Coordinates = tuple[np.ndarray, Callable[[np.ndarray], np.ndarray], np.ndarray, str]
"""Samples in coordinates, the way of weights back to voxels, the voxels' mean, the route."""


def coordinates_of(X: np.ndarray) -> Coordinates:
    """Return the Gram coordinates of `X` if it has more columns than rows, else `X` centred."""
    if X.shape[1] > len(X):
        gram = GramCoordinates()
        return gram.fit_transform(X), gram.to_voxels, gram.mean_, "gram"
    mean = X.mean(axis=0, dtype=np.float64)
    return X - mean, np.array, mean, "direct"


def linear_weights(pipeline: Pipeline) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights of a fitted linear pipeline for the voxels as they come in.

    ::

        decision = X coef' + intercept

    Parameters
    ----------
    pipeline : Pipeline
        Fitted; its last step is a :class:`LinearByGram`, the others have ``weights_to_input``.

    Returns
    -------
    coef : ndarray of shape (n_classes, n_voxels_in), or (1, n_voxels_in) for two classes
        0 for voxels that were not selected. With two classes positive means the second one.
    intercept : ndarray of shape (n_classes,) or (1,)

    Raises
    ------
    InputError
        A model that is not linear.
    """
    *front, last = (step for _, step in pipeline.steps)
    front = [step for step in front if step is not None and not isinstance(step, str)]
    unable = [step for step in front if not hasattr(step, "weights_to_input")]
    if not isinstance(last, LinearByGram) or unable:
        blocking = type(unable[0] if unable else last).__name__
        raise InputError(
            "linear weights",
            found=f"a decoder with a step that has no linear weights ({blocking})",
            expected="logistic, ridge, linear_svm or lda",
            remedy="Use occlusion to see what other models use.",
        )
    coef, intercept = last.coef_, last.intercept_
    for step in reversed(front):
        coef, intercept = step.weights_to_input(coef, intercept)
    return coef, intercept


def check_classes(y: np.ndarray) -> None:
    """Refuse training labels of a single class."""
    classes = np.unique(y)
    if len(classes) < 2:
        raise InputError(
            "training samples",
            found=f"{len(y)} samples, all labelled {classes[0]!s}",
            expected="at least two classes",
            remedy="Choose another split, or merge or drop classes (labels.keep, labels.merge).",
        )


def choose(scores: np.ndarray) -> np.ndarray:
    """Return the index of the winning class from decision scores."""
    return (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)


def as_probabilities(scores: np.ndarray) -> np.ndarray:
    """Return the softmax of decision scores; one column of scores is the second class's lead."""
    if scores.ndim == 1:
        return np.column_stack([expit(-scores), expit(scores)])
    return softmax(scores, axis=1)

"""The classical decoders by name: how each is made, its parameters and its grid."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import LinearSVC

from emodecode.errors import InputError
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TakeColumns, TopVoxels
from emodecode.models.lda import ShrunkLda
from emodecode.models.linear import LinearByGram, coordinates_of
from emodecode.models.networks import NETWORK_KINDS, VOLUME_KINDS
from emodecode.models.parameters import what_is_expected
from emodecode.models.perceptron import Perceptron
from emodecode.models.rbf import RbfSvm
from emodecode.models.rows import Rows
from emodecode.models.steps import fit_step, fit_transform_step, is_step
from emodecode.models.trees import BoostedTrees

Step = tuple[str, BaseEstimator]
"""Name and estimator, as in ``Pipeline.steps``."""


@dataclass(frozen=True)
class Kind:
    """One kind of decoder.

    Parameters
    ----------
    description : str
    make : callable
        Keyword parameters -> classifier.
    defaults : dict
        Every parameter that can be set, with its default.
    grid : dict
        Parameter -> values for the choice in inner folds (:func:`make_grid`).
    is_linear : bool
        Has weights (:func:`emodecode.models.linear.linear_weights`).
    is_scaled : bool
        Depends on the voxels' scale.
    reads_volumes : bool
        Puts the voxels back into volumes: takes all of a mask, and scales them itself.
    """

    description: str
    make: Callable[..., BaseEstimator]
    defaults: dict[str, Any]
    grid: dict[str, list[Any]]
    is_linear: bool = False
    is_scaled: bool = True
    reads_volumes: bool = False


def _linear(estimator: Callable[..., BaseEstimator]) -> Callable[..., BaseEstimator]:
    def make(**params: Any) -> BaseEstimator:
        params.pop("random_state", None)
        return LinearByGram(estimator(**params))

    return make


def _linear_svm(**params: Any) -> BaseEstimator:
    return LinearByGram(LinearSVC(dual=False, **params))


def _seedless(estimator: Callable[..., BaseEstimator]) -> Callable[..., BaseEstimator]:
    def make(**params: Any) -> BaseEstimator:
        params.pop("random_state", None)
        return estimator(**params)

    return make


_BALANCED = {"class_weight": "balanced"}

KINDS: dict[str, Kind] = {
    "logistic": Kind(
        "multinomial logistic regression with an L2 penalty (exact at any number of voxels)",
        _linear(LogisticRegression),
        {"C": 1e-2, "max_iter": 2000, "tol": 1e-5} | _BALANCED,
        {"C": [1e-6, 1e-4, 1e-2, 1.0]},
        is_linear=True,
    ),
    "ridge": Kind(
        "ridge regression on class indicators (exact at any number of voxels)",
        _linear(RidgeClassifier),
        {"alpha": 1e3} | _BALANCED,
        {"alpha": [1.0, 1e2, 1e4, 1e6]},
        is_linear=True,
    ),
    "linear_svm": Kind(
        "linear support vector machine, one class against the rest, squared hinge loss "
        "(exact at any number of voxels)",
        _linear_svm,
        {"C": 1e-3, "max_iter": 5000, "tol": 1e-5} | _BALANCED,
        {"C": [1e-7, 1e-5, 1e-3, 1e-1]},
        is_linear=True,
    ),
    "rbf_svm": Kind(
        "support vector machine with a Gaussian kernel (exact at any number of voxels)",
        _seedless(RbfSvm),
        {"C": 1.0, "gamma": "scale"} | _BALANCED,
        {"C": [0.1, 1.0, 10.0]},
    ),
    "lda": Kind(
        "linear discriminant analysis with isotropic shrinkage (exact at any number of voxels)",
        _linear(ShrunkLda),
        {"shrinkage": "auto"} | _BALANCED,
        {"shrinkage": ["auto", 0.1, 0.5, 0.9]},
        is_linear=True,
    ),
    "random_forest": Kind(
        "random forest on all voxels",
        RandomForestClassifier,
        {
            "n_estimators": 200,
            "max_depth": None,
            "min_samples_leaf": 1,
            "max_features": "sqrt",
            "n_jobs": 1,
        }
        | _BALANCED,
        {"min_samples_leaf": [1, 5]},
        is_scaled=False,
    ),
    "boosted_trees": Kind(
        "gradient-boosted trees (xgboost, histograms) on at most max_voxels voxels, "
        "chosen by ANOVA inside the fold",
        BoostedTrees,
        {
            "n_estimators": 100,
            "max_depth": 3,
            "learning_rate": 0.1,
            "reg_lambda": 1.0,
            "subsample": 1.0,
            "colsample_bynode": 0.3,
            "max_bin": 64,
            "max_voxels": 5000,
            "n_jobs": 1,
        }
        | _BALANCED,
        {"max_depth": [2, 4], "learning_rate": [0.05, 0.2]},
        is_scaled=False,
    ),
    "mlp": Kind(
        "multi-layer perceptron, trained in the samples' own dimensions",
        Perceptron,
        {
            "hidden_layer_sizes": (100,),
            "activation": "relu",
            "alpha": 1.0,
            "learning_rate_init": 3e-3,
            "max_iter": 2000,
        }
        | _BALANCED,
        {"alpha": [1e-2, 1.0, 100.0]},
    ),
    "dummy": Kind(
        "no decoder: predicts the most frequent training class, with the classes' shares as "
        "probabilities",
        DummyClassifier,
        {"strategy": "prior"},
        {},
        is_scaled=False,
    ),
}
KINDS |= {name: Kind(*parts) for name, parts in NETWORK_KINDS.items()}
KINDS |= {
    name: Kind(*parts, is_scaled=False, reads_volumes=True) for name, parts in VOLUME_KINDS.items()
}
"""Kind of decoder -> how it is made."""


def make_model(kind: str, *, params: dict[str, Any] | None = None, seed: int = 0) -> BaseEstimator:
    """Return an unfitted classifier (`fit`, `predict`, `predict_proba`, `classes_`).

    Parameters
    ----------
    kind : str
        A key of :data:`KINDS`.
    params : dict, optional
        Replace ``KINDS[kind].defaults``; ``class_weight = "none"`` turns the balancing off.
    seed : int
        `random_state` of the kinds that have one.

    Raises
    ------
    InputError
        Unknown kind or parameter (the nearest known one is named), or a value out of range.
    """
    known = kind_of(kind).defaults
    for name, value in (params or {}).items():
        if name not in known:
            raise InputError(
                f"model {kind}",
                found=f"unknown parameter {name!r}",
                expected=f"one of {', '.join(known)}",
                remedy=_nearest(name, known),
            )
        _check_value(kind, name, value)
    chosen = known | (params or {})
    chosen = {name: None if value == "none" else value for name, value in chosen.items()}
    return KINDS[kind].make(**chosen, random_state=seed)


def make_pipeline_for(
    kind: str,
    *,
    params: dict[str, Any] | None = None,
    n_voxels: int | None = None,
    select_by: str = "group",
    scale: bool = True,
    columns: Sequence[int] | None = None,
    mask: np.ndarray | None = None,
    seed: int = 0,
) -> Pipeline:
    """Return the unfitted pipeline of a decoder: everything that a fold has to learn anew.

    Its steps are, where asked for, ``columns`` (named columns of a table), ``select``
    (:class:`TopVoxels`), ``scale`` (:class:`VoxelScaler`) and ``classifier``. With more voxels than
    samples the linear kinds, the SVMs and the perceptron take the Gram route by themselves.

    Parameters
    ----------
    kind, params, seed
        See :func:`make_model`.
    n_voxels : int, optional
        Voxels to select by ANOVA; ``None``: all.
    select_by : {"group", "subject"}, default "group"
        With ``"subject"`` the pipeline asks for ``subjects`` at `fit` (metadata routing on).
    scale : bool, default True
        Standardise each voxel by the training samples; left out for trees and the dummy, which do
        not depend on it.
    columns : sequence of int, optional
        Use only these columns.
    mask : ndarray of bool, shape (x, y, z), optional
        Of a kind that reads volumes: it is one step, which takes all voxels of the mask and
        standardises them itself unless `scale` is False or its parameter ``normalise`` says else.

    Raises
    ------
    InputError
        Whatever :func:`make_model` finds.
    """
    if kind_of(kind).reads_volumes:
        return _volume_pipeline(kind, params or {}, mask, scale, seed)
    classifier = make_model(kind, params=params, seed=seed)
    steps: list[tuple[str, BaseEstimator]] = []
    if columns is not None:
        steps.append(("columns", TakeColumns(tuple(int(column) for column in columns))))
    if n_voxels is not None:
        select = TopVoxels(n_voxels, by=select_by)
        with sklearn.config_context(enable_metadata_routing=True):
            select.set_fit_request(subjects=select_by == "subject")
        steps.append(("select", select))
    if scale and KINDS[kind].is_scaled:
        steps.append(("scale", VoxelScaler()))
    if kind in NETWORK_KINDS:
        with sklearn.config_context(enable_metadata_routing=True):
            classifier.set_fit_request(subjects=True, parts=True)
    return Pipeline([*steps, ("classifier", classifier)])


def _volume_pipeline(
    kind: str, params: dict[str, Any], mask: np.ndarray | None, scale: bool, seed: int
) -> Pipeline:
    own = params if scale else {"normalise": None} | params
    classifier: Any = make_model(kind, params=own, seed=seed).set_params(mask=mask)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier.set_fit_request(subjects=True, parts=True, moments=True, votes=True)
        classifier.set_predict_proba_request(moments=True)
    return Pipeline([("classifier", classifier)])


def make_grid(
    kind: str,
    grid: dict[str, list[Any]] | None = None,
    *,
    pipeline: Pipeline | None = None,
) -> dict[str, list[Any]]:
    """Return a grid under the names of the pipeline's parameters (for ``set_params``).

    Parameters
    ----------
    kind : str
    grid : dict, optional
        Parameter of the kind, or ``n_voxels``, -> values; empty or None: ``KINDS[kind].grid``.
    pipeline : Pipeline, optional
        From :func:`make_pipeline_for`, to check that it has a selection where `grid` tunes one.

    Raises
    ------
    InputError
        An unknown parameter, a value out of range, or ``n_voxels`` without a selection.
    """
    prefix = "classifier__classifier__" if kind_of(kind).is_linear else "classifier__"
    named = {}
    for name, values in (grid or KINDS[kind].grid).items():
        if not isinstance(values, list | tuple) or not values:
            raise _bad_value(kind, f"grid.{name}", values, "a list of values")
        if name == "n_voxels":
            if pipeline is not None and "select" not in pipeline.named_steps:
                raise _bad_value(kind, "grid.n_voxels", values, "n_voxels for the model as well")
            for value in values:
                _check_value(kind, name, value)
            named["select__n_voxels"] = list(values)
            continue
        for value in values:
            make_model(kind, params={name: value})
        named[prefix + name] = [None if value == "none" else value for value in values]
    return named


def fit_points(
    pipeline: Pipeline,
    points: Sequence[dict[str, Any]],
    X: np.ndarray,
    y: np.ndarray,
    *,
    subjects: np.ndarray | None = None,
) -> list[Pipeline]:
    """Fit one pipeline at several points of a grid, sharing what does not depend on the point.

    Selection and scaling are fitted once for all points that agree on them, and the Gram
    coordinates (the expensive part on whole volumes) once for all penalties. Each returned
    pipeline equals ``clone(pipeline).set_params(**point).fit(X, y)``; steps before the classifier
    may be shared between them.

    Parameters
    ----------
    pipeline : Pipeline
    points : sequence of dict
        Pipeline parameter -> value (:func:`make_grid` names them).
    subjects : ndarray, optional
        Handed to the steps that ask for it.
    """

    def fit_front(front: Sequence[Step]) -> np.ndarray:
        return _fit_front(front, X, y, subjects)

    return fit_points_through(pipeline, points, y, fit_front=fit_front, subjects=subjects)


def fit_points_through(
    pipeline: Pipeline,
    points: Sequence[dict[str, Any]],
    y: np.ndarray,
    *,
    fit_front: "Callable[[Sequence[Step]], np.ndarray | Rows]",
    subjects: np.ndarray | None = None,
    told: Callable[[str, BaseEstimator, Any], Any] | None = None,
    more: Callable[[Sequence[Step], BaseEstimator], dict[str, Any]] | None = None,
) -> list[Pipeline]:
    """Do as :func:`fit_points`, with the steps before the classifier fitted by the caller.

    Parameters
    ----------
    pipeline, points, subjects
        See :func:`fit_points`.
    y : ndarray
        Labels of the rows that `fit_front` returns.
    fit_front : callable
        ``[(name, step), ...] -> values``: fits the steps in place and returns what the classifier
        is fitted on. Called once for the points that agree on these steps.
    told : callable, optional
        ``(name, classifier, values)``, called before each fit of the classifier.
    more : callable, optional
        ``(fitted steps before the classifier, classifier) -> more keyword arguments of its fit``.
    """
    last = pipeline.steps[-1][0]
    shared: dict[str, tuple[list, Any, Any]] = {}
    fitted = []
    for point in points:
        front, classifier = _split_steps(clone(pipeline).set_params(**point))
        key = repr(sorted((k, v) for k, v in point.items() if not k.startswith(f"{last}__")))
        if key not in shared:
            values = fit_front(front)
            linear = isinstance(classifier, LinearByGram)
            shared[key] = (front, values, coordinates_of(_plain(values)) if linear else None)
        front, values, coordinates = shared[key]
        if told is not None:
            told(last, classifier, values)
        if coordinates is None:
            extra = {} if more is None else more(front, classifier)
            fit_step(classifier, _plain(values), y, subjects, **extra)
        else:
            classifier.fit_in(_plain(values), y, coordinates=coordinates)
        fitted.append(Pipeline([*front, (last, classifier)]))
    return fitted


def _plain(values: Any) -> Any:
    return values if isinstance(values, Rows) else np.asarray(values)


def kind_of(kind: str) -> Kind:
    """Return ``KINDS[kind]``, or name the nearest known kind."""
    if kind not in KINDS:
        raise InputError(
            f"model kind {kind!r}",
            found="no decoder of that kind",
            expected=f"one of {', '.join(KINDS)}",
            remedy=_nearest(kind, KINDS),
        )
    return KINDS[kind]


def _split_steps(pipeline: Pipeline) -> tuple[list, BaseEstimator]:
    return pipeline.steps[:-1], pipeline.steps[-1][1]


def _fit_front(front: Sequence[Step], X: np.ndarray, y: np.ndarray, subjects) -> np.ndarray:
    for _, step in front:
        X = fit_transform_step(step, X, y, subjects) if is_step(step) else X
    return X


def _nearest(name: str, known: dict[str, Any]) -> str:
    lower = {key.lower(): key for key in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=1, cutoff=0.4)
    near = [lower[key] for key in near]
    return f"Did you mean {near[0]!r}?" if near else "See docs/study.md for what can be set."


def _check_value(kind: str, name: str, value: Any) -> None:
    expected = what_is_expected(name, value)
    if expected is not None:
        raise _bad_value(kind, name, value, expected)


def _bad_value(kind: str, name: str, value: Any, expected: str) -> InputError:
    return InputError(
        f"model {kind}",
        found=f"{name} = {value!r}",
        expected=expected,
        remedy=f"Correct {name} in the study.",
    )

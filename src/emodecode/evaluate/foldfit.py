"""Fit one model in one fold: its steps one by one, each of them recorded in the ledger."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.metrics import log_loss, recall_score
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline

from emodecode.errors import InputError
from emodecode.evaluate.alignfold import ALIGN, AlignedFold
from emodecode.evaluate.alignment import Alignment
from emodecode.evaluate.calibration import fit_temperature
from emodecode.evaluate.fold import Split
from emodecode.evaluate.given import Given, asked_to_fit, asked_to_read, given_of
from emodecode.evaluate.inner import inner_splits
from emodecode.evaluate.ledger import Ledger
from emodecode.models.catalogue import fit_points_through
from emodecode.models.rows import Rows
from emodecode.models.steps import fit_step, fit_transform_step, is_step, reads_rows


@dataclass(frozen=True)
class Candidate:
    """One model to be scored.

    Parameters
    ----------
    name : str
        How it is called in the results.
    pipeline : Pipeline
        Unfitted; cloned for every fold.
    grid : dict
        Pipeline parameter -> values for the choice in inner folds; empty: nothing is tuned.
    fit_on_all : tuple of str
        Steps fitted on all samples, test samples and their labels included, as some published
        analyses did. A leak: the ledger records it and the audit finds it.
    calibrate : bool
        Scale the probabilities by a temperature fitted in inner folds of the training rows.
    alignment : Alignment, optional
        What the pipeline's step ``align`` is fitted on; needed if there is one.
    choose_epoch_on_test : bool
        Let a network choose its epoch on the test samples, as S2 did. A leak: the ledger says so.

    Raises
    ------
    InputError
        `fit_on_all` names no step before the classifier.
    """

    name: str
    pipeline: Pipeline
    grid: dict[str, list[Any]] = field(default_factory=dict)
    fit_on_all: tuple[str, ...] = ()
    calibrate: bool = False
    alignment: Alignment | None = None
    choose_epoch_on_test: bool = False

    def __post_init__(self) -> None:
        if self.alignment is not None and ALIGN not in self.pipeline.named_steps:
            raise InputError(
                f"model {self.name}",
                found=f"alignment data, and no step {ALIGN!r} in the pipeline",
                expected="a step that is fitted on them (emodecode.align.space.CommonSpace)",
                remedy="Add the step, or pass no alignment.",
            )
        known = [name for name, _ in self.pipeline.steps[:-1]]
        unknown = [name for name in self.fit_on_all if name not in known]
        if unknown:
            raise InputError(
                f"model {self.name}",
                found=f"fit_on_all = {', '.join(unknown)}",
                expected=f"steps before the classifier ({', '.join(known) or 'it has none'})",
                remedy="Leave it out: every step is then fitted on the training rows.",
            )


@dataclass(frozen=True)
class Tuning:
    """How hyper-parameters are chosen inside the training rows of a fold."""

    n_folds: int = 3
    metric: str = "balanced_accuracy"
    gap_s: float = 30.0


def fit_fold(
    pipeline: Pipeline,
    X: np.ndarray,
    y: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    *,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    gap_s: float = 30.0,
    fit_on_all: Sequence[str] = (),
    fold: AlignedFold | None = None,
    judged_on: np.ndarray | None = None,
    ledger: Ledger | None = None,
) -> Pipeline:
    """Clone the pipeline, seed it and fit it on `rows`; subject-aware steps get the subjects.

    Parameters
    ----------
    pipeline : Pipeline
    X : ndarray of shape (n_samples, n_voxels)
        Of all samples; a memory map stays on disk but for `rows`.
    y : ndarray of shape (n_samples,)
    table : DataFrame
        Its subjects, and what else the pipeline's steps ask for.
    rows : ndarray of int
        Training rows.
    params : dict, optional
        Pipeline parameter -> value.
    seed : int
        Every ``random_state``.
    gap_s : float
        Between the scenes that a network is trained on and those that its epoch is chosen on.
    fit_on_all : sequence of str
        See `Candidate`.
    fold : AlignedFold, optional
        Alignment data as this fold may use them.
    judged_on : ndarray of int, optional
        Rows that a network chooses its epoch on, instead of training subjects: S2 took the test
        rows. The ledger records them.
    ledger : Ledger, optional
        Told what each step's fit is handed.
    """
    given, ledger = given_of(X, y, table, as_rows=reads_rows(pipeline)), ledger or Ledger()
    pipeline = _seeded(pipeline, seed)
    asked = partial(asked_to_fit, gap_s=gap_s, seed=seed)
    judged = None
    if judged_on is not None:
        judged = partial(_validation, given=given.take(judged_on), fold=fold, ledger=ledger)
    return _fit_points(
        pipeline, [params or {}], given, rows, fit_on_all, ledger, fold, asked, judged
    )[0]


def predict_rows(
    fitted: Pipeline,
    X: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    *,
    classes: tuple[str, ...],
    where: str = "decoder",
) -> np.ndarray:
    """Return class probabilities ``(n_rows, n_classes)`` in the order of `classes`."""
    return _predict(fitted, _given_rows(fitted, X, table, rows), classes, where)


def predict_members_of(
    fitted: Pipeline, X: np.ndarray, table: pd.DataFrame, rows: np.ndarray
) -> np.ndarray | None:
    """Return each seed's probabilities ``(n_members, n_rows, n_classes)``, of trained networks.

    None for decoders that are not several networks.
    """
    classifier = fitted.steps[-1][1]
    if len(getattr(classifier, "modules_", [])) < 2:
        return None
    given = _given_rows(fitted, X, table, rows)
    for _, step in fitted.steps[:-1]:
        given = given.through(step) if is_step(step) else given
    asked = asked_to_read(classifier, given.table, "predict_proba")
    return classifier.predict_members(given.plain, **asked)


def tune_fold(
    candidate: Candidate,
    X: np.ndarray,
    y: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    *,
    tuning: Tuning,
    seed: int = 0,
    fold: AlignedFold | None = None,
    ledger: Ledger | None = None,
) -> tuple[dict[str, Any], float | None]:
    """Choose parameters and temperature in inner folds of the training rows.

    Returns
    -------
    params : dict
        The grid's point with the best mean over the inner folds, the first of equals; empty for a
        candidate without a grid.
    temperature : float or None
        Fitted to the inner test samples of all inner folds, predicted at that point; None where
        the candidate is not to be calibrated.
    """
    if not candidate.grid and not candidate.calibrate:
        return {}, None
    inner = inner_splits(table, rows, n_folds=tuning.n_folds, gap_s=tuning.gap_s, seed=seed)
    points = list(ParameterGrid(candidate.grid))
    classes = tuple(sorted(set(y[rows])))
    own, given = Ledger(), given_of(X, y, table, as_rows=reads_rows(candidate.pipeline))
    asked = partial(asked_to_fit, gap_s=tuning.gap_s, seed=seed)
    judged, predictions = [], []
    folds = ((each, None, each.test) for each in inner) if fold is None else fold.inner_folds(inner)
    for split, own_fold, rows_judged in folds:
        judged.append(y[rows_judged])
        predictions.append(
            _predict_inner(
                candidate, given, split, rows_judged, points, classes, seed, own, own_fold, asked
            )
        )
    ledger = ledger or Ledger()
    values = np.array(
        [
            [_inner_value(truth, each, classes, tuning.metric) for each in found]
            for truth, found in zip(judged, predictions, strict=True)
        ]
    )
    best = int(values.mean(axis=0).argmax())
    if candidate.grid:
        ledger.saw("tuning", "tuning", own.rows(), fresh=own.is_fresh())
    if not candidate.calibrate:
        return points[best], None
    ledger.saw("temperature", "calibration", own.rows(), fresh=own.is_fresh())
    pooled = np.concatenate([found[best] for found in predictions])
    return points[best], fit_temperature(pooled, np.concatenate(judged), classes=classes)


def adapt_fold(
    fitted: Pipeline,
    X: np.ndarray,
    y: np.ndarray,
    table: pd.DataFrame,
    split: Split,
    *,
    fold: AlignedFold | None = None,
    ledger: Ledger | None = None,
) -> Pipeline:
    """Adapt the steps that can to the tested subjects, in order.

    The alignment step is adapted to its own data (`AlignedFold`), others to the fold's calibration
    rows.
    """
    if not any(hasattr(step, "adapt") for _, step in fitted.steps):
        return fitted
    ledger = ledger or Ledger()
    steps: list[tuple[str, Any]] = []
    given = given_of(X, y, table).take(split.calibrate)
    tested = table["subject"].to_numpy(dtype=str)[split.test]
    for name, step in fitted.steps:
        if name == ALIGN and fold is not None:
            step = fold.adapt(step, [each for _, each in steps if is_step(each)], tested, ledger)
        elif hasattr(step, "adapt") and len(split.calibrate):
            step = _adapt_step(name, step, given, ledger)
        steps.append((name, step))
        if len(split.calibrate) and is_step(step) and hasattr(step, "transform"):
            given = given.through(step)
    return Pipeline(steps)


def _seeded(pipeline: Pipeline, seed: int) -> Pipeline:
    names = [name for name in pipeline.get_params() if name.split("__")[-1] == "random_state"]
    return clone(pipeline).set_params(**dict.fromkeys(names, seed))


def _fit_points(
    pipeline: Pipeline,
    points: Sequence[dict[str, Any]],
    given: Given,
    rows: np.ndarray,
    fit_on_all: Sequence[str],
    ledger: Ledger,
    fold: AlignedFold | None,
    asked: Callable[..., dict[str, Any]],
    judged: Callable[..., dict[str, Any]] | None = None,
) -> list[Pipeline]:
    """Fit the pipeline on `rows` at each point of the grid, what they share only once."""

    def more(
        front: Sequence[tuple[str, BaseEstimator]], classifier: BaseEstimator
    ) -> dict[str, Any]:
        found = asked(classifier, given.y[rows], given.table.iloc[rows])
        return found if judged is None else found | judged(front, classifier)

    with sklearn.config_context(enable_metadata_routing=True):
        return fit_points_through(
            pipeline,
            points,
            given.y[rows],
            fit_front=partial(
                _fit_front, given=given, rows=rows, fit_on_all=fit_on_all, ledger=ledger, fold=fold
            ),
            subjects=given.subjects[rows],
            told=ledger.fit,
            more=more,
        )


def _validation(
    front: Sequence[tuple[str, BaseEstimator]],
    classifier: BaseEstimator,
    *,
    given: Given,
    fold: AlignedFold | None,
    ledger: Ledger,
) -> dict[str, Any]:
    """Samples that a network is judged on while it trains, through the steps before it."""
    done: list[BaseEstimator] = []
    for name, step in front:
        if not is_step(step):
            continue
        if name == ALIGN and fold is not None:
            step = fold.adapt(step, done, given.subjects, ledger)
        given = given.through(step)
        done.append(step)
    ledger.saw("best epoch", "early_stopping", given.X)
    moments = asked_to_read(classifier, given.table, "fit").values()
    return {"validation": (given.plain, given.y, *moments)}


def _fit_front(
    steps: Sequence[tuple[str, BaseEstimator]],
    *,
    given: Given,
    rows: np.ndarray,
    fit_on_all: Sequence[str],
    ledger: Ledger,
    fold: AlignedFold | None,
) -> "np.ndarray | Rows":
    """Fit the steps before the classifier; up to the last one on all, all samples go through."""
    steps = [(name, step) for name, step in steps if is_step(step)]
    whole = max((k for k, (name, _) in enumerate(steps, start=1) if name in fit_on_all), default=0)
    front: list[BaseEstimator] = []
    for name, step in steps[:whole]:
        own = given if name in fit_on_all else given.take(rows)
        if name == ALIGN and fold is not None:
            own_fold = fold.on_all() if name in fit_on_all else fold
            own_fold.fit(step, front, own.subjects, ledger)
        else:
            fit_step(step, ledger.fit(name, step, own.X), own.y, own.subjects)
        given = given.through(step)
        front.append(step)
    given = given.take(rows)
    for name, step in steps[whole:]:
        if name == ALIGN and fold is not None:
            fold.fit(step, front, given.subjects, ledger)
            given = given.through(step)
        else:
            X = ledger.fit(name, step, given.X)
            given = given.carrying(fit_transform_step(step, X, given.y, given.subjects))
        front.append(step)
    return given.X


def _predict_inner(
    candidate: Candidate,
    given: Given,
    split: Split,
    judged: np.ndarray,
    points: Sequence[dict[str, Any]],
    classes: tuple[str, ...],
    seed: int,
    ledger: Ledger,
    fold: AlignedFold | None,
    asked: Callable[..., dict[str, Any]],
) -> list[np.ndarray]:
    pipeline = _seeded(candidate.pipeline, seed)
    fitted = _fit_points(
        pipeline, points, given, split.train, candidate.fit_on_all, ledger, fold, asked
    )
    held_out = given.take(judged)
    if fold is not None:
        fitted = _aligned_to(fitted, fold, held_out.subjects, ledger)
    ledger.saw("choice", "tuning", held_out.X)
    return [_predict(each, held_out, classes, candidate.name) for each in fitted]


def _labels(table: pd.DataFrame) -> np.ndarray:
    return table["label"].to_numpy(dtype=str)


def _given_rows(fitted: Pipeline, X: np.ndarray, table: pd.DataFrame, rows: np.ndarray) -> Given:
    return given_of(X, _labels(table), table, as_rows=reads_rows(fitted)).take(rows)


def _predict(fitted: Pipeline, samples: Given, classes: tuple[str, ...], where: str) -> np.ndarray:
    with sklearn.config_context(enable_metadata_routing=True):
        asked = asked_to_read(fitted.steps[-1][1], samples.table, "predict_proba")
        if fitted.get_metadata_routing().consumes("predict_proba", ["subjects"]):
            asked["subjects"] = samples.subjects
        given = fitted.predict_proba(samples.plain, **asked)
    if not np.isfinite(given).all():
        raise InputError(
            where,
            found=f"{int((~np.isfinite(given)).any(axis=1).sum())} predictions are not finite",
            expected="finite probabilities",
            remedy="Scale the features (features.scale = true) or choose other parameters.",
        )
    probabilities = np.zeros((len(given), len(classes)))
    probabilities[:, [classes.index(str(name)) for name in fitted.classes_]] = given
    return probabilities


def _aligned_to(
    fitted: Sequence[Pipeline], fold: AlignedFold, subjects: np.ndarray, ledger: Ledger
) -> list[Pipeline]:
    """Adapt the alignment step of pipelines that may share it; each step only once."""
    known: dict[int, BaseEstimator] = {}
    adapted = []
    for pipeline in fitted:
        names = [name for name, _ in pipeline.steps]
        place = names.index(ALIGN)
        step = pipeline.steps[place][1]
        if id(step) not in known:
            front = [each for _, each in pipeline.steps[:place] if is_step(each)]
            known[id(step)] = fold.adapt(step, front, subjects, ledger)
        steps = list(pipeline.steps)
        steps[place] = (ALIGN, known[id(step)])
        adapted.append(Pipeline(steps))
    return adapted


def _adapt_step(name: str, step: Any, given: Given, ledger: Ledger) -> Any:
    for subject in dict.fromkeys(given.subjects):
        own = given.take(given.subjects == subject)
        ledger.saw(name, "calibration", own.X)
        step = step.adapt(np.asarray(own.X), own.y, subject)
    return step


def _inner_value(
    truth: np.ndarray, probabilities: np.ndarray, classes: tuple[str, ...], metric: str
) -> float:
    if metric == "log_loss":
        total = probabilities.sum(axis=1, keepdims=True)  # 1 in float32 only, for some models
        return -log_loss(truth, probabilities / total, labels=list(classes))
    predicted = np.asarray(classes)[probabilities.argmax(axis=1)]
    return recall_score(truth, predicted, labels=sorted(set(truth)), average="macro")

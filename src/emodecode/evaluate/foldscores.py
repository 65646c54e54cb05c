"""Scores fold by fold: tables, confusion and ROC of each fold, as S2's paper and supplement have.

The headline scores stay per subject (`emodecode.evaluate.metrics`); these are per fold, over all
samples that the fold tests, of however many subjects.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from emodecode.evaluate.metrics import check_predictions
from emodecode.evaluate.roc import GRID
from emodecode.samples import write_table

FOLD_SCORES = ("balanced_accuracy", "accuracy", "macro_auc", "micro_auc", "log_loss")
CLASS_SCORES = ("precision", "recall", "f1", "auc")
TABLE_1 = ("balanced_accuracy", "macro_auc")
"""Scores that ``table1.tsv`` has, one block of rows each."""


@dataclass(frozen=True, eq=False)
class FoldScores:
    """Every score of every fold of every model.

    Parameters
    ----------
    classes : tuple of str
    folds : DataFrame
        One row per model and fold: ``model fold n_test`` and `FOLD_SCORES`.
    per_class : DataFrame
        One row per model, fold and class: ``model fold class n`` and `CLASS_SCORES`.
    counts : ndarray of shape (n_rows of `folds`, n_classes, n_classes), int
        Confusion matrices; rows are labels, columns predictions.
    """

    classes: tuple[str, ...]
    folds: pd.DataFrame
    per_class: pd.DataFrame
    counts: np.ndarray

    def confusion_of(self, model: str) -> np.ndarray:
        """Return the confusion matrices of a model's folds, (n_folds, n_classes, n_classes)."""
        return self.counts[(self.folds["model"] == model).to_numpy()]

    def wide(self, metric: str) -> pd.DataFrame:
        """Return a score as folds x models: S2's Table 1 without its last rows."""
        names = list(dict.fromkeys(self.folds["fold"]))
        models = list(dict.fromkeys(self.folds["model"]))
        table = self.folds.pivot(index="fold", columns="model", values=metric)
        return table.loc[names, models]


class MeanConfusion(NamedTuple):
    """Confusion over folds, each array (n_classes, n_classes).

    ``counts`` and ``counts_sd``: mean number of samples and its sd; ``shares`` and ``shares_sd``:
    mean share of the row and its sd, over the folds that test the class of the row.
    """

    counts: np.ndarray
    counts_sd: np.ndarray
    shares: np.ndarray
    shares_sd: np.ndarray


class Points(NamedTuple):
    """A ROC curve: rates (n_points,) from (0, 0) to (1, 1), and the area under it."""

    fpr: np.ndarray
    tpr: np.ndarray
    auc: float


def score_folds(predictions: pd.DataFrame, classes: Sequence[str]) -> FoldScores:
    """Score every fold of every model.

    Parameters
    ----------
    predictions : DataFrame
        As for `emodecode.evaluate.metrics.score_predictions`.
    classes : sequence of str
        In the order of the confusion matrices.

    Returns
    -------
    FoldScores
        NaN where there is nothing to score: precision, recall, F1 and AUC of a class that the fold
        does not test; balanced accuracy and AUC of a fold that tests one class only. A class that
        is tested and never predicted has precision 0. Balanced accuracy and macro AUC are means
        over the classes that the fold tests, micro AUC ranks every class's decision of every
        sample. A fold's samples are ranked together: their probabilities come from one model.

    Raises
    ------
    InputError
        As `emodecode.evaluate.metrics.check_predictions`.
    """
    names = tuple(str(name) for name in classes)
    check_predictions(predictions, names)
    rows, class_rows, counts = [], [], []
    for part in _parts(predictions, names):
        matrix = _count(part, len(names))
        scores = _class_scores(part, matrix)
        rows.append({"model": part.model, "fold": part.fold} | _fold_scores(part, matrix, scores))
        class_rows += [
            {"model": part.model, "fold": part.fold, "class": name, "n": int(matrix[c].sum())}
            | {metric: scores[metric][c] for metric in CLASS_SCORES}
            for c, name in enumerate(names)
        ]
        counts.append(matrix)
    return FoldScores(names, pd.DataFrame(rows), pd.DataFrame(class_rows), np.stack(counts))


def average_confusion(counts: np.ndarray) -> MeanConfusion:
    """Average confusion matrices of folds (n_folds, n_classes, n_classes): S2's Table 2.

    The sd has ddof 1; NaN where fewer than two folds are known.
    """
    totals = counts.sum(axis=2, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    return MeanConfusion(*mean_and_sd(counts.astype(float)), *mean_and_sd(shares))


def average_classes(scores: FoldScores) -> pd.DataFrame:
    """Average precision, recall, F1 and AUC of each class over the folds: S2's Table 3.

    Returns
    -------
    DataFrame
        One row per model and class: ``model class n n_folds`` (samples and folds that test it) and
        for each of `CLASS_SCORES` its mean and, as ``NAME_sd``, its sd (ddof 1).
    """
    rows = []
    for (model, name), own in scores.per_class.groupby(["model", "class"], sort=False):
        row = {
            "model": model,
            "class": name,
            "n": int(own["n"].sum()),
            "n_folds": int((own["n"] > 0).sum()),
        }
        for metric in CLASS_SCORES:
            mean, sd = mean_and_sd(own[metric].to_numpy(dtype=float))
            row |= {metric: float(mean), f"{metric}_sd": float(sd)}
        rows.append(row)
    return pd.DataFrame(rows)


def mean_and_sd(values: np.ndarray, *, ddof: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd over folds, the first axis; folds with NaN do not count."""
    known = np.isfinite(values)
    n, filled = known.sum(axis=0), np.where(known, values, 0.0)
    mean = np.where(n > 0, filled.sum(axis=0) / np.maximum(n, 1), np.nan)
    squares = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    return mean, np.where(n > ddof, np.sqrt(squares / np.maximum(n - ddof, 1)), np.nan)


def trace_roc(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Trace the ROC of every class in every fold, one class against the rest: S2's Figure 6.

    Returns
    -------
    dict
        For each model and fold ``per_class`` (class -> `Points`), ``micro`` (every class's decision
        of every sample) and ``macro`` (mean of the classes' curves at the false positive rates of
        `emodecode.evaluate.roc.GRID`; its area is the mean of theirs). None where no curve exists,
        for example for a class that the fold does not test.
    """
    names = tuple(str(name) for name in classes)
    found: dict[str, dict[str, Any]] = {}
    for part in _parts(predictions, names):
        truth = part.label[:, None] == np.arange(len(names))
        curves = [_points(truth[:, c], part.probabilities[:, c]) for c in range(len(names))]
        found.setdefault(part.model, {})[part.fold] = {
            "per_class": dict(zip(names, curves, strict=True)),
            "micro": _points(truth.ravel(), part.probabilities.ravel()),
            "macro": _macro([curve for curve in curves if curve is not None]),
        }
    return found


def write_fold_tables(
    folder: str | os.PathLike, predictions: pd.DataFrame, classes: Sequence[str]
) -> None:
    """Write ``folds.tsv``, ``folds-classes.tsv``, ``folds-confusion.tsv`` and ``table1.tsv``.

    Parameters
    ----------
    folder : path
        There already.
    predictions : DataFrame
        As for `score_folds`.
    classes : sequence of str

    Raises
    ------
    InputError
        As `score_folds`.
    """
    folder, scores = Path(folder), score_folds(predictions, classes)
    write_table(scores.folds, folder / "folds.tsv")
    write_table(scores.per_class, folder / "folds-classes.tsv")
    write_table(_long_confusion(scores), folder / "folds-confusion.tsv")
    write_table(_table_1(scores), folder / "table1.tsv")


def _table_1(scores: FoldScores) -> pd.DataFrame:
    """Folds, then mean, sd (ddof 1) and S2's own sd (ddof 0), for each of `TABLE_1`."""
    blocks = []
    for metric in TABLE_1:
        table = scores.wide(metric)
        values = table.to_numpy(dtype=float)
        mean, sd = mean_and_sd(values)
        whole = np.vstack([values, mean, sd, mean_and_sd(values, ddof=0)[1]])
        block = pd.DataFrame(whole, columns=list(table.columns))
        block.insert(
            0, "fold", [*table.index, "mean", "sd", "sd_population"], allow_duplicates=True
        )
        block.insert(0, "score", metric, allow_duplicates=True)
        blocks.append(block)
    return pd.concat(blocks, ignore_index=True)


def _long_confusion(scores: FoldScores) -> pd.DataFrame:
    k = len(scores.classes)
    keys = scores.folds[["model", "fold"]]
    long = keys.loc[keys.index.repeat(k * k)].reset_index(drop=True)
    return long.assign(
        label=np.tile(np.repeat(scores.classes, k), len(keys)),
        predicted=np.tile(scores.classes, k * len(keys)),
        n=scores.counts.ravel(),
    )


class _Part(NamedTuple):
    """The predictions of one model in one fold; classes as codes."""

    model: str
    fold: str
    label: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def _parts(predictions: pd.DataFrame, names: tuple[str, ...]) -> Iterator[_Part]:
    code = {name: number for number, name in enumerate(names)}
    label = predictions["label"].astype(str).map(code).to_numpy(dtype=np.int64)
    predicted = predictions["predicted"].astype(str).map(code).to_numpy(dtype=np.int64)
    given = predictions[[f"p_{name}" for name in names]].to_numpy(dtype=float)
    keys = [predictions[column].astype(str).to_numpy() for column in ("model", "fold")]
    for (model, fold), rows in pd.Series(np.arange(len(label))).groupby(keys, sort=False):
        own = rows.to_numpy()
        yield _Part(str(model), str(fold), label[own], predicted[own], given[own])


def _count(part: _Part, k: int) -> np.ndarray:
    return np.bincount(part.label * k + part.predicted, minlength=k * k).reshape(k, k)


def _class_scores(part: _Part, matrix: np.ndarray) -> dict[str, np.ndarray]:
    right, support, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    absent = np.where(support > 0, 0.0, np.nan)
    return {
        "precision": absent + right / np.maximum(predicted, 1),
        "recall": absent + right / np.maximum(support, 1),
        "f1": absent + 2 * right / np.maximum(support + predicted, 1),
        "auc": _areas(part.label[:, None] == np.arange(len(matrix)), part.probabilities),
    }


def _fold_scores(
    part: _Part, matrix: np.ndarray, scores: dict[str, np.ndarray]
) -> dict[str, float | int]:
    n, several = len(part.label), (matrix.sum(axis=1) > 0).sum() > 1
    truth = part.label[:, None] == np.arange(len(matrix))
    said = np.clip(part.probabilities[np.arange(n), part.label], np.finfo(float).eps, 1.0)
    micro = _areas(truth.reshape(-1, 1), part.probabilities.reshape(-1, 1))
    return {
        "n_test": n,
        "balanced_accuracy": _known_mean(scores["recall"]) if several else np.nan,
        "accuracy": float(np.trace(matrix) / n),
        "macro_auc": _known_mean(scores["auc"]),
        "micro_auc": float(micro[0]),
        "log_loss": float(-np.log(said).mean()),
    }


def _known_mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _areas(truth: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Area under the ROC of each column by ranks, ties half; NaN without two sides."""
    n_true = truth.sum(axis=0)
    pairs = n_true * (len(truth) - n_true)
    won = np.where(truth, rankdata(given, axis=0), 0.0).sum(axis=0) - n_true * (n_true + 1) / 2
    return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _points(truth: np.ndarray, given: np.ndarray) -> Points | None:
    """Corners of the curve; points on the line between their neighbours are left out."""
    if truth.all() or not truth.any():
        return None
    order = np.argsort(-given, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(given[order])), len(order) - 1)
    hits = np.append(0, np.cumsum(truth[order])[ends])
    alarms = np.append(0, ends + 1) - hits
    right, up = np.diff(alarms), np.diff(hits)
    corner = np.append(np.append(True, right[:-1] * up[1:] != right[1:] * up[:-1]), True)
    tpr, fpr = hits[corner] / hits[-1], alarms[corner] / alarms[-1]
    return Points(fpr, tpr, float(np.trapezoid(tpr, fpr)))


def _macro(curves: list[Points]) -> Points | None:
    if not curves:
        return None
    lines = np.stack([np.interp(GRID, curve.fpr, curve.tpr) for curve in curves])
    return Points(
        np.append(0.0, GRID),
        np.append(0.0, lines.mean(axis=0)),
        float(np.mean([curve.auc for curve in curves])),
    )

"""ROC curves of the predictions: one class against the rest, subject by subject and pooled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emodecode.evaluate.tally import interval_half

GRID = np.linspace(0, 1, 101)
"""False positive rates at which curves are given."""

Curve = tuple[np.ndarray, float]
"""True positive rates on `GRID`, and the area under the curve."""


def roc_curves(
    predictions: pd.DataFrame, classes: Sequence[str], *, widening: float = 1.0
) -> dict[str, Any]:
    """Draw the ROC of every class of every model.

    Parameters
    ----------
    predictions : DataFrame
        As for `emodecode.evaluate.metrics.score_predictions`.
    classes : sequence of str
    widening : float
        Of the intervals (`emodecode.evaluate.units.Units.widening`).

    Returns
    -------
    dict
        For each model ``subjects`` (mean over the subjects for whom the curve exists; within a
        subject the mean over the folds, weighted by their pairs of samples, so that the area is
        the AUC of `emodecode.evaluate.metrics`) and ``pooled`` (all predictions together, which
        compares probabilities of different models). Each has ``per_class``, ``micro`` (every
        class's decision of every sample) and ``macro`` (mean of the classes). A curve is ``tpr``
        at the false positive rates of `GRID` and ``auc``; those over subjects add ``low`` and
        ``high`` of ``tpr`` (95 % t interval) and ``n_subjects``. None where no curve exists.
    """
    names, found = [str(name) for name in classes], {}
    for model, own in predictions.groupby("model", sort=False):
        truth = own["label"].to_numpy(dtype=str)[:, None] == np.array(names)
        given = own[[f"p_{name}" for name in names]].to_numpy(dtype=float)
        subject = own["subject"].to_numpy(dtype=str)
        fold = own["fold"].to_numpy(dtype=str)
        single = [
            _over_folds(
                [
                    (truth[rows], given[rows])
                    for rows in _rows_of(fold, np.flatnonzero(subject == name))
                ]
            )
            for name in np.unique(subject)
        ]
        pooled = _curves(truth, given)
        n = len(names)
        found[str(model)] = {
            "pooled": _named([_plain(curve) for curve in pooled], names),
            "subjects": _named(
                [_over_subjects([c[k] for c in single], widening) for k in range(n + 2)], names
            ),
        }
    return found


def _named(curves: list, names: list[str]) -> dict[str, Any]:
    *per_class, micro, macro = curves
    return {
        "per_class": dict(zip(names, per_class, strict=True)),
        "micro": micro,
        "macro": macro,
    }


def _rows_of(fold: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
    return [rows[fold[rows] == name] for name in np.unique(fold[rows])]


def _over_folds(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[Curve | None]:
    """Mean of each curve over a subject's folds, weighted by pairs of positive and negative."""
    curves = [_curves(truth, given) for truth, given in parts]
    n_classes = parts[0][0].shape[1]
    positive = np.array([truth.sum(axis=0) for truth, _ in parts], dtype=float)
    size = np.array([len(truth) for truth, _ in parts], dtype=float)
    pairs = positive * (size[:, None] - positive)
    found = [_weighted([each[c] for each in curves], pairs[:, c]) for c in range(n_classes)]
    micro = _weighted([each[n_classes] for each in curves], size**2)
    return [*found, micro, _macro(found)]


def _weighted(curves: list[Curve | None], weights: np.ndarray) -> Curve | None:
    there = [(c, w) for c, w in zip(curves, weights, strict=True) if c is not None]
    if not there:
        return None
    share = np.array([w for _, w in there]) / sum(w for _, w in there)
    line = share @ np.stack([c[0] for c, _ in there])
    return line, float(share @ [c[1] for c, _ in there])


def _curves(truth: np.ndarray, given: np.ndarray) -> list[Curve | None]:
    """Curves of the classes, micro and macro: (tpr on the grid, area)."""
    curves = [_curve(truth[:, c], given[:, c]) for c in range(truth.shape[1])]
    return [*curves, _curve(truth.ravel(), given.ravel()), _macro(curves)]


def _macro(curves: list[Curve | None]) -> Curve | None:
    there = [curve for curve in curves if curve is not None]
    if not there:
        return None
    line = np.mean([curve[0] for curve in there], axis=0)
    return line, float(np.mean([curve[1] for curve in there]))


def _curve(truth: np.ndarray, given: np.ndarray) -> Curve | None:
    if truth.all() or not truth.any():
        return None
    order = np.argsort(-given, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(given[order])), len(order) - 1)
    hits = np.cumsum(truth[order])[ends]
    tpr = np.append(0.0, hits / hits[-1])
    fpr = np.append(0.0, (ends + 1 - hits) / (len(order) - hits[-1]))
    line = np.interp(GRID, fpr, tpr)
    line[0] = 0.0
    return line, float(np.trapezoid(tpr, fpr))


def _plain(curve: Curve | None) -> dict[str, Any] | None:
    return None if curve is None else {"tpr": curve[0].tolist(), "auc": curve[1]}


def _over_subjects(curves: list[Curve | None], widening: float) -> dict[str, Any] | None:
    there = [curve for curve in curves if curve is not None]
    if not there:
        return None
    lines = np.stack([curve[0] for curve in there])
    mean, n = lines.mean(axis=0), len(there)
    half = interval_half(lines, widening=widening)
    return {
        "tpr": mean.tolist(),
        "low": None if half is None else np.maximum(0, mean - half).tolist(),
        "high": None if half is None else np.minimum(1, mean + half).tolist(),
        "auc": float(np.mean([curve[1] for curve in there])),
        "n_subjects": n,
    }

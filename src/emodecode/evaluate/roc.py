"""ROC curves of the predictions: one class against the rest, pooled and subject by subject."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emodecode.evaluate.tally import summarise

GRID = np.linspace(0, 1, 101)
"""False positive rates at which curves are given."""


def roc_curves(predictions: pd.DataFrame, classes: Sequence[str]) -> dict[str, Any]:
    """Draw the ROC of every class of every model.

    Parameters
    ----------
    predictions : DataFrame
        As for `emodecode.evaluate.metrics.score_predictions`.
    classes : sequence of str

    Returns
    -------
    dict
        For each model ``pooled`` (all predictions together) and ``subjects`` (mean over the
        subjects for whom the curve exists); each with ``per_class``, ``micro`` (every class's
        decision of every sample) and ``macro`` (mean of the classes). A curve is ``tpr`` at the
        false positive rates of `GRID` and ``auc``; those over subjects add ``low`` and ``high`` of
        ``tpr`` (95 % t interval) and ``n_subjects``. None where no curve exists.
    """
    names, found = [str(name) for name in classes], {}
    for model, own in predictions.groupby("model", sort=False):
        truth = own["label"].to_numpy(dtype=str)[:, None] == np.array(names)
        given = own[[f"p_{name}" for name in names]].to_numpy(dtype=float)
        subject = own["subject"].to_numpy(dtype=str)
        single = [
            _curves(truth[subject == name], given[subject == name]) for name in np.unique(subject)
        ]
        pooled = _curves(truth, given)
        n = len(names)
        found[str(model)] = {
            "pooled": _named([_plain(curve) for curve in pooled], names),
            "subjects": _named(
                [_over_subjects([c[k] for c in single]) for k in range(n + 2)], names
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


def _curves(truth: np.ndarray, given: np.ndarray) -> list[tuple[np.ndarray, float] | None]:
    """Curves of the classes, micro and macro: (tpr on the grid, area)."""
    curves = [_curve(truth[:, c], given[:, c]) for c in range(truth.shape[1])]
    there = [curve for curve in curves if curve is not None]
    micro = _curve(truth.ravel(), given.ravel())
    if not there:
        return [*curves, micro, None]
    macro = np.mean([curve[0] for curve in there], axis=0)
    return [*curves, micro, (macro, float(np.mean([curve[1] for curve in there])))]


def _curve(truth: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, float] | None:
    from sklearn.metrics import auc, roc_curve

    if truth.all() or not truth.any():
        return None
    fpr, tpr, _ = roc_curve(truth, given)
    line = np.interp(GRID, fpr, tpr)
    line[0] = 0.0
    return line, float(auc(fpr, tpr))


def _plain(curve: tuple[np.ndarray, float] | None) -> dict[str, Any] | None:
    return None if curve is None else {"tpr": curve[0].tolist(), "auc": curve[1]}


def _over_subjects(curves: list[tuple[np.ndarray, float] | None]) -> dict[str, Any] | None:
    there = [curve for curve in curves if curve is not None]
    if not there:
        return None
    points = [summarise(values) for values in np.stack([curve[0] for curve in there], axis=1)]
    return {
        "tpr": [point["value"] for point in points],
        "low": [point["low"] for point in points],
        "high": [point["high"] for point in points],
        "auc": float(np.mean([curve[1] for curve in there])),
        "n_subjects": len(there),
    }

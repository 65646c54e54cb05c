"""Scores of confident predictions only: a selection, not a score of the decoder.

S1 kept the validation volumes that were predicted rightly with a probability of at least .75 in its
code (.8 in its paper), 629 of 1,050, and based its occlusion maps on them (spec S1.16).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emodecode.evaluate.metrics import LARGEST, check_predictions
from emodecode.evaluate.tally import summarise

THRESHOLDS = (0.0, 0.75, 0.8)
"""Everything, the threshold of S1's code, that of its paper."""


def select_confident(
    predictions: pd.DataFrame,
    *,
    classes: Sequence[str],
    thresholds: Sequence[float] = THRESHOLDS,
    widening: float = 1.0,
) -> dict[str, list[dict[str, Any]]]:
    """Score the predictions whose largest probability reaches a threshold.

    Parameters
    ----------
    predictions : DataFrame
        As for `emodecode.evaluate.metrics.score_predictions`.
    classes : sequence of str
    thresholds : sequence of float
        Least value of the largest probability; 0 keeps all.
    widening : float
        Of the intervals, because folds share training samples.

    Returns
    -------
    dict
        For each model a list, one entry a threshold: ``threshold``, ``n_kept``, ``share`` of the
        samples kept, ``n_right`` of the kept ones; ``accuracy``, ``balanced_accuracy`` (over the
        classes that a subject has among the kept samples) and ``largest_class`` (accuracy of
        naming the class that is most frequent among all kept samples), each ``value low high
        n_subjects``: the mean and 95 % t interval over the subjects that have a value.

    Raises
    ------
    InputError
        As `emodecode.evaluate.metrics.check_predictions`.
    """
    names = [str(name) for name in classes]
    check_predictions(predictions, names)
    return {
        str(model): [
            {"threshold": float(least)} | _score(own, names, float(least), widening)
            for least in thresholds
        ]
        for model, own in predictions.groupby("model", sort=False)
    }


def _score(
    own: pd.DataFrame, classes: list[str], threshold: float, widening: float
) -> dict[str, Any]:
    largest = own[[f"p_{name}" for name in classes]].to_numpy(dtype=float).max(axis=1)
    kept = own[largest >= threshold - 1e-9]
    right = (kept["label"].astype(str) == kept["predicted"].astype(str)).to_numpy()
    most = kept["label"].astype(str).mode()
    values = [
        (
            right[rows].mean(),
            _balanced(kept["label"].to_numpy(dtype=str)[rows], right[rows]),
            (kept["label"].to_numpy(dtype=str)[rows] == most[0]).mean(),
        )
        for rows in kept.groupby("subject").indices.values()
    ]
    columns = np.array(values, dtype=float).reshape(-1, 3).T
    named = zip(("accuracy", "balanced_accuracy", "largest_class"), columns, strict=True)
    return {
        "n_kept": len(kept),
        "share": len(kept) / len(own),
        "n_right": int(right.sum()),
    } | {
        name: summarise(column, largest=LARGEST["accuracy"], widening=widening)
        for name, column in named
    }


def _balanced(labels: np.ndarray, right: np.ndarray) -> float:
    """Mean recall of the classes that are there; NaN for a single one."""
    recalls = [right[labels == name].mean() for name in np.unique(labels)]
    return float(np.mean(recalls)) if len(recalls) > 1 else float("nan")

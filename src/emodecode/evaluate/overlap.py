"""Overlap: what test and training samples share, in numbers, whether or not it is a leak."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emodecode.evaluate.design import TOLERANCE_S, Axis, Design, read_design
from emodecode.evaluate.fold import Split

HORIZONS_S = (4.0, 10.0, 30.0)
"""Seconds within which a training sample of the same run is counted."""


def describe_overlap(
    table: pd.DataFrame, splits: Sequence[Split], *, tr_s: float | None = None
) -> dict[str, Any]:
    """Count what each test sample shares with the training samples of its fold.

    Parameters
    ----------
    table : DataFrame
        The sample table.
    splits : sequence of Split
    tr_s : float, optional
        Repetition time; read from the table's onsets if not given.

    Returns
    -------
    dict
        ``n_test``; ``share_stimulus_in_training``: test samples with a training sample, of
        whichever subject, whose stimulus moment is within one TR (what rule T5 counts), and
        ``share_moment_of_others_in_training`` with one of another subject within half a TR: that
        very volume of the film; ``mean_other_subjects_in_training``: other subjects with that very
        moment in training; ``share_same_subject_within``: test samples with a training sample of
        the same subject and run within 4, 10 and 30 s. Shares are of the test samples whose times
        are known, None where none are.
    """
    design = read_design(table)
    tolerance = design.tolerance_s if tr_s is None else tr_s
    moments, onsets = design.stimulus_axis(), design.scan_axis()
    shared, others, within = [], [], []
    for split in splits:
        train = np.zeros(design.n, dtype=bool)
        train[split.train] = True
        timed = split.test[moments.known[split.test]]
        seconds, _ = moments.nearest(timed, train)
        shared.append(seconds <= tolerance + TOLERANCE_S)
        others.append(_other_subjects(design, moments, timed, train, tolerance / 2))
        train[split.test] = False
        within.append(onsets.nearest(split.test[onsets.known[split.test]], train)[0])
    n_others, away = np.concatenate(others), np.concatenate(within)
    return {
        "n_test": sum(len(split.test) for split in splits),
        "share_stimulus_in_training": _mean(np.concatenate(shared)),
        "share_moment_of_others_in_training": _mean(n_others > 0),
        "mean_other_subjects_in_training": _mean(n_others),
        "share_same_subject_within": {
            f"{seconds:g}": _mean(away <= seconds + TOLERANCE_S) for seconds in HORIZONS_S
        },
    }


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def _other_subjects(
    design: Design, axis: Axis, test: np.ndarray, train: np.ndarray, reach_s: float
) -> np.ndarray:
    """Number of other subjects with a training sample within `reach_s` of each test sample."""
    there = axis.order[train[axis.order]]
    at, asked = axis.position[there], axis.position[test]
    low = np.searchsorted(at, asked - reach_s + TOLERANCE_S)
    n_near = np.searchsorted(at, asked + reach_s - TOLERANCE_S) - low
    which = np.repeat(np.arange(len(test)), np.maximum(n_near, 0))
    inside = np.arange(len(which)) - np.repeat(np.cumsum(n_near) - n_near, n_near)
    mate = there[low[which] + inside]
    subject, clock = design.subject.code, axis.code
    other = (subject[mate] != subject[test[which]]) & (clock[mate] == clock[test[which]])
    pairs = np.unique(which[other] * (subject.max() + 1) + subject[mate[other]])
    return np.bincount(pairs // (subject.max() + 1), minlength=len(test))


def time_only_scores(
    table: pd.DataFrame, splits: Sequence[Split]
) -> dict[str, dict[str, float | None] | None]:
    """Scores of nearest neighbours in time that see no brain data.

    Returns
    -------
    dict
        ``stimulus``: nearest training sample in stimulus time, ``subject``: nearest training sample
        of the same subject and run. Each has ``balanced_accuracy`` and ``macro_auc``, pooled over
        all test samples; None where no sample has such a time.
    """
    return {clock: _score_clock(table, splits, clock) for clock in ("stimulus", "subject")}


def _score_clock(
    table: pd.DataFrame, splits: Sequence[Split], clock: str
) -> dict[str, float | None] | None:
    from emodecode.evaluate.timeonly import time_only_predictions

    predictions = time_only_predictions(table, splits, clock=clock)
    if predictions is None or not len(predictions):
        return None
    return pooled_scores(predictions)


def pooled_scores(predictions: pd.DataFrame) -> dict[str, float | None]:
    """Balanced accuracy and macro one-vs-rest AUC over all predictions at once."""
    from scipy.stats import rankdata

    label = predictions["label"].astype(str).to_numpy()
    right = predictions["predicted"].astype(str).to_numpy() == label
    recalls, areas = [], []
    for name in np.unique(label):
        own = label == name
        recalls.append(right[own].mean())
        if f"p_{name}" in predictions and not own.all():
            rank = rankdata(predictions[f"p_{name}"].to_numpy(dtype=float))
            n_own = own.sum()
            won = rank[own].sum() - n_own * (n_own + 1) / 2
            areas.append(won / (n_own * (~own).sum()))
    return {
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_auc": float(np.mean(areas)) if areas else None,
    }

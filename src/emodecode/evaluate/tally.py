"""Tally: what is needed of a model's predictions to score any labelling of their samples.

All scores are functions of sums over pieces (samples of one fold that carry one label together),
so that thousands of permuted labellings cost a few matrix products.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student_t

METRICS = ("balanced_accuracy", "accuracy", "macro_auc", "log_loss")


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over pieces, sorted by subject and fold.

    Parameters
    ----------
    slot : ndarray of shape (n_pieces,), int
        Which entry of a labelling the piece takes its label from.
    size : ndarray of shape (n_pieces,)
        Samples in the piece.
    hits, ranks, logs : ndarray of shape (n_pieces, n_classes)
        Predictions of each class; sums of the ranks of each class's probability among the samples
        of the same subject and fold; sums of the logarithm of the probability.
    folds, subjects : ndarray of int
        First piece of each (subject, fold); first (subject, fold) of each subject.
    fold_sizes : ndarray
        Samples of each (subject, fold).
    """

    slot: np.ndarray
    size: np.ndarray
    hits: np.ndarray
    ranks: np.ndarray
    logs: np.ndarray
    folds: np.ndarray
    subjects: np.ndarray
    fold_sizes: np.ndarray

    @property
    def n_classes(self) -> int:
        """Classes."""
        return self.hits.shape[1]


class ClassSums(NamedTuple):
    """Sums from which every score follows, each (n_labellings, n_subjects, n_classes).

    ``size``: samples of the class; ``hits``: those predicted so; ``pairs``: pairs of a sample of
    the class with another one of the same subject and fold; ``won``: those in which it has the
    higher probability of the class (half for ties); ``logs``: sums of log probabilities.
    """

    size: np.ndarray
    hits: np.ndarray
    won: np.ndarray
    pairs: np.ndarray
    logs: np.ndarray


def make_tally(
    subject: np.ndarray,
    fold: np.ndarray,
    slot: np.ndarray,
    predicted: np.ndarray,
    probabilities: np.ndarray,
) -> Tally:
    """Sum up one model's predictions.

    Parameters
    ----------
    subject, fold, slot, predicted : ndarray of shape (n_predictions,), int
        Codes from 0.
    probabilities : ndarray of shape (n_predictions, n_classes)
        Logarithms are taken of values not below the float64 resolution, as scikit-learn does.
    """
    order = np.lexsort((slot, fold, subject))
    subject, fold, slot, predicted = (a[order] for a in (subject, fold, slot, predicted))
    probabilities = probabilities[order]
    n_classes = probabilities.shape[1]
    fold_first = _changes(subject, fold)
    piece_first = _changes(subject, fold, slot)
    hits = np.eye(n_classes)[predicted]
    ranks = _ranks_within(probabilities, fold_first)
    fold_sizes = np.diff(np.append(fold_first, len(subject)))
    return Tally(
        slot=slot[piece_first],
        size=np.diff(np.append(piece_first, len(subject))).astype(float),
        hits=np.add.reduceat(hits, piece_first),
        ranks=np.add.reduceat(ranks, piece_first),
        logs=np.add.reduceat(np.log(_clipped(probabilities)), piece_first),
        folds=np.searchsorted(piece_first, fold_first),
        subjects=np.searchsorted(fold_first, _changes(subject)),
        fold_sizes=fold_sizes.astype(float),
    )


def _clipped(probabilities: np.ndarray) -> np.ndarray:
    return np.clip(probabilities, np.finfo(float).eps, 1.0)


def _changes(*codes: np.ndarray) -> np.ndarray:
    """First row of each stretch of equal codes."""
    new = np.ones(len(codes[0]), dtype=bool)
    new[1:] = np.any([np.diff(code) != 0 for code in codes], axis=0)
    return np.flatnonzero(new)


def _ranks_within(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    ends = np.append(first[1:], len(values))
    return np.concatenate([rankdata(values[a:b], axis=0) for a, b in zip(first, ends, strict=True)])


def subject_scores(tally: Tally, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Score labellings, subject by subject.

    Parameters
    ----------
    tally : Tally
    labels : ndarray of shape (n_labellings, n_slots), int
        Class of each slot.

    Returns
    -------
    dict
        For each of `METRICS` an array (n_labellings, n_subjects), NaN where undefined; ``auc`` and
        ``recall`` (n_labellings, n_subjects, n_classes).

    Notes
    -----
    Balanced accuracy is the mean recall of the classes that a subject has; undefined for a subject
    with a single class. The AUC of a class is the probability that a sample of it gets a higher
    probability than another sample *of the same subject and fold* (probabilities of different
    folds come from different models and cannot be ranked together), macro AUC the mean over
    classes.
    """
    given = labels[:, tally.slot]
    found = np.empty((len(ClassSums._fields), len(given), len(tally.subjects), tally.n_classes))
    for c in range(tally.n_classes):
        this = given == c
        size = _by_fold(tally, this * tally.size)
        ranks = _by_fold(tally, this * tally.ranks[:, c])
        per_fold = ClassSums(
            size=size,
            hits=_by_fold(tally, this * tally.hits[:, c]),
            won=ranks - size * (size + 1) / 2,
            pairs=size * (tally.fold_sizes - size),
            logs=_by_fold(tally, this * tally.logs[:, c]),
        )
        found[..., c] = [_by_subject(tally, values) for values in per_fold]
    return scores_from_sums(ClassSums(*found))


def sum_fold(subject: np.ndarray, labels: np.ndarray, probabilities: np.ndarray) -> ClassSums:
    """Sum up the predictions of one fold whose models were fitted anew to each labelling.

    Parameters
    ----------
    subject : ndarray of shape (n_test,), int
    labels : ndarray of shape (n_labellings, n_test), int
    probabilities : ndarray of shape (n_labellings, n_test, n_classes)

    Returns
    -------
    ClassSums
        Of the subjects that the fold tests, in ascending order.
    """
    own, n_classes = np.unique(subject), probabilities.shape[2]
    predicted = probabilities.argmax(axis=2)
    found = np.empty((len(ClassSums._fields), len(labels), len(own), n_classes))
    for s, c in np.ndindex(len(own), n_classes):
        rows = subject == own[s]
        this, p = labels[:, rows] == c, probabilities[:, rows, c]
        size, ranks = this.sum(axis=1), (this * rankdata(p, axis=1)).sum(axis=1)
        found[:, :, s, c] = ClassSums(
            size=size,
            hits=(this & (predicted[:, rows] == c)).sum(axis=1),
            won=ranks - size * (size + 1) / 2,
            pairs=size * (rows.sum() - size),
            logs=(this * np.log(_clipped(p))).sum(axis=1),
        )
    return ClassSums(*found)


def scores_from_sums(sums: ClassSums) -> dict[str, np.ndarray]:
    """Return the scores of `subject_scores` from sums over all folds of a subject."""
    recall, auc = _ratio(sums.hits, sums.size), _ratio(sums.won, sums.pairs)
    n_samples = sums.size.sum(axis=2)
    several = np.isfinite(recall).sum(axis=2) > 1
    return {
        "balanced_accuracy": np.where(several, _mean(recall), np.nan),
        "accuracy": sums.hits.sum(axis=2) / n_samples,
        "macro_auc": _mean(auc),
        "log_loss": -sums.logs.sum(axis=2) / n_samples,
        "recall": recall,
        "auc": auc,
    }


def mean_over_subjects(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the subjects that have a score; NaN if none has."""
    return _mean(values)


def summarise(values: np.ndarray, *, largest: float = 1.0, widening: float = 1.0) -> dict[str, Any]:
    """Mean and 95 % t interval over subjects; subjects with NaN do not count.

    The interval is `widening` times as wide (`emodecode.evaluate.units.Units.widening`).
    """
    known = values[np.isfinite(values)]
    n = len(known)
    if n == 0:
        return {"value": None, "low": None, "high": None, "n_subjects": 0}
    mean = float(known.mean())
    if n == 1:
        return {"value": mean, "low": None, "high": None, "n_subjects": 1}
    half = float(interval_half(known, widening=widening))  # type: ignore[arg-type]
    low, high = max(0.0, mean - half), min(float(largest), mean + half)
    return {"value": mean, "low": low, "high": high, "n_subjects": n}


def interval_half(values: np.ndarray, *, widening: float = 1.0) -> np.ndarray | None:
    """Half of the 95 % t interval of the mean over subjects, the first axis; None for one."""
    n = len(values)
    if n < 2:
        return None
    error = values.std(axis=0, ddof=1) / np.sqrt(n)
    return widening * student_t.ppf(0.975, n - 1) * error


def _by_fold(tally: Tally, values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, tally.folds, axis=1)


def _by_subject(tally: Tally, values: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, tally.subjects, axis=1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(axis=-1), known.sum(axis=-1))

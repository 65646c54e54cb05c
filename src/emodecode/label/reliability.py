"""How far observers agree: no decoder of their labels can do better than the labels are."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd


def rate_observers(
    active: np.ndarray,
    labels: Sequence[str],
    *,
    agreement: float = 0.5,
    classes: Sequence[str] | None = None,
    n_halves: int = 50,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Reliability of the votes of several observers.

    Parameters
    ----------
    active : bool ndarray of shape (n_labels, n_observers, n_cells)
        Who votes for what, when.
    labels : sequence of str
        Names of the rows.
    agreement : float
        Share of the other observers that makes a consensus.
    classes : sequence of str, optional
        Labels to report and to choose among; default all.
    n_halves : int
        Random halves of the observers.
    seed : int

    Returns
    -------
    dict or None
        None for fewer than two observers. ``n_observers``, ``fleiss_kappa``,
        ``left_out_balanced_accuracy`` and ``per_label``: name -> ``split_half``
        (Spearman-Brown), ``split_half_rank``, ``left_out_recall``, ``left_out_silence``,
        ``n_left_out_cells`` (:func:`split_half`, :func:`left_out_recall`).
    """
    n_observers = active.shape[1]
    if n_observers < 2:
        return None
    rows = [list(labels).index(name) for name in (classes or labels)]
    chosen = active[rows]
    recall, counts, silence = left_out_recall(chosen, agreement=agreement)
    per_label = {}
    for row, name in enumerate(classes or labels):
        halves = split_half(chosen[row].astype(float), n_halves=n_halves, seed=seed)
        per_label[name] = halves | {
            "left_out_recall": float(recall[row]),
            "left_out_silence": float(silence[row]),
            "n_left_out_cells": int(counts[row]),
        }
    seen = ~np.isnan(recall)
    return {
        "n_observers": n_observers,
        "fleiss_kappa": fleiss_kappa(chosen),
        "left_out_balanced_accuracy": float(recall[seen].mean()) if seen.any() else float("nan"),
        "per_label": per_label,
    }


def split_half(courses: np.ndarray, *, n_halves: int = 50, seed: int = 0) -> dict[str, float]:
    """Correlation of the mean courses of two random halves of the observers.

    With r the mean Pearson correlation over `n_halves` random halves, ``split_half`` is
    2 r / (1 + r) (Spearman-Brown: what the mean of *all* observers reaches). ``split_half_rank`` is
    the mean Spearman rank correlation of the halves, not stepped up; on StudyForrest's annotations
    it gives the values of Labs et al. (2015).

    Parameters
    ----------
    courses : ndarray of shape (n_observers, n_cells)
        Votes (0 or 1) or ratings; NaN where an observer gave none.
    n_halves, seed : int

    Returns
    -------
    dict
        ``split_half`` and ``split_half_rank``; NaN where a half never varies.
    """
    rng = np.random.default_rng(seed)
    n_observers = len(courses)
    pearson, rank = [], []
    for _ in range(n_halves):
        order = rng.permutation(n_observers)
        one = _mean_course(courses[order[: n_observers // 2]])
        two = _mean_course(courses[order[n_observers // 2 :]])
        both = np.isfinite(one) & np.isfinite(two)
        pearson.append(_correlate(one[both], two[both]))
        rank.append(_correlate(_ranks(one[both]), _ranks(two[both])))
    r, r_rank = _finite_mean(pearson), _finite_mean(rank)
    return {"split_half": 2 * r / (1 + r) if r != -1 else -1.0, "split_half_rank": r_rank}


def fleiss_kappa(active: np.ndarray) -> float:
    """Fleiss' kappa of the category that each observer gives each moment.

    "No label" is a category; an observer with several labels spreads one vote evenly over them.
    For one label per observer this is the textbook kappa.

    Parameters
    ----------
    active : bool ndarray of shape (n_labels, n_observers, n_cells)
    """
    votes = _one_vote_each(active)
    n_observers = votes.shape[1]
    total = votes.sum(axis=1)
    pairs = (total**2).sum(axis=0) - (votes**2).sum(axis=(0, 1))
    observed = (pairs / (n_observers * (n_observers - 1))).mean()
    by_chance = ((total.sum(axis=1) / total.sum()) ** 2).sum()
    if by_chance >= 1.0:
        return float("nan")
    return float((observed - by_chance) / (1 - by_chance))


def left_out_recall(
    active: np.ndarray, *, agreement: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often one observer says what the others agree on.

    Each observer in turn is compared with the consensus of the others (largest share of them, at
    least `agreement`, no tie), at the moments where the observer gives any of the labels: a decoder
    has to choose one too. An observer with several labels gets an even share of one vote.

    Parameters
    ----------
    active : bool ndarray of shape (n_labels, n_observers, n_cells)
    agreement : float

    Returns
    -------
    recall : ndarray of shape (n_labels,)
        Per label, NaN for one that never is a consensus. The mean is what one more observer would
        score in balanced accuracy.
    n_cells : int ndarray of shape (n_labels,)
        Moments behind it, summed over the observers.
    silence : ndarray of shape (n_labels,)
        Share of the consensus moments at which the observer gave no label.
    """
    n_labels, n_observers, _ = active.shape
    votes = _one_vote_each(active)
    counts = active.sum(axis=1)
    right, spoken, cells = np.zeros((3, n_labels))
    for observer in range(n_observers):
        others = counts - active[:, observer]
        best = others.max(axis=0)
        clear = (best > 0) & (best / (n_observers - 1) >= agreement - 1e-9)
        clear &= (others == best).sum(axis=0) == 1
        truth = others.argmax(axis=0)[clear]
        said = votes[:, observer, clear]
        right += np.bincount(truth, said[truth, np.arange(len(truth))], minlength=n_labels)
        spoken += np.bincount(truth, 1 - said[-1], minlength=n_labels)
        cells += np.bincount(truth, minlength=n_labels)
    recall = np.where(spoken > 0, right / np.where(spoken > 0, spoken, 1), np.nan)
    silence = np.where(cells > 0, 1 - spoken / np.where(cells > 0, cells, 1), np.nan)
    return recall, spoken.astype(int), silence


def _one_vote_each(active: np.ndarray) -> np.ndarray:
    """(n_labels + 1, n_observers, n_cells): shares of one vote, the last row for "no label"."""
    n_said = active.sum(axis=0)
    votes = active / np.maximum(n_said, 1)
    return np.concatenate([votes, (n_said == 0)[None].astype(float)])


def _mean_course(courses: np.ndarray) -> np.ndarray:
    given = np.isfinite(courses)
    n_given = given.sum(axis=0)
    total = np.where(given, courses, 0.0).sum(axis=0)
    return np.where(n_given > 0, total / np.maximum(n_given, 1), np.nan)


def _ranks(course: np.ndarray) -> np.ndarray:
    return pd.Series(course).rank().to_numpy()


def _correlate(one: np.ndarray, two: np.ndarray) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return float("nan")
    return float(np.corrcoef(one, two)[0, 1])


def _finite_mean(values: list[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")

"""Chance: the score when the labels of whole blocks are exchanged, refitted or not.

Chance is the permutation mean, not 1/n_classes. Volumes of a run are autocorrelated, and so are
predictions made from them; labels are therefore exchanged in units that the design could have put
elsewhere (blocks, episodes, runs; `emodecode.evaluate.exchange`), never volume by volume.

Either everything is refitted to the exchanged labels in every fold (`Null`, made by
`emodecode.evaluate.refit.refit_null`), or the predictions stay as they are (`chance_levels`). Folds
that train on one another's test samples give scores that vary together: fold i's score holds the
products of its test samples with fold j's, and so does fold j's. The variance of their mean is then
twice what exchanging labels under fixed predictions shows (Nadeau and Bengio 2003), so that null
deviations are multiplied by sqrt(2). Refitting needs no such correction.

References
----------
Nadeau and Bengio (2003), Machine Learning 52:239-281.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emodecode.evaluate.exchange import Exchange, make_exchange, permuted_labels
from emodecode.evaluate.fold import Split
from emodecode.evaluate.tally import METRICS, Tally, mean_over_subjects, subject_scores

__all__ = [
    "Exchange",
    "Null",
    "chance_levels",
    "describe_test",
    "make_exchange",
    "permuted_labels",
    "refit_levels",
    "shares_training",
]

_CHUNK = 2**22
_TOLERANCE = 1e-9

SHARED_TRAINING = float(np.sqrt(2))
"""Factor of null deviations under fixed predictions of folds that share training samples."""


@dataclass(frozen=True, eq=False)
class Null:
    """Scores of a decoder that was refitted to exchanged labels in every fold.

    Parameters
    ----------
    scores : dict
        Metric -> mean over subjects under each labelling, shape (n_permutations,).
    per_subject : ndarray of shape (n_permutations, n_subjects)
        Balanced accuracy; NaN where undefined.
    subjects : tuple of str
        Sorted.
    of : {"labels", "surrogates"}
        What was drawn: labellings, or surrogates of the data (`emodecode.evaluate.phase`).
    """

    scores: dict[str, np.ndarray] = field(repr=False)
    per_subject: np.ndarray = field(repr=False)
    subjects: tuple[str, ...]
    of: str = "labels"

    @property
    def n_permutations(self) -> int:
        """Labellings."""
        return len(self.per_subject)


def chance_levels(
    tally: Tally,
    exchange: Exchange,
    *,
    n_permutations: int = 1000,
    seed: int = 0,
    shared_training: bool = False,
) -> dict[str, dict[str, Any]]:
    """Score the predictions against exchanged labels; predictions and fitted models stay fixed.

    This asks whether the predictions go with the labels better than with other labellings of the
    same design. It is no test of the whole analysis: for that, everything is refitted on
    exchanged labels (`refit_levels`).

    Parameters
    ----------
    tally : Tally
    exchange : Exchange
    n_permutations, seed : int
    shared_training : bool
        Folds train on one another's test samples (`shares_training`): deviations of the null from
        its mean are multiplied by sqrt(2).

    Returns
    -------
    dict
        For each metric ``mean`` (chance), ``sd``, ``p`` = (b + 1) / (m + 1) with b the number of
        the m permutations that score at least as well, and ``p_smallest``, which is limited by m
        and by the number of different labellings. None where the metric is undefined.
    """
    observed = _scores(tally, exchange.label[None])
    null: dict[str, list[np.ndarray]] = {metric: [] for metric in METRICS}
    labels = permuted_labels(exchange, n_permutations=n_permutations, seed=seed)
    for part in _chunks(labels, len(tally.slot)):
        for metric, values in _scores(tally, part).items():
            null[metric].append(values)
    smallest, found = _smallest(n_permutations, exchange), {}
    for metric in METRICS:
        values = np.concatenate(null[metric])
        known = values[np.isfinite(values)]
        if shared_training and known.size:
            known = known.mean() + SHARED_TRAINING * (known - known.mean())
        found[metric] = _compare(observed[metric][0], known, metric == "log_loss", smallest)
    return found


def refit_levels(tally: Tally, exchange: Exchange, null: Null) -> dict[str, dict[str, Any]]:
    """Compare the observed scores with those of the decoder refitted to exchanged labels.

    Parameters
    ----------
    tally : Tally
        Of the predictions of the fits to the true labels.
    exchange : Exchange
    null : Null

    Returns
    -------
    dict
        As `chance_levels`.
    """
    observed = _scores(tally, exchange.label[None])
    smallest, found = _smallest(null.n_permutations, exchange), {}
    if null.of == "surrogates":
        smallest = 1 / (null.n_permutations + 1)
    for metric in METRICS:
        values = null.scores[metric]
        known = values[np.isfinite(values)]
        found[metric] = _compare(observed[metric][0], known, metric == "log_loss", smallest)
    return found


def describe_test(
    exchange: Exchange,
    *,
    n_permutations: int,
    refitted: bool,
    shared_training: bool,
    of: str = "labels",
) -> dict[str, Any]:
    """Say how a decoder was tested: ``method n_permutations sentence`` of ``scores.json``."""
    how = "everything refitted in every fold"
    drawn = f"labellings: {exchange.sentence}"
    if of == "surrogates":
        drawn = "phase-randomised surrogates of the data with the true labels"
    if not refitted:
        how = "predictions fixed (approximate)"
        if shared_training:
            how = (
                "predictions fixed, deviations × 1.41 because the folds share training samples "
                "(approximate)"
            )
    method = "refit" if of == "labels" else "surrogates"
    return {
        "method": method if refitted else "predictions",
        "n_permutations": n_permutations,
        "sentence": f"{n_permutations:,} {drawn}; {how}",
    }


def shares_training(splits: Sequence[Split]) -> bool:
    """Tell whether two of the folds train on one another's test samples."""
    n = 1 + max(int(part.max()) for s in splits for part in (s.train, s.test) if part.size)
    trains = np.zeros((len(splits), n), dtype=bool)
    for number, split in enumerate(splits):
        trains[number, split.train] = True
    on = np.array([trains[:, split.test].any(axis=1) for split in splits])
    mutual = on & on.T
    np.fill_diagonal(mutual, False)
    return bool(mutual.any())


def _scores(tally: Tally, labels: np.ndarray) -> dict[str, np.ndarray]:
    found = subject_scores(tally, labels)
    return {metric: mean_over_subjects(found[metric]) for metric in METRICS}


def _chunks(labels: np.ndarray, n_pieces: int) -> Iterator[np.ndarray]:
    step = max(1, _CHUNK // max(1, n_pieces))
    for start in range(0, len(labels), step):
        yield labels[start : start + step]


def _smallest(n_permutations: int, exchange: Exchange) -> float:
    return max(1 / (n_permutations + 1), float(np.exp(-exchange.log_arrangements)))


def _compare(
    observed: float, known: np.ndarray, lower_is_better: bool, smallest: float
) -> dict[str, Any]:
    if not np.isfinite(observed) or not known.size:
        return {"mean": None, "sd": None, "p": None, "p_smallest": smallest}
    sign = -1 if lower_is_better else 1
    reached = int(np.sum(sign * known >= sign * observed - _TOLERANCE))
    return {
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if known.size > 1 else 0.0,
        # two fits of the true labels may differ in a rounding: never below what the design allows
        "p": max((reached + 1) / (known.size + 1), smallest),
        "p_smallest": smallest,
    }

"""Chance: the score of the same predictions when the labels of whole blocks are exchanged.

Chance is the permutation mean, not 1/n_classes. Volumes of a run are autocorrelated, and so are
predictions made from them; labels are therefore exchanged in units that the design could have put
elsewhere (blocks, episodes, runs; `emodecode.evaluate.exchange`), never volume by volume.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from emodecode.evaluate.exchange import Exchange, make_exchange, permuted_labels
from emodecode.evaluate.tally import METRICS, Tally, mean_over_subjects, subject_scores

__all__ = ["Exchange", "chance_levels", "make_exchange", "permuted_labels"]

_CHUNK = 2**22
_TOLERANCE = 1e-9


def chance_levels(
    tally: Tally, exchange: Exchange, *, n_permutations: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Score the predictions against exchanged labels; predictions and fitted models stay fixed.

    This asks whether the predictions go with the labels better than with other labellings of the
    same design. It is no test of the whole analysis: for that, everything is refitted on
    exchanged labels.

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
    smallest = max(1 / (n_permutations + 1), float(np.exp(-exchange.log_arrangements)))
    found = {}
    for metric in METRICS:
        values = np.concatenate(null[metric])
        found[metric] = _compare(observed[metric][0], values, metric == "log_loss", smallest)
    return found


def _scores(tally: Tally, labels: np.ndarray) -> dict[str, np.ndarray]:
    found = subject_scores(tally, labels)
    return {metric: mean_over_subjects(found[metric]) for metric in METRICS}


def _chunks(labels: np.ndarray, n_pieces: int) -> Iterator[np.ndarray]:
    step = max(1, _CHUNK // max(1, n_pieces))
    for start in range(0, len(labels), step):
        yield labels[start : start + step]


def _compare(
    observed: float, null: np.ndarray, lower_is_better: bool, smallest: float
) -> dict[str, Any]:
    known = null[np.isfinite(null)]
    if not np.isfinite(observed) or not known.size:
        return {"mean": None, "sd": None, "p": None, "p_smallest": smallest}
    sign = -1 if lower_is_better else 1
    reached = int(np.sum(sign * known >= sign * observed - _TOLERANCE))
    return {
        "mean": float(known.mean()),
        "sd": float(known.std(ddof=1)) if known.size > 1 else 0.0,
        "p": (reached + 1) / (known.size + 1),
        "p_smallest": smallest,
    }

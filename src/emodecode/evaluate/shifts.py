"""Shifts: what surrogates score by the accident of their phases, in designs that repeat in time."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from emodecode.evaluate.design import read_design

LEAST_SAMPLES = 20
"""Tested samples of a scan from which on its shifts are many enough to be a null."""


def shift_null(
    predictions: pd.DataFrame, rows: np.ndarray, table: pd.DataFrame, *, classes: Sequence[str]
) -> Callable[[int, int], np.ndarray] | None:
    """Make a null for predictions of phase-randomised scans: each scan shifted by itself.

    Where the blocks of a design come in a period (rest between all of them), the signal is a wave,
    and so is its surrogate, at a random phase. A few scans may lie in phase with the labels by
    accident, which an exchange of blocks does not know. Surrogates are stationary and independent
    between scans, so circular shifts of the labels against the predictions, drawn for each scan,
    give the scores that such accidents lead to; a leak keeps the true phase in all scans.

    Parameters
    ----------
    predictions : DataFrame
        ``label predicted`` of the tested samples.
    rows : ndarray of int
        Their rows of `table`.
    table : DataFrame
        Sample table.
    classes : sequence of str

    Returns
    -------
    callable or None
        ``(seed, n_permutations) -> scores`` (mean over subjects of balanced accuracy); None where
        samples have no times or a scan has fewer than `LEAST_SAMPLES`.
    """
    design = read_design(table)
    scan, onset = design.scan.code[rows], design.onset_s[rows]
    if not np.isfinite(onset).all() or np.bincount(scan)[np.unique(scan)].min() < LEAST_SAMPLES:
        return None
    names = pd.Index([str(name) for name in classes])
    label = names.get_indexer(pd.Index(predictions["label"].astype(str)))
    predicted = names.get_indexer(pd.Index(predictions["predicted"].astype(str)))
    subjects, own = np.unique(design.subject.code[rows], return_inverse=True)
    hits, whose = [], []
    for each in np.unique(scan):
        order = np.flatnonzero(scan == each)
        order = order[np.argsort(onset[order], kind="stable")]
        hits.append(_hits_by_shift(label[order], predicted[order], len(names)))
        whose.append(own[order[0]])
    size = np.zeros((len(subjects), len(names)))
    np.add.at(size, (own, label), 1)

    def null(seed: int, n_permutations: int) -> np.ndarray:
        rng = np.random.default_rng([seed, 11])
        total = np.zeros((n_permutations, len(subjects), len(names)))
        for by_shift, subject in zip(hits, whose, strict=True):
            total[:, subject] += by_shift[rng.integers(0, len(by_shift), n_permutations)]
        recall = np.divide(total, size, out=np.full_like(total, np.nan), where=size > 0)
        several = (size > 0).sum(axis=1) > 1
        return np.nanmean(np.nanmean(recall[:, several], axis=2), axis=1)

    return null if ((size > 0).sum(axis=1) > 1).any() else None


def _hits_by_shift(label: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Correct predictions of each class for every circular shift, (n_samples, n_classes)."""
    n = len(label)
    found = np.empty((n, n_classes))
    for shift in range(n):
        hit = np.roll(predicted, shift) == label
        found[shift] = np.bincount(label[hit], minlength=n_classes)
    return found

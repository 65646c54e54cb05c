"""Time-only decoder: the nearest neighbour in time, without any brain data."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from emodecode.errors import InputError
from emodecode.evaluate.design import TOLERANCE_S, Axis, Design, read_design
from emodecode.evaluate.exchange import make_exchange, permuted_labels
from emodecode.evaluate.fold import Split
from emodecode.evaluate.results import PREDICTION_COLUMNS
from emodecode.evaluate.tally import ClassSums, mean_over_subjects, scores_from_sums

MODEL = "time_only"
CLOCKS = ("stimulus", "subject")
_PART = 100
"""Labellings that are held at once."""


def time_only_predictions(
    table: pd.DataFrame, splits: Sequence[Split], *, clock: str = "stimulus"
) -> pd.DataFrame:
    """Give each test sample the label of the training sample that is nearest in time.

    Parameters
    ----------
    table : DataFrame
        The sample table.
    splits : sequence of Split
    clock : {"stimulus", "subject"}
        ``stimulus``: nearest moment of the same stimulus, whoever saw it; where the sample or its
        stimulus in training has no times, nearest onset in the training runs of the same name, and
        without these in any run.
        ``subject``: nearest onset in the same run of the same subject; without one in training, as
        ``stimulus``.

    Returns
    -------
    DataFrame
        As ``Results.predictions`` (model ``time_only``), and ``row``, the row of `table`. Several
        nearest samples share the probability; a sample without any gets the shares of the classes
        in training. Empty where no sample has a time.

    Raises
    ------
    InputError
        An unknown clock.
    """
    design = read_design(table)
    axes = _axes(design, clock)
    if not any(axis.known.any() for axis in axes):
        splits = []
    labels = np.eye(len(design.label.names))[design.label.code]
    parts = [_find_voters(axes, split).add_up(labels) for split in splits]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(split.test for split in splits)])
    given = np.concatenate([np.empty((0, len(design.label.names))), *parts])
    given /= given.sum(axis=1, keepdims=True)
    return _as_predictions(table, design, splits, rows, given)


def time_only_null(
    table: pd.DataFrame,
    splits: Sequence[Split],
    *,
    clock: str = "stimulus",
    n_permutations: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Balanced accuracy, mean over subjects, where every subject has an order of its own.

    Labels are exchanged as in `emodecode.evaluate.exchange.make_exchange`, but for each subject by
    itself, in training and test. What is both trained on and tested in a fold (a block on two
    sides) has two labels, drawn apart: time tells nothing.

    Returns
    -------
    ndarray of shape (n_permutations,)
    """
    design = read_design(table)
    own = table.assign(run=table["subject"].astype(str) + " " + table["run"].astype(str))
    exchange = make_exchange(own, classes=design.label.names)
    tested, learned = (
        permuted_labels(exchange, n_permutations=n_permutations, seed=each)
        for each in np.random.SeedSequence(seed).generate_state(2) >> 1
    )
    axes = _axes(design, clock)
    voters = [_find_voters(axes, split) for split in splits]
    scores = [np.empty(0)]
    for start in range(0, n_permutations, _PART):
        part = slice(start, start + _PART)
        sums = np.zeros((2, len(tested[part]), len(design.subject.names), len(design.label.names)))
        for split, own_voters in zip(splits, voters, strict=True):
            shown = np.isin(np.arange(len(exchange.label)), exchange.slot[split.test])
            labels = np.where(shown, learned[part], tested[part])[:, exchange.slot]
            truth = tested[part][:, exchange.slot[split.test]]
            _add_hits(sums, own_voters, labels, truth, design.subject.code[split.test])
        nothing = np.zeros_like(sums[0])
        found = scores_from_sums(ClassSums(sums[0], sums[1], nothing, nothing, nothing))
        scores.append(mean_over_subjects(found["balanced_accuracy"]))
    return np.concatenate(scores)


def has_clock(table: pd.DataFrame) -> bool:
    """Tell whether any sample has a time in its stimulus or in its run."""
    return any(axis.known.any() for axis in _axes(read_design(table), "stimulus"))


def _axes(design: Design, clock: str) -> list[Axis]:
    """Clocks to look on, the best first."""
    if clock not in CLOCKS:
        raise InputError(
            "time-only decoder",
            found=f"clock = {clock!r}",
            expected=" or ".join(CLOCKS),
            remedy="Correct it.",
        )
    any_run = np.zeros(design.n, dtype=np.int64)
    runs = [Axis(design.run.code, design.onset_s), Axis(any_run, design.onset_s)]
    own = [design.scan_axis()] if clock == "subject" else []
    return [*own, design.stimulus_axis(), *runs]


class _Voters(NamedTuple):
    """Training samples nearest to each test sample: rows of `near` (n_different, n_samples)."""

    near: csr_array
    which: np.ndarray

    def add_up(self, values: np.ndarray) -> np.ndarray:
        """Sums over the nearest training samples, (n_test, n_columns)."""
        return (self.near @ values)[self.which]


def _find_voters(axes: Sequence[Axis], split: Split) -> _Voters:
    """Nearest training samples on the first clock that has any; all of them without one."""
    train = np.zeros(len(axes[0].code), dtype=bool)
    train[split.train] = True
    key = np.zeros((len(split.test), 5), dtype=np.int64)
    open_ = np.arange(len(split.test))
    ordered = [np.flatnonzero(train)]
    key[:, 2] = len(ordered[0])
    for number, axis in enumerate(axes, start=1):
        seconds, neighbour = axis.nearest(split.test[open_], train)
        found = neighbour >= 0
        ordered.append(axis.order[train[axis.order]])
        rows = open_[found]
        key[rows, 0] = number
        key[rows, 1:] = _ranges(axis, ordered[-1], split.test[rows], seconds[found])
        open_ = open_[~found]
    different, which = np.unique(key, axis=0, return_inverse=True)
    members = [
        np.concatenate([ordered[number][low:mid], ordered[number][start:end]])
        for number, low, mid, start, end in different
    ]
    until = np.cumsum([0, *(len(each) for each in members)])
    columns = np.concatenate([np.empty(0, dtype=np.int64), *members])
    shape = (len(different), len(train))
    return _Voters(csr_array((np.ones(len(columns)), columns, until), shape=shape), which.ravel())


def _ranges(axis: Axis, there: np.ndarray, test: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    """Where in `there` the samples lie that are `seconds` before and after, (n_test, 4)."""
    if not len(test):
        return np.empty((0, 4), dtype=np.int64)
    at, here, time_s = axis.position[there], axis.position[test], axis.time_s[test]
    times = axis.time_s[axis.order]
    # positions of two clocks touch: what lies outside all times belongs to another clock
    before = time_s - seconds >= times.min() - TOLERANCE_S
    after = time_s + seconds <= times.max() + TOLERANCE_S
    low, mid = (np.searchsorted(at, here - seconds + s * TOLERANCE_S) for s in (-1, 1))
    start, end = (np.searchsorted(at, here + seconds + s * TOLERANCE_S) for s in (-1, 1))
    mid = np.where(before, mid, low)
    start = np.maximum(start, mid)
    end = np.where(after, np.maximum(start, end), start)
    return np.stack([low, mid, start, end], axis=1)


def _add_hits(
    sums: np.ndarray, voters: _Voters, labels: np.ndarray, truth: np.ndarray, subject: np.ndarray
) -> None:
    """Add samples and hits of each labelling, subject and class to `sums`."""
    n_classes, n_subjects = sums.shape[3], sums.shape[2]
    votes = np.stack([voters.near @ _indicator(labels.T, c) for c in range(n_classes)])
    predicted = votes.argmax(axis=0)[voters.which]
    ones, rows = np.ones(len(subject)), np.arange(len(subject))
    whose = csr_array((ones, (subject, rows)), shape=(n_subjects, len(subject)))
    for c in range(n_classes):
        this = _indicator(truth.T, c)
        sums[0, :, :, c] += (whose @ this).T
        sums[1, :, :, c] += (whose @ (this * _indicator(predicted, c))).T


def _indicator(codes: np.ndarray, code: int) -> np.ndarray:
    return np.where(codes == code, 1.0, 0.0)


def _as_predictions(
    table: pd.DataFrame,
    design: Design,
    splits: Sequence[Split],
    rows: np.ndarray,
    given: np.ndarray,
) -> pd.DataFrame:
    classes = np.asarray(design.label.names)
    known = {
        name: table[name].to_numpy()[rows] for name in ("subject", "run", "volume") if name in table
    }
    missing: dict[str, object] = {"run": "n/a", "volume": np.nan}
    folds = [split.name for split in splits for _ in range(len(split.test))]
    columns = (
        missing
        | known
        | {
            "model": MODEL,
            "fold": np.asarray(folds, dtype=object),
            "label": classes[design.label.code[rows]],
            "predicted": classes[given.argmax(axis=1)],
        }
    )
    frame = pd.DataFrame(
        {name: columns[name] for name in PREDICTION_COLUMNS}, index=range(len(rows))
    )
    probabilities = pd.DataFrame(given, columns=[f"p_{name}" for name in classes])
    return pd.concat([frame, probabilities], axis=1).assign(row=rows)

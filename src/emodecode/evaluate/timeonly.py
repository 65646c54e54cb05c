"""Time-only decoder: the nearest neighbour in time, without any brain data."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.design import TOLERANCE_S, Axis, Design, read_design
from emodecode.evaluate.fold import Split
from emodecode.evaluate.results import PREDICTION_COLUMNS

MODEL = "time_only"
CLOCKS = ("stimulus", "subject")


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
        stimulus in training has no times, nearest onset in the training runs of the same name.
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

    Examples
    --------
    S1's split, 15 subjects who saw 350 moments, is answered by it to 89 % (spec S1.10).
    """
    if clock not in CLOCKS:
        raise InputError(
            "time-only decoder",
            found=f"clock = {clock!r}",
            expected=" or ".join(CLOCKS),
            remedy="Correct it.",
        )
    design = read_design(table)
    axes = _axes(design, clock)
    if not any(axis.known.any() for axis in axes):
        splits = []
    parts = [_predict(design, axes, split) for split in splits]
    rows = np.concatenate([np.empty(0, dtype=np.int64), *(split.test for split in splits)])
    given = np.concatenate([np.empty((0, len(design.label.names))), *parts])
    return _as_predictions(table, design, splits, rows, given)


def has_clock(table: pd.DataFrame) -> bool:
    """Tell whether any sample has a time in its stimulus or in its run."""
    return any(axis.known.any() for axis in _axes(read_design(table), "stimulus"))


def _axes(design: Design, clock: str) -> list[Axis]:
    """Clocks to look on, the best first."""
    axes = [design.stimulus_axis(), Axis(design.run.code, design.onset_s)]
    return [design.scan_axis(), *axes] if clock == "subject" else axes


def _predict(design: Design, axes: Sequence[Axis], split: Split) -> np.ndarray:
    n_classes = len(design.label.names)
    counts = np.bincount(design.label.code[split.train], minlength=n_classes).astype(float)
    given = np.tile(counts, (len(split.test), 1))
    open_ = np.arange(len(split.test))
    for axis in axes:
        counts, found = _nearest_labels(axis, design.label.code, n_classes, split, open_)
        given[open_[found]] = counts[found]
        open_ = open_[~found]
    return given / given.sum(axis=1, keepdims=True)


def _nearest_labels(
    axis: Axis, label: np.ndarray, n_classes: int, split: Split, asked: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of all nearest training samples, (n_asked, n_classes), and who has any."""
    train = np.zeros(len(label), dtype=bool)
    train[split.train] = True
    test = split.test[asked]
    seconds, neighbour = axis.nearest(test, train)
    found = neighbour >= 0
    counts = np.zeros((len(test), n_classes))
    if found.any():
        counts[found] = _count_labels(axis, label, n_classes, train, test[found], seconds[found])
    return counts, found


def _count_labels(
    axis: Axis,
    label: np.ndarray,
    n_classes: int,
    train: np.ndarray,
    test: np.ndarray,
    seconds: np.ndarray,
) -> np.ndarray:
    """Labels of the training samples `seconds` before or after each test sample."""
    there = axis.order[train[axis.order]]
    until = np.zeros((len(there) + 1, n_classes), dtype=np.int64)
    until[1:] = np.cumsum(np.eye(n_classes, dtype=np.int64)[label[there]], axis=0)
    at, here, time_s = axis.position[there], axis.position[test], axis.time_s[test]
    times = axis.time_s[axis.order]
    # positions of two clocks touch: what lies outside all times belongs to another clock
    before = time_s - seconds >= times.min() - TOLERANCE_S
    after = time_s + seconds <= times.max() + TOLERANCE_S
    low, mid = (np.searchsorted(at, here - seconds + s * TOLERANCE_S) for s in (-1, 1))
    start, end = (np.searchsorted(at, here + seconds + s * TOLERANCE_S) for s in (-1, 1))
    start = np.maximum(start, np.where(before, mid, start))
    end = np.maximum(start, end)
    return before[:, None] * (until[mid] - until[low]) + after[:, None] * (until[end] - until[start])


def _as_predictions(
    table: pd.DataFrame,
    design: Design,
    splits: Sequence[Split],
    rows: np.ndarray,
    given: np.ndarray,
) -> pd.DataFrame:
    classes = np.asarray(design.label.names)
    known = {name: table[name].to_numpy()[rows] for name in ("subject", "run", "volume") if name in table}
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
    frame = pd.DataFrame({name: columns[name] for name in PREDICTION_COLUMNS}, index=range(len(rows)))
    probabilities = pd.DataFrame(given, columns=[f"p_{name}" for name in classes])
    return pd.concat([frame, probabilities], axis=1).assign(row=rows)

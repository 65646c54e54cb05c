"""Inner splits: folds within the training samples of one fold, for nested tuning."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.design import Axis, Codes, Design, read_design
from emodecode.evaluate.fold import NOTHING, Split, deal, purged
from emodecode.evaluate.stimuli import is_locked, stimulus_groups

Division = list[tuple[np.ndarray, np.ndarray]]


def inner_splits(
    table: pd.DataFrame, rows: np.ndarray, *, n_folds: int, gap_s: float, seed: int
) -> list[Split]:
    """Divide the training samples of a fold again, as honestly as the fold itself.

    Several subjects: subject-disjoint folds; where they saw the same moments of a stimulus also
    stimulus-disjoint ones (fold k tests the subjects of part k in the stimulus of part k), with
    `gap_s` seconds purged. One subject: run-disjoint folds if every class can be learned so, else
    contiguous blocks with a gap, else (tables, or when the gap leaves nothing) whole blocks.
    Inner folds only choose parameters: the outer test samples are in none of them.

    Parameters
    ----------
    table : DataFrame
        The full sample table.
    rows : ndarray of int
        Training rows of the outer fold.
    n_folds : int
        At most so many folds (fewer where there are fewer subjects or runs).
    gap_s : float
        Purged seconds.
    seed : int

    Returns
    -------
    list of Split
        Row numbers of the full table; ``calibrate`` is empty.

    Raises
    ------
    InputError
        When no division leaves every class in each inner training set.
    """
    rows = np.asarray(rows, dtype=np.int64)
    design = read_design(table.iloc[rows])
    for division in _divisions(design, n_folds, gap_s, seed):
        if len(division) >= 2 and all(_learnable(design, *fold) for fold in division):
            return [
                Split(rows[train], NOTHING, rows[test], name=f"inner-{number + 1}")
                for number, (train, test) in enumerate(division)
            ]
    raise InputError(
        "inner folds",
        found=f"no division of {len(rows)} training samples of {len(design.subject.names)} "
        f"subject(s) into {n_folds} folds leaves every class in each training set",
        expected=f"all of {', '.join(design.label.names)} in each",
        remedy="Set evaluate.inner_folds = 2, or remove models.grid.",
    )


def _divisions(design: Design, n_folds: int, gap_s: float, seed: int) -> Iterator[Division]:
    """Ways to divide, the most honest first."""
    n_subjects = len(design.subject.names)
    if n_subjects == 1:
        yield from _within_subject(design, n_folds, gap_s, seed)
        return
    for n in range(min(n_folds, n_subjects), 1, -1):
        part = deal(design.subject.code, design.label.code, n, seed)
        if not is_locked(design):
            yield _leave_out(part)
            continue
        for stimulus_part in _stimulus_parts(design, n, seed):
            yield _diagonal(part, stimulus_part, gap_s, design.stimulus_axis())


def _within_subject(design: Design, n_folds: int, gap_s: float, seed: int) -> Iterator[Division]:
    label, axes = design.label.code, (design.stimulus_axis(), design.scan_axis())
    n_runs = len(design.run.names)
    if n_runs >= 2:
        part = deal(design.run.code, label, min(n_folds, n_runs), seed)
        yield _leave_out(part, gap_s, *axes)
    n_blocks = len(design.block.names)
    for n in range(min(n_folds, n_blocks), 1, -1):
        if axes[1].known.all():
            yield _leave_out(_contiguous(design, n), gap_s, *axes)
    for n in range(min(n_folds, n_blocks), 1, -1):
        yield _leave_out(deal(design.block.code, label, n, seed))


def _stimulus_parts(design: Design, n_parts: int, seed: int) -> Iterator[np.ndarray]:
    """Part of the stimulus of each sample: groups as they are, then more and finer pieces."""
    usual = _groups_or_none(design, "auto", n_parts)
    if usual is not None and len(usual.names) >= n_parts:
        yield deal(usual.code, design.label.code, n_parts, seed)
    for finer in (1, 2, 4, 8):
        pieces = _groups_or_none(design, "segments", n_parts * finer)
        if pieces is not None and len(pieces.names) >= n_parts:
            yield deal(pieces.code, design.label.code, n_parts, seed)


def _groups_or_none(design: Design, groups: str, n_segments: int) -> Codes | None:
    """Groups of stimulus, or None where these samples cannot be grouped so."""
    try:
        return stimulus_groups(design, groups=groups, n_segments=n_segments)
    except InputError:
        return None


def _contiguous(design: Design, n_parts: int) -> np.ndarray:
    """Equal pieces of time made of whole blocks."""
    start = np.full(len(design.block.names), np.inf)
    clock = design.scan_axis().position
    np.minimum.at(start, design.block.code, clock)
    rank = np.argsort(np.argsort(start))
    return (rank * n_parts // len(rank))[design.block.code]


def _leave_out(part: np.ndarray, gap_s: float = 0.0, *axes: Axis) -> Division:
    folds = []
    for number in range(part.max() + 1):
        test = np.flatnonzero(part == number)
        folds.append((purged(np.flatnonzero(part != number), test, gap_s, *axes), test))
    return folds


def _diagonal(part: np.ndarray, other: np.ndarray, gap_s: float, moments: Axis) -> Division:
    folds = []
    for number in range(min(part.max(), other.max()) + 1):
        test = np.flatnonzero((part == number) & (other == number))
        train = np.flatnonzero((part != number) & (other != number))
        folds.append((purged(train, test, gap_s, moments), test))
    return folds


def _learnable(design: Design, train: np.ndarray, test: np.ndarray) -> bool:
    learned = np.bincount(design.label.code[train], minlength=len(design.label.names))
    return bool(learned.all()) and test.size > 0

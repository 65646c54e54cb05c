"""Alignable: has every fold the data that its alignment needs? Nothing is fitted here."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.alignfold import aligned_fold
from emodecode.evaluate.alignment import Alignment
from emodecode.evaluate.fold import Split
from emodecode.evaluate.foldfit import Tuning
from emodecode.evaluate.inner import inner_splits
from emodecode.evaluate.score import child_seed


def check_alignment(alignment: Alignment, table: pd.DataFrame, splits: Sequence[Split]) -> None:
    """Refuse folds whose common space, or whose tested subject's map, lacks data.

    Parameters
    ----------
    alignment : Alignment
        Its values are not looked at: ``X`` may have no columns.
    table : DataFrame
        Sample table.
    splits : sequence of Split

    Raises
    ------
    InputError
        Fewer than two training subjects, a subject without a volume that the fold may use, or
        fewer than three moments (or classes) that all of them share.
    """
    subjects = table["subject"].to_numpy(dtype=str)
    for split in splits:
        fold = aligned_fold(alignment, table, split)
        assert fold is not None
        with _naming(f"fold {split.name}"):
            fold.check(subjects[split.train], subjects[split.test])


def check_inner_alignment(
    alignment: Alignment,
    table: pd.DataFrame,
    splits: Sequence[Split],
    *,
    name: str,
    tuning: Tuning,
    seed: int,
) -> None:
    """Refuse inner folds that lack data for alignment; of the folds that test the same runs, those
    of the smallest training set.

    They are the inner folds that `emodecode.evaluate.score.score` makes for the model `name`.

    Raises
    ------
    InputError
        As `check_alignment` and `emodecode.evaluate.inner.inner_splits`.
    """
    subjects = table["subject"].to_numpy(dtype=str)
    for number in _smallest_by_run(table, splits):
        split = splits[number]
        fold = aligned_fold(alignment, table, split)
        assert fold is not None
        child = child_seed(seed, name, number)
        inner = inner_splits(
            table, split.train, n_folds=tuning.n_folds, gap_s=tuning.gap_s, seed=child
        )
        with _naming(f"inner folds of fold {split.name}"):
            for own, inside, judged in fold.inner_folds(inner):
                inside.check(subjects[own.train], subjects[judged])


def _smallest_by_run(table: pd.DataFrame, splits: Sequence[Split]) -> list[int]:
    """Of the folds that test the same runs the one with the fewest training samples."""
    runs = (table["session"].astype(str) + "|" + table["run"].astype(str)).to_numpy(dtype=str)
    smallest: dict[tuple[str, ...], int] = {}
    for number, split in enumerate(splits):
        first = smallest.setdefault(tuple(np.unique(runs[split.test])), number)
        if len(split.train) < len(splits[first].train):
            smallest[tuple(np.unique(runs[split.test]))] = number
    return sorted(smallest.values())


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(
            f"{where}: {error.where}",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from error

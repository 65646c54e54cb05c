"""Annotations of several observers -> votes on a grid of stimulus time -> consensus."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.label.labelled import NOT_LABELLED, TOLERANCE_S
from emodecode.label.names import check_names, near_name


@dataclass(frozen=True, eq=False)
class Votes:
    """Who sees which label when.

    Parameters
    ----------
    active : bool ndarray of shape (n_labels, n_observers, n_cells)
        Cell c covers the stimulus from ``c * grid_s`` to ``(c + 1) * grid_s``.
    labels, observers : tuple of str
        Sorted labels; observers in the order of their files.
    grid_s : float
        Length of a cell in seconds.
    n_filled, n_overwritten : int
        Cells of all observers that hold a label; how often a later row replaced another label.
    """

    active: np.ndarray = field(repr=False)
    labels: tuple[str, ...]
    observers: tuple[str, ...]
    grid_s: float
    n_filled: int = 0
    n_overwritten: int = 0

    @property
    def fractions(self) -> np.ndarray:
        """Share of all observers that vote for a label, shape (n_labels, n_cells)."""
        return self.active.sum(axis=1) / len(self.observers)

    @property
    def time_s(self) -> np.ndarray:
        """Start of each cell on the clock of the stimulus."""
        return np.arange(self.active.shape[2]) * self.grid_s


def cast_votes(
    annotations: pd.DataFrame,
    *,
    variable: str = "emotion",
    grid_s: float = 1.0,
    split_labels: bool = True,
    overwrite: bool = False,
    characters: Sequence[str] | None = None,
    merge: dict[str, str] | None = None,
) -> Votes:
    """Put the judgements of all observers on a common grid of stimulus time.

    A row is active in every cell that it touches, ``floor(start / grid_s)`` to
    ``ceil(end / grid_s)``. By default an observer votes for every label that is active in a cell
    (several characters, several labels of a row). With `overwrite` there is one row per cell: the
    last one, as S1 has it.

    Parameters
    ----------
    annotations : DataFrame
        From :func:`emodecode.read.annotations.read_annotations`.
    variable : str
        Column that holds the labels.
    grid_s : float
        Length of a cell in seconds.
    split_labels : bool
        Split labels at spaces; else "ADMIRATION LOVE" is a label of its own.
    overwrite : bool
        Later rows of an observer replace earlier ones.
    characters : sequence of str, optional
        Use only what is said about these characters.
    merge : dict, optional
        New names of labels before the vote.

    Raises
    ------
    InputError
        An unknown variable or character, or no judgement left.
    """
    if variable not in annotations:
        raise InputError(
            "labels.variable",
            found=f"no column {variable!r} in the annotations",
            expected=f"one of {', '.join(annotations.columns)}",
            remedy=near_name(variable, annotations, "Name a judged column."),
        )
    observers = tuple(dict.fromkeys(annotations["observer"]))
    rows = annotations
    if characters is not None:
        check_names("labels.characters", characters, rows["character"])
        rows = rows[rows["character"].isin(list(characters))]
    rows = rows[rows[variable] != NOT_LABELLED]
    if rows.empty:
        raise InputError(
            "labels",
            found=f"no row with a value of {variable}",
            expected="judgements of at least one observer",
            remedy="Check labels.variable and labels.characters.",
        )
    texts = rows[variable].astype(str)
    names = [tuple(text.split()) if split_labels else (text,) for text in texts]
    known = {name for row in names for name in row}
    check_names("labels.merge", merge or {}, known)
    names = [tuple((merge or {}).get(name, name) for name in row) for row in names]
    labels = tuple(sorted({name for row in names for name in row}))
    first = np.floor((rows["start_s"].to_numpy() + TOLERANCE_S) / grid_s).astype(int).clip(min=0)
    last = np.ceil((rows["end_s"].to_numpy() - TOLERANCE_S) / grid_s).astype(int)
    if not overwrite:
        last = np.maximum(last, first + 1)
    who = rows["observer"].map({name: i for i, name in enumerate(observers)}).to_numpy()
    sets = [tuple(sorted({labels.index(name) for name in row})) for row in names]
    active = np.zeros((len(labels), len(observers), int(last.max())), dtype=bool)
    n_overwritten = 0
    held = np.full(active.shape[1:], -1)
    codes = {row: code for code, row in enumerate(dict.fromkeys(sets))}
    for observer, start, stop, row in zip(who, first, last, sets, strict=True):
        before = held[observer, start:stop]
        n_overwritten += int(((before >= 0) & (before != codes[row])).sum())
        held[observer, start:stop] = codes[row]
        if overwrite:
            active[:, observer, start:stop] = False
        active[list(row), observer, start:stop] = True
    return Votes(active, labels, observers, grid_s, int((held >= 0).sum()), n_overwritten)


def find_consensus(
    fractions: np.ndarray, *, agreement: float, break_ties: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Label with the largest share of votes, where that is at least `agreement`.

    Parameters
    ----------
    fractions : ndarray of shape (n_labels, n_cells)
    agreement : float
        Smallest share of all observers.
    break_ties : bool
        Take the first of several largest; else a tie is no consensus.

    Returns
    -------
    winner : int ndarray of shape (n_cells,)
        Row of `fractions`, -1 without consensus.
    share : ndarray of shape (n_cells,)
        Largest share, whether or not it is enough.
    """
    share = fractions.max(axis=0)
    winner = fractions.argmax(axis=0)
    enough = (share >= agreement - 1e-9) & (share > 0)
    if not break_ties:
        enough &= (fractions >= share - 1e-9).sum(axis=0) == 1
    return np.where(enough, winner, -1), share

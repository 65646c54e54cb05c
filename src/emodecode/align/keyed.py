"""Rows that correspond between subjects: which key each row has, one mean row per key."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from emodecode.errors import InputError

MIN_KEYS = 3


@dataclass(frozen=True, eq=False)
class KeyedRows:
    """One subject's rows in the order of the keys; nothing is copied before it is asked for.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_voxels)
        Rows of all subjects.
    rows : ndarray of int
        The subject's rows, those of the first key first.
    starts : ndarray of shape (n_keys,), int
        Where each key begins in `rows`.
    """

    X: np.ndarray = field(repr=False)
    rows: np.ndarray = field(repr=False)
    starts: np.ndarray = field(repr=False)

    def means(self, columns: np.ndarray | None = None) -> np.ndarray:
        """Return the mean of each key's rows, (n_keys, n_columns); float32 for float32.

        It is a view of X where every key has one row and these follow each other.
        """
        X, rows = self.X, self.rows
        if len(rows) > len(self.starts):
            taken = X[rows] if columns is None else X[np.ix_(rows, columns)]
            sums = np.add.reduceat(taken.astype(np.float64), self.starts, axis=0)
            counts = np.diff(self.starts, append=len(rows))
            kind = np.float32 if X.dtype == np.float32 else np.float64
            return (sums / counts[:, None]).astype(kind, copy=False)
        if (np.diff(rows) == 1).all():
            part = X[rows[0] : rows[-1] + 1]
            return part if columns is None else part[:, columns]
        return X[rows] if columns is None else X[np.ix_(rows, columns)]

    def constant(self) -> np.ndarray:
        """Return the columns that do not vary over the subject's rows."""
        lowest, highest = self.X[self.rows[0]].copy(), self.X[self.rows[0]].copy()
        for start in range(0, len(self.rows), 64):
            part = self.X[self.rows[start : start + 64]]
            np.minimum(lowest, part.min(axis=0), out=lowest)
            np.maximum(highest, part.max(axis=0), out=highest)
        return np.flatnonzero(lowest == highest)


def common_keys(y: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Return the keys that every subject has, in the order of their names.

    Numbers within names count as numbers ("run-1 9" before "run-1 10"), so that keys that hold a
    volume are in the order of time, whatever the order of the rows.

    Raises
    ------
    InputError
        Fewer than two subjects, or fewer than three such keys.
    """
    names = np.unique(subjects)
    refuse_few_subjects(names)
    own = {str(name): set(y[subjects == name].tolist()) for name in names}
    shared = set.intersection(*own.values())
    if len(shared) < MIN_KEYS:
        raise _too_few(own, len(shared))
    return np.array(sorted(shared, key=_natural), dtype=y.dtype)


def refuse_few_subjects(names: np.ndarray) -> None:
    """Refuse to make a common space of one subject."""
    if len(names) < 2:
        raise InputError(
            "alignment",
            found=f"{len(names)} subject" + "".join(f" (sub-{name})" for name in names),
            expected="two subjects or more: a common space is what they share",
            remedy="Add subjects, or leave the alignment out.",
        )


def refuse_few_keys(subject: str, n_present: int, n_keys: int) -> None:
    """Refuse to map a subject who has too few keys of the common space."""
    if n_present < MIN_KEYS:
        raise InputError(
            f"alignment: sub-{subject}",
            found=f"{n_present} of the {n_keys} keys of the common space",
            expected=f"at least {MIN_KEYS}",
            remedy="Adapt on data that show what the common space was fitted on: the same "
            "run, or a calibration run with its classes.",
        )


def keyed_rows(
    X: np.ndarray, y: np.ndarray, keys: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, KeyedRows]:
    """Put some rows of X in the order of the keys.

    Parameters
    ----------
    X : ndarray of shape (n_rows, n_voxels)
    y : ndarray of shape (n_rows,)
        Key of each row.
    keys : ndarray of shape (n_keys,)
    rows : ndarray of int
        Those of one subject; rows with other keys are left out.

    Returns
    -------
    present : ndarray of int
        Numbers of the keys that occur, ascending.
    KeyedRows
        With these keys.
    """
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys, y[rows], sorter=order), len(keys) - 1)
    number = order[place]
    known = keys[number] == y[rows]
    number, rows = number[known], rows[known]
    by_key = np.argsort(number, kind="stable")
    present, starts = np.unique(number[by_key], return_index=True)
    return present, KeyedRows(X, rows[by_key], starts)


def as_keys(y: Sequence, *, like: np.ndarray | None = None) -> np.ndarray:
    """Return keys as an array of numbers or of text; of text if `like` is."""
    keys = np.asarray(y)
    wanted = keys if like is None else like
    return keys if wanted.dtype.kind in "iufb" else keys.astype(str)


def _natural(key: Any) -> Any:
    if not isinstance(key, str):
        return key
    parts = re.split(r"([0-9]+)", key)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], key


def _too_few(own: dict[str, set], n_shared: int) -> InputError:
    everything = set.union(*own.values())
    poorest = min(own, key=lambda name: sum(key in own[name] for key in everything))
    lacking = sorted(everything - own[poorest], key=_natural)
    named = ", ".join(map(str, lacking[:3])) + (", ..." if len(lacking) > 3 else "")
    return InputError(
        f"alignment: sub-{poorest}",
        found=f"{len(own[poorest])} of the {len(everything)} keys of all subjects"
        + (f", not {named}" if named else "")
        + f"; {n_shared} keys are in every subject",
        expected=f"at least {MIN_KEYS} keys (moments, classes) that every subject has",
        remedy="Leave this subject out, or align on runs (or classes) that all subjects share.",
    )

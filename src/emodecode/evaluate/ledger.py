"""Ledger: which samples every step of a fold was really handed, recorded on the way.

Row numbers travel with the arrays (`trace`), so that an entry says what a step got and not what
the fold meant it to get.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from emodecode.evaluate.fold import Split
from emodecode.models.rows import Rows

STEP_KINDS = {
    "columns": "model",
    "align": "alignment",
    "select": "selection",
    "scale": "scaler",
    "resample": "resampler",
    "classifier": "model",
}
"""Name of a pipeline's step -> kind in the ledger; other names are of kind ``model``."""


class TracedRows(np.ndarray):
    """Array whose first axis are rows of the sample table, with their numbers.

    Attributes
    ----------
    rows : ndarray of int64 or None
        Row number of each sample. Kept by indexing the first axis with a slice, integers or a
        boolean mask; None (unknown) after anything else, and in copies sent to another process.
        It says which rows were picked, not what was computed from them.
    """

    rows: np.ndarray | None = None

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(found, TracedRows) and self.rows is not None:
            found.rows = _picked(self.rows, index)
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        self.rows = None
        super().__setitem__(index, value)


def trace(X: np.ndarray) -> TracedRows:
    """Return a view of `X` that knows its row numbers, 0 to n_samples - 1.

    A memory map is not read. An array that is traced already comes back as it is.
    """
    return X if isinstance(X, TracedRows) else _with_rows(X, np.arange(len(X)))


def trace_like(values: np.ndarray, source: np.ndarray) -> TracedRows:
    """Return a view of `values` with the rows of `source`, of which it was computed row by row.

    With another number of samples than `source` the rows are unknown.
    """
    rows = source.rows if isinstance(source, TracedRows) else None
    return _with_rows(values, rows if rows is not None and len(rows) == len(values) else None)


class Ledger:
    """What the steps of one fold saw."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str], _Seen] = {}

    def saw(
        self,
        step: str,
        kind: str,
        X: "np.ndarray | Rows | Sequence[int] | None",
        *,
        fresh: bool | None = None,
        **extra: Any,
    ) -> None:
        """Record that a step is handed samples; what it is handed in parts adds up.

        Parameters
        ----------
        step : str
        kind : str
            ``scaler selection alignment resampler tuning early_stopping calibration cleaning
            model permutation``.
        X : ndarray or sequence of int or None
            A traced array (`trace`) or row numbers; None, or an array that is not traced: unknown.
        fresh : bool, optional
            Whether the step knew nothing before (`is_fresh`).
        **extra
            More about it, JSON only.
        """
        key = (step, kind, repr(sorted(extra.items())))
        seen = self._seen.setdefault(key, _Seen(step, kind, extra))
        seen.rows.append(_row_numbers(X))
        if fresh is not None:
            seen.fresh = fresh and seen.fresh is not False

    def fit(self, name: str, step: BaseEstimator, X: Any) -> Any:
        """Record a fit that is about to happen and return the plain array for it."""
        self.saw(name, STEP_KINDS.get(name, "model"), X, fresh=is_fresh(step))
        return X if isinstance(X, Rows) else np.asarray(X)

    def rows(self) -> np.ndarray | None:
        """Return all rows that any step saw, sorted; None where one of them is unknown."""
        return _union([rows for seen in self._seen.values() for rows in seen.rows])

    def is_fresh(self) -> bool:
        """Return whether no step is known to have been fitted before."""
        return all(seen.fresh is not False for seen in self._seen.values())

    def entries(self, split: Split) -> list[dict[str, Any]]:
        """Make the fold's part of ``fitted.json``.

        Returns
        -------
        list of dict
            ``step``, ``kind``, ``rows`` (``"train"``, ``"calibrate"`` or ``"test"`` where they are
            exactly that part of the fold, else a list of int; None: unknown), ``recorded`` (True),
            ``fresh`` where known, and what else `saw` was told.
        """
        return [seen.entry(split) for seen in self._seen.values()]


def is_fresh(step: BaseEstimator) -> bool:
    """Return whether neither a step nor an estimator within has an attribute from a fit."""
    params = step.get_params(deep=True).values() if hasattr(step, "get_params") else ()
    parts = [step, *(value for value in params if hasattr(value, "get_params"))]
    return not any(
        name.endswith("_") and not name.startswith("__") for part in parts for name in vars(part)
    )


@dataclass
class _Seen:
    step: str
    kind: str
    extra: dict[str, Any]
    rows: list[np.ndarray | None] = field(default_factory=list)
    fresh: bool | None = None

    def entry(self, split: Split) -> dict[str, Any]:
        rows = _shortened(_union(self.rows), split)
        known = {} if self.fresh is None else {"fresh": self.fresh}
        entry = {"step": self.step, "kind": self.kind, "rows": rows, "recorded": True}
        return entry | known | self.extra


def _with_rows(X: np.ndarray, rows: np.ndarray | None) -> TracedRows:
    traced = np.asanyarray(X).view(TracedRows)
    traced.rows = rows
    return traced


def _picked(rows: np.ndarray, index: Any) -> np.ndarray | None:
    """Rows that an index leaves, None where the first axis is not theirs any more."""
    first, *rest = index if isinstance(index, tuple) and index else (index,)
    others = sum(not isinstance(each, slice) for each in rest)
    if isinstance(first, slice):
        return rows[first] if others <= 1 else None
    if others or not isinstance(first, list | np.ndarray):
        return None
    first = np.asarray(first)
    if first.ndim != 1 or (first.size and first.dtype.kind not in "biu"):
        return None
    return rows[first if first.size else first.astype(np.intp)]


def _row_numbers(X: Any) -> np.ndarray | None:
    if isinstance(X, TracedRows | Rows):
        return X.rows
    numbers = None if X is None else np.asarray(X)
    if numbers is None or numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        return None
    return numbers.astype(np.int64)


def _union(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return np.unique(np.concatenate([np.empty(0, dtype=np.int64), *known]))


def _shortened(rows: np.ndarray | None, split: Split) -> "str | list[int] | None":
    if rows is None:
        return None
    for part in ("train", "calibrate", "test"):
        if rows.size and np.array_equal(rows, np.unique(getattr(split, part))):
            return part
    return rows.tolist()

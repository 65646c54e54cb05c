"""Design: who saw what when, as numbers; what splits, audit and chance read a sample table by."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from emodecode.errors import InputError

TOLERANCE_S = 1e-6
"""Slack of every comparison of times, seconds: clocks are sums of floats."""


class Codes(NamedTuple):
    """A text column as integers: ``names[code]`` is the text; code -1 means missing."""

    code: np.ndarray
    names: list[str]

    def mask(self, code: int) -> np.ndarray:
        """Rows that hold one code."""
        return self.code == code


@dataclass(frozen=True, eq=False)
class Axis:
    """Times of samples on several clocks (one code, one clock), ready for nearest neighbours.

    Parameters
    ----------
    code : ndarray of shape (n,), int
        The clock of each sample: its run, or its stimulus; -1 where it has none.
    time_s : ndarray of shape (n,), float
        Seconds on that clock; NaN where unknown.
    """

    code: np.ndarray
    time_s: np.ndarray
    position: np.ndarray = field(init=False, repr=False)
    order: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        known = np.flatnonzero(np.isfinite(self.time_s) & (self.code >= 0))
        position = np.full(len(self.code), np.nan)
        if known.size:
            times = self.time_s[known]
            span = times.max() - times.min() + 1.0
            position[known] = self.code[known] * span + (times - times.min())
        order = known[np.argsort(position[known], kind="stable")]
        object.__setattr__(self, "position", position)
        object.__setattr__(self, "order", order)

    @property
    def known(self) -> np.ndarray:
        """Samples that have a time, boolean of shape (n,)."""
        return np.isfinite(self.position)

    def nearest(self, rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the nearest target on the same clock.

        Parameters
        ----------
        rows : ndarray of shape (n_rows,), int
            Samples to look from.
        targets : ndarray of shape (n,), bool
            Samples to look for.

        Returns
        -------
        distance_s : ndarray of shape (n_rows,)
            Seconds; infinite where no target is on that clock.
        neighbour : ndarray of shape (n_rows,), int
            Row of that target, -1 where there is none.
        """
        distance = np.full(len(rows), np.inf)
        neighbour = np.full(len(rows), -1, dtype=np.int64)
        there = self.order[targets[self.order]]
        if not there.size or not len(rows):
            return distance, neighbour
        right = np.searchsorted(self.position[there], self.position[rows])
        for index in (right - 1, right):
            inside = (index >= 0) & (index < there.size) & self.known[rows]
            candidate = there[np.clip(index, 0, there.size - 1)]
            inside &= self.code[candidate] == self.code[rows]
            gap = np.where(inside, np.abs(self.time_s[candidate] - self.time_s[rows]), np.inf)
            better = gap < distance
            distance[better], neighbour[better] = gap[better], candidate[better]
        return distance, neighbour


@dataclass(frozen=True, eq=False)
class Design:
    """A sample table as integers and times.

    ``run`` is the name of a run whoever was scanned (session and run); ``scan`` is one subject's
    run; ``block`` is one block of one scan. ``tr_s`` is None where the table does not tell.
    """

    n: int
    subject: Codes
    run: Codes
    scan: Codes
    stimulus: Codes
    block: Codes
    label: Codes
    volume: np.ndarray
    onset_s: np.ndarray
    moment_s: np.ndarray
    tr_s: float | None

    @property
    def tolerance_s(self) -> float:
        """Two moments closer than this are the same: one TR, or half a second if unknown."""
        return self.tr_s if self.tr_s is not None else 0.5

    def scan_axis(self) -> Axis:
        """Onsets within each subject's run."""
        return Axis(self.scan.code, self.onset_s)

    def stimulus_axis(self) -> Axis:
        """Moments of each stimulus, whoever saw it and in whichever run."""
        return Axis(self.stimulus.code, self.moment_s)

    def describe(self, row: int) -> str:
        """``sub-03 run-1 volume 17``, for messages."""
        name = self.scan.names[self.scan.code[row]]
        volume = self.volume[row]
        return f"{name} volume {int(volume)}" if np.isfinite(volume) else f"{name} row {row}"


def read_design(table: pd.DataFrame) -> Design:
    """Read the columns of a sample table; only ``subject`` and ``label`` are required.

    Raises
    ------
    InputError
        No rows, or no such columns.
    """
    missing = [name for name in ("subject", "label") if name not in table]
    if missing or not len(table):
        raise InputError(
            "sample table",
            found=f"no column {' and '.join(missing)}" if missing else "no rows",
            expected="one row per sample with at least subject and label",
            remedy="See docs/evaluation.md for the columns; `emodecode label` writes such a table.",
        )
    subject, session = _text(table, "subject"), _text(table, "session")
    run, stimulus = _text(table, "run"), _text(table, "stimulus")
    run_name = _named(("ses", session), ("run", run))
    scan_name = _named(("sub", subject), ("ses", session), ("run", run))
    scan, volume, onset = _codes(scan_name), _numbers(table, "volume"), _numbers(table, "onset_s")
    moment = _numbers(table, "stimulus_time_s")
    return Design(
        n=len(table),
        subject=_codes(subject),
        run=_codes(run_name.where(run_name != "", "the only run")),
        scan=scan,
        stimulus=_codes(stimulus, missing="n/a"),
        block=_codes(scan_name + " block " + _text(table, "block")),
        label=_codes(_text(table, "label")),
        volume=volume,
        onset_s=onset,
        moment_s=np.where(stimulus == "n/a", np.nan, moment),
        tr_s=_infer_tr(scan.code, volume, onset),
    )


def _text(table: pd.DataFrame, name: str) -> pd.Series:
    if name not in table:
        return pd.Series("n/a", index=range(len(table)), dtype=object)
    column = table[name].reset_index(drop=True)
    return column.astype(object).where(column.notna(), "n/a").astype(str)


def _numbers(table: pd.DataFrame, name: str) -> np.ndarray:
    if name not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=float)


def _named(*parts: tuple[str, pd.Series]) -> pd.Series:
    whole = pd.Series("", index=parts[0][1].index, dtype=object)
    for prefix, value in parts:
        whole = whole + (" " + prefix + "-" + value).where(value != "n/a", "")
    return whole.str.strip()


def _codes(text: pd.Series, *, missing: str | None = None) -> Codes:
    known = text if missing is None else text.where(text != missing, None)
    code, names = pd.factorize(known.to_numpy(dtype=object), sort=True)
    return Codes(code.astype(np.int64), [str(name) for name in names])


def _infer_tr(scan: np.ndarray, volume: np.ndarray, onset: np.ndarray) -> float | None:
    order = np.lexsort((onset, scan))
    same = np.diff(scan[order]) == 0
    seconds = np.diff(onset[order])
    volumes = np.diff(volume[order])
    steps = (seconds / np.where(volumes > 0, volumes, np.nan))[same]
    if not np.isfinite(steps).any():
        steps = seconds[same]
    steps = steps[np.isfinite(steps) & (steps > TOLERANCE_S)]
    if not steps.size:
        return None
    return float(np.median(steps) if np.isfinite(volume).any() else steps.min())

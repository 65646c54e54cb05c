"""Labelled: what every label function returns, and how its table is put together."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.run import Run
from emodecode.samples import TABLE_COLUMNS

NOT_LABELLED = "n/a"
TOLERANCE_S = 1e-6
"""Slack on every comparison of times: onsets are multiples of a TR that is no round number."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels of the volumes of all runs.

    Parameters
    ----------
    table : DataFrame
        Sample table: one row per labelled volume, columns `emodecode.samples.TABLE_COLUMNS`,
        ``group`` where subjects have one, and ``p_CLASS`` where labels are soft (rows sum to 1).
    timeline : DataFrame
        For a figure: ``subject session run stimulus time_s label agreement`` and ``p_CLASS`` over
        the time of the stimulus (annotations) or of each run; ``"n/a"`` where there is no label.
    notes : sequence of str
        What was decided on the way, for the report.
    reliability : dict, optional
        How far the observers agree; see :func:`emodecode.label.reliability.rate_observers`.
    """

    table: pd.DataFrame = field(repr=False)
    timeline: pd.DataFrame = field(repr=False)
    notes: Sequence[str] = ()
    reliability: dict[str, Any] | None = field(default=None, repr=False)


def make_run_rows(
    run: Run,
    label: np.ndarray,
    *,
    stimulus: np.ndarray | str = NOT_LABELLED,
    stimulus_time_s: np.ndarray | float = np.nan,
    agreement: np.ndarray | float = np.nan,
    block: np.ndarray | None = None,
    shares: dict[str, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Rows of all volumes of a run, the unlabelled ones (``"n/a"``) included."""
    rows = pd.DataFrame(
        {
            "subject": run.subject,
            "session": run.session,
            "run": run.run,
            "volume": np.arange(run.n_volumes),
            "onset_s": run.onset_s,
            "label": label,
            "stimulus": stimulus,
            "stimulus_time_s": stimulus_time_s,
            "block": number_blocks(label, block),
            "agreement": agreement,
            "group": run.group,
        }
    )
    for name, share in (shares or {}).items():
        rows[f"p_{name}"] = share
    return rows


def number_blocks(label: np.ndarray, source: np.ndarray | None = None) -> np.ndarray:
    """Text number of the block of each volume, shape (n_volumes,); ``"n/a"`` without a label.

    A block is a contiguous stretch of one label, or of one value of `source` (events by number).
    """
    label = np.asarray(label, dtype=object)
    labelled = label != NOT_LABELLED
    if source is None:
        change = np.append(True, label[1:] != label[:-1])
        source = np.cumsum(change)
    numbers = np.full(len(label), NOT_LABELLED, dtype=object)
    for number, value in enumerate(pd.unique(np.asarray(source)[labelled]), start=1):
        numbers[labelled & (source == value)] = f"{number:02d}"
    return numbers


def join_tables(all_rows: Sequence[pd.DataFrame], *, where: str, remedy: str) -> pd.DataFrame:
    """Sample table of the labelled rows of all runs; refuses an empty one."""
    rows = pd.concat(all_rows, ignore_index=True)
    table = rows[rows["label"] != NOT_LABELLED].reset_index(drop=True)
    if table.empty:
        raise InputError(
            where,
            found=f"no labelled volume among {len(rows)}",
            expected="at least one volume with a label",
            remedy=remedy,
        )
    if (table["group"] == NOT_LABELLED).all():
        table = table.drop(columns="group")
    first = [*TABLE_COLUMNS, *(name for name in table if name not in TABLE_COLUMNS)]
    return table[first]


def make_timeline(all_rows: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Labels over the time of every run, from the rows of all its volumes."""
    rows = pd.concat(all_rows, ignore_index=True).rename(columns={"onset_s": "time_s"})
    names = ["subject", "session", "run", "stimulus", "time_s", "label", "agreement"]
    return rows[[*names, *(name for name in rows.columns if name.startswith("p_"))]]


def check_runs(runs: Sequence[Run]) -> None:
    """Refuse to label nothing."""
    if not runs:
        raise InputError(
            "labels",
            found="no runs",
            expected="at least one run",
            remedy="Check which subjects, tasks and runs the study selects.",
        )


def stimulus_of(run: Run) -> str:
    """Name of the stimulus of a run that shows one throughout: its own, or its task's."""
    named = [name for name in (run.stimulus, run.task) if name != NOT_LABELLED]
    return named[0] if named else "stimulus"

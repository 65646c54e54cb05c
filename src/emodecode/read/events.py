"""Events tables: BIDS ``events.tsv`` and FSL's three-column files."""

from collections.abc import Sequence
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.run import Run
from emodecode.samples import parse_table

MISSING = ("n/a", "")


def read_events(
    path: str | Path | Sequence[str | Path], *, format: Literal["bids", "fsl"] = "bids"
) -> pd.DataFrame:
    """Read what happened during one run.

    Parameters
    ----------
    path : path, or list of paths for ``fsl``
        ``bids``: one ``events.tsv``. ``fsl``: a folder of three-column text files, or those files;
        the name of a file without ending is its condition. Empty files are allowed, and a file
        with a single number (HCP's ``Sync.txt``) is skipped.
    format : {"bids", "fsl"}

    Returns
    -------
    DataFrame
        Sorted by onset: ``onset_s``, ``duration_s`` (NaN for ``n/a``), ``trial_type`` (text, "n/a"
        where the table has none) and the other columns. A column of numbers becomes numeric, but
        whole numbers with gaps or leading zeros stay text: they are mostly identifiers and keep
        their spelling. For ``fsl`` there is ``amplitude``.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        A column is missing, an onset or duration is no number, or a duration is negative.
    """
    events = _read_fsl(path) if format == "fsl" else _read_bids(Path(path))  # type: ignore[arg-type]
    return events.sort_values("onset_s", kind="stable", ignore_index=True)


def check_events(run: Run, *, late: Literal["error", "drop"] = "error") -> tuple[pd.DataFrame, str]:
    """Events of a run that start before its last volume ends.

    Parameters
    ----------
    run : Run
        With `events`; without, the table is empty.
    late : {"error", "drop"}
        What to do about events that start at or after ``run.end_s``.

    Returns
    -------
    events : DataFrame
    note : str
        What was dropped or cannot be labelled; empty if nothing.

    Raises
    ------
    InputError
        Events are late and `late` is "error", or all of them are.
    """
    if run.events is None:
        return pd.DataFrame({"onset_s": [], "duration_s": [], "trial_type": []}), ""
    events = run.events
    is_late = events["onset_s"].to_numpy() >= run.end_s
    n_late, n_events = int(is_late.sum()), len(events)
    notes = []
    if n_late:
        worst = float(events["onset_s"].max())
        found = (
            f"{n_late} of {n_events} events start after the last volume "
            f"(onset_s {worst:g}, run ends at {run.end_s:.1f})"
        )
        if late == "error" or n_late == n_events:
            remedy = f"Check tr_s = {run.tr_s:g} and that the events are in seconds"
            if n_late < n_events:
                remedy += ", or set labels.late_events = 'drop'"
            raise InputError(
                run.name,
                found=found,
                expected="events within the run",
                remedy=remedy + ".",
            )
        notes.append(found + ": dropped")
    n_open = int(np.isnan(events["duration_s"].to_numpy(dtype=float)[~is_late]).sum())
    if n_open:
        notes.append(f"{n_open} of {n_events} events have no duration (n/a)")
    note = f"{run.name}: {'; '.join(notes)}" if notes else ""
    return events[~is_late].reset_index(drop=True), note


def attach_events(
    runs: Sequence[Run], *, pattern: str, format: Literal["bids", "fsl"] = "bids"
) -> list[Run]:
    """Give runs the events that lie outside their BIDS folder.

    Parameters
    ----------
    runs : sequence of Run
    pattern : str
        Path with ``{subject}``, ``{session}``, ``{task}`` and ``{run}`` in it, and globs (``*``).
        For ``fsl`` it names a folder (HCP: ``{subject}/tfMRI_EMOTION_{run}/EVs``) or files.
    format : {"bids", "fsl"}

    Returns
    -------
    list of Run

    Raises
    ------
    DataMissingError
        A run has no such file.
    InputError
        Several tables for one run, and what `read_events` refuses.
    """
    return [replace(run, events=_events_of(run, pattern, format)) for run in runs]


def _events_of(run: Run, pattern: str, format: Literal["bids", "fsl"]) -> pd.DataFrame:
    path = pattern
    for name in ("subject", "session", "task", "run"):
        path = path.replace("{" + name + "}", getattr(run, name))
    found = [Path(item) for item in sorted(glob(path))]  # noqa: PTH207 (absolute patterns)
    if not found:
        raise DataMissingError(
            run.name,
            found=f"no {path}",
            expected="the events of this run",
            remedy="Check labels.events_path.",
        )
    if len(found) == 1:
        return read_events(found[0], format=format)
    if format == "bids":
        raise InputError(
            run.name,
            found=f"{len(found)} tables of events ({found[0].name}, {found[1].name}, ...)",
            expected="one",
            remedy="Make labels.events_path more specific.",
        )
    return read_events(found, format=format)


def _read_bids(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise _no_file(path, "an events.tsv")
    try:
        table = parse_table(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise InputError(
            str(path),
            found=f"no table ({str(error).strip()})",
            expected="tab-separated text with a header line",
            remedy="Open the file; a line may have more columns than the header.",
        ) from error
    table.columns = [str(name).strip() for name in table.columns]
    missing = [name for name in ("onset", "duration") if name not in table]
    if missing:
        raise InputError(
            str(path),
            found=f"no column {' and '.join(missing)} (it has {', '.join(table.columns)})",
            expected="the columns onset and duration, in seconds",
            remedy="Rename the columns; they must be separated by tabs.",
        )
    events = pd.DataFrame(
        {
            "onset_s": _seconds(table["onset"], path, column="onset", first_row=2),
            "duration_s": _seconds(
                table["duration"], path, column="duration", first_row=2, missing=True
            ),
        }
    )
    _refuse_negative(events["duration_s"], path, first_row=2)
    trial_type = table["trial_type"] if "trial_type" in table else pd.Series("n/a", table.index)
    events["trial_type"] = _as_text(trial_type)
    for name in table.columns.difference(["onset", "duration", "trial_type"], sort=False):
        events[name] = _as_column(table[name])
    return events


def _read_fsl(path: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    if isinstance(path, (str, Path)):
        folder = Path(path)
        files = sorted(folder.glob("*.txt")) if folder.is_dir() else [folder]
        if not files:
            raise _no_file(folder, "a folder of three-column .txt files")
    else:
        files = [Path(item) for item in path]
    tables = [_read_three_columns(file) for file in files]
    kept = [table for table in tables if table is not None]
    if not kept:
        raise _no_file(files[0].parent, "a folder of three-column .txt files")
    filled = [table for table in kept if len(table)]
    return pd.concat(filled or kept[:1], ignore_index=True)


def _read_three_columns(path: Path) -> pd.DataFrame | None:
    if not path.is_file():
        raise _no_file(path, "a three-column text file")
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = [(number, line.split()) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(rows) == 1 and len(rows[0][1]) == 1:
        return None
    for number, row in rows:
        if len(row) != 3:
            raise InputError(
                f"{path} line {number}",
                found=f"{len(row)} columns",
                expected="three: onset, duration, amplitude",
                remedy="Name only three-column files in labels.events_path.",
            )
    numbers = [number for number, _ in rows]
    columns = [pd.Series([row[k] for _, row in rows], index=numbers, dtype=str) for k in range(3)]
    events = pd.DataFrame(
        {
            "onset_s": _seconds(columns[0], path, column="onset"),
            "duration_s": _seconds(columns[1], path, column="duration"),
            "trial_type": path.stem,
            "amplitude": _seconds(columns[2], path, column="amplitude"),
        }
    )
    _refuse_negative(events["duration_s"], path)
    return events


def _seconds(
    texts: pd.Series, path: Path, *, column: str, first_row: int = 0, missing: bool = False
) -> pd.Series:
    """Numbers of a column; `first_row` is the line in the file of index 0."""
    values = pd.to_numeric(texts.str.strip(), errors="coerce").astype(float)
    allowed = texts.str.strip().isin(MISSING) if missing else pd.Series(False, texts.index)
    wrong = ~np.isfinite(values) & ~allowed
    if wrong.any():
        row = texts.index[wrong][0]
        raise InputError(
            f"{path} line {row + first_row}",
            found=f"{column} = {texts[row]!r} ({int(wrong.sum())} such rows)",
            expected="a number of seconds" + (" or n/a" if missing else ""),
            remedy="Correct the row or delete it.",
        )
    return values


def _refuse_negative(durations: pd.Series, path: Path, *, first_row: int = 0) -> None:
    negative = durations < 0
    if negative.any():
        row = durations.index[negative][0]
        raise InputError(
            f"{path} line {row + first_row}",
            found=f"duration = {durations[row]:g} ({int(negative.sum())} such rows)",
            expected="a duration of 0 s or more",
            remedy="Correct the row or delete it.",
        )


def _as_text(texts: pd.Series) -> pd.Series:
    stripped = texts.str.strip()
    return stripped.where(~stripped.isin(MISSING), "n/a")


def _as_column(texts: pd.Series) -> pd.Series:
    """Numbers where all values are numbers whose spelling does not matter, else text."""
    text = _as_text(texts)
    known = text[text != "n/a"]
    numbers = pd.to_numeric(known, errors="coerce")
    if known.empty or numbers.isna().any():
        return text
    whole = known.str.fullmatch(r"[+-]?\d+")
    if whole.all():
        padded = known.str.fullmatch(r"[+-]?0\d+")
        return text if padded.any() or len(known) < len(text) else text.astype("int64")
    return pd.to_numeric(text.where(text != "n/a"), errors="coerce").astype(float)


def _no_file(path: Path, expected: str) -> DataMissingError:
    return DataMissingError(
        str(path),
        found="no such file" if not path.exists() else "nothing to read in it",
        expected=expected,
        remedy="Check the path of the events.",
    )

"""Annotations: what observers judged about a stimulus over time."""

import difflib
import os
from pathlib import Path

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.samples import parse_table

ANNOTATION_COLUMNS = (
    "observer",
    "start_s",
    "end_s",
    "character",
    "arousal",
    "valence",
    "direction",
    "emotion",
)
"""Columns of every annotation table; text is ``"n/a"`` where it is missing."""

RATING_ROWS = ("time_s", "onset", "time")
VOLUME_ROWS = ("tr", "volume")


def read_annotations(
    path: str | os.PathLike,
    *,
    pattern: str = "*.csv",
    format: str = "studyforrest",
    variable: str = "emotion",
) -> pd.DataFrame:
    """Read judgements with a start and an end, one file an observer.

    Parameters
    ----------
    path : folder or file
        In a folder, the files that match `pattern`, in the order of their names.
    pattern : str
        Which files of the folder (``"av1o*.csv"``).
    format : {"studyforrest", "bids"}
        ``studyforrest``: CSV with columns start, end (seconds), character, arousal, valence,
        direction, emotion; several emotions of one row are separated by spaces. ``bids``: events
        tables (onset, duration, and a column named `variable` or trial_type); the observer comes
        from a column ``observer`` or ``rater``, else every file is one.
    variable : str, default "emotion"
        What a ``bids`` table judges.

    Returns
    -------
    DataFrame
        Columns `ANNOTATION_COLUMNS`, rows in the order of the files. ``start_s`` and ``end_s`` are
        on the clock of the stimulus. Rows without an emotion are kept (``"n/a"``). For another
        `variable` of a ``bids`` table there is a column of that name.

    Raises
    ------
    DataMissingError
        No such path, or no file that matches.
    InputError
        A missing column, a row that ends before it starts, an observer without rows.

    References
    ----------
    Labs et al. (2015), F1000Research 4:92: emotions that characters portray, not felt ones.
    """
    if format not in ("studyforrest", "bids"):
        raise InputError(
            str(path),
            found=f"annotation format {format!r}",
            expected="studyforrest or bids",
            remedy="Correct labels.annotation_format.",
        )
    tables = []
    for file in _matching_files(Path(path), pattern):
        rows = _read_rows(file)
        if format == "studyforrest":
            tables.append(_studyforrest(rows, file))
        else:
            tables.append(_bids(rows, file, variable))
    return pd.concat(tables, ignore_index=True)


def read_ratings(
    path: str | os.PathLike,
    *,
    variable: str,
    rate_hz: float | None = None,
    run_column: str | None = None,
) -> pd.DataFrame:
    """Read continuous ratings.

    Parameters
    ----------
    path : file
        CSV or TSV with a column `variable` (one rater) or columns that begin with it
        (``valence_1``, ``valence_2``: one rater each), or a ``.mat`` file with a matrix raters x
        time under the key `variable` or, if it has no such key, its only matrix.
    variable : str
        What was rated.
    rate_hz : float, optional
        Ratings a second. Without it a column ``time_s``, ``onset`` or ``time`` gives the times, or
        a column ``tr`` or ``volume`` says that there is one row per volume.
    run_column : str, optional
        Column with the run of each row; time then counts from the start of each run.

    Returns
    -------
    DataFrame
        ``run`` (``"n/a"`` without `run_column`), ``time_s`` (NaN for one row per volume),
        ``volume`` (index in the run's file; -1 when times are given) and one column per rater,
        named ``rater-1``, ``rater-2``, ...; a rating holds from its time to the next one.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        An unknown variable or run column (the nearest name is given), or no rate.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a CSV, TSV or .mat file of ratings",
            remedy="Check labels.path.",
        )
    if rate_hz is not None and not rate_hz > 0:
        raise _rate_error(path, f"rate_hz = {rate_hz}")
    if path.suffix.lower() == ".mat":
        return _mat_ratings(path, variable, rate_hz)
    rows = _read_rows(path)
    raters = [n for n in rows.columns if n == variable or n.startswith(f"{variable}_")]
    if not raters:
        raise _unknown(path, variable, list(rows), "column")
    if run_column is not None and run_column not in rows:
        raise _unknown(path, run_column, list(rows), "column")
    runs = to_texts(rows[run_column]) if run_column else pd.Series("n/a", index=rows.index)
    table = pd.DataFrame({"run": runs, "time_s": np.nan, "volume": -1})
    time_column = next((name for name in RATING_ROWS if name in rows), None)
    in_run = table.groupby("run").cumcount()
    if rate_hz is not None:
        table["time_s"] = in_run / rate_hz
    elif time_column is not None:
        table["time_s"] = _numbers(rows, time_column, path)
    elif any(name in rows for name in VOLUME_ROWS):
        table["volume"] = in_run
    else:
        raise _rate_error(path, "no rate, and no column time_s, onset, tr or volume")
    for number, name in enumerate(raters, start=1):
        table[f"rater-{number}"] = _numbers(rows, name, path, missing=True)
    return table


def _matching_files(path: Path, pattern: str) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.exists() and not path.is_symlink():
        raise DataMissingError(
            str(path),
            found="no such folder",
            expected="a folder of annotation files",
            remedy="Check labels.path; `emodecode fetch` can get StudyForrest's.",
        )
    files = sorted(path.glob(pattern))
    if not files:
        there = sorted(p.name for p in path.iterdir())[:3] if path.is_dir() else []
        raise DataMissingError(
            str(path),
            found=f"no file matches {pattern!r}, so there is no observer",
            expected=f"one file an observer (the folder holds {', '.join(there) or 'nothing'})",
            remedy="Check labels.path and labels.pattern.",
        )
    return files


def _read_rows(file: Path) -> pd.DataFrame:
    if not file.exists():
        raise DataMissingError(
            str(file),
            found="a link to content that is not there",
            expected="the file itself",
            remedy="Not downloaded: run `datalad get` on it.",
        )
    separator = "\t" if file.suffix.lower() == ".tsv" else ","
    try:
        rows = parse_table(file, sep=separator, na_values=["n/a", "N/A"])
    except ValueError as error:
        raise InputError(
            str(file),
            found=f"not readable ({str(error).strip()})",
            expected="a table with a header line",
            remedy="Open the file and correct it, or narrow labels.pattern.",
        ) from error
    if rows.empty:
        raise InputError(
            str(file),
            found="no rows below the header",
            expected="at least one judgement of this observer",
            remedy="Leave the file out (labels.pattern) if the observer judged nothing.",
        )
    return rows


def _studyforrest(rows: pd.DataFrame, file: Path) -> pd.DataFrame:
    needed = ("start", "end", *ANNOTATION_COLUMNS[3:])
    for name in needed:
        if name not in rows:
            raise _unknown(file, name, list(rows), "column")
    table = pd.DataFrame({"observer": file.stem}, index=rows.index)
    table["start_s"] = _numbers(rows, "start", file)
    table["end_s"] = _numbers(rows, "end", file)
    for name in ANNOTATION_COLUMNS[3:]:
        table[name] = to_texts(rows[name])
    return _checked(table, file)


def _bids(rows: pd.DataFrame, file: Path, variable: str) -> pd.DataFrame:
    for name in ("onset", "duration"):
        if name not in rows:
            raise _unknown(file, name, list(rows), "column")
    judged = variable if variable in rows else "trial_type"
    if judged not in rows:
        raise _unknown(file, variable, list(rows), "column")
    by = next((name for name in ("observer", "rater") if name in rows), None)
    table = pd.DataFrame({"observer": to_texts(rows[by]) if by else file.stem}, index=rows.index)
    table["start_s"] = _numbers(rows, "onset", file)
    table["end_s"] = table["start_s"] + _numbers(rows, "duration", file)
    for name in ANNOTATION_COLUMNS[3:]:
        table[name] = to_texts(rows[name]) if name in rows else "n/a"
    table[variable] = to_texts(rows[judged])
    return _checked(table, file)


def _checked(table: pd.DataFrame, file: Path) -> pd.DataFrame:
    wrong = np.flatnonzero((table["end_s"] < table["start_s"]).to_numpy())
    if len(wrong):
        row = table.iloc[wrong[0]]
        raise InputError(
            str(file),
            found=f"{len(wrong)} of {len(table)} rows end before they start, first row "
            f"{wrong[0] + 1}: start {row.start_s:g} s, end {row.end_s:g} s",
            expected="start <= end in seconds",
            remedy="Correct these rows.",
        )
    return table


def _mat_ratings(path: Path, variable: str, rate_hz: float | None) -> pd.DataFrame:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except (ValueError, NotImplementedError, OSError) as error:
        raise InputError(
            str(path),
            found=f"not readable ({error})",
            expected="a MATLAB file up to version 7.2",
            remedy="Save it again with -v7, or as CSV.",
        ) from error
    matrices = {
        key: np.asarray(value, dtype=float)
        for key, value in content.items()
        if isinstance(value, np.ndarray) and value.ndim == 2 and value.dtype.kind in "fiub"
    }
    if variable not in matrices and len(matrices) != 1:
        raise _unknown(path, variable, list(matrices), "matrix")
    matrix = matrices.get(variable, next(iter(matrices.values())))
    if rate_hz is None:
        raise _rate_error(path, "a matrix without the times of its columns")
    if matrix.shape[0] > matrix.shape[1]:
        matrix = matrix.T
    table = pd.DataFrame({"run": "n/a", "time_s": np.arange(matrix.shape[1]) / rate_hz})
    table["volume"] = -1
    for number, course in enumerate(matrix, start=1):
        table[f"rater-{number}"] = course
    return table


def to_texts(column: pd.Series) -> pd.Series:
    """Text of every value: numbers without a needless ``.0``, ``"n/a"`` where it is missing."""
    if column.dtype.kind == "f" and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")
    texts = column.astype("string").str.strip().str.split().str.join(" ")
    return texts.mask(texts == "").fillna("n/a").astype(object)


def _numbers(rows: pd.DataFrame, name: str, file: Path, *, missing: bool = False) -> pd.Series:
    numbers = pd.to_numeric(rows[name], errors="coerce")
    bad = ~np.isfinite(numbers)
    if missing:
        bad &= rows[name].notna()
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise InputError(
            str(file),
            found=f"{int(bad.sum())} of {len(rows)} values of {name} are no numbers, "
            f"first row {row + 1}: {rows[name].iloc[row]!r}",
            expected="seconds" if not missing else "numbers or n/a",
            remedy="Correct these rows.",
        )
    return numbers.astype(float)


def _unknown(path: Path, name: str, known: list, what: str) -> InputError:
    names = [str(item) for item in known]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    return InputError(
        str(path),
        found=f"no {what} {name!r}",
        expected=f"one of {', '.join(names) or 'none'}",
        remedy=f"Did you mean {near[0]!r}?" if near else f"Name a {what} that is there.",
    )


def _rate_error(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        found=found,
        expected="ratings a second, or the time of each row",
        remedy="Set labels.rate_hz (0.5 for one rating every 2 s).",
    )

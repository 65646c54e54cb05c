"""CSV and TSV tables of features, one row a sample -> Samples."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.read.tablefile import (
    TableFile,
    few,
    fits,
    open_table,
    plain,
    read_lines,
    read_numbers,
    read_text,
)
from emodecode.samples import TABLE_COLUMNS, Samples

_IDS = ("subject", "label", "run", "stimulus")


def read_feature_tables(
    path: str | os.PathLike,
    *,
    files: Sequence[str],
    labels_file: str | None = None,
    subject: str = "subject",
    label: str = "label",
    run: str | None = None,
    stimulus: str | None = None,
    rows_per_subject: int | None = None,
    rows_per_run: int | None = None,
    features: Sequence[str] | None = None,
    ignore: Sequence[str] = (),
    exclude: Mapping[str, str] | None = None,
) -> tuple[Samples, list[str]]:
    """Read feature tables.

    Parameters
    ----------
    path : folder
    files : list of str
        CSV or TSV files in `path` (also ``.gz``). Several hold the same rows with other columns:
        they are put side by side, and their columns are called ``FILE:COLUMN``. A first row of
        nothing but numbers is data: such a file has no header.
    labels_file : str, optional
        Table with the labels (and, if it has such columns, subjects and runs) of the same rows; a
        single column is the label, whatever its name.
    subject, label, run, stimulus : str
        Names of the columns that identify a row.
    rows_per_subject, rows_per_run : int, optional
        Instead of columns: rows of the first subject, then of the second, ... They are then
        called ``01``, ``02``, ...
    features : list of str, optional
        Globs of column names; only these columns are features.
    ignore : list of str
        Globs of column names that are no features.
    exclude : dict, optional
        Subject -> reason for leaving its rows out.

    Returns
    -------
    samples : Samples
        ``X`` of shape (n_rows, n_features), float32; each row is a block of its own; there is no
        mask and no time.
    notes : list of str
        What had to be decided.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        Tables that contradict each other, columns that are no numbers, missing values.
    """
    folder = Path(path)
    notes: list[str] = []
    tables = [open_table(folder / name) for name in files]
    _require_unique_stems(tables)
    columns = {"subject": subject, "label": label, "run": run, "stimulus": stimulus}
    counted = {"subject": rows_per_subject, "run": rows_per_run}
    _refuse_two_sources(tables, columns, counted)
    labels = None if labels_file is None else open_table(folder / labels_file)
    _require_ids([*tables, *([labels] if labels else [])], columns, counted, labels)
    known = {name for name in columns.values() if name}
    parts = [
        _read_features(table, known, features, ignore, several=len(tables) > 1, notes=notes)
        for table in tables
    ]
    _require_all_used("features", features or (), tables)
    _require_all_used("ignore", ignore, tables)
    for file, part in zip(tables, parts, strict=True):
        _require_rows(file.path, len(part), tables[0].path, len(parts[0]))
    sources = [
        read_text(file, [n for n in file.names if n in known or fits(file, n, ignore)])
        for file in tables
    ]
    if labels is not None:
        sources.insert(0, _read_labels(labels, label, len(parts[0])))
    ids = _identify(sources, columns, counted, len(parts[0]), [t.path.name for t in tables], notes)
    table = _sample_table(ids)
    X = np.concatenate([part.to_numpy(dtype=np.float32) for part in parts], axis=1)
    names = tuple(str(name) for part in parts for name in part.columns)
    keep = _not_excluded(table["subject"], exclude or {}, notes)
    table, X = table[keep].reset_index(drop=True), np.ascontiguousarray(X[keep])
    notes += _remarks(X, names, table, where=", ".join(file.path.name for file in tables))
    history = {
        "operation": "read_feature_tables",
        "files": list(files),
        "labels_file": labels_file,
        "exclude": dict(exclude or {}),
    }
    return Samples(X=X, table=table, features=names, history=(history,)), notes


def _read_features(
    table: TableFile,
    known: set[str],
    features: Sequence[str] | None,
    ignore: Sequence[str],
    *,
    several: bool,
    notes: list[str],
) -> pd.DataFrame:
    chosen = [
        name
        for name in table.names
        if name not in known
        and not fits(table, name, ignore)
        and (features is None or fits(table, name, features))
    ]
    frame = read_numbers(table, chosen, notes=notes)
    return frame.add_prefix(f"{table.stem}:") if several else frame


# --- several files -------------------------------------------------------------------------------


def _require_unique_stems(tables: Sequence[TableFile]) -> None:
    stems = [table.stem for table in tables]
    doubled = sorted({stem for stem in stems if stems.count(stem) > 1})
    if doubled or not stems:
        raise InputError(
            "data.files",
            found=f"{doubled[0]} twice" if doubled else "no file",
            expected="one or more files of different names",
            remedy="Correct data.files; the names of the columns begin with those of the files.",
        )


def _refuse_two_sources(tables, columns, counted) -> None:
    for what, rows in counted.items():
        name = columns[what]
        if rows and name and any(name in table.names for table in tables):
            raise InputError(
                f"data.rows_per_{what}",
                found=f"rows_per_{what} = {rows}, and a column {name!r}",
                expected=f"one of them to tell the {what}",
                remedy=f"Remove data.rows_per_{what}.",
            )


def _require_all_used(setting: str, globs: Sequence[str], tables: Sequence[TableFile]) -> None:
    for glob in globs:
        if not any(fits(table, name, [glob]) for table in tables for name in table.names):
            raise InputError(
                f"data.{setting}",
                found=f"no column fits {glob!r}",
                expected=f"names or globs of columns ({few(tables[0].names)})",
                remedy=f"Correct data.{setting}.",
            )


def _require_rows(path: Path, n_rows: int, other: Path, n_other: int) -> None:
    if n_rows != n_other:
        raise InputError(
            str(path),
            found=f"{n_rows} rows, but {n_other} in {other.name}",
            expected="the same rows in all files",
            remedy="Bring the files to the same rows in the same order.",
        )


def _require_ids(tables, columns, counted, labels: TableFile | None) -> None:
    for what, name in columns.items():
        if name is None or counted.get(what) or any(name in table.names for table in tables):
            continue
        if what == "label" and labels is not None and len(labels.names) == 1:
            continue
        raise InputError(
            ", ".join(table.path.name for table in tables),
            found=f"no column {name!r} (data.{what}); there are {few(tables[-1].names)}",
            expected=f"the {what} of each row",
            remedy=f"Correct data.{what}"
            + (f", or set data.rows_per_{what}." if what in counted else "."),
        )


def _read_labels(table: TableFile, label: str, n_rows: int) -> pd.DataFrame:
    """Table of labels; of a single column, the number of rows tells if there is a header."""
    if len(table.names) == 1:
        values = [plain(text).strip("\"'") for text in read_lines(table.path)]
        has_header = len(values) == n_rows + 1
        frame = pd.DataFrame({label: values[1:] if has_header else values}, dtype=str)
    else:
        frame = read_text(table, table.names)
    _require_rows(table.path, len(frame), Path("the features"), n_rows)
    return frame


# --- who and what each row is --------------------------------------------------------------------


def _identify(
    sources: Sequence[pd.DataFrame],
    columns: Mapping[str, str | None],
    counted: Mapping[str, int | None],
    n_rows: int,
    files: Sequence[str],
    notes: list[str],
) -> pd.DataFrame:
    """Subject, label, run and stimulus of each row, from the first source that has them."""
    where = ", ".join(files)
    ids = pd.DataFrame(dict.fromkeys(_IDS, "n/a"), index=range(n_rows), dtype=str)
    for what in _IDS:
        name = columns[what]
        if name is None or counted.get(what):
            continue
        found = [source[name] for source in sources if name in source]
        for other in found[1:]:
            _require_same(where, name, found[0], other)
        ids[what] = found[0].to_numpy()
        _require_filled(where, name, ids[what])
    _note_doubts(sources, {name for name in columns.values() if name}, notes)
    ids["label"] = _whole_numbers(ids["label"])
    if counted["subject"]:
        ids["subject"] = _count_off(where, "subject", n_rows, counted["subject"])
    if counted["run"]:
        for rows in ids.groupby("subject", sort=False).groups.values():
            ids.loc[rows, "run"] = _count_off(where, "run", len(rows), counted["run"])
    return ids


def _count_off(where: str, what: str, n_rows: int, rows_each: int) -> list[str]:
    if n_rows % rows_each:
        raise InputError(
            where,
            found=f"{n_rows} rows" + (" of a subject" if what == "run" else ""),
            expected=f"a multiple of rows_per_{what} = {rows_each}",
            remedy=f"Correct data.rows_per_{what}, or add a column {what!r}.",
        )
    width = max(2, len(str(n_rows // rows_each)))
    return [f"{row // rows_each + 1:0{width}d}" for row in range(n_rows)]


def _whole_numbers(labels: pd.Series) -> pd.Series:
    """Labels that NumPy wrote as ``2.000000000000000000e+00`` are called ``2``."""
    if labels.str.fullmatch(r"\d+").all():
        return labels
    numbers = pd.to_numeric(labels, errors="coerce")
    if numbers.notna().all() and (numbers == numbers.round()).all():
        return numbers.astype(int).astype(str)
    return labels


def _require_same(where: str, name: str, first: pd.Series, other: pd.Series) -> None:
    different = np.flatnonzero(first.to_numpy() != other.to_numpy())
    if len(different):
        row = different[0]
        raise InputError(
            where,
            found=f"{len(different)} rows differ in {name!r}; row {row + 1} is {first.iloc[row]!r} "
            f"in one file and {other.iloc[row]!r} in another",
            expected="the same rows in the same order in all files",
            remedy="Sort the files alike.",
        )


def _require_filled(where: str, name: str, values: pd.Series) -> None:
    empty = np.flatnonzero(values.isin(["", "n/a", "nan", "NaN"]))
    if len(empty):
        raise InputError(
            where,
            found=f"{len(empty)} rows without {name!r}, the first is row {empty[0] + 1}",
            expected="a value in every row",
            remedy="Complete or delete those rows.",
        )


def _note_doubts(sources: Sequence[pd.DataFrame], known: set[str], notes: list[str]) -> None:
    """Columns that files share beside the identifying ones should agree too."""
    for source in sources[1:]:
        for name in source.columns.intersection(sources[0].columns):
            if name not in known and not pd.to_numeric(source[name], errors="coerce").notna().any():
                row = np.flatnonzero(source[name].to_numpy() != sources[0][name].to_numpy())
                if len(row):
                    notes.append(
                        f"column {name!r} differs between files, first in row {row[0] + 1}: "
                        "are their rows in the same order?"
                    )


def _sample_table(ids: pd.DataFrame) -> pd.DataFrame:
    table = ids.assign(session="n/a", onset_s=np.nan, stimulus_time_s=np.nan, agreement=np.nan)
    table["volume"] = table.groupby(["subject", "run"]).cumcount()
    width = max(2, len(str(int(table["volume"].max()) + 1)))
    table["block"] = [f"{volume + 1:0{width}d}" for volume in table["volume"]]
    return table[list(TABLE_COLUMNS)]


def _not_excluded(subjects: pd.Series, exclude: Mapping[str, str], notes: list[str]) -> np.ndarray:
    there = sorted(set(subjects))
    unknown = [name for name in exclude if name not in there]
    if unknown or not set(there) - set(exclude):
        raise InputError(
            "data.exclude",
            found=f"no rows of subject {', '.join(unknown)}" if unknown else "all subjects",
            expected=f"some of {few(there)}",
            remedy="Correct data.exclude; names are compared as they are written.",
        )
    notes += [f"sub-{name} left out: {reason}" for name, reason in exclude.items()]
    return ~subjects.isin(list(exclude)).to_numpy()


def _remarks(X: np.ndarray, names: Sequence[str], table: pd.DataFrame, *, where: str) -> list[str]:
    subjects = table["subject"].nunique()
    notes = [f"{len(X)} rows, {X.shape[1]} features, {subjects} subjects"]
    if len(X) > 1:
        constant = [name for name, span in zip(names, np.ptp(X, axis=0), strict=True) if span == 0]
        if len(constant) == len(names):
            raise InputError(
                where,
                found=f"all {len(names)} features are constant over {len(X)} rows",
                expected="features that differ between samples",
                remedy="Check data.features and data.ignore, and how the table was made.",
            )
        if constant:
            notes.append(f"{len(constant)} features are constant: {few(constant)}")
    if subjects == 1:
        notes.append("there is one subject only: nothing can be said about other people")
    return notes

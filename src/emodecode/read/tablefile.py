"""One CSV or TSV file: separator, header, its columns as text or as numbers."""

import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.samples import parse_table

_SEPARATORS = {".tsv": "\t", ".csv": ","}
_UNNAMED = "(unnamed) "


@dataclass(frozen=True)
class TableFile:
    """One table: where it is, how it is written, what its columns are called."""

    path: Path
    separator: str
    names: tuple[str, ...]
    has_header: bool

    @property
    def stem(self) -> str:
        """File name without its suffixes."""
        return self.path.name.removesuffix(".gz").rsplit(".", 1)[0]


def open_table(path: Path) -> TableFile:
    """Find out how a table is written; the names of its columns must differ."""
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a CSV or TSV table",
            remedy="Correct data.path or data.files.",
        )
    separator = _separator(path)
    first = _parse(path, sep=separator, header=None, nrows=2, dtype=str, keep_default_na=False)
    names = [plain(name) for name in first.iloc[0]]
    has_header = _is_header(names)
    if has_header:
        unnamed = [n for n, name in enumerate(names) if not name or name.startswith("Unnamed: ")]
        names = [f"{_UNNAMED}{n}" if n in unnamed else name for n, name in enumerate(names)]
    else:
        names = [f"column_{number + 1}" for number in range(len(names))]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise InputError(
            str(path),
            found=f"{names.count(doubled[0])} columns called {doubled[0]!r}",
            expected="a name of its own for each column",
            remedy="Rename them.",
        )
    return TableFile(path, separator, tuple(names), has_header)


def _is_header(cells: Sequence[str]) -> bool:
    """Words are a header; so is the 0, 1, 2, ... that pandas writes over unnamed columns."""
    numbers = pd.to_numeric(pd.Series(cells), errors="coerce").to_numpy(dtype=float)
    words = [cell for cell, n in zip(cells, numbers, strict=True) if np.isnan(n)]
    if any(word.lower() not in ("", "nan", "na", "n/a") for word in words):
        return True
    counted = numbers[1:] if cells[0] == "" else numbers
    return len(counted) > 1 and np.array_equal(counted, np.arange(len(counted)))


def _separator(path: Path) -> str:
    line = read_lines(path, first=True)[0]
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    usual = _SEPARATORS.get(suffix, ",")
    return usual if usual in line else max((",", "\t", ";", " "), key=line.count)


def read_lines(path: Path, *, first: bool = False) -> list[str]:
    """Lines of a file, without the empty ones at its end; at least one; or the first only."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as file:
            lines = (file.readline() if first else file.read()).rstrip("\r\n").splitlines()
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise _broken(path, f"it cannot be read ({error})") from error
    if not lines:
        raise _broken(path, "it is empty")
    return lines


def plain(name: str) -> str:
    """Name without the marks of a printed Python bytes object: ``b'Vis_1'`` -> ``Vis_1``."""
    return re.sub(r"""^b(['"])(.*)\1$""", r"\2", str(name).strip())


def _parse(path: Path, **options) -> pd.DataFrame:
    """Let pandas read; whatever it finds wrong becomes an InputError with its line."""
    try:
        return parse_table(path, **options)
    except (ValueError, EOFError, OSError) as error:
        raise _broken(path, f"it cannot be read ({error})") from error


def _broken(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        found=found,
        expected="a complete CSV or TSV table in UTF-8, rows of equal length",
        remedy="Open it in an editor and correct that place, or copy it again.",
    )


def _body(table: TableFile, names: Sequence[str], **options) -> pd.DataFrame:
    # All columns are read: with `usecols` pandas cuts rows that are too long without a word.
    body = _parse(
        table.path,
        sep=table.separator,
        header=None,
        names=list(table.names),
        skiprows=1 if table.has_header else 0,
        low_memory=False,
        **options,
    )
    return body[list(names)]


def read_text(table: TableFile, names: Sequence[str]) -> pd.DataFrame:
    """Columns as text, stripped; leading zeros and ``NA`` stay as they are written."""
    if not names:
        return pd.DataFrame()
    frame = _body(table, names, dtype=str, keep_default_na=False)
    return frame.apply(lambda column: column.str.strip())


def read_numbers(table: TableFile, names: Sequence[str], *, notes: list[str]) -> pd.DataFrame:
    """Columns that must be numbers; columns without a name are left out with a note."""
    unnamed = [name for name in names if name.startswith(_UNNAMED)]
    if unnamed:
        names = [name for name in names if name not in unnamed]
        notes.append(f"{table.path.name}: {len(unnamed)} columns without a name were left out")
    if not names:
        raise InputError(
            str(table.path),
            found=f"no feature among its columns ({few(table.names)})",
            expected="at least one column of numbers",
            remedy="Correct data.features or data.ignore.",
        )
    frame = _body(table, names, skipinitialspace=True)
    if frame.empty:
        raise _broken(table.path, "it has no rows below its header")
    text = [str(name) for name in frame if frame[name].dtype.kind not in "fiu"]
    if text:
        example = frame[text[0]].iloc[0]
        raise InputError(
            str(table.path),
            found=f"columns that are no numbers: {few(text)} ({text[0]} is {example!r} in row 1)",
            expected="features in numbers, with a decimal point",
            remedy=f"Name them in data.ignore: ignore = {text[:5]}.",
        )
    _require_numbers(table, frame)
    return frame


def _require_numbers(table: TableFile, frame: pd.DataFrame) -> None:
    with np.errstate(over="ignore"):
        bad = ~np.isfinite(frame.to_numpy(dtype=np.float32))
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            str(table.path),
            found=f"{np.count_nonzero(bad)} values missing or infinite, the first in row "
            f"{row + 1}, column {frame.columns[column]}",
            expected="a number in every cell",
            remedy="Leave out those rows, or those columns (data.ignore).",
        )


def fits(table: TableFile, name: str, globs: Sequence[str]) -> bool:
    """Whether a glob fits the column's name, alone or as ``FILE:COLUMN``."""
    full = f"{table.stem}:{name}"
    return any(g in (name, full) or fnmatchcase(name, g) or fnmatchcase(full, g) for g in globs)


def few(names: Sequence[str]) -> str:
    """Up to eight names in a message."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

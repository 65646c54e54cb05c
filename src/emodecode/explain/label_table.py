"""Tables of the names of an atlas's labels: columns, or look-up tables as FreeSurfer's."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError


def read_names(table: str | os.PathLike | Mapping[int, str] | pd.DataFrame) -> dict[int, str]:
    """Return label -> name of a table (formats as in `read_atlas`)."""
    if isinstance(table, Mapping):
        return {int(label): str(name) for label, name in table.items()}
    if isinstance(table, pd.DataFrame):
        return _columns(table, "table of names")
    path = Path(table)
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a table of labels and names",
            remedy="Check the path.",
        )
    if path.suffix.lower() in (".tsv", ".csv"):
        comma = path.suffix.lower() == ".csv"
        return _columns(pd.read_csv(path, sep="," if comma else "\t"), str(path))
    return _look_up_table(path)


def _columns(table: pd.DataFrame, where: str) -> dict[int, str]:
    """Names from the first fitting pair of columns; ``label`` may be the number or the name."""
    by_name = {str(column).strip().lower(): column for column in table.columns}
    pairs = [(i, n) for i in ("index", "id", "value", "label") for n in ("name", "region", "label")]
    for index, name in pairs:
        if index != name and index in by_name and name in by_name:
            numbers = pd.to_numeric(table[by_name[index]], errors="coerce")
            names = table[by_name[name]]
            ok = numbers.notna() & (numbers == numbers.round()) & names.notna()
            if not ok.all():
                row = int(np.flatnonzero(~ok)[0]) + 1
                raise _bad_table(where, f"row {row} without a whole number or without a name")
            if numbers.duplicated().any():
                twice = int(numbers[numbers.duplicated()].iloc[0])
                raise _bad_table(where, f"two names for the label {twice}")
            return dict(zip(numbers.astype(int), names.astype(str), strict=True))
    raise _bad_table(where, f"the columns {', '.join(map(str, table.columns))}")


def _look_up_table(path: Path) -> dict[int, str]:
    """Read lines of number, name and perhaps three or four colour values."""
    names: dict[int, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if not words[0].isdigit() or len(words) < 2:
            raise _bad_table(str(path), f"line {number}: {line.strip()[:40]}")
        colours = 0
        while colours < min(4, len(words) - 2) and words[-1 - colours].isdigit():
            colours += 1
        end = len(words) - colours if colours >= 3 else len(words)
        if int(words[0]) in names:
            raise _bad_table(str(path), f"two names for the label {words[0]}")
        names[int(words[0])] = " ".join(words[1:end])
    return names


def _bad_table(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="the columns index (whole numbers) and name, or lines of number and name",
        remedy="Correct the table.",
    )

"""Two evaluations can be compared where they share samples, folds and training rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.fold import Split

_KEYS = ("fold", "subject", "session", "run", "volume", "label")


@dataclass(frozen=True, eq=False)
class Evaluated:
    """One evaluation, as far as another one must agree with it to be compared.

    Parameters
    ----------
    name : str
        For messages: the results folder.
    predictions : DataFrame
        Of one decoder: ``fold subject run volume label predicted p_CLASS``.
    splits : list of Split
    table : DataFrame
        The sample table that the rows of `splits` count in.
    """

    name: str
    predictions: pd.DataFrame = field(repr=False)
    splits: Sequence[Split] = field(repr=False)
    table: pd.DataFrame = field(repr=False)


def check_same_folds(a: Evaluated, b: Evaluated) -> None:
    """Refuse to compare evaluations of other samples, folds or training rows.

    Raises
    ------
    InputError
        Names the first thing that differs.
    """
    columns = [name for name in _KEYS[1:] if name in a.table and name in b.table]
    left, right = (each.table[columns].astype(str).to_numpy() for each in (a, b))
    if len(left) != len(right):
        raise _other_folds(a.name, b.name, f"{len(left)} and {len(right)} samples")
    other = np.flatnonzero((left != right).any(axis=1))
    if other.size:
        rows = " and ".join(" ".join(each[other[0]]) for each in (left, right))
        found = f"{other.size} rows of samples.tsv ({', '.join(columns)}), the first {rows}"
        raise _other_folds(a.name, b.name, found)
    _check_same_rows(a, b)
    check_same_predictions((a.name, a.predictions), (b.name, b.predictions))


def _check_same_rows(a: Evaluated, b: Evaluated) -> None:
    left, right = ({split.name: split for split in each.splits} for each in (a, b))
    strangers = sorted(set(left) ^ set(right))
    if strangers:
        where = a.name if strangers[0] in left else b.name
        found = f"{len(left)} and {len(right)} folds, among them {strangers[0]} only in {where}"
        raise _other_folds(a.name, b.name, found)
    for name, split in left.items():
        for part in ("train", "calibrate", "test"):
            one, two = (np.sort(getattr(each, part)) for each in (split, right[name]))
            if not np.array_equal(one, two):
                raise _other_folds(
                    a.name, b.name, f"the {part} rows of fold {name} ({len(one)} and {len(two)})"
                )


def check_same_predictions(a: tuple[str, pd.DataFrame], b: tuple[str, pd.DataFrame]) -> None:
    """Refuse two decoders, name and predictions, that did not predict the same in the same folds.

    Raises
    ------
    InputError
        Names a sample that one of them lacks.
    """
    columns = [key for key in _KEYS if key in a[1] and key in b[1]]
    left, right = (
        pd.MultiIndex.from_frame(predictions[columns].astype(str)).sort_values()
        for _, predictions in (a, b)
    )
    if not left.equals(right):
        only = left.symmetric_difference(right)
        example = f", e.g. {' '.join(map(str, only[0]))}" if len(only) else ""
        found = f"the predicted samples ({len(left)} and {len(right)}{example})"
        raise _other_folds(a[0], b[0], found)


def _other_folds(a: str, b: str, found: str) -> InputError:
    return InputError(
        f"{a} and {b}",
        found=f"they differ in {found}",
        expected="the same samples and the same folds only: a difference could come from the data",
        remedy="Evaluate both with the same data, labels, split and seed, or as two models of one "
        "study.",
    )

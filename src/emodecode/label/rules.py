"""Rules on the sample table: merge and keep labels, smallest count, balance."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.label.labelled import NOT_LABELLED
from emodecode.label.names import check_names

RUN_KEYS = ["subject", "session", "run"]
BalanceName = Literal["none", "episode", "volume"]


def apply_rules(
    table: pd.DataFrame,
    *,
    merge: dict[str, str] | None = None,
    keep: Sequence[str] | None = None,
    min_count: int = 1,
    balance: BalanceName = "none",
    balance_count: int | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, list[str]]:
    """Merge and choose labels, then balance them.

    If the runs show one common stimulus (a film), counts are *moments* of that stimulus, however
    many subjects saw them, and the same moments are chosen for all subjects. Else counts are
    volumes of the whole study, and every subject is balanced on its own.

    Parameters
    ----------
    table : DataFrame
        Sample table.
    merge : dict, optional
        New names of labels.
    keep : sequence of str, optional
        Labels to keep, after `merge`.
    min_count : int
        Labels with fewer moments (or volumes) are dropped.
    balance : {"none", "episode", "volume"}
        ``episode``: the same number of episodes per class, a contiguous stretch of one label in
        the stimulus, or a block of one run. ``volume``: the same number of moments (or volumes)
        per class, for each label ``sample(n, random_state=seed)`` as S1 does; moments of one
        episode are near duplicates, so that this counts for less than it seems.
    balance_count : int, optional
        How many per class; default as many as the rarest class has.
    seed : int

    Returns
    -------
    table : DataFrame
    notes : list of str

    Raises
    ------
    InputError
        An unknown label, no label that is frequent enough, or fewer than `balance_count`.
    """
    notes: list[str] = []
    check_names("labels.merge", merge or {}, table["label"])
    if merge:
        table = _merge(table, merge)
        notes.append(f"Merged: {', '.join(f'{old} -> {new}' for old, new in merge.items())}.")
    check_names("labels.keep", keep or (), table["label"])
    if keep is not None:
        table = table[table["label"].isin(list(keep))]
    counts = count_labels(table)
    rare = counts[counts < min_count]
    if len(rare) == len(counts):
        raise InputError(
            "labels.min_count",
            found=f"no label with {min_count} or more: {_listed(counts)}",
            expected=f"at least one label with {min_count}",
            remedy="Lower labels.min_count, or merge labels.",
        )
    if len(rare):
        table = table[~table["label"].isin(rare.index)]
        notes.append(f"Dropped for fewer than {min_count}: {_listed(rare)}.")
    if balance != "none":
        table, note = _balance(table, balance, balance_count, seed)
        notes.append(note)
    return _renormalise(table.reset_index(drop=True)), notes


def count_labels(table: pd.DataFrame) -> pd.Series:
    """Moments of the common stimulus (else volumes of the study) per label, most frequent first."""
    rows = table
    if has_common_stimulus(table):
        rows = _moments(table).drop_duplicates("moment")
    counts = rows["label"].value_counts()
    return counts.sort_index().sort_values(ascending=False, kind="stable")


def has_common_stimulus(table: pd.DataFrame) -> bool:
    """Whether every run shows one stimulus whose clock runs along with the volumes."""
    if (table["stimulus"] == NOT_LABELLED).any() or table["stimulus_time_s"].isna().any():
        return False
    offset = table["stimulus_time_s"] - table["onset_s"]
    runs = table.assign(offset=offset).groupby(RUN_KEYS)
    one_stimulus = (runs["stimulus"].nunique() == 1).all()
    steady = (runs["offset"].max() - runs["offset"].min() < 1e-3).all()
    return bool(one_stimulus and steady)


def _moments(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of a common stimulus with their ``moment`` and ``episode``, in the order of time.

    Moments are cells as long as the most frequent TR; an episode is a stretch of cells that follow
    each other with one label.
    """
    step = table.groupby(RUN_KEYS)["onset_s"].diff() / table.groupby(RUN_KEYS)["volume"].diff()
    tr_s = float(step.median()) if step.notna().any() else 1.0
    time = table["labelled_time_s" if "labelled_time_s" in table else "stimulus_time_s"]
    cell = np.floor(time / tr_s + 1e-3).astype(int)
    rows = table.assign(cell=cell)
    distinct = rows[["stimulus", "label", "cell"]].drop_duplicates()
    distinct = distinct.sort_values(["stimulus", "label", "cell"], ignore_index=True)
    opens = distinct.groupby(["stimulus", "label"])["cell"].diff() != 1
    distinct["episode"] = opens.cumsum()
    distinct = distinct.sort_values(["stimulus", "cell", "label"], ignore_index=True)
    distinct["moment"] = np.arange(len(distinct))
    merged = rows.merge(distinct, on=["stimulus", "label", "cell"], how="left", validate="m:1")
    return merged.set_index(table.index)


def _balance(
    table: pd.DataFrame, balance: BalanceName, count: int | None, seed: int
) -> tuple[pd.DataFrame, str]:
    what = "episodes" if balance == "episode" else "volumes"
    if has_common_stimulus(table):
        rows = _moments(table)
        unit = "episode" if balance == "episode" else "moment"
        units = rows.drop_duplicates(unit).sort_values("moment")[[unit, "label"]]
        chosen, n = _draw(units, balance, count, seed, "the stimulus")
        rows = rows[rows[unit].isin(chosen[unit])]
        what = "episodes" if balance == "episode" else "moments"
        note = (
            f"Balanced: {n} {what} of the stimulus per label, the same for all subjects "
            f"({rows['moment'].nunique()} moments of {rows['episode'].nunique()} episodes)."
        )
        return table.loc[rows.index], note
    kept, numbers = [], []
    seeds = np.random.SeedSequence(seed).generate_state(table["subject"].nunique())
    for (subject, own), child in zip(table.groupby("subject", sort=True), seeds, strict=True):
        unit_of_row = _unit_of_rows(own, balance)
        units = own.assign(unit=unit_of_row).drop_duplicates("unit")[["unit", "label"]]
        chosen, n = _draw(units, balance, count, int(child), f"sub-{subject}")
        kept.append(own[unit_of_row.isin(chosen["unit"])])
        numbers.append(n)
    least, most = min(numbers), max(numbers)
    per = f"{least}" if least == most else f"{least} to {most}"
    return pd.concat(kept).sort_index(), f"Balanced: {per} {what} per label in every subject."


def _unit_of_rows(own: pd.DataFrame, balance: BalanceName) -> pd.Series:
    """What is drawn from the rows of one subject: rows one by one, or blocks."""
    if balance == "volume":
        return pd.Series(np.arange(len(own)), index=own.index)
    if (own["block"] == NOT_LABELLED).any():
        raise InputError(
            "labels.balance",
            found="samples without blocks",
            expected="blocks to balance by episode",
            remedy="Use balance = volume.",
        )
    return own.groupby([*RUN_KEYS, "block"]).ngroup()


def _draw(
    units: pd.DataFrame, balance: BalanceName, count: int | None, seed: int, where: str
) -> tuple[pd.DataFrame, int]:
    """The same number of rows of every label."""
    available = units["label"].value_counts().sort_index()
    n = int(available.min()) if count is None else count
    if (available < n).any():
        raise InputError(
            f"labels.balance_count ({where})",
            found=f"{_listed(available[available < n])} for balance_count = {n}",
            expected=f"at least {n} of every label",
            remedy="Lower labels.balance_count, or raise labels.min_count to drop rare labels.",
        )
    if balance == "volume":
        seeds = [seed] * len(available)
    else:
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(len(available))]
    parts = [
        units[units["label"] == label].sample(n=n, random_state=child)
        for label, child in zip(available.index, seeds, strict=True)
    ]
    return pd.concat(parts), n


def _merge(table: pd.DataFrame, merge: dict[str, str]) -> pd.DataFrame:
    """Rename labels, add up their soft labels, and join blocks that have become one."""
    old = table["label"]
    table = table.assign(label=old.map(lambda label: merge.get(label, label)))
    soft = [name for name in table.columns if name.startswith("p_")]
    sums: dict[str, pd.Series] = {}
    for name in soft:
        label = name.removeprefix("p_")
        new = f"p_{merge.get(label, label)}"
        sums[new] = sums[new] + table[name] if new in sums else table[name]
    table = table.drop(columns=soft).assign(**sums)
    new_run = (table[RUN_KEYS] != table[RUN_KEYS].shift()).any(axis=1)
    became_one = (table["label"] == table["label"].shift()) & (old != old.shift())
    became_one &= table["volume"] == table["volume"].shift() + 1
    opens = new_run | ((table["block"] != table["block"].shift()) & ~became_one)
    return table.assign(block=table.groupby(opens.cumsum())["block"].transform("first"))


def _renormalise(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the soft labels of the labels that are left, and let them sum to 1 again."""
    soft = [name for name in table.columns if name.startswith("p_")]
    kept = [f"p_{label}" for label in sorted(set(table["label"])) if f"p_{label}" in table]
    if not soft:
        return table
    values = table[kept].to_numpy(dtype=float)
    table = table.drop(columns=soft)
    table[kept] = values / values.sum(axis=1, keepdims=True)
    return table


def _listed(counts: pd.Series) -> str:
    return ", ".join(f"{label} {count}" for label, count in counts.items())

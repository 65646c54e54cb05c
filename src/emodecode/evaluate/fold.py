"""Fold: one split into training, calibration and test samples, and what makes it usable."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from emodecode.errors import DataMissingError, InputError
from emodecode.evaluate.design import TOLERANCE_S, Axis, Codes, Design

NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Split:
    """One fold: row numbers of the sample table.

    Parameters
    ----------
    train : ndarray of int64
        Samples that every step is fitted on.
    calibrate : ndarray of int64
        Samples of the tested subject that `adapt` may see (a localiser); often empty.
    test : ndarray of int64
        Samples that are predicted and scored.
    name : str
        What is held out (``"sub-03 run-2"``).
    """

    train: np.ndarray = field(repr=False)
    calibrate: np.ndarray = field(repr=False)
    test: np.ndarray = field(repr=False)
    name: str = ""

    def __post_init__(self) -> None:
        for part in ("train", "calibrate", "test"):
            rows = np.asarray(getattr(self, part))
            if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
                raise InputError(
                    f"fold {self.name or '?'}",
                    found=f"{part} of type {rows.dtype} and shape {rows.shape}",
                    expected="a list of row numbers of the sample table",
                    remedy="Pass positions, e.g. np.flatnonzero(mask) instead of a boolean mask.",
                )
            object.__setattr__(self, part, rows.astype(np.int64, copy=False))


def read_splits(path: str | os.PathLike, *, n_samples: int) -> list[Split]:
    """Read ``splits.json``, of any tool: a list of ``{"train", "calibrate", "test"}``.

    The numbers are rows of the sample table from 0; ``calibrate`` and ``name`` may be absent.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No JSON, another structure, or rows that the table does not have.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            str(path), found="no such file", expected=_FORMAT, remedy="Check the path."
        )
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _no_splits(str(path), f"no JSON ({error})") from error
    return splits_from_json(records, n_samples=n_samples, where=str(path))


def splits_from_json(records: Any, *, n_samples: int, where: str = "splits.json") -> list[Split]:
    """Read the content of ``splits.json``; see `read_splits`."""
    if not isinstance(records, list) or not records:
        raise _no_splits(where, f"a {type(records).__name__} without folds")
    splits = []
    for number, record in enumerate(records):
        if not isinstance(record, dict) or not {"train", "test"} <= set(record):
            raise _no_splits(where, f"fold {number + 1} without train and test")
        unknown = set(record) - {"name", "train", "calibrate", "test"}
        if unknown:
            raise _no_splits(where, f"fold {number + 1} with {', '.join(map(repr, unknown))}")
        name = str(record.get("name") or f"fold-{number + 1}")
        rows = (record["train"], record.get("calibrate") or [], record["test"])
        if not all(_are_numbers(part) for part in rows):
            raise _no_splits(where, f"fold {name} with something else than lists of numbers")
        if not rows[0]:
            raise _no_splits(where, f"fold {name} without a training sample")
        train, calibrate, test = (np.array(part, dtype=np.int64) for part in rows)
        splits.append(Split(train, calibrate, test, name=name))
    check_rows(splits, n_samples, where)
    return splits


def check_rows(splits: Sequence[Split], n_samples: int, where: str) -> None:
    """Refuse folds that name rows which the table does not have, or that test nothing."""
    for split in splits:
        for part in ("train", "calibrate", "test"):
            rows = getattr(split, part)
            outside = rows[(rows < 0) | (rows >= n_samples)]
            if outside.size:
                raise InputError(
                    f"{where}: fold {split.name}",
                    found=f"{outside.size} row numbers in {part} outside the table "
                    f"(first: {outside[0]})",
                    expected=f"numbers from 0 to {n_samples - 1}",
                    remedy="Check that the splits belong to this table; rows count from 0.",
                )
        if not split.test.size:
            raise _no_splits(f"{where}: fold {split.name}", "no test sample")


def _are_numbers(values: Any) -> bool:
    whole = isinstance(values, list) and all(type(value) is int for value in values)
    return whole and all(abs(value) < 2**63 for value in values)


_FORMAT = 'a list of {"train": [rows], "calibrate": [rows], "test": [rows]}'


def _no_splits(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected=_FORMAT,
        remedy="See docs/evaluation.md for how to write one from scikit-learn, nilearn or PyTorch.",
    )


def purged(rows: np.ndarray, test: np.ndarray, gap_s: float, *axes: Axis) -> np.ndarray:
    """Drop the rows within `gap_s` of a test sample on any of the axes."""
    for axis in axes:
        targets = np.zeros(len(axis.code), dtype=bool)
        targets[test] = True
        distance, _ = axis.nearest(rows, targets)
        rows = rows[distance > gap_s + TOLERANCE_S]
    return rows


def deal(items: np.ndarray, labels: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Give each sample a fold; an item (a subject, a block) stays whole, labels are spread.

    Returns the fold of each sample, shape (n,); folds without samples are dropped.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    counts = np.bincount(labels)
    spread = labels if counts[counts > 0].min() >= n_folds else np.zeros_like(labels)
    folds = StratifiedGroupKFold(n_splits=n_folds, shuffle=True, random_state=seed)
    fold = np.empty(len(items), dtype=np.int64)
    for number, (_, test) in enumerate(folds.split(np.zeros(len(items)), spread, items)):
        fold[test] = number
    return np.unique(fold, return_inverse=True)[1]


def need(codes: Codes, least: int, what: str, instead: str) -> None:
    """Refuse fewer subjects (or runs) than a split needs, and name another split."""
    if len(codes.names) < least:
        names = ", ".join(name or "unnamed" for name in codes.names[:5])
        raise InputError(
            "sample table",
            found=f"{len(codes.names)} {what}{'s' * (len(codes.names) != 1)} ({names})",
            expected=f"at least {least} {what}s for this split",
            remedy=f"Add {what}s, or use {instead}.",
        )


def checked(splits: Sequence[Split], design: Design) -> list[Split]:
    """Refuse folds without training or with a class that they cannot learn or never test."""
    n_classes = len(design.label.names)
    tested = np.zeros(n_classes, dtype=np.int64)
    for split in splits:
        if not split.train.size:
            raise InputError(
                f"fold {split.name}",
                found=f"no training sample is left for {split.test.size} test samples",
                expected="training samples outside the held-out part and its gap",
                remedy="Use other or longer groups (evaluate.stimulus_groups, n_segments): "
                "evaluate.gap_s leaves nothing of these.",
            )
        learned = np.bincount(design.label.code[split.train], minlength=n_classes)
        if not learned.all():
            raise _class_missing(split, design, int(np.argmin(learned)))
        tested += np.bincount(design.label.code[split.test], minlength=n_classes)
    if not tested.all():
        name = design.label.names[int(np.argmin(tested))]
        raise InputError(
            "splits",
            found=f"class {name!r} has no test sample in any of {len(splits)} folds",
            expected="every class tested at least once",
            remedy="Drop the class (labels.keep), or use larger test sets.",
        )
    return list(splits)


def _class_missing(split: Split, design: Design, label: int) -> InputError:
    having = np.flatnonzero(design.label.mask(label))
    subjects = np.unique(design.subject.code[having])
    names = ", ".join(design.subject.names[code] for code in subjects[:5])
    runs = ", ".join(design.run.names[c] for c in np.unique(design.run.code[having])[:5])
    return InputError(
        f"fold {split.name}",
        found=f"class {design.label.names[label]!r} has no training sample; its {having.size} "
        f"samples are of {len(subjects)} subject{'s' * (len(subjects) != 1)} ({names}) in {runs}",
        expected="every class in the training set of every fold",
        remedy="Drop or merge the class (labels.keep, labels.merge), use other stimulus groups "
        "(evaluate.stimulus_groups, n_segments).",
    )

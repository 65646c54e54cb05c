"""Fitted steps: which samples each step of each fold saw, as a ledger or a foreign file says it."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emodecode.errors import DataMissingError, InputError
from emodecode.evaluate.design import TOLERANCE_S, Design
from emodecode.evaluate.fold import Split
from emodecode.evaluate.rules import CAUTION, LEAK, NOTE, Finding

FITTED = {
    "scaler": "T14",
    "cleaning": "T14",
    "selection": "T2",
    "alignment": "T3",
    "resampler": "T10",
    "tuning": "T6",
    "early_stopping": "T6",
    "calibration": "T6",
    "model": "T1-row",
    "permutation": "T12",
}
"""Trap of each kind of fitted step; other kinds count as T2."""

DANGER = {
    "T1-row": "The decoder has seen the answer: any score up to 1 is possible.",
    "T2": "Voxels chosen with the test labels score .97 on noise where chance is .33.",
    "T3": "Alignment fitted on the test volumes scores .44 to 1.00 on noise where chance is .33, "
    "even without labels.",
    "T6": "Parameters or epochs chosen on the test data raise the score by .05 to .12 on noise.",
    "T7": "What another fold learned of this fold's test samples is still in the weights.",
    "T10": "Copies of test samples may end up in training.",
    "T12": "Neighbouring volumes are nearly equal, so exchanging them one by one finds effects in "
    "pure noise.",
    "T14": "Means and scales of the test data reach the training.",
}

PARTS = ("train", "calibrate", "test")

VOLUME_UNITS = ("volume", "sample")
"""Units of a permutation that break the autocorrelation of a run."""

KNOWN_UNITS = (*VOLUME_UNITS, "block", "episode", "event", "shift", "run", "subject")

_FORMAT = '{"step": name, "kind": kind, "rows": [row numbers] or "train"}'


class Step(NamedTuple):
    """One fitted step of one fold; `rows` is None where nobody knows what it saw."""

    name: str
    kind: str
    rows: np.ndarray | None
    named: bool
    recorded: bool
    fresh: bool
    starts_from: str | None
    unit: str | None
    outside_s: float | None = None


def read_fitted(
    path: str | os.PathLike, *, n_samples: int, n_folds: int
) -> list[list[dict[str, Any]]]:
    """Read ``fitted.json``, of any tool: for each fold what its fitted steps saw.

    A list with one entry a fold, each ``{"step": name, "kind": kind, "rows": [row numbers]}`` or a
    list of these. ``rows`` may be ``"train"``, ``"calibrate"`` or ``"test"`` for those rows of the
    fold, or null where unknown. The decoder may say ``{"kind": "model", "starts_from": "name of a
    fold"}``, a test of significance ``{"kind": "permutation", "unit": "block"}``.

    Returns
    -------
    list of list of dict
        For ``audit_split(fitted=...)``.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No JSON, not one entry a fold, an entry of another form, or rows outside the table.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected=f"a list with one entry a fold: {_FORMAT}",
            remedy="Check the path.",
        )
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _no_steps(str(path), f"no JSON ({error})") from error
    if not isinstance(records, list) or len(records) != n_folds:
        raise _no_entry_a_fold(records, n_folds, str(path))
    nothing = np.empty(0, dtype=np.int64)
    for number, entry in enumerate(records):
        fold = Split(nothing, nothing, nothing, name=f"fold-{number + 1}")
        list(_steps(entry, fold, n_samples, f"{path}: {fold.name}"))
    return [[entry] if isinstance(entry, dict) else entry for entry in records]


def read_steps(fitted: Sequence[Any], splits: Sequence[Split], n_samples: int) -> list[list[Step]]:
    """Turn the entries of every fold into steps whose rows are numbers.

    Raises
    ------
    InputError
        Not one entry a fold, an entry of another form, or rows outside the table.
    """
    if len(fitted) != len(splits):
        raise _no_entry_a_fold(fitted, len(splits), "fitted steps")
    return [
        list(_steps(entry, split, n_samples, f"fitted steps of fold {split.name}"))
        for entry, split in zip(fitted, splits, strict=True)
    ]


def _steps(entry: Any, split: Split, n_samples: int, where: str) -> Iterator[Step]:
    entries = [entry] if isinstance(entry, dict) else entry
    if isinstance(entries, str) or not isinstance(entries, Iterable):
        raise _no_steps(where, f"{str(entry)[:80]!r}")
    for number, record in enumerate(entries):
        yield _step(record, split, n_samples, f"{where}, step {number + 1}")


def _step(record: Any, split: Split, n_samples: int, where: str) -> Step:
    if not isinstance(record, dict):
        raise _no_steps(where, f"{str(record)[:80]!r}")
    texts = {key: record.get(key) for key in ("step", "kind", "starts_from", "unit")}
    wrong = [key for key, value in texts.items() if value is not None and type(value) is not str]
    flags = {key: record.get(key) for key in ("recorded", "fresh")}
    wrong += [key for key, value in flags.items() if value is not None and type(value) is not bool]
    if texts["unit"] is not None and texts["unit"] not in KNOWN_UNITS:
        wrong.append("unit")
    if wrong:
        raise _no_steps(where, f"{wrong[0]} = {repr(record[wrong[0]])[:40]}")
    name = texts["step"] or (texts["kind"] if texts["kind"] in ("model", "permutation") else None)
    if name is None:
        raise _no_steps(where, f"no name of the step in {str(record)[:80]}")
    says_more = texts["starts_from"] or texts["kind"] == "permutation"
    if "rows" not in record and not says_more:
        raise _no_steps(where, f"no rows in {str(record)[:80]}")
    rows = record.get("rows")
    return Step(
        name=name,
        kind=texts["kind"] or "",
        rows=_rows(rows, split, n_samples, where),
        named=isinstance(rows, str),
        recorded=bool(flags["recorded"]),
        fresh=flags["fresh"] is not False,
        starts_from=texts["starts_from"],
        unit=texts["unit"],
        outside_s=_seconds(record.get("outside_s"), where),
    )


def _seconds(value: Any, where: str) -> float | None:
    """Distance of rows that are no samples from the nearest test sample in its run."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise _no_steps(where, f"outside_s = {value!r}")
    return float(value)


def _rows(rows: Any, split: Split, n_samples: int, where: str) -> np.ndarray | None:
    if rows is None:
        return None
    if isinstance(rows, str):
        if rows not in PARTS:
            raise _no_steps(where, f"rows = {rows!r}, which is no part of a fold")
        return getattr(split, rows)
    try:
        numbers = np.asarray(rows)
        if isinstance(rows, list) and any(isinstance(row, bool) for row in rows):
            numbers = np.empty((0, 0))
    except ValueError:
        numbers = np.empty((0, 0))
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise _no_steps(where, f"rows = {str(rows)[:60]}")
    numbers = numbers.astype(np.int64)
    outside = numbers[(numbers < 0) | (numbers >= n_samples)]
    if outside.size:
        raise InputError(
            where,
            found=f"{outside.size} row numbers outside the table (first: {outside[0]})",
            expected=f"numbers from 0 to {n_samples - 1}",
            remedy="Check that the steps belong to this table; rows count from 0.",
        )
    return numbers


def _no_steps(where: str, found: str) -> InputError:
    return InputError(
        where, found=found, expected=_FORMAT, remedy="See docs/evaluation.md for fitted.json."
    )


def _no_entry_a_fold(found: Any, n_folds: int, where: str) -> InputError:
    n_found = (
        f"{len(found)} entries" if isinstance(found, Sequence) else f"a {type(found).__name__}"
    )
    return InputError(
        where,
        found=f"{n_found} for {n_folds} folds",
        expected="one list of steps a fold",
        remedy='Pass [[{"step": ..., "kind": ..., "rows": [...]}], ...] in the folds\' order.',
    )


class _Case(NamedTuple):
    """What one step does in one fold that it should not."""

    rule: str
    title: str
    verdict: str
    n: int
    worst: str
    remedy: str


def fitted_findings(
    design: Design, splits: Sequence[Split], steps: Sequence[Sequence[Step]], *, gap_s: float
) -> list[Finding]:
    """What fitted steps saw of the test samples, one finding for each step and trap.

    Parameters
    ----------
    design : Design
    splits : sequence of Split
    steps : sequence of sequences of Step
        For each fold.
    gap_s : float
        Samples of a run closer than this are neighbours, seconds.
    """
    folds = {split.name: split for split in splits}
    cases: dict[tuple[str, str, str], list[_Case]] = {}
    for split, own in zip(splits, steps, strict=True):
        for step in own:
            for case in _cases(step, split, folds, design, gap_s):
                cases.setdefault((case.rule, case.title, case.verdict), []).append(case)
    n_test = sum(len(split.test) for split in splits)
    return [_finding(own, n_test) for own in cases.values()]


def _finding(cases: list[_Case], n_test: int) -> Finding:
    worst = max(cases, key=lambda case: case.n)
    n = sum(case.n for case in cases)
    danger = DANGER[worst.rule]
    if worst.verdict == NOTE:
        danger = "None offline: no label is used. A live decoder cannot do it."
    return Finding(
        rule=worst.rule,
        title=worst.title,
        n_samples=n,
        share=min(1.0, n / n_test),
        worst=worst.worst,
        danger=danger,
        remedy=worst.remedy,
        verdict=worst.verdict,
    )


def _cases(
    step: Step, split: Split, folds: dict[str, Split], design: Design, gap_s: float
) -> Iterator[_Case]:
    if step.kind == "permutation":
        yield from _permutation(step, split, design, gap_s)
        return
    if step.starts_from is not None or not step.fresh:
        yield _warm_start(step, split, folds)
    if step.rows is None:
        return
    seen = np.intersect1d(step.rows, split.test)
    if step.kind == "cleaning":
        if seen.size:
            title = f"{step.name.capitalize()} uses whole runs or subjects, without their labels"
            remedy = "Nothing to do; say so."
            yield _Case("T14", title, NOTE, len(seen), "the same for all", remedy)
        return
    rule, kind = FITTED.get(step.kind, "T2"), step.kind or "kind not given"
    if seen.size:
        worst = (
            f"fold {split.name}: fitted on {len(step.rows)} samples, {len(seen)} of them tested "
            f"({design.describe(seen[0])})"
        )
        title = f"The step {step.name!r} ({kind}) was fitted on test samples"
        yield _Case(rule, title, LEAK, len(seen), worst, "Fit it inside each fold, on train only.")
    else:
        yield from _neighbours(step, split, design, gap_s, rule, kind)
    if step.outside_s is not None and step.outside_s <= gap_s + TOLERANCE_S:
        yield _Case(
            rule,
            f"The step {step.name!r} ({kind}) was fitted on unlabelled volumes of a tested run",
            LEAK,
            len(split.test),
            f"fold {split.name}: {step.outside_s:.3g} s from a test sample",
            f"Fit it on other runs, or at least {gap_s:g} s away from the test samples.",
        )


def _neighbours(
    step: Step, split: Split, design: Design, gap_s: float, rule: str, kind: str
) -> Iterator[_Case]:
    """Rows outside the fold's own parts that lie next to test samples in their run."""
    assert step.rows is not None
    others = np.setdiff1d(step.rows, np.concatenate([split.train, split.calibrate, split.test]))
    if not others.size:
        return
    seen = np.zeros(design.n, dtype=bool)
    seen[others] = True
    seconds, neighbour = design.scan_axis().nearest(split.test, seen)
    near = np.flatnonzero(seconds <= gap_s + TOLERANCE_S)
    if not near.size:
        return
    first = near[np.argmin(seconds[near])]
    yield _Case(
        rule,
        f"The step {step.name!r} ({kind}) was fitted on neighbours of test samples in their run",
        CAUTION,
        len(near),
        f"fold {split.name}: {design.describe(split.test[first])} {seconds[first]:.3g} s from "
        f"{design.describe(neighbour[first])}",
        f"Fit it on other runs, or at least {gap_s:g} s away from the test samples.",
    )


def _warm_start(step: Step, split: Split, folds: dict[str, Split]) -> _Case:
    remedy = "Make every fold start anew: build the decoder inside the loop, with its own seed."
    title = f"The step {step.name!r} starts from what another fold learned"
    if step.starts_from is None:
        worst = f"fold {split.name}: it was fitted already when the fold began"
        return _Case("T7", title, LEAK, len(split.test), worst, remedy)
    worst = f"fold {split.name} starts from fold {step.starts_from}"
    other = folds.get(step.starts_from)
    if other is None:
        title = f"The step {step.name!r} starts from weights that none of these folds made"
        remedy = "Say what they were trained on; none of the test samples may be among it."
        return _Case("T7", title, CAUTION, len(split.test), worst, remedy)
    seen = np.intersect1d(np.concatenate([other.train, other.calibrate]), split.test)
    worst += f", whose training holds {len(seen)} of its {len(split.test)} test samples"
    return _Case("T7", title, LEAK, len(seen) or len(split.test), worst, remedy)


def _permutation(step: Step, split: Split, design: Design, gap_s: float) -> Iterator[_Case]:
    if step.unit not in VOLUME_UNITS:
        return
    axis = design.scan_axis()
    gaps = np.diff(axis.time_s[axis.order])
    dense = (np.diff(axis.code[axis.order]) == 0) & (gaps <= gap_s + TOLERANCE_S)
    if not dense.any():
        return
    yield _Case(
        "T12",
        f"Chance by exchanging single {step.unit}s of autocorrelated runs",
        CAUTION,
        len(split.test),
        f"fold {split.name}: samples of a run are {gaps[dense].min():.3g} s apart",
        "Exchange whole blocks within runs, or shift the labels of a run in a circle.",
    )


def unchecked_steps(steps: Sequence[Sequence[Step]]) -> list[str]:
    """Questions that the entries leave open, for the list of what was not checked."""
    rules = "T2, T3, T6, T14"
    every = [step for own in steps for step in own]
    unknown = sorted({step.name for step in every if _saw_unknown(step)})
    said = any(step.named and not step.recorded for step in every)
    questions = []
    if unknown:
        questions.append(f"{rules}: what {', '.join(unknown)} saw (the rows are not known)")
    if said:
        questions.append(
            f"{rules}: what fitted steps saw (their rows are named by the fold that handed them "
            "out, not recorded inside the steps)"
        )
    return questions


def _saw_unknown(step: Step) -> bool:
    return step.rows is None and step.kind != "permutation" and step.starts_from is None

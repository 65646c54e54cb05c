"""Audit: does anything about the test samples reach the training? Asked before any score.

Usable on the folds of any tool: a table that says who, when and what each sample is, and the row
numbers of each fold.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError, LeakageError
from emodecode.evaluate.design import Design, read_design
from emodecode.evaluate.fold import Split, check_rows
from emodecode.evaluate.rules import (
    CAUTION,
    CLEAN,
    FITTED,
    FITTED_DANGER,
    LEAK,
    NOTE,
    RULES,
    Lookup,
    fold_hits,
    time_only,
)

FEW_FEATURES = 8
"""Below this many columns, equal rows may be accidents: then a duplicate is a caution."""

LARGEST_RATIO = 1.5
"""Largest over smallest class in the test samples, above which unequal classes are noted."""

PROBE_COLUMNS = 1024
"""Columns by which equal rows are sought first; only rows equal there are read completely."""

_ORDER = {LEAK: 0, CAUTION: 1, NOTE: 2}


@dataclass(frozen=True)
class Finding:
    """One way by which test data reach, or may reach, the training.

    Parameters
    ----------
    rule : str
        Id (``"T5"``) of the trap.
    title : str
        What was found.
    n_samples : int
        Test samples concerned, over all folds.
    share : float
        Of all test samples of all folds.
    worst : str
        The worst case by name.
    danger, remedy : str
        What it may do to the score, and the way out.
    verdict : {"leak", "caution", "note"}
        Notes do not touch the verdict of the audit.
    """

    rule: str
    title: str
    n_samples: int
    share: float
    worst: str
    danger: str
    remedy: str
    verdict: str


@dataclass(frozen=True)
class Audit:
    """Verdict and findings, the gravest first.

    Parameters
    ----------
    verdict : {"clean", "caution", "leak"}
    findings : tuple of Finding
    n_folds, n_test : int
        Folds, and test samples in all of them.
    gap_s : float
        Horizon within which samples of one run count as neighbours, seconds.
    not_checked : tuple of str
        Questions that the table could not answer.
    """

    verdict: str
    findings: tuple[Finding, ...]
    n_folds: int
    n_test: int
    gap_s: float
    not_checked: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Make the content of ``audit.json``."""
        plain = dataclasses.asdict(self)
        return plain | {
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "not_checked": list(self.not_checked),
        }


def audit_split(
    table: pd.DataFrame,
    splits: Sequence[Split],
    *,
    X: np.ndarray | None = None,
    fitted: Sequence[Any] | None = None,
    gap_s: float = 30.0,
    claim: str | None = None,
    tr_s: float | None = None,
) -> Audit:
    """Look for every known way from the test samples into the training.

    Parameters
    ----------
    table : DataFrame
        One row per sample: ``subject label``, and as far as known ``session run volume onset_s
        stimulus stimulus_time_s block``.
    splits : sequence of Split
        Row numbers of the table.
    X : ndarray of shape (n_samples, n_voxels), optional
        For duplicated samples. A memory map is read row by row, most of it not at all. Rows whose
        values are all equal carry no information and are passed over.
    fitted : sequence, optional
        For each fold the fitted steps, ``{"step": name, "kind": kind, "rows": [row numbers]}``;
        ``"train"`` or ``"calibrate"`` stand for those rows of the fold.
        Kinds: scaler, selection, alignment, resampler, tuning, early_stopping, calibration, and
        ``cleaning`` for steps that treat each run by itself without looking at labels.
    gap_s : float, default 30
        Samples of a run that are closer than this are neighbours (haemodynamic response and
        autocorrelation).
    claim : {"across_subjects", "within_subject"}, optional
        What the score is meant to say: whether the tested subject may be in training.
    tr_s : float, optional
        Repetition time; read from the table's onsets if not given.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        Rows that the table does not have, or an unknown claim.
    """
    if claim not in (None, "across_subjects", "within_subject"):
        raise InputError(
            "audit",
            found=f"claim = {claim!r}",
            expected="across_subjects or within_subject",
            remedy="Correct it, or leave it out.",
        )
    design, splits = read_design(table), list(splits)
    if tr_s is not None:
        design = dataclasses.replace(design, tr_s=tr_s)
    check_rows(splits, design.n, "splits")
    array = None if X is None else duplicate_codes(X)
    lookup = Lookup(
        design, design.scan_axis(), design.stimulus_axis(), gap_s, design.tolerance_s, array
    )
    found = _where_from(lookup, splits, claim, None if X is None else X.shape[1])
    found += _fitted_findings(design, splits, fitted)
    if not any(finding.rule == "T5" for finding in found):
        found += _clock_finding(design, splits)
    found += _imbalance(design, splits)
    found.sort(key=lambda finding: (_ORDER[finding.verdict], -finding.share))
    gravest = min((finding.verdict for finding in found), key=_ORDER.__getitem__, default=NOTE)
    return Audit(
        verdict=CLEAN if gravest == NOTE else gravest,
        findings=tuple(found),
        n_folds=len(splits),
        n_test=sum(len(split.test) for split in splits),
        gap_s=gap_s,
        not_checked=_not_checked(lookup, fitted),
    )


def enforce(audit: Audit, *, allow_leakage: bool) -> None:
    """Refuse to go on after a leak.

    Raises
    ------
    LeakageError
        With the gravest finding, unless `allow_leakage`.
    """
    if audit.verdict != LEAK or allow_leakage:
        return
    leaks = [finding for finding in audit.findings if finding.verdict == LEAK]
    leaks.sort(key=lambda finding: finding.rule == "T4")  # what makes T4 a leak comes first
    worst, more = leaks[0], ", ".join(finding.rule for finding in leaks[1:])
    way_out = next((leak.remedy for leak in leaks if leak.rule == "T5"), worst.remedy)
    raise LeakageError(
        f"split audit, rule {worst.rule}",
        found=f"{worst.title}: {worst.n_samples} test samples ({worst.share:.0%}), for example "
        f"{worst.worst}" + (f". Also {more}" if more else ""),
        expected=f"none. {worst.danger}",
        remedy=f"{way_out} Or set evaluate.allow_leakage = true to see the number, with this "
        "warning beside it.",
    )


@dataclass
class _Count:
    n: int = 0
    seconds: float = np.inf
    worst: str = ""
    subjects: set = field(default_factory=set)


def _where_from(
    lookup: Lookup, splits: list[Split], claim: str | None, n_features: int | None
) -> list[Finding]:
    design = lookup.design
    counts: dict[str, _Count] = {}
    n_test = sum(len(split.test) for split in splits)
    for split in splits:
        for hit in fold_hits(lookup, split):
            if not hit.rows.size:
                continue
            count = counts.setdefault(hit.rule, _Count())
            count.n += len(hit.rows)
            worst = int(np.argmin(hit.seconds))
            if hit.seconds[worst] < count.seconds or not count.worst:
                count.seconds = float(hit.seconds[worst])
                count.worst = _worst(
                    design, split, hit.rows[worst], hit.neighbour[worst], count.seconds
                )
    leaking = counts.pop("T4-leak", None)
    findings = []
    for rule, count in counts.items():
        finding = _finding(rule, count.n, n_test, count.worst)
        if rule == "T4":
            finding = _judge_t4(finding, design, claim, leaking is not None)
        if rule in ("T1-dup", "T10-dup") and (n_features or FEW_FEATURES) < FEW_FEATURES:
            accident = CAUTION if rule == "T1-dup" else NOTE
            finding = dataclasses.replace(finding, verdict=accident)
        findings.append(finding)
    return findings


def _judge_t4(finding: Finding, design: Design, claim: str | None, leaking: bool) -> Finding:
    alone = len(design.subject.names) == 1
    if alone:
        finding = dataclasses.replace(
            finding,
            title="One subject, trained and tested on itself",
            remedy="Claim decoding within this subject only, or add subjects.",
        )
    if claim == "across_subjects" or (leaking and not alone and claim != "within_subject"):
        return dataclasses.replace(finding, verdict=LEAK)
    return dataclasses.replace(finding, verdict=NOTE if claim == "within_subject" else CAUTION)


def _worst(design: Design, split: Split, row: int, neighbour: int, seconds: float) -> str:
    text = f"fold {split.name}: {design.describe(row)}" if split.name else design.describe(row)
    if neighbour == row or neighbour < 0:
        return text
    away = f" {seconds:.3g} s from" if 0 < seconds < np.inf else " and"
    return f"{text}{away} {design.describe(neighbour)}"


def _finding(rule: str, n_samples: int, n_test: int, worst: str) -> Finding:
    title, verdict, danger, remedy = RULES[rule]
    return Finding(rule, title, n_samples, n_samples / n_test, worst, danger, remedy, verdict)


def _fitted_findings(
    design: Design, splits: list[Split], fitted: Sequence[Any] | None
) -> list[Finding]:
    if fitted is None:
        return []
    if len(fitted) != len(splits):
        raise InputError(
            "fitted steps",
            found=f"{len(fitted)} entries for {len(splits)} folds",
            expected="one list of steps a fold",
            remedy='Pass [[{"step": ..., "kind": ..., "rows": [...]}], ...] in the folds\' order.',
        )
    n_test = sum(len(split.test) for split in splits)
    seen: dict[tuple[str, str], _Count] = {}
    for split, steps in zip(splits, fitted, strict=True):
        for step in [steps] if isinstance(steps, dict) else steps:
            rows = _rows_seen(step, split)
            both = np.intersect1d(rows, split.test)
            if both.size:
                count = seen.setdefault((str(step["step"]), str(step.get("kind", ""))), _Count())
                count.n += len(both)
                if len(both) > -count.seconds or not count.worst:
                    count.seconds = -float(len(both))
                    count.worst = (
                        f"fold {split.name}: fitted on {len(rows)} samples, {len(both)} of them "
                        f"tested ({design.describe(both[0])})"
                    )
    return [_fitted_finding(*key, count, n_test) for key, count in seen.items()]


def _rows_seen(step: Any, split: Split) -> np.ndarray:
    try:
        rows, _ = step["rows"], step["step"]
        if isinstance(rows, str):
            return {"train": split.train, "calibrate": split.calibrate, "test": split.test}[rows]
        return np.asarray(rows, dtype=np.int64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"fitted steps of fold {split.name}",
            found=f"{str(step)[:80]} ({type(error).__name__}: {error})",
            expected='{"step": name, "kind": kind, "rows": [row numbers] or "train"}',
            remedy="See docs/evaluation.md for fitted.json.",
        ) from error


def _fitted_finding(step: str, kind: str, count: _Count, n_test: int) -> Finding:
    rule = FITTED.get(kind, "T2")
    if kind == "cleaning":
        return Finding(
            rule=rule,
            title=f"{step.capitalize()} uses whole runs or subjects, without their labels",
            n_samples=count.n,
            share=count.n / n_test,
            worst="the same for all",
            danger="None offline: no label is used. A live decoder cannot do it.",
            remedy="Nothing to do; say so.",
            verdict=NOTE,
        )
    return Finding(
        rule=rule,
        title=f"The step {step!r} ({kind or 'kind not given'}) was fitted on test samples",
        n_samples=count.n,
        share=count.n / n_test,
        worst=count.worst,
        danger=FITTED_DANGER[rule],
        remedy="Fit it inside each fold, on train only.",
        verdict=LEAK,
    )


def _clock_finding(design: Design, splits: list[Split]) -> list[Finding]:
    score = time_only(design, splits)
    if score is None:
        return []
    n_test = sum(len(split.test) for split in splits)
    worst = (
        f"training samples at the same time {score.key} carry the test sample's label in "
        f"{score.agreement:.0%} of cases ({score.expected:.0%} by accident)"
    )
    return [_finding("T5b", score.n_samples, n_test, worst)]


def _imbalance(design: Design, splits: list[Split]) -> list[Finding]:
    tested = np.concatenate([split.test for split in splits])
    counts = np.bincount(design.label.code[tested], minlength=len(design.label.names))
    if counts.max() <= LARGEST_RATIO * counts.min():
        return []
    most, least = int(np.argmax(counts)), int(np.argmin(counts))
    worst = (
        f"{counts[most]} of {design.label.names[most]}, {counts[least]} of "
        f"{design.label.names[least]}: always guessing the first is right in "
        f"{counts[most] / counts.sum():.0%}"
    )
    return [_finding("T10", len(tested), len(tested), worst)]


def _not_checked(lookup: Lookup, fitted: Sequence[Any] | None) -> tuple[str, ...]:
    open_questions = []
    if lookup.array is None:
        open_questions.append("T1-dup: duplicated samples (the arrays were not given)")
    if not lookup.runs.known.any():
        open_questions.append("T1: neighbours in time (no onset_s)")
    if not lookup.stimuli.known.any():
        open_questions.append("T5: shared moments of a stimulus (no stimulus_time_s)")
    if fitted is None:
        open_questions.append("T2, T3, T6, T14: what fitted steps saw (no ledger given)")
    elif any(_named_only(steps) for steps in fitted):
        open_questions.append(
            "T2, T3, T6, T14: what fitted steps saw (their rows are named by the fold that "
            "handed them out, not recorded inside the steps)"
        )
    return tuple(open_questions)


def _named_only(steps: Any) -> bool:
    """Whether a fold's ledger says "train" instead of which rows: true by its own account only."""
    entries = [steps] if isinstance(steps, dict) else steps
    return any(isinstance(entry.get("rows"), str) for entry in entries)


def duplicate_codes(X: np.ndarray) -> np.ndarray:
    """Number the groups of identical rows; -1 for rows without an identical one.

    Rows are compared by a slice of columns first; only those equal there are read completely.
    """
    n_samples, n_columns = X.shape
    start = max(0, (n_columns - PROBE_COLUMNS) // 2)
    probe = [_digest(X[row, start : start + PROBE_COLUMNS]) for row in range(n_samples)]
    suspects = np.flatnonzero(_groups(probe) >= 0)
    codes = np.full(n_samples, -1, dtype=np.int64)
    digests = []
    for row in suspects:
        whole = X[row]
        constant = n_columns > 1 and bool(np.all(whole == whole[0]))
        digests.append(row.tobytes() if constant else _digest(whole))
    codes[suspects] = _groups(digests)
    return codes


def _digest(values: np.ndarray) -> bytes:
    # adding zero makes -0.0 and 0.0 the same bytes
    return hashlib.blake2b((values + 0.0).tobytes(), digest_size=16).digest()


def _groups(digests: list[bytes]) -> np.ndarray:
    code, _ = pd.factorize(np.array(digests, dtype=object)) if digests else (np.empty(0, int), None)
    often = np.bincount(code, minlength=1)[code] > 1 if len(code) else np.empty(0, dtype=bool)
    return np.where(often, code, -1).astype(np.int64)

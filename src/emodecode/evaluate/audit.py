"""Audit: does anything about the test samples reach the training? Asked before any score.

Usable on the folds of any tool: a table that says who, when and what each sample is, and the row
numbers of each fold.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError, LeakageError
from emodecode.evaluate.design import Design, read_design
from emodecode.evaluate.duplicates import Duplicates, duplicate_codes, find_duplicates
from emodecode.evaluate.exchange import make_exchange
from emodecode.evaluate.fitted import Step, fitted_findings, read_steps, unchecked_steps
from emodecode.evaluate.fold import Split, check_rows
from emodecode.evaluate.lags import lag_curve
from emodecode.evaluate.overlap import describe_overlap, time_only_scores
from emodecode.evaluate.rules import (
    CAUTION,
    CLEAN,
    CONTROL_ADVICE,
    LEAK,
    NOTE,
    RULES,
    SURE_P,
    Finding,
    Lookup,
    fold_hits,
    time_only,
)

if TYPE_CHECKING:
    from emodecode.evaluate.controls import Control

__all__ = ["Audit", "Finding", "add_controls", "audit_split", "duplicate_codes", "enforce"]

FEW_FEATURES = 8
"""Below this many columns, equal rows may be accidents: then a duplicate is a caution.

So it is with columns of few values (`emodecode.evaluate.duplicates.Duplicates.coarse`).
"""

LARGEST_RATIO = 1.5
"""Largest over smallest class in the test samples, above which unequal classes are noted."""

SHORT_TR_S = 1.0
"""Above this repetition time, seconds, slice timing matters."""

_LAG_STEP_S, _LEVEL = 2.0, 0.05

_ORDER = {LEAK: 0, CAUTION: 1, NOTE: 2}


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
    overlap : dict
        What test and training share, in numbers (`emodecode.evaluate.overlap`), and under
        ``time_only`` the scores of nearest neighbours in time without brain data.
    lags : dict
        How well the labels fit when moved in time (`emodecode.evaluate.lags`); empty if not asked.
    controls : tuple of dict
        Negative controls (`add_controls`).
    controls_share : float or None
        Their time as a share of the decoders' own; None where they were not run.
    """

    verdict: str
    findings: tuple[Finding, ...]
    n_folds: int
    n_test: int
    gap_s: float
    not_checked: tuple[str, ...] = ()
    overlap: dict[str, Any] = field(default_factory=dict)
    lags: dict[str, Any] = field(default_factory=dict)
    controls: tuple[dict[str, Any], ...] = ()
    controls_share: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Make the content of ``audit.json``."""
        plain = dataclasses.asdict(self)
        return plain | {
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "not_checked": list(self.not_checked),
            "controls": list(self.controls),
        }


def audit_split(
    table: pd.DataFrame,
    splits: Sequence[Split],
    *,
    X: np.ndarray | None = None,
    duplicates: Duplicates | None = None,
    fitted: Sequence[Any] | None = None,
    gap_s: float = 30.0,
    claim: str | None = None,
    tr_s: float | None = None,
    timing: Sequence[str] | None = None,
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
        For duplicated samples and the lag of the labels. A memory map is read row by row, most of
        it not at all. Rows whose values are all equal carry no information and are passed over.
    duplicates : Duplicates, optional
        What `emodecode.evaluate.duplicates.find_duplicates` found in `X`, if known already.
    fitted : sequence, optional
        For each fold the fitted steps, ``{"step": name, "kind": kind, "rows": [row numbers]}``;
        ``"train"``, ``"calibrate"`` or ``"test"`` stand for those rows of the fold, None for rows
        that nobody knows. ``"recorded": True`` says that the step itself recorded them.
        Kinds: scaler, selection, alignment, resampler, tuning, early_stopping, calibration, model,
        and ``cleaning`` for steps that treat each run by itself without looking at labels. A model
        may say ``"starts_from": name of a fold`` or ``"fresh": False``; ``{"kind": "permutation",
        "unit": "volume"}`` says how chance was drawn.
    gap_s : float, default 30
        Samples of a run that are closer than this are neighbours (haemodynamic response and
        autocorrelation).
    claim : {"across_subjects", "within_subject"}, optional
        What the score is meant to say: whether the tested subject may be in training.
    tr_s : float, optional
        Repetition time; read from the table's onsets if not given.
    timing : sequence of str, optional
        What the sidecars say about slice timing and removed volumes.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        Rows that the table does not have, an unknown claim, or fitted steps of another form.
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
    steps = None if fitted is None else read_steps(fitted, splits, design.n)
    if duplicates is None and X is not None:
        duplicates = find_duplicates(X, table)
    lookup = Lookup(
        design, design.scan_axis(), design.stimulus_axis(), gap_s, design.tolerance_s, duplicates
    )
    found = _where_from(lookup, splits, claim)
    found += [] if steps is None else fitted_findings(design, splits, steps, gap_s=gap_s)
    if not any(finding.rule == "T5" for finding in found):
        found += _clock_finding(design, splits)
    n_test = sum(len(split.test) for split in splits)
    lags = {} if X is None else _lags(X, table, design.tr_s)
    found += _lag_finding(lags, n_test) + _timing_finding(timing, n_test)
    found += _imbalance(design, splits) + _exchange_finding(table, design, n_test)
    overlap = describe_overlap(table, splits, tr_s=tr_s)
    return Audit(
        verdict=_verdict(found),
        findings=_sorted(found),
        n_folds=len(splits),
        n_test=n_test,
        gap_s=gap_s,
        not_checked=_not_checked(lookup, steps, lags, timing),
        overlap=overlap | {"time_only": time_only_scores(table, splits)},
        lags=lags,
    )


def _verdict(findings: Sequence[Finding]) -> str:
    gravest = min((finding.verdict for finding in findings), key=_ORDER.__getitem__, default=NOTE)
    return CLEAN if gravest == NOTE else gravest


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda each: (_ORDER[each.verdict], -each.share)))


def add_controls(audit: Audit, controls: "Sequence[Control]", *, share: float | None) -> Audit:
    """Add negative controls: each that is not at chance becomes a finding.

    A control above chance with p <= .001, corrected for the number of controls, is a leak; with a
    larger p it is a caution, and so is a decoder of confounds (T13) whatever its p: what it decodes
    may be decoded from the brain as well, but nothing of the test samples reached the training.
    Without any control that could be asked there is no "clean" either.

    Parameters
    ----------
    audit : Audit
    controls : sequence of Control
    share : float or None
        Their time as a share of the decoders' own; None where controls were switched off.
    """
    failed = [_control_finding(control, audit.n_test) for control in controls if _failed(control)]
    if not any(control.passed is not None for control in controls):
        failed.append(_without_controls(audit.n_test, switched_off=share is None))
    findings = _sorted([*audit.findings, *failed])
    asked = any(control.rule == "T13" and control.passed is not None for control in controls)
    open_questions = [each for each in audit.not_checked if not (asked and each[:4] == "T13:")]
    return dataclasses.replace(
        audit,
        verdict=_verdict(findings),
        findings=findings,
        not_checked=tuple(open_questions),
        controls=tuple(control.to_json() for control in controls),
        controls_share=share,
    )


def _failed(control: "Control") -> bool:
    return control.passed is False  # None: it could not be asked


def _without_controls(n_test: int, *, switched_off: bool) -> Finding:
    return Finding(
        rule="controls",
        title="No control was run" if switched_off else "No control could be asked",
        n_samples=n_test,
        share=1.0,
        worst="evaluate.controls = false" if switched_off else "see the controls' own reasons",
        danger="Whether the pipeline finds something where there is nothing is not known.",
        remedy="Set evaluate.controls = true." if switched_off else "Claim nothing without them.",
        verdict=CAUTION,
    )


def _control_finding(control: "Control", n_test: int) -> Finding:
    danger, remedy = CONTROL_ADVICE[control.rule]
    p = control.p_corrected
    grave = p is not None and p <= SURE_P and control.rule != "T13"
    return Finding(
        rule=control.rule,
        title=f"Control not at chance: {control.title}",
        n_samples=n_test,
        share=1.0,
        worst=control.sentence,
        danger=danger,
        remedy=remedy,
        verdict=LEAK if grave else CAUTION,
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


def _where_from(lookup: Lookup, splits: list[Split], claim: str | None) -> list[Finding]:
    design, duplicates = lookup.design, lookup.duplicates
    few = duplicates is not None and (duplicates.n_columns < FEW_FEATURES or duplicates.coarse)
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
                row, neighbour = int(hit.rows[worst]), int(hit.neighbour[worst])
                count.worst = _worst(design, split, row, neighbour, count.seconds)
                if hit.rule in ("T1-dup", "T1-copy"):
                    count.worst += _shift(design, row, neighbour)
    leaking = counts.pop("T4-leak", None)
    findings = []
    for rule, count in counts.items():
        finding = _finding(rule, count.n, n_test, count.worst)
        if rule == "T4":
            finding = _judge_t4(finding, design, claim, leaking is not None)
        if rule in ("T1-dup", "T10-dup") and few:
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


def _shift(design: Design, row: int, copy: int) -> str:
    """How far a copy is shifted, where both volumes are known."""
    by = abs(float(design.volume[row] - design.volume[copy]))
    if not np.isfinite(by) or by == 0 or design.scan.code[row] == design.scan.code[copy]:
        return ""
    return f": shifted by {by:.0f} volume{'s' * (by != 1)}"


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


def _lags(X: np.ndarray, table: pd.DataFrame, tr_s: float | None) -> dict[str, Any]:
    step = 1 if tr_s is None else max(1, round(_LAG_STEP_S / tr_s))
    return lag_curve(X, table, tr_s=tr_s, lags_vol=range(-2 * step, 7 * step, step))


def _lag_finding(lags: dict[str, Any], n_test: int) -> list[Finding]:
    if not lags or not lags["flagged"]:
        return []
    best, zero = lags["lags_vol"].index(lags["best_vol"]), lags["lags_vol"].index(0)
    volumes = abs(lags["best_vol"])
    seconds = "" if lags["best_s"] is None else f" ({abs(lags['best_s']):g} s)"
    worst = (
        f"moved {volumes} volumes{seconds} {'later' if lags['best_vol'] > 0 else 'earlier'}, the "
        f"labels explain {lags['share'][best]:.2%} of the variance instead of "
        f"{lags['share'][zero]:.2%} ({lags['by_accident']:.2%} by accident; "
        f"{lags['n_subjects']} subjects, p = {lags['p']:.1g})"
    )
    return [_finding("T8", n_test, n_test, worst)]


def _timing_finding(timing: Sequence[str] | None, n_test: int) -> list[Finding]:
    return [_finding("T9", n_test, n_test, "; ".join(timing))] if timing else []


def _exchange_finding(table: pd.DataFrame, design: Design, n_test: int) -> list[Finding]:
    classes = design.label.names
    if len(classes) < 2:
        return []
    absent = {name: "n/a" for name in ("run",) if name not in table}
    known = table.assign(**absent, label=[classes[code] for code in design.label.code])
    if "volume" not in table or known["volume"].isna().any():
        known["volume"] = known.groupby(["subject", "run"]).cumcount()
    log_n = make_exchange(known, classes=classes).log_arrangements
    if np.exp(-log_n) <= _LEVEL:
        return []
    n = round(np.exp(log_n))
    ways = "one way" if n == 1 else f"{n} ways"
    worst = f"{ways} only: no permutation test can get below p = {1 / n:.2g}"
    return [_finding("T19", n_test, n_test, worst)]


def _not_checked(
    lookup: Lookup,
    steps: Sequence[Sequence[Step]] | None,
    lags: dict[str, Any],
    timing: Sequence[str] | None,
) -> tuple[str, ...]:
    open_questions = []
    if lookup.duplicates is None:
        open_questions.append("T1-dup, T1-copy: duplicated samples (the arrays were not given)")
    if not lookup.runs.known.any():
        open_questions.append("T1: neighbours in time (no onset_s)")
    if not lookup.stimuli.known.any():
        open_questions.append("T5: shared moments of a stimulus (no stimulus_time_s)")
    if steps is None:
        open_questions.append("T2, T3, T6, T7, T14: what fitted steps saw (no ledger given)")
    else:
        open_questions += unchecked_steps(steps)
    if lookup.runs.known.any() and not lags:
        open_questions.append(
            "T8: the lag of the labels (no arrays, or no stretches of volumes in which labels "
            "change)"
        )
    tr_s = lookup.design.tr_s
    if not timing and tr_s is not None and tr_s > SHORT_TR_S:
        open_questions.append("T9: slice timing and removed volumes (no sidecar says)")
    open_questions.append("T13: confounds such as motion (no control was run)")
    return tuple(open_questions)

"""Proof: the scores of a study together with all that says what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emodecode import assemble
from emodecode.assemble import Gathered
from emodecode.candidates import make_candidates, make_tuning, warn_of_raw
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.evaluate.alignment import Alignment
    from emodecode.evaluate.audit import Audit
    from emodecode.evaluate.chance import Null
    from emodecode.evaluate.controls import Control
    from emodecode.evaluate.results import Results
    from emodecode.evaluate.score import Candidate
    from emodecode.evaluate.splits import Split


@dataclass(frozen=True, eq=False)
class Proof:
    """What `prove` finds.

    Parameters
    ----------
    results : Results
        Predictions of every fold.
    candidates : list of Candidate
    splits : list of Split
    audit : Audit
        Folds, ledger and controls.
    fitted : list
        The ledger: for each fold what its fitted steps saw (``fitted.json``).
    scores : dict
        Content of ``scores.json``.
    """

    results: "Results"
    candidates: "list[Candidate]"
    splits: "list[Split]"
    audit: "Audit"
    fitted: list[list[dict[str, Any]]] = field(repr=False)
    scores: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Work:
    """How long work is done: processes, where it resumes, whether it shows its progress."""

    resume: Path
    n_jobs: int = 1
    scheduler: str | None = None
    progress: bool = True

    def as_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `score`, `refit_null` and `run_controls`."""
        return {
            "n_jobs": self.n_jobs,
            "scheduler": self.scheduler,
            "resume_folder": self.resume,
            "progress": self.progress,
        }


def prove(
    study: Study, gathered: Gathered, *, work: Work, alignment: "Alignment | None" = None
) -> Proof:
    """Audit the folds, score the decoders, test them against chance, run the controls.

    Parameters
    ----------
    study : Study
    gathered : Gathered
    work : Work
    alignment : Alignment, optional
        What aligned decoders are fitted on (`emodecode.timelock.gather_alignment`).

    Raises
    ------
    LeakageError
        The audit of folds or ledger finds a leak and the study does not allow it.
    """
    from emodecode.evaluate.audit import add_controls, audit_split, enforce
    from emodecode.evaluate.duplicates import find_duplicates
    from emodecode.evaluate.score import score

    samples, rules = gathered.samples, study.evaluate
    splits, split = assemble.split_samples(study, samples.table)
    known: dict[str, Any] = {
        "X": samples.X,
        "duplicates": find_duplicates(samples.X, samples.table),
        "tr_s": gathered.tr_s,
        "timing": list(gathered.timing),
    }
    audit = audit_split(samples.table, splits, **known)
    enforce(audit, allow_leakage=rules.allow_leakage)
    candidates = make_candidates(study, samples, alignment)
    results = score(
        samples,
        splits,
        candidates,
        tuning=make_tuning(study),
        seed=study.seed,
        with_latency=True,
        **work.as_arguments(),
    )
    fitted = [
        own + assemble.cleaned(samples, fold)
        for own, fold in zip(results.ledger(), splits, strict=True)
    ]
    audit = audit_split(samples.table, splits, fitted=fitted, **known)
    enforce(audit, allow_leakage=rules.allow_leakage)
    scores = _score(study, gathered, splits, candidates, results, work)
    scores["split"] = split
    scores["warnings"] = warn_of_raw(study, samples)
    controls, share = _control(study, gathered, splits, candidates, results, work)
    audit = add_controls(audit, controls, share=share)
    scores["comparisons"] = _compare(study, results, splits, audit)
    if alignment is not None:
        scores["alignment"] = _align(study, gathered, splits, candidates, results, audit, work)
    return Proof(results, candidates, splits, audit, fitted, scores)


def _score(
    study: Study,
    gathered: Gathered,
    splits: "Sequence[Split]",
    candidates: "Sequence[Candidate]",
    results: "Results",
    work: Work,
) -> dict[str, Any]:
    from emodecode.evaluate.calibration import describe_calibration
    from emodecode.evaluate.chance import make_exchange
    from emodecode.evaluate.metrics import score_predictions
    from emodecode.evaluate.phase import surrogate_null
    from emodecode.evaluate.refit import refit_null
    from emodecode.evaluate.subjects import describe_subjects

    samples = gathered.samples
    rules, how = study.evaluate, {"seed": study.seed, **work.as_arguments()}
    how |= {"tuning": make_tuning(study), "n_permutations": rules.n_permutations}
    unit = "block" if rules.exchange == "phase" else rules.exchange
    tested = _to_refit(study, candidates)
    if rules.exchange == "phase":
        nulls = surrogate_null(samples, splits, tested, **how) if tested else {}
    else:
        exchange = make_exchange(samples.table, classes=results.classes, unit=unit)
        nulls = refit_null(samples, splits, tested, exchange=exchange, **how)
    if study.evaluate.calibrate != "none":
        nulls = {name: _without_probabilities(null) for name, null in nulls.items()}
    scores = score_predictions(
        results.predictions,
        classes=results.classes,
        seed=study.seed,
        n_permutations=study.evaluate.n_permutations,
        samples_table=samples.table,
        rows=results.rows,
        nulls=nulls,
        splits=splits,
        unit=unit,
    )
    for model in study.models:
        found, name = scores["models"][model.name], model.name
        found["kind"] = model.kind
        own = results.predictions[results.predictions["model"] == name]
        found |= describe_calibration(
            own,
            classes=results.classes,
            seed=study.seed,
            temperatures=_temperatures(results, name),
            widening=scores["widening"],
        )
        main = "balanced_accuracy"
        null = nulls.get(name)
        found["inference"] = describe_subjects(
            {subject: each[main] for subject, each in found["per_subject"].items()},
            found[main]["chance"],
            null_per_subject=None if null is None else null.per_subject,
            seed=study.seed,
        )
    return scores


def _to_refit(study: Study, candidates: "Sequence[Candidate]") -> "list[Candidate]":
    """Decoders whose test refits everything: the dummy needs none, slow ones only on demand."""
    from emodecode.evaluate.refit import has_fast_path

    how, phase = study.evaluate.permutation, study.evaluate.exchange == "phase"
    if how == "predictions" and not phase:
        return []
    real = [
        replace(candidate, calibrate=False)
        for candidate, model in zip(candidates, study.models, strict=True)
        if model.kind != "dummy"
    ]
    if how == "refit" or phase:
        return real
    return [candidate for candidate in real if has_fast_path(candidate)]


def _without_probabilities(null: "Null") -> "Null":
    """Scores that no temperature changes: the refitted decoders are not calibrated."""
    unknown = {
        metric: values
        if metric in ("balanced_accuracy", "accuracy")
        else np.full_like(values, np.nan)
        for metric, values in null.scores.items()
    }
    return replace(null, scores=unknown)


def _temperatures(results: "Results", model: str) -> dict[str, float] | None:
    own = [fold for fold in results.folds if fold["model"] == model]
    found = {fold["fold"]: fold["temperature"] for fold in own if fold.get("temperature")}
    return found or None


def _control(
    study: Study,
    gathered: Gathered,
    splits: "Sequence[Split]",
    candidates: "Sequence[Candidate]",
    results: "Results",
    work: Work,
) -> "tuple[list[Control], float | None]":
    """Controls and the share of the decoders' own time that they took; None: switched off."""
    from emodecode.evaluate.controls import run_controls

    if not study.evaluate.controls:
        return [], None
    controls = run_controls(
        gathered.samples,
        splits,
        candidates,
        results=results,
        tuning=make_tuning(study),
        confounds=gathered.motion,
        share=study.evaluate.control_share,
        seed=study.seed,
        n_permutations=study.evaluate.n_permutations,
        **work.as_arguments(),
    )
    spent = sum(fold["seconds"] for fold in results.folds)
    return controls, sum(control.seconds for control in controls) / max(spent, 1e-9)


def _align(
    study: Study,
    gathered: Gathered,
    splits: "Sequence[Split]",
    candidates: "Sequence[Candidate]",
    results: "Results",
    audit: "Audit",
    work: Work,
) -> dict[str, Any]:
    """What the alignment assumes, and the references that its scores stand beside."""
    from emodecode.evaluate.alignment import ASSUMES, PROTOCOLS
    from emodecode.evaluate.beside import score_beside

    rules = study.align
    assert rules is not None
    chosen = list(candidates)
    if isinstance(rules.beside, list):
        chosen = [each for each in candidates if each.name in rules.beside]
    beside = []
    if rules.beside:
        beside = score_beside(
            gathered.samples,
            splits,
            chosen,
            results=results,
            verdict=audit.verdict,
            tuning=make_tuning(study),
            seed=study.seed,
            n_permutations=study.evaluate.n_permutations,
            **work.as_arguments(),
        )
    return {
        "protocol": rules.protocol,
        "fitted_on": PROTOCOLS[rules.protocol],
        "assumes": ASSUMES[rules.protocol],
        "method": rules.method,
        "map": rules.map,
        "aligned": [each.name for each in candidates if each.alignment is not None],
        "beside": beside,
    }


def _compare(
    study: Study, results: "Results", splits: "Sequence[Split]", audit: "Audit"
) -> list[dict[str, Any]]:
    from emodecode.evaluate.compare import compare

    real = [model.name for model in study.models if model.kind != "dummy"]
    if len(real) < 2:
        return []
    return compare(
        {name: results.predictions[results.predictions["model"] == name] for name in real},
        splits,
        verdicts=dict.fromkeys(real, audit.verdict),
        classes=results.classes,
        seed=study.seed,
    )

"""Beside: what an aligned score has to be read against - no alignment, and the subject itself."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from emodecode.errors import InputError
from emodecode.evaluate.alignfold import ALIGN
from emodecode.evaluate.compare import compare
from emodecode.evaluate.fold import NOTHING, Split
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.results import Results
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.features.own import OwnVoxels
from emodecode.samples import Samples

BESIDE: dict[str, str] = {
    "unaligned": "the same decoder without alignment, in the same folds",
    "calibration_added": "no alignment; the calibration samples are added to the training samples",
    "within_subject": "no alignment; trained on the tested subject's own other runs",
}
"""Kind of reference -> what it is."""


def score_beside(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    *,
    results: Results,
    verdict: str,
    tuning: Tuning | None = None,
    seed: int = 0,
    n_permutations: int = 1000,
    **work: Any,
) -> list[dict[str, Any]]:
    """Score the references of aligned decoders.

    Parameters
    ----------
    samples, splits, tuning, seed, n_permutations
        As the decoders were scored.
    candidates : sequence of Candidate
        Aligned ones; others are left out.
    results : Results
        Of the candidates, for the paired comparison with no alignment.
    verdict : str
        Of the audit; without a clean one nothing is claimed.
    **work
        ``n_jobs scheduler resume_folder progress`` of `emodecode.evaluate.score.score`.

    Returns
    -------
    list of dict
        For each decoder and kind of `BESIDE`: ``model kind balanced_accuracy macro_auc`` (``value
        low high chance n_subjects p``), ``why_not`` (None: it was scored) and, for ``unaligned``,
        ``gain``, the comparison of `emodecode.evaluate.compare.compare`.
    """
    how = {"tuning": tuning, "seed": seed} | work
    drawn: dict[str, Any] = {"seed": seed, "n_permutations": n_permutations}
    folds_of = _folds_of(samples.table, splits)
    found: list[dict[str, Any]] = []
    for candidate in candidates:
        if candidate.alignment is None:
            continue
        plain = without_alignment(candidate)
        for kind, folds in folds_of.items():
            if plain is None or not folds:
                why = "own voxels cannot do without it" if folds else _why_none(samples.table)
                found.append(_not_scored(candidate.name, kind, why))
                continue
            try:
                scored = score(samples, folds, [plain], **how)
            except InputError as error:  # inner folds of one subject's few samples
                found.append(_not_scored(candidate.name, kind, error.found))
                continue
            entry = _describe(samples, scored, folds, kind, drawn)
            if kind == "unaligned":
                entry["gain"] = _gain(candidate.name, results, scored, splits, verdict, seed)
            found.append(entry)
    return found


def _why_none(table: pd.DataFrame) -> str:
    """Why no run of a subject can be tested on its other runs."""
    if (table.groupby("subject")[["session", "run"]].nunique() < 2).all(axis=None):
        return "each subject has one run"
    return "no subject's other runs hold all classes of a run"


def without_alignment(candidate: Candidate) -> Candidate | None:
    """Return the decoder without its alignment; None where its voxels differ between subjects."""
    if any(isinstance(step, OwnVoxels) for _, step in candidate.pipeline.steps):
        return None
    steps = [(name, step) for name, step in candidate.pipeline.steps if name != ALIGN]
    on_all = tuple(name for name in candidate.fit_on_all if name != ALIGN)
    return dataclasses.replace(
        candidate, pipeline=Pipeline(steps), alignment=None, fit_on_all=on_all
    )


def own_run_splits(table: pd.DataFrame, splits: Sequence[Split]) -> list[Split]:
    """Folds within each subject: a tested run on a decoder of the subject's other runs.

    Only samples that `splits` test are tested; folds whose training lacks a tested class or has
    one class only are left out.
    """
    tested = np.unique(np.concatenate([split.test for split in splits]))
    subject = table["subject"].to_numpy(dtype=str)
    run = (table["session"].astype(str) + "|" + table["run"].astype(str)).to_numpy(dtype=str)
    label = table["label"].to_numpy(dtype=str)
    made = []
    for name in np.unique(subject[tested]):
        for each in np.unique(run[tested[subject[tested] == name]]):
            train = np.flatnonzero((subject == name) & (run != each))
            test = tested[(subject[tested] == name) & (run[tested] == each)]
            learned = set(label[train])
            if len(learned) >= 2 and set(label[test]) <= learned:
                made.append(Split(train, NOTHING, test, name=f"sub-{name} {each}"))
    return made


def _folds_of(table: pd.DataFrame, splits: Sequence[Split]) -> dict[str, list[Split]]:
    folds = {"unaligned": list(splits)}
    if any(split.calibrate.size for split in splits):
        folds["calibration_added"] = [
            Split(
                np.sort(np.concatenate([split.train, split.calibrate])),
                NOTHING,
                split.test,
                name=split.name,
            )
            for split in splits
        ]
    folds["within_subject"] = own_run_splits(table, splits)
    return folds


def _describe(
    samples: Samples,
    scored: Results,
    folds: list[Split],
    kind: str,
    drawn: dict[str, Any],
) -> dict[str, Any]:
    """Entry of the one decoder that was scored."""
    scores = score_predictions(
        scored.predictions,
        classes=scored.classes,
        samples_table=samples.table,
        rows=scored.rows,
        splits=folds,
        **drawn,
    )
    ((name, found),) = scores["models"].items()
    return {
        "model": name,
        "kind": kind,
        "balanced_accuracy": found["balanced_accuracy"],
        "macro_auc": found["macro_auc"],
        "why_not": None,
    }


def _gain(
    model: str,
    results: Results,
    scored: Results,
    splits: Sequence[Split],
    verdict: str,
    seed: int,
) -> dict[str, Any]:
    other = f"{model} without alignment"
    pair = {
        model: results.predictions[results.predictions["model"] == model],
        other: scored.predictions[scored.predictions["model"] == model],
    }
    verdicts = dict.fromkeys(pair, verdict)
    return compare(pair, splits, classes=results.classes, verdicts=verdicts, seed=seed)[0]


def _not_scored(model: str, kind: str, why: str) -> dict[str, Any]:
    nothing = {"value": None, "low": None, "high": None, "chance": None}
    return {
        "model": model,
        "kind": kind,
        "balanced_accuracy": nothing,
        "macro_auc": nothing,
        "why_not": why,
    }

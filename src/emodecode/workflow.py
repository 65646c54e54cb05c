"""The flow, top to bottom: one short function per command, no science in it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodecode.output import RESUME_FOLDER, open_output, write_json
from emodecode.study import Study, load_study, write_study

if TYPE_CHECKING:
    from emodecode.evaluate.audit import Audit
    from emodecode.label.labelled import Labelled

DEMO_STUDY = """\
# A study of a simulated data set: start from it for your own.
name = "demo"
title = "Three emotions in twelve simulated subjects"
seed = 0

[data]
source = "bids"
path = "bids"
derivatives = "derivatives/fmriprep"
task = "emotion"
confounds = ["trans_*", "rot_*"]

[labels]
source = "events"
lag_s = 5.0

[features]
n_voxels = 500          # selected anew in every fold

[evaluate]
split = "auto"          # the double hold-out for films, leave-one-subject-out for blocks

[[models]]
name = "dummy"

[[models]]
name = "lda"

[[models]]
name = "logistic"
"""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` leaves: its folder, the scores and the audit's verdict."""

    folder: Path
    scores: dict[str, Any]
    verdict: str


def evaluate(
    study: Study,
    out: Path,
    *,
    n_jobs: int = 1,
    scheduler: str | None = None,
    overwrite: bool = False,
    progress: bool = True,
    command: str = "",
) -> Evaluation:
    """Data in, labels, folds, audit, scores, maps, report: the main job.

    An interrupted call leaves its finished folds in ``out/.resume``; the same call goes on there.
    """
    from emodecode import archive, assemble
    from emodecode.candidates import make_candidates, make_tuning, require_installed
    from emodecode.evaluate.audit import audit_split, enforce
    from emodecode.evaluate.metrics import score_predictions
    from emodecode.evaluate.score import check_scheduler, score
    from emodecode.report.page import write_report

    started, rules = time.time(), study.evaluate
    assemble.refuse_at_once(study)
    with open_output(out, overwrite=overwrite) as staging:
        if scheduler is not None:
            require_installed("cluster", "distributed", "dask")
            check_scheduler(scheduler)
        resume = out / RESUME_FOLDER
        gathered = assemble.gather(study, work=resume, progress=progress)
        samples = gathered.samples
        splits, split = assemble.split_samples(study, samples.table)
        audit = audit_split(samples.table, splits, X=samples.X, tr_s=gathered.tr_s)
        enforce(audit, allow_leakage=rules.allow_leakage)
        candidates = make_candidates(study, samples)
        results = score(
            samples,
            splits,
            candidates,
            tuning=make_tuning(study),
            seed=study.seed,
            n_jobs=n_jobs,
            scheduler=scheduler,
            resume_folder=resume,
            progress=progress,
        )
        audit = audit_split(
            samples.table,
            splits,
            X=samples.X,
            fitted=[
                own + assemble.cleaned(samples, split)
                for own, split in zip(results.ledger(), splits, strict=True)
            ],
            tr_s=gathered.tr_s,
        )
        enforce(audit, allow_leakage=rules.allow_leakage)
        scores = score_predictions(
            results.predictions,
            classes=results.classes,
            seed=study.seed,
            n_permutations=rules.n_permutations,
            samples_table=samples.table,
            rows=results.rows,
        )
        scores["split"] = split
        for model in study.models:
            scores["models"][model.name]["kind"] = model.kind
        maps = archive.write_maps(staging, study, samples, candidates, results)
        archive.write_results(staging, study, gathered, results, splits, audit, scores)
        described = archive.describe(
            study, gathered, results, maps, started=started, command=command
        )
        write_json(described, staging / "provenance.json")
        write_report(staging)
    return Evaluation(out, scores, audit.verdict)


def label(study: Study, out: Path, *, overwrite: bool = False) -> "Labelled":
    """Write the sample table, an events.tsv per run, the timeline, a figure and a summary."""
    from emodecode import archive, assemble
    from emodecode.candidates import require_installed
    from emodecode.label.blocks import write_events
    from emodecode.report.timeline import write_label_figure
    from emodecode.samples import TABLE_COLUMNS, write_table

    require_installed("report", "matplotlib")
    with open_output(out, overwrite=overwrite) as staging:
        runs, notes = assemble.read_runs(study)
        labelled = assemble.label_runs(study, runs)
        write_table(labelled.table[list(TABLE_COLUMNS)], staging / "samples.tsv")
        write_table(labelled.timeline, staging / "labels-timeline.tsv")
        write_events(runs, labelled.table, staging / "events")
        write_label_figure(labelled, staging / "labels.png")
        described = archive.describe_labels(study, labelled.table, labelled)
        write_json(described | {"reading": notes}, staging / "labels.json")
        write_study(study, staging / "study.toml")
    return labelled


def audit_study(study: Study) -> "Audit":
    """Audit the folds that a study asks for, before anything is fitted or any image is read."""
    from emodecode import assemble
    from emodecode.evaluate.audit import audit_split

    table, tr_s = assemble.sample_table(study)
    splits, _ = assemble.split_samples(study, table)
    return audit_split(table, splits, tr_s=tr_s)


def audit_files(table: Path, splits: Path) -> "Audit":
    """Audit the folds of any tool: a sample table and a split file."""
    from emodecode.evaluate.audit import audit_split
    from emodecode.evaluate.splits import read_splits
    from emodecode.samples import read_sample_table

    samples = read_sample_table(table)
    return audit_split(samples, read_splits(splits, n_samples=len(samples)))


def fetch(name: str, out: Path, **choices: Any) -> list[Path]:
    """Download the files of a named public data set."""
    from emodecode.read import fetch as fetching

    return fetching.fetch(name, out, **choices)


def simulate(out: Path, **choices: Any) -> Path:
    """Write a BIDS data set of simulated subjects with a planted answer."""
    from emodecode.simulate.dataset import simulate_dataset

    return simulate_dataset(out, **choices)


def run_demo(out: Path, *, overwrite: bool = False, progress: bool = True) -> Evaluation:
    """Simulate twelve subjects on disk and evaluate three decoders on them."""
    from emodecode.simulate.dataset import simulate_dataset

    unfinished = (out / "study.toml").is_file() and (out / "results" / RESUME_FOLDER).is_dir()
    if overwrite or not unfinished:
        with open_output(out, overwrite=overwrite) as staging:
            simulate_dataset(staging / "bids", n_subjects=12, n_runs=2, seed=0, progress=progress)
            (staging / "study.toml").write_text(DEMO_STUDY)
    return evaluate(
        load_study(out / "study.toml"),
        out / "results",
        n_jobs=2,
        overwrite=overwrite,
        progress=progress,
        command=f"emodecode demo --out {out}",
    )

"""The flow, top to bottom: one short function per command, no science in it."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emodecode.errors import InputError
from emodecode.output import RESUME_FOLDER, open_output, write_json
from emodecode.sections import LABEL_PRESETS, STUDYFORREST_SEGMENTS_S
from emodecode.study import Study, load_study, published_form, write_study

if TYPE_CHECKING:
    import pandas as pd

    from emodecode.assemble import Gathered
    from emodecode.decoder import Decoder
    from emodecode.evaluate.audit import Audit
    from emodecode.evaluate.matching import Alikeness
    from emodecode.label.labelled import Labelled
    from emodecode.proof import Proof, Work
    from emodecode.simulate.movie import AnnotatedFilm

PUBLISHED_FOLDER = "as-published"
"""Where the published form of a study lies in its results folder."""

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
n_permutations = 200    # 1000 is the default

[[models]]
name = "dummy"

[[models]]
name = "lda"

[[models]]
name = "logistic"
"""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` leaves: its folder, the scores, the audit; the same of the published form."""

    folder: Path
    scores: dict[str, Any]
    audit: "Audit"
    published: "Evaluation | None" = None


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
    """Data in, labels, folds, audit, scores, controls, maps, report: the main job.

    An interrupted call leaves its finished parts in ``out/.resume``; the same call goes on there.
    A study with a published form has it evaluated on the same samples, in ``out/as-published``.
    """
    from emodecode import assemble
    from emodecode.candidates import require_installed
    from emodecode.evaluate.workers import check_scheduler
    from emodecode.proof import Work
    from emodecode.report.page import write_report

    assemble.refuse_at_once(study)
    published = published_form(study) if study.as_published else None
    with open_output(out, overwrite=overwrite) as staging:
        if scheduler is not None:
            require_installed("cluster", "distributed", "dask")
            check_scheduler(scheduler)
        resume = out / RESUME_FOLDER
        gathered = assemble.gather(study, work=resume, progress=progress)
        work = Work(resume, n_jobs, scheduler, progress)
        proof = _evaluate_into(staging, study, gathered, work=work, command=command)
        beside = None
        if published is not None:
            folder = staging / PUBLISHED_FOLDER
            folder.mkdir()
            other = _evaluate_into(folder, published, gathered, work=work, command=command)
            write_report(folder)
            beside = Evaluation(out / PUBLISHED_FOLDER, other.scores, other.audit)
        write_report(staging)
    return Evaluation(out, proof.scores, proof.audit, beside)


def _evaluate_into(
    folder: Path, study: Study, gathered: "Gathered", *, work: "Work", command: str
) -> "Proof":
    from emodecode import archive
    from emodecode.proof import prove
    from emodecode.timelock import gather_alignment

    started = time.time()
    alignment = gather_alignment(
        *(study, gathered.samples, gathered.runs), work=work.resume, progress=work.progress
    )
    proof = prove(study, gathered, work=work, alignment=alignment)
    maps = archive.write_maps(folder, study, gathered.samples, proof.candidates, proof.results)
    archive.write_results(folder, study, gathered, proof)
    described = archive.describe(
        study, gathered, proof.results, maps, started=started, command=command
    )
    write_json(described, folder / "provenance.json")
    return proof


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


def train(study: Study, out: Path, **choices: Any) -> "Decoder":
    """Evaluate one model of a study, fit it on all samples, and write it with its card."""
    from emodecode.train import train as fit_and_write

    return fit_and_write(study, out, **choices)


def explain(
    study: Study,
    out: Path,
    *,
    model: str | None = None,
    n_jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
    command: str = "",
) -> dict[str, Any]:
    """Fit in every fold, occlude held-out samples, test the maps, write images and the page.

    An interrupted call leaves its finished folds in ``out/.resume``; the same call goes on there.
    A study with a published form has it explained on the same samples, in ``out/as-published``; its
    part of the result stands under ``published``.
    """
    from emodecode import assemble
    from emodecode.candidates import require_installed
    from emodecode.explain.atlas import check_space, landmarks
    from emodecode.explanation.fits import refuse_unexplained
    from emodecode.proof import Work
    from emodecode.report.explained import write_explained_page
    from emodecode.train import choose_model

    require_installed("torch", "torch")
    if model is not None:
        study = study.model_copy(update={"models": [choose_model(study, model)]})
    published = published_form(study) if study.as_published else None
    if published is not None and model is not None:
        published = published.model_copy(update={"models": [choose_model(published, model)]})
    for each in [study] if published is None else [study, published]:
        assemble.refuse_at_once(each)
        refuse_unexplained(each)
        if each.explain.space:
            check_space(each.explain.space, landmarks(), any_template=True)
    with open_output(out, overwrite=overwrite) as staging:
        work = Work(out / RESUME_FOLDER, n_jobs, None, progress)
        gathered = assemble.gather(study, work=work.resume, progress=progress)
        told = _explain_into(staging, study, gathered, work=work, command=command)
        if published is not None:
            folder = staging / PUBLISHED_FOLDER
            folder.mkdir()
            other = _explain_into(folder, published, gathered, work=work, command=command)
            told = told | {"published": other}
        write_explained_page(staging)
    return told


def _explain_into(
    folder: Path, study: Study, gathered: "Gathered", *, work: "Work", command: str
) -> dict[str, Any]:
    from emodecode.explanation.files import find_space, write_explanation
    from emodecode.explanation.fits import explain_study

    space = find_space(study, gathered.samples)
    found = explain_study(study, gathered, space=space[0], work=work)
    return write_explanation(folder, study, gathered, found, space=space, command=command)


def predict(
    decoder: Path, image: Path, *, out: Path | None = None, **choices: Any
) -> "pd.DataFrame":
    """Decode every volume of a run; with `out` the table is written there."""
    from emodecode.decoder import Decoder
    from emodecode.samples import write_table

    table = Decoder.load(decoder).predict_run(image, **choices)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_table(table, out)
    return table


def export(decoder: Path, onnx: Path) -> float:
    """Write a network decoder as an ONNX graph; return by how much it differs from the decoder."""
    from emodecode.candidates import require_installed
    from emodecode.decoder import Decoder

    require_installed("onnx", "onnx", "onnxscript", "onnxruntime")
    return Decoder.load(decoder).export(onnx)


def align(
    study: Study, out: Path, *, overwrite: bool = False, progress: bool = True
) -> "list[Alikeness]":
    """Compare ways into one space: how alike subjects are in runs that no map was fitted on."""
    from emodecode import archive, assemble, timelock
    from emodecode.candidates import require_installed
    from emodecode.evaluate.matching import compare_spaces
    from emodecode.prepare import brain_mask
    from emodecode.report.alignment import write_alignment_figure
    from emodecode.samples import write_table

    require_installed("report", "matplotlib")
    timelock.refuse_without_time_lock(study)
    with open_output(out, overwrite=overwrite) as staging:
        runs, _ = assemble.read_runs(study)
        timelock.refuse_unsupported(study, assemble.label_runs(study, runs).table)
        volumes = timelock.extract_volumes(
            study,
            timelock.read_alignment_runs(study, runs),
            mask=brain_mask(runs, mask=getattr(study.data, "mask", None)),
            work=out / RESUME_FOLDER,
            progress=progress,
        )
        found = compare_spaces(
            volumes, timelock.steps_to_compare(study, volumes), progress=progress
        )
        write_table(archive.tabulate_alikeness(found), staging / "alignment.tsv")
        write_table(archive.tabulate_alikeness(found, by_subject=True), staging / "subjects.tsv")
        write_alignment_figure(found, staging / "alignment.png")
        write_study(study, staging / "study.toml")
    return found


def audit_study(study: Study) -> "Audit":
    """Audit the folds that a study asks for, before anything is fitted or any image is read."""
    from emodecode import assemble
    from emodecode.evaluate.audit import audit_split

    table, tr_s = assemble.sample_table(study)
    splits, _ = assemble.split_samples(study, table)
    return audit_split(table, splits, tr_s=tr_s)


def audit_files(table: Path, splits: Path, *, fitted: Path | None = None) -> "Audit":
    """Audit the folds of any tool: a sample table, a split file, and what its steps saw."""
    from emodecode.evaluate.audit import audit_split
    from emodecode.evaluate.fitted import read_fitted
    from emodecode.evaluate.splits import read_splits
    from emodecode.samples import read_sample_table

    samples = read_sample_table(table)
    folds = read_splits(splits, n_samples=len(samples))
    steps = None
    if fitted is not None:
        steps = read_fitted(fitted, n_samples=len(samples), n_folds=len(folds))
    return audit_split(samples, folds, fitted=steps)


def compare(
    items: list[str], *, metric: str, rope: float, seed: int, out: Path | None
) -> dict[str, Any]:
    """Compare decoders of results folders on the folds that they share."""
    from emodecode.report.comparison import compare_folders

    if out is not None and out.is_dir():
        raise InputError(
            f"--out {out}",
            found="a folder",
            expected="a file for the comparison",
            remedy=f"For example: --out {out / 'comparison.json'}",
        )
    found = compare_folders(items, metric=metric, rope=rope, seed=seed)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(found, out)
    return found


def models(kind: str | None = None, **sizes: Any) -> list[dict[str, Any]]:
    """List the kinds of decoder: what each is, its parameters, what its network costs."""
    from emodecode.candidates import require_installed

    require_installed("torch", "torch", "monai")
    from emodecode.models.cost import list_kinds

    return list_kinds(kind, **sizes)


def fetch(name: str, out: Path, **choices: Any) -> list[Path]:
    """Download the files of a named public data set."""
    from emodecode.read import fetch as fetching

    return fetching.fetch(name, out, **choices)


def simulate(out: Path, *, annotations: Path | None = None, **choices: Any) -> Path:
    """Write a BIDS data set of simulated subjects with a planted answer.

    With `annotations`, a folder in StudyForrest's format, the film's emotions are those that S1's
    rules find in them, in StudyForrest's segments unless `choices` name others.
    """
    from emodecode.simulate.dataset import simulate_dataset

    if annotations is None:
        return simulate_dataset(out, **choices)
    choices = {"segments_s": STUDYFORREST_SEGMENTS_S} | choices
    return simulate_dataset(out, annotated=_annotated_film(annotations), **choices)


def _annotated_film(annotations: Path) -> "AnnotatedFilm":
    """A real film whose emotions are the consensus of its observers by S1's rules."""
    from emodecode.label.consensus import cast_votes
    from emodecode.label.episodes import find_episodes
    from emodecode.read.annotations import read_annotations
    from emodecode.simulate.movie import AnnotatedFilm

    rules = LABEL_PRESETS["s1-as-published"]
    table = read_annotations(annotations)
    votes = cast_votes(
        table, **{name: rules[name] for name in ("grid_s", "split_labels", "overwrite")}
    )
    names = {"start_s": "start", "end_s": "end"}
    observers = {
        str(name): rows.drop(columns="observer").rename(columns=names).replace("n/a", "")
        for name, rows in table.groupby("observer", sort=False)
    }
    episodes = find_episodes(votes, agreement=rules["agreement"], break_ties=rules["overwrite"])
    return AnnotatedFilm(episodes, observers)


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

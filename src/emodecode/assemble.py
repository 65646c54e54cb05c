"""Study -> parts: what each section of the study asks for, read, labelled, split and built."""

import hashlib
import json
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import emodecode
from emodecode.candidates import (
    MONAI,
    NETWORKS,
    check_model,
    make_tuning,
    match_columns,
    naming_model,
    require_installed,
)
from emodecode.errors import InputError, LeakageError
from emodecode.label.labelled import Labelled
from emodecode.output import write_json
from emodecode.run import Run
from emodecode.samples import Samples
from emodecode.study import Study
from emodecode.timelock import protocol_of, refuse_unalignable, refuse_unsupported

if TYPE_CHECKING:
    import pandas as pd

    from emodecode.evaluate.splits import Split


@dataclass(frozen=True, eq=False)
class Gathered:
    """Samples of a study and what was decided on the way."""

    samples: Samples
    labelled: Labelled | None
    tr_s: float | None
    notes: list[str] = field(default_factory=list)
    motion: "pd.DataFrame | None" = None
    timing: tuple[str, ...] = ()
    runs: list[Run] = field(default_factory=list, repr=False)


def refuse_at_once(study: Study) -> None:
    """Refuse what is wrong before any data are looked for: decoders, parts that are not there.

    Raises
    ------
    DataMissingError
        A library or the atlas is missing.
    InputError
        No data to decode, an unknown kind or parameter of a decoder, or columns without names.
    """
    require_installed("report", "jinja2", "matplotlib")
    _refuse_known_leak(study)
    if any(model.kind == "boosted_trees" for model in study.models):
        require_installed("trees", "xgboost")
    if any(model.kind in NETWORKS for model in study.models):
        require_installed("torch", "torch", "skorch")
    if any(model.kind in MONAI for model in study.models):
        require_installed("torch", "monai")
    has_voxels = study.data.source != "table"
    if study.data.source == "design":
        raise InputError(
            "data.source",
            found="a planned design, which has no images",
            expected="images, matrices or tables to decode",
            remedy="Use `emodecode label` on a design; to decode, set data.source to bids or mat.",
        )
    if study.data.source == "mat" and study.data.layout != "volumes" and not study.data.mask:
        raise InputError(
            "data.mask",
            found="nothing, with matrices of voxels",
            expected="the mask that the voxels of the matrices follow",
            remedy="Set data.mask, and data.voxel_order.",
        )
    for model in study.models:
        check_model(study, model)
        if model.columns is not None and has_voxels and study.features.parcels is None:
            match_columns(model.name, model.columns, ())
    if study.features.parcels is not None:
        from emodecode.features.parcels import check_atlas

        if not has_voxels:
            raise InputError(
                "features.parcels",
                found="an atlas, with tables of features",
                expected="voxels to average over its parcels",
                remedy="Remove features.parcels.",
            )
        check_atlas(study.features.parcels)


def _refuse_known_leak(study: Study) -> None:
    if study.features.fit_on == "all" and not study.evaluate.allow_leakage:
        raise LeakageError(
            "features.fit_on",
            found="all: voxels chosen with the labels of the test samples",
            expected="train. On noise such a choice scores .97 where chance is .33",
            remedy='Set features.fit_on = "train"; to see the published form beside the honest '
            'one, put "features.fit_on" = "all" under [as_published].',
        )
    networks = [model.name for model in study.models if model.kind in NETWORKS]
    rules = study.evaluate
    if rules.choose_epoch_on == "test" and networks and not rules.allow_leakage:
        raise LeakageError(
            "evaluate.choose_epoch_on",
            found=f"test: {', '.join(networks)} would keep the epoch that is best on the test "
            "samples",
            expected="train. The best of 60 epochs on 70 test samples scores .32 on noise where "
            "chance is .20",
            remedy='Set it to "train"; to see the published form beside the honest one, put '
            '"evaluate.choose_epoch_on" = "test" under [as_published].',
        )
    if study.labels.source == "random" and study.data.source == "table":
        raise InputError(
            "labels.source",
            found="random, with a table of features",
            expected="runs with a clock to draw episodes on",
            remedy="Use images or matrices, or permute the label column yourself.",
        )


def read_runs(study: Study) -> tuple[list[Run], list[str]]:
    """Read the runs that a study names; events from another place are attached."""
    data = study.data.model_dump(exclude={"source"})
    if study.data.source == "bids":
        from emodecode.read.bids import read_bids

        data.pop("mask")
        runs, notes = read_bids(**data)
    elif study.data.source == "mat":
        from emodecode.read.mat import read_mat

        runs, notes = read_mat(**data)
    elif study.data.source == "design":
        from emodecode.read.design import plan_runs

        data.pop("path")
        runs, notes = plan_runs(**data)
    else:
        raise InputError(
            "data.source",
            found="a table of features, which has no runs",
            expected="images, matrices or a planned design",
            remedy="Use `emodecode evaluate` on tables: their labels are in the table.",
        )
    if study.labels.source == "events" and study.labels.events_path is not None:
        from emodecode.read.events import attach_events

        runs = attach_events(
            runs, pattern=str(study.labels.events_path), format=study.labels.events_format
        )
    return runs, notes


def label_runs(study: Study, runs: list[Run]) -> Labelled:
    """Label the volumes of the runs by the rules of the study."""
    from emodecode.label.rules import apply_rules

    labelled = _label(study, runs)
    rules = study.labels
    merged_already = rules.source in ("events", "annotations")
    table, notes = apply_rules(
        labelled.table,
        merge=None if merged_already else rules.merge,
        keep=rules.keep,
        min_count=rules.min_count,
        balance=rules.balance,
        balance_count=rules.balance_count,
        seed=study.seed,
    )
    return Labelled(
        table=table,
        timeline=labelled.timeline,
        notes=(*labelled.notes, *notes),
        reliability=labelled.reliability,
    )


def _label(study: Study, runs: list[Run]) -> Labelled:
    rules = study.labels
    if rules.source == "events":
        from emodecode.label.blocks import label_events

        return label_events(
            runs,
            column=rules.column,
            lag_s=rules.lag_s,
            hrf=rules.hrf,
            transition_s=rules.transition_s,
            late_events=rules.late_events,
            stimulus_column=rules.stimulus_column,
            merge=rules.merge or None,
            keep=rules.keep,
        )
    if rules.source == "data":
        from emodecode.label.blocks import label_data

        return label_data(runs)
    if rules.source == "random":
        from emodecode.label.random import label_random

        return label_random(
            runs,
            classes=rules.classes,
            episode_s=rules.episode_s,
            lag_s=rules.lag_s,
            seed=study.seed,
        )
    if rules.path is None:
        raise InputError(
            "labels.path",
            found="nothing",
            expected=f"the folder or file of the {rules.source}",
            remedy="Add path = ... to [labels].",
        )
    if rules.source == "annotations":
        from emodecode.label.votes import label_annotations
        from emodecode.read.annotations import read_annotations

        annotations = read_annotations(
            rules.path,
            pattern=rules.pattern,
            format=rules.annotation_format,
            variable=rules.variable,
        )
        return label_annotations(
            runs,
            annotations,
            variable=rules.variable,
            lag_s=rules.lag_s,
            hrf=rules.hrf,
            agreement=rules.agreement,
            grid_s=rules.grid_s,
            split_labels=rules.split_labels,
            overwrite=rules.overwrite,
            characters=rules.characters,
            segments_s=rules.segments_s,
            clock=rules.clock,
            overlap=rules.overlap,
            merge=rules.merge or None,
            seed=study.seed,
        )
    from emodecode.label.ratings import label_ratings
    from emodecode.read.annotations import read_ratings

    ratings = read_ratings(
        rules.path, variable=rules.variable, rate_hz=rules.rate_hz, run_column=rules.run_column
    )
    return label_ratings(
        runs,
        ratings,
        low=rules.low,
        high=rules.high,
        names=rules.names,
        lag_s=rules.lag_s,
        agreement=rules.agreement,
        seed=study.seed,
    )


def gather(study: Study, *, work: Path, progress: bool = True) -> Gathered:
    """Read, label, clean and extract: everything before the folds.

    Extracted data are kept in `work` under a name made from the study and the files' sizes and
    times, so that an interrupted evaluation finds them again.
    """
    if study.data.source == "table":
        gathered = _gather_table(study)
        refuse_hopeless_folds(study, gathered.samples.table, [])
        return gathered
    runs, notes = read_runs(study)
    labelled = label_runs(study, runs)
    refuse_hopeless_folds(study, labelled.table, runs)
    samples, more = _extract(study, runs, labelled.table, work, progress)
    return Gathered(
        _features(study, samples),
        labelled,
        runs[0].tr_s,
        [*notes, *more],
        motion=motion_of(runs, samples.table),
        timing=tuple(dict.fromkeys(note for run in runs for note in run.notes if _times(note))),
        runs=runs,
    )


def motion_of(runs: list[Run], table: "pd.DataFrame") -> "pd.DataFrame | None":
    """Head motion at every sample; None unless all runs have it."""
    import pandas as pd

    if any(run.motion is None for run in runs):
        return None
    own = {(run.subject, run.session, run.run): run for run in runs}
    parts = []
    keys = table[["subject", "session", "run"]].astype(str)
    for key, rows in keys.groupby(["subject", "session", "run"]).groups.items():
        run = own[key]  # type: ignore[index]
        volumes = table.loc[rows, "volume"].to_numpy() + run.dummies
        assert run.motion is not None
        parts.append(run.motion.iloc[volumes].set_axis(rows))
    return pd.concat(parts).loc[table.index].reset_index(drop=True)


def _times(note: str) -> bool:
    return note.startswith(("NumberOfVolumesDiscardedByUser", "SliceTimingCorrected"))


def sample_table(study: Study) -> "tuple[pd.DataFrame, float | None]":
    """Return the sample table and the TR of a study; no image is read."""
    if study.data.source == "table":
        return _gather_table(study).samples.table, None
    runs, _ = read_runs(study)
    return label_runs(study, runs).table, runs[0].tr_s


def _gather_table(study: Study) -> Gathered:
    from emodecode.label.rules import apply_rules
    from emodecode.read.table import read_feature_tables

    samples, notes = read_feature_tables(**study.data.model_dump(exclude={"source"}))
    rules = study.labels
    numbered = samples.table.assign(row_=np.arange(samples.n_samples))
    table, more = apply_rules(
        numbered,
        merge=rules.merge,
        keep=rules.keep,
        min_count=rules.min_count,
        balance=rules.balance,
        balance_count=rules.balance_count,
        seed=study.seed,
    )
    kept = Samples(
        X=samples.X[table["row_"].to_numpy()],
        table=table.drop(columns="row_"),
        mask=samples.mask,
        features=samples.features,
        history=samples.history,
    )
    return Gathered(_features(study, kept), None, None, [*notes, *more])


def _extract(
    study: Study, runs: list[Run], table: "pd.DataFrame", work: Path, progress: bool
) -> tuple[Samples, list[str]]:
    from emodecode.features.extract import check_extraction, extract
    from emodecode.prepare import brain_mask

    key = _extraction_key(study, runs, table)
    folder, notes = work / f"samples-{key}", work / f"samples-{key}.json"
    if folder.is_dir() and notes.is_file():
        return Samples.open(folder), json.loads(notes.read_text())
    shutil.rmtree(folder, ignore_errors=True)
    clean = study.features.clean.model_dump(exclude={"smoothing_mm"})
    check_extraction(runs, table, clean=clean)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        samples = extract(
            runs,
            table,
            mask=brain_mask(runs, mask=getattr(study.data, "mask", None)),
            clean=clean,
            smoothing_mm=study.features.clean.smoothing_mm,
            folder=folder,
            progress=progress,
        )
    found = list(dict.fromkeys(str(warning.message) for warning in caught))
    write_json(found, notes)
    return samples, found


def _extraction_key(study: Study, runs: list[Run], table: "pd.DataFrame") -> str:
    sources = [run.source for run in runs if run.source is not None]
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in sources]
    described = [
        emodecode.__version__,
        study.data.model_dump(mode="json"),
        study.features.clean.model_dump(mode="json"),
        files,
    ]
    digest = hashlib.sha256(json.dumps(described).encode())
    digest.update(table.to_csv(index=False).encode())
    masks = {id(run.mask): run.mask for run in runs if run.mask is not None}
    given = getattr(study.data, "mask", None)
    if given is not None and given.is_file():
        digest.update(given.read_bytes())
    for mask in masks.values():
        digest.update(np.ascontiguousarray(np.asanyarray(mask.dataobj)).tobytes())
    for run in runs:
        if run.confounds is not None:
            digest.update(run.confounds.to_csv(index=False).encode())
    return digest.hexdigest()[:16]


def _features(study: Study, samples: Samples) -> Samples:
    """Parcels and centring: label-blind, the same for every fold."""
    if study.features.parcels is not None:
        from emodecode.features.parcels import to_parcels

        samples = to_parcels(samples, study.features.parcels)
    if study.features.centre != "none":
        from emodecode.features.clean import centre

        samples = Samples(
            X=centre(samples.X, samples.table, by=study.features.centre),
            table=samples.table,
            mask=samples.mask,
            features=samples.features,
            history=(*samples.history, {"operation": "centre", "by": study.features.centre}),
        )
    return samples


def cleaned(samples: Samples, split: "Split") -> list[dict[str, Any]]:
    """Say for the audit which steps before the folds used test samples, blind to the labels."""
    names = {"extract": "signal cleaning", "centre": "centring"}
    steps = [names[entry["operation"]] for entry in samples.history if _cleans(entry)]
    rows = np.concatenate([split.train, split.test]).tolist()
    return [{"step": step, "kind": "cleaning", "rows": rows} for step in dict.fromkeys(steps)]


def _cleans(entry: dict[str, Any]) -> bool:
    clean = entry.get("clean") or {}
    whole_run = clean.get("detrend") or clean.get("high_pass_hz") or clean.get("low_pass_hz")
    return entry["operation"] == "centre" or bool(whole_run or clean.get("standardize") == "run")


def split_samples(study: Study, table: "pd.DataFrame") -> "tuple[list[Split], dict[str, Any]]":
    """Make the folds; the dict names them and says in one sentence what they hold out."""
    from emodecode.evaluate.splits import choose_splits

    rules = study.evaluate
    splits, name, sentence = choose_splits(
        table,
        split=rules.split,
        groups=rules.stimulus_groups,
        n_segments=rules.n_segments,
        n_folds=rules.n_folds,
        subject_folds=rules.subject_folds,
        test_share=rules.test_share,
        gap_s=rules.gap_s,
        seed=study.seed if rules.split_seed is None else rules.split_seed,
    )
    if protocol_of(study) == "calibration_blocks":
        from emodecode.evaluate.alignfold import with_calibration

        assert study.align is not None
        splits = with_calibration(splits, table, run=study.align.calibration_run)
        sentence += " One run of each tested subject calibrates its map and is not tested."
    return splits, {"name": name, "sentence": sentence, "n_folds": len(splits)}


def refuse_hopeless_folds(study: Study, table: "pd.DataFrame", runs: list[Run]) -> None:
    """Make and audit the folds from the labels alone, before any image is read."""
    from emodecode.evaluate.audit import audit_split, enforce
    from emodecode.evaluate.score import check_inner_folds

    refuse_unsupported(study, table)
    splits, _ = split_samples(study, table)
    found = audit_split(table, splits)
    enforce(found, allow_leakage=study.evaluate.allow_leakage)
    tuning = make_tuning(study)
    tuned = [model for model in study.models if check_model(study, model)]
    for model in tuned:
        with naming_model(model):
            check_inner_folds(table, splits, name=model.name, tuning=tuning, seed=study.seed)
    refuse_unalignable(study, table, runs, splits, tuned)

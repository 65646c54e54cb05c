"""A results folder: BIDS-style tables, JSON and maps, with all that the report needs."""

import datetime
import platform
import re
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

import emodecode
from emodecode.assemble import Gathered
from emodecode.evaluate.alignfold import whole_alignment
from emodecode.evaluate.foldscores import write_fold_tables
from emodecode.evaluate.matching import Alikeness
from emodecode.evaluate.results import Results
from emodecode.evaluate.score import Candidate, fingerprint_samples, fit_fold
from emodecode.evaluate.seeds import spread_over_seeds
from emodecode.explain.patterns import linear_maps, peaks
from emodecode.label.labelled import Labelled
from emodecode.models.catalogue import KINDS
from emodecode.output import write_json
from emodecode.proof import Proof
from emodecode.samples import Samples, write_table
from emodecode.study import Study, write_study

LIBRARIES = (
    *("numpy", "scipy", "pandas", "nibabel", "nilearn", "scikit-learn", "joblib", "xgboost-cpu"),
    *("torch", "skorch", "monai"),
)

COLUMNS = {
    "model": "Name of the decoder in the study",
    "fold": "Name of the fold in which the sample was held out",
    "subject": "BIDS subject without prefix",
    "session": "BIDS session without prefix",
    "run": "BIDS run without prefix",
    "volume": "Index of the volume in its run, from 0 after dropped dummies",
    "onset_s": "Onset of the volume on the clock of the events, seconds",
    "label": "Class of the sample",
    "predicted": "Class with the largest probability",
    "stimulus": "Name of the stimulus",
    "stimulus_time_s": "Moment of the stimulus that the label belongs to, seconds",
    "block": "Contiguous samples of one stimulus block or scene, within the run",
    "agreement": "Share of observers behind the label",
}


def write_results(
    folder: Path,
    study: Study,
    gathered: Gathered,
    proof: Proof,
) -> None:
    """Write study, samples, folds, ledger, predictions, scores and audit into `folder`."""
    results = proof.results
    write_study(study, folder / "study.toml")
    write_table(gathered.samples.table, folder / "samples.tsv")
    write_table(results.predictions, folder / "predictions.tsv")
    for name, table in (("samples", gathered.samples.table), ("predictions", results.predictions)):
        write_json(
            {str(column): {"Description": _meaning(str(column))} for column in table},
            folder / f"{name}.json",
        )
    write_json(
        [
            {
                "name": split.name,
                "train": split.train,
                "calibrate": split.calibrate,
                "test": split.test,
            }
            for split in proof.splits
        ],
        folder / "splits.json",
    )
    write_json(proof.fitted, folder / "fitted.json")
    write_fold_tables(folder, results.predictions, results.classes)
    training, latency = results.training(), results.latency()
    if len(training):
        write_table(training, folder / "training.tsv")
        write_epochs(training, folder / "epochs")
    if len(seeds := results.seeds()):
        write_table(seeds, folder / "seeds.tsv")
        write_table(spread_over_seeds(seeds), folder / "seeds-spread.tsv")
    if latency:
        write_json(latency, folder / "latency.json")
    write_json(proof.scores, folder / "scores.json")
    write_json(
        proof.audit.to_json() | {"allow_leakage": study.evaluate.allow_leakage},
        folder / "audit.json",
    )
    if gathered.labelled is not None:
        write_table(gathered.labelled.timeline, folder / "labels-timeline.tsv")
    if gathered.samples.mask is not None:
        nib.save(gathered.samples.mask, folder / "mask.nii.gz")
    write_json(
        {
            "Name": study.title or study.name,
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "emodecode", "Version": emodecode.__version__}],
        },
        folder / "dataset_description.json",
    )


def write_epochs(training: pd.DataFrame, folder: Path) -> None:
    """Write the rows of ``training.tsv`` as one CSV a network, as S2 logged its L2 sweep."""
    folder.mkdir()
    for name, own in training.groupby("model", sort=False):
        own.drop(columns="model").to_csv(
            folder / f"{name}.csv", index=False, na_rep="n/a", lineterminator="\n"
        )


def _meaning(column: str) -> str:
    if column.startswith("p_"):
        return f"Probability of {column[2:]} (in samples: share of the observers' votes)"
    return COLUMNS.get(column, "See docs/results.md")


def write_maps(
    folder: Path,
    study: Study,
    samples: Samples,
    candidates: Sequence[Candidate],
    results: Results,
) -> list[dict[str, Any]]:
    """Fit every linear decoder on all samples and write its weights and patterns as images.

    These maps say what a decoder of the whole sample uses; the scores come from the folds. A tuned
    decoder takes the parameters that most folds chose. Parcels and tables have no maps.
    """
    if samples.mask is None or samples.features is not None:
        return []
    (folder / "maps").mkdir()
    y = samples.y
    rows = np.arange(samples.n_samples)
    models = entities([model.name for model in study.models])
    labels = entities(samples.classes)
    written = []
    for model, candidate in zip(study.models, candidates, strict=True):
        if not KINDS[model.kind].is_linear or study.features.select_by == "own":
            continue  # voxels of each subject's own have no common map
        params = results.most_chosen(model.name)
        fitted = fit_fold(
            candidate.pipeline,
            *(samples.X, y, samples.table, rows),
            params=params,
            seed=study.seed,
            fold=whole_alignment(candidate.alignment, samples.table),
        )
        for found in linear_maps(samples, fitted):
            for kind, values in (("weights", found.weights), ("pattern", found.pattern)):
                name = f"model-{models[model.name]}_label-{labels[found.label]}_{kind}.nii.gz"
                nib.save(samples.to_image(values), folder / "maps" / name)
                written.append(
                    {
                        "model": model.name,
                        "class": found.label,
                        "kind": kind,
                        "file": f"maps/{name}",
                        "chosen": params,
                        "top": peaks(samples, values),
                    }
                )
    return written


def entities(names: Sequence[str]) -> dict[str, str]:
    """Letters and digits that stand for each name in the names of files, no two alike."""
    entities: dict[str, str] = {}
    for name in names:
        signed = re.sub(r"^-(?=\d)", "minus", name)
        plain = "".join(character for character in signed if character.isalnum()) or "unnamed"
        more = 1
        while (entity := plain if more == 1 else f"{plain}x{more}") in entities.values():
            more += 1
        entities[name] = entity
    return entities


def tabulate_alikeness(found: Sequence[Alikeness], *, by_subject: bool = False) -> pd.DataFrame:
    """Table of what `emodecode align` found: a row for each method and run, or for each subject."""
    if not by_subject:
        return pd.DataFrame([each.row() for each in found])
    rows = [
        {
            "method": each.method,
            "tested_on": each.tested_on,
            "subject": subject,
            "matching": value,
            "isc": each.isc[subject],
        }
        for each in found
        for subject, value in each.matching.items()
    ]
    return pd.DataFrame(rows)


def describe(
    study: Study,
    gathered: Gathered,
    results: Results,
    maps: list[dict],
    *,
    started: float,
    command: str,
) -> dict[str, Any]:
    """Say what was run, on what, with which versions and how long it took."""
    samples, table = gathered.samples, gathered.samples.table
    start = datetime.datetime.fromtimestamp(started, tz=datetime.UTC)
    warned = sorted({(f["model"], text) for f in results.folds for text in f["warnings"]})
    chosen = [
        {"model": f["model"], "fold": f["fold"], "chosen": f["chosen"]}
        for f in results.folds
        if f["chosen"]
    ]
    return {
        "emodecode": emodecode.__version__,
        "command": command,
        "started": start.isoformat(timespec="seconds"),
        "seconds": time.time() - started,
        "seed": study.seed,
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in LIBRARIES if _installed(name)},
        "data": {
            "n_subjects": int(table["subject"].nunique()),
            "n_runs": len(table[["subject", "session", "run"]].drop_duplicates()),
            "n_samples": samples.n_samples,
            "n_voxels": samples.n_voxels,
            "tr_s": gathered.tr_s,
            "fingerprint": fingerprint_samples(samples),
            "notes": gathered.notes,
            "excluded": study.data.exclude if hasattr(study.data, "exclude") else {},
            "groups": _groups(table),
        },
        "labels": describe_labels(study, table, gathered.labelled),
        "features": {"notes": [], "history": list(samples.history)},
        "tuning": chosen or None,
        "networks": results.costs(),
        "folds": [
            {key: fold[key] for key in ("model", "fold", "seconds", "fitted")}
            for fold in results.folds
        ],
        "warnings": [f"{model}: {text}" for model, text in warned],
        "maps": maps,
    }


def describe_labels(study: Study, table: pd.DataFrame, labelled: Labelled | None) -> dict[str, Any]:
    """Summarise the labels: counts, the rule in words, reliability."""
    counts = table["label"].value_counts()
    return {
        "counts": {str(name): int(count) for name, count in counts.items()},
        "rule": label_rule(study),
        "notes": [] if labelled is None else labelled.notes,
        "reliability": None if labelled is None else labelled.reliability,
    }


def label_rule(study: Study) -> str:
    """Say in a sentence how the labels were made."""
    rules = study.labels
    lag = (
        "weighted by the canonical haemodynamic response"
        if rules.hrf
        else f"with a haemodynamic lag of {rules.lag_s:g} s"
    )
    if rules.source == "events":
        return f"Volumes took the {rules.column} of the event that was on, {lag}."
    if rules.source == "annotations":
        return (
            f"Volumes took the {rules.variable} that at least {rules.agreement:.0%} of the "
            f"observers had annotated at that moment of the stimulus, {lag}."
        )
    if rules.source == "ratings":
        low, high = rules.names
        return (
            f"Volumes took {low} for a {rules.variable} rating below {rules.low:g} and {high} "
            f"above {rules.high:g}, {lag}."
        )
    return "Labels came with the data."


def _groups(table) -> dict[str, int]:
    if "group" not in table:
        return {}
    each = table.drop_duplicates("subject")["group"].value_counts()
    return {str(name): int(count) for name, count in each.items() if name != "n/a"}


def _installed(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True

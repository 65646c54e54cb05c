"""Explanation: what the decoders of a study used, on samples that none of them was trained on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd

from emodecode import assemble
from emodecode.assemble import Gathered
from emodecode.candidates import make_candidates, mask_of
from emodecode.errors import InputError
from emodecode.explain.exchanged import LabelTest, infer_labels
from emodecode.explain.group import GroupMap, infer_group
from emodecode.explain.sanity import SanityReport
from emodecode.explain.units import (
    Units,
    box_units,
    make_units,
    region_units,
    searchlight_units,
)
from emodecode.explanation.checks import check_model, exchanged_codes, other_settings, run_all
from emodecode.explanation.folds import explain_fold, layers_of_part, maps_of
from emodecode.explanation.methods import Maps, join_folds
from emodecode.explanation.tasks import Task
from emodecode.sections import Explain
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.evaluate.audit import Audit
    from emodecode.evaluate.splits import Split
    from emodecode.proof import Work
    from emodecode.samples import Samples

UNTESTABLE = (
    "not against exchanged labels, since the fill looks at the labels: nothing counts as "
    'significant (explain.fill = "subject" does not)'
)
NOT_TESTED = "S1 took the largest drops for the most significant ones: there is no test"


@dataclass(frozen=True, eq=False)
class Explained:
    """What one decoder used.

    Parameters
    ----------
    model, kind : str
    way : str
        How occlusion was computed (`emodecode.explain.occlusion.Occlusion`).
    rows : ndarray of int
        The samples, held out in their folds.
    given : ndarray of shape (n_samples, n_classes)
    drops : ndarray of shape (n_samples, n_units, n_classes)
        What each probability loses.
    subjects : tuple of str
        Empty in S1's form, whose map is of samples whoever they are of.
    maps : ndarray of shape (n_subjects or 1, n_classes, n_units)
        Mean drop of the probability of a class over the subject's samples of that class.
    group : GroupMap or None
        Of the classes' maps side by side, ``n_classes * n_units`` features: corrected for all.
        None where nothing is tested.
    labels : LabelTest or None
        Against exchanged labels. Significant is what both find.
    test : str
        How it was tested, or why not.
    sanity : SanityReport
    chosen : tuple of str
        How samples were chosen, where that depends on the decoder.
    predictions : DataFrame
        Of all held-out samples, as `emodecode.evaluate.metrics.score_predictions` takes them.
    methods : dict of str -> ndarray of shape (n_subjects, n_classes, n_features)
        Maps by other methods.
    notes : tuple of str
        Methods that were left out.
    layers : tuple of dict
        For each fold the RDM of each layer of a network.
    fitted : tuple of list
        For each fold what its steps were fitted on (`emodecode.evaluate.ledger`).
    """

    model: str
    kind: str
    way: str
    rows: np.ndarray
    given: np.ndarray
    drops: np.ndarray
    subjects: tuple[str, ...]
    maps: np.ndarray
    group: GroupMap | None
    labels: LabelTest | None
    test: str
    sanity: SanityReport
    chosen: tuple[str, ...] = ()
    predictions: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False)
    methods: Maps = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    layers: tuple[dict[str, np.ndarray], ...] = ()
    fitted: tuple[list[dict[str, Any]], ...] = ()

    @property
    def mean(self) -> np.ndarray:
        """Mean map of each class, (n_classes, n_units)."""
        return self.maps.mean(axis=0)

    @property
    def p(self) -> np.ndarray | None:
        """The larger p of both tests, (n_classes, n_units); None where nothing is tested."""
        if self.group is None or self.labels is None:
            return None
        return np.maximum(self.group.p.reshape(self.labels.p.shape), self.labels.p)


@dataclass(frozen=True, eq=False)
class Explanation:
    """What all decoders of a study used, its folds, their audit and a sentence about them."""

    units: Units
    classes: tuple[str, ...]
    audit: "Audit"
    splits: "Sequence[Split]"
    split: str
    models: tuple[Explained, ...]


def explain_study(
    study: Study, gathered: Gathered, *, space: str | None = None, work: "Work"
) -> Explanation:
    """Fit every decoder in every fold and occlude samples that were held out there.

    Parameters
    ----------
    study : Study
    gathered : Gathered
    space : str, optional
        Template of the images, if they are in one.
    work : Work

    Raises
    ------
    InputError
        An alignment, a window, or an atlas on another grid.
    LeakageError
        The audit of the folds finds a leak that the study does not allow.
    """
    from emodecode.evaluate.audit import audit_split, enforce
    from emodecode.evaluate.duplicates import find_duplicates
    from emodecode.evaluate.score import fingerprint_samples

    samples = gathered.samples
    refuse_unexplained(study)
    splits, split = assemble.split_samples(study, samples.table)
    known: dict[str, Any] = {
        "X": samples.X,
        "duplicates": find_duplicates(samples.X, samples.table),
        "tr_s": gathered.tr_s,
        "timing": list(gathered.timing),
    }
    audit = audit_split(samples.table, splits, **known)
    enforce(audit, allow_leakage=study.evaluate.allow_leakage)
    units = make_study_units(study.explain, samples)
    data = fingerprint_samples(samples)
    candidates = {each.name: each for each in make_candidates(study, samples, None)}
    found = []
    for model in (each for each in study.models if each.kind != "dummy"):
        tasks = [
            Task(study, candidates[model.name], split, fold, data)
            for fold, split in enumerate(splits)
        ]
        explained = _explain_model(samples, units, tasks, kind=model.kind, space=space, work=work)
        found.append(explained)
    fitted = [
        [entry for each in found for entry in each.fitted[fold]] + assemble.cleaned(samples, split)
        for fold, split in enumerate(splits)
    ]
    audit = audit_split(samples.table, splits, fitted=fitted, **known)
    enforce(audit, allow_leakage=study.evaluate.allow_leakage)
    return Explanation(units, samples.classes, audit, splits, split["sentence"], tuple(found))


def refuse_unexplained(study: Study) -> None:
    """Refuse what has nothing to occlude.

    Raises
    ------
    InputError
        No data, an alignment, windows, or nothing but a dummy.
    """
    found = remedy = ""
    if study.data.source == "design":
        found = 'data.source = "design": labels and folds, no images'
        remedy = "Take a study that reads images."
    elif study.align is not None:
        found = "[align]: voxels of a common space have no place"
        remedy = "Explain a study without [align]."
    elif all(model.kind == "dummy" for model in study.models):
        found, remedy = "no decoder but the dummy", "Add a decoder to the study."
    elif any((model.params.get("window") or 1) > 1 for model in study.models):
        found = "a network that reads windows: whose volumes are to be occluded is not clear"
        remedy = "Explain a network of single volumes (window = 1)."
    if found:
        raise InputError(
            f"study {study.name}",
            found=found,
            expected="decoders of the subjects' own voxels, parcels or columns",
            remedy=remedy,
        )


def make_study_units(rules: Explain, samples: "Samples") -> Units:
    """Return what is occluded together, from the study's choices; of tables and parcels columns."""
    inside = mask_of(samples)
    if inside is None or samples.mask is None:
        names = samples.features or [f"column {number}" for number in range(samples.n_voxels)]
        sets = {name: np.array([number]) for number, name in enumerate(names)}
        return make_units(sets, n_features=samples.n_voxels)
    if rules.unit == "boxes":
        return box_units(inside, box_vox=rules.box_vox, stride_vox=rules.stride_vox)
    if rules.unit == "searchlights":
        return searchlight_units(
            inside, samples.mask.affine, radius_mm=rules.radius_mm, every_vox=rules.stride_vox
        )
    from emodecode.features.parcels import parcel_of_voxels

    assert rules.atlas is not None
    return region_units(parcel_of_voxels(rules.atlas, mask_img=samples.mask))


def _explain_model(
    samples: "Samples",
    units: Units,
    tasks: Sequence[Task],
    *,
    kind: str,
    space: str | None,
    work: "Work",
) -> Explained:
    study, name = tasks[0].study, tasks[0].candidate.name
    honest = study.explain.form == "honest"
    others = other_settings(study.explain, units, mask_of(samples)) if honest else {}
    parts = _run(samples, units, tasks, others, name, work)
    rows, given, drops = _joined(parts)
    table = samples.table.iloc[rows]
    group = labels = None
    if honest:
        subjects, maps = subject_maps(table, samples.classes, drops)
        group, test = _test(maps, seed=study.seed)
        splits = [task.split for task in tasks]
        kept = table["subject"].astype(str).isin(subjects).to_numpy()
        own = slice(None) if kept.all() else kept  # drops are large: not copied
        if study.explain.fill == "conditional":
            test += f"; {UNTESTABLE}"
        else:
            labels = _test_labels(study, samples, splits, rows[own], drops[own])
            test += f"; and {labels.sentence}"
    else:
        subjects, maps = (), _one_map(table, samples.classes, drops)
        test = NOT_TESTED
    sanity = check_model(samples, units, tasks[0], parts[0], maps, space=space, work=work)
    split_maps = [
        maps_of(part, samples.table, task.split.test)
        for part, task in zip(parts, tasks, strict=True)
    ]
    return Explained(
        model=name,
        kind=kind,
        way=str(parts[0]["way"]),
        rows=rows,
        given=given,
        drops=drops,
        subjects=subjects,
        maps=maps,
        group=group,
        labels=labels,
        test=test,
        sanity=sanity,
        chosen=tuple(dict.fromkeys(str(part["chosen"]) for part in parts if str(part["chosen"]))),
        predictions=_predictions(samples, tasks, parts),
        methods=join_folds(split_maps, subjects=subjects, n_voxels=samples.n_voxels),
        notes=tuple(
            dict.fromkeys(note for part in parts for note in json.loads(str(part["notes"])))
        ),
        layers=tuple(layers_of_part(part) for part in parts),
        fitted=tuple(json.loads(str(part["ledger"])) for part in parts),
    )


def _run(
    samples: "Samples",
    units: Units,
    tasks: Sequence[Task],
    others: dict[str, Any],
    name: str,
    work: "Work",
) -> list[dict[str, np.ndarray]]:
    """Explain all folds, with a bar over them."""
    given = (samples.X, samples.table, samples.classes, units)
    alone, in_place = work.progress and work.n_jobs == 1, mask_of(samples) is not None
    jobs = [
        joblib.delayed(explain_fold)(*given, task, others, work.resume, alone, in_place)
        for task in tasks
    ]
    return run_all(jobs, samples.X, name=name, unit="fold", work=work)


def _joined(parts: Sequence[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of all folds in order, their probabilities and drops, which leave the parts."""
    rows = np.concatenate([part["rows"] for part in parts])
    order = np.argsort(rows, kind="stable")
    place = np.empty(len(rows), dtype=np.int64)
    place[order] = np.arange(len(rows))
    drops = np.empty((len(rows), *parts[0]["drops"].shape[1:]), dtype=np.float32)
    start = 0
    for part in parts:
        stop = start + len(part["rows"])
        drops[place[start:stop]] = part.pop("drops")
        start = stop
    return rows[order], np.concatenate([part["given"] for part in parts])[order], drops


def _test_labels(
    study: Study,
    samples: "Samples",
    splits: "Sequence[Split]",
    rows: np.ndarray,
    drops: np.ndarray,
) -> LabelTest:
    """Test the drops against labels that are exchanged as in the test of the scores."""
    from emodecode.evaluate.chance import shares_training

    own, drawn = exchanged_codes(study, samples, study.evaluate.n_permutations)
    return infer_labels(
        *(drops, own[rows], drawn[:, rows], samples.subjects[rows]),
        shared_training=shares_training(splits),
    )


def _test(maps: np.ndarray, *, seed: int) -> tuple[GroupMap | None, str]:
    """Test the maps over subjects; what is alike in all of them cannot be."""
    try:
        group = infer_group(maps.reshape(len(maps), -1), seed=seed)
    except InputError as error:
        return None, f"not possible: {error.found}"
    return group, group.sentence


def _predictions(
    samples: "Samples", tasks: Sequence[Task], parts: Sequence[dict[str, np.ndarray]]
) -> pd.DataFrame:
    """Predictions of all held-out samples, one row a sample and fold."""
    classes, tables = samples.classes, []
    for task, part in zip(tasks, parts, strict=True):
        test, given = task.split.test, part["probabilities"]
        own = samples.table.iloc[test][["subject", "run", "volume", "label"]]
        own = own.reset_index(drop=True).assign(model=task.candidate.name, fold=task.split.name)
        own["predicted"] = np.asarray(classes)[given.argmax(axis=1)]
        own["row"] = test
        tables.append(own.join(pd.DataFrame(given, columns=[f"p_{name}" for name in classes])))
    return pd.concat(tables, ignore_index=True)


def subject_maps(
    table: pd.DataFrame, classes: tuple[str, ...], drops: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Mean drop of each class over the samples of that class, of subjects that have all classes."""
    subject, label = (table[name].to_numpy(dtype=str) for name in ("subject", "label"))
    names = [who for who in sorted(set(subject)) if set(label[subject == who]) == set(classes)]
    if len(names) < 2:
        raise InputError(
            "explain",
            found=f"{len(names)} subjects with samples of all classes",
            expected="two at least: a map is tested over subjects",
            remedy="Use more subjects, or fewer classes (labels.keep).",
        )
    maps = [_one_map(table[subject == who], classes, drops[subject == who])[0] for who in names]
    return tuple(names), np.array(maps)


def _one_map(table: pd.DataFrame, classes: tuple[str, ...], drops: np.ndarray) -> np.ndarray:
    """Mean drop of each class over all samples of that class, (1, n_classes, n_units)."""
    label = table["label"].to_numpy(dtype=str)
    means = [
        drops[label == name, :, number].mean(axis=0, dtype=np.float64)
        for number, name in enumerate(classes)
    ]
    return np.array(means)[None]

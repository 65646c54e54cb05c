"""Explanation: what the decoders of a study used, on samples that none of them was trained on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
import sklearn

from emodecode import assemble
from emodecode.assemble import Gathered
from emodecode.candidates import make_candidates, make_tuning
from emodecode.errors import InputError
from emodecode.explain.group import GroupMap, infer_group
from emodecode.explain.occlusion import Occlusion, occlude_samples
from emodecode.explain.perturb import compare_with_random
from emodecode.explain.sanity import (
    Check,
    SanityReport,
    check_edge,
    check_labels,
    check_removal,
    check_weights,
)
from emodecode.explain.units import Units, box_units, region_units, searchlight_units
from emodecode.sections import Explain
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.evaluate.audit import Audit
    from emodecode.evaluate.score import Candidate
    from emodecode.evaluate.splits import Split
    from emodecode.proof import Work
    from emodecode.samples import Samples

_DONORS = 10
"""Samples of a subject and class that others take values from, at most."""
MOST_REMOVED = 60
"""Samples of one fold that the deletion curve is made of, at most."""


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
    maps : ndarray of shape (n_subjects, n_classes, n_units)
        Mean drop of the probability of a class over the subject's samples of that class.
    group : GroupMap
        Of the classes' maps side by side, ``n_classes * n_units`` features: corrected for all.
    sanity : SanityReport
    """

    model: str
    kind: str
    way: str
    rows: np.ndarray
    given: np.ndarray
    drops: np.ndarray
    subjects: tuple[str, ...]
    maps: np.ndarray
    group: GroupMap
    sanity: SanityReport


@dataclass(frozen=True, eq=False)
class Explanation:
    """What all decoders of a study used, and the audit of its folds."""

    units: Units
    classes: tuple[str, ...]
    audit: "Audit"
    models: tuple[Explained, ...]


def explain_study(study: Study, gathered: Gathered, *, work: "Work") -> Explanation:
    """Fit every decoder in every fold and occlude samples that were held out there.

    Raises
    ------
    InputError
        Samples without a mask (tables, parcels), an alignment, or an atlas on another grid.
    LeakageError
        The audit of the folds finds a leak that the study does not allow.
    """
    from emodecode.evaluate.audit import audit_split, enforce
    from emodecode.evaluate.score import fingerprint_samples

    samples = gathered.samples
    refuse_unexplained(study)
    splits, _ = assemble.split_samples(study, samples.table)
    audit = audit_split(samples.table, splits, tr_s=gathered.tr_s)
    enforce(audit, allow_leakage=study.evaluate.allow_leakage)
    units = make_study_units(study.explain, samples)
    models, data = [m for m in study.models if m.kind != "dummy"], fingerprint_samples(samples)
    candidates = {each.name: each for each in make_candidates(study, samples, None)}
    found = [
        _explain_model(
            *(study, samples, splits, candidates[model.name]),
            kind=model.kind,
            data=data,
            units=units,
            work=work,
        )
        for model in models
    ]
    return Explanation(units, samples.classes, audit, tuple(found))


def refuse_unexplained(study: Study) -> None:
    """Refuse what has no voxels to occlude.

    Raises
    ------
    InputError
        Tables, parcels, an alignment, or nothing but a dummy.
    """
    found = None
    if study.data.source in ("table", "design"):
        found = f'data.source = "{study.data.source}"'
    elif study.features.parcels is not None:
        found = "features.parcels"
    elif study.align is not None:
        found = "[align]: voxels of a common space have no place"
    elif all(model.kind == "dummy" for model in study.models):
        found = "no decoder but the dummy"
    elif any((model.params.get("window") or 1) > 1 for model in study.models):
        found = "a network that reads windows: whose volumes are to be occluded is not clear"
    if found is not None:
        raise InputError(
            f"study {study.name}",
            found=found,
            expected="decoders of voxels in the subjects' own images",
            remedy="Explain a study of single volumes' voxels without [align]; for regions set "
            'explain.unit = "regions" instead of features.parcels.',
        )


def make_study_units(rules: Explain, samples: "Samples") -> Units:
    """Return what is occluded together, from the study's choices."""
    assert samples.mask is not None
    inside = np.asanyarray(samples.mask.dataobj) != 0
    if rules.unit == "boxes":
        return box_units(inside, box_vox=rules.box_vox, stride_vox=rules.stride_vox)
    if rules.unit == "searchlights":
        return searchlight_units(
            inside, samples.mask.affine, radius_mm=rules.radius_mm, every_vox=rules.stride_vox
        )
    from emodecode.features.parcels import parcel_of_voxels

    assert rules.atlas is not None
    return region_units(parcel_of_voxels(rules.atlas, mask_img=samples.mask))


def choose_samples(
    table: pd.DataFrame, rows: np.ndarray, *, per_class: int, seed: int
) -> np.ndarray:
    """Choose up to `per_class` samples of each class and subject among the rows."""
    rng = np.random.default_rng(seed)
    own = table.iloc[rows]
    chosen = [
        rng.permutation(rows[places])[:per_class]
        for places in own.groupby(["subject", "label"], sort=True).indices.values()
    ]
    return np.sort(np.concatenate(chosen))


def _explain_model(
    study: Study,
    samples: "Samples",
    splits: "Sequence[Split]",
    candidate: "Candidate",
    *,
    kind: str,
    data: str,
    units: Units,
    work: "Work",
) -> Explained:
    tasks = [_Task(study, candidate, split, fold, data) for fold, split in enumerate(splits)]
    given = (samples.X, samples.table, samples.classes, units)
    parallel = joblib.Parallel(n_jobs=work.n_jobs, max_nbytes="1M")
    parts = parallel(
        joblib.delayed(_explain_fold)(*given, task, work.resume, work.progress) for task in tasks
    )
    rows = np.concatenate([part["rows"] for part in parts])
    order = np.argsort(rows, kind="stable")
    drops = np.concatenate([part["drops"] for part in parts])[order]
    rows = rows[order]
    subjects, maps = _subject_maps(samples.table.iloc[rows], samples.classes, drops)
    group = infer_group(maps.reshape(len(maps), -1), seed=study.seed)
    sanity = _check(samples, units, tasks[0], maps)
    probabilities = np.concatenate([part["given"] for part in parts])[order]
    way = str(parts[0]["way"])
    return Explained(
        candidate.name, kind, way, rows, probabilities, drops, subjects, maps, group, sanity
    )


@dataclass(frozen=True)
class _Task:
    study: Study
    candidate: "Candidate"
    split: "Split"
    fold: int
    data: str

    @property
    def seed(self) -> int:
        from emodecode.evaluate.score import child_seed

        return child_seed(self.study.seed, self.candidate.name, self.fold)

    def fit(self, X: np.ndarray, table: pd.DataFrame, labels: np.ndarray) -> Any:
        """Fit on the fold's training samples under some labels."""
        from emodecode.evaluate.score import fit_on_fold
        from emodecode.samples import relabelled

        if not np.array_equal(labels, table["label"].to_numpy(dtype=str)):
            table = relabelled(table, labels)  # the votes of true labels stay as they are
        with sklearn.config_context(enable_metadata_routing=True):
            fitted, _, _ = fit_on_fold(
                self.candidate,
                *(X, labels, table, self.split),
                tuning=make_tuning(self.study),
                seed=self.seed,
            )
        return fitted

    def rows(self, table: pd.DataFrame) -> np.ndarray:
        """Held-out samples to explain, the same of every decoder."""
        per_class, seed = self.study.explain.per_class, self.study.seed + self.fold
        return choose_samples(table, self.split.test, per_class=per_class, seed=seed)

    def donors(self, table: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
        """Samples of the same subjects whose values may stand in for theirs."""
        theirs = np.flatnonzero(table["subject"].isin(set(table["subject"].iloc[rows])))
        return choose_samples(table, theirs, per_class=_DONORS, seed=self.study.seed)


def _explain_fold(
    X: np.ndarray,
    table: pd.DataFrame,
    classes: tuple[str, ...],
    units: Units,
    task: _Task,
    folder: Path | None,
    progress: bool,
) -> dict[str, np.ndarray]:
    from emodecode.evaluate.workers import load_part, store_part

    key = _key(units, task)
    saved = load_part(key, folder)
    if saved is not None and {"rows", "given", "drops", "way"} <= set(saved):
        return saved
    y = table["label"].to_numpy(dtype=str)
    fitted, rows = task.fit(X, table, y), task.rows(table)
    if set(map(str, fitted.classes_)) != set(classes):
        raise InputError(
            f"explain: fold {task.split.name}",
            found=f"training samples of {', '.join(map(str, fitted.classes_))} only",
            expected=f"samples of all classes ({', '.join(classes)})",
            remedy="Choose larger folds (evaluate.split, evaluate.n_segments), or fewer classes.",
        )
    found = _occlude(fitted, X, table, rows, units, task, progress=progress)
    places = [classes.index(name) for name in found.classes]
    drops = np.zeros((len(rows), len(units), len(classes)), np.float32)
    given = np.zeros((len(rows), len(classes)))
    drops[:, :, places], given[:, places] = found.drops, found.given
    part = {"rows": rows, "given": given, "drops": drops, "way": np.array(found.way)}
    if folder is not None:
        store_part(key, part, folder)
    return part


def _occlude(
    fitted: Any,
    X: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    units: Units,
    task: _Task,
    *,
    progress: bool = False,
) -> Occlusion:
    rules = task.study.explain
    own, there = table.iloc[rows], task.donors(table, rows)
    donors = (X[there], table["label"].iloc[there].tolist(), table["subject"].iloc[there].tolist())
    return occlude_samples(
        fitted,
        np.asarray(X[rows], dtype=np.float32),
        units=units,
        fill=rules.fill,
        labels=own["label"].tolist(),
        subjects=own["subject"].tolist(),
        reference=None if rules.fill in ("conditional", "zero") else X[task.split.train],
        donors=donors if rules.fill == "conditional" else None,
        n_draws=rules.n_draws,
        seed=task.seed,
        asked=_asked(fitted, own),
        progress=progress,
    )


def _key(units: Units, task: _Task) -> str:
    """Hash of all that a fold's part depends on."""
    from emodecode.evaluate.workers import describe_pipeline

    digest = hashlib.blake2b(digest_size=16)
    for part in (task.split.train, task.split.calibrate, task.split.test, *units.columns):
        digest.update(np.ascontiguousarray(part, dtype=np.int64).data)
        digest.update(b"|")
    rules = task.study.explain.model_dump(exclude={"label_draws", "weight_draws", "top_k", "space"})
    candidate = task.candidate
    named = (rules, task.seed, task.study.seed, task.fold, make_tuning(task.study), units.names)
    fitted = (candidate.grid, candidate.fit_on_all, candidate.choose_epoch_on_test)
    described = describe_pipeline(candidate.pipeline)
    digest.update(f"{task.data}|{named}|{fitted}|{described}".encode())
    return f"explain-{digest.hexdigest()}"


def _subject_maps(
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
    maps = np.array(
        [
            [
                drops[(subject == who) & (label == name), :, number].mean(axis=0)
                for number, name in enumerate(classes)
            ]
            for who in names
        ],
        dtype=np.float64,
    )
    return tuple(names), maps


def _check(samples: "Samples", units: Units, task: _Task, maps: np.ndarray) -> SanityReport:
    """Sanity checks of a decoder's maps; what needs fits is done on the first fold."""
    assert samples.mask is not None
    rules, table, X = task.study.explain, samples.table, samples.X
    y, rows = samples.y, task.rows(table)
    fitted = task.fit(X, table, y)

    def map_of(decoder: Any, *, of: np.ndarray = rows) -> np.ndarray:
        found = _occlude(decoder, X, table, of, units, task)
        return found.drop_of(table["label"].iloc[of].tolist()).mean(axis=0)

    inside = np.asanyarray(samples.mask.dataobj) != 0
    mean = units.spread(maps.mean(axis=(0, 1)))
    checks = [
        _tried("edge", lambda: check_edge(mean, mask=inside)),
        _tried("deletion", lambda: _removal(fitted, X, table, rows, units, task)),
    ]
    seed = task.study.seed
    if rules.weight_draws and _has_weights(fitted):
        ask = partial(check_weights, map_of, fitted, n_draws=rules.weight_draws, seed=seed)
        checks.append(_tried("random weights", ask))
    if rules.label_draws:
        drawn = _exchanged(samples, rules.label_draws, seed=seed)
        fit: Callable[[np.ndarray], Any] = partial(task.fit, X, table)
        ask = partial(check_labels, map_of, fit, y, drawn, statistic=np.sum)
        checks.append(_tried("random labels", ask))
    return SanityReport(tuple(checks))


def _tried(name: str, ask: Callable[[], Check]) -> Check:
    """Return the check; a map that cannot be checked, since it is constant, has failed."""
    try:
        return ask()
    except InputError as error:
        return Check(name, float("nan"), error.expected, False, f"Not possible: {error.found}.")


def _removal(
    fitted: Any, X: np.ndarray, table: pd.DataFrame, rows: np.ndarray, units: Units, task: _Task
) -> Any:
    """Deletion curve of held-out samples, each in the order of its own map."""
    rows = np.sort(np.random.default_rng(task.seed).permutation(rows)[:MOST_REMOVED])
    own = table.iloc[rows]
    found = _occlude(fitted, X, table, rows, units, task)
    order = np.argsort(-units.spread(found.drop_of(own["label"].tolist())), kind="stable")
    asked = _asked(fitted, own)

    def predict(values: np.ndarray) -> np.ndarray:
        again = {key: np.resize(value, len(values)) for key, value in asked.items()}
        with sklearn.config_context(enable_metadata_routing=True):
            return fitted.predict_proba(values.astype(np.float32), **again)

    number = {str(name): k for k, name in enumerate(fitted.classes_)}
    comparison = compare_with_random(
        predict,
        np.asarray(X[rows], dtype=np.float32),
        order,
        target=np.array([number[name] for name in own["label"]]),
        fill=np.asarray(X[task.split.train].mean(axis=0)),
        steps=10,
        n_random=19,
        seed=task.seed,
        batch_size=len(rows),
    )
    return check_removal(comparison)


def _asked(fitted: Any, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Whom the samples are of, where a step asks for it (voxels of each subject's own)."""
    with sklearn.config_context(enable_metadata_routing=True):
        wants = fitted.get_metadata_routing().consumes("predict_proba", ["subjects"])
    return {"subjects": table["subject"].to_numpy(dtype=str)} if wants else {}


def _has_weights(fitted: Any) -> bool:
    from emodecode.explain.sanity import layers_of

    try:
        return bool(layers_of(fitted))
    except InputError:
        return False


def _exchanged(samples: "Samples", n: int, *, seed: int) -> list[np.ndarray]:
    """Labels with whole blocks exchanged within runs, as in the test against chance."""
    from emodecode.evaluate.exchange import make_exchange, permuted_labels

    exchange = make_exchange(samples.table, classes=samples.classes)
    codes = permuted_labels(exchange, n_permutations=n, seed=seed)[:, exchange.slot]
    return [np.array(samples.classes)[each] for each in codes]

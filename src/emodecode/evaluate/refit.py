"""Refit: the scores of decoders that are fitted anew to exchanged labels, in every fold.

The labels of training and test samples are of the same labelling, drawn for the whole table. LDA
and ridge solve all labellings of a fold together (`emodecode.models.multitarget`), other linear
decoders share the fold's coordinates; tuned ones go through `score` once per labelling. Of each
fold only sums per subject and class are kept.
"""

import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import sklearn
from tqdm import tqdm

import emodecode
from emodecode.errors import InputError
from emodecode.evaluate.chance import Null
from emodecode.evaluate.exchange import Exchange, permuted_labels
from emodecode.evaluate.fold import Split
from emodecode.evaluate.score import (
    Candidate,
    Tuning,
    fingerprint_samples,
    score,
)
from emodecode.evaluate.tally import (
    METRICS,
    ClassSums,
    mean_over_subjects,
    scores_from_sums,
    sum_fold,
)
from emodecode.evaluate.workers import backend, describe_pipeline, load_part, store_part
from emodecode.models.multitarget import ManyFits, has_exact_path
from emodecode.models.steps import asks_for_more
from emodecode.samples import Samples, relabelled

__all__ = ["Null", "has_fast_path", "refit_null"]

_PART = 100
"""Labellings of a task that are fitted one by one: what an interruption can cost."""
_CHUNK_VALUES = 2**22


def has_fast_path(candidate: Candidate) -> bool:
    """Tell whether all labellings of a fold are one solve for this candidate.

    True for LDA and ridge without class weights that are neither tuned nor calibrated and whose
    steps are named columns, selection over the group, and scaling (or fewer).
    """
    return _is_plain(candidate) and has_exact_path(candidate.pipeline)


def refit_null(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    *,
    exchange: Exchange,
    tuning: Tuning | None = None,
    n_permutations: int = 1000,
    seed: int = 0,
    n_jobs: int = 1,
    scheduler: str | None = None,
    resume_folder: Path | None = None,
    progress: bool = True,
) -> dict[str, Null]:
    """Fit every candidate to exchanged labels in every fold and score what it predicts.

    Parameters
    ----------
    samples : Samples
    splits : sequence of Split
    candidates : sequence of Candidate
        Selection, scaling, tuning and calibration are all done anew for each labelling.
    exchange : Exchange
        Made from ``samples.table``, with the classes sorted.
    tuning : Tuning, optional
        For candidates with a grid. Where the exchanged labels leave inner folds without a class,
        the pipeline's own parameters are used.
    n_permutations : int
    seed : int
        Of the labellings, the same ones for every candidate.
    n_jobs, scheduler, resume_folder, progress
        As in `emodecode.evaluate.score.score`.

    Returns
    -------
    dict
        Name of each candidate -> `Null`.

    Notes
    -----
    A class that the training samples of a fold lack under a labelling gets probability 0 there.
    """
    labels = permuted_labels(exchange, n_permutations=n_permutations, seed=seed)
    tuning = tuning or Tuning()
    tasks = _tasks(samples, splits, candidates, exchange, labels, tuning, seed, resume_folder)
    done = {task.key: sums for task in tasks if (sums := _load(task, resume_folder)) is not None}
    waiting = [task for task in tasks if task.key not in done]
    bar = tqdm(
        total=sum(task.size for task in tasks),
        initial=sum(task.size for task in tasks if task.key in done),
        desc="permutations",
        unit="fit",
        disable=not progress,
    )
    with bar, backend(scheduler, n_jobs, samples.X):
        serial = scheduler is None and n_jobs == 1
        for task, sums in _run_all(samples, waiting, exchange.slot, labels, tuning, serial):
            done[task.key] = sums
            _store(task.key, sums, resume_folder)
            bar.update(task.size)
    return {
        candidate.name: _collect(samples, [t for t in tasks if t.candidate is candidate], done)
        for candidate in candidates
    }


@dataclass(frozen=True)
class _Task:
    """Labellings ``first`` to ``first + size`` of one candidate in one fold."""

    candidate: Candidate
    split: Split
    first: int
    size: int
    seed: int
    key: str

    @property
    def part(self) -> slice:
        return slice(self.first, self.first + self.size)


def _tasks(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    exchange: Exchange,
    labels: np.ndarray,
    tuning: Tuning,
    seed: int,
    resume_folder: Path | None,
) -> list[_Task]:
    data = fingerprint_samples(samples) if resume_folder is not None else ""
    drawn = hashlib.sha256(exchange.slot.tobytes() + labels.tobytes()).hexdigest()
    versions = f"{emodecode.__version__}|{sklearn.__version__}"
    tasks = []
    for candidate in candidates:
        step = len(labels) if has_fast_path(candidate) else _PART
        described = describe_pipeline(candidate.pipeline)
        plain = f"{candidate.name}|{described}|{_other_fields(candidate)}"
        for split in splits:
            rows = b"".join(part.tobytes() for part in (split.train, split.calibrate, split.test))
            fold = f"refit|{data}|{drawn}|{tuning}|{seed}|{versions}|{plain}|".encode() + rows
            for first in range(0, len(labels), step):
                size = min(step, len(labels) - first)
                key = hashlib.sha256(fold + f"|{first}|{size}".encode()).hexdigest()[:32]
                tasks.append(_Task(candidate, split, first, size, seed, key))
    return tasks


def _other_fields(candidate: Candidate) -> str:
    return repr({k: v for k, v in sorted(vars(candidate).items()) if k not in ("name", "pipeline")})


def _is_plain(candidate: Candidate) -> bool:
    """Nothing but ``fit`` and ``predict_proba`` of the pipeline and subjects within a fold."""
    more = candidate.grid or candidate.fit_on_all or candidate.calibrate
    more = more or candidate.choose_epoch_on_test or asks_for_more(candidate.pipeline.steps[-1][1])
    return not more and candidate.alignment is None


def _run_all(
    samples: Samples,
    tasks: list[_Task],
    slot: np.ndarray,
    labels: np.ndarray,
    tuning: Tuning,
    serial: bool,
) -> Iterator[tuple[_Task, ClassSums]]:
    X, table, classes = samples.X, samples.table, samples.classes
    if serial:
        for task in tasks:
            yield task, _run_one(X, table, classes, slot, labels[task.part], task, tuning)[1]
        return
    if not tasks:
        return
    known = {task.key: task for task in tasks}
    parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, max_nbytes="1M")
    calls = (
        joblib.delayed(_run_one)(X, table, classes, slot, labels[task.part], task, tuning)
        for task in tasks
    )
    for key, sums in parallel(calls):
        yield known[key], sums


def _run_one(
    X: np.ndarray,
    table: pd.DataFrame,
    classes: tuple[str, ...],
    slot: np.ndarray,
    labels: np.ndarray,
    task: _Task,
    tuning: Tuning,
) -> tuple[str, ClassSums]:
    """Sums of the subjects that the fold tests, in the order of their names."""
    test = task.split.test
    names = table["subject"].to_numpy(dtype=str)
    subject = np.unique(names[test], return_inverse=True)[1]
    parts = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if _is_plain(task.candidate) and not _adapts(task):
            fitted = _fit_together(X, names, len(classes), slot, labels, task)
        else:
            fitted = _fit_each(X, table, classes, slot, labels, task, tuning)
        for own, probabilities in fitted:
            parts.append(sum_fold(subject, own[:, slot[test]], probabilities))
    return task.key, ClassSums(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _adapts(task: _Task) -> bool:
    steps = [step for _, step in task.candidate.pipeline.steps]
    return len(task.split.calibrate) > 0 and any(hasattr(step, "adapt") for step in steps)


Fitted = Iterator[tuple[np.ndarray, np.ndarray]]
"""Labellings (m, n_slots) and their probabilities (m, n_test, n_classes)."""


def _fit_together(
    X: np.ndarray,
    subjects: np.ndarray,
    n_classes: int,
    slot: np.ndarray,
    labels: np.ndarray,
    task: _Task,
) -> Fitted:
    train, test = task.split.train, task.split.test
    fold = ManyFits(
        task.candidate.pipeline,
        X[train],
        X[test],
        n_classes=n_classes,
        slot=slot[train],
        subjects=(subjects[train], subjects[test]),
    )
    step = max(1, _CHUNK_VALUES // (len(test) * n_classes))
    for start in range(0, len(labels), step):
        own = labels[start : start + step]
        yield own, fold.probabilities(own)


def _fit_each(
    X: np.ndarray,
    table: pd.DataFrame,
    classes: tuple[str, ...],
    slot: np.ndarray,
    labels: np.ndarray,
    task: _Task,
    tuning: Tuning,
) -> Fitted:
    for own in labels:
        codes = own[slot]
        learned = np.bincount(codes[task.split.train], minlength=len(classes))
        if (learned > 0).sum() == 1:
            given = np.tile((learned > 0).astype(float), (len(task.split.test), 1))
        else:
            given = _score_one(X, relabelled(table, np.array(classes)[codes]), task, tuning)
        yield own[None], given[None]


def _score_one(X: np.ndarray, table: pd.DataFrame, task: _Task, tuning: Tuning) -> np.ndarray:
    samples = Samples(X=X, table=table)
    how: dict[str, Any] = {"tuning": tuning, "seed": task.seed, "progress": False}
    try:
        found = score(samples, [task.split], [task.candidate], **how)
    except InputError:  # these labels leave no inner folds
        untuned = replace(task.candidate, grid={}, calibrate=False)
        found = score(samples, [task.split], [untuned], **how)
    return found.predictions[[f"p_{name}" for name in samples.classes]].to_numpy()


def _store(key: str, sums: ClassSums, folder: Path | None) -> None:
    if folder is not None:
        store_part(key, sums._asdict(), folder)


def _load(task: _Task, folder: Path | None) -> ClassSums | None:
    saved = load_part(task.key, folder)
    if saved is None or set(saved) != set(ClassSums._fields):
        return None
    return ClassSums(**saved)


def _collect(samples: Samples, tasks: list[_Task], done: dict[str, ClassSums]) -> Null:
    names = samples.subjects
    subjects = np.unique(np.concatenate([names[task.split.test] for task in tasks]))
    n_permutations = max(task.first + task.size for task in tasks)
    shape = (len(ClassSums._fields), n_permutations, len(subjects), len(samples.classes))
    total = np.zeros(shape)
    for task in tasks:
        own = np.searchsorted(subjects, np.unique(names[task.split.test]))
        for whole, part in zip(total, done[task.key], strict=True):
            whole[task.part, own] += part
    found = scores_from_sums(ClassSums(*total))
    scores = {metric: mean_over_subjects(found[metric]) for metric in METRICS}
    return Null(scores, found["balanced_accuracy"], tuple(map(str, subjects)))

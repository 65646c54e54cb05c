"""score: every model on every fold, each fitted anew, nothing of the test seen before.

Our own short loop instead of scikit-learn's `cross_validate`: named scorers fail there with
subject-aware steps (scikit-learn #27977), and a ledger records which rows every step was handed.
"""

import hashlib
import io
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import sklearn
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from tqdm import tqdm

import emodecode
from emodecode.evaluate.alignfold import aligned_fold, forget_space
from emodecode.evaluate.calibration import apply_temperature
from emodecode.evaluate.costs import network_cost
from emodecode.evaluate.foldfit import (
    Candidate,
    Tuning,
    adapt_fold,
    fit_fold,
    predict_members_of,
    predict_rows,
    tune_fold,
)
from emodecode.evaluate.latency import measure_latency
from emodecode.evaluate.ledger import Ledger
from emodecode.evaluate.results import PREDICTION_COLUMNS, Results
from emodecode.evaluate.seeds import score_seeds
from emodecode.evaluate.splits import Split, inner_splits
from emodecode.evaluate.workers import (
    backend,
    describe_pipeline,
    load_part,
    store_part,
)
from emodecode.samples import Samples


def score(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    *,
    tuning: Tuning | None = None,
    seed: int = 0,
    n_jobs: int = 1,
    scheduler: str | None = None,
    resume_folder: Path | None = None,
    progress: bool = True,
    with_latency: bool = False,
) -> Results:
    """Fit every candidate on every fold and record what it predicts for the held-out samples.

    Parameters
    ----------
    samples : Samples
        ``X`` may be a memory map: a fold copies only its own rows.
    splits : sequence of Split
    candidates : sequence of Candidate
    tuning : Tuning, optional
        For candidates with a grid. The inner folds keep subjects apart, and stimuli where the
        data are stimulus-locked.
    seed : int
        Each (model, fold) gets its own child, so that neither order nor `n_jobs` matters.
    n_jobs : int
        Processes on this machine.
    scheduler : str, optional
        Address of a Dask scheduler that takes the folds instead.
    resume_folder : Path, optional
        Finished folds are kept there; a later call with the same data, models and splits reads
        them instead of fitting again.
    progress : bool
        Show a progress bar on stderr.
    with_latency : bool
        Time the fitted decoders of the first fold (`emodecode.evaluate.latency`).

    Returns
    -------
    Results
    """
    classes = samples.classes
    tuning = tuning or Tuning()
    tasks = _tasks(samples, splits, candidates, tuning, seed, resume_folder)
    if with_latency:
        tasks = [replace(task, timed=task.fold == 0) for task in tasks]
    if resume_folder is not None and scheduler is None:
        tasks = [replace(task, checkpoint=resume_folder / f"{task.key}.net") for task in tasks]
    done = {task.key: found for task in tasks if (found := _load(task, resume_folder)) is not None}
    waiting = [task for task in tasks if task.key not in done]
    bar = tqdm(total=len(tasks), initial=len(done), desc="folds", unit="fold", disable=not progress)
    with bar, backend(scheduler, n_jobs, samples.X):
        for key, outcome in _run_all(samples, waiting, tuning, n_jobs, resume_folder):
            done[key] = outcome
            bar.update()
    return _collect(samples, tasks, done, classes)


def check_inner_folds(
    table: pd.DataFrame, splits: Sequence[Split], *, name: str, tuning: Tuning, seed: int
) -> None:
    """Refuse a choice of hyper-parameters for which the smallest training set has no inner folds.

    They are the inner folds that `score` makes for the model `name`; nothing is fitted.

    Raises
    ------
    InputError
        As `inner_splits`.
    """
    fold = min(range(len(splits)), key=lambda number: len(splits[number].train))
    child, rows = child_seed(seed, name, fold), splits[fold].train
    inner_splits(table, rows, n_folds=tuning.n_folds, gap_s=tuning.gap_s, seed=child)


_TIMED_BYTES = 2**28
"""Of the samples that latency is measured on, at most: they are read into memory."""


@dataclass(frozen=True)
class _Task:
    candidate: Candidate
    split: Split
    fold: int
    seed: int
    key: str
    timed: bool = False
    checkpoint: Path | None = None

    @property
    def pipeline(self) -> Pipeline:
        """The candidate's pipeline; a network keeps the state of its training in a file."""
        pipeline = self.candidate.pipeline
        last = pipeline.steps[-1][0]
        if self.checkpoint is None or f"{last}__checkpoint" not in pipeline.get_params():
            return pipeline
        return clone(pipeline).set_params(**{f"{last}__checkpoint": self.checkpoint})


@dataclass(frozen=True)
class _Outcome:
    probabilities: np.ndarray
    info: dict


def _tasks(samples, splits, candidates, tuning, seed, resume_folder) -> list[_Task]:
    fingerprint = fingerprint_samples(samples) if resume_folder is not None else ""
    common = f"{fingerprint}|{tuning}|{emodecode.__version__}|{sklearn.__version__}"
    tasks = []
    for candidate in candidates:
        described = (
            f"{candidate.name}|{describe_pipeline(candidate.pipeline)}|{candidate.grid}|"
            f"{candidate.fit_on_all}|{candidate.calibrate}|{candidate.choose_epoch_on_test}|"
            f"{candidate.alignment and candidate.alignment.fingerprint}"
        )
        for fold, split in enumerate(splits):
            child = child_seed(seed, candidate.name, fold)
            rows = b"".join(part.tobytes() for part in (split.train, split.calibrate, split.test))
            text = f"{common}|{described}|{child}|{hashlib.sha256(rows).hexdigest()}"
            tasks.append(
                _Task(candidate, split, fold, child, hashlib.sha256(text.encode()).hexdigest()[:32])
            )
    return tasks


def child_seed(seed: int, name: str, fold: int) -> int:
    """Return the seed of a model in a fold, whatever the order of both."""
    label = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return int(np.random.SeedSequence([seed, label, fold]).generate_state(1)[0] >> 1)


def fingerprint_samples(samples: Samples) -> str:
    """Return a hash of the data, the labels and the columns that folds are made from."""
    digest = hashlib.blake2b(digest_size=16)
    rows = max(1, 2**24 // max(1, samples.n_voxels))
    for start in range(0, samples.n_samples, rows):
        digest.update(np.ascontiguousarray(samples.X[start : start + rows]).data)
    text = io.StringIO()
    samples.table.to_csv(text, index=False)
    digest.update(text.getvalue().encode())
    return digest.hexdigest()


def _run_all(
    samples: Samples, tasks: list[_Task], tuning: Tuning, n_jobs: int, folder: Path | None
) -> Iterator[tuple[str, _Outcome]]:
    """Do the tasks; each is stored as soon as it is done, on a cluster when its group comes in."""
    if not tasks:
        return
    active = joblib.parallel.get_active_backend()[0].__class__.__name__
    given = samples.X, samples.table, samples.classes
    if n_jobs == 1 and "Dask" not in active:
        for group in _groups(tasks):
            for task in group:
                key, outcome = _run_one(*given, task, tuning)
                _store(key, outcome, folder)
                yield key, outcome
        return
    here, there = (folder, None) if "Dask" in active else (None, folder)
    parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, max_nbytes="1M")
    calls = (joblib.delayed(_run_group)(*given, group, tuning, there) for group in _groups(tasks))
    for outcomes in parallel(calls):
        for key, outcome in outcomes:
            _store(key, outcome, here)
            yield key, outcome


def _groups(tasks: list[_Task]) -> list[list[_Task]]:
    """Tasks that one process does: the aligned decoders of a fold, whose common space is one."""
    groups: dict[tuple, list[_Task]] = {}
    for number, task in enumerate(tasks):
        aligned = task.candidate.alignment is not None
        groups.setdefault((task.fold,) if aligned else (task.fold, number), []).append(task)
    return list(groups.values())


def _run_group(
    X: np.ndarray,
    table: pd.DataFrame,
    classes: tuple[str, ...],
    group: list[_Task],
    tuning: Tuning,
    folder: Path | None,
) -> list[tuple[str, _Outcome]]:
    done = []
    for task in group:
        done.append(_run_one(X, table, classes, task, tuning))
        _store(*done[-1], folder)
    forget_space()
    return done


def _run_one(
    X: np.ndarray, table: pd.DataFrame, classes: tuple[str, ...], task: _Task, tuning: Tuning
) -> tuple[str, _Outcome]:
    started = time.perf_counter()
    candidate, split = task.candidate, task.split
    where, ledger = f"{candidate.name}, fold {split.name}", Ledger()
    y = table["label"].to_numpy(dtype=str)
    with (
        sklearn.config_context(enable_metadata_routing=True),
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        fitted, chosen, temperature = fit_on_fold(
            replace(candidate, pipeline=task.pipeline),
            *(X, y, table, split),
            tuning=tuning,
            seed=task.seed,
            ledger=ledger,
        )
        probabilities = predict_rows(fitted, X, table, split.test, classes=classes, where=where)
        members = predict_members_of(fitted, X, table, split.test)
        if temperature is not None:
            probabilities = apply_temperature(probabilities, temperature)
        seconds = time.perf_counter() - started
        latency = _time(fitted, X, table, task) if task.timed else []
    info = {
        "model": candidate.name,
        "fold": split.name,
        "n_train": len(split.train),
        "n_test": len(split.test),
        "chosen": {name: _plain(value) for name, value in chosen.items()},
        "seconds": seconds,
        "warnings": sorted({f"{w.category.__name__}: {w.message}" for w in caught}),
        "fitted": ledger.entries(split),
        "temperature": temperature,
        "latency": latency,
        "seeds": []
        if members is None
        else score_seeds(
            members,
            table.iloc[split.test],
            own=fitted.classes_,
            classes=classes,
        ),
        "history": list(getattr(fitted.steps[-1][1], "history_", None) or []),
        "cost": network_cost(fitted.steps[-1][1]) if task.fold == 0 else None,
    }
    return task.key, _Outcome(probabilities, info)


def fit_on_fold(
    candidate: Candidate,
    X: np.ndarray,
    y: np.ndarray,
    table: pd.DataFrame,
    split: Split,
    *,
    tuning: Tuning,
    seed: int,
    ledger: Ledger | None = None,
) -> tuple[Pipeline, dict[str, Any], float | None]:
    """Tune, fit and adapt a candidate on a fold: what `score` predicts the test samples with.

    Returns
    -------
    fitted : Pipeline
    chosen : dict
        Parameters that were tuned.
    temperature : float or None
    """
    ledger = Ledger() if ledger is None else ledger
    fold = aligned_fold(candidate.alignment, table, split)
    chosen, temperature = tune_fold(
        candidate,
        *(X, y, table, split.train),
        tuning=tuning,
        seed=seed,
        fold=fold,
        ledger=ledger,
    )
    fitted = fit_fold(
        candidate.pipeline,
        *(X, y, table, split.train),
        params=chosen,
        seed=seed,
        gap_s=tuning.gap_s,
        fit_on_all=candidate.fit_on_all,
        fold=fold,
        judged_on=split.test if candidate.choose_epoch_on_test else None,
        ledger=ledger,
    )
    return adapt_fold(fitted, X, y, table, split, fold=fold, ledger=ledger), chosen, temperature


def _time(fitted: Pipeline, X: np.ndarray, table: pd.DataFrame, task: _Task) -> list[dict]:
    rows = task.split.test[: max(32, _TIMED_BYTES // (X.shape[1] * X.itemsize))]
    subjects = table["subject"].to_numpy(dtype=str)[rows]
    return measure_latency(fitted, X[rows], subjects, name=task.candidate.name, max_seconds=3.0)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _store(key: str, outcome: _Outcome, folder: Path | None) -> None:
    if folder is not None:
        info = np.frombuffer(json.dumps(outcome.info).encode(), dtype=np.uint8)
        store_part(key, {"probabilities": outcome.probabilities, "info": info}, folder)


def _load(task: _Task, folder: Path | None) -> _Outcome | None:
    saved = load_part(task.key, folder)
    try:
        if saved is not None:
            found = _Outcome(saved["probabilities"], json.loads(saved["info"].tobytes()))
            return None if task.timed and not found.info["latency"] else found
    except (KeyError, ValueError):
        pass  # not one of ours: fitted anew
    return None


def _collect(samples: Samples, tasks: list[_Task], done: dict[str, _Outcome], classes) -> Results:
    tables, rows = [], []
    for task in tasks:
        probabilities, test = done[task.key].probabilities, task.split.test
        part = samples.table.iloc[test][["subject", "run", "volume", "label"]].reset_index(
            drop=True
        )
        part["model"], part["fold"] = task.candidate.name, task.split.name
        part["predicted"] = np.asarray(classes)[probabilities.argmax(axis=1)]
        part = part[list(PREDICTION_COLUMNS)]
        given = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in classes])
        tables.append(pd.concat([part, given], axis=1))
        rows.append(test)
    return Results(
        predictions=pd.concat(tables, ignore_index=True),
        rows=np.concatenate(rows),
        classes=classes,
        folds=tuple(done[task.key].info | {"fold": task.split.name} for task in tasks),
    )

"""Negative controls: the pipeline, or less than it, where there is nothing to be found."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier

from emodecode.errors import InputError
from emodecode.evaluate.design import Codes, Design, read_design
from emodecode.evaluate.fold import NOTHING, Split
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.results import Results
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.evaluate.stimuli import is_stimulus_locked
from emodecode.evaluate.surrogate import surrogate
from emodecode.evaluate.tally import summarise
from emodecode.evaluate.timeonly import MODEL, has_clock, time_only_predictions
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import Samples

LEVEL = 0.05
"""Corrected p up to which a control does not pass."""

SURE_P = 1e-3
"""Corrected p that enough labellings are drawn for, where none of them reaches the score."""

LEAST_PERMUTATIONS = 1000
"""Labellings of each control, at least; they cost no fit."""

MOST_DRAWS = 100
"""Attempts to draw scene labels that leave every class in the training of each fold."""

SCENE_GAP = 3
"""Scenes end where more than so many volumes (or half seconds) of the stimulus are missing."""


class _Kind(NamedTuple):
    rule: str
    title: str
    where: str
    passed: str
    failed: str


KINDS = {
    "time_only": _Kind(
        "T5",
        "Time-only decoder",
        "Without brain data the nearest neighbour in time",
        "time alone does not tell the labels",
        "time alone tells the labels",
    ),
    "noise_replay": _Kind(
        "T2",
        "Noise replay",
        "On phase-randomised data the same pipeline",
        "it finds nothing where there is nothing",
        "it finds labels where there are none",
    ),
    "scene": _Kind(
        "T5",
        "Scene control",
        "With labels drawn anew for each scene the same pipeline",
        "it does not recognise scenes",
        "it recognises the scene, whatever its label",
    ),
    "canary": _Kind(
        "T3",
        "Leak canary",
        "With the tested scans replaced by phase-randomised surrogates the same pipeline",
        "nothing of the test samples reaches the training",
        "something of the test samples reaches the training",
    ),
    "confounds": _Kind(
        "T13",
        "Confound decoder",
        "A decoder of {what} alone",
        "they do not tell the labels",
        "they tell the labels without the rest of the brain",
    ),
}
"""Name of each control -> rule of the audit, title, and the parts of its sentence."""


@dataclass(frozen=True)
class Control:
    """Outcome of one negative control for one decoder.

    Parameters
    ----------
    name : {"time_only", "noise_replay", "scene", "canary", "confounds"}
    rule : str
        Rule of the audit that it belongs to.
    title : str
    model : str
        Decoder that was refitted; ``"time_only"`` or ``"confounds"`` for these.
    value, low, high : float or None
        Balanced accuracy, mean over subjects with its 95 % t interval.
    chance : float or None
        Mean over exchanged labels.
    p, p_corrected : float or None
        One-sided (above chance); Holm over all controls and decoders of the run.
    n_folds, n_repeats : int
        Folds, and how often each was fitted with new surrogates or labels.
    seconds : float
    passed : bool or None
        ``p_corrected > .05``; None where it could not be asked.
    sentence : str
    """

    name: str
    rule: str
    title: str
    model: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    p: float | None
    p_corrected: float | None
    n_folds: int
    n_repeats: int
    seconds: float
    passed: bool | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Make an entry of ``controls`` in ``audit.json``."""
        return dataclasses.asdict(self)


def run_controls(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    *,
    results: Results,
    tuning: Tuning | None = None,
    confounds: pd.DataFrame | None = None,
    share: float = 1.0,
    seed: int = 0,
    n_permutations: int = 1000,
    n_jobs: int = 1,
    scheduler: str | None = None,
    resume_folder: Path | None = None,
    progress: bool = True,
) -> list[Control]:
    """Run all negative controls that the data allow.

    ``time_only``: nearest neighbour in time. ``confounds``: LDA on motion, global signal and time
    in the run. The others refit every candidate, but for dummies, on a part of the folds:
    ``noise_replay`` on surrogates of all data, ``canary`` with only the tested scans of a fold
    replaced by surrogates, ``scene`` (stimulus-locked data) with labels drawn anew for each scene.

    Parameters
    ----------
    samples, splits, candidates, tuning
        As they were scored.
    results : Results
        Of these candidates; its classes are scored.
    confounds : DataFrame of n_samples rows, optional
        Numeric columns, such as motion parameters.
    share : float
        Fits of the refitting controls together, as a share of the candidates' own; each control
        gets at least one fold.
    seed : int
        Of folds, surrogates, labels and permutations.
    n_permutations : int
        Exchanged labels, at least `LEAST_PERMUTATIONS`; further ones are drawn for a control that
        none of them reaches, until its corrected p can get to `SURE_P`.
    n_jobs, scheduler, resume_folder, progress
        As in `emodecode.evaluate.score.score`.

    Returns
    -------
    list of Control
        One for each control and decoder.

    Notes
    -----
    Scores are compared with those of exchanged labels under fixed predictions
    (`emodecode.evaluate.chance`). Several repetitions are tested one by one: value and chance are
    their means, p is twice the mean of their p-values (Vovk and Wang 2020). Where the labels of
    the design can be exchanged in too few ways for a control to fail, it counts as not asked.

    References
    ----------
    Vovk and Wang (2020), Biometrika 107:791-808.
    """
    work = {"n_jobs": n_jobs, "scheduler": scheduler, "resume_folder": resume_folder}
    real = [each for each in candidates if not _is_dummy(each)]
    study = _Study(samples, list(splits), real, tuning, seed, work | {"progress": progress})
    locked = is_stimulus_locked(samples.table)
    n_folds = len(study.splits) * share / (3 if locked else 2)
    asked = [
        *_time_only(study),
        *(_noise_replay(study, n_folds) if real else []),
        *(_scene(study, n_folds) if real and locked else []),
        *(_canary(study, n_folds) if real else []),
        *_confounds(study, confounds),
    ]
    return _judge(asked, results.classes, seed, max(n_permutations, LEAST_PERMUTATIONS))


class _Study(NamedTuple):
    """What was scored, and how it is scored again."""

    samples: Samples
    splits: list[Split]
    candidates: list[Candidate]
    tuning: Tuning | None
    seed: int
    work: dict[str, Any]

    def score(self, samples: Samples, splits: Sequence[Split], seed: int) -> Results:
        """Score the candidates; without the choice of parameters where it has no inner folds."""
        given = {"tuning": self.tuning, "seed": seed} | self.work
        if len(splits) * len(self.candidates) == 1:
            given["n_jobs"] = 1
        try:
            return score(samples, splits, self.candidates, **given)
        except InputError:
            plain = [
                dataclasses.replace(each, grid={}, calibrate=False) for each in self.candidates
            ]
            return score(samples, splits, plain, **given)


class _Part(NamedTuple):
    """Predictions of one repetition, with the table whose labels they are scored by."""

    predictions: pd.DataFrame
    rows: np.ndarray
    table: pd.DataFrame
    splits: list[Split]


@dataclass
class _Asked:
    """A control for one decoder before it is judged."""

    name: str
    model: str
    parts: list[_Part]
    n_folds: int = 0
    seconds: float = 0.0
    what: str = ""
    why_not: str = ""


def _is_dummy(candidate: Candidate) -> bool:
    return isinstance(candidate.pipeline.steps[-1][1], DummyClassifier)


def _child(seed: int, *path: int) -> int:
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0] >> 1)


def _choose_folds(study: _Study, n_folds: float, number: int) -> tuple[list[Split], int]:
    """Folds spread over all of them, one from each stretch, and how often to repeat them."""
    splits, table = study.splits, study.samples.table
    wanted = max(1, int(n_folds + 1e-9))
    if wanted >= len(splits):
        return splits, wanted // len(splits)
    rng = np.random.default_rng(np.random.SeedSequence([study.seed, number]))
    edges = np.arange(wanted + 1) * len(splits) // wanted
    chosen = [splits[rng.integers(a, b)] for a, b in zip(edges[:-1], edges[1:], strict=True)]
    tested = table.iloc[np.concatenate([split.test for split in chosen])]
    several = tested.groupby(tested["subject"].astype(str))["label"].nunique() > 1
    return (chosen if several.any() else splits), 1


def _time_only(study: _Study) -> Iterator[_Asked]:
    table = study.samples.table
    if not has_clock(table):
        yield _Asked("time_only", MODEL, [], why_not="no sample has a time")
        return
    started = time.perf_counter()
    found = time_only_predictions(table, study.splits, clock="stimulus")
    part = _Part(found.drop(columns="row"), found["row"].to_numpy(), table, study.splits)
    spent = time.perf_counter() - started
    yield _Asked("time_only", MODEL, [part], len(study.splits), spent)


def _noise_replay(study: _Study, n_folds: float) -> list[_Asked]:
    chosen, n_repeats = _choose_folds(study, n_folds, 1)

    def replay(repeat: int) -> _Scored:
        X = surrogate(study.samples.X, study.samples.table, seed=_child(study.seed, 1, repeat))
        noise = dataclasses.replace(study.samples, X=X)
        return [study.score(noise, chosen, study.seed)], noise.table, chosen

    return _refit("noise_replay", study, replay, n_repeats)


def _scene(study: _Study, n_folds: float) -> list[_Asked]:
    chosen, n_repeats = _choose_folds(study, n_folds, 2)
    if _scene_table(study, chosen, 0) is None:
        why = f"labels drawn anew for its scenes left folds without a class, {MOST_DRAWS} times"
        return [_Asked("scene", each.name, [], why_not=why) for each in study.candidates]

    def replay(repeat: int) -> _Scored:
        table = _scene_table(study, chosen, repeat)
        assert table is not None
        drawn = dataclasses.replace(study.samples, table=table)
        return [study.score(drawn, chosen, study.seed)], table, chosen

    return _refit("scene", study, replay, n_repeats)


def _canary(study: _Study, n_folds: float) -> list[_Asked]:
    chosen, n_repeats = _choose_folds(study, n_folds, 3)
    samples = study.samples
    scan = read_design(samples.table).scan.code

    def replay(repeat: int) -> _Scored:
        found = []
        for number, split in enumerate(chosen):
            held_out = np.unique(scan[np.concatenate([split.test, split.calibrate])])
            X = surrogate(
                samples.X,
                samples.table,
                seed=_child(study.seed, 3, repeat, number),
                rows=np.flatnonzero(np.isin(scan, held_out)),
            )
            found.append(study.score(dataclasses.replace(samples, X=X), [split], study.seed))
        # no fold trains on what another one tests: each surrogate is in its own fold only
        apart = [Split(NOTHING, NOTHING, split.test, name=split.name) for split in chosen]
        return found, samples.table, apart

    return _refit("canary", study, replay, n_repeats)


_Scored = tuple[list[Results], pd.DataFrame, list[Split]]


def _refit(
    name: str, study: _Study, replay: Callable[[int], _Scored], n_repeats: int
) -> list[_Asked]:
    """Repeat a control; its seconds are those of the fits and an equal share of all else."""
    asked = {each.name: _Asked(name, each.name, []) for each in study.candidates}
    for repeat in range(n_repeats):
        started = time.perf_counter()
        found, table, splits = replay(repeat)
        folds = [fold for results in found for fold in results.folds]
        other = time.perf_counter() - started - sum(fold["seconds"] for fold in folds)
        for model, own in asked.items():
            own.parts.append(_own_part(found, model, table, splits))
            own.n_folds = len(splits)
            fits = sum(fold["seconds"] for fold in folds if fold["model"] == model)
            own.seconds += fits + max(other, 0.0) / len(asked)
    return list(asked.values())


def _own_part(
    found: Sequence[Results], model: str, table: pd.DataFrame, splits: list[Split]
) -> _Part:
    tables = [each.predictions[each.predictions["model"] == model] for each in found]
    rows = [each.rows[(each.predictions["model"] == model).to_numpy()] for each in found]
    return _Part(pd.concat(tables, ignore_index=True), np.concatenate(rows), table, splits)

"""Negative controls: the pipeline, or less than it, where there is nothing to be found."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.dummy import DummyClassifier

from emodecode.errors import InputError
from emodecode.evaluate.alignment import replay_candidates
from emodecode.evaluate.confounds import confound_columns, describe_confounds
from emodecode.evaluate.design import read_design
from emodecode.evaluate.fold import NOTHING, Split
from emodecode.evaluate.results import Results
from emodecode.evaluate.scenes import find_scenes, scene_labels
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.evaluate.shifts import shift_null
from emodecode.evaluate.stimuli import is_stimulus_locked
from emodecode.evaluate.surrogate import surrogate
from emodecode.evaluate.timeonly import (
    MODEL,
    has_clock,
    time_only_null,
    time_only_predictions,
)
from emodecode.evaluate.verdicts import Asked, Control, Part, judge
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import Samples, relabelled

__all__ = ["Control", "run_controls", "scene_labels"]

LEAST_PERMUTATIONS = 1000
"""Labellings of each control, at least; they cost no fit."""

MOST_DRAWS = 100
"""Attempts to draw scene labels that leave every class in the training of each fold."""

_PERMUTED = {
    "noise_replay": "With all rows permuted within their runs, the same pipeline",
    "canary": "With the tested rows permuted within their runs, the same pipeline",
}
"""What is done to tables without times, whose phases cannot be drawn."""

_NOISE, _SCENE, _CANARY = 1, 2, 3


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

    ``time_only``: nearest neighbour in stimulus time where it is known, else in the run, of the
    same subject where possible. ``confounds``: LDA on motion, global signal and time
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
        gets at least one fold. A share that allows all folds twice repeats them, and so on.
    seed : int
        Of folds, surrogates, labels and permutations.
    n_permutations : int
        Exchanged labels, at least `LEAST_PERMUTATIONS`; see `emodecode.evaluate.verdicts.judge`.
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
    ``time_only`` must also be better than in designs where each subject has an order of its own
    (`emodecode.evaluate.timeonly.time_only_null`): votes of many subjects at few positions have a
    null with a heavier tail than fixed predictions show.

    References
    ----------
    Vovk and Wang (2020), Biometrika 107:791-808.
    """
    real = [each for each in candidates if not _is_dummy(each)]
    work = {"n_jobs": n_jobs, "scheduler": scheduler, "resume_folder": resume_folder}
    study = _Study(samples, list(splits), real, tuning, seed, work | {"progress": progress})
    locked = is_stimulus_locked(samples.table)
    n_folds = len(study.splits) * share / (3 if locked else 2)
    refitted = [_noise_replay, _scene, _canary] if locked else [_noise_replay, _canary]
    asked = _time_only(study)
    for ask in refitted if real else []:
        asked += ask(study, n_folds)
    asked += _confounds(study, confounds)
    return judge(
        asked,
        classes=results.classes,
        seed=seed,
        n_permutations=max(n_permutations, LEAST_PERMUTATIONS),
    )


class _Study(NamedTuple):
    """What was scored, and how it is scored again."""

    samples: Samples
    splits: list[Split]
    candidates: list[Candidate]
    tuning: Tuning | None
    seed: int
    work: dict[str, Any]

    def score(self, samples: Samples, splits: Sequence[Split]) -> Results:
        """Score the candidates; where there are no inner folds, with their own parameters."""
        try:
            return self._score(samples, splits, self.candidates)
        except InputError:
            if not any(each.grid or each.calibrate for each in self.candidates):
                raise
        plain = [dataclasses.replace(each, grid={}, calibrate=False) for each in self.candidates]
        return self._score(samples, splits, plain)

    def _score(
        self, samples: Samples, splits: Sequence[Split], candidates: Sequence[Candidate]
    ) -> Results:
        how = {"tuning": self.tuning, "seed": self.seed} | self.work
        if len(splits) * len(candidates) == 1:
            how["n_jobs"] = 1
        return score(samples, splits, candidates, **how)

    def on(
        self, X: np.ndarray, *, seed: int, subjects: Sequence[str] | None = None
    ) -> "tuple[_Study, Samples]":
        """The candidates and samples for other values; what they are aligned on goes along."""
        candidates = replay_candidates(self.candidates, X, seed=seed, subjects=subjects)
        return self._replace(candidates=candidates), dataclasses.replace(self.samples, X=X)


class _Replayed(NamedTuple):
    """Results of one repetition, the table of their labels, and how the folds hang together."""

    results: list[Results]
    table: pd.DataFrame
    splits: list[Split]


def _is_dummy(candidate: Candidate) -> bool:
    return isinstance(candidate.pipeline.steps[-1][1], DummyClassifier)


def _child(seed: int, *path: int) -> int:
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0] >> 1)


def _choose_folds(study: _Study, n_folds: float, control: int) -> tuple[list[Split], int]:
    """Folds from everywhere, one at random from each stretch of them, and the repetitions."""
    splits, wanted = study.splits, max(1, int(n_folds + 1e-9))
    if wanted >= len(splits):
        return splits, wanted // len(splits)
    rng = np.random.default_rng(_child(study.seed, control))
    edges = np.arange(wanted + 1) * len(splits) // wanted
    chosen = [splits[rng.integers(a, b)] for a, b in pairwise(edges)]
    return (chosen if _has_two_classes(study.samples.table, chosen) else splits), 1


def _has_two_classes(table: pd.DataFrame, splits: Sequence[Split]) -> bool:
    """Whether a subject has several classes among the tested samples."""
    tested = table[["subject", "label"]].iloc[np.concatenate([split.test for split in splits])]
    return bool((tested.groupby("subject")["label"].nunique() > 1).any())


def _time_only(study: _Study) -> list[Asked]:
    table = study.samples.table
    if not has_clock(table):
        return [Asked("time_only", MODEL, why_not="no sample has a time")]
    started = time.perf_counter()
    clock = "stimulus" if read_design(table).stimulus_axis().known.any() else "subject"
    found = time_only_predictions(table, study.splits, clock=clock)
    spent = time.perf_counter() - started

    def null(seed: int, n_permutations: int) -> np.ndarray:
        drawn = {"n_permutations": n_permutations, "seed": seed}
        return time_only_null(table, study.splits, clock=clock, **drawn)

    part = Part(found.drop(columns="row"), found["row"].to_numpy(), table, study.splits, null)
    return [Asked("time_only", MODEL, [part], len(study.splits), spent)]


def _noise_replay(study: _Study, n_folds: float) -> list[Asked]:
    chosen, n_repeats = _choose_folds(study, n_folds, _NOISE)
    table = study.samples.table

    def replay(repeat: int) -> _Replayed:
        seed = _child(study.seed, _NOISE, repeat)
        own, noise = study.on(surrogate(study.samples.X, table, seed=seed), seed=seed)
        return _Replayed([own.score(noise, chosen)], table, chosen)

    return _refit("noise_replay", study, replay, n_repeats)


def _scene(study: _Study, n_folds: float) -> list[Asked]:
    chosen, n_repeats = _choose_folds(study, n_folds, _SCENE)
    tables = [_scene_table(study, chosen, repeat) for repeat in range(n_repeats)]
    drawn = [table for table in tables if table is not None]
    if not drawn:
        why = f"labels drawn anew for its scenes left folds without a class, {MOST_DRAWS} times"
        return [Asked("scene", each.name, why_not=why) for each in study.candidates]

    def replay(repeat: int) -> _Replayed:
        samples = dataclasses.replace(study.samples, table=drawn[repeat])
        return _Replayed([study.score(samples, chosen)], drawn[repeat], chosen)

    return _refit("scene", study, replay, len(drawn))


def _scene_table(study: _Study, chosen: Sequence[Split], repeat: int) -> pd.DataFrame | None:
    """Sample table with new labels, one block a scene; None if folds would lack a class."""
    table = study.samples.table
    known = set(table["label"])
    block = np.char.add("scene ", find_scenes(table).astype(str))
    for draw in range(MOST_DRAWS):
        label = scene_labels(table, seed=_child(study.seed, _SCENE, repeat, draw))
        drawn = relabelled(table, label).assign(block=block)
        learned = all(set(label[split.train]) == known for split in chosen)
        if learned and _has_two_classes(drawn, chosen):
            return drawn
    return None


def _canary(study: _Study, n_folds: float) -> list[Asked]:
    chosen, n_repeats = _choose_folds(study, n_folds, _CANARY)
    samples = study.samples
    scan = read_design(samples.table).scan.code
    # each surrogate is in its own fold only: no fold trains on what another one tests
    apart = [Split(NOTHING, NOTHING, split.test, name=split.name) for split in chosen]

    def replay(repeat: int) -> _Replayed:
        found = []
        for number, split in enumerate(chosen):
            held_out = scan[np.concatenate([split.test, split.calibrate])]
            seed = _child(study.seed, _CANARY, repeat, number)
            rows = np.flatnonzero(np.isin(scan, held_out))
            own, noise = study.on(
                surrogate(samples.X, samples.table, seed=seed, rows=rows),
                seed=seed,
                subjects=np.unique(samples.subjects[split.test]).tolist(),
            )
            found.append(own.score(noise, [split]))
            del own, noise  # whole brains are large
        return _Replayed(found, samples.table, apart)

    return _refit("canary", study, replay, n_repeats)


def _refit(
    name: str, study: _Study, replay: Callable[[int], _Replayed], n_repeats: int
) -> list[Asked]:
    """Repeat a control; its seconds are those of the fits and an equal share of all else."""
    what = "" if study.samples.table["onset_s"].notna().any() else _PERMUTED.get(name, "")
    asked = [Asked(name, each.name, what=what) for each in study.candidates]
    for repeat in range(n_repeats):
        started = time.perf_counter()
        found = replay(repeat)
        folds = [fold for results in found.results for fold in results.folds]
        other = time.perf_counter() - started - sum(fold["seconds"] for fold in folds)
        for own in asked:
            own.parts.append(_own_part(found, own.model, shifted=name != "scene"))
            own.n_folds = len(found.splits)
            own.seconds += sum(fold["seconds"] for fold in folds if fold["model"] == own.model)
            own.seconds += max(other, 0.0) / len(asked)
    return asked


def _own_part(found: _Replayed, model: str, *, shifted: bool) -> Part:
    """One decoder's part; surrogates must also score more than their phases may by accident."""
    own = [(each.predictions["model"] == model).to_numpy() for each in found.results]
    tables = [each.predictions[mine] for each, mine in zip(found.results, own, strict=True)]
    rows = [each.rows[mine] for each, mine in zip(found.results, own, strict=True)]
    predictions = pd.concat(tables, ignore_index=True)
    row = np.concatenate(rows)
    null = None
    if shifted:
        classes = found.results[0].classes
        null = shift_null(predictions, row, found.table, classes=classes)
    return Part(predictions, row, found.table, found.splits, null)


def _confounds(study: _Study, confounds: pd.DataFrame | None) -> list[Asked]:
    started = time.perf_counter()
    columns = confound_columns(study.samples, confounds)
    if columns.empty:
        return [Asked("confounds", "confounds", why_not="no motion, time or global signal known")]
    samples = Samples(
        X=columns.to_numpy(dtype=np.float32),
        table=study.samples.table,
        features=tuple(str(name) for name in columns),
    )
    candidate = Candidate("confounds", make_pipeline_for("lda", seed=study.seed))
    found = study._replace(candidates=[candidate]).score(samples, study.splits)
    part = Part(found.predictions, found.rows, samples.table, study.splits)
    return [
        Asked(
            "confounds",
            "confounds",
            [part],
            len(study.splits),
            time.perf_counter() - started,
            what=f"A decoder of {describe_confounds(columns)} alone",
        )
    ]

"""Phase: chance from data whose phases are random, with the labels as they are."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from emodecode.evaluate.alignment import replay_candidates
from emodecode.evaluate.chance import Null
from emodecode.evaluate.compare import scores_of_subjects
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.evaluate.splits import Split
from emodecode.evaluate.surrogate import surrogate
from emodecode.evaluate.tally import METRICS
from emodecode.samples import Samples


def surrogate_null(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    *,
    tuning: Tuning | None = None,
    n_permutations: int = 100,
    seed: int = 0,
    n_jobs: int = 1,
    scheduler: str | None = None,
    resume_folder: Path | None = None,
    progress: bool = True,
) -> dict[str, Null]:
    """Fit every candidate in every fold to phase-randomised surrogates of the data.

    The labels stay; each scan keeps its voxels' spectra and correlations and loses whatever is
    locked to the labels or shared between subjects (`emodecode.evaluate.surrogate`). So it also
    serves designs whose labels can hardly be exchanged, but it asks more: a response that all
    subjects share is no chance here. There is no fast path.

    Parameters
    ----------
    samples, splits, candidates, tuning, n_jobs, scheduler, resume_folder, progress
        As in `emodecode.evaluate.score.score`; an interrupted call goes on with the next fold.
    n_permutations : int
        Surrogates.
    seed : int

    Returns
    -------
    dict
        Name of each candidate -> `Null`.

    References
    ----------
    Prichard and Theiler (1994), Physical Review Letters 73:951-954.
    """
    found: dict[str, list[dict[str, np.ndarray]]] = {each.name: [] for each in candidates}
    subjects: tuple[str, ...] = ()
    for number in tqdm(range(n_permutations), desc="surrogates", disable=not progress):
        child = int(np.random.SeedSequence([seed, 3, number]).generate_state(1)[0] >> 1)
        X = surrogate(samples.X, samples.table, seed=child)
        results = score(
            dataclasses.replace(samples, X=X),
            splits,
            replay_candidates(candidates, X, seed=child),
            tuning=tuning,
            seed=seed,
            n_jobs=n_jobs,
            scheduler=scheduler,
            resume_folder=resume_folder,
            progress=False,
        )
        for name, own in found.items():
            predictions = results.predictions[results.predictions["model"] == name]
            series = {
                metric: scores_of_subjects(predictions, classes=results.classes, metric=metric)
                for metric in METRICS
            }
            own.append(
                {metric: values.sort_index().to_numpy() for metric, values in series.items()}
            )
            subjects = tuple(sorted(map(str, series[METRICS[0]].index)))
    return {name: _null(own, subjects) for name, own in found.items()}


def _null(found: list[dict[str, np.ndarray]], subjects: tuple[str, ...]) -> Null:
    stacked = {metric: np.stack([each[metric] for each in found]) for metric in METRICS}
    scores = {}
    for metric, values in stacked.items():
        known = np.isfinite(values)
        total = np.where(known, values, 0.0).sum(axis=1)
        counts = known.sum(axis=1)
        scores[metric] = np.where(counts > 0, total / np.maximum(counts, 1), np.nan)
    return Null(scores, stacked["balanced_accuracy"], subjects, of="surrogates")

"""How often tests of decoding reject on data without any effect: the default's and naive ones.

python benchmarks/bench_evidence.py [n_sets [blocks] [movie] [scenes]]
"""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
from scipy.stats import binomtest, ttest_1samp
from scipy.stats import t as student_t
from tqdm import tqdm

from emodecode.evaluate.exchange import Exchange, make_exchange, permuted_labels
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.refit import refit_null
from emodecode.evaluate.results import Results
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import Split, choose_splits
from emodecode.evaluate.subjects import sign_flip
from emodecode.evaluate.tally import (
    interval_half,
    make_tally,
    mean_over_subjects,
    subject_scores,
)
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import TABLE_COLUMNS, Samples

SEED = 2024
N_PERMUTATIONS = 199
LEVEL = 0.05
TR_S = 2.0
CLASSES = ("anger", "fear", "joy")
ISC = 0.15
SECOND = ("ridge", "logistic")


class Design(NamedTuple):
    """A kind of null data set and how it is split."""

    title: str
    make: Callable[[np.random.Generator], Samples]
    split: str


def make_blocks(rng: np.random.Generator, *, effect: float = 0.0) -> Samples:
    """Make a block design: 8 subjects x 2 runs x 12 blocks of 8 volumes, each its own order.

    `effect` is the standard deviation of the class means in 5 of the 30 voxels, in units of the
    noise's; 0 is a null data set.
    """
    n_subjects, n_runs, n_blocks, length, n_voxels = 8, 2, 12, 8, 30
    n_scans, n_volumes = n_subjects * n_runs, n_blocks * length
    kinds = np.stack([rng.permutation(n_blocks) % len(CLASSES) for _ in range(n_scans)])
    codes = np.repeat(kinds, length, axis=1)
    X = noise(rng, n_scans, n_volumes, n_voxels)
    X[..., :5] += effect * rng.standard_normal((len(CLASSES), 5))[codes]
    table = make_table(n_subjects, n_runs, codes, np.tile(np.arange(n_volumes) // length, (2, 1)))
    return Samples(X=X.reshape(-1, n_voxels).astype(np.float32), table=table)


def make_movie(rng: np.random.Generator) -> Samples:
    """Make a film: 6 subjects x 3 runs of 220 s, scenes of 16 to 30 s with labels at random.

    Scenes and labels are the same for all subjects, and so is a part of the response to the film
    (the correlation of two subjects is `ISC`) that has nothing to do with the labels.
    """
    n_subjects, n_runs, n_volumes, n_voxels = 6, 3, 110, 30
    scenes, labels = zip(*(_scenes(rng, n_volumes) for _ in range(n_runs)), strict=True)
    own = noise(rng, n_subjects * n_runs, n_volumes, n_voxels)
    film = np.tile(noise(rng, n_runs, n_volumes, n_voxels), (n_subjects, 1, 1))
    X = np.sqrt(1 - ISC) * own + np.sqrt(ISC) * film
    codes = np.tile(np.stack(labels), (n_subjects, 1))
    table = make_table(n_subjects, n_runs, codes, np.stack(scenes))
    start_s = (table["run"].astype(int) - 1) * n_volumes * TR_S
    table["stimulus"], table["stimulus_time_s"] = "film", start_s + table["onset_s"]
    return Samples(X=X.reshape(-1, n_voxels).astype(np.float32), table=table)


def _scenes(rng: np.random.Generator, n_volumes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scene and the class of each volume of a run."""
    lengths = rng.integers(8, 16, size=n_volumes // 8 + 1)
    scene = np.repeat(np.arange(len(lengths)), lengths)[:n_volumes]
    kinds = rng.permutation(scene.max() + 1) % len(CLASSES)
    return scene, kinds[scene]


def noise(rng: np.random.Generator, n_scans: int, n_volumes: int, n_voxels: int) -> np.ndarray:
    """AR(1) noise of unit variance (rho .6 to .9 by voxel, neighbours alike) plus slow drifts."""
    rho = rng.uniform(0.6, 0.9, size=n_voxels)
    mix = np.eye(n_voxels) + 0.5 * (np.eye(n_voxels, k=1) + np.eye(n_voxels, k=-1))
    fresh = rng.standard_normal((n_scans, n_volumes, n_voxels)) @ mix
    fresh /= np.sqrt((mix**2).sum(axis=0))
    fresh[:, 1:] *= np.sqrt(1 - rho**2)
    for k in range(1, n_volumes):
        fresh[:, k] += rho * fresh[:, k - 1]
    phase = rng.uniform(0, 2 * np.pi, size=(n_scans, 1, n_voxels))
    cycles = rng.uniform(0.5, 2, size=(n_scans, 1, n_voxels))
    moments = np.linspace(0, 2 * np.pi, n_volumes)[:, None]
    return fresh + 0.5 * np.cos(cycles * moments + phase)


def make_table(n_subjects: int, n_runs: int, codes: np.ndarray, blocks: np.ndarray) -> pd.DataFrame:
    """Sample table of scans in order; `codes` of every scan, `blocks` of every run."""
    n_volumes = codes.shape[1]
    scan, volume = (grid.ravel() for grid in np.indices(codes.shape))
    table = pd.DataFrame(
        {
            "subject": [f"{s // n_runs + 1:02d}" for s in scan],
            "session": "n/a",
            "run": [str(s % n_runs + 1) for s in scan],
            "volume": volume,
            "onset_s": volume * TR_S,
            "label": np.array(CLASSES)[codes.ravel()],
            "stimulus": "n/a",
            "stimulus_time_s": np.nan,
            "block": [f"{blocks[s % n_runs, v]:02d}" for s, v in zip(scan, volume, strict=True)],
            "agreement": np.nan,
        }
    )
    if len(table) != n_subjects * n_runs * n_volumes:
        raise AssertionError("a scan for each subject and run")
    return table[list(TABLE_COLUMNS)]


DESIGNS = {
    "blocks": Design("blocks, leave-one-subject-out", make_blocks, "auto"),
    "movie": Design("film, subject x stimulus held out", make_movie, "auto"),
    "scenes": Design("film, leave-one-subject-out", make_movie, "leave_one_subject_out"),
}
"""The first two are split as the default is; the third as published studies of films often are."""


def draw(design: str, number: int) -> tuple[Samples, list[Split]]:
    """Make data set `number` of a design, and its folds."""
    kind = DESIGNS[design]
    key = list(DESIGNS).index(design)
    samples = kind.make(np.random.default_rng(np.random.SeedSequence([SEED, key, number])))
    splits, _, _ = choose_splits(samples.table, split=kind.split)
    return samples, splits


def by_volume(table: pd.DataFrame) -> Exchange:
    """Exchange single volumes within each run, which `make_exchange` refuses to offer."""
    alone = table.assign(block=[str(k) for k in range(len(table))], onset_s=np.nan)
    return make_exchange(alone, classes=CLASSES)


def examine(design: str, number: int) -> dict[str, float]:
    """Test LDA on one null data set in every way: test -> p, and what the intervals contain."""
    samples, splits = draw(design, number)
    candidates = [Candidate("lda", make_pipeline_for("lda"))]
    results = score(samples, splits, candidates, progress=False)
    whole = make_exchange(samples.table, classes=CLASSES)
    volumes = by_volume(samples.table)
    found = {"refit": p_refitted(samples, splits, candidates, results, whole, number)}
    found["volumes_refit"] = p_refitted(samples, splits, candidates, results, volumes, number)
    found |= with_fixed_predictions(samples, splits, results, whole, number)
    found["volumes"] = fixed_p(results, volumes, number)
    return found | without_permutation(results, splits)


def examine_others(design: str, number: int) -> dict[str, float]:
    """Test the decoders of `SECOND` with fixed predictions."""
    samples, splits = draw(design, number)
    found = {}
    for kind in SECOND:
        results = score(samples, splits, [Candidate(kind, make_pipeline_for(kind))], progress=False)
        whole = make_exchange(samples.table, classes=CLASSES)
        each = with_fixed_predictions(samples, splits, results, whole, number)
        found |= {f"{kind} {test}": p for test, p in each.items()}
    return found


def p_refitted(
    samples: Samples,
    splits: Sequence[Split],
    candidates: Sequence[Candidate],
    results: Results,
    exchange: Exchange,
    seed: int,
) -> float:
    """P of the permutation that refits everything, as emodecode prints it."""
    nulls = refit_null(
        samples,
        splits,
        candidates,
        exchange=exchange,
        n_permutations=N_PERMUTATIONS,
        seed=seed,
        progress=False,
    )
    return _printed(samples, splits, results, seed, nulls)["balanced_accuracy"]["p"]


def with_fixed_predictions(
    samples: Samples, splits: Sequence[Split], results: Results, exchange: Exchange, seed: int
) -> dict[str, float]:
    """P as emodecode prints it for decoders without a fast path, and without the widening."""
    model = _printed(samples, splits, results, seed, None)
    narrow = fixed_p(results, exchange, seed)
    return {"widened": model["balanced_accuracy"]["p"], "fixed": narrow}


def _printed(
    samples: Samples, splits: Sequence[Split], results: Results, seed: int, nulls: Any
) -> dict[str, Any]:
    scores = score_predictions(
        results.predictions,
        classes=CLASSES,
        seed=seed,
        n_permutations=N_PERMUTATIONS,
        samples_table=samples.table,
        rows=results.rows,
        nulls=nulls,
        splits=splits,
    )
    return scores["models"][results.models[0]]


def fixed_p(results: Results, exchange: Exchange, seed: int) -> float:
    """P of the same predictions among their scores against exchanged labels."""
    table = results.predictions
    tally = make_tally(
        pd.factorize(table["subject"])[0],
        pd.factorize(table["fold"])[0],
        exchange.slot[results.rows],
        _codes(table["predicted"]),
        table[[f"p_{name}" for name in CLASSES]].to_numpy(dtype=float),
    )
    drawn = permuted_labels(exchange, n_permutations=N_PERMUTATIONS, seed=seed)
    given = np.concatenate([exchange.label[None], drawn])
    values = mean_over_subjects(subject_scores(tally, given)["balanced_accuracy"])
    return float(np.mean(values >= values[0] - 1e-9))


def without_permutation(results: Results, splits: Sequence[Split]) -> dict[str, float]:
    """Tests against 1 / n_classes that permute nothing, and intervals of the mean."""
    table, chance = results.predictions, 1 / len(CLASSES)
    truth, said = _codes(table["label"]), _codes(table["predicted"])
    subjects = recalls(table["subject"], truth, said)
    folds = recalls(table["fold"], truth, said)
    ratio = float(np.mean([len(split.test) / len(split.train) for split in splits]))
    n = len(folds)
    widening = np.sqrt(1 + n * ratio)
    usual = ttest_1samp(folds, chance, alternative="greater")
    half = float(interval_half(subjects))  # type: ignore[arg-type]
    fold_half = float(interval_half(folds))  # type: ignore[arg-type]
    return {
        "binomial": binomtest(int(np.sum(truth == said)), len(truth), chance, "greater").pvalue,
        "t_folds": float(usual.pvalue),
        "t_subjects": float(ttest_1samp(subjects, chance, alternative="greater").pvalue),
        "t_corrected": float(student_t.sf(usual.statistic / widening, n - 1)),
        "sign_flip": sign_flip(subjects - chance).p,
        "interval_subjects": float(abs(subjects.mean() - chance) <= half),
        "interval_folds": float(abs(folds.mean() - chance) <= fold_half),
        "interval_corrected": float(abs(folds.mean() - chance) <= fold_half * widening),
        "score": float(subjects.mean()),
    }


def recalls(group: pd.Series, truth: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Balanced accuracy of each group: the mean recall of the classes that it has."""
    code, names = pd.factorize(group)
    counts = np.zeros((len(names), len(CLASSES), len(CLASSES)))
    np.add.at(counts, (code, truth, said), 1)
    size = counts.sum(axis=2)
    recall = np.diagonal(counts, axis1=1, axis2=2) / np.maximum(size, 1)
    return recall.sum(axis=1) / (size > 0).sum(axis=1)


def _codes(labels: pd.Series) -> np.ndarray:
    return labels.map({name: code for code, name in enumerate(CLASSES)}).to_numpy(dtype=np.int64)


def run_all(job: Callable[..., dict], tasks: Sequence[tuple], text: str) -> pd.DataFrame:
    """Run a job on every task in two processes; one row a task, in their order."""
    parallel = joblib.Parallel(n_jobs=2, return_as="generator", batch_size=1)
    rows = parallel(joblib.delayed(job)(*task) for task in tasks)
    with joblib.parallel_config(inner_max_num_threads=1, backend="loky"):
        bar = tqdm(rows, total=len(tasks), desc=text, unit="set", mininterval=5)
        return pd.DataFrame(list(bar))


def share(hits: pd.Series) -> str:
    """Percentage with its exact 95 % interval."""
    k, n = int(hits.sum()), len(hits)
    interval = binomtest(k, n).proportion_ci()
    return f"{100 * k / n:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


TESTS = {
    "refit": "**blocks exchanged, everything refitted (the default)**",
    "widened": "**blocks exchanged, predictions fixed, × √2 (the default without a fast path)**",
    "fixed": "blocks exchanged, predictions fixed",
    "volumes_refit": "single volumes exchanged, everything refitted",
    "volumes": "single volumes exchanged, predictions fixed",
    "binomial": "binomial over volumes",
    "t_folds": "t over folds",
    "t_subjects": "t over subjects",
    "sign_flip": "sign flips over subjects",
    "t_corrected": "t over folds, corrected (Nadeau & Bengio)",
}
INTERVALS = {
    "interval_subjects": "t over subjects",
    "interval_folds": "t over folds",
    "interval_corrected": "t over folds, corrected (Nadeau & Bengio)",
}


def main() -> None:
    """Print the tables of docs/evidence.md."""
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    names = sys.argv[2:] or list(DESIGNS)
    for other in set(DESIGNS) - set(names):
        del DESIGNS[other]  # the seeds go by the place among the designs that are run
    started = time.perf_counter()
    found = {
        name: run_all(examine, [(name, number) for number in range(n_sets)], name) for name in names
    }
    titles = [DESIGNS[name].title for name in names]
    heads = [f"{title}, % (95 % interval)" for title in titles]
    print(
        f"{n_sets} null data sets a column, {N_PERMUTATIONS} permutations, LDA, rejected at .05\n"
    )
    rejected = [
        [text, *(share(found[name][test] <= LEVEL) for name in names)]
        for test, text in TESTS.items()
    ]
    print_table(["test", *heads], rejected)
    print("Chance (1/3) is inside the 95 % interval\n")
    inside = [
        [text, *(share(found[name][test]) for name in names)] for test, text in INTERVALS.items()
    ]
    print_table(["interval", *heads], inside)
    print("Balanced accuracy, mean (sd over data sets)\n")
    level = [f"{each['score'].mean():.3f} ({each['score'].std():.3f})" for each in found.values()]
    print_table(titles, [level])
    print_others(max(1, n_sets * 2 // 5), [name for name in names if name != "scenes"])
    print(f"{time.perf_counter() - started:.0f} s on 2 cores")


def print_others(n_sets: int, names: Sequence[str]) -> None:
    """Print how the test with fixed predictions does with other decoders."""
    others = {
        name: run_all(examine_others, [(name, number) for number in range(n_sets)], f"{name}, more")
        for name in names
    }
    print(f"Other decoders, {n_sets} null data sets a column, blocks exchanged, rejected at .05\n")
    rows = [
        [f"{kind}, {text}", *(share(each[f"{kind} {test}"] <= LEVEL) for each in others.values())]
        for kind in SECOND
        for test, text in (
            ("widened", "predictions fixed, × √2"),
            ("fixed", "predictions fixed"),
        )
    ]
    print_table(["decoder and test", *(DESIGNS[name].title for name in others)], rows)


if __name__ == "__main__":
    main()

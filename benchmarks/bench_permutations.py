"""A permutation test that refits everything: all labellings in one solve against the loop.

python benchmarks/bench_permutations.py --samples 4400 --voxels 300 --permutations 1000
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from emodecode.evaluate.exchange import make_exchange, permuted_labels
from emodecode.models.catalogue import make_pipeline_for
from emodecode.models.multitarget import fit_many

DECODERS = {
    'LDA, shrinkage "auto"': ("lda", {}),
    "LDA, shrinkage 0.3": ("lda", {"shrinkage": 0.3}),
    "ridge": ("ridge", {"class_weight": "none"}),
    "ridge, balanced": ("ridge", {}),
}


def main() -> None:
    """Time both on the same folds and labellings and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=4400)
    parser.add_argument("--voxels", type=int, default=300)
    parser.add_argument("--folds", type=int, default=11)
    parser.add_argument("--classes", type=int, default=4)
    parser.add_argument("--permutations", type=int, default=1000)
    parser.add_argument("--loop", type=int, default=10, help="labellings a fold of the loop")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2, help="of BLAS")
    parser.add_argument("--select-from", type=int, default=2000, help="0: no selection")
    options = parser.parse_args()
    X, slot, subject, labels = make_data(options, options.voxels)
    with threadpool_limits(options.threads, user_api="blas"):
        lines = [
            compare(name, make_pipeline_for(kind, params=params), X, slot, subject, labels, options)
            for name, (kind, params) in DECODERS.items()
        ]
        if options.select_from:
            wide, *_ = make_data(options, options.select_from)
            name = f"{options.voxels} of {options.select_from:,} voxels by ANOVA in the fold, LDA"
            pipeline = make_pipeline_for("lda", n_voxels=options.voxels)
            options.repeats, repeats = 1, options.repeats
            lines.append(compare(name, pipeline, wide, slot, subject, labels, options))
            options.repeats = repeats
    print(
        f"{options.permutations:,} labellings x {options.folds} folds, {options.samples:,} samples "
        f"x {options.voxels} voxels, {options.classes} classes, {len(labels[0])} blocks that keep "
        f"one label, {options.threads} threads. Median of {options.repeats} (selection: once); "
        f"the loop was timed on {options.loop} labellings a fold and scaled.\n"
    )
    print("| decoder | loop, s | together, s | times faster | largest difference |")
    print("|---|---|---|---|---|")
    print("\n".join(lines))


def make_data(
    options: argparse.Namespace, n_voxels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Blocks of ten samples in an order of each subject's own; one fold leaves one subject out."""
    rng = np.random.default_rng(0)
    each = options.samples // options.folds
    parts = []
    for number in range(options.folds):
        order = rng.permutation(each // 10) % options.classes
        volume = np.arange(each)
        parts.append(
            pd.DataFrame(
                {
                    "subject": f"{number:02d}",
                    "run": "1",
                    "volume": volume,
                    "onset_s": volume * 2.0,
                    "label": [f"c{k}" for k in np.repeat(order, 10)],
                    "block": volume // 10,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    classes = sorted(set(table["label"]))
    exchange = make_exchange(table, classes=classes)
    labels = permuted_labels(exchange, n_permutations=options.permutations, seed=0)
    X = rng.standard_normal((len(table), n_voxels), dtype=np.float32)
    X += (
        0.5 * rng.standard_normal((len(exchange.label), n_voxels)).astype(np.float32)[exchange.slot]
    )
    return X, exchange.slot, table["subject"].to_numpy(), labels


def compare(
    name: str,
    pipeline,
    X: np.ndarray,
    slot: np.ndarray,
    subject: np.ndarray,
    labels: np.ndarray,
    options: argparse.Namespace,
) -> str:
    """Return one line of the table."""
    folds = [subject == each for each in np.unique(subject)]
    few = labels[: options.loop]

    def loop() -> list[np.ndarray]:
        return [
            np.stack([pipeline.fit(X[~test], y[slot[~test]]).predict_proba(X[test]) for y in few])
            for test in folds
        ]

    def together() -> list[np.ndarray]:
        return [
            fit_many(
                pipeline, X[~test], labels, X[test], n_classes=options.classes, slot=slot[~test]
            )
            for test in folds
        ]

    slow, expected = timed(loop, 1)
    fast, found = timed(together, options.repeats)
    slow *= len(labels) / len(few)
    worst = max(np.abs(a[: len(few)] - b).max() for a, b in zip(found, expected, strict=True))
    return f"| {name} | {slow:,.0f} | {fast:,.1f} | {slow / fast:,.0f} | {worst:.0e} |"


def timed(work: Callable[[], list[np.ndarray]], repeats: int) -> tuple[float, list[np.ndarray]]:
    """Return the median of the seconds and the last result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return median(seconds), found


if __name__ == "__main__":
    main()

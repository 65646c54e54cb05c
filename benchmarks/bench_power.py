"""How often the tests of the library find an effect that was planted: power in a block design.

python benchmarks/bench_power.py [n_sets [picture.png]]
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from bench_evidence import (
    CLASSES,
    LEVEL,
    N_PERMUTATIONS,
    SEED,
    make_blocks,
    p_refitted,
    print_table,
    run_all,
    share,
    with_fixed_predictions,
)
from emodecode.evaluate.exchange import make_exchange
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import choose_splits
from emodecode.models.catalogue import make_pipeline_for

EFFECTS = (0.0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
TESTS = {
    "refit": "everything refitted (the default)",
    "widened": "predictions fixed, × √2 (without a fast path)",
}


def examine(effect: float, number: int) -> dict[str, float]:
    """Test LDA on one data set with a planted effect."""
    seed = np.random.SeedSequence([SEED, 99, round(1000 * effect), number])
    samples = make_blocks(np.random.default_rng(seed), effect=effect)
    splits, _, _ = choose_splits(samples.table)
    candidates = [Candidate("lda", make_pipeline_for("lda"))]
    results = score(samples, splits, candidates, progress=False)
    whole = make_exchange(samples.table, classes=CLASSES)
    right = (results.predictions["label"] == results.predictions["predicted"]).mean()
    found = {"refit": p_refitted(samples, splits, candidates, results, whole, number)}
    return (
        found | with_fixed_predictions(samples, splits, results, whole, number) | {"score": right}
    )


def main() -> None:
    """Print the power table of docs/evidence.md; draw the curve where a file is named."""
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    started = time.perf_counter()
    tasks = [(effect, number) for effect in EFFECTS for number in range(n_sets)]
    found = run_all(examine, tasks, "power")
    found["effect"] = [effect for effect, _ in tasks]
    print(f"{n_sets} data sets a row, blocks, {N_PERMUTATIONS} permutations, LDA, found at .05\n")
    head = ["effect, sd of noise", "balanced accuracy"]
    rows = [
        [f"{effect:g}", f"{own['score'].mean():.3f}", *(share(own[t] <= LEVEL) for t in TESTS)]
        for effect, own in found.groupby("effect")
    ]
    print_table([*head, *(f"{text}, % (95 % interval)" for text in TESTS.values())], rows)
    print(f"{time.perf_counter() - started:.0f} s on 2 cores")
    if len(sys.argv) > 2:
        draw_curve(found, Path(sys.argv[2]))


def draw_curve(found: pd.DataFrame, path: Path) -> None:
    """Draw the share of data sets in which the effect was found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for test, style in zip(TESTS, ("o-", "s--"), strict=True):
        hits = (found[test] <= LEVEL).groupby(found["effect"]).mean()
        axes.plot(hits.index, hits.to_numpy(), style, label=TESTS[test])
    axes.axhline(LEVEL, color="0.6", linewidth=1)
    axes.set(
        xlabel="planted effect (sd of the class means / sd of the noise)",
        ylabel="found at .05",
        ylim=(0, 1.02),
    )
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()

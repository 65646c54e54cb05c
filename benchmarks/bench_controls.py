"""How often the automatic controls accuse honest folds, and those that recognise scenes.

python benchmarks/bench_controls.py [n_sets]
"""

import sys
import time

from bench_evidence import DESIGNS, draw, print_table, run_all, share
from emodecode.evaluate.controls import run_controls
from emodecode.evaluate.score import Candidate, score
from emodecode.models.catalogue import make_pipeline_for

FAMILY = "any of them (Holm)"
COLUMNS = ("time_only", "noise_replay", "scene", "canary", "confounds", FAMILY)


def examine(design: str, number: int) -> dict[str, bool]:
    """Run the controls of LDA on one null data set: control -> accused."""
    samples, splits = draw(design, number)
    candidates = [Candidate("lda", make_pipeline_for("lda"))]
    results = score(samples, splits, candidates, progress=False)
    controls = run_controls(
        samples, splits, candidates, results=results, seed=number, progress=False
    )
    found = {each.name: each.passed is False for each in controls if each.passed is not None}
    return found | {FAMILY: any(found.values())}


def main() -> None:
    """Print the table of the controls in docs/evidence.md."""
    n_sets = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    started = time.perf_counter()
    rows = []
    for name, kind in DESIGNS.items():
        found = run_all(examine, [(name, number) for number in range(n_sets)], f"{name}, controls")
        asked = [
            share(found[column].dropna().astype(bool)) if column in found else "not asked"
            for column in COLUMNS
        ]
        rows.append([kind.title, *asked])
    print(f"{n_sets} null data sets a row, controls of LDA, accused, % (95 % interval)\n")
    print_table(["design and split", *COLUMNS], rows)
    print(f"{time.perf_counter() - started:.0f} s on 2 cores")


if __name__ == "__main__":
    main()

"""Every decoder of the catalogue on whole volumes: time and peak memory.

python benchmarks/bench_fullvolume.py --rows 1950 --voxels 180224
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

from emodecode.models.catalogue import KINDS, make_pipeline_for

LIMIT_GIB = 12.0
CLASSES = np.array(["anger", "fear", "joy"])


def main() -> int:
    """Make the data, run every kind in a process of its own, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1950, help="training volumes")
    parser.add_argument("--test-rows", type=int, default=200)
    parser.add_argument("--voxels", type=int, default=180224)
    parser.add_argument("--jobs", type=int, default=1, help="threads of the trees")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--folder", type=Path, help="where the data go for the while")
    parser.add_argument("--worker", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker[0], Path(options.worker[1]), jobs=options.jobs)))
        return 0
    over = []
    size = options.rows * options.voxels * 4 / 1e9
    print(
        f"{options.rows:,} x {options.voxels:,} float32 ({size:.2f} GB) in memory, 3 classes, "
        f"all voxels standardised in the fold, {options.test_rows} test volumes, "
        f"{os.cpu_count()} cores\n"
    )
    print("| decoder | fit, s | predict, s | peak, GiB | on top of the data, GiB | accuracy |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_data(Path(folder), options.rows, options.test_rows, options.voxels)
        for kind in options.kinds:
            found = run(kind, folder, options.jobs)
            print(
                f"| {kind} | {found['fit_s']:.1f} | {found['predict_s']:.2f} "
                f"| {found['peak_gib']:.1f} | {found['extra_gib']:.1f} "
                f"| {found['accuracy']:.2f} |",
                flush=True,
            )
            over += [kind] if found["peak_gib"] > LIMIT_GIB else []
    if over:
        print(f"\nabove {LIMIT_GIB:g} GiB: {', '.join(over)}")
    return 1 if over else 0


def make_data(folder: Path, rows: int, test_rows: int, voxels: int) -> None:
    """Write training and test volumes: blocks of ten, an effect in every hundredth voxel."""
    rng = np.random.default_rng(0)
    effect = np.where(np.arange(voxels) % 100 == 0, rng.standard_normal((3, voxels)) * 0.2, 0)
    for name, n in (("train", rows), ("test", test_rows)):
        y = np.arange(n) // 10 % 3
        path = folder / f"{name}.npy"
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (n, voxels)}
            np.lib.format.write_array_header_2_0(file, header)
            for start in range(0, n, 50):
                part = y[start : start + 50]
                noise = rng.standard_normal((len(part), voxels), dtype=np.float32)
                (1000 + 10 * (noise + effect[part])).astype(np.float32).tofile(file)
        np.save(folder / f"{name}_labels.npy", CLASSES[y])


def run(kind: str, folder: str, jobs: int) -> dict:
    """Run one kind in a fresh process, so that its peak memory is its own."""
    command = [sys.executable, __file__, "--jobs", str(jobs), "--worker", kind, folder]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def work(kind: str, folder: Path, *, jobs: int) -> dict:
    """Fit and predict with one kind."""
    X, y = np.load(folder / "train.npy"), np.load(folder / "train_labels.npy")
    new, truth = np.load(folder / "test.npy"), np.load(folder / "test_labels.npy")
    params = {"n_jobs": jobs} if "n_jobs" in KINDS[kind].defaults else {}
    before = peak_gib()
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = make_pipeline_for(kind, params=params).fit(X, y)
    fit_s = time.perf_counter() - started
    started = time.perf_counter()
    predicted = fitted.classes_[fitted.predict_proba(new).argmax(axis=1)]
    return {
        "fit_s": fit_s,
        "predict_s": time.perf_counter() - started,
        "peak_gib": peak_gib(),
        "extra_gib": peak_gib() - before,
        "accuracy": float((predicted == truth).mean()),
    }


def peak_gib() -> float:
    """Return the largest resident size of this process so far.

    It starts from the parent's at the time of the fork: the parent must not hold the data.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


if __name__ == "__main__":
    sys.exit(main())

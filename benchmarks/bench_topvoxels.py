"""TopVoxels against scikit-learn's SelectKBest: time, memory on top of the data, accuracy of F.

python benchmarks/bench_topvoxels.py --rows 4400 --voxels 180224
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
from statistics import median

import numpy as np

CLASSES = np.array(["anger", "fear", "joy"])


def main() -> None:
    """Make the data, run every contestant in processes of its own, print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4400)
    parser.add_argument("--voxels", type=int, default=180224)
    parser.add_argument("--selected", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the data go for the while")
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(*options.worker, n_selected=options.selected)))
        return
    rows = []
    for offset, scale in ((1000.0, 10.0), (0.0, 1.0)):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "X.npy"
            make_data(path, options.rows, options.voxels, offset=offset, scale=scale)
            rows += compare(path, options, f"{offset:g} +- {scale:g}")
    size = options.rows * options.voxels * 4 / 1e9
    print(
        f"{options.rows:,} x {options.voxels:,} float32 ({size:.2f} GB), "
        f"{options.selected} voxels kept, median of {options.repeats}, "
        f"{os.cpu_count()} cores\n"
    )
    print(
        "| data | selector | fit, s | peak on top of the data, GB | largest relative error of F "
        "| median | voxels shared with the float64 reference | transform one volume, ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(
        "\nOf a memory map the pages that were read count as resident; the system takes them back."
    )


def make_data(path: Path, rows: int, voxels: int, *, offset: float, scale: float) -> None:
    """Write a matrix of intensities with a weak effect in a tenth of the voxels, and labels."""
    rng = np.random.default_rng(0)
    y = np.arange(rows) * 3 // rows
    effect = np.where(np.arange(voxels) % 10 == 0, rng.standard_normal((3, voxels)) * 0.1, 0)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, voxels)}
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, rows, 50):
            part = y[start : start + 50]
            noise = rng.standard_normal((len(part), voxels), dtype=np.float32)
            (offset + scale * (noise + effect[part])).astype(np.float32).tofile(file)
    np.save(path.with_name("y.npy"), CLASSES[y])


def compare(path: Path, options: argparse.Namespace, data: str) -> list[str]:
    """Return one line of the table for each selector."""
    _, truth, reference = run("reference", path, options)
    lines = []
    for name in ("TopVoxels", "TopVoxels, memory map", "SelectKBest"):
        runs = [run(name, path, options) for _ in range(options.repeats)]
        found = runs[-1][1]
        error = np.abs(found / truth - 1)
        shared = len(set(runs[-1][2]) & set(reference))
        seconds, extra, single = (
            median(each[0][key] for each in runs) for key in ("seconds", "extra_gb", "single_ms")
        )
        lines.append(
            f"| {data} | {name} | {seconds:.1f} | {extra:.2f} | {error.max():.1e} "
            f"| {np.median(error):.1e} | {shared} of {len(reference)} | {single:.2f} |"
        )
    return lines


def run(name: str, path: Path, options: argparse.Namespace) -> tuple[dict, np.ndarray, list]:
    """Run one contestant in a fresh process; return its measures, its F and its voxels."""
    command = [sys.executable, __file__, "--selected", str(options.selected)]
    done = subprocess.run(
        [*command, "--worker", name, str(path)], check=True, capture_output=True, text=True
    )
    found = path.with_name("F.npy")
    return json.loads(done.stdout), np.load(found), np.load(path.with_name("kept.npy")).tolist()


def work(name: str, path: str, *, n_selected: int) -> dict:
    """Fit one selector; runs in a process of its own, so that its peak memory is its own."""
    from scipy.stats import f_oneway
    from sklearn.feature_selection import SelectKBest, f_classif

    from emodecode.features.select import TopVoxels

    X = np.load(path, mmap_mode="r" if name in ("reference", "TopVoxels, memory map") else None)
    y = np.load(Path(path).with_name("y.npy"))
    before = peak_gb()
    started = time.perf_counter()
    if name == "reference":
        groups = [np.flatnonzero(y == label) for label in CLASSES]
        f_values = np.concatenate(
            [
                f_oneway(*(X[rows, a : a + 1024].astype(np.float64) for rows in groups)).statistic
                for a in range(0, X.shape[1], 1024)
            ]
        )
        kept, selector = np.argsort(-f_values, kind="stable")[:n_selected], None
    elif name == "SelectKBest":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            selector = SelectKBest(f_classif, k=n_selected).fit(X, y)
        f_values, kept = selector.scores_, selector.get_support(indices=True)
    else:
        selector = TopVoxels(n_selected).fit(X, y)
        f_values, kept = selector.scores_, selector.indices_
    measures = {"seconds": time.perf_counter() - started, "extra_gb": peak_gb() - before}
    measures["single_ms"] = single_ms(selector, np.array(X[:1])) if selector else 0.0
    np.save(Path(path).with_name("F.npy"), f_values)
    np.save(Path(path).with_name("kept.npy"), np.sort(kept))
    return measures


def single_ms(selector, volume: np.ndarray) -> float:
    """Return the median time to transform one volume."""
    times = []
    for _ in range(20):
        started = time.perf_counter()
        selector.transform(volume)
        times.append(time.perf_counter() - started)
    return median(times) * 1000


def peak_gb() -> float:
    """Return the largest resident size of this process so far.

    It starts from the parent's at the time of the fork: the parent must not hold the data.
    """
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()

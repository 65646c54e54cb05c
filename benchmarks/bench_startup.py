"""How long the command line takes to answer, and how long saved samples take to open.

    python benchmarks/bench_startup.py [--rows 4400 --voxels 180224]

Opening is compared with reading the same matrix whole (``numpy.load``), in the same run.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd

from emodecode.samples import TABLE_COLUMNS, TEXT_COLUMNS, Samples


def time_process(code: list[str], n: int) -> float:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        subprocess.run(code, check=True, capture_output=True)
        times.append(time.perf_counter() - started)
    return median(times)


def time_call(call, n: int) -> float:
    times = []
    for _ in range(n):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


def save_samples(folder: Path, n_rows: int, n_voxels: int) -> Path:
    table = pd.DataFrame({"volume": np.arange(n_rows)})
    for name in TABLE_COLUMNS:
        if name != "volume":
            table[name] = "a" if name in TEXT_COLUMNS else 0.0
    X = np.lib.format.open_memmap(
        folder / "big.npy", mode="w+", dtype=np.float32, shape=(n_rows, n_voxels)
    )
    saved = Samples(X=X, table=table[list(TABLE_COLUMNS)]).save(folder / "samples")
    (folder / "big.npy").unlink()
    return saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=4400)
    parser.add_argument("--voxels", type=int, default=180_224)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    emodecode = str(Path(sys.executable).with_name("emodecode"))
    rows = [
        ("`emodecode --help`", time_process([emodecode, "--help"], options.repeats)),
        (
            "`python -c 'import emodecode'`",
            time_process([sys.executable, "-c", "import emodecode"], options.repeats),
        ),
        ("`python -c pass`", time_process([sys.executable, "-c", "pass"], options.repeats)),
        (
            "`python -c 'import nilearn.maskers'`",
            time_process([sys.executable, "-c", "import nilearn.maskers"], options.repeats),
        ),
    ]
    with tempfile.TemporaryDirectory() as folder:
        saved = save_samples(Path(folder), options.rows, options.voxels)
        size = f"{options.rows:,} x {options.voxels:,}"
        opened = Samples.open(saved)
        rows += [
            (f"`Samples.open`, {size}", time_call(lambda: Samples.open(saved), options.repeats)),
            (f"`numpy.load` of the same, {size}", time_call(lambda: np.load(saved / "X.npy"), 3)),
            ("one sample of the open ones", time_call(lambda: np.array(opened.X[7]), 101)),
        ]
    print("| what | median, s |\n| --- | --- |")
    for name, seconds in rows:
        print(f"| {name} | {seconds:.4f} |")


if __name__ == "__main__":
    main()

"""Hyperalignment: time and peak memory against fmralign, on one thread, in one run.

python benchmarks/bench_alignment.py            # needs fmralign for the peer's rows
python benchmarks/bench_alignment.py --repeats 3 --skip-large

Each measurement is a process of its own, so that its peak memory is its own; ours and the peer's
take turns. PyMVPA needs Python 2.7: its ratio is the one recorded in docs/benchmarks.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from statistics import median

import numpy as np

CASES = {
    "11 x 400 x 300": (11, 400, 300, 0, np.float32),
    "11 x 400 x 300, float64": (11, 400, 300, 0, np.float64),
    "11 x 400 x 2000": (11, 400, 2000, 0, np.float32),
    "20 x 1000 x 5000, 25 parcels": (20, 1000, 5000, 25, np.float32),
}
"""Subjects, volumes, voxels, parcels (0: the whole at once), type of the input."""

WAYS = ("emodecode", "emodecode ridge", "fmralign")


def make_data(n_subjects: int, n_volumes: int, n_voxels: int, kind) -> list[np.ndarray]:
    """Shared courses in each subject's own patterns, with as much noise again."""
    rng = np.random.default_rng(0)
    n_shared = min(50, n_volumes // 4)
    shared = rng.standard_normal((n_volumes, n_shared)).astype(np.float32)
    data = []
    for _ in range(n_subjects):
        patterns = rng.standard_normal((n_shared, n_voxels)).astype(np.float32)
        noise = rng.standard_normal((n_volumes, n_voxels)).astype(np.float32)
        values = shared @ patterns
        values /= np.float32(np.sqrt(n_shared))
        values += noise
        data.append(values.astype(kind, copy=False))
    return data


def parcels_of(n_voxels: int, n_parcels: int) -> np.ndarray | None:
    """Label of each voxel, equal parcels; None for the whole."""
    return np.arange(n_voxels) * n_parcels // n_voxels + 1 if n_parcels else None


def measure(way: str, case: str) -> dict[str, float]:
    """Fit once and map one volume; seconds of the process and peak memory."""
    n_subjects, n_volumes, n_voxels, n_parcels, kind = CASES[case]
    data, labels = make_data(n_subjects, n_volumes, n_voxels, kind), parcels_of(n_voxels, n_parcels)
    fit, transform = _ours(way, data, labels) if way != "fmralign" else _peer(data, labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started, wall = time.process_time(), time.perf_counter()
    fit()
    seconds, wall = time.process_time() - started, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    volume = data[0][:1]
    times = []
    for _ in range(30):
        started = time.perf_counter()
        transform(volume)
        times.append(time.perf_counter() - started)
    return {
        "seconds": seconds,
        "wall": wall,
        "peak_mib": peak / 1024,
        "before_mib": before / 1024,
        "volume_ms": 1000 * median(times),
    }


def _ours(way: str, data: list[np.ndarray], labels: np.ndarray | None):
    from emodecode.align.space import CommonSpace

    n_volumes = len(data[0])
    space = CommonSpace(map="ridge" if way.endswith("ridge") else "orthogonal", pieces=labels)
    X = np.concatenate(data)
    names = [f"{number:02d}" for number in range(len(data))]
    subjects, keys = np.repeat(names, n_volumes), np.tile(np.arange(n_volumes), len(data))
    data[1:] = []  # the stacked copy holds them
    first = np.array(names[:1])
    return (
        lambda: space.fit(X, keys, subjects=subjects),
        lambda volume: space.transform(volume, subjects=first),
    )


def _peer(data: list[np.ndarray], labels: np.ndarray | None):
    from fmralign import GroupAlignment

    group = GroupAlignment(method="procrustes", labels=labels, n_iter=2)
    named = {f"{number:02d}": values for number, values in enumerate(data)}
    return (
        lambda: group.fit(named, y="template"),
        lambda volume: group.transform({"00": volume}),
    )


def main() -> None:
    """Print a Markdown table; with --way and --case measure one and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--skip-large", action="store_true")
    parser.add_argument("--only", choices=list(CASES), help="one case")
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--case", choices=list(CASES))
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.case)))
        return
    print("| fit | | CPU s | times faster | peak MiB | of it data | one volume, ms |")
    print("|---|---|---|---|---|---|---|")
    cases = list(CASES)[: 3 if options.skip_large else 4]
    for case in cases if options.only is None else [options.only]:
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(options.repeats):
            for way in WAYS:
                outcome = _in_process(way, case)
                if outcome:
                    found[way].append(outcome)
        _print(case, {way: each for way, each in found.items() if each})


def _in_process(way: str, case: str) -> dict[str, float] | None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = [sys.executable, __file__, "--way", way, "--case", case]
    done = subprocess.run(
        command, env=os.environ | threads, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{way}, {case}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def _print(case: str, found: dict[str, list[dict[str, float]]]) -> None:
    def of(way: str, name: str) -> float:
        return median(each[name] for each in found[way])

    peer = of("fmralign", "seconds") if "fmralign" in found else None
    for way in found:
        faster = "" if peer is None or way == "fmralign" else f"{peer / of(way, 'seconds'):.1f}"
        print(
            f"| {case} | {way} | {of(way, 'seconds'):.2f} | {faster} | {of(way, 'peak_mib'):.0f} "
            f"| {of(way, 'before_mib'):.0f} | {of(way, 'volume_ms'):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

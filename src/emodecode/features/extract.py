"""Runs and labels -> samples: each run is masked and cleaned as a whole, then its rows are kept."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from tqdm import tqdm

from emodecode.errors import InputError
from emodecode.features.clean import clean_run, constant_voxels, make_nuisance
from emodecode.prepare import masked
from emodecode.run import Run
from emodecode.samples import Samples

KEY = ["subject", "session", "run"]


def extract(
    runs: Sequence[Run],
    table: pd.DataFrame,
    *,
    mask: SpatialImage,
    clean: dict[str, Any] | None,
    smoothing_mm: float | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Samples:
    """Make the samples that a table names.

    Parameters
    ----------
    runs : sequence of Run
        One per (subject, session, run); those without a row in `table` are not read.
    table : DataFrame
        Sample table; row i becomes row i of X.
    mask : 3-D image
        Voxels to take.
    clean : dict or None
        Arguments of :func:`emodecode.features.clean.clean_run` (`detrend`, `high_pass_hz`,
        `low_pass_hz`, `standardize`); None: values as they are. A run is cleaned as a whole,
        unlabelled volumes included, and with its confounds.
    smoothing_mm : float, optional
        Full width at half maximum, see :func:`emodecode.prepare.masked`.
    folder : path, optional
        New folder for the samples: X grows in a memory map there and never in memory. It appears
        under its name only when complete, and `Samples.open` opens it again.
    progress : bool, default True
        Show a bar over the runs on stderr.

    Returns
    -------
    Samples
        Its history counts the constant voxels of each run and the volumes that equal the one
        before them (frozen data), where there are any.

    Raises
    ------
    InputError
        A row without a run or past the end of its run, two runs of one name, a run without data or
        with nothing but constant voxels, and what `masked` and `clean_run` refuse.
    """
    table = table.reset_index(drop=True)
    jobs = _match(runs, table)
    n_voxels = int(np.count_nonzero(np.asanyarray(mask.dataobj)))
    constant: dict[str, int] = {}
    frozen: dict[str, int] = {}

    def fill(X: np.ndarray) -> tuple[dict[str, Any], ...]:
        for run, rows in tqdm(jobs, desc="extract", unit="run", disable=not progress):
            matrix = masked(run, mask, smoothing_mm=smoothing_mm)
            _count(constant, run, _count_constant(run, matrix))
            _count(frozen, run, _repeated_volumes(matrix))
            if clean is not None:
                matrix = _cleaned(run, matrix, clean)
            X[rows] = matrix[table["volume"].to_numpy(dtype=int)[rows]]
        step = {
            "operation": "extract",
            "n_runs": len(jobs),
            "n_voxels": n_voxels,
            "clean": clean,
            "smoothing_mm": smoothing_mm,
            "confounds": sorted({name for run, _ in jobs for name in _confound_names(run)}),
            "constant_voxels": constant,
            "repeated_volumes": frozen,
        }
        return (step,)

    shape = (len(table), n_voxels)
    if folder is None:
        X = np.empty(shape, dtype=np.float32)
        return Samples(X=X, table=table, mask=mask, history=fill(X))
    with _new_folder(Path(folder)) as partial:
        X = np.lib.format.open_memmap(partial / "X.npy", mode="w+", dtype=np.float32, shape=shape)
        history = fill(X)
        X.flush()
        Samples(X=X, table=table, mask=mask, history=history).write_beside(partial)
        del X
    X = np.load(Path(folder) / "X.npy", mmap_mode="r")
    return Samples(X=X, table=table, mask=mask, history=history)


def check_extraction(
    runs: Sequence[Run], table: pd.DataFrame, *, clean: dict[str, Any] | None
) -> None:
    """Refuse what `extract` would refuse later, as far as it shows before any voxel is read.

    Raises
    ------
    InputError
        Rows that fit no run, a run too short for its filter and confounds.
    """
    for run, _ in _match(runs, table.reset_index(drop=True)):
        if clean is not None:
            make_nuisance(
                run.n_volumes,
                tr_s=run.tr_s,
                confounds=_confounds_of(run),
                high_pass_hz=clean["high_pass_hz"],
                low_pass_hz=clean["low_pass_hz"],
                where=run.name,
            )


def _match(runs: Sequence[Run], table: pd.DataFrame) -> list[tuple[Run, np.ndarray]]:
    """Runs that have rows, with the positions of these rows."""
    by_key: dict[tuple[str, ...], Run] = {}
    for run in runs:
        own = (run.subject, run.session, run.run)
        if own in by_key:
            raise InputError(
                run.name,
                found=f"two runs of this subject, session and run (also {by_key[own].name})",
                expected="one",
                remedy="Choose one task, or give the runs different names.",
            )
        by_key[own] = run
    names = zip(*(table[column].astype(str) for column in KEY), strict=True)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(names):
        groups.setdefault(key, []).append(row)
    unknown = [key for key in groups if key not in by_key]
    if unknown:
        subject, session, name = unknown[0]
        raise InputError(
            f"sub-{subject} ses-{session} run-{name}",
            found=f"{len(groups[unknown[0]])} rows of the sample table, but no such run; "
            f"{len(unknown)} runs like that",
            expected="a run for every row",
            remedy="Label and extract the same runs.",
        )
    jobs = [(run, np.array(groups[key])) for key, run in by_key.items() if key in groups]
    for run, rows in jobs:
        _check_volumes(run, table["volume"].to_numpy()[rows])
    return jobs


def _check_volumes(run: Run, wanted: np.ndarray) -> None:
    wrong = (wanted < 0) | (wanted >= run.n_volumes)
    if wrong.any():
        raise InputError(
            run.name,
            found=f"{int(wrong.sum())} of {len(wanted)} rows outside the run "
            f"(volume {wanted[wrong].max():g})",
            expected=f"volumes 0 to {run.n_volumes - 1}",
            remedy="Check tr_s, the dummies and the labels of this run.",
        )


def _cleaned(run: Run, matrix: np.ndarray, clean: dict[str, Any]) -> np.ndarray:
    return clean_run(matrix, tr_s=run.tr_s, confounds=_confounds_of(run), where=run.name, **clean)


def _confounds_of(run: Run) -> pd.DataFrame | None:
    return None if run.confounds is None else run.confounds.iloc[run.dummies :]


def _count_constant(run: Run, matrix: np.ndarray) -> int:
    """Voxels that never change; InputError when that is all of several volumes."""
    n_constant = int(constant_voxels(matrix).sum())
    if len(matrix) > 1 and n_constant == matrix.shape[1]:
        raise InputError(
            f"{run.name} ({run.source})" if run.source else run.name,
            found=f"all {n_constant} voxels of the mask are constant over {len(matrix)} volumes",
            expected="signals that change over time",
            remedy="Check how the file was made, or name the subject in data.exclude.",
        )
    return n_constant


def _count(counts: dict[str, int], run: Run, n: int) -> None:
    if n:
        counts[run.name] = n


def _confound_names(run: Run) -> list[str]:
    return [] if run.confounds is None else [str(name) for name in run.confounds.columns]


def _repeated_volumes(matrix: np.ndarray) -> int:
    """Volumes equal to the one before in every voxel."""
    pairs = zip(matrix[1:], matrix[:-1], strict=True)
    return sum(bool(np.array_equal(now, before)) for now, before in pairs)


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder under a temporary name that gets its own when all went well, else vanishes."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if folder.exists():
            raise FileExistsError(f"{folder} exists already")
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            str(folder),
            found=f"the folder cannot be made ({error})",
            expected="a new folder in a place that can be written to",
            remedy="Choose another place.",
        ) from error
    try:
        yield partial
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise

"""Signal cleaning of one run, blind to the labels, and centring."""

from typing import Literal

import numpy as np
import pandas as pd

from emodecode.errors import InputError

CHUNK_VOXELS = 2048
"""Columns that are cleaned at a time in float64 (they fit the cache)."""


def clean_run(
    matrix: np.ndarray,
    *,
    tr_s: float,
    confounds: pd.DataFrame | np.ndarray | None = None,
    detrend: bool = True,
    high_pass_hz: float = 1 / 128,
    low_pass_hz: float | None = None,
    standardize: Literal["run", "volume", "none"] = "run",
    where: str = "run",
) -> np.ndarray:
    """Remove drifts and confounds from every voxel of a run with ``nilearn.signal.clean``.

    Everything is computed from this run alone and without labels, so that no fold can leak.

    Parameters
    ----------
    matrix : ndarray of shape (n_volumes, n_voxels)
        The whole run.
    tr_s : float
        Repetition time in seconds.
    confounds : DataFrame or ndarray of shape (n_volumes, n_confounds), optional
        Regressed out, after the same detrending and filtering as the signals (Lindquist 2019).
    detrend : bool, default True
        Remove mean and linear trend.
    high_pass_hz : float, default 1/128
        Slower drifts are removed by a discrete cosine set; 0: none.
    low_pass_hz : float, optional
        Faster changes are removed. As the cosine set has no low-pass, both filters are then a
        Butterworth of order 5.
    standardize : {"run", "volume", "none"}
        ``run``: each voxel gets mean 0 and variance 1 (n - 1) over the run. ``volume``: each volume
        over its voxels instead.
    where : str
        Name of the run for messages.

    Returns
    -------
    ndarray of shape (n_volumes, n_voxels), float32
        Voxels that are constant in `matrix` are 0.

    Raises
    ------
    InputError
        The run is too short for the filter or for so many confounds, or frequencies that exclude
        each other.
    """
    nuisance = make_nuisance(
        len(matrix),
        tr_s=tr_s,
        confounds=confounds,
        high_pass_hz=high_pass_hz,
        low_pass_hz=low_pass_hz,
        where=where,
    )
    varies = ~constant_voxels(matrix)
    cleaned = np.zeros(matrix.shape, dtype=np.float32)
    columns = np.flatnonzero(varies)
    for start in range(0, len(columns), CHUNK_VOXELS):
        some = columns[start : start + CHUNK_VOXELS]
        cleaned[:, some] = _clean(
            matrix[:, some].astype(np.float64),
            tr_s=tr_s,
            confounds=nuisance if nuisance.shape[1] else None,
            detrend=detrend,
            band_hz=None if low_pass_hz is None else (high_pass_hz or None, low_pass_hz),
            standardize=standardize == "run",
        )
    if standardize == "volume" and len(columns):
        _standardize_volumes(cleaned, columns)
    return cleaned


def make_nuisance(
    n_volumes: int,
    *,
    tr_s: float,
    confounds: pd.DataFrame | np.ndarray | None = None,
    high_pass_hz: float = 1 / 128,
    low_pass_hz: float | None = None,
    where: str = "run",
) -> np.ndarray:
    """Put together what is regressed out of a run; whether it can be is known without the signals.

    Returns
    -------
    ndarray of shape (n_volumes, n_nuisance), float64
        Confounds that vary, then the cosines below `high_pass_hz` (none with `low_pass_hz`).

    Raises
    ------
    InputError
        As `clean_run`.
    """
    varying = _without_constants(confounds, n_volumes, where)
    _check_filters(n_volumes, tr_s, high_pass_hz, low_pass_hz, where)
    drifts = _cosines(n_volumes, tr_s, high_pass_hz if low_pass_hz is None else 0)
    _check_length(drifts, varying, where)
    return drifts if varying is None else np.hstack([varying, drifts])


def constant_voxels(matrix: np.ndarray) -> np.ndarray:
    """Which voxels never change, shape (n_voxels,), bool."""
    return matrix.max(axis=0) == matrix.min(axis=0)


def centre(X: np.ndarray, table: pd.DataFrame, *, by: Literal["subject", "run"]) -> np.ndarray:
    """Subtract from each sample the mean sample of its subject, or of its run.

    No label is used; a test subject's mean does come from the test subject.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
    table : DataFrame
        Its columns ``subject``, ``session`` and ``run``.
    by : {"subject", "run"}

    Returns
    -------
    ndarray of shape (n_samples, n_voxels), float32
    """
    columns = ["subject"] if by == "subject" else ["subject", "session", "run"]
    centred = np.array(X, dtype=np.float32)
    for rows in table.reset_index(drop=True).groupby(columns, sort=False).indices.values():
        part = centred[rows]
        centred[rows] = part - part.mean(axis=0, dtype=np.float64).astype(np.float32)
    return centred


def _clean(
    signals: np.ndarray,
    *,
    tr_s: float,
    confounds: np.ndarray | None,
    detrend: bool,
    band_hz: tuple[float | None, float] | None,
    standardize: bool,
) -> np.ndarray:
    from nilearn import signal

    high_pass_hz, low_pass_hz = band_hz or (None, None)
    return signal.clean(
        signals,
        detrend=detrend,
        standardize="zscore_sample" if standardize else None,
        confounds=confounds,
        filter="butterworth" if band_hz else False,
        low_pass=low_pass_hz,
        high_pass=high_pass_hz,
        t_r=tr_s,
    )


def _standardize_volumes(cleaned: np.ndarray, columns: np.ndarray) -> None:
    for row in cleaned:
        values = row[columns].astype(np.float64)
        spread = values.std(ddof=1) if len(values) > 1 else 0.0
        row[columns] = (values - values.mean()) / (spread if spread > 0 else 1.0)


def _without_constants(
    confounds: pd.DataFrame | np.ndarray | None, n_volumes: int, where: str
) -> np.ndarray | None:
    """Confounds as float64 without columns that never change (they explain nothing)."""
    if confounds is None:
        return None
    values = np.asarray(confounds, dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    if len(values) != n_volumes or not np.isfinite(values).all():
        raise InputError(
            where,
            found=f"{len(values)} rows of confounds for {n_volumes} volumes, "
            f"{int((~np.isfinite(values)).sum())} values of them not finite",
            expected="one finite row per volume",
            remedy="Drop the rows of the dummies, fill or remove missing values.",
        )
    values = values[:, np.ptp(values, axis=0) > 0]
    return values if values.shape[1] else None


def _check_filters(
    n_volumes: int, tr_s: float, high_pass_hz: float, low_pass_hz: float | None, where: str
) -> None:
    length_s, nyquist_hz = n_volumes * tr_s, 0.5 / tr_s
    if high_pass_hz and 2 * length_s * high_pass_hz < 1:
        raise InputError(
            where,
            found=f"{n_volumes} volumes ({length_s:g} s) and high_pass_hz = {high_pass_hz:.4g}",
            expected=f"a run of at least {0.5 / high_pass_hz:.0f} s (half a period)",
            remedy="Set features.clean.high_pass_hz = 0 (detrending remains) or a higher one.",
        )
    highest = low_pass_hz if low_pass_hz is not None else nyquist_hz
    if high_pass_hz >= highest or highest > nyquist_hz:
        raise InputError(
            where,
            found=f"high_pass_hz = {high_pass_hz:.4g}, low_pass_hz = {low_pass_hz}",
            expected=f"high_pass_hz < low_pass_hz <= {nyquist_hz:.4g} (half of 1 / tr_s)",
            remedy="Correct features.clean.",
        )
    if low_pass_hz is not None and n_volumes <= 33:
        raise InputError(
            where,
            found=f"{n_volumes} volumes and a Butterworth filter",
            expected="more than 33 volumes",
            remedy="Leave features.clean.low_pass_hz out.",
        )


def _cosines(n_volumes: int, tr_s: float, high_pass_hz: float) -> np.ndarray:
    """Discrete cosine set below the cut-off, shape (n_volumes, n_cosines), as nilearn's.

    It goes in as confounds: nilearn 0.14.1 with ``filter="cosine"`` leaves its whole set out as
    soon as one confound correlates above .9 with one of the cosines, as slow head motion may.
    """
    order = min(n_volumes - 1, int(2 * n_volumes * tr_s * high_pass_hz))
    moment = (np.arange(n_volumes)[:, None] + 0.5) / n_volumes
    return np.cos(np.pi * moment * np.arange(1, order + 1))


def _check_length(drifts: np.ndarray, nuisance: np.ndarray | None, where: str) -> None:
    n_volumes, n_cosines = drifts.shape
    n_confounds = 0 if nuisance is None else nuisance.shape[1]
    if n_cosines + n_confounds + 2 >= n_volumes:
        raise InputError(
            where,
            found=f"{n_cosines} drift terms and {n_confounds} confounds for {n_volumes} volumes",
            expected="more volumes than what is removed",
            remedy="Name fewer data.confounds, or lower features.clean.high_pass_hz.",
        )

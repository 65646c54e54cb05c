"""Confounds: what is known of a sample besides its pattern, as columns for a decoder."""

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.design import read_design
from emodecode.samples import Samples

_CHUNK_VALUES = 2**22


def confound_columns(samples: Samples, confounds: pd.DataFrame | None) -> pd.DataFrame:
    """Put together what may tell the labels without a pattern.

    Parameters
    ----------
    samples : Samples
        Mean and spread over voxels (not for tables of features) and time in the run, its square
        and cube.
    confounds : DataFrame of n_samples rows, optional
        Numeric columns, such as motion parameters.

    Returns
    -------
    DataFrame of n_samples rows
        Standardised, 0 where missing; columns that do not vary are left out. May have none.

    Raises
    ------
    InputError
        Another number of rows.
    """
    parts = _given(samples, confounds) | _global_signal(samples) | _time_in_run(samples)
    columns = {name: _standardised(values) for name, values in parts.items()}
    kept = {name: values for name, values in columns.items() if values is not None}
    return pd.DataFrame(kept, index=range(samples.n_samples))


def describe_confounds(columns: pd.DataFrame) -> str:
    """Name the columns in words: motion, global signal, time in the run."""
    names = [str(name) for name in columns]
    own = sum(name.startswith("confound ") for name in names)
    said = [
        f"{own} confounds such as motion" if own else "",
        "the global signal" if any(name.startswith("global ") for name in names) else "",
        "time in the run" if any(name.startswith("time") for name in names) else "",
    ]
    said = [text for text in said if text]
    return " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said)


def _given(samples: Samples, confounds: pd.DataFrame | None) -> dict[str, np.ndarray]:
    if confounds is None:
        return {}
    if len(confounds) != samples.n_samples:
        raise InputError(
            "confounds",
            found=f"{len(confounds)} rows for {samples.n_samples} samples",
            expected="one row per sample",
            remedy="Take the rows of the labelled volumes, in the order of the sample table.",
        )
    return {
        f"confound {name}": pd.to_numeric(confounds[name], errors="coerce").to_numpy(dtype=float)
        for name in confounds
    }


def _global_signal(samples: Samples) -> dict[str, np.ndarray]:
    if samples.features is not None:
        return {}
    mean, spread = np.empty(samples.n_samples), np.empty(samples.n_samples)
    step = max(1, _CHUNK_VALUES // max(1, samples.n_voxels))
    for start in range(0, samples.n_samples, step):
        part = np.asarray(samples.X[start : start + step], dtype=np.float64)
        mean[start : start + step] = part.mean(axis=1)
        spread[start : start + step] = part.std(axis=1)
    return {"global mean": mean, "global spread": spread}


def _time_in_run(samples: Samples) -> dict[str, np.ndarray]:
    onset = read_design(samples.table).onset_s
    z = _standardised(onset)
    if z is None:
        return {}
    known = np.where(np.isfinite(onset), z, np.nan)
    return {"time": known, "time squared": known**2, "time cubed": known**3}


def _standardised(values: np.ndarray) -> np.ndarray | None:
    """Mean 0 and variance 1 over what is known, 0 elsewhere; None where nothing varies."""
    known = values[np.isfinite(values)]
    if known.size < 2 or np.ptp(known) <= 1e-9 * max(1.0, np.abs(known).max()):
        return None
    return np.where(np.isfinite(values), (values - known.mean()) / known.std(), 0.0)

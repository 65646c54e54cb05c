"""Raw intensities: whether voxels still carry the scanner's scale instead of their changes."""

import numpy as np
import pandas as pd

RAW = 10.0
"""Ratio of `mean_to_sd` above which voxels count as raw: our choice, not a measured limit."""


def mean_to_sd(X: np.ndarray, table: pd.DataFrame, *, n_runs: int = 12) -> float:
    """Return the median over voxels of ``|mean| / sd`` within runs.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        A memory map stays on disk but for the runs that are looked at.
    table : DataFrame
        ``subject run`` of each sample, and ``session`` if there are any.
    n_runs : int
        Runs at most, at even distances in the table.

    Returns
    -------
    float
        Voxels that do not change in a run do not count; NaN where no run has two samples that
        differ.
    """
    names = [name for name in ("subject", "session", "run") if name in table]
    runs = [rows for rows in table.groupby(names, sort=False).indices.values() if len(rows) > 1]
    if not runs:
        return float("nan")
    places = np.unique(np.round(np.linspace(0, len(runs) - 1, min(n_runs, len(runs)))).astype(int))
    ratios = []
    for rows in (runs[place] for place in places):
        part = np.asarray(X[np.sort(rows)])
        mean, sd = part.mean(axis=0, dtype=np.float64), part.std(axis=0, dtype=np.float64)
        changes = sd > 1e-9 * np.abs(mean)
        ratios.append(np.abs(mean[changes]) / sd[changes])
    found = np.concatenate(ratios)
    return float(np.median(found)) if found.size else float("nan")

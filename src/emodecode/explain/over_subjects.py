"""Inference over subjects for several columns at once: bootstrap, sign flips, Holm."""

import numpy as np
import pandas as pd
from scipy import stats

EXACT_UP_TO = 15
"""Most subjects for whom all sign patterns are gone through."""


def infer_means(values: np.ndarray, n_bootstrap: int, seed: int) -> pd.DataFrame:
    """Infer the mean over subjects of each column.

    Parameters
    ----------
    values : ndarray of shape (n_subjects, n_columns)
    n_bootstrap, seed : int
        Resamples of the subjects; the seed also draws sign patterns beyond 15 subjects.

    Returns
    -------
    DataFrame of n_columns rows
        ``value`` (the mean), ``low high`` (its 95 % BCa bootstrap interval), ``p`` (of a mean other
        than 0 by flipped signs, two-sided) and ``p_holm`` (corrected for the number of columns).

    References
    ----------
    Efron 1987, Journal of the American Statistical Association 82:171-185.
    Nichols & Holmes 2002, Human Brain Mapping 15:1-25.
    Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    names = ["value", "low", "high", "p"]
    rows = [[v.mean(), *_interval(v, n_bootstrap, seed), _sign_flip(v, seed)] for v in values.T]
    table = pd.DataFrame(rows, columns=names, dtype=float)
    table["p_holm"] = _holm(table["p"].to_numpy())
    return table


def _interval(values: np.ndarray, n_bootstrap: int, seed: int) -> tuple[float, float]:
    if np.ptp(values) <= 1e-12:
        return float(values.mean()), float(values.mean())
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=n_bootstrap,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _sign_flip(values: np.ndarray, seed: int) -> float:
    n = len(values)
    if n <= EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(9_999, n))
    extra = 0 if n <= EXACT_UP_TO else 1
    reached = np.abs(signs @ values) >= abs(values.sum()) - 1e-9 * np.abs(values).sum()
    return float((reached.sum() + extra) / (len(signs) + extra))


def _holm(p_values: np.ndarray) -> np.ndarray:
    order = np.argsort(p_values, kind="stable")
    steps = (len(p_values) - np.arange(len(p_values))) * p_values[order]
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected

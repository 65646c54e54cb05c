"""Tests over folds that share training samples, and the correction for several of them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student_t

_ROUNDING = 1e-12


class CorrectedT(NamedTuple):
    """Test of a mean difference over folds; ``standard_error`` is the corrected one."""

    t: float
    df: int
    p: float
    standard_error: float


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for their number by Holm's step-down procedure.

    The i-th smallest of n becomes the largest of (n - j + 1) p_j over j <= i, at most 1.

    References
    ----------
    Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()


def corrected_t(differences: np.ndarray, *, ratio: float) -> CorrectedT | None:
    """Corrected resampled t test of the mean of J differences, one a fold.

    Folds share training samples, so the plain t test over folds takes too small a variance::

        t = mean(d) / sqrt((1 / J + n_test / n_train) var(d)),  J - 1 degrees of freedom

    Parameters
    ----------
    differences : array of shape (J,)
    ratio : float
        n_test / n_train; 0 for folds that share nothing.

    Returns
    -------
    CorrectedT, optional
        p is two-sided. None for a single fold, and for differences that are all equal and not 0,
        whose variance says nothing.

    References
    ----------
    Nadeau & Bengio 2003, Machine Learning 52:239-281.
    """
    d = np.asarray(differences, dtype=float)
    n = len(d)
    if n < 2:
        return None
    error = float(np.sqrt((1 / n + ratio) * d.var(ddof=1)))
    if error < _ROUNDING:
        return CorrectedT(0.0, n - 1, 1.0, 0.0) if abs(d.mean()) < _ROUNDING else None
    t = float(d.mean() / error)
    return CorrectedT(t, n - 1, float(2 * student_t.sf(abs(t), n - 1)), error)


def correlated_bayes(
    differences: np.ndarray, *, ratio: float, rope: float
) -> dict[str, float] | None:
    """Bayesian correlated t test with a region of practical equivalence.

    With the correlation rho = n_test / (n_test + n_train) of two folds the posterior of the mean
    difference is a Student t of J - 1 degrees of freedom around mean(d) with the squared scale
    (1 / J + rho / (1 - rho)) var(d), where rho / (1 - rho) = n_test / n_train.

    Returns
    -------
    dict, optional
        ``p_a_better`` (above `rope`), ``p_rope`` (within -rope and rope), ``p_b_better`` and
        ``rope``; None where `corrected_t` is None.

    References
    ----------
    Corani & Benavoli 2015, Machine Learning 100:285-304.
    Benavoli, Corani, Demsar & Zaffalon 2017, Journal of Machine Learning Research 18(77):1-36.
    """
    tested = corrected_t(differences, ratio=ratio)
    if tested is None:
        return None
    mean, scale = float(np.mean(differences)), tested.standard_error
    if scale == 0:
        return {"p_a_better": 0.0, "p_rope": 1.0, "p_b_better": 0.0, "rope": rope}
    above = float(student_t.sf((rope - mean) / scale, tested.df))
    below = float(student_t.cdf((-rope - mean) / scale, tested.df))
    within = max(0.0, 1 - above - below)
    return {"p_a_better": above, "p_rope": within, "p_b_better": below, "rope": rope}

"""Compare RDMs of subjects with each other (noise ceiling) and with models, over subjects."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from emodecode.errors import InputError
from emodecode.explain.over_subjects import EXACT_UP_TO, infer_means
from emodecode.explain.rdm import check_rdm, pairs_of

Method = Literal["pearson", "spearman", "cosine"]
"""Correlation over pairs of conditions, of their ranks, or cosine (keeps what 0 means)."""

_FLAT = 1e-12


@dataclass(frozen=True, eq=False)
class NoiseCeiling:
    """How well any model could do, given how far the subjects agree.

    Parameters
    ----------
    lower, upper : float
        Means of the next two.
    lower_by_subject : ndarray of shape (n_subjects,)
        Of each subject's RDM with the mean of the others.
    upper_by_subject : ndarray of shape (n_subjects,)
        Of each subject's RDM with the mean of all, the subject's own among them.
    p : float
        One-sided, of `lower` where no subject shares a geometry with another: the conditions of
        each subject are relabelled on their own.
    lower_by_chance, upper_by_chance : float
        Means of both under these relabellings; `upper` lies above 0 by construction.
    method : str
    n_permutations : int
    """

    lower: float
    upper: float
    lower_by_subject: np.ndarray
    upper_by_subject: np.ndarray
    p: float
    lower_by_chance: float
    upper_by_chance: float
    method: str
    n_permutations: int


@dataclass(frozen=True, eq=False)
class RsaComparison:
    """Models against the subjects' RDMs.

    Parameters
    ----------
    by_subject : DataFrame of shape (n_subjects, n_models)
        Correlation of each model with each subject's RDM.
    models : DataFrame
        One row a model: ``mean low high p p_holm``; p of a mean other than 0 by flipped signs over
        subjects (two-sided), Holm over models.
    differences : DataFrame
        One row a pair of models: ``a b difference low high p p_holm``; a less b in the same
        subjects, Holm over pairs.
    method : str
    n_bootstrap : int
    exact : bool
        All sign patterns, or a sample of them.
    """

    by_subject: pd.DataFrame
    models: pd.DataFrame
    differences: pd.DataFrame
    method: str
    n_bootstrap: int
    exact: bool


def noise_ceiling(
    rdms: np.ndarray,
    *,
    method: Method = "pearson",
    n_permutations: int = 1000,
    seed: int = 0,
) -> NoiseCeiling:
    """Return the range in which the best possible model would correlate with the subjects.

    Before averaging, the RDMs are put on one scale, so that the mean of all is the model that does
    best: standardised for Pearson, ranked for Spearman, of length 1 for the cosine. Lower bound:
    each subject against the mean of the others; upper bound: against the mean of all.

    Parameters
    ----------
    rdms : ndarray of shape (n_subjects, n_conditions, n_conditions)
    method : {"pearson", "spearman", "cosine"}
    n_permutations, seed : int
        For the ceiling by chance.

    Returns
    -------
    NoiseCeiling

    Raises
    ------
    InputError
        Fewer than two subjects or three conditions, matrices that are no RDMs, a constant one.

    Notes
    -----
    With three conditions there are three pairs: the upper bound is then high for noise too. Compare
    with ``upper_by_chance``, and look at `p`. For the cosine the relabelled RDMs keep their mean
    distance, so `lower_by_chance` is far above 0 for distances that are all positive.

    References
    ----------
    Nili et al. 2014, PLoS Computational Biology 10:e1003553.
    """
    _check_method(method)
    values = _subject_pairs(rdms)
    n_conditions = np.shape(rdms)[-1]
    lower, upper = _ceiling(_scaled(values, method, "RDMs"), method)
    chance = _chance_ceilings(values, n_conditions, method, n_permutations, seed)
    reached = int(np.sum(chance[:, 0] >= lower.mean() - 1e-12))
    return NoiseCeiling(
        lower=float(lower.mean()),
        upper=float(upper.mean()),
        lower_by_subject=lower,
        upper_by_subject=upper,
        p=(reached + 1) / (n_permutations + 1),
        lower_by_chance=float(chance[:, 0].mean()),
        upper_by_chance=float(chance[:, 1].mean()),
        method=method,
        n_permutations=n_permutations,
    )


def bootstrap_rsa(
    rdms: np.ndarray,
    models: Mapping[str, np.ndarray],
    *,
    method: Method = "pearson",
    n_bootstrap: int = 10_000,
    seed: int = 0,
) -> RsaComparison:
    """Correlate models with every subject's RDM and infer over subjects.

    The subject is the unit: 95 % bootstrap intervals (BCa) of the mean correlation and of the
    paired differences between models, and sign-flip tests of both, exact up to 15 subjects. They
    speak of other subjects with the same conditions, not of other conditions.

    Parameters
    ----------
    rdms : ndarray of shape (n_subjects, n_conditions, n_conditions)
    models : dict of name -> ndarray of shape (n_conditions, n_conditions)
    method : {"pearson", "spearman", "cosine"}
    n_bootstrap, seed : int
        Resamples of the subjects, and of sampled sign patterns.

    Returns
    -------
    RsaComparison

    Raises
    ------
    InputError
        No model, one of another size or constant, fewer than two subjects or three conditions.

    References
    ----------
    Nili et al. 2014, PLoS Computational Biology 10:e1003553.
    Efron 1987, Journal of the American Statistical Association 82:171-185 (BCa).
    Holm 1979, Scandinavian Journal of Statistics 6:65-70.
    """
    _check_method(method)
    if not models or n_bootstrap < 100:
        raise _refused(
            f"{len(models)} models, n_bootstrap = {n_bootstrap}",
            "a model or more, and 100 resamples or more",
            "Give models={'category': category_rdm(...)}.",
        )
    brain = _scaled(_subject_pairs(rdms), method, "RDMs")
    shape = np.shape(rdms)[1:]
    tested = [_model_pairs(models[name], shape, method, name) for name in models]
    table = pd.DataFrame(_alike(brain, np.stack(tested), method), columns=list(models))
    fits = infer_means(table.to_numpy(), n_bootstrap, seed).rename(columns={"value": "mean"})
    fits.insert(0, "model", list(models))
    chosen = list(combinations(models, 2))
    gaps = np.empty((len(table), len(chosen)))
    for column, (a, b) in enumerate(chosen):
        gaps[:, column] = table[a] - table[b]
    differences = infer_means(gaps, n_bootstrap, seed).rename(columns={"value": "difference"})
    differences.insert(0, "a", [a for a, _ in chosen])
    differences.insert(1, "b", [b for _, b in chosen])
    exact = len(table) <= EXACT_UP_TO
    return RsaComparison(table, fits.set_index("model"), differences, method, n_bootstrap, exact)


def _ceiling(scaled: np.ndarray, method: Method) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper values by subject, from RDMs on one scale: (..., n_subjects, n_pairs)."""
    total = scaled.sum(axis=-2, keepdims=True)
    n = scaled.shape[-2]
    lower = _one_by_one(scaled, (total - scaled) / (n - 1), method)
    return lower, _one_by_one(scaled, total / n, method)


def _chance_ceilings(values, n_conditions, method, n_permutations, seed) -> np.ndarray:
    """Lower and upper bound, (n_permutations, 2), with each subject's conditions relabelled."""
    if n_permutations < 1:
        raise _refused(f"n_permutations = {n_permutations}", "1 or more", "Take 1000.")
    rng = np.random.default_rng(seed)
    rows, columns = np.triu_indices(n_conditions, k=1)
    where = np.zeros((n_conditions, n_conditions), dtype=np.intp)
    where[rows, columns] = where[columns, rows] = np.arange(len(rows))
    scaled = _scaled(values, method, "RDMs")
    found = np.empty((n_permutations, 2))
    for i in range(n_permutations):
        orders = rng.permuted(np.tile(np.arange(n_conditions), (len(values), 1)), axis=1)
        moved = np.take_along_axis(scaled, where[orders[:, rows], orders[:, columns]], axis=1)
        found[i] = [bound.mean() for bound in _ceiling(moved, method)]
    return found


def _one_by_one(a: np.ndarray, b: np.ndarray, method: Method) -> np.ndarray:
    """Correlation of each row of a with the same row of b (or its only row); 0 if b is flat."""
    if method == "spearman":
        b = stats.rankdata(b, axis=-1)
    if method != "cosine":
        a = a - a.mean(axis=-1, keepdims=True)
        b = b - b.mean(axis=-1, keepdims=True)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    products = np.sum(a * b, axis=-1)
    return np.divide(products, norms, out=np.zeros_like(products), where=norms > _FLAT)


def _alike(brain: np.ndarray, models: np.ndarray, method: Method) -> np.ndarray:
    """Correlation of every subject with every model, both on one scale."""
    return np.stack([_one_by_one(brain, each[None], method) for each in models], axis=1)


def _scaled(values: np.ndarray, method: Method, where: str) -> np.ndarray:
    """Put rows on one scale: standardised, ranked or of length 1; constant ones are refused."""
    base = values if method == "cosine" else values - values.mean(axis=-1, keepdims=True)
    largest = np.abs(values).max(axis=-1)
    flat = np.abs(base).max(axis=-1) <= _FLAT * largest
    if flat.any():
        raise _refused(
            f"the same dissimilarity for all pairs in {where}, row {int(np.flatnonzero(flat)[0])}",
            "dissimilarities that differ",
            "Leave it out; with method='cosine' only zeros are refused.",
        )
    if method == "spearman":
        return stats.rankdata(values, axis=-1)
    return base / np.linalg.norm(base, axis=-1, keepdims=True)


def _model_pairs(model: np.ndarray, shape: tuple, method: Method, name: str) -> np.ndarray:
    model = check_rdm(model, where=f"model {name}")
    if model.shape != shape:
        raise _refused(
            f"model {name} of shape {model.shape} for RDMs of shape {shape}",
            "the same conditions, in the same order",
            "Leave out conditions that only one of them has.",
        )
    return _scaled(pairs_of(model)[None], method, f"model {name}")[0]


def _subject_pairs(rdms: np.ndarray) -> np.ndarray:
    found = check_rdm(rdms, where="RDMs of the subjects")
    if found.ndim != 3 or len(found) < 2 or found.shape[-1] < 3:
        raise _refused(
            f"RDMs of shape {found.shape}",
            "(n_subjects, n_conditions, n_conditions) with two subjects and three conditions",
            "Make them with subject_rdms.",
        )
    return pairs_of(found)


def _check_method(method: str) -> None:
    if method not in ("pearson", "spearman", "cosine"):
        raise _refused(f"method = {method!r}", "'pearson', 'spearman' or 'cosine'", "Choose one.")


def _refused(found: str, expected: str, remedy: str) -> InputError:
    return InputError("representational similarity", found=found, expected=expected, remedy=remedy)

"""Mantel's test of two RDMs: exact over all relabellings where they are few, always two-sided."""

import math
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
from scipy.stats import rankdata

from emodecode.errors import InputError
from emodecode.explain.rdm import check_rdm, pairs_of

EXACT_UP_TO = 7
"""Most conditions for which all n! relabellings are gone through (7! = 5040)."""

FEWEST = 5
"""Fewest conditions that are tested unless asked."""

_TOLERANCE = 1e-12
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Mantel:
    """Correlation of two RDMs and its permutation test.

    Parameters
    ----------
    r : float
        Over the n (n - 1) / 2 pairs of conditions.
    p : float
        Two-sided: share of relabellings with at least the same abs(r).
    n_conditions, n_pairs : int
    n_relabellings : int
        Gone through; n! when exact, the identity among them.
    p_smallest : float
        What p can be at least: exact, the share of relabellings that have the largest abs(r) of
        all (1 / n! without ties); sampled, 1 / (n_relabellings + 1).
    n_ties : int, optional
        Relabellings other than the identity with the same abs(r) as observed; None when sampled.
    exact : bool
    method : str
    """

    r: float
    p: float
    n_conditions: int
    n_pairs: int
    n_relabellings: int
    p_smallest: float
    n_ties: int | None
    exact: bool
    method: str

    def describe(self) -> str:
        """Say in one or two sentences what was found and how little it may rest on."""
        how = "all" if self.exact else "sampled"
        text = (
            f"r = {self.r:.3f} ({self.method}), two-sided p = {self.p:.4f} over {how} "
            f"{self.n_relabellings} relabellings of {self.n_conditions} conditions; "
            f"the smallest p that these RDMs allow is {self.p_smallest:.4f}."
        )
        if self.n_conditions <= FEWEST:
            text += (
                f" {self.n_pairs} pairs of {self.n_conditions} conditions are not "
                f"{self.n_pairs} independent observations."
            )
        return text


def mantel(
    a: np.ndarray,
    b: np.ndarray,
    *,
    method: Literal["pearson", "spearman"] = "pearson",
    n_permutations: int = 10_000,
    seed: int = 0,
    allow_few: bool = False,
) -> Mantel:
    """Correlate two RDMs and test it by relabelling the conditions of one of them.

    Rows and columns are permuted together, so the test knows that pairs share conditions. Up to
    seven conditions all n! relabellings are gone through, p = b / n! with b those (the identity
    among them) whose abs(r) is at least the observed one; beyond, `n_permutations` are sampled and
    p = (b + 1) / (n_permutations + 1). Ties count as reached.

    Parameters
    ----------
    a, b : ndarray of shape (n_conditions, n_conditions)
        RDMs in the same order of conditions.
    method : {"pearson", "spearman"}
        Correlation of the dissimilarities, or of their ranks (ties get their mean rank).
    n_permutations, seed : int
        Of the sampled relabellings.
    allow_few : bool, default False
        Test three or four conditions too, where p cannot be below 1/6 or 1/24.

    Returns
    -------
    Mantel

    Raises
    ------
    InputError
        Matrices that are no RDMs or differ in size, one that is constant, or fewer than five
        conditions.

    Notes
    -----
    S1 reported the p of a plain correlation, as if the 10 pairs of 5 conditions were independent
    (spec S1.25), and its code permuted one-sided; neither is offered.

    References
    ----------
    Mantel 1967, Cancer Research 27:209-220.
    Phipson & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39.
    """
    a, b = _checked(a, b, allow_few)
    if method not in ("pearson", "spearman"):
        raise _refused(f"method = {method!r}", "'pearson' or 'spearman'", "Choose one of them.")
    n = len(a)
    one, other = _unit(pairs_of(a), method, "the first RDM"), pairs_of(b)
    scaled = _as_matrix(_unit(other, method, "the second RDM"), n)
    r = float(one @ pairs_of(scaled))
    exact = n <= EXACT_UP_TO
    orders = _all_orders(n) if exact else _sampled(n, n_permutations, seed)
    sizes = np.abs(_correlations(one, scaled, orders))
    reached = int(np.sum(sizes >= abs(r) - _TOLERANCE))
    extra = 0 if exact else 1
    largest = int(np.sum(sizes >= sizes.max() - _TOLERANCE)) if exact else 1
    return Mantel(
        r=float(np.clip(r, -1, 1)),
        p=(reached + extra) / (len(orders) + extra),
        n_conditions=n,
        n_pairs=len(one),
        n_relabellings=len(orders),
        p_smallest=largest / (len(orders) + extra),
        n_ties=int(np.sum(np.abs(sizes - abs(r)) <= _TOLERANCE)) - 1 if exact else None,
        exact=exact,
        method=method,
    )


def _correlations(one: np.ndarray, scaled: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Correlation for each relabelling; norms and means do not change under it."""
    rows, columns = np.triu_indices(len(scaled), k=1)
    step = max(1, _CHUNK // len(rows))
    found = np.empty(len(orders))
    for start in range(0, len(orders), step):
        part = orders[start : start + step]
        found[start : start + step] = scaled[part[:, rows], part[:, columns]] @ one
    return found


def _all_orders(n: int) -> np.ndarray:
    return np.array(list(permutations(range(n))))


def _sampled(n: int, n_permutations: int, seed: int) -> np.ndarray:
    if n_permutations < 1:
        raise _refused(f"n_permutations = {n_permutations}", "1 or more", "Take 10000.")
    ordered = np.tile(np.arange(n), (n_permutations, 1))
    return np.random.default_rng(seed).permuted(ordered, axis=1)


def _unit(values: np.ndarray, method: str, where: str) -> np.ndarray:
    """Centred dissimilarities (or ranks) of length 1."""
    centred = rankdata(values) if method == "spearman" else values
    centred = centred - centred.mean()
    length = float(np.linalg.norm(centred))
    if math.isclose(np.ptp(values), 0, abs_tol=_TOLERANCE * float(np.abs(values).max())):
        raise _refused(
            f"the same dissimilarity for all pairs in {where}",
            "dissimilarities that differ",
            "A model that sets all conditions apart alike has no correlation with anything.",
        )
    return centred / length


def _as_matrix(values: np.ndarray, n: int) -> np.ndarray:
    matrix = np.zeros((n, n))
    matrix[np.triu_indices(n, k=1)] = values
    return matrix + matrix.T


def _checked(a: np.ndarray, b: np.ndarray, allow_few: bool) -> tuple[np.ndarray, np.ndarray]:
    a, b = check_rdm(a, where="the first RDM"), check_rdm(b, where="the second RDM")
    if a.ndim != 2 or a.shape != b.shape:
        raise _refused(
            f"RDMs of shape {a.shape} and {b.shape}",
            "two matrices (n, n) of the same conditions",
            "Take the same conditions in both, in one order.",
        )
    fewest = 3 if allow_few else FEWEST
    if len(a) < fewest:
        raise _refused(
            f"{len(a)} conditions: {math.factorial(len(a))} relabellings, so p cannot be below "
            f"1/{math.factorial(len(a))}",
            f"{fewest} conditions or more",
            "Test over subjects instead (bootstrap_rsa)"
            + ("." if allow_few else ", or pass allow_few=True."),
        )
    return a, b


def _refused(found: str, expected: str, remedy: str) -> InputError:
    return InputError("Mantel test", found=found, expected=expected, remedy=remedy)

"""Inference over subjects: sign flips, bootstrap, and in how many subjects there is an effect."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from emodecode.errors import InputError

EXACT_UP_TO = 15
"""Most subjects for whom all sign patterns are gone through."""

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class SignFlip:
    """Test of a mean against 0 by flipped signs.

    Parameters
    ----------
    p, p_two_sided : float
        Of a mean above 0, and of a mean other than 0.
    p_smallest, p_smallest_two_sided : float
        What p can be at least: 2^-k with k values other than 0, and 1/(m + 1) when sampled.
    exact : bool
        All 2^n patterns, or a sample of them.
    n : int
        Values.
    """

    p: float
    p_two_sided: float
    p_smallest: float
    p_smallest_two_sided: float
    exact: bool
    n: int


@dataclass(frozen=True)
class Prevalence:
    """In how many subjects of the population there is an effect.

    Parameters
    ----------
    p_global, p_majority : float
        Of "no subject has an effect" and of "at most half of the subjects have one".
    gamma0 : float, optional
        Largest prevalence that can be rejected at `alpha`: more than this share of the population
        has the effect. None where not even the global null is rejected.
    gamma0_largest : float, optional
        What `gamma0` could be at most with so many subjects and permutations.
    alpha : float
    n_subjects, n_permutations : int
    """

    p_global: float
    p_majority: float
    gamma0: float | None
    gamma0_largest: float | None
    alpha: float
    n_subjects: int
    n_permutations: int


def sign_flip(values: np.ndarray, *, seed: int = 0, n_flips: int = 10_000) -> SignFlip:
    """Test whether the mean of one value per subject is 0.

    Under the null hypothesis each value is as likely as its negative. The mean is compared with
    that of every sign pattern: exactly for at most 15 values, p = b / 2^n with b the patterns
    (the observed one included) whose mean is at least as large; otherwise with `n_flips` random
    ones, p = (b + 1) / (n_flips + 1).

    Parameters
    ----------
    values : array of shape (n_subjects,)
        Score minus chance, or the difference of two decoders.
    seed, n_flips : int
        Of the sampled patterns.

    Raises
    ------
    InputError
        No values, or some that are not finite.

    Notes
    -----
    The subjects must be independent. Scores of a decoder that is trained on the other subjects
    share their training, so this test is too liberal for them; see `emodecode.evaluate.compare`.

    References
    ----------
    Nichols & Holmes 2002, Human Brain Mapping 15:1-25.
    Phipson & Smyth 2010, Statistical Applications in Genetics and Molecular Biology 9:39.
    """
    values = _checked(values)
    n, exact = len(values), len(values) <= EXACT_UP_TO
    signs = _all_signs(n) if exact else _some_signs(n, n_flips, seed)
    sums, observed = signs @ values, values.sum()
    tolerance = _TOLERANCE * np.abs(values).sum()
    extra = 0 if exact else 1
    least = 0.0 if exact else 1 / (n_flips + 1)
    share = 0.5 ** np.count_nonzero(values)

    def p_of(reached: np.ndarray) -> float:
        return float((reached.sum() + extra) / (len(signs) + extra))

    return SignFlip(
        p=p_of(sums >= observed - tolerance),
        p_two_sided=p_of(np.abs(sums) >= abs(observed) - tolerance),
        p_smallest=max(least, share),
        p_smallest_two_sided=max(least, min(1.0, 2 * share)),
        exact=exact,
        n=n,
    )


def bootstrap_interval(
    values: np.ndarray,
    *,
    seed: int = 0,
    n_boot: int = 10_000,
    method: Literal["BCa", "percentile"] = "BCa",
) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean over subjects.

    Parameters
    ----------
    values : array of shape (n_subjects,)
    method : {"BCa", "percentile"}
        Bias-corrected and accelerated (Efron 1987), or the plain quantiles.

    Returns
    -------
    tuple of float
        Low and high; NaN for one subject, the value itself where all are equal.

    References
    ----------
    Efron 1987, Journal of the American Statistical Association 82:171-185.
    """
    values = _checked(values)
    if len(values) < 2:
        return np.nan, np.nan
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=n_boot,
        method=method,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def prevalence(observed: np.ndarray, null: np.ndarray, *, alpha: float = 0.05) -> Prevalence:
    """Permutation-based prevalence inference with the minimum statistic.

    The mean over subjects can lie above chance because of a few of them; this asks what share
    gamma of the population has an effect. The statistic is the smallest score of the N subjects,
    m = min_k a_k. Its null distribution takes for each subject k one of the first-level scores
    a_k1 ... a_kP (the first is the observed one, the others have permuted labels), all P^N
    combinations::

        p(0) = share of combinations with min_k a_k,j(k) >= m = prod_k #{j: a_kj >= m} / P  (eq. 24)
        p(gamma0) = ((1 - gamma0) p(0)^(1/N) + gamma0)^N                                    (eq. 19)
        largest gamma0 with p(gamma0) <= alpha:
            (alpha^(1/N) - p(0)^(1/N)) / (1 - p(0)^(1/N))                                   (eq. 20)

    The paper samples the combinations; since the minimum reaches m where all parts do, their
    share is a product and needs no sampling. The majority null is gamma0 = 1/2.

    Parameters
    ----------
    observed : array of shape (n_subjects,)
        Score of each subject, more is better.
    null : array of shape (n_permutations, n_subjects)
        Scores of the same subjects with permuted labels; NaN counts as at least as good.
    alpha : float

    Raises
    ------
    InputError
        Shapes that do not belong together, or observed scores that are not finite.

    Notes
    -----
    Assumes that the subjects' permutations are independent of each other. They are for decoders
    that are trained and tested within each subject; for one decoder tested on left-out subjects,
    whose training they share, they are not quite, and the result is approximate.

    References
    ----------
    Allefeld, Goergen & Haynes 2016, NeuroImage 141:378-392, doi:10.1016/j.neuroimage.2016.07.040.
    """
    observed, null = _checked(observed), np.asarray(null, dtype=float)
    if null.ndim != 2 or null.shape[1] != len(observed) or not len(null):
        raise _unusable(
            f"null scores of shape {null.shape} for {len(observed)} subjects",
            f"shape (n_permutations, {len(observed)})",
        )
    n, smallest = len(observed), observed.min()
    reached = (~(null < smallest - _TOLERANCE)).sum(axis=0)
    single = float(np.exp(np.mean(np.log((reached + 1) / (len(null) + 1)))))
    return Prevalence(
        p_global=single**n,
        p_majority=(0.5 * single + 0.5) ** n,
        gamma0=_bound(single, alpha, n),
        gamma0_largest=_bound(1 / (len(null) + 1), alpha, n),
        alpha=alpha,
        n_subjects=n,
        n_permutations=len(null),
    )


def describe_subjects(
    values: Mapping[str, float | None] | np.ndarray,
    chance: float | None,
    *,
    null_per_subject: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Say what the subjects' scores show: sign flips against chance, bootstrap, prevalence.

    Parameters
    ----------
    values : dict of subject -> score, or array of shape (n_subjects,)
        More is better; subjects with NaN or None do not count.
    chance : float, optional
        Taken off before the signs are flipped.
    null_per_subject : array of shape (n_permutations, n_subjects), optional
        In the order of `values`.

    Returns
    -------
    dict
        ``n_subjects``, ``sign_flip`` (fields of `SignFlip`), ``bootstrap`` (``low high``) and
        ``prevalence`` (fields of `Prevalence`); None where there is nothing to compute from.
    """
    listed = list(values.values()) if isinstance(values, Mapping) else list(values)
    scores = np.array([np.nan if each is None else each for each in listed], dtype=float)
    known = np.isfinite(scores)
    low, high = bootstrap_interval(scores[known], seed=seed) if known.any() else (np.nan, np.nan)
    tested = known.any() and chance is not None and np.isfinite(chance)
    found = None
    if null_per_subject is not None and known.any():
        found = asdict(prevalence(scores[known], np.asarray(null_per_subject)[:, known]))
    return {
        "n_subjects": int(known.sum()),
        "sign_flip": asdict(sign_flip(scores[known] - chance, seed=seed)) if tested else None,
        "bootstrap": {
            "low": low if np.isfinite(low) else None,
            "high": high if np.isfinite(high) else None,
        },
        "prevalence": found,
    }


def _all_signs(n: int) -> np.ndarray:
    return 1.0 - 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)


def _some_signs(n: int, n_flips: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_flips, n))


def _bound(single: float, alpha: float, n: int) -> float | None:
    """Equation 20 with p(0)^(1/N) given."""
    level = alpha ** (1 / n)
    return None if single > level else (level - single) / (1 - single)


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=float)
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise _unusable(
            f"values of shape {values.shape}, {int((~np.isfinite(values)).sum())} not finite",
            "one finite value per subject",
        )
    return values


def _unusable(found: str, expected: str) -> InputError:
    return InputError(
        "inference over subjects",
        found=found,
        expected=expected,
        remedy="Leave out the subjects that have no score.",
    )

"""Calibration: whether a probability of .8 is right in 8 of 10 cases, and the scaling to get there.

A decoder's probabilities rank samples; nothing makes them frequencies. Volumes of one scan are not
independent, so every interval here resamples whole subjects.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest, rankdata

from emodecode.errors import InputError
from emodecode.evaluate.tally import summarise
from emodecode.models.temperature import EPS, logs_of
from emodecode.models.temperature import apply_temperature as apply_temperature

SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE = 0.05, 20.0
N_BINS, N_BOOT = 15, 1000


def fit_temperature(
    probabilities: np.ndarray, labels: np.ndarray, *, classes: Sequence[str]
) -> float:
    r"""Find the temperature that makes held-out probabilities fit the labels best.

    The T in [0.05, 20] with the smallest mean log loss of `apply_temperature`. Above 1 the decoder
    was too sure, below 1 not sure enough. The loss is convex in 1/T, so the minimum is the global
    one. It lies on a bound where none exists inside (all right: 0.05; confident and always wrong:
    20), and T = 1 where no temperature changes anything.

    Parameters
    ----------
    probabilities : ndarray of shape (n_samples, n_classes)
        Of samples that the decoder was not fitted on.
    labels : ndarray of shape (n_samples,)
        Samples count equally.
    classes : sequence of str
        Of the columns.

    Returns
    -------
    float

    Raises
    ------
    InputError
        No samples, missing or negative probabilities, unknown labels.

    References
    ----------
    Guo C, Pleiss G, Sun Y, Weinberger KQ (2017). On calibration of modern neural networks. ICML,
    PMLR 70:1321-1330.
    """
    given, truth = _checked(probabilities, labels, classes)
    logs = logs_of(given)
    margins = logs - np.take_along_axis(logs, truth[:, None], axis=1)

    def loss(log_temperature: float) -> float:
        return float(logsumexp(margins * np.exp(-log_temperature), axis=1).mean())

    bounds = np.log([SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE])
    inside = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x
    known = [1.0, SMALLEST_TEMPERATURE, LARGEST_TEMPERATURE, float(np.exp(inside))]
    return known[int(np.argmin([loss(float(np.log(each))) for each in known]))]


def brier_scores(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> np.ndarray:
    r"""Brier score of each sample, :math:`\sum_c (p_c - [label = c])^2`: 0 is best, 2 worst.

    Brier's own definition over all classes; with two classes twice the other common one. Shapes
    as in `fit_temperature`; returns (n_samples,).

    References
    ----------
    Brier GW (1950). Verification of forecasts expressed in terms of probability. Monthly Weather
    Review 78:1-3.
    """
    given, truth = _checked(probabilities, labels, classes)
    return _brier(given, truth)


def expected_calibration_error(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    n_bins: int = N_BINS,
) -> float:
    r"""Mean distance of confidence and accuracy in bins of equal mass.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n} |\mathrm{acc}_b - \mathrm{conf}_b|

    The confidence is the probability of the most probable class. Equal confidences share a bin, so
    bins differ in size where there are ties. The estimate is biased upwards: calibrated
    probabilities have an ECE above 0 in any finite sample. Shapes as in `fit_temperature`.

    References
    ----------
    Guo et al. (2017), as above. Nixon J, Dusenberry MW, Zhang L, Jerfel G, Tran D (2019).
    Measuring calibration in deep learning. CVPR Workshops, 38-41.
    """
    given, truth = _checked(probabilities, labels, classes)
    binned = _bin(given, truth, np.zeros(len(truth), dtype=np.int64), n_bins)
    return _ece(binned)


def reliability_bins(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    subjects: np.ndarray | None = None,
    n_bins: int = N_BINS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return the points of the reliability plot: accuracy against confidence in equal-mass bins.

    Parameters
    ----------
    probabilities, labels, classes
        As in `fit_temperature`.
    subjects : ndarray of shape (n_samples,), optional
        Without it all samples count as one subject's.
    n_bins, seed : int

    Returns
    -------
    list of dict
        ``confidence accuracy`` (means of the bin), ``n n_subjects``, ``low high`` (95 % interval of
        the accuracy) and ``lowest highest`` (confidence), by confidence. The interval is the
        wider of Wilson's, which takes volumes for independent and is all that one subject allows,
        and the bootstrap over subjects, which shrinks to a point where all of them agree.
    """
    given, truth = _checked(probabilities, labels, classes)
    subject = np.zeros(len(truth)) if subjects is None else np.asarray(subjects)
    binned = _bin(given, truth, np.asarray(pd.factorize(subject)[0]), n_bins)
    return _describe_bins(binned, _resamples(binned.n.shape[0], seed))


def describe_calibration(
    predictions: pd.DataFrame,
    *,
    classes: Sequence[str],
    seed: int,
    temperatures: Mapping[str, float] | None = None,
    widening: float = 1.0,
) -> dict[str, Any]:
    """Describe the calibration of one model's predictions: its part of ``scores.json``.

    Parameters
    ----------
    predictions : DataFrame
        Columns ``fold subject label`` and ``p_CLASS`` of each class.
    classes : sequence of str
    seed : int
        Of the resampled subjects.
    temperatures : dict of fold name -> T, optional
        What the stored probabilities were scaled by.
    widening : float
        Of the interval of the Brier score (`emodecode.evaluate.units.Units.widening`).

    Returns
    -------
    dict
        ``brier`` (``value low high n_subjects``: mean and 95 % t interval over subjects), ``ece``
        (``value``: all predictions pooled; ``low high``: 95 % interval over 1,000 resamples of
        whole subjects; ``if_calibrated``: the ECE that calibrated probabilities would be expected
        to have with these samples, since chance alone makes gaps; both None for one subject),
        ``reliability`` (`reliability_bins`), ``temperature`` (``mean low high``, the latter the
        smallest and largest of the folds) and ``uncalibrated`` (``log_loss brier ece`` of the
        probabilities before scaling); the last two None without `temperatures`.

    Raises
    ------
    InputError
        Impossible probabilities, unknown labels, or a fold without its temperature.
    """
    columns = [f"p_{name}" for name in classes]
    given, truth = _checked(predictions[columns], predictions["label"], classes)
    subject = np.asarray(pd.factorize(predictions["subject"].astype(str), sort=True)[0])
    binned = _bin(given, truth, subject, N_BINS)
    weights = _resamples(binned.n.shape[0], seed)
    found: dict[str, Any] = {
        "brier": summarise(
            _by_subject(_brier(given, truth), subject), largest=2.0, widening=widening
        ),
        "ece": _describe_ece(binned, weights),
        "reliability": _describe_bins(binned, weights),
        "temperature": None,
        "uncalibrated": None,
    }
    if temperatures:
        fold = predictions["fold"].astype(str)
        own = _per_prediction(fold, {str(name): T for name, T in temperatures.items()})
        before = softmax(logs_of(given) * own[:, None], axis=1)
        used = own[~fold.duplicated().to_numpy()]
        found["temperature"] = {
            "mean": float(used.mean()),
            "low": float(used.min()),
            "high": float(used.max()),
        }
        found["uncalibrated"] = _plain_scores(before, truth, subject)
    return found


class _Binned(NamedTuple):
    """Sums of every subject in every bin, each (n_subjects, n_bins), and the bins' ends."""

    n: np.ndarray
    confidence: np.ndarray
    hits: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray


def _bin(given: np.ndarray, truth: np.ndarray, subject: np.ndarray, n_bins: int) -> _Binned:
    if n_bins < 1:
        raise InputError(
            "n_bins", found=str(n_bins), expected="1 or more", remedy="15 is the usual number."
        )
    confidence = given.max(axis=1)
    share = (rankdata(confidence) - 0.5) / len(confidence)
    number = np.unique((share * n_bins).astype(np.int64), return_inverse=True)[1]
    shape = (int(subject.max()) + 1, int(number.max()) + 1)
    place = subject * shape[1] + number

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(place, weights=values, minlength=shape[0] * shape[1]).reshape(shape)

    order = np.argsort(confidence, kind="stable")
    first = np.searchsorted(number[order], np.arange(shape[1]))
    last = np.append(first[1:], len(order)) - 1
    return _Binned(
        n=total(np.ones(len(truth))),
        confidence=total(confidence),
        hits=total((given.argmax(axis=1) == truth).astype(float)),
        lowest=confidence[order][first],
        highest=confidence[order][last],
    )


def _resamples(n_subjects: int, seed: int) -> np.ndarray | None:
    """How often each subject is in each resample, (N_BOOT, n_subjects); None for one subject."""
    if n_subjects < 2:
        return None
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    equal = np.full(n_subjects, 1 / n_subjects)
    return rng.multinomial(n_subjects, equal, size=N_BOOT).astype(float)


def _ece(binned: _Binned) -> float:
    gaps = (binned.hits - binned.confidence).sum(axis=0)
    return float(np.abs(gaps).sum() / binned.n.sum())


def _describe_ece(binned: _Binned, weights: np.ndarray | None) -> dict[str, Any]:
    """Absolute gaps add noise up, so that resampled ECEs lie above the ECE; the signed gaps do not.

    The low end is the ECE less what noise alone adds up to (97.5th percentile), since
    |a + e| - |a| <= |e|; the high end adds the noise along the signs of the gaps, since
    |a + e| >= |a| + sign(a) e.
    """
    share = (binned.hits - binned.confidence) / binned.n.sum()
    gaps = share.sum(axis=0)
    value = float(np.abs(gaps).sum())
    if weights is None:
        return {"value": value, "low": None, "high": None, "if_calibrated": None}
    n_subjects = len(share)
    sizes = (weights @ binned.n).sum(axis=1, keepdims=True) / binned.n.sum()
    noise = (weights @ share / sizes - gaps) * np.sqrt(n_subjects / (n_subjects - 1))
    alone = np.abs(noise).sum(axis=1)
    along = -(noise * np.sign(gaps)).sum(axis=1)
    return {
        "value": value,
        "low": float(max(0.0, value - np.quantile(alone, 0.975))),
        "high": float(min(1.0, value + max(0.0, np.quantile(along, 0.975)))),
        "if_calibrated": float(alone.mean()),
    }


def _describe_bins(binned: _Binned, weights: np.ndarray | None) -> list[dict[str, Any]]:
    n, hits = binned.n.sum(axis=0), binned.hits.sum(axis=0)
    bins = []
    for b in range(len(n)):
        low, high = _accuracy_interval(binned.hits[:, b], binned.n[:, b], weights)
        bins.append(
            {
                "confidence": float(binned.confidence[:, b].sum() / n[b]),
                "accuracy": float(hits[b] / n[b]),
                "n": int(n[b]),
                "n_subjects": int((binned.n[:, b] > 0).sum()),
                "low": low,
                "high": high,
                "lowest": float(binned.lowest[b]),
                "highest": float(binned.highest[b]),
            }
        )
    return bins


def _accuracy_interval(
    hits: np.ndarray, n: np.ndarray, weights: np.ndarray | None
) -> tuple[float, float]:
    wilson = binomtest(int(hits.sum()), int(n.sum())).proportion_ci(method="wilson")
    if weights is None:
        return float(wilson.low), float(wilson.high)
    size = weights @ n
    shares = (weights @ hits)[size > 0] / size[size > 0]
    low, high = np.quantile(shares, [0.025, 0.975])
    return float(min(low, wilson.low)), float(max(high, wilson.high))


def _plain_scores(given: np.ndarray, truth: np.ndarray, subject: np.ndarray) -> dict[str, float]:
    own = np.take_along_axis(given, truth[:, None], axis=1)[:, 0]
    binned = _bin(given, truth, subject, N_BINS)
    return {
        "log_loss": float(_by_subject(-np.log(np.clip(own, EPS, 1.0)), subject).mean()),
        "brier": float(_by_subject(_brier(given, truth), subject).mean()),
        "ece": _ece(binned),
    }


def _by_subject(values: np.ndarray, subject: np.ndarray) -> np.ndarray:
    return np.bincount(subject, weights=values) / np.bincount(subject)


def _brier(given: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return ((given - np.eye(given.shape[1])[truth]) ** 2).sum(axis=1)


def _per_prediction(fold: pd.Series, temperatures: dict[str, float]) -> np.ndarray:
    own = fold.map(temperatures).to_numpy(dtype=float)
    known = np.isfinite(own) & (own > 0)
    if not known.all():
        missing = fold.iloc[int(np.argmin(known))]
        raise InputError(
            "temperatures",
            found=f"no temperature above 0 of fold {missing}",
            expected="one for every fold of the predictions",
            remedy="Give those of the evaluation that made the predictions.",
        )
    return own


def _checked(
    probabilities: Any, labels: Any, classes: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities as float64 and labels as column numbers."""
    given = np.asarray(probabilities, dtype=float)
    named = pd.Index(np.asarray(labels).astype(str))
    truth = pd.Index([str(name) for name in classes]).get_indexer(named)
    if given.shape != (len(truth), len(classes)) or not len(truth):
        found = f"shape {given.shape} for {len(truth)} labels and {len(classes)} classes"
    elif not (np.isfinite(given) & (given >= 0)).all():
        found = "missing or negative values"
    elif (truth < 0).any():
        found = f"the label {np.asarray(labels)[int(np.argmin(truth))]!r}, which is no class"
    else:
        return given, truth
    raise InputError(
        "probabilities",
        found=found,
        expected="a probability of each class for each of at least one labelled sample",
        remedy="Pass what predict_proba gives, with its classes.",
    )

"""Comparison of decoders on the same folds: how large a difference is and whether it is one."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from emodecode.errors import InputError
from emodecode.evaluate.corrected import CorrectedT, corrected_t, correlated_bayes, holm
from emodecode.evaluate.fold import Split
from emodecode.evaluate.metrics import check_predictions
from emodecode.evaluate.same_folds import check_same_predictions
from emodecode.evaluate.subjects import sign_flip
from emodecode.evaluate.tally import METRICS, make_tally, subject_scores
from emodecode.evaluate.units import Units, find_units

__all__ = [
    "claim_difference",
    "compare",
    "corrected_t",
    "correlated_bayes",
    "find_units",
    "fold_scores",
    "holm",
    "scores_of_subjects",
]

LOWER_IS_BETTER = ("log_loss",)
ALPHA = 0.05


def fold_scores(
    predictions: pd.DataFrame, *, classes: Sequence[str], metric: str = "balanced_accuracy"
) -> pd.Series:
    """Score one decoder's predictions in each fold, subject by subject.

    Returns
    -------
    Series
        With the index ``(fold, subject)``, NaN where the metric is undefined (a single class).
    """
    pairs = pd.MultiIndex.from_frame(predictions[["fold", "subject"]].astype(str))
    return _scores(predictions, pairs, classes, metric)


def scores_of_subjects(
    predictions: pd.DataFrame, *, classes: Sequence[str], metric: str = "balanced_accuracy"
) -> pd.Series:
    """Score one decoder's predictions for each subject over all of the subject's folds.

    The scores of `emodecode.evaluate.metrics.score_predictions`, indexed by subject.
    """
    subjects = pd.Index(predictions["subject"].astype(str), name="subject")
    return _scores(predictions, subjects, classes, metric)


def _scores(
    predictions: pd.DataFrame, groups: pd.Index, classes: Sequence[str], metric: str
) -> pd.Series:
    names = [str(name) for name in classes]
    found = groups.unique().sort_values()
    group = found.get_indexer(groups)
    label, predicted = (
        pd.Index(names).get_indexer(pd.Index(predictions[column].astype(str)))
        for column in ("label", "predicted")
    )
    tally = make_tally(
        group,
        pd.factorize(predictions["fold"].astype(str), sort=True)[0],
        label,
        predicted,
        predictions[[f"p_{name}" for name in names]].to_numpy(dtype=float),
    )
    values = subject_scores(tally, np.arange(len(names))[None])[metric][0]
    return pd.Series(values, index=found)


def compare(
    predictions: Mapping[str, pd.DataFrame],
    splits: Sequence[Split],
    *,
    classes: Sequence[str],
    verdicts: Mapping[str, str],
    metric: str = "balanced_accuracy",
    rope: float = 0.01,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compare every two decoders that predicted the same samples in the same folds.

    Parameters
    ----------
    predictions : dict of decoder -> DataFrame
        ``fold subject run volume label predicted p_CLASS``; at least two decoders.
    splits : sequence of Split
        The folds, by the names in `predictions`.
    classes : sequence of str
    verdicts : dict of decoder -> {"clean", "caution", "leak"}
        Of the audits; without a clean one nothing is claimed.
    metric : {"balanced_accuracy", "accuracy", "macro_auc", "log_loss"}
    rope : float
        Differences smaller than this do not matter, in units of the metric.
    seed : int
        Of the sampled sign flips (more than 15 subjects).

    Returns
    -------
    list of dict
        For each pair ``a`` (the better one) and ``b``; ``metric``; ``difference``, how much better
        a is, mean over subjects (for log loss b minus a); ``low``, ``high``: 95 % interval with the
        standard error of the corrected t test; ``n_subjects``; ``sign_flip`` over subjects
        (two-sided ``p``, ``p_smallest``, ``exact``); ``corrected_t`` (``t df p n_units unit
        ratio``); ``bayes``; ``p_holm`` over the pairs, ``n_pairs``, and the ``sentence`` that may
        be said. None where something cannot be computed.

    Raises
    ------
    InputError
        Fewer than two decoders, other samples or folds, unusable predictions.

    Notes
    -----
    The units of the corrected tests are the folds. Where several folds test the same subjects
    (parts of a film) while others test other subjects, the folds of a subject are one unit: a
    subject's differences go together, and counting each as new evidence rejects far too often.
    """
    _check_request(predictions, metric, rope)
    first, *_ = predictions
    for name, own in predictions.items():
        check_predictions(own.assign(model=name), classes)
        check_same_predictions((first, predictions[first]), (name, own))
    units = find_units(predictions[first], splits)
    scored = {
        name: (
            scores_of_subjects(own, classes=classes, metric=metric),
            fold_scores(own, classes=classes, metric=metric),
        )
        for name, own in predictions.items()
    }
    pairs = [
        _compare_two(sorted(pair), scored, units, metric=metric, rope=rope, seed=seed)
        for pair in combinations(predictions, 2)
    ]
    p_values = [pair["corrected_t"] and pair["corrected_t"]["p"] for pair in pairs]
    corrected = holm([1.0 if p is None else p for p in p_values])
    for pair, p, p_holm in zip(pairs, p_values, corrected, strict=True):
        pair |= {"p_holm": None if p is None else p_holm, "n_pairs": len(pairs)}
        pair["sentence"] = claim_difference(pair, verdicts=verdicts)
    return pairs


def _compare_two(
    names: Sequence[str],
    scored: Mapping[str, tuple[pd.Series, pd.Series]],
    units: Units,
    *,
    metric: str,
    rope: float,
    seed: int,
) -> dict[str, Any]:
    """Everything about a pair but the correction for their number; `names` in a fixed order."""
    a, b = names
    sign = -1 if metric in LOWER_IS_BETTER else 1
    by_subject, by_fold = (sign * (x - y) for x, y in zip(scored[a], scored[b], strict=True))
    if by_subject.mean() < 0:
        a, b, by_subject, by_fold = b, a, -by_subject, -by_fold
    known = by_subject.dropna().to_numpy()
    d = _by_unit(by_subject, by_fold, units)
    tested = corrected_t(d, ratio=units.ratio)
    difference = float(known.mean()) + 0.0 if len(known) else None
    half = None
    if tested is not None and difference is not None:
        half = float(student_t.ppf(0.975, tested.df)) * tested.standard_error
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "difference": difference,
        "low": None if half is None or difference is None else difference - half,
        "high": None if half is None or difference is None else difference + half,
        "n_subjects": len(known),
        "sign_flip": _flips(known, seed),
        "corrected_t": _listed(tested, len(d), units),
        "bayes": correlated_bayes(d, ratio=units.ratio, rope=rope),
    }


def _flips(differences: np.ndarray, seed: int) -> dict[str, Any] | None:
    if not len(differences):
        return None
    found = sign_flip(differences, seed=seed)
    return {
        "p": found.p_two_sided,
        "p_smallest": found.p_smallest_two_sided,
        "exact": found.exact,
    }


def _listed(tested: CorrectedT | None, n_units: int, units: Units) -> dict[str, Any] | None:
    if tested is None:
        return None
    values = {"t": tested.t, "df": tested.df, "p": tested.p}
    return values | {"n_units": n_units, "unit": units.kind, "ratio": units.ratio}


def _by_unit(by_subject: pd.Series, by_fold: pd.Series, units: Units) -> np.ndarray:
    """Mean difference over the subjects of each unit."""
    unit = by_fold.index.get_level_values("fold").map(units.of_fold)
    if units.kind == "folds":
        return by_fold.groupby(unit.to_numpy()).mean().dropna().to_numpy()
    subject = by_fold.index.get_level_values("subject")
    own = pd.Series(unit, index=subject).groupby(level=0).first()
    return by_subject.groupby(own.reindex(by_subject.index).to_numpy()).mean().dropna().to_numpy()


def claim_difference(pair: Mapping[str, Any], *, verdicts: Mapping[str, str]) -> str:
    """Say what may be said of a pair: better only with p <= .05 after Holm and clean audits."""
    a, b = pair["a"], pair["b"]
    reasons = {name: verdicts.get(name) or "nothing (there is none)" for name in (a, b)}
    doubted = [name for name in (a, b) if reasons[name] != "clean"]
    if "leak" in reasons.values():
        leaking = next(name for name in (a, b) if reasons[name] == "leak")
        return f"{a} and {b}: no claim: the audit of {leaking} says leak"
    if pair["p_holm"] is None:
        return f"{a} and {b} cannot be told apart: {_why_untested(pair)}"
    test = f"(corrected t, {_p(pair['p_holm'])}"
    test += f" after Holm over {pair['n_pairs']} pairs)" if pair["n_pairs"] > 1 else ")"
    values = [pair[key] for key in ("difference", "low", "high")]
    digits = 2 if min(abs(value) for value in values) >= 0.005 else 3
    shown = [_number(value, digits) for value in values]
    size = f"{shown[0]} [{shown[1]}, {shown[2]}]"
    if pair["p_holm"] > ALPHA or pair["low"] <= 0:
        return f"{a} and {b} cannot be told apart: difference {size} {test}"
    if doubted:
        return f"{a} and {b}: no claim: the audit of {doubted[0]} says {reasons[doubted[0]]}"
    at = "" if pair["metric"] == "balanced_accuracy" else f"in {pair['metric'].replace('_', ' ')} "
    return f"{a} is better than {b} {at}by {size} {test}"


def _why_untested(pair: Mapping[str, Any]) -> str:
    if not pair["n_subjects"]:
        return f"no subject has a {pair['metric'].replace('_', ' ')}"
    return "the corrected t needs two folds or more with a score that do not all differ alike"


def _number(value: float, digits: int) -> str:
    text = f"{abs(value):.{digits}f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def _p(p: float) -> str:
    if p < 0.001:
        return "p < .001"
    return "p > .050" if ALPHA < p < 0.0505 else f"p = {_number(p, 3)}"


def _check_request(predictions: Mapping[str, pd.DataFrame], metric: str, rope: float) -> None:
    if len(predictions) < 2:
        raise _bad_request(
            f"{len(predictions)} decoder{'s' * (len(predictions) != 1)} "
            f"({', '.join(predictions) or 'none'})",
            "two decoders or more",
        )
    if metric not in METRICS:
        raise _bad_request(f"the metric {metric!r}", f"one of {', '.join(METRICS)}")
    if not (np.isfinite(rope) and rope >= 0):
        raise _bad_request(f"rope = {rope}", "a difference of 0 or more")


def _bad_request(found: str, expected: str) -> InputError:
    return InputError(
        "comparison", found=found, expected=expected, remedy="See docs/comparison.md."
    )

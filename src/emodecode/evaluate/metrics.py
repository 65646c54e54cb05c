"""Metrics: every score as a function of the table of predictions; nothing is refitted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.chance import (
    Null,
    chance_levels,
    describe_test,
    refit_levels,
    shares_training,
)
from emodecode.evaluate.exchange import Exchange, make_exchange
from emodecode.evaluate.fold import Split
from emodecode.evaluate.roc import roc_curves
from emodecode.evaluate.tally import METRICS, Tally, make_tally, subject_scores, summarise
from emodecode.evaluate.units import find_units

__all__ = ["check_predictions", "find_rows", "roc_curves", "score_predictions", "summarise"]

LARGEST = {"balanced_accuracy": 1.0, "accuracy": 1.0, "macro_auc": 1.0, "log_loss": np.inf}
"""Upper end of each metric's range; the lower one is 0."""

_KEYS = ("subject", "run", "volume")


def score_predictions(
    predictions: pd.DataFrame,
    *,
    classes: Sequence[str],
    seed: int = 0,
    n_permutations: int = 1000,
    samples_table: pd.DataFrame | None = None,
    rows: np.ndarray | None = None,
    nulls: Mapping[str, Null] | None = None,
    splits: Sequence[Split] | None = None,
    unit: str = "block",
) -> dict[str, Any]:
    """Score every model: the content of ``scores.json``.

    The subject is the unit of inference: each score is computed subject by subject over all of
    the subject's folds, ``value`` is the mean over subjects and ``low``, ``high`` its 95 %
    interval by Student's t with n_subjects - 1 degrees of freedom (cut to the metric's range; None
    for one subject), widened because folds share training samples (with `splits`; Nadeau & Bengio
    2003). Chance is the mean over exchanged labels (`emodecode.evaluate.chance`).

    Parameters
    ----------
    predictions : DataFrame
        Columns ``model fold subject run volume label predicted`` and ``p_CLASS`` of each class.
    classes : sequence of str
        In the order of the confusion matrix.
    seed, n_permutations : int
        Of the exchanged labels; the same labellings for every model.
    samples_table : DataFrame, optional
        The sample table, for blocks and sessions. Without it, stretches of equal labels within a
        run are the blocks.
    rows : ndarray of int, optional
        Row of `samples_table` that each prediction is about; looked up by subject, run and
        volume if not given.
    nulls : mapping of str to Null, optional
        Scores of a model refitted to exchanged labels (`emodecode.evaluate.refit.refit_null`).
        For other models labels are exchanged under fixed predictions.
    splits : sequence of Split, optional
        The folds, to know whether they share training samples; without them, several folds are
        taken to, and intervals are not widened.
    unit : {"block", "shift"}
        What is exchanged (`emodecode.evaluate.exchange.make_exchange`).

    Returns
    -------
    dict
        ``classes``, ``chance`` (what was exchanged), ``widening`` (of the intervals) and for each
        model under ``models``:
        ``balanced_accuracy accuracy macro_auc log_loss`` (``value low high n_subjects chance
        chance_sd p p_smallest``), ``per_class`` (``precision recall f1 auc``, each ``value low high
        n_subjects``, and ``support``), ``confusion`` (counts; rows are labels, columns
        predictions), ``per_subject``, ``test`` (``method``: "refit", "predictions" or
        "surrogates", ``n_permutations``, ``sentence``) and ``notes``.

    Raises
    ------
    InputError
        Missing or impossible probabilities, unknown labels, or models that predict different
        samples.
    """
    classes = [str(name) for name in classes]
    check_predictions(predictions, classes)
    samples = _sample_columns(predictions, samples_table, rows)
    exchange = make_exchange(samples, classes=classes, unit=unit)
    drawn = {"n_permutations": n_permutations, "seed": seed}
    several = len(set(predictions["fold"])) > 1 if splits is None else shares_training(splits)
    widening = 1.0 if splits is None else find_units(predictions, splits).widening
    models = {}
    for name in dict.fromkeys(predictions["model"]):
        own = np.flatnonzero((predictions["model"] == name).to_numpy())
        coded = _code(predictions.iloc[own], classes)
        tally = make_tally(
            coded.subject, coded.fold, exchange.slot[own], coded.predicted, coded.probabilities
        )
        null = (nulls or {}).get(str(name))
        chance, test = _test(tally, exchange, null, several, drawn)
        models[str(name)] = _score_model(coded, tally, exchange.label, chance, classes, widening)
        models[str(name)]["test"] = test
    how = {"method": exchange.sentence, "n_permutations": n_permutations, "seed": seed}
    return {"classes": classes, "chance": how, "widening": widening, "models": models}


def _test(
    tally: Tally, exchange: Exchange, null: Null | None, several: bool, drawn: dict[str, int]
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    if null is None:
        chance = chance_levels(tally, exchange, shared_training=several, **drawn)
        m = drawn["n_permutations"]
    else:
        chance, m = refit_levels(tally, exchange, null), null.n_permutations
    test = describe_test(
        exchange,
        n_permutations=m,
        refitted=null is not None,
        shared_training=several,
        of="labels" if null is None else null.of,
    )
    return chance, test


class Coded(NamedTuple):
    """One model's predictions as numbers; ``subjects`` names the codes."""

    subject: np.ndarray
    subjects: list[str]
    fold: np.ndarray
    label: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray


def _code(table: pd.DataFrame, classes: list[str]) -> Coded:
    number = {name: code for code, name in enumerate(classes)}
    subject, subjects = pd.factorize(table["subject"].astype(str), sort=True)
    return Coded(
        subject=np.asarray(subject),
        subjects=list(subjects),
        fold=np.asarray(pd.factorize(table["fold"].astype(str))[0]),
        label=table["label"].astype(str).map(number).to_numpy(dtype=np.int64),
        predicted=table["predicted"].astype(str).map(number).to_numpy(dtype=np.int64),
        probabilities=table[[f"p_{name}" for name in classes]].to_numpy(dtype=float),
    )


def _score_model(
    coded: Coded,
    tally: Tally,
    labels: np.ndarray,
    chance: dict,
    classes: list[str],
    widening: float,
) -> dict[str, Any]:
    found = {name: values[0] for name, values in subject_scores(tally, labels[None]).items()}
    n = len(classes)
    triple = (coded.subject * n + coded.label) * n + coded.predicted
    counts = np.bincount(triple, minlength=len(coded.subjects) * n * n).reshape(-1, n, n)
    scores: dict[str, Any] = {}
    for metric in METRICS:
        level = chance[metric]
        scores[metric] = summarise(found[metric], largest=LARGEST[metric], widening=widening) | {
            "chance": level["mean"],
            "chance_sd": level["sd"],
            "p": level["p"],
            "p_smallest": level["p_smallest"],
        }
    scores["per_class"] = _per_class(counts, found["auc"], classes, widening)
    scores["confusion"] = counts.sum(axis=0).tolist()
    scores["per_subject"] = {
        name: {metric: _plain(found[metric][k]) for metric in METRICS}
        | {"n_samples": int(counts[k].sum())}
        for k, name in enumerate(coded.subjects)
    }
    scores["notes"] = _notes(counts, found, coded.subjects, classes)
    return scores


def _per_class(
    counts: np.ndarray, auc: np.ndarray, classes: list[str], widening: float
) -> dict[str, Any]:
    """Per subject that has the class; a class that is never predicted has precision 0."""
    right = np.diagonal(counts, axis1=1, axis2=2).astype(float)
    support, predicted = counts.sum(axis=2), counts.sum(axis=1)
    absent = np.where(support > 0, 0.0, np.nan)
    precision = absent + right / np.maximum(predicted, 1)
    recall = absent + right / np.maximum(support, 1)
    f1 = absent + 2 * right / np.maximum(support + predicted, 1)
    return {
        name: {
            "precision": summarise(precision[:, c], widening=widening),
            "recall": summarise(recall[:, c], widening=widening),
            "f1": summarise(f1[:, c], widening=widening),
            "auc": summarise(auc[:, c], widening=widening),
            "support": int(support[:, c].sum()),
        }
        for c, name in enumerate(classes)
    }


def _notes(
    counts: np.ndarray, found: dict[str, np.ndarray], subjects: list[str], classes: list[str]
) -> list[str]:
    support = counts.sum(axis=2)
    notes = []
    single = [subjects[k] for k in np.flatnonzero((support > 0).sum(axis=1) == 1)]
    if single:
        notes.append(
            f"{_some(single)} have one class only among the test samples: no balanced accuracy "
            "and no AUC of them."
        )
    some = (support > 0).sum(axis=1) > 1
    partly = [subjects[k] for k in np.flatnonzero(some & (support == 0).any(axis=1))]
    if partly:
        notes.append(
            f"{_some(partly)} lack a class among the test samples: their balanced accuracy and "
            "macro AUC are means over the classes that they have."
        )
    no_auc = [subjects[k] for k in np.flatnonzero(some & ~np.isfinite(found["macro_auc"]))]
    if no_auc:
        notes.append(
            f"{_some(no_auc)} have one class only in each fold: no AUC of them (probabilities of "
            "different folds cannot be ranked together)."
        )
    return notes


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return f"{len(names)} subject{'s' * (len(names) != 1)} ({shown})"


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _sample_columns(
    predictions: pd.DataFrame, table: pd.DataFrame | None, rows: np.ndarray | None
) -> pd.DataFrame:
    """What is known of the sample of each prediction, in the order of the predictions."""
    wanted = ["subject", "session", "run", "volume", "onset_s", "label", "block", "stimulus"]
    if table is None:
        keys = predictions[["model", "fold", "subject", "run", "volume"]]
        if "session" not in predictions and keys.duplicated().any():
            raise _bad_predictions(
                "several predictions of one volume in a fold (runs of one name in two sessions)",
                "one prediction of each sample, or the sample table beside them",
            )
        return predictions[[name for name in wanted if name in predictions]]
    if rows is None:
        rows = find_rows(predictions, table)
    found = table[[name for name in wanted if name in table]].iloc[rows]
    differs = found["label"].to_numpy(dtype=str) != predictions["label"].to_numpy(dtype=str)
    if differs.any():
        raise _bad_predictions(
            f"{int(differs.sum())} predictions whose label differs from the sample table's",
            "predictions of these samples",
        )
    return found


def find_rows(predictions: pd.DataFrame, table: pd.DataFrame) -> np.ndarray:
    """Find the row of the sample table that each prediction is about.

    Raises
    ------
    InputError
        A prediction without a sample, or subject, run and volume that name several samples.
    """
    names = [*_KEYS, *(["session"] if {"session"} <= set(predictions) & set(table) else [])]
    keys = [_key(frame, names) for frame in (table, predictions)]
    if keys[0].has_duplicates:
        keys = [_key(frame, [*names, "label"]) for frame in (table, predictions)]
    if keys[0].has_duplicates:
        twice = keys[0][keys[0].duplicated()][0]
        raise _bad_predictions(
            f"several samples with {', '.join(names)} = {', '.join(map(str, twice[: len(names)]))}",
            "one sample for each (sessions are not in the table of predictions)",
        )
    rows = keys[0].get_indexer(keys[1])
    if (rows < 0).any():
        first = keys[1][rows < 0][0]
        raise _bad_predictions(
            f"{int((rows < 0).sum())} predictions without a sample in the table (first: "
            f"{', '.join(map(str, first))})",
            "predictions of these samples",
        )
    return rows


def _key(frame: pd.DataFrame, names: list[str]) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(frame[names].astype(str))


def check_predictions(predictions: pd.DataFrame, classes: Sequence[str]) -> None:
    """Refuse predictions that no score can be computed from."""
    needed = ["model", "fold", "subject", "run", "volume", "label", "predicted"]
    columns = [f"p_{name}" for name in classes]
    missing = [name for name in needed + columns if name not in predictions]
    if missing or not len(predictions):
        raise _bad_predictions(
            f"no column {', '.join(missing)}" if missing else "no predictions",
            ", ".join(needed + columns),
        )
    for column in ("label", "predicted"):
        strange = ~predictions[column].astype(str).isin(list(classes))
        if strange.any():
            raise _bad_predictions(
                f"{int(strange.sum())} rows with {column} {predictions[column][strange].iloc[0]!r}",
                f"one of {', '.join(classes)}",
            )
    given = predictions[columns].to_numpy(dtype=float)
    broken = ~np.isfinite(given).all(axis=1)
    if broken.any():
        row = predictions.iloc[int(np.argmax(broken))]
        raise _bad_predictions(
            f"{int(broken.sum())} rows with missing probabilities (first: {row['model']}, fold "
            f"{row['fold']})",
            "a probability of each class",
        )
    off = (given < -1e-6).any(axis=1) | (np.abs(given.sum(axis=1) - 1) > 1e-3)
    if off.any():
        raise _bad_predictions(
            f"{int(off.sum())} rows whose probabilities do not add up to 1 "
            f"(first: {given[int(np.argmax(off))].sum():.3g})",
            "probabilities between 0 and 1 that add up to 1",
        )
    _check_same_samples(predictions)


def _check_same_samples(predictions: pd.DataFrame) -> None:
    names = ["fold", *_KEYS]
    reference, first = None, ""
    for model, own in predictions.groupby("model", sort=False):
        key = _key(own, names).sort_values()
        if reference is None:
            reference, first = key, str(model)
        elif not key.equals(reference):
            missing = max(len(reference.difference(key)), len(key.difference(reference)), 1)
            raise _bad_predictions(
                f"{missing} samples that one of {first} and {model} predicts and the other not",
                "the same samples and folds for every model",
            )


def _bad_predictions(found: str, expected: str) -> InputError:
    return InputError(
        "predictions",
        found=found,
        expected=expected,
        remedy="Use the predictions.tsv of one complete evaluation; run it again if it is broken.",
    )

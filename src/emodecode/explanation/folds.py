"""Folds: fit a decoder, explain samples that it was not fitted on, keep what was found."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sklearn

from emodecode.errors import InputError
from emodecode.explain.agreement import similarity
from emodecode.explain.occlusion import Occlusion, occlude_samples
from emodecode.explain.units import Units
from emodecode.explanation.methods import Maps, fold_maps, fold_subjects
from emodecode.explanation.tasks import Task, choose_confident

if TYPE_CHECKING:
    from emodecode.explain.sanity import Check

MOST_REMOVED = 60
"""Samples of one fold that the deletion curve is made of, at most."""
_CHUNK = 256

Alternatives = dict[str, tuple[dict[str, Any], Units]]
"""Other settings of occlusion: name -> changed rules and units."""


def explain_fold(
    X: np.ndarray,
    table: pd.DataFrame,
    classes: tuple[str, ...],
    units: Units,
    task: Task,
    alternatives: Alternatives,
    folder: Path | None,
    progress: bool,
    in_place: bool,
) -> dict[str, np.ndarray]:
    """Fit and explain one fold, or take what an earlier call kept in `folder`.

    Returns
    -------
    dict
        ``rows`` (held-out samples that are explained), ``given``, ``drops`` and ``way``
        (`emodecode.explain.occlusion.Occlusion`, classes in the study's order), ``chosen`` (how
        samples were chosen), ``map`` (mean drop of the samples' own classes), ``probabilities`` of
        the whole test set, ``ledger`` (JSON: what each step was fitted on), ``notes`` and, where
        columns are voxels in place, ``method:NAME`` (maps of `fold_maps`), ``layers`` and
        ``layer:N`` (RDMs) of networks, and of the first fold ``checks`` (JSON).
    """
    from emodecode.evaluate.ledger import Ledger
    from emodecode.evaluate.workers import load_part, store_part

    first = task.fold == 0 and task.study.explain.form == "honest"
    key = task.key(units, task.study.explain.weight_draws if first else "", sorted(alternatives))
    saved = load_part(key, folder)
    if saved is not None and {"rows", "drops", "map", "ledger"} <= set(saved):
        return saved
    ledger = Ledger()
    fitted = task.fit(X, table, table["label"].to_numpy(dtype=str), ledger=ledger)
    _refuse_missing(fitted, classes, task)
    part, found = _explain(fitted, X, table, classes, units, task, progress, in_place)
    part["ledger"] = np.array(json.dumps(ledger.entries(task.split), default=_plain))
    if first:
        checks = check_fold(fitted, X, table, part["rows"], found, task, alternatives)
        part["checks"] = np.array(json.dumps([vars(each) for each in checks], default=_plain))
    if folder is not None:
        store_part(key, part, folder)
    return part


def _explain(
    fitted: Any,
    X: np.ndarray,
    table: pd.DataFrame,
    classes: tuple[str, ...],
    units: Units,
    task: Task,
    progress: bool,
    in_place: bool,
) -> tuple[dict[str, np.ndarray], Occlusion]:
    from emodecode.evaluate.foldfit import predict_rows

    rules, test = task.study.explain, task.split.test
    with sklearn.config_context(enable_metadata_routing=True):
        probabilities = predict_rows(
            fitted, X, table, test, classes=classes, where=f"explain: fold {task.split.name}"
        )
    honest = rules.form == "honest"
    per_class, seed, chosen = rules.per_class, task.study.seed + task.fold, ""
    if honest:
        rows = task.rows(table)
    else:
        held_out = (table, test, probabilities, classes)
        rows, chosen = choose_confident(*held_out, per_class=per_class, seed=seed)
    found = occlude_rows(fitted, X, table, rows, units, task, progress=progress)
    places = [classes.index(name) for name in found.classes]
    drops = np.zeros((len(rows), len(units), len(classes)), np.float32)
    given = np.zeros((len(rows), len(classes)))
    drops[:, :, places], given[:, places] = found.drops, found.given
    part: dict[str, np.ndarray] = {
        "rows": rows,
        "given": given,
        "drops": drops,
        "way": np.array(found.way),
    }
    part |= {"probabilities": probabilities, "chosen": np.array(chosen)}
    maps: Maps = {}
    notes: list[str] = []
    part["map"] = mean_drop(found, table["label"].iloc[rows].tolist())
    if honest and rules.methods and in_place:
        maps, notes = fold_maps(
            *(fitted, X, table, rows),
            classes=classes,
            test=test,
            per_class=rules.gradients_per_class,
            n_steps=rules.gradient_steps,
            seed=seed,
            progress=progress,
        )
    part["notes"] = np.array(json.dumps(notes))
    part |= {f"method:{name}": each for name, each in maps.items()}
    return part | _layers(fitted, X, table, rows), found


def _layers(
    fitted: Any, X: np.ndarray, table: pd.DataFrame, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """RDMs of a network's layers, from the samples that are explained."""
    from emodecode.explain.layers import layer_rdms

    network, label = fitted.steps[-1][1], table["label"].iloc[rows].to_numpy(dtype=str)
    if len(fitted.steps) != 1 or set(label) != set(map(str, network.classes_)):
        return {}
    found = layer_rdms(network, np.asarray(X[rows], np.float32), label)
    named = {"layers": np.array(list(found))}
    return named | {f"layer:{number}": rdm for number, rdm in enumerate(found.values())}


def maps_of(part: dict[str, np.ndarray], table: pd.DataFrame, test: np.ndarray):
    """Return the subjects and maps of a part, for `emodecode.explanation.methods.join_folds`."""
    own = {name[7:]: each for name, each in part.items() if name.startswith("method:")}
    return fold_subjects(table, test), own


def layers_of_part(part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the RDM of each layer of a part."""
    names = part.get("layers", np.array([], dtype=str))
    return {str(name): part[f"layer:{number}"] for number, name in enumerate(names)}


def _refuse_missing(fitted: Any, classes: tuple[str, ...], task: Task) -> None:
    if set(map(str, fitted.classes_)) != set(classes):
        raise InputError(
            f"explain: fold {task.split.name}",
            found=f"training samples of {', '.join(map(str, fitted.classes_))} only",
            expected=f"samples of all classes ({', '.join(classes)})",
            remedy="Choose larger folds (evaluate.split, evaluate.n_segments), or fewer classes.",
        )


def occlude_rows(
    fitted: Any,
    X: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    units: Units,
    task: Task,
    *,
    rules: dict[str, Any] | None = None,
    progress: bool = False,
) -> Occlusion:
    """Occlude units of some samples as the study says, or by changed `rules`."""
    choices = task.study.explain
    fill = (rules or {}).get("fill", choices.fill)
    own, donors = table.iloc[rows], None
    if fill in ("subject", "conditional"):
        there = task.donors(table, rows)
        donors = X[there], *(table[name].iloc[there].tolist() for name in ("label", "subject"))
    return occlude_samples(
        fitted,
        np.asarray(X[rows], dtype=np.float32),
        units=units,
        fill=fill,
        labels=own["label"].tolist(),
        subjects=own["subject"].tolist(),
        reference=_moments(X, task) if fill in ("voxel_mean", "noise") else None,
        donors=donors,
        n_draws=choices.n_draws,
        seed=task.seed,
        asked=_asked(fitted, own),
        progress=progress,
    )


def mean_drop(found: Occlusion, label: Sequence[str]) -> np.ndarray:
    """Mean over samples of the drop of their own class, (n_units,); 0 of a class never learnt."""
    known = np.isin(label, found.classes)
    drops = np.zeros((len(label), len(found.units)))
    own = [found.classes.index(name) for name in np.asarray(label)[known]]
    drops[known] = found.drops[np.flatnonzero(known), :, own]
    return drops.mean(axis=0)


def check_fold(
    fitted: Any,
    X: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    found: Occlusion,
    task: Task,
    alternatives: Alternatives,
) -> "list[Check]":
    """Check a fold's map: removal of what it names, random weights, other settings."""
    from emodecode.explain.sanity import check_weights

    rules, label = task.study.explain, table["label"].iloc[rows].tolist()

    def map_of(decoder: Any) -> np.ndarray:
        if decoder is fitted:
            return mean_drop(found, label)
        return mean_drop(occlude_rows(decoder, X, table, rows, found.units, task), label)

    checks = [tried("deletion", partial(_removal, fitted, X, table, rows, found, task))]
    if rules.weight_draws and _has_weights(fitted):
        ask = partial(
            check_weights, map_of, fitted, n_draws=rules.weight_draws, seed=task.study.seed
        )
        checks.append(tried("random weights", ask))
    others = {
        name: occlude_rows(fitted, X, table, rows, own, task, rules=changed)
        for name, (changed, own) in alternatives.items()
    }
    if others:
        checks.append(tried("settings", partial(_check_settings, found, others, label)))
    return checks


def _check_settings(
    found: Occlusion, others: dict[str, Occlusion], label: Sequence[str]
) -> "Check":
    """Compare the map with others, unit by unit of theirs: larger boxes say less about places."""
    from emodecode.explain.sanity import ALIKE, Check

    own = mean_drop(found, label)
    values, alike = found.units.spread(own), {}
    for name, other in others.items():
        mean = own
        if other.units is not found.units:
            mean = other.units.membership.T @ values / [len(each) for each in other.units.columns]
        drop = mean_drop(other, label)
        read = (mean != 0) | (drop != 0)  # what the decoder never reads would only agree
        alike[name] = similarity(mean[read], drop[read])
    least = min(alike, key=lambda name: alike[name])
    told = ", ".join(f"{name} {value:.2f}" for name, value in alike.items())
    return Check(
        name="settings",
        value=alike[least],
        expected=f"lowest Spearman >= {ALIKE:g}",
        passed=alike[least] >= ALIKE,
        sentence=f"Spearman with the map under other settings, over the units of these: {told}.",
        details=alike,
    )


def tried(name: str, ask: "Callable[[], Check]") -> "Check":
    """Return the check; a map that cannot be checked, since it is constant, has failed."""
    from emodecode.explain.sanity import Check

    try:
        return ask()
    except InputError as error:
        return Check(name, float("nan"), error.expected, False, f"Not possible: {error.found}.")


def _removal(
    fitted: Any, X: np.ndarray, table: pd.DataFrame, rows: np.ndarray, found: Occlusion, task: Task
) -> "Check":
    """Deletion curve of held-out samples, each in the order of its own map."""
    from emodecode.explain.perturb import compare_with_random
    from emodecode.explain.sanity import check_removal

    drops = found.drop_of(table["label"].iloc[rows].tolist())
    some = np.sort(np.random.default_rng(task.seed).permutation(len(rows))[:MOST_REMOVED])
    rows, own = rows[some], table.iloc[rows[some]]
    order = np.argsort(-found.units.spread(drops[some]), kind="stable")
    asked = _asked(fitted, own)

    def predict(values: np.ndarray) -> np.ndarray:
        again = {key: np.resize(value, len(values)) for key, value in asked.items()}
        with sklearn.config_context(enable_metadata_routing=True):
            return fitted.predict_proba(values.astype(np.float32), **again)

    number = {str(name): k for k, name in enumerate(fitted.classes_)}
    comparison = compare_with_random(
        predict,
        np.asarray(X[rows], dtype=np.float32),
        order,
        target=np.array([number[name] for name in own["label"]]),
        fill=_moments(X, task).mean(axis=0),
        steps=10,
        n_random=19,
        seed=task.seed,
        batch_size=len(rows),
    )
    return check_removal(comparison)


def _moments(X: np.ndarray, task: Task) -> np.ndarray:
    """Two rows with the mean and the deviation of the training samples, (2, n_features)."""
    sums = np.zeros((2, X.shape[1]))
    rows = task.split.train
    for start in range(0, len(rows), _CHUNK):
        part = np.asarray(X[rows[start : start + _CHUNK]], dtype=np.float64)
        sums += part.sum(axis=0), (part**2).sum(axis=0)
    mean, square = sums / len(rows)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return np.stack([mean - spread, mean + spread])


def _asked(fitted: Any, table: pd.DataFrame) -> dict[str, np.ndarray]:
    """Whom the samples are of, where a step asks for it (voxels of each subject's own)."""
    with sklearn.config_context(enable_metadata_routing=True):
        wants = fitted.get_metadata_routing().consumes("predict_proba", ["subjects"])
    return {"subjects": table["subject"].to_numpy(dtype=str)} if wants else {}


def _has_weights(fitted: Any) -> bool:
    from emodecode.explain.sanity import layers_of

    try:
        return bool(layers_of(fitted))
    except InputError:
        return False


def _plain(value: Any) -> Any:
    return value.item()

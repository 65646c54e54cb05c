"""Representational similarity of a study: brains, network layers and models of the classes."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from emodecode.errors import InputError
from emodecode.explain.affect import AFFECT
from emodecode.explain.mantel import FEWEST, mantel
from emodecode.explain.rdm import category_rdm, distance_rdm, pairs_of, rater_rdm
from emodecode.explain.rsa import bootstrap_rsa, noise_ceiling
from emodecode.explanation.brain_rdms import Brain, brain_rdms, pooled_rdms
from emodecode.explanation.geometry import Described, reason_of
from emodecode.samples import Samples


def describe_similarity(
    samples: Samples,
    *,
    layers: Mapping[str, Sequence[Mapping[str, np.ndarray]]] | None = None,
    affect: pd.DataFrame | None = None,
    raters: pd.DataFrame | None = None,
    published: bool = False,
    allow_few: bool = False,
    n_bootstrap: int = 10_000,
    n_permutations: int = 1000,
    seed: int = 0,
) -> tuple[Described, dict[str, np.ndarray]]:
    """Compare how brains, network layers and models hold the classes apart.

    Parameters
    ----------
    samples : Samples
        Volumes, or rows of a table. Nothing of the size voxels x voxels is made; float64 copies
        of one subject's samples are (at most `emodecode.explanation.brain_rdms.MOST_VALUES`).
    layers : mapping of decoder -> one mapping a fold of layer -> RDM, optional
        From `emodecode.explain.layers.layer_rdms`; the mean over folds is taken. The last layer of
        a mapping is the one behind which the output follows.
    affect : DataFrame, optional
        Index class, columns ``valence arousal`` (`emodecode.explanation.geometry.affect_of`).
    raters : DataFrame, optional
        Index class, a column for each answer: shares of votes. Default: the mean of the samples'
        columns ``p_CLASS``, where there are any.
    published : bool
        S1's form instead (spec S1.23-S1.25): one pattern a class over all subjects, all voxels,
        1 - r, and the p of a plain correlation beside the exact one.
    allow_few : bool
        Run Mantel's test for three and four classes too.
    n_bootstrap, n_permutations, seed : int
        Resamples of the subjects; relabellings for the noise ceiling.

    Returns
    -------
    described : dict
        ``conditions rdms ceiling comparison mantel notes sentence`` for ``geometry.json``, or
        ``{"refused": reason}``.
    arrays : dict of str -> ndarray
        ``rdms`` (n_subjects, n_classes, n_classes) of the first brain RDM of the list, ``rdms_1_r``
        (the other distance), ``subjects`` and ``classes``.

    References
    ----------
    Kriegeskorte, Mur & Bandettini 2008, Frontiers in Systems Neuroscience 2:4.
    Walther et al. 2016, NeuroImage 137:188-200 (crossnobis).
    Nili et al. 2014, PLoS Computational Biology 10:e1003553 (noise ceiling, inference).
    """
    classes = tuple(map(str, samples.classes))
    if len(classes) < 3:
        pairs = len(classes) * (len(classes) - 1) // 2
        text = (
            f"{len(classes)} classes have {pairs} pairs, which make no pattern; needed: 3 classes."
        )
        return {"refused": text}, {}
    notes: list[str] = []
    brains = (pooled_rdms if published else brain_rdms)(samples, classes, notes=notes)
    if not brains:
        return {"refused": " ".join(notes)}, {}
    of_layers = _layers_of(layers or {}, len(classes), notes)
    votes = rater_shares(samples.table, classes) if raters is None else raters
    models = _models_of(classes, affect, votes, notes)
    first, others = brains[0], [*of_layers, *models]
    rdms = [
        {"name": each.name, "kind": "brain", "of": "", "distance": each.distance}
        | {"values": each.mean.tolist(), "sentence": each.sentence}
        for each in brains
    ]
    ceiling = _describe_ceiling(first, n_permutations=n_permutations, seed=seed)
    comparison = _compare(first, others, ceiling, notes, n_bootstrap=n_bootstrap, seed=seed)
    tests: dict[str, bool] = {"published": published, "allow_few": allow_few}
    described = {
        "conditions": list(classes),
        "rdms": [*rdms, *others],
        "ceiling": ceiling,
        "comparison": comparison,
        "mantel": _mantels(rdms[0], of_layers, models, seed=seed, **tests),
        "notes": notes,
        "sentence": _overall(first, ceiling, len(classes)),
    }
    arrays = {"rdms": first.rdms, "classes": np.array(classes)}
    arrays["subjects"] = np.array(first.subjects)
    for other in brains[1:]:
        arrays |= {"rdms_1_r": other.rdms, "subjects_1_r": np.array(other.subjects)}
    return described, arrays


def rater_shares(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame | None:
    """Return the raters' mean shares of votes (``p_CLASS``) in the samples of each class."""
    columns = [name for name in table if str(name).startswith("p_")]
    if not columns:
        return None
    shares = table.groupby(table["label"].astype(str))[columns].mean().loc[list(classes)]
    return shares.set_axis([str(name)[2:] for name in columns], axis=1)


def _layers_of(
    layers: Mapping[str, Sequence[Mapping[str, np.ndarray]]], n_classes: int, notes: list[str]
) -> list[Described]:
    """Mean of each layer over folds, from input to output."""
    found = []
    for decoder, folds in layers.items():
        names = list(dict.fromkeys(name for fold in folds for name in fold))
        for name in names:
            own = [fold[name] for fold in folds if name in fold and len(fold[name]) == n_classes]
            if not own:
                notes.append(f"{decoder}, {name}: no fold has samples of all classes.")
                continue
            text = (
                f"1 - r between the classes' mean activations in {name} of {decoder}, mean of "
                f"{len(own)} folds; from volumes that the brain's RDMs are made of too."
            )
            found.append(
                {"name": f"{decoder}: {name}", "kind": "layer", "of": decoder, "distance": "1 - r"}
                | {"values": np.mean(own, axis=0).tolist(), "sentence": text}
            )
    return found


def _models_of(
    classes: Sequence[str],
    affect: pd.DataFrame | None,
    votes: pd.DataFrame | None,
    notes: list[str],
) -> list[Described]:
    """Models of the classes that are known; why others are not is noted."""
    made: list[tuple[str, str, Any, str]] = []
    rated = None if affect is None else affect.reindex(list(classes))[list(AFFECT)]
    if rated is None or rated.isna().any(axis=None):
        notes.append("No model of valence and arousal: they are not known for all classes.")
    else:
        points = rated.to_numpy(dtype=float)
        text = "Euclidean distance of the classes' mean valence and arousal, as observers rated."
        made.append(("valence and arousal", "Euclidean", lambda: distance_rdm(points), text))
        sign = np.where(points[:, 0] < 0, "negative", "positive")
        text = "0 for two classes of the same sign of mean valence, 1 for others."
        made.append(("sign of valence", "category", lambda: category_rdm(sign), text))
    if votes is not None and set(classes) <= set(votes.index):
        shares = votes.loc[list(classes)].to_numpy(dtype=float)
        text = "How differently raters voted in the moments of two classes (total variation)."
        made.append(("raters", "total variation", lambda: rater_rdm(shares), text))
    found = []
    for name, distance, make, text in made:
        try:
            rdm = make()
        except InputError as error:
            notes.append(f"No model {name}: {reason_of(error)}")
            continue
        if not _varies(rdm):
            notes.append(f"No model {name}: it sets all classes apart alike.")
            continue
        found.append(
            {"name": name, "kind": "model", "of": "", "distance": distance}
            | {"values": rdm.tolist(), "sentence": text}
        )
    return found


def _varies(rdm: np.ndarray) -> bool:
    return bool(np.ptp(pairs_of(rdm)) > 1e-12 * np.abs(rdm).max())


def _describe_ceiling(brain: Brain, *, n_permutations: int, seed: int) -> Described:
    if len(brain.rdms) < 2:
        one = "All subjects were pooled" if brain.subjects == ("all",) else "There is one subject"
        return {"refused": f"{one}: how far subjects agree is not known."}
    try:
        found = noise_ceiling(brain.rdms, n_permutations=n_permutations, seed=seed)
    except InputError as error:
        return {"refused": reason_of(error)}
    share = "share" if found.p <= 0.05 else "do not demonstrably share"
    text = (
        f"The best possible model would correlate with a subject's {brain.name} RDM by "
        f"{found.lower:.2f} to {found.upper:.2f} on average (by chance {found.lower_by_chance:.2f} "
        f"to {found.upper_by_chance:.2f}). The {len(brain.rdms)} subjects {share} a geometry "
        f"(p = {found.p:.3f}, conditions relabelled within subjects)."
    )
    described = {"lower": found.lower, "upper": found.upper, "p": found.p, "sentence": text}
    chance = {"lower": found.lower_by_chance, "upper": found.upper_by_chance}
    return described | {f"{name}_by_chance": value for name, value in chance.items()}


def _compare(
    brain: Brain,
    others: Sequence[Described],
    ceiling: Described,
    notes: list[str],
    *,
    n_bootstrap: int,
    seed: int,
) -> list[Described]:
    """Mean correlation of each model and layer with the subjects' RDMs, over subjects."""
    values = {each["name"]: np.asarray(each["values"]) for each in others}
    usable = {name: rdm for name, rdm in values.items() if _varies(rdm)}
    if "refused" in ceiling or not usable:
        return []
    try:
        fits = bootstrap_rsa(brain.rdms, usable, n_bootstrap=n_bootstrap, seed=seed).models
    except InputError as error:
        notes.append(f"No comparison over subjects: {reason_of(error)}")
        return []
    # without a geometry that subjects share there is nothing to have a share of
    top = ceiling["upper"] if ceiling["p"] <= 0.05 else None
    return [
        {"model": str(name), "r": float(row["mean"])}
        | {key: float(row[key]) for key in ("low", "high", "p", "p_holm")}
        | {"share_of_ceiling": None if top is None else float(row["mean"]) / top}
        for name, row in fits.iterrows()
    ]


def _mantels(
    brain: Described, of_layers: Sequence[Described], models: Sequence[Described], **how: Any
) -> list[Described]:
    """Brain with every layer and model, and each decoder's last layer with every model."""
    last = {layer["of"]: layer for layer in of_layers}.values()
    pairs = [(brain, other) for other in [*of_layers, *models]]
    return [_mantel(*pair, **how) for pair in [*pairs, *product(last, models)]]


def _mantel(
    one: Described, other: Described, *, published: bool, allow_few: bool, seed: int
) -> Described:
    named = {"one": one["name"], "other": other["name"]}
    a, b = np.array(one["values"]), np.array(other["values"])
    try:
        found = mantel(a, b, allow_few=allow_few, seed=seed)
    except InputError as error:
        return named | {"refused": reason_of(error)}
    keys = ("r", "p", "p_smallest", "n_relabellings", "exact")
    described = named | {key: getattr(found, key) for key in keys}
    described["sentence"] = f"{one['name']} and {other['name']}: {found.describe()}"
    if published:
        p = float(stats.pearsonr(pairs_of(a), pairs_of(b)).pvalue)
        described["pearson_p"] = p
        described["sentence"] += (
            f" As published, the p of a plain correlation is {p:.3f}: it takes the pairs for "
            "independent."
        )
    return described


def _overall(brain: Brain, ceiling: Described, n_classes: int) -> str:
    if brain.subjects == ("all",):
        text = f"One RDM of {n_classes} classes, pooled over subjects as published."
    else:
        text = f"RDMs of {n_classes} classes in {len(brain.subjects)} subjects ({brain.distance})."
    if n_classes < FEWEST:
        text += (
            f" {n_classes} classes have {math.factorial(n_classes)} relabellings: Mantel's test, "
            f"which asks for {FEWEST} classes, cannot give p below 1/{math.factorial(n_classes)}."
        )
    if "p" in ceiling and ceiling["p"] > 0.05:
        text += " Where subjects share no geometry, no model of it can be told from another."
    return text

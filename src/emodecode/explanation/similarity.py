"""Representational similarity of a study: brains, network layers and models of the classes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from emodecode.errors import InputError
from emodecode.explain.affect import AFFECT
from emodecode.explain.crossnobis import crossnobis_rdm
from emodecode.explain.mantel import FEWEST, mantel
from emodecode.explain.noise import ShrunkNoise, cell_residuals, estimate_noise
from emodecode.explain.rdm import category_rdm, correlation_rdm, distance_rdm, pairs_of, rater_rdm
from emodecode.explain.rsa import bootstrap_rsa, noise_ceiling
from emodecode.explanation.geometry import Described, reason_of
from emodecode.samples import Samples

MOST_VALUES = 100_000_000
"""Values (samples x voxels) of one subject that enter a crossnobis distance, at most."""
_CHUNK, _MOST_PARTS, _GAP_S = 64, 10, 15.0
_CROSSED, _PLAIN = "brain (crossnobis)", "brain (1 - r)"


@dataclass(frozen=True, eq=False)
class Brain:
    """RDMs (n_subjects, n_classes, n_classes) of brains by one distance, and their mean."""

    name: str
    distance: str
    mean: np.ndarray = field(repr=False)
    sentence: str
    rdms: np.ndarray = field(repr=False)
    subjects: tuple[str, ...] = ()


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
        of one subject's samples are (at most `MOST_VALUES` values).
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
    brains = (_pooled if published else brain_rdms)(samples, classes, notes=notes)
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


def brain_rdms(samples: Samples, classes: Sequence[str], *, notes: list[str]) -> list[Brain]:
    """Return the subjects' RDMs by crossnobis and by 1 - r; `notes` say what is left out."""
    label, subject = samples.y, samples.subjects
    names = [who for who in np.unique(subject) if set(label[subject == who]) == set(classes)]
    missing = sorted(set(subject) - set(names))
    if missing:
        notes.append(f"Left out, for want of some class: {', '.join(missing)}.")
    crossed = _crossnobis(samples, classes, names, notes)
    plain = _each(
        lambda who: correlation_rdm(class_means(samples.X, label, np.flatnonzero(subject == who))),
        names,
        notes,
        "1 - r",
    )
    found = [] if crossed is None else [crossed]
    if plain:
        text = (
            "1 - r between the mean patterns of two classes, noise included: equal classes are not "
            f"at 0. Mean of {len(plain)} subjects."
        )
        rdms = np.stack(list(plain.values()))
        found.append(Brain(_PLAIN, "1 - r", rdms.mean(axis=0), text, rdms, tuple(plain)))
    return found


def class_means(X: np.ndarray, label: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return mean patterns (n_classes, n_voxels) of some rows, float64; few are read at once."""
    names, code = np.unique(label[rows], return_inverse=True)
    weights = (code == np.arange(len(names))[:, None]) / np.bincount(code)[:, None]
    means = np.zeros((len(names), X.shape[1]))
    for at in range(0, len(rows), _CHUNK):
        means += weights[:, at : at + _CHUNK] @ X[rows[at : at + _CHUNK]].astype(np.float64)
    return means


def partitions(table: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, str] | None:
    """Divide the samples of one subject into parts of independent noise with all classes in each.

    As many groups of successive runs as hold every class twice; else two groups of runs that hold
    it once; else the samples before and after a moment, those within 15 s of it left out. Of
    several the division whose rarest class is the largest. Rows without time: up to ten groups of
    each class's rows, in their order.

    Returns
    -------
    part : ndarray of int, shape (n_samples,)
        -1: in none.
    how : str
        What the parts are, for a sentence.
    """
    codes = np.searchsorted(list(classes), table["label"].to_numpy(dtype=str))
    keys = table[["session", "run"]].astype(str).agg("|".join, axis=1)
    run = pd.factorize(keys)[0]
    timed = bool(table["onset_s"].notna().all())
    group, n_groups = _groups_of_runs(_counts(run, codes, len(classes)), least=2 if timed else 1)
    if n_groups >= 2:
        return group[run], "runs" if n_groups == len(group) else "groups of successive runs"
    if timed:
        return _two_parts(table["onset_s"].to_numpy(dtype=float), run, codes, len(classes))
    sizes = np.bincount(codes, minlength=len(classes))
    n_parts = min(int(sizes.min()), _MOST_PARTS)
    nth = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    how = "successive rows of each class, which are taken for independent"
    return (nth * n_parts // sizes[codes], how) if n_parts >= 2 else None


def rater_shares(table: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame | None:
    """Return the raters' mean shares of votes (``p_CLASS``) in the samples of each class."""
    columns = [name for name in table if str(name).startswith("p_")]
    if not columns:
        return None
    shares = table.groupby(table["label"].astype(str))[columns].mean().loc[list(classes)]
    return shares.set_axis([str(name)[2:] for name in columns], axis=1)


def _pooled(samples: Samples, classes: Sequence[str], *, notes: list[str]) -> list[Brain]:
    """S1's RDM, of all subjects' samples together."""
    text = (
        f"As published: one mean pattern a class over all {len(set(samples.subjects))} subjects "
        f"and all {samples.n_voxels} voxels, 1 - r. It says nothing of other subjects."
    )
    rows = np.arange(samples.n_samples)
    found = _each(
        lambda _: correlation_rdm(class_means(samples.X, samples.y, rows)), ["all"], notes, "1 - r"
    )
    return [Brain(_PLAIN, "1 - r", rdm, text, rdm[None], ("all",)) for rdm in found.values()]


def _counts(
    part: np.ndarray, codes: np.ndarray, n_classes: int, *, n_parts: int | None = None
) -> np.ndarray:
    """Samples of each part and class, (n_parts, n_classes)."""
    n_parts = int(part.max()) + 1 if n_parts is None else n_parts
    found = np.bincount(part * n_classes + codes, minlength=n_parts * n_classes)
    return found.reshape(n_parts, n_classes)


def _groups_of_runs(counts: np.ndarray, *, least: int) -> tuple[np.ndarray, int]:
    """Group of each run: a group ends when it holds every class; what is left joins the last."""
    group, held, number = np.zeros(len(counts), dtype=int), np.zeros(counts.shape[1]), 0
    for run, own in enumerate(counts):
        group[run], held = number, held + own
        if held.min() >= least:
            number, held = number + 1, np.zeros_like(held)
    return np.minimum(group, max(number - 1, 0)), number


def _two_parts(
    onset: np.ndarray, run: np.ndarray, codes: np.ndarray, n_classes: int
) -> tuple[np.ndarray, str] | None:
    between = [(run >= border).astype(int) for border in range(1, int(run.max()) + 1)]
    within = []
    for at in np.lexsort((onset, run))[1:]:
        later = (run > run[at]) | ((run == run[at]) & (onset >= onset[at]))
        near = (run == run[at]) & (np.abs(onset - onset[at]) < _GAP_S)
        within.append(np.where(near, -1, later.astype(int)))
    for sides, how in ((between, "two groups of runs"), (within, "two parts of the time")):
        counts = [_counts(s[s >= 0], codes[s >= 0], n_classes, n_parts=2) for s in sides]
        # the rarest class first, then the smaller side
        worth = [each.min() + each.sum(axis=1).min() / (len(codes) + 1) for each in counts]
        if worth and max(worth) >= 1:
            return sides[int(np.argmax(worth))], how
    return None


def _crossnobis(
    samples: Samples, classes: Sequence[str], names: Sequence[str], notes: list[str]
) -> Brain | None:
    """Crossnobis RDMs of all subjects whose samples can be divided."""
    ways, thinned, whitened = set(), 0, set()

    def ask(who: str) -> np.ndarray:
        nonlocal thinned
        rows = np.flatnonzero(samples.subjects == who)
        found = partitions(samples.table.iloc[rows], classes)
        if found is None:
            raise InputError(
                f"subject {who}",
                found="no two independent parts with all classes",
                expected="two runs, or halves, with all classes",
                remedy="Use fewer classes, or 1 - r.",
            )
        part, how = found
        rows, part = rows[part >= 0], part[part >= 0]
        kept = _thin(samples.y[rows], part, MOST_VALUES // samples.n_voxels)
        thinned += len(kept) < len(rows)
        rows, part = rows[kept], part[kept]
        noise, source = _noise(samples, rows, part, who)
        ways.add(how)
        whitened.add(source)
        return crossnobis_rdm(samples.X[rows], samples.y[rows], part, noise=noise)

    found = _each(ask, names, notes, "crossnobis")
    if not found:
        return None
    text = (
        f"Squared distances a voxel, cross-validated over {' or '.join(sorted(ways))}; "
        f"{' or '.join(sorted(whitened))}. Equal classes are at 0 on average. Mean of {len(found)} "
        "subjects."
    )
    if thinned:
        text += f" Of {thinned} subjects samples were left out evenly, to save memory."
    rdms = np.stack(list(found.values()))
    return Brain(_CROSSED, "crossnobis", rdms.mean(axis=0), text, rdms, tuple(found))


def _thin(label: np.ndarray, part: np.ndarray, most: int) -> np.ndarray:
    """Positions that stay: all, or evenly spaced ones of each class and part."""
    if len(label) <= most:
        return np.arange(len(label))
    cells = pd.Series(np.arange(len(label))).groupby([part, label]).indices.values()
    each = max(2, most // len(cells))
    places = [np.unique(np.linspace(0, len(own) - 1, each).round().astype(int)) for own in cells]
    return np.sort(np.concatenate([own[at] for own, at in zip(cells, places, strict=True)]))


def _noise(samples: Samples, rows: np.ndarray, part: np.ndarray, who: str) -> tuple[Any, str]:
    """What whitens a subject's patterns, and how that is said."""
    cells = np.char.add(samples.y[rows], part.astype(str))
    if len(np.unique(cells)) < len(rows):
        return None, (
            "whitened by the shrunk covariance of the subject's samples around the means of class "
            "and part"
        )
    # one sample a cell: what is left of it would be made of the distances' own differences
    others = np.flatnonzero(samples.subjects != who)
    if len(others) * samples.n_voxels <= MOST_VALUES and len(others) > 2:
        of_whom = np.char.add(np.char.add(samples.subjects[others], "|"), samples.y[others])
        residuals, df = cell_residuals(samples.X[others], of_whom)
        if df >= 1:
            noise: ShrunkNoise = estimate_noise(residuals, df=df)
            return noise, (
                "whitened by the shrunk covariance of the other subjects' samples around their "
                "class means (one sample a class and part of the subject's own)"
            )
    return "identity", "not whitened (one sample a class and part)"


def _each(ask: Any, names: Sequence[str], notes: list[str], what: str) -> dict[str, np.ndarray]:
    """RDM of each subject that has one; why others have none is noted once for each reason."""
    found: dict[str, np.ndarray] = {}
    failed: dict[str, list[str]] = {}
    for who in names:
        try:
            found[str(who)] = ask(who)
        except InputError as error:
            failed.setdefault(reason_of(error), []).append(str(who))
    for reason, whom in failed.items():
        notes.append(f"No {what} for {len(whom)} subjects ({', '.join(whom[:5])}): {reason}")
    return found


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

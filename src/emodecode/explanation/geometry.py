"""Geometry of a decoder's map: where its strongest voxels lie and how the classes share units.

Everything comes with what it would be without structure: S1 drew both pictures and tested neither
(spec S1.21, S1.22, S1.27).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.explain.affect import (
    AFFECT,
    affect_coordinates,
    class_centroids,
    fit_overlay,
    fit_procrustes,
)
from emodecode.explain.embedding import ClusterCount, MethodName, cluster_count, embed, stability
from emodecode.study import Study

N_NEIGHBORS = 30
"""Neighbours of a point in UMAP and in the overlaps (S1)."""
MIN_DIST = 0.1
N_STABLE = 400
"""Points, drawn at random, of which stability is measured: UMAP takes 7 s for 2,500 points."""
N_BOOTSTRAP = 2
N_NULL = 39
"""Null sets of the cluster count: the smallest two-sided p is .05."""
_PLACES = ("umap_1", "umap_2", "pca_1", "pca_2")
_MIDDLE = 0.9
"""Share of the null sets that lie between ``null_low`` and ``null_high``."""

Described = dict[str, Any]


def spatial(
    top: pd.DataFrame,
    *,
    mask_image: Any,
    fwhm_mm: float | None = None,
    seed: int = 0,
    n_neighbors: int = N_NEIGHBORS,
    n_stable: int = N_STABLE,
    n_bootstrap: int = N_BOOTSTRAP,
    n_null: int = N_NULL,
) -> tuple[pd.DataFrame, Described]:
    """Lay out the coordinates of the strongest voxels of each class (S1, Figure 4a).

    Parameters
    ----------
    top : DataFrame
        ``class x_mm y_mm z_mm drop``, one row a voxel and class.
    mask_image : NIfTI image
        Voxels that null points are drawn from.
    fwhm_mm : float, optional
        Smoothness of the map (for boxes about their edge). The null points are then the highest
        voxels of noise that is as smooth; without it they are independent random voxels, which
        never lie in clumps as the voxels of a smooth map do.
    seed : int
        Of UMAP and of everything that is drawn.
    n_neighbors, n_stable, n_bootstrap, n_null : int
        Neighbours; points whose stability is measured; bootstraps; null sets of the clusters.

    Returns
    -------
    table : DataFrame
        `top` with ``umap_1 umap_2 pca_1 pca_2``; NaN where there is no layout.
    described : dict
        ``n_points pca_explained umap pca clusters`` for ``geometry.json``; ``{"refused": reason}``
        in the place of a part, or of all, that cannot be made.

    References
    ----------
    McInnes, Healy and Melville (2018), arXiv:1802.03426. Campello, Moulavi and Sander (2013),
    PAKDD 160-172.
    """
    points = top[["x_mm", "y_mm", "z_mm"]].to_numpy(dtype=np.float64)
    sizes: dict[str, int] = {
        "n_neighbors": n_neighbors,
        "n_stable": n_stable,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    places, described = _lay_out(points, **sizes)
    smooth = fwhm_mm is not None
    what = (
        f"the highest voxels of noise as smooth as the map ({fwhm_mm:g} mm)"
        if smooth
        else "as many random voxels of the mask for each class"
    )

    def count() -> ClusterCount:
        return cluster_count(
            points,
            null="smooth-in-mask" if smooth else "uniform-in-mask",
            mask=mask_image,
            classes=top["class"].to_numpy(dtype=str),
            fwhm_mm=fwhm_mm,
            n_null=n_null,
            seed=seed,
        )

    if "refused" not in described:
        described["clusters"] = _clusters(count, what)
        if not smooth and "sentence" in described["clusters"]:
            described["clusters"]["sentence"] += (
                " Voxels of any smooth map lie in clumps, random voxels never do: a difference "
                "from them is no evidence for groups of regions."
            )
    return top.reset_index(drop=True).join(places), described


def functional(
    drops: np.ndarray,
    unit_names: Sequence[str],
    classes: Sequence[str],
    *,
    top_k: int,
    own_class: bool = False,
    seed: int = 0,
    n_neighbors: int = N_NEIGHBORS,
    n_stable: int = N_STABLE,
    n_bootstrap: int = N_BOOTSTRAP,
    n_null: int = N_NULL,
) -> tuple[pd.DataFrame, Described]:
    """Lay out units by what each class's probability loses without them (S1, Figure 4b).

    The units are those that are among the `top_k` largest drops of some class. Null units have the
    mean, the covariance and the distances from the mean of all units, but random directions, and
    as many are chosen by the same rule: choosing the best of each class makes groups by itself.

    Parameters
    ----------
    drops : ndarray of shape (n_units, n_classes)
        Mean drop of the probability of every class, over one set of samples.
    unit_names, classes : sequence of str
    top_k : int
    own_class : bool
        `drops` has S1's form instead: column e is the drop of class e over the samples of class e.
    seed, n_neighbors, n_stable, n_bootstrap, n_null
        See :func:`spatial`.

    Returns
    -------
    table : DataFrame
        ``unit strongest``, ``drop_CLASS`` for every class, and the places as in :func:`spatial`.
    described : dict
        As in :func:`spatial`, with ``own_class`` and ``sentence``.
    """
    values = np.asarray(drops, dtype=np.float64)
    if values.ndim != 2 or values.shape != (len(unit_names), len(classes)):
        raise InputError(
            "functional geometry",
            found=f"drops of shape {values.shape} for {len(unit_names)} units and "
            f"{len(classes)} classes",
            expected="one row a unit, one column a class",
            remedy="Average the drops over samples, or subjects, first.",
        )
    best = _best_ranks(values)
    chosen = np.flatnonzero(best < top_k)
    points = values[chosen]
    table = pd.DataFrame({"unit": np.asarray(unit_names, dtype=object)[chosen]})
    table["strongest"] = np.asarray(classes, dtype=object)[points.argmax(axis=1)]
    for column, name in enumerate(classes):
        table[f"drop_{name}"] = points[:, column]
    sizes: dict[str, int] = {
        "n_neighbors": n_neighbors,
        "n_stable": n_stable,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
    }
    places, described = _lay_out(points, **sizes)
    if "refused" not in described:
        what = "units of the same covariance but random directions, chosen likewise,"
        described["clusters"] = _clusters(
            lambda: cluster_count(
                points, null=_null_units(values, len(chosen), n_null=n_null, seed=seed), seed=seed
            ),
            what,
        )
    described |= {"own_class": own_class, "sentence": _about_colour(own_class)}
    return table.join(places), described


def overlay(
    table: pd.DataFrame,
    affect: pd.DataFrame | None,
    *,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Described:
    """Lay valence and arousal into the functional UMAP, fitted on the classes' centroids.

    S1 drew both axes by hand (Figure 6, spec S1.27).

    Parameters
    ----------
    table : DataFrame
        From :func:`functional`.
    affect : DataFrame or None
        Index class, columns ``valence arousal`` (:func:`affect_of`).
    n_permutations, seed : int
        For more than seven classes; up to seven all relabellings are made.

    Returns
    -------
    dict
        ``r2`` (1 less the Procrustes disparity), ``p p_smallest exact classes sentence``;
        ``centroids`` and ``fitted``, the classes and their valence-arousal in the plane of the
        UMAP; ``valence_axis`` and ``arousal_axis``, one step of each in that plane; ``affect``, the
        ratings. Or ``{"refused": reason}``.
    """
    if affect is None:
        return {"refused": "The annotations of this study hold no valence and arousal."}
    if table.empty or not np.isfinite(table[["umap_1", "umap_2"]].to_numpy(dtype=float)).all():
        return {"refused": "There is no UMAP of the units to lay valence and arousal into."}
    known = affect[list(AFFECT)].dropna()
    try:
        centroids = class_centroids(
            table[["umap_1", "umap_2"]].to_numpy(dtype=float),
            table["strongest"].to_numpy(dtype=str),
        )
        names = [str(name) for name in centroids.index if name in known.index]
        rated = known.loc[names]
        found = fit_overlay(centroids.loc[names], rated, n_permutations=n_permutations, seed=seed)
        back = fit_procrustes(rated.to_numpy(dtype=float), centroids.loc[names].to_numpy())
    except InputError as error:
        return {"refused": reason_of(error)}
    axes = back.rotation * back.scale
    left_out = sorted(set(map(str, affect.index)) - set(names))
    return {
        "r2": 1.0 - found.disparity,
        "p": found.p_value,
        "p_smallest": found.smallest_p,
        "exact": found.is_exact,
        "classes": names,
        "centroids": centroids.loc[names].to_numpy().tolist(),
        "fitted": back.apply(rated.to_numpy(dtype=float)).tolist(),
        "valence_axis": axes[0].tolist(),
        "arousal_axis": axes[1].tolist(),
        "affect": rated.to_numpy(dtype=float).tolist(),
        "sentence": _about_overlay(found, left_out),
    }


def affect_of(study: Study, *, classes: Sequence[str]) -> pd.DataFrame | None:
    """Return valence and arousal of the classes as the study's own annotations judge them.

    Parameters
    ----------
    study : Study
    classes : sequence of str

    Returns
    -------
    DataFrame or None
        See `emodecode.explain.affect.affect_coordinates` (``by="rows"``: the judgements that name
        the class). None where the labels are no annotations, or these judge no valence and
        arousal, or do not name the classes.
    """
    rules = study.labels
    if rules.source != "annotations" or rules.path is None:
        return None
    from emodecode.read.annotations import read_annotations

    try:
        annotations = read_annotations(
            rules.path,
            pattern=rules.pattern,
            format=rules.annotation_format,
            variable=rules.variable,
        )
        if rules.characters:
            annotations = annotations[annotations["character"].isin(rules.characters)]
        return affect_coordinates(
            annotations,
            classes=classes,
            by="rows",
            grid_s=rules.grid_s,
            split_labels=rules.split_labels,
            merge=rules.merge or None,
        )
    except (InputError, DataMissingError):
        return None


def reason_of(error: InputError) -> str:
    """Say in one sentence why something was refused."""
    found = " ".join(error.found.split())
    if found.split(" ")[0].isalpha():
        found = found[0].upper() + found[1:]
    return f"{found}; needed: {' '.join(error.expected.split())}."


def _lay_out(
    points: np.ndarray, *, n_neighbors: int, n_stable: int, n_bootstrap: int, seed: int
) -> tuple[pd.DataFrame, Described]:
    """Places by UMAP and PCA, and how stable both are."""
    places = pd.DataFrame(np.nan, index=range(len(points)), columns=list(_PLACES))
    try:
        by_pca = embed(points, method="pca")
    except InputError as error:
        return places, {"refused": reason_of(error)}
    assert by_pca.explained is not None
    places[["pca_1", "pca_2"]] = by_pca.places
    described: Described = {
        "n_points": len(points),
        "pca_explained": [float(share) for share in by_pca.explained],
    }
    how: dict[str, Any] = {"n_neighbors": n_neighbors, "n_bootstrap": n_bootstrap, "seed": seed}
    methods: tuple[MethodName, ...] = ("umap", "pca")
    try:
        by_umap = embed(points, n_neighbors=n_neighbors, min_dist=MIN_DIST, seed=seed)
        places[["umap_1", "umap_2"]] = by_umap.places
    except InputError as error:
        few = f"{len(points)} points are too few for a UMAP of {n_neighbors} neighbours."
        text = few if len(points) <= n_neighbors else reason_of(error)
        described["umap"], methods = {"refused": text}, ("pca",)
    for method in methods:
        try:
            described[method] = _stable(points, method, n_stable=n_stable, **how)
        except InputError:
            text = f"bootstraps of {len(points)} points leave too few for {n_neighbors} neighbours"
            described[method] = {"refused": f"How stable it is, is not known: {text}."}
    return places, described


def _stable(
    points: np.ndarray,
    method: MethodName,
    *,
    n_neighbors: int,
    n_stable: int,
    n_bootstrap: int,
    seed: int,
) -> Described:
    """Overlap of neighbours over seeds and bootstraps, and of structureless points."""
    some = points
    if len(points) > n_stable:
        drawn = np.random.default_rng(seed).choice(len(points), n_stable, replace=False)
        some = points[np.sort(drawn)]
    summary = stability(
        some,
        method=method,
        seeds=(seed, seed + 1),
        n_bootstrap=n_bootstrap,
        n_neighbors=n_neighbors,
        min_dist=MIN_DIST,
        seed=seed,
    ).summary
    column = summary["neighbour_overlap"]
    by_seed = float(column["given", "seeds"]) if method == "umap" else None
    drawn_again = float(column["given", "bootstrap"]) if n_bootstrap else None
    null = float(column["structureless", "seeds" if method == "umap" else "bootstrap"])
    chance = n_neighbors / (len(some) - 1)
    return {
        "overlap_seeds": by_seed,
        "overlap_bootstrap": drawn_again,
        "overlap_null": null,
        "overlap_chance": chance,
        "n_points": len(some),
        "sentence": _about_stability(
            (by_seed, drawn_again, null, chance), n_neighbors, len(some), len(points)
        ),
    }


def _about_stability(
    overlaps: tuple[float | None, float | None, float, float], k: int, n: int, n_all: int
) -> str:
    by_seed, drawn_again, null, chance = overlaps
    parts = [] if by_seed is None else [f"two seeds share {by_seed:.0%}"]
    parts += [] if drawn_again is None else [f"bootstraps share {drawn_again:.0%}"]
    text = " and ".join(parts)
    of = f"{n} of the {n_all} points, drawn at random" if n < n_all else f"all {n} points"
    return (
        f"{text[:1].upper()}{text[1:]} of a point's {k} nearest neighbours ({of}). Structureless "
        f"points of the same covariance share {null:.0%}, unrelated places {chance:.0%}."
    )


def _clusters(count: Any, what: str) -> Described:
    """Number of clusters beside that of null points, as in ``geometry.json``."""
    try:
        found: ClusterCount = count()
    except InputError as error:
        return {"refused": reason_of(error)}
    tail = (1 - _MIDDLE) / 2
    low = float(np.quantile(found.null_counts, tail, method="lower"))
    high = float(np.quantile(found.null_counts, 1 - tail, method="higher"))
    n_null = len(found.null_counts)
    fewer = (1 + np.sum(found.null_counts <= found.n_clusters)) / (1 + n_null)
    p = float(min(1.0, 2 * min(fewer, found.p_count)))
    named = "1 cluster" if found.n_clusters == 1 else f"{found.n_clusters} clusters"
    text = (
        f"HDBSCAN finds {named} of at least {found.min_cluster_size} points; {what} give "
        f"{low:g} to {high:g} in {_MIDDLE:.0%} of {n_null} sets (two-sided p = {p:.3f}, at least "
        f"{min(1.0, 2 * found.smallest_p):.3f})."
    )
    if p > 0.05:
        text += " The number of clusters is no evidence for structure."
    return {
        "n": found.n_clusters,
        "null_low": low,
        "null_high": high,
        "p": p,
        "strength": found.strength,
        "p_strength": found.p_strength,
        "sentence": text,
    }


def _best_ranks(drops: np.ndarray) -> np.ndarray:
    """Rank of each unit in the class where it ranks best; 0 is the largest drop of a class."""
    order = np.argsort(-drops, axis=0, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(drops))[:, None], axis=0)
    return ranks.min(axis=1)


def _null_units(drops: np.ndarray, n_chosen: int, *, n_null: int, seed: int) -> np.ndarray:
    """Null sets (n_null, n_chosen, n_classes): random directions at the units' own distances."""
    rng = np.random.default_rng(seed)
    centred = drops - drops.mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    # probabilities add up to 1, so drops of all classes add up to 0: one axis less
    kept = sizes > 1e-9 * sizes[0] if sizes[0] > 0 else sizes > 0
    spread = axes[kept] * sizes[kept, None] / np.sqrt(len(drops))
    radii = np.linalg.norm(centred @ np.linalg.pinv(spread), axis=1)
    sets = []
    for _ in range(n_null):
        directions = rng.standard_normal((len(drops), int(kept.sum())))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        drawn = drops.mean(axis=0) + (rng.permutation(radii)[:, None] * directions) @ spread
        sets.append(drawn[np.argsort(_best_ranks(drawn), kind="stable")[:n_chosen]])
    return np.array(sets)


def _about_colour(own_class: bool) -> str:
    text = (
        "The colour of a point is the class of the largest of the very numbers that placed it: "
        "colours form groups by construction."
    )
    if own_class:
        text += (
            " As published, each number is the drop of one class over that class's own samples, "
            "so the numbers of a point come from different samples."
        )
    return text


def _about_overlay(found: Any, left_out: Sequence[str]) -> str:
    r2, how = 1.0 - found.disparity, "all" if found.is_exact else "sampled"
    text = (
        f"Valence and arousal explain {r2:.0%} of the places of {len(found.classes)} classes "
        f"after shift, turn, mirroring and scale, relabelled classes "
        f"{1 - found.chance_disparity:.0%} on average (p = {found.p_value:.3f} over {how} "
        f"{found.n_relabellings} relabellings, at least {found.smallest_p:.3f})."
    )
    if found.p_value > 0.05:
        text += " The picture is not arranged by valence and arousal more than by chance."
    if left_out:
        text += f" Without a unit of their own: {', '.join(left_out)}."
    return text

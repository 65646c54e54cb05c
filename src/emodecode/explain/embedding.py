"""Points in two dimensions, how stable that picture is, and whether its clusters are any news."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from sklearn.cluster import HDBSCAN
from sklearn.decomposition import PCA
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from emodecode.errors import InputError
from emodecode.explain.affect import check_points, fit_procrustes

MethodName = Literal["umap", "pca"]
FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))
N_CHANCE = 20


@dataclass(frozen=True, eq=False)
class Embedding:
    """Points in two dimensions.

    Parameters
    ----------
    places : ndarray of shape (n_points, 2)
    method : {"umap", "pca"}
    explained : ndarray of shape (2,) or None
        PCA: share of the variance of the points that each axis holds.
    """

    places: np.ndarray = field(repr=False)
    method: MethodName
    explained: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Stability:
    """How alike embeddings of the same points are.

    Parameters
    ----------
    table : DataFrame
        One row a pair of embeddings: ``points`` ("given", or "structureless": normal points with
        the mean and covariance of the given ones), ``pair`` ("seeds" or "bootstrap"), ``n_points``
        in both, ``procrustes_r``, ``disparity``, ``neighbour_overlap`` (mean share of a point's
        nearest neighbours that it has in both), ``chance_r`` and ``chance_overlap`` (the same with
        the points of one of the two in random order).
    n_neighbors : int
        Neighbours that the overlap counts.
    """

    table: pd.DataFrame = field(repr=False)
    n_neighbors: int

    @property
    def summary(self) -> pd.DataFrame:
        """Means of the table's numbers for each kind of points and of pair."""
        return self.table.groupby(["points", "pair"], sort=False).mean()


@dataclass(frozen=True, eq=False)
class ClusterCount:
    """Number of clusters of some points beside that of null points.

    Parameters
    ----------
    n_clusters : int
    labels : ndarray of int, shape (n_points,)
        Cluster of each point, -1 for none.
    null_counts : ndarray of int, shape (n_null,)
        Number of clusters of each null set.
    p_count : float
        Share of the null sets (with the observed one) that have at least as many clusters.
    strength, null_strengths : float, ndarray of shape (n_null,)
        Mean silhouette of the points in clusters times the share of points that are in one; 0
        without clusters. Unlike the count it tells apart clusters of structureless points.
    p_strength : float
        Share of the null sets (with the observed one) that are at least as strong.
    min_cluster_size : int
        Fewest points that HDBSCAN took for a cluster.
    """

    n_clusters: int
    labels: np.ndarray = field(repr=False)
    null_counts: np.ndarray = field(repr=False)
    p_count: float
    strength: float
    null_strengths: np.ndarray = field(repr=False)
    p_strength: float
    min_cluster_size: int

    @property
    def smallest_p(self) -> float:
        """Smallest p that this number of null sets can give."""
        return 1.0 / (len(self.null_counts) + 1)

    @property
    def share_same(self) -> float:
        """Share of the null sets that have exactly the observed number of clusters."""
        return float(np.mean(self.null_counts == self.n_clusters))


def embed(
    points: np.ndarray,
    *,
    method: MethodName = "umap",
    n_neighbors: int = 30,
    min_dist: float = 0.1,
    seed: int = 0,
) -> Embedding:
    """Lay points out in two dimensions.

    Spatial: the coordinates in mm of each class's strongest voxels (S1, Figure 4a); functional:
    their drop vectors, voxel x class, all from one set of samples (Figure 4b).

    Parameters
    ----------
    points : ndarray of shape (n_points, n_columns)
    method : {"umap", "pca"}
        PCA keeps distances as well as two axes can. UMAP keeps neighbours: distances between
        groups, their sizes and their number are no reliable part of it.
    n_neighbors, min_dist, seed
        Of UMAP; S1's values.

    Raises
    ------
    InputError
        Values that are not finite, all points the same, no more points than neighbours, or
        umap-learn is missing.

    References
    ----------
    McInnes, Healy and Melville (2018), arXiv:1802.03426.
    """
    points = check_points(points)
    if method not in ("umap", "pca"):
        found = f"method = {method!r}"
        raise InputError(
            "embedding", found=found, expected="'umap' or 'pca'", remedy="Correct method."
        )
    if method == "pca":
        return _principal(points)
    _check_neighbours(len(points), n_neighbors)
    # n_jobs: UMAP with a seed runs on one thread in any case, and warns if it was asked for more
    umap = _umap_class()(
        n_neighbors=n_neighbors, min_dist=min_dist, random_state=seed, n_jobs=1, n_components=2
    )
    return Embedding(umap.fit_transform(points / _unit(points)).astype(np.float64), "umap")


def neighbour_overlap(one: np.ndarray, two: np.ndarray, *, n_neighbors: int = 30) -> float:
    """Mean share of each point's nearest neighbours that it has in both sets of places.

    Row i of both is the same point. Places without any relation to each other give
    ``n_neighbors / (n_points - 1)``.
    """
    _check_neighbours(len(one), n_neighbors)
    first, second = _neighbours(one, n_neighbors), _neighbours(two, n_neighbors)
    shared = [len(np.intersect1d(*pair)) for pair in zip(first, second, strict=True)]
    return float(np.mean(shared)) / n_neighbors


def stability(
    points: np.ndarray,
    *,
    method: MethodName = "umap",
    seeds: Sequence[int] = (0, 1, 2, 3),
    n_bootstrap: int = 4,
    n_null: int = 1,
    n_neighbors: int = 30,
    min_dist: float = 0.1,
    seed: int = 0,
) -> Stability:
    """Measure how alike embeddings of the same points are over seeds and bootstraps.

    Every pair of seeds is compared over all points, and the embedding of every bootstrap sample
    with that of all points (first seed) over the points that were drawn. A point that was drawn
    several times counts once, so that no copy becomes a neighbour.

    UMAP keeps neighbours even where there is nothing but noise. The figures of structureless
    points, and those of points in random order, say what an agreement is worth.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_columns)
    method, n_neighbors, min_dist
        See :func:`embed`; `n_neighbors` is also what the overlap counts.
    seeds : sequence of int
        Seeds of UMAP. PCA has none: only bootstraps are compared.
    n_bootstrap : int
    n_null : int
        Sets of structureless points that go through the same.
    seed : int
        For bootstraps and structureless points.

    Raises
    ------
    InputError
        As :func:`embed`; also where a bootstrap has no more points than neighbours, and where
        there is nothing to compare.
    """
    points = check_points(points)
    if method == "pca":
        seeds = seeds[:1] or (0,)
    if not len(seeds) or (len(seeds) < 2 and not n_bootstrap):
        raise InputError(
            "stability",
            found=f"{len(seeds)} seeds for {method} and {n_bootstrap} bootstraps",
            expected="two seeds or one bootstrap at least",
            remedy="Give more seeds, or n_bootstrap from 1.",
        )
    rng = np.random.default_rng(seed)
    settings: dict[str, Any] = {"method": method, "n_neighbors": n_neighbors, "min_dist": min_dist}
    sets = [("given", points)]
    sets += [("structureless", _structureless(points, rng)) for _ in range(n_null)]
    rows = []
    for name, own in sets:
        draws = [np.unique(rng.integers(0, len(own), len(own))) for _ in range(n_bootstrap)]
        places = [embed(own, seed=each, **settings).places for each in seeds]
        for one, two in combinations(places, 2):
            rows.append({"points": name, "pair": "seeds"} | _compare(one, two, n_neighbors, rng))
        for draw in draws:
            part = embed(own[draw], seed=seeds[0], **settings).places
            found = _compare(places[0][draw], part, n_neighbors, rng)
            rows.append({"points": name, "pair": "bootstrap"} | found)
    return Stability(pd.DataFrame(rows), n_neighbors)


def cluster_count(
    points: np.ndarray,
    *,
    null: str | np.ndarray = "uniform-in-mask",
    mask: Any = None,
    classes: np.ndarray | None = None,
    fwhm_mm: float | None = None,
    embed_with: Mapping[str, Any] | None = None,
    min_cluster_size: int | None = None,
    n_null: int = 99,
    seed: int = 0,
) -> ClusterCount:
    """Count the clusters of points (HDBSCAN) and do the same with null points.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_columns)
        Coordinates in mm for the nulls in a mask; anything for given nulls.
    null : str or ndarray
        ``"uniform-in-mask"``: random voxels of `mask`. ``"smooth-in-mask"``: for each class the
        highest voxels of noise smoothed by `fwhm_mm`; the strongest voxels of any smooth map lie
        in clumps, which independent voxels never do, so this is the fairer null for a smooth map.
        An array (n_candidates, n_columns): rows to draw from (the drop vectors of all voxels). An
        array (n_null, n_points, n_columns): the null sets themselves (voxels of decoders that
        were trained on shuffled labels).
    mask : NIfTI image, optional
        Needed by the nulls in a mask; voxels that are not 0.
    classes : ndarray of shape (n_points,), optional
        Class of every point: null points are drawn without repetition within a class, as many for
        each class as it has. Without: within all.
    fwhm_mm : float, optional
        Smoothness of the map, for ``"smooth-in-mask"``.
    embed_with : mapping, optional
        Arguments of :func:`embed` (``{"method": "umap"}``): points and null points are embedded
        before the clusters are counted. UMAP takes about 10 s for 2,500 points: lower `n_null`.
    min_cluster_size : int, optional
        Default: a tenth of the points, at least 5. With much less HDBSCAN finds clusters in any
        points.
    n_null, seed : int

    Raises
    ------
    InputError
        Points or null points that do not fit, no mask, or fewer points than a cluster needs.

    References
    ----------
    Campello, Moulavi and Sander (2013), PAKDD 160-172 (HDBSCAN).
    """
    points = check_points(points)
    if min_cluster_size is None:
        min_cluster_size = max(5, len(points) // 10)
    _check_cluster_size(min_cluster_size, len(points))
    rng = np.random.default_rng(seed)
    nulls = _null_sets(points, null, mask, _class_sizes(classes, len(points)), fwhm_mm, n_null, rng)
    labels, strength = _clusters(points, embed_with, min_cluster_size)
    found = [_clusters(each, embed_with, min_cluster_size) for each in nulls]
    counts = np.array([int(each.max()) + 1 for each, _ in found])
    strengths = np.array([each for _, each in found])
    n_clusters = int(labels.max()) + 1
    p_count = (1 + np.sum(counts >= n_clusters)) / (1 + len(counts))
    p_strength = (1 + np.sum(strengths >= strength - 1e-12)) / (1 + len(counts))
    return ClusterCount(
        n_clusters,
        labels,
        counts,
        float(p_count),
        strength,
        strengths,
        float(p_strength),
        min_cluster_size,
    )


def _check_neighbours(n_points: int, n_neighbors: int) -> None:
    if not 2 <= n_neighbors < n_points:
        raise InputError(
            "embedding",
            found=f"n_neighbors = {n_neighbors} for {n_points} points",
            expected="from 2 to fewer than there are points",
            remedy="Lower n_neighbors, or take more points (a bootstrap keeps about 63 %).",
        )


def _check_cluster_size(min_cluster_size: int, n_points: int) -> None:
    if not 2 <= min_cluster_size <= n_points // 2:
        raise InputError(
            "cluster count",
            found=f"min_cluster_size = {min_cluster_size} for {n_points} points",
            expected="from 2 to half the number of points",
            remedy="Take more points, or correct min_cluster_size.",
        )


def _umap_class() -> Any:
    try:
        with warnings.catch_warnings():
            # umap says on import that its parametric form, which needs TensorFlow, is not there
            warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
            from umap import UMAP
    except ImportError as error:
        raise InputError(
            "embedding",
            found="umap-learn is not installed",
            expected="the libraries of emodecode[explain]",
            remedy="pip install 'emodecode[explain]', or use method = 'pca'.",
        ) from error
    return UMAP


def _unit(points: np.ndarray) -> float:
    """Power of two that is no smaller than the points' root mean square distance from the middle.

    UMAP knows no units, but groups without neighbours in common are placed by ``exp(-d^2)``, which
    is 0 for distances in mm. A power of two changes no digit of anything else.
    """
    rms = np.sqrt(np.mean(np.sum((points - points.mean(axis=0)) ** 2, axis=1)))
    return float(2.0 ** np.ceil(np.log2(rms)))


def _principal(points: np.ndarray) -> Embedding:
    pca = PCA(n_components=2, svd_solver="full").fit(points)
    return Embedding(pca.transform(points), "pca", pca.explained_variance_ratio_)


def _structureless(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Normal points with the mean and covariance of the given ones."""
    centred = points - points.mean(axis=0)
    noise = rng.standard_normal((len(points), len(points)))
    return points.mean(axis=0) + noise @ centred / np.sqrt(len(points) - 1)


def _neighbours(places: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Nearest neighbours of every point without itself, (n_points, n_neighbors)."""
    return NearestNeighbors(n_neighbors=n_neighbors).fit(places).kneighbors(return_distance=False)


def _compare(
    one: np.ndarray, two: np.ndarray, n_neighbors: int, rng: np.random.Generator
) -> dict[str, float]:
    aligned = fit_procrustes(two, one)
    by_chance = [fit_procrustes(rng.permutation(two), one).correlation for _ in range(N_CHANCE)]
    return {
        "n_points": len(one),
        "procrustes_r": aligned.correlation,
        "disparity": aligned.disparity,
        "neighbour_overlap": neighbour_overlap(one, two, n_neighbors=n_neighbors),
        "chance_r": float(np.mean(by_chance)),
        "chance_overlap": n_neighbors / (len(one) - 1),
    }


def _clusters(
    points: np.ndarray, embed_with: Mapping[str, Any] | None, min_cluster_size: int
) -> tuple[np.ndarray, float]:
    """Cluster of every point, and the strength of the clusters."""
    if embed_with is not None:
        points = embed(points, **embed_with).places
    labels = HDBSCAN(min_cluster_size=min_cluster_size, copy=True).fit_predict(points)
    inside = labels >= 0
    if len(np.unique(labels[inside])) < 2:
        return labels, 0.0
    return labels, float(silhouette_score(points[inside], labels[inside]) * inside.mean())


def _class_sizes(classes: np.ndarray | None, n_points: int) -> list[int]:
    """How many points are drawn together."""
    if classes is None:
        return [n_points]
    if len(classes) != n_points:
        raise InputError(
            "cluster count",
            found=f"{len(classes)} classes for {n_points} points",
            expected="the class of every point",
            remedy="Give classes in the order of the points.",
        )
    return np.unique(np.asarray(classes), return_counts=True)[1].tolist()


def _null_sets(
    points: np.ndarray,
    null: str | np.ndarray,
    mask: Any,
    sizes: list[int],
    fwhm_mm: float | None,
    n_null: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    if isinstance(null, str):
        inside, candidates = _voxels(points, null, mask)
    else:
        given = np.asarray(null, dtype=np.float64)
        if given.ndim == 3 and given.shape[1:] == points.shape and len(given):
            return [check_points(each, "null points") for each in given]
        inside, candidates = np.empty(0), given
    if candidates.ndim != 2 or candidates.shape[1] != points.shape[1]:
        raise InputError(
            "null points",
            found=f"an array of shape {candidates.shape} for points of shape {points.shape}",
            expected="(n_candidates, n_columns) or (n_null, n_points, n_columns)",
            remedy="Give null points with the columns of the points.",
        )
    _check_draw(len(candidates), sizes, n_null)
    check_points(candidates, "null points")
    smooth = isinstance(null, str) and null == "smooth-in-mask"
    sigma_vox = _sigma_vox(fwhm_mm, mask) if smooth else None

    def pick(size: int) -> np.ndarray:
        if sigma_vox is not None:
            return _highest(inside, sigma_vox, size, rng)
        return rng.choice(len(candidates), size, replace=False)

    return [candidates[np.concatenate([pick(size) for size in sizes])] for _ in range(n_null)]


def _voxels(points: np.ndarray, null: str, mask: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mask as an array, and the coordinates in mm of its voxels (n_voxels, 3)."""
    if null not in ("uniform-in-mask", "smooth-in-mask"):
        raise InputError(
            "null points",
            found=f"null = {null!r}",
            expected="'uniform-in-mask', 'smooth-in-mask' or an array of points",
            remedy="Correct null.",
        )
    if mask is None or points.shape[1] != 3:
        raise InputError(
            "null points",
            found=f"points with {points.shape[1]} columns, {'no' if mask is None else 'a'} mask",
            expected=f"coordinates in mm (3 columns) and a mask for null = {null!r}",
            remedy="Give coordinates and mask (embed_with embeds both), or null points.",
        )
    inside = np.asanyarray(mask.dataobj) != 0
    return inside, np.argwhere(inside) @ mask.affine[:3, :3].T + mask.affine[:3, 3]


def _check_draw(n_candidates: int, sizes: list[int], n_null: int) -> None:
    if n_null < 1 or n_candidates < max(sizes):
        raise InputError(
            "null points",
            found=f"{n_candidates} candidates and n_null = {n_null}",
            expected=f"at least {max(sizes)} candidates and one null set",
            remedy="Give a larger mask, more candidates, or correct n_null.",
        )


def _sigma_vox(fwhm_mm: float | None, mask: Any) -> np.ndarray:
    if fwhm_mm is None or not 0 < fwhm_mm < np.inf:
        raise InputError(
            "null points",
            found=f"fwhm_mm = {fwhm_mm}",
            expected="the smoothness of the map in mm, above 0",
            remedy="Give fwhm_mm; for boxes of an occlusion, about their edge.",
        )
    size_mm = np.linalg.norm(mask.affine[:3, :3], axis=0)
    return fwhm_mm / FWHM_PER_SIGMA / size_mm


def _highest(
    inside: np.ndarray, sigma_vox: np.ndarray, size: int, rng: np.random.Generator
) -> np.ndarray:
    """Numbers, within the mask, of the highest voxels of smooth noise."""
    noise = gaussian_filter(rng.standard_normal(inside.shape), sigma_vox, mode="wrap")[inside]
    return np.argpartition(noise, len(noise) - size)[len(noise) - size :]

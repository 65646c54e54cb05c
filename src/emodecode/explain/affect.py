"""Valence and arousal of the classes, and whether an embedding arranges the classes by them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.linalg import orthogonal_procrustes

from emodecode.errors import InputError
from emodecode.label.consensus import cast_votes, find_consensus
from emodecode.label.labelled import NOT_LABELLED
from emodecode.label.names import check_names

AFFECT = ("valence", "arousal")
VALUES = {
    "NEG": -1.0,
    "NEGATIVE": -1.0,
    "POS": 1.0,
    "POSITIVE": 1.0,
    "LOW": -1.0,
    "HIGH": 1.0,
    "NEUTRAL": 0.0,
}
"""Words of annotations as numbers; numbers are taken as they are."""
EXACT_UP_TO = 7
TOLERANCE = 1e-12
ByName = Literal["rows", "moments"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """How one set of points is laid onto another: ``source @ rotation * scale + translation``.

    Parameters
    ----------
    disparity : float
        Sum of squared distances that is left when both sets are centred and have norm 1, in
        [0, 1]; as :func:`scipy.spatial.procrustes`, and the same in both directions.
    rotation : ndarray of shape (n_columns, n_columns)
        Orthogonal; a reflection is allowed.
    scale : float
    translation : ndarray of shape (n_columns,)
    """

    disparity: float
    rotation: np.ndarray
    scale: float
    translation: np.ndarray

    @property
    def correlation(self) -> float:
        """Procrustes correlation ``sqrt(1 - disparity)``: 1 for the same shape."""
        return float(np.sqrt(max(1.0 - self.disparity, 0.0)))

    @property
    def is_reflection(self) -> bool:
        """Whether the source had to be mirrored."""
        return bool(np.linalg.det(self.rotation) < 0)

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Lay points of the source's space into the target's, shape (n_points, n_columns)."""
        return points @ self.rotation * self.scale + self.translation


@dataclass(frozen=True, eq=False)
class Overlay:
    """Classes of an embedding laid onto their valence and arousal.

    Parameters
    ----------
    classes : tuple of str
    fitted : ndarray of shape (n_classes, 2)
        The classes of the embedding in units of valence and arousal.
    target : ndarray of shape (n_classes, 2)
        Their valence and arousal.
    alignment : Alignment
        Takes any place of the embedding there (``alignment.apply``).
    permuted : ndarray of shape (n_relabellings,)
        Disparity of every relabelling of the classes; the given one is the first.
    p_value : float
        Share of the relabellings with a disparity as small or smaller.
    smallest_p : float
        What the best relabelling of these very points would get.
    is_exact : bool
        All relabellings were made.
    """

    classes: tuple[str, ...]
    fitted: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)
    alignment: Alignment = field(repr=False)
    permuted: np.ndarray = field(repr=False)
    p_value: float
    smallest_p: float
    is_exact: bool

    @property
    def disparity(self) -> float:
        """Disparity of the given labels, in [0, 1]: 0 is a perfect fit."""
        return self.alignment.disparity

    @property
    def chance_disparity(self) -> float:
        """Mean disparity of all relabellings."""
        return float(self.permuted.mean())

    @property
    def n_relabellings(self) -> int:
        """Number of relabellings, the given one included."""
        return len(self.permuted)

    def describe(self) -> str:
        """Return one sentence for the report."""
        how = "all" if self.is_exact else "random"
        return (
            f"Procrustes disparity {self.disparity:.3f} (r = {self.alignment.correlation:.2f}; "
            f"mean over relabellings {self.chance_disparity:.3f}), p = {self.p_value:.3f} over "
            f"{how} {self.n_relabellings} relabellings of {len(self.classes)} classes, smallest "
            f"attainable p {self.smallest_p:.3f}"
        )


def affect_coordinates(
    annotations: pd.DataFrame,
    *,
    classes: Sequence[str] | None = None,
    by: ByName = "rows",
    agreement: float = 0.5,
    grid_s: float = 1.0,
    split_labels: bool = True,
    merge: dict[str, str] | None = None,
) -> pd.DataFrame:
    """Mean valence and arousal of every class, as the observers themselves judged them.

    A mean is made for every observer, weighted by time, and then over observers; the standard
    error is over observers. NEG and LOW count -1, POS and HIGH 1.

    Parameters
    ----------
    annotations : DataFrame
        From :func:`emodecode.read.annotations.read_annotations`.
    classes : sequence of str, optional
        In this order; default: all that occur.
    by : {"rows", "moments"}
        ``"rows"``: valence and arousal of the judgements that name the class, so of the same
        character. ``"moments"``: those of everything that is judged while the observers agree on
        the class; this is what the volumes with the label show, other characters included.
    agreement, grid_s, split_labels, merge
        See :func:`emodecode.label.votes.label_annotations`; `agreement` is used by moments only.

    Returns
    -------
    DataFrame
        Index: class. ``valence arousal valence_se arousal_se n_observers time_s``: time of all
        observers' rows (a row lasts at least `grid_s`), or of the moments.

    Raises
    ------
    InputError
        No such column, values that are neither words of `VALUES` nor numbers, an unknown class.
    """
    if by not in ("rows", "moments"):
        raise InputError(
            "affect",
            found=f"by = {by!r}",
            expected="'rows' or 'moments'",
            remedy="Correct by.",
        )
    for name in ("emotion", *AFFECT):
        if name not in annotations or (annotations[name] == NOT_LABELLED).all():
            raise InputError(
                "affect",
                found=f"annotations without {name}",
                expected="columns emotion, valence and arousal",
                remedy="Read annotations that judge all three (StudyForrest's raw ones do).",
            )
    settings: dict[str, Any] = {"grid_s": grid_s, "split_labels": split_labels}
    if by == "rows":
        long = _by_rows(annotations, merge=merge, **settings)
    else:
        long = _by_moments(annotations, merge=merge, agreement=agreement, **settings)
    names = sorted(set(long["emotion"])) if classes is None else list(classes)
    check_names("affect", names, long["emotion"])
    return pd.DataFrame([_summarise(long[long["emotion"] == name]) for name in names], index=names)


def class_centroids(places: np.ndarray, classes: Sequence[str] | np.ndarray) -> pd.DataFrame:
    """Mean place of the points of every class, index the sorted classes.

    Parameters
    ----------
    places : ndarray of shape (n_points, n_columns)
        Of an embedding.
    classes : sequence of shape (n_points,)

    Raises
    ------
    InputError
        Another number of classes than of points, or points without a shape.
    """
    places = check_points(places)
    if len(classes) != len(places):
        raise InputError(
            "class centroids",
            found=f"{len(classes)} classes for {len(places)} points",
            expected="the class of every point",
            remedy="Give classes in the order of the points.",
        )
    return pd.DataFrame(places).groupby(np.asarray(classes)).mean()


def fit_overlay(
    embedding_of_classes: pd.DataFrame | np.ndarray,
    affect: pd.DataFrame | np.ndarray,
    *,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Overlay:
    """Lay the classes of an embedding onto their valence and arousal, with a permutation p.

    Shift, turn, mirror and scale by least squares (:func:`fit_procrustes`), so that no axis is
    drawn by hand. The same is done after every relabelling of the classes (all of them up to
    seven classes); p is the share with a disparity as small or smaller. The fewer the
    classes, the smaller are disparities by chance (random places on S1's classes: mean .48
    for three, .66 for five).

    Parameters
    ----------
    embedding_of_classes : DataFrame or ndarray of shape (n_classes, 2)
        From :func:`class_centroids`.
    affect : DataFrame or ndarray of shape (n_classes, 2)
        From :func:`affect_coordinates`. Tables are matched by class, arrays by row.
    n_permutations, seed
        For more than seven classes.

    Raises
    ------
    InputError
        Fewer than three classes, other classes in one than in the other, values that are not
        finite, or all places the same.
    """
    source, target, classes = _matched(embedding_of_classes, affect)
    alignment = fit_procrustes(source, target)
    n = len(classes)
    is_exact = n <= EXACT_UP_TO
    if is_exact:
        orders = np.array(list(permutations(range(n))))
    else:
        _check_permutations(n_permutations)
        rng = np.random.default_rng(seed)
        drawn = [rng.permutation(n) for _ in range(n_permutations)]
        orders = np.vstack([np.arange(n), *drawn])
    disparities = _disparities(source, target, orders)
    return Overlay(
        classes=classes,
        fitted=alignment.apply(source),
        target=target,
        alignment=alignment,
        permuted=disparities,
        p_value=_share(disparities, disparities[0]),
        smallest_p=_share(disparities, disparities.min()) if is_exact else 1 / len(orders),
        is_exact=is_exact,
    )


def fit_procrustes(source: np.ndarray, target: np.ndarray) -> Alignment:
    """Shift, turn, mirror and scale one set of points onto another, by least squares.

    Parameters
    ----------
    source, target : ndarray of shape (n_points, n_columns)
        Row i of one belongs to row i of the other.

    Raises
    ------
    InputError
        Other shapes, values that are not finite, or all points of a set the same.

    References
    ----------
    Gower (1975), Psychometrika 40:33-51.
    """
    source, target = check_points(source, "source points"), check_points(target, "target points")
    if source.shape != target.shape:
        raise InputError(
            "Procrustes",
            found=f"points of shape {source.shape} and {target.shape}",
            expected="two sets of the same shape, in the same order",
            remedy="Keep the points that both sets have.",
        )
    middle, aim = source.mean(axis=0), target.mean(axis=0)
    size, aim_size = np.linalg.norm(source - middle), np.linalg.norm(target - aim)
    rotation, total = orthogonal_procrustes((source - middle) / size, (target - aim) / aim_size)
    scale = float(total * aim_size / size)
    translation = aim - middle @ rotation * scale
    return Alignment(float(max(1.0 - total**2, 0.0)), rotation, scale, translation)


def check_points(points: np.ndarray, where: str = "points") -> np.ndarray:
    """Return points as float64 (n_points, n_columns); refuse what has no shape.

    Raises
    ------
    InputError
        Not two-dimensional, fewer than 3 points or 2 columns, values that are not finite, or all
        points the same.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or len(points) < 3 or points.shape[1] < 2:
        raise InputError(
            where,
            found=f"an array of shape {points.shape}",
            expected="(n_points, n_columns) with at least 3 points and 2 columns",
            remedy="Give one row a point.",
        )
    bad = ~np.isfinite(points).all(axis=1)
    if bad.any():
        raise InputError(
            where,
            found=f"values that are not finite in {int(bad.sum())} of {len(points)} points, "
            f"first in row {int(np.flatnonzero(bad)[0])}",
            expected="finite numbers",
            remedy="Leave these points out.",
        )
    if (points == points[0]).all():
        raise InputError(
            where,
            found=f"{len(points)} points that are all the same",
            expected="points that differ",
            remedy="Check what the points were made from.",
        )
    return points


def _by_rows(
    annotations: pd.DataFrame,
    *,
    grid_s: float,
    split_labels: bool,
    merge: dict[str, str] | None,
) -> pd.DataFrame:
    """One row for each class that a judgement names: emotion, observer, weight_s, values."""
    rows = annotations[annotations["emotion"] != NOT_LABELLED]
    texts = rows["emotion"].astype(str)
    names = texts.str.split() if split_labels else texts.map(lambda text: [text])
    check_names("labels.merge", merge or {}, {name for row in names for name in row})
    names = names.map(lambda row: sorted({(merge or {}).get(name, name) for name in row}))
    long = pd.DataFrame({"observer": rows["observer"], "emotion": names})
    long["weight_s"] = (rows["end_s"] - rows["start_s"]).clip(lower=grid_s)
    for name in AFFECT:
        values = {text: _value(text, name) for text in rows[name].unique()}
        long[name] = rows[name].map(values).astype(float)
    return long.explode("emotion", ignore_index=True)


def _by_moments(
    annotations: pd.DataFrame,
    *,
    agreement: float,
    grid_s: float,
    split_labels: bool,
    merge: dict[str, str] | None,
) -> pd.DataFrame:
    """One row for each moment of a class and observer."""
    votes = cast_votes(annotations, grid_s=grid_s, split_labels=split_labels, merge=merge)
    winner, _ = find_consensus(votes.fractions, agreement=agreement)
    moments = np.flatnonzero(winner >= 0)
    if not len(moments):
        raise InputError(
            "affect",
            found=f"no moment at which {agreement:.0%} of the observers agree",
            expected="moments with a label",
            remedy="Lower agreement.",
        )
    n = len(votes.observers)
    emotions = np.array(votes.labels, dtype=object)[winner[moments]]
    long = pd.DataFrame(
        {
            "observer": np.repeat(votes.observers, len(moments)),
            "emotion": np.tile(emotions, n),
            "moment": np.tile(moments, n),
            "weight_s": grid_s,
        }
    )
    for name in AFFECT:
        judged = cast_votes(annotations, variable=name, grid_s=grid_s)
        values = np.array([_value(text, name) for text in judged.labels])
        active = np.zeros((len(values), n, votes.active.shape[2]))
        length = min(active.shape[2], judged.active.shape[2])
        active[..., :length] = judged.active[..., :length]
        count = active.sum(axis=0)
        course = np.einsum("v,voc->oc", values, active) / np.where(count > 0, count, np.nan)
        long[name] = course[:, moments].ravel()
    return long


def _summarise(rows: pd.DataFrame) -> dict[str, float]:
    """Mean over observers of their means weighted by time, and its standard error."""
    found: dict[str, float] = {}
    for name in AFFECT:
        own = rows.dropna(subset=[name])
        sums = (own[name] * own["weight_s"]).groupby(own["observer"]).sum()
        means = sums / own["weight_s"].groupby(own["observer"]).sum()
        found[name] = float(means.mean())
        spread = float(means.std(ddof=1)) if len(means) > 1 else np.nan
        found[f"{name}_se"] = spread / np.sqrt(len(means)) if len(means) else np.nan
    found["n_observers"] = rows.dropna(subset=list(AFFECT), how="all")["observer"].nunique()
    times = rows.drop_duplicates("moment") if "moment" in rows else rows
    found["time_s"] = float(times["weight_s"].sum())
    order = [*AFFECT, *(f"{name}_se" for name in AFFECT), "n_observers", "time_s"]
    return {name: found[name] for name in order}


def _value(text: object, name: str) -> float:
    """Number of a word of valence or arousal."""
    if text == NOT_LABELLED:
        return np.nan
    word = str(text).upper()
    try:
        value = VALUES[word] if word in VALUES else float(word)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(
            "affect",
            found=f"{name} {str(text)!r}",
            expected=f"one of {', '.join(VALUES)}, or a number",
            remedy="Replace the word in the annotations before they are used.",
        )
    return value


def _matched(
    one: pd.DataFrame | np.ndarray, two: pd.DataFrame | np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Both as arrays (n_classes, n_columns), in the order of the first one's classes."""
    (source, own), (target, other) = _plain(one), _plain(two)
    differ = set(own) ^ set(other) if own and other else set()
    twice = len(set(own)) < len(own) or len(set(other)) < len(other)
    if differ or twice or len(source) != len(target):
        what = f"; only in one of them: {', '.join(sorted(differ))}" if differ else ""
        raise InputError(
            "affect overlay",
            found=f"{len(source)} classes in the embedding, {len(target)} with affect{what}",
            expected="the same classes in both, each once",
            remedy="Give affect_coordinates the classes of the embedding.",
        )
    if len(source) < 3:
        raise InputError(
            "affect overlay",
            found=f"{len(source)} classes",
            expected="at least 3: two points fit any two others without error",
            remedy="Compare the order of the classes on one axis instead.",
        )
    if own and other:
        target = target[[other.index(name) for name in own]]
    names = own or other or [str(number) for number in range(len(source))]
    return source, target, tuple(names)


def _plain(table: pd.DataFrame | np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Values (n_classes, n_columns) and classes; an array has none."""
    if not isinstance(table, pd.DataFrame):
        return np.asarray(table, dtype=float), []
    if set(AFFECT) <= set(table):
        table = table[list(AFFECT)]
    return table.to_numpy(dtype=float), [str(name) for name in table.index]


def _check_permutations(n_permutations: int) -> None:
    if n_permutations < 1:
        raise InputError(
            "affect overlay",
            found=f"n_permutations = {n_permutations}",
            expected="at least 1",
            remedy="Correct n_permutations (9999 is usual).",
        )


def _share(disparities: np.ndarray, limit: float) -> float:
    """Share of disparities that are no larger than a limit; rounding makes no difference."""
    return float(np.mean(disparities <= limit + TOLERANCE))


def _disparities(source: np.ndarray, target: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Disparity of each order of the source's rows: ``1 - |X' Y|_*^2`` of centred unit sets."""
    source, target = (each - each.mean(axis=0) for each in (source, target))
    source, target = (each / np.linalg.norm(each) for each in (source, target))
    products = np.einsum("oni,nj->oij", source[orders], target)
    total = np.linalg.svd(products, compute_uv=False).sum(axis=1)
    return np.maximum(1.0 - total**2, 0.0)

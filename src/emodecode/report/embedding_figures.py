"""Drawings of embeddings: UMAP beside PCA, and the classes by valence and arousal."""

from typing import Any

import numpy as np
import pandas as pd

from emodecode.explain.affect import AFFECT
from emodecode.report.drawing import (
    FAINT,
    INK,
    SOFT,
    drawn_style,
    new_figure,
    shorten,
    to_png,
    to_svg,
)
from emodecode.report.wording import cell_p, format_number, format_p, format_share

MOST_DOTS = 600
"""Dots up to which a figure stays a drawing; with more it becomes an image."""
MOST_NAMED = 8
"""Classes up to which names stand beside the places."""
_PANEL, _GAP, _LEFT, _BOTTOM, _HEAD = 290, 74, 14, 50, 30
_WIDE = 2 * _LEFT + 2 * _PANEL + _GAP


def draw_embedding(
    places: pd.DataFrame,
    colours: dict[str, str],
    *,
    explained: list[float | None] | None,
    unit: str,
    name: str,
    alt: str,
) -> dict[str, Any]:
    """Draw UMAP and PCA of the same points side by side, to equal aspect.

    Parameters
    ----------
    places : DataFrame of shape (n_points, 5)
        ``class umap_1 umap_2 pca_1 pca_2``; NaN where an embedding was not made.
    colours : dict of str -> str
        Of the classes.
    explained : list of two floats, optional
        Share of the variance that each axis of the PCA holds.
    unit : str
        Of the PCA's axes; UMAP's have none and get no ticks.
    name : str
        Makes the ids of an SVG unique on the page.
    alt : str
        What the picture shows, in words.

    Returns
    -------
    dict
        ``svg`` or ``png`` (the other is None), ``alt`` and ``width`` in pixels.
    """
    with drawn_style():
        figure, (left, right) = _two_panels()
        dots = _draw_cloud(left, _places(places, "umap"), places["class"], colours)
        dots += _draw_cloud(right, _places(places, "pca"), places["class"], colours)
        _head(left, "UMAP", "axes without meaning")
        first, second = (format_share(each) for each in (explained or (None, None)))
        _head(right, "PCA", f"{first} and {second} of the variance" if explained else "")
        _bare(left)
        right.set_xlabel(f"component 1 ({unit})", labelpad=2)
        right.set_ylabel(f"component 2 ({unit})", labelpad=1)
        _few_ticks(right)
        return _picture(figure, dots, name=name, alt=alt)


def draw_affect(
    affect: dict[str, Any],
    places: pd.DataFrame | None,
    colours: dict[str, str],
    *,
    name: str,
    alt: str,
) -> dict[str, Any]:
    """Draw the functional UMAP with the fitted axes, and the classes by valence and arousal.

    Parameters
    ----------
    affect : dict
        ``classes affect valence_axis arousal_axis r2 p p_smallest`` of ``geometry.json``, and the
        classes' ``centroids`` in the UMAP with ``laid``, where the fit lays these among the
        annotations (both None without `places`).
    places : DataFrame, optional
        As in `draw_embedding`; without it the left panel stays empty.
    colours, name, alt
        As in `draw_embedding`.
    """
    with drawn_style():
        figure, (left, right) = _two_panels(top=26)
        dots = 0
        if places is not None:
            points = _places(places, "umap")
            dots = _draw_cloud(left, points, places["class"], colours, alpha=0.3)
            _draw_axes_of_affect(left, affect, colours)
        else:
            _say_nothing(left)
        _bare(left)
        _head(left, "functional UMAP", "fitted axes, direction only")
        _draw_plane(right, affect, colours)
        _head(right, "annotations", "● annotated   ○ as in the UMAP")
        place = (_LEFT / _WIDE, 1 - 8 / _height(26))
        figure.text(*place, affect_title(affect), va="top", fontsize=12.5)
        return _picture(figure, dots, name=name, alt=alt)


def affect_title(affect: dict[str, Any]) -> str:
    """Say r², p and the smallest attainable p of the fit to valence and arousal."""
    p = format_p(affect.get("p"), smallest_p=affect.get("p_smallest"))
    text = f"r² = {format_number(affect.get('r2'))}, {p if p != 'n/a' else 'p n/a'}"
    smallest = affect.get("p_smallest")
    return text if smallest is None else f"{text} (smallest attainable {cell_p(smallest)})"


def _draw_cloud(axes, points, classes, colours: dict[str, str], *, alpha: float = 0.75) -> int:
    """Draw the points in an order that hides no class behind another; return how many."""
    known = np.isfinite(points).all(axis=1)
    if not known.any():
        _say_nothing(axes)
        return 0
    order = np.random.default_rng(0).permutation(np.flatnonzero(known))
    inks = [colours.get(name, SOFT) for name in np.asarray(classes)[order]]
    size = float(np.clip(8000 / len(order), 4, 26))
    axes.scatter(*points[order].T, s=size, c=inks, lw=0, alpha=alpha, zorder=2)
    _square(axes, points[known])
    return len(order)


def _draw_axes_of_affect(axes, affect: dict[str, Any], colours: dict[str, str]) -> None:
    """Centroids of the classes, and the fitted directions as arrows of equal length."""
    spots = affect["centroids"]
    if spots is None:
        return
    centre = spots.mean(axis=0)
    span = np.ptp(axes.get_xlim())
    tips, shafts = {}, []
    for key in AFFECT:
        axis = np.asarray(affect.get(f"{key}_axis") or (np.nan, np.nan), dtype=float)
        length = np.linalg.norm(axis)
        if not np.isfinite(length) or length == 0:
            continue
        tips[key] = centre + 0.34 * span * axis / length
        shafts += [centre + share * (tips[key] - centre) for share in np.linspace(0, 1, 9)]
        style = {"arrowstyle": "-|>", "color": INK, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", tips[key], centre, arrowprops=style, zorder=4)
    inks = [colours.get(name, SOFT) for name in affect["classes"]]
    axes.scatter(*spots.T, s=110, c=inks, ec="white", lw=1.6, zorder=5)
    boxes = [*_boxes(axes, shafts, 6), *_boxes(axes, spots, 11)]
    _name_places(axes, list(tips), tips.values(), boxes=boxes, weight="bold")
    _name_places(axes, affect["classes"], spots, boxes=boxes)


def _draw_plane(axes, affect: dict[str, Any], colours: dict[str, str]) -> None:
    """Annotated valence and arousal of each class, joined with where the fit lays the class."""
    aims = np.array(affect["affect"], dtype=float)
    fits = np.full_like(aims, np.nan) if affect["laid"] is None else affect["laid"]
    joined = np.vstack([aims, *(aims + share * (fits - aims) for share in np.linspace(0, 1, 7))])
    joined = joined[np.isfinite(joined).all(axis=1)]
    _square(axes, np.vstack([joined, [0, 0]]), pad=0.16)
    axes.axhline(0, color=FAINT, lw=1, zorder=0)
    axes.axvline(0, color=FAINT, lw=1, zorder=0)
    for name, aim, fit in zip(affect["classes"], aims, fits, strict=True):
        ink = colours.get(name, SOFT)
        axes.plot(*np.array([aim, fit]).T, color=ink, lw=1.4, zorder=2)
        axes.plot(*aim, "o", ms=9, color=ink, mec="white", zorder=4)
        axes.plot(*fit, "o", ms=8, color="white", mec=ink, mew=1.8, zorder=3)
    boxes = [*_boxes(axes, joined, 4), *_boxes(axes, joined[: len(aims)], 11)]
    _name_places(axes, affect["classes"], aims, boxes=boxes)
    axes.set_xlabel("valence", labelpad=2)
    axes.set_ylabel("arousal", labelpad=1)
    _few_ticks(axes)


def _boxes(axes, spots, half: float) -> list[np.ndarray]:
    """Boxes (left, bottom, right, top; pixels) around places, which names should not cover."""
    marks = map(axes.transData.transform, spots)
    return [np.array([*(mark - half), *(mark + half)]) for mark in marks]


def _name_places(axes, names: list[str], spots, *, boxes: list, weight: str = "normal") -> None:
    """Write each name beside its place, where it covers least of `boxes`, and add its own."""
    if len(names) > MOST_NAMED:
        return
    ready, frame = axes.transData.transform, axes.get_window_extent().extents
    for name, spot in zip(names, spots, strict=True):
        text = shorten(name, 14)
        half = np.array([3.4 * len(text), 7])
        ways = [np.array([x, y]) for y in (0, 11, -11) for x in (half[0] + 9, -half[0] - 9)]
        ways += [np.array([0, y]) for y in (18, -18)]
        owns = [np.hstack([ready(spot) + way - half, ready(spot) + way + half]) for way in ways]
        hidden = [sum(_shared(own, b) for b in boxes) - 3 * _shared(own, frame) for own in owns]
        best = int(np.argmin(np.array(hidden) + 2 * np.abs(np.array(ways)[:, 1])))
        boxes.append(owns[best])
        axes.annotate(
            text, spot, ways[best], textcoords="offset points", ha="center", va="center", zorder=7,
            fontsize=11, weight=weight, bbox={"fc": "white", "ec": "none", "alpha": 0.65, "pad": 0},
        )  # fmt: skip


def _shared(one: np.ndarray, other: np.ndarray) -> float:
    """Area that two boxes have in common."""
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    return float(np.prod(np.maximum(sides, 0)))


def _two_panels(*, top: float = 0):
    """Return a figure with two square axes; `top` pixels stay free above them."""
    high = _height(top)
    figure = new_figure(_WIDE, high)
    starts = (_LEFT, _LEFT + _PANEL + _GAP)
    boxes = [(x / _WIDE, _BOTTOM / high, _PANEL / _WIDE, _PANEL / high) for x in starts]
    return figure, [figure.add_axes(box) for box in boxes]


def _height(top: float) -> float:
    return _BOTTOM + _PANEL + _HEAD + top


def _square(axes, points: np.ndarray, *, pad: float = 0.05) -> None:
    """Give both axes the same span, so that a unit is as long in both."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = (0.5 + pad) * max(float((high - low).max()), 1e-9)
    middle = (low + high) / 2
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")


def _head(axes, title: str, note: str) -> None:
    place = axes.transAxes
    axes.text(0, 1 + 9 / _PANEL, title, transform=place, weight="bold", fontsize=12)
    axes.text(1, 1 + 9 / _PANEL, note, transform=place, color=SOFT, fontsize=10.5, ha="right")


def _bare(axes) -> None:
    """Frame without ticks: places on these axes have no unit."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=True, color=FAINT)


def _few_ticks(axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(_tick))
    axes.spines["left"].set_visible(True)
    axes.tick_params(axis="y", length=3)


def _tick(value: float, _: int) -> str:
    text = f"{value:.4g}".replace("-", "−")
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def _say_nothing(axes) -> None:
    axes.text(0.5, 0.5, "not defined", transform=axes.transAxes, ha="center", color=SOFT)
    axes.set(xticks=[], yticks=[])


def _picture(figure, dots: int, *, name: str, alt: str) -> dict[str, Any]:
    picture: dict[str, Any] = {"svg": None, "png": None, "alt": alt, "width": _WIDE}
    if dots > MOST_DOTS:
        picture["png"] = to_png(figure, colours=64, scale=1.8)
    else:
        picture["svg"] = to_svg(figure, name=name, title=alt)
    return picture


def _places(table: pd.DataFrame, method: str) -> np.ndarray:
    return table[[f"{method}_1", f"{method}_2"]].to_numpy(dtype=float)

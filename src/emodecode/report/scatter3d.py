"""Places in the brain in three dimensions: one figure that turns, without any library or fetching.

It is Figure 3 of S1 (the places of the largest drops of each emotion) in MNI mm, with the brain's
outline and without jitter.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from emodecode.errors import InputError
from emodecode.report.brain import looks_like_mni
from emodecode.report.drawing import (
    INK,
    class_colours,
    drawn_style,
    new_figure,
    to_png,
)
from emodecode.report.folder import load_image
from emodecode.report.page import environment

_PLACE = ["x_mm", "y_mm", "z_mm"]
# name, axis to the right and its sign, axis upwards, letters at the left and right
_STILLS = (
    ("from the left", 1, -1, 2, "AP"),
    ("from behind", 0, 1, 2, "LR"),
    ("from above", 0, 1, 1, "LR"),
)


def scatter_block(
    points: pd.DataFrame,
    *,
    classes: Sequence[str],
    outline_mm: np.ndarray,
    ident: str,
    jitter_mm: float = 0.0,
    disc_mm: float = 1.5,
    height: int = 520,
) -> Markup:
    """Return the figure of the places of each class as HTML.

    The page needs `scatter_script` once, after the last figure, and `script_hash` in its
    Content-Security-Policy. Until the script runs (or where it does not) the figure is a still
    picture of three views.

    Parameters
    ----------
    points : DataFrame
        Columns class, x_mm, y_mm, z_mm, drop; a row without finite coordinates is left out. All
        others are drawn: choose positive drops, for the zeros of a map lie outside its mask.
    classes : sequence of str
        Names of the classes, in the order of the legend; a class without points stays in it.
    outline_mm : ndarray, shape (n_points, 3)
        Places on the surface of the brain (`outline_of`); may be empty.
    ident : str
        The figure's id in the page.
    jitter_mm : float
        Largest shift of each coordinate. S1 shifted its points (.2); 0, the default, leaves them
        in place: classes that share a place are discs in each other.
    disc_mm : float
        Radius of a disc; half the distance of neighbouring places fills the grid.
    height : int
        Height of the figure in pixels.

    Raises
    ------
    InputError
        A column is missing, or a class is not among `classes`.

    References
    ----------
    S1, Figure 3.
    """
    _check(points, classes)
    points = points[np.isfinite(points[_PLACE].to_numpy(float)).all(axis=1)]
    if jitter_mm:
        shift = np.random.default_rng(0).uniform(-jitter_mm, jitter_mm, (len(points), 3))
        moved = (points[_PLACE] + shift).to_numpy().T
        points = points.assign(**dict(zip(_PLACE, moved, strict=True)))
    outline = np.asarray(outline_mm, dtype=float).reshape(-1, 3)
    colours, groups = class_colours(classes), dict(tuple(points.groupby("class", sort=False)))
    places = {name: _places(groups.get(name)) for name in classes}
    told = [
        {
            "name": name,
            "colour": colours[name],
            "n": len(places[name]),
            "range": _range(groups.get(name)),
        }
        for name in classes
    ]
    data = _data(places, colours, outline, disc_mm=disc_mm)
    template = environment().get_template("scatter3d.html").module
    still = _draw_still(places, colours, outline)
    return Markup(template.block(ident, told, still, safe_json(data), height))


def scatter_script() -> str:
    """Return the ``<script>`` element that makes the figures turn; once a page, after them."""
    return Markup(f"<script>{_script()}</script>")


def script_hash() -> str:
    """Return the source of `scatter_script` for a policy: ``script-src 'sha256-...'``."""
    digest = hashlib.sha256(_script().encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def safe_json(data: Any) -> str:
    """Return JSON that cannot end the ``<script>`` element that it stands in."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def outline_of(mask: Path, *, space: str | None = None, n_points: int = 1500) -> np.ndarray:
    """Return places on the surface of the brain, evenly thinned out, in mm.

    In MNI space it is the brain of the template that nilearn ships (a mask may hold one region
    only), else the mask.

    Parameters
    ----------
    mask : path
        A 3-D image (x, y, z); what is not zero is brain. Holes in it have no surface here.
    space : str, optional
        BIDS `space` of the mask; without it the field of view decides (`looks_like_mni`).
    n_points : int
        About how many places to keep.

    Returns
    -------
    ndarray, shape (n, 3)
        Empty when the mask is. Among them the outermost in 400 directions, which make the
        silhouette smooth.
    """
    from scipy.ndimage import binary_closing, binary_erosion, binary_fill_holes

    values, affine = load_image(mask)
    if looks_like_mni(values.shape, affine, space=space):
        from nilearn.datasets import load_mni152_brain_mask

        image = load_mni152_brain_mask(resolution=3)
        values, affine = np.asarray(image.dataobj), np.asarray(image.affine)
    inside = np.pad(np.nan_to_num(values) != 0, 3)
    inside = binary_fill_holes(binary_closing(inside, iterations=2))
    shell = np.argwhere(inside & ~binary_erosion(inside)) - 3
    if not len(shell):
        return np.empty((0, 3))
    mm = shell @ affine[:3, :3].T + affine[:3, 3]
    outermost = mm[np.unique((mm @ _directions(400).T).argmax(axis=0))]
    return np.unique(np.concatenate([_thin(mm, n_points), outermost]), axis=0)


def _directions(n: int) -> np.ndarray:
    """Return unit vectors evenly over the sphere (Fibonacci's spiral), (n, 3)."""
    z = 1 - 2 * (np.arange(n) + 0.5) / n
    around = np.pi * (1 + np.sqrt(5)) * np.arange(n)
    flat = np.sqrt(1 - z**2)
    return np.stack([flat * np.cos(around), flat * np.sin(around), z], axis=1)


def _thin(mm: np.ndarray, n_points: int) -> np.ndarray:
    """Keep the place nearest to the middle of each cell of the finest grid with few enough."""
    side = float(np.ptp(mm, axis=0).max() / max(np.sqrt(n_points), 1)) / 2
    while True:
        cells = np.floor(mm / side) if side else np.zeros_like(mm)
        off = np.abs(mm / side - cells - 0.5).sum(axis=1) if side else np.zeros(len(mm))
        order = np.lexsort((off, *cells.T))
        kept = order[np.unique(cells[order], axis=0, return_index=True)[1]]
        if len(kept) <= n_points:
            return mm[np.sort(kept)]
        side *= 1.08


def _check(points: pd.DataFrame, classes: Sequence[str]) -> None:
    missing = [name for name in ("class", *_PLACE, "drop") if name not in points]
    unknown = sorted(set(points["class"]) - set(classes)) if "class" in points else []
    if missing or unknown:
        raise InputError(
            "the points of the three-dimensional figure",
            found=f"no column {', '.join(missing)}" if missing else f"class {', '.join(unknown)}",
            expected=f"columns class, x_mm, y_mm, z_mm, drop; classes {', '.join(classes)}",
            remedy="Give the points with all columns and name all their classes.",
        )


def _places(group: pd.DataFrame | None) -> np.ndarray:
    return np.empty((0, 3)) if group is None else group[_PLACE].to_numpy(float)


def _range(group: pd.DataFrame | None) -> str:
    """Say how large the drops are, both ends with the decimals that the larger one needs."""
    drops = np.empty(0) if group is None else group["drop"].to_numpy(float)
    drops = drops[np.isfinite(drops)]
    if not len(drops):
        return ""
    largest = float(np.abs(drops).max())
    decimals = max(0, 2 - int(np.floor(np.log10(largest)))) if largest else 0
    return f"drop {_decimal(drops.min(), decimals)} to {_decimal(drops.max(), decimals)}"


def _decimal(value: float, decimals: int) -> str:
    text = f"{abs(value):.{decimals}f}"
    if not float(text):
        return "0"
    return ("−" if value < 0 else "") + (text.lstrip("0") if "." in text else text)


def _data(places, colours: dict[str, str], outline: np.ndarray, *, disc_mm: float) -> dict:
    low, high = _bounds(places, outline)
    centre, reach = (low + high) / 2, (high - low) / 2 + 6
    return {
        "classes": [{"colour": colours[name], "xyz": _flat(mm)} for name, mm in places.items()],
        "outline": _flat(outline),
        "centre": _flat(centre),
        "reach": _flat(reach),
        "radius": round(float(reach.max()), 1),
        "size": disc_mm,
    }


def _flat(mm: np.ndarray) -> list[float]:
    return [int(v) if v == int(v) else float(v) for v in np.round(mm, 1).ravel().tolist()]


def _bounds(places, outline: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    everything = np.concatenate([outline, *places.values()])
    if not len(everything):
        return np.full(3, -90.0), np.full(3, 90.0)
    return everything.min(axis=0), everything.max(axis=0)


def _draw_still(places, colours: dict[str, str], outline: np.ndarray) -> str:
    """Return three views as a PNG address; nearer places lie over farther ones."""
    low, high = _bounds(places, outline)
    size = np.maximum(high - low, 1) * 1.06
    with drawn_style():
        figure = new_figure(1000, 330)
        scale = min(990 / (size[1] + 2 * size[0] + 40), 300 / size[1:].max())
        left = (1000 - scale * (size[1] + 2 * size[0] + 40)) / 2
        for name, right, sign, up, letters in _STILLS:
            box = (left / 1000, 26 / 330, scale * size[right] / 1000, scale * size[up] / 330)
            left += scale * (size[right] + 20)
            axes = figure.add_axes(box)
            middle = (low + high) / 2
            axes.set_xlim(*sorted(sign * (middle[right] + np.array((-0.5, 0.5)) * size[right])))
            axes.set_ylim(*(middle[up] + np.array((-0.5, 0.5)) * size[up]))
            axes.set_axis_off()
            _draw_view(axes, places, colours, outline, right=right, sign=sign, up=up)
            text = {"size": 10, "color": INK, "ha": "center", "transform": axes.transAxes}
            axes.text(0.03, 0.94, letters[0], **text)
            axes.text(0.97, 0.94, letters[1], **text)
            axes.text(0.5, -16 / (scale * size[up]), name, **text)
        return to_png(figure, scale=1.6)


def _draw_view(axes, places, colours, outline, *, right: int, sign: int, up: int) -> None:
    from scipy.spatial import ConvexHull

    flat = np.stack([sign * outline[:, right], outline[:, up]], axis=1)
    if len(flat) > 2 and np.ptp(flat, axis=0).min() > 0:
        axes.fill(*flat[ConvexHull(flat).vertices].T, color="#f1f4f6", linewidth=0)
    axes.scatter(*flat.T, s=2.5, color="#c9d1d8", linewidths=0)
    everything = np.concatenate(list(places.values()) or [np.empty((0, 3))])
    which = np.repeat([colours[name] for name in places], [len(mm) for mm in places.values()])
    depth = 3 - right - up  # the axis of sight: seen from -x, from -y, from +z
    order = np.argsort(everything[:, depth] * (1 if depth == 2 else -1), kind="stable")
    near = everything[order]
    if len(near):
        axes.scatter(sign * near[:, right], near[:, up], s=10, c=which[order], linewidths=0)


def _script() -> str:
    path = files("emodecode.report") / "templates" / "scatter3d.js"
    return path.read_text(encoding="utf-8")

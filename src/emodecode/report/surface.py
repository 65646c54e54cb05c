"""A map on the cortical surface: fsaverage5 as nilearn ships it, drawn without any fetching."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from emodecode.report.brain import looks_like_mni
from emodecode.report.drawing import DOTS_PER_INCH, SOFT, drawn_style, grey_png, new_figure
from emodecode.report.folder import load_image
from emodecode.report.glass import draw_scale, faint_colours, scale_end

NOTE = (
    "Values on the surface are read from the volume: at each point the mean of five depths between "
    "the white and the pial surface of fsaverage5, shown on the inflated surface. Single brains "
    "differ from it by several millimetres. What lies below the cortex (amygdala, thalamus) and "
    "the cerebellum are not on it."
)
HEMISPHERES = ("left", "right")
# MNI305, the space of fsaverage, to MNI152 (mm): FreeSurfer wiki, "CoordinateSystems", 8.
_TO_MNI152 = np.array(
    [
        [0.9975, -0.0073, 0.0176, -0.0429],
        [0.0146, 1.0009, -0.0024, 1.5496],
        [-0.0130, -0.0093, 0.9971, 1.1840],
    ]
)
_DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
# hemisphere, side, direction of sight along x, what runs to the right on the picture (y times)
_VIEWS = (
    ("left", "lateral", 1, -1),
    ("left", "medial", -1, 1),
    ("right", "medial", 1, -1),
    ("right", "lateral", -1, 1),
)
_PIXELS_PER_MM = 3.2  # twice what is shown: the picture is averaged down, which smooths edges


@dataclass(frozen=True, eq=False)
class _View:
    """What each pixel of one view sees: three vertices, their weights and the light."""

    shape: tuple[int, int]
    pixels: np.ndarray
    vertices: np.ndarray
    weights: np.ndarray
    light: np.ndarray


def draw_surface(
    map_file: Path, *, limit: float | None = None, space: str | None = None
) -> str | None:
    """Return a map on both hemispheres, from outside and from the middle, as a PNG address.

    Colour says sign and size; faint means small, grey is the folding (sulci are darker). The
    picture needs `NOTE` in its caption.

    Parameters
    ----------
    map_file : path
        A 3-D image (x, y, z) in MNI space.
    limit : float, optional
        End of the scale; by default the 99.8th percentile of the absolute values on the surface.
        The scale says so where larger values are cut off.
    space : str, optional
        BIDS `space` of the map; without it the field of view decides (`looks_like_mni`).

    Returns
    -------
    str or None
        None where the map is not in MNI space or is zero on the whole surface.
    """
    values, affine = load_image(map_file)
    if not looks_like_mni(values.shape, affine, space=space):
        return None
    surface = project(values, affine)
    together = np.concatenate([surface[side] for side in HEMISPHERES])
    sizes = np.abs(together[together != 0])
    if not len(sizes):
        return None
    high = limit or scale_end(together)
    with drawn_style():
        figure = new_figure(1000, 176)
        _draw_views(figure, {side: faint_colours(surface[side], high) for side in HEMISPHERES})
        draw_scale(figure, high, largest=float(sizes.max()), signed=True)
        return grey_png(figure)


def project(values: np.ndarray, affine: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of a volume at the vertices of fsaverage5.

    At five depths of the cortical ribbon the volume is read by trilinear interpolation over the
    voxels that have a value (finite and not zero), so that the edge of the mask does not dilute
    its neighbours; a vertex has a value when at least half of the weight falls on such voxels.

    Parameters
    ----------
    values : ndarray, shape (x, y, z)
        The volume, RAS+ order.
    affine : ndarray, shape (4, 4)
        Voxel index to mm in MNI152.

    Returns
    -------
    dict
        "left" and "right": ndarray, shape (10242,); zero without a value.
    """
    from scipy.ndimage import map_coordinates

    known = np.isfinite(values) & (values != 0)
    filled = np.where(known, values, 0).astype(float)
    inverse = np.linalg.inv(affine)
    found = {}
    for side in HEMISPHERES:
        at = _ribbon_mm(side) @ inverse[:3, :3].T + inverse[:3, 3]
        at = np.moveaxis(at, -1, 0)
        total = map_coordinates(filled, at, order=1, mode="constant").mean(axis=0)
        weight = map_coordinates(known.astype(float), at, order=1, mode="constant").mean(axis=0)
        found[side] = np.where(weight >= 0.5, total / np.maximum(weight, 0.5), 0.0)
    return found


def _draw_views(figure, colours: dict[str, np.ndarray]) -> None:
    total = DOTS_PER_INCH * figure.get_size_inches()
    views = {which: _view(*which) for which in _VIEWS}
    gap, foot, right = 12, 22, 84
    width = sum(view.shape[1] for view in views.values())
    scale = (total[0] - right - gap * (len(views) - 1)) / width
    scale = min(scale, (total[1] - foot) / max(view.shape[0] for view in views.values()))
    left = 0.0
    for (side, sight, *_), view in views.items():
        high, wide = (scale * each for each in view.shape)
        low = foot + (total[1] - foot - high) / 2
        box = np.array((left, low, wide, high)) / np.tile(total, 2)
        axes = figure.add_axes(tuple(box))
        axes.imshow(_paint(view, side, colours[side]), aspect="auto", interpolation="antialiased")
        axes.set_axis_off()
        text = {"size": 9, "color": SOFT, "ha": "center", "va": "top"}
        axes.text(0.5, -4 / high, f"{side}, {sight}", transform=axes.transAxes, **text)
        left += wide + gap


def _paint(view: _View, side: str, colours: np.ndarray) -> np.ndarray:
    """Return RGB (rows, columns, 3), at half the resolution of the view."""
    over = (colours[view.vertices] * view.weights[..., None]).sum(axis=1)
    ground = (_folding(side)[view.vertices] * view.weights).sum(axis=1)[:, None]
    seen = ground * (1 - over[:, 3:]) + over[:, :3] * over[:, 3:]
    canvas = np.ones((view.shape[0] * view.shape[1], 3))
    canvas[view.pixels] = np.clip(seen * view.light[:, None], 0, 1)
    rows, columns = view.shape[0] // 2, view.shape[1] // 2
    return canvas.reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3))


@lru_cache(maxsize=4)
def _view(side: str, sight: str, direction: int, rightwards: int) -> _View:
    """Find out what each pixel sees: rasterise the triangles, the nearest one wins."""
    places, triangles = _mesh(side, "infl")
    normals = _vertex_normals(places, triangles)
    facing = -direction * normals[:, 0]
    flat = np.stack([rightwards * places[:, 1], -places[:, 2]], axis=1)
    flat = (flat - flat.min(axis=0)) * _PIXELS_PER_MM + 2
    columns, rows = (2 * int(np.ceil(each / 2)) + 2 for each in flat.max(axis=0))
    front = triangles[facing[triangles].max(axis=1) > 0]
    pixels, which, weights = _rasterise(flat[front], columns)
    vertices = front[which]
    depth = direction * (places[vertices, 0] * weights).sum(axis=1)
    order = np.lexsort((depth, pixels))
    first = np.unique(pixels[order], return_index=True)[1]
    nearest = order[first]
    vertices, weights = vertices[nearest], weights[nearest]
    lit = np.clip((facing[vertices] * weights).sum(axis=1), 0, 1)
    return _View((rows, columns), pixels[nearest], vertices, weights, 0.62 + 0.38 * lit)


def _rasterise(corners: np.ndarray, n_columns: int):
    """Return (pixel, triangle, barycentric weights (n, 3)) of all pixels inside triangles."""
    start = np.ceil(corners.min(axis=1)).astype(int)
    span = np.floor(corners.max(axis=1)).astype(int) - start
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    area = _cross(b - a, c - a)
    found = []
    for across in range(int(span[:, 0].max()) + 1):
        for down in range(int(span[:, 1].max()) + 1):
            these = np.flatnonzero((span >= (across, down)).all(axis=1) & (area != 0))
            at = start[these] + (across, down)
            second = _cross(at - a[these], (c - a)[these]) / area[these]
            third = _cross((b - a)[these], at - a[these]) / area[these]
            share = np.stack([1 - second - third, second, third], axis=1)
            inside = (share >= -1e-9).all(axis=1)
            pixel = at[inside, 1] * n_columns + at[inside, 0]
            found.append((pixel, these[inside], share[inside]))
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _cross(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one[..., 0] * other[..., 1] - one[..., 1] * other[..., 0]


def _vertex_normals(places: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    a, b, c = (places[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    normals = np.stack(
        [
            np.bincount(triangles.ravel(), np.repeat(face[:, k], 3), minlength=len(places))
            for k in range(3)
        ],
        axis=1,
    )
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


@lru_cache(maxsize=2)
def _ribbon_mm(side: str) -> np.ndarray:
    """Return the places where the volume is read, MNI152 mm, (n_depths, n_vertices, 3)."""
    white, pial = _mesh(side, "white")[0], _mesh(side, "pial")[0]
    between = np.stack([white + depth * (pial - white) for depth in _DEPTHS])
    return between @ _TO_MNI152[:, :3].T + _TO_MNI152[:, 3]


@lru_cache(maxsize=2)
def _folding(side: str) -> np.ndarray:
    """Return the grey of each vertex: light on gyri, darker in sulci."""
    import nibabel as nib

    image: Any = nib.load(_shipped()[f"sulc_{side}"])
    depth = image.darrays[0].data.astype(float)
    return 0.83 - 0.22 / (1 + np.exp(-6 * depth))


@lru_cache(maxsize=6)
def _mesh(side: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    import nibabel as nib

    image: Any = nib.load(_shipped()[f"{kind}_{side}"])
    places, triangles = image.darrays
    return places.data.astype(float), triangles.data.astype(int)


def _shipped() -> dict[str, str]:
    """Return the files of fsaverage5 inside nilearn; this name is never downloaded."""
    from nilearn.datasets import fetch_surf_fsaverage

    return dict(fetch_surf_fsaverage("fsaverage5"))

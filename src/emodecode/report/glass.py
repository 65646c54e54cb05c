"""A whole map at a glance: the glass brain of its largest values and a mosaic of axial cuts."""

import warnings
from pathlib import Path

import numpy as np

from emodecode.errors import InputError
from emodecode.report.brain import Backdrop, looks_like_mni
from emodecode.report.drawing import (
    DOTS_PER_INCH,
    INK,
    SOFT,
    drawn_style,
    grey_png,
    new_figure,
)
from emodecode.report.folder import load_image

FAINT_POWER = 0.8  # opacity = (|value| / limit) ** FAINT_POWER, as in `brain.draw_map`
_WIDTH, _RIGHT = 1000, 74  # pixels; the scale stands in the right ones


def draw_glass(
    map_file: Path,
    *,
    n_top: int | None = None,
    threshold: float | None = None,
    significant: Path | None = None,
    alpha: float = 0.05,
    limit: float | None = None,
    space: str | None = None,
) -> str | None:
    """Return the glass brain of a map (maximum over the line of sight) as a PNG address.

    One of `n_top`, `threshold` and `significant` says which voxels are shown: all of them would
    hide the shape of what is large.

    Parameters
    ----------
    map_file : path
        A 3-D image (x, y, z) in MNI space. Values that are not finite count as zero.
    n_top : int, optional
        Show the `n_top` largest positive values (drops); fewer when fewer are positive.
    threshold : float, optional
        Show the values whose absolute value is at least this, with their sign.
    significant : path, optional
        An image of 1 - p on the same grid (``*_pfwe.nii.gz``); show the values, with their sign,
        where p is at most `alpha`.
    limit : float, optional
        End of the scale, the same for several maps; by default the largest absolute value shown,
        so that nothing is cut off. When larger values are cut off, the scale says so.
    space : str, optional
        BIDS `space` of the map; without it the field of view decides (`looks_like_mni`).

    Returns
    -------
    str or None
        None where the map is not in MNI space or no voxel is to be shown.

    Raises
    ------
    InputError
        Not exactly one of the three is given, or `significant` has another grid.
    """
    values, affine = _load_finite(map_file)
    shown = _choose(values, n_top=n_top, threshold=threshold, significant=significant, alpha=alpha)
    if not looks_like_mni(values.shape, affine, space=space) or not shown.any():
        return None
    values = np.where(shown, values, 0)
    sizes = np.abs(values[shown])
    low, largest = float(sizes.min()), float(sizes.max())
    high, signed = limit or largest, bool((values < 0).any())
    low = min(low, high)
    with drawn_style():
        figure = new_figure(_WIDTH, 235)
        _draw_glass(figure, values, affine, low=low, high=high)
        draw_scale(figure, high, low=low, largest=largest, signed=signed, colours=_solid(low, high))
        return grey_png(figure)


def draw_mosaic(
    map_file: Path, backdrop: Backdrop, *, n_cuts: int = 8, limit: float | None = None
) -> str | None:
    """Return evenly spaced axial cuts through a map, on the backdrop, as a PNG address.

    Colour says sign and size; faint means small (nothing is cut off at a threshold).

    Parameters
    ----------
    map_file : path
        A 3-D image (x, y, z) in the space of the backdrop, MNI or not.
    backdrop : Backdrop
        What `brain.make_backdrop` made of the mask.
    n_cuts : int
        Number of cuts, between the lowest and the highest level that have at least a fifth of the
        voxels of the fullest one.
    limit : float, optional
        End of the scale; by default the 99.8th percentile of the absolute values. The scale says
        so where larger values are cut off.

    Returns
    -------
    str or None
        None where the map is zero (or not finite) everywhere.
    """
    values, affine = _load_finite(map_file)
    if not values.any():
        return None
    largest = float(np.abs(values).max())
    high = limit or scale_end(values)
    levels, marks = _choose_cuts(values, affine, backdrop, n_cuts=n_cuts)
    with drawn_style():
        figure = new_figure(_WIDTH, 168)
        _draw_row(figure, [_cut(values, affine, backdrop, at, high) for at in levels], backdrop)
        for axes, height in zip(figure.axes, marks, strict=True):
            name = f"z = {height:.0f} mm".replace("-", "−")
            text = {"size": 9, "color": SOFT, "ha": "center", "va": "top"}
            axes.text(0.5, -0.03, name, transform=axes.transAxes, **text)
        draw_scale(figure, high, largest=largest, signed=True)
        return grey_png(figure)


def draw_scale(
    figure,
    high: float,
    *,
    low: float = 0.0,
    largest: float,
    signed: bool,
    colours=None,
) -> None:
    """Draw the scale at the right edge; it says how large the values beyond its end are.

    `low` to `high` (and its mirror image when `signed`) is coloured by `colours`, a function of
    an array of values to RGB (n, 3); by default the faint scale of `faint_colours`. `largest` is
    the largest absolute value drawn.
    """
    start = -high if signed else min(low, 0.98 * high)  # one value alone has a bar, too
    levels = np.linspace(start, high, 128)
    if colours is None:
        rgba = faint_colours(levels, high)
        bar = rgba[:, :3] * rgba[:, 3:] + (1 - rgba[:, 3:])
    else:
        bar = colours(levels if signed else np.maximum(levels, low))
    cut = largest > high * 1.0001
    axes = figure.add_axes((1 - 66 / _WIDTH, 0.2, 11 / _WIDTH, 0.62))
    axes.imshow(
        bar[:, None],
        origin="lower",
        aspect="auto",
        extent=(0, 1, float(levels[0]), float(levels[-1])),
    )
    ticks = [low, high] if not signed else [-high, -low, low, high] if low else [-high, 0, high]
    if low and ((signed and low < 0.08 * high) or high <= low):
        ticks = [-high, high] if signed else [high]
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.set_yticks(ticks, [_tick(value, high, cut=cut) for value in ticks])
    axes.tick_params(labelsize=8.5, length=0, pad=3)
    if cut:
        text = {"size": 8, "color": SOFT, "ha": "left", "transform": axes.transAxes}
        axes.text(-0.4, 1.12, f"largest {_number(largest)}", **text)


def scale_end(values: np.ndarray) -> float:
    """Return where a scale ends: the 99.8th percentile of the absolute values that are not zero.

    When the largest value is within a tenth of it, that one, so that nothing is cut off.
    """
    sizes = np.abs(values[values != 0])
    end, largest = float(np.percentile(sizes, 99.8)), float(sizes.max())
    return largest if largest <= 1.1 * end else end


def faint_colours(values: np.ndarray, limit: float) -> np.ndarray:
    """Return RGBA (..., 4) of values: red above zero, blue below, the fainter the smaller."""
    from matplotlib import colormaps

    share = np.clip(values / limit, -1, 1)
    rgba = colormaps["RdBu_r"](0.5 + 0.5 * share)
    rgba[..., 3] = np.abs(share) ** FAINT_POWER
    return rgba


def _solid(low: float, high: float):
    """Return the colours of shown voxels: light at `low`, none of them too light to be seen."""
    from matplotlib import colormaps

    def colours(values: np.ndarray) -> np.ndarray:
        share = (np.abs(values) - low) / (high - low) if high > low else np.ones(values.shape)
        depth = 0.5 * (0.42 + 0.58 * np.clip(share, 0, 1))
        rgb = colormaps["RdBu_r"](0.5 + np.sign(values) * depth)[..., :3]
        rgb[np.abs(values) < low * (1 - 1e-6)] = 1.0
        return rgb

    return colours


def _draw_glass(figure, values: np.ndarray, affine: np.ndarray, *, low: float, high: float):
    import nibabel as nib
    from matplotlib.colors import ListedColormap
    from nilearn.plotting import plot_glass_brain

    image = nib.Nifti1Image(values.astype(np.float32), affine)
    colours = _solid(low, high)(np.linspace(-high, high, 512))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nilearn about backends, boundaries and empty sides
        display = plot_glass_brain(
            image,
            display_mode="lyrz",
            figure=figure,
            axes=(0.0, 0.0, 1 - (_RIGHT + 10) / _WIDTH, 1.0),
            annotate=False,
            colorbar=False,
            cmap=ListedColormap(colours),
            threshold=low * (1 - 1e-6),
            vmin=-high,
            vmax=high,
            plot_abs=False,
            alpha=0.45,
        )
    for name, cut in display.axes.items():
        if name in "yz":
            _name_sides(cut.ax)
        else:
            text = {"size": 9, "color": SOFT, "ha": "center", "transform": cut.ax.transAxes}
            cut.ax.text(0.5, 0.0, {"l": "left half", "r": "right half"}[name], **text)


def _name_sides(axes) -> None:
    text = {"size": 10, "color": INK, "ha": "center", "va": "top", "transform": axes.transAxes}
    axes.text(0.06, 0.98, "L", **text)
    axes.text(0.94, 0.98, "R", **text)


def _choose(
    values: np.ndarray,
    *,
    n_top: int | None,
    threshold: float | None,
    significant: Path | None,
    alpha: float,
) -> np.ndarray:
    given = [each for each in (n_top, threshold, significant) if each is not None]
    if len(given) != 1:
        raise InputError(
            "the glass brain",
            found=f"{len(given)} of n_top, threshold and significant",
            expected="exactly one of them",
            remedy="Say which voxels are to be shown in one way.",
        )
    if n_top is not None:
        order = np.argsort(-values, axis=None, kind="stable")[:n_top]
        chosen = np.zeros(values.size, dtype=bool)
        chosen[order] = True
        return chosen.reshape(values.shape) & (values > 0)
    if threshold is not None:
        return (np.abs(values) >= threshold) & (values != 0)
    assert significant is not None
    certainty, _ = _load_finite(significant)
    if certainty.shape != values.shape:
        raise InputError(
            str(significant),
            found=f"a grid of {certainty.shape} voxels",
            expected=f"the grid of the map, {values.shape}",
            remedy="Give the two images on one grid.",
        )
    return (certainty >= 1 - alpha - 1e-6) & (values != 0)


def _choose_cuts(
    values: np.ndarray, affine: np.ndarray, backdrop: Backdrop, *, n_cuts: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return levels of the backdrop and their heights in mm (at the middle of the map)."""
    filled = (values != 0).sum(axis=(0, 1))
    ends = np.flatnonzero(filled >= 0.2 * filled.max())[[0, -1]]
    line = np.ones((4, n_cuts))
    line[:2] = np.argwhere(values != 0)[:, :2].mean(axis=0)[:, None]
    line[2] = np.linspace(float(ends[0]), float(ends[1]), n_cuts)
    at = np.linalg.solve(backdrop.affine, affine @ line)
    levels = np.unique(np.clip(np.round(at[2]), 0, backdrop.grey.shape[2] - 1).astype(int))
    middle = np.ones((4, len(levels)))
    middle[:2], middle[2] = at[:2].mean(axis=1)[:, None], levels
    return levels, (backdrop.affine @ middle)[2]


def _cut(values, affine, backdrop: Backdrop, level: int, limit: float) -> np.ndarray:
    """Return RGB (y, x, 3) of one axial level of the backdrop with the map over it."""
    from scipy.ndimage import map_coordinates

    grey = backdrop.grey[:, :, level]
    ground = np.where(grey > 0.02, 0.42 + 0.53 * np.clip(grey, 0, 1), 1.0)[..., None]
    grid = np.indices(grey.shape)
    at = np.stack([*grid, np.full(grey.shape, level), np.ones(grey.shape)])
    there = np.tensordot(np.linalg.inv(affine) @ backdrop.affine, at, axes=1)[:3]
    over = faint_colours(map_coordinates(values, there, order=1, mode="constant"), limit)
    blend = ground * (1 - over[..., 3:]) + over[..., :3] * over[..., 3:]
    return blend.transpose(1, 0, 2)


def _draw_row(figure, cuts: list[np.ndarray], backdrop: Backdrop) -> None:
    total = DOTS_PER_INCH * figure.get_size_inches()
    steps = np.linalg.norm(backdrop.affine[:3, :3], axis=0)
    width, height = cuts[0].shape[1] * steps[0], cuts[0].shape[0] * steps[1]
    gap, foot, head = 8, 24, 2
    room = (total[0] - _RIGHT - 10 - gap * (len(cuts) - 1)) / len(cuts), total[1] - foot - head
    scale = min(room[0] / width, room[1] / height)
    for i, cut in enumerate(cuts):
        box = (
            i * (room[0] + gap) + (room[0] - scale * width) / 2,
            foot + (room[1] - scale * height) / 2,
            scale * width,
            scale * height,
        )
        axes = figure.add_axes(tuple(np.array(box) / np.tile(total, 2)))
        axes.imshow(cut, origin="lower", aspect="auto", interpolation="bilinear")
        axes.set_axis_off()
        _name_sides(axes)


def _load_finite(path: Path) -> tuple[np.ndarray, np.ndarray]:
    values, affine = load_image(path)
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0), affine


def _number(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def _tick(value: float, high: float, *, cut: bool) -> str:
    """Return the text of a tick; at the ends of a scale that cuts off it says so."""
    if 0 < abs(value) < 0.005 * high:
        return "> 0"
    sign = "" if not cut or abs(value) < high else "≥ " if value > 0 else "≤ "
    return sign + _number(value)

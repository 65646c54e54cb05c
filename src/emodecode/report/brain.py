"""The mask and the maps on the brain: three cuts, on the MNI template where that is the space."""

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from emodecode.report.drawing import DOTS_PER_INCH, INK, SOFT, drawn_style, grey_png, new_figure
from emodecode.report.folder import load_image

MASK_COLOUR = (0.14, 0.33, 0.48)
# Fields of view of the common MNI grids (FSL, SPM, fMRIPrep), with room for cropped ones.
_MNI_SIZE_MM = ((140, 205), (170, 240), (115, 205))
_MNI_CENTRE_MM, _MNI_CENTRE_OFF_MM = (0.0, -18.0, 15.0), 16.0


@dataclass(frozen=True, eq=False)
class Backdrop:
    """The grid that everything is drawn on, and the anatomy under it (grey values 0-1)."""

    grey: np.ndarray
    affine: np.ndarray
    on_template: bool


def looks_like_mni(shape: tuple[int, ...], affine: np.ndarray, *, space: str | None = None) -> bool:
    """Say whether a grid is an MNI one: by its BIDS `space`, or else by its field of view.

    Scanner grids are square in the axial plane and differ in size; MNI grids are longer than
    broad and centred a little behind the origin.
    """
    if space and space != "n/a":
        return "MNI" in space.upper()
    steps = np.diag(affine)[:3]
    if not np.allclose(affine[:3, :3], np.diag(steps), atol=1e-3):
        return False
    size = np.abs(steps) * shape[:3]
    centre = affine[:3, 3] + steps * (np.array(shape[:3]) - 1) / 2
    fits = all(low <= s <= high for s, (low, high) in zip(size, _MNI_SIZE_MM, strict=True))
    near = bool(np.abs(centre - _MNI_CENTRE_MM).max() <= _MNI_CENTRE_OFF_MM)
    return bool(fits and near and size[1] / size[0] > 1.08)


def make_backdrop(mask: Path, *, space: str | None = None) -> Backdrop:
    """Return the MNI152 template (2 mm, bundled with nilearn) for masks there, else the mask.

    Both are cropped to what there is to see.
    """
    values, affine = load_image(mask)
    if looks_like_mni(values.shape, affine, space=space):
        grey, template_affine = _template()
        return _cropped(grey, template_affine, on_template=True)
    return _cropped(0.3 * (values != 0), affine, on_template=False)


def draw_mask(mask: Path, backdrop: Backdrop) -> str:
    """Return the mask in three cuts through its middle as a PNG address."""
    inside = _on_grid(mask, backdrop, nearest=True) > 0.5
    where = np.argwhere(inside)
    middle = where[np.abs(where - where.mean(axis=0)).sum(axis=1).argmin()]
    colours = np.zeros((*inside.shape, 4))
    colours[inside] = (*MASK_COLOUR, 0.6 if backdrop.on_template else 1.0)
    with drawn_style():
        figure = new_figure(720, 230)
        _draw_cuts(figure, backdrop, colours, middle, right=0)
        return grey_png(figure, scale=1.8)


def draw_map(map_file: Path, backdrop: Backdrop, *, at_mm: list[float] | None) -> str:
    """Return a map in three cuts through `at_mm` as a PNG address.

    Colour says sign and size; faint means small (nothing is cut off at a threshold). The scale
    ends at the 99.8th percentile of the absolute values.
    """
    values = _on_grid(map_file, backdrop, nearest=False)
    size = np.abs(values)
    filled = size[size > 0]
    limit = float(np.percentile(filled, 99.8)) if len(filled) else 1.0
    colours = _diverging()(0.5 + 0.5 * np.clip(values / limit, -1, 1))
    colours[..., 3] = np.clip(size / limit, 0, 1) ** 0.8
    if at_mm is None:
        place = np.array(np.unravel_index(size.argmax(), size.shape))
    else:
        place = np.linalg.solve(backdrop.affine, [*at_mm, 1.0])[:3]
    place = np.clip(np.round(place).astype(int), 0, np.array(values.shape) - 1)
    with drawn_style():
        figure = new_figure(440, 150)
        _draw_cuts(figure, backdrop, colours, place, right=62)
        _draw_scale(figure, limit)
        return grey_png(figure, scale=1.7)


def _draw_cuts(figure, backdrop: Backdrop, colours: np.ndarray, place, *, right: float) -> None:
    """Sagittal, coronal and axial cut through `place`, to one scale; `right` pixels stay free."""
    ground = np.where(backdrop.grey > 0.02, 0.42 + 0.53 * np.clip(backdrop.grey, 0, 1), 1.0)
    mm = backdrop.affine[:3, :3] @ place + backdrop.affine[:3, 3]
    x, y, z = np.array(ground.shape) * np.linalg.norm(backdrop.affine[:3, :3], axis=0)
    sizes = ((y, z), (x, z), (x, y))
    total, gap, foot, head = DOTS_PER_INCH * figure.get_size_inches(), 16, 18, 3
    room = total - (right + 2 * gap, foot + head)
    scale = min(room[0] / (y + 2 * x), room[1] / max(y, z))
    left = (room[0] - scale * (y + 2 * x)) / 2
    for axis, (width, height) in enumerate(sizes):
        below = np.take(ground, place[axis], axis=axis).T[..., None]
        over = np.take(colours, place[axis], axis=axis).transpose(1, 0, 2)
        blend = below * (1 - over[..., 3:]) + over[..., :3] * over[..., 3:]
        low = foot + (room[1] - scale * height) / 2
        axes = figure.add_axes(
            (left / total[0], low / total[1], scale * width / total[0], scale * height / total[1])
        )
        axes.imshow(blend, origin="lower", aspect="auto", interpolation="bilinear")
        axes.set_axis_off()
        text = {"ha": "center", "va": "top", "size": 9, "transform": axes.transAxes}
        name = f"{'xyz'[axis]} = {mm[axis]:.0f} mm".replace("-", "−")
        axes.text(0.5, -3 / (scale * height), name, color=SOFT, **text)
        if axis:
            axes.text(0.05, 0.99, "L", color=INK, **text)
            axes.text(0.95, 0.99, "R", color=INK, **text)
        left += scale * width + gap


def _draw_scale(figure, limit: float) -> None:
    axes = figure.add_axes((0.876, 0.2, 0.018, 0.64))
    bar = _diverging()(np.linspace(0, 1, 64))[:, None, :3]
    weight = (np.abs(np.linspace(-1, 1, 64)) ** 0.8)[:, None, None]
    axes.imshow(bar * weight + (1 - weight), origin="lower", aspect="auto", extent=(0, 1, -1, 1))
    axes.set_xticks([])
    axes.yaxis.tick_right()
    text = f"{limit:.2g}"
    axes.set_yticks([-1, 0, 1], [f"−{text}", "0", text])
    axes.tick_params(labelsize=8, length=0, pad=2)


def _on_grid(path: Path, backdrop: Backdrop, *, nearest: bool) -> np.ndarray:
    values, affine = load_image(path)
    values = np.nan_to_num(values)
    if values.shape == backdrop.grey.shape and np.allclose(affine, backdrop.affine):
        return values
    import nibabel as nib
    from nilearn.image import resample_img

    image = nib.Nifti1Image(values, affine)
    with warnings.catch_warnings():
        # a map of two values (all zero but one region) is none the less no mask
        warnings.filterwarnings("ignore", message="Resampling binary images")
        resampled = resample_img(
            image,
            target_affine=backdrop.affine,
            target_shape=backdrop.grey.shape,
            interpolation="nearest" if nearest else "linear",
            force_resample=True,
            copy_header=True,
        )
    return np.asarray(resampled.dataobj)


def _cropped(grey: np.ndarray, affine: np.ndarray, *, on_template: bool) -> Backdrop:
    where = np.argwhere(grey > 0.02)
    low = np.maximum(where.min(axis=0) - 2, 0)
    high = np.minimum(where.max(axis=0) + 3, grey.shape)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, :3] @ low
    inside = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    return Backdrop(grey[inside], moved, on_template)


@lru_cache(maxsize=1)
def _template() -> tuple[np.ndarray, np.ndarray]:
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    values = np.asarray(image.dataobj, dtype=np.float32)
    return values / np.percentile(values[values > 0], 99.5), np.asarray(image.affine)


def _diverging():
    from matplotlib import colormaps

    return colormaps["RdBu_r"]

"""Runs -> matrices of voxels: the common brain mask, and the volumes of a run inside it."""

import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from nibabel.spatialimages import SpatialImage

from emodecode.errors import DataMissingError, InputError
from emodecode.read.files import open_image, require_downloaded, unreadable
from emodecode.run import Run

Grid = tuple[tuple[int, ...], np.ndarray]
"""Shape and affine."""

GRID_TOLERANCE = 1e-3
"""Largest difference between affines of the same grid (mm, and mm per voxel)."""

MASK_LOSS = 0.2
"""Share of the median mask that the intersection may lose before a warning."""


def brain_mask(
    runs: Sequence[Run], *, mask: str | Path | SpatialImage | None = None
) -> nib.Nifti1Image:
    """Find the voxels that all runs share.

    Parameters
    ----------
    runs : sequence of Run
        All on one grid.
    mask : path or 3-D image, optional
        Mask to use instead, on the grid of the runs: zeros and one other value.

    Returns
    -------
    Nifti1Image
        uint8, 1 inside. Without `mask`, the intersection of the runs' own masks; a run without
        one gets nilearn's ``compute_epi_mask`` of its mean volume (threshold at the widest gap of
        the sorted intensities between the 20th and the 85th percentile, opened by 2 voxels, largest
        component), which reads the whole run.

    Warns
    -----
    UserWarning
        The intersection is more than 20 % smaller than the median of the masks.

    Raises
    ------
    InputError
        A run without data, grids that differ, or an empty or unfit mask.
    """
    grid = _common_grid(runs)
    inside = _intersection(runs, grid) if mask is None else _given_mask(mask, grid)
    return nib.Nifti1Image(inside.astype(np.uint8), grid[1])


def masked(run: Run, mask: SpatialImage, *, smoothing_mm: float | None = None) -> np.ndarray:
    """Volumes of a run inside a mask.

    The file is read once from front to end, a volume at a time, so that no more than the result
    and one volume are in memory.

    Parameters
    ----------
    run : Run
        Its dummies are skipped.
    mask : 3-D image
        On the grid of the run; of a matrix run it holds part of ``run.mask``.
    smoothing_mm : float, optional
        Full width at half maximum of a Gaussian applied to each volume before masking.

    Returns
    -------
    ndarray of shape (n_volumes, n_voxels), float32
        The columns follow the True voxels of `mask` in C order.

    Raises
    ------
    InputError
        A truncated or corrupt file, NaN or infinite values inside the mask, or another grid.
    """
    inside = np.asanyarray(mask.dataobj) != 0
    if run.planned_volumes is not None:
        raise _no_data(run)
    if run.matrix is not None:
        return _finite(_matrix_columns(run, inside, smoothing_mm), run)
    _require_grid(run, mask)
    matrix = np.empty((run.n_volumes, int(inside.sum())), dtype=np.float32)
    for row, volume in enumerate(volumes(run)):
        if smoothing_mm is not None:
            _finite(volume[inside][None], run, first_volume=row)
            volume = _smooth(volume, mask.affine, smoothing_mm)
        matrix[row] = volume[inside]
    return _finite(matrix, run)


def volumes(run: Run) -> Iterator[np.ndarray]:
    """Yield the volumes of an image run after its dummies, each float32 ``(x, y, z)``."""
    assert run.image is not None
    proxy = run.image.dataobj
    if isinstance(proxy, ArrayProxy) and isinstance(proxy.file_like, (str, Path)):
        yield from _stream(proxy, dummies=run.dummies)
        return
    data = np.asanyarray(proxy)
    if data.dtype.kind not in "iufb":
        raise InputError(
            run.name,
            found=f"voxels of type {data.dtype}, not real numbers",
            expected="an image of real numbers",
            remedy="Pass its magnitude.",
        )
    for index in range(run.dummies, data.shape[3]):
        yield np.asarray(data[..., index], dtype=np.float32)


def _stream(proxy: ArrayProxy, *, dummies: int) -> Iterator[np.ndarray]:
    """Read an image file front to end: nibabel would unpack a .gz anew for every slice of it."""
    path, shape, dtype = proxy.file_like, proxy.shape[:3], proxy.dtype
    if dtype.kind not in "iuf":
        raise unreadable(path, f"voxels of type {dtype}, not real numbers")
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    slope, inter = float(proxy.slope), float(proxy.inter)
    try:
        with ImageOpener(path) as file:
            file.seek(proxy.offset)
            for index in range(proxy.shape[3]):
                content = file.read(n_bytes)
                if len(content) < n_bytes:
                    raise unreadable(path, f"it ends in volume {index} of {proxy.shape[3]}")
                if index < dummies:
                    continue
                volume = np.frombuffer(content, dtype=dtype).reshape(shape, order="F")
                if (slope, inter) != (1.0, 0.0):
                    volume = volume * slope + inter
                yield volume.astype(np.float32)
            while file.read(1 << 16):  # the checksum of a .gz is compared only at its end
                pass
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error


def _smooth(volume: np.ndarray, affine: np.ndarray, fwhm_mm: float) -> np.ndarray:
    from nilearn.image import smooth_img

    return smooth_img(nib.Nifti1Image(volume, affine), fwhm_mm).get_fdata(dtype=np.float32)


def _matrix_columns(run: Run, inside: np.ndarray, smoothing_mm: float | None) -> np.ndarray:
    assert run.matrix is not None
    if smoothing_mm is not None:
        raise InputError(
            run.name,
            found="a matrix of voxels and smoothing",
            expected="images where features.clean.smoothing_mm is set",
            remedy="Smooth before the matrix is made, or remove smoothing_mm.",
        )
    kept = run.matrix[run.dummies :]
    own = np.ones(inside.shape, bool) if run.mask is None else _is_inside(run.mask)
    if own.shape != inside.shape or own.sum() != kept.shape[1]:
        raise InputError(
            run.name,
            found=f"{kept.shape[1]} columns, a mask of its own of {int(own.sum())} voxels in "
            f"{own.shape} and a common mask in {inside.shape}",
            expected="one column per voxel of its mask, on the grid of the common mask",
            remedy="Check data.mask and the voxel order.",
        )
    outside = int((inside & ~own).sum())
    if outside:
        raise InputError(
            run.name,
            found=f"{outside} voxels of the mask that the run has no column for",
            expected="a mask within the run's own mask",
            remedy="Leave data.mask out, or make it smaller.",
        )
    return np.asarray(kept[:, inside[own]], dtype=np.float32)


def _finite(matrix: np.ndarray, run: Run, *, first_volume: int = 0) -> np.ndarray:
    with np.errstate(invalid="ignore", over="ignore"):
        suspicious = ~np.isfinite(matrix.sum(axis=1, dtype=np.float64))
    if not suspicious.any():
        return matrix
    rows = np.flatnonzero(suspicious)
    counts = (~np.isfinite(matrix[rows])).sum(axis=1)
    worst = int(counts.argmax())
    names = ", ".join(str(row + first_volume) for row in rows[:8])
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    where = f"{run.name} ({run.source})" if run.source else run.name
    raise InputError(
        where,
        found=f"NaN or infinite values in {len(rows)} of {run.n_volumes} volumes ({names}{more}); "
        f"volume {rows[worst] + first_volume} has {counts[worst]} of {matrix.shape[1]} voxels",
        expected="finite values inside the mask",
        remedy="Remove the run, or give a mask (data.mask) that leaves out the voxels without "
        "signal.",
    )


def _is_inside(mask: SpatialImage) -> np.ndarray:
    try:
        return np.asanyarray(mask.dataobj) != 0
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise unreadable(mask.get_filename() or "mask", error) from error


def _no_data(run: Run) -> InputError:
    return InputError(
        run.name,
        found="a planned run without data",
        expected="an image or a matrix",
        remedy="A design can be labelled; to decode, set data.source to bids or mat.",
    )


def _grid(run: Run) -> Grid:
    if run.image is not None:
        return run.image.shape[:3], run.image.affine
    if run.matrix is None:
        raise _no_data(run)
    if run.mask is None:
        raise InputError(
            run.name,
            found="a matrix without a mask",
            expected="the mask that its columns follow",
            remedy="Set data.mask.",
        )
    return run.mask.shape[:3], run.mask.affine


def _common_grid(runs: Sequence[Run]) -> Grid:
    """Grid of most runs; InputError that names the odd one."""
    if not runs:
        raise InputError(
            "runs", found="none", expected="at least one run", remedy="Check the data section."
        )
    grids = [_grid(run) for run in runs]
    fits = [[_same(first, second) for second in grids] for first in _distinct(grids)]
    best = max(fits, key=sum)
    usual = grids[best.index(True)]
    if not all(best):
        odd = best.index(False)
        raise InputError(
            runs[odd].name,
            found=f"{_describe(grids[odd])}; {best.count(False)} of {len(runs)} runs differ",
            expected=f"the grid of the others: {_describe(usual)}",
            remedy="Use images in one standard space (data.space), or resample them.",
        )
    return usual


def _distinct(grids: list[Grid]) -> list[Grid]:
    found: list[Grid] = []
    for grid in grids:
        if not any(_same(grid, other) for other in found):
            found.append(grid)
    return found


def _same(first: Grid, second: Grid) -> bool:
    return tuple(first[0]) == tuple(second[0]) and np.allclose(
        first[1], second[1], rtol=0, atol=GRID_TOLERANCE
    )


def _describe(grid: Grid) -> str:
    shape, affine = grid
    sizes = " x ".join(f"{size:.3g}" for size in nib.affines.voxel_sizes(affine))
    origin = ", ".join(f"{value:.4g}" for value in affine[:3, 3])
    return f"{' x '.join(map(str, shape))} voxels of {sizes} mm, origin ({origin})"


def _require_grid(run: Run, mask: SpatialImage) -> None:
    own, wanted = _grid(run), (mask.shape, mask.affine)
    if not _same(own, wanted):
        raise InputError(
            run.name,
            found=_describe(own),
            expected=f"the grid of the mask: {_describe(wanted)}",
            remedy="Resample one of them (nilearn.image.resample_to_img).",
        )


def _given_mask(mask: str | Path | SpatialImage, grid: Grid) -> np.ndarray:
    name = "mask"
    if isinstance(mask, (str, Path)):
        path = Path(mask)
        name = str(path)
        if not path.is_file() and not path.is_symlink():
            raise DataMissingError(
                name, found="no such file", expected="a mask", remedy="Check data.mask."
            )
        require_downloaded([path], what="masks")
        mask = open_image(path)
    if len(mask.shape) != 3:
        raise InputError(
            name,
            found=f"an image of shape {mask.shape}",
            expected="a 3-D mask",
            remedy="Take one volume of it.",
        )
    if not _same((mask.shape, mask.affine), grid):
        raise InputError(
            name,
            found=_describe((mask.shape, mask.affine)),
            expected=f"the grid of the runs: {_describe(grid)}",
            remedy="Resample the mask: nilearn.image.resample_to_img(mask, run, "
            "interpolation='nearest').",
        )
    inside = _is_inside(mask)
    values = np.unique(np.asanyarray(mask.dataobj)[inside])
    if len(values) != 1 or not np.isfinite(values).all():
        raise InputError(
            name,
            found=f"{len(values)} values other than 0"
            if len(values)
            else "it is empty: all values are 0",
            expected="zeros and one other value",
            remedy="Threshold the probabilities, or pick the regions of the atlas, first."
            if len(values)
            else "Check how the mask was made.",
        )
    return inside


def _intersection(runs: Sequence[Run], grid: Grid) -> np.ndarray:
    inside = np.ones(grid[0], dtype=bool)
    sizes: list[int] = []
    seen: dict[int, int] = {}
    for run in runs:
        if run.mask is not None and id(run.mask) in seen:
            sizes.append(seen[id(run.mask)])
            continue
        own = _own_mask(run, grid)
        if not own.any():
            raise _no_brain(run)
        sizes.append(int(own.sum()))
        if run.mask is not None:
            seen[id(run.mask)] = sizes[-1]
        inside &= own
    n_voxels, typical = int(inside.sum()), median(sizes)
    smallest = runs[sizes.index(min(sizes))].name
    if n_voxels == 0:
        raise InputError(
            "brain mask",
            found=f"no voxel is in the masks of all {len(runs)} runs "
            f"(smallest: {smallest}, {min(sizes)} voxels)",
            expected="masks that overlap",
            remedy="Look at that run, name its subject in data.exclude, or set data.mask.",
        )
    if n_voxels < (1 - MASK_LOSS) * typical:
        warnings.warn(
            f"brain mask: {n_voxels} voxels are in all {len(runs)} masks, "
            f"{1 - n_voxels / typical:.0%} less than the median mask ({typical:g}); "
            f"the smallest is {smallest}'s ({min(sizes)})",
            UserWarning,
            stacklevel=3,
        )
    return inside


def _own_mask(run: Run, grid: Grid) -> np.ndarray:
    if run.mask is not None:
        if not _same((run.mask.shape, run.mask.affine), grid):
            raise InputError(
                f"{run.name}, its mask",
                found=_describe((run.mask.shape, run.mask.affine)),
                expected=f"the grid of its image: {_describe(grid)}",
                remedy="Use the mask of the same space, or set data.mask.",
            )
        return _is_inside(run.mask)
    return _computed_mask(run)


def _no_brain(run: Run) -> InputError:
    computed = run.mask is None
    return InputError(
        f"{run.name} ({run.source})" if computed else f"{run.name}, its mask",
        found="no brain found in its mean volume" if computed else "no voxel: all values are 0",
        expected="a bright brain on a dark background" if computed else "a mask of the brain",
        remedy="Set data.mask, or name the subject in data.exclude.",
    )


def _computed_mask(run: Run) -> np.ndarray:
    from nilearn.masking import compute_epi_mask

    assert run.image is not None
    total = np.zeros(run.image.shape[:3])
    for number, volume in enumerate(volumes(run)):
        if not np.isfinite(volume).any():
            _finite(volume.reshape(1, -1), run, first_volume=number)
        total += volume
    mean = nib.Nifti1Image(np.nan_to_num(total / run.n_volumes), run.image.affine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asanyarray(compute_epi_mask(mean).dataobj) != 0

"""What one MATLAB file (v5 or v7.3) holds: matrices, cell arrays of volumes, labels."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from emodecode.errors import InputError
from emodecode.read.files import require_file


def _load(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Load variables of a v5 or v7.3 file: arrays in MATLAB's orientation, cells as object."""
    require_file(path)
    try:
        import h5py

        variables = _load_v73(path, names) if h5py.is_hdf5(path) else _load_v5(path, names)
    except InputError:
        raise
    except Exception as error:  # the parsers fail on damaged files in many ways
        raise InputError(
            str(path),
            found=f"it cannot be read as a MATLAB file ({error or type(error).__name__})",
            expected="a complete .mat file, version 5 to 7.3",
            remedy="Copy or download it again: it is cut off or no MATLAB file.",
        ) from error
    return variables


def _load_v5(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    from scipy.io import loadmat, whosmat

    there = [name for name, _, _ in whosmat(path, appendmat=False)]
    if not set(names) <= set(there) and _is_cut_off(path):
        raise ValueError("it ends in the middle of a variable")
    _require_keys(path, names, there)
    content = loadmat(path, variable_names=list(names), appendmat=False)
    return [_require_array(path, name, content[name]) for name in names]


def _is_cut_off(path: Path) -> bool:
    """Whether the last element of a v5 file is longer than the rest of the file.

    SciPy takes the end of such a file for the end of the list of variables.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        header = file.read(128)
        order = {b"IM": "little", b"MI": "big"}.get(header[126:128])
        if order is None:  # version 4 has no such header
            return False
        end = 128
        while end < size:
            file.seek(end + 4)
            end += 8 + int.from_bytes(file.read(4), order)  # type: ignore[arg-type]
    return end != size


def _load_v73(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    import h5py

    with h5py.File(path, "r") as file:
        _require_keys(path, names, [name for name in file if not name.startswith("#")])
        return [_require_array(path, name, _from_hdf5(file, file[name])) for name in names]


def _from_hdf5(file: Any, item: Any) -> Any:
    """Turn one HDF5 item round as MATLAB shows it; references are the cells of a cell array."""
    import h5py

    if not isinstance(item, h5py.Dataset):
        return None
    if item.attrs.get("MATLAB_empty", 0):
        return np.empty(tuple(int(n) for n in item[()]))
    if h5py.check_ref_dtype(item.dtype) is not None:
        cells = np.empty(item.shape, dtype=object)
        for index, reference in np.ndenumerate(item[()]):
            cells[index] = _from_hdf5(file, file[reference])
        return cells.T
    values = np.asarray(item).T
    if item.attrs.get("MATLAB_class") in (b"char", "char"):
        values = np.array(["".join(map(chr, row)) for row in np.atleast_2d(values)])
    return values


def _require_keys(path: Path, names: Sequence[str], there: Sequence[str]) -> None:
    missing = [name for name in names if name not in there]
    if missing:
        raise InputError(
            str(path),
            found=f"no variable {', '.join(missing)}; there are {few(sorted(there)) or 'none'}",
            expected=f"the variables {', '.join(names)}",
            remedy="Correct data.key or data.label_key.",
        )


def _require_array(path: Path, name: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray) and value.dtype.names is None and value.size:
        return value
    raise InputError(
        str(path),
        found=f"{name} is empty or a structure",
        expected="a numeric array or a cell array",
        remedy="Name the variable that holds the data itself in data.key.",
    )


def read_matrix(path, keys, layout, mask, order) -> tuple[list[int], np.ndarray]:
    """Volumes of each variable, and all as one float32 matrix (volumes, voxels in C order).

    `order` says which column of the file is voxel ``j`` of the mask in C order.
    """
    matrices = []
    for name, values in zip(keys, _load(path, keys), strict=True):
        if values.ndim != 2 or values.dtype.kind not in "fiub":
            raise InputError(
                str(path),
                found=f"{name} of shape {values.shape}, type {values.dtype}",
                expected="a matrix of numbers",
                remedy='Use layout = "volumes" for cell arrays and 4-D arrays.',
            )
        matrices.append(values.T if layout == "voxels_by_time" else values)
    _require_one_width(path, keys, layout, [matrix.shape[1] for matrix in matrices], mask)
    joined = np.concatenate(matrices).astype(np.float32)
    if not np.isfinite(joined).all():
        volumes, voxels = np.nonzero(~np.isfinite(joined))
        raise InputError(
            str(path),
            found=f"{len(volumes)} values that are no numbers, the first in volume {volumes[0]}, "
            f"voxel {voxels[0]} (counted as in the file)",
            expected="finite numbers",
            remedy="Leave those voxels out of the matrix and the mask, or exclude the subject.",
        )
    if order is not None:
        joined = joined[:, order]
    return [len(matrix) for matrix in matrices], np.ascontiguousarray(joined)


def _require_one_width(path, keys, layout, widths, mask) -> None:
    n_voxels = widths[0]
    if mask is not None:
        n_voxels = int(np.count_nonzero(np.asanyarray(mask.dataobj)))
    for name, width in zip(keys, widths, strict=True):
        if width != n_voxels:
            other = "time_by_voxels" if layout == "voxels_by_time" else "voxels_by_time"
            raise InputError(
                str(path),
                found=f"{name} has {width} voxels, "
                + (f"the mask {n_voxels}" if mask is not None else f"{keys[0]} has {n_voxels}"),
                expected="the same number",
                remedy=f'Check data.mask, and whether the layout is "{other}".',
            )


def _volumes_of(path: Path, name: str, values: np.ndarray) -> list[np.ndarray]:
    if values.dtype == object:
        volumes = [np.asarray(volume) for volume in values.ravel(order="F")]
    else:
        volumes = list(np.moveaxis(values, -1, 0)) if values.ndim == 4 else [values]
    shapes = [volume.shape for volume in volumes]
    wrong = [v for v, shape in enumerate(shapes) if len(shape) != 3 or shape != shapes[0]]
    if wrong or any(volume.dtype.kind not in "fiub" for volume in volumes):
        worst = wrong[0] if wrong else 0
        raise InputError(
            str(path),
            found=f"volume {worst} of {name} has shape {shapes[worst]}, volume 0 {shapes[0]}",
            expected="a cell array of 3-D volumes of numbers, all of one shape",
            remedy="Correct data.key or data.layout.",
        )
    return volumes


def _stack(path: Path, keys: Sequence[str]) -> tuple[list[int], np.ndarray]:
    """Volumes of each variable, and all as one float32 array (x, y, z, volumes)."""
    groups = [
        _volumes_of(path, name, values)
        for name, values in zip(keys, _load(path, keys), strict=True)
    ]
    if len({group[0].shape for group in groups}) > 1:
        shapes = ", ".join(f"{k} {g[0].shape}" for k, g in zip(keys, groups, strict=True))
        raise InputError(
            str(path),
            found=f"volumes of different shape: {shapes}",
            expected="one shape",
            remedy="Correct data.key.",
        )
    stacked = np.stack([v for group in groups for v in group], axis=-1).astype(np.float32)
    return [len(group) for group in groups], stacked


def read_volumes(path, keys, mask) -> tuple[list[int], np.ndarray]:
    """Volumes of each variable, and all as one float32 array (x, y, z, volumes), checked."""
    parts, stacked = _stack(path, keys)
    if mask is not None and mask.shape != stacked.shape[:3]:
        raise InputError(
            str(path),
            found=f"volumes of {stacked.shape[:3]} voxels, a mask of {mask.shape}",
            expected="the same shape",
            remedy="Correct data.mask.",
        )
    finite = np.isfinite(stacked).any(axis=(0, 1, 2))
    if not finite.all():
        raise InputError(
            str(path),
            found=f"{np.count_nonzero(~finite)} volumes without a number, the first is "
            f"{int(np.argmin(finite))}",
            expected="volumes of numbers",
            remedy="Exclude the subject (data.exclude), or repair the file.",
        )
    return parts, stacked


class _LazyVolumes:
    """Volumes of a .mat file as nibabel's array proxy: read again when they are needed."""

    is_proxy = True
    ndim = 4
    dtype = np.dtype(np.float32)
    slope, inter = 1.0, 0.0  # nilearn asks a proxy for its scaling

    def __init__(self, path: Path, keys: Sequence[str], shape: tuple[int, ...]) -> None:
        self.path, self.keys, self.shape = path, tuple(keys), shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return _stack(self.path, self.keys)[1].astype(dtype or np.float32, copy=False)

    def __getitem__(self, index) -> np.ndarray:
        return np.asarray(self)[index]


def as_image(path: Path, keys: Sequence[str], stacked: np.ndarray, mask) -> nib.Nifti1Image:
    """Image that reads the file again when its voxels are asked for; affine of the mask if any."""
    affine = np.eye(4) if mask is None else mask.affine
    return nib.Nifti1Image(_LazyVolumes(path, keys, stacked.shape), affine)


def read_labels(path: Path, label_keys: Sequence[str], names: Mapping[str, str]) -> list[list[str]]:
    """Labels of each variable of `label_keys`, one per volume, by their `names` if given."""
    if not label_keys:
        return []
    groups = [_label_texts(values) for values in _load(path, label_keys)]
    if not names:
        return groups
    unnamed = sorted({text for group in groups for text in group} - {*names, "n/a"})
    if unnamed:
        raise InputError(
            str(path),
            found=f"labels without a name: {few(unnamed)}",
            expected=f"only {', '.join(sorted(names))}",
            remedy="Complete data.label_names.",
        )
    return [[names.get(text, text) for text in group] for group in groups]


def _label_texts(values: np.ndarray) -> list[str]:
    cells = [np.asarray(cell).ravel() for cell in values.ravel(order="F")]
    return [_text(cell[0]) if cell.size else "n/a" for cell in cells]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip() or "n/a"
    number = float(value)
    if np.isnan(number):
        return "n/a"
    return str(int(number)) if number.is_integer() else str(number)


def few(names: Sequence[str]) -> str:
    """Up to twelve names in a message."""
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")

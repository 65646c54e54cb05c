"""Maps to find places in: read and checked."""

import os
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage

from emodecode.errors import DataMissingError, InputError


def inside_of(mask_image: SpatialImage) -> np.ndarray:
    """Return the mask as a boolean array of three dimensions."""
    if len(mask_image.shape) != 3:
        raise InputError(
            "mask",
            found=f"an image of shape {mask_image.shape}",
            expected="a 3-D image",
            remedy="Pass one volume.",
        )
    return np.asanyarray(mask_image.dataobj) != 0


def checked_values(values: np.ndarray, *, n_voxels: int) -> np.ndarray:
    """Return the values of a map (n_voxels,) in float64; refuse what no place can be found in."""
    values = np.asarray(values, dtype=np.float64)
    if values.shape != (n_voxels,):
        raise InputError(
            "map",
            found=f"values of shape {values.shape}",
            expected=f"({n_voxels},): one value a voxel of the mask",
            remedy="Pass the mask that the map was made with.",
        )
    if not np.isfinite(values).all():
        raise InputError(
            "map",
            found=f"{int((~np.isfinite(values)).sum())} values that are not finite",
            expected="finite numbers",
            remedy="Leave those voxels out of the mask.",
        )
    if not values.any():
        raise _empty("map", "a map that is zero everywhere")
    return values


def read_map(given: str | os.PathLike | SpatialImage) -> tuple[np.ndarray, SpatialImage]:
    """Return the values of a map image and the mask of its finite values other than zero."""
    where, image = "map", given
    if isinstance(given, str | os.PathLike):
        where = str(given)
        if not Path(given).is_file():
            raise DataMissingError(
                where, found="no such file", expected="a NIfTI map", remedy="Check the path."
            )
        image = nib.load(given)  # type: ignore[assignment]
    assert isinstance(image, SpatialImage)
    if len(image.shape) != 3:
        raise InputError(
            where,
            found=f"an image of shape {image.shape}",
            expected="a 3-D map",
            remedy="Pass one map at a time.",
        )
    data = np.nan_to_num(np.asanyarray(image.dataobj, dtype=np.float64), posinf=0, neginf=0)
    inside = data != 0
    if not inside.any():
        raise _empty(where, "a map without a value that is finite and not zero")
    return data[inside], nib.Nifti1Image(inside.astype(np.uint8), image.affine)


def _empty(where: str, found: str) -> InputError:
    return InputError(
        where,
        found=found,
        expected="values other than zero",
        remedy="Look at how the map was made: a decoder that used nothing leaves nothing to name.",
    )

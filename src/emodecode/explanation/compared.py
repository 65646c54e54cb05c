"""Maps of several methods side by side: agreement, ranks of regions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import SpatialImage
from scipy.stats import rankdata

from emodecode.errors import InputError
from emodecode.explain.agreement import agreement
from emodecode.explain.atlas import Atlas, check_space, landmarks
from emodecode.explain.mapinput import inside_of
from emodecode.explanation.methods import METHODS, Maps

if TYPE_CHECKING:
    from emodecode.samples import Samples

MOST_RANKED = 5
"""A region is listed that is among so many of any method."""


def compare_methods(
    maps: Maps,
    *,
    classes: Sequence[str],
    mask_image: SpatialImage,
    parcels: np.ndarray | None = None,
    names: Mapping[int, str] | None = None,
    atlas: Atlas | None = None,
    space: str | None = None,
) -> dict[str, Any]:
    """Compare the methods' mean maps over subjects, over voxels and over regions.

    Parameters
    ----------
    maps : dict of method -> ndarray of shape (n_subjects, n_classes, n_voxels)
        Occlusion's drops spread to voxels (`Units.spread`), and what `join_folds` gives. Only
        subjects with every class in every method count; a method without any is left out.
    classes : sequence of str
    mask_image : SpatialImage
        Its voxels that are not 0, in C order, are those of the maps.
    parcels : ndarray of int, shape (n_voxels,), optional
        The study's regions; 0: none.
    names : dict, optional
        Of the parcels.
    atlas : Atlas, optional
        Of the regions where there are no `parcels`; by default the landmarks.
    space : str or None
        Template of the maps; without one (or one of a subject) there are no regions but parcels.

    Returns
    -------
    dict, ready for JSON
        ``n_subjects``, ``n_left_out``; ``methods``;
        ``agreement``: of each class and pair of methods Spearman's correlation over ``voxels``
        and over the means of ``regions``, None where a map is constant or there are no regions;
        ``regions``: each class's regions that are among the `MOST_RANKED` largest means of a
        method, if above 0, with the rank in each method (1: largest; ties share their mean rank)
        and the ``spread`` of the ranks; ``regions_of``: what they are, ``regions_note``: why there
        are none;
        ``notes``: methods that were left out.

    Raises
    ------
    InputError
        No map of any subject, or maps of other shapes.
    """
    maps, notes, n_left_out = _complete(maps, n_classes=len(classes), mask_image=mask_image)
    means = {method: each.mean(axis=0, dtype=np.float64) for method, each in maps.items()}
    regions = _regions(mask_image, parcels, names, atlas, space)
    return {
        "methods": list(maps),
        "n_subjects": len(next(iter(maps.values()))),
        "n_left_out": n_left_out,
        "agreement": _agreement(means, classes, regions["labels"]),
        "regions": _ranked(means, classes, regions["labels"], regions["names"]),
        "regions_of": regions["title"],
        "regions_note": regions["note"],
        "notes": notes,
    }


def mean_maps(maps: Maps) -> Maps:
    """Return each method's mean over the subjects that `compare_methods` counts.

    Parameters
    ----------
    maps : dict of method -> ndarray of shape (n_subjects, n_classes, n_voxels)

    Returns
    -------
    dict of method -> ndarray of shape (n_classes, n_voxels)
    """
    kept, _, _ = _complete(maps)
    return {method: each.mean(axis=0, dtype=np.float64) for method, each in kept.items()}


def write_method_maps(
    folder: Path,
    samples: "Samples",
    means: Maps,
    *,
    model: str,
    classes: Mapping[str, str],
    there: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, dict[str, str]]:
    """Write mean maps as ``maps/model-M_label-C_METHOD.nii.gz``.

    Parameters
    ----------
    folder : Path
    samples : Samples
        With the mask of the maps.
    means : dict of method -> ndarray of shape (n_classes, n_voxels)
        See `mean_maps`.
    model : str
        What stands for the decoder in names of files (`emodecode.archive.entities`).
    classes : dict
        The same for each class, in the order of the maps.
    there : dict of method -> class -> file, optional
        Maps that are written already (occlusion's drops).

    Returns
    -------
    dict of method -> class -> file, relative to the folder
    """
    (folder / "maps").mkdir(exist_ok=True)
    there, files = there or {}, {}
    for method, values in means.items():
        if method in there:
            files[method] = dict(there[method])
            continue
        files[method] = {}
        for (name, entity), each in zip(classes.items(), values, strict=True):
            file = f"maps/model-{model}_label-{entity}_{method}.nii.gz"
            nib.save(samples.to_image(each), folder / file)
            files[method][name] = file
    return files


def _complete(
    maps: Maps, *, n_classes: int | None = None, mask_image: SpatialImage | None = None
) -> tuple[Maps, list[str], int]:
    """Methods in their order, of the subjects that have a map of each class in each of them."""
    ordered = {method: np.asarray(maps[method]) for method in METHODS if method in maps}
    ordered |= {method: np.asarray(each) for method, each in maps.items() if method not in METHODS}
    n_voxels = None if mask_image is None else int(inside_of(mask_image).sum())
    first = next(iter(ordered.values()), np.empty(0))
    for each in ordered.values():
        expected = (len(first), n_classes or each.shape[-2], n_voxels or each.shape[-1])
        if each.ndim != 3 or each.shape != first.shape or each.shape != expected:
            raise _bad(
                f"maps of shapes {', '.join(str(e.shape) for e in ordered.values())}",
                f"(n_subjects, n_classes, n_voxels) = {expected} for all",
                "Compare maps of the same subjects, classes and voxels.",
            )
    finite = {method: np.isfinite(each).all(axis=(1, 2)) for method, each in ordered.items()}
    empty = [method for method, whole in finite.items() if not whole.any()]
    notes = [f"{method} is left out: no subject has a map of every class." for method in empty]
    used = [method for method in ordered if method not in empty]
    whole = np.all([finite[method] for method in used], axis=0) if used else np.zeros(0, bool)
    if not whole.any():
        raise _bad(
            "no subject with a map of every class in every method",
            "one at least",
            "Use more samples of each class, or fewer classes (labels.keep).",
        )
    kept = {method: ordered[method][whole] for method in used}
    return kept, notes, int((~whole).sum())


def _regions(
    mask_image: SpatialImage,
    parcels: np.ndarray | None,
    names: Mapping[int, str] | None,
    atlas: Atlas | None,
    space: str | None,
) -> dict[str, Any]:
    """Label of each voxel, names, what they are of; why there are none."""
    inside = inside_of(mask_image)
    note, title, known = "", None, dict(names or {})
    labels: np.ndarray | None = None
    if parcels is not None:
        labels, title = np.asarray(parcels), "the study's regions"
        if labels.shape != (int(inside.sum()),):
            raise _bad(
                f"regions of shape {labels.shape}",
                f"({int(inside.sum())},)",
                "Pass the region's number of each voxel of the mask.",
            )
    else:
        atlas = atlas or landmarks()
        title, known = atlas.name, dict(atlas.names)
        try:
            check_space(space, atlas, any_template=True)
            labels = atlas.on_grid(mask_image)[inside]
        except InputError as error:
            note = f"No regions: {error.found}."
    if labels is not None and len(np.unique(labels[labels != 0])) < 2:
        labels, note = None, f"No regions: fewer than two of {title} lie in the mask."
    return {
        "labels": labels,
        "names": known,
        "title": title if labels is not None else None,
        "note": note,
    }


def _agreement(
    means: Maps, classes: Sequence[str], labels: np.ndarray | None
) -> list[dict[str, Any]]:
    found = []
    for number, name in enumerate(classes) if len(means) > 1 else ():
        of_class = {method: each[number] for method, each in means.items()}
        for row in agreement(of_class, parcels=labels).to_dict("records"):
            pair = {"class": name, "one": row["first"], "other": row["second"]}
            pair |= {"voxels": _number(row["over_voxels"]), "regions": _number(row["over_regions"])}
            found.append(pair)
    return found


def _ranked(
    means: Maps, classes: Sequence[str], labels: np.ndarray | None, names: dict[int, str]
) -> list[dict[str, Any]]:
    """Regions that are among the largest of any method, those of the best mean rank first."""
    if labels is None:
        return []
    known, which = np.unique(labels, return_inverse=True)
    sizes, some = np.bincount(which), known != 0
    found = []
    for number, name in enumerate(classes):
        by_region = {
            method: (np.bincount(which, weights=each[number]) / sizes)[some]
            for method, each in means.items()
        }
        by_region = {method: each for method, each in by_region.items() if np.ptp(each) > 0}
        if not by_region:
            continue
        values = np.array(list(by_region.values()))
        ranks = np.array([rankdata(-each) for each in values])
        listed = np.flatnonzero(((ranks <= MOST_RANKED) & (values > 0)).any(axis=0))
        order = listed[np.argsort(ranks[:, listed].mean(axis=0), kind="stable")]
        for place in order:
            label = int(known[some][place])
            own = dict(zip(by_region, ranks[:, place].tolist(), strict=True))
            found.append(
                {
                    "class": name,
                    "region": names.get(label, str(label)),
                    "n_voxels": int(sizes[some][place]),
                    **{method: own.get(method) for method in means},
                    "spread": float(np.ptp(ranks[:, place])),
                }
            )
    return found


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _bad(found: str, expected: str, remedy: str) -> InputError:
    return InputError("comparison of methods", found=found, expected=expected, remedy=remedy)

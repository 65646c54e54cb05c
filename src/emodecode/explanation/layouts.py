"""Geometry and other methods of an explanation, written beside its maps."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd

from emodecode.candidates import mask_of
from emodecode.explanation.compared import compare_methods, mean_maps, write_method_maps
from emodecode.explanation.fits import Explained, Explanation
from emodecode.explanation.geometry import affect_of, functional, overlay, spatial
from emodecode.explanation.similarity import describe_similarity
from emodecode.output import write_json
from emodecode.samples import write_table
from emodecode.sections import Explain
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.samples import Samples

_SHARE = 0.1
"""Of the voxels or units, the strongest are so many at most: 500 of 600 would be no choice."""


def strongest(rules: Explain, n: int) -> int:
    """Return how many of n voxels or units are the strongest: `top_k`, a tenth at most."""
    return min(rules.top_k, max(1, round(_SHARE * n)))


def top_voxels(study: Study, samples: "Samples", units: Any, model: Explained, classes) -> Any:
    """Return the voxels of the largest drops of each class (S1, Figure 3), in mm.

    Returns
    -------
    DataFrame
        ``class x_mm y_mm z_mm drop``; only what drops.
    """
    inside, tables = mask_of(samples), []
    assert inside is not None
    assert samples.mask is not None
    places = nib.affines.apply_affine(samples.mask.affine, np.argwhere(inside))
    for number, name in enumerate(classes):
        values = units.spread(model.mean[number])
        order = np.argsort(-values, kind="stable")[: strongest(study.explain, len(values))]
        own = order[values[order] > 0]
        table = pd.DataFrame(places[own], columns=["x_mm", "y_mm", "z_mm"])
        tables.append(table.assign(**{"class": name}, drop=values[own]))
    columns = ["class", "x_mm", "y_mm", "z_mm", "drop"]
    return pd.concat(tables, ignore_index=True)[columns]


def write_top(
    folder: Path,
    study: Study,
    samples: "Samples",
    explanation: Explanation,
    names: Mapping[str, str],
) -> dict[str, pd.DataFrame]:
    """Write ``geometry/top-M.tsv``: the strongest voxels of each class; return them by decoder."""
    (folder / "geometry").mkdir(exist_ok=True)
    found = {}
    for model in explanation.models:
        given = (study, samples, explanation.units, model, explanation.classes)
        found[model.model] = top_voxels(*given)
        write_table(found[model.model], folder / f"geometry/top-{names[model.model]}.tsv")
    return found


def write_methods(
    folder: Path,
    study: Study,
    samples: "Samples",
    explanation: Explanation,
    *,
    names: tuple[dict[str, str], dict[str, str]],
    space: str | None,
) -> None:
    """Write maps by other methods and ``methods.json``, how they agree with the drops."""
    found: dict[str, Any] = {}
    assert samples.mask is not None
    parcels = _parcels(study, samples)
    for model in explanation.models:
        if not model.methods:
            found[model.model] = {"maps": {}, "notes": list(model.notes)}
            continue
        maps = {"occlusion": explanation.units.spread(model.maps)} | model.methods
        told = compare_methods(
            maps,
            classes=explanation.classes,
            mask_image=samples.mask,
            parcels=parcels,
            space=space,
        )
        models, classes = names
        stem = f"maps/model-{models[model.model]}_label-"
        drops = {name: f"{stem}{classes[name]}_drop.nii.gz" for name in explanation.classes}
        files = write_method_maps(
            *(folder, samples, mean_maps(maps)),
            model=models[model.model],
            classes=classes,
            there={"occlusion": drops},
        )
        notes = [*model.notes, *told["notes"]]
        found[model.model] = told | {"maps": files, "notes": notes}
    write_json(found, folder / "methods.json")


def _parcels(study: Study, samples: "Samples") -> np.ndarray | None:
    if study.explain.atlas is None or samples.mask is None:
        return None
    from emodecode.features.parcels import parcel_of_voxels

    return parcel_of_voxels(study.explain.atlas, mask_img=samples.mask)


def write_geometry(
    folder: Path,
    study: Study,
    samples: "Samples",
    explanation: Explanation,
    *,
    names: Mapping[str, str],
    tops: Mapping[str, pd.DataFrame],
) -> None:
    """Write ``geometry.json`` and its tables: layouts of voxels and units, dissimilarities."""
    (folder / "geometry").mkdir(exist_ok=True)
    affect = affect_of(study, classes=explanation.classes)
    own_class = study.explain.form == "s1"
    models = {
        model.model: _lay_out(
            folder, study, samples, explanation, model, names, affect, tops.get(model.model)
        )
        for model in explanation.models
    }
    layers = {model.model: list(model.layers) for model in explanation.models if model.layers}
    rsa, arrays = describe_similarity(
        samples,
        layers={name: [each for each in folds if each] for name, folds in layers.items()},
        affect=affect,
        published=own_class,
        seed=study.seed,
    )
    if arrays:
        np.savez_compressed(folder / "geometry/rdms.npz", **arrays)  # type: ignore[arg-type]
        rsa["per_subject"] = "geometry/rdms.npz"
    write_json({"models": models, "rsa": rsa}, folder / "geometry.json")


def _lay_out(
    folder: Path,
    study: Study,
    samples: "Samples",
    explanation: Explanation,
    model: Explained,
    names: Mapping[str, str],
    affect: pd.DataFrame | None,
    top: pd.DataFrame | None,
) -> dict[str, Any]:
    units, classes, rules = explanation.units, explanation.classes, study.explain
    own_class = rules.form == "s1"
    found: dict[str, Any] = {}
    if top is not None:
        table, found["spatial"] = spatial(
            top, mask_image=samples.mask, fwhm_mm=_smoothness(rules, samples), seed=study.seed
        )
        file = f"geometry/spatial-{names[model.model]}.tsv"
        write_table(table, folder / file)
        found["spatial"]["file"] = file
    drops = model.mean.T if own_class else model.drops.mean(axis=0, dtype=np.float64)
    how: dict[str, Any] = {"top_k": strongest(rules, len(units)), "own_class": own_class}
    table, found["functional"] = functional(drops, units.names, classes, seed=study.seed, **how)
    file = f"geometry/functional-{names[model.model]}.tsv"
    write_table(table, folder / file)
    found["functional"]["file"] = file
    found["affect"] = overlay(table, affect, seed=study.seed)
    return found


def _smoothness(rules: Explain, samples: "Samples") -> float | None:
    """About how wide a unit's trace in the map is, mm; None of regions."""
    assert samples.mask is not None
    if rules.unit == "regions":
        return None
    if rules.unit == "searchlights":
        return 2 * rules.radius_mm
    edges = nib.affines.voxel_sizes(samples.mask.affine)
    return float(rules.box_vox * np.mean(edges))

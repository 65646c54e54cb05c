"""Files of an explanation: images, tables, and what the page is made from."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import pandas as pd

from emodecode.archive import entities
from emodecode.assemble import Gathered
from emodecode.candidates import mask_of
from emodecode.errors import InputError
from emodecode.explain.atlas import check_space, landmarks
from emodecode.explain.regions import region_table
from emodecode.explanation.fits import Explained, Explanation
from emodecode.explanation.layouts import strongest, write_geometry, write_methods, write_top
from emodecode.explanation.scored import score_explained
from emodecode.output import write_json
from emodecode.report.brain import looks_like_mni
from emodecode.samples import write_table
from emodecode.study import Study, write_study

if TYPE_CHECKING:
    from emodecode.samples import Samples

TEMPLATE = "MNI152NLin6Asym"
"""Space of grids that look like MNI where no space is stated."""
_MOST_UNITS, _MOST_PEAKS = 10, 8


def write_explanation(
    folder: Path,
    study: Study,
    gathered: Gathered,
    explanation: Explanation,
    *,
    space: tuple[str | None, str],
    command: str,
) -> dict[str, Any]:
    """Write everything but the page; return what ``explanation.json`` says."""
    samples = gathered.samples
    write_study(study, folder / "study.toml")
    in_place = mask_of(samples) is not None
    if in_place and samples.mask is not None:
        nib.save(samples.mask, folder / "mask.nii.gz")
        (folder / "maps").mkdir()
    names = _names(explanation)
    units, regions, models = [], [], []
    for model in explanation.models:
        units.append(_unit_table(model, explanation))
        told = _describe(model, explanation, samples)
        if in_place:
            maps, own = _write_maps(folder, samples, explanation, model, space[0], study)
            regions += own
        else:
            maps = [{"class": name, "files": {}, "peaks": []} for name in explanation.classes]
        models.append(told | {"maps": maps, "drops": f"drops-{names[0][model.model]}.npz"})
    write_table(pd.concat(units), folder / "units.tsv")
    if regions:
        write_table(pd.concat(regions), folder / "regions.tsv")
    _write_drops(folder, samples, explanation)
    scores = score_explained(study, samples, explanation, folder=folder)
    tops = {}
    if in_place:
        tops = write_top(folder, study, samples, explanation, names[0])
        write_methods(folder, study, samples, explanation, names=names, space=space[0])
    if study.explain.geometry:
        write_geometry(folder, study, samples, explanation, names=names[0], tops=tops)
    described = {
        "title": study.title or study.name,
        "description": study.description,
        "command": command,
        "seed": study.seed,
        "classes": list(explanation.classes),
        "choices": study.explain.model_dump(mode="json"),
        "n_units": len(explanation.units),
        "in_place": in_place,
        "n_strongest": strongest(study.explain, samples.n_voxels),
        "audit": {
            "verdict": explanation.audit.verdict,
            "findings": [
                {"rule": each.rule, "verdict": each.verdict, "title": each.title}
                for each in explanation.audit.findings
            ],
        },
        "split": scores["split"],
        "scores": scores["models"],
        "space": space[0],
        "space_note": space[1],
        "has_regions": bool(regions),
        "calibrated": study.evaluate.calibrate != "none",
        "models": models,
    }
    write_json(described, folder / "explanation.json")
    return described


def find_space(study: Study, samples: "Samples") -> tuple[str | None, str]:
    """Return the space of the maps, and how it is known."""
    if mask_of(samples) is None or samples.mask is None:
        return None, "the columns of these data are no voxels: there are no images"
    if study.explain.space:
        return study.explain.space, "as the study says"
    stated = getattr(study.data, "space", None)
    if stated:
        try:
            check_space(stated, landmarks(), any_template=True)
        except InputError:
            return None, f"{stated} is no template: places have no names"
        return stated, "as the study says"
    if looks_like_mni(samples.mask.shape, samples.mask.affine):
        return TEMPLATE, f"taken for {TEMPLATE}, because the grid looks like it"
    return None, (
        "not known: places have no names. If the images are in MNI space, say so "
        '(explain.space = "MNI152NLin2009cAsym"); if not, let fMRIPrep write them there'
    )


def _describe(model: Explained, explanation: Explanation, samples: "Samples") -> dict[str, Any]:
    classes: list[dict[str, Any]] = [{"class": name} for name in explanation.classes]
    p, mean = model.p, model.mean
    if p is not None:
        for k, each in enumerate(classes):
            each["n_significant"] = int(((p[k] <= 0.05) & (mean[k] > 0)).sum())
            each["least_p"] = float(p[k][mean[k] > 0].min(initial=1.0))
    checks = model.sanity.to_table().to_dict("records")
    left_out = len(set(samples.subjects[model.rows])) - len(model.subjects)
    return {
        "model": model.model,
        "kind": model.kind,
        "way": model.way,
        "n_samples": len(model.rows),
        "n_subjects": len(model.subjects),
        "n_left_out": left_out if model.subjects else 0,
        "chosen": list(model.chosen),
        "test": model.test,
        "sanity": {
            "sentence": model.sanity.sentence,
            "passed": model.sanity.passed,
            "checks": checks,
        },
        "classes": classes,
    }


def _unit_table(model: Explained, explanation: Explanation) -> pd.DataFrame:
    """Every unit with a corrected p of .05 or less, and the largest drops of each class."""
    mean, rows = model.mean, []
    t = subjects = labels = np.full(mean.shape, np.nan)
    if model.group is not None:
        t, subjects = (each.reshape(mean.shape) for each in (model.group.t, model.group.p))
    if model.labels is not None:
        labels = model.labels.p
    p = np.maximum(subjects, labels)
    for k, label in enumerate(explanation.classes):
        largest = np.argsort(-mean[k], kind="stable")[:_MOST_UNITS]
        for unit in dict.fromkeys([*largest, *np.flatnonzero(p[k] <= 0.05)]):
            rows.append(
                {
                    "model": model.model,
                    "class": label,
                    "unit": explanation.units.names[unit],
                    "n_voxels": len(explanation.units.columns[unit]),
                    "drop": mean[k, unit],
                    "t": t[k, unit],
                    "p_subjects": subjects[k, unit],
                    "p_labels": labels[k, unit],
                    "p_fwe": p[k, unit],
                }
            )
    return pd.DataFrame(rows)


def _write_maps(
    folder: Path,
    samples: "Samples",
    explanation: Explanation,
    model: Explained,
    space: str | None,
    study: Study,
) -> tuple[list[dict[str, Any]], list[pd.DataFrame]]:
    shape = (len(explanation.classes), len(explanation.units))
    group, units, written, tables = model.group, explanation.units, [], []
    models, classes = _names(explanation)
    top = strongest(study.explain, samples.n_voxels)
    for k, label in enumerate(explanation.classes):
        drop, files = model.mean[k], {}
        values = {"drop": units.spread(drop)}
        if group is not None:
            image = _subjects_image(samples, units.spread(model.maps[:, k]))
            file = f"maps/model-{models[model.model]}_label-{classes[label]}_subjects.nii.gz"
            nib.save(image, folder / file)
            files["subjects"] = file
            values["t"] = units.spread(group.t.reshape(shape)[k])
        if model.p is not None:
            values["pfwe"] = units.largest(np.where(drop > 0, 1 - model.p[k], 0))
        for kind, each in values.items():
            file = f"maps/model-{models[model.model]}_label-{classes[label]}_{kind}.nii.gz"
            nib.save(samples.to_image(each), folder / file)
            files[kind] = file
        peaks = _named(samples.to_image(values["drop"]), space, top)
        if peaks is not None:
            own = peaks.drop(columns="shares")
            tables.append(own.assign(model=model.model, **{"class": label}))
        largest = [] if peaks is None else _largest_peaks(peaks)
        written.append({"class": label, "files": files, "peaks": largest})
    return written, tables


def _subjects_image(samples: "Samples", values: np.ndarray) -> nib.Nifti1Image:
    """Put maps (n_maps, n_voxels) into one image, (x, y, z, n_maps)."""
    parts = [samples.to_image(each) for each in values]
    volume = np.stack([np.asanyarray(part.dataobj) for part in parts], axis=-1)
    return nib.Nifti1Image(volume, parts[0].affine)


def _largest_peaks(peaks: pd.DataFrame) -> list[dict[str, Any]]:
    ordered = peaks.sort_values("value", ascending=False, kind="stable").drop(columns="shares")
    rows = ordered.head(_MOST_PEAKS).to_dict("records")
    return [{str(key): value for key, value in row.items()} for row in rows]


def _named(image: Any, space: str | None, top: int) -> pd.DataFrame | None:
    """Clusters of the largest drops, with names; None where the space or any drop is missing."""
    if space is None or not (np.asanyarray(image.dataobj) > 0).any():
        return None
    how: dict[str, Any] = {"sign": "positive", "min_voxels": 1, "any_template": True}
    return region_table(image, landmarks(), space=space, top_voxels=top, **how)


def _write_drops(folder: Path, samples: "Samples", explanation: Explanation) -> None:
    """Every sample's drops of every probability: for embeddings and tests of one's own."""
    models, _ = _names(explanation)
    for model in explanation.models:
        own = samples.table.iloc[model.rows]
        np.savez_compressed(
            folder / f"drops-{models[model.model]}.npz",
            rows=model.rows,
            subject=own["subject"].to_numpy(dtype=str),
            label=own["label"].to_numpy(dtype=str),
            classes=np.array(explanation.classes),
            units=np.array(explanation.units.names),
            given=model.given,
            drops=model.drops,
        )


def _names(explanation: Explanation) -> tuple[dict[str, str], dict[str, str]]:
    """Stand-ins in the names of files for decoders and for classes, no two alike."""
    models = entities([each.model for each in explanation.models])
    return models, entities(explanation.classes)

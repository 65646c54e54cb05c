"""One form of an explanation, honest or as published: what its part of the page shows."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from emodecode.errors import DataMissingError
from emodecode.report import wording
from emodecode.report.brain import Backdrop, draw_map, make_backdrop
from emodecode.report.drawing import class_colours
from emodecode.report.figures import draw_roc
from emodecode.report.geometry import describe_geometry
from emodecode.report.glass import draw_glass, draw_mosaic
from emodecode.report.methods_maps import describe_methods
from emodecode.report.scatter3d import outline_of, scatter_block
from emodecode.report.surface import draw_surface
from emodecode.samples import parse_table, read_table

WAYS = {
    "incremental": "exactly, by the differences that reach the network's output",
    "closed form": "exactly, in closed form (the decoder is linear)",
    "batched": "exactly, by decoding every changed volume",
}
FILLS = {
    "subject": "values of other samples of the same subject, whatever their label",
    "conditional": "values of samples of the same subject under other labels",
    "voxel_mean": "each voxel's mean over the training samples",
    "volume_mean": "the volume's own mean",
    "zero": "zeros. In data that were not standardised a zero is a hole that no volume has",
    "noise": "noise with each voxel's mean and spread in the training samples",
}
UNITS = {
    "boxes": "boxes of {box_vox} voxels, every {stride_vox}",
    "searchlights": "searchlights of {radius_mm:g} mm, every {stride_vox} voxels",
    "regions": "regions of {atlas}",
}
_TEXT = dict.fromkeys(("model", "class", "unit"), str)
_NONE = {key: ["n/a"] for key in ("drop", "t", "p_subjects", "p_labels", "p_fwe")}
_NOT_MADE = {"refused": "The study leaves the geometry out (explain.geometry)."}
_REFERENCES = re.compile(r'(?: id="|href="#|url\(#)')


def describe_form(folder: Path, *, full: bool = True) -> dict[str, Any]:
    """Read a folder of `emodecode explain` and draw its figures.

    Parameters
    ----------
    folder : Path
    full : bool
        Draw every map in all ways; else in three cuts only.

    Raises
    ------
    DataMissingError
        No ``explanation.json`` in the folder.
    """
    path = folder / "explanation.json"
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a folder that `emodecode explain` wrote",
            remedy="Correct the path.",
        )
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    choices, classes = told["choices"], told["classes"]
    backdrop = outline = None
    if told["in_place"]:
        backdrop = make_backdrop(folder / "mask.nii.gz", space=told["space"])
        outline = outline_of(folder / "mask.nii.gz", space=told["space"])
    others = _read(folder / "methods.json")
    roc = _draw_roc(folder, told)
    for number, model in enumerate(told["models"]):
        model["way"] = WAYS[model["way"]]
        model["roc"], model["roc_pooled"] = roc[model["model"]]
        model["scores"] = told["scores"][model["model"]]
        model["scatter"], model["others"] = "", None
        accuracy = model["scores"]["balanced_accuracy"]
        p = accuracy.get("p")
        model["above_chance"] = p is not None and p <= 0.05
        checked = bool(choices["label_draws"]) and model["sanity"]["passed"]
        model["believable"] = checked and model["above_chance"]
        stem = model["drops"].removeprefix("drops-").removesuffix(".npz")
        if backdrop is not None and outline is not None:
            points = _read_top(folder / f"geometry/top-{stem}.tsv")
            if len(points):
                model["scatter"] = scatter_block(
                    points, classes=classes, outline_mm=outline, ident=f"scatter-{number}"
                )
            for each in model["maps"]:
                each["pictures"] = _draw(folder, each, backdrop, told, full=full)
            model["others"] = describe_methods(others.get(model["model"]), folder, backdrop)
        counts = {each["class"]: each for each in model["classes"]}
        for each in model["maps"]:
            each |= {"n_significant": None} | counts[each["class"]]
    units = "single columns" if not told["in_place"] else UNITS[choices["unit"]].format(**choices)
    return told | {
        "fill": FILLS[choices["fill"]],
        "unit_words": units,
        "units_table": _largest_units(folder, told) if not told["in_place"] else {},
        "leaks": told["audit"]["verdict"] == "leak",
        "geometry": describe_geometry(folder),
        "laid_out": _read(folder / "geometry.json") or {"models": {}, "rsa": _NOT_MADE},
        "s1": choices["form"] == "s1",
        "colours": class_colours(classes),
    }


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _read_top(path: Path) -> pd.DataFrame:
    return parse_table(path, dtype=_TEXT, keep_default_na=False)


def _draw_roc(folder: Path, told: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Draw each decoder's curves; True where they are of all subjects together."""
    from emodecode.evaluate.roc import roc_curves

    predictions = read_table(folder / "predictions.tsv")
    classes, leaks = told["classes"], told["audit"]["verdict"] == "leak"
    curves = roc_curves(predictions, classes, widening=told["split"]["widening"])
    colours = class_colours(classes)
    found: dict[str, tuple[str, bool]] = {}
    for index, model in enumerate(told["models"]):
        name = model["model"]
        pooled = curves[name]["subjects"]["macro"] is None
        drawn = curves[name]["pooled" if pooled else "subjects"]
        svg = draw_roc(drawn, colours, name=name, index=index, leaks=leaks)
        found[name] = svg, pooled
    return found


def _draw(
    folder: Path, each: dict[str, Any], backdrop: Backdrop, told: dict[str, Any], *, full: bool
) -> list[dict[str, Any]]:
    """Pictures of one map: three cuts, or mosaic, glass brain and surface."""
    drop, label = folder / each["files"]["drop"], each["class"]
    place = _largest(each["peaks"])
    cuts = draw_map(drop, backdrop, at_mm=place)
    found = [{"picture": cuts, "alt": f"Mean drop of {label} in three cuts", "width": 440}]
    if not full:
        return found
    n_top, space = told["n_strongest"], told["space"]
    more = [
        (draw_mosaic(drop, backdrop), f"Mean drop of {label} in axial cuts"),
        (draw_glass(drop, n_top=n_top, space=space), f"The {n_top} largest drops of {label}")
        if space
        else (None, ""),
        (draw_surface(drop, space=space), f"Mean drop of {label} on the cortex")
        if space
        else (None, ""),
    ]
    return found + [
        {"picture": picture, "alt": alt, "width": 1000} for picture, alt in more if picture
    ]


def _largest(peaks: list[dict[str, Any]]) -> list[float] | None:
    return [peaks[0][name] for name in ("x_mm", "y_mm", "z_mm")] if peaks else None


def _largest_units(folder: Path, told: dict[str, Any]) -> dict[str, dict[str, list[dict]]]:
    """Of data without places: the columns whose drops are largest, decoder by decoder."""
    table = parse_table(folder / "units.tsv", dtype=_TEXT, keep_default_na=False, na_values=_NONE)
    found: dict[str, dict[str, list[dict]]] = {}
    for model in told["models"]:
        own = table[table["model"] == model["model"]]
        found[model["model"]] = {
            name: own[own["class"] == name].nlargest(8, "drop").to_dict("records")
            for name in told["classes"]
        }
    return found


def below(text: str, *, folder: str, prefix: str) -> str:
    """Return a part of a page whose ids get a prefix and whose files lie in a folder.

    Parameters
    ----------
    text : str
        HTML with double quotes.
    folder, prefix : str
    """
    text = _REFERENCES.sub(lambda found: found[0] + prefix, text)
    return re.sub(r'href="(?!#|https?:)', f'href="{folder}/', text)


def compare_forms(honest: dict[str, Any], published: dict[str, Any]) -> dict[str, Any]:
    """Return S1's figures, one row each, as published and honestly, of one decoder."""
    names = [model["model"] for model in honest["models"]]
    kinds = {model["model"]: model["kind"] for model in honest["models"]}
    both = [name for name in names if name in published["scores"]]
    own, name, rows = [each for each in both if kinds[each] == "separable3d"] or both, "", []
    if own:
        name = max(own, key=lambda each: honest["scores"][each]["balanced_accuracy"]["value"])
        sides = [_figures(form, name) for form in (published, honest)]
        rows = [
            {"figure": figure, "published": first, "honest": second}
            for (figure, first), (_, second) in zip(*sides, strict=True)
        ]
    scores = [
        {
            "name": each,
            "published": published["scores"].get(each),
            "honest": honest["scores"][each],
        }
        for each in names
    ]
    return {
        "model": name,
        "why": "S1's network" if kinds.get(name) == "separable3d" else "highest honest score",
        "rows": rows,
        "scores": scores,
        "splits": [form["split"]["sentence"] for form in (published, honest)],
        "leaks": published["leaks"],
        "href": "",  # the mark leads to the published form
    }


def _figures(form: dict[str, Any], name: str) -> list[tuple[str, str]]:
    model = next(each for each in form["models"] if each["model"] == name)
    chance = "" if model["above_chance"] else " The decoder is not above chance."
    auc, layout = form["scores"][name]["macro_auc"], form["laid_out"]["models"].get(name, {})
    return [
        (
            "2: ROC, macro AUC (chance .5)",
            f"{wording.format_number(auc['value'])} {wording.format_interval(auc)}",
        ),
        ("3: strongest voxels", _strongest(model, form["n_units"]) + chance),
        ("4a: spatial UMAP", _clusters(layout.get("spatial", _NOT_MADE)) + chance),
        ("4b: functional UMAP", _clusters(layout.get("functional", _NOT_MADE)) + chance),
        ("5: network and brain", _mantel(form["laid_out"]["rsa"], name) + chance),
        ("6: valence and arousal", _affect(layout.get("affect", _NOT_MADE)) + chance),
    ]


def _strongest(model: dict[str, Any], n_units: int) -> str:
    counts = [each.get("n_significant") for each in model["classes"]]
    failed = "" if model["sanity"]["passed"] else f" {model['sanity']['sentence']}"
    if None in counts:
        return f"Not tested: the largest are shown.{failed}"
    most = max(zip(counts, (each["class"] for each in model["classes"]), strict=True))
    if not most[0]:
        return f"No unit drops significantly.{failed}"
    n = wording.count_of(n_units, "unit")
    return f"{sum(counts)} of {n} significant over all classes, most for {most[1]}.{failed}"


def _refused(part: dict[str, Any] | None) -> str | None:
    return f"Not made. {part['refused']}" if part and part.get("refused") else None


def _clusters(part: dict[str, Any] | None) -> str:
    found = (part or {}).get("clusters")
    if refused := _refused(part) or _refused(found):
        return refused
    if not found:
        return "Not made."
    low, high = (f"{found[key]:g}" for key in ("null_low", "null_high"))
    p = wording.format_p(found["p"])
    return f"{wording.count_of(found['n'], 'cluster')}; null points have {low} to {high} ({p})."


def _mantel(rsa: dict[str, Any], name: str) -> str:
    if refused := _refused(rsa):
        return refused
    rows = [
        row
        for row in rsa["mantel"]
        if row["one"].startswith("brain") and row["other"].startswith(f"{name}: ")
    ]
    if not rows:
        return "This decoder has no layers."
    row = rows[-1]
    if refused := _refused(row):
        return refused
    text = f"r = {wording.format_number(row['r'])}, exact {wording.format_p(row['p'])}"
    if row.get("pearson_p") is not None:
        text += f" (of a plain correlation, as S1 gives it: {wording.format_p(row['pearson_p'])})"
    return (
        f"{row['one']} and {row['other']}: {text}, of {len(rsa['conditions'])} classes at hand, "
        "not corrected for the other layers."
    )


def _affect(part: dict[str, Any] | None) -> str:
    if refused := _refused(part):
        return refused
    if not part:
        return "Not made."
    share, p = wording.format_number(part["r2"]), wording.format_p(part["p"])
    return f"r² = {share} of the places of the classes, {p}."

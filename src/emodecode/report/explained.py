"""The page of `emodecode explain`: what each decoder used, and whether its maps can be believed."""

import json
from pathlib import Path
from typing import Any

from emodecode.errors import DataMissingError
from emodecode.report import wording
from emodecode.report.brain import draw_map, make_backdrop
from emodecode.report.page import environment, style

PAGE = "explanation.html"
WAYS = {
    "incremental": "exactly, by the differences that reach the network's output",
    "closed form": "exactly, in closed form (the decoder is linear)",
    "batched": "exactly, by decoding every changed volume",
}
FILLS = {
    "conditional": "values of volumes of the same subject under other labels",
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


def write_explained_page(folder: Path) -> Path:
    """Write ``explanation.html`` from the files of `emodecode explain`.

    Raises
    ------
    DataMissingError
        No ``explanation.json`` in the folder.
    """
    page = folder / PAGE
    partial = page.with_name(page.name + ".partial")
    partial.write_text(render_explained(folder), encoding="utf-8")
    partial.replace(page)
    return page


def render_explained(folder: Path) -> str:
    """Return the page as text."""
    path = folder / "explanation.json"
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a folder that `emodecode explain` wrote",
            remedy="Correct the path.",
        )
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    backdrop = make_backdrop(folder / "mask.nii.gz", space=told["space"])
    for model in told["models"]:
        model["way"] = WAYS[model["way"]]
        counts = {each["class"]: each for each in model["classes"]}
        for each in model["maps"]:
            place = _largest(each["peaks"])
            each["picture"] = draw_map(folder / each["files"]["drop"], backdrop, at_mm=place)
            each["significant"] = counts[each["class"]]["n_significant"]
            each["least_p"] = counts[each["class"]]["least_p"]
    choices = told["choices"]
    template = environment().get_template("explained.html")
    return template.render(
        style=style(),
        wording=wording,
        told=told,
        fill=FILLS[choices["fill"]],
        units=UNITS[choices["unit"]].format(**choices),
        leaks=told["audit"]["verdict"] == "leak",
        published=None,
        models=told["models"],
    )


def _largest(peaks: list[dict[str, Any]]) -> list[float] | None:
    return [peaks[0][name] for name in ("x_mm", "y_mm", "z_mm")] if peaks else None

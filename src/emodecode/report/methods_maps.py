"""The methods' maps beside each other on the page of `emodecode explain`."""

from pathlib import Path
from typing import Any

import numpy as np

from emodecode.report.brain import Backdrop, draw_map
from emodecode.report.folder import load_image

TITLES = {
    "occlusion": "Occlusion",
    "haufe": "Haufe pattern",
    "integrated_gradients": "Integrated gradients",
    "grad_cam": "Grad-CAM",
}
SAYS = {
    "occlusion": "what the probability of the class loses when the place is taken away. It misses "
    "places that say the same as others.",
    "haufe": "where the held-out data rise and fall with what the linear decoder says. It shows "
    "places that the decoder may not read at all.",
    "integrated_gradients": "what each voxel adds to the decoder's score of the class, between "
    "the starting point and the sample. It depends on the starting point.",
    "grad_cam": "which places of the last layer with places speak for the class. It is as coarse "
    "as that layer.",
}
"""What a map of each method says, and what it does not."""
MOST_CLASSES = 8
"""Classes that are drawn; of more the files are named."""


def describe_methods(
    told: dict[str, Any] | None,
    folder: Path,
    backdrop: Backdrop,
    *,
    most_classes: int = MOST_CLASSES,
) -> dict[str, Any] | None:
    """Return what ``methods_maps.html`` shows of one decoder.

    Parameters
    ----------
    told : dict or None
        The decoder's entry of ``methods.json``.
    folder : Path
        That the names of files are relative to.
    backdrop : Backdrop
    most_classes : int
        Classes that are drawn, at most: a picture is about 20 kB.

    Returns
    -------
    dict or None
        None where there is nothing to say.
    """
    if not told or not (told.get("maps") or told.get("notes")):
        return None
    maps: dict[str, dict[str, str]] = told.get("maps") or {}
    methods = [method for method in TITLES if method in maps]
    names = list(dict.fromkeys(name for method in methods for name in maps[method]))
    if len(methods) < 2:  # occlusion has pictures of its own
        names = []
    rows, ranked = told.get("agreement") or [], told.get("regions") or []
    drawn = names[:most_classes]
    return {
        "methods": [{"method": m, "title": TITLES[m], "says": SAYS[m]} for m in methods],
        "classes": [
            {
                "class": name,
                "pictures": _pictures(maps, methods, name, folder, backdrop)
                if name in drawn
                else [],
                "files": [
                    {"title": TITLES[m], "file": maps[m][name]} for m in methods if name in maps[m]
                ],
                "agreement": [_pair(row) for row in rows if row["class"] == name],
                "regions": [_ranks(row, methods) for row in ranked if row["class"] == name],
            }
            for name in names
        ],
        "n_hidden": len(names) - len(drawn),
        "regions_of": told.get("regions_of"),
        "regions_note": told.get("regions_note") or "",
        "notes": list(told.get("notes") or []),
    }


def _pictures(
    maps: dict[str, dict[str, str]],
    methods: list[str],
    name: str,
    folder: Path,
    backdrop: Backdrop,
) -> list[dict[str, str]]:
    """Cuts of every method through the largest value of the first."""
    own = [method for method in methods if name in maps[method]]
    place = _largest(folder / maps[own[0]][name])
    return [
        {
            "title": TITLES[method],
            "file": maps[method][name],
            "picture": draw_map(folder / maps[method][name], backdrop, at_mm=place),
        }
        for method in own
    ]


def _largest(path: Path) -> list[float] | None:
    """Place of the largest value above 0 in mm; None where there is none."""
    values, affine = load_image(path)
    values = np.nan_to_num(values)
    if values.max() <= 0:
        return None
    voxel = np.unravel_index(values.argmax(), values.shape)
    return [float(each) for each in affine[:3, :3] @ voxel + affine[:3, 3]]


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    one, other = (TITLES.get(row[key], row[key]) for key in ("one", "other"))
    return {"one": one, "other": other, "voxels": row["voxels"], "regions": row["regions"]}


def _ranks(row: dict[str, Any], methods: list[str]) -> dict[str, Any]:
    return {
        "region": row["region"],
        "n_voxels": row.get("n_voxels"),
        "ranks": [_rank(row.get(method)) for method in methods],
        "spread": _rank(row["spread"]),
    }


def _rank(value: float | None) -> str:
    """``3``, ``4.5`` for ties, ``n/a``."""
    return "n/a" if value is None else f"{value:g}"

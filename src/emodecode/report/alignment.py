"""Alignment on the page: what it assumes, what stands beside its scores, and its figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emodecode.evaluate.matching import Alikeness
from emodecode.report.drawing import (
    FAINT,
    INK,
    SOFT,
    drawn_style,
    model_colours,
    new_figure,
    save_png,
)
from emodecode.report.figures import swarm
from emodecode.report.folder import ResultsFolder

KINDS = {
    "aligned": "aligned",
    "unaligned": "no alignment",
    "calibration_added": "no alignment, calibration run added to training",
    "within_subject": "within subject: trained on the subject's own other runs",
}
_METHODS = {
    "hyperalignment": "hyperalignment (reference, running average, leave-one-out template)",
    "template": "generalised Procrustes alignment to the subjects' mean",
    "srm": "the deterministic shared response model [@chen2015]",
}
_MAPS = {
    "orthogonal": "orthogonal maps",
    "ridge": "ridge maps, their shrinkage chosen in blocks of time of the alignment data",
    "promises": "orthogonal maps with a prior towards the identity [@andreella2022]",
}
_ROW, _PANEL = 44, 330


def describe_alignment(results: ResultsFolder) -> dict[str, Any] | None:
    """Gather what the page says about the alignment; None for a study without one."""
    found = results.scores.get("alignment")
    if not found:
        return None
    models = results.scores["models"]
    rows = []
    for name in found["aligned"]:
        own = [each for each in found["beside"] if each["model"] == name]
        first = {"kind": KINDS["aligned"], "why_not": None} | _scores_of(models[name])
        rest = [{"kind": KINDS[e["kind"]], "why_not": e["why_not"]} | _scores_of(e) for e in own]
        rows.append({"model": name, "rows": [first, *rest]})
    gains = [each["gain"]["sentence"] for each in found["beside"] if each.get("gain")]
    return found | {"table": rows, "gains": gains, "switched_off": not found["beside"]}


def _scores_of(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: scores.get(name) or {} for name in ("balanced_accuracy", "macro_auc")}


def tell_alignment(found: dict[str, Any] | None) -> list[str]:
    """Say for the methods text how subjects were aligned and what was allowed to fit the maps."""
    if not found:
        return []
    maps = "" if found["method"] == "srm" else f", with {_MAPS[found['map']]}"
    cited = " [@guntupalli2016]" if found["method"] == "hyperalignment" else ""
    return [
        f"Subjects were taken into one space by {_METHODS[found['method']]}{cited}{maps}.",
        f"Protocol {found['protocol'].replace('_', ' ')}: {found['fitted_on']}. "
        f"It assumes {found['assumes']}.",
    ]


def write_alignment_figure(found: Sequence[Alikeness], path: Path) -> None:
    """Write the picture of `emodecode align`: each subject's matched segments, by method.

    One panel a tested run; a dot is a subject, the bar the mean, the grey line chance.
    """
    tested = list(dict.fromkeys(each.tested_on for each in found))
    methods = list(dict.fromkeys(each.method for each in found))
    colours = model_colours(methods, dummies=["none"])
    height = 84 + _ROW * len(methods)
    with drawn_style():
        figure = new_figure(150 + (_PANEL + 30) * len(tested), height)
        largest = max(max(each.matching.values()) for each in found)
        for column, name in enumerate(tested):
            left = (130 + column * (_PANEL + 30)) / (150 + (_PANEL + 30) * len(tested))
            width = _PANEL / (150 + (_PANEL + 30) * len(tested))
            axes = figure.add_axes((left, 52 / height, width, (height - 84) / height))
            own = {each.method: each for each in found if each.tested_on == name}
            _draw_methods(axes, methods, own, colours, names=column == 0)
            axes.set_xlim(-0.02 * largest, 1.08 * largest)
            fitted = next(iter(own.values())).fitted_on
            axes.set_title(f"{name} (maps from {fitted})", fontsize=11.5, color=INK, loc="left")
            axes.set_xlabel("share of segments matched;  | mean;  ┃ chance")
        save_png(figure, path)


def _draw_methods(
    axes: Any,
    methods: Sequence[str],
    own: dict[str, Alikeness],
    colours: dict[str, str],
    *,
    names: bool,
) -> None:
    for row, method in enumerate(methods):
        values = np.array(list(own[method].matching.values()))
        axes.axhline(row, color=FAINT, lw=0.7, zorder=0)
        axes.vlines(own[method].chance, row - 0.36, row + 0.36, color="#9aa5b1", lw=4, zorder=1)
        heights = row + swarm(values)
        axes.scatter(values, heights, s=30, color=colours[method], alpha=0.75, lw=0, zorder=3)
        axes.vlines(values.mean(), row - 0.38, row + 0.38, color=INK, lw=1.8, zorder=4)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.set_yticks(range(len(methods)), methods if names else [""] * len(methods))
    axes.tick_params(axis="y", colors=INK)
    axes.tick_params(axis="x", colors=SOFT)

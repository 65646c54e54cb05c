"""Networks of a study: what each costs, and sweeps of one of their parameters."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from emodecode.models.catalogue import KINDS
from emodecode.report.drawing import INK, LEAK_INK, SOFT, drawn_style, new_figure, to_svg
from emodecode.report.folder import ResultsFolder
from emodecode.report.wording import LEAK_MARK, MISSING, SYMBOLS, format_count, format_number

SWEEP = (
    "Whoever takes it has chosen it on the test data. For an honest choice list the values under "
    "the model's grid: one is then chosen in inner folds of the training samples."
)
_SAME = ("kind", "tune", "grid", "n_voxels", "columns", "align")
"""What the models of a sweep share besides the other parameters."""

_STEP, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 100, 170, 56, 12, 10, 44


def describe_networks(results: ResultsFolder) -> list[dict[str, Any]]:
    """One row a network: its input, parameters and multiply-adds, as ``provenance.json`` has them.

    Empty for folders that do not say.
    """
    costs = results.provenance.get("networks") or {}
    return [
        {
            "name": name,
            "kind": str(results.scores["models"][name].get("kind", "")),
            "input": " × ".join(format_count(size) for size in costs[name]["input"]),
            "parameters": format_count(costs[name]["parameters"]),
            "multiply_adds": format_large(costs[name]["multiply_adds"]),
            "networks": costs[name].get("networks") or 1,
        }
        for name in results.models
        if name in costs
    ]


def describe_sweeps(results: ResultsFolder, names: Sequence[str]) -> list[dict[str, Any]]:
    """Find networks that differ in one parameter only, and what each of its values scores.

    Parameters
    ----------
    results : ResultsFolder
    names : sequence of str
        Of the networks.

    Returns
    -------
    list of dict
        ``parameter``, ``kind``, ``svg`` and ``rows`` (``name``, ``value`` as text and ``score``,
        the balanced accuracy of the score table), in the order of the values. A parameter that a
        model leaves out has the catalogue's default.
    """
    models = [each for each in results.study.get("models") or [] if each["name"] in names]
    found: list[dict[str, Any]] = []
    for parameter, group in _find_sweeps(models):
        rows = [
            {
                "name": each["name"],
                "value": _write(_params(each)[parameter]),
                "score": {"value": None}
                | (results.scores["models"][each["name"]].get("balanced_accuracy") or {}),
            }
            for each in sorted(group, key=lambda each: _order(_params(each)[parameter]))
        ]
        svg = draw_sweep(
            rows, parameter=parameter, index=len(found), leaks=results.verdict == "leak"
        )
        found.append({"parameter": parameter, "kind": group[0]["kind"], "rows": rows, "svg": svg})
    return found


def draw_sweep(
    rows: Sequence[dict[str, Any]], *, parameter: str, index: int, leaks: bool = False
) -> str:
    """Return balanced accuracy by the values of a parameter as SVG: mean, interval, chance.

    The values stand side by side in their order, not to scale.
    """
    with drawn_style():
        width = _LEFT + _RIGHT + max(3, len(rows)) * _STEP
        height = _TOP + _HEIGHT + _BOTTOM
        figure = new_figure(width, height)
        box = (_LEFT / width, _BOTTOM / height, 1 - (_LEFT + _RIGHT) / width, _HEIGHT / height)
        axes = figure.add_axes(box)
        for place, row in enumerate(rows):
            _draw_value(axes, place, row["score"])
        known = [
            row["score"][key]
            for row in rows
            for key in ("value", "low", "high", "chance")
            if row["score"].get(key) is not None
        ]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        margin = max(0.05, 0.08 * (high - low))
        axes.set_ylim(max(-0.02, low - margin), min(1.02, high + margin))
        axes.set_xlim(-0.6, max(3, len(rows)) - 0.4)
        axes.set_xticks(range(len(rows)), [row["value"] for row in rows])
        ticks = [tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= 1]
        axes.set_yticks(ticks, [format_number(tick) for tick in ticks])
        axes.set_xlabel(f"{parameter};  ● mean and 95 % interval;  ━ chance")
        axes.set_ylabel("balanced accuracy", labelpad=4)
        axes.spines["left"].set_visible(True)
        if leaks:
            axes.text(
                1, 1, f"{SYMBOLS['leak']} {LEAK_MARK}", transform=axes.transAxes,
                ha="right", va="top", color=LEAK_INK, fontsize=11,
            )  # fmt: skip
        title = f"Balanced accuracy by {parameter} of {len(rows)} networks"
        return to_svg(
            figure, name=f"sweep{index}", title=f"{title} ({LEAK_MARK})" if leaks else title
        )


def _draw_value(axes, place: int, score: dict[str, Any]) -> None:
    value, low, high, chance = (score.get(key) for key in ("value", "low", "high", "chance"))
    if chance is not None:
        axes.hlines(chance, place - 0.22, place + 0.22, color=SOFT, lw=1.2, zorder=1)
    if value is None:
        return
    if low is not None and high is not None:
        axes.vlines(place, low, high, color=INK, alpha=0.5, lw=1.8, zorder=2)
    axes.plot(place, value, "o", ms=7, color=INK, mec="white", mew=0.8, zorder=3)


def _find_sweeps(models: Sequence[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Groups of at least two models that differ in exactly one parameter, each with its name."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for model in models:
        params = _params(model)
        for parameter in params:
            others = {name: value for name, value in params.items() if name != parameter}
            same = {key: model.get(key) for key in _SAME}
            key = json.dumps([same, others], sort_keys=True, default=str)
            groups.setdefault((parameter, key), []).append(model)
    found = []
    for (parameter, _), group in groups.items():
        values = {json.dumps(_params(each)[parameter], default=str) for each in group}
        if len(group) > 1 and len(values) == len(group):
            found.append((parameter, group))
    return found


def _params(model: dict[str, Any]) -> dict[str, Any]:
    known = KINDS.get(str(model.get("kind")))
    params = (known.defaults if known else {}) | (model.get("params") or {})
    return {name: None if value == "none" else value for name, value in params.items()}


def _order(value: Any) -> tuple[int, float, str]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return 0, float(value), ""
    return 1, 0.0, str(value)


def _write(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "none" if value is None else str(value).lower()
    text = f"{value:g}".replace("-", "−")
    return text.replace("0.", ".", 1) if text.lstrip("−").startswith("0.") else text


def format_large(count: float | None) -> str:
    """Three digits of a large count: ``1.55 G``, ``24.1 M``, ``312 k``."""
    if count is None or not np.isfinite(count):
        return MISSING
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            return f"{count / size:#.3g}".rstrip(".") + f"\u202f{unit}"
    return format_count(count)

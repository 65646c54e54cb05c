"""Reliability plot: how often a decoder is right when it says that it is sure."""

from typing import Any

import numpy as np

from emodecode.report.drawing import (
    FAINT,
    INK,
    LEAK_INK,
    SOFT,
    drawn_style,
    new_figure,
    to_svg,
)
from emodecode.report.wording import LEAK_MARK, SYMBOLS, format_interval, format_number

_SURE, _UNSURE = "#b0632b", "#24557a"
_N_BARS = 40


def draw_reliability(
    reliability: list[dict[str, Any]],
    *,
    name: str,
    index: int,
    ece: dict[str, Any] | None,
    leaks: bool = False,
) -> str:
    """Return one model's accuracy against its confidence as SVG, with the confidences below.

    On the diagonal 80 % of the predictions made with confidence .8 are right; points under it
    (orange) are too sure, points above it (blue) not sure enough.

    Parameters
    ----------
    reliability : list of dict
        Of `emodecode.evaluate.calibration.reliability_bins`; the bars show where its intervals end.
    name : str
        Of the model.
    index : int
        Makes the ids of the SVG unique on the page.
    ece : dict, optional
        ``value low high`` of the expected calibration error, written into the figure.
    leaks : bool
        Put the mark into the figure.
    """
    with drawn_style():
        figure = new_figure(300, 340)
        axes = figure.add_axes((0.15, 0.285, 0.82, 0.705))
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1.2, zorder=1)
        _draw_points(axes, reliability)
        _frame(axes)
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xticks([0, 0.5, 1], ["", "", ""])
        axes.set_ylabel("accuracy", labelpad=1)
        _write_notes(axes, reliability, _notes(ece, leaks=leaks))
        _draw_confidences(figure.add_axes((0.15, 0.13, 0.82, 0.125)), reliability)
        sure = "; ".join(
            f"right in {format_number(each['accuracy'])} at confidence "
            f"{format_number(each['confidence'])}"
            for each in (reliability[:1] + reliability[-1:])
        )
        title = f"Reliability of {name}, accuracy by confidence: {sure or 'no predictions'}"
        return to_svg(
            figure, name=f"reliability{index}", title=f"{title} ({LEAK_MARK})" if leaks else title
        )


def _draw_points(axes, reliability: list[dict[str, Any]]) -> None:
    axes.plot(
        [each["confidence"] for each in reliability],
        [each["accuracy"] for each in reliability],
        color=FAINT,
        lw=1.6,
        zorder=2,
    )
    for each in reliability:
        colour = _SURE if each["accuracy"] < each["confidence"] else _UNSURE
        place = each["confidence"]
        axes.vlines(place, each["low"], each["high"], color=colour, alpha=0.45, lw=1.6, zorder=3)
        axes.plot(place, each["accuracy"], "o", ms=6, color=colour, mec="white", mew=0.8, zorder=4)


def _draw_confidences(axes, reliability: list[dict[str, Any]]) -> None:
    """Share of the predictions by confidence, each bin spread evenly between its ends."""
    edges = np.linspace(0, 1, _N_BARS + 1)
    counts = np.zeros(_N_BARS)
    for each in reliability:
        counts += each["n"] * _shares(each["lowest"], each["highest"], edges)
    axes.bar(edges[:-1], counts / max(counts.max(), 1), 0.9 / _N_BARS, align="edge", color=SOFT)
    _frame(axes)
    axes.spines["left"].set_visible(False)
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
    axes.set_yticks([])
    axes.set_xlabel("confidence, and how often it occurs", labelpad=2)
    axes.set_ylim(0, 1.02)


def _shares(lowest: float, highest: float, edges: np.ndarray) -> np.ndarray:
    """Part of the stretch from lowest to highest that lies between each two edges; sums to 1."""
    n = len(edges) - 1
    if highest - lowest < 1e-9:
        return np.eye(n)[min(int(lowest * n + 1e-9), n - 1)]
    ends = np.clip(edges, lowest, highest)
    return np.diff(ends) / (highest - lowest)


def _frame(axes) -> None:
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(True)
        axes.spines[side].set_bounds(0, 1)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))


def _write_notes(axes, reliability: list[dict[str, Any]], notes: list[tuple[str, str]]) -> None:
    """Into the corner that fewer points are near."""
    above = sum(np.sign(each["accuracy"] - each["confidence"]) for each in reliability) > 0
    for line, (text, colour) in enumerate(reversed(notes) if above else notes):
        height = 0.02 + 0.08 * line
        place = (0.99, height, "right", "bottom") if above else (0.02, 0.99 - height, "left", "top")
        axes.text(place[0], place[1], text, color=colour, ha=place[2], va=place[3])


def _notes(ece: dict[str, Any] | None, *, leaks: bool) -> list[tuple[str, str]]:
    notes = []
    if ece and ece.get("value") is not None:
        interval = "" if ece.get("low") is None else f" {format_interval(ece)}"
        notes.append((f"ECE {format_number(ece['value'])}{interval}", INK))
        if ece.get("if_calibrated") is not None:
            notes.append((f"{format_number(ece['if_calibrated'])} if calibrated", SOFT))
    if leaks:
        notes.append((f"{SYMBOLS['leak']} {LEAK_MARK}", LEAK_INK))
    return notes

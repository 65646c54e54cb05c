"""Figures of the scores: all models against chance, subjects, ROC curves."""

from typing import Any

import numpy as np

from emodecode.report.drawing import (
    FAINT,
    INK,
    LEAK_INK,
    SOFT,
    drawn_style,
    new_figure,
    shorten,
    to_svg,
)
from emodecode.report.wording import LEAK_MARK, SYMBOLS, format_interval, format_number

NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "macro_auc": "macro AUC",
    "log_loss": "log loss",
}
MOST_BANDS = 6
"""Classes up to which each ROC curve has its band; with more only the macro mean has."""
_WIDTH, _ROW, _TOP, _BOTTOM = 720, 34, 8, 46


def draw_scores(
    models: dict[str, dict[str, Any]], colours: dict[str, str], *, leaks: bool = False
) -> str:
    """Return balanced accuracy of all models, dot and interval against chance, as SVG.

    Parameters
    ----------
    models : dict
        ``scores.json["models"]``.
    colours : dict of str -> str
    leaks : bool
        Put the mark beside every number.
    """
    with drawn_style():
        figure, axes = _rows(list(models), right=0.34 if leaks else 0.18)
        for row, (name, scores) in enumerate(models.items()):
            score = scores.get("balanced_accuracy") or {}
            _draw_chance(axes, row, score.get("chance"))
            if score.get("value") is None:
                continue
            if score.get("low") is not None and score.get("high") is not None:
                axes.hlines(row, score["low"], score["high"], color=colours[name], lw=2.6, zorder=3)
            axes.plot(score["value"], row, "o", ms=9, color=colours[name], mec="white", zorder=4)
            text = f"{format_number(score['value'])}  {format_interval(score)}".removesuffix(
                "  n/a"
            )
            _write_right(axes, row, text, leaks=leaks)
        _finish(axes, _limits([s.get("balanced_accuracy") for s in models.values()]))
        axes.set_xlabel("balanced accuracy, mean and 95 % interval over subjects;  ┃ chance")
        title = "Balanced accuracy of every model with its 95 % interval, and its chance level"
        return to_svg(figure, name="scores", title=_with_mark(title, leaks))


def draw_subjects(
    models: dict[str, dict[str, Any]], colours: dict[str, str], *, leaks: bool = False
) -> str:
    """Return balanced accuracy of every subject, one row a model, as SVG."""
    with drawn_style():
        figure, axes = _rows(list(models), right=0.18 if leaks else 0.03, row=40)
        ends = []
        for row, (name, scores) in enumerate(models.items()):
            own = _subject_values(scores)
            score = scores.get("balanced_accuracy") or {}
            _draw_chance(axes, row, score.get("chance"))
            ends += [score, *({"value": value} for value in own.values())]
            if not own:
                continue
            values = np.array(list(own.values()))
            heights = row + swarm(values)
            axes.scatter(values, heights, s=34, color=colours[name], alpha=0.75, lw=0, zorder=3)
            if score.get("value") is not None:
                axes.vlines(score["value"], row - 0.38, row + 0.38, color=INK, lw=1.6, zorder=4)
            lowest = min(own, key=lambda subject: (own[subject], subject))
            if values.min() < values.max():
                axes.annotate(
                    shorten(lowest, 12), (values.min(), heights[values.argmin()]), (-7, 0),
                    textcoords="offset points", ha="right", va="center", fontsize=10, color=SOFT,
                )  # fmt: skip
            if leaks:
                _write_right(axes, row, "", leaks=True)
        _finish(axes, _limits(ends))
        axes.set_xlabel("balanced accuracy of each subject;  | mean;  ┃ chance;  lowest named")
        title = "Balanced accuracy of every subject, by model"
        return to_svg(figure, name="subjects", title=_with_mark(title, leaks))


def swarm(values: np.ndarray, *, width: float = 0.02, height: float = 0.14) -> np.ndarray:
    """Return vertical offsets that keep near values apart, symmetric about 0, at most 0.36."""
    offsets = np.zeros(len(values))
    for near in _clusters(values, width):
        steps = [(1 if k % 2 else -1) * ((k + 1) // 2) for k in range(len(near))]
        largest = max(1, max(map(abs, steps)))
        offsets[near] = np.array(steps) * min(height, 0.36 / largest)
    return offsets


def draw_roc(
    roc: dict[str, Any], colours: dict[str, str], *, name: str, index: int, leaks: bool = False
) -> str:
    """Return one model's ROC curves as SVG: thin per class, bold macro, dashed micro.

    Parameters
    ----------
    roc : dict
        ``per_class micro macro`` of `emodecode.evaluate.roc.roc_curves`; the 95 % bands over
        subjects are drawn around each class (of few) and, else, the macro mean.
    colours : dict of str -> str
        Of the classes.
    name : str
        Of the model.
    index : int
        Makes the ids of the SVG unique on the page.
    leaks : bool
        Put the mark into the figure.
    """
    with drawn_style():
        figure = new_figure(300, 300)
        axes = figure.add_axes((0.15, 0.14, 0.82, 0.82))
        axes.plot([0, 1], [0, 1], color=FAINT, lw=1.2, zorder=1)
        width = 1.0 if len(roc["per_class"]) > 8 else 1.6
        if len(roc["per_class"]) > MOST_BANDS:
            _draw_band(axes, roc["macro"], INK)
        else:
            for label, curve in roc["per_class"].items():
                _draw_band(axes, curve, colours[label])
        for label, curve in roc["per_class"].items():
            _draw_curve(axes, curve, color=colours[label], lw=width, zorder=2)
        _draw_curve(axes, roc["macro"], color=INK, lw=2.6, zorder=3)
        _draw_curve(axes, roc["micro"], color=INK, lw=1.6, ls=(0, (3, 2)), zorder=4)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(True)
            axes.spines[side].set_bounds(0, 1)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", ".5", "1"])
        axes.set_xlabel("false positive rate", labelpad=1)
        axes.set_ylabel("true positive rate", labelpad=1)
        if leaks:
            axes.text(0.98, 0.03, f"{SYMBOLS['leak']} {LEAK_MARK}", color=LEAK_INK, ha="right")
        title = f"ROC curves of {name}: {', '.join(roc['per_class'])}, macro and micro mean"
        return to_svg(figure, name=f"roc{index}", title=_with_mark(title, leaks))


def _draw_curve(axes, curve: dict[str, Any] | None, **style: Any) -> None:
    if curve is not None:
        axes.plot(np.linspace(0, 1, len(curve["tpr"])), curve["tpr"], **style)


def _draw_band(axes, curve: dict[str, Any] | None, colour: str) -> None:
    low, high = ((curve or {}).get(end) for end in ("low", "high"))
    if low and high and None not in low and None not in high:
        axes.fill_between(np.linspace(0, 1, len(low)), low, high, color=colour, alpha=0.12, lw=0)


def _rows(names: list[str], *, right: float, row: int = _ROW):
    height = _TOP + _BOTTOM + row * len(names)
    figure = new_figure(_WIDTH, height)
    left = min(0.3, 0.03 + 0.0105 * max(min(len(name), 22) for name in names))
    box = (left, _BOTTOM / height, 1 - left - right, row * len(names) / height)
    axes = figure.add_axes(box)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [shorten(name, 22) for name in names])
    axes.tick_params(axis="y", colors=INK, labelsize=12)
    for edge in range(len(names)):
        axes.axhline(edge, color=FAINT, lw=0.7, zorder=0)
    return figure, axes


def _draw_chance(axes, row: int, chance: float | None) -> None:
    if chance is not None:
        axes.vlines(chance, row - 0.36, row + 0.36, color="#9aa5b1", lw=4.5, zorder=1)


def _write_right(axes, row: int, text: str, *, leaks: bool) -> None:
    place = axes.get_yaxis_transform()
    axes.text(1.02, row, text, transform=place, va="center", clip_on=False)
    if leaks:
        mark = f"{SYMBOLS['leak']} {LEAK_MARK}"
        start = 1.30 if text else 1.02
        axes.text(start, row, mark, transform=place, va="center", color=LEAK_INK, clip_on=False)


def _limits(scores: list[dict | None]) -> tuple[float, float]:
    keys = ("value", "low", "high", "chance")
    ends = [s[k] for s in scores if s for k in keys if s.get(k) is not None] or [0.0, 1.0]
    pad = 0.06 * max(max(ends) - min(ends), 0.1)
    return max(0.0, min(ends) - pad) if min(ends) >= 0 else min(ends) - pad, max(ends) + pad


def _finish(axes, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_xlim(*limits)
    axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    axes.xaxis.labelpad = 6


def _subject_values(scores: dict[str, Any]) -> dict[str, float]:
    own = scores.get("per_subject") or {}
    values = {subject: row.get("balanced_accuracy") for subject, row in own.items()}
    return {subject: value for subject, value in values.items() if value is not None}


def _clusters(values: np.ndarray, width: float) -> list[np.ndarray]:
    order = np.argsort(values, kind="stable")
    span = width * max(np.ptp(values), 0.2) if len(values) else 0
    breaks = np.flatnonzero(np.diff(values[order]) > span) + 1
    return np.split(order, breaks)


def _with_mark(title: str, leaks: bool) -> str:
    return f"{title} ({LEAK_MARK})" if leaks else title

"""Figures of the audit: decoders and controls on one axis, and the fit of the labels over lags."""

from typing import Any

import numpy as np
from scipy.stats import t as student_t

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

_WIDTH, _ROW, _TOP, _BOTTOM = 760, 25, 8, 46
_GREY, _CAUTION = "#8a949e", "#b47800"
_CHANCE = "#9aa5b1"


def draw_controls(
    main: dict[str, dict[str, Any]],
    controls: list[dict[str, Any]],
    colours: dict[str, str],
    *,
    leaks: bool = False,
) -> str:
    """Return the decoders' scores above those of the controls, on one axis, as SVG.

    Parameters
    ----------
    main : dict of str -> dict
        Decoder -> ``value low high chance``.
    controls : list of dict
        Of ``audit.json``, with the class of the badge as ``badge``.
    colours : dict of str -> str
        Of the decoders.
    leaks : bool
        Put the mark beside the decoders' scores.
    """
    rows = [(name, score, colours[name], "main") for name, score in main.items()]
    for each in controls:
        if each.get("value") is not None:
            rows.append(
                (_name(each), each, colours.get(each.get("model") or "", _GREY), each["badge"])
            )
    with drawn_style():
        height = _TOP + _BOTTOM + _ROW * len(rows)
        figure = new_figure(_WIDTH, height)
        right = 0.36 if leaks else 0.21
        left = 0.02 + 0.0092 * max(len(shorten(name, 34)) for name, *_ in rows)
        box = (left, _BOTTOM / height, 1 - left - right, _ROW * len(rows) / height)
        axes = figure.add_axes(box)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [shorten(name, 34) for name, *_ in rows])
        axes.tick_params(axis="y", colors=INK, labelsize=11.5)
        if main and len(rows) > len(main):
            axes.axhline(len(main) - 0.5, color=SOFT, lw=0.8, zorder=0)
        for row, (_, score, colour, kind) in enumerate(rows):
            _draw_row(axes, row, score, colour, kind, leaks=leaks)
        _scale(axes, [score for _, score, *_ in rows])
        axes.set_xlabel("balanced accuracy and 95 % interval;  ● decoder  ◆ control  ┃ chance")
        title = "Balanced accuracy of the decoders and of the controls, with their chance"
        return to_svg(figure, name="controls", title=f"{title} ({LEAK_MARK})" if leaks else title)


def _draw_row(
    axes, row: int, score: dict[str, Any], colour: str, kind: str, *, leaks: bool
) -> None:
    if score.get("chance") is not None:
        axes.vlines(score["chance"], row - 0.5, row + 0.5, color=_CHANCE, lw=3.5, zorder=1)
    if score.get("value") is None:
        return
    ink = {"leak": LEAK_INK, "caution": _CAUTION}.get(kind, colour)
    if score.get("low") is not None and score.get("high") is not None:
        axes.hlines(row, score["low"], score["high"], color=ink, lw=2.2, zorder=3)
    size = {"ms": 9} if kind == "main" else {"ms": 6.5, "mfc": "white", "mew": 1.8}
    edge = {"mec": "white"} if kind == "main" else {"mec": ink}
    axes.plot(
        score["value"], row, "o" if kind == "main" else "D", color=ink, zorder=4, **size, **edge
    )
    text = f"{format_number(score['value'])}  {format_interval(score)}".removesuffix("  n/a")
    symbol = "" if kind == "main" else f"{'–' if kind == 'note' else SYMBOLS[kind]}  "
    weight = "bold" if kind == "main" else "normal"
    colour = ink if kind in ("leak", "caution") else INK
    _write_beside(axes, row, 0.015, symbol + text, color=colour, weight=weight)
    if leaks and kind == "main":
        _write_beside(axes, row, 0.2, f"{SYMBOLS['leak']} {LEAK_MARK}", color=LEAK_INK)


def _write_beside(axes, row: int, away: float, text: str, **style: str) -> None:
    """Write right of the axes, `away` of the figure's width from them."""
    place = 1 + away / axes.get_position().width
    axes.text(
        place, row, text, transform=axes.get_yaxis_transform(), va="center", clip_on=False, **style
    )


def draw_lags(lags: dict[str, Any]) -> str:
    """Return the share of variance that the labels explain over their lag as a small SVG.

    Parameters
    ----------
    lags : dict
        Of `emodecode.evaluate.lags.lag_curve`: ``lags_vol share`` and, if known, ``lags_s
        per_subject by_accident best_vol``.
    """
    places = lags.get("lags_s") or lags["lags_vol"]
    share = 100 * np.array(lags["share"], dtype=float)
    curves = 100 * np.array(list((lags.get("per_subject") or {}).values()), dtype=float)
    with drawn_style():
        figure = new_figure(420, 210)
        axes = figure.add_axes((0.15, 0.245, 0.82, 0.71))
        if curves.ndim == 2 and len(curves) > 1:
            half = student_t.ppf(0.975, len(curves) - 1) * curves.std(axis=0, ddof=1)
            half /= np.sqrt(len(curves))
            axes.fill_between(places, share - half, share + half, color=INK, alpha=0.12, lw=0)
        if lags.get("by_accident") is not None:
            axes.axhline(100 * lags["by_accident"], color=_CHANCE, lw=2.5, zorder=1)
        axes.axvline(0, color=FAINT, lw=1.2, zorder=0)
        axes.plot(places, share, "o-", color=INK, ms=4, lw=1.6, zorder=3)
        if lags.get("best_vol") in lags["lags_vol"]:
            best = lags["lags_vol"].index(lags["best_vol"])
            ink = LEAK_INK if lags.get("flagged") else "#24557a"
            axes.plot(places[best], share[best], "o", color=ink, ms=8, zorder=4)
        axes.spines["left"].set_visible(True)
        unit = "s" if lags.get("lags_s") else "volumes"
        axes.set_xlabel(f"labels moved later by ({unit});  ━ by accident", labelpad=2)
        axes.set_ylabel("variance explained (%)")
        axes.margins(x=0.03)
        title = "Share of variance that the labels explain when they are moved in time"
        return to_svg(figure, name="lags", title=title)


def _name(control: dict[str, Any]) -> str:
    title = control.get("title") or str(control.get("name", "")).replace("_", " ")
    model = control.get("model")
    return f"{title} · {model}" if model else title


def _scale(axes, scores: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    keys = ("value", "low", "high", "chance")
    ends = [s[k] for s in scores for k in keys if s.get(k) is not None] or [0.0, 1.0]
    pad = 0.05 * max(max(ends) - min(ends), 0.1)
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    axes.xaxis.labelpad = 6

"""Small multiples, one panel a fold: ROC curves, and loss and accuracy over the epochs.

All panels of a figure share one matplotlib axes whose unit is the pixel: sixty panels are drawn as
fast as one, and the page stays small.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

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
from emodecode.report.wording import LEAK_MARK, SYMBOLS, format_number

TRAINING, VALIDATION = "#24557a", "#d0722d"
"""Colours of the curves of training and validation; the page's legend takes them from here."""

_COLUMNS, _GAP, _LEFT, _RIGHT, _TOP, _BOTTOM, _TITLE = 5, 16, 46, 6, 8, 44, 22
_ROC, _WIDTH, _HEIGHT, _BETWEEN = 168, 168, 96, 14
_MAX_POINTS = 100
_UP = np.full((1, 2), np.nan)


class History(NamedTuple):
    """What one training run recorded, an entry an epoch; NaN where nothing was measured."""

    epoch: np.ndarray
    train: np.ndarray
    valid: np.ndarray
    best: int | None
    """Place of the best epoch in the arrays."""


def draw_fold_rocs(
    folds: dict[str, dict[str, Any]],
    colours: dict[str, str],
    *,
    name: str,
    index: int,
    leaks: bool = False,
) -> str:
    """Return one model's ROC curves as SVG, one panel a fold.

    Parameters
    ----------
    folds : dict
        Fold -> ``per_class micro macro`` of `emodecode.evaluate.foldscores.trace_roc`.
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
        grid = _Grid(len(folds), _ROC, _ROC)
        figure, axes = grid.start(leaks=leaks)
        pen, width = _Pen(), 0.9 if len(colours) > 8 else 1.3
        for k, (fold, curves) in enumerate(folds.items()):
            x, y = grid.place(k)
            area = "" if curves["macro"] is None else f"AUC {format_number(curves['macro'].auc)}"
            grid.write_title(axes, k, fold, area)
            _frame(pen, x, y, _ROC, _ROC)
            pen.line([x, x + _ROC], [y, y + _ROC], color=FAINT, lw=1, zorder=1)
            for label, curve in curves["per_class"].items():
                _draw_roc(pen, curve, x, y, color=colours[label], lw=width, zorder=2)
            _draw_roc(pen, curves["macro"], x, y, color=INK, lw=2.1, zorder=3)
            _draw_roc(pen, curves["micro"], x, y, color=INK, lw=1.2, ls=(0, (3, 2)), zorder=4)
            if grid.is_first(k):
                _write_ticks(axes, x, y, _ROC, [(0, "0"), (0.5, ".5"), (1, "1")])
            if grid.is_last(k):
                for share, text in ((0, "0"), (0.5, ".5"), (1, "1")):
                    _write_below(axes, x + share * _ROC, y - 4, text)
        pen.draw(axes)
        grid.write_axes(axes, "false positive rate", [("true positive rate", _ROC / 2)])
        title = f"ROC curves of {name} in {len(folds)} folds: classes, macro and micro mean"
        return to_svg(figure, name=f"foldroc{index}", title=_with_mark(title, leaks))


def draw_histories(
    folds: dict[str, tuple[list[History], list[History]]],
    *,
    name: str,
    index: int,
    leaks: bool = False,
) -> str:
    """Return one model's loss (above) and accuracy (below) by epoch as SVG, a pair a fold.

    S2's supplement shows these in 22 figures (its caption swaps the colours): blue is training,
    orange validation. A vertical line and a dot mark the best epoch.

    Parameters
    ----------
    folds : dict
        Fold -> histories of the loss and of the accuracy, one a seed.
    name, index, leaks
        As in `draw_fold_rocs`.
    """
    with drawn_style():
        grid = _Grid(len(folds), _WIDTH, 2 * _HEIGHT + _BETWEEN)
        figure, axes = grid.start(leaks=leaks)
        scales = [
            _Scale.of([each for pair in folds.values() for each in pair[part]], share=part == 1)
            for part in (0, 1)
        ]
        pen = _Pen()
        last = max((int(h.epoch.max()) for losses, _ in folds.values() for h in losses), default=1)
        for k, (fold, pair) in enumerate(folds.items()):
            x, bottom = grid.place(k)
            grid.write_title(axes, k, fold, _say_best(pair[0]))
            for part, y in ((0, bottom + _HEIGHT + _BETWEEN), (1, bottom)):
                _frame(pen, x, y, _WIDTH, _HEIGHT)
                for history in pair[part]:
                    _draw_history(pen, history, scales[part], x, y, last)
                if grid.is_first(k):
                    _write_ticks(axes, x, y, _HEIGHT, scales[part].ticks())
            if grid.is_last(k):
                _write_below(axes, x, bottom - 4, "1", side="left")
                _write_below(axes, x + _WIDTH, bottom - 4, str(last), side="right")
        pen.draw(axes)
        names = [("accuracy", _HEIGHT / 2), (f"loss{scales[0].how}", 1.5 * _HEIGHT + _BETWEEN)]
        grid.write_axes(axes, "epoch", names)
        title = f"Loss and accuracy of {name} by epoch in {len(folds)} folds, with the best epoch"
        return to_svg(figure, name=f"training{index}", title=_with_mark(title, leaks))


def thin(
    values: np.ndarray, *, keep: Sequence[int] | np.ndarray = (), n: int = _MAX_POINTS
) -> np.ndarray:
    """Return places that draw a long curve: lowest and highest of each stretch, ends and `keep`."""
    if len(values) <= n:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), n // 2)
    ends = [own[[values[own].argmin(), values[own].argmax()]] for own in stretches]
    return np.unique(np.concatenate([*ends, [0, len(values) - 1], np.asarray(keep, dtype=int)]))


class _Grid:
    """Where panels of equal size stand, row by row from the top left; pixels from the bottom."""

    def __init__(self, n: int, width: float, height: float) -> None:
        self.n, self.width, self.height = n, width, height
        self.columns = min(n, _COLUMNS)
        self.rows = math.ceil(n / _COLUMNS)

    def start(self, *, leaks: bool):
        """Return the empty figure and its axes."""
        step = self.height + _TITLE + _GAP
        total = self.rows * step - _GAP + _TOP + _BOTTOM
        wide = _LEFT + _RIGHT + self.columns * (self.width + _GAP) - _GAP
        figure = new_figure(wide, total)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, wide), ylim=(0, total))
        axes.set_axis_off()
        if leaks:
            mark = f"{SYMBOLS['leak']} {LEAK_MARK}"
            axes.text(wide - _RIGHT, 10, mark, color=LEAK_INK, ha="right", va="center")
        return figure, axes

    def place(self, k: int) -> tuple[float, float]:
        """Return the lower left corner of panel `k`."""
        row, column = divmod(k, _COLUMNS)
        x = _LEFT + column * (self.width + _GAP)
        return x, _BOTTOM + (self.rows - 1 - row) * (self.height + _TITLE + _GAP)

    def is_first(self, k: int) -> bool:
        return k % _COLUMNS == 0

    def is_last(self, k: int) -> bool:
        """Return whether no panel stands below."""
        return k + _COLUMNS >= self.n

    def write_title(self, axes, k: int, fold: str, right: str) -> None:
        x, y = self.place(k)
        top = y + self.height + 7
        room = 23 - len(right)
        axes.text(x, top, shorten(fold, max(room, 6)), fontsize=11, weight="bold")
        axes.text(x + self.width, top, right, fontsize=10.5, color=SOFT, ha="right")

    def write_axes(self, axes, below: str, left: list[tuple[str, float]]) -> None:
        """Name the axes once: under the last row and beside the first panel."""
        wide = self.columns * (self.width + _GAP) - _GAP
        axes.text(_LEFT + wide / 2, 10, below, color=SOFT, fontsize=11, ha="center", va="center")
        for text, height in left:
            y = self.place(0)[1] + height
            axes.text(10, y, text, color=SOFT, fontsize=11, rotation=90, ha="center", va="center")


class _Pen:
    """Collects lines and dots; those that look alike become one path, which keeps pages small."""

    def __init__(self) -> None:
        self.strokes: dict[tuple, list[np.ndarray]] = {}

    def line(self, x: Any, y: Any, **style: Any) -> None:
        points = np.column_stack([x, y]).astype(float)
        self.strokes.setdefault(tuple(sorted(style.items())), []).extend([points, _UP])

    def draw(self, axes) -> None:
        for style, parts in self.strokes.items():
            x, y = np.concatenate(parts).T
            axes.plot(x, y, clip_on=False, solid_joinstyle="round", **dict(style))


class _Scale(NamedTuple):
    """From values to a share of the panel's height, the same for all folds."""

    low: float
    high: float
    log: bool

    @classmethod
    def of(cls, histories: list[History], *, share: bool) -> "_Scale":
        values = np.concatenate([np.empty(0), *(v for h in histories for v in (h.train, h.valid))])
        values = values[np.isfinite(values)]
        low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
        if share:
            return cls(math.floor(10 * low) / 10, max(1.0, high), False)
        if low > 0 and high / low > 20:
            return cls(low, high, True)
        return cls(min(0.0, low), high if high > low else low + 1.0, False)

    @property
    def how(self) -> str:
        return " (log)" if self.log else ""

    def __call__(self, values: np.ndarray) -> np.ndarray:
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        return ((np.log(values) if self.log else values) - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and texts of at most four values."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator: Any
        if self.log:
            locator = LogLocator(subs=(1, 2, 5), numticks=20)
        else:
            locator = MaxNLocator(3, steps=[1, 2, 2.5, 5, 10])
        found = np.asarray(locator.tick_values(self.low, self.high))
        inside = found[(found >= self.low * (1 - 1e-9)) & (found <= self.high * (1 + 1e-9))]
        inside = inside[:: math.ceil(len(inside) / 4)]
        return [(float(self(v)), f"{v:g}".replace("0.", ".", 1) if v else "0") for v in inside]


def _draw_roc(pen: _Pen, curve: Any, x: float, y: float, **style: Any) -> None:
    if curve is None:
        return
    fpr, tpr = curve.fpr, curve.tpr
    if len(fpr) > _MAX_POINTS:
        even = np.linspace(0, 1, _MAX_POINTS)
        fpr, tpr = np.append(0.0, even), np.append(0.0, np.interp(even, fpr, tpr))
    pen.line(x + _ROC * fpr, y + _ROC * tpr, **style)


def _draw_history(
    pen: _Pen, history: History, scale: _Scale, x: float, y: float, last: int
) -> None:
    across = x + _WIDTH * (history.epoch - 1) / max(last - 1, 1)
    best = history.best
    if best is not None:
        pen.line([across[best]] * 2, [y, y + _HEIGHT], color=SOFT, lw=0.9, zorder=2)
    for values, colour, width in (
        (history.train, TRAINING, 1.2),
        (history.valid, VALIDATION, 1.5),
    ):
        known = np.flatnonzero(np.isfinite(values))
        if not len(known):
            continue
        drawn = known[thin(values[known], keep=np.flatnonzero(known == best))]
        up = y + _HEIGHT * scale(values)
        pen.line(across[drawn], up[drawn], color=colour, lw=width, zorder=3)
        dots = {"color": colour, "ls": "", "marker": "o", "mec": "white", "mew": 0.8}
        if len(drawn) == 1:
            pen.line(across[drawn], up[drawn], ms=4, zorder=4, **dots)
        elif colour == VALIDATION and best is not None and np.isfinite(values[best]):
            pen.line(across[best], up[best], ms=6, zorder=4, **dots)


def _say_best(histories: list[History]) -> str:
    best = sorted({int(h.epoch[h.best]) for h in histories if h.best is not None})
    if not best:
        return ""
    return f"best {best[0]}" if len(best) == 1 else f"best {best[0]}–{best[-1]}"


def _frame(pen: _Pen, x: float, y: float, width: float, height: float) -> None:
    pen.line([x, x, x + width], [y + height, y, y], color=SOFT, lw=0.8, zorder=1)


def _write_ticks(axes, x: float, y: float, height: float, ticks: list[tuple[float, str]]) -> None:
    for share, text in ticks:
        place = y + share * height
        axes.text(x - 5, place, text, color=SOFT, fontsize=10, ha="right", va="center")


def _write_below(axes, x: float, y: float, text: str, *, side: str = "center") -> None:
    axes.text(x, y, text, color=SOFT, fontsize=10, ha=side, va="top")


def _with_mark(title: str, leaks: bool) -> str:
    return f"{title} ({LEAK_MARK})" if leaks else title

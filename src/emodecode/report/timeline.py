"""Labels over time: of the stimulus where there is one, of the runs otherwise."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emodecode.label.labelled import Labelled
from emodecode.report.drawing import (
    FAINT,
    INK,
    SOFT,
    class_colours,
    drawn_style,
    new_figure,
    save_png,
    shorten,
    to_svg,
)

MAX_ROWS = 40
_WIDTH = 720


@dataclass(frozen=True, eq=False)
class _Row:
    name: str
    start: np.ndarray
    width: np.ndarray
    label: np.ndarray


def draw_timeline(
    samples: pd.DataFrame, timeline: pd.DataFrame | None, colours: dict[str, str]
) -> tuple[str, str] | None:
    """Return labels over time as SVG, and a sentence on what it shows.

    Stimulus time if `timeline` is given or the samples have ``stimulus_time_s``, with agreement
    below; else one row per run, runs of the same design in one row. ``None`` without any time.
    """
    with drawn_style():
        drawn = _draw(samples, timeline, colours)
        if drawn is None:
            return None
        figure, sentence = drawn
        return to_svg(figure, name="timeline", title=sentence), sentence


def write_label_figure(labelled: Labelled, path: Path) -> None:
    """Write labels over time as a PNG file.

    Parameters
    ----------
    labelled : Labelled
        Its ``timeline`` is drawn: the stimulus, or the runs.
    path : Path
        The file; without any time axis, an empty figure that says so.
    """
    samples, timeline = labelled.table, labelled.timeline
    names = set(samples["label"]) | set(timeline["label"])
    colours = class_colours(sorted(names - {"n/a", ""}))
    with drawn_style():
        drawn = _draw(samples, timeline, colours)
        figure = new_figure(_WIDTH, 60) if drawn is None else drawn[0]
        if drawn is None:
            figure.text(0.5, 0.5, "these samples have no time axis", ha="center", va="center")
        else:
            _write_legend(figure, colours)
        save_png(figure, path)


def _write_legend(figure, colours: dict[str, str]) -> None:
    """Name the classes above the figure (the page has a legend of its own)."""
    from matplotlib.patches import Patch

    patches = [Patch(color=colour, label=shorten(name, 20)) for name, colour in colours.items()]
    place = {"loc": "lower left", "bbox_to_anchor": (0.02, 1.0)}
    figure.legend(handles=patches, ncols=6, handlelength=0.8, handleheight=0.8, **place)


def _draw(samples, timeline, colours):
    given = timeline is not None and len(timeline) > 0
    of_runs = given and "subject" in timeline and bool((timeline["subject"] != "n/a").any())
    if given and not of_runs:
        return _draw_stimulus(timeline, colours)
    if _has_numbers(samples, "stimulus_time_s"):
        return _draw_stimulus(_stimulus_table(samples), colours)
    if given:
        samples = timeline.rename(columns={"time_s": "onset_s"})
        samples = samples[samples["label"] != "n/a"]
    if _has_numbers(samples, "onset_s"):
        return _draw_runs(samples, colours)
    return None


def _has_numbers(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(np.isfinite(table[column].to_numpy(dtype=float)).any())


def _stimulus_table(samples: pd.DataFrame) -> pd.DataFrame:
    """One row per moment of the stimulus, from the samples of all subjects."""
    table = samples[np.isfinite(samples["stimulus_time_s"])]
    table = table.assign(time_s=table["stimulus_time_s"].round(3))
    chosen = table.groupby(["stimulus", "time_s"], sort=True)[["label", "agreement"]].first()
    return chosen.reset_index()


def _draw_stimulus(table: pd.DataFrame, colours: dict[str, str]):
    present = [name for name in colours if (table["label"] == name).any()]
    others = sorted(set(table["label"]) - set(colours) - {"n/a", ""})
    names = [*present, *others][:MAX_ROWS]
    panels = _panels(table)
    agreed = _has_numbers(table, "agreement")
    row, gap = (20 if len(names) <= 10 else 15), 26
    heights = [row * len(names) + (58 if agreed else 0) for _ in panels]
    height = sum(heights) + gap * len(panels) + 30
    figure = new_figure(_WIDTH, height)
    longest = max([9] * agreed + [len(shorten(name, 20)) for name in names])
    left = min(0.3, 0.03 + 0.0105 * longest)
    top = height - 20
    for (title, part), panel in zip(panels, heights, strict=True):
        box = (left, (top - row * len(names)) / height, 0.97 - left, row * len(names) / height)
        axes = figure.add_axes(box)
        _draw_classes(axes, part, names, colours, size=11 if row > 15 else 9.5)
        if title:
            axes.set_title(shorten(title, 60), loc="left", fontsize=11, color=SOFT, pad=3)
        if agreed:
            below = figure.add_axes((left, (top - panel) / height, 0.97 - left, 46 / height))
            _draw_agreement(below, part, axes.get_xlim())
            axes.tick_params(axis="x", length=0, labelbottom=False)
            axes.spines["bottom"].set_visible(False)
            last = below
        else:
            last = axes
        top -= panel + gap
    last.set_xlabel("stimulus time (minutes)", labelpad=3)
    sentence = "Label of every moment of the stimulus, one row per class"
    if agreed:
        sentence += "; below, the share of observers that agree with it"
    return figure, sentence + "."


def _panels(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """One panel per stimulus, at most six; runs of one stimulus stay together."""
    if "stimulus" not in table or table["stimulus"].nunique() < 2:
        return [("", table)]
    return [(str(name), part) for name, part in table.groupby("stimulus", sort=True)][:6]


def _draw_classes(axes, table, names, colours, *, size: float) -> None:
    step = _step(table["time_s"].to_numpy(dtype=float))
    for row, name in enumerate(names):
        axes.axhline(row, color=FAINT, lw=0.7, zorder=0)
        own = np.sort(table.loc[table["label"] == name, "time_s"].to_numpy(dtype=float))
        starts, widths = merge_times(own, step)
        spans = np.column_stack([starts, widths]) / 60
        # the outline keeps moments visible that are narrower than a pixel
        axes.broken_barh(spans, (row - 0.38, 0.76), color=colours.get(name, "#9aa5b1"), lw=0.8)
    times = table["time_s"].to_numpy(dtype=float)
    axes.set_xlim(times.min() / 60, (times.max() + step) / 60)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(len(names)), [shorten(name, 20) for name in names])
    axes.tick_params(axis="y", colors=INK, labelsize=size)


def _draw_agreement(axes, table, limits) -> None:
    times, values = table["time_s"].to_numpy(float), table["agreement"].to_numpy(float)
    known = np.isfinite(values)
    edges = np.linspace(times.min(), times.max() + _step(times), min(380, known.sum()) + 1)
    place = np.clip(np.searchsorted(edges, times[known], side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(place, minlength=len(edges) - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.bincount(place, values[known], minlength=len(edges) - 1) / counts
    axes.stairs(np.nan_to_num(means), edges / 60, fill=True, color="#b9c4cf", lw=0)
    axes.set(xlim=limits, ylim=(0, 1))
    axes.set_yticks([0, 1], ["0", "1"])
    axes.axhline(1, color=FAINT, lw=0.7)
    axes.text(-0.025, 0.5, "agreement", transform=axes.transAxes, ha="right", va="center", size=11)


def _draw_runs(samples: pd.DataFrame, colours: dict[str, str]):
    rows, n_hidden = _run_rows(samples)
    row = 18 if len(rows) <= 20 else 13
    height = row * len(rows) + 46
    figure = new_figure(_WIDTH, height)
    left = min(0.34, 0.03 + 0.0098 * max(len(each.name) for each in rows))
    axes = figure.add_axes((left, 38 / height, 0.97 - left, row * len(rows) / height))
    for place, each in enumerate(rows):
        axes.axhline(place, color=FAINT, lw=0.7, zorder=0)
        for name in dict.fromkeys(each.label):
            own = each.label == name
            spans = np.column_stack([each.start[own], each.width[own]]) / 60
            axes.broken_barh(spans, (place - 0.38, 0.76), color=colours.get(name, FAINT), lw=0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [each.name for each in rows])
    axes.tick_params(axis="y", colors=INK, labelsize=11 if row == 18 else 9)
    axes.set_xlim(left=min(0.0, *(each.start.min() / 60 for each in rows)))
    axes.set_xlabel("time in the run (minutes)", labelpad=3)
    sentence = "Label of every sample over the time of its run; runs of the same design share a row"
    if n_hidden:
        sentence += f"; {n_hidden} more designs are not shown"
    return figure, sentence + "."


def _run_rows(samples: pd.DataFrame) -> tuple[list[_Row], int]:
    designs: dict[tuple, list[tuple[str, str, str]]] = {}
    kept = samples[np.isfinite(samples["onset_s"])]
    session = kept["session"] if "session" in kept else pd.Series("n/a", index=kept.index)
    for key, part in kept.groupby([kept["subject"], session, kept["run"]], sort=True):
        part = part.sort_values("onset_s", kind="stable")
        design = tuple(part["onset_s"].round(3)), tuple(part["label"])
        designs.setdefault(design, []).append(key)
    rows = []
    for (onsets, labels), owners in list(designs.items())[:MAX_ROWS]:
        times = np.array(onsets)
        start, width, label = _merge_labels(times, np.array(labels), _step(times))
        rows.append(_Row(_owner_name(owners), start, width, label))
    return rows, max(0, len(designs) - MAX_ROWS)


def _owner_name(owners: list[tuple[str, str, str]]) -> str:
    subjects = sorted({subject for subject, _, _ in owners})
    runs = sorted({run for _, _, run in owners})
    who = f"sub-{shorten(subjects[0], 12)}" if len(subjects) == 1 else f"{len(subjects)} subjects"
    if runs == ["n/a"]:
        return who
    return f"{who}, run {shorten(runs[0], 8)}" if len(runs) == 1 else f"{who}, {len(runs)} runs"


def _merge_labels(times, labels, step):
    parts = [(*merge_times(times[labels == name], step), name) for name in dict.fromkeys(labels)]
    starts = np.concatenate([part[0] for part in parts])
    widths = np.concatenate([part[1] for part in parts])
    return starts, widths, np.repeat([part[2] for part in parts], [len(p[0]) for p in parts])


def merge_times(times: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Merge sorted times that follow each other by at most 1.5 steps: starts and widths."""
    if not len(times):
        return np.empty(0), np.empty(0)
    breaks = np.flatnonzero(np.diff(times) > 1.5 * step)
    first = np.r_[0, breaks + 1]
    last = np.r_[breaks, len(times) - 1]
    return times[first], times[last] - times[first] + step


def _step(times: np.ndarray) -> float:
    gaps = np.diff(np.unique(times[np.isfinite(times)]))
    gaps = gaps[gaps > 1e-6]
    return float(np.percentile(gaps, 10)) if len(gaps) else 1.0

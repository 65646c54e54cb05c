"""The clock of a stimulus that several runs show in parts: which moment does a volume see?"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.label.labelled import NOT_LABELLED, TOLERANCE_S
from emodecode.run import Run

ClockName = Literal["segments", "published-cumulative"]
OverlapName = Literal["both", "first", "trim"]


@dataclass(frozen=True, eq=False)
class RunClock:
    """Stimulus time of the volumes of one run, the lag already removed.

    Parameters
    ----------
    start_s, end_s : float
        The part of the stimulus that the run shows, on the stimulus' clock.
    shown_s : ndarray of shape (n_volumes,)
        Moment that each volume really responds to; NaN for volumes that get no label.
    looked_up_s : ndarray of shape (n_volumes,)
        Moment whose label each volume gets: the same, unless the clock is a wrong one.
    """

    start_s: float
    end_s: float
    shown_s: np.ndarray = field(repr=False)
    looked_up_s: np.ndarray = field(repr=False)


def map_runs(
    runs: Sequence[Run],
    *,
    lag_s: float = 5.0,
    segments_s: Sequence[tuple[float, float]] | None = None,
    clock: ClockName = "segments",
    overlap: OverlapName = "both",
) -> list[RunClock]:
    """Find the moment of the stimulus that every volume belongs to.

    Run r shows the stimulus from ``start_r`` to ``end_r``. A volume at time t of the run belongs to
    the moment ``start_r + t - lag_s``; the first `lag_s` seconds of a run belong to none, because
    what was shown before the run started is another run's matter.

    Parameters
    ----------
    runs : sequence of Run
        Of any number of subjects.
    lag_s : float
        Haemodynamic lag in seconds.
    segments_s : sequence of (start, end), optional
        Part of the stimulus in each run, in the order of the runs (run "1" has the first one).
        Without it every run starts at its own ``stimulus_start_s``.
    clock : {"segments", "published-cumulative"}
        The second one is S1's: run r starts where the *lengths* of the earlier ones end. It is
        wrong wherever segments overlap, and is here only to show what it does.
    overlap : {"both", "first", "trim"}
        Moments that two runs show: label both copies, only the first one that has a volume for
        them, or drop half of the overlap at the end of one run and at the start of the next.

    Raises
    ------
    InputError
        Runs cannot be matched to segments, or the published clock has no segments.
    """
    spans = _spans(runs, segments_s)
    clocks = []
    for run, (index, parts) in zip(runs, spans, strict=True):
        start, end = parts[index]
        moment = start + run.onset_s - lag_s
        usable = (run.onset_s - lag_s >= -TOLERANCE_S) & (moment < end - TOLERANCE_S)
        looked_up = moment
        if clock == "published-cumulative":
            if segments_s is None:
                raise InputError(
                    "labels.clock",
                    found="published-cumulative without segments_s",
                    expected="the true segments, to say how wrong that clock is",
                    remedy="Set labels.segments_s, or use clock = segments.",
                )
            looked_up = _cumulative_start(parts, index, run.tr_s) + run.onset_s - lag_s
        elif overlap == "trim":
            usable &= _inside_trim(run, parts, index)
        elif overlap == "first":
            for other, (other_index, _) in zip(runs, spans, strict=True):
                other_start = parts[other_index][0]
                if other.subject == run.subject and other_start < start:
                    until = min(other_start + other.end_s - lag_s, parts[other_index][1])
                    usable &= moment >= until - 0.01 * run.tr_s
        clocks.append(RunClock(start, end, np.where(usable, moment, np.nan), looked_up))
    return clocks


def measure_clock_error(table: pd.DataFrame, timeline: pd.DataFrame) -> dict[str, Any]:
    """How far a wrong clock takes volumes from the moments of their labels.

    Parameters
    ----------
    table : DataFrame
        Samples with ``labelled_time_s`` (moment of the label) and ``stimulus_time_s`` (moment that
        was shown). Subjects who share a run and a volume count once.
    timeline : DataFrame
        Labels over the time of the stimulus (``time_s``, ``label``), to see what was true there.

    Returns
    -------
    dict
        ``n_moments``, ``n_wrong`` (displaced), ``mean_s``, ``median_s``, ``worst_s`` (absolute
        displacement over all moments), ``n_same_label`` (the shown moment has the same consensus
        label), ``n_without_label`` (it has none).
    """
    moments = table.drop_duplicates(["session", "run", "volume"])
    shown = moments["stimulus_time_s"].to_numpy()
    away = np.abs(shown - moments["labelled_time_s"].to_numpy())
    times = timeline["time_s"].to_numpy()
    at = np.searchsorted(times, shown + TOLERANCE_S, side="right") - 1
    grid_s = float(np.diff(times[:2])[0]) if len(times) > 1 else np.inf
    known = (at >= 0) & (shown + TOLERANCE_S < times[-1] + grid_s)
    labels = timeline["label"].to_numpy(dtype=object)
    true = np.where(known, labels[at.clip(min=0)], NOT_LABELLED)
    return {
        "n_moments": len(moments),
        "n_wrong": int((away > 1e-3).sum()),
        "mean_s": float(away.mean()),
        "median_s": float(np.median(away)),
        "worst_s": float(away.max()),
        "n_same_label": int((true == moments["label"].to_numpy(dtype=object)).sum()),
        "n_without_label": int((true == NOT_LABELLED).sum()),
    }


def describe_clock_error(error: dict[str, Any]) -> str:
    """One sentence of :func:`measure_clock_error` for notes and reports."""
    n = error["n_moments"]
    return (
        "clock = published-cumulative is WRONG: it adds up the lengths of segments that overlap. "
        f"{error['n_wrong']} of {n} labelled moments ({error['n_wrong'] / n:.0%}) have volumes of "
        f"another moment, on average {error['mean_s']:.1f} s away (median "
        f"{error['median_s']:.1f} s, worst {error['worst_s']:.1f} s); {error['n_same_label']} fall "
        f"on a moment with the same label, {error['n_without_label']} on one without any."
    )


def _visit(run: Run) -> tuple[str, str]:
    return run.subject, run.session


def _spans(
    runs: Sequence[Run], segments_s: Sequence[tuple[float, float]] | None
) -> list[tuple[int, list[tuple[float, float]]]]:
    """For each run its index among the parts of the stimulus, and these parts in order."""
    if segments_s is not None:
        parts = [(float(start), float(end)) for start, end in segments_s]
        return [(index, parts) for index in _segment_indices(runs, len(parts))]
    visits: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for run in runs:
        span = (run.stimulus_start_s, run.stimulus_start_s + run.end_s)
        visits.setdefault(_visit(run), []).append(span)
    spans = []
    for run in runs:
        parts = sorted(visits[_visit(run)])
        span = (run.stimulus_start_s, run.stimulus_start_s + run.end_s)
        spans.append((parts.index(span), parts))
    return spans


def _segment_indices(runs: Sequence[Run], n_segments: int) -> list[int]:
    indices = [-1] * len(runs)
    for subject in dict.fromkeys(run.subject for run in runs):
        own = [number for number, run in enumerate(runs) if run.subject == subject]
        sessions = {runs[number].session for number in own}
        ids = [runs[number].run for number in own]
        split = len(sessions) > 1 and len(set(ids)) < len(ids) and len(own) == n_segments
        numbered = all(name.isdigit() and 1 <= int(name) <= n_segments for name in ids)
        twice = len({(runs[number].session, runs[number].run) for number in own}) < len(own)
        if numbered and not split and not twice:
            for number in own:
                indices[number] = int(runs[number].run) - 1
        elif len(own) == n_segments and not twice:
            ordered = sorted(own, key=lambda n: (runs[n].session, _natural(runs[n].run)))
            for index, number in enumerate(ordered):
                indices[number] = index
        else:
            raise InputError(
                f"sub-{subject}",
                found=f"{len(own)} runs named {', '.join(ids[:10])} for {n_segments} segments",
                expected=f"runs numbered 1 to {n_segments}, or exactly {n_segments} runs",
                remedy="Select the runs of the stimulus (data.task, data.runs) or correct "
                "labels.segments_s.",
            )
    return indices


def _natural(name: str) -> tuple[int, str]:
    return (int(name), "") if name.isdigit() else (10**9, name)


def _cumulative_start(parts: list[tuple[float, float]], index: int, tr_s: float) -> float:
    volumes = [round((end - start) / tr_s) for start, end in parts[:index]]
    return sum(volumes) * tr_s


def _inside_trim(run: Run, parts: list[tuple[float, float]], index: int) -> np.ndarray:
    """Volumes that are not in the first or last half of an overlap."""
    start, end = parts[index]
    volume = np.arange(run.n_volumes) + run.dummies
    first, last = 0, round((end - start) / run.tr_s)
    if index > 0:
        first = round(max(parts[index - 1][1] - start, 0.0) / 2 / run.tr_s)
    if index + 1 < len(parts):
        last -= round(max(end - parts[index + 1][0], 0.0) / 2 / run.tr_s)
    else:
        last = run.n_volumes_in_file
    return (volume >= first) & (volume < last)

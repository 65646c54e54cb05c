"""Votes of observers about a stimulus -> labels of the volumes that show it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.label.clock import (
    ClockName,
    OverlapName,
    RunClock,
    describe_clock_error,
    map_runs,
    measure_clock_error,
)
from emodecode.label.consensus import Votes, cast_votes, find_consensus
from emodecode.label.hrf import (
    HRF_DELAY_S,
    convolve_with_hrf,
    fine_grid,
    sample_courses,
)
from emodecode.label.labelled import (
    NOT_LABELLED,
    TOLERANCE_S,
    Labelled,
    check_runs,
    join_tables,
    make_run_rows,
    stimulus_of,
)
from emodecode.label.reliability import rate_observers
from emodecode.run import Run


def label_annotations(
    runs: Sequence[Run],
    annotations: pd.DataFrame,
    *,
    variable: str = "emotion",
    lag_s: float = 5.0,
    agreement: float = 0.5,
    grid_s: float = 1.0,
    split_labels: bool = True,
    overwrite: bool = False,
    characters: Sequence[str] | None = None,
    merge: dict[str, str] | None = None,
    segments_s: Sequence[tuple[float, float]] | None = None,
    clock: ClockName = "segments",
    overlap: OverlapName = "both",
    hrf: bool = False,
    seed: int = 0,
) -> Labelled:
    """Label volumes by what observers agree about the moment of the stimulus.

    The label of a moment is the one that the largest share of all observers votes for, if that is
    at least `agreement`; without `overwrite` a tie is no consensus, with it the alphabetically
    first wins. Every volume looks up the moment that it shows
    (:func:`emodecode.label.clock.map_runs`).

    The sample table has ``agreement`` = that share, and ``p_CLASS`` = the vote fractions of the
    labels that win somewhere in the table, divided by their sum: what observers left open or gave
    to other labels is left out. In the timeline ``p_CLASS`` is the vote fraction itself.

    Parameters
    ----------
    runs : sequence of Run
    annotations : DataFrame
        From :func:`emodecode.read.annotations.read_annotations`.
    variable, grid_s, split_labels, overwrite, characters, merge
        See :func:`emodecode.label.consensus.cast_votes`.
    lag_s, segments_s, clock, overlap
        See :func:`emodecode.label.clock.map_runs`.
    agreement : float
        Smallest share of observers for a label.
    hrf : bool
        Instead of a shift by `lag_s`, convolve the vote fractions within each run with the
        canonical haemodynamic response; the rules above then hold for the convolved fractions.
    seed : int
        For the random halves of the reliability.

    Raises
    ------
    InputError
        Annotations or runs that do not fit, or no labelled volume.
    """
    check_runs(runs)
    votes = cast_votes(
        annotations,
        variable=variable,
        grid_s=grid_s,
        split_labels=split_labels,
        overwrite=overwrite,
        characters=characters,
        merge=merge,
    )
    lag_s = HRF_DELAY_S if hrf else lag_s
    clocks = map_runs(runs, lag_s=lag_s, segments_s=segments_s, clock=clock, overlap=overlap)
    if segments_s is None:
        _refuse_same_start(runs, votes)
    winner, share = find_consensus(votes.fractions, agreement=agreement, break_ties=overwrite)
    chosen = [
        _choose(run, run_clock, votes, lag_s, agreement, overwrite, hrf)
        for run, run_clock in zip(runs, clocks, strict=True)
    ]
    classes = sorted({votes.labels[w] for _, run_winner in chosen for w in set(run_winner) - {-1}})
    rows = [
        _rows_of(run, run_clock, votes, fractions, run_winner, classes)
        for run, run_clock, (fractions, run_winner) in zip(runs, clocks, chosen, strict=True)
    ]
    table = join_tables(
        rows,
        where="labels",
        remedy="Lower labels.agreement, or check labels.segments_s and the clock of the stimulus.",
    )
    timeline = _timeline(stimulus_of(runs[0]), votes, winner, share, classes)
    notes = _describe(votes, winner, share, agreement, lag_s, hrf, overwrite)
    notes.append(_describe_starts(runs, clocks, segments_s is not None))
    notes += _describe_overlap(table, overlap)
    if clock == "published-cumulative":
        notes.append(describe_clock_error(measure_clock_error(table, timeline)))
    else:
        table = table.drop(columns="labelled_time_s")
    reliability = rate_observers(
        votes.active, votes.labels, agreement=agreement, classes=classes, seed=seed
    )
    return Labelled(table, timeline, tuple(notes), reliability)


def _choose(
    run: Run,
    clock: RunClock,
    votes: Votes,
    lag_s: float,
    agreement: float,
    overwrite: bool,
    hrf: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Vote fractions (n_labels, n_volumes) and the winner of each volume, -1 for none."""
    if hrf:
        grid = fine_grid(run.end_s)
        first = clock.looked_up_s[0] - run.onset_s[0] + lag_s
        shown = _at(votes, first + grid) * (clock.start_s + grid < clock.end_s)
        fractions = sample_courses(convolve_with_hrf(shown), run.onset_s).clip(0.0, 1.0)
    else:
        fractions = _at(votes, clock.looked_up_s)
    winner, _ = find_consensus(fractions, agreement=agreement, break_ties=overwrite)
    return fractions, np.where(np.isnan(clock.shown_s), -1, winner)


def _at(votes: Votes, moments_s: np.ndarray) -> np.ndarray:
    """Vote fractions at moments of the stimulus, 0 where nothing is annotated."""
    cell = np.floor((moments_s + TOLERANCE_S) / votes.grid_s).astype(int)
    known = (cell >= 0) & (cell < votes.active.shape[2])
    return votes.fractions[:, np.where(known, cell, 0)] * known


def _rows_of(
    run: Run,
    clock: RunClock,
    votes: Votes,
    fractions: np.ndarray,
    winner: np.ndarray,
    classes: list[str],
) -> pd.DataFrame:
    label = np.where(winner >= 0, np.array(votes.labels, dtype=object)[winner], NOT_LABELLED)
    soft = fractions[[votes.labels.index(name) for name in classes]]
    total = soft.sum(axis=0)
    soft = np.where(total > 0, soft / np.where(total > 0, total, 1.0), np.nan)
    rows = make_run_rows(
        run,
        label,
        stimulus=stimulus_of(run),
        stimulus_time_s=clock.shown_s,
        agreement=fractions[winner, np.arange(len(winner))],
        shares=dict(zip(classes, soft, strict=True)),
    )
    rows["labelled_time_s"] = clock.looked_up_s
    return rows


def _refuse_same_start(runs: Sequence[Run], votes: Votes) -> None:
    """Several runs that all start the stimulus anew, although it lasts longer than each of them."""
    for subject in dict.fromkeys(run.subject for run in runs):
        own = [run for run in runs if run.subject == subject]
        starts = {run.stimulus_start_s for run in own}
        reach = max(run.stimulus_start_s + run.end_s for run in own)
        end = float(votes.time_s[-1] + votes.grid_s)
        if len(own) > 1 and len(starts) == 1 and end > reach + 60:
            raise InputError(
                f"sub-{subject}",
                found=f"{len(own)} runs that all start at {starts.pop():g} s of the stimulus and "
                f"reach {reach:g} s, with annotations up to {end:g} s",
                expected="the part of the stimulus that each run shows",
                remedy="Set labels.segments_s (StudyForrest: preset = studyforrest).",
            )


def _timeline(
    stimulus: str, votes: Votes, winner: np.ndarray, share: np.ndarray, classes: list[str]
) -> pd.DataFrame:
    names = np.array(votes.labels, dtype=object)
    fractions = votes.fractions
    soft = {f"p_{name}": fractions[votes.labels.index(name)] for name in classes}
    return pd.DataFrame(
        {
            "subject": NOT_LABELLED,
            "session": NOT_LABELLED,
            "run": NOT_LABELLED,
            "stimulus": stimulus,
            "time_s": votes.time_s,
            "label": np.where(winner >= 0, names[winner], NOT_LABELLED),
            "agreement": share,
        }
        | soft
    )


def _describe(
    votes: Votes,
    winner: np.ndarray,
    share: np.ndarray,
    agreement: float,
    lag_s: float,
    hrf: bool,
    overwrite: bool,
) -> list[str]:
    n = len(votes.observers)
    notes = [
        f"Labels are what {n} observers say about the stimulus, not what the scanned subjects "
        "report: decoding them is decoding the content of the stimulus.",
        f"{int((winner >= 0).sum())} of {len(winner)} moments of {votes.grid_s:g} s have a label "
        f"that at least {agreement:.0%} of the observers agree on.",
    ]
    n_ties = int(((winner < 0) & (share >= agreement - 1e-9) & (share > 0)).sum())
    if n_ties:
        notes.append(f"{n_ties} moments are ties of two or more labels: no consensus.")
    if overwrite:
        notes.append(
            f"One label per observer and moment: {votes.n_overwritten} labels were overwritten by "
            f"a later, different one ({votes.n_filled} cells are filled)."
        )
    if hrf:
        notes.append(
            "Vote fractions are convolved with the canonical haemodynamic response (SPM form); "
            f"lag_s is not used. The stimulus time of a volume is {HRF_DELAY_S:g} s before it."
        )
    elif lag_s == 0:
        notes.append("No haemodynamic lag: every volume has the label of the moment it was taken.")
    else:
        notes.append(f"Every volume has the label of the moment {lag_s:g} s before it.")
    return notes


def _describe_starts(runs: Sequence[Run], clocks: list[RunClock], given: bool) -> str:
    starts = [
        f"{clock.start_s:g}"
        for run, clock in zip(runs, clocks, strict=True)
        if (run.subject, run.session) == (runs[0].subject, runs[0].session)
    ]
    source = "labels.segments_s" if given else "the runs' own start; no segments_s were given"
    return f"The runs start at {', '.join(starts)} s of the stimulus ({source})."


def _describe_overlap(table: pd.DataFrame, overlap: OverlapName) -> list[str]:
    """How many labelled volumes show a moment that another run of the subject shows too."""
    one = table[table["subject"] == table["subject"].iloc[0]]
    times = one.groupby(["session", "run"])["stimulus_time_s"]
    starts = times.min().sort_values()
    ends = times.max().loc[starts.index]
    shared = 0
    for last, start, end in zip(ends[:-1], starts[1:], ends[1:], strict=True):
        time = one["stimulus_time_s"]
        if start <= last:
            shared += int(((time >= start) & (time <= min(last, end))).sum())
    if not shared:
        return []
    return [
        f"{shared} labelled volumes per subject show moments that two runs show (overlap = "
        f"{overlap}): the two copies must stay on the same side of a split."
    ]

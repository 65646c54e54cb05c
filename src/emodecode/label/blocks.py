"""Labels of block and event designs, and labels that come with the volumes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.label.hrf import (
    HRF_DELAY_S,
    STEP_S,
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
    make_timeline,
)
from emodecode.label.names import check_names, near_name
from emodecode.read.annotations import to_texts
from emodecode.read.events import check_events
from emodecode.run import Run
from emodecode.samples import write_table


def label_events(
    runs: Sequence[Run],
    *,
    column: str = "trial_type",
    lag_s: float = 5.0,
    hrf: bool = False,
    transition_s: float = 0.0,
    late_events: Literal["error", "drop"] = "error",
    stimulus_column: str | None = None,
    merge: dict[str, str] | None = None,
    keep: Sequence[str] | None = None,
) -> Labelled:
    """Label volumes by the events of their own run.

    A volume at ``onset_s = t`` gets the event that covers ``t - lag_s`` (onset <= t - lag_s <
    onset + duration); before the start of the run nothing is known, so the first `lag_s` seconds
    have no label. Volumes without an event are no samples. Consecutive events of one label without
    a gap are one block.

    Parameters
    ----------
    runs : sequence of Run
        With events.
    column : str
        Column of the events that holds the label.
    lag_s : float
        Haemodynamic lag in seconds; not used with `hrf`.
    hrf : bool
        Convolve the indicator of each class with the canonical haemodynamic response. ``p_CLASS``
        is the share of each class in the sum, the label is the largest where that sum is at least
        half of the plateau that an endless block reaches, and its share is the agreement.
    transition_s : float
        Volumes whose moment lies less than this after the start or before the end of a block are
        dropped; not used with `hrf`.
    late_events : {"error", "drop"}
        What to do with events that start after the last volume.
    stimulus_column : str, optional
        Column with the identity of each event's stimulus; ``stimulus_time_s`` is then the time
        since the event's onset. Without it the run's own stimulus and its clock are used.
    merge : dict, optional
        New names of labels, given before blocks are formed.
    keep : sequence of str, optional
        Labels (after `merge`) that count; all other events are ignored as if they were absent.

    Raises
    ------
    InputError
        No events, an unknown column or label, a block without duration, no labelled volume.
    """
    check_runs(runs)
    designs, notes = _designs(runs, column, late_events, stimulus_column, merge, keep)
    rows, counts = [], {"ambiguous": 0, "transition": 0}
    classes = sorted(set().union(*(set(design["label"]) for design in designs)))
    for run, design in zip(runs, designs, strict=True):
        if hrf:
            rows.append(_weigh_run(run, design, classes))
        else:
            rows.append(_label_run(run, design, lag_s, transition_s, counts))
    notes += _describe(hrf, lag_s, transition_s, counts)
    table = join_tables(
        rows,
        where="labels",
        remedy="Blocks shorter than about 6 s do not reach half of the plateau: use labels.lag_s."
        if hrf
        else "Check the events' onsets, labels.lag_s and labels.transition_s.",
    )
    return Labelled(table, make_timeline(rows), tuple(notes))


def label_data(runs: Sequence[Run]) -> Labelled:
    """Take the labels that come with the volumes (``Run.volume_labels``); no lag is added.

    Blocks are contiguous stretches of one label.

    Raises
    ------
    InputError
        A run without labels, or none at all.
    """
    check_runs(runs)
    rows = []
    for run in runs:
        if run.volume_labels is None:
            raise InputError(
                run.name,
                found="no labels with the volumes",
                expected="one label per volume in the data",
                remedy="Set data.label_key, or labels.source to events, annotations or ratings.",
            )
        label = to_texts(run.volume_labels).to_numpy(dtype=object)[run.dummies :]
        known = run.stimulus != NOT_LABELLED
        rows.append(
            make_run_rows(
                run,
                label,
                stimulus=run.stimulus,
                stimulus_time_s=run.stimulus_start_s + run.onset_s if known else np.nan,
            )
        )
    table = join_tables(rows, where="labels", remedy="Check data.label_key and data.label_names.")
    note = "Labels came with the volumes; no haemodynamic lag was added."
    return Labelled(table, make_timeline(rows), (note,))


def list_blocks(table: pd.DataFrame, *, tr_s: float) -> pd.DataFrame:
    """Blocks of a sample table as BIDS events, on the clock of the volumes (lag included).

    Returns
    -------
    DataFrame
        ``subject session run onset duration trial_type block stimulus agreement``; a block lasts
        from its first volume to the end of its last one, its agreement is the mean.
    """
    grouped = table.groupby(["subject", "session", "run", "block"], sort=False)
    blocks = grouped.agg(
        onset=("onset_s", "min"),
        last=("onset_s", "max"),
        trial_type=("label", "first"),
        stimulus=("stimulus", "first"),
        agreement=("agreement", "mean"),
    ).reset_index()
    blocks["duration"] = blocks["last"] - blocks["onset"] + tr_s
    order = ["subject", "session", "run", "onset", "duration", "trial_type"]
    return blocks[[*order, "block", "stimulus", "agreement"]]


def write_events(runs: Sequence[Run], table: pd.DataFrame, folder: Path) -> list[Path]:
    """Write the blocks of every run as BIDS ``events.tsv``; runs without samples get no file.

    Returns
    -------
    list of Path
        ``sub-01_ses-a_task-film_run-1_events.tsv``, ...
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for run in runs:
        own = (table["subject"] == run.subject) & (table["session"] == run.session)
        own &= table["run"] == run.run
        if own.any():
            blocks = list_blocks(table[own], tr_s=run.tr_s)
            paths.append(folder / f"{run.name.replace(' ', '_')}_events.tsv")
            write_table(blocks.drop(columns=["subject", "session", "run"]), paths[-1])
    return paths


def _designs(
    runs: Sequence[Run],
    column: str,
    late: Literal["error", "drop"],
    stimulus_column: str | None,
    merge: dict[str, str] | None,
    keep: Sequence[str] | None,
) -> tuple[list[pd.DataFrame], list[str]]:
    """Events of each run with ``start_s end_s label stimulus block``, sorted by start."""
    designs, notes = [], []
    for run in runs:
        events, note = check_events(run, late=late)
        if note:
            notes.append(note)
        for name in (column, stimulus_column):
            if name is not None and len(events) and name not in events:
                raise _no_column(run, name, events)
        design = pd.DataFrame(
            {
                "start_s": events["onset_s"].astype(float),
                "end_s": events["onset_s"].astype(float) + events["duration_s"].astype(float),
                "label": to_texts(events[column]) if len(events) else pd.Series(dtype=object),
            }
        )
        of = stimulus_column if len(events) else None
        design["stimulus"] = to_texts(events[of]) if of else NOT_LABELLED
        designs.append(design[design["label"] != NOT_LABELLED].copy())
    if not any(len(design) for design in designs):
        raise InputError(
            "labels",
            found=f"no events with a {column} in any of the {len(runs)} runs",
            expected="events that name what was shown",
            remedy="Check that the events.tsv files are there, data.events_task, labels.column.",
        )
    known = set().union(*(set(design["label"]) for design in designs))
    check_names("labels.merge", merge or {}, known)
    known = {(merge or {}).get(name, name) for name in known}
    check_names("labels.keep", keep or (), known)
    for design in designs:
        design["label"] = design["label"].map(lambda label: (merge or {}).get(label, label))
    if keep is not None:
        designs = [design[design["label"].isin(list(keep))] for design in designs]
    for run, design in zip(runs, designs, strict=True):
        _refuse_markers(run, design)
    return [_number_events(design) for design in designs], notes


def _refuse_markers(run: Run, design: pd.DataFrame) -> None:
    short = design[~(design["end_s"] > design["start_s"])]
    if len(short):
        first = short.iloc[0]
        raise InputError(
            run.name,
            found=f"{len(short)} of {len(design)} events have no duration, the first "
            f"{first['label']!r} at {first['start_s']:g} s",
            expected="blocks with a duration in seconds",
            remedy="Write durations into the events file, or leave markers out: name the labels "
            "that count in labels.keep.",
        )


def _number_events(design: pd.DataFrame) -> pd.DataFrame:
    """Add ``block``: events of one label without a gap share a number."""
    design = design.sort_values("start_s", kind="stable", ignore_index=True)
    design["block"] = -1
    count = 0
    for _, group in design.groupby("label", sort=False):
        reached = group["end_s"].cummax().shift(fill_value=-np.inf)
        opens = (group["start_s"] > reached + TOLERANCE_S).cumsum()
        design.loc[group.index, "block"] = count + opens
        count += int(opens.iloc[-1])
    return design


def _label_run(
    run: Run, design: pd.DataFrame, lag_s: float, transition_s: float, counts: dict[str, int]
) -> pd.DataFrame:
    moment = run.onset_s - lag_s
    event = np.full(run.n_volumes, -1)
    label = np.full(run.n_volumes, NOT_LABELLED, dtype=object)
    block = np.full(run.n_volumes, -1)
    if len(design):
        start, end = design["start_s"].to_numpy(), design["end_s"].to_numpy()
        names = design["label"].to_numpy(dtype=object)
        inside = start <= moment[:, None] + TOLERANCE_S
        inside &= (moment[:, None] + TOLERANCE_S < end) & (moment[:, None] >= -TOLERANCE_S)
        latest = len(design) - 1 - np.argmax(inside[:, ::-1], axis=1)
        event = np.where(inside.any(axis=1), latest, -1)
        mixed = (inside & (names[None, :] != names[event][:, None])).any(axis=1)
        counts["ambiguous"] += int(mixed.sum())
        near = _near_transition(moment, design, event, transition_s) & ~mixed
        counts["transition"] += int(near.sum())
        event = np.where(mixed | near, -1, event)
        label = np.where(event >= 0, names[event], NOT_LABELLED)
        block = np.where(event >= 0, design["block"].to_numpy()[event], -1)
    stimulus, time_s = _stimulus_of_events(run, design, event, moment)
    return make_run_rows(run, label, stimulus=stimulus, stimulus_time_s=time_s, block=block)


def _near_transition(
    moment: np.ndarray, design: pd.DataFrame, event: np.ndarray, transition_s: float
) -> np.ndarray:
    """Moments less than `transition_s` from an end of their block."""
    if transition_s <= 0:
        return np.zeros(len(moment), dtype=bool)
    ends = design.groupby("block").agg(start_s=("start_s", "min"), end_s=("end_s", "max"))
    ends = ends.loc[design["block"].to_numpy()[event]]
    late = moment + TOLERANCE_S >= ends["start_s"].to_numpy() + transition_s
    early = moment + TOLERANCE_S < ends["end_s"].to_numpy() - transition_s
    return (event >= 0) & ~(late & early)


def _weigh_run(run: Run, design: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    grid = fine_grid(run.end_s)
    shown = np.zeros((len(classes), len(grid)))
    steps = np.rint(design[["start_s", "end_s"]].to_numpy() / STEP_S).astype(int).clip(min=0)
    for name, (first, last) in zip(design["label"], steps, strict=True):
        shown[classes.index(name), first:last] = 1.0
    weights = sample_courses(convolve_with_hrf(shown), run.onset_s).clip(min=0)
    total = weights.sum(axis=0)
    labelled = total >= 0.5
    shares = np.where(labelled, weights / np.where(labelled, total, 1.0), np.nan)
    best = weights.argmax(axis=0)
    label = np.where(labelled, np.array(classes, dtype=object)[best], NOT_LABELLED)
    moment = run.onset_s - HRF_DELAY_S
    event = _nearest_event(moment, label, design)
    stimulus, time_s = _stimulus_of_events(run, design, event, moment)
    return make_run_rows(
        run,
        label,
        stimulus=stimulus,
        stimulus_time_s=time_s,
        agreement=shares[best, np.arange(len(best))],
        shares=dict(zip(classes, shares, strict=True)),
    )


def _nearest_event(moment: np.ndarray, label: np.ndarray, design: pd.DataFrame) -> np.ndarray:
    """Event of the volume's own label nearest to the moment, -1 without a label."""
    if not len(design):
        return np.full(len(moment), -1)
    start, end = design["start_s"].to_numpy(), design["end_s"].to_numpy()
    away = np.maximum(start - moment[:, None], moment[:, None] - end).clip(min=0)
    away[design["label"].to_numpy(dtype=object) != label[:, None]] = np.inf
    return np.where(label != NOT_LABELLED, away.argmin(axis=1), -1)


def _stimulus_of_events(
    run: Run, design: pd.DataFrame, event: np.ndarray, moment: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Stimulus and its time, per volume: the event's own one, or the one of the whole run."""
    stimulus = np.full(len(event), run.stimulus, dtype=object)
    time_s = np.full(len(event), np.nan)
    if run.stimulus != NOT_LABELLED:
        time_s = run.stimulus_start_s + moment
    if len(design):
        own = np.where(event >= 0, design["stimulus"].to_numpy(dtype=object)[event], NOT_LABELLED)
        has_own = own != NOT_LABELLED
        stimulus = np.where(has_own, own, stimulus)
        time_s = np.where(has_own, moment - design["start_s"].to_numpy()[event], time_s)
    return stimulus, time_s


def _no_column(run: Run, name: str, events: pd.DataFrame) -> InputError:
    return InputError(
        run.name,
        found=f"no column {name!r} in the events",
        expected=f"one of {', '.join(map(str, events))}",
        remedy=near_name(name, events, "Correct labels.column or labels.stimulus_column."),
    )


def _describe(hrf: bool, lag_s: float, transition_s: float, counts: dict[str, int]) -> list[str]:
    if hrf:
        return [
            "Labels are weighted by the canonical haemodynamic response (SPM form); lag_s and "
            "transition_s are not used. The stimulus time of a volume is "
            f"{HRF_DELAY_S:g} s before it."
        ]
    notes = [f"Every volume has the label of the moment {lag_s:g} s before it."]
    if counts["ambiguous"]:
        notes.append(
            f"{counts['ambiguous']} volumes were dropped: events of different labels overlap there."
        )
    if transition_s > 0:
        notes.append(
            f"{counts['transition']} volumes were dropped: less than {transition_s:g} s from the "
            "start or end of their block."
        )
    return notes

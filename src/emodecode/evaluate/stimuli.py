"""Stimuli: which samples show the same moment to several people, and groups to hold out."""

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.design import TOLERANCE_S, Codes, Design, read_design

MOST_STIMULUS_GROUPS = 12
"""With more distinct stimuli than this, they are dealt to `n_segments` groups."""

GROUP_KINDS = ("auto", "run", "stimulus", "segments")


def is_stimulus_locked(table: pd.DataFrame) -> bool:
    """Tell whether several subjects saw the same moment of a stimulus (within one TR)."""
    return is_locked(read_design(table))


def is_locked(design: Design) -> bool:
    """Same as `is_stimulus_locked`, on a design."""
    axis = design.stimulus_axis()
    order = axis.order
    close = np.diff(axis.time_s[order]) <= design.tolerance_s + TOLERANCE_S
    same = np.diff(axis.code[order]) == 0
    others = np.diff(design.subject.code[order]) != 0
    return bool(np.any(close & same & others))


def stimulus_groups(design: Design, *, groups: str = "auto", n_segments: int = 4) -> Codes:
    """Divide the samples into groups of stimulus that can be held out.

    Parameters
    ----------
    design : Design
    groups : {"auto", "run", "stimulus", "segments"}
        ``run``: what was shown in one run. ``stimulus``: each named stimulus (more than
        `MOST_STIMULUS_GROUPS` are dealt to `n_segments` groups, every label in each as far as
        possible). ``segments``: contiguous pieces of stimulus time with equally many moments.
        ``auto``: the first of these that fits: runs, if there are two or more which show different
        moments; stimuli, if there are three or more; segments.
    n_segments : int

    Raises
    ------
    InputError
        Samples that belong to no group, or fewer than two groups.
    """
    if groups not in GROUP_KINDS:
        raise InputError(
            "stimulus groups",
            found=f"groups = {groups!r}",
            expected=f"one of {', '.join(GROUP_KINDS)}",
            remedy="Correct evaluate.stimulus_groups.",
        )
    kind = _best_kind(design) if groups == "auto" else groups
    if kind == "run":
        made = design.run
    elif kind == "stimulus":
        made = _by_stimulus(design, n_segments)
    else:
        made = _by_segment(design, n_segments)
    _check_groups(design, made, kind)
    return made


def _best_kind(design: Design) -> str:
    if len(design.run.names) >= 2 and _shared_between_runs(design) <= 0.2:
        return "run"
    return "stimulus" if len(design.stimulus.names) >= 3 else "segments"


def _shared_between_runs(design: Design) -> float:
    """Share of the samples whose moment is also shown in a run of another name."""
    known = design.stimulus_axis().known
    if not known.any():
        return 1.0
    moments = pd.DataFrame(
        {
            "stimulus": design.stimulus.code[known],
            "bin": np.round(design.moment_s[known] / design.tolerance_s),
            "run": design.run.code[known],
        }
    )
    n_runs = moments.groupby(["stimulus", "bin"])["run"].transform("nunique")
    return float((n_runs > 1).mean())


def _by_stimulus(design: Design, n_segments: int) -> Codes:
    if len(design.stimulus.names) <= MOST_STIMULUS_GROUPS:
        return design.stimulus
    named = design.stimulus.code >= 0
    labels = pd.Series(design.label.code[named]).groupby(design.stimulus.code[named])
    usual = labels.agg(lambda values: values.mode().iloc[0])
    dealt = np.empty(len(usual), dtype=np.int64)
    dealt[np.argsort(usual.to_numpy(), kind="stable")] = np.arange(len(usual)) % n_segments
    code = np.where(named, dealt[design.stimulus.code], -1)
    return Codes(code, [f"stimuli-{number + 1}" for number in range(n_segments)])


def _by_segment(design: Design, n_segments: int) -> Codes:
    axis = design.stimulus_axis()
    code = np.full(design.n, -1, dtype=np.int64)
    if axis.order.size:
        bins = np.round(axis.position[axis.order] / design.tolerance_s)
        _, rank = np.unique(bins, return_inverse=True)
        code[axis.order] = rank * n_segments // (rank.max() + 1)
    used, compact = np.unique(code[code >= 0], return_inverse=True)
    code[code >= 0] = compact
    return Codes(code, [f"segment-{number + 1}" for number in range(len(used))])


def _check_groups(design: Design, made: Codes, kind: str) -> None:
    homeless = np.flatnonzero(made.code < 0)
    if homeless.size:
        raise InputError(
            "stimulus groups",
            found=f"{homeless.size} of {design.n} samples have no stimulus "
            f"(first: {design.describe(homeless[0])})",
            expected=f"stimulus and stimulus_time_s of every sample to make groups by {kind}",
            remedy='Set evaluate.stimulus_groups = "run", or drop these samples.',
        )
    if len(made.names) < 2:
        raise InputError(
            "stimulus groups",
            found=f"{len(made.names)} group by {kind}",
            expected="at least two, one to test and one to train on",
            remedy='Set evaluate.stimulus_groups = "segments", or split = "leave_one_subject_out".',
        )

"""Continuous ratings -> two classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.label.labelled import (
    NOT_LABELLED,
    TOLERANCE_S,
    Labelled,
    check_runs,
    join_tables,
    make_run_rows,
    make_timeline,
    stimulus_of,
)
from emodecode.label.reliability import split_half
from emodecode.run import Run


def label_ratings(
    runs: Sequence[Run],
    ratings: pd.DataFrame,
    *,
    low: float = 0.0,
    high: float = 0.0,
    names: tuple[str, str] = ("negative", "positive"),
    lag_s: float = 5.0,
    agreement: float = 0.5,
    seed: int = 0,
) -> Labelled:
    """Label volumes by the mean rating of their moment.

    A volume at time t has the time-weighted mean of what each rater said from ``t - lag_s`` to
    ``t - lag_s + tr_s``. A mean over raters below `low` is ``names[0]``, above `high` ``names[1]``;
    between them, or equal to a limit, the volume is no sample. ``agreement`` is the share of raters
    on that side; volumes with less than `agreement` are no samples.

    Parameters
    ----------
    runs : sequence of Run
    ratings : DataFrame
        From :func:`emodecode.read.annotations.read_ratings`. With a run column, time counts from
        the start of each run; without, ratings are on the clock of the stimulus and each run
        starts at its ``stimulus_start_s``.
    low, high : float
        Limits of the two classes, on the scale of the ratings.
    names : (str, str)
        Names of the low and the high class.
    lag_s : float
        Haemodynamic lag in seconds; 0 for images that are shifted already.
    agreement : float
        Smallest share of raters.
    seed : int
        For the random halves of the reliability.

    Raises
    ------
    InputError
        low > high, a run without ratings, ratings that do not fit the volumes, no labelled volume.
    """
    check_runs(runs)
    if low > high or names[0] == names[1]:
        raise InputError(
            "labels",
            found=f"low = {low:g}, high = {high:g}, names = {', '.join(names)}",
            expected="low <= high and two different names",
            remedy="Correct labels.low, labels.high and labels.names.",
        )
    by_run = bool((ratings["run"] != NOT_LABELLED).any())
    repeated = by_run and _share_a_start(runs)
    rows = []
    for run in runs:
        values = _values_of(run, ratings, by_run, lag_s)
        label, share, shares = _classify(values, low, high, names, agreement)
        stimulus = stimulus_of(run)
        rows.append(
            make_run_rows(
                run,
                label,
                stimulus=f"{stimulus} run-{run.run}" if repeated else stimulus,
                stimulus_time_s=run.stimulus_start_s + run.onset_s - lag_s,
                agreement=share,
                shares=shares if values.shape[0] > 1 else None,
            )
        )
    table = join_tables(
        rows, where="labels", remedy="Check labels.low, labels.high and labels.agreement."
    )
    n_raters = sum(name.startswith("rater-") for name in ratings.columns)
    notes = [
        f"A mean rating of {n_raters} rater(s) below {low:g} is {names[0]!r}, above {high:g} "
        f"{names[1]!r}; anything else is no sample.",
        f"Every volume has the rating of the moment {lag_s:g} s before it.",
    ]
    if repeated:
        notes.append(
            "All runs start at the same time of the stimulus, but ratings are given per run: the "
            "stimulus is named by its run."
        )
    return Labelled(table, make_timeline(rows), tuple(notes), _reliability(ratings, seed))


def mean_in_windows(
    time_s: np.ndarray, values: np.ndarray, *, start_s: np.ndarray, length_s: float
) -> np.ndarray:
    """Time-weighted mean of a step function within windows.

    ``values[i]`` holds from ``time_s[i]`` to ``time_s[i + 1]``, the last one as long as the median
    of the others. Missing values and times outside are left out; a window that is covered by less
    than half is NaN.

    Parameters
    ----------
    time_s, values : ndarray of shape (n_ratings,)
        Times rise.
    start_s : ndarray of shape (n_windows,)
    length_s : float
    """
    step = float(np.median(np.diff(time_s))) if len(time_s) > 1 else length_s
    edges = np.append(time_s, time_s[-1] + step)
    width = np.diff(edges)
    given = np.isfinite(values)
    area = np.append(0.0, np.cumsum(np.where(given, values, 0.0) * width))
    cover = np.append(0.0, np.cumsum(given * width))
    ends = start_s + length_s
    total = np.interp(ends, edges, area) - np.interp(start_s, edges, area)
    covered = np.interp(ends, edges, cover) - np.interp(start_s, edges, cover)
    enough = covered >= 0.5 * length_s - TOLERANCE_S
    return np.where(enough, total / np.where(enough, covered, 1.0), np.nan)


def _values_of(run: Run, ratings: pd.DataFrame, by_run: bool, lag_s: float) -> np.ndarray:
    """Mean rating of each rater and volume, (n_raters, n_volumes); NaN before the run's start."""
    own = ratings
    if by_run:
        own = ratings[ratings["run"].str.lstrip("0") == run.run.lstrip("0")]
        if own.empty:
            raise InputError(
                run.name,
                found=f"no ratings of run {run.run}",
                expected=f"one of the rated runs {', '.join(dict.fromkeys(ratings['run']))}",
                remedy="Correct labels.run_column, or select the rated runs in data.runs.",
            )
    time_s = own["time_s"].to_numpy()
    if (own["volume"] >= 0).all():
        if by_run and len(own) != run.n_volumes_in_file:
            raise InputError(
                run.name,
                found=f"{len(own)} ratings for {run.n_volumes_in_file} volumes",
                expected="one rating per volume of the run",
                remedy="Set labels.rate_hz if the ratings have a rate of their own.",
            )
        time_s = own["volume"].to_numpy() * run.tr_s
    if len(time_s) < 2 or (np.diff(time_s) <= 0).any():
        raise InputError(
            run.name,
            found="ratings whose times do not rise",
            expected="one row after the other, in seconds",
            remedy="Sort the ratings; if time starts anew in each run, set labels.run_column.",
        )
    start = run.onset_s - lag_s + (0.0 if by_run else run.stimulus_start_s)
    raters = [name for name in own.columns if name.startswith("rater-")]
    values = np.stack(
        [
            mean_in_windows(time_s, own[name].to_numpy(), start_s=start, length_s=run.tr_s)
            for name in raters
        ]
    )
    values[:, run.onset_s - lag_s < -TOLERANCE_S] = np.nan
    return values


def _classify(
    values: np.ndarray, low: float, high: float, names: tuple[str, str], agreement: float
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    n_given = np.isfinite(values).sum(axis=0)
    n_safe = np.maximum(n_given, 1)
    mean = np.where(n_given > 0, np.nansum(values, axis=0) / n_safe, np.nan)
    with np.errstate(invalid="ignore"):
        n_low, n_high = (values < low).sum(axis=0), (values > high).sum(axis=0)
        is_low, is_high = mean < low, mean > high
    share = np.where(is_low, n_low, n_high) / n_safe
    keep = (is_low | is_high) & (share >= agreement - 1e-9) & (share > 0)
    label = np.where(keep, np.where(is_low, names[0], names[1]).astype(object), NOT_LABELLED)
    decided = np.maximum(n_low + n_high, 1)
    shares = {names[0]: n_low / decided, names[1]: n_high / decided}
    return label, np.where(is_low | is_high, share, np.nan), shares


def _share_a_start(runs: Sequence[Run]) -> bool:
    starts = [(run.subject, run.session, stimulus_of(run), run.stimulus_start_s) for run in runs]
    return len(set(starts)) < len(starts)


def _reliability(ratings: pd.DataFrame, seed: int) -> dict[str, Any] | None:
    courses = ratings[[name for name in ratings.columns if name.startswith("rater-")]].to_numpy().T
    if len(courses) < 2:
        return None
    return {"n_observers": len(courses)} | split_half(courses, seed=seed)

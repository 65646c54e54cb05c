"""Random labels: episodes that are nowhere in the data, to see what is found in nothing."""

import hashlib
from collections.abc import Sequence

import numpy as np

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
from emodecode.run import Run


def label_random(
    runs: Sequence[Run],
    *,
    classes: Sequence[str],
    episode_s: float = 30.0,
    lag_s: float = 0.0,
    seed: int = 0,
) -> Labelled:
    """Label the volumes by episodes of random length and class.

    Runs that show a stimulus (``run.stimulus``) get episodes of the stimulus' clock, the same for
    all who saw it, as annotations of a film are; each other run gets episodes of its own. The
    labels are drawn without a look at the data, so whatever decodes them is an artefact.

    Parameters
    ----------
    runs : sequence of Run
    classes : sequence of str
        Each gets every ``len(classes)``-th episode of a shuffled order.
    episode_s : float
        Mean length; lengths are uniform between half and one and a half of it.
    lag_s : float
        Haemodynamic lag in seconds.
    seed : int

    Raises
    ------
    InputError
        Classes that are named twice, or no runs.
    """
    check_runs(runs)
    classes = [str(name) for name in classes]
    if len(set(classes)) < len(classes):
        raise InputError(
            "labels.classes",
            found=", ".join(classes),
            expected="different names",
            remedy="Correct labels.classes.",
        )
    starts = [(run.subject, run.session, run.stimulus, run.stimulus_start_s) for run in runs]
    repeated = len(set(starts)) < len(starts)
    rows = []
    for run in runs:
        shown = run.stimulus != NOT_LABELLED
        stimulus = stimulus_of(run) if shown else NOT_LABELLED
        if shown and repeated:
            stimulus = f"{stimulus} run-{run.run}"
        clock = stimulus if shown else f"{run.subject}|{run.session}|{run.run}"
        moment_s = run.onset_s - lag_s + (run.stimulus_start_s if shown else 0.0)
        label = _draw(moment_s, clock, classes, episode_s, seed)
        label[run.onset_s - lag_s < -TOLERANCE_S] = NOT_LABELLED
        rows.append(
            make_run_rows(
                run,
                label,
                stimulus=stimulus,
                stimulus_time_s=moment_s if shown else np.nan,
            )
        )
    table = join_tables(rows, where="labels", remedy="Check labels.lag_s and the runs.")
    notes = (
        f"RANDOM labels: episodes of {episode_s:g} s on average, drawn without the data "
        f"({', '.join(classes)}). Every score above chance is an artefact.",
    )
    return Labelled(table, make_timeline(rows), notes)


def _draw(
    moment_s: np.ndarray, clock: str, classes: Sequence[str], episode_s: float, seed: int
) -> np.ndarray:
    """Label of each moment of a clock; the same moments of a clock always get the same labels."""
    key = int.from_bytes(hashlib.sha256(clock.encode()).digest()[:8], "little")
    rng = np.random.default_rng(np.random.SeedSequence([seed, key]))
    names: list[str] = []
    ends: list[float] = []
    end = 0.0
    while not ends or end <= moment_s.max():
        for name in rng.permutation(classes):
            end += float(rng.uniform(0.5, 1.5)) * episode_s
            names.append(str(name))
            ends.append(end)
    episode = np.searchsorted(ends, np.maximum(moment_s, 0.0) + TOLERANCE_S)
    return np.array(names, dtype=object)[np.minimum(episode, len(names) - 1)]

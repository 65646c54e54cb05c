"""Runs that are only planned: to work on labels before any scan is at hand."""

from collections.abc import Sequence

import numpy as np

from emodecode.errors import InputError
from emodecode.run import Run


def plan_runs(
    *,
    subjects: Sequence[str],
    run_volumes: Sequence[int],
    tr_s: float,
    task: str = "n/a",
    stimulus: str = "n/a",
    dummies: int = 0,
) -> tuple[list[Run], list[str]]:
    """Plan the same runs for every subject, without data.

    Parameters
    ----------
    subjects : sequence of str
        Subjects without prefix (``"01"``).
    run_volumes : sequence of int
        Volumes of each run, dummies included; run ``r`` is named ``str(r + 1)``.
    tr_s : float
        Repetition time in seconds.
    task, stimulus : str
        Names for all runs. With a stimulus, each run goes on where the one before it ended
        (``stimulus_start_s``); segments that overlap are stated in ``labels.segments_s``.
    dummies : int, default 0
        Volumes at the beginning of each run that are skipped.

    Returns
    -------
    runs : list of Run
        Subjects in the given order, their runs in order; each with ``planned_volumes``.
    notes : list of str
        What was planned.

    Raises
    ------
    InputError
        No or doubled subjects, a run without volumes.
    """
    names = [str(subject) for subject in subjects]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if not names or doubled:
        raise InputError(
            "data.subjects",
            found=f"{', '.join(doubled)} given twice" if doubled else "no subject",
            expected="each subject once",
            remedy="Correct data.subjects.",
        )
    if not run_volumes or min(run_volumes) < 1:
        raise InputError(
            "data.run_volumes",
            found=f"{list(run_volumes)}",
            expected="one or more runs of at least one volume",
            remedy="Give the number of volumes of each run, such as [451, 441].",
        )
    starts_s = np.concatenate([[0.0], np.cumsum(run_volumes)[:-1] * tr_s])
    runs = [
        Run(
            subject=name,
            run=str(number + 1),
            task=task,
            tr_s=tr_s,
            planned_volumes=int(n_volumes),
            dummies=dummies,
            stimulus=stimulus,
            stimulus_start_s=float(starts_s[number]) if stimulus != "n/a" else 0.0,
            notes=("planned: there are no images",),
        )
        for name in names
        for number, n_volumes in enumerate(run_volumes)
    ]
    note = (
        f"{len(names)} subjects x {len(run_volumes)} runs are planned "
        f"({' + '.join(map(str, run_volumes))} volumes, TR {tr_s:g} s); there are no images"
    )
    return runs, [note]

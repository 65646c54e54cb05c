"""Matching: do subjects look alike in the common space? Segments of time found again, and ISC."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from tqdm import tqdm

from emodecode.align.lowrank import standardised
from emodecode.errors import InputError
from emodecode.evaluate.tally import summarise
from emodecode.samples import Samples

SEGMENT_VOLUMES = 10
"""Volumes of a segment that is to be found again."""


@dataclass(frozen=True)
class Alikeness:
    """How alike subjects are at the same moments of runs that no map was fitted on.

    Parameters
    ----------
    method : str
        ``"none"`` or the name of the alignment.
    fitted_on, tested_on : str
        Runs.
    matching : dict of subject -> float
        Share of its segments that resemble the same segment of the other subjects' mean most.
    chance : float
        1 / number of segments.
    isc : dict of subject -> float
        Correlation of each column with the mean of the others, averaged over columns.
    shrinkage : float or None
        Median over subjects of what ridge or ProMises chose.
    """

    method: str
    fitted_on: str
    tested_on: str
    matching: dict[str, float] = field(repr=False)
    chance: float
    isc: dict[str, float] = field(repr=False)
    shrinkage: float | None = None

    def row(self) -> dict[str, float | str | None]:
        """Means over subjects with 95 % t intervals, for a table."""
        values = {"method": self.method, "fitted_on": self.fitted_on, "tested_on": self.tested_on}
        found: dict[str, float | str | None] = dict(values)
        for name, each in (("matching", self.matching), ("isc", self.isc)):
            mean = summarise(np.array(list(each.values())))
            found |= {name: mean["value"], f"{name}_low": mean["low"], f"{name}_high": mean["high"]}
        return found | {
            "chance": self.chance,
            "n_subjects": len(self.matching),
            "shrinkage": self.shrinkage,
        }


def match_segments(
    data: Mapping[str, np.ndarray], *, segment_volumes: int = SEGMENT_VOLUMES
) -> tuple[dict[str, float], float]:
    """Find each subject's segments in the mean of the other subjects.

    The run is cut into segments of `segment_volumes` volumes, without overlap. A segment (its
    volumes x columns as one vector) is found if its Pearson correlation with the same segment of
    the others' mean is higher than with any other segment of it.

    Parameters
    ----------
    data : dict of subject -> ndarray of shape (n_volumes, n_columns)
        The same volumes in the same order; a subject may lack some at the end. All in one space.
    segment_volumes : int, default 10

    Returns
    -------
    accuracy : dict of subject -> float
    chance : float
        One over the number of segments of the longest run.

    Raises
    ------
    InputError
        Fewer than two subjects or two segments.

    References
    ----------
    Haxby et al. (2011), Neuron 72:404-416: 18-s segments of a film.
    """
    n_segments = {name: len(values) // segment_volumes for name, values in data.items()}
    if len(data) < 2 or min(n_segments.values()) < 2:
        raise InputError(
            "matching of segments",
            found=f"{len(data)} subjects, {min(n_segments.values(), default=0)} segments",
            expected="two subjects and two segments or more",
            remedy="Use longer runs or shorter segments.",
        )
    accuracy = {}
    vectors = {
        name: values[: n_segments[name] * segment_volumes].reshape(n_segments[name], -1)
        for name, values in data.items()
    }
    for name, own in vectors.items():
        total, count = _sum_of_others(vectors, name)
        found = _correlate(own, total / count[:, None]).argmax(axis=1)
        accuracy[name] = float((found == np.arange(len(own))).mean())
    return accuracy, 1 / max(n_segments.values())


def intersubject_correlation(data: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Correlate each column with the mean of the other subjects; the mean over columns.

    Parameters
    ----------
    data : dict of subject -> ndarray of shape (n_volumes, n_columns)
        As for `match_segments`.
    """
    found = {}
    for name, own in data.items():
        total, count = _sum_of_others(data, name)
        n = min(len(own), len(total))
        a, b = standardised(own[:n]), standardised(total[:n] / count[:n, None])
        found[name] = float((a * b).sum(axis=0).mean() / n)
    return found


def compare_spaces(
    volumes: Samples,
    steps: Mapping[str, BaseEstimator | None],
    *,
    segment_volumes: int = SEGMENT_VOLUMES,
    progress: bool = False,
) -> list[Alikeness]:
    """Fit each common space on some runs and see how alike the subjects are in the others.

    Each run is tested in turn, the maps being fitted on all other runs; a single run is cut in
    two halves. Labels are not used.

    Parameters
    ----------
    volumes : Samples
        All volumes of time-locked runs.
    steps : dict of name -> estimator or None
        Unfitted `emodecode.align.space.CommonSpace`; None: no alignment.

    Returns
    -------
    list of Alikeness
        For each tested run and method.
    """
    table = volumes.table
    names, part = _parts(table)
    subjects = table["subject"].to_numpy(dtype=str)
    key = np.char.add(np.char.add(part, " "), table["volume"].astype(str).to_numpy(dtype=str))
    found = []
    bar = tqdm(total=len(names) * len(steps), desc="align", unit="fit", disable=not progress)
    for tested in names:
        inside = part == tested
        others = ", ".join(name for name in names if name != tested)
        X_test, test_subjects = volumes.X[inside], subjects[inside]
        for name, step in steps.items():
            mapped, shrinkage = X_test, None
            if step is not None:
                step.fit(volumes.X[~inside], key[~inside], subjects=subjects[~inside])
                mapped = step.transform(X_test, subjects=test_subjects)
                shrinkage = _usual_shrinkage(step)
            data = {each: mapped[test_subjects == each] for each in np.unique(test_subjects)}
            matching, chance = match_segments(data, segment_volumes=segment_volumes)
            isc = intersubject_correlation(data)
            found.append(Alikeness(name, others, tested, matching, chance, isc, shrinkage))
            bar.update()
    bar.close()
    return found


def _usual_shrinkage(step: BaseEstimator) -> float | None:
    chosen = [value for value in (getattr(step, "shrinkage_", None) or {}).values() if value]
    return float(np.median(chosen)) if chosen else None


def _parts(table: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """Name of the part of each row: its run, or the half of the only run."""
    run = table["run"].astype(str).to_numpy(dtype=str)
    session = table["session"].astype(str).to_numpy(dtype=str)
    prefix = np.where(session == "n/a", "", np.char.add(np.char.add("ses-", session), " "))
    part = np.char.add(prefix, np.char.add("run-", run))
    names = list(dict.fromkeys(part))
    if len(names) > 1:
        return names, part
    middle = table["volume"].max() / 2
    half = np.where(table["volume"] <= middle, " first half", " second half")
    part = np.char.add(part, half)
    return list(dict.fromkeys(part)), part


def _sum_of_others(data: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the other subjects' rows and how many of them have each row."""
    others = [values for each, values in data.items() if each != name]
    n_rows = max(map(len, others))
    total, count = np.zeros((n_rows, others[0].shape[1])), np.zeros(n_rows)
    for values in others:
        total[: len(values)] += values
        count[: len(values)] += 1
    return total, count


def _correlate(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of `a` with each row of `b`."""
    a, b = standardised(a.T), standardised(b.T)
    return a.T @ b / len(a)

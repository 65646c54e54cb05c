"""Alignment: which data a fold's common space and maps may be fitted on, and what they are.

The rows of an `Alignment` are volumes of runs that serve alignment: other runs of the samples, a
film that was only shown for this, or (transductive) the samples themselves. Which of them a fold
may use follows from the protocol and the fold's test rows (spec: functional alignment, 3).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.design import read_design
from emodecode.evaluate.splits import NEIGHBOURS_S
from emodecode.evaluate.surrogate import surrogate
from emodecode.samples import Samples

PROTOCOLS: dict[str, str] = {
    "independent_run": "maps are fitted on other, time-locked runs; the common space on the "
    "training subjects' alone, and the tested subject is mapped to it as it stands",
    "calibration_blocks": "maps are fitted on class means of a labelled calibration run; the "
    "common space on the training subjects' alone",
    "transductive": "maps are fitted on the tested run itself, without its labels",
    "connectivity": "maps are fitted on the voxels' correlations with the time courses of "
    "parcels, in runs that are not tested",
    "none": "no alignment",
}
"""Protocol -> what a subject's map is fitted on."""

ASSUMES: dict[str, str] = {
    "independent_run": "all subjects saw the same stimulus at the same volumes of these runs",
    "calibration_blocks": "some labelled data of a new subject, as a localiser gives",
    "transductive": "the same stimulus order in all subjects; on pure noise with a shared order "
    "it decodes perfectly, so it is a leak",
    "connectivity": "nothing in common but anatomy; the signal is weak",
    "none": "the same voxel does the same thing in all subjects",
}
"""Protocol -> what it assumes."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Volumes that functional alignment may be fitted on.

    Parameters
    ----------
    protocol : str
        A key of `PROTOCOLS` but ``"none"``.
    X : ndarray of shape (n_rows, n_voxels), float32
        The columns are those of the samples; may be a memory map.
    table : DataFrame of n_rows rows
        ``subject session run volume onset_s``; a run of another task has another name.
    key : ndarray of shape (n_rows,), str
        What each row shows: rows of different subjects with the same key correspond.
    row : ndarray of shape (n_rows,), int64
        Row of the sample table that is the same volume, -1 where there is none.
    courses : ndarray of shape (n_rows, n_parcels), optional
        Time courses of the parcels (``connectivity``).
    parcels : tuple of str
        Their names.
    gap_s : float
        Rows this close to a test sample in its run are never used (but for ``transductive``).
    by_time : bool
        ``calibration_blocks``: a class and the place in its block are a key, not the class alone.
    calibration_run : str, optional
        ``calibration_blocks``: the run that calibrates in inner folds too.
    fingerprint : str
        Hash of the content; made here.
    """

    protocol: str
    X: np.ndarray = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    key: np.ndarray = field(repr=False)
    row: np.ndarray = field(repr=False)
    courses: np.ndarray | None = field(default=None, repr=False)
    parcels: tuple[str, ...] = ()
    gap_s: float = NEIGHBOURS_S
    by_time: bool = True
    calibration_run: str | None = None
    fingerprint: str = ""

    def __post_init__(self) -> None:
        lengths = {len(self.X), len(self.table), len(self.key), len(self.row)}
        if len(lengths) > 1 or self.protocol not in PROTOCOLS:
            raise InputError(
                "alignment",
                found=f"protocol {self.protocol!r} and parts of {sorted(lengths)} rows",
                expected=f"one of {', '.join(PROTOCOLS)}, and one row of each part per volume",
                remedy="Make it with emodecode.evaluate.alignment.alignment_of.",
            )
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self))

    @property
    def subjects(self) -> np.ndarray:
        """Subject of each row, shape (n_rows,), str."""
        return self.table["subject"].to_numpy(dtype=str)

    def keys(self, table: pd.DataFrame) -> np.ndarray:
        """What each row shows; of class means it follows from the sample table's labels."""
        if self.protocol == "calibration_blocks":
            return class_keys(table, by_time=self.by_time)
        return self.key

    def usable(
        self, table: pd.DataFrame, test: np.ndarray, *, within: np.ndarray | None = None
    ) -> np.ndarray:
        """Tell which rows a fold that tests these samples may use, boolean (n_rows,).

        ``independent_run``: rows of runs that are not tested, in any subject; where that leaves
        nothing (parts of one run are tested), rows at least `gap_s` (and 30 s) from every tested
        moment of the run, in any subject. ``connectivity``: rows of other scans than the tested
        ones. ``transductive``: all rows.

        Parameters
        ----------
        table : DataFrame
            Sample table.
        test : ndarray of int
            Test rows of the fold.
        within : ndarray of bool, optional
            What an outer fold may use.
        """
        inside = np.ones(len(self.X), dtype=bool) if within is None else within
        if self.protocol == "transductive":
            return inside
        if self.protocol == "connectivity":
            return inside & ~np.isin(_scans(self.table), _scans(table.iloc[test]))
        own, tested = _runs(self.table), table.iloc[test]
        apart = inside & ~np.isin(own, _runs(tested))
        if apart.any():
            return apart
        gap_s = max(self.gap_s, NEIGHBOURS_S)
        return inside & (_distance_s(self.table, own, tested) > gap_s + 1e-6)

    def rows_of(self, chosen: np.ndarray) -> np.ndarray:
        """Rows of the sample table among the chosen rows, for the ledger."""
        numbers = self.row[chosen]
        return np.unique(numbers[numbers >= 0])

    def outside(self, chosen: np.ndarray, table: pd.DataFrame, test: np.ndarray) -> dict[str, Any]:
        """Describe the chosen rows that are no samples: how many, how near to a test sample."""
        others = chosen & (self.row < 0)
        if not others.any():
            return {}
        tested = table.iloc[test]
        seconds = _distance_s(self.table[others], _scans(self.table)[others], tested, _scans)
        nearest = float(seconds.min())
        return {
            "outside": int(others.sum()),
            "outside_s": nearest if np.isfinite(nearest) else None,
        }


def alignment_of(
    samples: Samples,
    volumes: Samples,
    *,
    protocol: str = "independent_run",
    gap_s: float = NEIGHBOURS_S,
    courses: np.ndarray | None = None,
    parcels: Sequence[str] = (),
) -> Alignment:
    """Make the alignment data of samples from the volumes of runs that serve alignment.

    Parameters
    ----------
    samples : Samples
        What is decoded.
    volumes : Samples
        All volumes of the runs, labelled or not, with the same columns; volumes of the same number
        of a run of the same name correspond between subjects.
    protocol, gap_s, courses, parcels
        See `Alignment`.
    """
    table = volumes.table
    key = _runs(table) + " " + np.char.mod("%06d", table["volume"].to_numpy(dtype=int))
    return Alignment(
        protocol=protocol,
        X=volumes.X,
        table=table,
        key=key,
        row=_same_volume(table, samples.table),
        courses=courses,
        parcels=tuple(parcels),
        gap_s=gap_s,
    )


def split_off_unlabelled(samples: Samples) -> tuple[Samples, Samples]:
    """Divide samples into labelled ones and the volumes of runs without labels (``"n/a"``).

    For `emodecode.simulate.samples.simulate_samples` with ``film_volumes``, and for tables that
    hold a film beside the blocks.
    """
    labelled = samples.y != "n/a"
    parts = []
    for rows in (labelled, ~labelled):
        table = samples.table[rows].reset_index(drop=True)
        parts.append(replace(samples, X=samples.X[rows], table=table))
    return parts[0], parts[1]


def alignment_of_samples(
    samples: Samples,
    *,
    protocol: str,
    by_time: bool = True,
    calibration_run: str | None = None,
    gap_s: float = NEIGHBOURS_S,
) -> Alignment:
    """Make alignment data of the samples themselves: ``calibration_blocks``, ``transductive``."""
    made = alignment_of(samples, samples, protocol=protocol, gap_s=gap_s)
    rules: dict[str, Any] = {"by_time": by_time, "calibration_run": calibration_run}
    return replace(made, row=np.arange(samples.n_samples), fingerprint="", **rules)


def class_keys(table: pd.DataFrame, *, by_time: bool = True) -> np.ndarray:
    """Name what labelled samples show: the class, and their place in the block (from 0).

    Functional alignment on class means: samples of one subject with the same key are averaged.
    """
    label = table["label"].to_numpy(dtype=str)
    if not by_time:
        return label
    block = _scans(table) + " " + table["block"].to_numpy(dtype=str)
    place = pd.Series(table["volume"].to_numpy()).groupby(block).rank(method="first").to_numpy()
    return label + np.char.mod(" +%03d", place.astype(int) - 1)


def check_time_locked(table: pd.DataFrame) -> str | None:
    """Say why the runs of a sample table cannot be aligned in time; None if they can.

    They can if volumes of the same number, in runs of the same name, show the same moment of the
    same stimulus to all subjects (within one TR).
    """
    design = read_design(table)
    if not design.stimulus_axis().known.any():
        return "no moment of a stimulus is known for any sample"
    moments = pd.DataFrame(
        {
            "run": design.run.code,
            "volume": design.volume,
            "stimulus": design.stimulus.code,
            "moment": design.moment_s,
            "subject": design.subject.code,
        }
    )
    each = moments.groupby(["run", "volume"])
    several = each["subject"].nunique() > 1
    if not several.any():
        return "no volume of a run is labelled in more than one subject"
    spread = each["moment"].max() - each["moment"].min()
    differs = (spread > design.tolerance_s) | (each["stimulus"].nunique() > 1)
    unknown = each["moment"].count() < each.size()
    share = float((differs | unknown)[several].mean())
    if share > 0.01:
        return (
            f"at {share:.0%} of the volumes that several subjects have in common they saw "
            "different moments of the stimulus (an order of their own per subject?)"
        )
    return None


def replayed(
    alignment: Alignment | None,
    X: np.ndarray,
    *,
    seed: int,
    subjects: Sequence[str] | None = None,
) -> Alignment | None:
    """Alignment data for samples whose values were replaced by surrogates.

    Rows that are samples take their new values; the others are phase-randomised as well, of all
    subjects or of the named ones.
    """
    if alignment is None:
        return None
    known = alignment.row >= 0
    other = ~known
    if subjects is not None:
        other &= np.isin(alignment.subjects, list(subjects))
    values = np.array(alignment.X, dtype=np.float32)
    if other.any():
        rows = np.flatnonzero(other)
        values[rows] = surrogate(alignment.X, alignment.table, seed=seed, rows=rows)[rows]
    values[known] = X[alignment.row[known]]
    return replace(alignment, X=values, fingerprint="")


def replay_candidates(
    candidates: Sequence[Any],
    X: np.ndarray,
    *,
    seed: int,
    subjects: Sequence[str] | None = None,
) -> list[Any]:
    """Return candidates whose alignment data were replaced as in `replayed`, once for all."""
    made: dict[int, Alignment | None] = {}
    found = []
    for each in candidates:
        if each.alignment is not None:
            if id(each.alignment) not in made:
                made[id(each.alignment)] = replayed(each.alignment, X, seed=seed, subjects=subjects)
            each = replace(each, alignment=made[id(each.alignment)])
        found.append(each)
    return found


def _fingerprint(alignment: Alignment) -> str:
    digest = hashlib.blake2b(alignment.protocol.encode(), digest_size=16)
    rows = max(1, 2**24 // max(1, alignment.X.shape[1]))
    for start in range(0, len(alignment.X), rows):
        digest.update(np.ascontiguousarray(alignment.X[start : start + rows]).data)
    if alignment.courses is not None:
        digest.update(np.ascontiguousarray(alignment.courses).data)
    digest.update("|".join(alignment.key.tolist()).encode())
    digest.update("\n".join(_scans(alignment.table).tolist()).encode())
    digest.update(alignment.table["onset_s"].to_numpy(dtype=np.float64).tobytes())
    digest.update(alignment.row.tobytes())
    rules = f"gap {alignment.gap_s:g} by time {alignment.by_time}"
    return f"{digest.hexdigest()} {rules} calibration {alignment.calibration_run}"


def _text(table: pd.DataFrame, *names: str) -> np.ndarray:
    parts = [table[name].to_numpy(dtype=str) for name in names]
    whole = parts[0]
    for part in parts[1:]:
        whole = np.char.add(np.char.add(whole, "|"), part)
    return whole


def _runs(table: pd.DataFrame) -> np.ndarray:
    return _text(table, "session", "run")


def _scans(table: pd.DataFrame) -> np.ndarray:
    return _text(table, "subject", "session", "run")


def _same_volume(table: pd.DataFrame, samples: pd.DataFrame) -> np.ndarray:
    samples = samples.reset_index(drop=True)
    columns = ["subject", "session", "run", "volume"]
    texts = dict.fromkeys(columns[:3], str) | {"volume": int}
    wanted = pd.MultiIndex.from_frame(table[columns].astype(texts))
    have = samples[columns].astype(texts).drop_duplicates()
    found = pd.MultiIndex.from_frame(have).get_indexer(wanted)
    return np.where(found >= 0, have.index.to_numpy()[found], -1).astype(np.int64)


def _distance_s(
    rows: pd.DataFrame, clock: np.ndarray, tested: pd.DataFrame, name=_runs
) -> np.ndarray:
    """Seconds from each row to the nearest tested onset on the same clock; infinite without one."""
    onset, distance = rows["onset_s"].to_numpy(dtype=float), np.full(len(rows), np.inf)
    theirs = name(tested)
    times = tested["onset_s"].to_numpy(dtype=float)
    for each in np.unique(theirs):
        there, own = np.sort(times[theirs == each]), clock == each
        if not own.any():
            continue
        right = np.clip(np.searchsorted(there, onset[own]), 0, len(there) - 1)
        left = np.maximum(right - 1, 0)
        gaps = np.minimum(np.abs(there[right] - onset[own]), np.abs(there[left] - onset[own]))
        distance[own] = gaps
    return distance

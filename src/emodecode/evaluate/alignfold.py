"""AlignedFold: the alignment step of a pipeline, fitted and adapted within one fold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from emodecode.align.keyed import common_keys, refuse_few_keys, refuse_few_subjects
from emodecode.align.lowrank import standardised
from emodecode.errors import InputError
from emodecode.evaluate.alignment import Alignment
from emodecode.evaluate.fold import NOTHING, Split
from emodecode.evaluate.ledger import Ledger, is_fresh
from emodecode.models.steps import fit_step, transform_step

ALIGN = "align"
"""Name of the alignment step in a pipeline."""


@dataclass(frozen=True, eq=False)
class AlignedFold:
    """Alignment data as one fold may use them.

    Parameters
    ----------
    alignment : Alignment
    table : DataFrame
        Sample table.
    test : ndarray of int
        Samples that the fold tests.
    usable : ndarray of bool
        Rows of the alignment data that the fold may use.
    cached : bool
        The common space is kept for the next decoder of the same fold; inner folds are each
        decoder's own.
    """

    alignment: Alignment
    table: pd.DataFrame = field(repr=False)
    test: np.ndarray = field(repr=False)
    usable: np.ndarray = field(repr=False)
    cached: bool = True

    def fit(
        self,
        step: BaseEstimator,
        front: Sequence[BaseEstimator],
        subjects: np.ndarray,
        ledger: Ledger,
    ) -> None:
        """Fit the alignment step on what the named subjects' rows show.

        Parameters
        ----------
        step : estimator
            Fitted in place, see `emodecode.align.space.CommonSpace`.
        front : sequence of estimators
            The fitted steps before it; the rows go through them first.
        subjects : ndarray of str
            Training subjects.
        ledger : Ledger
            Told which rows these are.

        Raises
        ------
        InputError
            A subject without rows, and what the step refuses.
        """
        chosen = self._rows_of(subjects)
        self._tell(step, chosen, ledger, fresh=is_fresh(step))
        fit = _fit_or_recall if self.cached else fit_step
        fit(step, *self._through(front, chosen))

    def adapt(
        self,
        step: BaseEstimator,
        front: Sequence[BaseEstimator],
        subjects: np.ndarray,
        ledger: Ledger,
    ) -> BaseEstimator:
        """Return a copy of the fitted step that knows these subjects too."""
        for subject in np.unique(subjects):
            if subject in step.maps_:
                continue
            chosen = self._rows_of(subject)
            self._tell(step, chosen, ledger)
            rows, keys, _ = self._through(front, chosen)
            step = step.adapt(rows, keys, subject)
        return step

    def check(self, train: np.ndarray, test: np.ndarray) -> None:
        """Refuse what `fit` and `adapt` would find too little data for; nothing is fitted.

        Parameters
        ----------
        train, test : ndarray of str
            Subjects that the space is made from, and those that are mapped to it.
        """
        chosen, names = self._rows_of(train), self.alignment.subjects
        refuse_few_subjects(np.unique(train))
        keyed = self.alignment.protocol != "connectivity"
        keys = self.alignment.keys(self.table)
        known = common_keys(keys[chosen], names[chosen]) if keyed else keys[:0]
        for subject in np.setdiff1d(test, train):
            own = self._rows_of(subject)
            if keyed:
                present = int(np.isin(known, keys[own]).sum())
                refuse_few_keys(str(subject), present, len(known))

    def on_all(self) -> "AlignedFold":
        """All alignment data, whatever is tested: a leak, for what was published so."""
        return replace(self, usable=np.ones(len(self.usable), dtype=bool))

    def inner(self, split: Split) -> tuple["AlignedFold", np.ndarray]:
        """Alignment data for an inner fold, and the rows that it may be judged on.

        For ``calibration_blocks`` see `calibration_part`: one run of each inner test subject
        calibrates and the others are judged.
        """
        if self.alignment.protocol != "calibration_blocks":
            usable = self.alignment.usable(self.table, split.test, within=self.usable)
            return replace(self, test=split.test, usable=usable, cached=False), split.test
        calibrate, judged = calibration_part(
            self.table, split.test, run=self.alignment.calibration_run
        )
        usable = np.zeros(len(self.usable), dtype=bool)
        usable[np.concatenate([split.train, calibrate])] = True
        return replace(self, test=judged, usable=usable & self.usable, cached=False), judged

    def inner_folds(
        self, splits: Sequence[Split]
    ) -> Iterator[tuple[Split, "AlignedFold", np.ndarray]]:
        """Inner folds with their alignment data (`inner`); those that judge nothing are left out.

        Raises
        ------
        InputError
            None is left.
        """
        found = [(split, *self.inner(split)) for split in splits]
        judging = [each for each in found if each[2].size]
        if not judging:
            raise InputError(
                f"inner folds, alignment ({self.alignment.protocol})",
                found="every sample of the inner test subjects calibrates: one block each",
                expected="two blocks or more in the training runs of a subject",
                remedy="Do not tune the decoder (models.grid), or use another align.protocol.",
            )
        yield from judging

    def _rows_of(self, subjects: "np.ndarray | str") -> np.ndarray:
        """Usable rows of these subjects, boolean; each must have some."""
        whose = np.unique(subjects)
        chosen = self.usable & np.isin(self.alignment.subjects, whose)
        missing = np.setdiff1d(whose, self.alignment.subjects[chosen])
        if missing.size:
            raise self._nothing_for(missing[0])
        return chosen

    def _through(
        self, front: Sequence[BaseEstimator], chosen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, keys and subjects after the steps before the alignment."""
        rows = np.flatnonzero(chosen)
        values, names = self.alignment.X[rows], self.alignment.subjects[rows]
        for step in front:
            values = transform_step(step, np.asarray(values), names)
        if self.alignment.courses is None:
            return np.asarray(values), self.alignment.keys(self.table)[rows], names
        return connectivity(values, self.alignment.courses[rows], names, self.alignment.parcels)

    def _tell(self, step: BaseEstimator, chosen: np.ndarray, ledger: Ledger, **more) -> None:
        outside = self.alignment.outside(chosen, self.table, self.test)
        rows = self.alignment.rows_of(chosen)
        ledger.saw(ALIGN, "alignment", rows, protocol=self.alignment.protocol, **outside, **more)

    def _nothing_for(self, subject: str) -> InputError:
        return InputError(
            f"alignment ({self.alignment.protocol}): sub-{subject}",
            found="no volume that this fold may use to align the subject",
            expected="volumes of another run, or calibration samples",
            remedy="Name the task of a separate run (align.task), use another align.protocol, or "
            "leave the subject out.",
        )


_FITTED: dict[str, dict[str, Any]] = {}
"""What the last common space of this process learned: decoders of one fold share it."""


def forget_space() -> None:
    """Let go of the common space that this process keeps."""
    _FITTED.clear()


def _fit_or_recall(
    step: BaseEstimator, rows: np.ndarray, keys: np.ndarray, names: np.ndarray
) -> None:
    """Fit the step in place, or take over what an equal step learned from equal data."""
    kind = f"{type(step).__module__}.{type(step).__qualname__}"
    key = joblib.hash([kind, step.get_params(), rows, keys, names])
    if key not in _FITTED:
        forget_space()
        fit_step(step, rows, keys, names)
        _FITTED[key] = {name: value for name, value in vars(step).items() if name.endswith("_")}
    vars(step).update(_FITTED[key])


def aligned_fold(
    alignment: Alignment | None, table: pd.DataFrame, split: Split
) -> AlignedFold | None:
    """Return the alignment data as a fold may use them; None without alignment."""
    if alignment is None:
        return None
    if alignment.protocol == "calibration_blocks":
        usable = np.zeros(len(table), dtype=bool)
        usable[np.concatenate([split.train, split.calibrate])] = True
    else:
        usable = alignment.usable(table, split.test)
    return AlignedFold(alignment, table, split.test, usable)


def whole_alignment(alignment: Alignment | None, table: pd.DataFrame) -> AlignedFold | None:
    """Return all alignment data, for a decoder of the whole sample that is not scored."""
    if alignment is None:
        return None
    everything = np.ones(len(alignment.X), dtype=bool)
    return AlignedFold(alignment, table, NOTHING, everything)


def with_calibration(
    splits: Sequence[Split], table: pd.DataFrame, *, run: str | None = None
) -> list[Split]:
    """Turn a part of each fold's test rows into calibration rows, where it has none yet.

    Parameters
    ----------
    splits : sequence of Split
    table : DataFrame
        Sample table.
    run : str, optional
        The run that calibrates; None: each subject's first run in which all its classes occur.

    Raises
    ------
    InputError
        A tested subject has no such run, or no other run that could be tested.
    """
    made = []
    names = table["session"].astype(str) + "|" + table["run"].astype(str)
    for split in splits:
        if split.calibrate.size:
            made.append(split)
            continue
        own = table.iloc[split.test].assign(name_=names.iloc[split.test])
        for subject, part in own.groupby("subject"):
            has = run is None or (part["run"].astype(str) == run).any()
            if part["name_"].nunique() < 2 or not has:
                raise InputError(
                    f"align.protocol = calibration_blocks: sub-{subject}",
                    found=f"the runs {', '.join(sorted(set(part['run'].astype(str))))}",
                    expected=f"run {run} and another one" if run else "two runs or more",
                    remedy="One run calibrates and the others are tested: correct "
                    "align.calibration_run, or leave the subject out (data.exclude).",
                )
        calibrate, test = calibration_part(table, split.test, run=run)
        made.append(Split(split.train, calibrate, test, name=split.name))
    return made


def calibration_part(
    table: pd.DataFrame, rows: np.ndarray, *, run: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide a tested subject's samples into calibration and test.

    The calibration run is `run`, or else the subject's first run in which all of its classes
    occur. With one run it is the first half of its blocks, whatever their classes; a single block
    calibrates and nothing is left to test.

    Returns
    -------
    calibrate, test : ndarray of int
    """
    calibrate, test = [], []
    own = table.iloc[rows]
    for _, part in own.assign(row_=rows).groupby("subject", sort=True):
        names = part["session"].astype(str) + "|" + part["run"].astype(str)
        chosen = _calibration_run(part, names, run)
        if chosen is None:
            blocks = part["block"].astype(str)
            order = list(dict.fromkeys(blocks[part["volume"].sort_values().index]))
            inside = blocks.isin(order[: max(1, len(order) // 2)]).to_numpy()
        else:
            inside = (names == chosen).to_numpy()
        calibrate.append(part["row_"].to_numpy()[inside])
        test.append(part["row_"].to_numpy()[~inside])
    return np.concatenate(calibrate), np.concatenate(test)


def _calibration_run(part: pd.DataFrame, names: pd.Series, run: str | None) -> str | None:
    """Session and run that calibrates a subject; None where there is one run only."""
    if names.nunique() < 2:
        return None
    wanted = names[part["run"].astype(str) == run]
    if not wanted.empty:
        return str(wanted.iloc[0])
    n_classes = part["label"].nunique()
    for name in dict.fromkeys(names):
        if part["label"][names == name].nunique() == n_classes:
            return str(name)
    return str(names.iloc[0])


def connectivity(
    values: np.ndarray, courses: np.ndarray, subjects: np.ndarray, parcels: Sequence[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlate each voxel with the time course of each parcel, subject by subject.

    The mean over the parcels is taken off each voxel: maps subtract the mean of what they are
    fitted on, and that of correlations is no baseline of the signals that are mapped.

    Parameters
    ----------
    values : ndarray of shape (n_rows, n_voxels)
    courses : ndarray of shape (n_rows, n_parcels)
    subjects : ndarray of shape (n_rows,), str
    parcels : sequence of str
        The keys: parcels correspond between subjects.

    Returns
    -------
    rows : ndarray of shape (n_subjects * n_parcels, n_voxels), float32
        Pearson correlations (0 for voxels and parcels that do not vary) less their mean.
    keys, names : ndarray of str
        Parcel and subject of each row.
    """
    found, whose = [], np.unique(subjects)
    for subject in whose:
        own = subjects == subject
        left, right = standardised(courses[own]), standardised(values[own])
        alike = left.T @ right / own.sum()
        found.append((alike - alike.mean(axis=0)).astype(np.float32))
    keys = np.tile(np.asarray(parcels, dtype=str), len(whose))
    return np.concatenate(found), keys, np.repeat(whose, len(parcels))

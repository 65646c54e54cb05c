"""Splits: which samples a fold trains on, may adapt to, and is tested on."""

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.evaluate.design import Codes, Design, read_design
from emodecode.evaluate.fold import (
    NOTHING,
    Split,
    checked,
    deal,
    need,
    purged,
    read_splits,
    splits_from_json,
)
from emodecode.evaluate.inner import inner_splits
from emodecode.evaluate.stimuli import is_locked, is_stimulus_locked, stimulus_groups

__all__ = [
    "Split",
    "choose_splits",
    "group_k_fold",
    "inner_splits",
    "is_stimulus_locked",
    "leave_one_subject_out",
    "leave_run_out",
    "leave_stimulus_out",
    "read_splits",
    "shuffled",
    "splits_from_json",
    "subject_by_stimulus",
]


NEIGHBOURS_S = 30.0
"""Volumes of a run within so many seconds are neighbours, whatever gap a study asks for."""


def leave_one_subject_out(table: pd.DataFrame) -> list[Split]:
    """Test each subject on a decoder of all the others.

    For stimuli that all subjects saw at the same time this still decodes the scene: see
    `subject_by_stimulus`.

    Raises
    ------
    InputError
        Fewer than two subjects, or a class that a fold cannot learn.
    """
    design = read_design(table)
    need(design.subject, 2, "subject", 'split = "leave_run_out"')
    subject = design.subject
    splits = [
        Split(*_outside(subject, code), name=f"sub-{name}")
        for code, name in enumerate(subject.names)
    ]
    return checked(splits, design)


def leave_run_out(table: pd.DataFrame, *, gap_s: float | None = None) -> list[Split]:
    """Test one run (of all subjects) on a decoder of the other runs (of all subjects).

    Parameters
    ----------
    table : DataFrame
        Sample table.
    gap_s : float, optional
        Training samples whose stimulus moment is within so many seconds of a test sample's are
        left out (runs of a film may overlap). None: the plain split, nothing is left out.

    Raises
    ------
    InputError
        Fewer than two runs, or a class that a fold cannot learn.
    """
    design = read_design(table)
    need(design.run, 2, "run", 'split = "leave_one_subject_out"')
    splits = []
    for code, name in enumerate(design.run.names):
        train, _, test = _outside(design.run, code)
        if gap_s is not None:
            train = purged(train, test, gap_s, design.stimulus_axis())
        splits.append(Split(train, NOTHING, test, name=name))
    return checked(splits, design)


def leave_stimulus_out(
    table: pd.DataFrame, *, groups: str = "auto", n_segments: int = 4, gap_s: float = 30.0
) -> list[Split]:
    """Test one group of stimuli (of all subjects) on a decoder of the others.

    Training samples within `gap_s` seconds of a test sample, in the stimulus or in the same run,
    are left out. See `emodecode.evaluate.stimuli.stimulus_groups` for the groups.

    Raises
    ------
    InputError
        Fewer than two groups, or a class that a fold cannot learn.
    """
    design = read_design(table)
    made = stimulus_groups(design, groups=groups, n_segments=n_segments)
    axes = design.stimulus_axis(), design.scan_axis()
    splits = []
    for code, name in enumerate(made.names):
        train, _, test = _outside(made, code)
        splits.append(Split(purged(train, test, gap_s, *axes), NOTHING, test, name=name))
    return checked(splits, design)


def subject_by_stimulus(
    table: pd.DataFrame,
    *,
    groups: str = "auto",
    n_segments: int = 4,
    gap_s: float = 30.0,
    subject_folds: int | None = None,
    seed: int = 0,
) -> list[Split]:
    """Hold out a subject and a group of stimuli at once (double hold-out).

    Test: one subject in one group. Train: the other subjects outside that group, without any
    sample whose stimulus moment is within `gap_s` seconds of a test sample's; so the copies of a
    moment in two overlapping runs never lie on two sides. Calibrate: the same subject's samples
    outside the group, without those within `gap_s` of a test sample in the stimulus, or within 30 s
    (or `gap_s`, if more) in the run.

    Parameters
    ----------
    table : DataFrame
        Sample table.
    groups : {"auto", "run", "stimulus", "segments"}
        See `emodecode.evaluate.stimuli.stimulus_groups`.
    n_segments : int, default 4
        Number of groups where these are segments.
    gap_s : float, default 30
        Purged seconds; the response to a moment lasts 15 to 20 s.
    subject_folds : int, optional
        Deal the subjects to so many parts and hold a part out at once, for decoders that take long
        to train; None: one subject at a time.
    seed : int
        Of that deal.

    Raises
    ------
    InputError
        Fewer than two subjects (or parts of them) or groups, or a class that a fold cannot learn.
    """
    design = read_design(table)
    need(design.subject, max(2, subject_folds or 0), "subject", 'split = "leave_stimulus_out"')
    held_out = _subject_parts(design, subject_folds, seed)
    made = stimulus_groups(design, groups=groups, n_segments=n_segments)
    moments, onsets = design.stimulus_axis(), design.scan_axis()
    splits = []
    for part, name in enumerate(held_out.names):
        own = held_out.mask(part)
        for group, group_name in enumerate(made.names):
            inside = made.mask(group)
            test = np.flatnonzero(own & inside)
            if not test.size:
                continue
            rest = purged(np.flatnonzero(~inside), test, gap_s, moments)
            train, calibrate = rest[~own[rest]], rest[own[rest]]
            calibrate = purged(calibrate, test, max(gap_s, NEIGHBOURS_S), onsets)
            splits.append(Split(train, calibrate, test, name=f"{name} {group_name}"))
    return checked(splits, design)


def _subject_parts(design: Design, n_parts: int | None, seed: int) -> Codes:
    """Each subject alone, or parts that subjects are dealt to."""
    if n_parts is None:
        return Codes(design.subject.code, [f"sub-{name}" for name in design.subject.names])
    code = deal(design.subject.code, design.label.code, n_parts, seed)
    return Codes(code, [f"group-{number + 1}" for number in range(n_parts)])


def group_k_fold(table: pd.DataFrame, *, n_folds: int, seed: int) -> list[Split]:
    """Deal the subjects to `n_folds` folds, every label in each as far as possible.

    Raises
    ------
    InputError
        Fewer subjects than folds, or a class that a fold cannot learn.
    """
    design = read_design(table)
    need(design.subject, n_folds, "subject", "a smaller evaluate.n_folds")
    fold = deal(design.subject.code, design.label.code, n_folds, seed)
    made = Codes(fold, [f"group-{number + 1}" for number in range(fold.max() + 1)])
    splits = [Split(*_outside(made, code), name=name) for code, name in enumerate(made.names)]
    return checked(splits, design)


def shuffled(
    table: pd.DataFrame, *, test_share: float = 0.2, n_repeats: int = 1, seed: int = 0
) -> list[Split]:
    """Shuffle the samples, stratified by label, as both papers did: **leaks, for comparison only**.

    The same rows as ``sklearn.model_selection.train_test_split(stratify=y, random_state=seed)``
    gives. Test samples lie within seconds of training samples (spec S1.10); the audit says so.

    References
    ----------
    S1, 80/20 split over subject x volume; S2 experiment B.
    """
    from sklearn.model_selection import StratifiedShuffleSplit

    design = read_design(table)
    splitter = StratifiedShuffleSplit(n_splits=n_repeats, test_size=test_share, random_state=seed)
    try:
        parts = list(splitter.split(np.zeros(design.n), design.label.code))
    except ValueError as error:
        raise InputError(
            "shuffled split",
            found=f"{design.n} samples of {len(design.label.names)} classes cannot be stratified "
            f"({error})",
            expected="at least two samples of every class and one of each on both sides",
            remedy="Drop rare classes (labels.min_count) or change evaluate.test_share.",
        ) from error
    splits = [
        Split(np.sort(train), NOTHING, np.sort(test), name=f"shuffle-{number + 1}")
        for number, (train, test) in enumerate(parts)
    ]
    return checked(splits, design)


def choose_splits(
    table: pd.DataFrame,
    *,
    split: str = "auto",
    groups: str = "auto",
    n_segments: int = 4,
    n_folds: int = 5,
    subject_folds: int | None = None,
    test_share: float = 0.2,
    gap_s: float = 30.0,
    seed: int = 0,
) -> tuple[list[Split], str, str]:
    """Make the folds that a study asks for.

    ``auto`` is the double hold-out where several subjects saw the same moments of a stimulus,
    leave-one-subject-out otherwise, and leave-run-out for one subject.

    Returns
    -------
    splits : list of Split
    name : str
        The split that was taken.
    sentence : str
        What it does and why, for the report.

    Raises
    ------
    InputError
        An unknown split, one class, one subject with one run, or folds that cannot be made.
    """
    why, design = "", read_design(table)
    _need_two_classes(design)
    if split == "auto":
        split, why = _best_split(design)
    stimuli = {"groups": groups, "n_segments": n_segments, "gap_s": gap_s}
    if split == "leave_one_subject_out":
        splits = leave_one_subject_out(table)
        what = "each subject is tested on a decoder of all the others"
    elif split == "leave_run_out":
        splits = leave_run_out(table, gap_s=gap_s)
        what = "each run is tested on a decoder of the other runs, of the same subjects"
    elif split == "leave_stimulus_out":
        splits = leave_stimulus_out(table, **stimuli)  # type: ignore[arg-type]
        what = (
            "each part of the stimulus is tested on a decoder of the others, of the same subjects, "
            f"at least {gap_s:g} s away"
        )
    elif split == "subject_by_stimulus":
        splits = subject_by_stimulus(
            table,
            **stimuli,  # type: ignore[arg-type]
            subject_folds=subject_folds,
            seed=seed,
        )
        who = "each subject is" if subject_folds is None else "groups of subjects are"
        what = (
            f"{who} tested on a part of the stimulus with a decoder of the other subjects "
            f"in the other parts, at least {gap_s:g} s away"
        )
    elif split == "group_k_fold":
        splits = group_k_fold(table, n_folds=n_folds, seed=seed)
        what = "groups of subjects are tested on a decoder of all the others"
    elif split == "shuffled":
        splits = shuffled(table, test_share=test_share, seed=seed)
        what = "samples were shuffled over subjects and time, as the papers did: not a fair test"
    else:
        raise InputError(
            "evaluate.split",
            found=f"split = {split!r}",
            expected="auto, leave_one_subject_out, leave_run_out, leave_stimulus_out, "
            "subject_by_stimulus, group_k_fold or shuffled",
            remedy="Correct it there.",
        )
    folds = "1 fold" if len(splits) == 1 else f"{len(splits)} folds"
    sentence = f"Split {split} ({folds}): {what}."
    return splits, split, f"{sentence} {why}".strip()


def _need_two_classes(design: Design) -> None:
    if len(design.label.names) < 2:
        raise InputError(
            "labels",
            found=f"one class only: all {design.n} samples are {design.label.names[0]!r}",
            expected="two classes or more to tell apart",
            remedy="Check labels.keep, labels.merge and labels.min_count, and what was labelled.",
        )


def _best_split(design: Design) -> tuple[str, str]:
    n_subjects, n_runs = len(design.subject.names), len(design.run.names)
    if n_subjects == 1:
        if n_runs == 1:
            raise InputError(
                "sample table",
                found=f"one subject with one run ({design.scan.names[0] or 'unnamed'})",
                expected="several subjects, or several runs of one",
                remedy="Add subjects or runs; within one run, training and test would be "
                "neighbours in time.",
            )
        caution = "Caution: there is one subject, so this says nothing about other people."
        return "leave_run_out", caution
    if is_locked(design):
        why = "Chosen because several subjects saw the same moments: leaving out subjects alone "
        return "subject_by_stimulus", why + "would decode the scene."
    why = "Chosen because no moment of a stimulus is shared between subjects."
    return "leave_one_subject_out", why


def _outside(codes: Codes, code: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    inside = codes.mask(code)
    return np.flatnonzero(~inside), NOTHING, np.flatnonzero(inside)

"""Rules of the audit: what each one looks for, what it costs, and the way out.

The ids follow the traps of fMRI decoding that the project documents (T1 to T22). Sizes quoted as
danger were measured on data without any label information.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from emodecode.evaluate.design import TOLERANCE_S, Axis, Design
from emodecode.evaluate.duplicates import Duplicates
from emodecode.evaluate.fold import Split

LEAK, CAUTION, NOTE, CLEAN = "leak", "caution", "note", "clean"


@dataclass(frozen=True)
class Finding:
    """One way by which test data reach, or may reach, the training.

    Parameters
    ----------
    rule : str
        Id (``"T5"``) of the trap.
    title : str
        What was found.
    n_samples : int
        Test samples concerned, over all folds.
    share : float
        Of all test samples of all folds.
    worst : str
        The worst case by name.
    danger, remedy : str
        What it may do to the score, and the way out.
    verdict : {"leak", "caution", "note"}
        Notes do not touch the verdict of the audit.
    """

    rule: str
    title: str
    n_samples: int
    share: float
    worst: str
    danger: str
    remedy: str
    verdict: str


class Rule(NamedTuple):
    """What a finding of one kind says."""

    title: str
    verdict: str
    danger: str
    remedy: str


_WHOLE_SUBJECTS = 'Hold out whole subjects: split = "leave_one_subject_out".'
_BOTH = (
    'Hold out the stimulus as well as the subject: split = "subject_by_stimulus" '
    "(evaluate.gap_s = 30)."
)
_PURGE = (
    'Hold out whole runs or subjects (split = "auto" chooses), or keep a gap: evaluate.gap_s = 30.'
)

RULES = {
    "T1-row": Rule(
        "Test samples that are themselves in training",
        LEAK,
        "The decoder has seen the answer: any score up to 1 is possible.",
        "Make train and test disjoint in every fold.",
    ),
    "T1-dup": Rule(
        "Test samples with an identical array in training",
        LEAK,
        "A copy under another row, run or subject gives the answer away.",
        "Find out why the arrays are identical (a file copied under another name, oversampling "
        "before the split) and keep one of them.",
    ),
    "T1-copy": Rule(
        "Test samples whose nearly identical copy under another name is in training",
        LEAK,
        "A scan that was copied, shifted in time or rescaled gives the answers away.",
        "Find out which of the two scans is the copy and drop it.",
    ),
    "T1": Rule(
        "Training samples of the same run close in time",
        LEAK,
        "Neighbouring volumes are nearly equal: with shuffled volumes, data without any "
        "information score .63 to .93 where chance is .20.",
        _PURGE,
    ),
    "T1-calibrate": Rule(
        "Calibration samples of the same run close to test samples",
        LEAK,
        "Labelled neighbours of the test volumes reach the decoder through its adaptation.",
        "Calibrate on another run, or at least 30 s away from the test samples.",
    ),
    "T1-calibrate-row": Rule(
        "Test samples that are also calibration samples",
        LEAK,
        "The decoder is adapted on the very samples that score it.",
        "Calibrate on a run that is not tested.",
    ),
    "T1-run": Rule(
        "Training samples of the same run, farther away or at unknown times",
        CAUTION,
        "Slow drifts and whatever differs between runs are shared by both sides.",
        'Hold out whole runs or subjects: split = "leave_run_out" or "leave_one_subject_out".',
    ),
    "T4": Rule(
        "The tested subject is also in training",
        CAUTION,
        "The score says how well this person's emotions are decoded after scanning this very "
        "person, nothing about new people.",
        _WHOLE_SUBJECTS + " Otherwise claim decoding within subjects only.",
    ),
    "T5": Rule(
        "The same moment of the stimulus is in training",
        LEAK,
        "The scene is recognised instead of the emotion: with labels drawn at random for each "
        "scene, leaving out subjects alone scores .49 where chance is .20.",
        _BOTH,
    ),
    "T5-calibrate": Rule(
        "The same moment of the stimulus is in calibration",
        LEAK,
        "The adaptation sees the labelled scene that is tested.",
        _BOTH,
    ),
    "T5-near": Rule(
        "Training samples a few seconds away in the stimulus",
        CAUTION,
        "The response to a moment lasts 15 to 20 s, so the same scene is still on both sides.",
        _PURGE,
    ),
    "T5-name": Rule(
        "A stimulus of the same name is in training, times unknown",
        CAUTION,
        "If it is the same picture or clip, it may be recognised instead of the emotion.",
        'Fill stimulus_time_s, or hold out stimuli: split = "subject_by_stimulus", '
        'stimulus_groups = "stimulus".',
    ),
    "T5b": Rule(
        "Labels come at the same times in all subjects",
        CAUTION,
        "Time alone predicts the label: drifts, fatigue and everything else that follows the clock "
        "can be decoded instead of the emotion.",
        "Test across runs with another order, or report it; new data should have an order drawn "
        "anew for each subject.",
    ),
    "T8": Rule(
        "The labels fit the data better at another lag",
        CAUTION,
        "Volumes are taken seconds before or after the response to what they are labelled with; "
        "scores get lower, or what is decoded is not the labelled moment.",
        "Set labels.lag_s to the haemodynamic delay (about 5 s), check that onsets count from the "
        "first volume of the file, and never roll labels across runs.",
    ),
    "T9": Rule(
        "The clock of the volumes needs a look",
        NOTE,
        "Slice timing and removed volumes move every onset by up to a few seconds.",
        "Compare the onsets with the first volume of the file and with the slice that slice timing "
        "refers to.",
    ),
    "T19": Rule(
        "Labels of this design can be exchanged in too few ways",
        CAUTION,
        "No permutation test of these data can reach p = .05, whatever the decoder.",
        "Add subjects, runs or blocks; make no claim of significance.",
    ),
    "T10": Rule(
        "Classes of unequal size among the test samples",
        NOTE,
        "Plain accuracy rewards guessing the largest class; balanced accuracy, macro AUC and the "
        "permutation chance do not.",
        "Read balanced accuracy.",
    ),
    "T10-dup": Rule(
        "The same test sample counts several times",
        CAUTION,
        "Oversampled test data make intervals and curves too narrow.",
        "Resample only the training samples.",
    ),
}


SURE_P = 1e-3
"""Corrected p up to which a control above chance is a leak, above it a caution."""

CONTROL_ADVICE = {
    "T2": (
        "The same pipeline finds labels in data that have none: a step before or inside the folds "
        "uses test samples.",
        "Fit every step inside the folds, on training samples only.",
    ),
    "T3": (
        "A surrogate of the tested subject is decoded: something of the test samples, or of their "
        "order, reaches the training.",
        "Fit alignment and selection without the tested subject's test runs.",
    ),
    "T5": (
        "The labels are predicted by time or scene alone; a decoder may do the same.",
        _BOTH + " Where it is the clock of the run: orders of blocks drawn for each subject.",
    ),
    "T13": (
        "Motion, global signal or time in the run alone predict the labels; a decoder of the brain "
        "may do the same.",
        "Regress the confounds out of the data within runs (data.confounds), or balance the "
        "design; claim only what the brain adds to them.",
    ),
}
"""Danger and way out of each rule's negative control that is not at chance."""


class Hit(NamedTuple):
    """Test samples of one fold that break one rule; the smaller `seconds`, the worse."""

    rule: str
    rows: np.ndarray
    neighbour: np.ndarray
    seconds: np.ndarray


class Lookup(NamedTuple):
    """What every fold is checked against."""

    design: Design
    runs: Axis
    stimuli: Axis
    gap_s: float
    tolerance_s: float
    duplicates: Duplicates | None


def fold_hits(lookup: Lookup, split: Split) -> Iterator[Hit]:
    """Check one fold against all rules about where its test samples come from."""
    design, test = lookup.design, split.test
    train = np.zeros(design.n, dtype=bool)
    train[split.train] = True
    itself = train[test]
    yield _hit("T1-row", test, itself, test)
    yield from _repeats(lookup, test)
    known = train.copy()
    known[split.calibrate] = True
    yield from _duplicates(lookup, test[~known[test]], known)

    seconds, neighbour = lookup.runs.nearest(test, train)
    near = seconds <= lookup.gap_s + TOLERANCE_S
    yield _hit("T1", test, near & ~itself, neighbour, seconds)
    same_run, run_mate = _same(design.scan.code, test, train)
    yield _hit("T1-run", test, same_run & ~near & ~itself, run_mate, seconds)
    same_subject, mate = _same(design.subject.code, test, train)
    # together with neighbours, or where a shared run's times are unknown, T4 is a leak
    blind = same_run & ~lookup.runs.known[test]
    yield _hit("T4", test, same_subject, mate)
    yield _hit("T4-leak", test, same_subject & (near | itself | blind), mate)

    seconds, neighbour = lookup.stimuli.nearest(test, train)
    shared = seconds <= lookup.tolerance_s + TOLERANCE_S
    yield _hit("T5", test, shared & ~itself, neighbour, seconds)
    close = (seconds <= lookup.gap_s + TOLERANCE_S) & ~shared
    yield _hit("T5-near", test, close, neighbour, seconds)
    unknown = ~lookup.stimuli.known
    named, namesake = _same(design.stimulus.code, test, train & unknown)
    yield _hit("T5-name", test, named & unknown[test] & (design.stimulus.code[test] >= 0), namesake)
    yield from _calibration(lookup, split)


def _calibration(lookup: Lookup, split: Split) -> Iterator[Hit]:
    if not split.calibrate.size:
        return
    test = split.test
    seen = np.zeros(lookup.design.n, dtype=bool)
    seen[split.calibrate] = True
    itself = seen[test]
    yield _hit("T1-calibrate-row", test, itself, test)
    seconds, neighbour = lookup.runs.nearest(test, seen)
    near = seconds <= lookup.gap_s + TOLERANCE_S
    yield _hit("T1-calibrate", test, near & ~itself, neighbour, seconds)
    seconds, neighbour = lookup.stimuli.nearest(test, seen)
    shared = seconds <= lookup.tolerance_s + TOLERANCE_S
    yield _hit("T5-calibrate", test, shared & ~itself, neighbour, seconds)


def _duplicates(lookup: Lookup, rows: np.ndarray, train: np.ndarray) -> Iterator[Hit]:
    if lookup.duplicates is None:
        return
    code = lookup.duplicates.code
    doubtful, copied = rows[code[rows] >= 0], np.empty(0, dtype=bool)
    if doubtful.size:
        copied, twin = _same(code, doubtful, train)
        yield _hit("T1-dup", doubtful, copied, twin)
    rest = np.setdiff1d(rows, doubtful[copied])
    row, twin = lookup.duplicates.copies.T
    there = np.isin(row, rest) & train[twin]
    similar, first = np.unique(row[there], return_index=True)
    yield _hit("T1-copy", similar, np.ones(len(similar), dtype=bool), twin[there][first])


def _repeats(lookup: Lookup, test: np.ndarray) -> Iterator[Hit]:
    again = _later_copies(test)
    if lookup.duplicates is not None:
        array = lookup.duplicates.code[test]
        own = lookup.design.subject.code[test]
        marked = np.where(array >= 0, array * (own.max() + 1) + own, -1 - np.arange(len(test)))
        again |= _later_copies(marked)
    yield _hit("T10-dup", test, again, test)


def _later_copies(values: np.ndarray) -> np.ndarray:
    later = np.ones(len(values), dtype=bool)
    later[np.unique(values, return_index=True)[1]] = False
    return later


def _same(code: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell which rows share their code with a target, and with which one."""
    first = np.full(code.max() + 2, -1, dtype=np.int64)
    there = np.flatnonzero(targets & (code >= 0))
    first[code[there]] = there
    partner = first[code[rows]]
    return partner >= 0, partner


def _hit(
    rule: str,
    test: np.ndarray,
    affected: np.ndarray,
    neighbour: np.ndarray,
    seconds: np.ndarray | None = None,
) -> Hit:
    away = np.zeros(len(test)) if seconds is None else seconds
    return Hit(rule, test[affected], neighbour[affected], away[affected])


class ClockScore(NamedTuple):
    """How often time alone gives the label, and how often it would by accident."""

    agreement: float
    expected: float
    n_samples: int
    key: str


def time_only(design: Design, splits: list[Split]) -> ClockScore | None:
    """Score a decoder that knows the time of a sample and the training labels at that time.

    For each test sample: the share of training samples at the same onset (in the runs of that
    name; or in any run) that carry its label, against the share expected from the class sizes.

    Returns
    -------
    ClockScore or None
        None unless the agreement exceeds the expected one by more than three standard errors,
        counting label episodes, and by more than a tenth of what is possible.
    """
    known = np.isfinite(design.onset_s)
    if not known.any():
        return None
    clock = np.zeros(design.n, dtype=np.int64)
    clock[known] = np.round(design.onset_s[known] / design.tolerance_s).astype(np.int64)
    clock -= clock.min()
    in_run = design.run.code * (clock.max() + 1) + clock
    starts = _episode_starts(design, clock)
    found = []
    for key, where, independent, times in (
        (in_run, "in the run of that name", design.scan.code, 1),
        # a coincidence between two runs is met twice: each of them is tested on the other
        (clock, "in any run", design.run.code * len(design.label.names) + design.label.code, 2),
    ):
        compact = np.unique(key, return_inverse=True)[1]
        score = _clock_score(design, splits, compact, known, independent, starts, times)
        if score is not None:
            found.append(ClockScore(*score, where))
    return max(found, key=lambda score: score.agreement - score.expected, default=None)


def _clock_score(
    design: Design,
    splits: list[Split],
    key: np.ndarray,
    known: np.ndarray,
    independent: np.ndarray,
    starts: np.ndarray,
    times: int,
) -> tuple[float, float, int] | None:
    n_classes, label = len(design.label.names), design.label.code
    agreement = expected = 0.0
    n_samples, used = 0, np.zeros(design.n, dtype=bool)
    for split in splits:
        train, test = split.train[known[split.train]], split.test[known[split.test]]
        cells = np.bincount(
            key[train] * n_classes + label[train], minlength=(key.max() + 1) * n_classes
        )
        counts = cells.reshape(-1, n_classes)
        total = counts.sum(axis=1)[key[test]]
        test, total = test[total > 0], total[total > 0]
        prior = counts.sum(axis=0) / max(1, len(train))
        agreement += float((counts[key[test], label[test]] / total).sum())
        expected += float(prior[label[test]].sum())
        n_samples += len(test)
        used[test] = True
    if not n_samples:
        return None
    agreement, expected = agreement / n_samples, expected / n_samples
    pairs = np.stack([independent[used], starts[used]], axis=1)
    error = np.sqrt(expected * (1 - expected) * times / len(np.unique(pairs, axis=0)))
    excess = agreement - expected
    if excess <= 3 * error or excess <= 0.1 * (1 - expected):
        return None
    return agreement, expected, n_samples


def _episode_starts(design: Design, clock: np.ndarray) -> np.ndarray:
    """Clock at the beginning of the stretch of equal labels that each sample is in."""
    order = np.lexsort((clock, design.scan.code))
    scan, label = design.scan.code[order], design.label.code[order]
    new = np.ones(design.n, dtype=bool)
    new[1:] = (np.diff(scan) != 0) | (np.diff(label) != 0)
    first = np.maximum.accumulate(np.where(new, np.arange(design.n), 0))
    starts = np.empty(design.n, dtype=np.int64)
    starts[order] = clock[order][first]
    return starts

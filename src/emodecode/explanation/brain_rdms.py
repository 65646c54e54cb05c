"""Dissimilarities of the classes in each subject's brain: crossnobis, and 1 - r."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.explain.crossnobis import crossnobis_rdm
from emodecode.explain.noise import ShrunkNoise, cell_residuals, estimate_noise
from emodecode.explain.rdm import correlation_rdm
from emodecode.explanation.geometry import reason_of
from emodecode.samples import Samples

MOST_VALUES = 100_000_000
"""Values (samples x voxels) of one subject that enter a crossnobis distance, at most."""
_CHUNK, _MOST_PARTS, _GAP_S = 64, 10, 15.0
_CROSSED, _PLAIN = "brain (crossnobis)", "brain (1 - r)"
_CANCEL = 0.1
"""A mean over the classes is about zero up to this share of the square of unrelated patterns'."""


@dataclass(frozen=True, eq=False)
class Brain:
    """RDMs (n_subjects, n_classes, n_classes) of brains by one distance, and their mean."""

    name: str
    distance: str
    mean: np.ndarray = field(repr=False)
    sentence: str
    rdms: np.ndarray = field(repr=False)
    subjects: tuple[str, ...] = ()


def brain_rdms(samples: Samples, classes: Sequence[str], *, notes: list[str]) -> list[Brain]:
    """Return the subjects' RDMs by crossnobis and by 1 - r; `notes` say what is left out."""
    label, subject = samples.y, samples.subjects
    names = [who for who in np.unique(subject) if set(label[subject == who]) == set(classes)]
    missing = sorted(set(subject) - set(names))
    if missing:
        notes.append(f"Left out, for want of some class: {', '.join(missing)}.")
    crossed = _crossnobis(samples, classes, names, notes)
    rows = {str(who): np.flatnonzero(subject == who) for who in names}
    plain, cancel = _correlations(samples, rows, notes)
    found = [] if crossed is None else [crossed]
    if plain:
        text = (
            "1 - r between the mean patterns of two classes, noise included: equal classes are not "
            f"at 0. Mean of {len(plain)} subjects."
        )
        if cancel:
            text += f" Each subject's {_say_cancelling(len(classes))}"
        rdms = np.stack(list(plain.values()))
        found.append(Brain(_PLAIN, "1 - r", rdms.mean(axis=0), text, rdms, tuple(plain)))
    return found


def pooled_rdms(samples: Samples, classes: Sequence[str], *, notes: list[str]) -> list[Brain]:
    """Return S1's RDM, of all subjects' samples together; `notes` say why there is none."""
    text = (
        f"As published: one mean pattern a class over all {len(set(samples.subjects))} subjects "
        f"and all {samples.n_voxels} voxels, 1 - r. It says nothing of other subjects."
    )
    found, cancel = _correlations(samples, {"all": np.arange(samples.n_samples)}, notes)
    if cancel:
        text += f" The {_say_cancelling(len(classes))}"
    return [Brain(_PLAIN, "1 - r", rdm, text, rdm[None], ("all",)) for rdm in found.values()]


def class_means(X: np.ndarray, label: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return mean patterns (n_classes, n_voxels) of some rows, float64; few are read at once."""
    names, code = np.unique(label[rows], return_inverse=True)
    weights = (code == np.arange(len(names))[:, None]) / np.bincount(code)[:, None]
    means = np.zeros((len(names), X.shape[1]))
    for at in range(0, len(rows), _CHUNK):
        means += weights[:, at : at + _CHUNK] @ X[rows[at : at + _CHUNK]].astype(np.float64)
    return means


def partitions(table: pd.DataFrame, classes: Sequence[str]) -> tuple[np.ndarray, str] | None:
    """Divide the samples of one subject into parts of independent noise with all classes in each.

    As many groups of successive runs as hold every class twice; else two groups of runs that hold
    it once; else the samples before and after a moment, those within 15 s of it left out. Of
    several the division whose rarest class is the largest. Rows without time: up to ten groups of
    each class's rows, in their order.

    Returns
    -------
    part : ndarray of int, shape (n_samples,)
        -1: in none.
    how : str
        What the parts are, for a sentence.
    """
    codes = np.searchsorted(list(classes), table["label"].to_numpy(dtype=str))
    keys = table[["session", "run"]].astype(str).agg("|".join, axis=1)
    run = pd.factorize(keys)[0]
    timed = bool(table["onset_s"].notna().all())
    group, n_groups = _groups_of_runs(_counts(run, codes, len(classes)), least=2 if timed else 1)
    if n_groups >= 2:
        return group[run], "runs" if n_groups == len(group) else "groups of successive runs"
    if timed:
        return _two_parts(table["onset_s"].to_numpy(dtype=float), run, codes, len(classes))
    sizes = np.bincount(codes, minlength=len(classes))
    n_parts = min(int(sizes.min()), _MOST_PARTS)
    nth = pd.Series(codes).groupby(codes).cumcount().to_numpy()
    how = "successive rows of each class, which are taken for independent"
    return (nth * n_parts // sizes[codes], how) if n_parts >= 2 else None


def _correlations(
    samples: Samples, rows: Mapping[str, np.ndarray], notes: list[str]
) -> tuple[dict[str, np.ndarray], bool]:
    """1 - r of the rows of each name, and whether every mean over the classes is about zero."""
    cancel = []

    def ask(who: str) -> np.ndarray:
        means = class_means(samples.X, samples.y, rows[who])
        rdm = correlation_rdm(means)
        cancel.append(_cancels(means))
        return rdm

    found = _each(ask, list(rows), notes, "1 - r")
    return found, bool(cancel) and all(cancel)


def _cancels(means: np.ndarray) -> bool:
    """Whether patterns are about zero on average, each without its own mean over the voxels.

    n unrelated patterns have a mean whose square is 1/n of theirs; with one of zero the average
    of 1 - r is n/(n-1), where patterns are equally strong.
    """
    around = means - means.mean(axis=1, keepdims=True)
    unrelated = (around**2).sum(axis=1).mean() / len(means)
    return bool((around.mean(axis=0) ** 2).sum() <= _CANCEL * unrelated)


def _say_cancelling(n: int) -> str:
    return (
        'mean over the classes is about zero, as after features.centre = "subject": 1 - r of '
        f"patterns of like strength then lies near {n}/{n - 1} = {n / (n - 1):.2f} by construction."
    )


def _counts(
    part: np.ndarray, codes: np.ndarray, n_classes: int, *, n_parts: int | None = None
) -> np.ndarray:
    """Samples of each part and class, (n_parts, n_classes)."""
    n_parts = int(part.max()) + 1 if n_parts is None else n_parts
    found = np.bincount(part * n_classes + codes, minlength=n_parts * n_classes)
    return found.reshape(n_parts, n_classes)


def _groups_of_runs(counts: np.ndarray, *, least: int) -> tuple[np.ndarray, int]:
    """Group of each run: a group ends when it holds every class; what is left joins the last."""
    group, held, number = np.zeros(len(counts), dtype=int), np.zeros(counts.shape[1]), 0
    for run, own in enumerate(counts):
        group[run], held = number, held + own
        if held.min() >= least:
            number, held = number + 1, np.zeros_like(held)
    return np.minimum(group, max(number - 1, 0)), number


def _two_parts(
    onset: np.ndarray, run: np.ndarray, codes: np.ndarray, n_classes: int
) -> tuple[np.ndarray, str] | None:
    between = [(run >= border).astype(int) for border in range(1, int(run.max()) + 1)]
    within = []
    for at in np.lexsort((onset, run))[1:]:
        later = (run > run[at]) | ((run == run[at]) & (onset >= onset[at]))
        near = (run == run[at]) & (np.abs(onset - onset[at]) < _GAP_S)
        within.append(np.where(near, -1, later.astype(int)))
    for sides, how in ((between, "two groups of runs"), (within, "two parts of the time")):
        counts = [_counts(s[s >= 0], codes[s >= 0], n_classes, n_parts=2) for s in sides]
        # the rarest class first, then the smaller side
        worth = [each.min() + each.sum(axis=1).min() / (len(codes) + 1) for each in counts]
        if worth and max(worth) >= 1:
            return sides[int(np.argmax(worth))], how
    return None


def _crossnobis(
    samples: Samples, classes: Sequence[str], names: Sequence[str], notes: list[str]
) -> Brain | None:
    """Crossnobis RDMs of all subjects whose samples can be divided."""
    ways, thinned, whitened = set(), 0, set()

    def ask(who: str) -> np.ndarray:
        nonlocal thinned
        rows = np.flatnonzero(samples.subjects == who)
        found = partitions(samples.table.iloc[rows], classes)
        if found is None:
            raise InputError(
                f"subject {who}",
                found="no two independent parts with all classes",
                expected="two runs, or halves, with all classes",
                remedy="Use fewer classes, or 1 - r.",
            )
        part, how = found
        rows, part = rows[part >= 0], part[part >= 0]
        kept = _thin(samples.y[rows], part, MOST_VALUES // samples.n_voxels)
        thinned += len(kept) < len(rows)
        rows, part = rows[kept], part[kept]
        noise, source = _noise(samples, rows, part, who)
        ways.add(how)
        whitened.add(source)
        return crossnobis_rdm(samples.X[rows], samples.y[rows], part, noise=noise)

    found = _each(ask, names, notes, "crossnobis")
    if not found:
        return None
    text = (
        f"Squared distances a voxel, cross-validated over {' or '.join(sorted(ways))}; "
        f"{' or '.join(sorted(whitened))}. Equal classes are at 0 on average. Mean of {len(found)} "
        "subjects."
    )
    if thinned:
        text += f" Of {thinned} subjects samples were left out evenly, to save memory."
    rdms = np.stack(list(found.values()))
    return Brain(_CROSSED, "crossnobis", rdms.mean(axis=0), text, rdms, tuple(found))


def _thin(label: np.ndarray, part: np.ndarray, most: int) -> np.ndarray:
    """Positions that stay: all, or evenly spaced ones of each class and part."""
    if len(label) <= most:
        return np.arange(len(label))
    cells = pd.Series(np.arange(len(label))).groupby([part, label]).indices.values()
    each = max(2, most // len(cells))
    places = [np.unique(np.linspace(0, len(own) - 1, each).round().astype(int)) for own in cells]
    return np.sort(np.concatenate([own[at] for own, at in zip(cells, places, strict=True)]))


def _noise(samples: Samples, rows: np.ndarray, part: np.ndarray, who: str) -> tuple[Any, str]:
    """What whitens a subject's patterns, and how that is said."""
    cells = np.char.add(samples.y[rows], part.astype(str))
    if len(np.unique(cells)) < len(rows):
        return None, (
            "whitened by the shrunk covariance of the subject's samples around the means of class "
            "and part"
        )
    # one sample a cell: what is left of it would be made of the distances' own differences
    others = np.flatnonzero(samples.subjects != who)
    if len(others) * samples.n_voxels <= MOST_VALUES and len(others) > 2:
        of_whom = np.char.add(np.char.add(samples.subjects[others], "|"), samples.y[others])
        residuals, df = cell_residuals(samples.X[others], of_whom)
        if df >= 1:
            noise: ShrunkNoise = estimate_noise(residuals, df=df)
            return noise, (
                "whitened by the shrunk covariance of the other subjects' samples around their "
                "class means (one sample a class and part of the subject's own)"
            )
    return "identity", "not whitened (one sample a class and part)"


def _each(ask: Any, names: Sequence[str], notes: list[str], what: str) -> dict[str, np.ndarray]:
    """RDM of each subject that has one; why others have none is noted once for each reason."""
    found: dict[str, np.ndarray] = {}
    failed: dict[str, list[str]] = {}
    for who in names:
        try:
            found[str(who)] = ask(who)
        except InputError as error:
            failed.setdefault(reason_of(error), []).append(str(who))
    for reason, whom in failed.items():
        notes.append(f"No {what} for {len(whom)} subjects ({', '.join(whom[:5])}): {reason}")
    return found

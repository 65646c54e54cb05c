"""Fills: what stands in for the values of a unit while it is occluded."""

from collections.abc import Sequence

import numpy as np

from emodecode.errors import InputError

FILLS = ("subject", "conditional", "voxel_mean", "volume_mean", "zero", "noise")
"""Kinds of fill. All but "conditional" are blind to the labels."""


def make_fill(
    kind: str,
    X: np.ndarray,
    *,
    labels: Sequence | None = None,
    subjects: Sequence | None = None,
    reference: np.ndarray | None = None,
    donors: "tuple[np.ndarray, Sequence, Sequence] | None" = None,
    n_draws: int = 4,
    seed: int = 0,
) -> np.ndarray:
    """Return what replaces each sample's values, ``(n_draws, n_samples, n_features)`` float32.

    Parameters
    ----------
    kind : str
        "subject": other volumes of the same subject, `n_draws` of them: what is put there stays
        possible. "conditional": only volumes under other labels. Then the true labelling is
        favoured (the true class stands against the others alone, by a factor of about
        K / (K - 1) of K classes), and drops cannot be tested against exchanged labels.
        "voxel_mean": of each voxel over `reference`.
        "volume_mean": of each volume over its voxels. "zero": 0, which after standardising is the
        mean, and in raw intensities a hole. "noise": normal, with mean and deviation of each voxel
        in `reference`, `n_draws` of them.
    X : ndarray of shape (n_samples, n_features)
    labels, subjects : sequence of length n_samples, optional
        For "conditional"; "subject" needs the subjects.
    reference : ndarray of shape (n_reference, n_features), optional
        The training samples; `X` itself if there are none.
    donors : (ndarray of shape (n_donors, n_features), labels, subjects), optional
        Where these two take volumes from; `X` itself if there are none.
    n_draws : int
    seed : int

    Raises
    ------
    InputError
        Another kind; no labels or subjects where they are needed, or a subject with one label only.
    """
    if kind not in FILLS:
        raise InputError(
            "fill",
            found=repr(kind),
            expected=f"one of {', '.join(FILLS)}",
            remedy="Correct it.",
        )
    rng, given = np.random.default_rng(seed), X if reference is None else reference
    if kind == "zero":
        return np.zeros((1, *X.shape), np.float32)
    if kind == "volume_mean":
        mean = X.mean(axis=1, keepdims=True, dtype=np.float64)
        return np.broadcast_to(mean, X.shape)[None].astype(np.float32)
    if kind == "subject":
        pool = (X, labels, subjects) if donors is None else donors
        rows = _own(subjects, pool, n_draws, rng, len(X))
        return np.stack([np.asarray(pool[0][own], np.float32) for own in rows])
    if kind == "conditional":
        pool = (X, labels, subjects) if donors is None else donors
        rows = _others(labels, subjects, pool, n_draws, rng, len(X))
        return np.stack([np.asarray(pool[0][own], np.float32) for own in rows])
    mean = given.mean(axis=0, dtype=np.float64)
    if kind == "voxel_mean":
        return np.broadcast_to(mean, X.shape)[None].astype(np.float32)
    spread = given.std(axis=0, dtype=np.float64)
    noise = rng.standard_normal((n_draws, *X.shape), dtype=np.float32)
    return noise * spread.astype(np.float32) + mean.astype(np.float32)


def _own(
    subjects: Sequence | None, pool: tuple, n_draws: int, rng: np.random.Generator, n: int
) -> np.ndarray:
    """Rows of the pool of the same subject, (n_draws, n)."""
    if subjects is None or len(subjects) != n:
        raise InputError(
            "fill subject",
            found="no subject of each sample",
            expected=f"{n} of them",
            remedy="Pass subjects, or take another fill (voxel_mean).",
        )
    subject, owner = np.asarray(subjects), np.asarray(pool[2])
    rows = np.empty((n_draws, n), dtype=np.int64)
    for who in np.unique(subject):
        own, here = np.flatnonzero(owner == who), np.flatnonzero(subject == who)
        if not len(own):
            raise InputError(
                f"fill subject: {who}",
                found="no sample to take values from",
                expected="samples of the same subject among the donors",
                remedy="Pass donors of every subject.",
            )
        rows[:, here] = rng.choice(own, (n_draws, len(here)))
    return rows


def _others(
    labels: Sequence | None,
    subjects: Sequence | None,
    pool: tuple,
    n_draws: int,
    rng: np.random.Generator,
    n: int,
) -> np.ndarray:
    """Rows of the pool of the same subject under another label, (n_draws, n)."""
    if labels is None or subjects is None or len(labels) != n or len(subjects) != n:
        raise InputError(
            "fill conditional",
            found="no label and subject of each sample",
            expected=f"{n} of both",
            remedy="Pass labels and subjects, or take another fill (voxel_mean).",
        )
    label, subject = np.asarray(labels), np.asarray(subjects)
    given, owner = np.asarray(pool[1]), np.asarray(pool[2])
    rows = np.empty((n_draws, n), dtype=np.int64)
    for who in np.unique(subject):
        own = np.flatnonzero(subject == who)
        for name in np.unique(label[own]):
            here = own[label[own] == name]
            others = np.flatnonzero((owner == who) & (given != name))
            if not len(others):
                raise InputError(
                    f"fill conditional: {who}",
                    found=f"samples of one label only ({name})",
                    expected="samples under other labels as well, to take values from",
                    remedy="Explain samples of all labels, or take another fill (voxel_mean).",
                )
            rows[:, here] = rng.choice(others, (n_draws, len(here)))
    return rows

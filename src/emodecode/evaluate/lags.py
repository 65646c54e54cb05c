"""Lags: how well the labels fit the data when they are moved in time."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t as student_t

from emodecode.evaluate.design import Design, read_design
from emodecode.evaluate.duplicates import sample_columns

LAGS_VOL = tuple(range(-2, 7))

N_SHIFTS = 99
"""Circular shifts of the labels that say what a fit is by accident."""

FEWEST_SUBJECTS = 5
FAR_VOL = 2
"""A best lag at least so many volumes away from 0 is a finding."""

LARGEST_P, SMALLEST_Z, SMALLEST_Z_COMMON = 1e-3, 4.0, 6.0
"""Evidence for a lag; the larger z where all subjects share one order of labels."""

_FEWEST_ROWS, _FEWEST_CHANGES, _COLUMNS = 30, 10, 2048


class _Labelled(NamedTuple):
    """Volumes whose label is known at all lags, sorted by scan and volume."""

    row: np.ndarray
    subject: np.ndarray
    scan: np.ndarray
    run: np.ndarray
    labels: np.ndarray
    common: bool


def lag_curve(
    X: np.ndarray,
    table: pd.DataFrame,
    *,
    tr_s: float | None,
    lags_vol: Sequence[int] = LAGS_VOL,
    seed: int = 0,
) -> dict[str, Any]:
    r"""Share of variance that the labels explain when moved by k volumes within their run.

    .. math:: \eta^2_k = \frac{\sum_c n_c (\bar{x}_c - \bar{x})^2}{\sum_t (x_t - \bar{x})^2}

    with the classes c that volume t - k is labelled with, x z-scored for each voxel and scan, mean
    over voxels, subject by subject. Only volumes count whose label is known at every lag, so all
    lags are judged on the same volumes: isolated blocks and averaged samples tell nothing.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        At most 2048 evenly spaced columns are read.
    table : DataFrame
        The sample table.
    tr_s : float or None
        Repetition time.
    lags_vol : sequence of int
        Volumes by which the labels are moved later; 0 must be among them.
    seed : int
        Of the circular shifts that tell what a fit is by accident (all subjects of a run are
        shifted together).

    Returns
    -------
    dict
        ``lags_vol lags_s share per_subject n_subjects best_vol best_s p z by_accident flagged``;
        empty where the labels tell nothing. ``p`` is of a paired one-sided t test over subjects of
        the best lag against 0, times the number of lags; ``z`` is where the best lag lies among the
        shifts. ``flagged``: the best lag is at least 2 volumes away from 0, in at least 5 subjects,
        with p < .001 and z > 4 (6 where the subjects share one order of labels: a response to the
        stimulus that fits by accident is then the same in all of them).
    """
    lags = [int(lag) for lag in lags_vol]
    known = _labelled(read_design(table), lags)
    if known is None:
        return {}
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    moved = np.concatenate([known.labels, _shifted(known, lags.index(0), rng)])
    values = sample_columns(X, n_columns=_COLUMNS)[known.row]
    shares = _shares_by_subject(values, known, moved)
    names = read_design(table).subject.names
    found = _describe(shares, [names[code] for code in np.unique(known.subject)], lags, tr_s)
    least = SMALLEST_Z_COMMON if known.common else SMALLEST_Z
    far = abs(found["best_vol"]) >= FAR_VOL and found["n_subjects"] >= FEWEST_SUBJECTS
    return found | {"flagged": bool(far and found["p"] < LARGEST_P and found["z"] > least)}


def _labelled(design: Design, lags: list[int]) -> _Labelled | None:
    if not np.isfinite(design.volume).all() or len(design.label.names) < 2:
        return None
    volume = np.round(design.volume).astype(np.int64)
    volume -= volume.min() - max(map(abs, lags))
    span = volume.max() + 1 + max(map(abs, lags))
    key = design.scan.code * span + volume
    sorted_keys, first = np.unique(key, return_index=True)
    asked = sorted_keys[:, None] - np.array(lags)
    place = np.clip(np.searchsorted(sorted_keys, asked), 0, len(sorted_keys) - 1)
    complete = (sorted_keys[place] == asked).all(axis=1)
    labels = design.label.code[first[place]]
    scan = design.scan.code[first]
    telling = complete & (labels != labels[:, :1]).any(axis=1)
    enough = np.bincount(scan[telling], minlength=len(design.scan.names)) >= _FEWEST_CHANGES
    enough &= np.bincount(scan[complete], minlength=len(enough)) >= _FEWEST_ROWS
    kept = complete & enough[scan]
    row = first[kept]
    if not row.size:
        return None
    codes = design.subject.code[row], design.scan.code[row], design.run.code[row]
    common = _is_common(design.run.code[row] * span + volume[row], design.label.code[row])
    return _Labelled(row, *codes, labels[kept].T, common)


def _is_common(moment: np.ndarray, label: np.ndarray) -> bool:
    """Whether most volumes of a run carry one label in all subjects that have them."""
    cells = pd.DataFrame({"moment": moment, "label": label}).groupby("moment")["label"]
    shared = cells.size() > 1
    return bool(shared.any()) and bool((cells.nunique()[shared] == 1).mean() > 0.5)


def _shifted(known: _Labelled, zero: int, rng: np.random.Generator) -> np.ndarray:
    """Labels at lag 0 shifted in a circle within each scan, the same for a run of all subjects."""
    label = known.labels[zero]
    offsets = rng.uniform(0.1, 0.9, size=(N_SHIFTS, known.run.max() + 1))
    moved = np.empty((N_SHIFTS, len(label)), dtype=label.dtype)
    for scan in np.unique(known.scan):
        rows = np.flatnonzero(known.scan == scan)
        by = np.round(offsets[:, known.run[rows[0]], None] * len(rows)).astype(np.int64)
        moved[:, rows] = label[rows][(np.arange(len(rows)) - by) % len(rows)]
    return moved


def _shares_by_subject(values: np.ndarray, known: _Labelled, labels: np.ndarray) -> np.ndarray:
    """Explained share of variance, shape (n_subjects, n_labellings)."""
    found = []
    for subject in np.unique(known.subject):
        own = np.flatnonzero(known.subject == subject)
        found.append(_shares(_standardised(values[own], known.scan[own]), labels[:, own]))
    return np.array(found)


def _standardised(values: np.ndarray, scan: np.ndarray) -> np.ndarray:
    values = np.where(np.isfinite(values), values, 0.0).astype(np.float32)
    for code in np.unique(scan):
        own = scan == code
        part = values[own] - values[own].mean(axis=0)
        spread = part.std(axis=0)
        values[own] = part / np.where(spread > 0, spread, np.inf)
    return values


def _shares(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    total = max(float(np.einsum("ij,ij->", values, values)), 1e-12)
    explained = np.zeros(len(labels))
    for code in np.unique(labels):
        member = (labels == code).astype(np.float32)
        sums = member @ values
        explained += np.einsum("ij,ij->i", sums, sums) / np.maximum(member.sum(axis=1), 1.0)
    return explained / total


def _describe(
    shares: np.ndarray, subjects: list[str], lags: list[int], tr_s: float | None
) -> dict[str, Any]:
    curves, shifts = shares[:, : len(lags)], shares[:, len(lags) :].mean(axis=0)
    mean = curves.mean(axis=0)
    best, zero = int(np.argmax(mean)), lags.index(0)
    p = _paired_p(curves[:, best] - curves[:, zero]) * len(lags)
    spread = float(shifts.std(ddof=1))
    z = float((mean[best] - shifts.mean()) / spread) if spread > 0 else 0.0
    return {
        "lags_vol": lags,
        "lags_s": None if tr_s is None else [round(lag * tr_s, 6) for lag in lags],
        "share": [float(value) for value in mean],
        "per_subject": {
            name: [float(value) for value in curve]
            for name, curve in zip(subjects, curves, strict=True)
        },
        "n_subjects": len(subjects),
        "best_vol": lags[best],
        "best_s": None if tr_s is None else round(lags[best] * tr_s, 6),
        "p": min(1.0, p),
        "z": z,
        "by_accident": float(shifts.mean()),
    }


def _paired_p(differences: np.ndarray) -> float:
    n, spread = len(differences), differences.std(ddof=1) if len(differences) > 1 else 0.0
    if not spread > 0:
        return 1.0
    return float(student_t.sf(differences.mean() / (spread / np.sqrt(n)), n - 1))

"""Surrogate: data of the same shape, spectra and correlations that know nothing of the labels."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.fft import irfft, rfft

from emodecode.evaluate.design import Design, read_design

_CHUNK_VALUES = 2**22
"""Values that are held in double precision at once."""


def surrogate(
    X: np.ndarray, table: pd.DataFrame, *, seed: int, rows: Sequence[int] | np.ndarray | None = None
) -> np.ndarray:
    """Randomise the phases of each scan: its voxels' spectra and correlations stay as they are.

    The samples of a scan (one subject's run) in the order of their onsets are a series
    ``x_v(t)`` with Fourier coefficients ``X_v(f)``. Each frequency gets one random phase for all
    voxels, ``X_v(f) exp(i phi_f)``, so that amplitudes ``|X_v(f)|`` and cross-spectra
    ``X_v(f) X_w(f)*`` are kept, and with them all autocorrelations and correlations between the
    voxels of a scan; the coefficient at the Nyquist frequency gets a random sign. Scans are
    independent, so nothing is left that is locked to a time or shared between subjects. The
    deviation of a subject's mean from the mean of all subjects, and of a scan's mean from its
    subject's, each get a random sign. In scans without onsets (tables of features) the rows'
    deviations from the scan's mean are put in random order instead. Labels are never used.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        A memory map is read in chunks of voxels.
    table : DataFrame
        ``subject session run onset_s`` of each sample.
    seed : int
        Each scan has its own child by its name: the order of the rows does not matter.
    rows : array of int, optional
        Samples to replace, as a rule whole scans; the others stay as they are. None: all.

    Returns
    -------
    ndarray of shape (n_samples, n_voxels), float32

    References
    ----------
    Prichard and Theiler (1994), Physical Review Letters 73:951-954.
    """
    design = read_design(table)
    scans = _plan(design, np.arange(design.n) if rows is None else np.asarray(rows), seed)
    out = np.empty(X.shape, dtype=np.float32)
    step = max(1, _CHUNK_VALUES // max(1, len(X)))
    for start in range(0, X.shape[1], step):
        columns = slice(start, start + step)
        part = np.asarray(X[:, columns], dtype=np.float64)
        out[:, columns] = part
        subject_means = _group_means(part, design.subject.code)
        for scan in scans:
            out[scan.rows, columns] = _randomised(part[scan.rows], subject_means, scan)
    return out


class _Scan(NamedTuple):
    """What is drawn for one scan; `turns` are factors of the frequencies, or None without times."""

    rows: np.ndarray
    subject: int
    subject_sign: float
    sign: float
    turns: np.ndarray | None
    order: np.ndarray


def _plan(design: Design, rows: np.ndarray, seed: int) -> list[_Scan]:
    chosen = np.zeros(design.n, dtype=bool)
    chosen[rows] = True
    return [
        _draw(design, np.flatnonzero(chosen & design.scan.mask(code)), seed)
        for code in np.unique(design.scan.code[chosen])
    ]


def _draw(design: Design, rows: np.ndarray, seed: int) -> _Scan:
    onset = design.onset_s[rows]
    clocked = bool(np.isfinite(onset).all())
    if clocked:
        rows = rows[np.lexsort((design.volume[rows], onset))]
    subject = int(design.subject.code[rows[0]])
    whose = _random(seed, f"subject {design.subject.names[subject]}")
    rng = _random(seed, f"scan {design.scan.names[design.scan.code[rows[0]]]}")
    return _Scan(
        rows=rows,
        subject=subject,
        subject_sign=float(whose.choice((-1.0, 1.0))),
        sign=float(rng.choice((-1.0, 1.0))),
        turns=_turns(rng, len(rows)) if clocked else None,
        order=rng.permutation(len(rows)),
    )


def _random(seed: int, name: str) -> np.random.Generator:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    return np.random.default_rng(np.random.SeedSequence([seed, key]))


def _turns(rng: np.random.Generator, n: int) -> np.ndarray:
    """Unit factors of the n // 2 + 1 frequencies; the mean's is 1, the Nyquist one's +-1."""
    turns = np.exp(2j * np.pi * rng.random(n // 2 + 1))
    turns[0] = 1.0
    if n % 2 == 0:
        turns[-1] = rng.choice((-1.0, 1.0))
    return turns


def _group_means(values: np.ndarray, code: np.ndarray) -> np.ndarray:
    return np.stack([values[code == each].mean(axis=0) for each in range(code.max() + 1)])


def _randomised(values: np.ndarray, subject_means: np.ndarray, scan: _Scan) -> np.ndarray:
    own, mean, grand = (
        subject_means[scan.subject],
        values.mean(axis=0),
        subject_means.mean(axis=0),
    )
    level = grand + scan.subject_sign * (own - grand) + scan.sign * (mean - own)
    deviations = values - mean
    if scan.turns is None:
        return level + deviations[scan.order]
    return level + irfft(rfft(deviations, axis=0) * scan.turns[:, None], n=len(values), axis=0)

"""Duplicates: rows of the data that are the same array, or a shifted or rescaled copy of a scan."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from emodecode.evaluate.design import Design, read_design

PROBE_COLUMNS = 1024
"""Columns by which rows are compared first; whole rows are read only where these are equal."""

FEWEST_COLUMNS = 64
"""Below this many columns no copies are sought but identical ones: likeness may be accident."""

LIKENESS = 0.995
"""Correlation over voxels from which two patterns are taken for the same one."""

FEWEST_VOLUMES = 3
"""So many consecutive volumes have to match at the same shift."""

_STRETCH, _CHUNK, _PROJECTED, _SCREEN = 64, 512, 64, 0.97
_NEAR_SHIFTS, _STRAY, _BLUNT, _ACCIDENT, _ROUNDING, _COARSE = 3, 0.1, 0.25, 1e-3, 1e-6, 0.05


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Which rows are copies of which.

    Parameters
    ----------
    n_columns : int
        Columns of the data.
    code : ndarray of shape (n_samples,), int
        Group of identical rows; -1 for rows without an identical one.
    copies : ndarray of shape (n_pairs, 2), int
        A row, and a row of another scan that is a nearly identical copy; each pair both ways.
    coarse : bool
        The columns take so few values (ratings, counts) that rows may be equal by accident.
    """

    n_columns: int
    code: np.ndarray = field(repr=False)
    copies: np.ndarray = field(repr=False)
    coarse: bool = False


def find_duplicates(X: np.ndarray, table: pd.DataFrame) -> Duplicates:
    """Look for identical rows, and for scans that are copies of other scans.

    Two scans are taken for copies if at least three consecutive volumes of one have the patterns
    of the other at the same shift (r > .995 over voxels), the match is much worse one volume
    earlier or later and hardly occurs at other shifts. Patterns are compared without the mean of
    their scan, and as differences of consecutive volumes: an anatomy, a drift or a common response
    that resembles all volumes of many scans is no copy.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        A memory map is read in parts, most of it not at all.
    table : DataFrame
        The sample table.
    """
    code = duplicate_codes(X)
    copies = np.empty((0, 2), dtype=np.int64)
    if X.shape[1] >= FEWEST_COLUMNS:
        copies = _find_copies(sample_columns(X), read_design(table))
    return Duplicates(X.shape[1], code, copies, _is_coarse(X))


def _is_coarse(X: np.ndarray) -> bool:
    """Whether equal rows are expected by accident, were every other column a copy of another."""
    if X.shape[1] >= FEWEST_COLUMNS:
        return False
    shares = [np.unique(X[:, k], return_counts=True)[1] / len(X) for k in range(X.shape[1])]
    log_alike = 0.5 * sum(float(np.log(np.sum(share**2))) for share in shares)
    return bool(2 * np.log(len(X)) - np.log(2) + log_alike > np.log(_COARSE))


def duplicate_codes(X: np.ndarray) -> np.ndarray:
    """Number the groups of identical rows; -1 for rows without an identical one.

    Rows are compared by a slice of columns first; only those equal there are read completely.
    """
    n_samples, n_columns = X.shape
    start = max(0, (n_columns - PROBE_COLUMNS) // 2)
    probe = [_digest(X[row, start : start + PROBE_COLUMNS]) for row in range(n_samples)]
    suspects = np.flatnonzero(_groups(probe) >= 0)
    codes = np.full(n_samples, -1, dtype=np.int64)
    digests = []
    for row in suspects:
        whole = X[row]
        constant = n_columns > 1 and bool(np.all(whole == whole[0]))
        digests.append(row.tobytes() if constant else _digest(whole))
    codes[suspects] = _groups(digests)
    return codes


def sample_columns(X: np.ndarray, *, n_columns: int = PROBE_COLUMNS) -> np.ndarray:
    """Read evenly spaced stretches of columns, float32, shape (n_samples, at most `n_columns`)."""
    if X.shape[1] <= n_columns:
        return np.asarray(X, dtype=np.float32)
    starts = np.linspace(0, X.shape[1] - _STRETCH, n_columns // _STRETCH).astype(np.int64)
    columns = (starts[:, None] + np.arange(_STRETCH)).ravel()
    columns = np.unique(columns)
    sampled = np.empty((len(X), len(columns)), dtype=np.float32)
    for first in range(0, len(X), _CHUNK):
        sampled[first : first + _CHUNK] = X[first : first + _CHUNK, columns]
    return sampled


def _digest(values: np.ndarray) -> bytes:
    # adding zero makes -0.0 and 0.0 the same bytes
    return hashlib.blake2b((values + 0.0).tobytes(), digest_size=16).digest()


def _groups(digests: list[bytes]) -> np.ndarray:
    code, _ = pd.factorize(np.array(digests, dtype=object)) if digests else (np.empty(0, int), None)
    often = np.bincount(code, minlength=1)[code] > 1 if len(code) else np.empty(0, dtype=bool)
    return np.where(often, code, -1).astype(np.int64)


class _Place(NamedTuple):
    """Where the sorted rows are: their number in the table, scan, place in it, and volume."""

    row: np.ndarray
    scan: np.ndarray
    rank: np.ndarray
    volume: np.ndarray

    def take(self, which: np.ndarray) -> "_Place":
        return _Place(*(column[which] for column in self))


class _Pairs(NamedTuple):
    """Pairs of like patterns: numbers of both, distance, and consecutive pairs as one run."""

    first: np.ndarray
    second: np.ndarray
    unlike: np.ndarray
    scans: np.ndarray
    shift: np.ndarray
    length: np.ndarray

    def take(self, which: np.ndarray) -> "_Pairs":
        return _Pairs(*(column[which] for column in self))


def _find_copies(values: np.ndarray, design: Design) -> np.ndarray:
    place = _places(design)
    found, scale = [], np.abs(values[place.row]).max(axis=1, initial=0.0)
    for patterns, usable in (_levels(values, place), _changes(values, place)):
        good = np.flatnonzero(usable & _normalise(patterns, scale))
        here = place.take(good)
        pairs = _match(patterns[good], here)
        found.append(np.stack([here.row[pairs.first], here.row[pairs.second]], axis=1))
    both = np.concatenate(found)
    return np.unique(np.concatenate([both, both[:, ::-1]]), axis=0)


def _places(design: Design) -> _Place:
    order = np.lexsort((design.volume, design.scan.code))
    scan = design.scan.code[order]
    new = np.diff(scan, prepend=-1) != 0
    first = np.maximum.accumulate(np.where(new, np.arange(design.n), 0))
    rank = np.arange(design.n) - first
    volume = design.volume[order]
    return _Place(order, scan, rank, np.where(np.isfinite(volume), volume, rank))


def _levels(values: np.ndarray, place: _Place) -> tuple[np.ndarray, np.ndarray]:
    """Patterns without the mean of their scan."""
    patterns = values[place.row]
    starts = np.flatnonzero(place.rank == 0)
    sizes = np.diff(np.append(starts, len(patterns)))
    for start, size in zip(starts, sizes, strict=True):
        patterns[start : start + size] -= patterns[start : start + size].mean(axis=0)
    return patterns, np.repeat(sizes >= FEWEST_VOLUMES, sizes)


def _changes(values: np.ndarray, place: _Place) -> tuple[np.ndarray, np.ndarray]:
    """Differences of consecutive volumes: whichever volumes of the scan are in the table."""
    patterns = values[place.row]
    patterns[1:] -= values[place.row[:-1]]
    follows = (np.diff(place.volume, prepend=np.nan) == 1) & (place.rank > 0)
    return patterns, follows


def _normalise(patterns: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Give every row mean 0 and length 1, in place; tell which ones have a pattern at all."""
    usable = np.empty(len(patterns), dtype=bool)
    rounding = _ROUNDING * scale * np.sqrt(patterns.shape[1])
    for start in range(0, len(patterns), _CHUNK):
        part = patterns[start : start + _CHUNK]
        finite = np.isfinite(part).all(axis=1)
        part[~finite] = 0.0
        part -= part.mean(axis=1, keepdims=True)
        length = np.linalg.norm(part, axis=1)
        usable[start : start + _CHUNK] = finite & (length > rounding[start : start + _CHUNK])
        part /= np.where(length > 0, length, 1.0)[:, None]
    return usable


def _match(patterns: np.ndarray, place: _Place) -> _Pairs:
    first, second, n_like = _screen(patterns, place.scan)
    unlike = _unlike(patterns, first, second)
    close = unlike < 1 - LIKENESS
    pairs = _in_runs(first[close], second[close], unlike[close], place)
    n_crossed = max(1, len(patterns) * (len(patterns) - 1) // 2)
    # so many volumes have to follow each other that a chance run is unlikely
    n_long = int(np.count_nonzero(pairs.length >= FEWEST_VOLUMES))
    rate = max(1, n_like + len(pairs.first) - n_long) / n_crossed
    least = max(FEWEST_VOLUMES, np.log(_ACCIDENT / n_crossed) / np.log(min(rate, 0.999)))
    kept = [
        own
        for own in _scan_pairs(pairs)
        if _is_copy(pairs.take(own), patterns, place, least=float(least))
    ]
    chosen = [own[_at_best_shift(pairs.take(own))] for own in kept]
    return pairs.take(np.concatenate(chosen) if chosen else np.empty(0, dtype=np.int64))


def _screen(patterns: np.ndarray, scan: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of different scans that are alike in a random projection.

    Rows that resemble a great many others are no candidates; how often that happened is counted.
    """
    short = _projected(patterns)
    most = max(64, 4 * len(np.unique(scan)))
    ends = np.searchsorted(scan, scan, side="right")  # scans are sorted
    pairs, n_like = [np.empty((2, 0), dtype=np.int64)], 0
    for start in range(0, len(short), _CHUNK):
        alike = short[start : start + _CHUNK] @ short[start:].T > _SCREEN
        own = scan[start : ends[min(start + _CHUNK, len(short)) - 1]]
        alike[:, : len(own)] &= scan[start : start + _CHUNK, None] < own
        counts = np.count_nonzero(alike, axis=1)
        n_like += int(counts[counts > most].sum())
        alike[counts > most] = False
        pairs.append(np.stack(np.nonzero(alike)) + start)
    first, second = np.concatenate(pairs, axis=1)
    return first, second, n_like


def _projected(patterns: np.ndarray) -> np.ndarray:
    n_columns = patterns.shape[1]
    if n_columns <= _PROJECTED:
        return patterns
    rng = np.random.default_rng(np.random.SeedSequence(0))
    short = patterns @ rng.standard_normal((n_columns, _PROJECTED), dtype=np.float32)
    return short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)


def _unlike(patterns: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """1 - r of pairs of rows, from their distance: exact near 0."""
    found = np.empty(len(first))
    for start in range(0, len(first), 4 * _CHUNK):
        part = slice(start, start + 4 * _CHUNK)
        apart = patterns[first[part]] - patterns[second[part]]
        found[part] = 0.5 * np.einsum("ij,ij->i", apart, apart)
    return found


def _in_runs(first: np.ndarray, second: np.ndarray, unlike: np.ndarray, place: _Place) -> _Pairs:
    """Sort the pairs by scans and shift; count how many follow each other in both scans."""
    n_scans = int(place.scan.max(initial=0)) + 1
    scans = place.scan[first] * n_scans + place.scan[second]
    shift = place.volume[second] - place.volume[first]
    order = np.lexsort((place.rank[first], shift, scans))
    first, second, unlike, scans, shift = (a[order] for a in (first, second, unlike, scans, shift))
    new = np.ones(len(first), dtype=bool)
    new[1:] = (np.diff(scans) != 0) | (np.diff(shift) != 0)
    new[1:] |= (np.diff(place.rank[first]) != 1) | (np.diff(place.rank[second]) != 1)
    run = np.cumsum(new) - 1
    length = np.bincount(run)[run] if len(run) else run
    return _Pairs(first, second, unlike, scans, shift, length)


def _scan_pairs(pairs: _Pairs) -> Iterator[np.ndarray]:
    """Pairs of each two scans that have a run of matching volumes."""
    promising = np.unique(pairs.scans[pairs.length >= FEWEST_VOLUMES])
    for scans in promising:
        yield np.flatnonzero(pairs.scans == scans)


def _at_best_shift(own: _Pairs) -> np.ndarray:
    """Which pairs are in the long runs at the shift that most of them have."""
    long = own.length >= FEWEST_VOLUMES
    shifts, counts = np.unique(own.shift[long], return_counts=True)
    return long & (own.shift == shifts[np.argmax(counts)])


def _is_copy(own: _Pairs, patterns: np.ndarray, place: _Place, *, least: float) -> bool:
    """Tell whether the match is long, occurs at one shift only, and is sharp there."""
    chosen = _at_best_shift(own)
    best = own.take(chosen)
    stray = np.abs(own.shift - best.shift[0]) > _NEAR_SHIFTS
    if best.length.max() < least or stray.sum() > _STRAY * len(best.first):
        return False
    beside = []
    for step in (-1, 1):
        other = np.clip(best.second + step, 0, len(patterns) - 1)
        inside = (place.scan[other] == place.scan[best.second]) & (other != best.second)
        beside.append(_unlike(patterns, best.first[inside], other[inside]))
    around = np.concatenate(beside)
    return bool(around.size) and best.unlike.mean() <= _BLUNT * around.mean()

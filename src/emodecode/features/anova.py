"""One-way analysis of variance of every voxel, streaming over tiles of a matrix of any size."""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import stats
from threadpoolctl import ThreadpoolController

from emodecode.errors import InputError

_TILE_ROWS = 64


class Anova(NamedTuple):
    """What :func:`anova` finds, one value per voxel."""

    f_values: np.ndarray
    p_values: np.ndarray
    constant: np.ndarray
    """True where all samples have the same value (F = 0, p = 1)."""


def anova(
    X: np.ndarray, y: np.ndarray, *, rows: np.ndarray | None = None, chunk_voxels: int = 4096
) -> Anova:
    """Return F statistic, p-value and constancy of every voxel over the labels.

    ::

        F = (SS_between / (n_classes - 1)) / (SS_within / (n_samples - n_classes))

    `X` is read once, in tiles of 64 rows by `chunk_voxels` columns (2 MB). In each, the first row
    is subtracted in float64, and class sums and squares are accumulated from the differences.
    The total sum of squares cannot be smaller than the first row's own deviation, so the
    relative rounding error stays below about n_samples * 2e-16 whatever the scanner's offset;
    scikit-learn's `f_classif` loses all digits on raw intensities in float32.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        May be a read-only memory map; never copied as a whole.
    y : ndarray of shape (n_samples,)
        Labels.
    rows : ndarray of int, optional
        Use only these rows of `X` and `y`.
    chunk_voxels : int, default 4096
        Columns per tile.

    Returns
    -------
    Anova
        Arrays of shape (n_voxels,); F = inf where a voxel differs only between classes.

    Raises
    ------
    InputError
        Values that are not finite; fewer than two classes; no more samples than classes.
    """
    y = np.asarray(y) if rows is None else np.asarray(y)[rows]
    _check_lengths(X, y, rows)
    classes, codes = np.unique(y, return_inverse=True)
    _check_classes(classes, len(y))
    counts = np.bincount(codes).astype(np.float64)
    n, k = len(codes), len(classes)
    f_values, constant = np.zeros(X.shape[1]), np.zeros(X.shape[1], dtype=bool)
    for columns, sums, squares in _tile_sums(X, codes, k, rows, chunk_voxels):
        mean = sums.sum(axis=0) / n
        between = counts @ (sums / counts[:, None] - mean) ** 2
        total = squares - n * mean**2
        within = total - between
        within[within <= n * np.finfo(np.float64).eps * total] = 0.0
        constant[columns] = squares == 0
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = (between / (k - 1)) / (within / (n - k))
        f_values[columns] = np.where(squares == 0, 0.0, ratio)
    return Anova(f_values, stats.f.sf(f_values, k - 1, n - k), constant)


def anova_f(
    X: np.ndarray, y: np.ndarray, *, chunk_voxels: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Return F and p of every voxel; :func:`anova` says how and what it raises."""
    found = anova(X, y, chunk_voxels=chunk_voxels)
    return found.f_values, found.p_values


def column_moments(
    X: np.ndarray, *, rows: np.ndarray | None = None, chunk_voxels: int = 4096
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance (divided by n_samples) of every column, in bounded memory.

    The same one pass as :func:`anova`; the variance of a constant column is exactly 0. With `rows`
    only these rows of `X` count.

    Raises
    ------
    InputError
        Values that are not finite.
    """
    n, n_voxels = len(X) if rows is None else len(rows), X.shape[1]
    mean, variance = np.empty(n_voxels), np.empty(n_voxels)
    codes = np.zeros(n, dtype=np.intp)
    first = 0 if rows is None else rows[0]
    for columns, sums, squares in _tile_sums(X, codes, 1, rows, chunk_voxels):
        shifted = sums[0] / n
        mean[columns] = X[first, columns] + shifted
        spread = np.maximum(squares / n - shifted**2, 0.0)
        variance[columns] = np.where(squares == 0, 0.0, spread)
    return mean, variance


def _tile_sums(
    X: np.ndarray, codes: np.ndarray, n_classes: int, rows: np.ndarray | None, chunk_voxels: int
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield per block of columns: class sums (n_classes, c) and squares (c,), first row removed."""
    n = len(codes)
    member = np.zeros((n_classes, n))
    member[codes, np.arange(n)] = 1.0
    ones = np.ones(_TILE_ROWS)
    buffer = np.empty((_TILE_ROWS, min(chunk_voxels, X.shape[1])))
    first = 0 if rows is None else rows[0]
    for start in range(0, X.shape[1], chunk_voxels):
        columns = slice(start, min(start + chunk_voxels, X.shape[1]))
        origin = np.asarray(X[first, columns], dtype=np.float64)
        sums, squares = np.zeros((n_classes, len(origin))), np.zeros(len(origin))
        with np.errstate(invalid="ignore", over="ignore"), _one_thread():
            for top in range(0, n, _TILE_ROWS):
                part = slice(top, min(top + _TILE_ROWS, n))
                tile = X[part if rows is None else rows[part], columns]
                shifted = buffer[: len(tile), : len(origin)]
                np.subtract(tile, origin, out=shifted)
                sums += member[:, part] @ shifted
                np.multiply(shifted, shifted, out=shifted)
                squares += ones[: len(tile)] @ shifted
        if not np.isfinite(squares).all():
            raise _not_finite(X, rows, columns, squares)
        yield columns, sums, squares


def _one_thread():
    """Keep BLAS to one thread: tiles are so small that threads would mostly wait for each other."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def _check_lengths(X: np.ndarray, y: np.ndarray, rows: np.ndarray | None) -> None:
    n = X.shape[0] if rows is None else len(rows)
    if len(y) != n or n == 0:
        raise InputError(
            "voxel selection",
            found=f"{len(y)} labels for {n} samples",
            expected="one label per sample, at least one",
            remedy="Pass the labels of exactly these rows.",
        )


def _check_classes(classes: np.ndarray, n: int) -> None:
    if len(classes) < 2 or n <= len(classes):
        raise InputError(
            "voxel selection",
            found=f"{n} samples of {len(classes)} class(es) ({', '.join(map(str, classes[:5]))})",
            expected="at least two classes and more samples than classes",
            remedy="Check that every training fold holds all classes.",
        )


def _not_finite(
    X: np.ndarray, rows: np.ndarray | None, columns: slice, squares: np.ndarray
) -> InputError:
    bad = np.flatnonzero(~np.isfinite(squares))
    column = columns.start + int(bad[0])
    values = np.asarray(X[:, column] if rows is None else X[rows, column])
    broken = np.flatnonzero(~np.isfinite(values))
    worst = f"voxel column {column}" + (f", first in row {broken[0]}" if len(broken) else "")
    return InputError(
        "voxel selection",
        found=f"values that are not finite in {len(bad)} of {len(squares)} voxels ({worst})",
        expected="finite values",
        remedy="Drop those volumes, or leave those voxels out of the mask.",
    )

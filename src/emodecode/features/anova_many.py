"""One-way analysis of variance of every voxel under many labellings of the same samples."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from emodecode.errors import InputError

_CHUNK_VOXELS = 1024
_CHUNK_VALUES = 2**23
"""Values of F that are made at once: 64 MB."""


class SlotSums(NamedTuple):
    """What F needs of the samples, whatever their labels (:func:`slot_sums`).

    ``sums`` (n_slots, n_voxels): sums over the samples of a slot of x - mean over all samples;
    ``sizes`` (n_slots,): samples of a slot; ``total`` (n_voxels,): sum of squares around the mean;
    ``constant`` (n_voxels,): True where all samples have the same value.
    """

    sums: np.ndarray
    sizes: np.ndarray
    total: np.ndarray
    constant: np.ndarray


def anova_many(
    X: np.ndarray, labels: np.ndarray, *, slot: np.ndarray | None = None, n_classes: int
) -> np.ndarray:
    """Return F of every voxel for each of many labellings, by one matrix product.

    ::

        SS_between = sum_c |sum of x - mean over the samples of class c|^2 / n_c

    The total sum of squares does not depend on the labels, so F follows from sums over slots.
    Each row equals ``anova(X, labels[k][slot]).f_values``.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels)
        May be a read-only memory map; never copied as a whole.
    labels : ndarray of shape (n_labellings, n_slots), int
        Class of each slot, from 0.
    slot : ndarray of shape (n_samples,), int, optional
        Slot of each sample: samples of one slot always carry one label. Default: each its own.
    n_classes : int

    Returns
    -------
    ndarray of shape (n_labellings, n_voxels), float64

    Raises
    ------
    InputError
        Values that are not finite; a labelling with fewer than two classes.
    """
    slot = np.arange(len(X)) if slot is None else np.asarray(slot)
    prepared = slot_sums(X, slot, n_slots=labels.shape[1])
    parts = [f for _, f in f_values(prepared, labels, n_classes=n_classes)]
    return np.concatenate(parts) if parts else np.empty((0, X.shape[1]))


def slot_sums(X: np.ndarray, slot: np.ndarray, *, n_slots: int) -> SlotSums:
    """Sum the samples of each slot around the mean of all, streaming over blocks of columns.

    Raises
    ------
    InputError
        Values that are not finite.
    """
    order = np.argsort(slot, kind="stable")
    present, first = np.unique(slot[order], return_index=True)
    sizes = np.bincount(slot, minlength=n_slots).astype(float)
    sums, total = np.zeros((n_slots, X.shape[1])), np.empty(X.shape[1])
    constant = np.empty(X.shape[1], dtype=bool)
    for start in range(0, X.shape[1], _CHUNK_VOXELS):
        columns = slice(start, start + _CHUNK_VOXELS)
        block = X[:, columns].astype(np.float64)
        if not np.isfinite(block).all():
            raise _not_finite(block, start)
        block -= block[0].copy()
        constant[columns] = (block == 0).all(axis=0)
        block -= block.mean(axis=0)
        total[columns] = np.where(constant[columns], 0.0, np.einsum("ij,ij->j", block, block))
        sums[present, columns] = np.add.reduceat(block[order], first, axis=0)
    return SlotSums(sums, sizes, total, constant)


def f_values(
    prepared: SlotSums, labels: np.ndarray, *, n_classes: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield which labellings, and F (n_labellings in this part, n_voxels), in bounded memory.

    Raises
    ------
    InputError
        A labelling with fewer than two classes, or no more samples than classes.
    """
    step = max(1, _CHUNK_VALUES // (2 * prepared.sums.shape[1]))
    for start in range(0, len(labels), step):
        part = slice(start, min(start + step, len(labels)))
        yield part, _f(prepared, labels[part], n_classes)


def _f(prepared: SlotSums, labels: np.ndarray, n_classes: int) -> np.ndarray:
    member = labels[:, None, :] == np.arange(n_classes)[:, None]
    counts = member @ prepared.sizes
    n, k = prepared.sizes.sum(), (counts > 0).sum(axis=1)
    if (k < 2).any() or (k >= n).any():
        raise InputError(
            "voxel selection",
            found=f"a labelling of {n:.0f} samples with {k.min()} class(es)",
            expected="at least two classes and more samples than classes",
            remedy="Leave out labellings that lack classes.",
        )
    between = np.zeros((len(labels), prepared.sums.shape[1]))
    for c in range(n_classes):
        scaled = member[:, c] / np.sqrt(np.maximum(counts[:, c, None], 1.0))
        between += (scaled @ prepared.sums) ** 2
    within = prepared.total - between
    within[within <= n * np.finfo(np.float64).eps * prepared.total] = 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (between / (k - 1)[:, None]) / (within / (n - k)[:, None])
    found[:, prepared.constant] = 0.0
    return found


def _not_finite(block: np.ndarray, start: int) -> InputError:
    row, column = np.argwhere(~np.isfinite(block))[0]
    return InputError(
        "voxel selection",
        found=f"values that are not finite (voxel column {start + column}, row {row})",
        expected="finite values",
        remedy="Drop those volumes, or leave those voxels out of the mask.",
    )

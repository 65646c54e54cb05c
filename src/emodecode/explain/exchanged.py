"""Drops tested against exchanged labels: is it the class, or the moments that all subjects saw?

Where subjects share a stimulus, a drop can be alike in all of them for reasons of the moments that
happened to be tested, whatever their labels. Flipping signs over subjects cannot see that: it asks
whether other subjects would show the same at the same moments.
"""

from dataclasses import dataclass

import numpy as np

from emodecode.errors import InputError

WIDENED = float(np.sqrt(2))
"""By which deviations are widened where folds share training (`emodecode.evaluate.chance`)."""
_UNITS = 2048


@dataclass(frozen=True, eq=False)
class LabelTest:
    """Test of each class's drops against those under exchanged labels.

    Parameters
    ----------
    p : ndarray of shape (n_classes, n_units)
        One-sided (drops larger than under exchanged labels), corrected for all classes and units.
    n_permutations : int
    widened : bool
    """

    p: np.ndarray
    n_permutations: int
    widened: bool

    @property
    def p_smallest(self) -> float:
        """What p can be at least."""
        return 1 / (self.n_permutations + 1)

    @property
    def sentence(self) -> str:
        """How it was tested, for the report."""
        wide = ", their deviations widened by the square root of 2" if self.widened else ""
        return (
            f"{self.n_permutations:,} labellings with whole blocks exchanged under the same drops"
            f"{wide}, largest standardised drop over the map; p can be {self.p_smallest:.2g} at "
            "least"
        )


def infer_labels(
    drops: np.ndarray,
    codes: np.ndarray,
    permuted: np.ndarray,
    subjects: np.ndarray,
    *,
    shared_training: bool,
) -> LabelTest:
    """Test mean drops of each class's own samples against other labellings of the samples.

    A class's map is the mean over subjects of the mean drop of its probability over the subject's
    samples of the class. Under every labelling it is made anew from the same drops, and
    standardised unit by unit by all labellings, the true one included; p compares the true value
    with the largest over classes and units (max statistic, Westfall & Young 1993).

    Parameters
    ----------
    drops : ndarray of shape (n_samples, n_units, n_classes)
        Of every class, of held-out samples.
    codes : ndarray of int, shape (n_samples,)
        Number of each sample's class.
    permuted : ndarray of int, shape (n_permutations, n_samples)
        Other labellings (`emodecode.evaluate.exchange.permuted_labels`).
    subjects : ndarray of shape (n_samples,)
    shared_training : bool
        Folds share training samples: deviations of the labellings are widened by sqrt(2), as in
        the test of scores with fixed predictions.

    Raises
    ------
    InputError
        Arrays that do not belong together.
    """
    n, n_units, n_classes = drops.shape
    fits = len(codes) == len(subjects) == n and permuted.shape[1:] == (n,) and len(permuted)
    if not fits or not np.isfinite(drops).all():
        raise InputError(
            "drops against exchanged labels",
            found=f"drops of {n} samples, {len(codes)} labels, labellings {permuted.shape}"
            if not fits
            else "drops that are not finite",
            expected="a label, a subject and a column of the labellings for each sample",
            remedy="Pass those of the samples that were explained.",
        )
    labels = np.vstack([codes, permuted])
    member = np.unique(np.asarray(subjects), return_inverse=True)[1]
    widen = WIDENED if shared_training else 1.0
    true, largest = np.zeros((n_classes, n_units)), np.full(len(permuted), -np.inf)
    for number in range(n_classes):
        weights = _weights(labels == number, member)
        for start in range(0, n_units, _UNITS):
            part = slice(start, start + _UNITS)
            maps = weights @ drops[:, part, number].astype(np.float64)
            spread = maps.std(axis=0)
            centred = maps - maps.mean(axis=0)
            z = np.divide(centred, spread, out=np.zeros_like(maps), where=spread > 1e-12)
            true[number, part] = z[0]
            largest = np.maximum(largest, widen * z[1:].max(axis=1))
    order = np.sort(largest)
    at_least = len(order) - np.searchsorted(order, true - 1e-12, side="left")
    return LabelTest((at_least + 1) / (len(order) + 1), len(order), shared_training)


def _weights(own: np.ndarray, member: np.ndarray) -> np.ndarray:
    """What each sample counts in the mean over subjects of a class, (n_labellings, n_samples)."""
    onehot = np.eye(member.max() + 1)[member]
    counts = own @ onehot
    share = np.divide(1.0, counts, out=np.zeros_like(counts), where=counts > 0)
    having = np.maximum((counts > 0).sum(axis=1, keepdims=True), 1)
    return own * share[:, member] / having

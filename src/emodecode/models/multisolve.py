"""Exact solves for many labellings of one fold: LDA and ridge from sums over slots.

Slots are samples that keep one label together. Arrays of scores are (n_labellings, n_classes,
n_test); the formulas are in :class:`emodecode.models.multitarget.ManyFits`.
"""

from typing import NamedTuple

import numpy as np
from scipy import linalg
from scipy.special import expit, softmax

from emodecode.models.lda import ShrunkLda

_SINGULAR = 1e-9


class Coordinates(NamedTuple):
    """Training and test samples around the training mean, and the voxels they stand for."""

    train: np.ndarray
    test: np.ndarray
    n_voxels: int
    route: str


class Eigen(NamedTuple):
    """Samples in the eigenbasis of their total scatter, around their mean."""

    values: np.ndarray
    sums: np.ndarray
    sizes: np.ndarray
    slot: np.ndarray
    test: np.ndarray
    norms: np.ndarray
    products: np.ndarray | None
    train: np.ndarray
    n_voxels: int

    def is_singular(self, n_classes: int) -> bool:
        """Whether the residuals leave a dimension without variance, or nearly so."""
        few = len(self.values) > len(self.slot) - n_classes
        return few or self.values.min() <= _SINGULAR * self.values.max()


def eigenbasis(coordinates: Coordinates, slot: np.ndarray, sizes: np.ndarray) -> Eigen:
    """Rotate to the eigenvectors of the total scatter and sum what no label changes."""
    train, test = coordinates.train, coordinates.test
    if coordinates.route == "direct":
        values, vectors = linalg.eigh(train.T @ train, driver="evd", overwrite_a=True)
        values = np.maximum(values, 0.0)
        train, test = train @ vectors, test @ vectors
    else:
        values = np.einsum("ij,ij->j", train, train)
    sums = sum_slots(train, slot)
    norms = np.einsum("ij,ij->i", train, train)
    products = train @ sums.T if len(sizes) < train.shape[1] else None
    return Eigen(values, sums, sizes, slot, test, norms, products, train, coordinates.n_voxels)


def solve_positive(matrix: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Solve by Cholesky; `scipy.linalg.solve` waits for threads where systems are this small."""
    factor = linalg.cho_factor(matrix, overwrite_a=True, check_finite=False)
    return linalg.cho_solve(factor, sides, check_finite=False)


def sum_slots(values: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Sum the rows of each slot: (n_samples, d) -> (n_slots, d)."""
    order = np.argsort(slot, kind="stable")
    first = np.searchsorted(slot[order], np.arange(slot.max() + 1))
    return np.add.reduceat(values[order], first, axis=0)


def member_matrix(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return (n_labellings, n_classes, n_slots): 1 where the slot is of the class."""
    return (labels[:, None, :] == np.arange(n_classes)[:, None]).astype(float)


def _flat(stack: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Multiply each of a stack of matrices with `matrix` in one product."""
    m, k, _ = stack.shape
    return (stack.reshape(m * k, -1) @ matrix).reshape(m, k, -1)


def ridge_scores(eigen: Eigen, labels: np.ndarray, n_classes: int, alpha: float) -> np.ndarray:
    """Return (n_labellings, n_classes, n_test)."""
    member = member_matrix(labels, n_classes)
    coef = _flat(member, eigen.sums / (eigen.values + alpha))
    share = member @ eigen.sizes / eigen.sizes.sum()
    return 2 * (_flat(coef, eigen.test.T) + share[:, :, None]) - 1


def ridge_probabilities(scores: np.ndarray) -> np.ndarray:
    """As `LinearByGram`: with two classes the score of the second one, else the softmax."""
    if scores.shape[1] == 2:
        lead = scores[:, 1]
        return np.stack([expit(-lead), expit(lead)], axis=2)
    return softmax(scores, axis=1).transpose(0, 2, 1)


def lda_scores(
    eigen: Eigen, labels: np.ndarray, n_classes: int, classifier: ShrunkLda
) -> np.ndarray:
    """Return (n_labellings, n_classes, n_test)."""
    n, member = eigen.sizes.sum(), member_matrix(labels, n_classes)
    counts = member @ eigen.sizes
    member /= counts[:, :, None]
    share, means = counts / n, _flat(member, eigen.sums)
    inner = means @ means.transpose(0, 2, 1)
    trace = (eigen.values.sum() / n) - np.einsum("mk,mkk->m", share, inner)
    shrinkage = np.full(len(labels), np.nan)
    if classifier.shrinkage == "auto":
        shrinkage = _ledoit_wolf(eigen, labels, member, share, means, inner, trace)
    else:
        shrinkage[:] = float(classifier.shrinkage)
    variance = (1 - shrinkage)[:, None] * (eigen.values / n)
    variance += (shrinkage * trace / eigen.n_voxels)[:, None]
    solved = means / variance[:, None]
    against = solved @ means.transpose(0, 2, 1)
    weights = (1 - shrinkage)[:, None] * share
    mixing = np.linalg.inv(np.eye(n_classes) - weights[:, :, None] * against)
    scores = mixing.transpose(0, 2, 1) @ _flat(solved, eigen.test.T)
    return _centred_scores(scores, against @ mixing, share, classifier)


def _centred_scores(
    scores: np.ndarray, between: np.ndarray, share: np.ndarray, classifier: ShrunkLda
) -> np.ndarray:
    """From x' Sigma^-1 m_k and m_j' Sigma^-1 m_k to LDA's scores, as `ShrunkLda` offsets them."""
    scores = scores - scores.mean(axis=1, keepdims=True)
    centred = between - between.mean(axis=1, keepdims=True)
    at_centre = centred.mean(axis=2)
    centred = centred - centred.mean(axis=2, keepdims=True)
    prior = share if classifier.class_weight is None else np.full_like(share, 1 / share.shape[1])
    intercept = np.log(prior) - 0.5 * np.einsum("mkk->mk", centred) - at_centre
    return scores + intercept[:, :, None]


def _ledoit_wolf(
    eigen: Eigen,
    labels: np.ndarray,
    member: np.ndarray,
    share: np.ndarray,
    means: np.ndarray,
    inner: np.ndarray,
    trace: np.ndarray,
) -> np.ndarray:
    """Ledoit and Wolf's shrinkage of the residuals of every labelling (`lda.ledoit_wolf`)."""
    n = eigen.sizes.sum()
    spectrum = eigen.values / n
    crossed = np.einsum("mk,mk->m", share, (means**2) @ spectrum)
    both = np.einsum("mj,mk,mjk->m", share, share, inner**2)
    square = (spectrum**2).sum() - 2 * crossed + both
    y = labels[:, eigen.slot]
    if eigen.products is None:
        along = _flat(means, eigen.train.T)
    else:
        along = _flat(member, eigen.products.T)
    norms = np.take_along_axis(along, y[:, None].astype(np.intp), axis=1)[:, 0]
    norms *= -2
    norms += eigen.norms
    norms += np.take_along_axis(np.einsum("mkk->mk", inner), y.astype(np.intp), axis=1)
    fourth = np.einsum("mi,mi->m", norms, norms) / n
    return _shrinkage(fourth, square, trace, eigen.n_voxels, n)


def _shrinkage(
    fourth: np.ndarray, square: np.ndarray, trace: np.ndarray, n_voxels: int, n: float
) -> np.ndarray:
    distance = square - trace**2 / n_voxels
    spread = np.clip((fourth - square) / n, 0.0, np.maximum(distance, 0.0))
    return np.divide(spread, distance, out=np.ones_like(distance), where=distance > 0)


def lda_alone(
    scatter: np.ndarray,
    means: np.ndarray,
    counts: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    y: np.ndarray,
    classifier: ShrunkLda,
) -> np.ndarray:
    """Return (n_test, n_classes) of one labelling from the total scatter of its columns."""
    n, d = len(train), train.shape[1]
    covariance = (scatter - (means.T * counts) @ means) / n
    trace = float(np.trace(covariance))
    if classifier.shrinkage == "auto":
        norms = np.einsum("ij,ij->i", train, train) - 2 * (train @ means.T)[np.arange(n), y]
        norms += np.einsum("ij,ij->i", means, means)[y]
        square = np.einsum("ij,ij->", covariance, covariance)
        known = np.array([[np.mean(norms**2)], [square], [trace]])
        shrinkage = float(_shrinkage(known[0], known[1], known[2], d, n)[0])
    else:
        shrinkage = float(classifier.shrinkage)
    covariance *= 1.0 - shrinkage
    covariance.flat[:: d + 1] += shrinkage * trace / d
    solved = solve_positive(covariance, means.T)
    share = (counts / n)[None]
    return _centred_scores((test @ solved).T[None], (means @ solved)[None], share, classifier)[0].T

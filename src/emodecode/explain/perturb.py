"""Deletion and insertion curves: does a decoder lose what a map calls important?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from emodecode.errors import InputError

Predict = Callable[[np.ndarray], np.ndarray]
"""Samples ``(n, n_features)`` -> probabilities ``(n, n_classes)``."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Probability of a class against the share of features removed (or put back).

    Parameters
    ----------
    share : ndarray of shape (n_steps + 1,)
        From 0 to 1.
    probability : ndarray of shape (n_steps + 1,)
        Mean over the samples.
    area : float
        Under the curve (trapezoids): 0 to 1.
    kind : {"deletion", "insertion"}
    """

    share: np.ndarray
    probability: np.ndarray
    area: float
    kind: str


@dataclass(frozen=True, eq=False)
class Comparison:
    """A curve beside those of random orders and of the inverted order.

    Parameters
    ----------
    curve, inverted : Curve
    random_areas : ndarray of shape (n_random,)
    p : float
        Of an area that is at least as good by chance: ``(b + 1) / (n_random + 1)``.
    """

    curve: Curve
    inverted: Curve
    random_areas: np.ndarray
    p: float

    @property
    def gain(self) -> float:
        """By how much the area is better than the mean of the random orders."""
        gain = float(self.random_areas.mean() - self.curve.area)
        return gain if self.curve.kind == "deletion" else -gain

    @property
    def sentence(self) -> str:
        """What was found, in words."""
        return (
            f"{self.curve.kind} area {self.curve.area:.3f} in the map's order, "
            f"{self.random_areas.mean():.3f} in random order, {self.inverted.area:.3f} in the "
            f"inverted one (p = {self.p:.3g})"
        )


def by_importance(values: np.ndarray) -> np.ndarray:
    """Return features by falling absolute value; ties in the order of the columns.

    Parameters
    ----------
    values : ndarray of shape (n_features,) or (n_samples, n_features)
    """
    return np.argsort(-np.abs(values), axis=-1, kind="stable")


def deletion_curve(
    predict: Predict,
    X: np.ndarray,
    order: np.ndarray,
    *,
    target: int | np.ndarray,
    fill: float | np.ndarray | None = None,
    steps: int = 20,
    batch_size: int = 256,
) -> Curve:
    """Replace features, the most important first, and follow the probability of a class.

    The faster it falls the better the map names what the decoder uses. Use samples that the decoder
    was not trained on.

    Parameters
    ----------
    predict : callable
        Samples ``(n, n_features)`` -> probabilities ``(n, n_classes)``.
    X : ndarray of shape (n_samples, n_features)
    order : ndarray of int, shape (n_features,) or (n_samples, n_features)
        Features by falling importance (:func:`by_importance`).
    target : int or ndarray of int, shape (n_samples,)
        Column of `predict`: the true class of each sample.
    fill : float or ndarray of shape (n_features,) or (n_samples, n_features), optional
        What replaces a feature: the training mean, or values of another sample of the same subject
        (conditional). None: the mean over `X`. Zero is far from any data unless these are
        standardised (T17).
    steps : int
        Equal parts in which the features are replaced.
    batch_size : int
        Samples that are predicted at once.

    Raises
    ------
    InputError
        An order that is no permutation, or shapes that do not fit.

    References
    ----------
    Petsiuk, Das & Saenko 2018, BMVC, "RISE", section 4.2.
    """
    ready = _Ready(predict, X, target, fill, steps, batch_size)
    return ready.curve(ready.ranks_of(order), "deletion")


def insertion_curve(
    predict: Predict,
    X: np.ndarray,
    order: np.ndarray,
    *,
    target: int | np.ndarray,
    fill: float | np.ndarray | None = None,
    steps: int = 20,
    batch_size: int = 256,
) -> Curve:
    """Start from the replacement and put features back, the most important first.

    The faster the probability rises the better. Parameters and errors as in `deletion_curve`.
    """
    ready = _Ready(predict, X, target, fill, steps, batch_size)
    return ready.curve(ready.ranks_of(order), "insertion")


def compare_with_random(
    predict: Predict,
    X: np.ndarray,
    order: np.ndarray,
    *,
    target: int | np.ndarray,
    fill: float | np.ndarray | None = None,
    steps: int = 20,
    kind: str = "deletion",
    n_random: int = 99,
    seed: int = 0,
    batch_size: int = 256,
) -> Comparison:
    """Compare the area of a map's order with that of random orders and of the inverted order.

    Parameters
    ----------
    predict, X, order, target, fill, steps, batch_size
        See `deletion_curve`.
    kind : {"deletion", "insertion"}
    n_random : int
        Random orders of the features, the same for all samples. A random order takes single
        voxels, whose neighbours still say the same in smooth data: beating it is necessary, not
        sufficient.
    seed : int

    Raises
    ------
    InputError
        As `deletion_curve`; an unknown kind; no random order.
    """
    if kind not in ("deletion", "insertion") or n_random < 1:
        raise _bad(
            f"kind = {kind!r}, n_random = {n_random}",
            "deletion or insertion, 1 random order or more",
            "Correct the arguments.",
        )
    ready = _Ready(predict, X, target, fill, steps, batch_size)
    ranks = ready.ranks_of(order)
    own = ready.curve(ranks, kind)
    inverted = ready.curve(ranks.shape[1] - 1 - ranks, kind)
    rng = np.random.default_rng(seed)
    areas = np.array(
        [ready.curve(rng.permutation(ranks.shape[1])[None], kind).area for _ in range(n_random)]
    )
    better = areas <= own.area + 1e-12 if kind == "deletion" else areas >= own.area - 1e-12
    p = float((better.sum() + 1) / (n_random + 1))
    return Comparison(curve=own, inverted=inverted, random_areas=areas, p=p)


class _Ready:
    """Samples, their replacement and how they are judged, checked once."""

    def __init__(self, predict, X, target, fill, steps, batch_size) -> None:
        self.predict, self.X = predict, np.asarray(X)
        if self.X.ndim != 2 or not self.X.size or steps < 1 or batch_size < 1:
            raise _bad(
                f"samples of shape {self.X.shape}, {steps} steps, batches of {batch_size}",
                "(n_samples, n_features) with values, 1 step or more, batches of 1 or more",
                "Pass samples by features.",
            )
        n, self.n_features = self.X.shape
        given = self.X.mean(axis=0) if fill is None else np.asarray(fill)
        if given.shape not in ((), (self.n_features,), (n, self.n_features)):
            raise _bad(
                f"a fill of shape {given.shape}",
                f"a number, ({self.n_features},) or ({n}, {self.n_features})",
                "Pass the training mean of each feature, or a replacement for each sample.",
            )
        self.fill = np.broadcast_to(given, self.X.shape)
        codes = np.asarray(target)
        if codes.dtype.kind not in "iu" or codes.shape not in ((), (n,)):
            raise _bad(
                f"a target of type {codes.dtype} and shape {codes.shape}",
                f"the number of a class, or {n} of them",
                "Pass np.searchsorted(classes_, y).",
            )
        self.codes = np.broadcast_to(codes, n)
        self.counts = np.round(np.linspace(0, self.n_features, steps + 1)).astype(int)
        self.batch_size = batch_size

    def ranks_of(self, order: np.ndarray) -> np.ndarray:
        """Rank of each feature, (1 or n_samples, n_features)."""
        order = np.atleast_2d(np.asarray(order))
        fits = order.shape in ((1, self.n_features), self.X.shape)
        if not fits or (np.sort(order, axis=1) != np.arange(self.n_features)).any():
            raise _bad(
                f"an order of shape {order.shape} that is no permutation of the features",
                f"each of the numbers 0 to {self.n_features - 1} once",
                "Make it with by_importance(map).",
            )
        return np.argsort(order, axis=1)

    def curve(self, ranks: np.ndarray, kind: str) -> Curve:
        """Probability at each count of features that are replaced or put back."""
        found = np.zeros(len(self.counts))
        for start in range(0, len(self.X), self.batch_size):
            rows = slice(start, start + self.batch_size)
            X, fill = self.X[rows], self.fill[rows]
            first, then = (fill, X) if kind == "deletion" else (X, fill)
            own = ranks if len(ranks) == 1 else ranks[rows]
            codes = self.codes[rows]
            for at, count in enumerate(self.counts):
                probabilities = np.asarray(self.predict(np.where(own < count, first, then)))
                if probabilities.ndim != 2 or codes.max() >= probabilities.shape[1]:
                    raise _bad(
                        f"predictions of shape {probabilities.shape} for class {codes.max()}",
                        "a probability for each sample and class",
                        "Pass predict_proba, and targets that are its columns.",
                    )
                found[at] += probabilities[np.arange(len(X)), codes].sum()
        share, probability = self.counts / self.n_features, found / len(self.X)
        return Curve(share, probability, float(np.trapezoid(probability, share)), kind)


def _bad(found: str, expected: str, remedy: str) -> InputError:
    return InputError("deletion and insertion", found=found, expected=expected, remedy=remedy)

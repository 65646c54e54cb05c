"""Many labellings of the same samples at once: the fits of a permutation test as one solve.

With the labels exchanged, everything that does not depend on them stays as it is: scaling, the
Gram matrix, the eigenbasis of the total scatter, the sums over samples that keep one label
together (slots). What is left per labelling are products with K x d class means and K x K systems
(K classes, d dimensions). The results are those of fitting the pipeline once per labelling.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import sklearn
from scipy.special import softmax
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import RidgeClassifier
from sklearn.pipeline import Pipeline

from emodecode.features.anova_many import SlotSums, f_values, slot_sums
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TakeColumns, TopVoxels
from emodecode.models.gram import GramCoordinates
from emodecode.models.lda import ShrunkLda
from emodecode.models.linear import LinearByGram, as_probabilities
from emodecode.models.multisolve import (
    Coordinates,
    Eigen,
    eigenbasis,
    lda_alone,
    lda_scores,
    member_matrix,
    ridge_probabilities,
    ridge_scores,
    solve_positive,
    sum_slots,
)

_CHUNK_BYTES = 2**26
_SCATTER_BYTES = 2**28


def has_exact_path(pipeline: Pipeline) -> bool:
    """Tell whether :class:`ManyFits` solves all labellings of this pipeline together.

    True for LDA and for ridge without class weights, behind named columns, selection over the
    group and scaling. Balanced ridge has the path only for labellings whose classes have equal
    sizes (all weights are 1 then).
    """
    classifier = _exact_classifier(pipeline)
    return classifier is not None and (
        isinstance(classifier, ShrunkLda) or classifier.class_weight is None
    )


def fit_many(
    pipeline: Pipeline,
    X_train: np.ndarray,
    labels: np.ndarray,
    X_test: np.ndarray,
    *,
    n_classes: int,
    slot: np.ndarray | None = None,
    subjects: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Fit a pipeline to many labellings of its training samples and predict the test samples.

    Parameters
    ----------
    pipeline : Pipeline
        Unfitted.
    X_train : ndarray of shape (n_train, n_voxels)
    labels : ndarray of shape (n_labellings, n_slots), int
        Class of each slot, from 0.
    X_test : ndarray of shape (n_test, n_voxels)
    n_classes : int
    slot : ndarray of shape (n_train,), int, optional
        Slot of each training sample: samples of one slot always carry one label. Default: each
        its own.
    subjects : pair of ndarray, optional
        Subjects of the training and of the test samples, for steps that ask for them.

    Returns
    -------
    ndarray of shape (n_labellings, n_test, n_classes)
        Probabilities as of `predict_proba`; 0 for a class that a labelling's training samples
        lack, 1 for the only class that they have.
    """
    fold = ManyFits(pipeline, X_train, X_test, n_classes=n_classes, slot=slot, subjects=subjects)
    return fold.probabilities(labels)


class ManyFits:
    """One fold of a pipeline, prepared for any number of labellings (see :func:`fit_many`).

    LDA, in the eigenbasis of the total scatter ``St = sum_i x_i x_i' = V diag(l) V'``::

        Sigma = (1-s) (St - M' N M) / n + s t I = D - M' W M,   W = (1-s) N / n
        Sigma^-1 M' = D^-1 M' (I - W M D^-1 M')^-1

    with M the K x d class means around the grand mean, N their counts, t the mean residual variance
    and s Ledoit and Wolf's shrinkage of the labelling's residuals: a K x K system per labelling.
    Ridge on class indicators: ``coef_c = 2 n_c m_c (St + alpha I)^-1``. Behind a selection of
    voxels the F of all labellings are one product, and each labelling's voxels get their own solve.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        X_train: np.ndarray,
        X_test: np.ndarray,
        *,
        n_classes: int,
        slot: np.ndarray | None = None,
        subjects: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.pipeline, self.n_classes, self.subjects = pipeline, n_classes, subjects
        slot = np.arange(len(X_train)) if slot is None else np.asarray(slot)
        self.used, self.slot = np.unique(slot, return_inverse=True)
        self.sizes = np.bincount(self.slot).astype(float)
        self.train, self.test = X_train, X_test
        self.classifier: Any = _exact_classifier(pipeline)
        self.select: Any = _step(pipeline, TopVoxels)

    def probabilities(self, labels: np.ndarray) -> np.ndarray:
        """Return (n_labellings, n_test, n_classes) for `labels` (n_labellings, n_slots)."""
        own = np.asarray(labels)[:, self.used]
        found = np.empty((len(own), len(self.test), self.n_classes))
        together = self._together(own)
        for part in self._chunks(np.flatnonzero(together)):
            found[part] = self._solve(own[part])
        for k in np.flatnonzero(~together):
            found[k] = self._one(own[k][self.slot])
        return found

    def _together(self, labels: np.ndarray) -> np.ndarray:
        """Labellings that the exact path serves, boolean (n_labellings,)."""
        if self.classifier is None:
            return np.zeros(len(labels), dtype=bool)
        counts = member_matrix(labels, self.n_classes) @ self.sizes
        good = (counts > 0).all(axis=1)
        if isinstance(self.classifier, RidgeClassifier):
            if self.classifier.class_weight is not None:
                good &= (counts == counts[:, :1]).all(axis=1)
            return good
        if self.select is not None:
            return good & (self.classifier.shrinkage != 0)
        if self.classifier.shrinkage == 0 and self._eigen.is_singular(self.n_classes):
            good[:] = False
        return good

    def _chunks(self, which: np.ndarray) -> Iterator[np.ndarray]:
        n, d = self.train.shape[0], min(self.train.shape)
        each = 8 * self.n_classes * (3 * d + 2 * n + 4 * len(self.test) + 2 * len(self.sizes))
        step = max(1, _CHUNK_BYTES // each)
        for start in range(0, len(which), step):
            yield which[start : start + step]

    def _solve(self, labels: np.ndarray) -> np.ndarray:
        if self.select is not None:
            return self._solve_selected(labels)
        if isinstance(self.classifier, RidgeClassifier):
            scores = ridge_scores(self._eigen, labels, self.n_classes, self.classifier.alpha)
            return ridge_probabilities(scores)
        scores = lda_scores(self._eigen, labels, self.n_classes, self.classifier)
        return softmax(scores, axis=1).transpose(0, 2, 1)

    @cached_property
    def _front(self) -> tuple[np.ndarray, np.ndarray]:
        """Training and test samples behind the steps before the classifier and the selection."""
        train, test = self.train, self.test
        for _, step in self.pipeline.steps[:-1]:
            if not isinstance(step, TopVoxels):
                fitted = clone(step)
                train = fitted.fit_transform(train)
                test = fitted.transform(test)
        return train, test

    @cached_property
    def _coordinates(self) -> "Coordinates":
        train, test = self._front
        n_voxels = train.shape[1]
        if n_voxels > len(train):
            gram = GramCoordinates()
            values = gram.fit_transform(train)
            return Coordinates(values, gram.transform(test), n_voxels, "gram")
        mean = train.mean(axis=0, dtype=np.float64)
        return Coordinates(train - mean, test - mean, n_voxels, "direct")

    @cached_property
    def _eigen(self) -> "Eigen":
        return eigenbasis(self._coordinates, self.slot, self.sizes)

    def _one(self, y: np.ndarray) -> np.ndarray:
        """Fit one labelling by itself; the Gram coordinates are shared where labels allow it."""
        found = np.zeros((len(self.test), self.n_classes))
        present = np.unique(y)
        if len(present) == 1:
            found[:, present[0]] = 1.0
            return found
        last = self.pipeline.steps[-1][1]
        free = [isinstance(step, TakeColumns | VoxelScaler) for _, step in self.pipeline.steps[:-1]]
        if isinstance(last, LinearByGram) and all(free):
            found[:, present] = _fit_in_coordinates(clone(last), self._coordinates, y)
        else:
            found[:, present] = self._fit_alone(y)
        return found

    def _fit_alone(self, y: np.ndarray) -> np.ndarray:
        with sklearn.config_context(enable_metadata_routing=True):
            fitted = clone(self.pipeline)
            routing = fitted.get_metadata_routing()
            given: list[dict[str, np.ndarray]] = [{}, {}]
            for k, method in enumerate(("fit", "predict_proba")):
                if self.subjects is not None and routing.consumes(method, ["subjects"]):
                    given[k] = {"subjects": self.subjects[k]}
            fitted.fit(self.train, y, **given[0])
            return fitted.predict_proba(self.test, **given[1])

    @property
    def _n_selected(self) -> int:
        columns = _step(self.pipeline, TakeColumns)
        n_voxels = self.train.shape[1] if columns is None else len(columns.columns)
        return min(int(self.select.n_voxels), n_voxels)

    @cached_property
    def _selection(self) -> "_Selection":
        """What all selections share; F is of the voxels before they are scaled."""
        train, test = self.train, self.test
        columns, scale = _step(self.pipeline, TakeColumns), _step(self.pipeline, VoxelScaler)
        if columns is not None:
            train, test = train[:, list(columns.columns)], test[:, list(columns.columns)]
        sums = slot_sums(train, self.slot, n_slots=len(self.sizes))
        scaler = None if scale is None else clone(scale).fit(train)
        return _Selection(train, test, sums, scaler, self.slot)

    def _solve_selected(self, labels: np.ndarray) -> np.ndarray:
        shared, found = self._selection, []
        for part, values in f_values(shared.sums, labels, n_classes=self.n_classes):
            for f, own in zip(values, labels[part], strict=True):
                kept = _top_columns(f, shared.sums.constant, self._n_selected)
                found.append(self._solve_columns(shared, kept, own))
        return np.stack(found)

    def _solve_columns(
        self, shared: "_Selection", kept: np.ndarray, labels: np.ndarray
    ) -> np.ndarray:
        train, test = shared.take(kept)
        if len(kept) > len(train):
            gram = GramCoordinates()
            values = gram.fit_transform(train)
            coordinates = Coordinates(values, gram.transform(test), len(kept), "gram")
            last = clone(self.pipeline.steps[-1][1])
            return _fit_in_coordinates(last, coordinates, labels[self.slot])
        scatter = shared.scatter[np.ix_(kept, kept)] if shared.keeps_scatter else train.T @ train
        member = member_matrix(labels[None], self.n_classes)[0]
        counts = member @ self.sizes
        means = (member / counts[:, None]) @ shared.slot_sums_of(kept, train)
        if isinstance(self.classifier, RidgeClassifier):
            scatter.flat[:: len(scatter) + 1] += self.classifier.alpha
            half = solve_positive(scatter, (counts[:, None] * means).T)
            scores = 2 * (test @ half + counts / counts.sum()) - 1
            return ridge_probabilities(scores.T[None])[0]
        y = labels[self.slot]
        scores = lda_alone(scatter, means, counts, train, test, y, self.classifier)
        return softmax(scores, axis=1)


class _Selection:
    """Samples of which each labelling takes its own columns, and their shared sums."""

    def __init__(
        self,
        train: np.ndarray,
        test: np.ndarray,
        sums: SlotSums,
        scaler: VoxelScaler | None,
        slot: np.ndarray,
    ) -> None:
        self.train, self.test, self.sums, self.slot = train, test, sums, slot
        self.scaler = scaler
        self.keeps_scatter = 8 * train.shape[1] ** 2 <= _SCATTER_BYTES

    def take(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return chosen columns of both, scaled, in float64, around the training samples' mean."""
        if self.keeps_scatter:
            train, test = self._whole
            return np.take(train, kept, axis=1), np.take(test, kept, axis=1)
        return self._scaled(kept)

    def slot_sums_of(self, kept: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Return sums of the chosen columns over slots; `train` are these columns."""
        return self._whole_sums[:, kept] if self.keeps_scatter else sum_slots(train, self.slot)

    def _scaled(self, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.take(part, kept, axis=1) for part in (self.train, self.test)]
        if self.scaler is not None:
            own = clone(self.scaler)
            own.n_features_in_ = len(kept)
            own.mean_, own.scale_ = self.scaler.mean_[kept], self.scaler.scale_[kept]
            parts = [own.transform(part) for part in parts]
        mean = parts[0].mean(axis=0, dtype=np.float64)
        return parts[0] - mean, parts[1] - mean

    @cached_property
    def _whole(self) -> tuple[np.ndarray, np.ndarray]:
        return self._scaled(np.arange(self.train.shape[1]))

    @cached_property
    def _whole_sums(self) -> np.ndarray:
        return sum_slots(self._whole[0], self.slot)

    @cached_property
    def scatter(self) -> np.ndarray:
        """Total scatter of all columns."""
        return self._whole[0].T @ self._whole[0]


def _top_columns(f: np.ndarray, constant: np.ndarray, n_kept: int) -> np.ndarray:
    """Return the columns of the highest F, ascending, as `TopVoxels` ranks them."""
    score = np.where(constant, -1.0, f)
    limit = np.partition(score, len(score) - n_kept)[len(score) - n_kept]
    above = np.flatnonzero(score > limit)
    equal = np.flatnonzero(score == limit)[: n_kept - len(above)]
    return np.sort(np.concatenate([above, equal]))


def _fit_in_coordinates(
    classifier: LinearByGram, coordinates: Coordinates, y: np.ndarray
) -> np.ndarray:
    """Fit on coordinates that stand for the voxels; weights never go back to them."""
    train = coordinates.train
    standing = np.broadcast_to(0.0, (len(train), coordinates.n_voxels))
    own = (train, np.array, np.zeros(train.shape[1]), coordinates.route)
    classifier.fit_in(standing, y, coordinates=own)
    scores = coordinates.test @ classifier.coef_.T + classifier.intercept_
    return as_probabilities(scores[:, 0] if len(classifier.coef_) == 1 else scores)


def _step(pipeline: Pipeline, kind: type) -> BaseEstimator | None:
    return next((step for _, step in pipeline.steps if isinstance(step, kind)), None)


def _exact_classifier(pipeline: Pipeline) -> BaseEstimator | None:
    """Return the classifier of a pipeline of the form [columns] [select] [scale] LDA or ridge."""
    *front, last = (step for _, step in pipeline.steps)
    kinds = [type(step) for step in front]
    order = [kind for kind in (TakeColumns, TopVoxels, VoxelScaler) if kind in kinds]
    by_subject = any(isinstance(step, TopVoxels) and step.by != "group" for step in front)
    if kinds != order or by_subject or not isinstance(last, LinearByGram):
        return None
    inner = last.classifier
    plain = isinstance(inner, RidgeClassifier) and inner.fit_intercept and not inner.positive
    usual = getattr(inner, "class_weight", None) in (None, "balanced")
    return inner if usual and (plain or isinstance(inner, ShrunkLda)) else None

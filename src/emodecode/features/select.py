"""Choose voxels: by one-way ANOVA on the training samples, or by name."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import InputError
from emodecode.features.anova import anova
from emodecode.features.scale import check_width


class TopVoxels(TransformerMixin, BaseEstimator):
    """Keep the voxels whose signal differs most between the classes (one-way ANOVA).

    A supervised step: it belongs into a Pipeline that is refitted in every fold. Voxels that are
    constant in the training samples rank behind all others.

    Parameters
    ----------
    n_voxels : int, default 300
        How many to keep (S2's number); with at least as many as there are, all are kept.
    by : {"group", "subject"}, default "group"
        ``"group"``: F over all training samples. ``"subject"``: F within each training subject;
        a voxel's score is the mean over subjects of its rank within the subject, divided by the
        number of voxels (1: the highest F in every subject). So no subject counts for more
        because of its scale or its number of samples, and differences between subjects count for
        nothing. Tied voxels get their mean rank. Subjects with fewer than two classes are left
        out.
    chunk_voxels : int, default 4096
        Columns that are read at once.

    Attributes
    ----------
    indices_ : ndarray of int
        Kept columns, ascending; `transform` only takes them.
    scores_ : ndarray of shape (n_voxels_in,)
        F (``by="group"``) or consensus rank in (0, 1] (``by="subject"``) of every column.
    p_values_ : ndarray of shape (n_voxels_in,) or None
        p-value of each F; ``None`` for ``by="subject"``.
    stability_ : ndarray of shape (n_voxels_in,) or None
        ``by="subject"``: share of the subjects for whom the column is among their own best
        `n_voxels`.
    n_constant_ : int
        Kept columns that are constant in training: more were asked for than vary.

    References
    ----------
    S2 selected 300 voxels by ANOVA (spec S2.7), per subject in its code, per group in its text.
    """

    def __init__(self, n_voxels: int = 300, *, by: str = "group", chunk_voxels: int = 4096):
        self.n_voxels = n_voxels
        self.by = by
        self.chunk_voxels = chunk_voxels

    def fit(
        self, X: np.ndarray, y: np.ndarray, *, subjects: np.ndarray | None = None
    ) -> "TopVoxels":
        """Score every column and keep the best.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_voxels_in)
            May be a read-only memory map.
        y : ndarray of shape (n_samples,)
            Labels.
        subjects : ndarray of shape (n_samples,), optional
            Subject of each sample; needed for ``by="subject"`` only.

        Raises
        ------
        InputError
            Values that are not finite, fewer than two classes, no `subjects`, or parameters out
            of range.
        """
        self._check_parameters()
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        self.n_features_in_ = X.shape[1]
        self.p_values_: np.ndarray | None = None
        self.stability_: np.ndarray | None = None
        if self.by == "group":
            found = anova(X, y, chunk_voxels=self.chunk_voxels)
            self.scores_, self.p_values_, constant = found
            order = _ranked(found.f_values, constant)
        else:
            constant = self._score_by_subject(X, np.asarray(y), subjects)
            order = _ranked(self.scores_, constant)
        self.indices_ = np.sort(order[: self.n_voxels])
        self.n_constant_ = int(constant[self.indices_].sum())
        return self

    def fit_transform(
        self, X: np.ndarray, y: np.ndarray, *, subjects: np.ndarray | None = None
    ) -> np.ndarray:
        """Fit and keep the best columns; a Pipeline hands `subjects` on only to this method."""
        return self.fit(X, y, subjects=subjects).transform(X)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Take the kept columns: (n_samples, n_voxels_in) -> (n_samples, n_selected)."""
        check_is_fitted(self, "indices_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        if len(self.indices_) == self.n_features_in_:
            return X
        return np.take(X, self.indices_, axis=1)

    def get_support(self, indices: bool = False) -> np.ndarray:
        """Return the kept columns as a boolean mask, or as `indices`."""
        check_is_fitted(self, "indices_")
        return self.indices_ if indices else _as_mask(self.indices_, self.n_features_in_)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the kept columns (``x17`` where they have none)."""
        check_is_fitted(self, "indices_")
        return _names(input_features, self.n_features_in_)[self.indices_]

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Spread weights over all columns that came in, zero where a column was not kept."""
        return _scatter(coef, self.indices_, self.n_features_in_), intercept

    def _score_by_subject(self, X, y, subjects) -> np.ndarray:
        if subjects is None:
            raise InputError(
                'TopVoxels(by="subject")',
                found="no subjects",
                expected="the subject of every sample",
                remedy="Pass fit(X, y, subjects=...), or select_by = 'group'.",
            )
        subjects = np.asarray(subjects)
        ranks, own, n_used = np.zeros(X.shape[1]), np.zeros(X.shape[1]), 0
        constant = np.ones(X.shape[1], dtype=bool)
        for subject in np.unique(subjects):
            rows = np.flatnonzero(subjects == subject)
            if not 2 <= len(np.unique(y[rows])) < len(rows):
                continue
            found = anova(X, y, rows=rows, chunk_voxels=self.chunk_voxels)
            ranks += rankdata(np.where(found.constant, -1.0, found.f_values))
            own[_ranked(found.f_values, found.constant)[: self.n_voxels]] += 1
            constant &= found.constant
            n_used += 1
        if not n_used:
            raise InputError(
                'TopVoxels(by="subject")',
                found="no training subject with two classes or more",
                expected="at least one",
                remedy='Use select_by = "group" for data with one class a subject.',
            )
        self.scores_ = ranks / (n_used * X.shape[1])
        self.stability_ = own / n_used
        return constant

    def _check_parameters(self) -> None:
        if isinstance(self.n_voxels, bool) or int(self.n_voxels) < 1:
            raise _bad_parameter("n_voxels", self.n_voxels, "a whole number from 1")
        if self.by not in ("group", "subject"):
            raise _bad_parameter("by", self.by, "'group' or 'subject'")


class TakeColumns(TransformerMixin, BaseEstimator):
    """Keep the named columns of a table of features.

    Parameters
    ----------
    columns : sequence of int
        Column numbers, in the order in which they are wanted.
    """

    def __init__(self, columns: Sequence[int]):
        self.columns = columns

    def fit(self, X, y=None) -> "TakeColumns":
        self.n_features_in_ = X.shape[1]
        self.indices_ = np.asarray(self.columns, dtype=np.intp)
        if not len(self.indices_) or not np.isin(self.indices_, np.arange(X.shape[1])).all():
            raise _bad_parameter("columns", self.columns, f"numbers from 0 to {X.shape[1] - 1}")
        return self

    def transform(self, X) -> np.ndarray:
        check_is_fitted(self, "indices_")
        check_width(X, self.n_features_in_)
        return np.take(X, self.indices_, axis=1)

    def get_feature_names_out(self, input_features: Sequence[str] | None = None) -> np.ndarray:
        """Return the names of the kept columns."""
        return _names(input_features, self.n_features_in_)[self.indices_]

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Spread weights over all columns that came in."""
        return _scatter(coef, self.indices_, self.n_features_in_), intercept


def _ranked(scores: np.ndarray, constant: np.ndarray) -> np.ndarray:
    """Columns from the highest score to the lowest, constant ones last, ties by column."""
    return np.lexsort((-scores, constant))


def _scatter(coef: np.ndarray, indices: np.ndarray, n_columns: int) -> np.ndarray:
    spread = np.zeros((n_columns, len(coef)))
    np.add.at(spread, indices, coef.T)
    return spread.T


def _as_mask(indices: np.ndarray, n_columns: int) -> np.ndarray:
    mask = np.zeros(n_columns, dtype=bool)
    mask[indices] = True
    return mask


def _names(given: Sequence[str] | None, n_columns: int) -> np.ndarray:
    if given is None:
        return np.asarray([f"x{column}" for column in range(n_columns)], dtype=object)
    return np.asarray(given, dtype=object)


def _bad_parameter(name: str, value: object, expected: str) -> InputError:
    return InputError(
        f"parameter {name}",
        found=f"{name} = {str(value)[:60]}",
        expected=expected,
        remedy=f"Correct {name} in the study.",
    )

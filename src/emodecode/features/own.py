"""OwnVoxels: each subject's own best voxels, as S2's published code chose them."""

import copy

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import InputError, NotCalibratedError
from emodecode.features.anova import anova
from emodecode.features.scale import check_width


class OwnVoxels(TransformerMixin, BaseEstimator):
    """Keep, in each subject, the voxels whose signal differs most between the classes.

    One-way ANOVA on a subject's own labelled samples. The columns of different subjects are
    different voxels, so only a functional alignment can follow; and a new subject needs labelled
    samples of its own (`adapt`). S2's code fitted it on all samples, test subjects included, which
    is a leak: voxels chosen so on noise decode the labels that chose them.

    Parameters
    ----------
    n_voxels : int, default 300
        How many to keep in each subject.

    Attributes
    ----------
    indices_ : dict of str to ndarray of int
        Kept columns of each subject, ascending.

    References
    ----------
    S2, the notebook that made its published features (spec S2.7).
    """

    def __init__(self, n_voxels: int = 300):
        self.n_voxels = n_voxels

    def fit(self, X: np.ndarray, y: np.ndarray, *, subjects: np.ndarray) -> "OwnVoxels":
        """Choose every subject's voxels by its own labels.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_voxels_in)
        y : ndarray of shape (n_samples,)
        subjects : ndarray of shape (n_samples,)

        Raises
        ------
        InputError
            A subject with fewer than two classes, or fewer voxels than are to be kept.
        """
        X, subjects = np.asarray(X), np.asarray(subjects, dtype=str)
        self.n_features_in_ = X.shape[1]
        if not 1 <= self.n_voxels <= X.shape[1]:
            raise InputError(
                "features.n_voxels",
                found=f"n_voxels = {self.n_voxels}, of {X.shape[1]} voxels",
                expected=f"a number from 1 to {X.shape[1]}",
                remedy="Correct features.n_voxels.",
            )
        self.indices_ = {
            str(subject): self._best(X, np.asarray(y), np.flatnonzero(subjects == subject), subject)
            for subject in np.unique(subjects)
        }
        return self

    def fit_transform(self, X: np.ndarray, y: np.ndarray, *, subjects: np.ndarray) -> np.ndarray:
        """Fit and keep; a Pipeline hands `subjects` on only to this method."""
        return self.fit(X, y, subjects=subjects).transform(X, subjects=subjects)

    def transform(self, X: np.ndarray, *, subjects: np.ndarray) -> np.ndarray:
        """Keep each subject's own voxels: (n_samples, n_voxels_in) -> (n_samples, n_voxels).

        Raises
        ------
        NotCalibratedError
            A subject whose voxels were not chosen.
        """
        check_is_fitted(self, "indices_")
        X, subjects = np.asarray(X), np.asarray(subjects, dtype=str)
        check_width(X, self.n_features_in_)
        kept = np.empty((len(X), self.n_voxels), dtype=X.dtype)
        for subject in np.unique(subjects):
            if subject not in self.indices_:
                raise NotCalibratedError(
                    f"own voxels of sub-{subject}",
                    found="no voxels were chosen for this subject",
                    expected="labelled samples of every subject",
                    remedy="Adapt the step to labelled samples of the subject, or use "
                    'features.select_by = "group".',
                )
            rows = np.flatnonzero(subjects == subject)
            kept[rows] = X[np.ix_(rows, self.indices_[subject])]
        return kept

    def adapt(self, X: np.ndarray, y: np.ndarray, subject: str) -> "OwnVoxels":
        """Return a copy that knows a new subject's voxels too, chosen by its labelled samples."""
        adapted = copy.copy(self)
        X, y = np.asarray(X), np.asarray(y)
        own = self._best(X, y, np.arange(len(X)), subject)
        adapted.indices_ = self.indices_ | {str(subject): own}
        return adapted

    def _best(self, X: np.ndarray, y: np.ndarray, rows: np.ndarray, subject: str) -> np.ndarray:
        if not 2 <= len(np.unique(y[rows])) < len(rows):
            raise InputError(
                f"own voxels of sub-{subject}",
                found=f"{len(rows)} samples of {len(np.unique(y[rows]))} class",
                expected="two classes or more",
                remedy='Use features.select_by = "group".',
            )
        found = anova(X, y, rows=rows)
        order = np.lexsort((-found.f_values, found.constant))
        return np.sort(order[: self.n_voxels])

"""CommonSpace: the step of a pipeline that takes every subject into one space."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.align.frozen import (
    Choices,
    Mapped,
    Space,
    bad_parameter,
    fit_space,
    fit_to_space,
    naming_subjects,
)
from emodecode.align.keyed import KeyedRows, as_keys, common_keys, keyed_rows, refuse_few_keys
from emodecode.align.linearmap import LinearMap
from emodecode.align.piecewise import PieceMap, piece_columns, put_together
from emodecode.errors import InputError, NotCalibratedError
from emodecode.features.scale import check_width


class CommonSpace(TransformerMixin, BaseEstimator):
    """Find what the training subjects share and map every subject into it.

    A subject-aware step: `fit` sees the training subjects' alignment data and freezes a template;
    `adapt` maps a new subject to it. What it is fitted on is not what it transforms: rows of other
    runs, class means of a calibration run, connectivity (see `emodecode.evaluate.alignment`).

    Parameters
    ----------
    method : {"hyperalignment", "template", "srm"}, default "hyperalignment"
        How the template is made: `hyperalign`, `mean_template` or `shared_response`.
    map : {"orthogonal", "ridge", "promises"}, default "ridge"
        How a subject is mapped to it, see `fit_map`. Ridge finds other subjects again best, on
        simulated and on real data (docs/alignment.md). Orthogonal is level 3 of hyperalignment, or
        the orthonormal basis of the shared response model.
    shrinkage : float > 0 or "auto", default "auto"
        Of "ridge" and "promises", see `fit_map`; "auto" chooses one for all training subjects (and
        each piece) by inner folds over blocks of consecutive keys; new subjects get the same.
    n_components : int, optional
        Dimensions that come out: of "srm" (default 50, or what the data allow), or the first
        principal axes of the template (of the mean of the aligned data, as `output_dim` of
        `hyperalign`). None: as many as voxels.
    level2_niter : int, default 1
        Sweeps of level 2 of hyperalignment; passes of "template".
    scaling, reflection : bool, default True
        As in `procrustes`; of no effect for "ridge" and for "srm".
    alpha : float in [0, 1], default 1
        As in `hyperalign`, which it is for; with other maps than "orthogonal" it forms the
        template only.
    zscore_common : bool, default True
        As in `hyperalign`; also for "template".
    pieces : ndarray of shape (n_voxels,) of int, or list of ndarray of int, optional
        Parcel of each voxel (0: in none, passes unaligned), or columns of searchlights that may
        overlap (their maps are averaged). Each piece gets a common space of its own.

    Attributes
    ----------
    keys_ : ndarray of shape (n_keys,)
        Keys that every training subject has, in the order of their names (numbers as numbers).
    template_ : ndarray of shape (n_keys, n_common), float64
        The frozen common space; put together from the pieces.
    spaces_ : list of Space
        One, or one a piece.
    maps_ : dict of subject -> LinearMap or PieceMap
    shrinkage_ : dict of subject -> float or None
        Used for the subject, the median over pieces; None for "orthogonal".
    constant_ : dict of subject -> ndarray of int
        Columns that do not vary in the subject's alignment data.
    n_features_in_ : int
    """

    def __init__(
        self,
        *,
        method: str = "hyperalignment",
        map: str = "ridge",
        shrinkage: float | str = "auto",
        n_components: int | None = None,
        level2_niter: int = 1,
        scaling: bool = True,
        reflection: bool = True,
        alpha: float = 1.0,
        zscore_common: bool = True,
        pieces: np.ndarray | Sequence[np.ndarray] | None = None,
    ):
        self.method = method
        self.map = map
        self.shrinkage = shrinkage
        self.n_components = n_components
        self.level2_niter = level2_niter
        self.scaling = scaling
        self.reflection = reflection
        self.alpha = alpha
        self.zscore_common = zscore_common
        self.pieces = pieces

    def fit(self, X: np.ndarray, y: Sequence, *, subjects: np.ndarray) -> "CommonSpace":
        """Build the common space of the subjects and map each of them to it.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_voxels)
            May be a read-only memory map. The order of the rows does not matter.
        y : sequence of n_rows keys
            What each row shows: rows of different subjects with the same key correspond. Rows of
            one subject with the same key are averaged; keys that not every subject has are left
            out.
        subjects : ndarray of shape (n_rows,)
            Subject of each row.

        Raises
        ------
        InputError
            Fewer than two subjects, fewer than three keys that all of them have, parameters out
            of range, and what the method refuses.
        """
        X, keys, subjects = _checked(X, y, subjects)
        choices, pieces = self._choices(), piece_columns(self.pieces, X.shape[1])
        self.n_features_in_ = X.shape[1]
        self.keys_ = common_keys(keys, subjects)
        names = [str(name) for name in np.unique(subjects)]
        rows = {name: np.flatnonzero(subjects == name) for name in names}
        data = {name: keyed_rows(X, keys, self.keys_, rows[name])[1] for name in names}
        self.spaces_: list[Space] = []
        found: dict[str, list[Mapped]] = {name: [] for name in names}
        for columns, where in _each(pieces):
            parts = [data[name].means(columns) for name in names]
            with _naming(where), naming_subjects(names, parts):
                space, maps = fit_space(parts, choices)
            self.spaces_.append(space)
            for name, each in zip(names, maps, strict=True):
                found[name].append(each)
        self.template_ = _whole(self.spaces_, pieces, X.shape[1])
        self.maps_: dict[str, LinearMap | PieceMap] = {}
        self.shrinkage_: dict[str, float | None] = {}
        self.constant_: dict[str, np.ndarray] = {}
        for name in names:
            self._know(name, found[name], data[name], pieces)
        return self

    def fit_transform(self, X: np.ndarray, y: Sequence, *, subjects: np.ndarray) -> np.ndarray:
        """Fit and take the same rows into the common space."""
        return self.fit(X, y, subjects=subjects).transform(X, subjects=subjects)

    def transform(self, X: np.ndarray, *, subjects: np.ndarray) -> np.ndarray:
        """Take each subject's rows through its own map.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_voxels)
        subjects : ndarray of shape (n_rows,)

        Returns
        -------
        ndarray of shape (n_rows, n_common); float32 for float32

        Raises
        ------
        NotCalibratedError
            A subject without a map.
        """
        check_is_fitted(self, "maps_")
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        check_width(X, self.n_features_in_)
        subjects = np.asarray(subjects).astype(str)
        _check_length(len(X), subjects=subjects)
        names = np.unique(subjects)
        for name in names:
            if str(name) not in self.maps_:
                raise self._not_calibrated(str(name))
        if len(names) == 1:
            return self.maps_[str(names[0])](X)
        kind = np.float32 if X.dtype == np.float32 else np.float64
        n_common = next(iter(self.maps_.values())).n_common
        mapped = np.empty((len(X), n_common), dtype=kind)
        for name in names:
            rows = np.flatnonzero(subjects == name)
            mapped[rows] = self.maps_[str(name)](X[rows])
        return mapped

    def adapt(self, X: np.ndarray, y: Sequence, subject: str) -> "CommonSpace":
        """Return a copy that also knows this subject; the common space stays as it is.

        Parameters
        ----------
        X : ndarray of shape (n_rows, n_voxels)
            Alignment data of the subject.
        y : sequence of n_rows keys
            As in `fit`; keys that are not in `keys_` are left out.
        subject : str

        Raises
        ------
        InputError
            Fewer than three keys of `keys_`.
        """
        check_is_fitted(self, "maps_")
        subject = str(subject)
        X, keys, _ = _checked(X, y, np.full(len(X), subject), like=self.keys_)
        check_width(X, self.n_features_in_)
        present, data = keyed_rows(X, keys, self.keys_, np.arange(len(X)))
        refuse_few_keys(subject, len(present), len(self.keys_))
        choices, pieces = self._choices(), piece_columns(self.pieces, self.n_features_in_)
        found = []
        for space, (columns, where) in zip(self.spaces_, _each(pieces), strict=True):
            part = data.means(columns)
            with _naming(where), naming_subjects([subject], [part]):
                found.append(fit_to_space(part, space.take(present), choices))
        new = copy.copy(self)
        new.maps_, new.shrinkage_ = dict(self.maps_), dict(self.shrinkage_)
        new.constant_ = dict(self.constant_)
        new._know(subject, found, data, pieces)
        return new

    def weights_to_input(
        self, coef: np.ndarray, intercept: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean over the known subjects of the weights taken back to their voxels.

        Parameters
        ----------
        coef : ndarray of shape (n_classes, n_common)
        intercept : ndarray of shape (n_classes,)
        """
        check_is_fitted(self, "maps_")
        back = [each.weights_to_input(coef, intercept) for each in self.maps_.values()]
        weights, offsets = zip(*back, strict=True)
        return np.mean(weights, axis=0), np.mean(offsets, axis=0)

    def _know(
        self,
        subject: str,
        found: list[Mapped],
        data: KeyedRows,
        pieces: list[np.ndarray] | None,
    ) -> None:
        """Keep a subject's maps, the shrinkage behind them and its constant columns."""
        maps, chosen = zip(*found, strict=True)
        n_voxels = self.n_features_in_
        self.maps_[subject] = maps[0] if pieces is None else PieceMap(pieces, maps, n_voxels)
        used = [value for value in chosen if value is not None]
        self.shrinkage_[subject] = float(np.median(used)) if used else None
        self.constant_[subject] = data.constant()

    def _not_calibrated(self, subject: str) -> NotCalibratedError:
        known = ", ".join(self.maps_)
        return NotCalibratedError(
            f"alignment: sub-{subject}",
            found="no map from this subject's voxels into the common space",
            expected=f"one of the subjects that the step knows ({known})",
            remedy="Call adapt(X, y, subject) with data that align.protocol allows: a time-locked "
            "run that is not tested (independent_run), or a calibration run (calibration_blocks).",
        )

    def _choices(self) -> Choices:
        wanted = self.get_params(deep=False)
        pieces = wanted.pop("pieces")
        if pieces is not None and (self.method == "srm" or self.n_components is not None):
            raise bad_parameter(
                "pieces",
                f"given, with method = {self.method}, n_components = {self.n_components}",
                "hyperalignment or template, as many dimensions as voxels (no n_components)",
            )
        return Choices(**wanted)


def _checked(
    X: np.ndarray, y: Sequence, subjects: np.ndarray, *, like: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X = X if isinstance(X, np.ndarray) else np.asarray(X)
    if X.ndim != 2:
        check_width(X, -1)
    keys, names = as_keys(y, like=like), np.asarray(subjects).astype(str)
    _check_length(len(X), keys=keys, subjects=names)
    return X, keys, names


def _check_length(n_rows: int, **given: np.ndarray) -> None:
    for name, values in given.items():
        if values.shape != (n_rows,):
            raise InputError(
                "alignment",
                found=f"{name} of shape {values.shape} for {n_rows} rows of data",
                expected="one for each row",
                remedy="Pass the rows of the same table.",
            )


def _each(pieces: list[np.ndarray] | None) -> Iterator[tuple[np.ndarray | None, str]]:
    """Columns of each piece and how an error names it."""
    if pieces is None:
        yield None, ""
        return
    for number, columns in enumerate(pieces, start=1):
        yield columns, f"piece {number} ({len(columns)} voxels, the first is {columns[0]}): "


@contextmanager
def _naming(where: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if not where:
            raise
        raise InputError(
            where + error.where, found=error.found, expected=error.expected, remedy=error.remedy
        ) from error


def _whole(spaces: list[Space], pieces: list[np.ndarray] | None, n_voxels: int) -> np.ndarray:
    if pieces is None:
        return spaces[0].template
    return put_together([space.template for space in spaces], pieces, n_voxels)

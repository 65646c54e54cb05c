"""Contract: what a decoder takes, and how a new run becomes the features that it was trained on."""

import fnmatch
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import ContractError, InputError
from emodecode.prepare import GRID_TOLERANCE, masked
from emodecode.read.files import open_image, require_file
from emodecode.read.sidecars import TR_SHARE, TR_STEP_S, read_confounds_table, repetition_time
from emodecode.run import Run

FEATURES = ("voxels", "parcels", "columns")
"""Voxels of the mask, means over parcels of them, columns of a table."""


@dataclass(frozen=True, eq=False)
class Contract:
    """What a decoder takes.

    Parameters
    ----------
    classes : tuple of str
        In the order of the probabilities.
    features : {"voxels", "parcels", "columns"}
    n_features : int
    names : tuple of str, optional
        Of parcels or columns.
    mask : 3-D image, optional
        Its True voxels, in C order, are the voxels; None for columns of a table.
    parcels : 3-D image of int, optional
        Label of each voxel on the grid of the mask, 0: in none.
    tr_s : float, optional
        None for columns of a table.
    dummies : int
        Volumes at the beginning of a run that are skipped.
    clean : dict, optional
        Arguments of `emodecode.features.clean.clean_run`.
    smoothing_mm : float, optional
    confounds : tuple of str
        Columns of the confounds table that are removed, globs allowed.
    centre : {"none", "run", "subject"}
    lag_s : float
        Haemodynamic lag of the labels: a volume tells about the moment `lag_s` before it. 0 for
        labels that came with the volumes.
    hrf : bool
        The labels were weighted by the haemodynamic response instead.
    """

    classes: tuple[str, ...]
    features: str
    n_features: int
    names: tuple[str, ...] | None = None
    mask: SpatialImage | None = field(default=None, repr=False)
    parcels: SpatialImage | None = field(default=None, repr=False)
    tr_s: float | None = None
    dummies: int = 0
    clean: dict[str, Any] | None = None
    smoothing_mm: float | None = None
    confounds: tuple[str, ...] = ()
    centre: str = "none"
    lag_s: float = 0.0
    hrf: bool = False

    @property
    def is_causal(self) -> bool:
        """Whether a volume's features depend on no later volume of its run."""
        clean = self.clean or {}
        whole = clean.get("detrend") or clean.get("high_pass_hz") or clean.get("low_pass_hz")
        by_run = clean.get("standardize") == "run" or self.centre != "none"
        return not (whole or by_run or self.confounds)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Voxels of a volume, None for columns of a table."""
        return None if self.mask is None else tuple(int(size) for size in self.mask.shape)

    def to_json(self) -> dict[str, Any]:
        """Return all but the images as plain values."""
        affine = None if self.mask is None else np.asarray(self.mask.affine).tolist()
        return {
            "classes": list(self.classes),
            "features": self.features,
            "n_features": self.n_features,
            "names": None if self.names is None else list(self.names),
            "shape": None if self.shape is None else list(self.shape),
            "affine": affine,
            "tr_s": self.tr_s,
            "dummies": self.dummies,
            "clean": self.clean,
            "smoothing_mm": self.smoothing_mm,
            "confounds": list(self.confounds),
            "centre": self.centre,
            "lag_s": self.lag_s,
            "hrf": self.hrf,
            "causal": self.is_causal,
        }

    def open_run(
        self,
        image: str | Path | SpatialImage,
        *,
        tr_s: float | None = None,
        subject: str = "n/a",
        confounds: str | Path | pd.DataFrame | None = None,
    ) -> Run:
        """Check a run against the contract; no voxel is read.

        Parameters
        ----------
        image : path or image
            4-D, or one volume where the features of a volume depend on no other (`is_causal`).
        tr_s : float, optional
            Repetition time, where the header has none or a wrong one.
        subject : str
        confounds : path or DataFrame, optional
            Table with one row a volume of the file; needed where `confounds` names columns.

        Raises
        ------
        ContractError
            Another shape, affine or TR, a single volume that cannot be cleaned, confounds that
            are missing.
        InputError
            A file that cannot be read.
        """
        where = "image"
        if isinstance(image, str | Path):
            where = str(image)
            require_file(Path(image))
            image = open_image(Path(image))
        self._check_grid(image, where)
        single = len(image.shape) == 3 or image.shape[3] == 1
        if single:
            self._check_single(where)
            tr_s = self.tr_s if tr_s is None else tr_s
            volume = np.asanyarray(image.dataobj).reshape(*image.shape[:3], 1)
            image = nib.Nifti1Image(volume, image.affine)
        assert self.tr_s is not None
        return Run(
            subject=subject,
            tr_s=self._checked_tr(image, tr_s, where),
            image=image,
            dummies=0 if single else self.dummies,
            confounds=self._read_confounds(confounds, where),
            source=None if where == "image" else Path(where),
        )

    def prepare(self, run: Run) -> np.ndarray:
        """Return the features of all volumes of a run: masked, cleaned and averaged as in training.

        Returns
        -------
        ndarray of shape (n_volumes, n_features), float32
        """
        assert self.mask is not None
        from emodecode.features.clean import clean_run

        values = masked(run, self.mask, smoothing_mm=self.smoothing_mm)
        if self.clean is not None and run.n_volumes == 1 and self.is_causal:
            values = _by_volume(values) if self.clean["standardize"] == "volume" else values
        elif self.clean is not None:
            kept = None if run.confounds is None else run.confounds.iloc[run.dummies :]
            values = clean_run(values, tr_s=run.tr_s, confounds=kept, where=run.name, **self.clean)
        if self.parcels is not None:
            from emodecode.features.parcels import Parcels

            values = Parcels(self.parcels, mask_img=self.mask).fit().transform(values)
        if self.centre != "none":
            values = values - values.mean(axis=0, dtype=np.float64).astype(np.float32)
        return values

    def check_features(self, X: np.ndarray) -> np.ndarray:
        """Return features as an array, refused where they are not those of the contract.

        Raises
        ------
        ContractError
            Another shape, or values that are not finite.
        """
        X = X if isinstance(X, np.ndarray) else np.asarray(X)
        found = None
        with np.errstate(invalid="ignore", over="ignore"):
            total = X.sum(dtype=np.float64) if X.dtype.kind in "iuf" else 0.0
        if not len(X):
            found = "no sample"
        elif X.dtype.kind not in "iuf":
            found = f"values of type {X.dtype}"
        elif X.ndim != 2 or X.shape[1] != self.n_features:
            found = f"data of shape {X.shape}"
        elif not np.isfinite(total):
            found = f"{int((~np.isfinite(X)).sum())} values that are not finite"
        if found is None:
            return X
        raise ContractError(
            "features",
            found=found,
            expected=f"finite numbers, (n_samples, {self.n_features}): the {self.features} of "
            "decoder.json",
            remedy="Prepare them as the decoder says (Decoder.predict takes images), or train a "
            "decoder on what you have.",
        )

    def _check_grid(self, image: SpatialImage, where: str) -> None:
        if self.mask is None or self.tr_s is None:
            raise ContractError(
                where,
                found="an image",
                expected=f"the {self.n_features} columns of the tables that the decoder was "
                "trained on",
                remedy="Call emodecode.decoder.Decoder.predict with a matrix of these columns.",
            )
        remedy = "Resample it to the decoder's grid (mask.nii.gz in its folder), in the same space."
        if len(image.shape) not in (3, 4) or image.shape[:3] != self.shape:
            raise ContractError(
                where,
                found=f"volumes of shape {tuple(map(int, image.shape[:3]))} ({image.ndim}-D)",
                expected=f"{self.shape}, 3-D or 4-D",
                remedy=remedy,
            )
        affine = np.asarray(image.affine)
        if not np.allclose(affine, self.mask.affine, rtol=0, atol=GRID_TOLERANCE):
            raise ContractError(
                where,
                found=f"the affine {np.round(affine[:3], 3).tolist()}",
                expected=f"{np.round(self.mask.affine[:3], 3).tolist()}",
                remedy=remedy,
            )

    def _check_single(self, where: str) -> None:
        if not self.is_causal:
            raise ContractError(
                where,
                found="a single volume",
                expected="the whole run (4-D): the decoder's signals are cleaned over the run",
                remedy="Give the run, or train with features.clean that needs no other volume "
                '(detrend = false, high_pass_hz = 0, standardize = "volume" or "none").',
            )

    def _checked_tr(self, image: SpatialImage, tr_s: float | None, where: str) -> float:
        assert self.tr_s is not None
        try:
            found, _ = repetition_time(image, {}, tr_s=tr_s, where=where)
        except InputError as error:
            raise ContractError(
                where,
                found="no repetition time in the header",
                expected=f"{self.tr_s:g} s",
                remedy=f"State it: --tr-s {self.tr_s:g} (tr_s in Python).",
            ) from error
        if abs(found - self.tr_s) > min(TR_SHARE * self.tr_s, TR_STEP_S):
            raise ContractError(
                where,
                found=f"a repetition time of {found:g} s"
                + (" (in the header)" if tr_s is None else " (as stated)"),
                expected=f"{self.tr_s:g} s, as in training",
                remedy="If the header is wrong, state the true one with --tr-s (tr_s in Python); "
                "else train a decoder on runs with this repetition time.",
            )
        return found

    def _read_confounds(
        self, given: str | Path | pd.DataFrame | None, where: str
    ) -> pd.DataFrame | None:
        if not self.confounds:
            if given is None:
                return None
            raise ContractError(
                where,
                found="a table of confounds",
                expected="none: the decoder was trained on signals without any removed",
                remedy="Leave the table out.",
            )
        if given is None:
            raise self._no_confounds(where, "no table of confounds")
        if isinstance(given, pd.DataFrame):
            names = [str(name) for name in given]
            missing = [name for name in self.confounds if not fnmatch.filter(names, name)]
            if missing:
                raise self._no_confounds(where, f"a table without {', '.join(missing)}")
            return given[[name for name in names if self._is_confound(name)]]
        require_file(Path(given))
        return read_confounds_table(Path(given), names=self.confounds)[0]

    def _is_confound(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.confounds)

    def _no_confounds(self, where: str, found: str) -> ContractError:
        return ContractError(
            where,
            found=found,
            expected=f"the columns {', '.join(self.confounds)}, one row a volume, as they were "
            "removed from the signals in training",
            remedy="Give the run's table: --confounds FILE.tsv (confounds in Python).",
        )


def _by_volume(values: np.ndarray) -> np.ndarray:
    """Standardise each volume over its voxels, as `emodecode.features.clean.clean_run` does."""
    exact = values.astype(np.float64)
    spread = exact.std(axis=1, ddof=1, keepdims=True)
    centred = exact - exact.mean(axis=1, keepdims=True)
    return (centred / np.where(spread > 0, spread, 1.0)).astype(np.float32)

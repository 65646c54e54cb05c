"""Samples: the only container between the stages."""

import json
import os
import shutil
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import DataMissingError, InputError

TABLE_COLUMNS = (
    "subject",
    "session",
    "run",
    "volume",
    "onset_s",
    "label",
    "stimulus",
    "stimulus_time_s",
    "block",
    "agreement",
)
"""Columns of every sample table, in the order of ``samples.tsv``."""

TEXT_COLUMNS = ("subject", "session", "run", "label", "stimulus", "block", "group")


@dataclass(frozen=True, eq=False)
class Samples:
    """Labelled samples: a matrix, one table row per sample, the mask and the history.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_voxels), float32
        May be a read-only memory map. The columns follow the True voxels of `mask` in C order.
    table : DataFrame of n_samples rows
        At least the columns of `TABLE_COLUMNS`; text columns hold ``"n/a"`` and numeric ones NaN
        where a value is missing. Optional: ``group``, ``weight``, ``p_CLASS`` (vote fractions).
    mask : SpatialImage, optional
        3-D image; ``None`` for tables of features.
    features : tuple of str, optional
        Names of the columns of `X` where these are no voxels.
    history : tuple of dict
        Operation and arguments of each step that made these samples.

    Raises
    ------
    InputError
        When shapes disagree or a column is missing.
    """

    X: np.ndarray = field(repr=False)
    table: pd.DataFrame = field(repr=False)
    mask: SpatialImage | None = field(default=None, repr=False)
    features: tuple[str, ...] | None = field(default=None, repr=False)
    history: tuple[dict, ...] = ()

    def __post_init__(self) -> None:
        missing = [column for column in TABLE_COLUMNS if column not in self.table]
        if missing:
            raise _mismatch(
                f"no column {', '.join(missing)} in the table", "all of " + ", ".join(TABLE_COLUMNS)
            )
        if self.X.ndim != 2 or len(self.X) != len(self.table):
            raise _mismatch(
                f"X of shape {self.X.shape} and {len(self.table)} table rows",
                "one row of X per row",
            )
        if self.X.dtype != np.float32:
            raise _mismatch(f"X of type {self.X.dtype}", "float32")
        if self.features is not None and len(self.features) != self.X.shape[1]:
            raise _mismatch(
                f"{len(self.features)} names for {self.X.shape[1]} columns", "one name per column"
            )
        if self.mask is not None and self.features is None:
            n_voxels = int(np.count_nonzero(np.asanyarray(self.mask.dataobj)))
            if n_voxels != self.X.shape[1]:
                raise _mismatch(
                    f"a mask of {n_voxels} voxels for {self.X.shape[1]} columns",
                    "one voxel per column",
                )

    @property
    def n_samples(self) -> int:
        """Rows."""
        return self.X.shape[0]

    @property
    def n_voxels(self) -> int:
        """Columns."""
        return self.X.shape[1]

    @property
    def y(self) -> np.ndarray:
        """Labels, shape (n_samples,), str."""
        return self.table["label"].to_numpy(dtype=str)

    @property
    def subjects(self) -> np.ndarray:
        """Subject of each sample, shape (n_samples,), str."""
        return self.table["subject"].to_numpy(dtype=str)

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted labels that occur."""
        return tuple(sorted(set(self.y)))

    def to_image(self, values: np.ndarray) -> nib.Nifti1Image:
        """Put one value per voxel back into the brain: (n_voxels,) -> 3-D image, zero outside."""
        if self.mask is None or self.features is not None:
            raise _mismatch("columns that are no voxels", "samples with a mask")
        inside = np.asanyarray(self.mask.dataobj) != 0
        volume = np.zeros(inside.shape, dtype=np.float32)
        volume[inside] = values
        return nib.Nifti1Image(volume, self.mask.affine)

    def save(self, folder: str | os.PathLike) -> Path:
        """Write ``X.npy``, ``samples.tsv``, ``mask.nii.gz`` and ``samples.json`` into a new folder.

        The folder appears under its name only when it is complete.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError(
                str(folder),
                found="it exists already",
                expected="a new folder",
                remedy="Choose another name or delete the folder.",
            )
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        np.save(partial / "X.npy", self.X)
        self.write_beside(partial)
        partial.rename(folder)
        return folder

    def write_beside(self, folder: Path) -> None:
        """Write everything but `X` into a folder that holds ``X.npy`` already."""
        write_table(self.table, folder / "samples.tsv")
        if self.mask is not None:
            nib.save(self.mask, folder / "mask.nii.gz")
        description = {"features": self.features, "history": self.history}
        (folder / "samples.json").write_text(json.dumps(description, indent=1))

    @classmethod
    def open(cls, folder: str | os.PathLike) -> "Samples":
        """Open a saved folder; `X` stays on disk as a read-only memory map."""
        folder = Path(folder)
        for name in ("X.npy", "samples.tsv", "samples.json"):
            if not (folder / name).is_file():
                raise DataMissingError(
                    str(folder),
                    found=f"no {name}",
                    expected="a folder written by Samples.save",
                    remedy="Check the path; make the samples again if the folder is incomplete.",
                )
        try:
            X = np.load(folder / "X.npy", mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise _mismatch(
                f"{folder / 'X.npy'} is not readable ({error})", "a complete .npy file"
            ) from error
        description = json.loads((folder / "samples.json").read_text())
        mask_path = folder / "mask.nii.gz"
        mask = nib.Nifti1Image.from_filename(mask_path) if mask_path.is_file() else None
        features = description["features"]
        return cls(
            X=X,
            table=read_table(folder / "samples.tsv"),
            mask=mask,
            features=None if features is None else tuple(features),
            history=tuple(description["history"]),
        )


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a TSV with ``n/a`` for missing values, under a temporary name first."""
    partial = path.with_name(path.name + ".partial")
    table.to_csv(partial, sep="\t", index=False, na_rep="n/a", lineterminator="\n")
    partial.replace(path)


def parse_table(path: str | os.PathLike, *, sep: str = "\t", **options: Any) -> pd.DataFrame:
    """Let pandas read a table whose rows must not be longer than its header.

    Left to itself pandas takes the first column for row names where all rows are one cell too
    long, so that every value moves to the column on its left.

    Raises
    ------
    ValueError
        No such table, or none in UTF-8.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, sep=sep, encoding="utf-8-sig", index_col=False, **options)
        except pd.errors.ParserWarning as warning:
            raise ValueError("the rows have more cells than the header") from warning


def read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read a TSV of samples or predictions: text columns as str, ``n/a`` kept as text in them."""
    columns = parse_table(path, nrows=0).columns
    text = {name: str for name in columns if name in (*TEXT_COLUMNS, "model", "fold", "predicted")}
    return parse_table(
        path,
        dtype=text,
        keep_default_na=False,
        na_values={name: ["n/a", ""] for name in columns if name not in text},
    )


def read_sample_table(path: str | os.PathLike) -> pd.DataFrame:
    """Read a sample table of any tool: ``subject`` and ``label`` are needed, the rest is filled up.

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No table, or a column that is needed is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a sample table (TSV)",
            remedy="Check the path; docs/evaluation.md shows how to write one.",
        )
    try:
        table = read_table(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise _no_table(path, f"no readable table ({error})") from error
    missing = [name for name in ("subject", "label") if name not in table]
    if missing:
        raise _no_table(path, f"no column {' and '.join(missing)}")
    if table.empty:
        raise _no_table(path, "no rows")
    for name in ("volume", "onset_s", "stimulus_time_s"):
        if name in table and table[name].dtype.kind not in "iuf":
            wrong = pd.to_numeric(table[name], errors="coerce").isna() & table[name].notna()
            first = table[name][wrong].iloc[0] if wrong.any() else table[name].iloc[0]
            raise _no_table(path, f"{name} = {first!r}, which is no number")
    absent = [name for name in TABLE_COLUMNS if name not in table]
    table = table.assign(**{name: "n/a" if name in TEXT_COLUMNS else np.nan for name in absent})
    if "volume" in absent:
        table = table.assign(volume=table.groupby(["subject", "session", "run"]).cumcount())
    return table


def moments_of(table: pd.DataFrame) -> np.ndarray | None:
    """Return run (numbered over the subjects) and volume of each sample, (n_samples, 2) int64.

    None where the volumes are not known.
    """
    if table["volume"].isna().any():
        return None
    scans = table.groupby(["subject", "session", "run"], sort=False, dropna=False).ngroup()
    return np.stack([scans, table["volume"].astype(np.int64)], axis=1)


def relabelled(table: pd.DataFrame, label: np.ndarray) -> pd.DataFrame:
    """Return the table with other labels, drawn for a control or a permutation.

    The raters' votes (``p_CLASS``) become unanimous for the new labels: as they were they would
    tell the true ones to a network that is trained on votes.
    """
    names = sorted(set(table["label"]) | set(label))
    votes = {f"p_{name}": (label == name).astype(float) for name in names if f"p_{name}" in table}
    return table.assign(label=label, **votes)


def _no_table(path: Path, found: str) -> InputError:
    return InputError(
        str(path),
        found=found,
        expected="tab-separated columns subject, label and, where known, "
        "session, run, volume, onset_s, stimulus, stimulus_time_s, block",
        remedy="Write the table as docs/evaluation.md shows.",
    )


def _mismatch(found: str, expected: str) -> InputError:
    return InputError(
        "Samples",
        found=found,
        expected=expected,
        remedy="Check how the parts were made; emodecode.features.extract builds them.",
    )

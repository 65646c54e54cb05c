"""What stands beside a BIDS image: its metadata, TR, confounds and the subject's group."""

import difflib
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import DataMissingError, InputError
from emodecode.read.files import BidsFile, Tree, require_downloaded
from emodecode.samples import parse_table

TR_SHARE = 0.01
TR_STEP_S = 0.005
"""Sidecar and header may differ by this share of the TR, and by no more than this, seconds."""

LONGEST_TR_S = 20.0
"""A header TR above this is taken for milliseconds."""

GROUP_COLUMNS = ("group", "diagnosis", "diag", "dx", "dx_group", "patient_group", "condition")
"""Columns of participants.tsv that name the group, the first one present counts."""


def read_metadata(image: BidsFile, trees: Sequence[Tree], *, cache: dict[Path, dict]) -> dict:
    """Merge all JSON sidecars that apply to an image; later trees and nearer files win.

    Parameters
    ----------
    image : BidsFile
    trees : sequence of Tree
        Raw first, derivatives second.
    cache : dict
        Content of the files read so far (one root-level sidecar serves all runs).
    """
    merged: dict[str, Any] = {}
    for tree in trees:
        for sidecar in tree.applicable(
            image.suffix, ".json", entities=image.entities, folder=image.folder
        ):
            if sidecar.path not in cache:
                cache[sidecar.path] = _read_json(sidecar.path)
            merged |= cache[sidecar.path]
    return merged


def _read_json(path: Path) -> dict:
    require_downloaded([path], what="sidecars")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            str(path),
            found=f"not valid JSON ({error})",
            expected="a JSON object",
            remedy="Correct the file.",
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            str(path),
            found=f"JSON that is a {type(content).__name__}",
            expected="a JSON object",
            remedy="Correct the file.",
        )
    return content


def repetition_time(
    image: SpatialImage, metadata: dict, *, tr_s: float | None = None, where: str
) -> tuple[float, list[str]]:
    """Repetition time in seconds, from `tr_s`, the sidecar or the header, and notes.

    Raises
    ------
    InputError
        Sidecar and header differ by more than 1 % or 5 ms, or neither has one.
    """
    header_s, notes = _header_tr(image)
    sidecar_s = _sidecar_tr(metadata, where, required=tr_s is None)
    if tr_s is not None:
        for source, value in (("sidecar", sidecar_s), ("header", header_s)):
            if value is not None and _differ(tr_s, value):
                notes.append(f"tr_s = {tr_s:g} as set; the {source} says {value:g} s")
        return float(tr_s), notes
    if sidecar_s is None and header_s is None:
        raise InputError(
            where,
            found="no RepetitionTime in a sidecar and no TR in the header",
            expected="the repetition time",
            remedy="Add RepetitionTime to the sidecar, or set data.tr_s.",
        )
    if sidecar_s is None:
        assert header_s is not None
        notes.append("no RepetitionTime in a sidecar: tr_s is the header's")
        return header_s, notes
    if header_s is not None and _differ(sidecar_s, header_s):
        raise InputError(
            where,
            found=f"RepetitionTime = {sidecar_s:g} s in the sidecar, {header_s:g} s in the header",
            expected="the same TR in both (within 1 % and 5 ms)",
            remedy="Find out which is right and set data.tr_s.",
        )
    return sidecar_s, notes


def _differ(first: float, second: float) -> bool:
    return abs(first - second) > min(TR_SHARE * first, TR_STEP_S)


def _sidecar_tr(metadata: dict, where: str, *, required: bool) -> float | None:
    value = metadata.get("RepetitionTime")
    if value is None:
        if "VolumeTiming" in metadata and required:
            raise InputError(
                where,
                found="VolumeTiming (volumes at irregular times) and no RepetitionTime",
                expected="one repetition time",
                remedy="Sparse acquisitions are not supported; set data.tr_s if it is regular.",
            )
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        if not required:
            return None
        raise InputError(
            where,
            found=f"RepetitionTime = {value!r} in the sidecar",
            expected="a positive number of seconds",
            remedy="Correct the sidecar, or set data.tr_s.",
        )
    return float(value)


def _header_tr(image: SpatialImage) -> tuple[float | None, list[str]]:
    header = image.header
    zooms = header.get_zooms()
    value = round(float(zooms[3]), 6) if len(zooms) > 3 else 0.0
    unit = header.get_xyzt_units()[1] if hasattr(header, "get_xyzt_units") else "unknown"
    if not np.isfinite(value) or value <= 0:
        return None, []
    if unit == "unknown" and value == 1.0:
        return None, ["the header's TR of 1 without a unit is nobody's statement: not used"]
    scale = {"msec": 1e-3, "usec": 1e-6}.get(unit, 1.0)
    if scale == 1.0 and value > LONGEST_TR_S:
        return value / 1000, [f"the header's TR of {value:g} is taken for milliseconds"]
    return value * scale, []


def timing_notes(metadata: dict) -> list[str]:
    """What the sidecar says about removed volumes and slice timing, for the report."""
    notes = []
    discarded = metadata.get("NumberOfVolumesDiscardedByUser")
    if discarded:
        notes.append(
            f"NumberOfVolumesDiscardedByUser = {discarded}: volumes were removed before the file "
            "was written; onsets must count from the first volume in the file"
        )
    if "SliceTimingCorrected" in metadata or "StartTime" in metadata:
        corrected = metadata.get("SliceTimingCorrected", "not said")
        start = metadata.get("StartTime", "not said")
        notes.append(
            f"SliceTimingCorrected = {corrected}, StartTime = {start}: "
            "the clock of the events takes volume v to start at v * tr_s"
        )
    return notes


def read_confounds(
    image: BidsFile, trees: Sequence[Tree], *, names: Sequence[str], where: str
) -> tuple[pd.DataFrame, list[str]]:
    """Find the confounds table of an image and read it: `read_confounds_table`.

    Raises
    ------
    DataMissingError
        No confounds table.
    """
    return read_confounds_table(_confounds_path(image, trees, where), names=names)


def read_confounds_table(path: Path, *, names: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Columns of an fMRIPrep confounds table; `names` may be globs (``trans_*``).

    A missing value in the first row (derivatives and framewise displacement have none there)
    becomes the mean of its column.

    Raises
    ------
    InputError
        No such column, a value that is no number, or one missing after the first row.
    """
    try:
        table = parse_table(path, na_values=["n/a"])
    except ValueError as error:
        raise InputError(
            str(path),
            found=f"no table ({str(error).strip()})",
            expected="tab-separated text with a header line",
            remedy="Download or copy the file again.",
        ) from error
    columns = _matching([str(name) for name in table], names, path)
    try:
        table = table[columns].astype(float)
    except ValueError as error:
        raise InputError(
            str(path),
            found=str(error),
            expected="numbers or n/a",
            remedy="Name only numeric columns in data.confounds.",
        ) from error
    wrong = ~np.isfinite(table.to_numpy())
    rows = np.flatnonzero(wrong.any(axis=1))
    if len(rows) == 0:
        return table, []
    if rows[-1] > 0 or len(table) < 2:
        column = table.columns[wrong[rows[-1]]][0]
        raise InputError(
            str(path),
            found=f"no finite value of {column} in row {rows[-1] + 1} ({len(rows)} such rows)",
            expected="a number in every row but the first",
            remedy="Leave the column out of data.confounds, or fill the table.",
        )
    filled = [str(name) for name in table.columns[wrong[0]]]
    table.loc[0, filled] = table[filled].iloc[1:].mean()
    return table, [f"first row of confounds {', '.join(filled)}: n/a became the column's mean"]


MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "framewise_displacement")
"""Columns of fMRIPrep's confounds table that the confound control decodes from."""


def read_motion(image: BidsFile, trees: Sequence[Tree], *, where: str) -> pd.DataFrame | None:
    """Head motion from the confounds table, missing values as 0; None where there is none."""
    try:
        table = parse_table(_confounds_path(image, trees, where), na_values=["n/a"])
    except (DataMissingError, ValueError):
        return None
    known = [name for name in MOTION if name in table]
    values = table[known].apply(pd.to_numeric, errors="coerce")
    return values.replace([np.inf, -np.inf], np.nan).fillna(0.0) if known else None


def _confounds_path(image: BidsFile, trees: Sequence[Tree], where: str) -> Path:
    entities = image.entities | {"desc": "confounds"}
    for tree in reversed(trees):
        for suffix in ("timeseries", "regressors"):
            found = tree.applicable(suffix, ".tsv", entities=entities, folder=image.folder)
            if found:
                require_downloaded([found[-1].path], what="confounds tables")
                return found[-1].path
    raise DataMissingError(
        where,
        found="no desc-confounds_timeseries.tsv (or desc-confounds_regressors.tsv)",
        expected="a table of the confounds that data.confounds names",
        remedy="Set data.derivatives to the fMRIPrep folder, or remove data.confounds.",
    )


def _matching(header: Sequence[str], names: Sequence[str], path: Path) -> list[str]:
    columns: list[str] = []
    for name in names:
        found = [column for column in header if fnmatchcase(column, name)]
        if not found:
            near = difflib.get_close_matches(name, header, n=3, cutoff=0.4) or list(header)[:5]
            raise InputError(
                str(path),
                found=f"no column {name}",
                expected=f"a column of the table, such as {', '.join(near)}",
                remedy="Correct data.confounds.",
            )
        columns += [column for column in found if column not in columns]
    return columns


def read_groups(root: Path) -> tuple[dict[str, str], list[str]]:
    """Group of each subject (without ``sub-``) from participants.tsv, and a note of the column."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}, []
    try:
        table = parse_table(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        return {}, [f"participants.tsv is not readable ({str(error).strip()}): no groups"]
    columns = {str(name).strip().lower(): name for name in table.columns}
    named = [columns[name] for name in GROUP_COLUMNS if name in columns]
    if "participant_id" not in columns or not named:
        return {}, []
    subjects = table[columns["participant_id"]].str.strip().str.removeprefix("sub-")
    groups = table[named[0]].str.strip().replace("", "n/a")
    return dict(zip(subjects, groups, strict=True)), [
        f"groups come from the column {named[0]} of participants.tsv"
    ]

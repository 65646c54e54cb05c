"""MATLAB files (v5 and v7.3) -> Run: matrices with a mask, or cell arrays of volumes."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.read.files import require_file
from emodecode.read.matfile import (
    as_image,
    few,
    read_labels,
    read_matrix,
    read_volumes,
)
from emodecode.run import Run

Layout = Literal["voxels_by_time", "time_by_voxels", "volumes"]

_FIELDS = {"subject": r"[^/]+?", "session": r"[A-Za-z0-9]+", "run": r"[A-Za-z0-9]+"}


@dataclass(frozen=True)
class _Entry:
    path: Path
    subject: str
    session: str
    run: str


def read_mat(
    path: str | os.PathLike,
    *,
    pattern: str,
    layout: Layout,
    key: str | Sequence[str],
    tr_s: float,
    label_key: str | Sequence[str] | None = None,
    label_names: Mapping[str, str] | None = None,
    voxel_order: Literal["F", "C"] | None = None,
    mask: str | os.PathLike | None = None,
    run_volumes: Sequence[int] | None = None,
    missing: Literal["error", "truncate"] = "error",
    subjects: Sequence[str] | None = None,
    exclude: Mapping[str, str] | None = None,
    dummies: int = 0,
    stimulus: str | None = None,
) -> tuple[list[Run], list[str]]:
    """Read runs from MATLAB files, one file a subject (and run).

    Parameters
    ----------
    path : folder
    pattern : str
        File name below `path` with the field ``{subject}`` and optionally ``{run}`` and
        ``{session}`` (``"{subject}_run{run}_3D_wholeBrain_allConds.mat"``).
    layout : {"voxels_by_time", "time_by_voxels", "volumes"}
        A matrix, or a cell array of 3-D volumes (a 4-D array ``(x, y, z, volumes)`` will do too).
    key : str or list of str
        Variable that holds the data; several are joined in time in the order given.
    tr_s : float
        Repetition time in seconds.
    label_key : str or list of str, optional
        Variable with one label per volume, for each variable of `key`.
    label_names : dict, optional
        What the labels in the file mean (``{"0": "rest"}``); all of them must be named.
    voxel_order : {"F", "C"}, optional
        Order in which the matrix goes through the voxels of `mask`: first index fastest (MATLAB,
        ``find(mask)``) or last index fastest (NumPy). Must be stated with a matrix and a mask.
    mask : path, optional
        3-D image whose nonzero voxels are those of the matrix; relative to `path`. For volumes it
        gives their affine too.
    run_volumes : list of int, optional
        Splits every file into runs of so many volumes, dummies included.
    missing : {"error", "truncate"}, default "error"
        What to do when the last volumes of a file all repeat one volume (data that were not
        recorded and filled up): refuse, or cut them off.
    subjects : list of str, optional
        Only these.
    exclude : dict, optional
        Subject -> reason for leaving it out.
    dummies : int, default 0
        Volumes at the beginning of each run that are skipped.
    stimulus : str, optional
        Name of the stimulus that went on through all runs; run ``r`` then gets the time of the
        runs before it as ``stimulus_start_s``.

    Returns
    -------
    runs : list of Run
        By subject and run, naturally sorted (s2 before s10). The columns of `Run.matrix` follow
        the mask in C order, whatever the file had.
    notes : list of str
        What had to be decided.

    Raises
    ------
    DataMissingError
        No file fits the pattern, or a file is not downloaded.
    InputError
        The files contradict each other, the mask, the labels or the arguments.
    """
    keys = [key] if isinstance(key, str) else list(key)
    label_keys = [label_key] if isinstance(label_key, str) else list(label_key or [])
    _check_arguments(pattern, layout, keys, label_keys, voxel_order, mask, run_volumes)
    entries, notes = _choose(
        _find(Path(path), pattern), subjects=subjects, exclude=exclude or {}, where=pattern
    )
    mask_image = None if mask is None else _load_mask(Path(path) / mask)
    order = None
    if mask_image is not None and layout != "volumes" and voxel_order == "F":
        order = _columns_to_c_order(np.asanyarray(mask_image.dataobj) != 0)
    runs: list[Run] = []
    lengths: list[int] = []
    repeated: list[str] = []
    for entry in entries:
        labels = read_labels(entry.path, label_keys, label_names or {})
        if layout == "volumes":
            parts, joined = read_volumes(entry.path, keys, mask_image)
        else:
            parts, joined = read_matrix(entry.path, keys, layout, mask_image, order)
        _check_labels(entry.path, keys, label_keys, parts, labels)
        repeats = _repeats(joined)
        tail = _tail(repeats, sum(parts)) if missing == "truncate" else 0
        if len(repeats) > tail:
            repeated.append(_describe_repeats(entry, repeats, sum(parts)))
        notes += _oddities(entry, joined)
        if tail:
            notes.append(_describe_repeats(entry, repeats, sum(parts)) + ": cut off")
        image = as_image(entry.path, keys, joined, mask_image) if layout == "volumes" else None
        spans = _spans(entry.path, sum(parts), run_volumes)
        for number, span in enumerate(spans, start=1):
            recorded = min(span.stop, sum(parts) - tail) - span.start
            lengths.append(recorded)
            runs.append(
                Run(
                    subject=entry.subject,
                    session=entry.session,
                    run=str(number) if run_volumes and entry.run == "n/a" else entry.run,
                    tr_s=tr_s,
                    image=image if image is None or len(spans) == 1 else image.slicer[..., span],
                    matrix=joined[span] if image is None else None,
                    mask=mask_image,
                    dummies=dummies,
                    stimulus=stimulus or "n/a",
                    volume_labels=_series([t for group in labels for t in group][span]),
                    source=entry.path,
                )
            )
    if repeated:
        raise InputError(
            pattern,
            found="; ".join(repeated),
            expected="volumes that differ: equal ones are missing data that was filled up",
            remedy='Leave the subject out and say why: data.exclude = { NAME = "reason" }. If the '
            'last volumes are missing, data.missing = "truncate" cuts them off.',
        )
    notes += _summary(runs, layout, keys, voxel_order, mask_image)
    if stimulus:
        runs = _continue_stimulus(runs, pattern)
    return [_cut(run, n) for run, n in zip(runs, lengths, strict=True) if n > dummies], notes


def _check_arguments(pattern, layout, keys, label_keys, voxel_order, mask, run_volumes) -> None:
    if layout not in ("voxels_by_time", "time_by_voxels", "volumes"):
        raise InputError(
            "data.layout",
            found=repr(layout),
            expected="voxels_by_time, time_by_voxels or volumes",
            remedy="Say how the variable in the file is laid out.",
        )
    if label_keys and len(label_keys) != len(keys):
        raise InputError(
            "data.label_key",
            found=f"{len(label_keys)} variables of labels for {len(keys)} of data",
            expected="one for each variable of data.key, in the same order",
            remedy=f"Give label_key as many names as key = {keys}.",
        )
    if layout == "volumes" and voxel_order is not None:
        raise InputError(
            "data.voxel_order",
            found=f"{voxel_order!r} with layout = 'volumes'",
            expected="no voxel order: volumes carry their own voxel positions",
            remedy="Remove data.voxel_order.",
        )
    if layout != "volumes" and mask is not None and voxel_order not in ("F", "C"):
        raise InputError(
            "data.voxel_order",
            found="not stated" if voxel_order is None else repr(voxel_order),
            expected='"F" or "C": the matrix does not tell which voxel of the mask a row is, and '
            "the wrong guess scatters every map over the brain",
            remedy='Write voxel_order = "F" if MATLAB made the matrix (data(find(mask), :)), '
            '"C" if NumPy did (data[mask]).',
        )
    if run_volumes and len(run_volumes) > 1 and "{run}" in pattern:
        raise InputError(
            "data.run_volumes",
            found=f"{len(run_volumes)} runs per file, and {{run}} in the pattern {pattern!r}",
            expected="either one file a run, or files that are split",
            remedy="Remove run_volumes, or {run} from data.pattern.",
        )


# --- which files ---------------------------------------------------------------------------------


def _find(folder: Path, pattern: str) -> list[_Entry]:
    pieces = re.split(r"\{(\w*)\}", pattern)
    named = pieces[1::2]
    unknown = sorted(set(named) - set(_FIELDS))
    if unknown or "subject" not in named or pattern.startswith("/"):
        raise InputError(
            "data.pattern",
            found=f"unknown field {{{unknown[0]}}}"
            if unknown
            else f"no {{subject}} in {pattern!r}",
            expected="a file name below data.path with {subject}, optionally {run} and {session}",
            remedy='Write it like "{subject}_run{run}_data.mat".',
        )
    expression = ""
    for position, piece in enumerate(pieces):
        if position % 2 == 0:
            expression += re.escape(piece)
        elif f"(?P<{piece}>" in expression:
            expression += f"(?P={piece})"
        else:
            expression += f"(?P<{piece}>{_FIELDS[piece]})"
    if not folder.is_dir():
        raise DataMissingError(
            str(folder),
            found="no such folder",
            expected="the folder of the .mat files",
            remedy="Correct data.path.",
        )
    wildcard = re.sub(r"\{\w+\}", "*", re.sub(r"([\[*?])", r"[\1]", pattern))
    entries = []
    for file in folder.glob(wildcard):
        match = re.fullmatch(expression, file.relative_to(folder).as_posix())
        if match:
            fields = {"session": "n/a", "run": "n/a"} | match.groupdict()
            entries.append(_Entry(file, **fields))
    if not entries:
        there = sorted(item.name for item in folder.iterdir())
        raise DataMissingError(
            str(folder),
            found=f"no file fits {pattern!r}; there are {few(there) or 'no files at all'}",
            expected="one file a subject (and run)",
            remedy="Correct data.path or data.pattern.",
        )
    entries.sort(key=lambda e: [_natural(part) for part in (e.subject, e.session, e.run)])
    _refuse_duplicates(entries)
    return entries


def _refuse_duplicates(entries: Sequence[_Entry]) -> None:
    spelled: dict[str, _Entry] = {}
    for entry in entries:
        other = spelled.setdefault(_spelling(entry.subject), entry)
        if other.subject != entry.subject:
            _duplicate("subject", other, entry)
    seen: dict[tuple[str, ...], _Entry] = {}
    for entry in entries:
        same = (entry.subject, _spelling(entry.session), _spelling(entry.run))
        other = seen.setdefault(same, entry)
        if other is not entry:
            _duplicate("run", other, entry)


def _duplicate(what: str, first: _Entry, second: _Entry) -> None:
    raise InputError(
        str(first.path.parent),
        found=f"{first.path.name} and {second.path.name} are the same {what}",
        expected=f"one file for each {what}; 1 and 01 are one",
        remedy="Move one of them away, or make data.pattern narrower.",
    )


def _choose(
    entries: list[_Entry],
    *,
    subjects: Sequence[str] | None,
    exclude: Mapping[str, str],
    where: str,
) -> tuple[list[_Entry], list[str]]:
    there = list(dict.fromkeys(entry.subject for entry in entries))
    for setting, asked in (("subjects", subjects or ()), ("exclude", exclude)):
        unknown = [name for name in asked if name not in there]
        if unknown:
            raise InputError(
                where,
                found=f"no file of subject {', '.join(unknown)} (data.{setting})",
                expected=f"subjects out of {few(there)}",
                remedy=f"Correct data.{setting}; names are compared as they are written.",
            )
    chosen = [
        entry
        for entry in entries
        if entry.subject not in exclude and (subjects is None or entry.subject in subjects)
    ]
    if not chosen:
        raise InputError(
            where,
            found=f"all {len(there)} subjects are left out",
            expected="at least one subject",
            remedy="Correct data.subjects or data.exclude.",
        )
    return chosen, [f"sub-{name} left out: {reason}" for name, reason in exclude.items()]


# --- the mask ------------------------------------------------------------------------------------


def _load_mask(path: Path) -> nib.Nifti1Image:
    require_file(path)
    try:
        mask: Any = nib.load(path)
        values = np.asanyarray(mask.dataobj)
    except Exception as error:  # as for the .mat files
        raise InputError(
            str(path),
            found=f"it cannot be read as an image ({error})",
            expected="a 3-D NIfTI mask",
            remedy="Copy it again, or correct data.mask.",
        ) from error
    if values.ndim == 4 and values.shape[3] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not values.any():
        raise InputError(
            str(path),
            found=f"an image of shape {values.shape} with {np.count_nonzero(values)} voxels",
            expected="a 3-D mask with nonzero voxels",
            remedy="Correct data.mask.",
        )
    return nib.Nifti1Image((values != 0).astype(np.uint8), mask.affine)


def _columns_to_c_order(inside: np.ndarray) -> np.ndarray:
    """Which column in Fortran order is voxel ``j`` in C order, shape (n_voxels,)."""
    rank = np.empty(inside.shape, dtype=np.int64)
    rank[inside] = np.arange(np.count_nonzero(inside))
    return np.argsort(rank.ravel(order="F")[inside.ravel(order="F")])


def _check_labels(path, keys, label_keys, parts, labels) -> None:
    for name, label_name, n_volumes, group in zip(keys, label_keys, parts, labels, strict=False):
        if len(group) != n_volumes:
            raise InputError(
                str(path),
                found=f"{n_volumes} volumes in {name}, {len(group)} labels in {label_name}",
                expected="one label per volume",
                remedy="Find out which volume has no label (or the reverse) and repair the file; "
                "dropping one at a guess would shift all labels after it.",
            )


def _series(texts: list[str]) -> pd.Series | None:
    return pd.Series(texts, dtype=str) if texts else None


# --- runs ----------------------------------------------------------------------------------------


def _repeats(joined: np.ndarray) -> list[int]:
    """Volumes that equal the one before; `joined` has the volumes first or, 4-D, last."""
    volumes = joined if joined.ndim == 2 else np.moveaxis(joined, -1, 0)
    return [v for v in range(1, len(volumes)) if np.array_equal(volumes[v], volumes[v - 1], True)]


def _tail(repeats: list[int], n_volumes: int) -> int:
    """How many of the last volumes of a file repeat the one before them."""
    tail = 0
    while tail < len(repeats) and repeats[-1 - tail] == n_volumes - 1 - tail:
        tail += 1
    return tail


def _describe_repeats(entry: _Entry, repeats: list[int], n_volumes: int) -> str:
    run = "" if entry.run == "n/a" else f" run-{entry.run}"
    first, last = repeats[0], repeats[-1]
    span = f"volumes {first} to {last}" if len(repeats) > 1 else f"volume {first}"
    return (
        f"sub-{entry.subject}{run}: {len(repeats)} of {n_volumes} volumes repeat the one before "
        f"({span})"
    )


def _cut(run: Run, n_volumes: int) -> Run:
    if n_volumes == run.n_volumes_in_file:
        return run
    labels = None if run.volume_labels is None else run.volume_labels.iloc[:n_volumes]
    if run.matrix is not None:
        return replace(run, matrix=run.matrix[:n_volumes], volume_labels=labels)
    assert run.image is not None
    return replace(run, image=run.image.slicer[..., :n_volumes], volume_labels=labels)


def _oddities(entry: _Entry, joined: np.ndarray) -> list[str]:
    if joined.ndim == 2:
        constant = int(np.count_nonzero(np.ptp(joined, axis=0) == 0)) if len(joined) > 1 else 0
        return [f"{entry.path.name}: {constant} voxels are constant"] if constant else []
    share = float(np.mean(~np.isfinite(joined)))
    return [f"{entry.path.name}: {share:.1%} of the values are no numbers"] if share else []


def _spans(path: Path, n_volumes: int, run_volumes: Sequence[int] | None) -> list[slice]:
    lengths = list(run_volumes or [n_volumes])
    if sum(lengths) != n_volumes:
        raise InputError(
            str(path),
            found=f"{n_volumes} volumes",
            expected=f"{sum(lengths)}: the sum of run_volumes = {lengths}",
            remedy="Correct data.run_volumes, or exclude the subject.",
        )
    ends = np.cumsum(lengths)
    return [slice(int(end) - n, int(end)) for n, end in zip(lengths, ends, strict=True)]


def _continue_stimulus(runs: list[Run], where: str) -> list[Run]:
    """Give each run the stimulus time of the runs before it, the same for every subject."""
    lengths: dict[tuple[str, str], tuple[int, Run]] = {}
    for run in runs:
        n_volumes, other = lengths.setdefault((run.session, run.run), (run.n_volumes_in_file, run))
        if n_volumes != run.n_volumes_in_file:
            raise InputError(
                where,
                found=f"{run.name} has {run.n_volumes_in_file} volumes, {other.name} {n_volumes}",
                expected="runs of one length for all subjects, as they share the stimulus "
                f"{run.stimulus!r}",
                remedy="Remove data.stimulus if it is not shared, or exclude the subject.",
            )
    start_s, starts_s = 0.0, {}
    for name in sorted(lengths, key=lambda entities: [_natural(text) for text in entities]):
        starts_s[name] = start_s
        start_s += lengths[name][0] * runs[0].tr_s
    return [replace(run, stimulus_start_s=starts_s[run.session, run.run]) for run in runs]


def _summary(runs, layout, keys, voxel_order, mask) -> list[str]:
    n_subjects = len({run.subject for run in runs})
    n_files = len({run.source for run in runs})
    lengths = sorted({run.n_volumes_in_file for run in runs})
    text = f"{n_files} .mat files: {n_subjects} subjects, {len(runs)} runs of "
    notes = [text + f"{' or '.join(map(str, lengths))} volumes"]
    if len(keys) > 1:
        notes.append(
            f"{', '.join(keys)} are joined in this order; the files do not say whether this is "
            "the order of acquisition"
        )
    if layout == "volumes":
        notes.append(
            "the files hold no affine: "
            + (
                "voxels stand for mm, their space is unknown"
                if mask is None
                else "the mask's is used"
            )
        )
    elif mask is None:
        notes.append("there is no mask: columns have no place in the brain, maps are not possible")
    elif voxel_order == "F":
        notes.append("voxels were put from Fortran order into C order of the mask")
    return notes


# --- text ----------------------------------------------------------------------------------------


def _natural(text: str) -> list[tuple[int, int, str]]:
    pieces = re.findall(r"\d+|\D+", text)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in pieces]


def _spelling(text: str) -> str:
    return re.sub(r"\d+", lambda digits: str(int(digits[0])), text)

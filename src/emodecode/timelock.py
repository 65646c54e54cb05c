"""Timelock: study -> alignment data, the volumes that a functional alignment is fitted on."""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import InputError, LeakageError
from emodecode.run import Run
from emodecode.samples import TABLE_COLUMNS, TEXT_COLUMNS, Samples
from emodecode.study import Study

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from emodecode.evaluate.alignment import Alignment


def is_aligned(study: Study) -> bool:
    """Tell whether a study asks for functional alignment."""
    return study.align is not None and study.align.protocol != "none"


def protocol_of(study: Study) -> str:
    """Return the protocol of a study's alignment, ``"none"`` without one."""
    return "none" if study.align is None else study.align.protocol


def refuse_unsupported(study: Study, table: pd.DataFrame) -> None:
    """Refuse a protocol that the data do not support, from the labels alone.

    Raises
    ------
    LeakageError
        ``transductive`` without ``allow_leakage``.
    InputError
        No time-locked stimulus in the runs that are to be aligned, tables of features, one
        subject.
    """
    protocol = protocol_of(study)
    if protocol == "none":
        return
    if protocol == "transductive" and not study.evaluate.allow_leakage:
        raise LeakageError(
            "align.protocol",
            found="transductive: maps fitted on the tested run itself",
            expected="independent_run, calibration_blocks or connectivity. With a stimulus order "
            "that subjects share, a transductive map decodes pure noise (.93 where chance is .33)",
            remedy='Use another protocol; to see it beside the honest one, put "align.protocol" = '
            '"transductive" under [as_published].',
        )
    if study.data.source == "table" and protocol != "calibration_blocks":
        raise _refused(protocol, "a table of features has no volumes in time", "calibration_blocks")
    if table["subject"].nunique() < 3:
        raise _refused(protocol, "there are fewer than three subjects", "none")
    assert study.align is not None
    if protocol == "independent_run" and study.align.task is None:
        from emodecode.evaluate.alignment import check_time_locked

        why = check_time_locked(table)
        if why is not None:
            raise _refused(
                protocol,
                why,
                "calibration_blocks or connectivity, or align.task for a film that all saw",
            )
    if study.align.task is not None and study.data.source != "bids":
        raise InputError(
            "align.task",
            found=f"{study.align.task!r}, with data of source {study.data.source}",
            expected="a task of a BIDS data set",
            remedy="Leave align.task out: the other runs of the data themselves align.",
        )


def _refused(protocol: str, why: str, instead: str) -> InputError:
    from emodecode.evaluate.alignment import ASSUMES

    return InputError(
        f"align.protocol = {protocol}",
        found=f"the data do not support it: {why}",
        expected=ASSUMES[protocol],
        remedy=f"Use {instead}.",
    )


def read_alignment_runs(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that serve alignment: those of ``align.task``, or all runs themselves.

    Runs of another task are renamed (``film-1``), so that none is taken for a run of the samples.

    Raises
    ------
    InputError
        Events of that task that differ between subjects: it is not time-locked.
    """
    assert study.align is not None
    if study.align.task is None:
        return list(runs)
    from emodecode.read.bids import read_bids

    data = study.data.model_dump(exclude={"source", "mask"})
    subjects = sorted({run.subject for run in runs})
    data |= {"task": study.align.task, "runs": None, "events_task": None, "subjects": subjects}
    data |= {"sessions": None, "exclude": {}}
    found, _ = read_bids(**data)
    _refuse_other_events(found, study.align.task)
    return [replace(run, run=f"{run.task}-{run.run}") for run in found]


def _refuse_other_events(runs: Sequence[Run], task: str) -> None:
    known: dict[tuple[str, str], tuple[str, list]] = {}
    for run in runs:
        if run.events is None or run.events.empty:
            continue
        events = run.events[["onset_s", "trial_type"]]
        shown = list(zip(events["onset_s"].round(0), events["trial_type"], strict=True))
        name, first = known.setdefault((run.session, run.run), (run.name, shown))
        if shown != first:
            raise _refused(
                "independent_run",
                f"the events of task {task} differ between {name} and {run.name}",
                "a task that showed the same to all subjects, or another protocol",
            )


def gather_alignment(
    study: Study,
    samples: Samples,
    runs: Sequence[Run],
    *,
    work: Path,
    progress: bool = True,
) -> "Alignment | None":
    """Extract what the study's alignment is fitted on, cleaned and masked like the samples.

    Parameters
    ----------
    study : Study
    samples : Samples
        What is decoded.
    runs : sequence of Run
        Their runs, empty for tables of features.
    work : Path
        Where extracted volumes are kept for an interrupted evaluation.

    Returns
    -------
    Alignment or None
        None without alignment.
    """
    if not is_aligned(study):
        return None
    from emodecode.evaluate.alignment import alignment_of, alignment_of_samples

    assert study.align is not None
    protocol, gap_s = study.align.protocol, study.evaluate.gap_s
    if protocol in ("calibration_blocks", "transductive"):
        by_time = study.align.calibration_rows == "class_by_time"
        by_time = by_time and bool(samples.table["onset_s"].notna().all())
        return alignment_of_samples(samples, protocol=protocol, by_time=by_time, gap_s=gap_s)
    assert samples.mask is not None
    own = read_alignment_runs(study, runs)
    volumes = extract_volumes(study, own, mask=samples.mask, work=work, progress=progress)
    courses: np.ndarray | None = None
    names: tuple[str, ...] = ()
    if protocol == "connectivity":
        from emodecode.features.parcels import to_parcels

        parcels = to_parcels(volumes, str(study.align.targets))
        courses, names = parcels.X, parcels.features or ()
    return alignment_of(
        samples,
        _as_features(study, volumes),
        protocol=protocol,
        gap_s=gap_s,
        courses=courses,
        parcels=names,
    )


def extract_volumes(
    study: Study,
    runs: Sequence[Run],
    *,
    mask: SpatialImage,
    work: Path,
    progress: bool = True,
) -> Samples:
    """Extract all volumes of the runs, cleaned as the study says; they stay on disk in `work`."""
    from emodecode.features.extract import extract

    table = pd.concat([_volumes(run) for run in runs], ignore_index=True)
    described = [study.data.model_dump_json(), study.features.clean.model_dump_json()]
    digest = hashlib.sha256("|".join(described).encode())
    digest.update(table.to_csv(index=False).encode())
    digest.update(np.ascontiguousarray(np.asanyarray(mask.dataobj)).tobytes())
    for run in runs:
        if run.source is not None:
            status = run.source.stat()
            digest.update(f"{run.source} {status.st_size} {status.st_mtime_ns}".encode())
    folder = work / f"alignment-{digest.hexdigest()[:16]}"
    if folder.is_dir():
        return Samples.open(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return extract(
        runs,
        table,
        mask=mask,
        clean=study.features.clean.model_dump(exclude={"smoothing_mm"}),
        smoothing_mm=study.features.clean.smoothing_mm,
        folder=folder,
        progress=progress,
    )


def refuse_without_time_lock(study: Study) -> None:
    """Refuse to compare alignments where nothing is shown at the same time.

    Raises
    ------
    InputError
        A protocol other than ``independent_run``.
    """
    protocol = protocol_of(study)
    if protocol != "independent_run":
        raise InputError(
            "emodecode align",
            found=f"align.protocol = {protocol}",
            expected="independent_run: runs that all subjects saw at the same time",
            remedy="Add [align] to the study, or --set align.protocol=independent_run.",
        )


COMPARED: dict[str, dict[str, Any]] = {
    "hyperalignment": {"method": "hyperalignment", "map": "orthogonal"},
    "template": {"method": "template", "map": "orthogonal"},
    "ridge": {"method": "hyperalignment", "map": "ridge"},
    "promises": {"method": "hyperalignment", "map": "promises"},
    "srm": {"method": "srm", "map": "orthogonal"},
}
"""Alignments that `emodecode align` compares, and what they replace in the study."""


def steps_to_compare(study: Study, volumes: Samples) -> "dict[str, BaseEstimator | None]":
    """Build the steps of `COMPARED`; first none at all."""
    from emodecode.candidates import make_align_step

    steps: dict[str, BaseEstimator | None] = {"none": None}
    assert study.align is not None
    whole = study.align.pieces is None and study.align.searchlight_mm is None
    for name, choices in COMPARED.items():
        if choices["method"] == "srm" and not whole:
            continue  # no piecewise form
        steps[name] = make_align_step(study, volumes, **choices)
    return steps


def _volumes(run: Run) -> pd.DataFrame:
    """Rows of all volumes of a run, without labels."""
    rows = {name: "n/a" if name in TEXT_COLUMNS else np.nan for name in TABLE_COLUMNS}
    rows |= {"subject": run.subject, "session": run.session, "run": run.run}
    table = pd.DataFrame(rows, index=range(run.n_volumes))
    return table.assign(volume=np.arange(run.n_volumes), onset_s=run.onset_s)


def _as_features(study: Study, volumes: Samples) -> Samples:
    """Parcels and centring, as the samples had them."""
    if study.features.parcels is not None:
        from emodecode.features.parcels import to_parcels

        volumes = to_parcels(volumes, study.features.parcels)
    if study.features.centre != "none":
        from emodecode.features.clean import centre

        centred = centre(volumes.X, volumes.table, by=study.features.centre)
        volumes = replace(volumes, X=centred)
    return volumes

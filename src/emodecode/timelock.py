"""Timelock: study -> alignment data, the volumes that a functional alignment is fitted on."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import InputError, LeakageError
from emodecode.run import Run
from emodecode.samples import TABLE_COLUMNS, TEXT_COLUMNS, Samples
from emodecode.study import Model, Study

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

    from emodecode.evaluate.alignment import Alignment
    from emodecode.evaluate.splits import Split


ON_SAMPLES = ("calibration_blocks", "transductive")
"""Protocols whose maps are fitted on samples, not on all volumes of runs."""


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
    LeakageError
        ``align.task`` is the task that is decoded: maps would be fitted on tested volumes.
    InputError
        ``independent_run`` and a task that is not time-locked: another repetition time or other
        events in some subject.
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
    _refuse_decoded(found, runs)
    if study.align.protocol == "independent_run":
        _refuse_differing(found, _clock, "repetition time or first volume")
        _refuse_differing(found, _events, "events")
    return [replace(run, run=f"{run.task}-{run.run}") for run in found]


def _refuse_decoded(found: Sequence[Run], runs: Sequence[Run]) -> None:
    """Refuse a task whose runs are decoded: renamed, they would never count as tested."""
    tasks = {run.task for run in runs}
    sources = {run.source for run in runs} - {None}
    for run in found:
        if run.task in tasks or run.source in sources:
            raise LeakageError(
                "align.task",
                found=f"{run.task!r}: {run.name} is of the task that is decoded",
                expected="a task whose runs no fold tests. Maps that were fitted on tested volumes "
                "of an order that subjects share decode pure noise",
                remedy="Name another task, or leave align.task out: then the runs that a fold does "
                "not test align it.",
            )


def _refuse_differing(runs: Sequence[Run], shown: Callable[[Run], Any], what: str) -> None:
    """Refuse runs of the same name that are not the same in all subjects; None is not compared."""
    known: dict[tuple[str, str], tuple[str, Any]] = {}
    for run in runs:
        own = shown(run)
        if own is None:
            continue
        name, first = known.setdefault((run.session, run.run), (run.name, own))
        if own != first:
            raise _refused(
                "independent_run",
                f"the {what} of task {run.task} differ between {name} and {run.name}",
                "a task that showed the same to all subjects, or another protocol",
            )


def _clock(run: Run) -> tuple[float, float]:
    return round(run.tr_s, 3), round(float(run.onset_s[0]), 3)


def _events(run: Run) -> list[tuple[float, str]] | None:
    if run.events is None or run.events.empty:
        return None
    return list(zip(run.events["onset_s"].round(0), run.events["trial_type"], strict=True))


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
    from emodecode.evaluate.alignment import alignment_of

    assert study.align is not None
    protocol = study.align.protocol
    if protocol in ON_SAMPLES:
        return _of_samples(study, samples)
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
        gap_s=study.evaluate.gap_s,
        courses=courses,
        parcels=names,
    )


def _of_samples(study: Study, samples: Samples) -> "Alignment":
    from emodecode.evaluate.alignment import alignment_of_samples

    assert study.align is not None
    by_time = study.align.calibration_rows == "class_by_time"
    return alignment_of_samples(
        samples,
        protocol=study.align.protocol,
        by_time=by_time and bool(samples.table["onset_s"].notna().all()),
        calibration_run=study.align.calibration_run,
        gap_s=study.evaluate.gap_s,
    )


def refuse_unalignable(
    study: Study,
    table: pd.DataFrame,
    runs: Sequence[Run],
    splits: "Sequence[Split]",
    tuned: Sequence[Model],
) -> None:
    """Refuse folds, and inner folds of `tuned` decoders, that lack data to be aligned on.

    Raises
    ------
    InputError
        As `read_alignment_runs` and `emodecode.evaluate.alignable.check_alignment`.
    LeakageError
        As `read_alignment_runs`.
    """
    from emodecode.candidates import is_aligned_model, make_tuning, naming_model
    from emodecode.evaluate.alignable import check_alignment, check_inner_alignment

    if not any(is_aligned_model(study, model) for model in study.models):
        return
    planned = _plan_alignment(study, table, runs)
    if study.features.fit_on == "all":
        return  # fitted once, on all subjects
    check_alignment(planned, table, splits)
    how: dict[str, Any] = {"tuning": make_tuning(study), "seed": study.seed}
    for model in tuned:
        if is_aligned_model(study, model):
            with naming_model(model):
                check_inner_alignment(planned, table, splits, name=model.name, **how)


def _plan_alignment(study: Study, table: pd.DataFrame, runs: Sequence[Run]) -> "Alignment":
    """Return the alignment data without their values: from labels and lengths of runs alone."""
    from emodecode.evaluate.alignment import alignment_of

    assert study.align is not None
    samples = _without_values(table)
    if study.align.protocol in ON_SAMPLES:
        return _of_samples(study, samples)
    volumes = [_volumes(run) for run in read_alignment_runs(study, runs)]
    return alignment_of(
        samples,
        _without_values(pd.concat(volumes, ignore_index=True)),
        protocol=study.align.protocol,
        gap_s=study.evaluate.gap_s,
    )


def _without_values(table: pd.DataFrame) -> Samples:
    return Samples(X=np.empty((len(table), 0), dtype=np.float32), table=table)


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

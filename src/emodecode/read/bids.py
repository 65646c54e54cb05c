"""BIDS data sets, raw or with derivatives, as runs; no voxel is read."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from nibabel.spatialimages import SpatialImage

from emodecode.errors import DataMissingError, InputError
from emodecode.read.events import read_events
from emodecode.read.files import (
    NIFTI,
    BidsFile,
    Tree,
    open_image,
    open_tree,
    require_downloaded,
)
from emodecode.read.selection import VARIANT, Selection, run_key, run_name, run_spellings
from emodecode.read.sidecars import (
    read_confounds,
    read_groups,
    read_metadata,
    read_motion,
    repetition_time,
    timing_notes,
)
from emodecode.run import Run


def read_bids(
    path: str | Path,
    *,
    derivatives: str | Path | None = None,
    task: str | None = None,
    space: str | None = None,
    desc: str | None = None,
    sessions: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    subjects: Sequence[str] | None = None,
    exclude: Mapping[str, str] | None = None,
    dummies: int = 0,
    tr_s: float | None = None,
    confounds: Sequence[str] = (),
    events_task: str | None = None,
    stimulus: str | None = None,
) -> tuple[list[Run], list[str]]:
    """Find the BOLD runs of a BIDS folder with all that belongs to them.

    Parameters
    ----------
    path : path
        Folder with the ``sub-*`` folders of the raw data: events, sidecars, participants.tsv, and
        the images unless there are `derivatives`.
    derivatives : path, optional
        Folder whose images, masks and confounds are used (an fMRIPrep output).
    task, space, desc : str, optional
        Which images. May be left out where there is one choice; `desc` is "preproc" if that is
        there. `space` may go on as in fMRIPrep's ``--output-spaces``: "MNI152NLin2009cAsym:res-2".
    sessions, runs, subjects : sequence of str, optional
        Only these; "2" and "02" are the same run.
    exclude : mapping of subject to reason, optional
        Subjects left out; the notes say why.
    dummies : int, default 0
        Volumes at the beginning of each file that are skipped.
    tr_s : float, optional
        Repetition time that overrules sidecar and header.
    confounds : sequence of str
        Columns of the confounds table, globs allowed (``trans_*``).
    events_task : str, optional
        Task in the names of the events when it is not the images'; an ``acq-`` there names the
        images' task (Emo-FilM: ``task-scan_acq-Sintel_events.tsv`` for ``task-Sintel_bold``).
    stimulus : str, optional
        Name of the film that was shown in these runs.

    Returns
    -------
    runs : list of Run
        By subject, session and run, each with its lazy image.
    notes : list of str
        What was left out, filled or decided.

    Raises
    ------
    DataMissingError
        No such folder, no image at all, or images that are not downloaded.
    InputError
        A choice is open or names nothing that is there, two images for one run, conflicting TR,
        or a file that cannot be read.
    """
    raw = open_tree(Path(path))
    source = raw if derivatives is None else open_tree(Path(derivatives))
    selection = Selection(
        task=task,
        space=space,
        desc=desc,
        sessions=sessions,
        runs=runs,
        subjects=subjects,
        exclude=exclude or {},
    )
    present = _subjects(raw) | _subjects(source)
    images, notes = selection.apply(_all_images(source, raw), present=present)
    require_downloaded([image.path for image in images], what="images")
    groups, group_notes = read_groups(raw.root)
    reader = _Reader(
        trees=[raw] if source is raw else [raw, source],
        run_names=run_spellings(images),
        groups=groups,
        dummies=dummies,
        tr_s=tr_s,
        confounds=tuple(confounds),
        events_task=events_task,
        stimulus=stimulus or "n/a",
    )
    found = [reader.read(image) for image in images]
    missing = _without_image(raw, images, selection=selection, events_task=events_task)
    notes = [*notes, *group_notes, *missing, *_summarise(found)]
    return found, notes


def _subjects(tree: Tree) -> set[str]:
    return {item.name.removeprefix("sub-") for item in tree.root.glob("sub-*") if item.is_dir()}


def _all_images(source: Tree, raw: Tree) -> list[BidsFile]:
    images = [file for file in source.files("bold", *NIFTI) if file.get("sub") is not None]
    if images:
        return images
    n_events = len(raw.files("events", ".tsv"))
    raise DataMissingError(
        str(source.root),
        found=f"no image: {n_events} events tables but not one *_bold.nii.gz",
        expected="BOLD images in sub-LABEL/[ses-LABEL/]func",
        remedy="Download the images, or point data.derivatives to where they are.",
    )


@dataclass
class _Reader:
    """Makes the Run of an image; sidecars and events that serve many runs are read once."""

    trees: list[Tree]
    run_names: dict[str | int, str]
    groups: dict[str, str]
    dummies: int
    tr_s: float | None
    confounds: tuple[str, ...]
    events_task: str | None
    stimulus: str
    sidecars: dict[Path, dict] = field(default_factory=dict)
    events: dict[Path, pd.DataFrame] = field(default_factory=dict)

    def read(self, file: BidsFile) -> Run:
        where = run_name(run_key(file.entities))
        image = open_image(file.path)
        if len(image.shape) != 4:
            raise InputError(
                str(file.path),
                found=f"an image of shape {image.shape}",
                expected="a 4-D image (x, y, z, volumes)",
                remedy="Remove it from the folder, or name its subject in data.exclude.",
            )
        metadata = read_metadata(file, self.trees, cache=self.sidecars)
        tr_s, notes = repetition_time(
            image, metadata, tr_s=self.tr_s, where=f"{where} ({file.path.name})"
        )
        notes += timing_notes(metadata)
        events = self._find_events(file)
        if events is None:
            notes.append("no events")
        confounds = None
        if self.confounds:
            confounds, more = read_confounds(file, self.trees, names=self.confounds, where=where)
            notes += more
        motion = read_motion(file, self.trees, where=where)
        if motion is not None and len(motion) != image.shape[3]:
            motion = None  # another run's table: the control goes without it
        subject, session, task, _ = (str(value) for value in run_key(file.entities))
        return Run(
            subject=subject,
            session=session,
            task=task,
            run=self.run_names[file.get("run") or 0],
            tr_s=tr_s,
            image=image,
            mask=self._find_mask(file),
            events=events,
            confounds=confounds,
            motion=motion,
            dummies=self.dummies,
            stimulus=self.stimulus,
            group=self.groups.get(subject, "n/a"),
            space=str(file.get("space") or "n/a"),
            source=file.path,
            notes=tuple(notes),
        )

    def _find_events(self, file: BidsFile) -> pd.DataFrame | None:
        for entities in _events_entities(file.entities, self.events_task):
            for tree in self.trees:
                found = tree.applicable("events", ".tsv", entities=entities, folder=file.folder)
                if found:
                    path = found[-1].path
                    if path not in self.events:
                        require_downloaded([path], what="events tables")
                        self.events[path] = read_events(path)
                    return self.events[path].copy()
        return None

    def _find_mask(self, file: BidsFile) -> SpatialImage | None:
        entities = file.entities | {"desc": "brain"}
        variant = [file.get(name) for name in VARIANT]
        for extension in NIFTI:
            found = self.trees[-1].applicable(
                "mask", extension, entities=entities, folder=file.folder
            )
            of_run = [
                mask
                for mask in found
                if mask.get("desc") == "brain"
                and mask.get("task") == file.get("task")
                and [mask.get(name) for name in VARIANT] == variant
            ]
            if of_run:
                require_downloaded([of_run[-1].path], what="masks")
                return open_image(of_run[-1].path)
        return None


def _events_entities(entities: dict, events_task: str | None) -> list[dict]:
    """Entities by which the events of an image are looked for, first choice first."""
    if events_task is None:
        return [entities]
    renamed = entities | {"task": events_task}
    return [renamed | {"acq": entities.get("task")}, renamed]


def _without_image(
    raw: Tree, images: list[BidsFile], *, selection: Selection, events_task: str | None
) -> list[str]:
    """Note that names the runs with events (or a raw image) but no image to use."""
    task = str(images[0].get("task") or "n/a")
    present = {run_key(image.entities) for image in images}
    expected = set()
    for file in [*raw.files("events", ".tsv"), *raw.files("bold", *NIFTI)]:
        entities = file.entities
        if events_task is not None and entities.get("task") == events_task:
            entities = entities | {"task": entities.get("acq", task)}
        key = run_key(entities)
        if "sub" in entities and key[2] == task and selection.holds(key):
            expected.add(key)
    missing = [run_name(key) for key in sorted(expected - present, key=str)]
    if not missing:
        return []
    names = ", ".join(missing)
    return [f"no image to use for {len(missing)} runs with events or raw images: {names}"]


def _summarise(runs: list[Run]) -> list[str]:
    """One line per note with the runs it holds for, instead of one line per run."""
    holders: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for note in run.notes:
            holders[note].append(run.name)
    lines = []
    for note, names in holders.items():
        some = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        lines.append(
            f"all {len(runs)} runs: {note}" if len(names) == len(runs) else f"{some}: {note}"
        )
    return lines

"""Simulated data sets on disk: BIDS with derivatives in fMRIPrep's layout, and the truth."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import joblib
import nibabel as nib
import numpy as np
import pandas as pd
from tqdm import tqdm

from emodecode import __version__
from emodecode.errors import InputError
from emodecode.run import Run
from emodecode.samples import write_table
from emodecode.simulate.brain import make_brain
from emodecode.simulate.movie import AnnotatedFilm
from emodecode.simulate.recipe import make_recipe
from emodecode.simulate.runs import describe_truth, simulate_subject
from emodecode.simulate.subjects import make_subject
from emodecode.simulate.world import World, make_world, seed_of

BIDS_VERSION = "1.9.0"
TRUTH_FILE = Path("derivatives", "truth", "truth.json")
README = """A simulated data set (emodecode {version}).

design: {design}; code: {code}; seed: {seed}

No person was scanned. The preprocessed images are in derivatives/fmriprep, in fMRIPrep's layout
but not made by it; derivatives/truth says which regions carry which code (regions.nii.gz,
truth.json){truth_extra}.
{film}"""
FILM_README = """
A film of {n_runs} segments was shown; segments.tsv gives the start and end of each run's segment on
the film's clock (neighbours overlap). annotations/ holds one file per {observer}, times in
seconds on the film's clock{licence}.
"""


def simulate_dataset(
    folder: str | os.PathLike,
    *,
    preset: str | None = None,
    annotated: AnnotatedFilm | None = None,
    overwrite: bool = False,
    n_jobs: int = 1,
    progress: bool = True,
    **choices: Any,
) -> Path:
    """Write a simulated BIDS data set with a planted answer.

    The folder appears under its name only when it is complete. The same seed gives the same
    bytes, whatever `n_jobs`.

    Parameters
    ----------
    folder : path
        New folder.
    preset : str, optional
        A name in :data:`emodecode.simulate.recipe.PRESETS`.
    annotated : AnnotatedFilm, optional
        A real film, whose emotions are planted instead of drawn ones.
    overwrite : bool
        Replace `folder` if it is a simulated data set.
    n_jobs : int
        Subjects simulated at a time.
    progress : bool
        Show a progress bar (on a terminal only).
    **choices
        Parameters of :class:`emodecode.simulate.recipe.Recipe`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        A folder that exists or cannot be written, an unknown or impossible parameter.
    """
    folder = Path(folder)
    recipe = make_recipe(preset=preset, **choices)
    world = make_world(recipe, make_brain(recipe), annotated=annotated)
    world.plans(0)  # an impossible design fails before anything is written
    _check_target(folder, overwrite=overwrite)
    partial = folder.with_name(folder.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        subjects = _write_subjects(partial, world, n_jobs=n_jobs, progress=progress)
        _write_root(partial, world, subjects)
        _write_truth(partial, world, subjects)
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except OSError as error:
        raise InputError(
            str(folder),
            found=f"it cannot be written ({error.strerror or error})",
            expected="a folder on a disk with enough space and permission to write",
            remedy="Choose another folder.",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check_target(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise InputError(
            str(folder),
            found="it exists already",
            expected="a new folder",
            remedy="Choose another name, or allow overwriting.",
        )
    if not (folder / TRUTH_FILE).is_file():
        raise InputError(
            str(folder),
            found=f"it exists and has no {TRUTH_FILE.as_posix()}",
            expected="a simulated data set, the only thing that is overwritten",
            remedy="Choose another name, or delete the folder yourself.",
        )


def _write_subjects(root: Path, world: World, *, n_jobs: int, progress: bool) -> pd.DataFrame:
    numbers = range(world.recipe.n_subjects)
    jobs = joblib.Parallel(n_jobs=n_jobs, return_as="generator")(
        joblib.delayed(_write_subject)(root, world, number) for number in numbers
    )
    hidden = None if progress else True  # None: hidden where there is no terminal
    bar = tqdm(jobs, total=len(numbers), desc="simulating", unit="subject", disable=hidden)
    return pd.DataFrame(list(bar))


def _write_subject(root: Path, world: World, number: int) -> dict[str, Any]:
    subject = make_subject(world, number)
    rng = np.random.default_rng(seed_of(world.recipe, 2, number, 5))
    for run in simulate_subject(world, subject):
        _write_run(root, run)
    return {
        "participant_id": f"sub-{subject.name}",
        "age": int(rng.integers(20, 56)),
        "sex": str(rng.choice(["F", "M"])),
        "group": subject.group,
        "hrf_peak_s": [round(float(peak_s), 3) for peak_s in subject.peaks_s],
    }


def _write_run(root: Path, run: Run) -> None:
    name = f"sub-{run.subject}_task-{run.task}_run-{run.run}"
    raw = root / f"sub-{run.subject}" / "func"
    derived = root / "derivatives" / "fmriprep" / f"sub-{run.subject}" / "func"
    for folder in (raw, derived):
        folder.mkdir(parents=True, exist_ok=True)
    if run.events is not None and len(run.events):
        events = run.events.rename(columns={"onset_s": "onset", "duration_s": "duration"})
        first = ["onset", "duration", "trial_type"]
        write_table(
            events[first + [column for column in events if column not in first]].round(3),
            raw / f"{name}_events.tsv",
        )
    stem = f"{name}_space-{run.space}"
    nib.save(_scan(run), derived / f"{stem}_desc-preproc_bold.nii.gz")
    assert isinstance(run.mask, nib.Nifti1Image)
    nib.save(run.mask, derived / f"{stem}_desc-brain_mask.nii.gz")
    _write_json(
        derived / f"{stem}_desc-preproc_bold.json",
        {
            "RepetitionTime": run.tr_s,
            "TaskName": run.task,
            "SkullStripped": True,
            "SliceTimingCorrected": True,
            "StartTime": 0.0,
        },
    )
    assert run.confounds is not None
    write_table(run.confounds.round(6), derived / f"{name}_desc-confounds_timeseries.tsv")


def _scan(run: Run) -> nib.Nifti1Image:
    """The run as a 4-D image of whole numbers, as a scanner stores them; 0 outside the brain."""
    assert run.matrix is not None
    assert run.mask is not None
    inside = np.asanyarray(run.mask.dataobj) != 0
    volumes = np.zeros((*inside.shape, len(run.matrix)), dtype=np.int16)
    volumes[inside] = np.rint(np.clip(run.matrix, 0, 32767)).astype(np.int16).T
    image = nib.Nifti1Image(volumes, run.mask.affine)
    image.header.set_zooms((*run.mask.header.get_zooms()[:3], run.tr_s))
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(run.mask.affine, code="mni")
    image.set_qform(run.mask.affine, code="mni")
    return image


def _write_root(root: Path, world: World, subjects: pd.DataFrame) -> None:
    recipe = world.recipe
    generator = {"Name": "emodecode simulate", "Version": __version__}
    description = {"BIDSVersion": BIDS_VERSION, "License": "CC0", "GeneratedBy": [generator]}
    _write_json(
        root / "dataset_description.json",
        {"Name": "Simulated emotions", "DatasetType": "raw"} | description,
    )
    _write_json(
        root / "derivatives" / "fmriprep" / "dataset_description.json",
        {"Name": "Simulated, in the layout of fMRIPrep", "DatasetType": "derivative"} | description,
    )
    write_table(subjects.drop(columns="hrf_peak_s"), root / "participants.tsv")
    for task in sorted({plan.task for plan in world.plans(0)}):
        sidecar = {"TaskName": task, "RepetitionTime": recipe.tr_s}
        _write_json(root / f"task-{task}_bold.json", sidecar)
    real = world.annotated is not None
    film = (
        ""
        if world.scenes is None
        else FILM_README.format(
            n_runs=recipe.n_runs,
            observer="observer of a real film" if real else "simulated observer",
            licence="; they are no simulation and keep their own licence" if real else "",
        )
    )
    text = README.format(
        version=__version__,
        design=recipe.design,
        code=recipe.code if recipe.labels == "planted" else "null (labels at random)",
        seed=recipe.seed,
        truth_extra="" if world.scenes is None else ", and scenes.tsv the emotion of each scene",
        film=film,
    )
    (root / "README").write_text(text, encoding="utf-8")
    if world.scenes is None:
        return
    (root / ".bidsignore").write_text("annotations/\nsegments.tsv\n", encoding="utf-8")
    (root / "annotations").mkdir()
    for observer, table in world.annotations().items():
        table.to_csv(root / "annotations" / f"{observer}.csv", index=False, lineterminator="\n")
    segments = pd.DataFrame(world.segments, columns=["start_s", "end_s"])
    segments.insert(0, "run", [str(run) for run in range(1, recipe.n_runs + 1)])
    write_table(segments, root / "segments.tsv")


def _write_truth(root: Path, world: World, subjects: pd.DataFrame) -> None:
    folder = root / TRUTH_FILE.parent
    folder.mkdir(parents=True)
    nib.save(world.brain.region_image(), folder / "regions.nii.gz")
    if world.scenes is not None:
        write_table(world.scenes, folder / "scenes.tsv")
    peaks = dict(zip(subjects["participant_id"], subjects["hrf_peak_s"], strict=True))
    _write_json(root / TRUTH_FILE, describe_truth(world) | {"hrf_peak_s": peaks})


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

"""Tiny BIDS trees for tests."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (4, 5, 3)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def make_image(
    data: np.ndarray, *, tr_s: float = 2.0, unit: str | None = "sec", affine: np.ndarray = AFFINE
) -> nib.Nifti1Image:
    image = nib.Nifti1Image(data, affine)
    if data.ndim == 4:
        image.header.set_zooms((*image.header.get_zooms()[:3], tr_s))
    image.header.set_xyzt_units("mm", unit)
    return image


def write_image(
    path: Path, *, n_volumes: int = 20, seed: int = 0, tr_s: float = 2.0, unit: str | None = "sec"
) -> np.ndarray:
    """Write noise around 100 and return it; the folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).normal(100, 5, (*SHAPE, n_volumes)).astype(np.float32)
    nib.save(make_image(data, tr_s=tr_s, unit=unit), path)
    return data


def write_mask(path: Path, inside: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), AFFINE), path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_tsv(path: Path, *rows: str) -> None:
    """Rows with spaces where the tabs go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.replace(" ", "\t") + "\n" for row in rows))


def func(root: Path, subject: str) -> Path:
    return root / f"sub-{subject}" / "func"


def raw_tree(
    root: Path,
    *,
    subjects=("01", "02"),
    runs=("1", "2"),
    images: bool = True,
    events: bool = True,
    tr_s: float = 2.0,
) -> Path:
    """``task-faces`` with a root-level sidecar (TR 2 s) and two events a run."""
    write_json(root / "dataset_description.json", {"Name": "tiny", "BIDSVersion": "1.8.0"})
    write_json(root / "task-faces_bold.json", {"RepetitionTime": tr_s})
    for subject in subjects:
        for run in runs:
            stem = f"sub-{subject}_task-faces_run-{run}"
            if images:
                write_image(func(root, subject) / f"{stem}_bold.nii.gz", tr_s=tr_s)
            if events:
                write_tsv(
                    func(root, subject) / f"{stem}_events.tsv",
                    "onset duration trial_type",
                    f"4 6 fear{run}",
                    "20 6 n/a",
                )
    return root


def derivative_tree(
    root: Path, *, subjects=("01", "02"), runs=("1", "2"), variants=("space-MNI",)
) -> Path:
    """What fMRIPrep writes next to `raw_tree`, one image per variant, with masks."""
    write_json(root / "dataset_description.json", {"Name": "fMRIPrep", "BIDSVersion": "1.4.0"})
    inside = np.zeros(SHAPE)
    inside[1:3, 1:4, 1] = 1
    for subject in subjects:
        for run in runs:
            stem = f"sub-{subject}_task-faces_run-{run}"
            for variant in variants:
                name = f"{stem}_{variant}" if variant else stem
                write_image(func(root, subject) / f"{name}_desc-preproc_bold.nii.gz")
                write_json(
                    func(root, subject) / f"{name}_desc-preproc_bold.json",
                    {"RepetitionTime": 2.0, "SliceTimingCorrected": True, "StartTime": 0.97},
                )
                write_mask(func(root, subject) / f"{name}_desc-brain_mask.nii.gz", inside)
            write_tsv(
                func(root, subject) / f"{stem}_desc-confounds_timeseries.tsv",
                "trans_x trans_x_derivative1 a_comp_cor_00 a_comp_cor_05",
                "0.5 n/a 1 2",
                *(f"{volume}.5 {volume} 1 2" for volume in range(1, 20)),
            )
    return root

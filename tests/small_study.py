"""A study small enough to be evaluated in a second: three subjects, two runs of 24 volumes."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import tomli_w

from bids_tree import func, make_image, write_json

SHAPE = (6, 6, 6)
N_VOLUMES = 24
TR_S = 2.0
BLOCK_S = 10.0
SUBJECTS = ("01", "02", "03")
RUNS = ("1", "2")

STUDY: dict[str, Any] = {
    "name": "small",
    "data": {"path": "bids", "mask": "../mask.nii.gz"},
    "labels": {"lag_s": 4.0},
    "features": {"clean": {"high_pass_hz": 0.0}},
    "evaluate": {"split": "leave_one_subject_out", "n_permutations": 20},
    "models": [{"name": "dummy"}, {"name": "lda"}],
}


def stem(subject: str, run: str) -> str:
    """``sub-01_task-faces_run-1``."""
    return f"sub-{subject}_task-faces_run-{run}"


def image_path(root: Path, subject: str = "02", run: str = "1") -> Path:
    """Image of a run below the folder of the study."""
    return func(root / "bids", subject) / f"{stem(subject, run)}_bold.nii.gz"


def events_path(root: Path, subject: str = "02", run: str = "1") -> Path:
    """Events of a run below the folder of the study."""
    return func(root / "bids", subject) / f"{stem(subject, run)}_events.tsv"


def write_small(root: Path, study: dict[str, Any] | None = None, *, seed: int = 0) -> Path:
    """Write ``bids/``, ``mask.nii.gz`` and ``study.toml``; return the path of the study.

    Two emotions in four blocks a run; each lifts its own half of the voxels.
    """
    rng = np.random.default_rng(seed)
    write_json(root / "bids/dataset_description.json", {"Name": "small", "BIDSVersion": "1.8.0"})
    write_json(root / "bids/task-faces_bold.json", {"RepetitionTime": TR_S})
    for number, subject in enumerate(SUBJECTS):
        for run in RUNS:
            names = ["joy", "fear"] * 2 if (number + int(run)) % 2 else ["fear", "joy"] * 2
            onsets = 2.0 + BLOCK_S * np.arange(4)
            data = rng.normal(100, 5, (*SHAPE, N_VOLUMES)).astype(np.float32)
            moment = TR_S * np.arange(N_VOLUMES) - STUDY["labels"]["lag_s"]
            for name, onset in zip(names, onsets, strict=True):
                on = (moment >= onset) & (moment < onset + BLOCK_S)
                half = slice(0, 3) if name == "joy" else slice(3, 6)
                data[half, :, :, on] += 3.0
            image_path(root, subject, run).parent.mkdir(parents=True, exist_ok=True)
            save_image(root, data, subject=subject, run=run)
            rows = zip(onsets, names, strict=True)
            lines = [f"{onset:g}\t{BLOCK_S:g}\t{name}" for onset, name in rows]
            write_events(root, *lines, subject=subject, run=run)
    save_mask(root, np.ones(SHAPE))
    return write_study(root, study or {})


def save_image(
    root: Path, data: np.ndarray, *, subject: str = "02", run: str = "1", **header: Any
) -> None:
    """Replace the image of a run; `header` goes to `bids_tree.make_image`."""
    nib.save(make_image(data, **header), image_path(root, subject, run))


def load_image(root: Path, *, subject: str = "02", run: str = "1") -> np.ndarray:
    """Values of the image of a run."""
    return nib.load(image_path(root, subject, run)).get_fdata(dtype=np.float32)


def save_mask(root: Path, inside: np.ndarray) -> None:
    """Replace the mask."""
    nib.save(make_image(inside.astype(np.uint8)), root / "mask.nii.gz")


def write_events(root: Path, *rows: str, subject: str = "02", run: str = "1") -> None:
    """Replace the events of a run: tab-separated rows without the header."""
    lines = ["onset\tduration\ttrial_type", *rows]
    events_path(root, subject, run).write_text("\n".join(lines) + "\n")


def write_study(root: Path, changes: dict[str, Any]) -> Path:
    """Write ``study.toml``: `STUDY` with some keys replaced; a key set to None is left out."""
    path = root / "study.toml"
    path.write_text(tomli_w.dumps(_merged(STUDY, changes)))
    return path


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        inner = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if inner else value
    return {key: value for key, value in merged.items() if value is not None}

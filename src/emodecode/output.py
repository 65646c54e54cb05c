"""Output folders: nothing half-written, nothing lost, work resumed."""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emodecode.errors import EmodecodeError, InputError

RESUME_FOLDER = ".resume"
"""Inside an output folder: finished parts of an interrupted command."""

_STAGING = ".staging"
_CONTENTS = ".contents"


@contextlib.contextmanager
def open_output(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a staging folder whose content moves into `folder` when the block ends well.

    After an error nothing of the staging is left, and `folder` and its parents disappear again if
    they were made here and hold nothing else. What lies in ``.resume`` stays after an interruption
    and goes after success; a refused input takes only what it has put there itself.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    overwrite : bool
        Replace the files of an earlier result; otherwise a folder that holds any is refused.

    Raises
    ------
    InputError
        When the folder holds files already, or cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    _check(folder, overwrite)
    staging, resume = folder / _STAGING, folder / RESUME_FOLDER
    resumed = resume.exists()
    try:
        _make(staging, folder)
        yield staging
        _publish(staging, folder)
        shutil.rmtree(resume, ignore_errors=True)
    except EmodecodeError:
        if not resumed and not any(resume.glob("*.npz")):  # finished folds are kept
            shutil.rmtree(resume, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def write_json(value: Any, path: Path) -> None:
    """Write JSON under a temporary name, then rename; NaN and infinity become null."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(_finite(value), indent=1, ensure_ascii=False) + "\n")
    partial.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check(folder: Path, overwrite: bool) -> None:
    if folder.is_file():
        raise InputError(
            str(folder),
            found="a file",
            expected="a folder, or a name that is free",
            remedy="Choose another --out.",
        )
    if not folder.is_dir() or overwrite:
        return
    present = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if present:
        raise InputError(
            str(folder),
            found=f"it holds {len(present)} files already ({', '.join(present[:3])} ...)",
            expected="an empty folder or a new name",
            remedy="Choose another --out, or say --overwrite.",
        )


def _make(staging: Path, folder: Path) -> None:
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        probe = staging / ".write-test"
        probe.write_text("x")
        probe.unlink()
    except OSError as error:
        raise InputError(
            str(folder),
            found=f"cannot be written ({error.strerror})",
            expected="a folder that you may write to, on a disk with room",
            remedy="Choose another --out, or change its permissions.",
        ) from error


def _publish(staging: Path, folder: Path) -> None:
    """Move everything into place and forget what an earlier result had and this one has not."""
    new = sorted(path.name for path in staging.iterdir())
    contents = folder / _CONTENTS
    old = contents.read_text().splitlines() if contents.is_file() else []
    for name in set(old) - set(new):
        target = folder / Path(name).name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    contents.write_text("\n".join(new) + "\n")
    for path in sorted(staging.iterdir()):
        target = folder / path.name
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        path.replace(target)

"""Files of a BIDS tree: the index, BIDS inheritance, and whether a file is really there.

ancpbids walks the tree and parses the names. Inheritance is done here: ancpbids 0.4.10's
``Artifact.get_metadata`` skips a sidecar that sits next to another one, joins lists of two levels
(``SliceTiming`` twice as long) and fails on a sidecar that is no JSON.
"""

import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
from nibabel.filebasedimages import ImageFileError
from nibabel.imageglobals import logger
from nibabel.spatialimages import HeaderDataError, SpatialImage

from emodecode.errors import DataMissingError, InputError

NIFTI = (".nii.gz", ".nii")
IGNORED = [
    ".*",
    "*/.*",
    "derivatives",
    "sourcedata",
    "code",
    "stimuli",
    "phenotype",
    "dataset_description.json",
    "*/dataset_description.json",
    "genetic_info.json",
    "samples.json",
]
"""What the index leaves out: hidden files and .git/annex, other people's derivatives, and the
files that ancpbids would parse at once (it fails on those that are no JSON)."""

POINTER_SIZE = 32_768
"""No git-annex or git-lfs pointer is larger, bytes."""


@dataclass(frozen=True)
class BidsFile:
    """One file with a BIDS name; `entities` hold index entities (run, echo) as int."""

    path: Path
    folder: tuple[str, ...]
    entities: dict[str, str | int]
    suffix: str
    extension: str
    run: str

    def get(self, entity: str) -> str | int | None:
        """Value of an entity, None where the name has none."""
        return self.entities.get(entity)


class Tree:
    """Index of one BIDS folder; nothing but names is read."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files: dict[tuple[str, str], dict[Any, list[BidsFile]]] = defaultdict(
            lambda: defaultdict(list)
        )
        for file in _walk(root):
            self._files[file.suffix, file.extension][file.get("sub")].append(file)

    def files(self, suffix: str, *extensions: str) -> list[BidsFile]:
        """All files of this suffix and these extensions, in the order of their paths."""
        found = [
            file
            for extension in extensions
            for files in self._files.get((suffix, extension), {}).values()
            for file in files
        ]
        return sorted(found, key=lambda file: file.path)

    def applicable(
        self, suffix: str, extension: str, *, entities: dict[str, Any], folder: tuple[str, ...]
    ) -> list[BidsFile]:
        """Files that apply to an image by BIDS inheritance, the most specific one last.

        A file applies when all its entities are the image's; one without a subject must also lie
        in a folder at or above the image's.
        """
        by_subject = self._files.get((suffix, extension), {})
        shared = [
            file for file in by_subject.get(None, []) if file.folder == folder[: len(file.folder)]
        ]
        own = by_subject.get(entities.get("sub"), []) if "sub" in entities else []
        found = [file for file in [*shared, *own] if file.entities.items() <= entities.items()]
        return sorted(found, key=lambda file: (len(file.folder), len(file.entities)))


def _walk(root: Path) -> list[BidsFile]:
    import ancpbids
    from ancpbids.model_base import Artifact
    from ancpbids.utils import parse_bids_name

    options = ancpbids.DatasetOptions(ignore=IGNORED, ignore_pickle_file=True)
    dataset = ancpbids.load_dataset(str(root), options)
    files = []
    for artifact in dataset.select(Artifact).objects():
        path = Path(artifact.get_absolute_path())
        files.append(
            BidsFile(
                path=path,
                folder=path.parent.relative_to(root).parts,
                entities=dict(artifact.entities),
                suffix=artifact.suffix,
                extension=artifact.extension,
                run=str(parse_bids_name(artifact.name)["entities"].get("run", "n/a")),
            )
        )
    return files


def open_tree(path: Path) -> Tree:
    """Index a BIDS folder.

    Raises
    ------
    DataMissingError
        No such folder.
    InputError
        The folder holds no ``sub-*`` folder.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataMissingError(
            str(path),
            found="no such folder",
            expected="a BIDS folder",
            remedy="Check data.path and data.derivatives.",
        )
    path = path.resolve()
    if not any(path.glob("sub-*")):
        names = sorted(item.name for item in path.iterdir())[:5]
        raise InputError(
            str(path),
            found=f"no sub-* folder (it holds {', '.join(names) or 'nothing'})",
            expected="a BIDS folder with one sub-LABEL folder per subject",
            remedy="Point to the folder that holds the sub-* folders.",
        )
    return Tree(path)


def is_downloaded(path: Path) -> bool:
    """Whether the content is there: no broken link, no git-annex or git-lfs pointer text."""
    if not path.exists():
        return False
    if path.stat().st_size > POINTER_SIZE:
        return True
    with path.open("rb") as file:
        head = file.read(512)
    return b"annex/objects/" not in head and not head.startswith(b"version https://git-lfs")


def require_downloaded(paths: Sequence[Path], *, what: str = "files") -> None:
    """Raise DataMissingError when any of these files is only a pointer to its content."""
    missing = [path for path in paths if not is_downloaded(path)]
    if not missing:
        return
    first = missing[0]
    raise DataMissingError(
        str(first),
        found=f"not downloaded (git-annex pointer); {len(missing)} of {len(paths)} {what} are not",
        expected="the content of the file",
        remedy=f"datalad get {first} (or name in data.subjects only those that are downloaded).",
    )


def require_file(path: Path) -> None:
    """Raise DataMissingError when there is no file, or only a pointer to it."""
    if path.is_symlink() or path.is_file():
        require_downloaded([path])
        return
    raise DataMissingError(
        str(path), found="no such file", expected="the file itself", remedy="Check the path."
    )


def open_image(path: Path) -> SpatialImage:
    """Open an image without reading its voxels; a bad header is an InputError."""
    try:
        with _quiet_nibabel():
            return nib.load(path)  # type: ignore[return-value]
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise unreadable(path, error) from error


@contextmanager
def _quiet_nibabel() -> Iterator[None]:
    """Keep what nibabel logs about a header off stderr: the error says it, or it is harmless."""
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def unreadable(path: Path | str, error: Exception | str) -> InputError:
    """Say that an image is truncated or corrupt."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        str(path),
        found=f"truncated or corrupt ({reason})",
        expected="a complete NIfTI image",
        remedy="Download or copy the file again (compare its size and checksum).",
    )

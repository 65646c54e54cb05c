"""The folder of a decoder: one sealed JSON file that knows the hash of every other file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from emodecode.errors import ContractError, DataMissingError

CONTENT = "decoder.json"
FORMAT = "emodecode decoder"
VERSION = 1
"""Of the format; what reads a folder refuses other ones."""

_SEAL = "sha256"


def seal(folder: Path, content: dict[str, Any]) -> None:
    """Write ``decoder.json`` beside the other files of a decoder, with a hash of each.

    Parameters
    ----------
    folder : Path
        Holds all other files already.
    content : dict
        Plain values of JSON. The file also gets a hash of its own canonical text: keys sorted, no
        blanks.
    """
    files = {path.name: hash_of_file(path) for path in sorted(folder.iterdir())}
    whole = {"format": FORMAT, "format_version": VERSION} | content | {"files": files}
    whole[_SEAL] = _hash_of_content(whole)
    (folder / CONTENT).write_text(
        json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
    )


def unseal(folder: Path) -> dict[str, Any]:
    """Read ``decoder.json`` and check all files against it; nothing else is opened before.

    Raises
    ------
    DataMissingError
        No such folder.
    ContractError
        A file that is missing, truncated, edited or not listed, or another version of the format.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataMissingError(
            str(folder),
            found="no such folder",
            expected="a decoder that `emodecode train` wrote",
            remedy="Check the path.",
        )
    path = folder / CONTENT
    content = _read(path)
    if content.get("format") != FORMAT or content.get("format_version") != VERSION:
        raise ContractError(
            str(path),
            found=f"format {content.get('format')!r}, version {content.get('format_version')!r}",
            expected=f"{FORMAT!r}, version {VERSION}",
            remedy="Load it with the version of emodecode that wrote it, or train it again.",
        )
    if content.get(_SEAL) != _hash_of_content(content):
        raise changed(path, "its text is not the one that its hash was made from: it was edited")
    if not isinstance(content.get("files"), dict):
        raise changed(path, "no list of the other files")
    _check_files(folder, content["files"])
    return content


def changed(path: Path, found: str) -> ContractError:
    """Return the error for a file that is not as it was written."""
    return ContractError(
        str(path),
        found=found,
        expected="the file as `emodecode train` wrote it",
        remedy="Copy the whole folder again from where it was made, or train the decoder again.",
    )


def hash_of_file(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise changed(path, "no such file: the folder is incomplete, or no decoder")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise changed(path, f"truncated or no JSON ({error})") from error
    if not isinstance(content, dict):
        raise changed(path, f"JSON that is a {type(content).__name__}")
    return content


def _hash_of_content(content: dict[str, Any]) -> str:
    others = {key: value for key, value in content.items() if key != _SEAL}
    text = json.dumps(others, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Compare the files that are there with those that are listed; hidden ones do not count."""
    there = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    for name in sorted(there - set(files) - {CONTENT}):
        raise changed(folder / name, "a file that does not belong to the decoder")
    for name, wanted in files.items():
        path = folder / name
        if name != path.name or not path.is_file():
            raise changed(path, "no such file")
        if hash_of_file(path) != wanted:
            raise changed(path, "another content than was written: truncated or edited")

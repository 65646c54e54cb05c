"""Named public data sets over HTTP, with checksums."""

import difflib
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from emodecode.errors import DataMissingError, InputError

SUMS = "SHA256SUMS"
"""Checksums of what was fetched into a folder, in the format of ``sha256sum --check``."""

_KEY = re.compile(rb"\b(MD5|SHA1|SHA256|SHA512)E?-s\d+--([0-9a-f]{32,128})")


@dataclass(frozen=True)
class _Wanted:
    """A file: its name on disk and on a mirror, its address, its checksum if it is known."""

    name: str
    url: str
    checksum: str | None = None
    optional: bool = False


def known_sets() -> dict[str, str]:
    """Names of the data sets that :func:`fetch` knows, and what they are."""
    return {name: entry["title"] for name, entry in _registry().items()}


def fetch(
    name: str,
    folder: str | os.PathLike,
    *,
    subjects: Sequence[str] | None = None,
    runs: Sequence[str] | None = None,
    base_url: str | None = None,
    checksums_url: str | None = None,
    progress: bool = True,
) -> list[Path]:
    """Download a named data set; what is there already is checked and kept.

    Every file appears under its name only when it is complete and its checksum is right. A
    download that broke off goes on where it stopped. Checksums come from the package; for
    ``ds000113``, whose checksums are not in the package, from the data set's public git repository
    (the git-annex key of each file) at the time of the download. A file without any is taken as it
    comes, that is said on stderr, and its SHA-256 is written to ``SHA256SUMS`` in `folder`, against
    which later fetches check it.

    Parameters
    ----------
    name : str
        One of :func:`known_sets`.
    folder : path
        Where the files go; it is made if it is not there.
    subjects, runs : sequence of str, optional
        Only these, for sets that have them.
    base_url : str, optional
        A mirror that holds the files under the names that they get on disk.
    checksums_url : str, optional
        Where the git-annex keys are, if not in the public place. A mirror is checked against them
        only if this is given.
    progress : bool, default True
        Show a bar for each file.

    Returns
    -------
    paths : list of Path
        The files, whether fetched now or before.

    Raises
    ------
    InputError
        Unknown set, subject or run; a file with a wrong checksum; a folder that cannot be written.
    DataMissingError
        The server cannot be reached or does not have a file.
    """
    entry = _find(name)
    _check_address(base_url, "--url")
    _check_address(checksums_url, "--checksums-url")
    files = _wanted(entry, subjects, runs, base_url)
    folder = _prepare(Path(folder))
    keys_url = checksums_url or (entry.get("checksums_url") if base_url is None else None)
    recorded = _read_sums(folder / SUMS)
    paths, unverified = [], []
    for wanted in files:
        path = folder / wanted.name
        checksum = wanted.checksum or recorded.get(wanted.name)
        if checksum is None and keys_url:
            checksum = _published_checksum(f"{keys_url.rstrip('/')}/{wanted.name}")
        if not _get(wanted, path, checksum, progress=progress):
            continue
        if checksum is None:
            unverified.append(wanted.name)
        paths.append(path)
        if wanted.name not in recorded:
            recorded[wanted.name] = "sha256:" + _sha256(path, checksum)
            _write_sums(folder / SUMS, recorded)
    if unverified:
        print(
            f"{len(unverified)} files of {name} could not be verified: no checksum is published "
            f"where it was looked for ({unverified[0]} ...). They are recorded in {folder / SUMS}.",
            file=sys.stderr,
        )
    return paths


# --- what is wanted ------------------------------------------------------------------------------


def _registry() -> dict[str, dict[str, Any]]:
    return json.loads((package_files("emodecode.read") / "registry.json").read_text("utf-8"))


def _find(name: str) -> dict[str, Any]:
    registry = _registry()
    if name in registry:
        return registry[name]
    near = difflib.get_close_matches(name, registry, n=1, cutoff=0.3)
    raise InputError(
        "fetch",
        found=f"no data set called {name!r}",
        expected=f"one of {', '.join(sorted(registry))}",
        remedy=f"Did you mean {near[0]!r}?" if near else "Choose one of these.",
    )


def _wanted(
    entry: Mapping[str, Any],
    subjects: Sequence[str] | None,
    runs: Sequence[str] | None,
    base_url: str | None,
) -> list[_Wanted]:
    base = (base_url or entry["base_url"]).rstrip("/")
    chosen = {
        what: _choose(what, asked, entry.get(f"{what}s", []))
        for what, asked in (("subject", subjects), ("run", runs))
    }
    wanted = [
        _Wanted(name, f"{base}/{name if base_url else known['url']}", known["hash"])
        for name, known in entry.get("files", {}).items()
    ]
    wanted += [_Wanted(name, f"{base}/{name}") for name in entry.get("common", [])]
    wanted += [_Wanted(n, f"{base}/{n}", optional=True) for n in entry.get("optional", [])]
    for subject in chosen["subject"]:
        for run in chosen["run"]:
            names = [t.format(subject=subject, run=run) for t in entry.get("per_run", [])]
            wanted += [_Wanted(name, f"{base}/{name}") for name in names]
    return wanted


def _choose(what: str, asked: Sequence[str] | None, there: Sequence[str]) -> Sequence[str]:
    if asked is None:
        return there
    unknown = [name for name in asked if name not in there]
    if unknown:
        raise InputError(
            f"fetch --{what}s",
            found=f"no {what} {', '.join(unknown)}",
            expected=f"some of {', '.join(there)}" if there else f"no {what}s: this set has none",
            remedy="Write them without prefix, such as 01." if there else f"Omit --{what}s.",
        )
    return asked


def _prepare(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".emodecode-write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(
        str(path),
        found=f"it cannot be written ({error.strerror or error})",
        expected="a folder that can be written, with space left",
        remedy="Choose another folder, or free some space.",
    )


def _check_address(url: str | None, option: str) -> None:
    if url is not None and not re.match(r"https?://[^/]+", url):
        raise InputError(
            option,
            found=repr(url),
            expected="an address that begins with http:// or https://",
            remedy="Correct it.",
        )


# --- one file ------------------------------------------------------------------------------------


def _get(wanted: _Wanted, path: Path, checksum: str | None, *, progress: bool) -> bool:
    """Fetch a file unless it is there and right; False where an optional one does not exist."""
    import pooch

    from emodecode.read.download import NoSuchFileError, Resume

    _keep_what_is_there(path, checksum)
    store = pooch.create(
        path=path.parent, base_url="", registry={path.name: checksum}, urls={path.name: wanted.url}
    )
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        store.fetch(path.name, downloader=Resume(path, progress=progress))
    except NoSuchFileError:
        if wanted.optional:
            return False
        raise
    except (InputError, DataMissingError):
        raise
    except ValueError as error:
        raise InputError(
            wanted.url,
            found=str(error).split(". ")[0],
            expected="the published file; what came was deleted",
            remedy="Try again; if it stays so, the server has another file than the one recorded.",
        ) from error
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        logger.setLevel(level)
    return True


def _keep_what_is_there(path: Path, checksum: str | None) -> None:
    """Never write over a file that is not the published one: it may be somebody's work."""
    import pooch

    if path.is_symlink() and not path.exists():
        raise InputError(
            str(path),
            found="a git-annex pointer",
            expected="no file, or the file itself",
            remedy=f"Download it with `datalad get {path}`, or choose another folder.",
        )
    if path.is_file() and checksum is not None:
        algorithm, _, value = checksum.partition(":")
        if pooch.file_hash(str(path), alg=algorithm) != value:
            raise InputError(
                str(path),
                found="a file with another checksum than the one recorded",
                expected=checksum,
                remedy="Move it away to fetch it again (or, if the change is meant, correct "
                f"{SUMS}).",
            )


def _published_checksum(url: str) -> str | None:
    """Checksum of a file in a public git-annex repository.

    The repository holds large files as the text of a link to the annex, which ends in a key such as
    ``MD5E-s12345--<md5>.nii.gz``, and small ones as they are.
    """
    import requests

    from emodecode.read.download import TIMEOUT_S

    try:
        answer = requests.get(url, timeout=TIMEOUT_S)
    except requests.RequestException:
        return None
    if not answer.ok:
        return None
    key = _KEY.search(answer.content) if len(answer.content) < 1000 else None
    if key:
        return f"{key[1].decode().lower()}:{key[2].decode()}"
    return "sha256:" + hashlib.sha256(answer.content).hexdigest()


# --- the record ----------------------------------------------------------------------------------


def _sha256(path: Path, checksum: str | None) -> str:
    import pooch

    if checksum and checksum.startswith("sha256:"):
        return checksum.removeprefix("sha256:")
    return pooch.file_hash(str(path))


def _read_sums(path: Path) -> dict[str, str]:
    lines: Iterable[str] = path.read_text("utf-8").splitlines() if path.is_file() else ()
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    broken = [pair for pair in pairs if len(pair) != 2 or not re.fullmatch("[0-9a-f]{64}", pair[0])]
    if broken:
        raise InputError(
            str(path),
            found=f"a line that is no checksum: {' '.join(broken[0])[:60]!r}",
            expected="lines of a SHA-256 in hexadecimal, two spaces and a file name",
            remedy="Correct or delete that line.",
        )
    return {name.lstrip("*"): f"sha256:{value}" for value, name in pairs}


def _write_sums(path: Path, recorded: Mapping[str, str]) -> None:
    lines = [f"{value.removeprefix('sha256:')}  {name}\n" for name, value in recorded.items()]
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(lines), "utf-8")
    partial.replace(path)

"""One file over HTTP: continued where it broke off, under its name only when it is complete."""

import os
import shutil
from pathlib import Path

import requests
from tqdm import tqdm

from emodecode.errors import DataMissingError, InputError

ATTEMPTS = 3
TIMEOUT_S = (10.0, 60.0)
_CHUNK_BYTES = 1 << 14


class NoSuchFileError(DataMissingError):
    """The server answers, but it does not have the file."""


class Resume:
    """A downloader for pooch that keeps what came of a broken download and asks for the rest.

    What came lies beside the file as ``NAME.partial``, with the server's mark of its version
    (ETag or date) in ``NAME.partial.version``: only the rest of that same version is asked for
    (``Range`` with ``If-Range``), otherwise all of it.

    Parameters
    ----------
    target : Path
        Where the file will be.
    progress : bool
        Show a bar.
    """

    def __init__(self, target: Path, *, progress: bool) -> None:
        self.target, self.progress = target, progress
        self.partial = target.with_name(target.name + ".partial")
        self.version = target.with_name(target.name + ".partial.version")

    def __call__(self, url: str, output_file: str | os.PathLike, pooch: object) -> None:
        """Download `url` to `output_file`, as pooch asks for it."""
        for attempt in range(ATTEMPTS):
            before = self._came()
            total = None
            try:
                total = self._continue(url)
            except requests.exceptions.ChunkedEncodingError:
                pass  # it broke off on the way
            except requests.RequestException as error:
                last = attempt + 1 == ATTEMPTS
                if self._came() == before and (last or not before):
                    raise _unreachable(url, error) from error
            if total == self._came():
                self.partial.replace(output_file)
                self.version.unlink(missing_ok=True)
                return
        raise DataMissingError(
            url,
            found=f"the connection broke off; {self._came()} bytes have come",
            expected="the whole file",
            remedy="Run the same command again: it goes on from there.",
        )

    def _came(self) -> int:
        return self.partial.stat().st_size if self.partial.is_file() else 0

    def _continue(self, url: str) -> int:
        """Ask for what is missing and append it; the size of the whole file in bytes."""
        came = self._came() if self.version.is_file() else 0
        headers = {"Accept-Encoding": "identity"}
        if came:
            headers |= {"Range": f"bytes={came}-", "If-Range": self.version.read_text()}
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S) as answer:
            sent = answer.headers.get("Content-Range", "")
            if answer.status_code == 416 and sent == f"bytes */{came}":
                return came  # nothing was left to send
            if answer.status_code in (206, 416) and not sent.startswith(f"bytes {came}-"):
                self.version.unlink()
                return self._continue(url)
            if not answer.ok:
                raise _refused(url, answer.status_code)
            if answer.status_code != 206:
                came = 0
                self.partial.unlink(missing_ok=True)
            self._remember_version(answer)
            length = answer.headers.get("Content-Length")
            total = None if length is None else came + int(length)
            self._require_space(total, came)
            with (
                self.partial.open("ab" if came else "wb") as file,
                tqdm(
                    desc=self.target.name,
                    total=total,
                    initial=came,
                    unit="B",
                    unit_scale=True,
                    disable=not self.progress,
                ) as bar,
            ):
                for chunk in answer.iter_content(_CHUNK_BYTES):
                    file.write(chunk)
                    bar.update(len(chunk))
        return self._came() if total is None else total

    def _remember_version(self, answer: requests.Response) -> None:
        tag = answer.headers.get("ETag", "")
        mark = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
        if mark:
            self.version.write_text(mark)
        else:
            self.version.unlink(missing_ok=True)

    def _require_space(self, total: int | None, came: int) -> None:
        free = shutil.disk_usage(self.target.parent).free
        if total is not None and total - came > free:
            raise InputError(
                str(self.target),
                found=f"{free / 1e6:.0f} MB free on the disk",
                expected=f"{(total - came) / 1e6:.0f} MB",
                remedy="Free some space, or choose another folder, fewer subjects or fewer runs.",
            )


def _unreachable(url: str, error: Exception) -> DataMissingError:
    return DataMissingError(
        url,
        found=f"no answer ({type(error).__name__})",
        expected="a server that can be reached",
        remedy="Check the network; without one, copy the files into the folder by hand, or name a "
        "mirror that can be reached with --url.",
    )


def _refused(url: str, status: int) -> DataMissingError:
    if status in (403, 404, 410):
        return NoSuchFileError(
            url,
            found=f"the server answers {status}: it has no such file",
            expected="the file",
            remedy="Check --url: a mirror holds the files under the names that they get on disk.",
        )
    return DataMissingError(
        url,
        found=f"the server answers {status}",
        expected="the file",
        remedy="Try again later, or name a mirror with --url.",
    )

"""The report: one HTML page of a results folder, nothing refitted, nothing fetched."""

import os
from importlib.resources import files
from pathlib import Path
from typing import Any

from emodecode.errors import DataMissingError, InputError
from emodecode.report import wording
from emodecode.report.content import describe_page
from emodecode.report.folder import ResultsFolder, read_folder


def write_report(folder: str | os.PathLike, *, out: str | os.PathLike | None = None) -> Path:
    """Write the report of a results folder as one self-contained HTML page.

    Parameters
    ----------
    folder : path
        A folder written by ``emodecode evaluate``.
    out : path, optional
        The page; ``folder/report.html`` by default. It appears under its name when complete.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    DataMissingError
        The folder, or a file in it, is not there.
    InputError
        A file is truncated or does not belong to the others; or jinja2 and matplotlib are not
        installed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataMissingError(
            str(folder),
            found="no such folder",
            expected="a folder written by `emodecode evaluate`",
            remedy="Check the path.",
        )
    page = Path(out) if out is not None else folder / "report.html"
    text = render_page(read_folder(folder))
    partial = page.with_name(page.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(page)
    except OSError as error:
        raise InputError(
            str(page),
            found=f"cannot be written ({error.strerror})",
            expected="a file in a folder that you may write to",
            remedy="Choose another place with --out.",
        ) from error
    return page


def render_page(results: ResultsFolder) -> str:
    """Return the page as text."""
    template = environment().get_template("page.html")
    return template.render(style=style(), wording=wording, **describe_page(results))


def environment() -> Any:
    """Return the templates of the report.

    Raises
    ------
    InputError
        jinja2 or matplotlib is not installed.
    """
    try:
        import jinja2
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            "emodecode report",
            found=f"{error.name} is not installed",
            expected="jinja2 and matplotlib",
            remedy="Install them: pip install 'emodecode[report]'.",
        ) from error

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("emodecode.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters |= {
        "number": wording.format_number,
        "interval": wording.format_interval,
        "count": wording.format_count,
        "mm": lambda value: f"{round(value)}".replace("-", "−"),
        "short": wording.format_short,
    }
    return made


def style() -> str:
    """Return the style sheet of the report."""
    return (files("emodecode.report") / "style.css").read_text(encoding="utf-8")

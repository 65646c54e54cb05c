"""The page of `emodecode explain`: what each decoder used, and whether its maps can be believed."""

from pathlib import Path
from typing import Any

from emodecode.report import wording
from emodecode.report.explained_form import below, compare_forms, describe_form
from emodecode.report.folder import PUBLISHED
from emodecode.report.page import environment, style
from emodecode.report.scatter3d import scatter_script, script_hash

PAGE = "explanation.html"


def write_explained_page(folder: Path) -> Path:
    """Write ``explanation.html`` from the files of `emodecode explain`.

    Raises
    ------
    DataMissingError
        No ``explanation.json`` in the folder.
    """
    page = folder / PAGE
    partial = page.with_name(page.name + ".partial")
    partial.write_text(render_explained(folder), encoding="utf-8")
    partial.replace(page)
    return page


def render_explained(folder: Path) -> str:
    """Return the page as text: the honest form, and the published one if there is one."""
    honest, compared, second = describe_form(folder), None, ""
    other = folder / PUBLISHED
    if other.is_dir():
        published = describe_form(other, full=False)
        compared = compare_forms(honest, published)
        second = below(_render(published), folder=PUBLISHED, prefix=f"{PUBLISHED}-")
    return (
        environment()
        .get_template("explained.html")
        .render(
            style=style(),
            wording=wording,
            told=honest,
            leaks=honest["leaks"],
            published=compared,
            first=_render(honest),
            second=second,
            script=scatter_script(),
            script_hash=script_hash(),
        )
    )


def _render(form: dict[str, Any]) -> str:
    template = environment().get_template("explained_form.html")
    return template.render(wording=wording, told=form, leaks=form["leaks"], published=None)

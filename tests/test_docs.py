"""The documents: links lead somewhere, every study key and command is described."""

import re
from pathlib import Path

import pytest

from emodecode.sections import (
    Align,
    BidsData,
    Evaluate,
    Explain,
    Features,
    Labels,
    MatData,
    Model,
    TableData,
)
from emodecode.study import Study

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name}: {target}"
        if anchor and linked.suffix == ".md":
            assert anchor in _anchors(linked), f"{page.name}: {target}"


def test_every_study_key_is_described():
    text = (ROOT / "docs" / "study.md").read_text()
    for section in (Study, BidsData, MatData, TableData, Labels, Features, Align, Model, Evaluate):
        for key in section.model_fields:
            if key not in ("source", "data", "labels", "features", "align", "evaluate", "explain"):
                assert f"`{key}`" in text, f"{section.__name__}.{key}"
    text = (ROOT / "docs" / "explain.md").read_text()
    for key in Explain.model_fields:
        assert f"`{key}`" in text, f"Explain.{key}"


def test_every_command_is_described():
    from emodecode.cli import app

    text = (ROOT / "docs" / "commands.md").read_text()
    for command in app:
        if not command.startswith("-"):
            assert f"emodecode {command}" in text

"""Results folders that cannot be reported: each is refused, and what is missing is named."""

import gzip
import json
import re
from pathlib import Path

import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.report.page import write_report
from results_folder import write_results_folder


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.fixture
def table(tmp_path) -> Path:
    """Return a small folder without images."""
    return write_results_folder(
        tmp_path / "table", source="table", labels="data", mask=False, n_subjects=3, n_runs=1
    )


@pytest.mark.parametrize(
    "name",
    ["study.toml", "samples.tsv", "predictions.tsv", "scores.json", "audit.json", "splits.json"],
)
def test_missing_file_is_named(table, name):
    (table / name).unlink()
    with pytest.raises(DataMissingError, match=re.escape(name)):
        write_report(table)


@pytest.mark.parametrize("name", ["study.toml", "scores.json", "audit.json", "provenance.json"])
def test_truncated_file_is_named(table, name):
    text = (table / name).read_text()
    (table / name).write_text(text[: len(text) // 2].rstrip('"}] \n') + "[[")
    with pytest.raises(InputError, match=re.escape(name)):
        write_report(table)


def test_missing_folder(tmp_path):
    with pytest.raises(DataMissingError, match="no such folder"):
        write_report(tmp_path / "nowhere")


def _cut(text: str) -> str:
    return "\n".join(text.splitlines()[:-5]) + "\n"


def _break_line(text: str) -> str:
    return text[:-30]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (_cut, "another confusion matrix"),
        (_break_line, "1 of .* rows are incomplete"),
        (lambda text: text.replace("\tp_joy", "\tp_love", 1), "p_anger, p_fear, p_love"),
        (lambda text: text.replace("dummy\t", "dumb\t"), "the models dumb, lda"),
        (lambda text: text.replace("\t03\t", "\t77\t"), "subject 77"),
        (lambda text: text.replace("predicted", "forecast", 1), "no column predicted"),
    ],
)
def test_predictions_that_do_not_belong_to_the_scores(table, change, found):
    path = table / "predictions.tsv"
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=found):
        write_report(table)


def test_unknown_verdict(table):
    edit_json(table / "audit.json", lambda audit: audit.update(verdict="fine"))
    with pytest.raises(InputError, match="the verdict 'fine'"):
        write_report(table)


def test_missing_and_truncated_images(tmp_path):
    folder = write_results_folder(tmp_path / "r", models={"lda": 1.0}, n_subjects=3)
    one = next((folder / "maps").iterdir())
    whole = one.read_bytes()
    one.unlink()
    with pytest.raises(DataMissingError, match=re.escape(one.name)):
        write_report(folder)
    one.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=re.escape(one.name)):
        write_report(folder)
    one.write_bytes(gzip.compress(b"no image"))
    with pytest.raises(InputError, match=re.escape(one.name)):
        write_report(folder)


def test_unwritable_page(table, tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_report(table, out=tmp_path / "no" / "such" / "page.html")

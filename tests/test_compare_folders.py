"""Comparison of results folders: what is read, named, printed and refused."""

import json

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.report.comparison import compare_folders, format_comparison
from results_folder import write_results_folder


def leave_one_out(subjects):
    """Content of ``splits.json`` with one fold a subject."""
    return [
        {
            "name": f"sub-{name}",
            "train": np.flatnonzero(subjects != name).tolist(),
            "test": np.flatnonzero(subjects == name).tolist(),
        }
        for name in sorted(set(subjects))
    ]


def results(folder, **options):
    """A results folder with the folds that its predictions come from."""
    write_results_folder(folder, mask=False, **options)
    table = pd.read_csv(folder / "samples.tsv", sep="\t", dtype={"subject": str})
    (folder / "splits.json").write_text(json.dumps(leave_one_out(table["subject"])))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two evaluations of the same samples and folds, with a decoder of one name in both."""
    root = tmp_path_factory.mktemp("results")
    models = {"dummy": 0.0, "logistic": 0.9, "lda": 0.2}
    results(root / "one", models=models)
    results(root / "two", models={"dummy": 0.0, "lda": 0.5})
    return root


def test_folders_are_compared(folders):
    one, two = folders / "one", folders / "two"
    found = compare_folders([one, f"{two}:lda"], rope=0.02)
    assert list(found["models"]) == ["logistic", "one:lda", "two:lda"]
    assert found["models"]["two:lda"]["verdict"] == "clean"
    assert (found["n_folds"], found["n_samples"], found["rope"]) == (6, 288, 0.02)
    assert len(found["comparisons"]) == 3
    scores = json.loads((one / "scores.json").read_text())["models"]["logistic"]
    own, plain = found["models"]["logistic"], scores["balanced_accuracy"]
    assert own["value"] == pytest.approx(plain["value"])
    assert own["n_subjects"] == plain["n_subjects"]
    widening = (1 + 6 / 5) ** 0.5  # six subjects, each tested on a decoder of the other five
    assert own["value"] - own["low"] == pytest.approx(widening * (plain["value"] - plain["low"]))
    json.dumps(found, allow_nan=False)
    text = format_comparison(found)
    assert "288 samples in the same 6 folds; balanced accuracy, mean over subjects" in text
    assert "P(same ±.02)" in text
    for pair in found["comparisons"]:
        assert pair["sentence"] in text
    assert "logistic is better than one:lda by" in text


def test_folders_alone_and_named_twice(folders):
    one = folders / "one"
    found = compare_folders([str(one), f"{one}:lda", one])
    assert list(found["models"]) == ["logistic", "lda"]
    assert "dummy" in compare_folders([one, f"{one}:dummy"], metric="log_loss")["models"]


def test_a_leak_is_not_compared(tmp_path, folders):
    leak = results(tmp_path / "leak", models={"lda": 0.9}, verdict="leak")
    found = compare_folders([f"{folders / 'two'}:lda", leak])
    assert found["comparisons"][0]["sentence"].endswith("no claim: the audit of leak:lda says leak")


def test_folders_of_one_name_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        results(tmp_path / parent / "out", models={"lda": 0.5}, seed=0)
    names = list(compare_folders([tmp_path / "a/out", tmp_path / "b/out"])["models"])
    assert names == [f"{tmp_path}/{parent}/out:lda" for parent in ("a", "b")]


def test_a_folder_with_a_colon_in_its_name(tmp_path, folders):
    odd = results(tmp_path / "run:2", models={"lda": 0.5})
    found = compare_folders([f"{odd}:lda", f"{folders / 'one'}:logistic"])
    assert list(found["models"]) == ["lda", "logistic"]


@pytest.mark.parametrize(
    ("items", "error", "words"),
    [
        (["none"], DataMissingError, "no such folder"),
        (["none:lda"], DataMissingError, "no such folder"),
        (["one:ldaa"], InputError, "one:lda?"),
        (["one:lda"], InputError, r"one decoder \(lda\)"),
        (["two"], InputError, r"one decoder \(lda\)"),
        ([], InputError, "no results folder"),
        (["."], DataMissingError, "a complete folder written by `emodecode evaluate`"),
    ],
)
def test_items_that_cannot_be_compared(items, error, words, folders, monkeypatch):
    monkeypatch.chdir(folders)
    with pytest.raises(error, match=words):
        compare_folders(items)


def test_folders_of_other_samples_are_refused(tmp_path, folders):
    other = results(tmp_path / "other", seed=5)
    with pytest.raises(InputError, match=r"rows of samples\.tsv"):
        compare_folders([folders / "one", other])
    fewer = results(tmp_path / "fewer", classes=("fear", "joy"))
    with pytest.raises(InputError, match="the same classes"):
        compare_folders([folders / "one", fewer])

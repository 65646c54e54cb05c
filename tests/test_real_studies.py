"""The studies in studies/ on real data, through the command line, against what is known of them."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from emodecode.cli import main
from emodecode.samples import read_table

STUDIES = Path(__file__).parents[1] / "studies"
pytestmark = pytest.mark.data


def run(command, name, out, *options):
    with pytest.raises(SystemExit) as done:
        main([command, str(STUDIES / f"{name}.toml"), "--out", str(out), *options])
    assert done.value.code == 0
    return out


def read_json(path):
    return json.loads(path.read_text())


@pytest.mark.slow
def test_neu_three_emotions_in_thirty_subjects(data_dir, tmp_path):
    out = run("evaluate", "neu", tmp_path / "neu", "--quiet")
    scores, audit = read_json(out / "scores.json"), read_json(out / "audit.json")
    assert audit["verdict"] == "clean"
    models = {name: each["balanced_accuracy"] for name, each in scores["models"].items()}
    assert all(each["n_subjects"] == 30 for each in models.values())
    assert models["dummy"]["value"] == pytest.approx(1 / 3)
    tables = {name: each for name, each in models.items() if name.startswith("lda.")}
    for each in tables.values():
        assert each["chance"] == pytest.approx(1 / 3, abs=0.01)
        assert each["p"] < 0.01
        assert each["low"] < 0.47
        assert each["high"] > 0.42
    assert max(each["value"] for each in tables.values()) >= 0.42
    folds = read_json(out / "splits.json")
    table = read_table(out / "samples.tsv")
    assert len(folds) == 30
    for fold in folds:
        assert not set(table["subject"][fold["train"]]) & set(table["subject"][fold["test"]])


def test_studyforrest_labels_are_those_of_the_paper(data_dir, tmp_path):
    out = run("label", "studyforrest_labels", tmp_path / "labels")
    table = pd.read_csv(out / "samples.tsv", sep="\t", dtype={"subject": str})
    assert table["subject"].nunique() == 15
    one = table[table["subject"] == "01"]
    assert one["label"].value_counts().to_dict() == dict.fromkeys(
        ["ANGERRAGE", "FEAR", "HAPPINESS", "LOVE", "SADNESS"], 70
    )
    notes = " ".join(read_json(out / "labels.json")["notes"])
    assert "1010 of 3526 moments" in notes
    assert "WRONG" in notes
    assert len(list((out / "events").glob("*_events.tsv"))) == 15 * 8
    assert (out / "labels.png").stat().st_size > 10_000


@pytest.mark.slow
def test_sherlock_valence_in_other_people_and_other_scenes(data_dir, tmp_path):
    out = run("evaluate", "sherlock", tmp_path / "sherlock", "--jobs", "2", "--quiet")
    scores, audit = read_json(out / "scores.json"), read_json(out / "audit.json")
    assert audit["verdict"] == "clean"
    auc = scores["models"]["lda"]["macro_auc"]
    assert auc["n_subjects"] == 17
    assert 0.51 < auc["value"] < 0.53
    assert auc["low"] < 0.53 < auc["high"], "the data's README says about .53"
    assert auc["chance"] == pytest.approx(0.5, abs=0.005)
    assert scores["models"]["lda"]["test"]["method"] == "refit"
    assert {control["passed"] for control in audit["controls"]} == {True}
    assert {control["name"] for control in audit["controls"]} == {
        *("time_only", "noise_replay", "scene", "canary", "confounds"),
    }
    table, folds = read_table(out / "samples.tsv"), read_json(out / "splits.json")
    assert len(folds) == 34
    for fold in folds:
        train, test = table.iloc[fold["train"]], table.iloc[fold["test"]]
        assert not set(train["subject"]) & set(test["subject"])
        assert not set(train["run"]) & set(test["run"])
    weights = nib.load(out / "maps" / "model-lda_label-positive_weights.nii.gz")
    mask = nib.load(data_dir / "sherlock_chen2017" / "pmc_nn.nii")
    inside = np.asanyarray(mask.dataobj) != 0
    assert np.allclose(weights.affine, mask.affine)
    assert not weights.get_fdata()[~inside].any()
    assert (weights.get_fdata()[inside] != 0).mean() > 0.95
    text = (out / "report.html").read_text()
    assert "Weights are not activations" in text

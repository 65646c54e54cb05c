"""What stands beside a score, by the command line: ledger, controls, published form, compare."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emodecode.cli import main
from small_study import write_small

STUDIES = Path(__file__).parents[1] / "studies"
SHUFFLED = {"as_published": {"evaluate.split": "shuffled", "features.fit_on": "all"}}
TWO = {"models": [{"name": "lda"}, {"name": "ridge"}], "features": {"n_voxels": 50}}


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A small study evaluated as published and honestly; tests only look at it."""
    root = tmp_path_factory.mktemp("both")
    write_small(root, TWO | SHUFFLED)
    assert run("evaluate", root / "study.toml", "--out", root / "out", "--quiet") == 0
    return root / "out"


def test_the_published_form_has_complete_results_of_its_own(both):
    honest, published = both, both / "as-published"
    files = {path.name for path in honest.iterdir()} - {"as-published", ".contents"}
    assert {path.name for path in published.iterdir()} == files
    assert read(published / "audit.json")["verdict"] == "leak"
    assert read(honest / "audit.json")["verdict"] != "leak"
    assert len(read(published / "splits.json")) == 1
    assert (honest / "samples.tsv").read_bytes() == (published / "samples.tsv").read_bytes()
    assert "as-published/report.html" in (honest / "report.html").read_text()


def test_the_ledger_of_a_run_is_audited_as_that_of_any_tool(both, capsys):
    for folder, code in ((both, 0), (both / "as-published", 1)):
        files = [f"--{name}" for name in ("table", "splits", "fitted")]
        names = ("samples.tsv", "splits.json", "fitted.json")
        given = [part for pair in zip(files, names, strict=True) for part in pair]
        given = [part if part.startswith("--") else folder / part for part in given]
        assert run("audit", *given, "--json") == code
        found = json.loads(capsys.readouterr().out)
        rules = {each["rule"] for each in found["findings"] if each["verdict"] == "leak"}
        assert ("T2" in rules) == (code == 1)
        assert not any("no ledger" in question for question in found["not_checked"])


def test_the_ledger_has_every_step_of_every_fold(both):
    for steps in read(both / "fitted.json"):
        known = {(step["step"], step["kind"], step["rows"]) for step in steps if "recorded" in step}
        assert known == {
            ("select", "selection", "train"),
            ("scale", "scaler", "train"),
            ("classifier", "model", "train"),
        }


def test_all_controls_are_asked_and_stand_beside_the_score(both):
    audit = read(both / "audit.json")
    asked = {(control["name"], control["model"]) for control in audit["controls"]}
    refitted = {(n, m) for n in ("noise_replay", "canary") for m in ("lda", "ridge")}
    assert asked == refitted | {("time_only", "time_only"), ("confounds", "confounds")}
    assert audit["controls_share"] > 0
    page = (both / "report.html").read_text()
    assert "Noise replay" in page
    assert "Leak canary" in page


def test_a_p_that_is_approximate_is_marked(tmp_path, capsys):
    write_small(tmp_path, {"models": [{"name": "dummy"}, *TWO["models"]]})
    off = ("--set", "evaluate.controls=false", "--quiet")
    assert run("evaluate", tmp_path / "study.toml", "--out", tmp_path / "out", *off) == 0
    said = capsys.readouterr().out
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip()}
    assert "~" in rows["ridge"], "balanced ridge has no fast path"
    assert "~" not in rows["lda"] + rows["dummy"]
    assert "~ approximate: predictions fixed" in said


def test_switching_the_controls_off_is_printed(tmp_path, capsys):
    write_small(tmp_path)
    off = ("--set", "evaluate.controls=false", "--quiet")
    assert run("evaluate", tmp_path / "study.toml", "--out", tmp_path / "out", *off) == 0
    assert "controls: switched off" in capsys.readouterr().out
    assert read(tmp_path / "out/audit.json")["controls_share"] is None
    assert "switched off" in (tmp_path / "out/report.html").read_text()


def test_decoders_are_compared_on_the_same_folds_only(both, tmp_path, capsys):
    assert run("compare", both, "--out", tmp_path / "found.json") == 0
    said = capsys.readouterr().out
    (pair,) = read(tmp_path / "found.json")["comparisons"]
    assert {pair["a"], pair["b"]} == {"lda", "ridge"}
    assert pair["sentence"] in said
    assert "is better than" not in said, "their audit is not clean"
    assert run("compare", f"{both}:lda", f"{both / 'as-published'}:lda") == 2
    assert "same folds" in capsys.readouterr().err


def test_a_selection_on_all_samples_is_refused_unless_it_is_the_published_form(tmp_path, capsys):
    write_small(tmp_path, TWO)
    how = ("--set", "features.fit_on=all", "--quiet")
    assert run("evaluate", tmp_path / "study.toml", "--out", tmp_path / "out", *how) == 2
    said = capsys.readouterr().err
    assert "features.fit_on" in said
    assert "[as_published]" in said
    assert not (tmp_path / "out").exists()


def test_temperature_scaling_keeps_the_accuracy_and_says_the_temperature(tmp_path):
    few = {"features": {"n_voxels": 2}, "evaluate": {"controls": False}}
    write_small(tmp_path, {"models": [{"name": "lda"}]} | few)
    study = tmp_path / "study.toml"
    assert run("evaluate", study, "--out", tmp_path / "plain", "--quiet") == 0
    scaled = ("--set", "evaluate.calibrate=temperature", "--quiet")
    assert run("evaluate", study, "--out", tmp_path / "scaled", *scaled) == 0
    plain, found = (
        read(tmp_path / name / "scores.json")["models"]["lda"] for name in ("plain", "scaled")
    )
    assert found["balanced_accuracy"] == plain["balanced_accuracy"]
    assert found["temperature"]["mean"] > 0
    assert found["uncalibrated"]["log_loss"] == pytest.approx(plain["log_loss"]["value"])
    assert found["log_loss"]["p"] is None, "the refitted decoders are not calibrated"
    reached = 21 * plain["log_loss"]["p"]  # p = (b + 1) / (m + 1), m = 20
    assert reached == pytest.approx(round(reached))
    assert 1 <= reached <= 21


@pytest.mark.data
def test_what_s1s_split_shares_is_printed_by_one_command(data_dir, capsys):
    """15 subjects x 350 moments, 80/20: spec S1.10, finding 2 of papers.md."""
    assert run("audit", STUDIES / "studyforrest_labels.toml", "--json") == 1
    shared = json.loads(capsys.readouterr().out)["overlap"]
    assert shared["n_test"] == 1050
    assert shared["share_stimulus_in_training"] == 1.0
    assert shared["share_moment_of_others_in_training"] == 1.0
    assert shared["mean_other_subjects_in_training"] == pytest.approx(11.34, abs=0.005)
    within = shared["share_same_subject_within"]
    assert within == pytest.approx({"4": 0.634, "10": 0.846, "30": 0.964}, abs=0.0005)
    scores = shared["time_only"]
    assert scores["stimulus"]["balanced_accuracy"] == pytest.approx(1.0)
    assert scores["subject"]["balanced_accuracy"] == pytest.approx(0.885, abs=0.003)


@pytest.mark.slow
def test_s2s_export_finds_emotions_where_there_are_none(tmp_path, capsys):
    """The study of the documents, on fewer subjects: the published form, and only it, is fooled."""
    sim = ("--preset", "s2", "--code", "null", "--subjects", "6", "--quiet")
    assert run("simulate", tmp_path / "s2", *sim) == 0
    study = tmp_path / "study.toml"
    study.write_text((STUDIES / "s2a_export_simulated.toml").read_text().replace("../sim/s2", "s2"))
    few = ("--set", "evaluate.n_permutations=50", "--jobs", "2", "--quiet")
    assert run("evaluate", study, "--out", tmp_path / "out", *few) == 0
    said = capsys.readouterr().out
    assert "AS PUBLISHED" in said
    honest, published = (
        read(folder / "scores.json")["models"]["lda"]["balanced_accuracy"]["value"]
        for folder in (tmp_path / "out", tmp_path / "out/as-published")
    )
    assert published > 0.5
    assert honest < 0.42
    failed = {
        control["name"]
        for control in read(tmp_path / "out/as-published/audit.json")["controls"]
        if control["passed"] is False
    }
    assert "noise_replay" in failed


def test_a_comparison_is_written_where_there_is_no_folder_yet_but_never_onto_one(
    both, tmp_path, capsys
):
    assert run("compare", both, "--out", tmp_path / "new/deep/found.json") == 0
    assert read(tmp_path / "new/deep/found.json")["comparisons"]
    assert run("compare", both, "--out", tmp_path / "new") == 2
    assert "a file for the comparison" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_table_without_times_is_not_called_phase_randomised(tmp_path, capsys):
    rng = np.random.default_rng(0)
    labels = np.tile(["fear", "joy"], 24)
    table = pd.DataFrame({"subject": np.repeat(list("abcd"), 12), "label": labels})
    table[["x", "y"]] = rng.normal(size=(48, 2))
    table.to_csv(tmp_path / "rois.csv", index=False)
    study = tmp_path / "study.toml"
    study.write_text(
        'name = "rois"\nmodels = ["lda"]\n[data]\nsource = "table"\npath = "."\n'
        'files = ["rois.csv"]\n[labels]\nsource = "data"\n[evaluate]\nn_permutations = 20\n'
    )
    assert run("evaluate", study, "--out", tmp_path / "out", "--quiet") == 0
    said = capsys.readouterr().out + (tmp_path / "out/report.html").read_text()
    assert "permuted within their runs" in said
    assert "phase-randomised" not in said

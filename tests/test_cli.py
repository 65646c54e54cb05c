"""The command line from end to end: what it writes, and that interrupted work goes on."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emodecode import __version__
from emodecode.cli import app, main
from emodecode.evaluate import controls, score
from emodecode.samples import TABLE_COLUMNS, read_table, write_table
from emodecode.study import load_study
from refusal import evaluate, label
from small_study import RUNS, SUBJECTS, stem, write_events, write_small, write_study

COMMANDS = sorted(name for name in app if not name.startswith("-"))
FILES = {
    "study.toml",
    "samples.tsv",
    "samples.json",
    "predictions.tsv",
    "predictions.json",
    "scores.json",
    "audit.json",
    "provenance.json",
    "fitted.json",
    "splits.json",
    "folds.tsv",
    "folds-classes.tsv",
    "folds-confusion.tsv",
    "table1.tsv",
    "latency.json",
    "labels-timeline.tsv",
    "mask.nii.gz",
    "maps",
    "report.html",
    "dataset_description.json",
}
ESTIMATE = {"value", "low", "high", "chance", "n_subjects"}


def _run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder with a small study and its results in ``out``; tests only look at it."""
    root = tmp_path_factory.mktemp("evaluated")
    write_small(root)
    assert _run(*evaluate(root)) == 0
    return root


# --- help ----------------------------------------------------------------------------------------


def test_all_commands_are_there():
    assert [
        *("align", "audit", "compare", "demo", "evaluate", "explain", "export", "fetch", "label"),
        *("models", "predict", "report", "simulate", "train"),
    ] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert _run(command, "--help") == 0
    said = capsys.readouterr().out
    assert f"emodecode {command}" in said
    assert len(said.splitlines()) > 5


def test_help_and_version(capsys):
    assert _run("--help") == 0
    said = capsys.readouterr().out
    assert all(command in said for command in COMMANDS)
    assert _run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("arguments", [["nonsense"], ["evaluate"], ["evaluate", "a", "--bogus"]])
def test_wrong_arguments_exit_with_2(arguments, capsys):
    assert _run(*arguments) == 2
    assert "Error" in capsys.readouterr().err


# --- evaluate ------------------------------------------------------------------------------------


def test_simulated_data_are_decoded_from_end_to_end(tmp_path, capsys):
    data, out = tmp_path / "data", tmp_path / "out"
    size = ("--subjects", 4, "--set", "n_volumes=60", "--set", "effect=3.0", "--quiet")
    assert _run("simulate", data, "--seed", 1, *size) == 0
    assert capsys.readouterr().out.strip() == str(data)
    study = {
        "data": {"path": "data", "derivatives": "derivatives/fmriprep", "mask": None},
        "labels": {"lag_s": 5.0},
        "features": {"n_voxels": 200},
        "evaluate": {"split": "auto"},
    }
    write_study(tmp_path, study)
    assert _run("evaluate", tmp_path / "study.toml", "--out", out, "--quiet") == 0
    said = capsys.readouterr()
    assert "Split leave_one_subject_out (4 folds)" in said.out
    assert f"report: {out / 'report.html'}" in said.out
    scores = json.loads((out / "scores.json").read_text())["models"]
    accuracy = scores["lda"]["balanced_accuracy"]
    assert accuracy["low"] > accuracy["chance"]
    assert scores["dummy"]["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert f"{accuracy['value']:.3f}" in said.out


def test_evaluate_writes_what_it_promises_and_nothing_else(evaluated):
    out = evaluated / "out"
    assert _names(out) == FILES
    assert not list(out.rglob("*.partial"))
    assert not (out / ".resume").exists()
    maps = {f"model-lda_label-joy_{kind}.nii.gz" for kind in ("weights", "pattern")}
    assert _names(out / "maps") == maps


def test_tables_have_the_promised_columns(evaluated):
    predictions = read_table(evaluated / "out/predictions.tsv")
    columns = ["model", "fold", "subject", "run", "volume", "label", "predicted"]
    assert list(predictions) == [*columns, "p_fear", "p_joy"]
    samples = read_table(evaluated / "out/samples.tsv")
    assert tuple(samples)[: len(TABLE_COLUMNS)] == TABLE_COLUMNS
    assert len(predictions) == 2 * len(samples)
    assert np.allclose(predictions[["p_fear", "p_joy"]].sum(axis=1), 1)
    assert set(predictions["fold"]) == {"sub-01", "sub-02", "sub-03"}


def test_json_has_the_promised_keys(evaluated):
    scores = json.loads((evaluated / "out/scores.json").read_text())
    assert list(scores["models"]) == ["dummy", "lda"]
    for model in scores["models"].values():
        for metric in ("balanced_accuracy", "macro_auc"):
            assert set(model[metric]) >= ESTIMATE
            assert model[metric]["n_subjects"] == 3
    lda = scores["models"]["lda"]["balanced_accuracy"]
    assert lda["value"] > 0.9 > lda["chance"]
    audit = json.loads((evaluated / "out/audit.json").read_text())
    assert audit["verdict"] in ("clean", "caution")
    for finding in audit["findings"]:
        assert set(finding) >= {"rule", "n_samples", "worst", "danger", "remedy"}
    splits = json.loads((evaluated / "out/splits.json").read_text())
    assert [set(split) for split in splits] == [{"name", "train", "calibrate", "test"}] * 3


def test_study_as_resolved_gives_the_same_predictions(evaluated, tmp_path):
    out = tmp_path / "again"
    assert _run("evaluate", evaluated / "out/study.toml", "--out", out, "--quiet") == 0
    for name in ("predictions.tsv", "study.toml", "splits.json", "scores.json"):
        assert (out / name).read_bytes() == (evaluated / "out" / name).read_bytes()


def test_earlier_results_are_refused_then_overwritten(tmp_path, capsys):
    write_small(tmp_path)
    assert _run(*evaluate(tmp_path)) == 0
    before = (tmp_path / "out/predictions.tsv").read_bytes()
    capsys.readouterr()
    assert _run(*evaluate(tmp_path)) == 2
    assert "--overwrite" in capsys.readouterr().err
    (tmp_path / "out/mine.txt").write_text("the user's")
    assert _run(*evaluate(tmp_path, "--overwrite", "--set", 'models=["dummy"]')) == 0
    assert _names(tmp_path / "out") == FILES | {"mine.txt"}
    assert not _names(tmp_path / "out/maps"), "the maps of the earlier decoders are gone"
    assert (tmp_path / "out/predictions.tsv").read_bytes() != before


def test_set_replaces_keys_of_the_study(tmp_path):
    write_small(tmp_path)
    more = ("--set", "name=other", "--set", "evaluate.n_permutations=7")
    more += ("--set", 'models=["dummy"]', "--set", "features.clean.detrend=false")
    assert _run(*evaluate(tmp_path, *more)) == 0
    study = load_study(tmp_path / "out/study.toml")
    assert (study.name, study.evaluate.n_permutations) == ("other", 7)
    assert [model.name for model in study.models] == ["dummy"]
    assert study.features.clean.detrend is False
    assert study.labels.lag_s == 4.0, "the rest is as the file says"


def test_selection_within_subjects_runs_to_the_end(tmp_path):
    write_small(tmp_path, {"features": {"select_by": "subject", "n_voxels": 20}})
    assert _run(*evaluate(tmp_path)) == 0


def test_labels_that_differ_in_signs_only_have_maps_of_their_own(tmp_path):
    write_small(tmp_path)
    for subject in SUBJECTS:
        for run in RUNS:
            rows = ("2\t10\t-1", "12\t10\t0", "22\t10\t1", "32\t10\t1 0")
            write_events(tmp_path, *rows, subject=subject, run=run)
    assert _run(*evaluate(tmp_path, "--set", 'models=["lda"]')) == 0
    labels = ("minus1", "0", "1", "10")
    kinds = ("weights", "pattern")
    assert _names(tmp_path / "out/maps") == {
        f"model-lda_label-{label}_{kind}.nii.gz" for label in labels for kind in kinds
    }
    predictions = read_table(tmp_path / "out/predictions.tsv")
    assert list(predictions)[7:] == ["p_-1", "p_0", "p_1", "p_1 0"]


def test_leak_that_is_allowed_stands_beside_every_number(tmp_path, capsys):
    write_small(tmp_path)
    more = ("--set", "evaluate.split=shuffled", "--set", "evaluate.allow_leakage=true")
    assert _run(*evaluate(tmp_path, *more)) == 0
    said = capsys.readouterr().out
    assert "audit: leak" in said
    assert len(re.findall(r"^(dummy|lda) .*LEAK", said, re.M)) == 2
    assert json.loads((tmp_path / "out/audit.json").read_text())["allow_leakage"] is True


# --- report --------------------------------------------------------------------------------------


def test_report_is_the_same_when_written_anew(evaluated, tmp_path, capsys):
    results = tmp_path / "results"
    shutil.copytree(evaluated / "out", results)
    page = (results / "report.html").read_bytes()
    (results / "report.html").unlink()
    assert _run("report", results) == 0
    assert capsys.readouterr().out.strip() == str(results / "report.html")
    assert (results / "report.html").read_bytes() == page


# --- audit ---------------------------------------------------------------------------------------


def test_audit_of_a_study_reads_no_image(tmp_path, capsys):
    write_small(tmp_path)
    for path in (tmp_path / "bids").rglob("*_bold.nii.gz"):
        path.write_bytes(path.read_bytes()[:-2000])
    assert _run("audit", tmp_path / "study.toml") == 0
    assert "verdict: clean" in capsys.readouterr().out
    assert _run("audit", tmp_path / "study.toml", "--set", "evaluate.split=shuffled") == 1
    said = capsys.readouterr().out
    assert "verdict: leak" in said
    assert "[leak] T1" in said


def test_audit_of_any_table_gives_json_and_exit_code(evaluated, tmp_path, capsys):
    samples = evaluated / "out/samples.tsv"
    honest = ("audit", "--table", samples, "--splits", evaluated / "out/splits.json", "--json")
    assert _run(*honest) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] in ("clean", "caution")
    n = len(read_table(samples))
    halves = [{"train": list(range(0, n, 2)), "test": list(range(1, n, 2))}]
    (tmp_path / "halves.json").write_text(json.dumps(halves))
    assert _run("audit", "--table", samples, "--splits", tmp_path / "halves.json", "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "leak"
    assert "T1" in {finding["rule"] for finding in found["findings"]}


def test_audit_says_what_it_could_not_check(tmp_path, capsys):
    table = pd.DataFrame({"subject": ["1", "1", "2", "2"], "label": ["a", "b"] * 2})
    write_table(table, tmp_path / "rows.tsv")
    (tmp_path / "folds.json").write_text('[{"train": [0, 1], "test": [2, 3]}]')
    files = ("--table", tmp_path / "rows.tsv", "--splits", tmp_path / "folds.json")
    assert _run("audit", *files) == 0
    said = capsys.readouterr().out
    assert "verdict: caution" in said
    assert "[caution] T19" in said, "two rows a subject can be relabelled in four ways only"
    assert "not checked:\n" in said
    assert "T1: neighbours in time (no onset_s)" in said


# --- label ---------------------------------------------------------------------------------------


def test_label_writes_the_table_and_events_of_every_run(tmp_path, capsys):
    write_small(tmp_path)
    assert _run(*label(tmp_path)) == 0
    out = tmp_path / "out"
    files = {"samples.tsv", "labels-timeline.tsv", "events", "labels.png", "labels.json"}
    assert _names(out) == files | {"study.toml"}
    table = read_table(out / "samples.tsv")
    assert tuple(table) == TABLE_COLUMNS
    assert len(table) == 3 * 2 * 4 * 5, "3 subjects, 2 runs, 4 blocks of 5 volumes"
    assert "120 samples of 2 labels" in capsys.readouterr().out
    first = table.iloc[0]
    assert (first["onset_s"], first["label"]) == (6.0, "joy"), "2 s plus a lag of 4 s"
    events = {f"{stem(subject, run)}_events.tsv" for subject in SUBJECTS for run in RUNS}
    assert _names(out / "events") == events
    blocks = pd.read_csv(out / "events" / f"{stem('01', '1')}_events.tsv", sep="\t")
    assert list(blocks["onset"]) == [6.0, 16.0, 26.0, 36.0]
    assert list(blocks["duration"]) == [10.0] * 4
    assert (out / "labels.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "labels.json").read_text())["counts"] == {"joy": 60, "fear": 60}


# --- interruptions -------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
import numpy as np
from emodecode.cli import main
from emodecode.evaluate import controls, score

save, finished = np.savez, []

def save_or_die(path, **arrays):
    if len(finished) == 3:
        path.write_bytes(b"PK half of a fold")
        os.kill(os.getpid(), signal.SIGKILL)
    finished.append(path)
    save(path, **arrays)

np.savez = save_or_die
main(sys.argv[1:])
"""
"""`emodecode evaluate`, killed (9) while it writes its fourth fold."""


def _count_fits(monkeypatch) -> list[str]:
    """Fits of the decoders themselves; those of the controls are not counted."""
    fitted, run_one = [], score._run_one
    monkeypatch.setattr(controls, "run_controls", lambda *_, **__: [])

    def counted(X, table, classes, task, tuning):
        fitted.append(f"{task.candidate.name} {task.split.name}")
        return run_one(X, table, classes, task, tuning)

    monkeypatch.setattr(score, "_run_one", counted)
    return fitted


def test_killed_evaluation_goes_on_where_it_stopped(evaluated, tmp_path, monkeypatch):
    write_small(tmp_path)
    command = [sys.executable, "-c", KILLED, *evaluate(tmp_path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not _names(tmp_path / "out"), "nothing half-written under its own name"
    fitted = _count_fits(monkeypatch)
    assert _run(*evaluate(tmp_path)) == 0
    assert fitted == ["lda sub-01", "lda sub-02", "lda sub-03"]
    assert _names(tmp_path / "out") == FILES
    assert not (tmp_path / "out/.resume").exists()
    for name in ("predictions.tsv", "scores.json", "splits.json", "samples.tsv"):
        assert (tmp_path / "out" / name).read_bytes() == (evaluated / "out" / name).read_bytes()


def _fail_at(monkeypatch, error: BaseException, *, fold: int) -> list[str]:
    fitted = _count_fits(monkeypatch)
    store = score._store

    def fail(*arguments):
        if len(fitted) == fold:
            raise error
        store(*arguments)

    monkeypatch.setattr(score, "_store", fail)
    return fitted


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, ["interrupted; the same command goes on"]),
        (OSError(28, "No space left on device", "fold.npz"), 2, ["fold.npz", "No space left"]),
    ],
    ids=["interrupted", "disk full"],
)
def test_stopped_evaluation_goes_on(error, code, words, tmp_path, monkeypatch, capsys):
    write_small(tmp_path)
    with monkeypatch.context() as patch:
        fitted = _fail_at(patch, error, fold=4)
        assert _run(*evaluate(tmp_path)) == code
    said = capsys.readouterr().err
    assert all(word in said for word in words)
    assert "Traceback" not in said
    assert len(fitted) == 4
    again = _count_fits(monkeypatch)
    assert _run(*evaluate(tmp_path)) == 0
    assert again == ["lda sub-01", "lda sub-02", "lda sub-03"]


def test_other_data_are_not_taken_for_the_interrupted_ones(tmp_path, monkeypatch):
    write_small(tmp_path)
    with monkeypatch.context() as patch:
        _fail_at(patch, KeyboardInterrupt(), fold=4)
        assert _run(*evaluate(tmp_path)) == 130
    write_events(tmp_path, "2\t10\tjoy", "12\t10\tfear", subject="02", run="1")
    again = _count_fits(monkeypatch)
    assert _run(*evaluate(tmp_path)) == 0
    assert len(again) == 6


@pytest.mark.slow
def test_demo_ends_with_a_report(tmp_path, capsys):
    """The whole demo, as `make demo` runs it (about a minute)."""
    out = tmp_path / "demo"
    assert _run("demo", "--out", out, "--quiet") == 0
    said = capsys.readouterr().out
    assert "audit: " in said
    assert (out / "results/report.html").stat().st_size > 100_000

"""Bad studies: keys, decoders and folds that are refused before any image is read."""

from pathlib import Path

import pytest

from emodecode.evaluate import workers
from refusal import Cases, evaluate
from small_study import RUNS, write_events, write_small, write_study

case = Cases(evaluate)


# --- the study -----------------------------------------------------------------------------------


@case("study.toml", "unknown key 'evaluate.splitt'", "Did you mean 'split'?")
def unknown_key(root):
    write_study(root, {"evaluate": {"splitt": "auto"}})


@case("study.toml", "evaluate.split = 'kfold'", "leave_one_subject_out")
def unknown_split(root):
    write_study(root, {"evaluate": {"split": "kfold"}})


@case("study.toml", "labels.lag_s = -1", "greater than or equal to 0")
def negative_lag(root):
    write_study(root, {"labels": {"lag_s": -1.0}})


@case("study.toml", "data", "'bids', 'mat', 'table', 'design'")
def unknown_source(root):
    write_study(root, {"data": {"source": "dicom"}})


@case("study.toml", "no key 'data'")
def study_without_data(root):
    write_study(root, {"data": None})


@case("study.toml", "not valid TOML", "line 1")
def broken_toml(root):
    (root / "study.toml").write_text("name = \n")


@case("study.toml", "no such file", "emodecode demo")
def no_study(root):
    (root / "study.toml").unlink()


@case("--set evaluate.split", "no key=value", "equals sign")
def set_without_equals_sign(root):
    return evaluate(root, "--set", "evaluate.split")


@case("unknown key 'evaluate.gap'", "Did you mean 'gap_s'?")
def set_an_unknown_key(root):
    return evaluate(root, "--set", "evaluate.gap=3")


@case("--jobs 0", "1 or more")
def no_jobs(root):
    return evaluate(root, "--jobs", "0")


# --- decoders: refused before the data are looked for --------------------------------------------


def _model(root: Path, **model: object) -> None:
    study = {"models": [{"name": "mine", "kind": "logistic"} | model], "data": {"path": "nowhere"}}
    write_study(root, study)


@case("models.mine", "kind 'logistik'", "Did you mean 'logistic'?")
def unknown_kind_of_model(root):
    _model(root, kind="logistik")


@case(
    "models.mine", "unknown parameter 'max_iterr'", "one of C, max_iter", "Did you mean 'max_iter'"
)
def unknown_parameter_of_model(root):
    _model(root, params={"max_iterr": 100})


@case("models.mine", "C = -1", "a number above 0")
def bad_parameter(root):
    _model(root, params={"C": -1.0})


@case("models.mine", "C = 'much'", "a number above 0")
def bad_value_in_a_grid(root):
    _model(root, grid={"C": [0.1, "much"]})


@case("models.mine", "grid.n_voxels", "n_voxels for the model")
def grid_of_voxels_without_selection(root):
    _model(root, grid={"n_voxels": [10, 20]})


@case("models.mine.columns", "no feature is called AAL*", "voxels without names")
def columns_of_voxels(root):
    _model(root, columns=["AAL*"])


@case("none.nii.gz", "no such file")
def no_atlas(root):
    write_study(root, {"features": {"parcels": "none.nii.gz"}, "data": {"path": "nowhere"}})


@case("data.source", "a planned design", "emodecode label")
def planned_design(root):
    data = {"source": "design", "subjects": ["01"], "run_volumes": [24], "tr_s": 2.0}
    write_study(root, {"data": data | {"mask": None}})


@case("--scheduler tcp://127.0.0.1:9", "no Dask scheduler answers", "dask scheduler")
def no_scheduler(root):
    write_study(root, {"data": {"path": "nowhere"}})
    return evaluate(root, "--scheduler", "tcp://127.0.0.1:9")


# --- folds: refused before any image is read -----------------------------------------------------


def _make_unreadable(root: Path) -> None:
    for path in (root / "bids").rglob("*_bold.nii.gz"):
        path.write_bytes(path.read_bytes()[:-2000])


@case("split audit, rule T1", "24 test samples (100%)", "evaluate.allow_leakage = true")
def shuffled_samples(root):
    write_study(root, {"evaluate": {"split": "shuffled"}})
    _make_unreadable(root)


def _film(root: Path, split: str, **evaluate: object) -> None:
    for subject in ("01", "02", "03"):
        for run in RUNS:
            rows = ("2\t10\tjoy", "12\t10\tfear", "22\t10\tjoy", "32\t10\tfear")
            write_events(root, *rows, subject=subject, run=run)
    study = {"data": {"stimulus": "film"}, "evaluate": {"split": split} | evaluate}
    write_study(root, study)
    _make_unreadable(root)


@case("split audit, rule T5", "subject_by_stimulus", "evaluate.allow_leakage = true")
def subjects_left_out_of_a_shared_film(root):
    _film(root, "leave_one_subject_out")


@case("fold sub-01", "no training sample", "gap_s")
def gap_longer_than_the_film(root):
    _film(root, "subject_by_stimulus", stimulus_groups="segments", n_segments=2, gap_s=100.0)


@case("stimulus groups", "samples have no stimulus", "evaluate.stimulus_groups")
def stimulus_left_out_without_a_stimulus(root):
    write_study(root, {"evaluate": {"split": "leave_stimulus_out", "stimulus_groups": "segments"}})
    _make_unreadable(root)


@case("3 subjects", "at least 5 subjects", "evaluate.n_folds")
def more_folds_than_subjects(root):
    write_study(root, {"evaluate": {"split": "group_k_fold"}})
    _make_unreadable(root)


@case("models.lda (inner folds)", "no division of 10 training samples", "inner_folds")
def no_inner_folds(root):
    for subject in ("01", "02"):
        write_events(root, "2\t10\tjoy", "22\t10\tfear", subject=subject)
    data = {"subjects": ["01", "02"], "runs": ["1"]}
    write_study(root, {"data": data, "models": [{"name": "lda", "tune": True}]})
    _make_unreadable(root)


# --- the test ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "words"), case.entries)
def test_refused(spoil, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(workers, "CONNECT_TIMEOUT_S", 0.2)
    write_small(tmp_path)
    case.check(spoil, words, tmp_path, capsys)

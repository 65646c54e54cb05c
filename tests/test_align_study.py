"""Alignment by the command line: protocols on data that have them, refusals on data that do not."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tomli_w

from emodecode.cli import main
from emodecode.errors import InputError, LeakageError
from emodecode.run import Run
from emodecode.simulate.dataset import simulate_dataset
from emodecode.study import make_study
from emodecode.timelock import read_alignment_runs
from refusal import refuse

STUDY = {
    "name": "aligned",
    "data": {"path": "bids", "derivatives": "derivatives/fmriprep", "task": "emotion"},
    "features": {"n_voxels": 60, "clean": {"high_pass_hz": 0.0}},
    "align": {"task": "film"},
    "models": [
        {"name": "dummy"},
        {"name": "lda"},
        {"name": "plain", "kind": "lda", "align": False},
    ],
    "evaluate": {"n_permutations": 20, "controls": False},
}


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Four simulated subjects with two block runs of their own order and a film."""
    root = tmp_path_factory.mktemp("align")
    simulate_dataset(
        root / "bids",
        **{"n_subjects": 4, "n_runs": 2, "n_volumes": 60, "film_volumes": 80, "voxel_mm": 9.0},
        seed=3,
        progress=False,
    )
    (root / "study.toml").write_text(tomli_w.dumps(STUDY))
    return root


def evaluate(root, name, *settings):
    more = [part for setting in settings for part in ("--set", setting)]
    out = root / name
    code = run("evaluate", root / "study.toml", "--out", out, "--quiet", *more)
    return code, out


@pytest.fixture(scope="module")
def independent(root):
    code, out = evaluate(root, "independent")
    assert code == 0
    return out


def test_film_aligned_scores_stand_beside_their_references(independent, capsys):
    scores = read(independent / "scores.json")
    alignment = scores["alignment"]
    assert alignment["protocol"] == "independent_run"
    assert alignment["aligned"] == ["lda"]
    beside = {each["kind"]: each for each in alignment["beside"]}
    assert set(beside) == {"unaligned", "within_subject"}
    assert beside["unaligned"]["gain"]["sentence"]
    # the decoder that the study leaves unaligned is the same as the reference
    plain, reference = scores["models"]["plain"], beside["unaligned"]
    assert plain["balanced_accuracy"]["value"] == reference["balanced_accuracy"]["value"]
    assert scores["models"]["lda"]["macro_auc"]["value"] != plain["macro_auc"]["value"]


def test_the_ledger_and_the_page_say_what_the_maps_were_fitted_on(independent):
    for steps in read(independent / "fitted.json"):
        template, own = [each for each in steps if each["kind"] == "alignment"]
        assert template["outside"] == 3 * 80  # the training subjects' films
        assert own["outside"] == 80
        for step in (template, own):
            assert step["rows"] == []
            assert step["protocol"] == "independent_run"
            assert step["outside_s"] is None  # of a run that is not tested
    assert read(independent / "audit.json")["verdict"] != "leak"
    page = (independent / "report.html").read_text()
    assert 'id="alignment"' in page
    assert "same stimulus at the same volumes" in page
    assert "Chen et al., 2015" not in page
    assert "Guntupalli" in page


def test_maps_of_aligned_linear_decoders_are_in_the_voxels(independent):
    maps = sorted((independent / "maps").glob("model-lda_*weights.nii.gz"))
    assert len(maps) == 3
    for path in maps:
        assert np.isfinite(nib.load(path).get_fdata()).all()
        assert (nib.load(path).get_fdata() != 0).sum() <= 60


def test_the_report_is_drawn_anew_without_refitting(independent):
    before = (independent / "report.html").read_text()
    assert run("report", independent) == 0
    assert (independent / "report.html").read_text() == before


def test_one_run_calibrates_and_the_other_is_tested(root):
    code, out = evaluate(
        root, "calibrated", "align.protocol=calibration_blocks", "align.task=", "align.map=ridge"
    )
    assert code == 2  # an empty task is no task's name
    settings = {"align": {"protocol": "calibration_blocks"}}
    (root / "calibrated.toml").write_text(tomli_w.dumps(STUDY | settings))
    out = root / "calibrated"
    assert run("evaluate", root / "calibrated.toml", "--out", out, "--quiet") == 0
    table = pd.read_csv(out / "samples.tsv", sep="\t", dtype=str)
    for split in read(out / "splits.json"):
        assert set(table["run"][split["calibrate"]]) == {"1"}
        assert set(table["run"][split["test"]]) == {"2"}
    for steps in read(out / "fitted.json"):
        (step,) = [each for each in steps if each["kind"] == "alignment"]
        assert step["rows"] not in ("test", None)
    kinds = {each["kind"] for each in read(out / "scores.json")["alignment"]["beside"]}
    assert kinds == {"unaligned", "within_subject", "calibration_added"}
    assert "calibrates its map" in read(out / "scores.json")["split"]["sentence"]


def test_connectivity_with_parcels_needs_no_common_stimulus(root):
    mask = nib.load(next((root / "bids").rglob("*desc-brain_mask.nii.gz")))
    parcels = np.zeros(mask.shape, dtype=np.int16)
    parcels[np.asanyarray(mask.dataobj) > 0] = np.arange(int((mask.get_fdata() > 0).sum())) % 9 + 1
    nib.save(nib.Nifti1Image(parcels, mask.affine), root / "parcels.nii.gz")
    align = {"protocol": "connectivity", "targets": "parcels.nii.gz", "task": "film"}
    (root / "connectivity.toml").write_text(tomli_w.dumps(STUDY | {"align": align}))
    out = root / "connectivity"
    assert run("evaluate", root / "connectivity.toml", "--out", out, "--quiet") == 0
    assert read(out / "scores.json")["alignment"]["protocol"] == "connectivity"
    assert read(out / "audit.json")["verdict"] != "leak"


def test_pieces_of_the_whole_brain_are_aligned_before_voxels_are_chosen(root):
    region = root / "bids/derivatives/truth/regions.nii.gz"
    align = {"task": "film", "pieces": str(region), "map": "orthogonal"}
    (root / "pieces.toml").write_text(tomli_w.dumps(STUDY | {"align": align, "models": ["lda"]}))
    out = root / "pieces"
    assert run("evaluate", root / "pieces.toml", "--out", out, "--quiet") == 0
    steps = [each["step"] for each in read(out / "fitted.json")[0]]
    assert steps.index("align") < steps.index("select")


def test_published_form_on_test_data_is_named_a_leak_beside_the_honest_one(root):
    published = {
        "align.protocol": "transductive",
        "align.task": None,
        "features.fit_on": "all",
        "features.select_by": "own",
    }
    study = STUDY | {"as_published": {k: v for k, v in published.items() if v is not None}}
    study["align"] = {"protocol": "none"}
    (root / "published.toml").write_text(tomli_w.dumps(study))
    out = root / "published"
    assert run("evaluate", root / "published.toml", "--out", out, "--quiet") == 0
    assert read(out / "audit.json")["verdict"] != "leak"
    found = read(out / "as-published" / "audit.json")
    leaks = {each["rule"] for each in found["findings"] if each["verdict"] == "leak"}
    assert {"T2", "T3"} <= leaks
    beside = read(out / "as-published" / "scores.json")["alignment"]["beside"]
    assert {each["why_not"] for each in beside if each["kind"] == "unaligned"} != {None}


def test_align_compares_methods_on_volumes_that_no_map_saw(root, capsys):
    out = root / "compared"
    assert run("align", root / "study.toml", "--out", out, "--quiet") == 0
    said = capsys.readouterr().out
    table = pd.read_csv(out / "alignment.tsv", sep="\t")
    assert list(table["method"].unique()) == [
        *("none", "hyperalignment", "template", "ridge", "promises", "srm")
    ]
    assert set(table["tested_on"]) == {"run-film-1 first half", "run-film-1 second half"}
    assert "segments matched" in said
    subjects = pd.read_csv(out / "subjects.tsv", sep="\t")
    assert len(subjects) == len(table) * 4
    assert (out / "alignment.png").stat().st_size > 10_000


def test_an_epoch_chosen_on_test_samples_is_refused_at_once(root, capsys):
    evaluate = {"choose_epoch_on": "test"}
    (root / "refused.toml").write_text(
        tomli_w.dumps(STUDY | {"evaluate": evaluate, "models": ["conv1d"]})
    )
    arguments = ["evaluate", root / "refused.toml", "--out", root / "refused", "--quiet"]
    refuse(arguments, ["choose_epoch_on", "conv1d", "as_published"], root=root, capsys=capsys)


REFUSED = {
    "own-order": ({}, ("do not support it", "no moment of a stimulus", "align.task")),
    "transductive": ({"protocol": "transductive"}, ("align.protocol", "decodes pure noise")),
    "no-targets": ({"protocol": "connectivity"}, ("align.targets",)),
    "no-such-run": (
        {"protocol": "calibration_blocks", "calibration_run": "9"},
        ("calibration_blocks: sub-01", "run 9"),
    ),
    "no-such-task": ({"task": "rest"}, ("rest",)),
    "two-forms": (
        {"task": "film", "pieces": "a.nii", "searchlight_mm": 8.0},
        ("pieces or searchlight_mm",),
    ),
    "unknown": ({"protocol": "magic"}, ("align.protocol", "independent_run")),
    "misspelt": ({"protocl": "none"}, ("protocl", "Did you mean 'protocol'")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_data_do_not_support_is_refused_with_the_reason(name, root, capsys):
    align, words = REFUSED[name]
    (root / "refused.toml").write_text(tomli_w.dumps(STUDY | {"align": align}))
    arguments = ["evaluate", root / "refused.toml", "--out", root / "refused", "--quiet"]
    refuse(arguments, words, root=root, capsys=capsys)


@pytest.mark.parametrize("protocol", ["independent_run", "connectivity"])
def test_the_decoded_task_itself_aligns_nothing(protocol, tmp_path, capsys):
    """With one order for all subjects such maps decode noise, and no fold counts them as tested."""
    sizes = {"n_subjects": 3, "n_runs": 2, "n_volumes": 60, "voxel_mm": 9.0}
    simulate_dataset(tmp_path / "bids", code="null", same_order=True, **sizes, progress=False)
    align = {"protocol": protocol, "task": "emotion", "targets": "parcels.nii.gz"}
    evaluate = STUDY["evaluate"] | {"split": "leave_one_subject_out"}
    study = STUDY | {"align": align, "evaluate": evaluate}
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
    arguments = ["evaluate", tmp_path / "study.toml", "--out", tmp_path / "out", "--quiet"]
    words = ["align.task", "task-emotion run-1 is of the task that is decoded"]
    refuse(arguments, words, root=tmp_path, capsys=capsys)


def test_a_tuned_decoder_of_three_subjects_is_refused_before_anything_is_read(root, capsys):
    study = STUDY | {
        "data": STUDY["data"] | {"subjects": ["01", "02", "03"]},
        "models": [{"name": "svm", "kind": "linear_svm", "grid": {"C": [0.1, 1.0]}}],
    }
    (root / "refused.toml").write_text(tomli_w.dumps(study))
    arguments = ["evaluate", root / "refused.toml", "--out", root / "refused", "--quiet"]
    words = ["models.svm (inner folds of fold sub-01: alignment): 1 subject (sub-0"]
    refuse(arguments, words, root=root, capsys=capsys)


def _film_runs(monkeypatch, **of_the_second):
    """Runs of a film that `read_bids` finds: two subjects, the second as it is said."""
    events = pd.DataFrame({"onset_s": [0.0, 20.0], "duration_s": 20.0, "trial_type": ["a", "b"]})
    given = {"tr_s": 2.0, "events": events} | of_the_second
    plan = {"task": "film", "run": "1", "planned_volumes": 30}
    found = [Run("01", 2.0, events=events, **plan), Run("02", **plan | given)]
    monkeypatch.setattr("emodecode.read.bids.read_bids", lambda **_: (found, []))
    return [replace(run, task="emotion", source=None) for run in found]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tr_s": 2.5}, "the repetition time or first volume of task film differ"),
        ({"dummies": 4}, "the repetition time or first volume of task film differ"),
        (
            {"events": pd.DataFrame({"onset_s": [0.0, 20.0], "trial_type": ["b", "a"]})},
            "the events of task film differ between sub-01 task-film run-1 and sub-02",
        ),
    ],
)
def test_a_film_that_subjects_saw_differently_is_no_common_stimulus(change, words, monkeypatch):
    study = make_study(STUDY)
    runs = _film_runs(monkeypatch)
    assert [run.run for run in read_alignment_runs(study, runs)] == ["film-1", "film-1"]
    runs = _film_runs(monkeypatch, **change)
    with pytest.raises(InputError, match=words):
        read_alignment_runs(study, runs)
    align = {"protocol": "connectivity", "task": "film", "targets": "parcels.nii.gz"}
    assert len(read_alignment_runs(make_study(STUDY | {"align": align}), runs)) == 2


def test_decoded_files_under_another_name_align_nothing(monkeypatch):
    decoded = [replace(run, source=Path("a.nii.gz")) for run in _film_runs(monkeypatch)]
    assert len(read_alignment_runs(make_study(STUDY), decoded)) == 2
    _film_runs(monkeypatch, source=Path("a.nii.gz"))
    with pytest.raises(LeakageError, match="sub-02 task-film run-1 is of the task"):
        read_alignment_runs(make_study(STUDY), decoded)

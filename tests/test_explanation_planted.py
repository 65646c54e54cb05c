"""`emodecode explain` on simulated data: a decoder of something passes, one of nothing does not."""

import json

import nibabel as nib
import numpy as np
import pytest
import tomli_w

from emodecode.cli import main
from emodecode.study import load_study
from emodecode.workflow import explain

pytestmark = pytest.mark.slow

DESIGN = (
    *("--design", "blocks", "--subjects", "8", "--quiet"),
    *("--set", "voxel_mm=10.0", "--set", "n_volumes=240"),
    *("--set", "gap_s=10.0", "--set", "shared=1.0"),
)
STUDY = {
    "name": "planted",
    "data": {"path": "sim", "derivatives": "derivatives/fmriprep"},
    "labels": {"lag_s": 6.0},
    "evaluate": {"split": "leave_one_subject_out", "n_permutations": 100},
    "explain": {"geometry": False, "space": "MNI152NLin2009cAsym", "methods": False},
    "models": [{"name": "lda"}],
}


def _explained(root, code):
    with pytest.raises(SystemExit) as caught:
        main(["simulate", str(root / "sim"), "--code", code, *DESIGN])
    assert not caught.value.code
    (root / "study.toml").write_text(tomli_w.dumps(STUDY))
    return explain(load_study(root / "study.toml"), root / "out", progress=False)


def test_a_planted_code_passes_and_lies_where_it_was_planted(tmp_path):
    told = _explained(tmp_path, "linear")
    (model,) = told["models"]
    score = told["scores"]["lda"]["balanced_accuracy"]
    assert score["low"] > score["chance"]
    assert model["sanity"]["passed"], model["sanity"]["sentence"]
    assert len(model["sanity"]["checks"]) == 6
    truth = json.loads((tmp_path / "sim/derivatives/truth/truth.json").read_text())
    regions = nib.load(tmp_path / "sim/derivatives/truth/regions.nii.gz").get_fdata()
    known = {each["name"]: each["number"] for each in truth["regions"]}
    carries = np.isin(regions, [known[name] for name in truth["carries"]["linear"]])
    for each in model["maps"]:
        drop = nib.load(tmp_path / "out" / each["files"]["drop"]).get_fdata()
        inside = nib.load(tmp_path / "out/mask.nii.gz").get_fdata() != 0
        near = drop[carries & inside].mean()
        assert near > 10 * abs(drop[~carries & inside].mean()), each["class"]


def test_nothing_planted_fails_against_exchanged_labels(tmp_path):
    told = _explained(tmp_path, "null")
    (model,) = told["models"]
    failed = [each["check"] for each in model["sanity"]["checks"] if not each["passed"]]
    assert "random labels" in failed
    assert sum(each["n_significant"] for each in model["classes"]) == 0

"""3-D networks from a study: results, seeds, refusals, processes that share the work."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w

from emodecode.cli import main
from emodecode.errors import InputError
from emodecode.evaluate.seeds import score_seeds, spread_over_seeds
from emodecode.study import load_study
from emodecode.workflow import evaluate
from small_study import STUDY, write_small

CNN = {"name": "cnn", "kind": "separable3d", "params": {"max_epochs": 1, "n_members": 2}}
RULES = {"split": "leave_one_subject_out", "n_permutations": 5, "controls": False}


def _study(root, *models, **more):
    return write_small(root, {"models": list(models), "evaluate": RULES} | more)


@pytest.mark.slow
def test_a_network_is_evaluated_with_all_its_seeds(tmp_path):
    path = _study(tmp_path, {"name": "lda"}, CNN, features={"n_voxels": 20})
    evaluate(load_study(path), tmp_path / "out", progress=False)
    seeds = pd.read_csv(tmp_path / "out/seeds.tsv", sep="\t")
    assert set(seeds["model"]) == {"cnn"}
    assert len(seeds) == 3 * 2
    spread = pd.read_csv(tmp_path / "out/seeds-spread.tsv", sep="\t").set_index("metric")
    means = seeds.groupby("seed")["balanced_accuracy"].mean()
    assert spread.loc["balanced_accuracy", "mean"] == pytest.approx(means.mean())
    assert spread.loc["balanced_accuracy", "sd"] == pytest.approx(means.std())
    assert "Macro AUC of 2 seeds alone" in (tmp_path / "out/report.html").read_text()


def test_seeds_are_scored_as_decoders_are():
    table = pd.DataFrame({"subject": "01", "run": "1", "volume": range(4), "label": list("aabb")})
    good = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8]])
    bad = np.array([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.2, 0.8]])
    found = score_seeds(np.stack([good, bad]), table, own=np.array(["a", "b"]), classes=("a", "b"))
    assert [each["balanced_accuracy"] for each in found] == [1.0, 0.5]
    assert [each["macro_auc"] for each in found] == [1.0, 0.75]
    spread = spread_over_seeds(pd.DataFrame(found).assign(model="net", fold="1"))
    assert spread["n_seeds"].tolist() == [2, 2]
    assert spread["lowest"].tolist() == [0.5, 0.75]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"n_voxels": 30}, "some voxels"),
        ({"params": {"depth": 50}}, "unknown parameter 'depth'"),
        ({"params": {"window": 0}}, "window"),
        ({"params": {"normalise": "z"}}, "voxel, volume, none"),
        ({"kind": "resnet3d", "params": {"depth": 17}}, "18, 34, 50, 101, 152"),
    ],
)
def test_what_a_3d_network_cannot_have_is_refused(tmp_path, change, named):
    path = _study(tmp_path, CNN | change)
    with pytest.raises(InputError, match="cnn") as caught:
        evaluate(load_study(path), tmp_path / "out", progress=False)
    assert named in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_aligned_voxels_are_no_volume(tmp_path):
    path = _study(tmp_path, CNN, align={"protocol": "calibration_blocks"})
    with pytest.raises(InputError, match="align = false"):
        evaluate(load_study(path), tmp_path / "out", progress=False)


def test_tables_are_no_volumes(tmp_path, capsys):
    values = np.random.default_rng(0).standard_normal((24, 3))
    table = pd.DataFrame(values, columns=["a", "b", "c"])
    table = table.assign(subject=np.repeat(list("1234"), 6), label=np.tile(["x", "y"], 12))
    table.to_csv(tmp_path / "t.csv", index=False)
    study = {
        "name": "t",
        "data": {"source": "table", "path": ".", "files": ["t.csv"]},
        "labels": {"source": "data"},
        "models": [CNN],
    }
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "a table of features" in capsys.readouterr().err


@pytest.mark.slow
def test_processes_of_torchrun_evaluate_together(tmp_path):
    cnn = CNN | {"params": {"max_epochs": 2, "dropout": 0.0}}
    path = _study(tmp_path, {"name": "lda"}, cnn)
    command = [str(Path(sys.executable).with_name("emodecode")), "evaluate", str(path), "--quiet"]
    together = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", "2", "--no-python"),
    ]
    for start, out in (([], "one"), (together, "two")):
        subprocess.run(
            [*start, *command, "--out", str(tmp_path / out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            timeout=240,
        )
    one, two = (pd.read_csv(tmp_path / out / "training.tsv", sep="\t") for out in ("one", "two"))
    for column in ("train_loss", "valid_loss"):
        np.testing.assert_allclose(one[column], two[column], atol=2e-3)
    assert STUDY["name"] in (tmp_path / "two/study.toml").read_text()

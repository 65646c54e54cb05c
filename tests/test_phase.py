"""Chance from phase-randomised data: at its level on noise, finds what is planted, and is named."""

import json

import numpy as np
import pytest

from designs import blocks, slow_noise
from emodecode.cli import main
from emodecode.errors import InputError
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.phase import surrogate_null
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import leave_one_subject_out
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import Samples
from emodecode.study import make_study
from small_study import write_small

LDA = Candidate("lda", make_pipeline_for("lda"))


def try_phase(seed, *, effect=0.0, m=19):
    table = blocks(n_subjects=4, n_runs=1, n_blocks=6, length=6, seed=seed)
    X = slow_noise(table, seed=seed)[:, :8].copy()
    X[:, :3] += effect * (table["label"] == "c1").to_numpy()[:, None]
    samples = Samples(X=X.astype(np.float32), table=table)
    splits = leave_one_subject_out(table)
    results = score(samples, splits, [LDA], progress=False)
    nulls = surrogate_null(samples, splits, [LDA], n_permutations=m, seed=seed, progress=False)
    assert nulls["lda"].subjects == ("01", "02", "03", "04")
    assert nulls["lda"].per_subject.shape == (m, 4)
    found = score_predictions(
        results.predictions, classes=results.classes, splits=splits, nulls=nulls, n_permutations=m
    )
    return found["models"]["lda"]


def test_a_planted_effect_gets_the_smallest_p_and_the_test_is_named():
    found = try_phase(0, effect=3.0)
    assert found["balanced_accuracy"]["p"] == pytest.approx(1 / 20)
    assert found["balanced_accuracy"]["p_smallest"] == pytest.approx(1 / 20)
    assert found["balanced_accuracy"]["chance"] == pytest.approx(1 / 3, abs=0.06)
    assert "19 phase-randomised surrogates of the data" in found["test"]["sentence"]


@pytest.mark.slow
def test_noise_is_not_rejected_more_often_than_it_may():
    p = np.array([try_phase(seed)["balanced_accuracy"]["p"] for seed in range(30)])
    assert (p <= 0.2).sum() <= 12, "more than 12 of 30 at .2: binomial p = .009"
    assert 0.3 < p.mean() < 0.75


def test_the_study_asks_for_it(tmp_path):
    write_small(tmp_path)
    how = (
        "evaluate.permutation=predictions",
        "evaluate.exchange=phase",
        "evaluate.controls=false",
        "evaluate.n_permutations=5",
    )
    command = ["evaluate", str(tmp_path / "study.toml"), "--out", str(tmp_path / "out"), "--quiet"]
    with pytest.raises(SystemExit) as done:
        main([*command, *(part for key in how for part in ("--set", key))])
    assert not done.value.code
    scores = json.loads((tmp_path / "out/scores.json").read_text())["models"]["lda"]
    assert "5 phase-randomised surrogates" in scores["test"]["sentence"]
    page = (tmp_path / "out/report.html").read_text()
    assert "refitted on surrogates" in page
    assert "surrogates of the data with the true labels, everything refitted" in page
    assert scores["balanced_accuracy"]["p_smallest"] == pytest.approx(1 / 6)


def test_shifts_may_be_asked_for_single_volumes_may_not(tmp_path):
    study = {"name": "s", "data": {"path": "bids"}}
    assert make_study(study | {"evaluate": {"exchange": "shift"}}).evaluate.exchange == "shift"
    with pytest.raises(InputError, match="effects in noise"):
        make_study(study | {"evaluate": {"exchange": "volume"}})

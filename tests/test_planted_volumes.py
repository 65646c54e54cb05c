"""Planted truth on volumes: products of places that only a network reads, null codes, a decoy film.

Ten subjects with one topography (nothing is aligned here), volumes of 10 mm, single volumes as
samples, the catalogue's decoders with their defaults.
"""

from dataclasses import replace

import numpy as np
import pytest

from emodecode.evaluate.audit import audit_split
from emodecode.evaluate.compare import compare
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.features.extract import extract
from emodecode.label.blocks import label_events
from emodecode.label.random import label_random
from emodecode.models.catalogue import make_pipeline_for
from emodecode.simulate.runs import simulate_runs
from emodecode.simulate.signals import MOTION_COLUMNS

CLEAN = {"detrend": True, "high_pass_hz": 1 / 128, "low_pass_hz": None, "standardize": "run"}
BLOCKS = {"gap_s": 10.0, "n_volumes": 240, "effect": 3.0}
LINEAR = ("logistic", "lda")

pytestmark = pytest.mark.slow


def _samples(*, labels=None, lag_s=6.0, **choices):
    simulated = simulate_runs(voxel_mm=10.0, shared=1.0, **choices)
    runs = [
        replace(run, confounds=run.confounds[list(MOTION_COLUMNS)])
        for run in simulated.runs
        if run.confounds is not None
    ]
    if labels is None:
        labelled = label_events(runs, lag_s=lag_s, transition_s=4.0)
    else:
        labelled = label_random(runs, classes=labels, seed=1, lag_s=lag_s)
    return extract(runs, labelled.table, mask=simulated.mask, clean=CLEAN, progress=False)


def _candidates(samples, **kinds):
    mask = np.asanyarray(samples.mask.dataobj) != 0
    return [Candidate(k, make_pipeline_for(k, params=own, mask=mask)) for k, own in kinds.items()]


def _judge(samples, splits, candidates):
    """Macro AUC of each decoder, the results, and the audit's verdict."""
    results = score(samples, splits, candidates, progress=False)
    scores = score_predictions(results.predictions, classes=results.classes, n_permutations=1)
    found = {name: each["macro_auc"]["value"] for name, each in scores["models"].items()}
    audit = audit_split(samples.table, splits, X=samples.X, fitted=results.ledger())
    return found, results, audit.verdict


def _linear_alone(seed):
    samples = _samples(code="interaction", n_subjects=10, seed=seed, **BLOCKS)
    splits = leave_one_subject_out(samples.table)
    return _judge(samples, splits, _candidates(samples, logistic={}, lda={}))[0]


def test_a_code_of_interactions_alone_is_read_by_the_network_and_by_no_linear_decoder():
    samples = _samples(code="interaction", n_subjects=10, seed=0, **BLOCKS)
    splits = leave_one_subject_out(samples.table)
    candidates = _candidates(samples, logistic={}, lda={}, small3d={"n_members": 1})
    found, results, verdict = _judge(samples, splits, candidates)
    assert verdict == "clean"
    others = [_linear_alone(seed) for seed in (1, 2, 3)]
    for name in LINEAR:
        assert np.mean([found[name], *(each[name] for each in others)]) == pytest.approx(
            0.5, abs=0.03
        ), (found, others)
    best = max(LINEAR, key=found.__getitem__)
    pair = {
        name: results.predictions[results.predictions["model"] == name]
        for name in ("small3d", best)
    }
    (paired,) = compare(
        pair,
        splits,
        classes=results.classes,
        verdicts=dict.fromkeys(pair, verdict),
        metric="macro_auc",
    )
    print(paired["sentence"])
    assert paired["a"] == "small3d"
    assert paired["difference"] > 0.08, paired
    assert paired["p_holm"] < 0.05, paired


def test_nothing_planted_leaves_all_at_chance():
    samples = _samples(code="null", n_subjects=8, seed=1, **BLOCKS)
    splits = leave_one_subject_out(samples.table)
    candidates = _candidates(
        samples,
        logistic={},
        small3d={"n_members": 1, "max_epochs": 10},
    )
    found, _, verdict = _judge(samples, splits, candidates)
    assert verdict == "clean"
    for value in found.values():
        assert value == pytest.approx(0.5, abs=0.03), found


def test_a_film_without_emotion_is_decoded_only_where_subjects_share_its_scenes():
    samples = _samples(
        labels=("FEAR", "HAPPINESS", "SADNESS"),
        design="movie",
        decoy=0.7,
        n_subjects=8,
        n_runs=3,
        n_volumes=150,
        seed=0,
    )
    found = {}
    for name, splits in (
        ("subject", leave_one_subject_out(samples.table)),
        ("both", subject_by_stimulus(samples.table)[::3]),
    ):
        own = {"n_members": 1, "validation_share": 0.0}
        candidates = _candidates(samples, small3d=own, lda={})
        scores, _, verdict = _judge(samples, splits, candidates)
        found[name] = scores | {"verdict": verdict}
    print(found)
    assert found["subject"]["verdict"] == "leak"
    assert found["subject"]["small3d"] > 0.57
    assert found["subject"]["lda"] > 0.57
    assert found["both"]["verdict"] == "clean"
    assert found["both"]["small3d"] == pytest.approx(0.5, abs=0.05)
    assert found["both"]["lda"] == pytest.approx(0.5, abs=0.05)

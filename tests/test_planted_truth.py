"""Planted truth through the whole scoring: what is there is found, what is not there is not."""

import numpy as np
import pytest

from emodecode.errors import LeakageError
from emodecode.evaluate.audit import audit_split, enforce
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import choose_splits, leave_one_subject_out, subject_by_stimulus
from emodecode.models.catalogue import make_pipeline_for
from emodecode.simulate.samples import simulate_samples


def balanced_accuracy(samples, splits, *, kind="lda", n_voxels=100, n_permutations=20):
    results = score(
        samples,
        splits,
        [Candidate(kind, make_pipeline_for(kind, n_voxels=n_voxels))],
        progress=False,
    )
    scores = score_predictions(
        results.predictions,
        classes=results.classes,
        n_permutations=n_permutations,
        samples_table=samples.table,
        rows=results.rows,
    )
    return scores["models"][kind]["balanced_accuracy"]


def test_linear_code_is_decoded_in_new_subjects():
    samples = simulate_samples(code="linear", n_subjects=8, seed=1)
    splits, name, _ = choose_splits(samples.table)
    found = balanced_accuracy(samples, splits, n_permutations=200)
    assert name == "leave_one_subject_out"
    assert audit_split(samples.table, splits, X=samples.X).verdict == "clean"
    assert found["low"] > 0.6
    assert found["chance"] == pytest.approx(1 / 3, abs=0.03)
    assert found["p"] == pytest.approx(1 / 201)


def test_null_code_lands_at_chance_with_selection_inside_the_folds():
    values = []
    for seed in range(20):
        samples = simulate_samples(code="null", n_subjects=6, seed=seed)
        values.append(balanced_accuracy(samples, leave_one_subject_out(samples.table))["value"])
    assert np.mean(values) == pytest.approx(1 / 3, abs=0.02)


def test_film_without_emotion_fools_leave_one_subject_out_and_is_flagged():
    found = []
    for seed in range(8):
        samples = simulate_samples(
            design="movie",
            labels="random",
            decoy=0.1,
            n_subjects=6,
            n_runs=4,
            classes=("FEAR", "HAPPINESS", "SADNESS"),
            seed=seed,
        )
        naive = leave_one_subject_out(samples.table)
        honest = subject_by_stimulus(samples.table)
        leak = audit_split(samples.table, naive)
        assert leak.verdict == "leak"
        assert leak.findings[0].rule == "T5"
        with pytest.raises(LeakageError, match="subject_by_stimulus"):
            enforce(leak, allow_leakage=False)
        assert audit_split(samples.table, honest, X=samples.X).verdict == "clean"
        found.append([balanced_accuracy(samples, splits)["value"] for splits in (naive, honest)])
    naive_mean, honest_mean = np.mean(found, axis=0)
    assert naive_mean > 0.6
    spread = np.std(np.asarray(found)[:, 1], ddof=1) / np.sqrt(len(found))
    assert abs(honest_mean - 1 / 3) < max(0.03, 3 * spread)


def test_film_is_held_out_twice_by_default():
    samples = simulate_samples(design="movie", n_subjects=4, n_runs=3, seed=0)
    splits, name, sentence = choose_splits(samples.table)
    assert name == "subject_by_stimulus"
    assert "several subjects saw the same moments" in sentence
    assert len(splits) == 12


@pytest.mark.parametrize("gap_s", [20.0, 60.0])
def test_double_hold_out_is_no_leak_whatever_the_gap(gap_s):
    samples = simulate_samples(design="movie", n_subjects=3, n_runs=3, average="none", seed=0)
    splits = subject_by_stimulus(samples.table, groups="segments", n_segments=3, gap_s=gap_s)
    assert audit_split(samples.table, splits).verdict != "leak"


@pytest.mark.slow
def test_film_without_emotion_is_at_chance_when_held_out_twice_over_many_seeds():
    values = []
    for seed in range(100, 140):
        samples = simulate_samples(
            design="movie",
            labels="random",
            decoy=0.1,
            n_subjects=4,
            n_runs=3,
            classes=("FEAR", "HAPPINESS", "SADNESS"),
            seed=seed,
        )
        values.append(balanced_accuracy(samples, subject_by_stimulus(samples.table))["value"])
    assert np.mean(values) == pytest.approx(1 / 3, abs=0.02)

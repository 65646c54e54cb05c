"""Planted truth, setting "mixed C": alignment helps, and products of aligned voxels help more.

Regions are aligned one by one on a film of their own, training subjects first, the tested subject
to the frozen space; macro AUC of leave-one-subject-out (spec: simulator, "mixed C").
"""

import numpy as np
import pytest
import sklearn
from sklearn.pipeline import Pipeline

from emodecode.align.space import CommonSpace
from emodecode.evaluate.alignment import alignment_of, split_off_unlabelled
from emodecode.evaluate.compare import compare
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import leave_one_subject_out
from emodecode.models.catalogue import make_pipeline_for
from emodecode.simulate.samples import simulate_samples


def _scores(kinds, *, code, seed, n_subjects=12):
    """Macro AUC of ``kind`` and ``kind map``, the results and the folds."""
    both = simulate_samples(code=code, film_volumes=200, n_subjects=n_subjects, seed=seed)
    samples, film = split_off_unlabelled(both)
    alignment = alignment_of(samples, film)
    candidates = [_candidate(name, alignment, samples.n_voxels) for name in kinds]
    splits = leave_one_subject_out(samples.table)
    results = score(samples, splits, candidates, progress=False)
    scores = score_predictions(results.predictions, classes=results.classes, n_permutations=1)
    found = {name: each["macro_auc"]["value"] for name, each in scores["models"].items()}
    return found, results, splits


def _candidate(name, alignment, n_voxels):
    kind, _, how = name.partition(" ")
    pipeline = make_pipeline_for(kind)
    if not how:
        return Candidate(name, pipeline)
    space = CommonSpace(map=how, pieces=np.arange(n_voxels) // 40 + 1)
    with sklearn.config_context(enable_metadata_routing=True):
        space.set_fit_request(subjects=True).set_transform_request(subjects=True)
    return Candidate(name, Pipeline([("align", space), *pipeline.steps]), alignment=alignment)


def test_alignment_helps_and_products_help_more():
    kinds = ["lda", "lda ridge", "rbf_svm ridge"]
    found, _, _ = _scores(kinds, code="mixed", seed=0, n_subjects=8)
    assert found["lda ridge"] > found["lda"] + 0.02
    assert found["rbf_svm ridge"] > found["lda ridge"] + 0.02


CLASSICAL = ("lda ridge", "rbf_svm ridge", "mlp ridge")


def _means(seeds):
    names = seeds[0]
    return {name: float(np.mean([found[name] for found in seeds])) for name in names}


@pytest.mark.slow
def test_mixed_code_over_seeds():
    kinds = ["lda", "lda orthogonal", "rbf_svm orthogonal", *CLASSICAL]
    mean = _means([_scores(kinds, code="mixed", seed=seed)[0] for seed in range(3)])
    assert mean["lda"] == pytest.approx(0.57, abs=0.06), mean
    for aligned in ("lda orthogonal", "lda ridge"):
        assert mean[aligned] > mean["lda"], mean
        assert mean[aligned] == pytest.approx(0.64, abs=0.03), mean
    assert mean["rbf_svm orthogonal"] >= 0.70, mean
    assert mean["rbf_svm ridge"] >= 0.72, mean


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_our_network_is_at_least_as_good_as_the_best_classical_decoder(seed):
    """Paired over the tested subjects; a minute and a half each on one core."""
    found, results, splits = _scores([*CLASSICAL, "conv1d ridge"], code="mixed", seed=seed)
    best = max(CLASSICAL, key=found.__getitem__)
    pair = {
        name: results.predictions[results.predictions["model"] == name]
        for name in ("conv1d ridge", best)
    }
    (paired,) = compare(
        pair,
        splits,
        classes=results.classes,
        verdicts=dict.fromkeys(pair, "clean"),
        metric="macro_auc",
    )
    print(paired["sentence"])
    assert paired["a"] == "conv1d ridge", paired["sentence"]
    assert paired["difference"] >= 0
    assert paired["n_subjects"] == 12
    assert found["conv1d ridge"] >= found[best], found


@pytest.mark.slow
def test_a_code_of_interactions_alone_leaves_linear_decoders_at_chance():
    kinds = ["lda", "lda orthogonal", "lda ridge"]
    mean = _means([_scores(kinds, code="interaction", seed=seed)[0] for seed in range(6)])
    for name in kinds:
        assert mean[name] == pytest.approx(0.5, abs=0.03), mean


@pytest.mark.slow
def test_our_network_reads_a_code_of_interactions_alone():
    kinds = ["lda ridge", "conv1d ridge"]
    found, _, _ = _scores(kinds, code="interaction", seed=0, n_subjects=8)
    assert found["conv1d ridge"] > max(0.65, found["lda ridge"] + 0.1), found

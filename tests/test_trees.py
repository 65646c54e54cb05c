"""Boosted trees and the perceptron: planted interactions, labels as text, reduction in the fold."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GroupKFold
from xgboost import XGBClassifier

from emodecode.models.perceptron import Perceptron
from emodecode.models.trees import BoostedTrees


def _interaction(seed, *, n=400, p=12):
    """Class = sign of a product: no voxel alone tells it."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(np.float32)
    return X, np.where(X[:, 0] * X[:, 1] > 0, "fear", "joy")


def test_trees_find_an_interaction():
    X, y = _interaction(0)
    fitted = BoostedTrees(max_depth=4, colsample_bynode=1.0).fit(X[:300], y[:300])
    assert (fitted.predict(X[300:]) == y[300:]).mean() > 0.8
    assert fitted.classes_.tolist() == ["fear", "joy"]


def test_perceptron_finds_an_interaction():
    X, y = _interaction(1, p=4)
    fitted = Perceptron(alpha=0.01).fit(X[:300], y[:300])
    assert (fitted.predict(X[300:]) == y[300:]).mean() > 0.85


def test_trees_equal_xgboost_itself():
    X, y = _interaction(2)
    ours = BoostedTrees(n_estimators=20, class_weight=None, random_state=5).fit(X, y)
    theirs = XGBClassifier(
        n_estimators=20,
        max_depth=3,
        learning_rate=0.1,
        colsample_bynode=0.3,
        max_bin=64,
        random_state=5,
    ).fit(X, (y == "joy").astype(int))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)


def test_trees_reduce_inside_fit():
    rng = np.random.default_rng(3)
    y = np.resize(["anger", "fear", "joy"], 120)
    X = rng.standard_normal((120, 500)).astype(np.float32)
    X[:, 7] += 3 * (y == "joy")
    fitted = BoostedTrees(n_estimators=10, max_voxels=20).fit(X, y)
    assert fitted.reduction_ is not None
    assert len(fitted.reduction_.indices_) == 20
    assert 7 in fitted.reduction_.indices_
    assert BoostedTrees(n_estimators=2).fit(X, y).reduction_ is None


def test_trees_reduction_leaves_noise_at_chance():
    rng = np.random.default_rng(4)
    scores = []
    for _ in range(3):
        X = rng.standard_normal((120, 2000)).astype(np.float32)
        y = np.array(["anger", "fear", "joy"])[rng.permutation(np.repeat([0, 1, 2], 40))]
        for train, test in GroupKFold(4).split(X, y, np.repeat(np.arange(8), 15)):
            fitted = BoostedTrees(n_estimators=10, max_voxels=30).fit(X[train], y[train])
            scores.append((fitted.predict(X[test]) == y[test]).mean())
    assert abs(np.mean(scores) - 1 / 3) < 0.08


@pytest.mark.parametrize("model", [BoostedTrees(n_estimators=5), Perceptron()])
def test_same_seed_same_result(model):
    X, y = _interaction(5, n=80)
    once, twice = (clone(model).set_params(random_state=3).fit(X, y) for _ in range(2))
    np.testing.assert_array_equal(once.predict_proba(X), twice.predict_proba(X))


def test_perceptron_by_gram_lives_on_the_voxels():
    """Trained in n - 1 dimensions, its first layer still reads voxels, offset included."""
    rng = np.random.default_rng(6)
    y = np.resize(["anger", "fear", "joy"], 90)
    X = rng.standard_normal((90, 400)) + 100
    X[:, :60] += 1.5 * (y[:, None] == "joy") - 1.5 * (y[:, None] == "fear")
    fitted = Perceptron(alpha=1.0, random_state=1).fit(X[:60], y[:60])
    assert fitted.network_.coefs_[0].shape == (400, 100)
    assert (fitted.predict(X[60:]) == y[60:]).mean() > 0.9
    single = Perceptron(alpha=1.0, random_state=1).fit(X[:60].astype(np.float32), y[:60])
    assert single.network_.coefs_[0].dtype == np.float32
    np.testing.assert_allclose(
        single.predict_proba(X[60:].astype(np.float32)), fitted.predict_proba(X[60:]), atol=0.02
    )


def test_balancing_counts_the_rare_class():
    rng = np.random.default_rng(7)
    y = np.where(np.arange(300) < 30, "fear", "joy")
    X = rng.standard_normal((300, 5)).astype(np.float32)
    X[:, 0] += 1.0 * (y == "fear")
    for model in (BoostedTrees(n_estimators=10), Perceptron(alpha=10.0)):
        recall = {}
        for weight in ("balanced", None):
            fitted = clone(model).set_params(class_weight=weight).fit(X, y)
            recall[weight] = (fitted.predict(X)[:30] == "fear").mean()
        assert recall["balanced"] > recall[None] + 0.2

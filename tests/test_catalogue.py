"""Every decoder of the catalogue: one contract for all."""

import pickle

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import GroupKFold, ParameterGrid

from emodecode.errors import InputError
from emodecode.models.catalogue import KINDS, fit_points, make_grid, make_model, make_pipeline_for
from emodecode.models.linear import linear_weights

CLASSES = np.array(["anger", "fear", "joy"])
QUICK = {
    "random_forest": {"n_estimators": 30},
    "boosted_trees": {"n_estimators": 15},
    "mlp": {"hidden_layer_sizes": [20], "learning_rate_init": 0.01},
    "conv1d": {"n_members": 2, "max_epochs": 40, "noise": 0.5, "n_filters": 4},
    "hanson_mlp": {"learning_rate": 0.01},
}
VOLUMES = [kind for kind in KINDS if KINDS[kind].reads_volumes]  # no selection: test_volumenet
OF_ANY_WIDTH = [kind for kind in KINDS if kind not in ("s2_conv1d", *VOLUMES)]  # 55 features


def _data(seed=0, *, n=90, p=200, effect=1.0, n_classes=3):
    rng = np.random.default_rng(seed)
    y = CLASSES[np.resize(np.arange(n_classes), n)]
    X = rng.standard_normal((n, p)).astype(np.float32)
    X[:, :30] += effect * (y[:, None] == "fear")
    X[:, 30:60] += effect * (y[:, None] == "joy")
    return 1000 + 10 * X, y, np.repeat(np.arange(6), n // 6)


@pytest.mark.parametrize("kind", OF_ANY_WIDTH)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("n_voxels", [None, 40])
def test_contract(kind, n_classes, n_voxels):
    """Text labels, sorted classes, probabilities that sum to 1 and agree with the prediction."""
    X, y, _ = _data(n_classes=n_classes)
    pipeline = make_pipeline_for(kind, params=QUICK.get(kind), n_voxels=n_voxels)
    fitted = clone(pipeline).fit(X[:60], y[:60])
    probabilities = fitted.predict_proba(X[60:])
    assert fitted.classes_.tolist() == CLASSES[:n_classes].tolist()
    assert probabilities.shape == (30, n_classes)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    predicted = fitted.predict(X[60:])
    np.testing.assert_array_equal(fitted.classes_[probabilities.argmax(axis=1)], predicted)
    score = balanced_accuracy_score(y[60:], predicted)
    if kind == "dummy":
        assert score == pytest.approx(1 / n_classes)
    else:
        assert score > (0.6 if kind == "boosted_trees" else 0.75)
    restored = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(restored.predict_proba(X[60:]), probabilities)
    again = clone(pipeline).fit(X[:60], y[:60])
    np.testing.assert_array_equal(again.predict_proba(X[60:]), probabilities)


@pytest.mark.parametrize("kind", [kind for kind in OF_ANY_WIDTH if kind != "dummy"])
def test_noise_is_at_chance(kind):
    scores = []
    for seed in range(4):
        X, _, groups = _data(seed, effect=0.0, p=150)
        y = CLASSES[np.random.default_rng(seed + 50).permutation(np.repeat([0, 1, 2], 30))]
        pipeline = make_pipeline_for(kind, params=QUICK.get(kind), n_voxels=20)
        for train, test in GroupKFold(3).split(X, y, groups):
            predicted = clone(pipeline).fit(X[train], y[train]).predict(X[test])
            scores.append(balanced_accuracy_score(y[test], predicted))
    assert abs(np.mean(scores) - 1 / 3) < 0.07


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_reach_the_classifier(kind):
    """Every documented parameter can be set, and the grid is valid."""
    for name, value in KINDS[kind].defaults.items():
        made = make_model(kind, params={name: value}, seed=3).get_params()
        inner = made.get(f"classifier__{name}", made.get(name))
        assert inner == value
    pipeline = make_pipeline_for(kind, n_voxels=10)
    for point in ParameterGrid(make_grid(kind, pipeline=pipeline)):
        clone(pipeline).set_params(**point)


@pytest.mark.parametrize("kind", OF_ANY_WIDTH)
def test_linear_kinds_have_weights(kind):
    X, y, _ = _data()
    fitted = make_pipeline_for(kind, params=QUICK.get(kind), n_voxels=40).fit(X, y)
    if not KINDS[kind].is_linear:
        with pytest.raises(InputError, match="no linear weights"):
            linear_weights(fitted)
        return
    coef, intercept = linear_weights(fitted)
    decision = X.astype(np.float64) @ coef.T + intercept
    np.testing.assert_allclose(decision, fitted.decision_function(X), atol=1e-4)
    assert coef[CLASSES.tolist().index("joy"), 30:60].mean() > 0


@pytest.mark.parametrize(
    ("kind", "params", "words"),
    [
        ("logistc", {}, "Did you mean 'logistic'"),
        ("lda", {"shrinkge": 0.1}, "Did you mean 'shrinkage'"),
        ("lda", {"C": 1.0}, "one of shrinkage, class_weight"),
        ("logistic", {"C": -1.0}, "C = -1.0"),
        ("logistic", {"C": "big"}, "a number above 0"),
        ("logistic", {"class_weight": "even"}, "balanced, none"),
        ("lda", {"shrinkage": 1.5}, "0 to 1"),
        ("random_forest", {"n_estimators": 0}, "a whole number from 1"),
        ("boosted_trees", {"subsample": 2}, "a share above 0"),
        ("mlp", {"hidden_layer_sizes": 100}, "a list of whole numbers"),
        ("rbf_svm", {"gamma": "auto"}, "scale"),
        ("dummy", {"strategy": "best"}, "prior, most_frequent"),
    ],
)
def test_bad_parameters_are_named(kind, params, words):
    with pytest.raises(InputError, match=words):
        make_pipeline_for(kind, params=params)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"gamma": [1]}, "unknown parameter 'gamma'"),
        ({"C": 1.0}, "a list of values"),
        ({"C": [0.1, 0]}, "C = 0"),
        ({"n_voxels": [10]}, "n_voxels for the model"),
    ],
)
def test_bad_grids_are_named(grid, words):
    with pytest.raises(InputError, match=words):
        make_grid("logistic", grid, pipeline=make_pipeline_for("logistic"))


def test_none_in_a_study_turns_balancing_off():
    made = make_model("logistic", params={"class_weight": "none"})
    assert made.classifier.class_weight is None


def test_selection_by_subject_asks_for_subjects():
    X, y, groups = _data()
    with sklearn.config_context(enable_metadata_routing=True):
        by_subject = clone(make_pipeline_for("lda", n_voxels=40, select_by="subject"))
        assert by_subject.get_metadata_routing().consumes("fit", ["subjects"]) == {"subjects"}
        fitted = by_subject.fit(X, y, subjects=groups.astype(str))
        assert fitted.named_steps["select"].stability_ is not None
        by_group = make_pipeline_for("lda", n_voxels=40)
        assert not by_group.get_metadata_routing().consumes("fit", ["subjects"])


@pytest.mark.parametrize("kind", ["logistic", "lda", "rbf_svm"])
@pytest.mark.parametrize("n_voxels", [None, [10, 150]])
def test_fit_points_equals_one_fit_a_point(kind, n_voxels):
    X, y, groups = _data()
    pipeline = make_pipeline_for(
        kind, n_voxels=None if n_voxels is None else 10, select_by="subject"
    )
    grid = dict(KINDS[kind].grid) | ({} if n_voxels is None else {"n_voxels": n_voxels})
    points = list(ParameterGrid(make_grid(kind, grid, pipeline=pipeline)))
    together = fit_points(pipeline, points, X[:60], y[:60], subjects=groups[:60])
    wants = {} if n_voxels is None else {"select__subjects": groups[:60]}
    for point, fitted in zip(points, together, strict=True):
        alone = clone(pipeline).set_params(**point).fit(X[:60], y[:60], **wants)
        np.testing.assert_allclose(
            fitted.predict_proba(X[60:]), alone.predict_proba(X[60:]), atol=1e-8
        )


@pytest.mark.parametrize("kind", ["random_forest", "boosted_trees", "mlp"])
def test_seed_decides(kind):
    X, y, _ = _data(effect=0.3)
    given = [
        make_pipeline_for(kind, params=QUICK[kind], seed=seed).fit(X, y).predict_proba(X)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(given[0], given[1])
    if kind != "boosted_trees":
        assert np.abs(given[0] - given[2]).max() > 1e-4

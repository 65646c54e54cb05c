"""The Gram route equals the direct route: weights, scores and predictions."""

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, LinearSVC

from emodecode.errors import InputError
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TakeColumns, TopVoxels
from emodecode.models.gram import GramCoordinates
from emodecode.models.lda import ShrunkLda, ledoit_wolf
from emodecode.models.linear import LinearByGram, linear_weights
from emodecode.models.rbf import RbfSvm

CLASSES = np.array(["anger", "fear", "joy"])


def _data(seed=0, *, n=60, p=300, n_classes=3, offset=0.0):
    rng = np.random.default_rng(seed)
    y = CLASSES[np.r_[np.arange(n_classes), rng.integers(0, n_classes, n - n_classes)]]
    X = rng.standard_normal((n, p)) * rng.uniform(0.5, 2, p)
    X[:, :20] += 0.6 * (y[:, None] == "fear")
    return X + offset, y, rng.standard_normal((25, p)) + offset


ESTIMATORS = {
    "logistic": LogisticRegression(C=0.05, tol=1e-10, max_iter=5000, class_weight="balanced"),
    "ridge": RidgeClassifier(alpha=10.0, class_weight="balanced"),
    "ridge plain": RidgeClassifier(alpha=0.1),
    "linear_svm": LinearSVC(C=0.01, dual=False, tol=1e-10, class_weight="balanced"),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_gram_route_equals_sklearn_on_the_voxels(name, n_classes):
    X, y, new = _data(n_classes=n_classes)
    X, new = X - X.mean(axis=0), new - X.mean(axis=0)
    direct = clone(ESTIMATORS[name]).fit(X, y)
    ours = LinearByGram(clone(ESTIMATORS[name])).fit(X, y)
    assert ours.route_ == "gram"
    scale = np.abs(direct.coef_).max()
    np.testing.assert_allclose(ours.coef_, np.atleast_2d(direct.coef_), atol=1e-6 * scale)
    np.testing.assert_allclose(
        ours.decision_function(new), direct.decision_function(new), atol=1e-6
    )
    np.testing.assert_array_equal(ours.predict(new), direct.predict(new))
    if name == "logistic":
        np.testing.assert_allclose(ours.predict_proba(new), direct.predict_proba(new), atol=1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_offset_of_the_scanner_changes_nothing(name):
    X, y, new = _data(1)
    plain = LinearByGram(clone(ESTIMATORS[name])).fit(X, y)
    offset = LinearByGram(clone(ESTIMATORS[name])).fit(X + 1000, y)
    np.testing.assert_allclose(
        offset.decision_function(new + 1000), plain.decision_function(new), atol=1e-5
    )


@pytest.mark.parametrize("n_classes", [2, 3])
def test_few_voxels_take_the_direct_route(n_classes):
    X, y, new = _data(2, p=30, n_classes=n_classes)
    ours = LinearByGram(clone(ESTIMATORS["logistic"])).fit(X, y)
    direct = clone(ESTIMATORS["logistic"]).fit(X, y)
    assert ours.route_ == "direct"
    np.testing.assert_allclose(ours.predict_proba(new), direct.predict_proba(new), atol=1e-6)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("shrinkage", [0.05, 0.7])
@pytest.mark.parametrize("p", [25, 120])
def test_lda_equals_sklearn(n_classes, shrinkage, p):
    """scikit-learn's eigen and lsqr solvers, with priors from the data, below and above n."""
    X, y, new = _data(3, p=p, n_classes=n_classes)
    ours = LinearByGram(ShrunkLda(shrinkage=shrinkage, class_weight=None)).fit(X, y)
    for solver in ("lsqr", "eigen"):
        theirs = LinearDiscriminantAnalysis(solver=solver, shrinkage=shrinkage).fit(X, y)
        np.testing.assert_allclose(ours.predict_proba(new), theirs.predict_proba(new), atol=1e-6)
        np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


@pytest.mark.parametrize("shrinkage", ["auto", 0.2])
def test_lda_gram_route_equals_the_voxels(shrinkage):
    X, y, new = _data(4)
    direct = ShrunkLda(shrinkage=shrinkage).fit(X, y)
    coordinates = GramCoordinates()
    reduced = ShrunkLda(shrinkage=shrinkage).fit(coordinates.fit_transform(X), y, n_voxels=300)
    assert direct.shrinkage_ == pytest.approx(reduced.shrinkage_, rel=1e-9)
    ours = LinearByGram(ShrunkLda(shrinkage=shrinkage)).fit(X, y)
    assert ours.route_ == "gram"
    between = ours.coef_ - ours.coef_.mean(axis=0)
    np.testing.assert_allclose(between, direct.coef_ - direct.coef_.mean(axis=0), atol=1e-8)
    np.testing.assert_allclose(
        ours.decision_function(new), direct.decision_function(new), atol=1e-7
    )


def test_lda_shrinkage_is_ledoit_and_wolfs():
    X, y, _ = _data(5, p=80)
    residuals = X - np.stack([X[y == name].mean(axis=0) for name in y])
    covariance, theirs = sklearn_ledoit_wolf(residuals, assume_centered=True)
    ours = ledoit_wolf(residuals, residuals.T @ residuals / len(X), 80)
    assert ours == pytest.approx(theirs, rel=1e-9)
    fitted = ShrunkLda().fit(X, y)
    weights = np.linalg.solve(covariance, (X[y == "joy"].mean(0) - X[y == "fear"].mean(0)))
    np.testing.assert_allclose(fitted.coef_[2] - fitted.coef_[1], weights, atol=1e-9)


def test_lda_does_not_depend_on_the_axes():
    """Special case in the general: a rotation of the voxels leaves every prediction as it is."""
    X, y, new = _data(6, p=40)
    turn = stats.ortho_group.rvs(40, random_state=np.random.default_rng(0))
    plain, turned = ShrunkLda().fit(X, y), ShrunkLda().fit(X @ turn, y)
    np.testing.assert_allclose(
        turned.decision_function(new @ turn), plain.decision_function(new), atol=1e-8
    )


def test_lda_balanced_only_moves_the_thresholds():
    X, y, new = _data(7, p=30)
    shares = np.array([(y == name).mean() for name in CLASSES])
    plain, even = ShrunkLda(class_weight=None).fit(X, y), ShrunkLda().fit(X, y)
    difference = plain.decision_function(new) - even.decision_function(new)
    np.testing.assert_allclose(difference, np.tile(np.log(shares * 3), (25, 1)), atol=1e-8)


def test_lda_says_when_it_needs_shrinkage():
    X, y, _ = _data(8)
    with pytest.raises(InputError, match="shrinkage = 0 with"):
        LinearByGram(ShrunkLda(shrinkage=0)).fit(X, y)
    with pytest.raises(InputError, match="no variance within"):
        ShrunkLda().fit(np.eye(3)[[0, 1, 2, 0, 1, 2]], CLASSES[[0, 1, 2, 0, 1, 2]])


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("gamma", ["scale", 0.003])
@pytest.mark.parametrize("p", [20, 300])
def test_rbf_svm_equals_sklearn(n_classes, gamma, p):
    """``gamma="scale"`` uses all voxels and their offsets, as scikit-learn's does."""
    X, y, new = _data(9, p=p, n_classes=n_classes)
    X, new = X + np.linspace(0, 3, p), new + np.linspace(0, 3, p)
    theirs = SVC(C=3.0, gamma=gamma, class_weight="balanced", break_ties=True).fit(X, y)
    ours = RbfSvm(C=3.0, gamma=gamma).fit(X, y)
    assert ours.by_gram_ == (p == 300)
    if gamma == "scale":
        assert ours.gamma_ == pytest.approx(1 / (p * X.var()), rel=1e-12)
    np.testing.assert_allclose(
        ours.decision_function(new), theirs.decision_function(new), atol=1e-6
    )
    np.testing.assert_array_equal(ours.predict(new), theirs.predict(new))


def test_coordinates_keep_geometry_and_project_new_samples():
    X, _, new = _data(10, offset=50.0)
    gram = GramCoordinates()
    Z = gram.fit_transform(X)
    centred = X - X.mean(axis=0)
    assert Z.shape == (60, 59)
    np.testing.assert_allclose(Z @ Z.T, centred @ centred.T, atol=1e-8)
    np.testing.assert_allclose(gram.transform(X), Z, atol=1e-8)
    basis = np.linalg.svd(centred, full_matrices=False)[2][:59]
    projected = (new - X.mean(axis=0)) @ basis.T @ basis
    np.testing.assert_allclose(gram.transform(new) @ gram.transform(new).T, projected @ projected.T)
    coef = np.random.default_rng(0).standard_normal((2, 59))
    weights = gram.to_voxels(coef)
    np.testing.assert_allclose((new - X.mean(axis=0)) @ weights.T, gram.transform(new) @ coef.T)


def test_repeated_samples_lower_the_rank():
    X, _, _ = _data(11, n=20)
    assert GramCoordinates().fit_transform(np.vstack([X, X])).shape == (40, 19)


def test_blocks_of_columns_add_up(monkeypatch):
    X, y, new = _data(12)
    whole = LinearByGram(ESTIMATORS["ridge"]).fit(X, y).decision_function(new)
    monkeypatch.setattr("emodecode.models.gram.CHUNK_VOXELS", 37)
    blocks = LinearByGram(ESTIMATORS["ridge"]).fit(X, y).decision_function(new)
    np.testing.assert_allclose(blocks, whole, atol=1e-9)


def test_memory_map(tmp_path):
    X, y, new = _data(13)
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for model in (LinearByGram(ESTIMATORS["ridge"]), LinearByGram(ShrunkLda()), RbfSvm()):
        from_map = clone(model).fit(mapped, y).decision_function(new)
        from_memory = clone(model).fit(np.array(mapped), y).decision_function(new)
        np.testing.assert_array_equal(from_map, from_memory)


@pytest.mark.parametrize("n_voxels", [None, 30, 150])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("model", [*ESTIMATORS.values(), ShrunkLda()], ids=[*ESTIMATORS, "lda"])
def test_linear_weights_give_the_decision(model, n_classes, n_voxels):
    X, y, new = _data(14, n_classes=n_classes, offset=100.0)
    X[:, 40] = 100.0
    steps = [("columns", TakeColumns(np.arange(200)[::-1]))]
    if n_voxels:
        steps.append(("select", TopVoxels(n_voxels)))
    steps += [("scale", VoxelScaler()), ("classifier", LinearByGram(clone(model)))]
    pipeline = Pipeline(steps).fit(X, y)
    coef, intercept = linear_weights(pipeline)
    assert coef.shape == (1 if n_classes == 2 else 3, 300)
    assert not coef[:, 200:].any()
    assert not coef[:, 40].any()
    if n_voxels:
        assert np.count_nonzero(coef.any(axis=0)) == n_voxels
    decision = new @ coef.T + intercept
    expected = pipeline.decision_function(new).reshape(25, -1)
    np.testing.assert_allclose(decision, expected, atol=1e-7)


def test_linear_weights_refuse_other_models():
    X, y, _ = _data(15)
    with pytest.raises(InputError, match="RbfSvm"):
        linear_weights(Pipeline([("classifier", RbfSvm())]).fit(X, y))


@pytest.mark.parametrize("model", [LinearByGram(RidgeClassifier()), RbfSvm()])
def test_one_class_and_bad_values_are_named(model):
    X, y, _ = _data(16)
    with pytest.raises(InputError, match="all labelled joy"):
        model.fit(X, np.repeat("joy", 60))
    X[3, 4] = np.nan
    with pytest.raises(InputError, match=r"1 of 300 voxels \(column 4, 1 rows\)"):
        model.fit(X, y)

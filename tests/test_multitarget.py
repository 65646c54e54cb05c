"""All labellings in one solve equal a fit per labelling."""

import numpy as np
import pytest
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline

from emodecode.errors import InputError
from emodecode.features.anova import anova
from emodecode.features.anova_many import anova_many
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TakeColumns, TopVoxels
from emodecode.models import multitarget
from emodecode.models.catalogue import make_pipeline_for
from emodecode.models.lda import ShrunkLda
from emodecode.models.linear import LinearByGram
from emodecode.models.multitarget import ManyFits, fit_many, has_exact_path

DECODERS = {
    "lda": ShrunkLda(),
    "lda .3": ShrunkLda(shrinkage=0.3),
    "lda 1": ShrunkLda(shrinkage=1.0),
    "lda, priors": ShrunkLda(class_weight=None),
    "ridge": RidgeClassifier(alpha=5.0),
}
FRONTS = {
    "": [],
    "scale": [("scale", VoxelScaler())],
    "columns": [("columns", TakeColumns((5, 3, 1, 0, 2, 9))), ("scale", VoxelScaler())],
    "select": [("select", TopVoxels(8)), ("scale", VoxelScaler())],
    "select alone": [("select", TopVoxels(8))],
}


def data(n_classes, p, *, n_slots=24, seed=0, m=7):
    """Blocks of 2 to 4 samples with drift, an offset and one constant voxel."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 5, n_slots)
    slot = rng.permutation(np.repeat(np.arange(n_slots), sizes))
    X = rng.normal(size=(len(slot), p)) * rng.uniform(0.5, 3, p) + 100
    X += rng.normal(size=(n_slots, p))[slot]
    X[:, 4] = 7.0
    X = X.astype(np.float32)
    truth = np.arange(n_slots) % n_classes
    labels = np.stack([truth, *(rng.permutation(truth) for _ in range(m - 1))])
    return X, labels, slot, (rng.normal(size=(15, p)) + 100).astype(np.float32)


def pipeline(front, decoder):
    return Pipeline([*FRONTS[front], ("classifier", LinearByGram(DECODERS[decoder]))])


def one_by_one(pipe, X, labels, slot, new, n_classes):
    """The oracle: the pipeline itself, fitted to each labelling."""
    found = np.zeros((len(labels), len(new), n_classes))
    for k, own in enumerate(labels):
        y = own[slot]
        found[k][:, np.unique(y)] = pipe.fit(X, y).predict_proba(new)
    return found


def no_loop(*_):
    raise AssertionError("a labelling went through the loop")


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("p", [12, 200])
@pytest.mark.parametrize("front", FRONTS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_one_solve_equals_the_loop(monkeypatch, decoder, front, p, n_classes):
    X, labels, slot, new = data(n_classes, p)
    pipe = pipeline(front, decoder)
    expected = one_by_one(pipe, X, labels, slot, new, n_classes)
    monkeypatch.setattr(ManyFits, "_one", no_loop)
    found = fit_many(pipe, X, labels, new, n_classes=n_classes, slot=slot)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - expected.mean(axis=0)).max() > 0.01


@pytest.mark.parametrize("p", [12, 200])
def test_selection_from_more_voxels_than_fit_into_one_scatter(monkeypatch, p):
    X, labels, slot, new = data(3, p)
    monkeypatch.setattr(multitarget, "_SCATTER_BYTES", 0)
    for decoder in ("lda", "ridge"):
        pipe = pipeline("select", decoder)
        expected = one_by_one(pipe, X, labels, slot, new, 3)
        found = fit_many(pipe, X, labels, new, n_classes=3, slot=slot)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_more_selected_voxels_than_samples():
    X, labels, slot, new = data(3, 300)
    pipe = Pipeline([("select", TopVoxels(150)), ("classifier", LinearByGram(ShrunkLda()))])
    expected = one_by_one(pipe, X, labels, slot, new, 3)
    found = fit_many(pipe, X, labels, new, n_classes=3, slot=slot)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_parts_do_not_matter(monkeypatch):
    X, labels, slot, new = data(3, 12)
    whole = fit_many(pipeline("scale", "lda"), X, labels, new, n_classes=3, slot=slot)
    monkeypatch.setattr(multitarget, "_CHUNK_BYTES", 1)
    parts = fit_many(pipeline("scale", "lda"), X, labels, new, n_classes=3, slot=slot)
    np.testing.assert_allclose(parts, whole, atol=1e-12)
    each = np.arange(len(slot))
    rows = fit_many(pipeline("scale", "lda"), X, labels[:, slot], new, n_classes=3, slot=each)
    np.testing.assert_allclose(rows, whole, atol=1e-9)


@pytest.mark.parametrize("decoder", ["lda", "ridge"])
@pytest.mark.parametrize("front", ["scale", "select"])
def test_labellings_that_lack_a_class_give_it_no_probability(decoder, front):
    X, labels, slot, new = data(3, 12)
    labels[2][labels[2] == 1] = 0
    labels[5] = 2
    pipe = pipeline(front, decoder)
    found = fit_many(pipe, X, labels, new, n_classes=3, slot=slot)
    expected = one_by_one(pipe, X, np.delete(labels, 5, axis=0), slot, new, 3)
    np.testing.assert_allclose(np.delete(found, 5, axis=0), expected, atol=1e-6)
    assert (found[2][:, 1] == 0).all()
    assert (found[5] == [0, 0, 1]).all()


@pytest.mark.parametrize("p", [12, 200])
@pytest.mark.parametrize("kind", ["ridge", "logistic", "linear_svm"])
def test_balanced_ridge_and_other_linear_decoders_share_the_coordinates(monkeypatch, kind, p):
    X, labels, slot, new = data(2, p, m=3)
    pipe = make_pipeline_for(kind)
    expected = one_by_one(pipe, X, labels, slot, new, 2)
    monkeypatch.setattr(ManyFits, "_fit_alone", no_loop)
    found = fit_many(pipe, X, labels, new, n_classes=2, slot=slot)
    np.testing.assert_allclose(found, expected, atol=1e-5 if kind == "linear_svm" else 1e-6)


@pytest.mark.parametrize("kind", ["rbf_svm", "mlp"])
def test_other_decoders_are_fitted_one_by_one(kind):
    X, labels, slot, new = data(2, 6, m=3)
    pipe = make_pipeline_for(kind, params={"max_iter": 5000} if kind == "mlp" else None)
    expected = one_by_one(pipe, X, labels, slot, new, 2)
    found = fit_many(pipe, X, labels, new, n_classes=2, slot=slot)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_selection_by_subject_is_handed_the_subjects():
    X, labels, slot, new = data(2, 12, m=3)
    pipe = make_pipeline_for("lda", n_voxels=5, select_by="subject")
    subjects = (np.array(["a", "b"])[slot // 2 % 2], np.full(len(new), "c"))
    assert not has_exact_path(pipe)
    found = fit_many(pipe, X, labels, new, n_classes=2, slot=slot, subjects=subjects)
    for k, own in enumerate(labels):
        kept = TopVoxels(5, by="subject").fit(X, own[slot], subjects=subjects[0]).indices_
        rest = make_pipeline_for("lda", columns=kept).fit(X, own[slot])
        np.testing.assert_allclose(found[k], rest.predict_proba(new), atol=1e-9)


def test_balanced_ridge_of_equal_classes_is_one_solve(monkeypatch):
    X, labels, _, new = data(3, 12)
    slot = np.repeat(np.arange(24), 2)
    pipe = make_pipeline_for("ridge")
    expected = one_by_one(pipe, X[:48], labels, slot, new, 3)
    monkeypatch.setattr(ManyFits, "_one", no_loop)
    found = fit_many(pipe, X[:48], labels, new, n_classes=3, slot=slot)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_which_pipelines_have_the_exact_path():
    assert has_exact_path(make_pipeline_for("lda", n_voxels=20, columns=range(30)))
    assert has_exact_path(make_pipeline_for("ridge", params={"class_weight": "none"}))
    assert not has_exact_path(make_pipeline_for("ridge"))
    assert not has_exact_path(make_pipeline_for("logistic"))
    assert not has_exact_path(Pipeline([("classifier", LogisticRegression())]))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_permuted_f_equals_scikit_learn_and_the_one_of_selection(n_classes):
    X, labels, slot, _ = data(n_classes, 40)
    found = anova_many(X, labels, slot=slot, n_classes=n_classes)
    rest = np.delete(np.arange(40), 4)
    for f, own in zip(found, labels, strict=True):
        np.testing.assert_allclose(f, anova(X, own[slot]).f_values, rtol=1e-9)
        oracle, _ = f_classif(X[:, rest].astype(float), own[slot])
        np.testing.assert_allclose(f[rest], oracle, rtol=1e-5, atol=1e-7)
    assert (found[:, 4] == 0).all()


def test_permuted_f_refuses_what_has_none():
    X, labels, slot, _ = data(2, 6)
    with pytest.raises(InputError, match="with 1 class"):
        anova_many(X, np.zeros_like(labels), slot=slot, n_classes=2)
    X[3, 2] = np.nan
    with pytest.raises(InputError, match="voxel column 2, row 3"):
        anova_many(X, labels, slot=slot, n_classes=2)

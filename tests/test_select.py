"""TopVoxels and the streaming ANOVA against float64 references."""

import warnings

import numpy as np
import pytest
import sklearn
from scipy import stats
from sklearn.base import clone
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline

from emodecode.errors import InputError
from emodecode.features.anova import anova, anova_f, column_moments
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TakeColumns, TopVoxels

CLASSES = np.array(["anger", "fear", "joy"])


def _data(seed, *, n=150, p=700, offset=0.0, scale=1.0, effect=0.5, n_informative=40):
    rng = np.random.default_rng(seed)
    y = CLASSES[rng.integers(0, 3, n)]
    X = rng.standard_normal((n, p))
    X[:, :n_informative] += effect * (y[:, None] == "fear")
    return (offset + scale * X).astype(np.float32), y


def _reference(X, y):
    groups = [X[y == name].astype(np.float64) for name in np.unique(y)]
    return stats.f_oneway(*groups, axis=0)


@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1000, 10), (30000, 3), (-5, 1e-6)])
@pytest.mark.parametrize("chunk", [64, 4096])
def test_f_equals_float64_reference(offset, scale, chunk):
    X, y = _data(0, offset=offset, scale=scale)
    f_values, p_values = anova_f(X, y, chunk_voxels=chunk)
    expected = _reference(X, y)
    np.testing.assert_allclose(f_values, expected.statistic, rtol=1e-9)
    np.testing.assert_allclose(p_values, expected.pvalue, rtol=1e-6, atol=1e-300)
    if offset in (0, 1000):  # beyond, f_classif cancels in float64 too; f_oneway centres first
        np.testing.assert_allclose(f_values, f_classif(X.astype(np.float64), y)[0], rtol=1e-5)


def test_float32_form_of_sklearn_fails_on_scanner_intensities():
    """Why there is an ANOVA of our own: the one-pass float32 formula cancels."""
    X, y = _data(1, n=600, offset=1000, scale=10)
    truth = _reference(X, y).statistic
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = f_classif(X, y)[0]
    ours, _ = anova_f(X, y)
    assert np.median(np.abs(theirs / truth - 1)) > 1e-2
    assert np.max(np.abs(ours / truth - 1)) < 1e-5


def test_an_outlying_first_row_costs_no_digits():
    X, y = _data(2)
    X[0] = 1e6
    np.testing.assert_allclose(anova_f(X, y)[0], _reference(X, y).statistic, rtol=1e-7)


def test_constant_and_pure_voxels():
    X, y = _data(3, n_informative=0)
    X[:, 5] = 1000.1
    X[:, 6] = (y == "joy") * 7.3
    found = anova(X, y)
    assert found.f_values[5] == 0
    assert found.p_values[5] == 1
    assert found.f_values[6] == np.inf
    assert found.p_values[6] == 0
    assert np.flatnonzero(found.constant).tolist() == [5]


def test_memory_map_is_read_only_and_not_copied(tmp_path):
    X, y = _data(4)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    selector = TopVoxels(20).fit(mapped, y)
    np.testing.assert_array_equal(selector.indices_, TopVoxels(20).fit(X, y).indices_)
    np.testing.assert_array_equal(selector.transform(mapped), X[:, selector.indices_])


def test_rows_equal_a_copy_of_these_rows():
    X, y = _data(5)
    rows = np.random.default_rng(0).permutation(len(X))[:80]
    np.testing.assert_allclose(
        anova(X, y, rows=rows).f_values, anova(X[rows], y[rows]).f_values, rtol=1e-12
    )


def test_selects_the_highest_and_keeps_their_order():
    X, y = _data(6, effect=2.0, n_informative=10)
    X = X[:, ::-1]
    selector = TopVoxels(10).fit(X, y)
    assert selector.indices_.tolist() == list(range(690, 700))
    np.testing.assert_array_equal(selector.get_support(indices=True), selector.indices_)
    assert selector.get_support().sum() == 10
    assert selector.get_feature_names_out()[0] == "x690"
    names = [f"v{column}" for column in range(700)]
    assert selector.get_feature_names_out(names)[-1] == "v699"
    assert selector.transform(X).dtype == np.float32


def test_constant_voxels_come_last():
    X, y = _data(7, p=30)
    X[:, :20] = 3.0
    assert TopVoxels(10).fit(X, y).indices_.tolist() == list(range(20, 30))
    selector = TopVoxels(12).fit(X, y)
    assert set(range(20, 30)) < set(selector.indices_.tolist())
    assert selector.n_constant_ == 2


def test_more_than_there_are_takes_all():
    X, y = _data(8, p=30)
    np.testing.assert_array_equal(TopVoxels(300).fit_transform(X, y), X)


def test_by_subject_is_blind_to_differences_between_subjects():
    """A voxel that tells subjects (and so, unbalanced, classes) apart wins only by group."""
    rng = np.random.default_rng(9)
    subjects = np.repeat([f"{i:02d}" for i in range(6)], 40)
    y = np.empty(240, dtype="U5")
    for i in range(6):
        share = 0.85 if i < 3 else 0.15
        y[i * 40 : (i + 1) * 40] = np.where(rng.random(40) < share, "fear", "joy")
    X = rng.standard_normal((240, 50)).astype(np.float32)
    X[:, 0] += 5.0 * np.isin(subjects, ["00", "01", "02"])
    X[:, 1] += 0.7 * (y == "fear")
    assert TopVoxels(1).fit(X, y).indices_[0] == 0
    selector = TopVoxels(1, by="subject").fit(X, y, subjects=subjects)
    assert selector.indices_[0] == 1
    assert selector.stability_ is not None
    assert selector.stability_[1] > selector.stability_[0]
    assert selector.scores_.max() <= 1


def test_by_subject_equals_mean_rank_of_f_classif():
    X, y = _data(10, n=180)
    subjects = np.resize(["a", "b", "c"], 180)
    ranks = [
        stats.rankdata(f_classif(X[subjects == s].astype(np.float64), y[subjects == s])[0])
        for s in "abc"
    ]
    selector = TopVoxels(10, by="subject").fit(X, y, subjects=subjects)
    np.testing.assert_allclose(selector.scores_, np.mean(ranks, axis=0) / 700)


def test_by_subject_leaves_out_subjects_with_one_class():
    X, y = _data(11, n=120)
    subjects = np.resize(["a", "b"], 120)
    alone = np.r_[subjects, np.repeat("c", 10)]
    wider = TopVoxels(9, by="subject").fit(
        np.vstack([X, X[:10]]), np.r_[y, np.repeat("joy", 10)], subjects=alone
    )
    np.testing.assert_array_equal(
        wider.scores_, TopVoxels(9, by="subject").fit(X, y, subjects=subjects).scores_
    )


def test_subjects_reach_it_through_a_pipeline():
    X, y = _data(12)
    subjects = np.resize(["a", "b", "c"], len(X))
    with sklearn.config_context(enable_metadata_routing=True):
        step = TopVoxels(10, by="subject").set_fit_request(subjects=True)
        pipeline = clone(make_pipeline(step, LogisticRegression())).fit(X, y, subjects=subjects)
    direct = TopVoxels(10, by="subject").fit(X, y, subjects=subjects)
    np.testing.assert_array_equal(pipeline[0].indices_, direct.indices_)


def test_noise_is_at_chance_only_with_selection_inside_the_folds():
    """Trap T2: the same pipeline, selected once on all data, finds what is not there."""
    rng = np.random.default_rng(13)
    inside, outside = [], []
    for _ in range(10):
        X = rng.standard_normal((90, 3000)).astype(np.float32)
        y = CLASSES[rng.permutation(np.repeat([0, 1, 2], 30))]
        groups = np.repeat(np.arange(6), 15)
        chosen = TopVoxels(50).fit_transform(X, y)
        pipeline = Pipeline([("select", TopVoxels(50)), ("classify", LogisticRegression(C=0.1))])
        for train, test in GroupKFold(6).split(X, y, groups):
            fitted = clone(pipeline).fit(X[train], y[train])
            inside.append(fitted.score(X[test], y[test]))
            leaky = LogisticRegression(C=0.1).fit(chosen[train], y[train])
            outside.append(leaky.score(chosen[test], y[test]))
    assert abs(np.mean(inside) - 1 / 3) < 0.06
    assert np.mean(outside) > 0.7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("nan", "not finite in 1 of"),
        ("inf", "column 3, first in row 17"),
        ("one class", "1 class"),
        ("short", "149 labels for 150"),
        ("few", "3 samples of 3"),
    ],
)
def test_bad_data_are_named(change, words):
    X, y = _data(14)
    X, y = X.copy(), y.copy()
    if change in ("nan", "inf"):
        X[17, 3] = np.nan if change == "nan" else np.inf
    elif change == "one class":
        y[:] = "joy"
    elif change == "short":
        y = y[:-1]
    else:
        X, y = X[:3], CLASSES
    with pytest.raises(InputError, match=words):
        TopVoxels(10).fit(X, y)


@pytest.mark.parametrize(
    ("selector", "words"),
    [
        (TopVoxels(0), "n_voxels = 0"),
        (TopVoxels(5, by="voxel"), "by = voxel"),
        (TopVoxels(5, by="subject"), "no subjects"),
    ],
)
def test_bad_parameters_are_named(selector, words):
    with pytest.raises(InputError, match=words):
        selector.fit(*_data(15))


def test_other_width_at_transform():
    X, y = _data(16)
    with pytest.raises(InputError, match="expected"):
        TopVoxels(10).fit(X, y).transform(X[:, :-1])


def test_take_columns():
    X, _ = _data(17, p=6)
    step = TakeColumns((4, 1)).fit(X)
    np.testing.assert_array_equal(step.transform(X), X[:, [4, 1]])
    assert step.get_feature_names_out(list("abcdef")).tolist() == ["e", "b"]
    with pytest.raises(InputError, match="columns"):
        TakeColumns((7,)).fit(X)


def test_moments_and_scaler_equal_float64_reference():
    X, _ = _data(18, offset=1000, scale=10)
    X[:, 3] = 12.7
    mean, variance = column_moments(X)
    double = X.astype(np.float64)
    np.testing.assert_allclose(mean, double.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(variance, double.var(axis=0), rtol=1e-9, atol=1e-20)
    scaled = VoxelScaler().fit(X).transform(X)
    assert scaled.dtype == np.float32
    assert not scaled[:, 3].any()
    varying = np.delete(np.arange(X.shape[1]), 3)
    expected = (double - double.mean(axis=0))[:, varying] / double.std(axis=0)[varying]
    np.testing.assert_allclose(scaled[:, varying], expected, atol=2e-5)


def test_scaler_silences_what_was_constant_in_training():
    X, _ = _data(19)
    X[:, 3] = 12.7
    scaler = VoxelScaler().fit(X)
    X[:, 3] = 500.0
    assert not scaler.transform(X)[:, 3].any()

"""CommonSpace: keys, planted rotations, adaptation, the step's protocol."""

import pickle

import joblib
import numpy as np
import pytest
import sklearn
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from emodecode.align.generalised import mean_template
from emodecode.align.hyperalignment import hyperalign
from emodecode.align.keyed import common_keys
from emodecode.align.maps import GRIDS, alikeness
from emodecode.align.space import CommonSpace
from emodecode.align.srm import shared_response
from emodecode.errors import InputError, NotCalibratedError
from emodecode.models.steps import fit_transform_step, transform_step

NAMES = ("01", "02", "03", "04")
METHODS = ("hyperalignment", "template", "srm")
KINDS = [
    ("hyperalignment", "orthogonal"),
    ("hyperalignment", "ridge"),
    ("hyperalignment", "promises"),
    ("template", "orthogonal"),
    ("template", "ridge"),
    ("template", "promises"),
    ("srm", "orthogonal"),
    ("srm", "ridge"),
]


def _study(seed=0, *, names=NAMES, n=60, m=24, noise=0.3, rank=None, turn=True):
    """Rows of all subjects, one under the other: a shared film in each subject's own rotation."""
    rng = np.random.default_rng(seed)
    film = rng.standard_normal((n, rank or m)) @ rng.standard_normal((rank or m, m))
    X, y, subjects = [], [], []
    for number, name in enumerate(names):
        own = ortho_group.rvs(m, random_state=seed + number) if turn else np.eye(m)
        X.append(film @ own + noise * rng.standard_normal((n, m)))
        y += [f"run-1 {volume}" for volume in range(n)]
        subjects += [name] * n
    return np.concatenate(X), np.array(y), np.array(subjects)


def _halves(X, y, subjects):
    number = np.array([int(key.split()[1]) for key in y])
    first = number < number.max() / 2
    return first, ~first


def _alikeness(X, subjects):
    """Mean correlation between the subjects' data, over all columns and pairs."""
    data = [X[subjects == name] for name in np.unique(subjects)]
    data = [(part - part.mean(0)) / (part.std(0) + 1e-12) for part in data]
    pairs = [(i, j) for i in range(len(data)) for j in range(i)]
    return float(np.mean([np.mean(data[i] * data[j]) for i, j in pairs]))


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_planted_rotations_are_found_on_other_rows(method, kind):
    turn = kind != "promises"  # its prior says that voxels nearly correspond
    X, y, subjects = _study(n=160, m=12, turn=turn)
    first, second = _halves(X, y, subjects)
    step = CommonSpace(method=method, map=kind).fit(X[first], y[first], subjects=subjects[first])
    found = step.transform(X[second], subjects=subjects[second])
    assert _alikeness(found, subjects[second]) > 0.85
    if turn:
        assert abs(_alikeness(X[second], subjects[second])) < 0.4


@pytest.mark.parametrize("kind", ["orthogonal", "ridge"])
@pytest.mark.parametrize("method", METHODS)
def test_noise_gives_no_gain(method, kind):
    found = []
    for seed in range(4):
        X = np.random.default_rng(seed).standard_normal((240, 10))
        _, y, subjects = _study(m=10)
        first, second = _halves(X, y, subjects)
        step = CommonSpace(method=method, map=kind).fit(
            X[first], y[first], subjects=subjects[first]
        )
        found.append(
            _alikeness(step.transform(X[second], subjects=subjects[second]), subjects[second])
        )
    assert abs(np.mean(found)) < 0.05


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_order_of_rows_changes_nothing(method, kind):
    X, y, subjects = _study(n=21, m=30, rank=5)
    order = np.random.default_rng(1).permutation(len(X))
    one = CommonSpace(method=method, map=kind).fit(X, y, subjects=subjects)
    other = CommonSpace(method=method, map=kind).fit(X[order], y[order], subjects=subjects[order])
    np.testing.assert_array_equal(one.keys_, other.keys_)
    assert one.shrinkage_ == other.shrinkage_
    np.testing.assert_allclose(one.template_, other.template_, atol=1e-12)
    np.testing.assert_allclose(
        one.transform(X, subjects=subjects)[order],
        other.transform(X[order], subjects=subjects[order]),
        atol=1e-11,
    )


def test_it_is_hyperalignment_template_or_srm_of_the_keyed_rows():
    X, y, subjects = _study(n=25, m=40)
    data = [X[subjects == name] for name in NAMES]
    common, maps = hyperalign(data, level2_niter=2)
    step = CommonSpace(map="orthogonal", level2_niter=2).fit(X, y, subjects=subjects)
    np.testing.assert_array_equal(step.template_, common)
    np.testing.assert_array_equal(step.maps_["03"](data[2]), maps[2](data[2]))
    step = CommonSpace(method="template").fit(X, y, subjects=subjects)
    np.testing.assert_array_equal(step.template_, mean_template(data))
    step = CommonSpace(method="srm", n_components=7).fit(X, y, subjects=subjects)
    np.testing.assert_array_equal(step.template_, shared_response(data, n_components=7)[0])
    assert step.transform(X, subjects=subjects).shape == (100, 7)
    step = CommonSpace(map="ridge").fit(X, y, subjects=subjects)
    total = sum(alikeness(part, step.template_, kind="ridge") for part in data)
    assert step.shrinkage_ == dict.fromkeys(NAMES, GRIDS["ridge"][int(total.argmax())])


@pytest.mark.parametrize("n_passes", [0, 1, 3])
def test_mean_template_equals_the_plain_form(n_passes):
    X, _, subjects = _study(n=30, m=8)
    data = [X[subjects == name] for name in NAMES]

    def z(part):
        return (part - part.mean(axis=0)) / part.std(axis=0)

    expected = z(np.mean([z(part) for part in data], axis=0))
    for _ in range(n_passes):
        aligned = []
        for part in data:
            own = part - part.mean(axis=0)
            turn, total = orthogonal_procrustes(own, expected)
            aligned.append(z(own @ turn * total / np.sum(own**2)))
        expected = z(np.mean(aligned, axis=0))
    found = mean_template(data, n_passes=n_passes)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    np.testing.assert_allclose(mean_template(data[::-1], n_passes=n_passes), found, atol=1e-10)
    with pytest.raises(InputError, match="shapes"):
        mean_template([data[0], data[1][:, :5]])


@pytest.mark.parametrize("kind", ["orthogonal", "ridge", "promises"])
@pytest.mark.parametrize("method", ["hyperalignment", "template"])
def test_components_are_the_principal_axes_of_the_template(method, kind):
    X, y, subjects = _study(n=25, m=40)
    step = CommonSpace(method=method, map=kind, n_components=3).fit(X, y, subjects=subjects)
    whole = CommonSpace(method=method, map=kind).fit(X, y, subjects=subjects)
    axes = step.spaces_[0].axes
    if method == "hyperalignment":  # axes of the mean of the aligned data, as hyperalign has them
        _, maps = hyperalign([X[subjects == name] for name in NAMES])
        mean = np.mean(
            [each(X[subjects == n]) for n, each in zip(NAMES, maps, strict=True)], axis=0
        )
    else:
        mean = step.template_
    expected = np.linalg.svd(mean - mean.mean(0))[2][:3].T
    np.testing.assert_allclose(np.abs(np.sum(axes * expected, axis=0)), 1, atol=1e-8)
    np.testing.assert_allclose(
        step.transform(X, subjects=subjects),
        whole.transform(X, subjects=subjects) @ axes,
        atol=1e-9,
    )


def test_rows_of_a_key_are_averaged_and_foreign_keys_left_out():
    X, y, subjects = _study(n=12, m=8)
    plain = CommonSpace().fit(X, y, subjects=subjects)
    push = np.random.default_rng(0).standard_normal(X.shape)
    only_one = X[:3] + 100
    X2 = np.concatenate([X + push, X - push, only_one])
    y2 = np.concatenate([y, y, ["credits 1", "credits 2", "credits 3"]])
    subjects2 = np.concatenate([subjects, subjects, ["01"] * 3])
    twice = CommonSpace().fit(X2, y2, subjects=subjects2)
    np.testing.assert_array_equal(twice.keys_, plain.keys_)
    np.testing.assert_allclose(twice.template_, plain.template_, atol=1e-10)
    single = CommonSpace().fit(X2.astype(np.float32), y2, subjects=subjects2)
    assert single.maps_["01"].left.dtype == np.float32


def test_keys_are_in_the_order_of_time():
    y = np.array([f"run-{run} {volume}" for run in (10, 9) for volume in (10, 2, 9)] * 2)
    found = common_keys(y, np.repeat(["a", "b"], 6))
    assert found.tolist() == [f"run-{run} {v}" for run in (9, 10) for v in (2, 9, 10)]
    numbers = common_keys(np.array([30, 4, 200] * 2), np.repeat(["a", "b"], 3))
    assert numbers.tolist() == [4, 30, 200]


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(("method", "kind"), [*KINDS, ("hyperalignment", "alpha")])
def test_a_training_subject_adapted_again_gets_the_same_map(method, kind, twice):
    X, y, subjects = _study(n=21, m=30)
    options = {"alpha": 0.5} if kind == "alpha" else {"map": kind}
    if twice:
        X, y, subjects = (np.concatenate([part, part[::-1]]) for part in (X, y, subjects))
    step = CommonSpace(method=method, **options).fit(X, y, subjects=subjects)
    own = subjects == "02"
    again = step.adapt(X[own], y[own], "02")
    np.testing.assert_allclose(again.maps_["02"](X), step.maps_["02"](X), atol=1e-10)
    assert again.shrinkage_ == step.shrinkage_


@pytest.mark.parametrize(("method", "kind"), KINDS)
def test_adapt_knows_the_new_subject_and_leaves_the_original_alone(method, kind):
    X, y, subjects = _study(n=80, m=10, turn=kind != "promises")
    first, second = _halves(X, y, subjects)
    train = first & (subjects != "04")
    step = CommonSpace(method=method, map=kind).fit(X[train], y[train], subjects=subjects[train])
    before = pickle.dumps((step.template_, step.keys_, sorted(step.maps_), step.shrinkage_))
    new = first & (subjects == "04")
    adapted = step.adapt(X[new][5:], y[new][5:], "04")  # not all keys of the template
    after = pickle.dumps((step.template_, step.keys_, sorted(step.maps_), step.shrinkage_))
    assert before == after
    np.testing.assert_array_equal(adapted.template_, step.template_)
    assert set(adapted.maps_) == set(NAMES)
    assert adapted.maps_["01"] is step.maps_["01"]
    found = adapted.transform(X[second], subjects=subjects[second])
    assert _alikeness(found, subjects[second]) > 0.8
    with pytest.raises(NotCalibratedError, match=r"sub-04[\s\S]*adapt\("):
        step.transform(X[second], subjects=subjects[second])


def test_the_template_does_not_depend_on_who_is_adapted():
    X, y, subjects = _study(n=20, m=10)
    train = subjects != "04"
    step = CommonSpace().fit(X[train], y[train], subjects=subjects[train])
    other = np.random.default_rng(0).standard_normal((20, 10))
    for part in (X[~train], other):
        adapted = step.adapt(part, y[~train], "04")
        np.testing.assert_array_equal(
            adapted.transform(X[train], subjects=subjects[train]),
            step.transform(X[train], subjects=subjects[train]),
        )


def test_weights_are_the_mean_over_subjects():
    X, y, subjects = _study(n=30, m=10)
    step = CommonSpace(map="ridge").fit(X, y, subjects=subjects)
    coef, intercept = np.random.default_rng(0).standard_normal((3, 10)), np.arange(3.0)
    weights, offset = step.weights_to_input(coef, intercept)
    x = X[:1]
    expected = np.mean(
        [step.transform(x, subjects=[name]) @ coef.T + intercept for name in NAMES], axis=0
    )
    np.testing.assert_allclose(x @ weights.T + offset, expected, atol=1e-10)


def test_precision_and_one_row():
    X, y, subjects = _study(n=30, m=40)
    step = CommonSpace().fit(X.astype(np.float32), y, subjects=subjects)
    mapped = step.transform(X.astype(np.float32), subjects=subjects)
    assert mapped.dtype == np.float32
    double = CommonSpace().fit(X, y, subjects=subjects)
    np.testing.assert_allclose(mapped, double.transform(X, subjects=subjects), atol=1e-3)
    one = step.transform(X[40:41].astype(np.float32), subjects=subjects[40:41])
    np.testing.assert_allclose(one, mapped[40:41], atol=1e-5)


def test_constant_voxels_are_named_and_give_nothing():
    X, y, subjects = _study(n=30, m=12)
    X[subjects == "02", 5] = 7.0
    step = CommonSpace().fit(X, y, subjects=subjects)
    assert step.constant_["02"].tolist() == [5]
    assert step.constant_["01"].size == 0
    np.testing.assert_array_equal(step.maps_["02"].matrix()[5], 0)


def test_clone_pickle_and_pipeline(tmp_path):
    X, y, subjects = _study(n=40, m=15)
    with sklearn.config_context(enable_metadata_routing=True):
        step = CommonSpace(map="ridge", pieces=np.repeat([0, 1, 2], 5))
        step.set_fit_request(subjects=True).set_transform_request(subjects=True)
        copied = clone(step)
        assert copied.get_params()["map"] == "ridge"
        mapped = fit_transform_step(copied, X, y, subjects)
        np.testing.assert_array_equal(mapped, transform_step(copied, X, subjects))
        joblib.dump(copied, tmp_path / "step.joblib")
        loaded = joblib.load(tmp_path / "step.joblib")
        np.testing.assert_array_equal(loaded.transform(X, subjects=subjects), mapped)
        pipeline = Pipeline([("align", copied), ("model", KNeighborsClassifier(1))])
        pipeline.fit(X, y, subjects=subjects)
        np.testing.assert_array_equal(pipeline.predict(X, subjects=subjects), y)
    with pytest.raises(TypeError, match="subjects"):
        step.fit(X, y)
    with pytest.raises(TypeError, match="subjects"):
        copied.transform(X)


def _poor(X, y, subjects):
    lacking = (subjects == "03") & ~np.isin(y, ["run-1 0", "run-1 1"])
    return X[~lacking], y[~lacking], subjects[~lacking]


@pytest.mark.parametrize(
    ("options", "change", "named"),
    [
        ({}, _poor, r"sub-03: 2 of the 12 keys.*not run-1 2, run-1 3, run-1 4, \.\.\."),
        ({}, lambda X, y, s: (X, y, np.full(len(X), "01")), "1 subject"),
        ({}, lambda X, y, s: (X, y[1:], s), "keys of shape"),
        ({}, lambda X, y, s: (X[0], y, s), "shape"),
        ({}, lambda X, y, s: (np.where(X > 2, np.nan, X), y, s), "not finite"),
        ({"method": "mean"}, None, "mean"),
        ({"map": "affine"}, None, "affine"),
        ({"map": "ridge", "shrinkage": -1.0}, None, "shrinkage"),
        ({"n_components": 0}, None, "n_components"),
        ({"n_components": 12}, None, "12"),
        ({"method": "template", "n_components": 12}, None, "at most 8"),
        ({"method": "srm", "n_components": 12}, None, "n_components = 12"),
        ({"method": "srm", "n_components": 3, "map": "promises"}, None, "8 voxels and 3"),
        ({"alpha": 2.0}, None, "alpha"),
        ({"level2_niter": -1}, None, "level2_niter"),
    ],
)
def test_errors_say_what_is_wrong(options, change, named):
    X, y, subjects = _study(n=12, m=8)
    if change is not None:
        X, y, subjects = change(X, y, subjects)
    with pytest.raises(InputError, match=named):
        CommonSpace(**options).fit(X, y, subjects=subjects)


@pytest.mark.parametrize(
    "options", [{}, {"method": "template"}, {"method": "srm"}, {"map": "ridge"}]
)
@pytest.mark.parametrize(("value", "words"), [(np.nan, "not finite"), (2.0, "no voxel varies")])
def test_errors_about_data_name_the_subject(options, value, words):
    X, y, subjects = _study(n=12, m=8)
    step = CommonSpace(**options).fit(X, y, subjects=subjects)
    X[subjects == "03"] = value
    with pytest.raises(InputError, match=f"alignment: sub-03: .*{words}"):
        CommonSpace(**options).fit(X, y, subjects=subjects)
    with pytest.raises(InputError, match=f"alignment: sub-09: .*{words}"):
        step.adapt(X[subjects == "03"], y[:12], "09")
    if options.get("method") != "srm":
        pieces = CommonSpace(pieces=np.repeat([1, 2], 4), **options)
        with pytest.raises(InputError, match=r"piece 1 .*: alignment: sub-03"):
            pieces.fit(X, y, subjects=subjects)


def test_too_little_to_adapt_on():
    X, y, subjects = _study(n=12, m=8)
    step = CommonSpace().fit(X, y, subjects=subjects)
    with pytest.raises(InputError, match="2 of the 12 keys"):
        step.adapt(X[:2], y[:2], "09")
    with pytest.raises(InputError, match="0 of the 12 keys"):
        step.adapt(X[:12], np.arange(12), "09")
    with pytest.raises(InputError, match="shape"):
        step.adapt(X[:12, :5], y[:12], "09")

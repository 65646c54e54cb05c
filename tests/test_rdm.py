"""RDMs of brains, layers and models against rsatoolbox, scikit-learn and planted distances."""

import warnings

import numpy as np
import pytest
from rsatoolbox.data import Dataset
from rsatoolbox.data.noise import prec_from_unbalanced
from rsatoolbox.rdm import calc_rdm
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import pairwise_distances
from sklearn.preprocessing import StandardScaler

from emodecode.errors import InputError
from emodecode.explain.crossnobis import crossnobis_rdm, subject_rdms
from emodecode.explain.noise import cell_residuals, estimate_noise
from emodecode.explain.rdm import (
    category_rdm,
    check_rdm,
    condition_means,
    correlation_rdm,
    distance_rdm,
    layer_rdm,
    pairs_of,
    rater_rdm,
)


def _design(n_folds, n_each, conditions="abcd"):
    """Labels and folds, every condition n_each times a fold."""
    folds = np.repeat(np.arange(n_folds), len(conditions) * n_each)
    return np.tile(np.repeat(list(conditions), n_each), n_folds), folds


def _data(seed, *, n_folds=4, n_each=3, n_voxels=12, conditions="abcd"):
    rng = np.random.default_rng(seed)
    labels, folds = _design(n_folds, n_each, conditions)
    order = rng.permutation(len(labels))
    labels, folds = labels[order], folds[order]
    mixing = rng.standard_normal((n_voxels, n_voxels))
    X = 5 + rng.standard_normal((len(labels), n_voxels)) @ mixing
    X[labels == "b"] += rng.standard_normal(n_voxels)
    return X, labels, folds


def _theirs(X, labels, folds, **options):
    data = Dataset(X.copy(), obs_descriptors={"label": list(labels), "fold": list(folds)})
    with warnings.catch_warnings():  # rsatoolbox fills an array of integers with NaN
        warnings.filterwarnings("ignore", "invalid value encountered in cast", RuntimeWarning)
        return calc_rdm(data, descriptor="label", **options).get_matrices()[0]


def _precision(seed, p):
    root = np.random.default_rng(seed).standard_normal((3 * p, p))
    return root.T @ root / (3 * p)


def test_correlation_equals_rsatoolbox():
    X, labels, folds = _data(0)
    means, conditions = condition_means(X, labels)
    assert conditions.tolist() == list("abcd")
    ours = correlation_rdm(means)
    np.testing.assert_allclose(ours, 1 - np.corrcoef(means), atol=1e-12)
    np.testing.assert_allclose(ours, _theirs(X, labels, folds, method="correlation"), atol=1e-12)


@pytest.mark.parametrize("noise", ["identity", "one", "one a fold"])
def test_crossnobis_equals_rsatoolbox(noise):
    X, labels, folds = _data(1)
    if noise == "one":
        given = _precision(0, 12)
    else:
        given = None if noise == "identity" else [_precision(seed, 12) for seed in range(4)]
    theirs = _theirs(X, labels, folds, method="crossnobis", cv_descriptor="fold", noise=given)
    ours = crossnobis_rdm(X, labels, folds, noise="identity" if given is None else given)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-8 * np.abs(theirs).max())
    assert np.abs(theirs).max() > 1e-2


@pytest.mark.parametrize("n_voxels", [10, 90])
def test_own_whitening_equals_rsatoolbox(n_voxels):
    """Fewer and more voxels than samples: shrunk residuals around condition and fold."""
    X, labels, folds = _data(2, n_voxels=n_voxels)
    cells = [f"{label}{fold}" for label, fold in zip(labels, folds, strict=True)]
    precision = prec_from_unbalanced(
        Dataset(X.copy(), obs_descriptors={"cell": cells}), "cell", method="shrinkage_eye"
    )
    theirs = _theirs(X, labels, folds, method="crossnobis", cv_descriptor="fold", noise=precision)
    np.testing.assert_allclose(crossnobis_rdm(X, labels, folds), theirs, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("shape", [(15, 60), (60, 15), (40, 40)])
def test_shrinkage_equals_scikit_learn(shape):
    residuals = np.random.default_rng(3).standard_normal(shape) * np.linspace(0.5, 3, shape[1])
    covariance, shrinkage = ledoit_wolf(residuals, assume_centered=True)
    noise = estimate_noise(residuals)
    assert noise.shrinkage == pytest.approx(shrinkage, rel=1e-9)
    np.testing.assert_allclose(noise.covariance, covariance, atol=1e-10)
    patterns = np.random.default_rng(4).standard_normal((5, shape[1]))
    expected = patterns @ np.linalg.inv(covariance)
    np.testing.assert_allclose(noise.solve(patterns), expected, rtol=1e-8, atol=1e-10)
    fewer = estimate_noise(residuals, df=shape[0] - 5)
    np.testing.assert_allclose(fewer.solve(patterns), expected * (1 - 5 / shape[0]), rtol=1e-7)


def test_fully_shrunk_noise_is_a_scale():
    noise = estimate_noise(np.vstack([np.eye(6), -np.eye(6)])[:, :6])
    assert noise.shrinkage == 1
    np.testing.assert_allclose(noise.solve(np.ones((1, 6))), 6.0)


def test_every_fold_counts_the_same_in_unbalanced_designs():
    X, labels, folds = _data(5)
    keep = np.random.default_rng(6).random(len(labels)) < 0.75
    X, labels, folds = X[keep], labels[keep], folds[keep]
    means = np.stack([condition_means(X[folds == f], labels[folds == f])[0] for f in range(4)])
    expected = np.zeros((4, 4))
    for f in range(4):
        for g in set(range(4)) - {f}:
            for i in range(4):
                for j in range(4):
                    here, there = means[f, i] - means[f, j], means[g, i] - means[g, j]
                    expected[i, j] += here @ there / 12 / X.shape[1]
    ours = crossnobis_rdm(X, labels, folds, noise="identity")
    np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_a_pattern_common_to_all_conditions_changes_nothing():
    X, labels, folds = _data(7)
    common = 1e6 * np.random.default_rng(0).random(12) * (1 + folds[:, None])
    np.testing.assert_allclose(
        crossnobis_rdm(X + common, labels, folds), crossnobis_rdm(X, labels, folds), atol=1e-7
    )


def test_planted_distances_are_unbiased_and_noise_is_around_zero():
    rng = np.random.default_rng(8)
    labels, folds = _design(4, 4, "abc")
    pattern, scale = np.linspace(-0.6, 0.6, 8), np.linspace(0.5, 2, 8)
    found = []
    for _ in range(400):
        X = rng.standard_normal((len(labels), 8)) * scale
        X[labels == "c"] += pattern
        whitener = np.diag(1 / scale**2)
        found.append(pairs_of(crossnobis_rdm(X, labels, folds, noise=whitener)))
        found[-1] = np.append(found[-1], pairs_of(crossnobis_rdm(X, labels, folds))[0])
    ab, ac, bc, ab_own = np.transpose(found)
    truth = np.sum((pattern / scale) ** 2) / 8
    for values, expected in ((ab, 0), (ac, truth), (bc, truth), (ab_own, 0)):
        error = values.std(ddof=1) / np.sqrt(len(values))
        assert abs(values.mean() - expected) < 3.5 * error
    assert truth > 10 * ac.std() / 20
    assert 0.3 < np.mean(ab < 0) < 0.8


def test_residuals_between_folds_would_bias_the_distances():
    """Why one sample per condition and fold is refused instead of whitened by what is left."""
    rng = np.random.default_rng(9)
    labels, folds = _design(4, 1, "abc")
    biased, other = [], []
    for _ in range(300):
        X, Y = rng.standard_normal((2, len(labels), 6))
        left = [Z.reshape(4, 3, 6) - Z.reshape(4, 3, 6).mean(axis=0) for Z in (X - 0, Y - 0)]
        left = [(Z - Z.mean(axis=1, keepdims=True)).reshape(-1, 6) for Z in left]
        for noise, into in zip(left, (biased, other), strict=True):
            known = estimate_noise(noise, df=6)
            into.append(pairs_of(crossnobis_rdm(X, labels, folds, noise=known)).mean())
    error = np.std(other, ddof=1) / np.sqrt(300)
    assert abs(np.mean(other)) < 3.5 * error
    assert np.mean(biased) > 5 * np.std(biased, ddof=1) / np.sqrt(300)
    with pytest.raises(InputError, match="one sample per condition and fold"):
        crossnobis_rdm(X, labels, folds)


def test_models_by_hand():
    np.testing.assert_array_equal(
        category_rdm(["good", "bad", "good"]), [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    )
    points = np.random.default_rng(10).standard_normal((6, 2))
    np.testing.assert_allclose(distance_rdm(points), pairwise_distances(points), atol=1e-12)
    np.testing.assert_array_equal(distance_rdm([1.0, 4.0]), [[0, 3], [3, 0]])
    votes = rater_rdm([[8, 2, 0], [0, 0.5, 0.5], [4, 1, 0]])
    np.testing.assert_allclose(votes, [[0, 0.8, 0], [0.8, 0, 0.8], [0, 0.8, 0]], atol=1e-12)


def test_layer_equals_the_steps_of_s1():
    rng = np.random.default_rng(11)
    labels = rng.integers(0, 3, 40)
    maps = rng.standard_normal((40, 5, 2, 3)) + 3
    maps[:, 1, 0, 0] = 7.3  # a dead unit
    flat = maps.reshape(40, -1)
    plain = 1 - np.corrcoef([flat[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(layer_rdm(maps, labels), plain, atol=1e-12)
    scaled = StandardScaler().fit_transform(flat)
    scored = 1 - np.corrcoef([scaled[labels == k].mean(axis=0) for k in range(3)])
    np.testing.assert_allclose(layer_rdm(maps, labels, zscore=True), scored, atol=1e-12)


def test_one_rdm_a_subject():
    parts = [_data(seed) for seed in (12, 13)]
    X, labels, folds = (np.concatenate(each) for each in zip(*parts, strict=True))
    subjects = np.repeat(["s2", "s1"], len(parts[0][0]))
    rdms, names = subject_rdms(X, labels, subjects, folds=folds)
    assert names.tolist() == ["s1", "s2"]
    np.testing.assert_allclose(rdms[1], crossnobis_rdm(*parts[0]))
    plain, _ = subject_rdms(X, labels, subjects)
    np.testing.assert_allclose(plain[0], correlation_rdm(condition_means(*parts[1][:2])[0]))
    keep = (subjects != "s1") | (labels != "c")
    with pytest.raises(InputError, match="subject s1: no sample of c"):
        subject_rdms(X[keep], labels[keep], subjects[keep])


def _spoil(name):
    X, labels, folds = _data(14)
    noise = None
    if name == "one fold":
        folds = np.zeros(len(X))
    elif name == "missing":
        folds = np.where(labels == "d", np.minimum(folds, 2), folds)
    elif name == "nan":
        X[3, 2] = np.nan
    elif name == "labels":
        labels = labels[:-1]
    elif name == "size":
        noise = np.eye(5)
    elif name == "indefinite":
        noise = -np.eye(12)
    elif name == "skew":
        noise = np.eye(12) + np.eye(12, k=1)
    elif name == "word":
        noise = "none"
    return X, labels, folds, noise


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one fold", "1 fold"),
        ("missing", "fold 3: no sample of d"),
        ("nan", "1 values not finite"),
        ("labels", "one value for each of the 48 rows"),
        ("size", "shape \\(5, 5\\)"),
        ("indefinite", "not positive definite"),
        ("skew", "not finite and symmetric"),
        ("word", "noise = 'none'"),
    ],
)
def test_crossnobis_refuses(name, words):
    X, labels, folds, noise = _spoil(name)
    with pytest.raises(InputError, match=words) as error:
        crossnobis_rdm(X, labels, folds, noise=noise)
    assert error.value.remedy


def test_other_bad_input_is_refused():
    for bad, words in (
        ([[0, 1], [2, 0]], "not symmetric"),
        ([[1, 1], [1, 0]], "diagonal"),
        ([[0, np.nan], [np.nan, 0]], "not finite"),
        (np.zeros((2, 3)), "shape"),
    ):
        with pytest.raises(InputError, match=words):
            check_rdm(bad)
    with pytest.raises(InputError, match="condition 1"):
        correlation_rdm([[1.0, 2, 3], [0.1, 0.1, 0.1]])
    with pytest.raises(InputError, match="without any vote"):
        rater_rdm([[0, 0], [1, 0]])
    with pytest.raises(InputError, match="missing"):
        condition_means(np.ones((2, 3)), np.array(["a", None], dtype=object))
    with pytest.raises(InputError, match="do not tell the noise"):
        estimate_noise(np.zeros((5, 3)))
    with pytest.raises(InputError, match="do not tell the noise"):
        estimate_noise(cell_residuals(np.random.default_rng(0).random((2, 9)), [0, 0])[0])

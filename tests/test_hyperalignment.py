"""Hyperalignment against a plain implementation, its invariances, and what it refuses.

What happens when the subjects come in another order: level 1 takes them in order and moves the
common space with each, so the result depends on the order a little. It does not depend on it at all
with two subjects and the same reference, with noiseless rotations of one another, and in level 3.
"""

import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes
from scipy.stats import ortho_group

from emodecode.align.hyperalignment import (
    Options,
    hyperalign,
    hyperalign_levels,
    map_to_common,
)
from emodecode.align.procrustes import factor, template
from emodecode.errors import InputError


def _subjects(n_subjects=4, n_samples=40, widths=(20,), *, noise=1.0, seed=0):
    """Subjects with a common signal of 6 dimensions, and means of their own."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n_samples, 6))
    widths = [widths[i % len(widths)] for i in range(n_subjects)]
    return [
        signal @ rng.normal(size=(6, width))
        + noise * rng.normal(size=(n_samples, width))
        + 5 * rng.normal(size=width)
        for width in widths
    ]


def _z(X):
    return (X - X.mean(axis=0)) / X.std(axis=0)


def _whitened(X, alpha, scale):
    """PyMVPA centres the data when it projects them."""
    square, axes = np.linalg.eigh(X.T @ X)
    square, axes = square[square > 1e-10 * square[-1]], axes[:, square > 1e-10 * square[-1]]
    power = square / (square.mean() if scale == "relative" else 1)
    W = (axes / np.sqrt((1 - alpha) * power + alpha)) @ axes.T
    return (X - X.mean(axis=0)) @ W


def _mapped(X, target, scaling):
    width = max(X.shape[1], target.shape[1])
    S, T = (np.pad(A - A.mean(axis=0), ((0, 0), (0, width - A.shape[1]))) for A in (X, target))
    R, total = orthogonal_procrustes(S, T)
    scale = total / (S**2).sum() if scaling else 1
    return (S @ R * scale)[:, : target.shape[1]] + target.mean(axis=0)


def _plain(datasets, options):
    """The levels as `spec/alignment.md` writes them down, dense and one after the other."""
    z = _z if options.zscore_common else lambda X: X
    data = [_z(X) if options.zscore_all else X for X in datasets]
    if options.alpha < 1:
        data = [_whitened(X, options.alpha, options.alpha_scale) for X in data]
    widths = [X.shape[1] for X in data]
    ref = widths.index(max(widths)) if options.ref is None else options.ref
    aligned = dict(enumerate(data))
    common, k = data[ref] if options.zscore_all else z(data[ref]), 1
    for i, X in enumerate(data):
        if i == ref:
            continue
        aligned[i] = z(_mapped(X, common, options.scaling))
        new = {"running": 0.5, "equal": 1 / (k + 1), "pymvpa-equal": k / (k + 1)}
        share = new[options.level1_weight]
        common, k = z(share * aligned[i] + (1 - share) * common), k + 1
    p = len(data)
    for _ in range(options.level2_niter):
        mean = sum(aligned.values()) / p
        targets = {i: z((p * mean - aligned[i]) / (p - 1)) for i in aligned}
        aligned = {i: z(_mapped(data[i], targets[i], options.scaling)) for i in aligned}
    common = z(sum(aligned.values()) / p)
    return common, [_mapped(X, common, options.scaling) for X in data]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"level2_niter": 0},
        {"level2_niter": 3, "ref": 2},
        {"level1_weight": "equal"},
        {"level1_weight": "pymvpa-equal", "zscore_all": True},
        {"zscore_common": False, "level1_weight": "equal"},
        {"zscore_common": False, "zscore_all": True, "scaling": False},
        {"alpha": 0.3},
        {"alpha": 0.3, "zscore_all": True, "alpha_scale": "relative"},
        {"alpha": 0.8, "alpha_scale": "relative", "zscore_common": False},
        {"alpha": 0.0, "zscore_all": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(40, (20, 23, 18)), (40, (39,)), (21, (30, 50, 41))], ids=str)
def test_equals_the_plain_implementation(shape, options):
    n_samples, widths = shape
    datasets = _subjects(5, n_samples, widths)
    plain, projections = _plain(datasets, Options(**options))
    common, mappers = hyperalign(datasets, **options)
    size = np.abs(plain).max()
    np.testing.assert_allclose(common, plain, rtol=0, atol=1e-9 * size)
    for mapper, X, projection in zip(mappers, datasets, projections, strict=True):
        np.testing.assert_allclose(mapper(X), projection, rtol=0, atol=1e-9 * size)


@pytest.mark.parametrize("shape", [(60, (20,)), (20, (50, 60))], ids=str)
@pytest.mark.parametrize("options", [{}, {"zscore_common": False}, {"alpha": 0.5}], ids=str)
def test_rotating_a_subject_changes_nothing(shape, options):
    """Any subject but the reference, whose voxels are the axes of the common space."""
    datasets = _subjects(4, *shape)
    ref = hyperalign_levels(datasets).ref
    common, mappers = hyperalign(datasets, **options)
    for i in {0, 2, 3} - {ref}:
        turned = list(datasets)
        Q = ortho_group.rvs(datasets[i].shape[1], random_state=i)
        turned[i] = 3 * datasets[i] @ Q + 2 if options != {"alpha": 0.5} else datasets[i] @ Q
        again, mappers_again = hyperalign(turned, ref=ref, **options)
        np.testing.assert_allclose(again, common, atol=1e-10)
        for X, Y, first, second in zip(datasets, turned, mappers, mappers_again, strict=True):
            np.testing.assert_allclose(second(Y), first(X), atol=1e-10)


def test_order_of_two_subjects_does_not_matter():
    one, two = _subjects(2, 30, (12,))
    common, mappers = hyperalign([one, two], ref=0)
    swapped, mappers_swapped = hyperalign([two, one], ref=1)
    np.testing.assert_allclose(swapped, common, atol=1e-12)
    np.testing.assert_allclose(mappers_swapped[0].matrix(), mappers[1].matrix(), atol=1e-12)


def test_order_of_noiseless_rotations_does_not_matter():
    """Then every order finds the same common space: the z-scored reference."""
    first = _subjects(1, 60, (12,))[0]
    datasets = [first @ ortho_group.rvs(12, random_state=i) for i in range(5)]
    common, _ = hyperalign(datasets, ref=0)
    shuffled, mappers = hyperalign([datasets[i] for i in (3, 0, 4, 2, 1)], ref=1)
    np.testing.assert_allclose(shuffled, common, atol=1e-10)
    np.testing.assert_allclose(mappers[0](datasets[3]), mappers[1](datasets[0]), atol=1e-10)


def test_order_matters_a_little_otherwise():
    datasets = _subjects(5, 60, (12,))
    common, _ = hyperalign(datasets, ref=0)
    shuffled, _ = hyperalign([datasets[i] for i in (0, 3, 4, 2, 1)], ref=0)
    assert 1e-6 < np.abs(shuffled - common).max() < 1
    assert np.corrcoef(shuffled.ravel(), common.ravel())[0, 1] > 0.95


def test_level_3_maps_each_subject_alone_and_new_ones_as_old_ones():
    """Given the frozen common space no other subject counts, nor any order."""
    datasets = _subjects(5, 30, (50, 40))
    common, mappers = hyperalign(datasets)
    frozen = template(common)
    for X, mapper in zip(datasets, mappers, strict=True):
        for target in (common, frozen):
            alone = map_to_common(X, target)
            np.testing.assert_allclose(alone.matrix(), mapper.matrix(), atol=1e-12)
            np.testing.assert_array_equal(alone.mean_out, mapper.mean_out)
    options = {"zscore_all": True, "alpha": 0.4, "alpha_scale": "relative", "scaling": False}
    common, mappers = hyperalign(datasets, reflection=False, **options)
    alone = map_to_common(datasets[2], common, reflection=False, **options)
    np.testing.assert_allclose(alone(datasets[2]), mappers[2](datasets[2]), atol=1e-11)


@pytest.mark.parametrize("shape", [(60, (20,)), (20, (50, 60))], ids=str)
def test_output_dim(shape):
    """The axes are those of the mean of the aligned data; a new subject gets the same."""
    datasets = _subjects(4, *shape)
    whole = hyperalign_levels(datasets)
    found = hyperalign_levels(datasets, Options(output_dim=5))
    np.testing.assert_array_equal(found.common, whole.common)
    axes = found.output_axes
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), atol=1e-12)
    pairs = list(zip(whole.mappers, datasets, strict=True))
    mean = np.mean([mapper(X) for mapper, X in pairs], axis=0)
    centred = mean - mean.mean(axis=0)
    top = np.linalg.svd(centred)[1][:5]
    np.testing.assert_allclose(np.linalg.norm(centred @ axes, axis=0), top, rtol=1e-10)
    for (mapper, X), short in zip(pairs, found.mappers, strict=True):
        assert short.n_common == 5
        np.testing.assert_allclose(short(X), mapper(X) @ axes, atol=1e-10)
        new = map_to_common(X, found.common, output_axes=axes)
        np.testing.assert_allclose(new(X), short(X), atol=1e-10)


def test_relative_alpha_does_not_depend_on_scale_and_number_of_samples():
    X = _subjects(1, 40, (15,))[0]
    for other in (100 * X, np.vstack([X, X])):
        gains = [factor(Y, alpha=0.5, alpha_scale="relative").gain for Y in (X, other)]
        np.testing.assert_allclose(*gains, rtol=1e-10)
        gains = [factor(Y, alpha=0.5).gain for Y in (X, other)]
        assert np.abs(gains[0] / gains[1] - 1).max() > 0.1


def test_alpha_one_is_no_projection():
    datasets = _subjects(4, 40, (15,))
    for scale in ("pymvpa", "relative"):
        near = hyperalign(datasets, alpha=1 - 1e-13, alpha_scale=scale)[0]
        np.testing.assert_allclose(near, hyperalign(datasets)[0], atol=1e-6)


def test_held_out_data_are_stable():
    """A change of 1e-13 in the input moves held-out data by less than 1e-10 (n < voxels)."""
    datasets = _subjects(5, 22, (48,))
    rng = np.random.default_rng(5)
    held_out = [X.mean(axis=0) + rng.normal(size=(15, 48)) for X in datasets]
    moved = [X * (1 + 1e-13 * rng.normal(size=X.shape)) for X in datasets]
    results = [hyperalign(data)[1] for data in (datasets, moved)]
    for X, first, second in zip(held_out, *results, strict=True):
        assert np.linalg.norm(first(X) - second(X)) < 1e-10 * np.linalg.norm(first(X))


def _agreement(mappers, datasets):
    aligned = [mapper(X).ravel() for mapper, X in zip(mappers, datasets, strict=True)]
    return np.mean([np.corrcoef(a, b)[0, 1] for a, b in combinations(aligned, 2)])


@pytest.mark.parametrize(("noise", "low", "high"), [(1.0, 0.5, 1.0), (1e6, -0.05, 0.05)])
def test_maps_carry_over_to_another_run(noise, low, high):
    """Planted: a common signal seen by rotated subjects; in noise alone nothing agrees."""
    datasets = _subjects(4, 400, (20,), noise=noise)
    datasets = [X - X.mean(axis=0) for X in datasets]
    first, second = [X[:200] for X in datasets], [X[200:] for X in datasets]
    _, mappers = hyperalign(first)
    assert low < _agreement(mappers, second) < high
    assert abs(np.corrcoef(second[0].ravel(), second[1].ravel())[0, 1]) < 0.2


@pytest.mark.parametrize("shape", [(40, (20,)), (20, (50,))], ids=str)
def test_float32_equals_float64(shape, tmp_path):
    """The mathematics is float64; only the maps are kept in the precision of the data."""
    datasets = [X.astype(np.float32) for X in _subjects(4, *shape)]
    for i, X in enumerate(datasets):
        np.save(tmp_path / f"{i}.npy", X)
    mapped = [np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(4)]
    common, mappers = hyperalign(mapped)
    double, mappers_double = hyperalign([X.astype(np.float64) for X in datasets])
    assert common.dtype == np.float64
    np.testing.assert_allclose(common, double, atol=1e-12)
    for X, single, mapper in zip(datasets, mappers, mappers_double, strict=True):
        assert single.left.dtype == single.right.dtype == single(X).dtype == np.float32
        assert mapper.left.dtype == np.float64
        np.testing.assert_allclose(single(X), mapper(X.astype(np.float64)), atol=2e-5)


@pytest.mark.parametrize("options", [{}, {"zscore_all": True, "alpha": 0.5}], ids=str)
@pytest.mark.parametrize("shape", [(40, (20,)), (20, (50, 60)), (20, (20, 19))], ids=str)
def test_factors_serve_in_many_folds(shape, options):
    datasets = _subjects(4, *shape)
    made = {"zscore": options.get("zscore_all", False), "alpha": options.get("alpha", 1.0)}
    factors = [factor(X, **made) for X in datasets]
    for fold in ([0, 1, 2], [1, 2, 3]):
        common, mappers = hyperalign([datasets[i] for i in fold], **options)
        again, mappers_again = hyperalign([factors[i] for i in fold], **options)
        np.testing.assert_allclose(again, common, atol=1e-12)
        for first, second in zip(mappers, mappers_again, strict=True):
            np.testing.assert_allclose(second.matrix(), first.matrix(), atol=1e-12)


def test_levels_are_those_of_the_plain_calls():
    datasets = _subjects(4, 40, (20,))
    levels = hyperalign_levels(datasets, Options(level2_niter=2))
    assert len(levels.level2) == 3
    assert len(levels.residuals) == 3
    for sweeps, mean in enumerate(levels.level2):
        np.testing.assert_allclose(hyperalign(datasets, level2_niter=sweeps)[0], _z(mean))
    common, mappers = hyperalign(datasets, level2_niter=2)
    np.testing.assert_array_equal(levels.common, common)
    np.testing.assert_array_equal(levels.mappers[1].matrix(), mappers[1].matrix())
    np.testing.assert_allclose(levels.level1.std(axis=0), 1)


def test_memory_with_more_voxels_than_samples():
    """No voxels x voxels; the common side of the maps is held once."""
    datasets = [X.astype(np.float32) for X in _subjects(6, 30, (2000,))]
    tracemalloc.start()
    _, mappers = hyperalign(datasets)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    double = 8 * 30 * 2000
    assert peak < (6 + 8) * double < 8 * 2000**2 / 4
    assert all(np.shares_memory(mapper.right, mappers[0].right) for mapper in mappers)


def test_inputs_stay_as_they_are():
    for shape in ((40, (20,)), (20, (50,))):
        datasets = _subjects(3, *shape)
        before = [X.copy() for X in datasets]
        for X in datasets:
            X.flags.writeable = False
        hyperalign(datasets, zscore_common=False)
        hyperalign([factor(X) for X in datasets])
        for X, old in zip(datasets, before, strict=True):
            np.testing.assert_array_equal(X, old)


GOOD = _subjects(3, 10, (4,))
NAN = np.where(np.eye(10, 4), np.nan, 1.0)


@pytest.mark.parametrize(
    ("datasets", "options", "words"),
    [
        (GOOD[:1], {}, "at least two"),
        ([], {}, "at least two"),
        ([GOOD[0], GOOD[1][:9]], {}, "9 and 10 samples"),
        ([X[:2] for X in GOOD], {}, "at least 3 samples"),
        ([GOOD[0], GOOD[0][:, :0]], {}, "data set 1"),
        ([GOOD[0], NAN], {}, "data set 1: values that are not finite"),
        ([GOOD[0], np.ones((10, 4))], {}, "data set 1: data in which no voxel varies"),
        (GOOD, {"level2_niter": -1}, "level2_niter"),
        (GOOD, {"level2_niter": 1.5}, "level2_niter"),
        (GOOD, {"ref": 3}, "ref = 3"),
        (GOOD, {"ref": -1}, "ref = -1"),
        (GOOD, {"level1_weight": "same"}, "level1_weight"),
        (GOOD, {"alpha": 1.1}, "alpha"),
        (GOOD, {"alpha": float("nan")}, "alpha"),
        (GOOD, {"alpha_scale": "absolute"}, "alpha_scale"),
        (GOOD, {"output_dim": 0}, "output_dim"),
        (GOOD, {"output_dim": 5}, "output_dim"),
        ([factor(X) for X in GOOD], {"zscore_all": True}, "other options"),
    ],
)
def test_bad_input_is_refused(datasets, options, words):
    with pytest.raises(InputError, match=words):
        hyperalign(datasets, **options)


def test_new_subject_with_other_samples_is_refused():
    common, _ = hyperalign(GOOD)
    with pytest.raises(InputError, match="9 and 10 samples"):
        map_to_common(GOOD[0][:9], common)
    with pytest.raises(InputError, match="subject to be mapped: values that are not finite"):
        map_to_common(NAN, common)

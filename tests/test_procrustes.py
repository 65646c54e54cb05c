"""Procrustes against scipy, planted rotations, its thin form against the dense one, hard input."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import LinAlgError, orthogonal_procrustes
from scipy.spatial.transform import Rotation
from scipy.stats import ortho_group

from emodecode.align import lowrank
from emodecode.align import procrustes as module
from emodecode.align.lowrank import contrasts, from_contrasts, gram_core, safe_svd
from emodecode.align.procrustes import Procrustes, factor, procrustes, template
from emodecode.errors import InputError

GESDD = Path(__file__).parent / "fixtures" / "hyperalignment" / "svd_gesdd_fail_300x300.npy"


def _pair(n_samples, n_source, n_target, *, seed=0, shared=6):
    """Source and target with a common signal, noise, and means of their own."""
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(n_samples, shared))
    return [
        signal @ rng.normal(size=(shared, width))
        + rng.normal(size=(n_samples, width))
        + 5 * rng.normal(size=width)
        for width in (n_source, n_target)
    ]


def _dense(source, target):
    """R and scale by the dense padded SVD, directions with null singular values left out."""
    width = max(source.shape[1], target.shape[1])
    S, T = (np.pad(X - X.mean(axis=0), ((0, 0), (0, width - X.shape[1]))) for X in (source, target))
    U, s, Vt = np.linalg.svd(T.T @ S)
    kept = s > 1e-10 * s[0]
    R = Vt[kept].T @ U[:, kept].T
    return R[: source.shape[1], : target.shape[1]], s.sum() / (S**2).sum()


@pytest.mark.parametrize("shape", [(60, 24, 24), (60, 1, 1), (3, 2, 2), (200, 57, 57)])
def test_equals_scipy(shape):
    source, target = _pair(*shape)
    mapper = procrustes(source, target)
    S, T = source - source.mean(axis=0), target - target.mean(axis=0)
    R, total = orthogonal_procrustes(S, T)
    np.testing.assert_allclose(mapper.matrix() / mapper.scale, R, atol=1e-12)
    assert mapper.scale == pytest.approx(total / (S**2).sum(), rel=1e-12)
    mapped = S @ R * mapper.scale + target.mean(axis=0)
    np.testing.assert_allclose(mapper(source), mapped, atol=1e-11)


SHAPES = [
    *[(30, width, width) for width in (27, 28, 29, 30, 31, 32, 90)],
    *[(30, *widths) for widths in ((20, 24), (24, 20), (12, 80), (80, 12), (90, 40), (29, 30))],
    (3, 50, 50),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_thin_equals_dense(shape):
    """On both sides of n_samples = n_voxels, and for unequal numbers of voxels."""
    source, target = _pair(*shape)
    mapper = procrustes(source, target)
    R, scale = _dense(source, target)
    assert mapper.scale == pytest.approx(scale, rel=1e-12)
    np.testing.assert_allclose(mapper.matrix() / mapper.scale, R, atol=1e-10)


def test_cholesky_and_qr_give_the_same(monkeypatch):
    source, target = _pair(40, 150, 130)
    assert gram_core(contrasts(source - source.mean(axis=0))) is not None
    quick = procrustes(source, target)
    monkeypatch.setattr(module, "gram_core", lambda rows: None)
    safe = procrustes(source, target)
    np.testing.assert_allclose(quick.matrix(), safe.matrix(), atol=1e-12)


def test_ill_conditioned_data_take_the_qr():
    source, target = _pair(20, 60, 60)
    source[7] = source[6] + 1e-6 * source[8]
    assert gram_core(contrasts(source - source.mean(axis=0))) is None
    source[7] = source[6]
    mapper = procrustes(source, target)
    R, _ = _dense(source, target)
    np.testing.assert_allclose(mapper.matrix() / mapper.scale, R, atol=1e-10)


@pytest.mark.parametrize("n_samples", [80, 12])
def test_planted_rotation_scale_and_means_come_back(n_samples):
    rng = np.random.default_rng(3)
    source = rng.normal(size=(n_samples, 20)) + 4
    R = ortho_group.rvs(20, random_state=4)
    target = 2.5 * source @ R - 7
    mapper = procrustes(source, target)
    assert mapper.scale == pytest.approx(2.5, rel=1e-12)
    np.testing.assert_allclose(mapper(source), target, atol=1e-11)
    if n_samples > 20:
        np.testing.assert_allclose(mapper.matrix(), 2.5 * R, atol=1e-11)
    rotation_only = procrustes(source, target, scaling=False)
    assert rotation_only.scale == 1
    np.testing.assert_allclose(rotation_only.matrix(), mapper.matrix() / 2.5, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_proper_rotation_equals_kabsch(seed):
    """Three voxels: scipy's own solution of Wahba's problem."""
    source, target = _pair(20, 3, 3, seed=seed, shared=2)
    mapper = procrustes(source, target, reflection=False)
    S, T = source - source.mean(axis=0), target - target.mean(axis=0)
    kabsch = Rotation.align_vectors(T, S)[0].as_matrix().T
    np.testing.assert_allclose(mapper.matrix() / mapper.scale, kabsch, atol=1e-10)
    assert mapper.scale == pytest.approx(np.trace(T.T @ S @ kabsch) / (S**2).sum(), rel=1e-10)


def test_reflection_off_binds_only_where_no_direction_is_free():
    rng = np.random.default_rng(0)
    flip = np.diag([1.0] * 9 + [-1.0])
    for n_samples, binds in ((40, True), (8, False)):
        source = rng.normal(size=(n_samples, 10))
        free = procrustes(source, source @ flip)
        proper = procrustes(source, source @ flip, reflection=False)
        assert np.allclose(free.matrix(), proper.matrix(), atol=1e-9) is not binds
        if binds:
            assert np.linalg.det(free.matrix()) == pytest.approx(-1)
            assert np.linalg.det(proper.matrix() / proper.scale) == pytest.approx(1)


@pytest.mark.parametrize("seed", range(4))
def test_proper_rotation_of_whitened_data(seed):
    """The basis in which a whitened source is kept may itself be a reflection."""
    source, target = _pair(30, 5, 5, seed=seed)
    whitened = factor(source, alpha=0.5)
    projection = whitened.rows.T @ np.diag(whitened.gain) @ whitened.rows
    mapper = procrustes(whitened, target, reflection=False)
    plain = procrustes(source @ projection, target, reflection=False)
    np.testing.assert_allclose(mapper.matrix(), projection @ plain.matrix(), atol=1e-11)


def test_nothing_is_added_outside_the_span_of_the_fit():
    source, target = _pair(15, 60, 50)
    mapper = procrustes(source, target)
    rows = np.linalg.qr((source - source.mean(axis=0)).T)[0][:, :14]
    outside = np.random.default_rng(1).normal(size=(5, 60))
    outside -= (outside @ rows) @ rows.T
    mapped = mapper(source.mean(axis=0) + outside)
    np.testing.assert_allclose(mapped, np.tile(target.mean(axis=0), (5, 1)), atol=1e-12)
    R = mapper.matrix() / mapper.scale
    np.testing.assert_allclose(R @ R.T @ R, R, atol=1e-12)
    assert np.linalg.matrix_rank(R) == 14


def test_held_out_data_are_stable():
    """A change of 1e-13 in the input moves held-out data by less than 1e-10."""
    source, target = _pair(22, 48, 48)
    rng = np.random.default_rng(2)
    held_out = rng.normal(size=(15, 48)) + source.mean(axis=0)
    moved = [X * (1 + 1e-13 * rng.normal(size=X.shape)) for X in (source, target)]
    first, second = procrustes(source, target)(held_out), procrustes(*moved)(held_out)
    assert np.linalg.norm(first - second) < 1e-10 * np.linalg.norm(first)


def test_repeated_singular_values():
    """All equal: U and V are arbitrary, their product is not."""
    rows = np.linalg.qr(np.random.default_rng(0).normal(size=(30, 13)))[0]
    source = np.linalg.qr(rows - rows.mean(axis=0))[0]
    R = ortho_group.rvs(13, random_state=1)
    np.testing.assert_allclose(procrustes(source, source @ R).matrix(), R, atol=1e-12)
    np.testing.assert_allclose(procrustes(source, source).matrix(), np.eye(13), atol=1e-12)


@pytest.mark.parametrize("n_samples", [60, 12])
def test_rank_deficient_data(n_samples):
    """Voxels that copy others: a partial isometry of lower rank, as the dense form gives."""
    source, target = _pair(n_samples, 24, 24)
    source[:, 10:20] = source[:, :10]
    mapper = procrustes(source, target)
    R, _ = _dense(source, target)
    np.testing.assert_allclose(mapper.matrix() / mapper.scale, R, atol=1e-10)
    assert np.linalg.matrix_rank(mapper.matrix()) == min(14, n_samples - 1)


@pytest.mark.parametrize("n_samples", [60, 12])
@pytest.mark.parametrize("reflection", [True, False])
def test_constant_voxels_are_left_out(n_samples, reflection):
    source, target = _pair(n_samples, 20, 20)
    kept = np.delete(np.arange(20), [2, 11])
    for value in (0.0, 1 / 3, 1e7 / 3):
        for X in (source, target):
            X[:, [2, 11]] = value
        mapper = procrustes(source, target, reflection=reflection)
        less = procrustes(source[:, kept], target[:, kept], reflection=reflection)
        whole = mapper.matrix()
        np.testing.assert_allclose(whole[np.ix_(kept, kept)], less.matrix(), atol=1e-12)
        assert list(mapper.constant) == [2, 11]
        assert not whole[[2, 11]].any()
        np.testing.assert_allclose(mapper(source)[:, 2], value, rtol=1e-12, atol=1e-12)


def test_rounding_noise_is_constant():
    source, target = _pair(60, 20, 20)
    source[:, 4] = 3 + 4e-15 * np.random.default_rng(0).normal(size=60)
    source[:, 5] = 1e-14 * np.random.default_rng(1).normal(size=60)
    assert list(factor(source).constant) == [4, 5]
    assert not len(factor(target).constant)


@pytest.mark.parametrize("shape", [(60, 24, 24), (30, 90, 80)])
def test_float32_and_read_only_maps(shape, tmp_path):
    source, target = (X.astype(np.float32) for X in _pair(*shape))
    np.save(tmp_path / "source.npy", source)
    mapped = np.load(tmp_path / "source.npy", mmap_mode="r")
    single = procrustes(mapped, target)
    double = procrustes(source.astype(np.float64), target.astype(np.float64))
    assert single.left.dtype == single.right.dtype == single(source).dtype == np.float32
    assert double.left.dtype == np.float64
    assert single.scale == pytest.approx(double.scale, rel=1e-12)
    np.testing.assert_allclose(single.matrix(), double.matrix(), atol=1e-6)
    np.testing.assert_allclose(single(source), double(source.astype(np.float64)), atol=1e-4)


def test_no_matrix_of_voxels_by_voxels():
    source, target = _pair(50, 3000, 3000)
    tracemalloc.start()
    mapper = procrustes(source, target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 3000**2 / 5
    assert mapper.nbytes < 3 * 8 * 50 * 3000


@pytest.mark.parametrize("shape", [(60, 24, 24), (30, 90, 80)])
def test_factors_and_templates_are_reusable(shape):
    source, target = _pair(*shape)
    direct = procrustes(source, target)
    found = factor(source)
    frozen = template(target)
    for mapper in (procrustes(found, target), procrustes(source, frozen)):
        np.testing.assert_allclose(mapper.matrix(), direct.matrix(), atol=1e-12)
        assert mapper.scale == pytest.approx(direct.scale, rel=1e-12)
    if shape[0] < shape[2]:
        assert procrustes(source, frozen).right is procrustes(2 * source, frozen).right
    with pytest.raises(InputError, match="factor of plain data"):
        procrustes(found, factor(target, zscore=True))


def test_z_scores_are_part_of_the_map():
    source, target = _pair(60, 24, 20)
    std = source.std(axis=0)
    mapper = procrustes(factor(source, zscore=True), target)
    plain = procrustes((source - source.mean(axis=0)) / std, target)
    np.testing.assert_allclose(mapper.matrix(), plain.matrix() / std[:, None], atol=1e-12)
    np.testing.assert_allclose(mapper(source), plain((source - source.mean(axis=0)) / std))


def test_contrasts_keep_inner_products_and_come_back():
    rng = np.random.default_rng(0)
    A, B = (X - X.mean(axis=0) for X in rng.normal(size=(2, 17, 5)))
    np.testing.assert_allclose(contrasts(A).T @ contrasts(B), A.T @ B, atol=1e-13)
    np.testing.assert_allclose(from_contrasts(contrasts(A)), A, atol=1e-14)
    assert np.linalg.matrix_rank(contrasts(rng.normal(size=(6, 40)))) == 5


def test_the_matrix_on_which_gesdd_fails():
    """Divide and conquer of some LAPACK builds does not converge on it."""
    matrix = np.load(GESDD)
    U, s, Vt = safe_svd(matrix)
    np.testing.assert_allclose(U * s @ Vt, matrix, atol=1e-14 * s[0] * 300)
    np.testing.assert_allclose(U.T @ U, np.eye(300), atol=1e-12)


@pytest.mark.parametrize("failure", ["raises", "returns nan"])
def test_svd_falls_back_to_gesvd(monkeypatch, failure):
    matrix, honest = np.load(GESDD), lowrank.svd

    def failing(matrix, *, lapack_driver, **options):
        if lapack_driver == "gesvd":
            return honest(matrix, lapack_driver=lapack_driver, **options)
        if failure == "raises":
            raise LinAlgError("SVD did not converge")
        return tuple(part * np.nan for part in honest(matrix, lapack_driver="gesdd", **options))

    monkeypatch.setattr(lowrank, "svd", failing)
    U, s, Vt = safe_svd(matrix)
    np.testing.assert_allclose(U * s @ Vt, matrix, atol=1e-14 * s[0] * 300)


def test_svd_that_fails_for_good_says_so(monkeypatch):
    def failing(matrix, **options):
        raise LinAlgError("SVD did not converge")

    monkeypatch.setattr(lowrank, "svd", failing)
    with pytest.raises(InputError, match="no convergence"):
        safe_svd(np.eye(3))
    with pytest.raises(InputError, match="not finite"):
        safe_svd(np.full((3, 3), np.inf))


@pytest.mark.parametrize("options", [{"alpha": 2}, {"alpha": 0.5, "alpha_scale": "none"}])
def test_options_of_a_factor(options):
    with pytest.raises(InputError, match="alpha"):
        factor(_pair(10, 5, 5)[0], **options)


def test_estimator():
    source, target = _pair(60, 24, 20)
    model = Procrustes(scaling=False, reflection=False).fit(source, target)
    plain = procrustes(source, target, scaling=False, reflection=False)
    np.testing.assert_array_equal(model.transform(source), plain(source))
    assert model.scale_ == model.map_.scale == 1
    assert model.get_params() == {"scaling": False, "reflection": False}


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (np.ones((5, 3)), np.eye(5), "no voxel varies"),
        (np.eye(5), np.ones((5, 3)), "no voxel varies"),
        (np.eye(5), np.eye(6), "5 and 6 samples"),
        (np.eye(2), np.eye(2), "at least 3 samples"),
        (np.ones(5), np.ones(5), "n_samples, n_voxels"),
        (np.where(np.eye(5), np.nan, 1.0), np.eye(5), "not finite"),
        (np.eye(5), np.diag([1, 2, 3, 4, np.inf]), "not finite"),
        (np.diag([1, 2, 3, np.inf, -np.inf]), np.eye(5), "not finite"),
    ],
)
def test_bad_input_is_refused(source, target, words):
    with pytest.raises(InputError, match=words):
        procrustes(source, target)

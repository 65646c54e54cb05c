"""Maps to a frozen template: against scikit-learn, dense algebra, limits and planted subjects."""

import numpy as np
import pytest
from scipy.linalg import polar
from scipy.stats import ortho_group, ttest_rel
from sklearn.linear_model import Ridge

from emodecode.align.maps import GRIDS, choose_shrinkage, fit_map
from emodecode.align.procrustes import factor, procrustes, template
from emodecode.errors import InputError


def _pair(seed, *, n=40, m=90, c=None, noise=0.5, rank=15):
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((n, rank))
    S = shared @ rng.standard_normal((rank, m)) + noise * rng.standard_normal((n, m))
    T = shared @ rng.standard_normal((rank, c or m)) + noise * rng.standard_normal((n, c or m))
    return 3 + S, T - 2, rng.standard_normal((25, m))


def _unit(S):
    """Mean of the eigenvalues of S'S that are not zero."""
    powers = np.linalg.svd(S - S.mean(0), compute_uv=False) ** 2
    return powers[powers > 1e-9].mean()


def _singular(S, T):
    values = np.linalg.svd((S - S.mean(0)).T @ (T - T.mean(0)), compute_uv=False)
    return values[values > 1e-9 * values[0]].mean()


@pytest.mark.parametrize(("n", "m", "c"), [(40, 90, 70), (40, 90, 12), (90, 40, 40), (60, 59, 200)])
@pytest.mark.parametrize("shrinkage", [0.01, 1.0, 50.0])
def test_ridge_equals_sklearn(n, m, c, shrinkage):
    S, T, fresh = _pair(0, n=n, m=m, c=c)
    mapped = fit_map(S, T, kind="ridge", shrinkage=shrinkage)
    theirs = Ridge(alpha=shrinkage * _unit(S), solver="svd").fit(S, T)
    np.testing.assert_allclose(mapped.matrix(), theirs.coef_.T, atol=1e-9)
    np.testing.assert_allclose(mapped(fresh), theirs.predict(fresh), atol=1e-9)


@pytest.mark.parametrize(("n", "m"), [(15, 60), (40, 60), (80, 60)])
@pytest.mark.parametrize("reflection", [True, False])
def test_promises_equals_dense_polar_factor(n, m, reflection):
    S, T, fresh = _pair(1, n=n, m=m)
    k = 0.7 * _singular(S, T)
    found = fit_map(S, T, kind="promises", shrinkage=0.7, reflection=reflection)
    S0, T0 = S - S.mean(0), T - T.mean(0)
    R = polar(S0.T @ T0 + k * np.eye(m))[0]
    if not reflection and np.linalg.det(R) < 0:
        U, _, Vt = np.linalg.svd(S0.T @ T0 + k * np.eye(m))
        R = U * np.r_[np.ones(m - 1), -1.0] @ Vt
    scale = np.trace(R.T @ S0.T @ T0) / np.sum(S0**2)
    np.testing.assert_allclose(found.matrix(), scale * R, atol=1e-9)
    np.testing.assert_allclose(found(fresh), (fresh - S.mean(0)) @ R * scale + T.mean(0), atol=1e-8)
    if 2 * (n - 1) < m:
        assert found.identity == 1.0
        assert found.left.shape == (m, 2 * (n - 1))


@pytest.mark.parametrize(("n", "m"), [(12, 60), (80, 10)])
def test_without_reflections_the_weakest_direction_is_turned(n, m):
    options = {"kind": "promises", "shrinkage": 0.01, "scaling": False}
    turned = 0
    for seed in range(8):
        S, T, _ = _pair(seed, n=n, m=m, rank=m)
        product = (S - S.mean(0)).T @ (T - T.mean(0)) + 0.01 * _singular(S, T) * np.eye(m)
        s = np.linalg.svd(product, compute_uv=False)
        improper = np.linalg.det(fit_map(S, T, **options).matrix()) < 0
        proper = fit_map(S, T, **options, reflection=False).matrix()
        assert np.linalg.det(proper) == pytest.approx(1.0)
        assert np.vdot(proper, product) == pytest.approx(s.sum() - 2 * s[-1] * improper)
        turned += improper
    assert 0 < turned < 8


def test_promises_lies_between_procrustes_and_identity():
    S, T, fresh = _pair(2, n=80, m=30, rank=30)
    rotated = procrustes(S, T)
    np.testing.assert_allclose(
        fit_map(S, T, kind="promises", shrinkage=1e-12).matrix(), rotated.matrix(), atol=1e-9
    )
    same = fit_map(S, S * 4, kind="promises", shrinkage=1e12)
    np.testing.assert_allclose(same(fresh), (fresh - S.mean(0)) * 4 + 4 * S.mean(0), atol=1e-8)
    far = fit_map(S, T, kind="promises", shrinkage=1e12, scaling=False)
    np.testing.assert_allclose(far.matrix(), np.eye(30), atol=1e-8)


def test_orthogonal_is_procrustes():
    S, T, fresh = _pair(3)
    np.testing.assert_array_equal(fit_map(S, T)(fresh), procrustes(S, template(T))(fresh))


@pytest.mark.parametrize("kind", ["orthogonal", "ridge", "promises"])
def test_factors_and_float32_change_nothing_but_precision(kind):
    S, T, fresh = _pair(4)
    plain = fit_map(S, T, kind=kind, shrinkage=0.5)
    shared = fit_map(factor(S), template(T), kind=kind, shrinkage=0.5)
    np.testing.assert_allclose(shared(fresh), plain(fresh), atol=1e-10)
    single = fit_map(S.astype(np.float32), T, kind=kind, shrinkage=0.5)
    assert single.left.dtype == single.right.dtype == np.float32
    mapped = single(fresh.astype(np.float32))
    assert mapped.dtype == np.float32
    np.testing.assert_allclose(mapped, plain(fresh), atol=1e-3)


@pytest.mark.parametrize("kind", ["ridge", "promises"])
def test_no_matrix_of_voxels_by_voxels(kind):
    rng = np.random.default_rng(5)
    S, T = rng.standard_normal((2, 12, 30_000))  # 7 GiB as a matrix of voxels x voxels
    found = fit_map(S, T, kind=kind)
    assert found.nbytes < 30_000 * 8 * (4 * 12)
    assert found(S).shape == S.shape


@pytest.mark.parametrize("kind", ["ridge", "promises"])
@pytest.mark.parametrize("n", [33, 150])
def test_auto_equals_the_slow_way(kind, n):
    S, T, _ = _pair(6, n=n, m=40, noise=1.0)
    blocks = np.repeat(["a", "b", "c"], n // 3)
    shift = np.repeat(np.random.default_rng(0).standard_normal((3, 40)), n // 3, axis=0)
    S, T = S + 3 * shift, T + shift  # blocks with means of their own
    found = []
    for value in GRIDS[kind]:
        total = 0.0
        for name in "abc":
            held = blocks == name
            centre = T[~held].mean(axis=0)
            mapped = fit_map(S[~held], T[~held], kind=kind, shrinkage=value)(S[held]) - centre
            total += _cosine(mapped, T[held] - centre)
        found.append(total)
    best = GRIDS[kind][int(np.argmax(found))]
    assert 0 < int(np.argmax(found)) < len(found) - 1  # the answer lies inside the grid
    assert choose_shrinkage(S, T, kind=kind, blocks=blocks) == best
    auto = fit_map(S, T, kind=kind, blocks=blocks)
    np.testing.assert_array_equal(auto.matrix(), fit_map(S, T, kind=kind, shrinkage=best).matrix())


def test_auto_takes_nearly_the_best():
    """Against the template without its noise, on other samples: no more than .02 is lost."""
    lost = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        shared, axes = rng.standard_normal((200, 10)), rng.standard_normal((2, 10, 80))
        clean = shared @ axes[1]
        T = clean + 4 * rng.standard_normal((200, 80))
        S = shared @ axes[0] + 4 * rng.standard_normal((200, 80))
        maps = [fit_map(S[:100], T[:100], kind="ridge", shrinkage=v) for v in GRIDS["ridge"]]
        auto = fit_map(S[:100], T[:100], kind="ridge")
        reached = [_correlation(each(S[100:]), clean[100:]) for each in maps]
        lost.append(max(reached) - _correlation(auto(S[100:]), clean[100:]))
        assert max(reached) - min(reached) > 0.05
    assert np.mean(lost) < 0.02


def test_more_noise_asks_for_more_shrinkage():
    chosen = [
        np.median([choose_shrinkage(*_pair(s, noise=noise)[:2], kind="ridge") for s in range(5)])
        for noise in (0.1, 3.0, 30.0)
    ]
    assert chosen[0] < chosen[1] < chosen[2]


def test_ridge_beats_orthogonal_where_few_dimensions_are_shared():
    """Held-out rows of planted subjects: ten shared dimensions in 60 noisy voxels."""
    gain, noise = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        shared, axes = rng.standard_normal((200, 10)), rng.standard_normal((2, 10, 60))
        T = shared @ axes[1] + rng.standard_normal((200, 60))
        for signal, into in ((1.0, gain), (0.0, noise)):
            S = signal * shared @ axes[0] + 4 * rng.standard_normal((200, 60))
            maps = [fit_map(S[:100], T[:100], kind=kind) for kind in ("ridge", "orthogonal")]
            into.append([_correlation(each(S[100:]), T[100:]) for each in maps])
    gain, noise = np.array(gain), np.array(noise)
    assert ttest_rel(*gain.T).pvalue < 1e-3
    assert (gain[:, 0] - gain[:, 1]).min() > 0.1
    assert np.abs(noise.mean(axis=0)).max() < 0.05  # nothing shared, nothing gained


def test_prior_helps_where_voxels_nearly_correspond():
    found = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        turn = polar(np.eye(60) + 0.05 * rng.standard_normal((60, 60)))[0]
        T = rng.standard_normal((80, 60))
        S = T @ turn.T + rng.standard_normal((80, 60))
        maps = [fit_map(S[:40], T[:40], kind=kind) for kind in ("promises", "orthogonal")]
        found.append([_correlation(each(S[40:]), T[40:]) for each in maps])
    found = np.array(found)
    assert (found[:, 0] - found[:, 1]).min() > 0.05


def test_constant_voxels_and_few_rows():
    S, T, fresh = _pair(7, n=3, m=20)
    S[:, 4] = 1e6
    for kind in ("ridge", "promises"):
        found = fit_map(S, T, kind=kind)
        assert np.isfinite(found(fresh)).all()
    np.testing.assert_array_equal(fit_map(S, T, kind="ridge").matrix()[4], 0)


def test_axes_are_appended():
    S, T, fresh = _pair(8, n=15, m=60)
    S[:, 3] = 1.0
    axes = ortho_group.rvs(60, random_state=0)[:, :4]
    for kind in ("ridge", "promises"):
        found = fit_map(S, T, kind=kind, shrinkage=1.0)
        shorter = found.through(axes)
        np.testing.assert_allclose(shorter(fresh), found(fresh) @ axes, atol=1e-9)
        np.testing.assert_array_equal(shorter.constant, [3])


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"kind": "affine"}, "affine"),
        ({"kind": "ridge", "shrinkage": 0.0}, "shrinkage"),
        ({"kind": "ridge", "shrinkage": "best"}, "best"),
        ({"kind": "ridge", "blocks": np.zeros(40)}, "inner folds"),
        ({"kind": "promises", "c": 7}, "90 voxels and 7 common dimensions"),
        ({"kind": "ridge", "cut": 1}, "39 samples"),
    ],
)
def test_errors_say_what_is_wrong(options, named):
    S, T, _ = _pair(9, c=options.pop("c", None))
    cut = options.pop("cut", 0)
    with pytest.raises(InputError, match=named):
        fit_map(S[cut:], T, **options)


def _cosine(a, b):
    return np.vdot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)


def _correlation(a, b):
    a, b = a - a.mean(0), b - b.mean(0)
    return np.mean((a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0)))

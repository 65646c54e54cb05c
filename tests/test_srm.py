"""Shared response model: planted truth, its objective, and Procrustes as the special case."""

import numpy as np
import pytest
from scipy.linalg import qr, subspace_angles

from emodecode.align.procrustes import factor, procrustes
from emodecode.align.srm import map_to_shared, shared_response
from emodecode.errors import InputError


def _subjects(seed, *, voxels=(50, 70, 40), n=60, k=4, noise=0.0):
    rng = np.random.default_rng(seed)
    S = rng.standard_normal((n, k)) * np.linspace(3, 1, k)
    S -= S.mean(axis=0)
    bases = [qr(rng.standard_normal((m, k)), mode="economic")[0] for m in voxels]
    data = [S @ W.T + noise * rng.standard_normal((n, len(W))) + 5 for W in bases]
    return S, bases, data


def _objective(data, shared, mappers):
    return sum(
        np.sum((X - X.mean(0) - shared @ each.matrix().T) ** 2)
        for X, each in zip(data, mappers, strict=True)
    )


@pytest.mark.parametrize("voxels", [(50, 70, 40), (300, 200, 250), (4, 90, 30)])
def test_planted_responses_and_bases_are_found(voxels):
    S, bases, data = _subjects(0, voxels=voxels)
    shared, mappers = shared_response(data, n_components=4)
    assert subspace_angles(S, shared).max() < 1e-6
    turn = np.linalg.lstsq(shared, S, rcond=None)[0]
    np.testing.assert_allclose(turn @ turn.T, np.eye(4), atol=1e-8)  # the same up to a rotation
    for X, W, each in zip(data, bases, mappers, strict=True):
        np.testing.assert_allclose(each.matrix() @ turn, W, atol=1e-8)
        np.testing.assert_allclose(each(X), shared, atol=1e-8)


def test_noisy_responses_are_found_better_than_by_one_subject():
    S, _, data = _subjects(1, voxels=(60,) * 8, noise=1.0)
    shared, mappers = shared_response(data, n_components=4)
    whole = subspace_angles(S, shared).max()
    alone = subspace_angles(S, np.linalg.svd(data[0] - data[0].mean(0))[0][:, :4]).max()
    assert whole < 0.6 * alone
    for each in mappers:
        W = each.matrix()
        np.testing.assert_allclose(W.T @ W, np.eye(4), atol=1e-10)


def test_objective_never_rises():
    _, _, data = _subjects(2, noise=2.0)
    values = []
    for n_iter in range(8):
        values.append(_objective(data, *shared_response(data, n_components=5, n_iter=n_iter)))
    assert (np.diff(values[1:]) <= 1e-9 * values[0]).all()
    assert values[-1] < values[1] - 1e-6


def test_all_dimensions_of_two_subjects_are_procrustes():
    rng = np.random.default_rng(3)
    A = rng.standard_normal((80, 12))
    B = A @ qr(rng.standard_normal((12, 12)))[0] + 0.5 * rng.standard_normal((80, 12))
    shared, (map_a, map_b) = shared_response([A, B], n_components=12, n_iter=20)
    to_b = map_a.matrix() @ map_b.matrix().T
    np.testing.assert_allclose(to_b, procrustes(A, B, scaling=False).matrix(), atol=1e-9)
    assert np.all(np.diff(np.sum(shared**2, axis=0)) <= 0)


def test_order_rotation_and_precision_of_subjects_do_not_matter():
    _, _, data = _subjects(4, noise=0.3)
    shared, mappers = shared_response(data, n_components=4, n_iter=30)
    other, _ = shared_response(data[::-1], n_components=4, n_iter=30)
    np.testing.assert_allclose(other, shared, atol=1e-7)
    turn = qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    turned, _ = shared_response([data[0] @ turn, *data[1:]], n_components=4, n_iter=30)
    np.testing.assert_allclose(turned, shared, atol=1e-7)
    single = [X.astype(np.float32) for X in data]
    again, small = shared_response(single, n_components=4, n_iter=30)
    np.testing.assert_allclose(again, shared, atol=1e-3)
    assert small[0](single[0]).dtype == np.float32 == small[0].left.dtype
    factored, _ = shared_response([factor(X) for X in data], n_components=4, n_iter=30)
    np.testing.assert_allclose(factored, shared, atol=1e-10)
    np.testing.assert_allclose(
        map_to_shared(data[1], shared).matrix(), mappers[1].matrix(), atol=1e-12
    )


def test_new_subject_gets_to_the_frozen_responses():
    S, _, data = _subjects(5, voxels=(50, 70, 40, 65), n=120, noise=0.2)
    shared, _ = shared_response([X[:80] for X in data[:3]], n_components=4)
    turn = np.linalg.lstsq(shared, S[:80], rcond=None)[0]
    new = map_to_shared(data[3][:80], shared)
    found = new(data[3][80:]) @ turn
    assert np.corrcoef(found.ravel(), S[80:].ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda data: (data, 41), "41"),
        (lambda data: (data, 0), "n_components = 0"),
        (lambda data: (data[:1], 4), "1 data sets"),
        (lambda data: ([data[0], data[1][1:]], 4), "59 and 60 samples"),
    ],
)
def test_errors_say_what_is_wrong(change, named):
    data, k = change(_subjects(6)[2])
    with pytest.raises(InputError, match=named):
        shared_response(data, n_components=k)
    with pytest.raises(InputError, match="59 and 60"):
        map_to_shared(_subjects(6)[2][0], np.ones((59, 3)))

"""trace: row numbers that stay true through indexing and are lost where they would not be."""

import os
import pickle
import resource

import numpy as np
import pytest

from emodecode.evaluate.ledger import trace, trace_like


def _random_index(rng, n, ndim):
    first = [
        lambda: slice(*sorted(rng.integers(-n, n + 1, size=2).tolist()), int(rng.integers(1, 3))),
        lambda: slice(None, None, -1),
        lambda: rng.integers(-n, n, size=int(rng.integers(0, 2 * n + 1))),
        lambda: rng.integers(-n, n, size=int(rng.integers(0, n + 1))).tolist(),
        lambda: rng.random(n) < 0.7,
    ][rng.integers(5)]()
    if rng.random() < 0.5:
        return first
    return (first, *[slice(None)] * int(rng.integers(0, ndim)))


@pytest.mark.parametrize("shape", [(17,), (17, 3), (17, 3, 4)])
def test_rows_follow_any_chain_of_indexings(shape):
    rng = np.random.default_rng(len(shape))
    X = rng.normal(size=shape)
    for _ in range(200):
        traced, plain, rows = trace(X), X, np.arange(17)
        while len(rows) and rng.random() < 0.8:
            index = _random_index(rng, len(rows), len(shape))
            first = index[0] if isinstance(index, tuple) else index
            first = np.asarray(first, dtype=np.intp) if isinstance(first, list) else first
            traced, plain, rows = traced[index], plain[index], rows[first]
            np.testing.assert_array_equal(traced.rows, rows)
            np.testing.assert_array_equal(np.asarray(traced), plain)
            np.testing.assert_array_equal(np.asarray(traced), X[traced.rows])


@pytest.mark.parametrize(
    "change",
    [
        lambda X: X[0],
        lambda X: X[None],
        lambda X: X[..., 0],
        lambda X: X[[[0, 1], [2, 3]]],
        lambda X: X[X > 0],
        lambda X: X[[0, 1], [2, 3]],
        lambda X: X[:, [0, 1], :, 0],
        lambda X: X.T,
        lambda X: X.reshape(-1, 6),
        lambda X: X.swapaxes(0, 1),
        lambda X: X.mean(axis=0, keepdims=True),
        lambda X: np.concatenate([X, X]),
        lambda X: np.roll(X, 1, axis=0),
        lambda X: np.sort(X, axis=0),
        lambda X: pickle.loads(pickle.dumps(X)),
    ],
)
def test_whatever_else_changes_rows_loses_them(change):
    X = trace(np.random.default_rng(0).normal(size=(6, 6, 6, 6)))
    assert getattr(change(X), "rows", None) is None


def test_rows_stay_with_columns_taken_and_go_with_foreign_values():
    X = trace(np.arange(12.0).reshape(4, 3))[[3, 1]]
    assert X[:, [0, 2]].rows.tolist() == [3, 1]
    assert X[::-1, 0].rows.tolist() == [1, 3]
    assert trace(X) is X
    assert trace_like(np.zeros((2, 9)), X).rows.tolist() == [3, 1]
    assert trace_like(np.zeros((3, 9)), X).rows is None
    X[0] = 5.0
    assert X.rows is None


def test_memory_map_is_not_read(tmp_path):
    path, shape = tmp_path / "X.dat", (200_000, 5_000)
    with path.open("wb") as file:
        os.truncate(file.fileno(), 4 * shape[0] * shape[1])
    X = np.memmap(path, dtype=np.float32, mode="r", shape=shape)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    traced = trace(X)
    assert traced[50:60].rows.tolist() == list(range(50, 60))
    assert np.shares_memory(traced[50:60], X[50:60])
    assert traced[[199_999, 3]].sum() == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000

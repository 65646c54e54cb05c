"""Surrogates keep spectra and correlations exactly and nothing that is locked to labels."""

import numpy as np
import pytest

from designs import blocks, rows_table
from emodecode.evaluate.surrogate import surrogate


def _data(table, n_voxels=7, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((n_voxels, n_voxels))
    walk = np.cumsum(rng.standard_normal((len(table), n_voxels)), axis=0)
    return (0.1 * walk @ mixing + 100).astype(np.float32)


def _scans(table):
    return [rows.to_numpy() for rows in table.groupby(["subject", "run"]).groups.values()]


@pytest.mark.parametrize("length", [10, 11], ids=["even", "odd"])
def test_spectra_and_cross_covariances_are_exact(length):
    table = blocks(n_subjects=3, n_blocks=9, length=length)
    X = _data(table)
    found = surrogate(X, table, seed=1)
    assert found.dtype == np.float32
    assert found.shape == X.shape
    for rows in _scans(table):
        before, after = (np.fft.rfft(each[rows].astype(float), axis=0)[1:] for each in (X, found))
        scale = np.abs(before).max()
        np.testing.assert_allclose(np.abs(after), np.abs(before), atol=1e-5 * scale)
        pairs = [each[:, :, None] * each[:, None, :].conj() for each in (before, after)]
        np.testing.assert_allclose(pairs[1], pairs[0], atol=1e-5 * scale**2)
        covariances = [np.cov(each[rows].T.astype(float)) for each in (X, found)]
        np.testing.assert_allclose(covariances[1], covariances[0], rtol=1e-3, atol=1e-3)
        assert np.abs(np.corrcoef(X[rows, 0], found[rows, 0])[0, 1]) < 0.95


def test_phases_are_shared_by_voxels_and_not_by_scans():
    table = blocks(n_subjects=2)
    X = np.tile(_data(table.iloc[:180]), (2, 1))  # the second subject is a copy of the first
    found = surrogate(X, table, seed=0)
    turned = []
    for rows in _scans(table):
        ratio = np.fft.rfft(found[rows], axis=0)[1:5] / np.fft.rfft(X[rows], axis=0)[1:5]
        np.testing.assert_allclose(ratio, ratio[:, :1].repeat(X.shape[1], axis=1), atol=1e-3)
        turned.append(ratio[:, 0])
    assert len({tuple(np.round(each, 2)) for each in turned}) == len(turned)


def test_means_get_one_sign_for_each_subject_and_scan():
    table = blocks(n_subjects=4)
    X = _data(table)
    grand = np.mean([X[table["subject"] == s].mean(axis=0) for s in set(table["subject"])], axis=0)
    signs = set()
    for seed in range(6):
        found = surrogate(X, table, seed=seed)
        for name, own in table.groupby("subject"):
            mean = X[own.index].mean(axis=0)
            scans = [rows.to_numpy() for rows in own.groupby("run").groups.values()]
            fits = [
                (a, b)
                for a in (-1, 1)
                for b in (-1, 1)
                if np.allclose(
                    found[scans[0]].mean(axis=0),
                    grand + a * (mean - grand) + b * (X[scans[0]].mean(axis=0) - mean),
                    atol=1e-3,
                )
            ]
            assert len(fits) == 1, name
            signs |= set(fits)
    assert len(signs) == 4


def test_rows_that_are_not_asked_for_stay():
    table = blocks(n_subjects=3)
    X = _data(table)
    own = np.flatnonzero(table["subject"] == "02")
    found = surrogate(X, table, seed=0, rows=own)
    others = np.setdiff1d(np.arange(len(table)), own)
    np.testing.assert_array_equal(found[others], X[others])
    np.testing.assert_array_equal(found[own], surrogate(X, table, seed=0)[own])
    assert not np.allclose(found[own], X[own])


def test_order_labels_chunks_and_memory_maps_do_not_matter(tmp_path, monkeypatch):
    table = blocks(n_subjects=3)
    X = _data(table)
    expected = surrogate(X, table, seed=3)
    order = np.random.default_rng(0).permutation(len(table))
    moved = surrogate(X[order], table.iloc[order].reset_index(drop=True), seed=3)
    np.testing.assert_allclose(moved, expected[order], atol=1e-4)
    np.testing.assert_array_equal(surrogate(X, table.assign(label="x"), seed=3), expected)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    monkeypatch.setattr("emodecode.evaluate.surrogate._CHUNK_VALUES", 2 * len(X))
    np.testing.assert_allclose(surrogate(mapped, table, seed=3), expected, atol=1e-4)
    assert not np.allclose(surrogate(X, table, seed=4), expected)


def test_rows_without_onsets_are_put_in_another_order():
    table = rows_table(n_subjects=3, n_each=4)
    X = _data(table)
    found = surrogate(X, table, seed=0)
    for rows in _scans(table):
        before, after = (each[rows] - each[rows].mean(axis=0) for each in (X, found))
        np.testing.assert_allclose(np.sort(after[:, 0]), np.sort(before[:, 0]), atol=1e-4)
        assert not np.allclose(after, before, atol=1e-3)


def test_a_difference_between_groups_of_single_rows_is_gone():
    table = rows_table(n_subjects=200, n_each=1, labels=("patient",))
    sick = np.arange(200) < 100
    X = np.where(sick, 1.0, -1.0)[:, None].astype(np.float32) * np.ones((1, 3), np.float32)
    found = surrogate(X, table, seed=0)
    assert abs(found[sick].mean() - found[~sick].mean()) < 0.5

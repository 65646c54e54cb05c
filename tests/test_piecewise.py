"""Pieces: parcels and overlapping searchlights against spaces of their own and brute force."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.base import clone

from emodecode.align.piecewise import PieceMap, piece_columns, searchlights
from emodecode.align.space import CommonSpace
from emodecode.errors import InputError

NAMES = ("01", "02", "03")


def _study(seed=0, *, n=30, m=26, names=NAMES, dtype=np.float64):
    rng = np.random.default_rng(seed)
    film = rng.standard_normal((n, 6)) @ rng.standard_normal((6, m))
    X = [film @ np.linalg.qr(rng.standard_normal((m, m)))[0] for _ in names]
    X = np.concatenate(X) + 0.3 * rng.standard_normal((n * len(names), m))
    return X.astype(dtype), np.tile(np.arange(n), len(names)), np.repeat(names, n)


KINDS = [
    {"map": "orthogonal"},
    {"map": "ridge"},
    {"map": "promises"},
    {"map": "orthogonal", "method": "template"},
    {"map": "orthogonal", "alpha": 0.5},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("form", ["labels", "columns"])
def test_one_piece_is_the_whole(options, form):
    X, y, subjects = _study()
    pieces = np.full(26, 4) if form == "labels" else [np.arange(26)]
    whole = CommonSpace(**options).fit(X, y, subjects=subjects)
    piece = CommonSpace(**options, pieces=pieces).fit(X, y, subjects=subjects)
    np.testing.assert_allclose(
        piece.transform(X, subjects=subjects), whole.transform(X, subjects=subjects), atol=1e-12
    )
    np.testing.assert_allclose(piece.template_, whole.template_, atol=1e-12)
    assert piece.shrinkage_ == whole.shrinkage_


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_parcels_are_spaces_of_their_own_and_the_rest_passes(options):
    X, y, subjects = _study(1)
    labels = np.r_[np.full(9, 7), np.zeros(3, dtype=int), np.full(14, 2)]
    labels = np.random.default_rng(0).permutation(labels)
    step = CommonSpace(**options, pieces=labels).fit(X, y, subjects=subjects)
    found = step.transform(X, subjects=subjects)
    np.testing.assert_array_equal(found[:, labels == 0], X[:, labels == 0])
    for label in (2, 7):
        part = X[:, labels == label]
        alone = CommonSpace(**options).fit(part, y, subjects=subjects)
        expected = alone.transform(part, subjects=subjects)
        np.testing.assert_allclose(found[:, labels == label], expected, atol=1e-12)
        np.testing.assert_allclose(step.template_[:, labels == label], alone.template_)


def test_overlapping_pieces_are_averaged():
    X, y, subjects = _study(2)
    pieces = [np.arange(0, 12), np.arange(8, 20), np.array([10, 3, 21])]
    step = CommonSpace(map="ridge", pieces=pieces).fit(X, y, subjects=subjects)
    total, count = np.zeros_like(X), np.zeros(26)
    for columns in pieces:
        alone = CommonSpace(map="ridge").fit(X[:, columns], y, subjects=subjects)
        total[:, columns] += alone.transform(X[:, columns], subjects=subjects)
        count[columns] += 1
    expected = np.where(count > 0, total / np.maximum(count, 1), X)
    np.testing.assert_allclose(step.transform(X, subjects=subjects), expected, atol=1e-12)


def test_weights_go_back_through_the_pieces():
    X, y, subjects = _study(3)
    pieces = [np.arange(0, 12), np.arange(8, 20)]
    step = CommonSpace(pieces=pieces).fit(X, y, subjects=subjects)
    mapper = step.maps_["02"]
    coef, intercept = np.random.default_rng(0).standard_normal((4, 26)), np.arange(4.0)
    weights, offset = mapper.weights_to_input(coef, intercept)
    np.testing.assert_allclose(X @ weights.T + offset, mapper(X) @ coef.T + intercept, atol=1e-10)
    assert (mapper.n_voxels, mapper.n_common) == (26, 26)
    weights, _ = step.weights_to_input(coef, intercept)
    np.testing.assert_allclose(weights[:, 20:], coef[:, 20:], atol=1e-14)  # in no piece


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_adapt_maps_every_piece_to_its_frozen_template(options):
    X, y, subjects = _study(4)
    step = CommonSpace(**options, pieces=np.repeat([1, 2], 13)).fit(X, y, subjects=subjects)
    before = step.template_.copy()
    own = subjects == "03"
    again = step.adapt(X[own][::-1], y[own][::-1], "03")
    np.testing.assert_allclose(again.maps_["03"](X), step.maps_["03"](X), atol=1e-10)
    new = clone(step).fit(X[~own], y[~own], subjects=subjects[~own])
    assert set(new.maps_) == {"01", "02"}
    assert set(new.adapt(X[own], y[own], "03").maps_) == {"01", "02", "03"}
    assert set(new.maps_) == {"01", "02"}
    np.testing.assert_array_equal(step.template_, before)


def test_precision_stays():
    X, y, subjects = _study(5, dtype=np.float32)
    step = CommonSpace(pieces=[np.arange(12), np.arange(6, 26)]).fit(X, y, subjects=subjects)
    mapper = step.maps_["01"]
    assert step.transform(X, subjects=subjects).dtype == np.float32
    assert all(part.left.dtype == np.float32 for part in mapper.maps)
    assert mapper.nbytes < 2 * 26 * 26 * 8


def test_searchlights_equal_brute_force():
    grid = 3.0 * np.argwhere(np.ones((6, 5, 4)))
    spheres = searchlights(grid, radius_mm=6.0)
    near = cdist(grid, grid) <= 6.0
    assert len(spheres) == len(grid)
    for own, sphere in zip(near, spheres, strict=True):
        np.testing.assert_array_equal(sphere, np.flatnonzero(own))
    few = searchlights(grid, radius_mm=3.0, stride=40)
    assert len(few) < len(grid)
    assert np.unique(np.concatenate(few)).size == len(grid)  # no voxel is left out


def test_searchlight_space_aligns_what_anatomy_does_not():
    """Each subject's voxels are shuffled within 2 mm cubes: searchlights find them again."""
    grid = 2.0 * np.argwhere(np.ones((4, 4, 4)))
    cube = np.unique(grid // 4, axis=0, return_inverse=True)[1].ravel()
    rng = np.random.default_rng(0)
    film = rng.standard_normal((160, 64))
    data = []
    for _ in NAMES:
        order = np.arange(64)
        for each in range(8):
            order[cube == each] = rng.permutation(order[cube == each])
        data.append(film[:, order] + 0.3 * rng.standard_normal(film.shape))
    fit, test = [d[:80] for d in data], [d[80:] for d in data]
    subjects, y = np.repeat(NAMES, 80), np.tile(np.arange(80), 3)
    pieces = searchlights(grid, radius_mm=4.0)
    step = CommonSpace(pieces=pieces).fit(np.concatenate(fit), y, subjects=subjects)
    mapped = [step.transform(d, subjects=[name] * 80) for name, d in zip(NAMES, test, strict=True)]

    def alike(a, b):
        return np.mean([np.corrcoef(x, z)[0, 1] for x, z in zip(a.T, b.T, strict=True)])

    assert alike(mapped[0], mapped[1]) > alike(test[0], test[1]) + 0.3


@pytest.mark.parametrize(
    ("pieces", "named"),
    [
        (np.zeros(26, dtype=int), "no piece"),
        (np.ones(25, dtype=int), r"shape \(25,\)"),
        (np.ones(26), "float64"),
        (-np.ones(26, dtype=int), "whole numbers from 0"),
        ([np.arange(27)], "from 0 to 26"),
        ([np.array([1, 1])], "each once"),
        ([], "no piece"),
    ],
)
def test_bad_pieces_are_refused(pieces, named):
    with pytest.raises(InputError, match=named):
        piece_columns(pieces, 26)


def test_other_errors_say_what_is_wrong():
    X, y, subjects = _study()
    with pytest.raises(InputError, match="srm"):
        CommonSpace(method="srm", pieces=np.ones(26, dtype=int)).fit(X, y, subjects=subjects)
    with pytest.raises(InputError, match="n_components"):
        CommonSpace(n_components=3, pieces=np.ones(26, dtype=int)).fit(X, y, subjects=subjects)
    X[subjects == "02", 13:] = 0.0
    with pytest.raises(InputError, match=r"piece 2 \(13 voxels, the first is 13\)"):
        CommonSpace(pieces=np.repeat([1, 2], 13)).fit(X, y, subjects=subjects)
    with pytest.raises(InputError, match="radius 0"):
        searchlights(np.zeros((4, 3)), radius_mm=0)
    with pytest.raises(InputError, match="shape"):
        PieceMap([], [], 5)(np.zeros((2, 4)))


@pytest.mark.slow
def test_whole_brain_in_parcels_fits_in_memory():
    """20 subjects x 1,000 volumes x 5,000 voxels in 25 parcels: under 2 GiB with the data."""
    tracemalloc.start()
    X = np.random.default_rng(0).standard_normal((20_000, 5_000), dtype=np.float32)
    y, subjects = np.tile(np.arange(1000), 20), np.repeat(np.char.mod("%02d", np.arange(20)), 1000)
    step = CommonSpace(pieces=np.repeat(np.arange(1, 26), 200))
    step.fit(X, y, subjects=subjects)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.3 * 2**30
    assert sum(each.nbytes for each in step.maps_.values()) < 2**28

"""Occlusion of decoders: every way says what decoding the changed samples says."""

import numpy as np
import pytest
import sklearn

from emodecode.errors import InputError
from emodecode.explain.fills import FILLS, make_fill
from emodecode.explain.occlusion import occlude_samples
from emodecode.explain.units import box_units, make_units, region_units, searchlight_units
from small_decoder import CLASSES, INSIDE, SUBJECTS, X, Y, fit

pytestmark = pytest.mark.usefixtures("one_thread")
UNITS = {
    "boxes": box_units(INSIDE, box_vox=2, stride_vox=2),
    "odd boxes": box_units(INSIDE, box_vox=(3, 1, 2), stride_vox=(2, 2, 1)),
    "regions": region_units(np.arange(len(X[0])) % 7),
    "lights": searchlight_units(INSIDE, np.diag([3.0, 3, 3.5, 1]), radius_mm=5, every_vox=2),
}


def one_by_one(fitted, rows, fills, units):
    found = np.zeros((len(rows), len(units), len(CLASSES)))
    with sklearn.config_context(enable_metadata_routing=True):
        for u, own in enumerate(units.columns):
            for each in fills:
                changed = rows.copy()
                changed[:, own] = each[:, own]
                found[:, u] += fitted.predict_proba(changed) / len(fills)
    return found


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize(
    ("kind", "params", "way"),
    [
        ("lda", {}, "closed form"),
        ("logistic", {}, "closed form"),
        ("rbf_svm", {}, "batched"),
        ("separable3d", {"max_epochs": 1, "n_members": 1}, "incremental"),
        ("small3d", {"max_epochs": 2, "n_members": 2}, "batched"),
        ("small3d", {"max_epochs": 2, "n_members": 1, "normalise": "volume"}, "batched"),
        ("conv1d", {"max_epochs": 2}, "batched"),
    ],
)
def test_every_way_is_that_of_changed_samples(kind, params, way, units):
    choices = {"n_voxels": 60} if way == "closed form" else {}
    fitted = fit(kind, params, **choices)
    how = {"labels": Y[:5], "subjects": SUBJECTS[:5], "n_draws": 2, "seed": 3}
    rows = X[:5]
    found = occlude_samples(fitted, rows, units=UNITS[units], **how)
    assert found.way == way
    wanted = one_by_one(fitted, rows, make_fill("conditional", rows, **how), UNITS[units])
    np.testing.assert_allclose(found.occluded, wanted, atol=2e-6)
    with sklearn.config_context(enable_metadata_routing=True):
        np.testing.assert_allclose(found.given, fitted.predict_proba(rows), atol=1e-6)
    own = [CLASSES.index(each) for each in Y[:5]]
    np.testing.assert_allclose(
        found.drop_of(Y[:5])[2], found.given[2, own[2]] - found.occluded[2, :, own[2]]
    )


def test_two_classes_in_closed_form():
    two = np.isin(Y, CLASSES[:2])
    from emodecode.models.catalogue import make_pipeline_for

    fitted = make_pipeline_for("lda").fit(X[two], Y[two])
    found = occlude_samples(fitted, X[:3], units=UNITS["regions"], fill="voxel_mean", reference=X)
    changed = X[:3].copy()
    own = UNITS["regions"].columns[2]
    changed[:, own] = X[:, own].mean(axis=0)
    np.testing.assert_allclose(found.occluded[:, 2], fitted.predict_proba(changed), atol=1e-6)


def test_voxels_that_a_decoder_does_not_use_drop_nothing():
    """And those it uses do: the planted place is found."""
    rng = np.random.default_rng(0)
    y = np.repeat(["calm", "joy"], 30)
    values = rng.standard_normal((60, int(INSIDE.sum()))).astype(np.float32)
    planted = box_units(INSIDE, box_vox=2, stride_vox=2).columns[8]
    values[np.ix_(y == "joy", planted)] += 2
    from emodecode.models.catalogue import make_pipeline_for

    fitted = make_pipeline_for("logistic").fit(values, y)
    units = UNITS["boxes"]
    subjects = np.repeat("01", 60)
    drop = occlude_samples(fitted, values, units=units, labels=y, subjects=subjects).drop_of(y)
    assert drop.mean(axis=0).argmax() == 8
    others = np.delete(drop.mean(axis=0), 8)
    assert drop.mean(axis=0)[8] > 5 * np.abs(others).max()


def test_fills():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, (40, 6)).astype(np.float32)
    labels, subjects = np.tile(["a", "b"], 20), np.repeat(["1", "2"], 20)
    found = {
        kind: make_fill(kind, values, labels=labels, subjects=subjects, n_draws=3) for kind in FILLS
    }
    assert not found["zero"].any()
    np.testing.assert_allclose(found["voxel_mean"][0, 0], values.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["volume_mean"][0, :, 3], values.mean(axis=1), rtol=1e-6)
    assert found["noise"].shape == found["conditional"].shape == (3, 40, 6)
    np.testing.assert_allclose(found["noise"].std(axis=(0, 1)), values.std(axis=0), rtol=0.2)
    for draw in found["conditional"]:
        for number, row in enumerate(draw):
            (source,) = np.flatnonzero((values == row).all(axis=1))
            assert subjects[source] == subjects[number]
            assert labels[source] != labels[number]


def test_units_cover_what_they_say():
    voxels = np.argwhere(INSIDE)
    boxes = UNITS["boxes"]
    assert sorted(np.concatenate(boxes.columns)) == list(range(len(voxels)))
    for name, own in zip(boxes.names, boxes.columns, strict=True):
        corner = np.array([int(part) for part in name.split("-")])
        assert ((voxels[own] >= corner) & (voxels[own] < corner + 2)).all()
    lights = UNITS["lights"]
    places = voxels * [3, 3, 3.5]
    for name, own in zip(lights.names, lights.columns, strict=True):
        centre = np.array([int(part) for part in name.split("-")]) * [3, 3, 3.5]
        near = np.flatnonzero(np.linalg.norm(places - centre, axis=1) <= 5)
        np.testing.assert_array_equal(own, near)
    values = np.random.default_rng(0).standard_normal((2, len(lights)))
    spread = lights.spread(values)
    inside = [u for u, own in enumerate(lights.columns) if 17 in own]
    np.testing.assert_allclose(spread[:, 17], values[:, inside].mean(axis=1) if inside else 0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make_units({}, n_features=3), "none"),
        (lambda: make_units({"a": np.array([3])}, n_features=3), "some of 0 to 2"),
        (lambda: make_units({"a": np.zeros(3, bool)}, n_features=3), "0 columns"),
        (lambda: box_units(np.zeros((2, 2, 2))), "no voxel"),
        (lambda: box_units(INSIDE, box_vox=0), "box_vox"),
        (lambda: searchlight_units(INSIDE, np.eye(4), radius_mm=0), "radius above 0"),
        (lambda: region_units(np.array([1, 2]), names={1: "x", 2: "x"}), "one name for two"),
        (lambda: make_fill("mean", X), "one of subject, conditional"),
        (lambda: make_fill("conditional", X), "no label and subject"),
        (
            lambda: make_fill("conditional", X[:2], labels=["a", "a"], subjects=["1", "1"]),
            "one label only",
        ),
        (lambda: occlude_samples(fit("lda"), X[:, 1:], units=UNITS["boxes"]), "145 columns"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(InputError, match=words):
        call()


def test_values_of_the_subject_do_not_depend_on_labels():
    X = np.arange(40.0)[:, None] * np.ones(6)
    subjects = np.repeat(["1", "2"], 20).tolist()
    one = make_fill("subject", X, subjects=subjects, n_draws=3, seed=1)
    two = make_fill("subject", X, labels=["a"] * 40, subjects=subjects, n_draws=3, seed=1)
    np.testing.assert_array_equal(one, two)
    assert one.shape == (3, 40, 6)
    assert (one[:, :20] < 20).all()
    assert (one[:, 20:] >= 20).all()
    donors = (X[:5] - 100, ["a"] * 5, ["1"] * 5)
    assert (make_fill("subject", X[:3], subjects=["1"] * 3, donors=donors) < 0).all()
    with pytest.raises(InputError, match="no subject of each sample"):
        make_fill("subject", X)
    with pytest.raises(InputError, match="no sample to take values from"):
        make_fill("subject", X[:1], subjects=["2"], donors=donors)

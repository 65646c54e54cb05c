"""Maps by other methods, compared: planted truth, closed forms, blobs at known places."""

import json
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline

from emodecode.errors import InputError
from emodecode.explain.atlas import landmarks
from emodecode.explain.gradients import grad_cam, integrated_gradients
from emodecode.explain.group import infer_group
from emodecode.explain.patterns import haufe_patterns
from emodecode.explain.regions import region_means
from emodecode.explanation.compared import compare_methods, mean_maps, write_method_maps
from emodecode.explanation.methods import fold_maps, fold_subjects, join_folds
from emodecode.features.own import OwnVoxels
from emodecode.models.catalogue import make_pipeline_for
from emodecode.models.linear import linear_weights
from emodecode.models.volumenet import VolumeNetClassifier
from emodecode.output import write_json
from emodecode.report import wording
from emodecode.report.brain import make_backdrop
from emodecode.report.methods_maps import describe_methods
from emodecode.report.page import environment
from emodecode.samples import Samples
from emodecode.simulate.samples import simulate_samples

pytestmark = pytest.mark.usefixtures("one_thread")

SPACE = "MNI152NLin6Asym"
NETWORK_MASK = np.ones((6, 6, 6), dtype=bool)
CORNER = np.zeros_like(NETWORK_MASK)
CORNER[:2, :2, :2] = True


def _fold(samples, who):
    subject = samples.subjects
    return np.flatnonzero(~np.isin(subject, who)), np.flatnonzero(np.isin(subject, who))


def _maps(fitted, samples, test, *, rows=None, **more):
    given = {"classes": samples.classes, "test": test, "per_class": 4, "seed": 0} | more
    rows = test if rows is None else rows
    return fold_maps(fitted, samples.X, samples.table, rows, **given)


def _linear(samples, train, kind="lda"):
    return make_pipeline_for(kind).fit(samples.X[train], samples.y[train])


@pytest.fixture(scope="module")
def three():
    """Three classes; regions 3 and 4 of six (columns 80 to 159) carry them linearly."""
    return simulate_samples(
        code="linear", effect=2.0, shared=1.0, n_subjects=5, average="none", seed=0
    )


@pytest.mark.parametrize("kind", ["lda", "logistic", "linear_svm"])
def test_patterns_find_what_was_planted_and_are_those_of_the_closed_form(three, kind):
    train, test = _fold(three, ["04", "05"])
    fitted = _linear(three, train, kind)
    maps, notes = _maps(fitted, three, test)
    assert not notes
    assert list(maps) == ["haufe"]
    found = maps["haufe"]
    assert found.shape == (2, 3, 240)
    assert found.dtype == np.float32
    weights = linear_weights(fitted)[0]
    for place, who in enumerate(("04", "05")):
        X = three.X[three.subjects == who].astype(np.float64)
        each = np.concatenate([haufe_patterns(X, weights[k : k + 1]) for k in range(3)])
        np.testing.assert_allclose(found[place], each, rtol=1e-4, atol=1e-6)
        outputs = X @ weights.T
        direct = np.cov(X.T) @ weights.T / outputs.var(axis=0, ddof=1)
        np.testing.assert_allclose(found[place], direct.T, rtol=1e-3, atol=1e-4)
    planted = np.isin(np.arange(240) // 40, (2, 3))
    size = np.abs(found).mean(axis=(0, 1))
    assert average_precision_score(planted, size) > 0.9
    nothing = simulate_samples(code="null", n_subjects=5, average="none", seed=0)
    null, _ = _maps(_linear(nothing, train, kind), nothing, test)
    by_chance = np.abs(null["haufe"]).mean(axis=(0, 1))
    assert average_precision_score(planted, by_chance) < 0.55, "a third are planted"


@pytest.mark.parametrize("kind", ["lda", "linear_svm"])
def test_a_pattern_is_large_where_the_class_is_high(three, kind):
    train, test = _fold(three, ["04", "05"])
    found = _maps(_linear(three, train, kind), three, test)[0]["haufe"].mean(axis=0)
    X, y = three.X[test], three.y[test]
    for number, name in enumerate(three.classes):
        difference = X[y == name].mean(axis=0) - X[y != name].mean(axis=0)
        assert np.corrcoef(found[number], difference)[0, 1] > 0.9


def test_two_classes_get_a_pattern_and_its_negative():
    two = simulate_samples(code="linear", classes=("fear", "joy"), effect=2.0, n_subjects=3, seed=1)
    train, test = _fold(two, ["03"])
    fitted = _linear(two, train)
    maps, _ = _maps(fitted, two, test, classes=("joy", "fear"))
    joy, fear = maps["haufe"][0]
    pattern = haufe_patterns(two.X[test], linear_weights(fitted)[0])[0]
    np.testing.assert_allclose(joy, pattern, rtol=1e-5)  # fitted.classes_: fear, joy
    np.testing.assert_array_equal(fear, -joy)


def test_patterns_are_not_tested_because_those_of_noise_agree_over_subjects():
    noise = simulate_samples(code="null", n_subjects=8, average="none", seed=0)
    parts = []
    for who in sorted(set(noise.subjects)):
        train, test = _fold(noise, [who])
        found = _maps(_linear(noise, train), noise, test)[0]
        parts.append((fold_subjects(noise.table, test), found))
    joined = join_folds(parts, subjects=sorted(set(noise.subjects)), n_voxels=240)
    p = infer_group(joined["haufe"].reshape(8, -1)).p
    assert (p <= 0.05).sum() > 3, "all folds share weights: the signs of subjects are not free"


def test_classes_that_a_subject_lacks_have_no_map(three):
    train, test = _fold(three, ["04", "05"])
    lacking = test[~((three.subjects[test] == "05") & (three.y[test] == three.classes[1]))]
    found = _maps(_linear(three, train), three, lacking)[0]["haufe"]
    nan = np.isnan(found).all(axis=2)
    assert nan.tolist() == [[False, False, False], [False, True, False]]
    assert np.isnan(found).sum() == 240


@pytest.fixture(scope="module")
def volumes():
    """Two classes that differ in eight voxels of a corner, four subjects."""
    rng = np.random.default_rng(0)
    n = 160
    y = np.array(["fear", "joy"])[np.arange(n) % 2]
    X = rng.standard_normal((n, NETWORK_MASK.sum())).astype(np.float32)
    X[:, CORNER[NETWORK_MASK]] += np.where(y == "joy", 1.5, -1.5)[:, None].astype(np.float32)
    table = pd.DataFrame({"subject": np.repeat(["01", "02", "03", "04"], n // 4), "label": y})
    return X, table


@pytest.fixture(scope="module")
def network(volumes):
    X, table = volumes
    train = np.flatnonzero(table["subject"] != "04")
    kind = {"network": "separable3d", "mask": NETWORK_MASK, "device": "cpu", "n_members": 1}
    how = {"max_epochs": 3, "learning_rate": 1e-3, "random_state": 0}
    whose = table["subject"].to_numpy(dtype=str)[train]
    y = table["label"].to_numpy(dtype=str)
    return VolumeNetClassifier(**kind, **how).fit(X[train], y[train], subjects=whose)


def _of_network(network, volumes, **more):
    X, table = volumes
    test = np.flatnonzero(table["subject"] == "04")
    given = {"classes": ("fear", "joy"), "test": test, "per_class": 3, "n_steps": 4, "seed": 0}
    return fold_maps(network, X, table, test[4:30], **given | more)


def test_gradients_are_means_over_samples_of_a_class(network, volumes):
    X, table = volumes
    maps, notes = _of_network(network, volumes, per_class=100)
    assert not notes
    assert list(maps) == ["integrated_gradients", "grad_cam"]
    rows = np.flatnonzero(table["subject"] == "04")[4:30]
    for number, name in enumerate(("fear", "joy")):
        own = rows[table["label"].iloc[rows] == name]
        by_integral = integrated_gradients(network, X[own], target=name, n_steps=4)
        by_cam = grad_cam(network, X[own], target=name, relu=False)
        for method, values in (("integrated_gradients", by_integral), ("grad_cam", by_cam)):
            mean = values.mean(axis=0)
            np.testing.assert_allclose(maps[method][0, number], mean, rtol=1e-3, atol=1e-6)


def test_gradients_find_what_was_planted(volumes):
    X, table = volumes
    train = np.flatnonzero(table["subject"] != "04")
    y, whose = (table[name].to_numpy(dtype=str)[train] for name in ("label", "subject"))
    kind = {"network": "small3d", "mask": NETWORK_MASK, "device": "cpu", "n_members": 1}
    how = {"n_filters": 8, "max_epochs": 20, "learning_rate": 4e-3, "dropout": 0.0}
    net = VolumeNetClassifier(**kind, **how, random_state=0).fit(X[train], y, subjects=whose)
    maps, notes = _of_network(net, volumes, per_class=10)
    assert notes == ["No Grad-CAM: no maps of places in Small3D."]
    found = maps["integrated_gradients"][0].mean(axis=0)
    precision = average_precision_score(CORNER[NETWORK_MASK], found)
    assert precision > 0.6, "8 of 216 voxels: .04 by chance"


def test_gradients_are_drawn_by_the_seed_and_ten_of_ten_are_all(network, volumes):
    first, again = (_of_network(network, volumes)[0] for _ in range(2))
    other = _of_network(network, volumes, seed=1)[0]
    for method in first:
        np.testing.assert_array_equal(first[method], again[method])
        assert (first[method] != other[method]).any()
    many, all_ = (_of_network(network, volumes, per_class=n)[0] for n in (13, 100))
    np.testing.assert_array_equal(many["grad_cam"], all_["grad_cam"])


def test_classes_that_the_network_or_the_rows_lack_have_no_map(network, volumes):
    X, table = volumes
    rows = np.flatnonzero((table["subject"] == "04") & (table["label"] == "joy"))
    test = np.flatnonzero(table["subject"] == "04")
    maps, _ = fold_maps(
        network, X, table, rows, classes=("fear", "joy", "rage"), test=test, per_class=2, n_steps=2
    )
    for each in maps.values():
        assert np.isnan(each).all(axis=2).tolist() == [[True, False, True]]


@pytest.mark.parametrize(
    ("normalise", "said"), [("volume", "its own mean everywhere"), (None, "start from zeros")]
)
def test_another_starting_point_is_said(volumes, normalise, said):
    X, table = volumes
    y = table["label"].to_numpy(dtype=str)
    kind = {"network": "small3d", "mask": NETWORK_MASK, "device": "cpu", "n_members": 1}
    net = VolumeNetClassifier(**kind, max_epochs=1, normalise=normalise, n_filters=4)
    net.fit(X[:40], y[:40], subjects=np.repeat(["a", "b"], 20))
    (note,) = (n for n in _of_network(net, volumes)[1] if "start" in n)
    assert said in note


def test_without_captum_there_are_notes(network, volumes, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    maps, notes = _of_network(network, volumes)
    assert maps == {}
    assert [note.split(":")[0] for note in notes] == [
        "No integrated gradients",
        "No Grad-CAM",
    ]
    assert all("captum is not installed" in note for note in notes)


def test_a_network_on_vectors_has_no_places_for_grad_cam(three):
    train, test = _fold(three, ["04", "05"])
    params = {"max_epochs": 1, "n_members": 1}
    net = make_pipeline_for("conv1d", params=params, n_voxels=40)
    fitted = net.fit(three.X[train], three.y[train])
    maps, notes = _maps(fitted, three, test, n_steps=2, per_class=2)
    assert list(maps) == ["integrated_gradients"]
    assert maps["integrated_gradients"].shape == (2, 3, 240)
    assert notes == ["No Grad-CAM: it needs a 3-D network."]


def test_what_is_neither_linear_nor_a_network_has_a_note(three):
    train, test = _fold(three, ["05"])
    forest = Pipeline([("classifier", KNeighborsClassifier())])
    forest.fit(three.X[train], three.y[train])
    maps, (note,) = _maps(forest, three, test)
    assert maps == {}
    assert "neither linear nor a network (KNeighborsClassifier)" in note


def test_voxels_of_each_subjects_own_have_a_note(network, volumes):
    X, table = volumes
    own = OwnVoxels(5).fit(X, table["label"].to_numpy(), subjects=table["subject"].to_numpy())
    maps, (note,) = _of_network(Pipeline([("own", own), ("net", network)]), volumes)
    assert maps == {}
    assert "each subject's own" in note


def test_folds_are_joined_by_subject():
    one, other = (np.full((1, 2, 3), value, dtype=np.float32) for value in (1.0, 3.0))
    other[0, 1] = np.nan
    parts = [(("b",), {"haufe": one}), (("b",), {"haufe": other}), (("a",), {}), (("c",), {})]
    joined = join_folds(parts, subjects=["a", "b"], n_voxels=3)["haufe"]
    assert np.isnan(joined[0]).all()
    assert joined[1].tolist() == [[2.0] * 3, [1.0] * 3]
    table = pd.DataFrame({"subject": ["c", "a", "b", "a"]})
    assert fold_subjects(table, np.array([0, 1, 3])) == ("a", "c")


def _mni():
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = -88, -124, -70
    return nib.Nifti1Image(np.ones((45, 54, 45), dtype=np.uint8), affine)


def _blob(mask, centre, height=1.0):
    places = np.argwhere(np.asanyarray(mask.dataobj)) @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    return height * np.exp(-((places - np.array(centre)) ** 2).sum(axis=1) / (2 * 8.0**2))


def _subjects(mean, n=6, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    return mean[None, None] + noise * rng.standard_normal((n, 1, len(mean)))


def _compare(maps, **more):
    given = {"classes": ["joy"], "mask_image": _mni(), "space": SPACE}
    return compare_methods(maps, **given | more)


def test_a_map_agrees_with_itself_not_with_its_negative_nor_with_a_shuffled_one():
    own = _subjects(_blob(_mni(), (0, -64, 44)))
    shuffled = np.random.default_rng(1).permutation(own, axis=2)
    maps = {"grad_cam": shuffled, "occlusion": own, "haufe": own, "integrated_gradients": -own}
    told = _compare(maps)
    rows = {(row["one"], row["other"]): row for row in told["agreement"]}
    assert rows["occlusion", "haufe"]["voxels"] == pytest.approx(1)
    assert rows["occlusion", "haufe"]["regions"] == pytest.approx(1)
    assert rows["occlusion", "integrated_gradients"]["voxels"] == pytest.approx(-1)
    assert rows["occlusion", "integrated_gradients"]["regions"] == pytest.approx(-1)
    assert abs(rows["occlusion", "grad_cam"]["voxels"]) < 0.02
    assert abs(rows["occlusion", "grad_cam"]["regions"]) < 0.3
    assert told["methods"] == ["occlusion", "haufe", "integrated_gradients", "grad_cam"]


def test_agreement_is_that_of_scipy_and_regions_are_those_of_region_means():
    rng, mask = np.random.default_rng(0), _mni()
    maps = {name: rng.standard_normal((4, 2, 45 * 54 * 45)) for name in ("occlusion", "haufe")}
    maps["haufe"] += maps["occlusion"]
    told = _compare(maps, classes=["fear", "joy"])
    for number, row in enumerate(told["agreement"]):
        one, other = (maps[name][:, number].mean(axis=0) for name in ("occlusion", "haufe"))
        assert row["voxels"] == pytest.approx(spearmanr(one, other)[0])
        means = [region_means(each, mask, space=SPACE, any_template=True) for each in (one, other)]
        over_regions = spearmanr(means[0]["mean"], means[1]["mean"])[0]
        assert row["regions"] == pytest.approx(over_regions)
        ordered = means[0].sort_values("mean", ascending=False)["region"].tolist()
        ranked = [each for each in told["regions"] if each["class"] == row["class"]]
        for each in ranked:
            assert ordered[int(each["occlusion"]) - 1] == each["region"]
        assert {each["occlusion"] for each in ranked} >= {1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", ["amygdala L", "precuneus"])
def test_a_blob_at_a_landmark_is_named_first(name):
    places = {"amygdala L": (-22, -4, -18), "precuneus": (0, -64, 44)}
    elsewhere = next(place for other, place in places.items() if other != name)
    own = _subjects(_blob(_mni(), places[name]), noise=0.001)
    told = _compare({"occlusion": own, "haufe": _subjects(_blob(_mni(), elsewhere), noise=0.001)})
    assert told["regions_of"] == "landmarks"
    first = next(row for row in told["regions"] if row["occlusion"] == 1)
    assert first["region"] == name
    assert first["haufe"] > 1
    assert first["spread"] == first["haufe"] - 1
    assert {row["haufe"] for row in told["regions"]} >= {1, 2, 3}


def test_the_studys_regions_come_before_landmarks_and_need_no_space():
    values = np.array([5.0, 3.0, 0.0, 0.0, -1.0, -3.0, 9.0])
    mask = nib.Nifti1Image(np.ones((7, 1, 1), dtype=np.uint8), np.eye(4))
    given = {"mask_image": mask, "parcels": np.array([2, 2, 1, 3, 4, 4, 0]), "space": None}
    told = _compare({"occlusion": _subjects(values, noise=0)}, names={2: "two"}, **given)
    assert [(row["region"], row["occlusion"], row["n_voxels"]) for row in told["regions"]] == [
        ("two", 1.0, 2)
    ], "the others are not above 0"
    assert told["regions_of"] == "the study's regions"
    assert told["agreement"] == []


@pytest.mark.parametrize("space", [None, "T1w"])
def test_without_a_template_there_are_no_regions_and_it_is_said(space):
    own = _subjects(_blob(_mni(), (0, 0, 0)))
    told = _compare({"occlusion": own, "haufe": own}, space=space)
    assert told["regions"] == []
    assert told["regions_of"] is None
    assert told["regions_note"].startswith("No regions: ")
    assert [row["regions"] for row in told["agreement"]] == [None]
    assert told["agreement"][0]["voxels"] == pytest.approx(1)


def test_subjects_without_a_map_count_in_no_method():
    maps = {name: _subjects(_blob(_mni(), (0, 0, 0)), seed=k) for k, name in enumerate("ab")}
    maps["a"][2, 0, :] = np.nan
    maps["b"][4, 0, :] = np.nan
    told = _compare(maps | {"grad_cam": np.full_like(maps["a"], np.nan)})
    assert (told["n_subjects"], told["n_left_out"]) == (4, 2)
    assert told["notes"] == ["grad_cam is left out: no subject has a map of every class."]
    means = mean_maps(maps)
    np.testing.assert_allclose(means["a"], maps["a"][[0, 1, 3, 5]].mean(axis=0))
    with pytest.raises(InputError, match="no subject with a map"):
        mean_maps({"a": np.full((2, 1, 4), np.nan)})
    with pytest.raises(InputError, match="shapes"):
        _compare({"a": maps["a"][:, :, 1:]})


def test_a_single_subject_and_constant_maps_are_compared_without_numbers_that_mean_nothing():
    one = {
        "occlusion": np.zeros((1, 1, 45 * 54 * 45)),
        "haufe": _subjects(_blob(_mni(), (0, 0, 0))),
    }
    told = _compare(one | {"haufe": one["haufe"][:1]})
    (row,) = told["agreement"]
    assert (row["voxels"], row["regions"]) == (None, None)
    assert {each["occlusion"] for each in told["regions"]} == {None}
    assert json.dumps(told, allow_nan=False)


def _written(tmp_path, means, classes):
    """What ``methods.json`` says of maps written to a folder."""
    mask = _mni()
    n = 45 * 54 * 45
    table = pd.DataFrame(columns=list(_columns()))
    samples = Samples(X=np.empty((0, n), np.float32), table=table, mask=mask)
    nib.save(mask, tmp_path / "mask.nii.gz")
    names = {name: name.replace(" ", "") for name in classes}
    files = write_method_maps(tmp_path, samples, means, model="cnn", classes=names)
    maps = {method: each[None] + np.zeros((2, 1, 1)) for method, each in means.items()}
    told = _compare(maps, classes=list(classes))
    return files, told | {"maps": files, "notes": ["No Grad-CAM: <b>."]}


def _columns():
    from emodecode.samples import TABLE_COLUMNS

    return TABLE_COLUMNS


def test_files_and_page(tmp_path):
    blob, other = _blob(_mni(), (-22, -4, -18)), _blob(_mni(), (0, -64, 44))
    means = {"occlusion": np.array([blob, other]), "haufe": np.array([blob + other, other])}
    files, told = _written(tmp_path, means, ("joy", "low mood"))
    assert files["haufe"]["low mood"] == "maps/model-cnn_label-lowmood_haufe.nii.gz"
    image = nib.load(tmp_path / files["haufe"]["joy"])
    np.testing.assert_allclose(image.get_fdata().ravel(), blob + other, atol=1e-6)
    write_json({"cnn": told}, tmp_path / "methods.json")
    told = json.loads((tmp_path / "methods.json").read_text())["cnn"]
    backdrop = make_backdrop(tmp_path / "mask.nii.gz", space=SPACE)
    shown = describe_methods(told, tmp_path, backdrop, most_classes=1)
    text = _rendered(shown)
    assert text.count("data:image/png") == 2, "one class is drawn, by two methods"
    assert "amygdala L" in text
    assert "maps of 1 more classes are files only" in text
    assert "No Grad-CAM: &lt;b&gt;." in text
    assert "Agreement of methods does not make a map true" in text
    assert "No method but occlusion is tested" in text
    assert len(text) < 200_000
    assert _rendered(None).strip() == ""
    only = {"maps": {"occlusion": files["occlusion"]}, "notes": ["No other method."]}
    text = _rendered(describe_methods(only, tmp_path, backdrop))
    assert "No other method." in text
    assert "<img" not in text, "occlusion's maps are on the page already"
    assert describe_methods({"maps": {}, "notes": []}, tmp_path, backdrop) is None


def test_occlusions_files_are_not_written_twice(tmp_path):
    there = {"occlusion": {"joy": "maps/drop.nii.gz"}}
    means = {"occlusion": np.zeros((1, 1))}
    files = write_method_maps(tmp_path, None, means, model="m", classes={"joy": "joy"}, there=there)
    assert files == there
    assert list((tmp_path / "maps").iterdir()) == []


def _rendered(told):
    source = '{% from "methods_maps.html" import methods with context %}{{ methods(told) }}'
    return environment().from_string(source).render(told=told, leaks=False, wording=wording)


def test_landmarks_of_the_tests_exist():
    assert {"amygdala L", "precuneus"} <= set(landmarks().names.values())

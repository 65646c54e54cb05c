"""Geometry of maps: planted groups and arrangements are found, smooth noise has no groups."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

from emodecode.explanation.geometry import affect_of, functional, overlay, spatial
from emodecode.study import Study, load_study

SHAPE, AFFINE = (18, 20, 16), np.diag([6.0, 6, 6, 1])
CLASSES = ("anger", "fear", "joy")
FEW = {"n_neighbors": 8, "n_stable": 60, "n_bootstrap": 1, "n_null": 39}
PLACES = ["umap_1", "umap_2", "pca_1", "pca_2"]


@pytest.fixture(scope="module")
def mask():
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    return nib.Nifti1Image((np.sum(grid**2, axis=0) < 1).astype(np.uint8), AFFINE)


def _top(mask, maps, *, k=40):
    """The k highest voxels of each map, as `spatial` takes them."""
    inside = np.asanyarray(mask.dataobj) != 0
    tables = []
    for name, values in maps.items():
        best = np.argsort(-values[inside])[:k]
        xyz = nib.affines.apply_affine(AFFINE, np.argwhere(inside)[best])
        table = pd.DataFrame(xyz, columns=["x_mm", "y_mm", "z_mm"])
        tables.append(table.assign(drop=values[inside][best], **{"class": name}))
    return pd.concat(tables)


def _blobs():
    """One place for each class."""
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij"), axis=-1)
    centres = [(4, 10, 8), (13, 10, 8), (9, 4, 8)]
    return {
        name: -np.linalg.norm(grid - centre, axis=-1)
        for name, centre in zip(CLASSES, centres, strict=True)
    }


def _smooth(seed, *, fwhm_mm):
    rng = np.random.default_rng(seed)
    sigma = fwhm_mm / 6 / 2.3548
    return {name: gaussian_filter(rng.standard_normal(SHAPE), sigma) for name in CLASSES}


def _units(seed, n=40, *, separate=1.0):
    """Units that matter to one class each, and drops that add up to 0 over classes."""
    drops = 0.1 * np.random.default_rng(seed).standard_normal((n * 3, 3))
    drops[np.arange(n * 3), np.arange(n * 3) % 3] += separate
    return drops - drops.mean(axis=1, keepdims=True)


def _named(drops):
    return [f"unit {number}" for number in range(len(drops))]


@pytest.fixture(scope="module")
def planted():
    drops = _units(0)
    return functional(drops, _named(drops), CLASSES, top_k=30, **FEW)


def test_places_of_three_regions_are_three_clusters(mask):
    top = _top(mask, _blobs())
    table, found = spatial(top, mask_image=mask, **FEW)
    assert list(table.columns) == [*top.columns, *PLACES]
    assert np.isfinite(table[PLACES].to_numpy()).all()
    assert found["n_points"] == 120
    assert found["clusters"]["n"] == 3
    assert found["clusters"]["p"] == pytest.approx(2 / 40)
    assert found["clusters"]["p_strength"] == pytest.approx(1 / 40)
    assert "random voxels never do" in found["clusters"]["sentence"]
    json.dumps(found, allow_nan=False)
    # a class's voxels are neighbours in the picture
    middles = table.groupby("class")[["umap_1", "umap_2"]].mean()
    spread = table.groupby("class")[["umap_1", "umap_2"]].std().to_numpy().max()
    gaps = np.linalg.norm(middles.to_numpy()[:, None] - middles.to_numpy(), axis=-1)
    assert gaps[np.triu_indices(3, 1)].min() > 2 * spread


def test_clumps_of_a_smooth_map_are_no_news(mask):
    """Against random voxels they often would be: the fair null is as smooth as the map."""
    p = []
    for seed in range(8):
        top = _top(mask, _smooth(seed, fwhm_mm=24.0))
        few = FEW | {"n_stable": 20}
        _, found = spatial(top, mask_image=mask, fwhm_mm=24.0, **few)
        p.append(found["clusters"]["p"])
        assert "as smooth as the map (24 mm)" in found["clusters"]["sentence"]
    assert np.mean(np.array(p) <= 0.1) <= 0.25
    assert "no evidence" in found["clusters"]["sentence"] or found["clusters"]["p"] <= 0.05


def test_units_are_the_best_of_every_class_and_coloured_by_argmax(planted):
    table, found = planted
    drops = _units(0)
    chosen = sorted({int(u) for k in range(3) for u in np.argsort(-drops[:, k])[:30]})
    assert list(table["unit"]) == [f"unit {number}" for number in chosen]
    assert list(table["strongest"]) == [CLASSES[k] for k in drops[chosen].argmax(axis=1)]
    np.testing.assert_array_equal(table[[f"drop_{name}" for name in CLASSES]], drops[chosen])
    assert "by construction" in found["sentence"]
    assert not found["own_class"]


def test_planted_groups_of_units_are_found(planted):
    _, found = planted
    assert found["n_points"] == 90
    assert found["clusters"]["n"] == 3
    assert found["clusters"]["p_strength"] == pytest.approx(1 / 40)
    umap, pca = found["umap"], found["pca"]
    assert umap["overlap_seeds"] > umap["overlap_chance"] * 3
    assert umap["n_points"] == 60
    assert "60 of the 90 points" in umap["sentence"]
    assert pca["overlap_seeds"] is None
    assert sum(found["pca_explained"]) == pytest.approx(1.0)  # drops add up to 0
    json.dumps(found, allow_nan=False)


def test_units_without_groups_have_none():
    """Choosing the best of each class must not count as a group, nor must heavy tails."""
    p = []
    for seed in range(8):
        drops = np.random.default_rng(seed).standard_t(4, (300, 4))
        drops -= drops.mean(axis=1, keepdims=True)
        few = FEW | {"n_stable": 20}
        _, found = functional(drops, _named(drops), list("abcd"), top_k=20, seed=seed, **few)
        p.append(found["clusters"]["p_strength"])
    assert np.mean(np.array(p) <= 0.1) <= 0.25


def test_the_published_form_is_only_flagged(planted):
    drops = _units(0)
    table, found = functional(
        drops, _named(drops), CLASSES, top_k=30, own_class=True, **FEW | {"n_null": 3}
    )
    pd.testing.assert_frame_equal(table, planted[0])
    assert found["own_class"]
    assert "different samples" in found["sentence"]


def test_a_planted_arrangement_is_laid_onto_valence_and_arousal():
    names = ["anger", "fear", "joy", "love", "sadness"]
    affect = pd.DataFrame(
        {"valence": [-1.0, -0.9, 1.0, 0.9, -0.8], "arousal": [0.9, 0.5, 0.6, -0.4, -0.9]}, names
    )
    turn = np.array([[np.cos(2.0), -np.sin(2.0)], [np.sin(2.0), np.cos(2.0)]])
    places = affect.to_numpy() @ turn * 4 + [3, -5]
    table = pd.DataFrame(places, columns=["umap_1", "umap_2"]).assign(strongest=names)
    shaken = pd.concat([table.assign(umap_1=table["umap_1"] + d) for d in (-0.5, 0.5)])
    found = overlay(shaken, affect)
    assert found["r2"] == pytest.approx(1.0)
    assert found["p"] == found["p_smallest"] == pytest.approx(1 / 120)
    assert found["exact"]
    assert found["classes"] == names
    np.testing.assert_allclose(found["fitted"], places, atol=1e-9)
    np.testing.assert_allclose(found["centroids"], places, atol=1e-9)
    np.testing.assert_allclose(found["valence_axis"], 4 * turn[0], atol=1e-9)
    np.testing.assert_allclose(found["arousal_axis"], 4 * turn[1], atol=1e-9)
    json.dumps(found, allow_nan=False)
    wrong = overlay(shaken, affect.set_axis(names[::-1]))
    assert wrong["p"] > 0.05
    assert "not arranged" in wrong["sentence"]
    fewer = overlay(shaken[shaken["strongest"] != "love"], affect)
    assert fewer["classes"] == ["anger", "fear", "joy", "sadness"]
    assert "love" in fewer["sentence"]


def test_overlays_that_say_nothing_are_refused(planted):
    affect = pd.DataFrame({"valence": [-1.0, 1.0], "arousal": [0.0, 0.5]}, ["anger", "joy"])
    assert "hold no valence" in overlay(planted[0], None)["refused"]
    assert "at least 3" in overlay(planted[0], affect)["refused"]
    assert "no UMAP" in overlay(planted[0].assign(umap_1=np.nan), affect)["refused"]


def test_too_few_points_have_no_umap_but_a_pca(mask):
    table, found = spatial(_top(mask, _blobs(), k=5), mask_image=mask, n_null=19)
    assert "15 points are too few" in found["umap"]["refused"]
    assert "not known" in found["pca"]["refused"]
    assert table["umap_1"].isna().all()
    assert table["pca_1"].notna().all()


def test_points_without_a_shape_are_refused(mask):
    top = _top(mask, _blobs())
    for given in (top.assign(x_mm=1.0, y_mm=2.0, z_mm=3.0), top.iloc[:0]):
        table, found = spatial(given, mask_image=mask)
        assert set(found) == {"refused"}
        assert table[PLACES].isna().all(axis=None)
    _, found = functional(np.zeros((50, 3)), range(50), CLASSES, top_k=20)
    assert "all the same" in found["refused"]


ROWS = """start,end,character,arousal,valence,direction,emotion
0,4,A,HIGH,NEG,SELF,FEAR
4,6,B,LOW,POS,SELF,JOY
6,8,A,LOW,NEG,SELF,JOY
"""


def _study(path, **labels):
    given = {"source": "annotations", "path": str(path), "pattern": "*.csv", **labels}
    data = {"source": "design", "subjects": ["01"], "run_volumes": [9], "tr_s": 2.0}
    return Study.model_validate({"name": "x", "data": data, "labels": given})


def test_affect_comes_from_the_studys_own_annotations(tmp_path):
    (tmp_path / "one.csv").write_text(ROWS)
    study = _study(tmp_path)
    found = affect_of(study, classes=["FEAR", "JOY"])
    assert found.loc["FEAR", ["valence", "arousal"]].tolist() == [-1, 1]
    assert found.loc["JOY", ["valence", "arousal"]].tolist() == [0, -1]
    chosen = affect_of(_study(tmp_path, characters=["B"]), classes=["JOY"])
    assert chosen.loc["JOY", "valence"] == 1
    assert affect_of(study, classes=["CALM", "JOY"]) is None
    assert affect_of(_study(tmp_path, source="data"), classes=["JOY"]) is None
    (tmp_path / "one.csv").write_text(ROWS.replace("HIGH", "").replace("LOW", ""))
    assert affect_of(study, classes=["FEAR", "JOY"]) is None


@pytest.mark.data
def test_affect_of_s1s_classes(data_dir):
    study = load_study("studies/s1_ds000113_design.toml")
    classes = ["ANGERRAGE", "FEAR", "HAPPINESS", "LOVE", "SADNESS"]
    found = affect_of(study, classes=classes)
    assert list(np.sign(found["valence"])) == [-1, -1, 1, 1, -1]
    assert found["arousal"].idxmax() == "ANGERRAGE"
    assert found["arousal"].idxmin() == "SADNESS"

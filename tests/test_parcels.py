"""Parcel means against nilearn's masker."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.maskers import NiftiLabelsMasker

from emodecode.errors import DataMissingError, InputError
from emodecode.features.parcels import Parcels, to_parcels
from emodecode.samples import TABLE_COLUMNS, Samples

AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
SHAPE = (8, 9, 7)


def _atlas(labels, affine=AFFINE):
    return nib.Nifti1Image(labels, affine)


@pytest.fixture
def scene():
    rng = np.random.default_rng(0)
    inside = rng.random(SHAPE) < 0.6
    labels = np.zeros(SHAPE, dtype=np.int16)
    labels[:4, :5] = 3
    labels[4:, :5] = 200
    labels[:4, 5:] = 1034
    X = rng.normal(1000, 10, (12, inside.sum())).astype(np.float32)
    return nib.Nifti1Image(inside.astype(np.uint8), AFFINE), _atlas(labels), X


def _as_run(mask, X):
    inside = np.asanyarray(mask.dataobj) != 0
    run = np.zeros((*SHAPE, len(X)), dtype=np.float32)
    run[inside] = X.T
    return nib.Nifti1Image(run, mask.affine)


def test_equals_nilearn(scene):
    mask, atlas, X = scene
    parcels = Parcels(atlas, mask_img=mask).fit(X)
    masker = NiftiLabelsMasker(atlas, mask_img=mask, standardize=None, memory_level=0)
    theirs = masker.fit_transform(_as_run(mask, X))
    np.testing.assert_allclose(parcels.transform(X), theirs, rtol=1e-5)
    assert parcels.labels_.tolist() == [3, 200, 1034]
    assert parcels.names_ == ["parcel-3", "parcel-200", "parcel-1034"]
    assert parcels.transform(X).dtype == np.float32


def test_other_grid_is_resampled_by_nearest_neighbour_and_noted(scene):
    mask, atlas, X = scene
    fine = np.repeat(np.repeat(np.repeat(np.asanyarray(atlas.dataobj), 3, 0), 3, 1), 3, 2)
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = -1.0
    parcels = Parcels(_atlas(fine, affine), mask_img=mask).fit(X)
    np.testing.assert_allclose(
        parcels.transform(X), Parcels(atlas, mask_img=mask).fit(X).transform(X), rtol=1e-6
    )
    assert "nearest neighbour" in parcels.notes_[0]
    assert parcels.labels_.tolist() == [3, 200, 1034]


@pytest.mark.parametrize("kind", [np.uint8, np.float32, np.int32])
def test_labels_above_127_stay(scene, kind):
    mask, _, X = scene
    labels = np.full(SHAPE, 130, dtype=kind)
    labels[:4] = 255
    shifted = AFFINE.copy()
    shifted[:3, 3] = 0.2
    for affine in (AFFINE, shifted):
        parcels = Parcels(_atlas(labels, affine), mask_img=mask).fit(X)
        assert parcels.labels_.tolist() == [130, 255]


def test_parcels_outside_the_mask_are_dropped_and_counted(scene):
    mask, atlas, X = scene
    labels = np.asanyarray(atlas.dataobj).copy()
    outside = np.argwhere(np.asanyarray(mask.dataobj) == 0)[0]
    labels[tuple(outside)] = 77
    parcels = Parcels(_atlas(labels), mask_img=mask, names={3: "left", 77: "lost"}).fit(X)
    assert parcels.names_ == ["left", "parcel-200", "parcel-1034"]
    assert parcels.dropped_ == ["lost"]
    assert any("1 of 4 parcels without a voxel" in note for note in parcels.notes_)


def test_names_come_from_a_bids_table(scene, tmp_path):
    mask, atlas, X = scene
    path = tmp_path / "atlas_dseg.tsv"
    path.write_text("index\tname\n1034\tvisual\n3\tinsula\n200\tamygdala\n")
    parcels = Parcels(atlas, mask_img=mask, names=path).fit(X)
    assert parcels.names_ == ["insula", "amygdala", "visual"]
    assert parcels.get_feature_names_out().tolist() == parcels.names_
    listed = Parcels(atlas, mask_img=mask, names=["insula", "amygdala", "visual"]).fit(X)
    assert listed.names_ == parcels.names_


def test_weights_go_back_to_voxels(scene):
    mask, atlas, X = scene
    parcels = Parcels(atlas, mask_img=mask).fit(X)
    coef = np.random.default_rng(1).standard_normal((2, 3))
    voxels, _ = parcels.weights_to_input(coef, np.zeros(2))
    means = parcels.transform(X.astype(np.float64))
    np.testing.assert_allclose(X.astype(np.float64) @ voxels.T, means @ coef.T, rtol=1e-9)


def test_samples_to_parcels(scene, tmp_path):
    mask, atlas, X = scene
    nib.save(atlas, tmp_path / "a_dseg.nii.gz")
    (tmp_path / "a_dseg.tsv").write_text("index\tname\n3\tinsula\n200\tamygdala\n1034\tvisual\n")
    table = pd.DataFrame({column: ["n/a"] * len(X) for column in TABLE_COLUMNS})
    reduced = to_parcels(Samples(X=X, table=table, mask=mask), tmp_path / "a_dseg.nii.gz")
    assert reduced.features == ("insula", "amygdala", "visual")
    np.testing.assert_array_equal(reduced.X, Parcels(atlas, mask_img=mask).fit(X).transform(X))
    assert reduced.history[-1]["atlas"] == "a_dseg.nii.gz"
    with pytest.raises(InputError, match="without voxels"):
        to_parcels(reduced, tmp_path / "a_dseg.nii.gz")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.full(SHAPE, 0.4, dtype=np.float32), "no whole numbers"),
        (np.full(SHAPE, -56, dtype=np.int8), "above 127, wrapped"),
        (np.zeros(SHAPE, dtype=np.uint8), "no parcel overlaps"),
        (np.ones((*SHAPE, 4), dtype=np.uint8), "shape"),
    ],
)
def test_bad_atlases_are_named(scene, labels, words):
    mask, _, X = scene
    with pytest.raises(InputError, match=words):
        Parcels(_atlas(labels), mask_img=mask).fit(X)


def test_missing_and_broken_files(scene, tmp_path):
    mask, atlas, X = scene
    with pytest.raises(DataMissingError, match="no such file"):
        Parcels(tmp_path / "none.nii.gz", mask_img=mask).fit(X)
    broken = tmp_path / "broken.nii.gz"
    nib.save(atlas, broken)
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(InputError, match="no readable image"):
        Parcels(broken, mask_img=mask).fit(X)
    with pytest.raises(InputError, match="2 names for 3"):
        Parcels(atlas, mask_img=mask, names=["a", "b"]).fit(X)
    with pytest.raises(InputError, match="expected"):
        Parcels(atlas, mask_img=mask).fit(X[:, :-1])


@pytest.mark.data
def test_schaefer_on_the_mni_mask(data_dir):
    """400 parcels, in their order, on the 3 mm brain; left labels are left (x < 0)."""
    folder = data_dir / "atlases_templates"
    path = next(folder.glob("Schaefer2018_400Parcels*"))
    mask_path = next(p for p in sorted(folder.glob("*mask*")) if "3mm" in p.name)
    mask = nib.load(mask_path)
    inside = np.asanyarray(mask.dataobj) != 0
    parcels = Parcels(path, mask_img=mask_path).fit()
    assert parcels.labels_.tolist() == list(range(1, 401))
    x_mm = nib.affines.apply_affine(mask.affine, np.argwhere(inside))[:, :1]
    centres = parcels.transform(x_mm.T)[0]
    assert (centres[:200] < 0).all()
    assert (centres[200:] > 0).all()

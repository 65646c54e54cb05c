"""Peaks, clusters and means by region: planted blobs, scipy.ndimage, pandas as oracles."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from emodecode.errors import DataMissingError, InputError
from emodecode.explain.atlas import Atlas, landmarks
from emodecode.explain.regions import find_clusters, find_peaks, region_means, region_table

SPACE = "MNI152NLin6Asym"
SHAPE = (61, 73, 61)
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])
AFFINE[:3, 3] = -90, -126, -72
BLOBS = {
    "amygdala L": ((-22, -4, -18), 5.0),
    "amygdala R": ((22, -4, -18), -4.0),
    "primary visual cortex (V1) R": ((8, -88, 0), 3.0),
    "precuneus": ((0, -64, 44), 2.0),
}
ALL = np.ones((3, 3, 3))


def places_of(image):
    inside = np.argwhere(np.asanyarray(image.dataobj) != 0)
    return inside @ image.affine[:3, :3].T + image.affine[:3, 3]


def grid(affine=AFFINE, shape=SHAPE):
    return nib.Nifti1Image(np.ones(shape, dtype=np.uint8), affine)


def left_first():
    """The same grid stored from right to left."""
    affine = AFFINE.copy()
    affine[0, 3] += 3.0 * (SHAPE[0] - 1)
    affine[0, 0] = -3.0
    return grid(affine)


def planted(mask):
    """Gaussian blobs (5 mm) at known coordinates, cut off at 1 %."""
    places, values = places_of(mask), np.zeros(int(np.prod(mask.shape)))
    for centre, height in BLOBS.values():
        values += height * np.exp(-((places - np.array(centre)) ** 2).sum(axis=1) / (2 * 5.0**2))
    return np.where(np.abs(values) > 0.02, values, 0)


def as_image(values, mask):
    volume = np.zeros(mask.shape, dtype=np.float32)
    volume[np.asanyarray(mask.dataobj) != 0] = values
    return nib.Nifti1Image(volume, mask.affine)


@pytest.mark.parametrize("mask", [grid(), left_first()], ids=["RAS", "LAS"])
def test_planted_blobs_are_found_and_named(mask):
    values = planted(mask)
    peaks = find_peaks(values, mask, space=SPACE, threshold=0.5)
    assert peaks["region"].tolist() == list(BLOBS)
    for row, (centre, height) in zip(peaks.itertuples(), BLOBS.values(), strict=True):
        assert np.linalg.norm(np.array([row.x_mm, row.y_mm, row.z_mm]) - centre) <= 3.0 * 3**0.5 / 2
        assert row.value == pytest.approx(height, abs=0.2 * abs(height))
        assert row.nearest_mm == 0
    assert peaks["place"].tolist() == [f"near {name}" for name in BLOBS]
    clusters = find_clusters(values, mask, space=SPACE, threshold=0.5)
    assert clusters["region"].tolist() == list(BLOBS)
    for shares, name in zip(clusters["shares"], BLOBS, strict=True):
        assert sum(shares.values()) == pytest.approx(1)
        assert shares[name] > 0.2
    table = region_table(as_image(values, mask), space=SPACE, threshold=0.5)
    assert table["region"].tolist() == list(BLOBS)
    assert table["cluster"].tolist() == [1, 2, 3, 4]
    assert table.attrs["atlas"] == "landmarks"
    assert table.attrs["space"] == SPACE


def test_storage_order_changes_nothing():
    rng = np.random.default_rng(3)
    smooth = ndimage.gaussian_filter(rng.normal(size=SHAPE), 1.5)
    one, other = grid(), left_first()
    flipped = smooth[::-1].ravel()
    for find in (find_peaks, find_clusters):
        kind = {"threshold": float(np.quantile(np.abs(smooth), 0.995))}
        a = find(smooth.ravel(), one, space=SPACE, **kind)
        b = find(flipped, other, space=SPACE, **kind)
        assert len(a) > 5
        pd.testing.assert_frame_equal(a, b)
    a = region_means(smooth.ravel(), one, space=SPACE)
    b = region_means(flipped, other, space=SPACE)
    pd.testing.assert_frame_equal(a, b)


def random_map(seed=0, *, shape=(20, 22, 18)):
    """A rough map in an irregular mask round the origin."""
    rng = np.random.default_rng(seed)
    inside = ndimage.gaussian_filter(rng.normal(size=shape), 1) > -0.1
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -30, -60, -20
    volume = np.where(inside, ndimage.gaussian_filter(rng.normal(size=shape), 0.8), 0)
    return volume, nib.Nifti1Image(inside.astype(np.uint8), affine), inside


@pytest.mark.parametrize("seed", [0, 1])
def test_clusters_equal_scipy(seed):
    volume, mask, inside = random_map(seed)
    threshold = 0.25
    ours = find_clusters(volume[inside], mask, space=SPACE, threshold=threshold, min_voxels=4)
    theirs = []
    for side in (1, -1):
        labels, n = ndimage.label(side * volume > threshold, structure=ALL)
        for number in range(1, n + 1):
            part = labels == number
            if part.sum() >= 4:
                peak = side * (side * volume[part]).max()
                theirs.append((int(part.sum()), float(peak), float(volume[part].mean())))
    theirs.sort(key=lambda row: -abs(row[1]))
    assert len(ours) == len(theirs) > 5
    columns = ["n_voxels", "value", "mean"]
    np.testing.assert_allclose(ours[columns].to_numpy(float), np.array(theirs), rtol=1e-12)
    np.testing.assert_allclose(ours["volume_mm3"], 27 * ours["n_voxels"])


@pytest.mark.parametrize("seed", [0, 1])
def test_peaks_equal_a_maximum_filter(seed):
    volume, mask, inside = random_map(seed)
    ours = find_peaks(volume[inside], mask, space=SPACE, threshold=0.1, apart_mm=0)
    theirs = []
    for side in (1, -1):
        size = np.where(side * volume > 0, side * volume, 0)
        tops = (size == ndimage.maximum_filter(size, footprint=ALL, mode="constant")) & (size > 0.1)
        theirs += volume[tops].tolist()
    theirs.sort(key=lambda value: -abs(value))
    np.testing.assert_allclose(ours["value"], theirs)
    assert len(theirs) > 20
    few = find_peaks(volume[inside], mask, space=SPACE, top_k=3, apart_mm=0)
    np.testing.assert_allclose(few["value"], theirs[:3])


def test_peaks_of_one_sign_are_apart():
    volume, mask, inside = random_map()
    table = find_peaks(volume[inside], mask, space=SPACE, apart_mm=12)
    for _, part in table.groupby(table["value"] > 0):
        places = part[["x_mm", "y_mm", "z_mm"]].to_numpy()
        away = np.linalg.norm(places[:, None] - places[None], axis=2)
        assert away[~np.eye(len(part), dtype=bool)].min() >= 12
    everything = find_peaks(volume[inside], mask, space=SPACE, apart_mm=0)
    # each peak that is left out has a larger one of its sign within 12 mm
    kept = set(map(tuple, table[["x_mm", "y_mm", "z_mm"]].to_numpy()))
    for row in everything.itertuples():
        if (row.x_mm, row.y_mm, row.z_mm) not in kept:
            same = table[(table["value"] * row.value > 0) & (table["value"].abs() > abs(row.value))]
            away = np.linalg.norm(
                same[["x_mm", "y_mm", "z_mm"]] - [row.x_mm, row.y_mm, row.z_mm], axis=1
            )
            assert away.min() < 12


def test_a_plateau_is_one_peak_and_a_shelf_is_none():
    """Maps of boxes (occlusion with a stride) are made of equal values."""
    volume = np.zeros((12, 12, 12))
    volume[2:5, 2:5, 2:5] = 2.0
    volume[5:9, 2:5, 2:5] = 1.0
    mask = nib.Nifti1Image(np.ones(volume.shape, dtype=np.uint8), np.diag([2.0, 2.0, 2.0, 1.0]))
    table = find_peaks(volume.ravel(), mask, space=SPACE, apart_mm=0)
    assert table[["x_mm", "y_mm", "z_mm", "value"]].to_numpy().tolist() == [[6.0, 6.0, 6.0, 2.0]]


def test_top_voxels_are_the_largest_of_both_signs():
    volume, mask, inside = random_map()
    values = volume[inside]
    table = find_clusters(values, mask, space=SPACE, top_voxels=200, min_voxels=1)
    assert table["n_voxels"].sum() == 200
    cut = np.sort(np.abs(values))[-200]
    same = find_clusters(values, mask, space=SPACE, threshold=cut * (1 - 1e-9), min_voxels=1)
    pd.testing.assert_frame_equal(table, same)
    positive = find_clusters(values, mask, space=SPACE, top_voxels=50, sign="positive")
    assert (positive["value"] > 0).all()
    ties = np.ones(inside.sum())
    assert find_clusters(ties, mask, space=SPACE, top_voxels=7, min_voxels=1)["n_voxels"].sum() == 7


def test_table_of_peaks_in_clusters():
    volume, mask, inside = random_map()
    image = as_image(volume[inside], mask)
    values = np.asanyarray(image.dataobj, dtype=np.float64)[inside]
    table = region_table(image, space=SPACE, threshold=0.2, peaks_per_cluster=2, apart_mm=6)
    clusters = find_clusters(values, mask, space=SPACE, threshold=0.2)
    first = table[table["peak"] == 1].drop(columns="peak").reset_index(drop=True)
    pd.testing.assert_frame_equal(first, clusters)
    assert table["peak"].max() == 2
    assert (table.groupby("cluster")["value"].agg(lambda v: abs(v.iloc[0])) >= 0.2).all()
    assert table.attrs["n_small"] == clusters.attrs["n_small"] > 0
    whole = region_table(image, space=SPACE, min_voxels=1, peaks_per_cluster=1)
    assert whole["n_voxels"].sum() == 500


def boxes():
    labels = np.zeros((20, 22, 18), dtype=np.int16)
    labels[:10] = 200
    labels[10:, :11] = 300
    labels[10:, 11:, :9] = 400
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -30, -60, -20
    return Atlas("boxes", nib.Nifti1Image(labels, affine), {200: "a", 300: "b", 400: "c"}, SPACE)


def test_means_equal_pandas():
    volume, mask, inside = random_map()
    values, labels = volume[inside], np.asanyarray(boxes().image.dataobj)[inside]
    table = region_means(values, mask, boxes(), space=SPACE)
    frame = pd.DataFrame({"v": values, "size": np.abs(values), "label": labels})
    groups = frame[frame["label"] > 0].groupby("label")
    assert table["index"].tolist() == [200, 300, 400]
    assert table["region"].tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(table["n_voxels"], groups.size())
    np.testing.assert_allclose(table["mean"], groups["v"].mean())
    np.testing.assert_allclose(table["sum"], groups["v"].sum())
    np.testing.assert_allclose(table["mean_abs"], groups["size"].mean())
    np.testing.assert_allclose(table["share"], groups["size"].sum() / frame["size"].sum())
    np.testing.assert_allclose(table["peak"].abs(), groups["size"].max())
    rest = frame.loc[frame["label"] == 0, "size"].sum() / frame["size"].sum()
    assert table.attrs["outside_share"] == pytest.approx(rest)


def test_overlap_and_distance_in_a_parcellation():
    atlas = boxes()
    mask = nib.Nifti1Image(np.ones((20, 22, 18), dtype=np.uint8), atlas.image.affine)
    volume = np.zeros((20, 22, 18))
    volume[9:11, 3:5, 3:5] = 1.0  # half in a, half in b
    volume[15, 15, 11:14] = 2.0  # in none, 3 to 5 voxels above c; b is 5 away
    volume[15, 15, 12] = 3.0
    table = find_clusters(volume.ravel(), mask, space=SPACE, atlas=atlas, threshold=0, min_voxels=3)
    assert table["shares"].tolist() == [{"outside": 1.0}, {"a": 0.5, "b": 0.5}]
    assert table["overlap"].tolist() == ["outside 100 %", "a 50 %, b 50 %"]
    first = table.iloc[0]
    assert (first["region"], first["nearest_region"], first["nearest_mm"]) == ("", "c", 12.0)
    assert first["place"] == "12 mm from c"
    assert table.iloc[1]["place"] in ("a", "b")


def test_space_must_be_the_atlas_s():
    volume, mask, inside = random_map()
    values = volume[inside]
    for find in (find_peaks, find_clusters):
        with pytest.raises(InputError, match="fMRIPrep"):
            find(values, mask, space="T1w", threshold=0.1)
        with pytest.raises(InputError, match="nothing says which"):
            find(values, mask, space=None, threshold=0.1)
        with pytest.raises(InputError, match="any_template"):
            find(values, mask, space="MNI152NLin2009cAsym", atlas=boxes(), threshold=0.1)
    with pytest.raises(InputError, match="fMRIPrep"):
        region_means(values, mask, space="native")
    with pytest.raises(InputError, match="fMRIPrep"):
        region_table(as_image(values, mask), space="native")
    noted = region_means(
        values, mask, boxes(), space="MNI152NLin2009cAsym", any_template=True
    ).attrs["notes"]
    assert "may be off" in noted[0]


def test_bad_maps(tmp_path):
    volume, mask, inside = random_map()
    values = volume[inside]
    with pytest.raises(InputError, match="zero everywhere"):
        find_peaks(0 * values, mask, space=SPACE)
    with pytest.raises(InputError, match="not finite"):
        find_peaks(np.where(values > 0.3, np.nan, values), mask, space=SPACE)
    with pytest.raises(InputError, match="one value a voxel"):
        region_means(values[1:], mask, space=SPACE)
    with pytest.raises(InputError, match="no voxel above 100"):
        find_clusters(values, mask, space=SPACE, threshold=100)
    with pytest.raises(InputError, match="no voxel above 0"):
        find_peaks(-np.abs(values), mask, space=SPACE, sign="positive")
    with pytest.raises(InputError, match="positive"):
        find_peaks(values, mask, space=SPACE, sign="up")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="neither top_voxels nor threshold"):
        find_clusters(values, mask, space=SPACE)
    with pytest.raises(InputError, match="min_voxels"):
        find_clusters(values, mask, space=SPACE, top_voxels=3, min_voxels=50)
    with pytest.raises(InputError, match="3-D"):
        find_peaks(values, nib.Nifti1Image(np.ones((2, 2, 2, 2)), AFFINE), space=SPACE)
    with pytest.raises(InputError, match="one map at a time"):
        region_table(nib.Nifti1Image(np.ones((2, 2, 2, 2)), AFFINE), space=SPACE)
    with pytest.raises(InputError, match="finite and not zero"):
        region_table(nib.Nifti1Image(np.full((3, 3, 3), np.nan), AFFINE), space=SPACE)
    with pytest.raises(DataMissingError):
        region_table(tmp_path / "none.nii.gz", space=SPACE)
    corner = np.zeros(SHAPE, dtype=np.uint8)
    corner[:2, :2, :2] = 1
    with pytest.raises(InputError, match="no region has a voxel"):
        region_means(np.ones(8), nib.Nifti1Image(corner, AFFINE), space=SPACE)


@pytest.mark.data
def test_sherlock_s_mask_is_the_posterior_medial_cortex(data_dir):
    mask = nib.load(next((data_dir / "sherlock_chen2017").rglob("pmc_nn.nii")))
    inside = np.asanyarray(mask.dataobj) != 0
    table = region_means(np.ones(int(inside.sum())), mask, space=SPACE)
    assert set(table.nlargest(2, "n_voxels")["region"]) == {
        "precuneus",
        "posterior cingulate cortex",
    }
    middle = find_peaks(np.ones(int(inside.sum())), mask, space=SPACE, top_k=1)
    assert middle["nearest_region"][0] in ("precuneus", "posterior cingulate cortex")


def test_default_atlas_is_the_landmarks():
    assert landmarks().kind == "landmarks"
    assert landmarks() is landmarks()


def test_a_plateau_that_the_rank_cuts_is_a_cluster_with_a_peak():
    """As in maps of boxes: equal values, of which only some are among the largest."""
    line = np.zeros((30, 3, 3))
    line[5:20, 1, 1] = 1.0  # one plateau, beaten at its far end
    line[20, 1, 1] = 2.0
    image = nib.Nifti1Image(np.ones(line.shape, np.uint8), np.eye(4))
    values = line[np.ones(line.shape, bool)]
    for n in range(1, 16):
        table = find_clusters(
            values, image, space="MNI152NLin6Asym", top_voxels=n, min_voxels=1, sign="positive"
        )
        assert table["n_voxels"].sum() == n
        assert table["value"].iloc[0] == 2.0

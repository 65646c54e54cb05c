"""Embeddings, their stability and their clusters, against planted groups and plain noise."""

import sys

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from emodecode.errors import InputError
from emodecode.explain.embedding import cluster_count, embed, neighbour_overlap, stability

CENTRES = np.array([[-40.0, 0, 0], [40, 10, 0], [0, 50, 30]])
SHAPE = (20, 22, 18)
AFFINE = np.array([[-6.0, 0, 0, 57], [0, 6, 0, -63], [0, 0, 6, -51], [0, 0, 0, 1]])


def _groups(seed, *, n=60, n_columns=3, spread=4.0):
    rng = np.random.default_rng(seed)
    which = np.arange(n) % 3
    centres = np.pad(CENTRES, ((0, 0), (0, n_columns - 3)))
    return centres[which] + spread * rng.standard_normal((n, n_columns)), which


@pytest.fixture(scope="module")
def mask():
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij"))
    return nib.Nifti1Image((np.sum(grid**2, axis=0) < 1).astype(np.uint8), AFFINE)


def _voxels(mask, rng, *, n, fwhm_vox=0.0):
    """Coordinates in mm of the n highest voxels of noise, smooth or not."""
    noise = rng.standard_normal(SHAPE)
    if fwhm_vox:
        noise = gaussian_filter(noise, fwhm_vox / 2.3548)
    inside = np.asanyarray(mask.dataobj) != 0
    best = np.argsort(-noise[inside])[:n]
    return nib.affines.apply_affine(AFFINE, np.argwhere(inside)[best])


def test_pca_is_the_leading_eigenvectors():
    points, _ = _groups(0, n_columns=5)
    got = embed(points, method="pca")
    values, vectors = np.linalg.eigh(np.cov(points.T))
    expected = (points - points.mean(axis=0)) @ vectors[:, :-3:-1]
    signs = np.sign((got.places * expected).sum(axis=0))
    np.testing.assert_allclose(got.places, expected * signs, atol=1e-10)
    np.testing.assert_allclose(got.explained, values[:-3:-1] / values.sum(), atol=1e-12)


@pytest.fixture(scope="module")
def umap_stability():
    points, _ = _groups(1, n=90)
    found = stability(
        points, method="umap", seeds=(0, 1), n_bootstrap=1, n_null=1, n_neighbors=10, seed=3
    )
    return found


@pytest.mark.slow
def test_umap_keeps_planted_groups_apart_and_repeats_itself():
    points, which = _groups(1, n=90)
    one = embed(points, n_neighbors=10, seed=0)
    assert one.places.shape == (90, 2)
    assert one.explained is None
    distances = cdist(one.places, one.places)
    same = which[:, None] == which[None]
    assert distances[same].max() < distances[~same].min()
    larger = embed(points * 64, n_neighbors=10, seed=0)
    np.testing.assert_array_equal(larger.places, one.places)


@pytest.mark.slow
def test_umap_places_many_groups_far_apart_without_a_warning():
    rng = np.random.default_rng(2)
    centres = 500 * rng.standard_normal((6, 1, 3))
    points = (centres + rng.standard_normal((6, 12, 3))).reshape(-1, 3)
    assert np.isfinite(embed(points, n_neighbors=5).places).all()


def test_umap_of_groups_agrees_over_seeds_above_chance(umap_stability):
    table = umap_stability.table
    assert list(zip(table["points"], table["pair"], strict=True)) == [
        ("given", "seeds"),
        ("given", "bootstrap"),
        ("structureless", "seeds"),
        ("structureless", "bootstrap"),
    ]
    seeds = umap_stability.summary.loc[("given", "seeds")]
    assert seeds["n_points"] == 90
    assert seeds["neighbour_overlap"] > 0.5
    assert seeds["chance_overlap"] == pytest.approx(10 / 89)
    assert seeds["chance_r"] < 0.35
    drawn = umap_stability.summary.loc[("given", "bootstrap")]
    assert 0.5 * 90 < drawn["n_points"] < 0.75 * 90
    assert drawn["neighbour_overlap"] > 2 * drawn["chance_overlap"]
    disparity, r = table["disparity"], table["procrustes_r"]
    np.testing.assert_allclose(r**2, 1 - disparity, atol=1e-12)


def test_umap_agrees_with_itself_about_noise_too(umap_stability):
    """Why structureless points stand beside: overlap alone proves no structure."""
    noise = umap_stability.summary.loc[("structureless", "seeds")]
    assert noise["neighbour_overlap"] > 3 * noise["chance_overlap"]


def test_pca_has_no_seeds_and_its_bootstraps_agree_where_there_is_structure():
    points, _ = _groups(2, n=150)
    found = stability(points, method="pca", n_bootstrap=3, n_null=1, n_neighbors=10)
    assert set(found.table["pair"]) == {"bootstrap"}
    assert found.summary.loc[("given", "bootstrap"), "procrustes_r"] > 0.99
    rng = np.random.default_rng(0)
    round_cloud = rng.standard_normal((60, 20))
    noise = stability(round_cloud, method="pca", n_bootstrap=3, n_null=0, n_neighbors=10)
    assert noise.table["procrustes_r"].max() < 0.95


def test_neighbour_overlap_by_brute_force_and_at_chance():
    rng = np.random.default_rng(0)
    one = rng.standard_normal((200, 2))
    two = one + 0.3 * rng.standard_normal((200, 2))

    def nearest(places):
        distances = cdist(places, places)
        np.fill_diagonal(distances, np.inf)
        return np.argsort(distances, axis=1)[:, :7]

    pairs = zip(nearest(one), nearest(two), strict=True)
    expected = np.mean([len(set(a) & set(b)) / 7 for a, b in pairs])
    assert neighbour_overlap(one, two, n_neighbors=7) == pytest.approx(expected)
    assert neighbour_overlap(one, one * 3 + 1, n_neighbors=7) == 1
    unrelated = rng.standard_normal((200, 2))
    assert neighbour_overlap(one, unrelated, n_neighbors=30) == pytest.approx(30 / 199, abs=0.02)


def test_three_planted_groups_are_three_clusters_and_no_chance(mask):
    points, which = _groups(4, n=150, spread=6.0)
    found = cluster_count(points, mask=mask, classes=which, n_null=39)
    assert found.n_clusters == 3
    groups = [found.labels[which == group] for group in range(3)]
    assert [len(set(each[each >= 0])) for each in groups] == [1, 1, 1]
    assert found.smallest_p == 1 / 40
    assert found.p_count == found.p_strength == 1 / 40
    assert found.strength > 0.5 > found.null_strengths.max()
    again = cluster_count(points, mask=mask, classes=which, n_null=39)
    np.testing.assert_array_equal(again.null_counts, found.null_counts)


def test_random_voxels_are_no_more_clustered_than_random_voxels(mask):
    """p is uniform under its null: here at most a few of 20 data sets fall below .2."""
    rng = np.random.default_rng(5)
    found = [
        cluster_count(_voxels(mask, rng, n=150), mask=mask, n_null=19, min_cluster_size=5, seed=i)
        for i in range(20)
    ]
    assert sum(each.p_count <= 0.2 for each in found) <= 8
    assert sum(each.p_strength <= 0.2 for each in found) <= 8
    assert np.mean([each.p_strength for each in found]) == pytest.approx(0.5, abs=0.2)
    assert min(each.null_counts.max() for each in found) >= 2, "small clusters come by themselves"


def test_voxels_of_a_smooth_map_clump_without_any_meaning(mask):
    """Independent voxels are too easy a null for a smooth map; smooth ones are not."""
    rng = np.random.default_rng(6)
    easy, fair = [], []
    for i in range(6):
        points = _voxels(mask, rng, n=150, fwhm_vox=5)
        common = {"mask": mask, "n_null": 19, "seed": i}
        easy.append(cluster_count(points, **common).p_strength)
        smooth = cluster_count(points, null="smooth-in-mask", fwhm_mm=30, **common)
        fair.append(smooth.p_strength)
    assert np.median(easy) == 1 / 20
    assert np.median(fair) > 0.2


def test_null_voxels_lie_in_the_mask_as_many_for_each_class(mask, monkeypatch):
    import emodecode.explain.embedding as module

    seen = []
    real = module._clusters
    monkeypatch.setattr(
        module, "_clusters", lambda points, *more: (seen.append(points), real(points, *more))[1]
    )
    points, _ = _groups(7, n=50)
    classes = np.repeat(["a", "b"], [40, 10])
    for null in ("uniform-in-mask", "smooth-in-mask"):
        seen.clear()
        cluster_count(points, null=null, fwhm_mm=20, mask=mask, classes=classes, n_null=3)
        assert len(seen) == 4
        for drawn in seen[1:]:
            assert drawn.shape == points.shape
            vox = np.rint(nib.affines.apply_affine(np.linalg.inv(AFFINE), drawn)).astype(int)
            assert (np.asanyarray(mask.dataobj)[tuple(vox.T)] == 1).all()
            assert len(np.unique(vox[:40], axis=0)) == 40
            assert len(np.unique(vox[40:], axis=0)) == 10


def test_given_nulls_and_embedded_points():
    points, _ = _groups(8, n=90, n_columns=6)
    rng = np.random.default_rng(8)
    candidates = rng.standard_normal((500, 6)) * points.std()
    pca = {"method": "pca"}
    drawn = cluster_count(points, null=candidates, embed_with=pca, n_null=19)
    assert drawn.n_clusters == 3
    assert drawn.p_strength == 1 / 20
    sets = np.stack([candidates[:90], points])
    given = cluster_count(points, null=sets, embed_with=pca)
    assert given.null_counts[1] == 3
    assert given.share_same == 0.5
    assert given.p_count == 2 / 3
    assert given.p_strength == 2 / 3


def test_a_voxel_may_be_drawn_for_several_classes_but_once_for_each():
    points, _ = _groups(7, n=50)
    classes = np.repeat(["a", "b"], [40, 10])
    candidates = np.random.default_rng(1).standard_normal((40, 3))
    assert len(cluster_count(points, null=candidates, classes=classes, n_null=2).null_counts) == 2
    with pytest.raises(InputError, match="40 candidates"):
        cluster_count(points, null=candidates, n_null=2)


def _nan(points):
    points = points.copy()
    points[4, 1] = np.nan
    return points


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, m: embed(_nan(p)), "not finite in 1 of 60 points, first in row 4"),
        (lambda p, m: embed(p[:, :1]), r"shape \(60, 1\)"),
        (lambda p, m: embed(p * 0, method="pca"), "all the same"),
        (lambda p, m: embed(p, n_neighbors=60), "n_neighbors = 60 for 60 points"),
        (lambda p, m: embed(p, method="tsne"), "method = 'tsne'"),
        (lambda p, m: stability(p, method="pca", n_bootstrap=0), "0 bootstraps"),
        (lambda p, m: stability(p, method="umap", seeds=(0,), n_bootstrap=0), "1 seeds"),
        (lambda p, m: cluster_count(p), "no mask"),
        (lambda p, m: cluster_count(p[:, :2], mask=m), "2 columns"),
        (lambda p, m: cluster_count(p, null="gaussian", mask=m), "null = 'gaussian'"),
        (lambda p, m: cluster_count(p, null="smooth-in-mask", mask=m), "fwhm_mm = None"),
        (lambda p, m: cluster_count(p, null=p[:, :2]), r"shape \(60, 2\)"),
        (lambda p, m: cluster_count(p, null=p[:20]), "20 candidates"),
        (lambda p, m: cluster_count(p, mask=m, n_null=0), "n_null = 0"),
        (lambda p, m: cluster_count(p, mask=m, classes=[1, 2]), "2 classes for 60 points"),
        (lambda p, m: cluster_count(p[:8], mask=m), "min_cluster_size = 5 for 8 points"),
        (lambda p, m: cluster_count(_nan(p), mask=m), "not finite"),
    ],
)
def test_bad_input_is_refused(call, words, mask):
    with pytest.raises(InputError, match=words) as refused:
        call(_groups(9)[0], mask)
    assert refused.value.expected
    assert refused.value.remedy


def test_missing_umap_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match=r"emodecode\[explain\]"):
        embed(_groups(9)[0], n_neighbors=10)

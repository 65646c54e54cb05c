"""Inference over subjects' maps: brute force, scipy, nilearn, planted effects, noise."""

from itertools import product

import nibabel as nib
import numpy as np
import pytest
from nilearn.maskers import NiftiMasker
from nilearn.mass_univariate import permuted_ols
from scipy import ndimage, stats

from emodecode.errors import InputError
from emodecode.explain.group import infer_group, tfce

MASK = np.zeros((7, 8, 6), dtype=bool)
MASK[1:6, 1:7, 1:5] = True
MASK[1, 1, 1] = False


def _maps(n=8, *, effect=0.0, seed=0, smooth=0.0):
    rng = np.random.default_rng(seed)
    volumes = rng.standard_normal((n, *MASK.shape))
    if smooth:
        volumes = ndimage.gaussian_filter(volumes, (0, smooth, smooth, smooth))
        volumes /= volumes.std()
    volumes[:, 2:5, 2:5, 2:4] += effect
    return volumes[:, MASK]


def test_t_and_corrected_p_are_those_of_brute_force():
    maps = _maps(5, effect=1.5)
    maps[:, 7] = 0.0
    found = infer_group(maps)
    known = np.delete(np.arange(maps.shape[1]), 7)
    reference = stats.ttest_1samp(maps[:, known], 0)
    np.testing.assert_allclose(found.t[known], reference.statistic)
    assert (found.t[7], found.p[7], found.p_single[7]) == (0, 1, 1)
    np.testing.assert_allclose(found.mean, maps.mean(0))
    flips = np.array(list(product([1, -1], repeat=5)))
    t = np.stack([stats.ttest_1samp(sign[:, None] * maps[:, known], 0).statistic for sign in flips])
    largest = np.abs(t).max(1)
    own = np.abs(reference.statistic)
    np.testing.assert_allclose(
        found.p[known], [(largest >= each - 1e-9).mean() for each in own], atol=1e-12
    )
    np.testing.assert_allclose(found.p_single[known], (np.abs(t) >= own - 1e-9).mean(0))
    assert (found.exact, found.n_flips, found.p_smallest) == (True, 32, 2 / 32)
    assert "all 32 sign patterns" in found.sentence


def test_twelve_subjects_are_the_most_for_all_patterns():
    maps = _maps(13)[:, :20]
    twelve, thirteen = infer_group(maps[:12]), infer_group(maps, n_flips=999)
    assert (twelve.exact, twelve.n_flips) == (True, 4096)
    assert (thirteen.exact, thirteen.n_flips, thirteen.p_smallest) == (False, 999, 0.001)
    again = infer_group(maps, n_flips=999)
    np.testing.assert_array_equal(thirteen.p, again.p)
    more = infer_group(maps, n_flips=20_000, seed=1)
    assert np.abs(more.p - thirteen.p).max() < 0.06  # the sampled p goes to the exact one


def test_the_largest_t_is_nilearns():
    maps = _maps(16, effect=1.2, seed=3)
    found = infer_group(maps, n_flips=2000)
    theirs = permuted_ols(
        *(np.ones((16, 1)), maps),
        **{"model_intercept": False, "n_perm": 2000, "random_state": 0, "verbose": 0},
    )
    np.testing.assert_allclose(found.t, theirs["t"][0])
    p = 10 ** -theirs["logp_max_t"][0]
    assert np.abs(found.p - p).max() < 4 * np.sqrt(2 * 0.25 / 2000)
    small = p < 0.1
    assert small.sum() > 3
    assert np.abs(found.p - p)[small].max() < 4 * np.sqrt(2 * 0.1 * 0.9 / 2000)


def test_tfce_is_nilearns_times_the_step():
    """nilearn takes 6 neighbours, 100 steps up to each map's largest |t|, and no factor dh.

    So its maps of flipped signs are summed over other steps than the observed one, and its p are
    others than ours, which brute force gives below.
    """
    maps = _maps(14, effect=0.9, seed=4, smooth=0.7)
    image = nib.Nifti1Image(MASK.astype(np.uint8), np.eye(4))
    masker = NiftiMasker(image).fit()
    theirs = permuted_ols(
        *(np.ones((14, 1)), maps),
        **{"model_intercept": False, "n_perm": 0, "random_state": 0, "verbose": 0},
        **{"tfce": True, "masker": masker, "output_type": "dict"},
    )
    dh = np.abs(theirs["t"]).max() / 100
    own = infer_group(maps, mask=MASK, connectivity=6, dh=dh, n_flips=1)
    np.testing.assert_allclose(own.tfce, theirs["tfce"][0] * dh, rtol=1e-6, atol=1e-9)


def test_tfce_of_a_block_is_its_integral():
    """Of a block of n voxels at height t: sqrt(n) t^3 / 3; corners belong together."""
    t = np.zeros(MASK.shape)
    t[2:4, 2:4, 2:4] = 3.0
    t[4, 4, 4] = 3.0  # shares a corner
    t[1, 6, 1] = -2.0
    found = np.zeros(MASK.shape)
    found[MASK] = tfce(t[MASK], mask=MASK, dh=0.01)
    assert found[2, 2, 2] == pytest.approx(np.sqrt(9) * 9, rel=0.01)
    assert found[4, 4, 4] == found[2, 2, 2]
    assert found[1, 6, 1] == pytest.approx(-8 / 3, rel=0.01)
    assert np.count_nonzero(found) == 10
    found[MASK] = tfce(t[MASK], mask=MASK, dh=0.01, connectivity=18)
    assert found[4, 4, 4] == pytest.approx(9, rel=0.01)
    np.testing.assert_array_equal(tfce(-t[MASK], mask=MASK), -tfce(t[MASK], mask=MASK))


def test_tfce_p_is_that_of_brute_force():
    maps = _maps(6, effect=1.0, seed=5)
    found = infer_group(maps, mask=MASK, dh=0.2)
    assert found.tested == "tfce"
    own = tfce(stats.ttest_1samp(maps, 0).statistic, mask=MASK, dh=0.2)
    largest = []
    for sign in product([1, -1], repeat=6):
        t = stats.ttest_1samp(np.array(sign)[:, None] * maps, 0).statistic
        largest.append(np.abs(tfce(t, mask=MASK, dh=0.2)).max())
    expected = [(np.array(largest) >= abs(each) - 1e-9).mean() for each in own]
    np.testing.assert_allclose(found.p, expected, atol=1e-12)


def test_planted_voxels_are_found_and_no_others():
    planted = np.zeros(MASK.shape, dtype=bool)
    planted[2:5, 2:5, 2:4] = True
    planted = planted[MASK]
    maps = _maps(12, effect=1.7, seed=6)
    by_t = infer_group(maps).p <= 0.05
    by_tfce = infer_group(maps, mask=MASK, dh=0.4).p <= 0.05
    for found in (by_t, by_tfce):
        assert (found & ~planted).sum() <= 0.1 * max(found.sum(), 1)
    assert by_t[planted].mean() > 0.3
    assert by_tfce[planted].mean() > by_t[planted].mean() + 0.2


@pytest.mark.slow
@pytest.mark.parametrize("with_mask", [False, True])
def test_noise_is_found_in_one_of_twenty(with_mask):
    """Any voxel of a null map at p <= .05: exact level 6/128 of 8 subjects' 128 pairs of flips."""
    n = 120 if with_mask else 400
    rejected = 0
    for seed in range(n):
        maps = _maps(8, seed=100 + seed, smooth=0.8)
        mask = {"mask": MASK, "dh": 0.5} if with_mask else {}
        rejected += infer_group(maps[:, : None if with_mask else 60], **mask).p.min() <= 0.05
    low, high = stats.binom.ppf([0.005, 0.995], n, 6 / 128)
    assert low <= rejected <= high


def test_what_is_no_group_is_refused():
    maps = _maps(4)
    nan = maps.copy()
    nan[1, 3] = np.nan
    same = maps.copy()
    same[:, 2] = 1.5
    for bad, more, words in (
        (maps[0], {}, "two subjects"),
        (maps[:1], {}, "two subjects"),
        (nan, {}, "not finite in 1 of"),
        (same, {}, "1 features with one value"),
        (maps, {"mask": MASK[:5]}, "a mask of shape"),
        (maps, {"mask": MASK, "connectivity": 8}, "connectivity = 8"),
        (maps, {"mask": MASK, "dh": 0}, "dh = 0"),
        (maps, {"n_flips": 0}, "0 flips"),
    ):
        with pytest.raises(InputError) as refused:
            infer_group(bad, **more)
        assert words in str(refused.value)
        assert "what to do" in str(refused.value)

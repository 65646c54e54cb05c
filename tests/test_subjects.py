"""Inference over subjects against scipy, the paper's equations and noise."""

import json

import numpy as np
import pytest
from scipy import stats

from emodecode.errors import InputError
from emodecode.evaluate.subjects import (
    bootstrap_interval,
    describe_subjects,
    prevalence,
    sign_flip,
)


def scipy_p(values, alternative):
    """Exact p of scipy's paired permutation test of the mean."""
    return stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=np.inf,
        alternative=alternative,
        vectorized=False,
    ).pvalue


@pytest.mark.parametrize("n", [2, 3, 5, 11])
@pytest.mark.parametrize("shift", [0.0, 0.4, -1.0])
def test_exact_sign_flip_equals_scipy(n, shift):
    values = np.random.default_rng(n).normal(shift, 1, n)
    found = sign_flip(values)
    assert found.exact
    assert found.p == pytest.approx(scipy_p(values, "greater"), abs=1e-12)
    assert found.p_two_sided == pytest.approx(scipy_p(values, "two-sided"), abs=1e-12)


def test_sign_flip_of_ties_and_zeros_by_hand():
    """(1, 1, 0): of the 4 patterns of the ones only (+, +) reaches 2; two-sided also (-, -)."""
    found = sign_flip(np.array([1.0, 1.0, 0.0]))
    assert (found.p, found.p_smallest) == (0.25, 0.25)
    assert (found.p_two_sided, found.p_smallest_two_sided) == (0.5, 0.5)
    nothing = sign_flip(np.zeros(4))
    assert (nothing.p, nothing.p_two_sided, nothing.p_smallest) == (1.0, 1.0, 1.0)
    assert sign_flip(np.array([0.1, 0.2, 0.3])).p == 0.125, "0.1 + 0.2 - 0.3 rounds to above 0"


def test_sampled_sign_flip_is_near_the_exact_one(monkeypatch):
    values = np.random.default_rng(3).normal(0.4, 1, 14)
    exact = sign_flip(values)
    monkeypatch.setattr("emodecode.evaluate.subjects.EXACT_UP_TO", 5)
    sampled = sign_flip(values, n_flips=20_000, seed=1)
    assert not sampled.exact
    assert sampled.p_smallest == pytest.approx(max(1 / 20_001, 2**-14))
    error = 4 * np.sqrt(exact.p * (1 - exact.p) / 20_000)
    assert abs(sampled.p - exact.p) < error
    assert abs(sampled.p_two_sided - exact.p_two_sided) < 2 * error
    assert sampled == sign_flip(values, n_flips=20_000, seed=1)


def test_sampled_above_fifteen():
    found = sign_flip(np.full(16, 0.1), n_flips=999)
    assert not found.exact
    assert found.p == found.p_smallest == pytest.approx(0.001)


def test_sign_flip_keeps_its_level_on_noise():
    noise = np.random.default_rng(0).standard_normal((600, 8))
    rejected = sum(sign_flip(values).p <= 0.05 for values in noise)
    low, high = stats.binom.ppf([0.0005, 0.9995], 600, 12 / 256)
    assert low <= rejected <= high


@pytest.mark.parametrize("values", [[], [0.1, np.nan], [[0.1], [0.2]]])
def test_unusable_values_are_refused(values):
    with pytest.raises(InputError, match="one finite value per subject"):
        sign_flip(np.array(values))


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_is_near_the_normal_interval(method):
    values = np.random.default_rng(5).normal(0.5, 0.1, 200)
    low, high = bootstrap_interval(values, seed=1, method=method)
    half = 1.96 * values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - half, abs=half / 10)
    assert high == pytest.approx(values.mean() + half, abs=half / 10)
    assert (low, high) == bootstrap_interval(values, seed=1, method=method)


def test_bootstrap_of_few_and_of_equal_values():
    assert np.isnan(bootstrap_interval(np.array([0.5]))).all()
    assert bootstrap_interval(np.full(5, 0.6)) == (0.6, 0.6)


def test_percentile_bootstrap_of_two_values_by_hand():
    """Means of resamples of (0, 1) are 0, .5 and 1 with shares 1/4, 1/2 and 1/4."""
    assert bootstrap_interval(np.array([0.0, 1.0]), method="percentile") == (0.0, 1.0)


def test_prevalence_by_hand():
    """Three subjects; 1, 0 and 2 of 9 permutations reach the smallest score, .6."""
    observed = np.array([0.6, 0.7, 0.8])
    null = np.full((9, 3), 0.5)
    null[0, 0] = null[3, 2] = 0.6
    null[5, 2] = 0.9
    found = prevalence(observed, null)
    assert found.p_global == pytest.approx(0.2 * 0.1 * 0.3)
    single = 0.006 ** (1 / 3)
    assert found.p_majority == pytest.approx((0.5 * single + 0.5) ** 3)
    assert found.gamma0 == pytest.approx((0.05 ** (1 / 3) - single) / (1 - single))
    assert found.gamma0_largest == pytest.approx((0.05 ** (1 / 3) - 0.1) / 0.9)
    at_bound = ((1 - found.gamma0) * single + found.gamma0) ** 3
    assert at_bound == pytest.approx(0.05), "the bound is where p reaches alpha"


def test_prevalence_equals_the_papers_sampled_combinations():
    rng = np.random.default_rng(2)
    observed, null = rng.normal(0.7, 0.3, 4), rng.normal(0, 1, (99, 4))
    stacked = np.vstack([observed, null])
    pick = rng.integers(0, 100, size=(200_000, 4))
    minima = stacked[pick, np.arange(4)].min(axis=1)
    sampled = np.mean(minima >= observed.min())
    found = prevalence(observed, null).p_global
    assert abs(sampled - found) < 4 * np.sqrt(found / 200_000)


def test_no_information_gives_no_prevalence():
    null = np.random.default_rng(0).normal(0, 1, (200, 8))
    found = prevalence(null.min(axis=0), null)
    assert found.p_global > 0.9
    assert found.p_majority > 0.9
    assert found.gamma0 is None


def test_prevalence_of_an_effect_in_all_or_in_some():
    rng = np.random.default_rng(1)
    null = rng.normal(0.5, 0.03, (1000, 15))
    all_of_them = prevalence(np.full(15, 0.9), null)
    assert all_of_them.p_global < 1e-6
    assert all_of_them.p_majority < 0.001
    assert all_of_them.gamma0 == all_of_them.gamma0_largest > 0.8
    many = prevalence(np.full(60, 0.9), rng.normal(0.5, 0.03, (1000, 60)))
    assert many.gamma0 > 0.94, "more subjects, nearer to all"
    some = rng.normal(0.5, 0.03, 15)
    some[:5] = 0.9
    assert prevalence(some, null).p_majority > 0.05


def test_prevalence_keeps_its_levels():
    """Global null without effects; majority null where half of the population has a large one."""
    rng, n_sets = np.random.default_rng(4), 800
    effect = rng.random((n_sets, 6)) < 0.5
    scores, null = rng.standard_normal((n_sets, 6)), rng.standard_normal((n_sets, 99, 6))
    noise = [prevalence(s, n).p_global <= 0.05 for s, n in zip(scores, null, strict=True)]
    half = [
        prevalence(s + 50 * e, n).p_majority <= 0.05
        for s, e, n in zip(scores, effect, null, strict=True)
    ]
    most = stats.binom.ppf(0.9995, n_sets, 0.05)
    assert stats.binom.ppf(0.0005, n_sets, 0.05) <= sum(noise) <= most
    assert 0 < sum(half) <= most


def test_a_null_of_other_subjects_is_refused():
    with pytest.raises(InputError, match=r"shape \(n_permutations, 3\)"):
        prevalence(np.zeros(3), np.zeros((10, 2)))


def test_describe_subjects_leaves_out_those_without_a_score():
    rng = np.random.default_rng(0)
    values = {"01": 0.6, "02": None, "03": 0.7, "04": float("nan"), "05": 0.65}
    null = rng.normal(0.5, 0.02, (99, 5))
    null[:, [1, 3]] = np.nan
    found = describe_subjects(values, 0.5, null_per_subject=null, seed=3)
    assert found["n_subjects"] == 3
    assert found["sign_flip"]["p"] == 0.125
    assert found["prevalence"]["p_global"] == pytest.approx(1e-6)
    assert 0.6 <= found["bootstrap"]["low"] < 0.65 < found["bootstrap"]["high"] <= 0.7
    kept = np.array([0.6, 0.7, 0.65])
    assert found == describe_subjects(kept, 0.5, null_per_subject=null[:, [0, 2, 4]], seed=3)
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("values", [{}, {"01": None}])
def test_describe_subjects_of_nobody(values):
    found = describe_subjects(values, 0.5)
    assert found == {
        "n_subjects": 0,
        "sign_flip": None,
        "bootstrap": {"low": None, "high": None},
        "prevalence": None,
    }
    assert describe_subjects({"01": 0.7}, None)["sign_flip"] is None

"""Mantel, noise ceiling and inference over subjects against scikit-bio, rsatoolbox and by hand."""

from itertools import permutations

import numpy as np
import pytest
from rsatoolbox.inference import boot_noise_ceiling
from rsatoolbox.rdm import RDMs, compare
from scipy import stats
from skbio.stats.distance import mantel as their_mantel
from statsmodels.stats.multitest import multipletests

from emodecode.errors import InputError
from emodecode.evaluate.subjects import bootstrap_interval, sign_flip
from emodecode.explain.crossnobis import crossnobis_rdm, subject_rdms
from emodecode.explain.mantel import mantel
from emodecode.explain.noise import cell_residuals, estimate_noise
from emodecode.explain.rdm import category_rdm, distance_rdm, pairs_of
from emodecode.explain.rsa import bootstrap_rsa, noise_ceiling
from emodecode.read.table import read_feature_tables

THEIR_NAMES = {"pearson": "corr", "spearman": "spearman", "cosine": "cosine"}


def _rdm(seed, n, n_axes=3):
    return distance_rdm(np.random.default_rng(seed).standard_normal((n, n_axes)))


def _subjects(seed, n_subjects=8, n=6, *, shared=0.0):
    """RDMs of subjects whose conditions lie at shared places, and of noise."""
    rng = np.random.default_rng(seed)
    places = shared * rng.standard_normal((n, 4))
    noise = rng.standard_normal((n_subjects, n, 4))
    return np.stack([distance_rdm(places + each) for each in noise]), distance_rdm(places)


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("seed", range(4))
def test_mantel_equals_brute_force_on_five(method, seed):
    a, b = _rdm(seed, 5), _rdm(seed + 100, 5)
    correlate = stats.pearsonr if method == "pearson" else stats.spearmanr
    every = [
        correlate(pairs_of(a), pairs_of(b[np.ix_(order, order)])).statistic
        for order in map(list, permutations(range(5)))
    ]
    found = mantel(a, b, method=method)
    sizes = np.abs(every)
    assert found.exact
    assert found.n_relabellings == 120
    assert found.r == pytest.approx(every[0], abs=1e-12)
    assert found.p == np.mean(sizes >= sizes[0] - 1e-9)
    assert found.p_smallest == np.mean(sizes >= sizes.max() - 1e-9)
    assert found.n_ties == np.sum(np.abs(sizes - sizes[0]) < 1e-9) - 1


@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_mantel_agrees_with_scikit_bio_on_more(method):
    a = _rdm(1, 12)
    b = a + _rdm(2, 12) * 1.5
    theirs = their_mantel(a, b, method=method, permutations=4999, seed=3)
    ours = mantel(a, b, method=method, n_permutations=5000, seed=4)
    assert not ours.exact
    assert ours.n_ties is None
    assert ours.p_smallest == 1 / 5001
    assert ours.r == pytest.approx(theirs[0], abs=1e-12)
    error = np.sqrt(theirs[1] * (1 - theirs[1]) * 2 / 5000)
    assert 0.001 < theirs[1] < 0.5
    assert abs(ours.p - theirs[1]) < 4 * error
    assert mantel(a, b, method=method, n_permutations=5000, seed=4) == ours


def test_p_is_valid_over_all_relabellings():
    """Under relabelling, p <= alpha happens in at most a share alpha of cases, and nearly so."""
    a, b = _rdm(5, 5), _rdm(6, 5)
    orders = [list(order) for order in permutations(range(5))]
    p = np.array([mantel(a, b[np.ix_(order, order)]).p for order in orders])
    for alpha in np.unique(p):
        assert np.mean(p <= alpha) == pytest.approx(alpha)
    assert p.min() == mantel(a, b).p_smallest == 1 / 120


def test_ties_make_the_smallest_p_larger():
    a = category_rdm(["x", "x", "y", "y", "y"])
    found = mantel(a, a)
    assert found.r == 1
    assert found.p == found.p_smallest == 12 / 120  # 2! 3! relabellings keep the categories
    assert found.n_ties == 11
    assert "10 pairs of 5 conditions are not 10 independent" in found.describe()
    assert "smallest p that these RDMs allow is 0.1000" in found.describe()


def test_negative_correlations_count():
    a = _rdm(7, 5)
    opposite = a.max() - a
    np.fill_diagonal(opposite, 0)
    found = mantel(a, opposite)
    assert found.r == pytest.approx(-1)
    assert found.p == 1 / 120


def test_published_p_took_pairs_for_observations():
    """S1.25: p = .073 for r = -.590 is the plain Pearson test with 10 pairs."""
    t = -0.590 * np.sqrt(8 / (1 - 0.590**2))
    assert 2 * stats.t.cdf(t, 8) == pytest.approx(0.073, abs=5e-4)


def test_mantel_refuses():
    three, four, five = _rdm(0, 3), _rdm(1, 4), _rdm(2, 5)
    with pytest.raises(InputError, match="1/6"):
        mantel(three, three)
    assert mantel(three, three, allow_few=True).n_relabellings == 6
    with pytest.raises(InputError, match="1/24"):
        mantel(four, four)
    with pytest.raises(InputError, match="2 conditions"):
        mantel(_rdm(0, 2), _rdm(1, 2), allow_few=True)
    with pytest.raises(InputError, match=r"\(5, 5\) and \(4, 4\)"):
        mantel(five, four)
    with pytest.raises(InputError, match="same dissimilarity for all pairs in the second RDM"):
        mantel(five, category_rdm(list("abcde")))
    with pytest.raises(InputError, match="not symmetric"):
        mantel(five, five + np.triu(np.ones((5, 5)), 1))
    with pytest.raises(InputError, match="diagonal"):
        mantel(five, five + np.eye(5))
    with pytest.raises(InputError, match="not finite"):
        mantel(five * np.nan, five)
    with pytest.raises(InputError, match="method = 'kendall'"):
        mantel(five, five, method="kendall")
    with pytest.raises(InputError, match="n_permutations = 0"):
        mantel(_rdm(0, 8), _rdm(1, 8), n_permutations=0)


@pytest.mark.parametrize("method", THEIR_NAMES)
def test_ceiling_equals_rsatoolbox(method):
    rdms, _ = _subjects(0, shared=0.8)
    theirs = boot_noise_ceiling(RDMs(pairs_of(rdms)), method=THEIR_NAMES[method])
    ours = noise_ceiling(rdms, method=method, n_permutations=10)
    np.testing.assert_allclose((ours.lower, ours.upper), theirs, atol=1e-10)
    assert ours.lower < ours.upper
    assert ours.lower_by_subject.shape == (8,)


@pytest.mark.parametrize("method", THEIR_NAMES)
def test_no_model_beats_the_upper_bound(method):
    rdms, truth = _subjects(1, shared=0.8)
    upper = noise_ceiling(rdms, method=method, n_permutations=10).upper
    models = {f"m{seed}": truth + 0.3 * seed * _rdm(seed, 6) for seed in range(8)}
    models["mean"] = rdms.mean(axis=0)
    means = bootstrap_rsa(rdms, models, method=method, n_bootstrap=100).models["mean"]
    assert means.max() <= upper + 1e-9
    assert means.max() > 0.8 * upper


def test_shared_geometry_is_found_and_noise_is_not():
    assert noise_ceiling(_subjects(2, shared=1.0)[0], n_permutations=200).p == 1 / 201
    p = [noise_ceiling(_subjects(s)[0], n_permutations=60, seed=s).p for s in range(80)]
    assert 0.4 < np.mean(p) < 0.6
    assert np.mean(np.array(p) <= 0.1) < 0.2
    noise = noise_ceiling(_subjects(3, 12, 3)[0], n_permutations=300)
    assert noise.lower_by_chance == pytest.approx(0, abs=0.05)
    assert noise.upper_by_chance > 0.15  # three pairs


def test_models_equal_independent_statistics():
    rdms, truth = _subjects(4, 12, shared=0.6)
    models = {"truth": truth, "pairs": category_rdm(list("aabbcc")), "other": _rdm(5, 6)}
    found = bootstrap_rsa(rdms, models, method="spearman", n_bootstrap=2000, seed=1)
    theirs = compare(
        RDMs(pairs_of(rdms)), RDMs(np.stack([pairs_of(m) for m in models.values()])), "spearman"
    )
    np.testing.assert_allclose(found.by_subject, theirs, atol=1e-12)
    assert found.exact
    for name in models:
        values, row = found.by_subject[name].to_numpy(), found.models.loc[name]
        assert row["mean"] == pytest.approx(values.mean())
        assert row["p"] == sign_flip(values).p_two_sided
        expected = bootstrap_interval(values, seed=1, n_boot=2000)
        np.testing.assert_allclose(row[["low", "high"]].astype(float), expected, atol=1e-12)
    for table in (found.models, found.differences):
        np.testing.assert_allclose(table["p_holm"], multipletests(table["p"], method="holm")[1])
    gap = found.differences.iloc[1]
    assert (gap["a"], gap["b"]) == ("truth", "other")
    between = found.by_subject["truth"] - found.by_subject["other"]
    assert gap["p"] == sign_flip(between.to_numpy()).p_two_sided
    assert gap["difference"] == pytest.approx(between.mean())


def test_the_planted_model_wins():
    rdms, truth = _subjects(6, 20, shared=1.5)
    found = bootstrap_rsa(rdms, {"truth": truth, "other": _rdm(9, 6)}, n_bootstrap=500)
    assert not found.exact
    assert found.models.loc["truth", "p_holm"] < 0.001
    assert found.differences.loc[0, "low"] > 0
    ceiling = noise_ceiling(rdms, n_permutations=50)
    assert ceiling.lower - 0.1 < found.models.loc["truth", "mean"] < ceiling.upper


def test_noise_lands_at_chance():
    """RDMs of independent noise against a fixed model, many times: p is uniform."""
    model = {"pairs": category_rdm(list("aabbcc"))}
    p = [
        bootstrap_rsa(_subjects(seed)[0], model, n_bootstrap=100).models["p"].item()
        for seed in range(200)
    ]
    assert stats.binomtest(int(np.sum(np.array(p) <= 0.1)), 200, 0.1).pvalue > 0.01


def test_one_model_and_equal_subjects():
    rdm = _rdm(3, 5)
    found = bootstrap_rsa(np.stack([rdm, rdm]), {"one": rdm}, n_bootstrap=100)
    assert found.differences.empty
    assert found.models.loc["one", ["mean", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert found.models.loc["one", "p"] == 0.5


def test_comparison_refuses():
    rdms, truth = _subjects(0)
    for bad, words in (
        (rdms[0], r"shape \(6, 6\)"),
        (rdms[:1], r"shape \(1, 6, 6\)"),
        (rdms[:, :2, :2], r"shape \(8, 2, 2\)"),
        (np.stack([truth * 0 + 1 - np.eye(6), rdms[0]]), "same dissimilarity for all pairs"),
        (rdms + np.eye(6), "diagonal"),
    ):
        with pytest.raises(InputError, match=words):
            noise_ceiling(bad)
        with pytest.raises(InputError, match=words):
            bootstrap_rsa(bad, {"truth": rdms[1]})
    with pytest.raises(InputError, match="model small"):
        bootstrap_rsa(rdms, {"small": truth[:5, :5] + 0})
    with pytest.raises(InputError, match="model flat"):
        bootstrap_rsa(rdms, {"flat": category_rdm(list("abcdef"))})
    with pytest.raises(InputError, match="0 models"):
        bootstrap_rsa(rdms, {})
    with pytest.raises(InputError, match="n_bootstrap = 99"):
        bootstrap_rsa(rdms, {"truth": truth + rdms[0]}, n_bootstrap=99)
    with pytest.raises(InputError, match="method = 'tau'"):
        noise_ceiling(rdms, method="tau")


@pytest.mark.data
def test_emotions_of_thirty_subjects(data_dir):
    """NEU: three emotions are too few for Mantel; whether subjects agree can be tested."""
    samples, _ = read_feature_tables(
        data_dir / "neu_anger_disgust_fear",
        files=["AAL_SPM12.csv"],
        label="emotion",
        run="priming",
        ignore=["filename"],
    )
    X, y, who = samples.X.astype(float), samples.y, samples.subjects
    run, cells = samples.table["run"].to_numpy(), np.char.add(samples.subjects, samples.y)
    plain, names = subject_rdms(X, y, who)
    crossed = []
    for name in names:  # one sample per emotion and priming: noise from the other subjects
        own = who == name
        residuals, df = cell_residuals(X[~own], cells[~own])
        noise = estimate_noise(residuals, df=df)
        crossed.append(crossnobis_rdm(X[own], y[own], run[own], noise=noise))
    for rdms in (plain, np.stack(crossed)):
        assert rdms.shape == (30, 3, 3)
        ceiling = noise_ceiling(rdms, n_permutations=500)
        assert ceiling.p > 0.1  # the subjects share no geometry of three emotions
        assert ceiling.lower < ceiling.upper < ceiling.upper_by_chance + 0.1
    assert (np.stack(crossed) < 0).any()
    with pytest.raises(InputError, match="1/6"):
        mantel(np.mean(crossed, axis=0), plain.mean(axis=0))

"""The benchmark behind docs/evidence.md: its data are null, its tests are the ones they claim."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score

from emodecode.evaluate.audit import audit_split
from emodecode.evaluate.corrected import corrected_t
from emodecode.evaluate.exchange import make_exchange, permuted_labels
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import choose_splits, is_stimulus_locked
from emodecode.models.catalogue import make_pipeline_for

PATH = Path(__file__).parents[1] / "benchmarks" / "bench_evidence.py"
SPEC = importlib.util.spec_from_file_location("bench_evidence", PATH)
bench = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(bench)

LDA = [Candidate("lda", make_pipeline_for("lda"))]


def make(name, number, **effect):
    maker = {"blocks": bench.make_blocks, "movie": bench.make_movie}[name]
    return maker(np.random.default_rng([3, number]), **effect)


def between(X, codes):
    """Sum of squares between the classes, all voxels."""
    means = np.stack([X[codes == k].mean(axis=0) for k in range(3)])
    return float(((means - means.mean(axis=0)) ** 2).sum())


def excess(name, n_sets, **effect):
    """Classes' sum of squares over its mean under exchanged labels, for each data set."""
    found = []
    for k in range(n_sets):
        samples = make(name, k, **effect)
        exchange = make_exchange(samples.table, classes=bench.CLASSES)
        drawn = permuted_labels(exchange, n_permutations=20, seed=k)[:, exchange.slot]
        null = [between(samples.X, own) for own in drawn]
        found.append(between(samples.X, exchange.label[exchange.slot]) / np.mean(null))
    return np.array(found)


@pytest.mark.parametrize("name", ["blocks", "movie"])
def test_null_data_do_not_know_the_labels(name):
    found = excess(name, 40)
    assert abs(found.mean() - 1) < 4 * found.std(ddof=1) / np.sqrt(len(found))
    assert found.mean() < 1.2


def test_a_planted_effect_is_in_the_data():
    assert excess("blocks", 5, effect=0.4).mean() > 2


@pytest.mark.parametrize(
    ("name", "split"), [("blocks", "leave_one_subject_out"), ("movie", "subject_by_stimulus")]
)
def test_tables_are_what_the_default_split_and_the_audit_expect(name, split):
    samples = make(name, 0)
    splits, chosen, _ = choose_splits(samples.table)
    assert chosen == split
    assert is_stimulus_locked(samples.table) == (name == "movie")
    assert audit_split(samples.table, splits, X=samples.X).verdict == "clean"
    counts = samples.table.groupby(["subject", "run"])["label"].nunique()
    assert (counts == 3).all()
    assert not samples.table.duplicated(["subject", "run", "volume"]).any()


def test_labels_are_own_in_blocks_and_common_in_the_film():
    for name, n_orders in (("blocks", 16), ("movie", 3)):
        table = make(name, 1).table
        orders = table.groupby(["subject", "run"])["label"].agg("".join)
        assert orders.nunique() == n_orders
        assert len(make_exchange(table, classes=bench.CLASSES).pools) == n_orders


def test_noise_is_autocorrelated_and_the_film_is_shared():
    lags, shared = [], []
    for k in range(10):
        X = make("movie", k).X.reshape(6, -1, 30)
        for voxel in range(0, 30, 3):
            series = X[:, :110, voxel]
            lags.append(np.mean([np.corrcoef(s[1:], s[:-1])[0, 1] for s in series]))
            shared.append(np.corrcoef(X[..., voxel])[np.triu_indices(6, 1)].mean())
    assert 0.6 < np.mean(lags) < 0.9
    assert 0.1 < np.mean(shared) < 0.2


@pytest.mark.slow
def test_volumes_reject_far_above_five_per_cent_and_the_default_does_not(monkeypatch):
    monkeypatch.setattr(bench, "N_PERMUTATIONS", 39)
    n_sets, n_refitted = 60, 20
    default, volumes = 0, 0
    for k in range(n_sets):
        samples, splits = bench.draw("blocks", k)
        results = score(samples, splits, LDA, progress=False)
        volumes += bench.fixed_p(results, bench.by_volume(samples.table), k) <= 0.05
        if k < n_refitted:
            whole = make_exchange(samples.table, classes=bench.CLASSES)
            default += bench.p_refitted(samples, splits, LDA, results, whole, k) <= 0.05
    assert binomtest(volumes, n_sets, 0.05, "greater").pvalue < 1e-3
    assert binomtest(default, n_refitted, 0.05, "greater").pvalue > 1e-2


def test_tests_without_permutation_are_the_textbook_ones():
    samples, splits = bench.draw("blocks", 2)
    results = score(samples, splits, LDA, progress=False)
    found = bench.without_permutation(results, splits)
    table = results.predictions
    own = [
        balanced_accuracy_score(part["label"], part["predicted"])
        for _, part in table.groupby("subject")
    ]
    assert found["score"] == pytest.approx(np.mean(own))
    assert found["t_folds"] == pytest.approx(found["t_subjects"])
    corrected = corrected_t(np.array(own) - 1 / 3, ratio=1 / 7)
    two_sided = 2 * min(found["t_corrected"], 1 - found["t_corrected"])
    assert two_sided == pytest.approx(corrected.p)


def test_shares_have_exact_intervals():
    assert bench.share(np.arange(500) < 25) == "5.0 (3.3 to 7.3)"

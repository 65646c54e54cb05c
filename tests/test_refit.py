"""Refitting to exchanged labels: against the loop, against scikit-learn, and the error rate."""

from functools import cache
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.signal import lfilter
from scipy.stats import binom, f
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import LeaveOneGroupOut, permutation_test_score
from sklearn.pipeline import Pipeline

from designs import blocks, film, rows_table
from emodecode.evaluate import refit
from emodecode.evaluate.chance import (
    Null,
    chance_levels,
    make_exchange,
    permuted_labels,
    refit_levels,
    shares_training,
)
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.refit import has_fast_path, refit_null
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.evaluate.splits import Split, leave_one_subject_out, subject_by_stimulus
from emodecode.evaluate.tally import METRICS, make_tally, subject_scores
from emodecode.models.catalogue import make_grid, make_pipeline_for
from emodecode.models.multitarget import fit_many
from emodecode.samples import Samples

LDA = Candidate("lda", make_pipeline_for("lda"))
QUIET = {"progress": False}


def make_samples(table, *, n_voxels=6, effect=0.0, ar=0.8, common=0.0, seed=0):
    """Voxels that drift as BOLD does, in each run anew; `common` is alike in all subjects."""
    rng = np.random.default_rng(seed)
    X = np.empty((len(table), n_voxels))
    codes, classes = pd.factorize(table["label"], sort=True)
    patterns = rng.normal(size=(len(classes), n_voxels))
    shared = {}
    for (_, run), rows in table.groupby(["subject", "run"]).indices.items():
        noise = lfilter([1], [1, -ar], rng.normal(size=(len(rows), n_voxels)), axis=0)
        X[rows] = noise + effect * patterns[codes[rows]]
        if common:
            if run not in shared:
                shared[run] = lfilter([1], [1, -ar], rng.normal(size=noise.shape), axis=0)
            X[rows] += common * shared[run]
    return Samples(X=X.astype(np.float32), table=table)


def exchange_of(samples):
    return make_exchange(samples.table, classes=samples.classes)


def run(samples, splits, candidates, *, m=20, **how):
    return refit_null(
        samples, splits, candidates, exchange=exchange_of(samples), n_permutations=m, **QUIET, **how
    )


def uneven(seed=1):
    """Three classes; one subject lacks one of them, blocks of unequal length."""
    table = blocks(n_subjects=4, n_runs=2, n_blocks=6, length=6, seed=seed)
    keep = np.random.default_rng(seed).random(len(table)) < 0.8
    keep &= (table["subject"] != "02") | (table["label"] != "c1")
    return table[keep].reset_index(drop=True)


def test_the_null_equals_scoring_the_exchanged_labels_one_by_one():
    samples = make_samples(uneven(), effect=0.5)
    splits = leave_one_subject_out(samples.table)
    candidates = [LDA, Candidate("logistic", make_pipeline_for("logistic"))]
    found = run(samples, splits, candidates, m=4, seed=3)
    exchange = exchange_of(samples)
    drawn = permuted_labels(exchange, n_permutations=4, seed=3)[:, exchange.slot]
    for k, codes in enumerate(drawn):
        table = samples.table.assign(label=np.array(samples.classes)[codes])
        other = Samples(X=samples.X, table=table)
        results = score(other, splits, candidates, **QUIET)
        scores = score_predictions(
            results.predictions, classes=samples.classes, n_permutations=2, samples_table=table
        )
        for name, null in found.items():
            model = scores["models"][name]
            for metric in METRICS:
                assert null.scores[metric][k] == pytest.approx(model[metric]["value"], abs=1e-6)
            for s, subject in enumerate(null.subjects):
                expected = model["per_subject"][subject]["balanced_accuracy"]
                assert null.per_subject[k, s] == pytest.approx(expected, abs=1e-9)


def test_networks_choose_their_epoch_in_the_null_as_in_the_scores():
    """In a film on other subjects in another part of it, not on other subjects alone."""
    samples = make_samples(film(n_subjects=4), effect=0.5)
    splits = subject_by_stimulus(samples.table, n_segments=2)[:2]
    net = Candidate("net", make_pipeline_for("hanson_mlp", params={"max_epochs": 6}))
    found = run(samples, splits, [net], m=1, seed=3)["net"]
    exchange = exchange_of(samples)
    codes = permuted_labels(exchange, n_permutations=1, seed=3)[0, exchange.slot]
    table = samples.table.assign(label=np.array(samples.classes)[codes])
    other = Samples(X=samples.X, table=table)
    results = [score(other, [split], [net], seed=3, **QUIET).predictions for split in splits]
    scores = score_predictions(
        pd.concat(results), classes=samples.classes, n_permutations=2, samples_table=table
    )["models"]["net"]
    for metric in METRICS:
        assert found.scores[metric][0] == pytest.approx(scores[metric]["value"], abs=1e-6)


class Voted(BaseEstimator):
    """Keeps what it is fitted on; says nothing."""

    seen: ClassVar[list] = []

    def fit(self, X, y, *, votes=None):
        self.classes_ = np.unique(y)
        self.seen.append((np.asarray(y), votes))
        return self

    def predict_proba(self, X):
        return np.full((len(X), len(self.classes_)), 1 / len(self.classes_))


def test_votes_of_the_true_labels_do_not_reach_the_null():
    table = blocks(n_subjects=3, n_runs=2, n_blocks=6, length=4)
    names = sorted(set(table["label"]))
    shares = {f"p_{name}": 0.1 + 0.7 * (table["label"] == name) for name in names}
    samples = make_samples(table.assign(**shares))
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline = Pipeline([("classifier", Voted().set_fit_request(votes=True))])
    Voted.seen.clear()
    run(samples, leave_one_subject_out(table), [Candidate("voted", pipeline)], m=4)
    assert len(Voted.seen) == 3 * 4
    for y, votes in Voted.seen:
        np.testing.assert_array_equal(votes, (y[:, None] == np.unique(y)).astype(float))


def test_sklearns_permutation_test_gives_the_same_distribution():
    table = rows_table(n_subjects=1, n_each=14, labels=("a", "b"))
    samples = make_samples(table, n_voxels=4, ar=0.0, effect=0.3)
    part = np.arange(len(table)) // 2 % 4
    splits = [
        Split(np.flatnonzero(part != k), np.empty(0, int), np.flatnonzero(part == k), name=str(k))
        for k in range(4)
    ]

    def over_all_folds(estimator, X, y):
        predicted = np.empty(len(y), dtype=object)
        for train, test in LeaveOneGroupOut().split(X, y, part):
            predicted[test] = estimator.fit(X[train], y[train]).predict(X[test])
        return balanced_accuracy_score(y.astype(str), predicted.astype(str))

    whole = [(np.arange(len(table)), np.arange(len(table)))]
    _, observed_null, _ = permutation_test_score(
        _Whole(over_all_folds),
        samples.X, samples.y, cv=whole, scoring=lambda e, X, y: e.score_, n_permutations=150,
        random_state=1,
    )  # fmt: skip
    ours = run(samples, splits, [LDA], m=150)["lda"].scores["balanced_accuracy"]
    assert ours.mean() == pytest.approx(observed_null.mean(), abs=4 * 0.13 * np.sqrt(2 / 150))
    ratio = (ours.std(ddof=1) / observed_null.std(ddof=1)) ** 2
    assert f.ppf(1e-4, 149, 149) < ratio < f.ppf(1 - 1e-4, 149, 149)
    real = over_all_folds(make_pipeline_for("lda"), samples.X, samples.y)
    p = [(1 + np.sum(null >= real - 1e-9)) / 151 for null in (ours, observed_null)]
    assert p[0] == pytest.approx(p[1], abs=4 * np.sqrt(2 * p[1] * (1 - p[1]) / 150) + 0.01)


class _Whole(BaseEstimator):
    """An estimator for `permutation_test_score` whose fit runs the folds of one labelling."""

    def __init__(self, over_all_folds):
        self.over_all_folds = over_all_folds

    def __sklearn_clone__(self):
        return _Whole(self.over_all_folds)

    def fit(self, X, y):
        self.score_ = self.over_all_folds(make_pipeline_for("lda"), X, y)
        return self


def test_two_processes_and_a_resumed_run_give_the_same(tmp_path, monkeypatch):
    samples = make_samples(uneven(), effect=0.5)
    splits = leave_one_subject_out(samples.table)
    candidates = [LDA, Candidate("logistic", make_pipeline_for("logistic"))]
    alone = run(samples, splits, candidates, m=6)
    both = run(samples, splits, candidates, m=6, n_jobs=2, resume_folder=tmp_path)
    assert not list(tmp_path.glob("*.partial*"))

    def no_fit(*_):
        raise AssertionError("fitted again")

    monkeypatch.setattr(refit, "_run_one", no_fit)
    again = run(samples, splits, candidates, m=6, resume_folder=tmp_path)
    for name in alone:
        assert alone[name].subjects == ("01", "02", "03", "04")
        for metric in METRICS:
            expected = alone[name].scores[metric]
            np.testing.assert_allclose(both[name].scores[metric], expected, atol=1e-9)
            np.testing.assert_array_equal(again[name].scores[metric], both[name].scores[metric])
    with pytest.raises(AssertionError, match="fitted again"):
        run(samples, splits, candidates, m=6, seed=1, resume_folder=tmp_path)


def test_a_broken_file_is_fitted_anew(tmp_path):
    samples = make_samples(blocks(n_subjects=2, n_runs=1))
    splits = leave_one_subject_out(samples.table)
    first = run(samples, splits, [LDA], resume_folder=tmp_path)["lda"]
    file = sorted(tmp_path.glob("*.npz"))[0]
    file.write_bytes(file.read_bytes()[:200])
    again = run(samples, splits, [LDA], resume_folder=tmp_path)["lda"]
    np.testing.assert_array_equal(first.per_subject, again.per_subject)


def test_tuned_decoders_are_tuned_anew_for_each_labelling():
    samples = make_samples(blocks(n_subjects=4, n_runs=2, n_blocks=6, length=3), effect=1.0)
    splits = leave_one_subject_out(samples.table)[:1]
    pipeline = make_pipeline_for("ridge")
    grid = make_grid("ridge", {"alpha": [1.0, 1e5]}, pipeline=pipeline)
    tuned = Candidate("tuned", pipeline, grid)
    assert not has_fast_path(tuned)
    found = run(samples, splits, [tuned], m=3, tuning=Tuning(n_folds=2))["tuned"]
    exchange = exchange_of(samples)
    drawn = permuted_labels(exchange, n_permutations=3, seed=0)[:, exchange.slot]
    for k, codes in enumerate(drawn):
        table = samples.table.assign(label=np.array(samples.classes)[codes])
        results = score(
            Samples(X=samples.X, table=table), splits, [tuned], tuning=Tuning(n_folds=2), **QUIET
        )
        own = results.predictions
        right = (own["label"] == own["predicted"]).mean()
        assert found.scores["accuracy"][k] == pytest.approx(right)


def test_labellings_whose_training_samples_lack_a_class_do_not_stop_the_test():
    table = rows_table(n_subjects=6, labels=("a", "b"), n_each=2)
    table["label"] = np.where(table["subject"].isin(["0", "1"]), "a", "b")
    samples = make_samples(table, n_voxels=3)
    subjects = samples.subjects
    test = np.isin(subjects, ["0", "2"])
    half = Split(np.flatnonzero(~test), np.empty(0, int), np.flatnonzero(test), name="half")
    pipeline = make_pipeline_for("logistic")
    grid = make_grid("logistic", {"C": [0.1, 1.0]}, pipeline=pipeline)
    candidates = [LDA, Candidate("logistic", pipeline), Candidate("tuned", pipeline, grid)]
    null = run(samples, [half], candidates, m=12)
    exchange = exchange_of(samples)
    drawn = permuted_labels(exchange, n_permutations=12, seed=0)[:, exchange.slot]
    lacking = np.array([len(set(codes[half.train])) == 1 for codes in drawn])
    assert lacking.any()
    for found in null.values():
        assert np.isfinite(found.scores["accuracy"]).all()
        assert (found.scores["accuracy"][lacking] == 0).all()
        assert np.isnan(found.per_subject).all()


def test_observed_scores_come_from_the_results_and_p_from_the_null():
    samples = make_samples(blocks(n_subjects=4, n_runs=2), effect=0.8)
    splits = leave_one_subject_out(samples.table)
    other = Candidate("logistic", make_pipeline_for("logistic"))
    results = score(samples, splits, [LDA, other], **QUIET)
    null = run(samples, splits, [LDA], m=30)
    scores = score_predictions(
        results.predictions, classes=samples.classes, samples_table=samples.table,
        rows=results.rows, n_permutations=50, nulls=null,
    )  # fmt: skip
    lda = scores["models"]["lda"]
    for metric, sign in (("balanced_accuracy", 1), ("macro_auc", 1), ("log_loss", -1)):
        values, observed = null["lda"].scores[metric], lda[metric]["value"]
        b = np.sum(sign * values >= sign * observed - 1e-9)
        assert lda[metric]["p"] == pytest.approx((b + 1) / 31)
        assert lda[metric]["chance"] == pytest.approx(values.mean())
        assert lda[metric]["chance_sd"] == pytest.approx(values.std(ddof=1))
    assert lda["balanced_accuracy"]["p"] < 0.1
    assert lda["test"]["method"] == "refit"
    assert lda["test"]["n_permutations"] == 30
    assert lda["test"]["sentence"] == (
        "30 labellings: labels of whole blocks exchanged within runs (8 sets of labels); "
        "everything refitted in every fold"
    )
    test = scores["models"]["logistic"]["test"]
    assert (test["method"], test["n_permutations"]) == ("predictions", 50)
    assert "× 1.41 because the folds share training samples (approximate)" in test["sentence"]


def test_a_metric_without_a_null_has_no_p():
    samples = make_samples(blocks(n_subjects=2, n_runs=1))
    results = score(samples, leave_one_subject_out(samples.table), [LDA], **QUIET)
    nowhere = np.full(5, np.nan)
    null = Null(dict.fromkeys(METRICS, nowhere), nowhere[:, None], ("01",))
    found = score_predictions(results.predictions, classes=samples.classes, nulls={"lda": null})
    assert found["models"]["lda"]["balanced_accuracy"]["p"] is None
    assert found["models"]["lda"]["balanced_accuracy"]["chance"] is None


def test_which_candidates_have_the_fast_path():
    assert has_fast_path(LDA)
    assert not has_fast_path(Candidate("lda", LDA.pipeline, {"classifier__classifier__a": [1]}))
    assert not has_fast_path(Candidate("sk", Pipeline([("model", LogisticRegression())])))


def test_which_folds_share_training_samples():
    table = film(n_subjects=3)
    nothing, rows = np.empty(0, int), np.arange(10)
    one = Split(rows[:5], nothing, rows[5:], name="one")
    other = Split(rows[5:], nothing, rows[:5], name="other")
    assert shares_training(leave_one_subject_out(table))
    assert shares_training(subject_by_stimulus(table)[:])
    assert shares_training([one, other])
    assert not shares_training([one])
    assert not shares_training([one, Split(rows[:3], nothing, rows[3:5], name="within")])


def drifting(k, *, n_subjects=6):
    return make_samples(
        blocks(n_subjects=n_subjects, n_runs=1, n_blocks=8, length=6, n_classes=2, seed=k), seed=k
    )


def movie(k):
    """The same scenes and the same response to them in all subjects, which no label explains."""
    table = film(n_subjects=5, segments=((0, 240), (240, 480)), n_classes=2, tr_s=4.0)
    rng = np.random.default_rng(k)
    for _, rows in table.groupby("run").indices.items():
        scenes = table["block"].to_numpy()[rows]
        names = np.unique(scenes)
        kinds = dict(zip(names, rng.permutation(len(names)) % 2, strict=True))
        table.loc[rows, "label"] = [f"c{kinds[scene]}" for scene in scenes]
    return make_samples(table, common=1.0, seed=k)


@cache
def null_sets(make, split, n_sets, m=59):
    """For sets without any effect: p of refitting, z of refitting, z of fixed predictions."""
    found = np.empty((n_sets, 3))
    for k in range(n_sets):
        samples = make(k)
        splits = split(samples.table)
        exchange = exchange_of(samples)
        tally = tally_of(samples, splits, exchange)
        value = subject_scores(tally, exchange.label[None])["macro_auc"].mean()
        null = run(samples, splits, [LDA], m=m, seed=k)["lda"]
        refitted = refit_levels(tally, exchange, null)["macro_auc"]
        fixed = chance_levels(tally, exchange, n_permutations=m, seed=k)["macro_auc"]
        found[k] = (
            refitted["p"],
            (value - refitted["mean"]) / refitted["sd"],
            (value - fixed["mean"]) / fixed["sd"],
        )
    return found


def tally_of(samples, splits, exchange):
    """Predictions of LDA, fitted to the true labels in every fold."""
    given = [
        fit_many(
            LDA.pipeline,
            samples.X[split.train],
            exchange.label[None],
            samples.X[split.test],
            n_classes=len(samples.classes),
            slot=exchange.slot[split.train],
        )[0]
        for split in splits
    ]
    rows, p = np.concatenate([split.test for split in splits]), np.concatenate(given)
    fold = np.repeat(np.arange(len(splits)), [len(split.test) for split in splits])
    subject = np.unique(samples.subjects, return_inverse=True)[1]
    return make_tally(subject[rows], fold, exchange.slot[rows], p.argmax(axis=1), p)


def test_drifting_blocks_without_an_effect_are_rejected_five_times_in_a_hundred():
    found = null_sets(drifting, leave_one_subject_out, 60)
    rejected = int((found[:, 0] <= 0.05).sum())
    assert rejected <= binom.ppf(0.999, 60, 0.05)
    assert np.abs(np.sort(found[:, 0]) - (np.arange(60) + 0.5) / 60).max() < 0.25
    assert 0.6 < found[:, 1].var() < 1.6


def test_fixed_predictions_vary_more_than_their_test_thinks():
    found = null_sets(drifting, leave_one_subject_out, 60)
    assert found[:, 2].var() > 1.4
    assert found[:, 2].var() > 1.3 * found[:, 1].var()


def test_a_movie_without_an_effect_is_at_chance():
    found = null_sets(movie, subject_by_stimulus, 30)
    assert int((found[:, 0] <= 0.05).sum()) <= binom.ppf(0.999, 30, 0.05)
    assert 0.4 < found[:, 1].var() < 2.0


def test_the_correction_for_shared_training_is_the_square_root_of_two():
    samples = drifting(0)
    exchange = exchange_of(samples)
    tally = tally_of(samples, leave_one_subject_out(samples.table), exchange)
    plain = chance_levels(tally, exchange, n_permutations=100)
    wider = chance_levels(tally, exchange, n_permutations=100, shared_training=True)
    for metric in METRICS:
        assert wider[metric]["mean"] == pytest.approx(plain[metric]["mean"])
        assert wider[metric]["sd"] == pytest.approx(plain[metric]["sd"] * np.sqrt(2))
        assert abs(wider[metric]["p"] - 0.5) <= abs(plain[metric]["p"] - 0.5) + 1e-9


def test_a_lost_effect_is_found_again():
    samples = make_samples(drifting(3).table, effect=1.5)
    splits = leave_one_subject_out(samples.table)
    results = score(samples, splits, [LDA], **QUIET)
    found = score_predictions(
        results.predictions, classes=samples.classes, samples_table=samples.table,
        rows=results.rows, nulls=run(samples, splits, [LDA], m=99),
    )["models"]["lda"]  # fmt: skip
    assert found["balanced_accuracy"]["p"] == pytest.approx(0.01)

"""Comparison of decoders: tests by hand and against other libraries, planted and absent gains."""

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import balanced_accuracy_score, log_loss
from statsmodels.stats.multitest import multipletests

from designs import rows_table
from emodecode.errors import InputError
from emodecode.evaluate.compare import (
    compare,
    corrected_t,
    correlated_bayes,
    find_units,
    fold_scores,
    holm,
    scores_of_subjects,
)
from emodecode.evaluate.fold import Split
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.same_folds import Evaluated, check_same_folds
from emodecode.evaluate.subjects import sign_flip

CLASSES = ("anger", "fear", "joy")


def left_out(table, by="subject"):
    """One fold a value of the column."""
    names = table[by].to_numpy(dtype=str)
    none = np.empty(0, dtype=np.int64)
    return [
        Split(np.flatnonzero(names != name), none, np.flatnonzero(names == name), name=name)
        for name in np.unique(names)
    ]


def predict(table, splits, accuracy, *, seed=0):
    """Predictions that are right with the given probability, one for all or one a row."""
    rng = np.random.default_rng(seed)
    classes = sorted(set(table["label"]))
    truth = np.searchsorted(classes, table["label"])
    wrong = (truth + rng.integers(1, len(classes), len(truth))) % len(classes)
    said = np.where(rng.random(len(truth)) < accuracy, truth, wrong)
    p = 0.2 + rng.random((len(truth), len(classes)))
    p[np.arange(len(truth)), said] += 1.2
    p /= p.sum(axis=1, keepdims=True)
    parts = [table.iloc[s.test].assign(fold=s.name, row=s.test) for s in splits]
    rows = pd.concat(parts, ignore_index=True)
    own = rows[["fold", "subject", "run", "volume", "label"]].copy()
    own["predicted"] = np.array(classes)[said[rows["row"]]]
    for c, name in enumerate(classes):
        own[f"p_{name}"] = p[rows["row"], c]
    return own


def compared(accuracies, *, verdict="clean", n_subjects=12, n_each=20, **options):
    """Compare made-up decoders, name -> accuracy, subjects left out."""
    table = rows_table(n_subjects=n_subjects, n_each=n_each)
    splits = left_out(table)
    predictions = {
        name: predict(table, splits, value, seed=k) for k, (name, value) in enumerate(accuracies)
    }
    verdicts = dict.fromkeys(predictions, verdict)
    return compare(predictions, splits, classes=CLASSES, **{"verdicts": verdicts} | options)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_holm_equals_statsmodels(n):
    p = np.random.default_rng(n).random(n) ** 3
    p[: n // 3] = p[-1]
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1], abs=1e-15)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_corrected_t_by_hand():
    """Differences .1, .2, .3, .4, .5: mean .3, variance .025; factor 1/5 + 1/4 = .45.

    The standard error is sqrt(.45 * .025) = .1060660, t = .3 / .1060660 = 2.8284271 = sqrt(8).
    """
    found = corrected_t(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), ratio=1 / 4)
    assert found.t == pytest.approx(np.sqrt(8))
    assert found.df == 4
    assert found.standard_error == pytest.approx(0.106066017)
    assert found.p == pytest.approx(0.0474206, abs=1e-6)


def test_t_distribution_with_four_degrees_of_freedom_by_hand():
    """With df = 4, P(|T| > t) = 1 - u (3 - u^2) / 2 with u = t / sqrt(4 + t^2)."""
    u = np.sqrt(8) / np.sqrt(12)
    found = corrected_t(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), ratio=1 / 4)
    assert found.p == pytest.approx(1 - u * (3 - u**2) / 2, abs=1e-12)


def test_folds_that_share_nothing_give_the_plain_t_test():
    d = np.random.default_rng(0).normal(0.02, 0.05, 9)
    plain = stats.ttest_1samp(d, 0)
    found = corrected_t(d, ratio=0)
    assert (found.t, found.p) == pytest.approx((plain.statistic, plain.pvalue))


def test_corrected_t_keeps_its_level_where_folds_are_correlated():
    """Correlation n_test / (n_test + n_train) = 1 / 10 between ten folds; the plain test fails."""
    n_sets, rho = 2000, 0.1
    rng = np.random.default_rng(0)
    common = rng.standard_normal((n_sets, 1))
    d = np.sqrt(rho) * common + np.sqrt(1 - rho) * rng.standard_normal((n_sets, 10))
    rejected = sum(corrected_t(row, ratio=rho / (1 - rho)).p <= 0.05 for row in d)
    plain = int((stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05).sum())
    low, high = stats.binom.ppf([0.0005, 0.9995], n_sets, 0.05)
    assert low <= rejected <= high
    assert plain > 2 * high


def noise_score(rng, n_subjects=10, n_each=20, n_voxels=30):
    """Accuracy of a ridge decoder for each left-out subject of data without information."""
    label = np.tile(np.repeat([-1.0, 1.0], n_each // 2), n_subjects)
    subject = np.repeat(np.arange(n_subjects), n_each)
    block = np.repeat(rng.standard_normal((n_subjects * 2, n_voxels)), n_each // 2, axis=0)
    X = rng.standard_normal((n_subjects * n_each, n_voxels)) + 0.8 * block
    right = []
    for test in (subject == s for s in range(n_subjects)):
        train = X[~test]
        weights = np.linalg.solve(train.T @ train + 10 * np.eye(n_voxels), train.T @ label[~test])
        right.append(np.mean(np.sign(X[test] @ weights) == label[test]))
    return np.array(right)


def test_level_on_left_out_subjects_of_noise():
    """Two decoders of different noise: only the corrected test rejects as rarely as it says."""
    rng, n_sets = np.random.default_rng(0), 400
    d = np.array([noise_score(rng) - noise_score(rng) for _ in range(n_sets)])
    rejected = sum(corrected_t(row, ratio=1 / 9).p <= 0.05 for row in d)
    low, high = stats.binom.ppf([0.0005, 0.9995], n_sets, 0.05)
    assert low <= rejected <= high
    assert (stats.ttest_1samp(d, 0, axis=1).pvalue <= 0.05).sum() > high
    assert sum(sign_flip(row).p_two_sided <= 0.05 for row in d) > high


def test_nothing_can_be_tested_with_one_fold_or_without_variance():
    assert corrected_t(np.array([0.2]), ratio=0.1) is None
    assert corrected_t(np.full(5, 0.1), ratio=0.1) is None
    assert correlated_bayes(np.full(5, 0.1), ratio=0.1, rope=0.01) is None
    same = corrected_t(np.zeros(5), ratio=0.1)
    assert (same.t, same.p) == (0.0, 1.0)
    assert correlated_bayes(np.zeros(5), ratio=0.1, rope=0)["p_rope"] == 1.0


def test_bayes_without_rope_and_correlation_is_the_one_sided_t_test():
    d = np.random.default_rng(1).normal(0.02, 0.05, 8)
    found = correlated_bayes(d, ratio=0, rope=0)
    assert found["p_b_better"] == pytest.approx(stats.ttest_1samp(d, 0, alternative="greater")[1])
    assert found["p_rope"] == pytest.approx(0, abs=1e-12)
    assert found["p_a_better"] + found["p_b_better"] == pytest.approx(1)


def test_bayes_by_hand():
    """Posterior of .1 ... .5, ratio 1/4: t with 4 degrees of freedom, mean .3, scale .1060660."""
    found = correlated_bayes(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), ratio=1 / 4, rope=0.1)
    posterior = stats.t(4, loc=0.3, scale=np.sqrt(0.45 * 0.025))
    expected = [posterior.sf(0.1), posterior.cdf(0.1) - posterior.cdf(-0.1), posterior.cdf(-0.1)]
    shown = [found[key] for key in ("p_a_better", "p_rope", "p_b_better")]
    assert shown == pytest.approx(expected)


def test_scores_are_those_of_sklearn_and_of_the_report():
    table = rows_table(n_subjects=4, n_each=6)
    splits = left_out(table.assign(part=table["volume"] % 2), by="part")
    own = predict(table, splits, 0.6)
    found = fold_scores(own, classes=CLASSES)
    assert len(found) == 8
    for (fold, subject), part in own.groupby(["fold", "subject"]):
        expected = balanced_accuracy_score(part["label"], part["predicted"])
        assert found[fold, subject] == pytest.approx(expected)
    losses = scores_of_subjects(own, classes=CLASSES, metric="log_loss")
    for subject, part in own.groupby("subject"):
        p = part[[f"p_{name}" for name in CLASSES]].to_numpy()
        assert losses[subject] == pytest.approx(log_loss(part["label"], p, labels=list(CLASSES)))
    reported = score_predictions(own.assign(model="m"), classes=CLASSES, n_permutations=1)
    for metric in ("balanced_accuracy", "macro_auc", "log_loss"):
        values = scores_of_subjects(own, classes=CLASSES, metric=metric)
        per_subject = reported["models"]["m"]["per_subject"]
        assert values.to_dict() == pytest.approx(
            {subject: each[metric] for subject, each in per_subject.items()}
        )


@pytest.mark.parametrize("metric", ["balanced_accuracy", "accuracy", "macro_auc", "log_loss"])
def test_a_planted_better_decoder_is_found(metric):
    (pair,) = compared([("weak", 0.5), ("strong", 0.75)], metric=metric)
    assert (pair["a"], pair["b"]) == ("strong", "weak")
    assert pair["difference"] > pair["low"] > 0
    assert pair["corrected_t"]["ratio"] == pytest.approx(1 / 11)
    assert pair["corrected_t"]["df"] == 11
    assert pair["sign_flip"] == {"p": pytest.approx(2**-11), "p_smallest": 2**-11, "exact": True}
    assert pair["bayes"]["p_a_better"] > 0.99
    named = "" if metric == "balanced_accuracy" else f"in {metric.replace('_', ' ')} "
    assert pair["sentence"].startswith(f"strong is better than weak {named}by .")
    assert pair["sentence"].endswith("(corrected t, p < .001)")
    json.dumps(pair, allow_nan=False)


def test_the_difference_is_that_of_the_subjects_scores_with_its_interval():
    (pair,) = compared([("one", 0.7), ("two", 0.6)], n_subjects=5)
    table = rows_table(n_subjects=5, n_each=20)
    splits = left_out(table)
    one, two = (
        scores_of_subjects(predict(table, splits, accuracy, seed=k), classes=CLASSES)
        for k, accuracy in enumerate((0.7, 0.6))
    )
    d = one - two
    error = np.sqrt((1 / 5 + 1 / 4) * d.var(ddof=1))
    assert pair["difference"] == pytest.approx(d.mean())
    assert pair["high"] - pair["difference"] == pytest.approx(stats.t.ppf(0.975, 4) * error)
    assert pair["corrected_t"]["t"] == pytest.approx(d.mean() / error)


def test_equal_predictions_have_no_difference():
    table = rows_table(n_subjects=6, n_each=6)
    splits = left_out(table)
    own = predict(table, splits, 0.6)
    (pair,) = compare(
        {"b": own, "a": own.sample(frac=1, random_state=0)},
        splits,
        classes=CLASSES,
        verdicts={"a": "clean", "b": "clean"},
    )
    assert (pair["a"], pair["difference"], pair["p_holm"]) == ("a", 0.0, 1.0)
    assert (pair["sign_flip"]["p"], pair["bayes"]["p_rope"]) == (1.0, 1.0)
    assert "cannot be told apart" in pair["sentence"]


def test_equally_good_decoders_are_seldom_told_apart():
    claims = 0
    for seed in range(40):
        table = rows_table(n_subjects=6, n_each=10)
        splits = left_out(table)
        own = {name: predict(table, splits, 0.6, seed=[seed, k]) for k, name in enumerate("ab")}
        (pair,) = compare(own, splits, classes=CLASSES, verdicts=dict.fromkeys("ab", "clean"))
        claims += "is better" in pair["sentence"]
    assert claims <= stats.binom.ppf(0.999, 40, 0.05)


def test_folds_of_one_subject_are_no_new_evidence():
    """Subjects differ in which decoder suits them; eight parts of a film each do not help."""
    table = rows_table(n_subjects=8, n_each=24).assign(part=lambda t: t["volume"] % 8)
    subject, part = table["subject"].to_numpy(), table["part"].to_numpy()
    none = np.empty(0, dtype=np.int64)
    splits = [
        Split(
            np.flatnonzero((subject != s) & (part != k)),
            none,
            np.flatnonzero((subject == s) & (part == k)),
            name=f"{s}-{k}",
        )
        for s in np.unique(subject)
        for k in range(8)
    ]
    own = {name: predict(table, splits, 0.6, seed=k) for k, name in enumerate("ab")}
    (pair,) = compare(own, splits, classes=CLASSES, verdicts={})
    by_subject = [scores_of_subjects(own[name], classes=CLASSES) for name in (pair["a"], pair["b"])]
    expected = corrected_t((by_subject[0] - by_subject[1]).to_numpy(), ratio=8 / 49)
    assert pair["corrected_t"] == {
        "t": pytest.approx(expected.t),
        "df": 7,
        "p": pytest.approx(expected.p),
        "n_units": 8,
        "unit": "folds of the same subjects",
        "ratio": pytest.approx(8 / 49),
    }
    rng, n_sets = np.random.default_rng(0), 1000
    d = 0.1 * rng.standard_normal((n_sets, 8, 1)) + 0.1 * rng.standard_normal((n_sets, 8, 8))
    rejected = sum(corrected_t(each.mean(axis=1), ratio=8 / 49).p <= 0.05 for each in d)
    naive = sum(corrected_t(each.ravel(), ratio=1 / 49).p <= 0.05 for each in d)
    assert rejected <= stats.binom.ppf(0.9995, n_sets, 0.05)
    assert naive > 0.15 * n_sets


def test_units_of_folds():
    table = rows_table(n_subjects=4, n_each=4).assign(part=lambda t: t["volume"] % 3)
    runs = left_out(table, by="part")
    found = find_units(predict(table, runs, 0.5), runs)
    assert (found.kind, len(set(found.of_fold.values()))) == ("folds", 3)
    assert found.ratio == pytest.approx(1 / 2)
    within = [
        Split(
            np.flatnonzero((table["subject"] == s) & (table["part"] != k)),
            np.empty(0, dtype=np.int64),
            np.flatnonzero((table["subject"] == s) & (table["part"] == k)),
            name=f"{s}-{k}",
        )
        for s in sorted(set(table["subject"]))
        for k in range(3)
    ]
    found = find_units(predict(table, within, 0.5), within)
    assert found.ratio == 0, "decoders of single subjects share nothing"
    assert len(set(found.of_fold.values())) == table["subject"].nunique()


def test_verdicts_stand_before_claims():
    models = [("good", 0.8), ("bad", 0.5)]
    leak = {"good": "clean", "bad": "leak"}
    assert compared(models, verdicts=leak)[0]["sentence"] == (
        "good and bad: no claim: the audit of bad says leak"
    )
    caution = {"good": "caution", "bad": "clean"}
    assert (
        "no claim: the audit of good says caution"
        in (compared(models, verdicts=caution)[0]["sentence"])
    )
    equal = compared([("good", 0.5), ("bad", 0.5)], verdicts=leak)[0]
    assert equal["p_holm"] > 0.05
    assert "no claim: the audit of bad says leak" in equal["sentence"]
    assert "no claim" in compared(models, verdicts={"good": "clean"})[0]["sentence"]
    assert "is better" in compared(models)[0]["sentence"]


def test_pairs_do_not_depend_on_the_order_of_decoders():
    table = rows_table(n_subjects=17, n_each=8)
    splits = left_out(table)
    own = {
        name: predict(table, splits, p, seed=k)
        for k, (name, p) in enumerate([("x", 0.5), ("y", 0.6), ("z", 0.62)])
    }
    found = []
    for order in permutations(own):
        pairs = compare(
            {name: own[name] for name in order},
            splits,
            classes=CLASSES,
            verdicts=dict.fromkeys(own, "clean"),
        )
        found.append(sorted(pairs, key=lambda pair: (pair["a"], pair["b"])))
    assert all(each == found[0] for each in found)
    p = [pair["corrected_t"]["p"] for pair in found[0]]
    assert [pair["p_holm"] for pair in found[0]] == pytest.approx(holm(p))
    assert "after Holm over 3 pairs" in found[0][0]["sentence"]


def test_single_class_folds_cannot_be_tested():
    """Each fold tests one class only: no balanced accuracy in it, but one over all folds."""
    table = rows_table(n_subjects=3, n_each=5)
    splits = left_out(table, by="label")
    own = {name: predict(table, splits, 0.6, seed=k) for k, name in enumerate("ab")}
    (pair,) = compare(own, splits, classes=CLASSES, verdicts=dict.fromkeys("ab", "clean"))
    assert pair["n_subjects"] == 3
    assert pair["corrected_t"] is pair["bayes"] is pair["p_holm"] is pair["low"] is None
    assert "cannot be told apart: the corrected t needs" in pair["sentence"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"metric": "f1"}, "the metric 'f1'"),
        ({"rope": -0.1}, "rope = -0.1"),
        ({"rope": float("nan")}, "rope = nan"),
    ],
)
def test_bad_requests_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        compared([("a", 0.5), ("b", 0.6)], **change)


def test_one_decoder_and_strange_folds_are_refused():
    with pytest.raises(InputError, match=r"1 decoder \(a\)"):
        compared([("a", 0.5)])
    table = rows_table()
    splits = left_out(table)
    own = {name: predict(table, splits, 0.5) for name in "ab"}
    with pytest.raises(InputError, match="one split of its own name"):
        compare(own, splits[1:], classes=CLASSES, verdicts={})
    own["b"] = own["b"].iloc[1:]
    with pytest.raises(InputError, match="a and b: they differ in the predicted samples"):
        compare(own, splits, classes=CLASSES, verdicts={})


def _other_labels(item):
    table = item.table.assign(label=item.table["label"].where(item.table.index != 3, "joy"))
    return Evaluated(item.name, item.predictions, item.splits, table)


def _fewer_training_rows(item):
    first, *others = item.splits
    shorter = Split(first.train[:-1], first.calibrate, first.test, name=first.name)
    return Evaluated(item.name, item.predictions, [shorter, *others], item.table)


def _calibrated(item):
    first, *others = item.splits
    more = Split(first.train, first.test[:2], first.test, name=first.name)
    return Evaluated(item.name, item.predictions, [more, *others], item.table)


def _one_fold_less(item):
    return Evaluated(item.name, item.predictions, item.splits[1:], item.table)


def _one_prediction_less(item):
    return Evaluated(item.name, item.predictions.iloc[1:], item.splits, item.table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_labels, "1 rows of samples.tsv"),
        (_fewer_training_rows, r"the train rows of fold 0 \(45 and 44\)"),
        (_calibrated, r"the calibrate rows of fold 0 \(0 and 2\)"),
        (_one_fold_less, "6 and 5 folds, among them 0 only in out"),
        (_one_prediction_less, "the predicted samples"),
        (lambda item: Evaluated("b", item.predictions, item.splits, item.table[1:]), "54 and 53"),
    ],
)
def test_other_folds_are_refused(change, words):
    table = rows_table()
    splits = left_out(table)
    item = Evaluated("out", predict(table, splits, 0.5), splits, table)
    check_same_folds(item, item)
    with pytest.raises(InputError, match=words) as refused:
        check_same_folds(item, change(item))
    assert "the same folds only" in str(refused.value)

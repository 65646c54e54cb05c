"""Metrics: against scikit-learn and scipy, subject by subject."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student_t
from sklearn import metrics as oracle

from designs import blocks, film
from emodecode.errors import InputError
from emodecode.evaluate.fold import Split
from emodecode.evaluate.metrics import find_rows, roc_curves, score_predictions, summarise
from emodecode.evaluate.roc import GRID
from emodecode.evaluate.splits import leave_one_subject_out

CLASSES = ("c0", "c1", "c2")


def predict(table, *, classes=CLASSES, strength=1.0, seed=0, models=("one",), fold="subject"):
    """Predictions of known quality: noise plus `strength` on the true class."""
    rng, parts = np.random.default_rng(seed), []
    for model in models:
        logits = rng.normal(size=(len(table), len(classes)))
        logits += strength * (table["label"].to_numpy()[:, None] == np.array(classes))
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        part = table[["subject", "run", "volume", "label"]].copy()
        part.insert(0, "model", model)
        part.insert(1, "fold", table[fold] if isinstance(fold, str) else fold)
        part["predicted"] = np.array(classes)[p.argmax(axis=1)]
        part[[f"p_{name}" for name in classes]] = p
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def unequal(seed=0):
    """Six subjects with classes of unequal size."""
    table = blocks(n_subjects=6, n_runs=2, seed=seed)
    rng = np.random.default_rng(seed)
    keep = (table["label"] != "c2") | (rng.random(len(table)) < 0.5)
    return table[keep].reset_index(drop=True)


def score(predictions, classes=CLASSES, **how):
    return score_predictions(predictions, classes=classes, **({"n_permutations": 20} | how))


def test_every_score_of_every_subject_agrees_with_scikit_learn():
    predictions = predict(unequal())
    found = score(predictions)["models"]["one"]
    for subject, own in predictions.groupby("subject"):
        p = own[[f"p_{name}" for name in CLASSES]].to_numpy()
        expected = {
            "balanced_accuracy": oracle.balanced_accuracy_score(own["label"], own["predicted"]),
            "accuracy": oracle.accuracy_score(own["label"], own["predicted"]),
            "macro_auc": oracle.roc_auc_score(own["label"], p, multi_class="ovr", average="macro"),
            "log_loss": oracle.log_loss(own["label"], p, labels=list(CLASSES)),
            "n_samples": len(own),
        }
        assert found["per_subject"][subject] == pytest.approx(expected, abs=1e-12)


def test_confusion_and_classes_agree_with_scikit_learn():
    predictions = predict(unequal())
    found = score(predictions)["models"]["one"]
    np.testing.assert_array_equal(
        found["confusion"],
        oracle.confusion_matrix(predictions["label"], predictions["predicted"], labels=CLASSES),
    )
    subjects = [own for _, own in predictions.groupby("subject")]
    per_subject = [
        oracle.precision_recall_fscore_support(own["label"], own["predicted"], labels=CLASSES)
        for own in subjects
    ]
    for c, name in enumerate(CLASSES):
        one = found["per_class"][name]
        for k, metric in enumerate(("precision", "recall", "f1")):
            values = np.array([scores[k][c] for scores in per_subject])
            assert one[metric] == pytest.approx(summarise(values))
        aucs = [oracle.roc_auc_score(own["label"] == name, own[f"p_{name}"]) for own in subjects]
        assert one["auc"]["value"] == pytest.approx(np.mean(aucs))
        assert one["support"] == (predictions["label"] == name).sum()


def test_intervals_are_t_intervals_over_subjects():
    found = score(predict(unequal()))["models"]["one"]
    for metric in ("balanced_accuracy", "accuracy", "macro_auc", "log_loss"):
        values = np.array([own[metric] for own in found["per_subject"].values()])
        low, high = student_t.interval(
            0.95,
            len(values) - 1,
            loc=values.mean(),
            scale=values.std(ddof=1) / np.sqrt(len(values)),
        )
        expected = {"value": values.mean(), "low": low, "high": high, "n_subjects": 6}
        assert {key: found[metric][key] for key in expected} == pytest.approx(expected)
    assert summarise(np.array([0.99, 1.0, 0.9]))["high"] == 1.0
    assert summarise(np.array([0.7, np.nan])) == {
        "value": 0.7, "low": None, "high": None, "n_subjects": 1,
    }  # fmt: skip
    assert summarise(np.array([np.nan]))["value"] is None


def test_auc_never_ranks_probabilities_of_different_folds():
    table = blocks(n_subjects=2, n_runs=2)
    predictions = predict(table, strength=0.7, fold=table["subject"] + " run-" + table["run"])
    # the second model of each subject leans towards c0: another scale, the same order within it
    leaning, columns = predictions.copy(), [f"p_{name}" for name in CLASSES]
    second = (leaning["run"] == "2").to_numpy()
    leaning.loc[second, columns] = 0.1 * leaning.loc[second, columns] + [0.8, 0.05, 0.05]
    found = score(leaning)["models"]["one"]
    for name in CLASSES:
        expected = []
        for _, own in predictions.groupby("subject"):
            won = pairs = 0.0
            for _, fold in own.groupby("fold"):
                this = (fold["label"] == name).to_numpy()
                n_pairs = this.sum() * (~this).sum()
                won += n_pairs * oracle.roc_auc_score(this, fold[f"p_{name}"])
                pairs += n_pairs
            expected.append(won / pairs)
        assert found["per_class"][name]["auc"]["value"] == pytest.approx(np.mean(expected))
    pooled = [
        oracle.roc_auc_score(own["label"] == "c0", own["p_c0"])
        for _, own in leaning.groupby("subject")
    ]
    assert np.mean(pooled) < found["per_class"]["c0"]["auc"]["value"] - 0.02


def test_subjects_without_a_class_are_left_out_of_it_and_named():
    table = unequal()
    table = table[(table["subject"] != "01") | (table["label"] != "c1")]
    table = table[(table["subject"] != "02") | (table["label"] == "c0")].reset_index(drop=True)
    predictions = predict(table)
    found = score(predictions)["models"]["one"]
    assert found["balanced_accuracy"]["n_subjects"] == 5
    assert found["accuracy"]["n_subjects"] == 6
    assert found["macro_auc"]["n_subjects"] == 5
    assert found["per_subject"]["02"]["balanced_accuracy"] is None
    assert found["per_class"]["c1"]["recall"]["n_subjects"] == 4
    one = predictions[predictions["subject"] == "01"]
    recall = [(one["predicted"] == name)[one["label"] == name].mean() for name in ("c0", "c2")]
    assert found["per_subject"]["01"]["balanced_accuracy"] == pytest.approx(np.mean(recall))
    assert any("1 subject (02)" in note for note in found["notes"])
    assert any("1 subject (01)" in note for note in found["notes"])


def test_folds_of_one_class_have_no_auc_and_say_so():
    table = blocks(n_subjects=3)
    found = score(predict(table, fold=table["subject"] + table["label"]))["models"]["one"]
    assert found["macro_auc"]["value"] is None
    assert found["macro_auc"]["chance"] is None
    assert found["balanced_accuracy"]["value"] is not None
    assert any("no AUC" in note for note in found["notes"])


def test_perfect_and_useless_decoders():
    table = blocks(n_subjects=4)
    perfect = score(predict(table, strength=50.0))["models"]["one"]
    for metric in ("balanced_accuracy", "accuracy", "macro_auc"):
        assert perfect[metric]["value"] == 1.0
    assert perfect["log_loss"]["value"] < 1e-6
    same = predict(table)
    same[[f"p_{name}" for name in CLASSES]] = 1 / 3
    same["predicted"] = "c0"
    useless = score(same)["models"]["one"]
    assert useless["macro_auc"]["value"] == 0.5
    assert useless["balanced_accuracy"]["value"] == pytest.approx(1 / 3)
    assert useless["balanced_accuracy"]["chance"] == pytest.approx(1 / 3)
    assert useless["balanced_accuracy"]["p"] == 1.0
    assert useless["log_loss"]["value"] == pytest.approx(np.log(3))


def test_structure_is_the_contract_and_plain_json():
    table = film()
    fold = table["subject"] + " run-" + table["run"]
    predictions = predict(table, models=("lda", "dummy"), fold=fold)
    scores = score(predictions, samples_table=table, seed=3)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert list(scores["models"]) == ["lda", "dummy"]
    assert scores["classes"] == list(CLASSES)
    model = scores["models"]["lda"]
    for metric in ("balanced_accuracy", "accuracy", "macro_auc", "log_loss"):
        assert {"value", "low", "high", "chance", "n_subjects", "p"} <= set(model[metric])
        assert model[metric]["p"] >= model[metric]["p_smallest"] == 1 / 21
    assert scores["chance"]["n_permutations"] == 20
    assert scores == score(predictions, samples_table=table, seed=3)
    shuffled = predictions.sample(frac=1.0, random_state=0)
    again = score(shuffled, samples_table=table, seed=3)["models"]["lda"]
    assert again["macro_auc"] == pytest.approx(model["macro_auc"])


def test_the_test_is_named_and_one_fold_needs_no_correction():
    table = blocks()
    predictions = predict(table, fold=np.where(table["subject"] < "03", "one", "two"))
    many = score(predictions)["models"]["one"]
    assert many["test"]["method"] == "predictions"
    assert many["test"]["n_permutations"] == 20
    assert many["test"]["sentence"].startswith("20 labellings: ")
    assert many["test"]["sentence"].endswith(
        "; predictions fixed, deviations × 1.41 because the folds share training samples "
        "(approximate)"
    )
    apart = [
        Split(np.arange(10), np.empty(0, int), np.arange(10, 20), name="one"),
        Split(np.arange(20, 30), np.empty(0, int), np.arange(30, 40), name="two"),
    ]
    alone = score(predictions, splits=apart)["models"]["one"]
    assert alone["test"]["sentence"].endswith("; predictions fixed (approximate)")
    for metric in ("balanced_accuracy", "macro_auc", "log_loss"):
        ratio = many[metric]["chance_sd"] / alone[metric]["chance_sd"]
        assert ratio == pytest.approx(np.sqrt(2))
        assert many[metric]["chance"] == pytest.approx(alone[metric]["chance"])


def test_rows_may_be_given_or_found():
    table = film()
    predictions = predict(table, models=("a", "b")).sample(frac=1.0, random_state=1)
    rows = find_rows(predictions, table)
    for name in ("subject", "run", "volume", "label"):
        assert (table[name].to_numpy()[rows] == predictions[name].to_numpy()).all()
    given = score(predictions, samples_table=table, rows=rows)
    assert given == score(predictions, samples_table=table)
    two_sessions = pd.concat([table, table.assign(session="again")], ignore_index=True)
    with pytest.raises(InputError, match="several samples"):
        find_rows(predictions, two_sessions)


def _broken(**changes):
    predictions = predict(blocks(), models=("a", "b"))
    for column, value in changes.items():
        predictions.loc[3, column] = value
    return predictions


@pytest.mark.parametrize(
    ("predictions", "found"),
    [
        (_broken(p_c1=np.nan), "1 rows with missing probabilities"),
        (_broken(p_c1=0.0), "do not add up to 1"),
        (_broken(label="c9"), "label 'c9'"),
        (_broken(predicted="n/a"), "predicted 'n/a'"),
        (predict(blocks()).drop(columns="p_c2"), "no column p_c2"),
        (predict(blocks()).iloc[:0], "no predictions"),
        (predict(blocks(), models=("a", "b")).iloc[:-1], "1 samples that one of a and b"),
    ],
)
def test_broken_predictions_are_refused(predictions, found):
    with pytest.raises(InputError, match=found):
        score(predictions)


def test_predictions_of_other_samples_are_refused():
    with pytest.raises(InputError, match="without a sample in the table"):
        score(predict(blocks()), samples_table=blocks(n_subjects=4))
    other = blocks().assign(label="c0")
    with pytest.raises(InputError, match="whose label differs"):
        score(predict(blocks()), samples_table=other)


def test_roc_curves_agree_with_scikit_learn():
    predictions = predict(unequal(), models=("a", "b"))
    found = roc_curves(predictions, CLASSES)
    own = predictions[predictions["model"] == "b"]
    p = own[[f"p_{name}" for name in CLASSES]].to_numpy()
    pooled = found["b"]["pooled"]
    for name in CLASSES:
        fpr, tpr, _ = oracle.roc_curve(own["label"] == name, own[f"p_{name}"])
        np.testing.assert_allclose(
            pooled["per_class"][name]["tpr"][1:], np.interp(GRID, fpr, tpr)[1:]
        )
        assert pooled["per_class"][name]["auc"] == pytest.approx(oracle.auc(fpr, tpr))
    truth = own["label"].to_numpy()[:, None] == np.array(CLASSES)
    for average in ("micro", "macro"):
        assert pooled[average]["auc"] == pytest.approx(
            oracle.roc_auc_score(truth, p, average=average)
        )
    mean = found["b"]["subjects"]
    scores = score(predictions)["models"]["b"]
    assert mean["macro"]["auc"] == pytest.approx(scores["macro_auc"]["value"])
    assert mean["macro"]["n_subjects"] == 6
    assert (np.array(mean["macro"]["low"][1:-1]) <= mean["macro"]["high"][1:-1]).all()
    json.dumps(found, allow_nan=False)


def test_curves_rank_within_folds_so_that_a_decoder_of_nothing_lies_on_the_diagonal():
    predictions = predict(unequal(), models=("one",)).copy()
    parity = (predictions["volume"] % 2 == 0).to_numpy()
    predictions["fold"] = np.where(parity, "even", "odd")
    constant = {
        name: np.where(parity, a, b)
        for name, a, b in zip(CLASSES, (0.5, 0.2, 0.3), (0.2, 0.5, 0.3), strict=True)
    }
    for name in CLASSES:
        predictions[f"p_{name}"] = constant[name]
    found = roc_curves(predictions, CLASSES)["one"]["subjects"]
    for name in CLASSES:
        np.testing.assert_allclose(found["per_class"][name]["tpr"], GRID, atol=1e-12)
        assert found["per_class"][name]["auc"] == pytest.approx(0.5)


def test_area_over_several_folds_is_the_auc_of_the_scores():
    predictions = predict(unequal(), models=("one",)).copy()
    predictions["fold"] = np.where(predictions["volume"] % 3 == 0, "a", "b")
    found = roc_curves(predictions, CLASSES)["one"]["subjects"]
    scores = score(predictions)["models"]["one"]
    for name in CLASSES:
        expected = scores["per_class"][name]["auc"]["value"]
        assert found["per_class"][name]["auc"] == pytest.approx(expected)


def test_a_class_nobody_has_gets_no_curve():
    predictions = predict(blocks(n_classes=2), classes=CLASSES)
    found = roc_curves(predictions, CLASSES)["one"]
    assert found["pooled"]["per_class"]["c2"] is None
    assert found["subjects"]["per_class"]["c2"] is None
    assert found["subjects"]["macro"]["n_subjects"] == 5


def test_intervals_are_widened_where_folds_share_training_samples():
    """Nadeau and Bengio (2003): sqrt((1/J + n_test/n_train) / (1/J)), here with J = 5 subjects."""
    table = blocks(n_subjects=5)
    splits = leave_one_subject_out(table)
    predictions = predict(table, fold=("sub-" + table["subject"]).to_numpy())
    plain, wide = score(predictions), score(predictions, splits=splits)
    assert plain["widening"] == 1
    assert wide["widening"] == pytest.approx(np.sqrt(1 + 5 * (1 / 4)))
    one, two = (found["models"]["one"]["balanced_accuracy"] for found in (plain, wide))
    assert one["value"] == two["value"]
    ratio = (two["high"] - two["value"]) / (one["high"] - one["value"])
    assert ratio == pytest.approx(wide["widening"])

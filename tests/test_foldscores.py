"""Scores fold by fold: equal to scikit-learn's, and nothing where there is nothing to score."""

import warnings

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from emodecode.errors import InputError
from emodecode.evaluate.foldscores import (
    average_classes,
    average_confusion,
    mean_and_sd,
    score_folds,
    trace_roc,
    write_fold_tables,
)
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.roc import GRID
from emodecode.samples import read_table

CLASSES = ("fear", "joy", "rest")


def make_predictions(
    *,
    classes=CLASSES,
    n_folds: int = 4,
    subjects_per_fold: int = 1,
    n: int = 40,
    models=("lda", "svm"),
    ties: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Return predictions with some knowledge; `ties` rounds the probabilities to fifths."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(classes, (n_folds, subjects_per_fold, n))
    tables = []
    for model in models:
        for (fold, subject), labels in np.ndenumerate(np.empty((n_folds, subjects_per_fold))):
            labels = truth[fold, subject]
            given = rng.dirichlet(np.ones(len(classes)), n) + 0.8 * (
                labels[:, None] == np.array(classes)
            )
            given /= given.sum(axis=1, keepdims=True)
            if ties:
                given = rng.multinomial(5, given) / 5
            table = pd.DataFrame(
                {
                    "model": model,
                    "fold": f"fold-{fold}",
                    "subject": f"{fold}{subject}",
                    "run": "1",
                    "volume": np.arange(n),
                    "label": labels,
                    "predicted": np.array(classes)[given.argmax(axis=1)],
                }
            )
            tables.append(table.assign(**{f"p_{c}": given[:, k] for k, c in enumerate(classes)}))
    return pd.concat(tables, ignore_index=True)


def each_fold(predictions: pd.DataFrame):
    for (model, fold), own in predictions.groupby(["model", "fold"], sort=False):
        given = own[[f"p_{c}" for c in CLASSES]].to_numpy()
        yield model, fold, own, given, own["label"].to_numpy()[:, None] == np.array(CLASSES)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("subjects_per_fold", [1, 3])
def test_scores_of_folds_are_those_of_scikit_learn(ties, subjects_per_fold):
    predictions = make_predictions(ties=ties, subjects_per_fold=subjects_per_fold)
    found = score_folds(predictions, CLASSES)
    assert list(found.folds["model"].unique()) == ["lda", "svm"]
    rows = zip(each_fold(predictions), found.folds.to_dict("records"), found.counts, strict=True)
    for (model, fold, own, given, truth), row, counts in rows:
        label, said = own["label"], own["predicted"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # log_loss of probabilities of exactly 0
            expected = {
                "n_test": 40 * subjects_per_fold,
                "balanced_accuracy": metrics.balanced_accuracy_score(label, said),
                "accuracy": metrics.accuracy_score(label, said),
                "macro_auc": metrics.roc_auc_score(truth, given, average="macro"),
                "micro_auc": metrics.roc_auc_score(truth, given, average="micro"),
                "log_loss": metrics.log_loss(label, given, labels=CLASSES),
            }
        assert (row.pop("model"), row.pop("fold")) == (model, fold)
        assert row == pytest.approx(expected, rel=1e-12)
        assert np.array_equal(counts, metrics.confusion_matrix(label, said, labels=CLASSES))
        per_class = found.per_class.query("model == @model and fold == @fold")
        oracle = metrics.precision_recall_fscore_support(
            label, said, labels=CLASSES, zero_division=0
        )
        for metric, values in zip(("precision", "recall", "f1", "n"), oracle, strict=True):
            np.testing.assert_allclose(per_class[metric], values, rtol=1e-12)
        np.testing.assert_allclose(
            per_class["auc"], metrics.roc_auc_score(truth, given, average=None), rtol=1e-12
        )


@pytest.mark.parametrize("ties", [False, True])
def test_curves_are_those_of_scikit_learn(ties):
    predictions = make_predictions(ties=ties, n_folds=2)
    found = trace_roc(predictions, CLASSES)
    for model, fold, _, given, truth in each_fold(predictions):
        curves = found[model][fold]
        pairs = [(curves["per_class"][c], truth[:, k], given[:, k]) for k, c in enumerate(CLASSES)]
        pairs.append((curves["micro"], truth.ravel(), given.ravel()))
        for curve, is_class, p in pairs:
            fpr, tpr, _ = metrics.roc_curve(is_class, p, drop_intermediate=False)
            assert set(zip(curve.fpr, curve.tpr, strict=True)) <= set(zip(fpr, tpr, strict=True))
            assert curve.auc == pytest.approx(metrics.roc_auc_score(is_class, p), rel=1e-12)
            assert (curve.fpr[0], curve.tpr[0], curve.fpr[-1], curve.tpr[-1]) == (0, 0, 1, 1)
            # no corner is lost: the curve goes through every one of scikit-learn's points
            assert np.trapezoid(curve.tpr, curve.fpr) == pytest.approx(metrics.auc(fpr, tpr))
        macro = curves["macro"]
        assert macro.auc == pytest.approx(metrics.roc_auc_score(truth, given, average="macro"))
        lines = [np.interp(GRID, c.fpr, c.tpr) for c in curves["per_class"].values()]
        np.testing.assert_allclose(macro.tpr[1:], np.mean(lines, axis=0))


def test_class_that_a_fold_does_not_test_has_no_score_and_no_zero():
    predictions = make_predictions()
    lacks = (predictions["fold"] == "fold-1") & (predictions["label"] == "rest")
    predictions = predictions[~lacks]
    found = score_folds(predictions, CLASSES)
    row = found.per_class.query("model == 'lda' and fold == 'fold-1'").set_index("class")
    assert row.loc["rest", "n"] == 0
    assert row.loc["rest", ["precision", "recall", "f1", "auc"]].isna().all()
    fold = found.folds.query("model == 'lda' and fold == 'fold-1'").iloc[0]
    for score, metric in (("balanced_accuracy", "recall"), ("macro_auc", "auc")):
        assert fold[score] == pytest.approx(row.loc[["fear", "joy"], metric].mean())
    means = average_classes(found).set_index(["model", "class"]).loc[("lda", "rest")]
    others = found.per_class.query("model == 'lda' and `class` == 'rest' and n > 0")
    assert means["n_folds"] == 3
    assert means["recall"] == pytest.approx(others["recall"].mean())
    assert means["recall_sd"] == pytest.approx(others["recall"].std(ddof=1))
    assert trace_roc(predictions, CLASSES)["lda"]["fold-1"]["per_class"]["rest"] is None


def test_fold_of_one_class_has_no_balanced_accuracy_and_no_auc():
    predictions = make_predictions()
    predictions = predictions[(predictions["fold"] != "fold-2") | (predictions["label"] == "joy")]
    found = score_folds(predictions, CLASSES).folds.query("fold == 'fold-2'")
    assert found[["balanced_accuracy", "macro_auc"]].isna().all(axis=None)
    assert np.isfinite(found[["accuracy", "micro_auc", "log_loss"]]).all(axis=None)


def test_class_that_is_never_predicted_has_precision_0():
    predictions = make_predictions()
    predictions["predicted"] = predictions["predicted"].replace("joy", "fear")
    joy = score_folds(predictions, CLASSES).per_class.query("`class` == 'joy'")
    assert (joy[["precision", "recall", "f1"]] == 0).all(axis=None)


def test_folds_of_one_subject_each_average_to_the_headline():
    predictions = make_predictions()
    headline = score_predictions(predictions, classes=CLASSES, n_permutations=10)["models"]
    found = score_folds(predictions, CLASSES)
    for metric in ("balanced_accuracy", "accuracy", "macro_auc", "log_loss"):
        for model, mean in found.wide(metric).mean().items():
            assert mean == pytest.approx(headline[model][metric]["value"], rel=1e-12)


def test_confusion_averages_to_the_pooled_matrix_and_its_shares():
    predictions = make_predictions()
    own = predictions[predictions["model"] == "svm"]
    counts = score_folds(predictions, CLASSES).confusion_of("svm")
    found = average_confusion(counts)
    pooled = metrics.confusion_matrix(own["label"], own["predicted"], labels=CLASSES)
    np.testing.assert_allclose(found.counts * 4, pooled)
    shares = [
        metrics.confusion_matrix(f["label"], f["predicted"], labels=CLASSES, normalize="true")
        for _, f in own.groupby("fold")
    ]
    np.testing.assert_allclose(found.shares, np.mean(shares, axis=0))
    np.testing.assert_allclose(found.shares_sd, np.std(shares, axis=0, ddof=1))
    np.testing.assert_allclose(found.counts_sd, counts.std(axis=0, ddof=1))
    counts[0, 0] = 0
    np.testing.assert_allclose(
        average_confusion(counts).shares[0], np.mean([s[0] for s in shares[1:]], axis=0)
    )


def test_sd_of_one_fold_is_unknown():
    mean, sd = mean_and_sd(np.array([[1.0, np.nan], [np.nan, np.nan]]))
    assert mean[0] == 1.0
    assert np.isnan([mean[1], *sd]).all()


def test_files_say_what_was_scored(tmp_path):
    predictions = make_predictions()
    predictions.loc[predictions["fold"] == "fold-3", "label"] = "joy"
    write_fold_tables(tmp_path, predictions, CLASSES)
    found = score_folds(predictions, CLASSES)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("folds-classes.tsv", "folds-confusion.tsv", "folds.tsv", "table1.tsv")
    ]
    assert "nan" not in (tmp_path / "folds.tsv").read_text().lower()
    pd.testing.assert_frame_equal(read_table(tmp_path / "folds.tsv"), found.folds)
    pd.testing.assert_frame_equal(read_table(tmp_path / "folds-classes.tsv"), found.per_class)
    confusion = read_table(tmp_path / "folds-confusion.tsv")
    assert list(confusion) == ["model", "fold", "label", "predicted", "n"]
    counted = predictions.groupby(["model", "fold", "label", "predicted"]).size()
    given = confusion.set_index(["model", "fold", "label", "predicted"])["n"]
    assert given[given > 0].sort_index().to_dict() == counted.sort_index().to_dict()
    table = read_table(tmp_path / "table1.tsv").set_index(["score", "fold"])
    for metric in ("balanced_accuracy", "macro_auc"):
        values = found.wide(metric)
        block = table.loc[metric]
        assert list(block.index) == [*values.index, "mean", "sd", "sd_population"]
        np.testing.assert_allclose(block.loc["mean"], values.mean())
        np.testing.assert_allclose(block.loc["sd"], values.std(ddof=1))
        np.testing.assert_allclose(block.loc["sd_population"], values.std(ddof=0))
    assert block.loc["fold-3"].isna().all()


def test_models_may_have_the_names_of_columns(tmp_path):
    write_fold_tables(tmp_path, make_predictions(models=("fold", "score")), CLASSES)
    head = (tmp_path / "table1.tsv").read_text().splitlines()[0]
    assert head.split("\t") == ["score", "fold", "fold", "score"]


def test_broken_predictions_are_refused():
    predictions = make_predictions()
    predictions.loc[3, "p_joy"] = np.nan
    with pytest.raises(InputError, match="missing probabilities"):
        score_folds(predictions, CLASSES)

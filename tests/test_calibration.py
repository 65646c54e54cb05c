"""Calibration: temperatures that were planted, textbook numbers, noise, and scikit-learn."""

import re
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from emodecode.errors import InputError
from emodecode.evaluate.calibration import (
    apply_temperature,
    brier_scores,
    describe_calibration,
    expected_calibration_error,
    fit_temperature,
    reliability_bins,
)
from emodecode.report.calibration import draw_reliability

TWO, THREE = ["a", "b"], ["a", "b", "c"]


def calibrated(n, classes=THREE, *, seed=0, spread=1.5):
    """Probabilities, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    given = np.exp(rng.normal(0, spread, (n, len(classes))))
    given /= given.sum(axis=1, keepdims=True)
    return given, draw(given, classes, rng)


def draw(given, classes, rng):
    number = (given.cumsum(axis=1) < rng.random((len(given), 1))).sum(axis=1)
    return np.array(classes)[np.minimum(number, len(classes) - 1)]


def predictions(n_subjects=11, n_blocks=40, length=10, classes=TWO, *, seed=0, temperature=1.0):
    """One calibrated probability a block, sharpened by 1/T; the volumes of a block repeat it."""
    given, labels = calibrated(n_subjects * n_blocks, classes, seed=seed, spread=1.0)
    given = np.repeat(apply_temperature(given, temperature), length, axis=0)
    subject = [f"{s:02d}" for s in np.repeat(np.arange(n_subjects), n_blocks * length)]
    table = pd.DataFrame({"fold": subject, "subject": subject})
    table["label"] = np.repeat(labels, length)
    return pd.concat([table, pd.DataFrame(given, columns=[f"p_{c}" for c in classes])], axis=1)


@pytest.mark.parametrize("planted", [0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("classes", [TWO, THREE])
def test_a_planted_temperature_is_recovered(planted, classes):
    given, labels = calibrated(60_000, classes)
    sharpened = given**planted / (given**planted).sum(axis=1, keepdims=True)
    found = fit_temperature(sharpened, labels, classes=classes)
    assert found == pytest.approx(planted, rel=0.03)
    np.testing.assert_allclose(apply_temperature(sharpened, planted), given, rtol=1e-9)


def test_temperature_agrees_with_scikit_learn():
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Shows(ClassifierMixin, BaseEstimator):
        """Its probabilities are its data."""

        def fit(self, X, y):
            self.classes_, self.fitted_ = np.unique(y), True
            return self

        def predict_proba(self, X):
            return X

        def predict(self, X):
            return self.classes_[X.argmax(axis=1)]

    given, labels = calibrated(800)
    given = apply_temperature(given, 0.4)
    shows = FrozenEstimator(Shows().fit(given, labels))
    oracle = CalibratedClassifierCV(shows, method="temperature").fit(given, labels)
    ours = apply_temperature(given, fit_temperature(given, labels, classes=THREE))
    np.testing.assert_allclose(ours, oracle.predict_proba(given), atol=1e-5)


def test_the_fit_is_a_minimum_of_the_log_loss():
    given, labels = calibrated(400, seed=3)
    best = fit_temperature(given, labels, classes=THREE)
    losses = [log_loss(labels, apply_temperature(given, best * k)) for k in (0.98, 1.0, 1.02)]
    assert losses[1] < min(losses[0], losses[2])


def test_degenerate_fits_lie_on_the_bounds():
    right = np.array([[0.9, 0.1], [0.3, 0.7]])
    assert fit_temperature(right, ["a", "b"], classes=TWO) == 0.05
    assert fit_temperature(right, ["b", "a"], classes=TWO) == 20.0
    assert fit_temperature(np.full((4, 2), 0.5), ["a", "b", "a", "a"], classes=TWO) == 1.0
    assert fit_temperature([[1.0, 0.0], [1.0, 0.0]], ["a", "a"], classes=TWO) in (0.05, 1.0)
    sure = np.array([[1.0, 0.0]] * 4)
    found = fit_temperature(sure, ["a", "a", "a", "b"], classes=TWO)
    odds = np.finfo(float).eps ** (1 / 20)
    assert found == 20.0
    assert apply_temperature(sure, found)[0, 1] == pytest.approx(odds / (1 + odds))


def test_temperature_is_undone_by_its_inverse():
    given, _ = calibrated(500, spread=3.0)
    for temperature in (0.05, 0.3, 1.0, 7.0, 20.0):
        scaled = apply_temperature(given, temperature)
        assert (scaled.argmax(axis=1) == given.argmax(axis=1)).all()
        np.testing.assert_allclose(scaled.sum(axis=1), 1)
        np.testing.assert_allclose(apply_temperature(scaled, 1 / temperature), given, rtol=1e-9)


def test_zeros_keep_their_place_and_are_no_certainty():
    given = np.array([[1.0, 0.0, 0.0], [0.6, 0.4, 0.0], [1 - 1e-30, 1e-30, 0.0]])
    soft = apply_temperature(given, 4.0)
    assert (soft > 0).all()
    assert (np.diff(soft, axis=1) <= 0).all()


def test_brier_by_hand_and_scikit_learn():
    given = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = brier_scores(given, ["a", "b", "c"], THREE)
    np.testing.assert_allclose(found, [0.3**2 + 0.2**2 + 0.1**2, 0.0, 2.0], atol=1e-12)
    given, labels = calibrated(300)
    oracle = brier_score_loss(labels, given, labels=THREE, scale_by_half=False)
    assert brier_scores(given, labels, THREE).mean() == pytest.approx(oracle)


def test_ece_by_hand():
    """Ten at .6 of which 3 are right, ten at .9 of which 9 are: half of .3 and half of 0."""
    given = np.array([[0.6, 0.4]] * 10 + [[0.1, 0.9]] * 10)
    labels = ["a"] * 3 + ["b"] * 7 + ["b"] * 9 + ["a"]
    for n_bins in (2, 4, 15):
        found = expected_calibration_error(given, labels, classes=TWO, n_bins=n_bins)
        assert found == pytest.approx(0.15)
    one_bin = expected_calibration_error(given, labels, classes=TWO, n_bins=1)
    assert one_bin == pytest.approx(abs(0.6 - 0.75))


def equal_width_ece(given, right, n_bins):
    number = np.minimum((given.max(axis=1) * n_bins).astype(int), n_bins - 1)
    parts = [np.flatnonzero(number == b) for b in np.unique(number)]
    gaps = [len(r) * abs(right[r].mean() - given.max(axis=1)[r].mean()) for r in parts]
    return sum(gaps) / len(given)


def test_equal_mass_equals_equal_width_where_both_coincide():
    confidence = np.repeat([0.55, 0.65, 0.75, 0.85, 0.95], 8)
    confidence = confidence + np.tile(np.linspace(-0.02, 0.02, 8), 5)
    given = np.column_stack([confidence, 1 - confidence])
    labels = np.where(np.random.default_rng(0).random(40) < 0.6, "a", "b")
    ours = expected_calibration_error(given, labels, classes=TWO, n_bins=5)
    assert ours == pytest.approx(equal_width_ece(given, labels == "a", 10))


def test_bins_have_equal_mass_and_ties_stay_together():
    given, labels = calibrated(1507)
    sizes = [each["n"] for each in reliability_bins(given, labels, classes=THREE)]
    assert len(sizes) == 15
    assert set(sizes) == {100, 101}
    given = np.array([[0.5, 0.5]] * 70 + [[0.8, 0.2]] * 10 + [[0.9, 0.1]] * 20)
    bins = reliability_bins(given, ["a"] * 100, classes=TWO, n_bins=10)
    assert [each["n"] for each in bins] == [70, 10, 20]
    assert [each["confidence"] for each in bins] == pytest.approx([0.5, 0.8, 0.9])
    assert all(each["lowest"] == pytest.approx(each["highest"]) for each in bins)


def test_one_subject_gets_wilsons_interval():
    """Wilson (1927) for 8 of 10: .490 to .943."""
    given, labels = np.array([[0.7, 0.3]] * 10), ["a"] * 8 + ["b"] * 2
    (only,) = reliability_bins(given, labels, classes=TWO)
    assert (only["accuracy"], only["n"], only["n_subjects"]) == (0.8, 10, 1)
    assert (only["low"], only["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_volumes_of_one_subject_are_not_independent():
    """Subjects that are always or never right: the interval is that of 10 subjects, not 10,000."""
    given, subjects = np.tile([0.7, 0.3], (10_000, 1)), np.repeat(np.arange(10), 1000)
    labels = np.where(subjects < 5, "a", "b")
    options = {"classes": TWO, "n_bins": 1}
    (alone,) = reliability_bins(given, labels, **options)
    (only,) = reliability_bins(given, labels, subjects=subjects, **options)
    assert alone["high"] - alone["low"] < 0.03
    assert 0.45 < only["high"] - only["low"] < 0.8


def test_the_interval_of_the_ece_holds_the_truth():
    """Calibrated: the low end is 0 and the ECE no larger than expected. Sharpened: its true ECE."""
    fair, missed = [], 0
    large, labels = calibrated(400_000, TWO, spread=1.0, seed=99)
    truth = expected_calibration_error(apply_temperature(large, 0.5), labels, classes=TWO)
    for seed in range(40):
        found = describe_calibration(predictions(seed=seed), classes=TWO, seed=seed)["ece"]
        assert found["low"] <= found["value"] <= found["high"]
        fair.append((found["value"], found["if_calibrated"], found["low"]))
        sharp = predictions(seed=seed, temperature=0.5)
        found = describe_calibration(sharp, classes=TWO, seed=seed)["ece"]
        missed += not found["low"] <= truth <= found["high"]
    value, expected, low = np.mean(fair, axis=0)
    assert value == pytest.approx(expected, rel=0.15)
    assert value > 0.03, "chance alone makes gaps"
    assert low < 0.001
    assert missed <= 4


def test_description_scores_every_subject_once():
    table = predictions(4, 10, 5)
    table = pd.concat([table, table.iloc[:37]], ignore_index=True)
    found = describe_calibration(table, classes=TWO, seed=0)
    own = table.assign(brier=brier_scores(table[["p_a", "p_b"]], table["label"], TWO))
    by_subject = own.groupby("subject")["brier"].mean()
    assert found["brier"]["value"] == pytest.approx(by_subject.mean())
    assert found["brier"]["n_subjects"] == 4
    assert found["temperature"] is None
    assert found["uncalibrated"] is None
    shuffled = table.sample(frac=1, random_state=1)
    again = describe_calibration(shuffled, classes=TWO, seed=0)
    assert again["ece"] == pytest.approx(found["ece"])
    assert sum(each["n"] for each in found["reliability"]) == len(table)


def test_uncalibrated_scores_are_those_before_scaling():
    raw = predictions(5, 20, 3, THREE, temperature=0.5)
    columns = [f"p_{name}" for name in THREE]
    temperatures = {fold: 1.5 + 0.2 * k for k, fold in enumerate(raw["fold"].unique())}
    scaled = raw.copy()
    for fold, temperature in temperatures.items():
        rows = raw["fold"] == fold
        scaled.loc[rows, columns] = apply_temperature(raw.loc[rows, columns], temperature)
    found = describe_calibration(scaled, classes=THREE, seed=0, temperatures=temperatures)
    plain = describe_calibration(raw, classes=THREE, seed=0)
    losses = [log_loss(own["label"], own[columns]) for _, own in raw.groupby("subject")]
    assert found["uncalibrated"]["brier"] == pytest.approx(plain["brier"]["value"])
    assert found["uncalibrated"]["ece"] == pytest.approx(plain["ece"]["value"])
    assert found["uncalibrated"]["log_loss"] == pytest.approx(np.mean(losses))
    assert found["temperature"] == pytest.approx({"mean": 1.9, "low": 1.5, "high": 2.3})
    assert found["brier"]["value"] < plain["brier"]["value"]


def test_one_subject_has_no_interval():
    found = describe_calibration(predictions(1), classes=TWO, seed=0)
    assert found["brier"]["low"] is None
    assert found["ece"]["low"] is found["ece"]["high"] is found["ece"]["if_calibrated"] is None
    assert found["reliability"][0]["low"] < found["reliability"][0]["high"]


def test_large_evaluations_take_no_time():
    table = predictions(20, 68, 10)
    start = time.perf_counter()
    describe_calibration(
        table, classes=TWO, seed=0, temperatures={f"{s:02d}": 2 for s in range(20)}
    )
    assert len(table) == 13_600
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("given", "labels"),
    [
        (np.empty((0, 2)), []),
        ([[0.5, 0.5]], ["c"]),
        ([[np.nan, 0.5]], ["a"]),
        ([[-0.1, 1.1]], ["a"]),
        ([[0.2, 0.3, 0.5]], ["a"]),
        ([[0.5, 0.5]], ["a", "b"]),
    ],
)
def test_bad_probabilities_are_refused(given, labels):
    for function in (fit_temperature, brier_scores, expected_calibration_error, reliability_bins):
        with pytest.raises(InputError, match="probabilities"):
            function(np.array(given), labels, classes=TWO)


def test_bad_temperatures_are_refused():
    for temperature in (0, -1.0, np.nan):
        with pytest.raises(InputError, match="above 0"):
            apply_temperature(np.array([[0.5, 0.5]]), temperature)
    with pytest.raises(InputError, match="fold 01"):
        describe_calibration(predictions(2), classes=TWO, seed=0, temperatures={"00": 1.2})
    with pytest.raises(InputError, match="n_bins"):
        expected_calibration_error(np.array([[0.5, 0.5]]), ["a"], classes=TWO, n_bins=0)


def test_the_figure_says_what_it_shows():
    found = describe_calibration(predictions(temperature=0.3), classes=TWO, seed=0)
    options = {"name": "lda <1>", "index": 3, "ece": found["ece"]}
    svg = draw_reliability(found["reliability"], **options)
    assert svg.startswith('<svg class="drawn"')
    assert "Reliability of lda &lt;1&gt;" in svg
    assert re.search(r"ECE \.\d\d \[", svg)
    assert "if calibrated" in svg
    assert "leaks: see audit" not in svg
    assert "leaks: see audit" in draw_reliability(found["reliability"], **options, leaks=True)
    ids = set(re.findall(r' id="([^"]+)"', svg))
    assert ids
    assert all(each.startswith("reliability3-") for each in ids)


def test_every_prediction_is_in_the_bars_of_the_figure():
    from emodecode.report.calibration import _shares

    edges = np.linspace(0, 1, 41)
    for lowest, highest in ((0.5, 0.5), (1.0, 1.0), (0.0, 0.0), (0.31, 0.97), (0.999, 1.0)):
        assert _shares(lowest, highest, edges).sum() == pytest.approx(1)


def test_the_figure_of_nothing_and_of_one_point():
    assert "no predictions" in draw_reliability([], name="m", index=0, ece=None)
    one = reliability_bins(np.array([[0.5, 0.5]]), ["a"], classes=TWO)
    assert "ECE" in draw_reliability(one, name="m", index=0, ece={"value": 0.5, "low": None})

"""Valence and arousal of classes, and Procrustes onto them, against scipy and brute force."""

from itertools import permutations
from math import factorial

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import procrustes

from emodecode.errors import InputError
from emodecode.explain.affect import (
    affect_coordinates,
    class_centroids,
    fit_overlay,
    fit_procrustes,
)
from emodecode.read.annotations import ANNOTATION_COLUMNS, read_annotations

S1_CLASSES = ["ANGERRAGE", "FEAR", "HAPPINESS", "LOVE", "SADNESS"]


def _annotations(*rows):
    """Rows (observer, start_s, end_s, arousal, valence, emotion)."""
    table = pd.DataFrame(
        rows, columns=["observer", "start_s", "end_s", "arousal", "valence", "emotion"]
    )
    return table.assign(character="X", direction="n/a")[list(ANNOTATION_COLUMNS)]


TWO_OBSERVERS = _annotations(
    ("a", 0.0, 3.0, "HIGH", "NEG", "FEAR"),
    ("a", 3.0, 4.0, "LOW", "NEG", "FEAR"),
    ("a", 10.0, 12.0, "LOW", "POS", "LOVE HAPPINESS"),
    ("a", 0.0, 2.0, "LOW", "POS", "n/a"),
    ("b", 0.0, 4.0, "HIGH", "POS", "FEAR"),
    ("b", 10.0, 10.2, "HIGH", "POS", "LOVE"),
    ("b", 11.0, 12.0, "n/a", "NEG", "LOVE"),
)


def _turned(points, *, angle=0.7, mirror=False, scale=3.0, shift=(5.0, -2.0)):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if mirror:
        turn = turn @ np.diag([1, -1])
    return points @ turn * scale + np.array(shift)


def test_rows_by_hand():
    found = affect_coordinates(TWO_OBSERVERS)
    assert list(found.index) == ["FEAR", "HAPPINESS", "LOVE"]
    fear, love = found.loc["FEAR"], found.loc["LOVE"]
    assert fear["valence"] == pytest.approx((-1 + 1) / 2)
    assert fear["arousal"] == pytest.approx(((3 - 1) / 4 + 1) / 2)
    assert fear["arousal_se"] == pytest.approx(np.std([0.5, 1], ddof=1) / np.sqrt(2))
    assert fear["time_s"] == 8
    # the row of .2 s lasts one cell of the grid; one that says nothing of arousal has none
    assert love["valence"] == pytest.approx((1 + (1 - 1) / 2) / 2)
    assert love["arousal"] == pytest.approx((-1 + 1) / 2)
    assert found.loc["HAPPINESS", "n_observers"] == 1
    assert np.isnan(found.loc["HAPPINESS", "valence_se"])


def test_moments_by_hand():
    found = affect_coordinates(TWO_OBSERVERS, by="moments", agreement=0.9)
    assert list(found.index) == ["FEAR", "LOVE"]
    fear = found.loc["FEAR"]
    # observer a also sees a calm and positive character in the first two of four seconds
    assert fear["valence"] == pytest.approx(((0 + 0 - 1 - 1) / 4 + 1) / 2)
    assert fear["arousal"] == pytest.approx(((0 + 0 + 1 - 1) / 4 + 1) / 2)
    assert fear["time_s"] == 4
    assert found.loc["LOVE", "time_s"] == 2


def test_classes_keep_their_order_and_merge():
    found = affect_coordinates(TWO_OBSERVERS, classes=["LOVE", "FEAR"])
    assert list(found.index) == ["LOVE", "FEAR"]
    merged = affect_coordinates(TWO_OBSERVERS, merge={"LOVE": "JOY", "HAPPINESS": "JOY"})
    assert list(merged.index) == ["FEAR", "JOY"]
    whole = affect_coordinates(TWO_OBSERVERS, split_labels=False)
    assert "LOVE HAPPINESS" in whole.index


def test_numbers_are_taken_as_they_are():
    rated = TWO_OBSERVERS.assign(valence="2.5", arousal="-1")
    found = affect_coordinates(rated, classes=["FEAR"])
    assert found.loc["FEAR", ["valence", "arousal"]].tolist() == [2.5, -1]


@pytest.mark.parametrize("mirror", [False, True])
def test_procrustes_equals_scipy_and_finds_the_planted_motion(mirror):
    rng = np.random.default_rng(0)
    one, noise = rng.standard_normal((2, 12, 2))
    two = _turned(one, mirror=mirror)
    exact = fit_procrustes(one, two)
    assert exact.disparity == pytest.approx(0, abs=1e-12)
    assert exact.scale == pytest.approx(3)
    assert exact.is_reflection is mirror
    np.testing.assert_allclose(exact.apply(one), two, atol=1e-12)
    noisy = two + 2 * noise
    got = fit_procrustes(one, noisy)
    assert got.disparity == pytest.approx(procrustes(noisy, one)[2], abs=1e-12)
    assert got.disparity == pytest.approx(fit_procrustes(noisy, one).disparity, abs=1e-12)
    residual = np.sum((got.apply(one) - noisy) ** 2) / np.sum((noisy - noisy.mean(axis=0)) ** 2)
    assert residual == pytest.approx(got.disparity)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_exact_p_by_brute_force(n):
    rng = np.random.default_rng(n)
    one, two = rng.standard_normal((2, n, 2))
    all_of_them = [procrustes(two, one[list(order)])[2] for order in permutations(range(n))]
    got = fit_overlay(one, two)
    assert got.n_relabellings == factorial(n)
    assert got.is_exact
    np.testing.assert_allclose(got.permuted, all_of_them, atol=1e-12)
    observed = procrustes(two, one)[2]
    assert got.p_value == np.mean(np.array(all_of_them) <= observed + 1e-12)
    assert got.smallest_p == 1 / factorial(n)
    assert got.chance_disparity == pytest.approx(np.mean(all_of_them))
    assert f"all {factorial(n)} relabellings" in got.describe()


def test_p_knows_no_rotation_mirror_scale_or_order_of_rows():
    rng = np.random.default_rng(1)
    names = ["e", "b", "a", "d", "c"]
    one = pd.DataFrame(rng.standard_normal((5, 2)), index=names)
    two = pd.DataFrame(rng.standard_normal((5, 2)), index=names, columns=["valence", "arousal"])
    first = fit_overlay(one, two)
    moved = pd.DataFrame(_turned(one.to_numpy(), mirror=True), index=names)
    second = fit_overlay(moved, two.loc[sorted(names)].assign(n_observers=9))
    assert second.classes == first.classes == tuple(names)
    assert second.disparity == pytest.approx(first.disparity, abs=1e-12)
    assert second.p_value == first.p_value
    np.testing.assert_allclose(second.fitted, first.fitted, atol=1e-10)


def test_planted_circumplex_is_found_and_random_places_are_at_chance():
    rng = np.random.default_rng(2)
    affect = rng.standard_normal((5, 2))
    planted = _turned(affect + 0.05 * rng.standard_normal((5, 2)))
    found = fit_overlay(planted, affect)
    assert found.p_value == found.smallest_p == 1 / 120
    np.testing.assert_allclose(found.fitted, affect, atol=0.3)
    p_values = [fit_overlay(rng.standard_normal((5, 2)), affect).p_value for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) < 0.1
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.08)


def test_symmetric_places_cannot_reach_the_smallest_p():
    """Classes at the corners of a square: eight of 24 relabellings look the same."""
    square = np.array([[1.0, 1], [-1, 1], [-1, -1], [1, -1]])
    found = fit_overlay(square, square)
    assert found.disparity == pytest.approx(0, abs=1e-12)
    assert found.p_value == found.smallest_p == pytest.approx(8 / 24)


def test_many_classes_are_relabelled_at_random():
    rng = np.random.default_rng(3)
    one = rng.standard_normal((9, 2))
    found = fit_overlay(_turned(one), one, n_permutations=99, seed=4)
    assert not found.is_exact
    assert found.p_value == found.smallest_p == 1 / 100
    assert "random 100 relabellings" in found.describe()


def test_class_centroids():
    places = np.array([[0.0, 0], [2, 4], [5, 5], [7, 1]])
    found = class_centroids(places, ["b", "b", "a", "a"])
    assert list(found.index) == ["a", "b"]
    np.testing.assert_array_equal(found.to_numpy(), [[6, 3], [1, 2]])


POINTS = np.random.default_rng(4).standard_normal((5, 2))
NAMED = pd.DataFrame(POINTS, index=list("abcde"), columns=["valence", "arousal"])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: fit_overlay(POINTS[:2], POINTS[:2]), "2 classes"),
        (lambda: fit_overlay(POINTS, POINTS[:4]), "5 classes in the embedding, 4 with affect"),
        (lambda: fit_overlay(NAMED, NAMED.rename({"a": "z"})), "only in one of them: a, z"),
        (lambda: fit_overlay(NAMED, NAMED.rename({"a": "b"})), "each once"),
        (lambda: fit_overlay(POINTS * np.nan, POINTS), "not finite in 5 of 5"),
        (lambda: fit_overlay(POINTS, POINTS * 0), "all the same"),
        (lambda: fit_overlay(np.hstack([POINTS, POINTS]), POINTS), r"\(5, 4\) and \(5, 2\)"),
        (lambda: fit_overlay(np.eye(8, 2), np.eye(8, 2), n_permutations=0), "n_permutations = 0"),
        (lambda: class_centroids(POINTS, ["a"]), "1 classes for 5 points"),
        (lambda: affect_coordinates(TWO_OBSERVERS, by="scenes"), "by = 'scenes'"),
        (lambda: affect_coordinates(TWO_OBSERVERS, classes=["FEER"]), "Did you mean 'FEAR'"),
        (lambda: affect_coordinates(TWO_OBSERVERS.assign(valence="n/a")), "without valence"),
        (lambda: affect_coordinates(TWO_OBSERVERS.drop(columns="arousal")), "without arousal"),
        (lambda: affect_coordinates(TWO_OBSERVERS.assign(arousal="UP")), "arousal 'UP'"),
        (
            lambda: affect_coordinates(TWO_OBSERVERS[:4], by="moments", agreement=1.1),
            "no moment",
        ),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(InputError, match=words) as refused:
        call()
    assert refused.value.expected
    assert refused.value.remedy


@pytest.mark.data
def test_valence_and_arousal_of_s1_classes(data_dir):
    """Anger and fear: negative, aroused; sadness: negative, calm; happiness, love: positive."""
    annotations = read_annotations(
        data_dir / "studyforrest_annotations" / "emotions_raw", pattern="av1o*.csv"
    )
    rows = affect_coordinates(annotations, classes=S1_CLASSES)
    moments = affect_coordinates(annotations, classes=S1_CLASSES, by="moments")
    assert (rows["n_observers"] == 9).all()
    for found in (rows, moments):
        signs = np.sign(found["valence"]).tolist()
        assert signs == [-1, -1, 1, 1, -1]
        assert found.loc[["ANGERRAGE", "FEAR"], "arousal"].min() > 0.5
        assert found.loc["SADNESS", "arousal"] < -0.4
    assert rows.loc["LOVE", "valence"] == pytest.approx(0.910, abs=0.001)
    assert rows.loc["HAPPINESS", "arousal"] == pytest.approx(0.020, abs=0.001)
    agreed = fit_overlay(moments, rows)
    assert agreed.alignment.correlation > 0.98
    assert agreed.p_value <= 2 / 120

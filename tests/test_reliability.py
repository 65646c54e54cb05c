"""Agreement of observers, against independent calculations and planted truth."""

import numpy as np
import pytest

from emodecode.label.reliability import (
    fleiss_kappa,
    left_out_recall,
    rate_observers,
    split_half,
)


def one_label_each(categories, n_labels):
    """(n_observers, n_cells) of label numbers, -1 for none -> active."""
    return np.stack([categories == label for label in range(n_labels)])


def test_fleiss_kappa_of_the_textbook_example():
    # Fleiss (1971) as tabulated in textbooks: 14 raters, 10 items, 5 categories, kappa = .210
    counts = np.array(
        [
            [0, 0, 0, 0, 14],
            [0, 2, 6, 4, 2],
            [0, 0, 3, 5, 6],
            [0, 3, 9, 2, 0],
            [2, 2, 8, 1, 1],
            [7, 7, 0, 0, 0],
            [3, 2, 6, 3, 0],
            [2, 5, 3, 2, 2],
            [6, 5, 2, 1, 0],
            [0, 2, 2, 3, 7],
        ]
    )
    categories = np.stack([np.repeat(np.arange(5), row) for row in counts], axis=1)
    assert fleiss_kappa(one_label_each(categories, 5)) == pytest.approx(0.20993, abs=1e-5)


def test_fleiss_kappa_at_its_ends():
    rng = np.random.default_rng(0)
    same = np.tile(rng.integers(0, 3, 200), (6, 1))
    assert fleiss_kappa(one_label_each(same, 3)) == pytest.approx(1.0)
    noise = rng.integers(-1, 3, (6, 20_000))
    assert fleiss_kappa(one_label_each(noise, 3)) == pytest.approx(0.0, abs=0.01)
    assert np.isnan(fleiss_kappa(np.ones((1, 3, 5), dtype=bool)))


def test_split_half_recovers_the_planted_reliability():
    rng = np.random.default_rng(1)
    n_observers, noise = 10, 2.0
    signal = rng.normal(size=20_000)
    courses = signal + noise * rng.normal(size=(n_observers, len(signal)))
    planted = 1 / (1 + noise**2 / n_observers)
    got = split_half(courses, seed=0)
    assert got["split_half"] == pytest.approx(planted, abs=0.01)
    half = 1 / (1 + noise**2 / (n_observers // 2))
    assert got["split_half_rank"] == pytest.approx(6 / np.pi * np.arcsin(half / 2), abs=0.01)
    independent = split_half(rng.normal(size=(n_observers, 20_000)))
    assert independent["split_half"] == pytest.approx(0.0, abs=0.03)


def test_split_half_is_seeded_and_bears_missing_and_constant_courses():
    rng = np.random.default_rng(2)
    courses = rng.normal(size=(5, 100))
    courses[2, 10:20] = np.nan
    assert split_half(courses, seed=4) == split_half(courses, seed=4)
    assert split_half(courses, seed=4) != split_half(courses, seed=5)
    assert np.isfinite(split_half(courses)["split_half"])
    assert np.isnan(list(split_half(np.zeros((4, 50))).values())).all()


def test_left_out_observer_is_as_good_as_planted():
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 4, 30_000)
    errs = rng.random((9, len(truth))) < 0.3
    wrong = (truth + rng.integers(1, 4, errs.shape)) % 4
    active = one_label_each(np.where(errs, wrong, truth), 4)
    recall, n_cells, silence = left_out_recall(active, agreement=0.5)
    np.testing.assert_allclose(recall, 0.7, atol=0.02)
    np.testing.assert_array_equal(silence, 0.0)
    assert (n_cells > 20_000).all()
    mute = active & (rng.random(active.shape[1:]) > 0.2)
    recall, _, silence = left_out_recall(mute, agreement=0.5)
    np.testing.assert_allclose(recall, 0.7, atol=0.02)
    np.testing.assert_allclose(silence, 0.2, atol=0.01)


def test_left_out_by_hand():
    # cells: all agree; third says both; third is silent; the others tie
    active = np.array(
        [
            [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]],
            [[0, 0, 0, 0], [0, 0, 0, 1], [0, 1, 0, 1]],
        ],
        dtype=bool,
    )
    recall, n_cells, silence = left_out_recall(active, agreement=0.6)
    # consensus of others (both of them): label 0: cells 0 (3 observers), 1 (3), 2 (observer 3
    # only); label 1: cell 3 for observer 1 only, who says label 0. In cell 1 the others of
    # observers 1 and 2 vote 0 twice and 1 once.
    assert n_cells.tolist() == [6, 1]
    np.testing.assert_allclose(recall, [(3 + 1 + 1 + 0.5) / 6, 0.0])
    np.testing.assert_allclose(silence, [1 / 7, 0.0])


def test_summary_for_chosen_classes():
    rng = np.random.default_rng(4)
    active = rng.random((3, 4, 500)) < 0.4
    got = rate_observers(active, ["a", "b", "c"], classes=["c", "a"], n_halves=5)
    assert list(got["per_label"]) == ["c", "a"]
    assert got["n_observers"] == 4
    recalls = [label["left_out_recall"] for label in got["per_label"].values()]
    assert got["left_out_balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert rate_observers(active[:, :1], ["a", "b", "c"]) is None

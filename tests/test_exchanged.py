"""Drops against exchanged labels: brute force, a planted drop, moments that all saw, noise."""

from statistics import fmean, pstdev

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

from emodecode.errors import InputError
from emodecode.evaluate.exchange import make_exchange, permuted_labels
from emodecode.explain import exchanged
from emodecode.explain.exchanged import WIDENED, infer_labels
from emodecode.explain.fills import make_fill
from emodecode.explain.group import infer_group
from emodecode.explanation.fits import subject_maps

CLASSES = ("calm", "fear", "joy")
N_SETS = 200


def _by_hand(drops, codes, permuted, subjects, *, widen):
    """p of every class and unit, one number after the other."""
    maps = [_maps_by_hand(drops, labels, subjects) for labels in [codes, *permuted]]
    z = [{} for _ in maps]
    for key in maps[0]:
        values = [each[key] for each in maps]
        mean, spread = fmean(values), pstdev(values)
        for own, value in zip(z, values, strict=True):
            own[key] = (value - mean) / spread if spread > 1e-12 else 0.0
    largest = [widen * max(each.values()) for each in z[1:]]
    p = np.empty(drops.shape[:0:-1])
    for key, value in z[0].items():
        p[key] = (1 + sum(each >= value - 1e-9 for each in largest)) / (1 + len(largest))
    return p


def _maps_by_hand(drops, labels, subjects):
    found = {}
    for unit in range(drops.shape[1]):
        for number in range(drops.shape[2]):
            means = []
            for who in sorted(set(subjects)):
                own = (labels == number) & (subjects == who)
                if own.any():
                    means.append(fmean(drops[own, unit, number].tolist()))
            found[number, unit] = fmean(means)
    return found


def _small(seed=0):
    """Three subjects with unlike numbers of samples; labels go from subject to subject."""
    rng = np.random.default_rng(seed)
    subjects = np.array(["b"] * 4 + ["a"] * 3 + ["c"] * 5)
    codes = np.array([0, 1, 2, 0, 1, 2, 2, 0, 1, 2, 0, 1])
    permuted = rng.permuted(np.tile(codes, (40, 1)), axis=1)
    drops = rng.standard_normal((12, 7, 3)) + (np.arange(3) == codes[:, None])[:, None]
    drops[:, 4] = 0.3
    return drops, codes, permuted, subjects


def _film(n_subjects, n_moments, *, n_units=20, common=0.0, noise=1.0, seed=0):
    """Subjects who see the same moments; random labels; what moments do is alike in all."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.arange(n_moments) % len(CLASSES))
    shared = common * rng.standard_normal((n_moments, n_units, len(CLASSES)))
    own = noise * rng.standard_normal((n_subjects, *shared.shape))
    drops = (shared + own).reshape(-1, n_units, len(CLASSES))
    subjects = np.repeat([f"{who:02d}" for who in range(n_subjects)], n_moments)
    return drops, np.tile(label, n_subjects), subjects, rng


def _together(codes, n_moments, rng, *, n_permutations):
    """Labels of moments exchanged, for all subjects alike."""
    drawn = rng.permuted(np.tile(codes[:n_moments], (n_permutations, 1)), axis=1)
    return np.tile(drawn, len(codes) // n_moments)


@pytest.mark.parametrize("shared_training", [False, True])
def test_p_is_that_of_brute_force(shared_training):
    drops, codes, permuted, subjects = _small()
    lacking = [
        len(set(labels[subjects == who])) < 3 for labels in permuted for who in sorted(set("abc"))
    ]
    assert any(lacking), "a labelling leaves a subject without a class"
    found = infer_labels(drops, codes, permuted, subjects, shared_training=shared_training)
    widen = np.sqrt(2) if shared_training else 1
    expected = _by_hand(drops, codes, permuted, subjects, widen=widen)
    np.testing.assert_allclose(found.p, expected, atol=1e-12)
    assert len(np.unique(found.p)) > 5
    assert (found.n_permutations, found.widened) == (40, shared_training)
    assert found.p_smallest == pytest.approx(1 / 41)
    assert found.sentence.startswith("40 labellings ")
    assert ("widened" in found.sentence) == shared_training


def test_widened_labellings_give_a_larger_p():
    assert pytest.approx(np.sqrt(2)) == WIDENED
    given = _small()
    plain, wide = (infer_labels(*given, shared_training=each).p for each in (False, True))
    assert (wide >= plain).all()
    assert (wide > plain).any()


def test_the_true_labelling_drawn_again_counts_as_reached():
    drops, codes, permuted, subjects = _small()
    same = np.tile(codes, (9, 1))
    p = infer_labels(drops, codes, same, subjects, shared_training=False).p
    np.testing.assert_array_equal(p, 1.0)
    order = np.random.default_rng(1).permutation(len(codes))
    turned = infer_labels(
        *(drops[order], codes[order], permuted[:, order], subjects[order]), shared_training=False
    )
    np.testing.assert_array_equal(
        turned.p, infer_labels(drops, codes, permuted, subjects, shared_training=False).p
    )


@pytest.mark.parametrize("shared_training", [False, True])
def test_a_planted_drop_of_one_class_is_found_and_nothing_else(shared_training):
    drops, codes, subjects, rng = _film(6, 48)
    permuted = _together(codes, 48, rng, n_permutations=199)
    drops[codes == 1, 5, 1] += 2
    drops[codes == 2, 8, 2] -= 2  # a rise is no drop
    drops[:, 11, 0] += 2  # whatever the label
    found = infer_labels(drops, codes, permuted, subjects, shared_training=shared_training)
    assert found.p[1, 5] == found.p_smallest == 1 / 200
    assert found.p[2, 8] == 1
    assert np.argwhere(found.p <= 0.05).tolist() == [[1, 5]]


def test_what_moments_do_to_all_subjects_is_no_drop_of_a_class():
    drops, _, subjects, _ = _film(8, 24, common=1.0, noise=0.2)
    label = np.tile(np.repeat(np.arange(3), 2), 4)
    volume = np.tile(np.arange(24), 8)
    table = pd.DataFrame(
        {
            "subject": subjects,
            "run": "01",
            "volume": volume,
            "onset_s": 2.0 * volume,
            "block": np.tile(np.repeat(np.arange(12), 2), 8).astype(str),
            "label": np.array(CLASSES)[np.tile(label, 8)],
            "stimulus": "film",
        }
    )
    exchange = make_exchange(table, classes=CLASSES)
    drawn = permuted_labels(exchange, n_permutations=199, seed=0)[:, exchange.slot]
    codes = exchange.label[exchange.slot]
    assert (drawn.reshape(199, 8, 24) == drawn[:, None, :24]).all(), "moments, for all subjects"
    _, maps = subject_maps(table, CLASSES, drops)
    group = infer_group(maps.reshape(8, -1))
    significant = (group.p <= 0.05) & (group.mean > 0)
    assert significant.sum() > 15, "of 60"
    found = infer_labels(drops, codes, drawn, subjects, shared_training=False)
    assert found.p.min() > 0.05
    alone = np.random.default_rng(0).permuted(drawn.reshape(199, 8, 24), axis=2)
    alone = infer_labels(drops, codes, alone.reshape(199, -1), subjects, shared_training=False)
    assert (alone.p <= 0.05).sum() > 5, "exchanged in each subject alone they look like a class"


@pytest.mark.parametrize("common", [0.0, 3.0])
def test_of_noise_one_in_twenty_has_a_small_p_anywhere(common):
    n_found = n_wide = 0
    for seed in range(N_SETS):
        drops, codes, subjects, rng = _film(4, 12, n_units=10, common=common, seed=seed)
        permuted = _together(codes, 12, rng, n_permutations=99)
        given = (drops, codes, permuted, subjects)
        n_found += infer_labels(*given, shared_training=False).p.min() <= 0.05
        n_wide += infer_labels(*given, shared_training=True).p.min() <= 0.05
    low, high = binom.ppf([0.001, 0.999], N_SETS, 0.05)
    assert low <= n_found <= high
    assert n_wide <= n_found


def test_constant_drops_get_no_small_p():
    drops, codes, subjects, rng = _film(4, 12, n_units=3)
    permuted = _together(codes, 12, rng, n_permutations=99)
    drops[:, 0], drops[:, 1] = 0.7, 0.0
    drops[:, 2, 0] = np.float32(0.1)
    for values in (drops, drops.astype(np.float32)):
        p = infer_labels(values, codes, permuted, subjects, shared_training=False).p
        assert p[:, :2].min() > 0.5
        assert p[0, 2] > 0.5
    nothing = np.full_like(drops, 0.1)
    p = infer_labels(nothing, codes, permuted, subjects, shared_training=True).p
    np.testing.assert_array_equal(p, 1.0)


@pytest.mark.parametrize("size", [1, 3])
def test_chunks_of_units_give_the_same(monkeypatch, size):
    given = _small(3)
    whole = infer_labels(*given, shared_training=True)
    monkeypatch.setattr(exchanged, "_UNITS", size)
    np.testing.assert_array_equal(infer_labels(*given, shared_training=True).p, whole.p)


@pytest.mark.parametrize("wrong", ["codes", "subjects", "columns", "one labelling", "none"])
def test_arrays_that_do_not_belong_together_are_refused(wrong):
    drops, codes, permuted, subjects = _small()
    codes = codes[1:] if wrong == "codes" else codes
    subjects = subjects[1:] if wrong == "subjects" else subjects
    by_name = {"columns": permuted[:, 1:], "one labelling": permuted[0], "none": permuted[:0]}
    permuted = by_name.get(wrong, permuted)
    with pytest.raises(InputError, match="a label, a subject and a column"):
        infer_labels(drops, codes, permuted, subjects, shared_training=False)


def _false_alarm(fill, seed, *, n_classes=2):
    """A random decoder of noise: does any unit drop significantly?"""
    rng = np.random.default_rng(seed)
    subjects, n_each, n_units = np.repeat(np.arange(10), 24), 24, 15
    codes = np.tile(np.arange(24) % n_classes, 10)
    X = rng.normal(size=(240, n_units))
    weights = rng.normal(size=(n_units, n_classes))
    names = [str(code) for code in codes]
    fills = make_fill(fill, X, labels=names, subjects=subjects.tolist(), n_draws=4, seed=seed)

    def probability(scores):
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        return scores / scores.sum(axis=-1, keepdims=True)

    given = X @ weights
    moved = given[:, None] + (fills - X)[..., None] * weights  # (n_draws, n, n_units, n_classes)
    drops = probability(given)[:, None] - probability(moved).mean(axis=0)
    permuted = np.array(
        [np.concatenate([rng.permutation(codes[:n_each]) for _ in range(10)]) for _ in range(199)]
    )
    found = infer_labels(drops, codes, permuted, subjects, shared_training=False)
    return bool((found.p <= 0.05).any())


def test_a_fill_that_looks_at_labels_cannot_be_tested_against_them():
    """Why `explain` fills from the subject's samples whatever their label."""
    alarms = {
        fill: sum(_false_alarm(fill, seed) for seed in range(60))
        for fill in ("subject", "conditional", "voxel_mean")
    }
    highest = binom.ppf(0.999, 60, 0.05)
    assert alarms["subject"] <= highest
    assert alarms["voxel_mean"] <= highest
    assert alarms["conditional"] > 20

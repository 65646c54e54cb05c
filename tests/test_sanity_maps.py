"""Sanity checks of maps: good decoders pass, meaningless ones fail; agreement between methods."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

from emodecode.errors import InputError
from emodecode.explain.gradients import integrated_gradients
from emodecode.explain.patterns import haufe_patterns
from emodecode.explain.perturb import by_importance, compare_with_random
from emodecode.explain.sanity import (
    SanityReport,
    agreement,
    cascade,
    check_edge,
    check_labels,
    check_outside,
    check_removal,
    check_settings,
    check_weights,
    layers_of,
    peak,
    randomised,
    similarity,
)
from emodecode.features.scale import VoxelScaler
from emodecode.models.linear import LinearByGram, linear_weights
from emodecode.models.net import NetClassifier
from emodecode.models.volumenet import VolumeNetClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (8, 8, 6)
BRAIN = np.zeros(SHAPE, dtype=bool)
BRAIN[1:7, 1:7, 1:5] = True
PLANTED = np.zeros(SHAPE, dtype=bool)
PLANTED[3:5, 3:5, 2:4] = True
PLANTED = PLANTED[BRAIN]


def _data(seed=0, *, n_blocks=40, effect=1.2):
    """Blocks of three volumes, smooth noise, an effect in a cube of 8 voxels."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.permutation(np.repeat(["calm", "fear"], n_blocks // 2)), 3)
    noise = ndimage.gaussian_filter(rng.standard_normal((len(y), *SHAPE)), (0, 0.6, 0.6, 0.6))
    X = (noise / noise.std())[:, BRAIN]
    X[:, PLANTED] += effect * (y == "fear")[:, None]
    return X, y


def _permuted(y, n, seed=0):
    """Whole blocks exchange their labels."""
    rng = np.random.default_rng(seed)
    return [np.repeat(rng.permutation(y[::3]), 3) for _ in range(n)]


def _fit_linear(X):
    def fit(labels):
        classifier = LinearByGram(LogisticRegression(C=0.01))
        return Pipeline([("scale", VoxelScaler()), ("classifier", classifier)]).fit(X, labels)

    return fit


def _pattern_of(X):
    def explain(fitted):
        return haufe_patterns(X, linear_weights(fitted)[0])[0]

    return explain


def _drop_of(X, truth):
    """Occlusion one voxel at a time on held-out samples: drop of the true class's log-odds."""

    def explain(fitted):
        weights = linear_weights(fitted)[0][0]
        sign = np.where(truth == fitted.classes_[1], 1, -1)
        return (sign[:, None] * (X - X.mean(0))).mean(0) * weights

    return explain


def _report(labels, X, y):
    """All checks of the map of a decoder that is trained on `labels`."""
    held, truth = _data(1)
    fit, explain = _fit_linear(X), _drop_of(held, truth)
    decoder = fit(labels)
    values = explain(decoder)
    removal = compare_with_random(
        *(decoder.predict_proba, held, by_importance(values)),
        **{"target": np.searchsorted(decoder.classes_, truth), "fill": X.mean(0), "n_random": 39},
    )
    return SanityReport(
        (
            check_weights(explain, decoder),
            check_labels(
                *(explain, fit, labels, _permuted(y, 39)), statistic=lambda each: each.sum()
            ),
            check_outside(values, mask=BRAIN, brain=BRAIN),
            check_edge(values, mask=BRAIN),
            check_removal(removal),
        )
    )


def test_a_good_decoder_passes_all_checks():
    X, y = _data()
    found = _report(y, X, y)
    assert found.passed, found.to_table().to_string()
    assert found.failed == []
    assert found.sentence == "This map passed 5 of 5 checks."
    table = found.to_table()
    assert list(table.columns) == ["check", "value", "expected", "passed", "sentence"]
    assert all(sentence.endswith(".") for sentence in table["sentence"])


@pytest.mark.parametrize("seed", range(3))
def test_a_decoder_with_shuffled_labels_fails(seed):
    X, y = _data()
    (shuffled,) = _permuted(y, 1, seed=100 + seed)
    found = _report(shuffled, X, y)
    assert "random labels" in found.failed
    assert "FAILED" in found.sentence
    assert "random labels" in found.sentence


def test_shuffled_labels_pass_in_one_of_twenty():
    X, y = _data(n_blocks=20)
    held, truth = _data(1)
    fit, explain = _fit_linear(X), _drop_of(held, truth)
    maps = {}

    def once(labels):  # labels stand for their decoder: each is fitted once
        key = labels.tobytes()
        if key not in maps:
            maps[key] = explain(fit(labels))
        return key

    pool = _permuted(y, 120, seed=7)
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(200):
        own, *others = rng.choice(len(pool), 20, replace=False)
        passed += check_labels(
            *(maps.__getitem__, once, pool[own], [pool[each] for each in others]),
            **{"statistic": np.sum, "limit": 2.0},
        ).passed
    assert 2 <= passed <= 19


@pytest.mark.parametrize("kind", ["drop", "pattern"])
def test_the_statistics_tell_a_map_from_noise(kind):
    X, y = _data()
    fit = _fit_linear(X)
    explain = _drop_of(*_data(1)) if kind == "drop" else _pattern_of(X)
    more = {} if kind == "drop" else {"statistic": peak}
    good = check_labels(explain, fit, y, _permuted(y, 39), **more)
    assert good.passed
    assert good.details["p"] == 0.025
    for seed in (100, 101):
        (shuffled,) = _permuted(y, 1, seed=seed)
        assert not check_labels(explain, fit, shuffled, _permuted(y, 39), **more).passed
    assert peak(np.array([3.0, -4.0, 0, 0])) == pytest.approx(4 / 2.5)


def test_a_map_of_the_data_alone_fails_both_randomisations():
    """An edge filter or a mean image looks the same whatever was learned."""
    X, y = _data()
    fit = _fit_linear(X)
    image = X.var(0)

    def explain(fitted):
        return image

    weights = check_weights(explain, fit(y))
    assert (weights.value, weights.passed) == (pytest.approx(1), False)
    assert "hardly changes" in weights.sentence
    labels = check_labels(explain, fit, y, _permuted(y, 19))
    assert (labels.value, labels.passed) == (1, False)
    assert labels.details["similarity"] == pytest.approx(1)


def _net(X, y):
    steps = [("scale", VoxelScaler()), ("net", NetClassifier(max_epochs=15, patience=None))]
    return Pipeline(steps).fit(X.astype(np.float32), y)


def test_a_network_loses_its_map_with_its_weights():
    X, y = _data()
    held, truth = _data(1)
    held = held.astype(np.float32)
    decoder = _net(X, y)

    def explain(fitted):
        found = integrated_gradients(fitted, held, target="fear", n_steps=8)
        return found[truth == "fear"].mean(0) - found[truth == "calm"].mean(0)

    assert set(by_importance(explain(decoder))[:5]) <= set(np.flatnonzero(PLANTED))
    before = decoder.predict_proba(held)
    found = check_weights(explain, decoder, n_draws=3)
    assert found.passed, found.details
    np.testing.assert_array_equal(decoder.predict_proba(held), before)  # the original stays
    table = cascade(explain, decoder)
    assert table["layer"].tolist() == layers_of(decoder) == ["linear", "output", "filters"]
    assert table["n_layers"].tolist() == [1, 2, 3]
    one = randomised(decoder, seed=0)["net"].predict_proba(held)
    assert np.abs(one - before).max() > 0.2


def test_weights_are_drawn_from_the_output_backwards():
    rng = np.random.default_rng(0)
    mask = np.ones((5, 5, 4), dtype=bool)
    X, y = rng.standard_normal((24, 100)).astype(np.float32), np.tile(["a", "b", "c"], 8)
    fitted = VolumeNetClassifier(
        network="separable3d", mask=mask, max_epochs=1, n_members=2, device="cpu"
    ).fit(X, y, subjects=np.repeat(list("abcdef"), 4))
    layers = layers_of(fitted)
    assert layers[0] == "network.fc"
    assert layers[-1] == "network.conv1"
    some, all_ = (randomised(fitted, seed=3, n_layers=n) for n in (2, None))
    for number in (0, 1):
        old, part, new = (dict(each.modules_[number].state_dict()) for each in (fitted, some, all_))
        for name, value in old.items():
            owner = name.rpartition(".")[0]
            changed = owner in layers[:2] and "running" not in name and "num_" not in name
            ties = torch.equal(value.flatten(), value.flatten()[:1].expand(value.numel()))
            if not changed:
                torch.testing.assert_close(part[name], value, rtol=0, atol=0)
            elif value.ndim > 1 or not ties:
                assert not torch.equal(part[name], value)
                torch.testing.assert_close(part[name], new[name], rtol=0, atol=0)
            if name.endswith("conv1.weight") or name.endswith("expand.weight"):
                assert not torch.equal(new[name], value)
                assert new[name].std() == pytest.approx(float(value.std()), rel=0.15)
            if value.ndim == 1 and "running" not in name:
                torch.testing.assert_close(new[name].sort()[0], value.sort()[0])
    weights = [each.modules_[0].network.conv1.weight for each in (all_, randomised(fitted, seed=3))]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    members = [module.network.conv1.weight for module in all_.modules_]
    assert not torch.equal(*members)


def test_similarity_is_scipys():
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 50)), rng.integers(0, 5, (2, 50))
    own = [stats.spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert similarity(one[0], other[0]) == pytest.approx(abs(own[0]))
    assert similarity(one, other) == pytest.approx(np.abs(own).mean())
    assert similarity(one[0], -one[0]) == pytest.approx(1)
    assert np.isnan(similarity(one[0], np.ones(50)))
    parcels = np.repeat(np.arange(10), 5)
    table = agreement({"a": one, "b": other, "c": -one}, parcels=parcels)
    assert table[["first", "second"]].values.tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    np.testing.assert_allclose(table["over_voxels"], [np.mean(own), -1, -np.mean(own)])
    regions = [
        np.array([[row[parcels == each].mean() for each in range(1, 10)] for row in stack])
        for stack in (one, other)
    ]
    expected = np.mean([stats.spearmanr(*pair).statistic for pair in zip(*regions, strict=True)])
    assert table["over_regions"][0] == pytest.approx(expected)
    assert (table["n_voxels"][0], table["n_regions"][0]) == (50, 9)
    assert agreement({"a": one, "b": other})["over_regions"].isna().all()


def test_mass_outside_and_at_the_edge_is_counted():
    volume = np.ones(SHAPE, dtype=bool)
    even = np.ones(volume.sum()) * np.where(np.arange(volume.sum()) % 2, 1, -1)
    outside = check_outside(even, mask=volume, brain=BRAIN)
    assert outside.value == pytest.approx(1)
    assert outside.details["voxels"] == pytest.approx(1 - BRAIN.mean())
    assert check_outside(BRAIN.ravel() * 1.0, mask=volume, brain=BRAIN).value == 0
    assert not check_outside(even * np.where(BRAIN, 1, 2).ravel(), mask=volume, brain=BRAIN).passed
    edge = check_edge(even, mask=volume)
    assert edge.value == pytest.approx(1)
    assert edge.details["voxels"] == pytest.approx(1 - 6 * 6 * 4 / volume.sum())
    assert edge.details["low i"] == pytest.approx(1)
    plane = np.full(SHAPE, 0.1)
    plane[0] = 5  # S1's "plane at low i"
    found = check_edge(plane.ravel(), mask=volume)
    assert not found.passed
    assert "at low i it is" in found.sentence
    assert found.details["low i"] > 5
    for axis, letter in enumerate("ijk"):
        turned = np.moveaxis(plane[::-1], 0, axis)
        high = check_edge(turned.ravel(), mask=np.ones(turned.shape, dtype=bool)).details
        assert max(high, key=high.get) == f"high {letter}"
        assert high[f"high {letter}"] > 5 > 2 > high[f"low {letter}"]
    inside = check_edge(PLANTED * 1.0, mask=BRAIN)
    assert (inside.value, inside.passed) == (0, True)
    two = check_edge(np.stack([plane.ravel(), plane.ravel()]), mask=volume)
    assert two.value == pytest.approx(found.value)


def test_sides_follow_the_brain():
    """Of a ball each side is a half shell: nothing of the mask lies beyond its voxels."""
    ball = np.linalg.norm(np.indices((9, 9, 9)) - 4, axis=0) < 3.5
    low = np.zeros(ball.shape)
    low[np.argmax(ball, axis=0)[ball.any(0)], *np.nonzero(ball.any(0))] = 1
    found = check_edge(low[ball], mask=ball)
    assert found.details["low i"] == pytest.approx(ball.sum() / ball.any(0).sum())
    assert found.details["low i"] == max(
        value for name, value in found.details.items() if name.startswith(("low", "high"))
    )


def test_a_map_that_hangs_on_the_fill_fails():
    rng = np.random.default_rng(0)
    base = rng.standard_normal(300)
    near = {f"fill {n}": base + 0.3 * rng.standard_normal(300) for n in range(3)}
    good = check_settings(near)
    assert good.passed
    assert good.value > 0.85
    bad = check_settings({**near, "zero, 8 voxels": rng.standard_normal(300)})
    assert not bad.passed
    assert "zero, 8 voxels" in bad.sentence
    assert len(bad.details) == 6


def test_what_cannot_be_checked_is_refused():
    X, y = _data(n_blocks=10)
    fit, explain = _fit_linear(X), _pattern_of(X)
    decoder, some = fit(y), np.arange(6.0)
    flat = (lambda fitted: np.ones(5), decoder)
    cases = [
        (lambda: check_labels(explain, fit, y, _permuted(y, 5)), "5 permuted labellings"),
        (lambda: check_labels(explain, fit, y, [y] * 19), "equal the labels"),
        (lambda: check_labels(explain, fit, y, [y[1:]] * 19), "of the same shape"),
        (lambda: check_weights(*flat), "a map that is constant"),
        (lambda: check_weights(explain, decoder, n_draws=0), "0 draws"),
        (lambda: randomised(DummyClassifier().fit(X, y), seed=0), "without weights"),
        (lambda: similarity(some, some[1:]), "maps of shapes (6,), (5,)"),
        (lambda: similarity(some, some * np.nan), "6 values not finite"),
        (lambda: agreement({"a": some}), "1 maps"),
        (lambda: agreement({"a": some, "b": some}, parcels=some), "regions of type float64"),
        (lambda: check_settings({"a": some, "b": np.ones(6)}), "constant"),
        (lambda: check_edge(some, mask=BRAIN), "a map of 6 voxels"),
        (lambda: check_edge(np.zeros(144), mask=BRAIN), "0 values not 0"),
        (lambda: check_outside(PLANTED * 1.0, mask=BRAIN, brain=BRAIN[1:]), "a brain mask of"),
        (lambda: check_outside(PLANTED * 1.0, mask=BRAIN, brain=~BRAIN), "a brain mask of"),
    ]
    for call, words in cases:
        with pytest.raises(InputError) as refused:
            call()
        assert words in str(refused.value)
        assert "what to do" in str(refused.value)
    assert SanityReport(()).sentence == "This map has not been checked."
    assert not SanityReport(()).passed

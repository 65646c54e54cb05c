"""Integrated gradients, Grad-CAM and deletion curves: closed forms, completeness, planted truth."""

import sys

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from torch import nn

from emodecode.errors import InputError
from emodecode.explain.gradients import grad_cam, integrated_gradients, logit_change
from emodecode.explain.perturb import (
    by_importance,
    compare_with_random,
    deletion_curve,
    insertion_curve,
)
from emodecode.explain.places import centres, spreads
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TopVoxels
from emodecode.models.net import NetClassifier
from emodecode.models.separable3d import Separable3D
from emodecode.models.unmask import Unmask
from emodecode.models.volumenet import VolumeNetClassifier

pytestmark = pytest.mark.usefixtures("one_thread")

PLANTED = [3, 8, 15, 22, 31, 38]


def _mask():
    mask = np.zeros((6, 7, 5), dtype=bool)
    mask[1:5, 1:6, 1:4] = True
    return mask


def _volumes(n=24, seed=0):
    rng = np.random.default_rng(seed)
    X = 10 + 2 * rng.standard_normal((n, int(_mask().sum()))).astype(np.float32)
    return X, np.array(["anger", "fear", "joy"])[np.arange(n) % 3]


def _fitted(**more):
    X, y = _volumes()
    given = {"network": "separable3d", "max_epochs": 1, "device": "cpu", "mask": _mask()}
    return VolumeNetClassifier(**given | more).fit(X, y, subjects=np.repeat(list("abcdef"), 4))


def _with_network(make, **more):
    """A classifier whose members are given networks, in float64."""
    fitted = _fitted(**more)
    for number, module in enumerate(fitted.modules_):
        torch.manual_seed(number)
        module.network = make().double().eval()
    return fitted


def _awake(fitted):
    """Set the statistics of batch normalisation, which a few steps leave far off."""
    X, _ = _volumes()
    for module in fitted.modules_:
        norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm3d)]
        for norm in norms:
            norm.momentum = 1.0
        windows = torch.from_numpy(X)
        if fitted.window is not None:
            windows = windows.unflatten(0, (-1, fitted.window))
        with torch.no_grad():
            module.train()(windows)
        module.eval()
    return fitted


def _linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(6 * 7 * 5, 3))


def _standard(fitted, X):
    unmask = fitted.modules_[0]
    volumes = unmask.to_volumes(torch.from_numpy(X).double())
    return volumes.flatten(1)[:, unmask.inside].numpy()


@pytest.mark.parametrize("normalise", [None, "voxel", "volume"])
def test_of_a_linear_network_they_are_weight_times_value(normalise):
    fitted = _with_network(_linear, normalise=normalise, n_members=2)
    X, y = _volumes(5, seed=1)
    codes = np.searchsorted(fitted.classes_, y)
    weights = [m.network[1].weight.detach().numpy()[codes] for m in fitted.modules_]
    z = _standard(fitted, X)
    inside = np.flatnonzero(_mask())
    expected = np.mean([w[:, inside] * z for w in weights], axis=0)
    found = integrated_gradients(fitted, X, target=y, n_steps=3, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    base = np.full(len(inside), 0.5)
    found = integrated_gradients(fitted, X, target=y, baseline=base)
    expected = np.mean([w[:, inside] * (z - 0.5) for w in weights], axis=0)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    own = integrated_gradients(fitted, X, target=y, baseline=np.tile(base, (5, 1)))
    np.testing.assert_array_equal(own, found)


class _Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.form = nn.Parameter(torch.randn(2, 12, 12) / 12)

    def forward(self, x):
        return torch.einsum("bi,cij,bj->bc", x, self.form, x)


def test_of_a_quadratic_network_they_are_known():
    """IG_i of x'Ax from 0 is x_i ((A + A')x)_i / 2."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 12)).astype(np.float32), np.tile(["a", "b"], 15)
    fitted = NetClassifier(network="hanson_mlp", max_epochs=1).fit(X, y)
    torch.manual_seed(0)
    fitted.modules_ = [_Quadratic().double()]
    form = fitted.modules_[0].form.detach().numpy()[1]
    found = integrated_gradients(fitted, X, target="b", n_steps=2)
    np.testing.assert_allclose(found, X * (X @ (form + form.T)) / 2, atol=1e-5)


@pytest.mark.parametrize(("network", "n_steps"), [("separable3d", 800), ("small3d", 3)])
def test_they_add_up_to_the_change_of_the_logit(network, n_steps):
    fitted = _awake(_fitted(network=network, max_epochs=3))
    X = _volumes(3, seed=2)[0][2:]
    unmask = fitted.modules_[0]
    for module in fitted.modules_:
        module.double()
    found = integrated_gradients(fitted, X, target="joy", n_steps=n_steps, batch_size=64)
    with torch.no_grad():
        top = unmask(torch.from_numpy(X).double())[:, 2]
        none = unmask.network(torch.zeros(1, 1, 6, 7, 5, dtype=torch.float64))[:, 2]
    expected = (top - none).numpy()
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(logit_change(fitted, X, target="joy"), expected, rtol=1e-6)
    assert np.abs(found.sum(1) - expected).max() < 0.02 * np.abs(expected).max()


def test_a_window_explains_its_newest_volume():
    fitted = _awake(_with_moments())
    X, _ = _volumes(6, seed=3)
    moments = np.stack([np.zeros(6, int), np.arange(6)], 1)
    found = integrated_gradients(fitted, X, target="joy", moments=moments, n_steps=100)
    alone = integrated_gradients(fitted, X, target="joy", n_steps=100)
    np.testing.assert_allclose(found[0], alone[0], atol=1e-6)  # nothing before the first
    assert np.abs(found[1:] - alone[1:]).max() > 1e-5
    unmask = fitted.modules_[0]
    with torch.no_grad():
        window = torch.from_numpy(X[[3, 4]])[None]
        base = window.clone()
        base[:, -1] = torch.from_numpy(fitted.mean_)
        expected = float((unmask(window) - unmask(base))[0, 2])
    own = logit_change(fitted, X, target="joy", moments=moments)
    assert own[4] == pytest.approx(expected, rel=1e-3)
    assert found[4].sum() == pytest.approx(expected, rel=0.02)
    assert grad_cam(fitted, X, target="joy", moments=moments, relu=False).shape == X.shape


def _with_moments():
    X, y = _volumes()
    net = VolumeNetClassifier(
        network="separable3d", window=2, max_epochs=2, device="cpu", mask=_mask()
    )
    moments = np.stack([np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)], 1)
    return net.fit(X, y, subjects=np.repeat(list("abcdef"), 4), moments=moments)


def test_of_a_plain_network_grad_cam_is_the_published_formula():
    def make():
        pool = nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
        return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), pool)

    fitted = _with_network(make, normalise="voxel", n_members=2)
    X, _ = _volumes(4, seed=4)
    maps = []
    for module in fitted.modules_:
        convolve, head = module.network
        volumes = module.to_volumes(torch.from_numpy(X).double())
        weights = head[2].weight[1] / volumes[0].numel()  # d(logit)/dA, the same at every place
        maps.append(torch.einsum("k,nkxyz->nxyz", weights, convolve(volumes)).detach().numpy())
    for relu, expected in (
        (False, np.mean(maps, 0)),
        (True, np.mean([np.maximum(each, 0) for each in maps], 0)),
    ):
        found = grad_cam(fitted, X, target="fear", layer="0", relu=relu)
        np.testing.assert_allclose(found, expected[:, _mask()], atol=1e-8)
    np.testing.assert_array_equal(grad_cam(fitted, X, target="fear"), found)  # layer found


def test_places_lie_where_they_look():
    """S1's last maps: place i is centred on voxel 16 i, 7.5 voxels from a plain up-sampling."""
    torch.manual_seed(0)
    shape = (48, 34, 35)
    unmask = Unmask(Separable3D(n_classes=2).eval(), np.ones(shape, dtype=bool))
    for spread in spreads(unmask, unmask.network.ds4, None):
        n = spread.shape[1]
        np.testing.assert_array_equal(spread[16 * np.arange(n)], np.eye(n))
        np.testing.assert_allclose(spread[8], [0.5, 0.5, *[0] * (n - 2)])
    even = centres(12, 3, first=(0, 11), second=(0, 11), last=(0, 11), before=(0, 11))
    np.testing.assert_allclose(even, [1.5, 5.5, 9.5])
    one = centres(9, 3, first=(0, 1), second=(2, 4), last=(5, 7), before=(2, 4))
    np.testing.assert_allclose(one, [0, 3, 6])


def test_grad_cam_finds_the_last_maps_of_a_residual_network():
    X, y = _volumes()
    mask = np.zeros((33, 17, 17), dtype=bool)
    mask[14:18, 6:11, 6:9] = True
    fitted = VolumeNetClassifier(
        network="resnet3d", depth=18, max_epochs=1, device="cpu", mask=mask
    ).fit(X, y)
    found = grad_cam(fitted, X[:2], target="joy", relu=False)
    assert found.shape == (2, 60)
    assert np.isfinite(found).all()
    assert np.ptp(found) > 0


def _planted(n=240, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(["calm", "fear"], n // 2))
    X = rng.standard_normal((n, 40)).astype(np.float32)
    X[:, PLANTED] += 0.8 * (y == "fear")[:, None]
    return X, y


def _decoder(X, y, seed=0):
    steps = [
        ("select", TopVoxels(30)),
        ("scale", VoxelScaler()),
        ("net", NetClassifier(max_epochs=40, patience=None, random_state=seed)),
    ]
    return Pipeline(steps).fit(X, y)


def test_a_network_with_planted_voxels_is_understood():
    X, y = _planted()
    fresh, truth = _planted(seed=1)
    decoder = _decoder(X, y)
    codes = np.searchsorted(decoder.classes_, truth)
    fear = integrated_gradients(decoder, fresh, target="fear")
    unused = np.setdiff1d(np.arange(40), decoder["select"].indices_)
    assert not fear[:, unused].any()
    values = fear[truth == "fear"].mean(0) - fear[truth == "calm"].mean(0)
    assert set(by_importance(values)[:6]) == set(PLANTED)
    mean = X.mean(0)
    good = compare_with_random(
        decoder.predict_proba, fresh, by_importance(values), target=codes, fill=mean, n_random=19
    )
    assert good.p == 0.05
    assert good.curve.area < good.random_areas.min() - 0.01
    assert good.inverted.area > good.random_areas.max()
    assert good.gain > 0.02
    back = compare_with_random(
        *(decoder.predict_proba, fresh, by_importance(values)),
        **{"target": codes, "fill": mean, "n_random": 19, "kind": "insertion"},
    )
    assert back.p == 0.05
    assert back.gain > 0.02
    assert "inverted" in back.sentence


def test_a_network_with_shuffled_labels_names_nothing():
    X, y = _planted()
    fresh, truth = _planted(seed=1)
    decoder = _decoder(X, np.random.default_rng(5).permutation(y))
    fear = integrated_gradients(decoder, fresh, target="fear")
    values = fear[truth == "fear"].mean(0) - fear[truth == "calm"].mean(0)
    found = compare_with_random(
        *(decoder.predict_proba, fresh, by_importance(values)),
        **{"target": np.searchsorted(decoder.classes_, truth), "fill": X.mean(0), "n_random": 19},
    )
    assert abs(found.gain) < 0.02
    assert len(set(by_importance(values)[:6]) & set(PLANTED)) < 4


def _logistic(X):
    def predict(values):
        return np.column_stack([1 - values[:, 0], values[:, 0]])

    return predict


def test_a_curve_is_what_its_definition_says():
    """One feature is the probability: it falls at once, rises at once, or last."""
    X = np.ones((3, 4))
    predict, codes = _logistic(X), np.ones(3, dtype=int)
    first, last = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 0])
    given = {"target": codes, "fill": 0.0, "steps": 4, "batch_size": 2}
    found = deletion_curve(predict, X, first, **given)
    np.testing.assert_array_equal(found.share, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.probability, [1, 0, 0, 0, 0])
    assert found.area == 0.125
    assert deletion_curve(predict, X, last, **given).area == 0.875
    assert insertion_curve(predict, X, first, **given).area == 0.875
    own = deletion_curve(predict, X, np.stack([first, last, last]), **given)
    assert own.area == pytest.approx((0.125 + 2 * 0.875) / 3)
    fills = np.stack([np.zeros(4), np.ones(4), np.ones(4)])
    kept = deletion_curve(predict, X, first, **given | {"fill": fills})
    assert kept.area == pytest.approx((0.125 + 2) / 3)
    mean = deletion_curve(predict, np.array([[0.0] * 4, [1.0] * 4]), first, target=1, steps=1)
    np.testing.assert_allclose(mean.probability, [0.5, 0.5])


def test_of_random_orders_five_per_cent_are_better():
    rng = np.random.default_rng(0)
    X = rng.random((4, 30))
    weights = rng.random(30) / 30
    ps = [
        compare_with_random(
            *(lambda v: np.column_stack([1 - v @ weights, v @ weights]), X, rng.permutation(30)),
            **{"target": 1, "fill": 0.0, "steps": 6, "n_random": 19, "seed": seed},
        ).p
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(ps) <= 0.05) <= 0.095
    assert np.mean(ps) == pytest.approx(0.525, abs=0.07)


def test_captum_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    fitted = _fitted()
    for explain in (integrated_gradients, grad_cam):
        with pytest.raises(InputError, match=r"pip install 'emodecode\[explain\]'"):
            explain(fitted, _volumes(2)[0], target="joy")


def test_what_cannot_be_explained_is_refused():
    X, y = _volumes()
    fitted = _fitted()
    net = NetClassifier(network="hanson_mlp", max_epochs=1).fit(X, y)
    mixed = Pipeline([("pca", PCA(5)), ("net", NetClassifier(network="hanson_mlp", max_epochs=1))])
    cases = [
        (integrated_gradients, LogisticRegression(), {}, "no fitted network"),
        (integrated_gradients, NetClassifier(), {}, "no fitted network"),
        (integrated_gradients, mixed.fit(X, y), {}, "mixes columns"),
        (integrated_gradients, fitted, {"target": "disgust"}, "unknown class 'disgust'"),
        (integrated_gradients, fitted, {"target": ["joy", "joy"]}, "for 24 samples"),
        (integrated_gradients, fitted, {"baseline": np.zeros(3)}, "shape (3,)"),
        (integrated_gradients, fitted, {"baseline": np.nan}, "not finite"),
        (integrated_gradients, fitted, {"n_steps": 0}, "1 step or more"),
        (grad_cam, net, {}, "network on vectors"),
        (grad_cam, fitted, {"layer": "ds9"}, "no layer 'ds9'"),
        (grad_cam, fitted, {"layer": "fc"}, "no maps of places"),
        (grad_cam, _fitted(network="small3d"), {}, "no maps of places"),
    ]
    for explain, decoder, more, words in cases:
        with pytest.raises(InputError) as refused:
            explain(decoder, X, **{"target": "joy"} | more)
        assert words in str(refused.value)
        assert "what to do" in str(refused.value)
    with pytest.raises(InputError, match="as in training"):
        integrated_gradients(fitted, X[:, :5], target="joy")


def test_bad_curves_are_refused():
    X, order = np.ones((3, 4)), np.arange(4)
    predict = _logistic(X)
    cases = [
        ({"order": [0, 1, 2, 2]}, "no permutation"),
        ({"order": [0, 1]}, "no permutation"),
        ({"target": 0.5}, "a target of type float64"),
        ({"target": np.array([0, 1])}, "shape (2,)"),
        ({"target": 2}, "for class 2"),
        ({"fill": np.zeros(3)}, "a fill of shape (3,)"),
        ({"steps": 0}, "0 steps"),
        ({"kind": "removal"}, "kind = 'removal'"),
        ({"n_random": 0}, "n_random = 0"),
    ]
    for more, words in cases:
        given = {"order": order, "target": 1, "n_random": 2} | more
        with pytest.raises(InputError) as refused:
            compare_with_random(predict, X, given.pop("order"), **given)
        assert words in str(refused.value)

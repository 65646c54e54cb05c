"""RDMs of layers against those of the layers' activations computed at once, and planted classes."""

import numpy as np
import pytest
import torch
from torch import nn

import small_decoder as small
from emodecode.errors import InputError
from emodecode.explain.layers import layer_rdms
from emodecode.explain.rdm import layer_rdm
from emodecode.models.networks3d import build_network3d
from emodecode.models.rows import Rows
from emodecode.models.unmask import Unmask
from emodecode.models.volumenet import VolumeNetClassifier

N = int(small.INSIDE.sum())


def _classifier(network, *, n_members=1, window=None):
    """A classifier with random weights, as if it were fitted."""
    found = VolumeNetClassifier(network=network, mask=small.INSIDE, device="cpu", window=window)
    found.classes_, found.n_features_in_ = np.array(small.CLASSES), N
    found.modules_ = []
    for seed in range(n_members):
        torch.manual_seed(seed)
        network3d = build_network3d(network, shape=small.SHAPE, n_classes=3, window=window)
        found.modules_.append(Unmask(network3d, small.INSIDE).eval())
    return found


def _volumes(module):
    with torch.inference_mode():
        return module.to_volumes(torch.from_numpy(small.X))


@pytest.mark.parametrize("zscore", [True, False])
def test_layers_of_s1s_network_are_its_blocks_and_features(zscore):
    classifier = _classifier("separable3d")
    found = layer_rdms(classifier, small.X, small.Y, zscore=zscore)
    assert list(found) == ["block 1", "block 2", "block 3", "block 4", "features (256)"]
    network = classifier.modules_[0].network
    volumes = _volumes(classifier.modules_[0])
    with torch.inference_mode():
        stem = nn.functional.relu6(network.bn1(network.conv1(volumes)))
        first = network.ds1(stem)
        features = network.features(volumes)
    for name, values in (("block 1", first), ("features (256)", features)):
        expected = layer_rdm(values.numpy(), small.Y, zscore=zscore)
        np.testing.assert_allclose(found[name], expected, atol=1e-4)


def test_layers_of_the_small_network():
    classifier = _classifier("small3d")
    found = layer_rdms(classifier, small.X, small.Y)
    network, volumes = classifier.modules_[0].network, _volumes(classifier.modules_[0])
    with torch.inference_mode():
        filters, features = network.filters(volumes).numpy(), network.features(volumes).numpy()
    assert list(found) == ["filters", f"features ({features.shape[1]})"]
    for rdm, values in zip(found.values(), (filters, features), strict=True):
        np.testing.assert_allclose(rdm, layer_rdm(values, small.Y, zscore=True), atol=1e-5)


def test_batches_rows_and_members_make_no_difference():
    one, two = (_classifier("small3d", n_members=n) for n in (1, 2))
    whole = layer_rdms(one, small.X, small.Y, batch_size=100)
    by_one = layer_rdms(one, small.X, small.Y, batch_size=1)
    rows = layer_rdms(one, Rows(small.X, np.arange(len(small.X))), small.Y)
    for name, rdm in whole.items():
        np.testing.assert_allclose(by_one[name], rdm, atol=1e-5)
        np.testing.assert_allclose(rows[name], rdm, atol=1e-5)
    other = _classifier("small3d")
    other.modules_ = two.modules_[1:]
    second, both = (layer_rdms(each, small.X, small.Y) for each in (other, two))
    for name, rdm in both.items():
        np.testing.assert_allclose(rdm, (whole[name] + second[name]) / 2, atol=1e-5)


def test_a_window_of_one_reads_the_same_blocks():
    found = layer_rdms(_classifier("separable3d", window=1), small.X, small.Y)
    assert list(found) == ["block 1", "block 2", "block 3", "block 4", "features (64)"]
    longer = layer_rdms(_classifier("separable3d", window=3), small.X, small.Y)
    assert list(longer) == list(found)
    # the encoder sees the newest volume by itself, whatever the window
    np.testing.assert_allclose(longer["block 4"], found["block 4"], atol=1e-4)


def test_pipelines_of_one_dimensional_networks():
    fitted = small.fit("conv1d", {"n_members": 1})
    found = layer_rdms(fitted, small.X, small.Y)
    network = fitted[-1].modules_[0]
    with torch.inference_mode():
        given = torch.from_numpy(np.asarray(fitted[:-1].transform(small.X), dtype=np.float32))
        filters = network.filters(network.standardise(given)[:, None]).numpy()
    np.testing.assert_allclose(
        found["filters"], layer_rdm(filters, small.Y, zscore=True), atol=1e-4
    )
    assert list(found)[-1].startswith("features (")
    assert list(layer_rdms(small.fit("hanson_mlp"), small.X, small.Y)) == [f"features ({10 * N})"]


def test_planted_places_of_the_classes_are_found():
    """Two of three classes look alike to the voxels, so to random filters too."""
    rng = np.random.default_rng(0)
    patterns = rng.standard_normal((2, N))
    X = 0.3 * rng.standard_normal((len(small.Y), N)) + patterns[(small.Y == "joy").astype(int)]
    found = layer_rdms(_classifier("small3d"), X.astype(np.float32), small.Y)
    for rdm in found.values():
        assert rdm[0, 1] < 0.8 * min(rdm[0, 2], rdm[1, 2])


def test_only_the_layers_that_are_asked_for():
    classifier = _classifier("separable3d")
    found = layer_rdms(classifier, small.X, small.Y, layers=["block 4"])
    assert list(found) == ["block 4"]
    with pytest.raises(InputError, match="block 1, block 2"):
        layer_rdms(classifier, small.X, small.Y, layers=["block 7"])


def test_decoders_without_layers_and_dead_layers_have_no_rdm():
    assert layer_rdms(small.fit("lda"), small.X, small.Y) == {}
    classifier = _classifier("small3d")
    nn.init.zeros_(classifier.modules_[0].network.filters.weight)
    assert layer_rdms(classifier, small.X, small.Y) == {}


def test_the_network_is_left_as_it_was():
    classifier = _classifier("separable3d")
    module = classifier.modules_[0].train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    layer_rdms(classifier, small.X, small.Y)
    assert module.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)

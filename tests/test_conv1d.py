"""Networks on vectors: sizes as published, six convolutions as one, products of filters."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from emodecode.candidates import MONAI
from emodecode.candidates import NETWORKS as NAMED
from emodecode.errors import InputError
from emodecode.models.conv1d import (
    NETWORKS,
    CollapsedConv1d,
    HansonMlp,
    PairConv1d,
    S2Conv1d,
    compose,
)
from emodecode.models.networks import NETWORK_KINDS, VOLUME_KINDS


def _count(module):
    return sum(part.numel() for part in module.parameters())


def _s2(n_features=60, *, seed=0, composed=True, dtype=torch.float64):
    """Return S2's network with biases that are not zero, so that they count."""
    torch.manual_seed(seed)
    network = S2Conv1d(n_features, composed=composed).to(dtype)
    with torch.no_grad():
        for name, part in network.named_parameters():
            if name.endswith("bias"):
                part.uniform_(-0.5, 0.5)
    return network


def _vectors(n, n_features=60, *, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_features, generator=generator, dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "expected"), [(S2Conv1d, 17_316_195), (HansonMlp, 9_023), (PairConv1d, 6_159)]
)
def test_number_of_parameters(kind, expected):
    assert _count(kind(300, 3)) == expected


def test_s2_is_built_as_published():
    network = S2Conv1d(300, 3)
    assert [each.out_channels for each in network.convolutions] == [128, 128, 128, 64, 64, 64]
    sizes = [each.in_features for each in network.dense]
    assert sizes == [15_744, 1024, 512, 256, 128, 64, 32, 16]
    for layer in (*network.convolutions, *network.dense):
        fan_in, fan_out = layer.weight[0].numel(), layer.weight.numel() // layer.weight.shape[1]
        limit = np.sqrt(6 / (fan_in + fan_out))  # Glorot uniform
        assert 0.9 * limit < layer.weight.abs().max() <= limit
        assert not layer.bias.any()


def test_six_convolutions_are_one_of_width_55():
    network = _s2()
    kernel, bias = compose(network.convolutions)
    assert kernel.shape == (64, 1, 55)
    x = _vectors(3)[:, None]
    expected = x
    for layer in network.convolutions:
        expected = layer(expected)
    found = nn.functional.conv1d(x, kernel, bias)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_any_linear_convolutions_are_composed(seed):
    rng = np.random.default_rng(seed)
    channels = rng.integers(1, 6, size=5)
    widths = rng.integers(1, 8, size=4)
    torch.manual_seed(seed)
    layers = nn.Sequential(
        *(nn.Conv1d(*map(int, each)) for each in zip(channels, channels[1:], widths, strict=False))
    ).double()
    kernel, bias = compose(layers)
    assert kernel.shape == (channels[-1], channels[0], (widths - 1).sum() + 1)
    x = torch.randn(3, int(channels[0]), 40, dtype=torch.float64)
    found = nn.functional.conv1d(x, kernel, bias)
    torch.testing.assert_close(found, layers(x), rtol=0, atol=1e-12)


def test_convolutions_without_activation_are_linear():
    network = _s2(composed=False)
    a, b, zero = _vectors(4)[:, None], _vectors(4, seed=2)[:, None], torch.zeros(4, 1, 60).double()
    f = network._convolve
    torch.testing.assert_close(f(a + b) - f(zero), f(a) + f(b) - 2 * f(zero), rtol=0, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
def test_composed_training_equals_layer_by_layer(training):
    """Outputs and the gradients of all parameters, with the same dropout."""
    composed = _s2().train(training)
    literal = copy.deepcopy(composed)
    literal.composed = False
    x, y = _vectors(5), torch.tensor([0, 1, 2, 1, 0])
    outputs, gradients = [], []
    for network in (composed, literal):
        torch.manual_seed(3)
        outputs.append(network(x))
        nn.functional.cross_entropy(outputs[-1], y).backward()
        gradients.append({name: part.grad for name, part in network.named_parameters()})
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    assert len(gradients[0]) == 28
    for name, gradient in gradients[1].items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("n_features", "dtype", "atol"),
    [(70, torch.float64, 1e-10), (70, torch.float32, 1e-5), (300, torch.float32, 1e-4)],
)
def test_collapsed_network_predicts_the_same(n_features, dtype, atol):
    network = _s2(n_features, composed=False, dtype=dtype).eval()
    collapsed = network.collapse()
    assert isinstance(collapsed, CollapsedConv1d)
    assert collapsed.first.weight.shape == (1024, n_features)
    x = _vectors(7, n_features, dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(collapsed(x), network(x), rtol=0, atol=atol)


def test_too_short_vectors_are_refused():
    assert S2Conv1d(55)(torch.zeros(1, 55)).shape == (1, 3)
    with pytest.raises(InputError, match="at least 55"):
        S2Conv1d(54)


def test_hanson_network_by_hand():
    torch.manual_seed(0)
    network, x = HansonMlp(8, 3), _vectors(4, 8, dtype=torch.float32)
    weight, bias, out, shift = (part.detach().numpy() for part in network.parameters())
    expected = [
        np.tanh(row[:, None] * weight[:, 0] + bias).ravel() @ out.T + shift for row in x.numpy()
    ]
    np.testing.assert_allclose(network(x).detach().numpy(), expected, atol=1e-6)


def _pairs(n_features=6, n_filters=4):
    torch.manual_seed(0)
    network = PairConv1d(n_features, 3, n_filters=n_filters).double()
    with torch.no_grad():
        for part in (*network.output.parameters(), network.linear.weight):
            part.normal_()
    for each in range(20):
        network(_vectors(16, n_features, seed=each))
    return network.eval()


def test_pair_network_by_hand():
    network, x = _pairs(), _vectors(5, 6).numpy()
    mean, variance = (part.numpy() for part in network.standardise.buffers() if part.ndim)
    z = (x - mean) / np.sqrt(variance + network.standardise.eps)
    filters = network.filters.weight.detach().numpy()[:, 0]
    centre, spread = (part.numpy() for part in network.normalise.buffers() if part.ndim)
    h = (z @ filters.T - centre) / np.sqrt(spread + network.normalise.eps)
    pairs = [h[:, i] * h[:, j] / np.sqrt(2) for i in range(4) for j in range(i, 4)]
    features = np.column_stack([h, *pairs])
    expected = features @ network.output.weight.detach().numpy().T
    expected += network.output.bias.detach().numpy() + z @ network.linear.weight.detach().numpy().T
    with torch.no_grad():
        np.testing.assert_allclose(network(torch.from_numpy(x)).numpy(), expected, atol=1e-10)


def test_order_of_the_voxels_means_nothing():
    """Unlike S2's, whose convolutions see neighbours."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(60))
    x = _vectors(5, 60)
    ours, s2 = _pairs(60), _s2().eval()
    moved = copy.deepcopy(ours)
    with torch.no_grad():
        expected = ours(x)
        moved.filters.weight.copy_(ours.filters.weight[..., order])
        moved.linear.weight.copy_(ours.linear.weight[:, order])
        for name in ("running_mean", "running_var"):
            getattr(moved.standardise, name).copy_(getattr(ours.standardise, name)[order])
        torch.testing.assert_close(moved(x[:, order]), expected, rtol=0, atol=1e-10)
        assert not torch.allclose(ours(x[:, order]), expected, atol=0.1)
        assert not torch.allclose(s2(x[:, order]), s2(x), atol=1e-3)


def test_noise_and_dropout_are_for_training_only():
    network, x = _pairs(), _vectors(5, 6)
    with torch.no_grad():
        assert torch.equal(network(x), network(x))
        network.train()
        assert not torch.equal(network(x), network(x))


def test_names_of_the_networks_agree():
    assert set(NETWORKS) == set(NETWORK_KINDS)
    assert set(NETWORK_KINDS) | set(VOLUME_KINDS) == set(NAMED)
    assert set(MONAI) <= set(VOLUME_KINDS)


def test_catalogue_does_not_import_torch():
    code = (
        "import sys\n"
        "from emodecode.models.catalogue import KINDS, make_grid\n"
        "assert 'conv1d' in KINDS\n"
        "print(sorted({'torch', 'skorch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

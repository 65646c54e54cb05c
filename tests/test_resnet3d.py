"""Residual networks and EfficientNets: layers counted by hand, S2's Keras network beside them."""

import math
import re
import sys

import pytest
import torch

from emodecode.errors import DataMissingError, InputError
from emodecode.models.cost import measure_cost
from emodecode.models.networks3d import (
    NETWORKS3D,
    available3d,
    build_network3d,
    encoder3d,
    options3d,
)
from emodecode.models.resnet3d import DEPTHS, PadTo, efficientnet3d, resnet3d
from emodecode.models.windowed3d import Windowed3D

VOLUME = (64, 64, 44)
BOTTLENECKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


def _half(shape):
    return tuple(math.ceil(n / 2) for n in shape)


def _by_hand(depth, n_classes, *, form):
    """Trained parameters, moving statistics and multiply-adds of one 64 x 64 x 44 volume.

    ``form`` is "monai" (normalised after each convolution, stride in the 3x3x3, biases in short
    cuts only) or "keras" (before each convolution, stride in a block's first, biases everywhere).
    """
    weights = moving = products = 0

    def convolve(n_in, n_out, width, shape, *, bias):
        nonlocal weights, products
        weights += n_in * n_out * width**3 + n_out * bias
        products += n_in * n_out * width**3 * math.prod(shape)

    def normalise(channels):
        nonlocal weights, moving
        weights, moving = weights + 2 * channels, moving + 2 * channels

    keras, wide = form == "keras", 4 if depth >= 50 else 1
    shape = _half(VOLUME)
    convolve(1, 64, 7, shape, bias=keras)
    normalise(64)
    shape, n_in = _half(shape), 64
    for stage, n_blocks in enumerate((BOTTLENECKS | BASIC)[depth]):
        width = 64 * 2**stage
        for block in range(n_blocks):
            after = _half(shape) if block == 0 and stage else shape
            layers = [(1, width), (3, width), (1, 4 * width)] if wide == 4 else [(3, width)] * 2
            place = 0 if keras or wide == 1 else 1  # which convolution has the stride
            channels = n_in
            for number, (kernel, n_out) in enumerate(layers):
                if keras and (stage or block or number):
                    normalise(channels)
                at = after if number >= place else shape
                convolve(channels, n_out, kernel, at, bias=keras)
                if not keras:
                    normalise(n_out)
                channels = n_out
            if n_in != channels or after != shape:
                convolve(n_in, channels, 1, after, bias=True)
                if not keras:
                    normalise(channels)
            shape, n_in = after, channels
    if keras:
        normalise(n_in)
    weights, products = weights + (n_in + 1) * n_classes, products + n_in * n_classes
    return weights, moving, products


def test_s2s_keras_network_has_the_published_numbers():
    """The count by hand is right: it gives what S2's own program printed."""
    weights, moving, products = _by_hand(50, 2, form="keras")
    assert (weights, weights + moving) == (46_178_050, 46_223_490)
    assert round(products / 1e9, 2) == 3.55


@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_and_multiply_adds(depth):
    with torch.device("meta"):
        net = resnet3d(depth, n_classes=3)
    cost = measure_cost(net, (1, *VOLUME))
    weights, _, products = _by_hand(depth, 3, form="monai")
    assert cost.n_parameters == cost.n_trainable == weights
    assert cost.multiply_adds == products
    if depth == 50:
        assert round(weights / 1e6, 2) == 46.17
        assert round(products / 1e9, 1) == 3.7


def test_default_stride_of_monai_is_eight_times_the_work():
    from monai.networks.nets import resnet50

    with torch.device("meta"):
        net = resnet50(spatial_dims=3, n_input_channels=1, num_classes=3)
    assert round(measure_cost(net, (1, *VOLUME)).multiply_adds / 1e9, 1) == 28.4


@pytest.mark.parametrize("kind", ["resnet3d", "efficientnet3d"])
@pytest.mark.parametrize("shape", [(16, 20, 9), (40, 33, 32)])
def test_volumes_give_logits_and_gradients(kind, shape):
    torch.manual_seed(0)
    options = {"depth": 18} if kind == "resnet3d" else {}
    net = build_network3d(kind, shape=shape, n_classes=4, **options)
    logits = net(torch.randn(2, 1, *shape))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert not [name for name, part in net.named_parameters() if part.grad is None]


def test_short_axes_are_padded_on_both_sides_and_long_ones_left():
    x = torch.randn(1, 1, 5, 8, 10)
    padded = PadTo(8)(x)
    assert padded.shape == (1, 1, 8, 8, 10)
    assert torch.equal(padded[:, :, 1:6], x)
    assert padded.abs().sum() == x.abs().sum()
    assert PadTo(5)(x) is x


def test_sizes_grow():
    with torch.device("meta"):
        costs = [measure_cost(efficientnet3d(3, size), (1, *VOLUME)) for size in ("b0", "b1", "b2")]
    assert costs[0].n_parameters == 4_692_223
    assert sorted(costs, key=lambda cost: cost.multiply_adds) == costs


# --- by name -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"kind": "resnet"}, "no such 3-D network"),
        ({"kind": "resnet3d", "depth": 51}, "depth = 51"),
        ({"kind": "resnet3d", "dept": 50}, "unknown option 'dept' (did you mean 'depth'?)"),
        ({"kind": "efficientnet3d", "size": "b9"}, "size = 'b9'"),
        ({"kind": "separable3d", "n_classes": 2, "shape": (4, 4)}, "shape (4, 4)"),
        ({"kind": "separable3d", "shape": (4, 0, 4)}, "shape (4, 0, 4)"),
        ({"kind": "separable3d", "window": 2, "window_options": {"heads": 2}}, "'heads'"),
        ({"kind": "separable3d", "window_options": {"how": "gru"}}, "window_options ['how']"),
    ],
)
def test_bad_choices_are_refused(arguments, words):
    with pytest.raises(InputError, match=re.escape(words)):
        build_network3d(**({"shape": (8, 8, 8), "n_classes": 2} | arguments))


def test_options_have_their_defaults():
    assert options3d("separable3d") == {"dropout": 0.3}
    assert options3d("resnet3d") == {"depth": 50}
    assert options3d("efficientnet3d") == {"size": "b0"}


def _cheap(kind):
    return {"depth": 18} if kind == "resnet3d" else {}


@pytest.mark.parametrize("kind", NETWORKS3D)
def test_encoder_is_the_network_without_its_last_layer(kind):
    if kind not in available3d():
        pytest.skip(f"{kind} is not there")
    shape, found = (16, 16, 12), {}
    torch.manual_seed(3)
    net = build_network3d(kind, shape=shape, n_classes=2, **_cheap(kind)).eval()
    torch.manual_seed(3)
    encoder, n_features = encoder3d(kind, shape=shape, **_cheap(kind))
    last = [part for part in net.modules() if isinstance(part, torch.nn.Linear)][-1]
    last.register_forward_hook(lambda part, given, out: found.update(given=given[0]))
    x = torch.randn(3, 1, *shape)
    with torch.no_grad():
        net(x)
        features = encoder.eval()(x)
    assert features.shape == (3, n_features)
    assert torch.equal(features, found["given"])
    assert not set(dict(encoder.named_parameters())) - set(dict(net.named_parameters()))


@pytest.mark.parametrize("kind", NETWORKS3D)
def test_windowed_form_of_every_kind(kind):
    if kind not in available3d():
        pytest.skip(f"{kind} is not there")
    options = {"window": 3, "window_options": {"how": "gru", "width": 8}} | _cheap(kind)
    net = build_network3d(kind, shape=(16, 16, 12), n_classes=2, **options)
    assert isinstance(net, Windowed3D)
    assert net(torch.randn(2, 3, 16, 16, 12)).shape == (2, 2)


def test_penalty_is_on_kernels_only():
    net = build_network3d("separable3d", shape=(8, 8, 8), n_classes=2)
    blocks = [f"ds{n}.{part}" for n in (1, 2, 3, 4) for part in ("expand", "dwconv", "project")]
    assert set(net.penalised) == {f"{name}.weight" for name in ("conv1", "fc", *blocks)}


def test_missing_monai_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(DataMissingError, match="monai is not installed"):
        resnet3d(18)


@pytest.mark.parametrize("shape", [(6, 7, 5), (7, 20, 20)])
def test_gradients_of_small_volumes_are_those_of_padded_ones(shape):
    """Without the padding torch's CPU convolution leaves memory uninitialised there."""

    def gradient(size):
        torch.manual_seed(0)
        network = resnet3d(18, 3).train()
        x = torch.randn(4, 1, *shape, generator=torch.Generator().manual_seed(1))
        widths = [
            width
            for length, wanted in reversed(list(zip(shape, size, strict=True)))
            for width in ((wanted - length) // 2, wanted - length - (wanted - length) // 2)
        ]
        network(torch.nn.functional.pad(x, widths)).square().sum().backward()
        return network.conv1.weight.grad

    found = gradient(shape)
    assert found.isfinite().all()
    torch.testing.assert_close(found, gradient([max(8, length) for length in shape]))
    torch.testing.assert_close(found, gradient(shape))

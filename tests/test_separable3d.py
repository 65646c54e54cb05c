"""S1's network: its definition written down a second time, its published weights, bad files."""

import math

import pytest
import torch
from torch.nn import functional

from emodecode.errors import DataMissingError, InputError
from emodecode.models.cost import measure_cost
from emodecode.models.separable3d import LeanRelu6, Separable3D, load_weights

SHAPES = [(80, 80, 35), (70, 70, 35), (64, 64, 64)]
CHANNELS = [(32, 64), (64, 128), (128, 256), (256, 256)]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def _published(data_dir):
    return data_dir / "s1_published" / "bestmodel.pth"


def _random(n_classes=5):
    """A network with random statistics too, as after training."""
    net = Separable3D(n_classes).eval()
    for name, part in net.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "bn3.weight")):
            part.uniform_(0.5, 2.0)
        elif name.endswith(("running_mean", "bn1.bias", "bn2.bias", "bn3.bias")):
            part.normal_(0.0, 0.5)
    return net


def _logits(state, x):
    """S1's network from its weights alone, in float64; features come back as well."""
    state = {name: value.double() for name, value in state.items()}

    def normalise(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    def mix(x, name):
        return torch.einsum("oi,bixyz->boxyz", state[f"{name}.weight"][..., 0, 0, 0], x)

    def clip(x):
        return x.clamp(0, 6)

    x = clip(normalise(functional.conv3d(x.double(), state["conv1.weight"], padding=1), "bn1"))
    for block in ("ds1", "ds2", "ds3", "ds4"):
        x = clip(normalise(mix(x, f"{block}.expand"), f"{block}.bn1"))
        kernel = state[f"{block}.dwconv.weight"]
        x = functional.conv3d(x, kernel, stride=2, padding=1, groups=len(kernel))
        x = clip(normalise(x, f"{block}.bn2"))
        x = normalise(mix(x, f"{block}.project"), f"{block}.bn3")
    features = x.flatten(2).mean(-1)
    return features @ state["fc.weight"].T + state["fc.bias"], features


# --- the definition ------------------------------------------------------------------------------


def test_parameters_and_multiply_adds_are_s1s():
    net = Separable3D(n_classes=5)
    assert sum(part.numel() for part in net.parameters()) == 424_549
    n_voxels = 64**3
    wanted = n_voxels * 27 * 32
    for number, (n_in, n_out) in enumerate(CHANNELS):
        wide, before = 2 * n_in, n_voxels // 8**number
        wanted += before * n_in * wide + before // 8 * (27 * wide + wide * n_out)
    wanted += 256 * 5
    assert round(wanted / 1e9, 2) == 1.55
    assert measure_cost(net, (1, 64, 64, 64)).multiply_adds == wanted


@pytest.mark.parametrize("shape", [(12, 9, 7), (16, 16, 16), (3, 1, 2)])
def test_random_weights_give_the_logits_of_the_definition(shape):
    net, x = _random(), torch.randn(2, 1, *shape)
    with torch.no_grad():
        logits, features = _logits(net.state_dict(), x)
        net.double()
        torch.testing.assert_close(net(x.double()), logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net.features(x.double()), features, rtol=1e-9, atol=1e-9)


def test_dropout_is_before_the_dense_layer_only():
    net, x = Separable3D(3, dropout=0.5), torch.randn(2, 1, 8, 8, 8)
    assert net.dropout.p == 0.5
    net.train()
    torch.testing.assert_close(net.features(x), net.features(x))
    assert not torch.equal(net(x), net(x))
    net.dropout.eval()
    torch.testing.assert_close(net(x), net(x))


def test_every_weight_is_trained():
    net = Separable3D(3)
    net(torch.randn(4, 1, 8, 8, 8)).square().sum().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_lean_relu6_is_relu6_and_keeps_less():
    x = torch.cat([6 * torch.randn(500), torch.tensor([0.0, -0.0, 6.0])])
    own, torchs = (x.clone().requires_grad_() for _ in range(2))
    slope = torch.randn(len(x))
    ours, theirs = LeanRelu6.apply(own), functional.relu6(torchs)
    assert torch.equal(ours, theirs)
    for result in (ours, theirs):
        (result * slope).sum().backward()
    assert torch.equal(own.grad, torchs.grad)


def test_memory_of_a_training_step_is_that_of_the_layers():
    """Each normalisation keeps its input, each convolution its own, LeanRelu6 nothing more."""
    n_voxels = 16**3
    values = n_voxels * (1 + 32 + 32)  # the volume, behind conv1, behind ReLU6
    for number, (n_in, n_out) in enumerate(CHANNELS):
        before = n_voxels // 8**number
        values += before * 4 * n_in + before // 8 * (4 * n_in + n_out)
        values += before // 8 * n_out * (number < 3)  # BN3's output: what the next block keeps
    kept = measure_cost(Separable3D(5), (1, 16, 16, 16)).saved_bytes / 4
    n_normalised = 32 + sum(4 * n_in + n_out for n_in, n_out in CHANNELS)
    assert kept == values + n_normalised + 2 * 256  # (mean, 1 / sd) of two samples; dropout, dense


# --- the published weights -----------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("shape", SHAPES)
def test_published_weights_give_the_logits_of_the_definition(shape, data_dir):
    net = Separable3D(n_classes=5).eval()
    load_weights(net, _published(data_dir))
    x = torch.randn(1, 1, *shape)
    state = torch.load(_published(data_dir), weights_only=True, map_location="cpu")
    with torch.no_grad():
        logits, features = _logits(state, x)
        torch.testing.assert_close(net(x).double(), logits, rtol=1e-4, atol=1e-4)
        net.double()
        torch.testing.assert_close(net(x.double()), logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net.features(x.double()), features, rtol=1e-9, atol=1e-9)
    assert logits.std() > 0.1


@pytest.mark.data
def test_published_file_is_taken_as_it_is(data_dir):
    net = Separable3D(n_classes=5)
    load_weights(net, _published(data_dir))
    state = torch.load(_published(data_dir), weights_only=True, map_location="cpu")
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(part, state[name]) for name, part in net.state_dict().items())
    assert net.bn1.num_batches_tracked == 49 * math.ceil(4200 / 16)
    with pytest.raises(InputError, match=r"fc\.weight of shape \(5, 256\)"):
        load_weights(Separable3D(n_classes=3), _published(data_dir))


# --- files ---------------------------------------------------------------------------------------


def test_saved_weights_come_back(tmp_path):
    net, other = _random(), _random()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    load_weights(other, tmp_path / "weights.pth")
    assert all(torch.equal(p, net.state_dict()[n]) for n, p in other.state_dict().items())


def _truncated(path, state):
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-2000])


def _text(path, state):
    path.write_text("no weights\n")


def _empty(path, state):
    path.write_bytes(b"")


def _whole_network(path, state):
    torch.save(Separable3D(), path)


def _list_of_numbers(path, state):
    torch.save([1.0, 2.0], path)


def _checkpoint(path, state):
    torch.save({"state_dict": state, "epoch": 3}, path)


def _parallel(path, state):
    torch.save({f"module.{name}": value for name, value in state.items()}, path)


def _one_missing(path, state):
    del state["ds3.bn2.running_var"]
    torch.save(state, path)


def _one_too_many(path, state):
    torch.save({**state, "ds5.expand.weight": torch.zeros(2)}, path)


def _other_shape(path, state):
    torch.save({**state, "ds2.dwconv.weight": torch.zeros(128, 1, 5, 5, 5)}, path)


def _not_finite(path, state):
    state["fc.bias"][1] = torch.nan
    torch.save(state, path)


def _folder(path, state):
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncated, "no readable weights"),
        (_text, "no readable weights"),
        (_empty, "no readable weights"),
        (_folder, "no readable weights"),
        (_whole_network, "no readable weights"),
        (_list_of_numbers, "type list"),
        (_checkpoint, "no table of weights"),
        (_parallel, "no weight 'conv1.weight'"),
        (_one_missing, "no weight 'ds3.bn2.running_var'"),
        (_one_too_many, "unknown weight 'ds5.expand.weight'"),
        (_other_shape, "ds2.dwconv.weight of shape (128, 1, 5, 5, 5)"),
        (_not_finite, "fc.bias has values that are not finite"),
    ],
)
def test_bad_files_are_refused_and_change_nothing(spoil, words, tmp_path):
    path, net = tmp_path / "weights.pth", _random()
    spoil(path, _random().state_dict())
    before = {name: part.clone() for name, part in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        load_weights(net, path)
    assert words in caught.value.found
    assert str(path) in str(caught.value)
    assert all(torch.equal(part, before[name]) for name, part in net.state_dict().items())


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataMissingError, match=r"nothing\.pth: no such file"):
        load_weights(Separable3D(), tmp_path / "nothing.pth")

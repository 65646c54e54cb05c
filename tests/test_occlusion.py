"""Occlusion by differences is occlusion by one forward pass a box."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from emodecode.errors import InputError
from emodecode.explain.incremental import Plan
from emodecode.explain.occlusion import occlude
from emodecode.models.networks3d import build_network3d
from emodecode.models.separable3d import Separable3D, load_weights

pytestmark = pytest.mark.usefixtures("one_thread")


def one_by_one(module, volume, box, stride, fill=0.0, only=None):
    """Every box by a forward pass of its own; {position: logits}."""
    counts = [(n - b) // s + 1 for n, b, s in zip(volume.shape, box, stride, strict=True)]
    found = {}
    with torch.no_grad():
        for at in itertools.product(*map(range, counts)) if only is None else only:
            changed = volume.clone()
            corner = [a * s for a, s in zip(at, stride, strict=True)]
            changed[tuple(slice(c, c + b) for c, b in zip(corner, box, strict=True))] = fill
            found[tuple(at)] = module(changed[None, None])[0]
    return counts, found


def lively(module, seed=0):
    """Weights and statistics under which activations neither die nor explode."""
    draw = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv3d | nn.Linear):
            nn.init.normal_(part.weight, std=1.5 / part.weight[0].numel() ** 0.5, generator=draw)
        if isinstance(part, nn.BatchNorm3d) and part.running_mean is not None:
            part.running_mean.copy_(0.1 * torch.randn(part.running_mean.shape, generator=draw))
            part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=draw))
    return module.eval().double()


def assert_exact(module, shape, box, stride, *, fill=0.0, tolerance=1e-10):
    volume = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts, wanted = one_by_one(module, volume, box, stride, fill)
    found = occlude(module, volume, box_vox=box, stride_vox=stride, fill=fill)
    assert found.shape[:3] == tuple(counts)
    with torch.no_grad():
        plain = module(volume[None, None])[0]
    for at, logits in wanted.items():
        torch.testing.assert_close(found[at], logits, atol=tolerance, rtol=1e-10)
    assert max(float((each - plain).abs().max()) for each in wanted.values()) > 1e-3


class Odds(nn.Module):
    """Whatever the papers' networks do not have: see the lines."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        k, s, p, d = (tuple(int(v) for v in rng.integers(a, b, 3)) for a, b in
                      ((1, 4), (1, 3), (0, 3), (1, 3)))  # fmt: skip
        self.first = nn.Conv3d(1, 6, k, stride=s, padding=p, dilation=d)
        self.norm = nn.BatchNorm3d(6)  # before a curve and before a convolution
        self.grouped = nn.Conv3d(6, 8, 3, padding=1, groups=2)
        self.short = nn.Conv3d(6, 8, 1, bias=True)
        self.pool = nn.MaxPool3d(3 if rng.random() < 0.5 else 2, stride=2, padding=1)
        self.deep = nn.Conv3d(8, 16, 3, stride=2, padding=1, groups=8)  # two outputs a channel
        self.out = nn.Linear(16, 3)
        self.curve = [nn.SiLU(), nn.ELU(), nn.LeakyReLU(0.1), nn.GELU()][seed % 4]
        self.late = nn.BatchNorm3d(16)

    def forward(self, x):
        x = self.curve(self.norm(self.first(x)))
        x = torch.relu(self.grouped(x) + self.short(x))
        x = self.deep(self.pool(x))
        x = self.curve(self.late(x) + x)
        return self.out(x.mean((-1, -2, -3)) ** 2)


@pytest.mark.parametrize("seed", range(8))
def test_any_network_of_such_parts(seed):
    rng = np.random.default_rng(seed + 100)
    shape = tuple(int(n) for n in rng.integers(7, 12, 3))
    box = tuple(int(n) for n in rng.integers(1, 5, 3))
    stride = tuple(int(n) for n in rng.integers(1, 5, 3))
    assert_exact(lively(Odds(seed), seed), shape, box, stride, fill=float(rng.normal()))


@pytest.mark.parametrize("box", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_s1s_network(box, stride):
    if box == stride == 1:
        stride = 2  # 1,001 positions are left to box 2
    network = lively(Separable3D(n_classes=5))
    assert_exact(network, (9, 13, 11) if stride > 1 else (8, 9, 8), (box,) * 3, (stride,) * 3)


@pytest.mark.parametrize("depth", [18, 50])
def test_residual_networks(depth):
    network = lively(build_network3d("resnet3d", shape=(12, 9, 11), n_classes=3, depth=depth))
    assert_exact(network, (12, 9, 11), (3, 2, 4), (4, 4, 4))


@pytest.mark.slow
@pytest.mark.parametrize(("box", "stride"), [(1, 3), (2, 2), (4, 2), (6, 1), (8, 1), (3, 4)])
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_residual_networks_at_any_box(depth, box, stride):
    network = lively(build_network3d("resnet3d", shape=(12, 9, 11), n_classes=3, depth=depth))
    assert_exact(network, (12, 9, 11), (box,) * 3, (stride,) * 3)


@pytest.mark.filterwarnings("ignore:differences cannot")  # coarse volumes go to dense layers
@pytest.mark.parametrize(("box", "stride"), [((2, 2, 2), (3, 3, 3)), ((8, 1, 4), (2, 4, 3))])
def test_our_small_network(box, stride):
    network = build_network3d("small3d", shape=(13, 12, 11), n_classes=3)
    nn.init.normal_(network.output.weight)
    assert_exact(network.eval().double(), (13, 12, 11), box, stride)


def test_what_differences_cannot_pass_is_computed_as_a_whole():
    class Gated(nn.Module):
        """Squeeze and excitation: one voxel changes every place at once."""

        def __init__(self):
            super().__init__()
            self.first, self.gate = nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 4, 1)
            self.out = nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.first(x))
            x = x * torch.sigmoid(self.gate(x.mean((2, 3, 4), keepdim=True)))
            return self.out(x.flatten(2).amax(2))

    network = lively(Gated())
    assert_exact(network, (6, 7, 5), (2, 2, 2), (2, 3, 1))
    plan = Plan(network, (6, 7, 5), (2, 2, 2))
    assert not plan.cut.mean
    assert not plan.whole


class Turning(nn.Module):
    """Its course depends on values: it cannot be traced."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(210, 2)

    def forward(self, x):
        scale = 2.0 if float(x[0, 0, 0, 0, 0]) > 0 else 1.0
        return self.out(scale * x.flatten(1))


@pytest.mark.parametrize("network", [nn.Sequential(nn.Flatten(), nn.Linear(210, 2)), Turning()])
def test_without_a_way_for_differences_every_box_is_a_pass(network):
    with pytest.warns(UserWarning, match="every box is a forward pass"):
        assert_exact(network.eval().double(), (6, 7, 5), (2, 2, 2), (2, 3, 1))


class Shared(nn.Module):
    """Values that are read under several names, changed in place, or by the head as well."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.first, self.norm = nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.point, self.deep = nn.Conv3d(4, 4, 1), nn.Conv3d(4, 4, 3, stride=2, padding=1)
        self.drop, self.out = nn.Dropout3d(0.5), nn.Linear(4, 2)

    def forward(self, x):
        if self.kind == "input":
            x = torch.relu_(x).mul_(2)
        x = self.first(x)
        if self.kind == "dropout":
            y = self.drop(x)
            x = torch.relu(self.norm(y) + y)
        if self.kind == "pre-activation":
            y = self.drop(x)
            x = self.deep(torch.relu(self.norm(y))) + nn.functional.max_pool3d(y, 1, 2)
        if self.kind == "clone":
            y = x.clone()
            x.relu_()
            x = x + y
        y = self.drop(self.point(x))
        if self.kind == "gate":
            return self.out(y.mean((2, 3, 4)) * torch.sigmoid(y.amax((2, 3, 4))))
        return self.out(y.mean((2, 3, 4)))


@pytest.mark.parametrize("kind", ["input", "dropout", "pre-activation", "clone", "gate"])
def test_values_of_several_names(kind):
    assert_exact(lively(Shared(kind)), (7, 6, 8), (2, 3, 2), (2, 2, 3))


def test_weights_that_are_computed_are_no_constants():
    network = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv3d(1, 3, 3)),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
    )
    with pytest.warns(UserWarning, match="every box"):
        assert_exact(network.append(nn.Flatten()).eval().double(), (6, 7, 5), (2, 2, 2), (2, 3, 1))


def test_a_part_in_training_mode_is_named():
    network = Separable3D(n_classes=2).eval()
    network.bn1.train()
    with pytest.raises(InputError, match="training mode"):
        occlude(network, torch.zeros(6, 6, 6), box_vox=2, stride_vox=2)


def test_processes_change_nothing():
    network = lively(Separable3D(n_classes=3))
    volume = np.random.default_rng(0).standard_normal((8, 9, 7))
    one = occlude(network, volume, box_vox=2, stride_vox=2)
    two = occlude(network, volume, box_vox=2, stride_vox=2, n_jobs=2)
    assert isinstance(one, np.ndarray)
    np.testing.assert_allclose(one, two, atol=1e-12)


def test_the_volume_and_the_network_stay_as_they_were():
    network, volume = lively(Separable3D(n_classes=3)), torch.randn(8, 9, 7).double()
    before = volume.clone(), [part.clone() for part in network.state_dict().values()]
    first = occlude(network, volume, box_vox=3, stride_vox=2)
    assert torch.equal(first, occlude(network, volume, box_vox=3, stride_vox=2))
    assert torch.equal(volume, before[0])
    for now, then in zip(network.state_dict().values(), before[1], strict=True):
        assert torch.equal(now, then)


@pytest.mark.data
def test_s1s_weights_on_a_whole_volume(data_dir):
    """Single precision: within 1e-4 of the naive form at corners, borders and places inside."""
    network = Separable3D(n_classes=5).eval()
    load_weights(network, data_dir / "s1_published" / "bestmodel.pth")
    volume = torch.randn(80, 80, 35, generator=torch.Generator().manual_seed(0))
    # the whole map takes 5 s; here every tenth box of it
    found = occlude(network, volume, box_vox=2, stride_vox=20)
    assert found.shape == (4, 4, 2, 5)
    only = [(0, 0, 0), (3, 3, 1), (0, 3, 1), (1, 2, 0), (2, 0, 1)]
    _, wanted = one_by_one(network, volume, (2, 2, 2), (20, 20, 20), only=only)
    for at, logits in wanted.items():
        torch.testing.assert_close(found[at], logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"module": Separable3D(n_classes=2)}, "training mode"),
        ({"volume": torch.zeros(1, 6, 6, 6)}, "shape"),
        ({"volume": torch.full((6, 6, 6), torch.nan)}, "not finite"),
        (
            {"module": nn.Sequential(nn.BatchNorm3d(1, track_running_stats=False)).eval()},
            "statistics",
        ),
        ({"module": nn.Conv3d(1, 1, 1).bfloat16().eval()}, "float32 or float64"),
        ({"box_vox": 7}, "a volume of"),
        ({"box_vox": (2, 2)}, "three of them"),
        ({"stride_vox": 0}, "stride_vox"),
    ],
)
def test_what_cannot_be_occluded_is_named(change, words):
    given = {"module": Separable3D(n_classes=2).eval(), "volume": torch.zeros(6, 6, 6)}
    given |= {"box_vox": 2, "stride_vox": 2} | change
    module, volume = given.pop("module"), given.pop("volume")
    with pytest.raises(InputError, match=words):
        occlude(module, volume, **given)

"""Costs: layers by hand, a second counter, what autograd keeps; the command `models`."""

import copy
import json
import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from emodecode.cli import main
from emodecode.errors import InputError
from emodecode.models.catalogue import KINDS
from emodecode.models.conv1d import NETWORKS, S2Conv1d
from emodecode.models.cost import cost_rows, list_kinds, measure_cost
from emodecode.models.networks3d import NETWORKS3D, available3d, build_network3d

BY_HAND = [
    (nn.Linear(10, 7), (10,), 70, 77),
    (nn.Linear(10, 7), (3, 10), 210, 77),
    (nn.Conv1d(2, 6, 5), (2, 20), 16 * 6 * 2 * 5, 66),
    (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9), 5 * 6 * 2 * 3, 42),
    (nn.Conv3d(1, 8, 3, padding=1, bias=False), (1, 4, 5, 6), 120 * 8 * 27, 216),
    (nn.Conv3d(8, 8, 3, stride=2, padding=1, groups=8), (8, 5, 4, 7), 3 * 2 * 4 * 8 * 27, 224),
    (nn.Conv3d(2, 4, (1, 2, 3), dilation=(1, 1, 2)), (2, 3, 4, 9), 3 * 3 * 5 * 4 * 2 * 6, 52),
    (nn.GRU(5, 6, batch_first=True), (7, 5), 7 * 3 * 6 * (5 + 6), 234),
    (nn.GRUCell(5, 6), (5,), 3 * 6 * (5 + 6), 234),
    (nn.BatchNorm3d(3), (3, 2, 2, 2), 0, 6),
]


@pytest.mark.parametrize(("layer", "shape", "products", "n_parameters"), BY_HAND)
def test_layers_by_hand(layer, shape, products, n_parameters):
    cost = measure_cost(layer, shape)
    assert (cost.multiply_adds, cost.n_parameters) == (products, n_parameters)


def _hooked(network, shape):
    """Count convolutions and dense layers of one real pass, each from its output's size."""
    found = []

    def count(layer, given, out):
        kernel = math.prod(getattr(layer, "kernel_size", ()))
        n_in = getattr(layer, "in_features", None) or layer.in_channels // layer.groups
        found.append(out.numel() * n_in * kernel)

    network = copy.deepcopy(network).eval()
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv3d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(torch.randn(1, *shape))
    return sum(found)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("separable3d", {}), ("resnet3d", {"depth": 18}), ("efficientnet3d", {}), ("small3d", {})],
)
def test_networks_agree_with_two_other_counters(kind, options):
    if kind not in available3d():
        pytest.skip(f"{kind} is not there")
    network = build_network3d(kind, shape=(33, 20, 18), n_classes=3, **options)
    found = measure_cost(network, (1, 33, 20, 18)).multiply_adds
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.randn(1, 1, 33, 20, 18))
    by_layers = _hooked(network, (1, 33, 20, 18))
    if kind == "small3d":
        by_layers += network.filters.weight.numel()  # no layer of torch's
    assert found == counter.get_total_flops() / 2 == by_layers


@pytest.mark.parametrize(("kind", "n_parameters"), [("conv1d", 6159), ("hanson_mlp", 9023)])
def test_networks_on_vectors(kind, n_parameters):
    (row,) = cost_rows(kind)
    assert row["n_parameters"] == n_parameters
    assert row["multiply_adds"] == _hooked(NETWORKS[kind](300, 3), (300,))


def test_s2s_network_is_counted_as_written():
    (row,) = cost_rows("s2_conv1d")
    assert row["n_parameters"] == 17_316_195
    assert row["multiply_adds"] == _hooked(S2Conv1d(300, 3, composed=False), (300,))


def test_counting_leaves_the_network_as_it_was():
    network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.Dropout(0.5))
    network[0].weight.requires_grad_(False)
    network[1].eval()
    before = copy.deepcopy(network.state_dict())
    cost = measure_cost(network, (1, 5, 5, 5))
    assert (cost.n_parameters, cost.n_trainable) == (60, 6)
    assert [part.training for part in network] == [True, False, True]
    assert all(torch.equal(part, before[name]) for name, part in network.state_dict().items())
    assert all(part.grad is None for part in network.parameters())


def test_what_autograd_keeps():
    """The input of each dense layer, the output of each tanh: not the logits, not the weights."""
    network = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 30), nn.Linear(30, 5))
    assert measure_cost(network, (10,)).saved_bytes == 4 * (10 + 20 + 30)


# --- the command ---------------------------------------------------------------------------------


def _run(*arguments):
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    return stopped.value.code


def test_models_lists_every_kind(capsys):
    assert _run("models") == 0
    said = capsys.readouterr().out
    for kind in [*KINDS, *available3d()]:
        assert any(line.startswith(f"{kind} ") for line in said.splitlines()), kind
    assert "46,165,059   3,692,697,600" in said
    assert "17,316,195" in said


def test_models_as_json_for_a_shape(capsys):
    assert _run("models", "separable3d", "--shape", "64,64,64", "--classes", 5, "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["parameters"]["dropout"] == 0.3
    (row,) = entry["costs"]
    assert row["input"] == [1, 64, 64, 64]
    assert row["n_parameters"] == 424_549
    assert row["multiply_adds"] == pytest.approx(1.55e9, rel=2e-3)


def test_models_of_one_kind_shows_its_parameters(capsys):
    assert _run("models", "lda") == 0
    said = capsys.readouterr().out
    assert 'shrinkage = "auto"' in said
    assert "multiply-adds" not in said
    assert _run("models", "separable3d", "--shape", "8,8,8", "--window", 4) == 0
    assert "windows of 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet"], "Did you mean 'resnet3d'?"),
        (["--shape", "64,64"], "no three numbers"),
        (["--shape", "64,64,0"], "no three numbers"),
        (["--shape", "a,b,c"], "no three numbers"),
        (["--classes", 1], "2 or more"),
        (["--features", 0], "1 or more"),
        (["--window", 0], "1 or more"),
        (["s2_conv1d", "--features", 40], "at least 55"),
    ],
)
def test_bad_arguments_are_refused(arguments, words, capsys):
    assert _run("models", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.splitlines()) == 3


def test_what_a_kind_cannot_take_is_a_remark_in_the_full_table():
    listed = {entry["kind"]: entry for entry in list_kinds(shape=(4, 4, 4), n_features=40)}
    assert "at least 55" in listed["s2_conv1d"]["why_not"]
    assert listed["lda"] == {
        "kind": "lda",
        "description": KINDS["lda"].description,
        "parameters": KINDS["lda"].defaults,
        "costs": [],
        "why_not": None,
    }
    assert {len(listed[kind]["costs"]) for kind in ("separable3d", "resnet3d")} == {1, 5}
    with pytest.raises(InputError):
        list_kinds("s2_conv1d", n_features=40)
    assert set(listed) >= {*KINDS, *(set(NETWORKS3D) & set(available3d()))}

"""Penalties and weight decay: as large as the log says, and on the weights that are named."""

import numpy as np
import pytest
import torch

from emodecode.models import training
from emodecode.models.conv1d import NETWORKS, HansonMlp
from emodecode.models.net import NetClassifier
from emodecode.models.stepping import penalised
from emodecode.models.watch import Watch

pytestmark = pytest.mark.usefixtures("one_thread")


def _data(n, n_features=12):
    rng = np.random.default_rng(0)
    y = np.array(["anger", "fear", "joy"])[np.arange(n) % 3]
    X = rng.standard_normal((n, n_features)).astype(np.float32)
    X[:, 0] += y == "fear"
    return X, y


def test_penalties_are_gradients_of_the_logged_penalty():
    """Oracle: autograd on the loss with the penalty written out."""
    X, y = _data(30)
    l1, l2 = 0.03, 0.2
    net = NetClassifier(
        network="hanson_mlp", l1=l1, l2=l2, max_epochs=1, batch_size=64, validation_share=0.0
    )
    found = net.fit(X, y).modules_[0]
    torch.manual_seed(net._recipe(0).seed)
    module = HansonMlp(12, 3)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, eps=1e-7)
    codes = torch.from_numpy(np.searchsorted(net.classes_, y))
    loss = torch.nn.functional.cross_entropy(module(torch.from_numpy(X)), codes)
    weights = list(module.parameters())
    penalty = l1 * sum(part.abs().sum() for part in weights)
    penalty += l2 * sum(part.square().sum() for part in weights)
    (loss + penalty).backward()
    optimizer.step()
    for name, part in module.named_parameters():
        torch.testing.assert_close(found.state_dict()[name], part.detach(), atol=1e-6, rtol=0)
    (row,) = net.history_
    assert row["train_loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    last = [part.detach() for part in found.parameters()]
    expected = l1 * sum(part.abs().sum() for part in last)
    expected += l2 * sum(part.square().sum() for part in last)
    assert row["penalty"] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("s2_conv1d", {"dense"}),
        ("conv1d", {"output", "linear"}),
        ("hanson_mlp", {"units", "output"}),
    ],
)
def test_penalised_weights(network, names):
    found = {name.split(".")[0] for name, _ in penalised(NETWORKS[network](60, 3))}
    assert found == names


def _s2_after(n_epochs=1, **penalties):
    """Fit S2's network, one batch an epoch; return it and the weights it started from."""
    X, y = _data(30, 56)
    net = NetClassifier(
        network="s2_conv1d", max_epochs=n_epochs, validation_share=0.0, learning_rate=1e-4
    )
    net.set_params(**penalties).fit(X, y)
    torch.manual_seed(net._recipe(0).seed)
    first = NETWORKS["s2_conv1d"](56, 3).state_dict()
    return net.modules_[0].state_dict(), first


def test_l1_is_on_the_dense_layers_alone():
    plain, first = _s2_after()
    penalised, _ = _s2_after(l1=1.0)
    for name, part in plain.items():
        untouched = name.startswith("convolutions") or name.endswith("bias")  # biases start at 0
        assert torch.equal(part, penalised[name]) == untouched, name
        assert not torch.equal(part, first[name]), name
    plain, _ = _s2_after(10)
    penalised, _ = _s2_after(10, l1=0.1)
    for number in range(8):
        name = f"dense.{number}.weight"
        assert penalised[name].abs().sum() < plain[name].abs().sum(), name


def test_weight_decay_is_on_the_dense_layers_alone():
    """Oracle: decoupled decay takes ``learning_rate * weight_decay`` of the weight in a step."""
    plain, first = _s2_after()
    decayed, _ = _s2_after(weight_decay=50.0)
    for name, part in plain.items():
        expected = part - 1e-4 * 50.0 * first[name] if name.startswith("dense") else part
        torch.testing.assert_close(decayed[name], expected, atol=1e-7, rtol=0, msg=name)


def test_weight_decay_of_ours_spares_the_filters():
    X, y = _data(120)
    watch = Watch(NetClassifier(weight_decay=0.1)._recipe(0), "")
    codes = np.unique(y, return_inverse=True)[1]
    made = training.make_net(NETWORKS["conv1d"](12, 3), (X, codes), None, watch.recipe, 3, watch)
    made.initialize()
    names = {id(part): name for name, part in made.module_.named_parameters()}
    found = {
        names[id(part)]: group["weight_decay"]
        for group in made.optimizer_.param_groups
        for part in group["params"]
    }
    readout = dict.fromkeys(("output.weight", "output.bias", "linear.weight"), 0.1)
    assert found == readout | {"filters.weight": 0.0}

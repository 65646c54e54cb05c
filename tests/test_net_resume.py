"""A stopped or killed training goes on from its checkpoint to the same bits."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone

from emodecode.models import watch
from emodecode.models.conv1d import PairConv1d
from emodecode.models.net import NetClassifier

QUICK = {"max_epochs": 4, "patience": None, "batch_size": 16, "learning_rate": 0.01}


pytestmark = pytest.mark.usefixtures("one_thread")


def _data():
    rng = np.random.default_rng(0)
    y = np.array(["anger", "fear", "joy"])[np.arange(120) % 3]
    X = rng.standard_normal((120, 12)).astype(np.float32)
    X[:, 0] += y == "fear"
    return X, y, np.repeat(["01", "02", "03", "04", "05", "06"], 20)


def _weights(fitted):
    return [part.numpy() for module in fitted.modules_ for part in module.state_dict().values()]


def _assert_same(first, second):
    for one, other in zip(_weights(first), _weights(second), strict=True):
        np.testing.assert_array_equal(one, other)


def _checkpointed(path, **more):
    options = {"plateau_factor": 0.5, "plateau_patience": 2, "n_members": 2, "weight_decay": 0.01}
    return NetClassifier(checkpoint=path, checkpoint_epochs=3, **QUICK | options | more)


class _StoppedError(Exception):
    pass


def _stop_at(monkeypatch, epoch):
    real = watch.Watch.on_epoch_begin

    def stop(self, net, **kwargs):
        if self.epoch == epoch:
            raise _StoppedError
        real(self, net, **kwargs)

    monkeypatch.setattr(watch.Watch, "on_epoch_begin", stop)


@pytest.mark.parametrize("network", ["conv1d", "hanson_mlp"])
def test_stopped_training_goes_on_to_the_same_bits(monkeypatch, tmp_path, network):
    X, y, subjects = _data()
    net = _checkpointed(tmp_path / "state", max_epochs=11, network=network)
    whole = clone(net).set_params(checkpoint=None).fit(X, y, subjects=subjects)
    with monkeypatch.context() as patch:
        _stop_at(patch, 8)
        with pytest.raises(_StoppedError):
            net.fit(X, y, subjects=subjects)
    (left,) = tmp_path.iterdir()
    assert len(torch.load(left, weights_only=True)["history"]) == 6
    begun = []
    real = watch.Watch.on_epoch_begin
    monkeypatch.setattr(
        watch.Watch,
        "on_epoch_begin",
        lambda self, net, **kwargs: begun.append(self.epoch) or real(self, net, **kwargs),
    )
    torch.rand(3)
    resumed = clone(net).fit(X, y, subjects=subjects)
    assert begun[0] == 6
    _assert_same(resumed, whole)
    assert resumed.history_ == whole.history_
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", ["data", "noise", "learning_rate", "renamed", "truncated", "garbage", "empty"]
)
def test_foreign_checkpoints_are_not_taken_up(monkeypatch, tmp_path, change):
    X, y, subjects = _data()
    with monkeypatch.context() as patch:
        _stop_at(patch, 3)
        with pytest.raises(_StoppedError):
            _checkpointed(tmp_path / "state").fit(X, y, subjects=subjects)
    (left,) = tmp_path.iterdir()
    more = {"noise": 1.0} if change == "noise" else {}
    more |= {"learning_rate": 0.02} if change == "learning_rate" else {}
    if change == "data":
        X = X + 1
    state = left.read_bytes()
    spoilt = {"truncated": state[: len(state) // 2], "garbage": b"no checkpoint", "empty": b""}
    left.write_bytes(spoilt.get(change, state))
    if change == "renamed":  # of another training, under the name of this one
        other = torch.load(left, weights_only=True) | {"fingerprint": "other"}
        torch.save(other | {"random": torch.get_rng_state()}, left)
    found = _checkpointed(tmp_path / "state", **more).fit(X, y, subjects=subjects)
    whole = _checkpointed(None, **more).fit(X, y, subjects=subjects)
    _assert_same(found, whole)
    assert found.history_ == whole.history_


def test_interrupted_training_keeps_its_checkpoint(monkeypatch, tmp_path):
    """Ctrl-C in the middle of a forward pass; the same call again gives the same bits."""
    X, y, subjects = _data()
    net = _checkpointed(tmp_path / "state", max_epochs=8)
    whole = clone(net).set_params(checkpoint=None).fit(X, y, subjects=subjects)
    real, calls = PairConv1d.forward, []

    def forward(self, x):
        calls.append(len(x))
        if len(calls) == 40:  # nine an epoch: the fifth epoch of the first member
            raise KeyboardInterrupt
        return real(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(PairConv1d, "forward", forward)
        with pytest.raises(KeyboardInterrupt):
            net.fit(X, y, subjects=subjects)
    assert not hasattr(net, "inference_")
    (left,) = tmp_path.iterdir()
    assert len(torch.load(left, weights_only=True)["history"]) == 3
    resumed = clone(net).fit(X, y, subjects=subjects)
    _assert_same(resumed, whole)
    assert resumed.history_ == whole.history_
    assert not list(tmp_path.iterdir())


CODE = """
import os, signal, sys
import numpy as np
import torch
from emodecode.models import watch
from emodecode.models.conv1d import PairConv1d
from emodecode.models.net import NetClassifier

torch.set_num_threads(1)
if sys.argv[1] == "kill":
    real = watch.Watch.on_batch_end

    def end(self, net, **kwargs):
        if self.epoch == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, net, **kwargs)

    watch.Watch.on_batch_end = end
data = np.load("data.npz")
net = NetClassifier(checkpoint="state", checkpoint_epochs=2, max_epochs=10, batch_size=16)
net.fit(data["X"], data["y"], subjects=data["subjects"])
np.save("found.npy", net.predict_proba(data["X"]))
"""


def test_killed_process_goes_on_to_the_same_bits(tmp_path):
    """kill -9 in the middle of an epoch, then the same call again."""
    X, y, subjects = _data()
    np.savez(tmp_path / "data.npz", X=X, y=y, subjects=subjects)
    command = [sys.executable, "-c", CODE]
    done = subprocess.run([*command, "kill"], cwd=tmp_path, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("state.*"))) == 1
    subprocess.run([*command, "go on"], cwd=tmp_path, check=True)
    whole = NetClassifier(max_epochs=10, batch_size=16).fit(X, y, subjects=subjects)
    np.testing.assert_array_equal(np.load(tmp_path / "found.npy"), whole.predict_proba(X))
    assert not list(tmp_path.glob("state.*"))


def test_trained_members_are_not_trained_again(monkeypatch, tmp_path):
    X, y, subjects = _data()
    net = _checkpointed(tmp_path / "state", max_epochs=7, n_members=3)
    whole = clone(net).set_params(checkpoint=None).fit(X, y, subjects=subjects)
    real, begun = watch.Watch.on_epoch_begin, []

    def begin(self, net, **kwargs):
        begun.append(self.epoch)
        if len(begun) == 20:  # in the sixth epoch of the third member
            raise _StoppedError
        real(self, net, **kwargs)

    monkeypatch.setattr(watch.Watch, "on_epoch_begin", begin)
    with pytest.raises(_StoppedError):
        clone(net).fit(X, y, subjects=subjects)
    assert begun == [*range(7), *range(7), *range(6)]
    resumed = clone(net).fit(X, y, subjects=subjects)
    assert begun[20:] == [3, 4, 5, 6]
    _assert_same(resumed, whole)
    assert resumed.history_ == whole.history_
    assert not list(tmp_path.iterdir())


def test_file_is_where_the_checkpoint_says(monkeypatch, tmp_path):
    """Folds that share a name keep files of their own."""
    X, y, subjects = _data()
    _stop_at(monkeypatch, 3)
    for shift in (0, 1):
        with pytest.raises(_StoppedError):
            _checkpointed(str(tmp_path / "deep" / "state")).fit(X + shift, y, subjects=subjects)
    files = sorted((tmp_path / "deep").iterdir())
    assert len(files) == 2
    assert all(each.name.startswith("state.") for each in files)

"""3-D networks on masked volumes: rows read late, windows, seeds, resuming, shared trainings."""

import inspect
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone

from emodecode.errors import InputError
from emodecode.evaluate.foldfit import fit_fold, predict_rows
from emodecode.features.scale import VoxelScaler
from emodecode.models.batches import Batches, SampleSet, find_windows
from emodecode.models.catalogue import make_pipeline_for
from emodecode.models.conv1d import HansonMlp
from emodecode.models.net import NetClassifier
from emodecode.models.rows import Rows
from emodecode.models.training import train
from emodecode.models.unmask import Unmask
from emodecode.models.volumenet import VolumeNetClassifier
from emodecode.models.watch import Watch
from emodecode.samples import TABLE_COLUMNS

QUICK = {"network": "separable3d", "max_epochs": 2, "batch_size": 16, "device": "cpu"}


pytestmark = pytest.mark.usefixtures("one_thread")


def _mask():
    mask = np.zeros((6, 7, 5), dtype=bool)
    mask[1:5, 1:6, 1:4] = True
    return mask


def _data(seed=0, *, n_subjects=6, n=12, effect=0.0):
    rng = np.random.default_rng(seed)
    total = n_subjects * n
    y = np.array(["anger", "fear", "joy"])[np.arange(total) % 3]
    X = 100 + 10 * rng.standard_normal((total, int(_mask().sum()))).astype(np.float32)
    X[:, :20] += 10 * effect * (y == "fear")[:, None]
    X[:, 40:] += 10 * effect * (y == "joy")[:, None]
    subjects = np.repeat([f"{each:02d}" for each in range(n_subjects)], n)
    return X, y, subjects


def _table(y, subjects):
    table = pd.DataFrame(dict.fromkeys(TABLE_COLUMNS, "n/a"), index=range(len(y)))
    volume = pd.Series(subjects).groupby(subjects).cumcount()
    return table.assign(
        **{"subject": subjects, "run": "1", "volume": volume, "label": y},
        onset_s=2.0 * volume,
        stimulus_time_s=np.nan,
        agreement=np.nan,
    )


def _net(**more):
    return VolumeNetClassifier(mask=_mask(), **QUICK | more)


def _weights(fitted):
    return [part.numpy() for module in fitted.modules_ for part in module.state_dict().values()]


def _assert_same(first, second):
    for one, other in zip(_weights(first), _weights(second), strict=True):
        np.testing.assert_array_equal(one, other)


class _Keep(torch.nn.Module):
    def forward(self, volumes, valid=None):
        return volumes


def test_voxels_come_back_to_their_places():
    mask, X = _mask(), _data()[0][:4]
    expected = np.zeros((4, *mask.shape), dtype=np.float32)
    expected[:, mask] = X
    np.testing.assert_array_equal(Unmask(_Keep(), mask)(torch.from_numpy(X))[:, 0], expected)


@pytest.mark.parametrize("by_volume", [False, True])
def test_standardising_is_that_of_the_scaler_and_of_the_volume(by_volume):
    mask, X = _mask(), _data()[0]
    X[:, 3] = 7.0
    scaler = VoxelScaler().fit(X)
    given = {"mean": scaler.mean_, "scale": scaler.scale_}
    module = Unmask(_Keep(), mask, by_volume=by_volume, **{} if by_volume else given)
    found = module(torch.from_numpy(X)).numpy()[:, 0, mask]
    spread = X.std(axis=1, keepdims=True)
    expected = (X - X.mean(axis=1, keepdims=True)) / spread if by_volume else scaler.transform(X)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_augmentation_moves_and_scales_in_training_only():
    mask = np.ones((5, 5, 5), dtype=bool)
    X = torch.zeros(40, 125)
    X[:, 62] = 1.0  # the middle
    module = Unmask(_Keep(), mask, shift_vox=1, intensity=0.2)
    moved = module.train()(X)
    places = {tuple(int(i) for i in place) for place in torch.nonzero(moved)[:, 2:]}
    assert len(places) > 10
    assert all(abs(i - 2) <= 1 for place in places for i in place)
    factors = moved.flatten(1).sum(dim=1)
    assert 0.1 < float(factors.std()) < 0.35
    torch.testing.assert_close(module.eval()(X), X.view(40, 1, 5, 5, 5))


def test_rows_of_a_memory_map_are_trained_on_as_if_they_were_in_memory(tmp_path):
    X, y, subjects = _data()
    np.save(tmp_path / "X.npy", X)
    stored = np.load(tmp_path / "X.npy", mmap_mode="r")
    rows = np.arange(len(X))[::-1].copy()
    in_memory = _net().fit(X[rows], y[rows], subjects=subjects[rows])
    from_disk = _net().fit(Rows(stored, rows), y[rows], subjects=subjects[rows])
    _assert_same(in_memory, from_disk)
    np.testing.assert_array_equal(
        in_memory.predict_proba(X), from_disk.predict_proba(Rows(stored, np.arange(len(X))))
    )


def test_readers_in_other_processes_change_nothing():
    X, y, subjects = _data()
    _assert_same(*(_net(n_workers=n).fit(X, y, subjects=subjects) for n in (0, 2)))


def test_a_fold_reads_rows_late_and_the_ledger_knows_them(monkeypatch):
    X, y, subjects = _data()
    seen = []
    real = VolumeNetClassifier.fit

    def fit(self, X, y, **more):
        seen.append(X)
        return real(self, X, y, **more)

    fit.__signature__ = inspect.signature(real)
    monkeypatch.setattr(VolumeNetClassifier, "fit", fit)
    table, rows = _table(y, subjects), np.flatnonzero(subjects != "00")
    pipeline = make_pipeline_for("separable3d", params={"max_epochs": 1}, mask=_mask())
    fitted = fit_fold(pipeline, X, y, table, rows, seed=3)
    assert isinstance(seen[0], Rows)
    assert np.shares_memory(seen[0].X, X)
    np.testing.assert_array_equal(seen[0].rows, rows)
    test = np.flatnonzero(subjects == "00")
    found = predict_rows(fitted, X, table, test, classes=("anger", "fear", "joy"))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "params"),
    [
        ("small3d", {}),
        ("separable3d", {"patience": "none"}),
        ("resnet3d", {"depth": 18}),
        ("s2_resnet3d", {"depth": 18, "learning_rate": 1e-4}),
        ("efficientnet3d", {}),
    ],
)
def test_every_kind_keeps_the_contract(kind, params):
    """Text labels, sorted classes, probabilities that sum to 1, the same again from the seed."""
    X, y, subjects = _data(n_subjects=3, n=8)
    pipeline = make_pipeline_for(kind, params=params | {"max_epochs": 1}, mask=_mask(), seed=4)
    first, second = (
        fit_fold(pipeline, X, y, _table(y, subjects), np.arange(len(y))).steps[-1][1]
        for _ in range(2)
    )
    given = first.predict_proba(X)
    np.testing.assert_allclose(given.sum(axis=1), 1, atol=1e-5)
    assert first.classes_.tolist() == ["anger", "fear", "joy"]
    np.testing.assert_array_equal(first.predict(X), first.classes_[given.argmax(axis=1)])
    np.testing.assert_array_equal(given, second.predict_proba(X))


def test_what_is_there_is_learned():
    X, y, subjects = _data(effect=3.0)
    new_X, new_y, _ = _data(1, effect=3.0)
    net = _net(max_epochs=20, n_members=2, learning_rate=3e-3).fit(X, y, subjects=subjects)
    assert np.mean(net.predict(new_X) == new_y) > 0.9
    members = net.predict_members(new_X)
    assert members.shape == (2, len(new_X), 3)
    np.testing.assert_allclose(members.mean(axis=0), net.predict_proba(new_X))
    assert not np.allclose(members[0], members[1])


@pytest.mark.parametrize("how", [None, "balanced"])
def test_parts_of_a_batch_add_up_to_the_gradient_of_the_batch(how):
    """Of a network without batch normalisation, which would see the parts alone."""
    X, y, _ = _data()
    codes = np.where(y == "anger", 0, 1)
    recipe = NetClassifier(max_epochs=5, class_weight=how)._recipe(0)
    found = [
        train(
            lambda: HansonMlp(X.shape[1], 2),
            (X / 100, codes),
            None,
            recipe=replace(recipe, accumulate=n),
            n_classes=2,
        )
        for n in (1, 3)
    ]
    for one, three in zip(*(each.module.parameters() for each in found), strict=True):
        torch.testing.assert_close(one, three, atol=1e-5, rtol=1e-4)
    assert found[0].history[-1]["train_loss"] == pytest.approx(
        found[1].history[-1]["train_loss"], abs=1e-5
    )


def test_windows_are_successive_volumes_of_one_run():
    scan = np.array([0, 0, 0, 1, 1, 1])
    volume = np.array([0, 1, 3, 0, 1, 2])
    expected = [[-1, -1, 0], [-1, 0, 1], [1, -1, 2], [-1, -1, 3], [-1, 3, 4], [3, 4, 5]]
    np.testing.assert_array_equal(find_windows(scan, volume, 3), expected)


@pytest.mark.slow
def test_a_window_tells_what_a_volume_alone_does_not():
    """The class is whether a region rises or falls from the volume before."""
    rng = np.random.default_rng(0)
    n, mask = 200, _mask()
    sign = rng.choice([-1, 1], n)
    before = np.r_[1, sign[:-1]]
    y = np.where(sign == before, "same", "other")
    X = rng.standard_normal((n, int(mask.sum()))).astype(np.float32)
    X[:, :30] += 3 * sign[:, None]
    moments = np.stack([np.zeros(n, dtype=int), np.arange(n)], axis=1)
    train, test = slice(0, 140), slice(140, n)
    scores = {}
    for window in (1, 2):
        net = _net(window=window, max_epochs=10, validation_share=0.0, learning_rate=5e-3)
        net.fit(X[train], y[train], moments=moments[train])
        scores[window] = np.mean(net.predict(X[test], moments=moments[test]) == y[test])
    assert scores[1] < 0.65
    assert scores[2] > 0.85


def test_windows_reach_the_network_through_a_fold():
    X, y, subjects = _data()
    table, rows = _table(y, subjects), np.arange(len(y))
    params = {"max_epochs": 1, "window": 2, "validation_share": 0.0}
    fitted = fit_fold(
        make_pipeline_for("separable3d", params=params, mask=_mask()), X, y, table, rows
    )
    found = predict_rows(fitted, X, table, rows, classes=("anger", "fear", "joy"))
    net = fitted.steps[-1][1]
    moments = np.stack([np.unique(subjects, return_inverse=True)[1], table["volume"]], axis=1)
    np.testing.assert_allclose(found, net.predict_proba(X, moments=moments), atol=1e-6)
    assert not np.allclose(found, net.predict_proba(X))


def test_the_epoch_of_a_windowed_network_can_be_chosen_on_given_samples():
    X, y, subjects = _data(effect=0.5)
    moments = np.stack([np.unique(subjects, return_inverse=True)[1], _table(y, subjects)["volume"]])
    train, test = np.flatnonzero(subjects != "05"), np.flatnonzero(subjects == "05")
    net = _net(window=2, max_epochs=3)
    own = {"subjects": subjects[train], "moments": moments.T[train]}
    net.fit(X[train], y[train], validation=(X[test], y[test], moments.T[test]), **own)
    best = min(net.history_, key=lambda row: row["valid_loss"])
    assert net.best_epochs_ == [best["epoch"]]
    given = net.predict_proba(X[test], moments=moments.T[test])
    truth = np.searchsorted(net.classes_, y[test])
    loss = -np.log(given[np.arange(len(test)), truth]).mean()
    assert loss == pytest.approx(best["valid_loss"], rel=1e-4)


def test_soft_labels_are_the_shares_of_votes():
    X, y, subjects = _data()
    table = _table(y, subjects)
    hard = {f"p_{name}": (y == name).astype(float) for name in ("anger", "fear", "joy")}
    params = {"max_epochs": 1, "class_weight": "none"}
    found = []
    for soft, votes in ((False, hard), (True, hard), (True, hard | {"p_anger": 0.5})):
        own = params | {"soft_labels": soft}
        pipeline = make_pipeline_for("separable3d", params=own, mask=_mask())
        fitted = fit_fold(pipeline, X, y, table.assign(**votes), np.arange(len(y)), seed=1)
        found.append(fitted.steps[-1][1].history_[0]["train_loss"])
    assert found[0] == pytest.approx(found[1], abs=1e-6)
    assert abs(found[2] - found[0]) > 0.01


def test_bad_input_is_named():
    X, y, subjects = _data()
    with pytest.raises(InputError, match="no mask"):
        VolumeNetClassifier(**QUICK).fit(X, y, subjects=subjects)
    with pytest.raises(InputError, match="a mask of 60 voxels"):
        _net().fit(X[:, 1:], y, subjects=subjects)
    with pytest.raises(InputError, match="window = 3"):
        _net(window=3).fit(X, y, subjects=subjects)
    with pytest.raises(InputError, match="no votes"):
        _net(soft_labels=True).fit(X, y, subjects=subjects)
    missing = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(InputError, match=f"device {missing}"):
        _net(device=missing).fit(X, y, subjects=subjects)
    one, rest = np.arange(1), np.arange(3, len(y))
    with pytest.raises(InputError, match="1 samples to train on"):
        _net().fit(X, y, subjects=subjects, parts=[(one, rest)])
    with pytest.raises(InputError, match="learning_rate"):
        _net(learning_rate=1e30, weight_decay=0.0, max_epochs=9).fit(X, y, subjects=subjects)


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_stopped_training_goes_on_to_the_same_bits(monkeypatch, tmp_path, schedule):
    X, y, subjects = _data()
    options = {"max_epochs": 5, "schedule": schedule, "plateau_factor": 0.5, "plateau_patience": 1}
    whole = _net(**options).fit(X, y, subjects=subjects)
    net = _net(checkpoint=tmp_path / "state", **options)
    real = Watch.on_epoch_begin

    def stop(self, net, **kwargs):
        if self.epoch == 3:
            raise RuntimeError
        real(self, net, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_epoch_begin", stop)
        with pytest.raises(RuntimeError):
            clone(net).fit(X, y, subjects=subjects)
    begun = []
    monkeypatch.setattr(
        Watch, "on_epoch_begin", lambda self, net, **k: begun.append(self.epoch) or real(self, net)
    )
    resumed = net.fit(X, y, subjects=subjects)
    assert begun == [3, 4]
    _assert_same(whole, resumed)
    assert resumed.history_ == whole.history_
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
import numpy as np
import torch
from emodecode.models import watch
from emodecode.models.conv1d import HansonMlp
from emodecode.models.net import NetClassifier
from emodecode.models.rows import Rows
from emodecode.models.training import train
from emodecode.models.volumenet import VolumeNetClassifier

torch.set_num_threads(1)
stop_at = int(sys.argv[1])
real = watch.Watch.on_batch_end

def end(self, net, **kwargs):
    if self.epoch == stop_at:
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, net, **kwargs)

watch.Watch.on_batch_end = end
given = np.load("data.npz")
X = np.load("X.npy", mmap_mode="r")
net = VolumeNetClassifier(network="separable3d", mask=given["mask"], max_epochs=6, device="cpu",
                          checkpoint="state", shift_vox=1)
net.fit(Rows(X, np.arange(len(X))), given["y"], subjects=given["subjects"])
np.savez("found.npz", *[part.numpy() for part in net.modules_[0].state_dict().values()])
"""


@pytest.mark.slow
def test_training_killed_at_a_random_epoch_ends_in_the_same_weights(tmp_path):
    X, y, subjects = _data()
    np.save(tmp_path / "X.npy", X)
    np.savez(tmp_path / "data.npz", y=y, subjects=subjects, mask=_mask())
    epoch = int(np.random.default_rng().integers(1, 6))

    def run(stop_at):
        return subprocess.run(
            [sys.executable, "-c", KILLED, str(stop_at)], cwd=tmp_path, timeout=120, check=False
        ).returncode

    assert run(epoch) == -signal.SIGKILL
    assert run(-1) == 0, f"killed in epoch {epoch + 1}"
    whole = _net(max_epochs=6, shift_vox=1).fit(X, y, subjects=subjects)
    with np.load(tmp_path / "found.npz") as found:
        for one, other in zip(_weights(whole), found.values(), strict=True):
            np.testing.assert_array_equal(one, other)


def test_batches_are_all_samples_once():
    data = SampleSet(np.arange(20, dtype=np.float32)[:, None], np.zeros(20, dtype=int))
    seen = torch.cat([X[:, 0] for X, _ in Batches(data, 6, shuffle=True)])
    assert sorted(seen.tolist()) == list(range(20))
    assert [len(y) for _, y in Batches(data, 6)] == [6, 6, 6, 2]

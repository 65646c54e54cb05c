"""Trainings that several processes share are those of one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from emodecode.models.shared import is_first_process, over_processes

SHARED = """
import json
from dataclasses import replace
import numpy as np
import torch
from emodecode.models.conv1d import HansonMlp
from emodecode.models.net import NetClassifier
from emodecode.models.shared import is_first_process, process_group
from emodecode.models.training import train
from emodecode.models.volumenet import VolumeNetClassifier

torch.set_num_threads(1)
given = np.load("data.npz")


def volumes(**more):
    net = VolumeNetClassifier(network="separable3d", mask=given["mask"], max_epochs=4,
                              batch_size=16, dropout=0.0, device="cpu", **more)
    return net.fit(given["X"], given["y"], subjects=given["subjects"]).history_


def in_parts():  # batch normalisation would see the parts alone
    X, codes = given["X"] / 100 - 1, (given["y"] == "fear").astype(int)
    recipe = replace(NetClassifier(max_epochs=4, batch_size=16)._recipe(0), accumulate=5)
    make = lambda: HansonMlp(X.shape[1], 2)
    return train(make, (X, codes), (X, codes), recipe=recipe, n_classes=2).history


with process_group():
    found = {"plain": volumes(), "bf16": volumes(precision="bf16"), "parts": in_parts()}
    if is_first_process():
        print(json.dumps(found))
"""


def _data(path):
    """Classes of unequal size: a batch's shares of the weights differ between the processes."""
    rng = np.random.default_rng(0)
    mask = np.zeros((6, 7, 5), dtype=bool)
    mask[1:5, 1:6, 1:4] = True
    y = np.tile(["anger", "fear", "fear", "joy", "joy", "joy"], 12)[:69]
    X = 100 + 10 * rng.standard_normal((len(y), int(mask.sum()))).astype(np.float32)
    X[:, :20] += 5 * (y == "fear")[:, None]
    np.savez(path, X=X, y=y, subjects=np.arange(len(y)) // 12, mask=mask)


@pytest.mark.slow
def test_two_processes_have_the_loss_curve_of_one(tmp_path):
    _data(tmp_path / "data.npz")
    (tmp_path / "shared.py").write_text(SHARED)
    together = [
        *(sys.executable, "-W", "error::FutureWarning", "-m", "torch.distributed.run"),
        *("--standalone", "--nproc-per-node", "2"),
    ]
    found = []
    for start in (together, [sys.executable]):
        done = subprocess.run(
            [*start, "shared.py"],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    shared, alone = found
    for kind, tolerance in (("plain", 2e-3), ("bf16", 2e-2), ("parts", 1e-5)):
        assert len(shared[kind]) == len(alone[kind]) == 4
        for two, one in zip(shared[kind], alone[kind], strict=True):
            for name in ("train_loss", "valid_loss"):
                assert two[name] == pytest.approx(one[name], abs=tolerance), (kind, two["epoch"])


def test_one_process_shares_with_nobody():
    assert is_first_process()
    assert over_processes([1.5, 2]) == over_processes([1.5, 2], least=True) == [1.5, 2]
    assert not torch.distributed.is_initialized()

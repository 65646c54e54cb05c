"""Fixtures shared by all tests."""

import os
from pathlib import Path

# one thread for each of the parallel test processes; must be set before numpy is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real data; tests that need it are skipped where it is absent."""
    folder = os.environ.get("EMODECODE_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("EMODECODE_DATA does not name a folder with the real data")
    return Path(folder)


@pytest.fixture
def one_thread():
    """Torch on one thread, so that its sums come out the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""Workers: where the fits of many folds run, and where their finished parts are kept."""

import contextlib
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

from emodecode.errors import DataMissingError

CONNECT_TIMEOUT_S = 10
"""How long a Dask scheduler may take to answer, seconds."""


def check_scheduler(address: str) -> None:
    """Refuse a Dask scheduler that does not answer.

    Raises
    ------
    DataMissingError
        Nobody answers there within `CONNECT_TIMEOUT_S`.
    """
    _connect(address).close()


@contextlib.contextmanager
def backend(scheduler: str | None, n_jobs: int, X: np.ndarray) -> Iterator[None]:
    """Let joblib work in `n_jobs` processes, or on a Dask cluster that is given `X` beforehand.

    Raises
    ------
    DataMissingError
        The scheduler does not answer.
    """
    if scheduler is None:
        config = joblib.parallel_config(backend="loky", n_jobs=n_jobs, inner_max_num_threads=1)
        with config, warnings.catch_warnings():
            # joblib replaces processes that have grown, as whole brains and torch make them
            warnings.filterwarnings("ignore", message="A worker stopped while some jobs")
            yield
        return
    client = _connect(scheduler)
    with client, joblib.parallel_config(backend="dask", client=client, scatter=[X]):
        yield


def _connect(address: str):
    from distributed import Client

    try:
        return Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise DataMissingError(
            f"--scheduler {address}",
            found=f"no Dask scheduler answers there ({type(error).__name__})",
            expected="the address of a running scheduler such as tcp://127.0.0.1:8786",
            remedy="Start one with `dask scheduler` and workers, or leave --scheduler out.",
        ) from error


def describe_pipeline(pipeline: Pipeline) -> str:
    """Every parameter of every step; scikit-learn's own repr shortens long ones."""
    params = pipeline.get_params(deep=True)
    params.pop("steps", None)
    return repr(
        [
            (name, type(value).__qualname__ if hasattr(value, "get_params") else _described(value))
            for name, value in sorted(params.items())
        ]
    )


def _described(value: Any) -> Any:
    """Arrays, and lists of them, by their hash: numpy's repr shortens them."""
    held = value if isinstance(value, list | tuple) else [value]
    return joblib.hash(value) if any(isinstance(each, np.ndarray) for each in held) else value


def store_part(key: str, arrays: dict[str, np.ndarray], folder: Path) -> None:
    """Keep a finished part under its key; it appears there when complete."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{key}.partial.npz"
    np.savez(partial, **arrays)  # type: ignore[arg-type]
    partial.replace(folder / f"{key}.npz")


def load_part(key: str, folder: Path | None) -> dict[str, np.ndarray] | None:
    """Return a part that was kept; None if there is none, or one that was cut off."""
    if folder is None or not (folder / f"{key}.npz").is_file():
        return None
    try:
        with (folder / f"{key}.npz").open("rb") as file, np.load(file, allow_pickle=False) as saved:
            return {name: saved[name] for name in saved.files}
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None  # by a full disk or a power failure: fitted anew

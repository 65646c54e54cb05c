"""Latency: how long a whole fitted decoder takes for one volume and for many."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import joblib
import numpy as np
import sklearn
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from emodecode.errors import InputError

BATCHES = (1, 32, 600)
"""One volume as it arrives, a batch of networks' training, the 600 vectors S2 timed together."""


def measure_latency(
    fitted_pipeline: Pipeline,
    X: np.ndarray,
    subjects: np.ndarray,
    *,
    batches: Sequence[int] = BATCHES,
    n_repeats: int = 200,
    warmup: int = 10,
    name: str = "",
    max_seconds: float = 5.0,
) -> list[dict[str, Any]]:
    """Time ``predict_proba`` of the whole pipeline on one thread, batch by batch.

    S2 timed 600 vectors at once without selection, alignment and scaling (.771 s: 1.29 ms a
    vector); a live decoder gets one volume at a time and goes through all steps.

    Parameters
    ----------
    fitted_pipeline : Pipeline
        Comes back as it was.
    X : ndarray of shape (n_samples, n_voxels)
        Input as the first step gets it. Each call takes the next rows; where there are fewer than
        a batch, they are repeated.
    subjects : ndarray of shape (n_samples,)
        Handed to the steps that ask for subjects.
    batches : sequence of int
        Samples a call.
    n_repeats, warmup : int
        Timed calls, and calls before them that do not count; the very first call is dropped
        in any case and stated.
    name : str
        Of the model.
    max_seconds : float
        For all batches together; fewer calls are timed where it does not suffice, at least 3.

    Returns
    -------
    list of dict
        One entry a batch: ``model n_features batch n_repeats p50_ms p95_ms p99_ms per_vector_ms``
        (the median call divided by the batch), ``first_ms what threads device``.

    Raises
    ------
    InputError
        No samples, no batch, or numbers below 1.
    """
    X, subjects = np.asarray(X), np.asarray(subjects)
    _check(X, subjects, batches, n_repeats, warmup)
    steps = ", ".join(step for step, _ in fitted_pipeline.steps)
    entries = []
    with sklearn.config_context(enable_metadata_routing=True), _one_thread(fitted_pipeline):
        asks = fitted_pipeline.get_metadata_routing().consumes("predict_proba", ["subjects"])
        for batch in batches:
            rows = _rows(len(X), batch)
            calls = [
                (np.ascontiguousarray(X[own]), {"subjects": subjects[own]} if asks else {})
                for own in rows
            ]
            first, times = _time(
                fitted_pipeline, calls, n_repeats, warmup, max_seconds / len(batches)
            )
            p50, p95, p99 = (float(value) for value in np.percentile(times, (50, 95, 99)))
            entries.append(
                {
                    "model": name,
                    "n_features": X.shape[1],
                    "batch": int(batch),
                    "n_repeats": len(times),
                    "p50_ms": p50,
                    "p95_ms": p95,
                    "p99_ms": p99,
                    "per_vector_ms": p50 / batch,
                    "first_ms": first,
                    "what": f"predict_proba of the whole fitted pipeline ({steps}); first call "
                    f"({first:.3g} ms) dropped",
                    "threads": 1,
                    "device": _device(fitted_pipeline),
                }
            )
    return entries


def _time(
    fitted: Pipeline,
    calls: list[tuple[np.ndarray, dict]],
    n_repeats: int,
    warmup: int,
    max_seconds: float,
) -> tuple[float, list[float]]:
    """Milliseconds of the first call, and of the calls after the warm-up."""

    def call(number: int) -> float:
        X, given = calls[number % len(calls)]
        start = time.perf_counter()
        fitted.predict_proba(X, **given)
        return 1000 * (time.perf_counter() - start)

    began = time.perf_counter()
    first = call(0)
    warm = _until(call, range(1, 1 + warmup), began + max_seconds / 4, least=0)
    start = 1 + len(warm)
    return first, _until(call, range(start, start + n_repeats), began + max_seconds, least=3)


def _until(call: Callable[[int], float], numbers: range, end: float, *, least: int) -> list[float]:
    times: list[float] = []
    for number in numbers:
        if len(times) >= least and time.perf_counter() > end:
            break
        times.append(call(number))
    return times


def _rows(n_samples: int, batch: int) -> list[np.ndarray]:
    """Rows of the calls: the samples in turn, repeated where there are fewer than a batch."""
    n_calls = max(1, min(n_samples // batch, 64))
    return [(np.arange(batch) + k * batch) % n_samples for k in range(n_calls)]


@contextlib.contextmanager
def _one_thread(fitted: Pipeline) -> Iterator[None]:
    """Hold linear algebra, joblib, the estimators' own workers and torch to one thread."""
    torch: Any = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    own = {
        key: value
        for key, value in fitted.get_params().items()
        if key.split("__")[-1] == "n_jobs" and value not in (None, 1)
    }
    try:
        fitted.set_params(**dict.fromkeys(own, 1))
        if torch is not None:
            torch.set_num_threads(1)
        with threadpool_limits(1), joblib.parallel_config(n_jobs=1):
            yield
    finally:
        fitted.set_params(**own)
        if torch is not None:
            torch.set_num_threads(before)


def _device(fitted: Pipeline) -> str:
    """Where a network's weights are after its calls; what else asks for a device is asked."""
    modules = getattr(fitted.steps[-1][1], "modules_", None)
    if modules:
        return str(next(modules[0].parameters()).device)
    found = [v for k, v in fitted.get_params().items() if k.split("__")[-1] == "device" and v]
    return str(found[-1]) if found else "cpu"


def _check(
    X: np.ndarray, subjects: np.ndarray, batches: Sequence[int], n_repeats: int, warmup: int
) -> None:
    wrong = ""
    if X.ndim != 2 or not len(X) or subjects.shape != (len(X),):
        wrong = f"X of shape {X.shape} and subjects of shape {subjects.shape}"
    elif not len(batches) or min(batches) < 1:
        wrong = f"batches = {tuple(batches)}"
    elif n_repeats < 1 or warmup < 0:
        wrong = f"n_repeats = {n_repeats}, warmup = {warmup}"
    if wrong:
        raise InputError(
            "measure_latency",
            found=wrong,
            expected="samples with a subject each, batches and n_repeats of at least 1",
            remedy="Pass some rows of the samples and their subjects.",
        )

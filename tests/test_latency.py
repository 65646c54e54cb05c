"""Latency: the right calls are timed, on one thread, and everything is put back."""

import sys
import time
import types

import numpy as np
import pytest
import sklearn
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_info

from emodecode.errors import InputError
from emodecode.evaluate import latency
from emodecode.evaluate.latency import measure_latency
from emodecode.features.scale import VoxelScaler
from emodecode.features.select import TopVoxels

SUBJECTS = np.repeat(["01", "02", "03"], 10)
KEYS = {
    *("model", "n_features", "batch", "n_repeats", "p50_ms", "p95_ms", "p99_ms", "per_vector_ms"),
    *("first_ms", "what", "threads", "device"),
}


class Shifted(TransformerMixin, BaseEstimator):
    """Adds to each sample the number of its subject; remembers what it was asked."""

    def fit(self, X, y=None, *, subjects):
        self.seen_ = []
        return self

    def fit_transform(self, X, y=None, *, subjects):
        return self.fit(X, y, subjects=subjects).transform(X, subjects=subjects)

    def transform(self, X, *, subjects):
        self.seen_.append((np.array(X), list(subjects)))
        return X + np.array(subjects, dtype=int)[:, None]


class Slow(ClassifierMixin, BaseEstimator):
    """Takes a second for its first call, a millisecond and a microsecond a sample after it."""

    def __init__(self, clock=None, n_jobs=None, device=None):
        self.clock = clock
        self.n_jobs = n_jobs
        self.device = device

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.threads_, self.jobs_ = [], []
        return self

    def predict_proba(self, X):
        self.clock.now += 1e-3 + 1e-6 * len(X) if self.threads_ else 1.0
        self.threads_.append({found["num_threads"] for found in threadpool_info()})
        self.jobs_.append(self.n_jobs)
        return np.full((len(X), 2), 0.5)


@pytest.fixture
def clock(monkeypatch):
    """Return a clock that only `Slow` moves."""
    clock = types.SimpleNamespace(now=0.0)
    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(latency, "time", fake)
    return clock


def make_pipeline(model, *, n_features: int = 12) -> tuple[Pipeline, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((len(SUBJECTS), n_features)).astype(np.float32)
    pipeline = Pipeline([("shift", Shifted()), ("model", model)])
    with sklearn.config_context(enable_metadata_routing=True):
        pipeline.named_steps["shift"].set_fit_request(subjects=True)
        pipeline.named_steps["shift"].set_transform_request(subjects=True)
        pipeline.fit(X, np.tile(["a", "b"], 15), subjects=SUBJECTS)
    pipeline.named_steps["shift"].seen_.clear()
    return pipeline, X


def test_times_are_those_of_the_clock(clock):
    pipeline, X = make_pipeline(Slow(clock))
    one, batch, many = measure_latency(pipeline, X, SUBJECTS, n_repeats=20, warmup=4, name="slow")
    assert (batch["batch"], batch["p50_ms"]) == (32, pytest.approx(1.032))
    assert set(one) == set(many) == KEYS
    assert (one["model"], one["n_features"], one["threads"], one["device"]) == (
        *("slow", 12, 1, "cpu"),
    )
    assert (one["batch"], one["n_repeats"]) == (1, 20)
    assert (many["batch"], many["n_repeats"]) == (600, 20)
    assert one["first_ms"] == pytest.approx(1000)
    for entry, expected in ((one, 1.001), (many, 1.6)):
        assert [entry[k] for k in ("p50_ms", "p95_ms", "p99_ms")] == pytest.approx([expected] * 3)
        assert entry["per_vector_ms"] == pytest.approx(expected / entry["batch"])
    assert "first call (1e+03 ms) dropped" in one["what"]
    assert "shift, model" in one["what"]


def test_steps_get_each_row_with_its_own_subject(clock):
    pipeline, X = make_pipeline(Slow(clock))
    measure_latency(pipeline, X, SUBJECTS, batches=(1, 7, 70), n_repeats=8, warmup=0)
    seen = pipeline.named_steps["shift"].seen_
    assert [len(rows) for rows, _ in seen] == [1] * 9 + [7] * 9 + [70] * 9
    by_row = {row.tobytes(): subject for row, subject in zip(X, SUBJECTS, strict=True)}
    for rows, subjects in seen:
        assert [by_row[row.tobytes()] for row in rows] == subjects
    assert len({rows.tobytes() for rows, _ in seen[:9]}) == 9
    assert len({row.tobytes() for row in seen[-1][0]}) == len(X)


def test_time_is_capped_and_at_least_3_calls_count(clock):
    pipeline, X = make_pipeline(Slow(clock))
    capped = measure_latency(pipeline, X, SUBJECTS, batches=(1,), max_seconds=1.05, warmup=0)
    assert 45 <= capped[0]["n_repeats"] <= 52
    pipeline, X = make_pipeline(Slow(clock))
    late = measure_latency(pipeline, X, SUBJECTS, batches=(1,), max_seconds=0.5)
    assert late[0]["n_repeats"] == 3


def test_one_thread_everywhere_and_all_put_back(clock, monkeypatch):
    set_to = [8]
    torch = types.SimpleNamespace(
        get_num_threads=lambda: set_to[-1], set_num_threads=lambda n: set_to.append(n)
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    pipeline, X = make_pipeline(Slow(clock, n_jobs=4, device="cuda:0"))
    before = threadpool_info()
    found = measure_latency(pipeline, X, SUBJECTS, batches=(1,), n_repeats=3, warmup=0)
    model = pipeline.named_steps["model"]
    assert all(threads <= {1} for threads in model.threads_)
    assert set(model.jobs_) == {1}
    assert model.n_jobs == 4
    assert set_to == [8, 1, 8]
    assert found[0]["device"] == "cuda:0"
    assert threadpool_info() == before
    model.clock = None  # a call that fails
    with pytest.raises(AttributeError):
        measure_latency(pipeline, X, SUBJECTS)
    assert (model.n_jobs, set_to[-1]) == (4, 8)


def test_torch_is_not_imported_for_it(clock, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    pipeline, X = make_pipeline(Slow(clock))
    measure_latency(pipeline, X, SUBJECTS, n_repeats=1, warmup=0)
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    "model", [LogisticRegression(), RandomForestClassifier(5, n_jobs=2, random_state=0)]
)
def test_real_pipelines_are_timed_and_unchanged(model):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 40)).astype(np.float32), np.tile(["a", "b", "c"], 10)
    pipeline = Pipeline([("select", TopVoxels(20)), ("scale", VoxelScaler()), ("model", model)])
    pipeline.fit(X, y)
    before, params = pipeline.predict_proba(X), str(pipeline.get_params())
    start = time.perf_counter()
    entries = measure_latency(pipeline, X, SUBJECTS, n_repeats=10, max_seconds=1.0)
    assert time.perf_counter() - start < 3
    for entry in entries:
        assert 0 < entry["p50_ms"] <= entry["p95_ms"] <= entry["p99_ms"]
    assert entries[1]["per_vector_ms"] < entries[0]["per_vector_ms"]
    assert str(pipeline.get_params()) == params
    assert np.array_equal(pipeline.predict_proba(X), before)


@pytest.mark.parametrize(
    "changes",
    [{"X": np.empty((0, 3))}, {"subjects": ["01"]}, {"batches": ()}, {"batches": (0,)},
     {"n_repeats": 0}, {"warmup": -1}],
)  # fmt: skip
def test_what_cannot_be_timed_is_refused(changes, clock):
    pipeline, X = make_pipeline(Slow(clock))
    given = {"X": X, "subjects": SUBJECTS} | changes
    with pytest.raises(InputError, match="measure_latency"):
        measure_latency(pipeline, given.pop("X"), given.pop("subjects"), **given)

"""score: the same as scikit-learn where both apply; nothing of the test is ever seen."""

import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import LeaveOneGroupOut, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from emodecode.align.space import CommonSpace
from emodecode.errors import DataMissingError
from emodecode.evaluate import score as score_module
from emodecode.evaluate import workers
from emodecode.evaluate.score import Candidate, Tuning, fingerprint_samples, score
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.evaluate.workers import describe_pipeline
from emodecode.features.select import TakeColumns
from emodecode.samples import Samples


def make_samples(n_subjects=4, n_blocks=6, effect=0.8, seed=0, stimulus="n/a"):
    rng = np.random.default_rng(seed)
    rows, patterns = [], {"joy": rng.normal(size=12), "fear": rng.normal(size=12)}
    X = []
    for subject in range(n_subjects):
        for run in ("1", "2"):
            for block in range(n_blocks):
                label = ("joy", "fear")[block % 2]
                for k in range(3):
                    volume = block * 3 + k
                    rows.append(
                        {
                            "subject": f"{subject:02d}",
                            "session": "n/a",
                            "run": run,
                            "volume": volume,
                            "onset_s": volume * 10.0,
                            "label": label,
                            "stimulus": stimulus,
                            "stimulus_time_s": (
                                np.nan
                                if stimulus == "n/a"
                                else volume * 10.0 + (run == "2") * 1000.0
                            ),
                            "block": f"{block:02d}",
                            "agreement": 1.0,
                        }
                    )
                    X.append(effect * patterns[label] + rng.normal(size=12))
    return Samples(X=np.asarray(X, dtype=np.float32), table=pd.DataFrame(rows))


def logistic(**params):
    return Pipeline([("scale", StandardScaler()), ("model", LogisticRegression(**params))])


def test_same_predictions_as_scikit_learn():
    samples = make_samples()
    results = score(
        samples,
        leave_one_subject_out(samples.table),
        [Candidate("logistic", logistic())],
        progress=False,
    )
    expected = cross_val_predict(
        logistic(),
        samples.X,
        samples.y,
        groups=samples.subjects,
        cv=LeaveOneGroupOut(),
        method="predict_proba",
    )
    given = np.empty_like(expected)
    given[results.rows] = results.predictions[["p_fear", "p_joy"]].to_numpy()
    np.testing.assert_allclose(given, expected, atol=1e-10)
    assert list(results.predictions.columns) == [
        *("model", "fold", "subject", "run", "volume", "label", "predicted"),
        *("p_fear", "p_joy"),
    ]


def test_neither_processes_nor_order_nor_company_change_a_prediction():
    samples = make_samples()
    splits = leave_one_subject_out(samples.table)
    forest = Candidate("forest", Pipeline([("model", RandomForestClassifier(10))]))
    alone = score(samples, splits, [forest], seed=3, progress=False)
    together = score(
        samples,
        splits,
        [Candidate("logistic", logistic()), forest],
        seed=3,
        n_jobs=2,
        progress=False,
    )
    again = together.predictions.query("model == 'forest'").reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.predictions, again)
    other = score(samples, splits, [forest], seed=4, progress=False)
    assert not np.allclose(other.predictions["p_joy"], alone.predictions["p_joy"])


def test_interrupted_run_goes_on_without_fitting_again(tmp_path, monkeypatch):
    samples = make_samples()
    splits = leave_one_subject_out(samples.table)
    candidates = [Candidate("logistic", logistic())]
    fitted = []
    fit_fold = score_module.fit_fold

    def counting(*args, **kwargs):
        if len(fitted) == 2:
            raise KeyboardInterrupt
        fitted.append(1)
        return fit_fold(*args, **kwargs)

    monkeypatch.setattr(score_module, "fit_fold", counting)
    with pytest.raises(KeyboardInterrupt):
        score(samples, splits, candidates, resume_folder=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.npz"))) == 2
    fitted.clear()
    resumed = score(samples, splits, candidates, resume_folder=tmp_path, progress=False)
    assert len(fitted) == 2, "only the two missing folds are fitted"
    monkeypatch.setattr(score_module, "fit_fold", fit_fold)
    straight = score(samples, splits, candidates, progress=False)
    pd.testing.assert_frame_equal(resumed.predictions, straight.predictions)


def test_latency_of_an_interrupted_run_is_not_lost(tmp_path):
    samples = make_samples()
    splits = leave_one_subject_out(samples.table)
    how = {"resume_folder": tmp_path, "progress": False}
    first = score(samples, splits, [Candidate("logistic", logistic())], **how)
    assert first.latency
    for path in tmp_path.glob("*.npz"):
        with np.load(path) as saved:
            kept = dict(saved)
        info = json.loads(kept["info"].tobytes()) | {"latency": []}
        kept["info"] = np.frombuffer(json.dumps(info).encode(), np.uint8)
        np.savez(path, **kept)
    assert score(samples, splits, [Candidate("logistic", logistic())], **how).latency


def test_long_parameters_count_when_folds_are_looked_for(tmp_path):
    """scikit-learn's repr of a pipeline shortens a long list of columns."""
    samples, (wide, narrow) = make_samples(), (tuple(range(12)) * 8, tuple(range(12)) * 7)
    splits = leave_one_subject_out(samples.table)
    for columns in (wide, narrow):
        steps = [("columns", TakeColumns(columns)), ("classifier", LogisticRegression())]
        candidates = [Candidate("a", Pipeline(steps))]
        score(samples, splits, candidates, resume_folder=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.npz"))) == 2 * len(splits)


def test_fold_that_was_cut_off_is_fitted_anew(tmp_path):
    samples = make_samples()
    splits, candidates = leave_one_subject_out(samples.table), [Candidate("a", logistic())]
    first = score(samples, splits, candidates, resume_folder=tmp_path, progress=False)
    torn = sorted(tmp_path.glob("*.npz"))[1]
    torn.write_bytes(torn.read_bytes()[:100])
    again = score(samples, splits, candidates, resume_folder=tmp_path, progress=False)
    pd.testing.assert_frame_equal(again.predictions, first.predictions)


def test_other_data_or_models_are_not_taken_from_the_resume_folder(tmp_path):
    samples, splits = make_samples(), leave_one_subject_out(make_samples().table)
    score(samples, splits, [Candidate("a", logistic())], resume_folder=tmp_path, progress=False)
    before = len(list(tmp_path.glob("*.npz")))
    score(
        samples, splits, [Candidate("a", logistic(C=2.0))], resume_folder=tmp_path, progress=False
    )
    changed = Samples(X=samples.X + np.float32(1), table=samples.table)
    score(changed, splits, [Candidate("a", logistic())], resume_folder=tmp_path, progress=False)
    assert len(list(tmp_path.glob("*.npz"))) == 3 * before
    assert fingerprint_samples(changed) != fingerprint_samples(samples)


class Recorder(TransformerMixin, BaseEstimator):
    """A subject-aware step that remembers what it was given."""

    __metadata_request__fit = {"subjects": True}  # noqa: RUF012
    __metadata_request__transform = {"subjects": True}  # noqa: RUF012
    seen: ClassVar[list] = []

    def fit(self, X, y, *, subjects):
        self.known_ = set(subjects)
        Recorder.seen.append(("fit", X.copy(), set(subjects)))
        return self

    def fit_transform(self, X, y, *, subjects):
        return self.fit(X, y, subjects=subjects).transform(X, subjects=subjects)

    def transform(self, X, *, subjects):
        unknown = set(subjects) - self.known_
        assert not unknown, f"not adapted to {unknown}"
        return X

    def adapt(self, X, y, subject):
        adapted = Recorder()
        adapted.known_ = self.known_ | {subject}
        Recorder.seen.append(("adapt", X.copy(), {subject}))
        return adapted


def test_subject_aware_steps_get_training_rows_then_the_calibration_rows_only():
    samples = make_samples(stimulus="film")
    splits = subject_by_stimulus(samples.table, groups="run", gap_s=0.0)
    pipeline = Pipeline([("align", Recorder()), ("model", LogisticRegression())])
    Recorder.seen.clear()
    results = score(samples, splits, [Candidate("aligned", pipeline)], progress=False)
    assert len(results.rows) == samples.n_samples
    for fold, split in enumerate(splits):
        (kind, X_fit, known), (adapted, X_calibrate, subject) = Recorder.seen[
            2 * fold : 2 * fold + 2
        ]
        assert (kind, adapted) == ("fit", "adapt")
        np.testing.assert_array_equal(X_fit, samples.X[split.train])
        np.testing.assert_array_equal(X_calibrate, samples.X[split.calibrate])
        assert subject == set(samples.subjects[split.test])
        assert not subject & known


def test_choice_of_parameters_sees_training_rows_only():
    samples = make_samples(n_subjects=5, effect=0.3)
    splits = leave_one_subject_out(samples.table)
    grid = {"model__C": [1e-4, 1e-2, 1.0, 100.0]}
    tuned = Candidate("tuned", logistic(), grid)
    results = score(samples, splits, [tuned], tuning=Tuning(n_folds=4), progress=False)
    assert all(fold["chosen"]["model__C"] in grid["model__C"] for fold in results.folds)
    spoiled = samples.X.copy()
    spoiled[splits[0].test] += 1000
    table = samples.table.copy()
    rows = splits[0].test
    table.loc[rows, "label"] = np.where(table.loc[rows, "label"] == "joy", "fear", "joy")
    other = score(
        Samples(X=spoiled, table=table),
        splits[:1],
        [tuned],
        tuning=Tuning(n_folds=4),
        progress=False,
    )
    assert other.folds[0]["chosen"] == results.folds[0]["chosen"]


def test_grid_point_with_the_best_inner_score_wins():
    samples = make_samples(effect=2.0)
    grid = {"model__C": [1e-9, 1.0]}
    results = score(
        samples,
        leave_one_subject_out(samples.table),
        [Candidate("tuned", logistic(), grid)],
        tuning=Tuning(n_folds=2, metric="log_loss"),
        progress=False,
    )
    assert {fold["chosen"]["model__C"] for fold in results.folds} == {1.0}


def test_warnings_of_a_fit_are_kept_for_the_report():
    samples = make_samples()
    results = score(
        samples,
        leave_one_subject_out(samples.table),
        [Candidate("hasty", logistic(max_iter=1))],
        progress=False,
    )
    assert all("ConvergenceWarning" in fold["warnings"][0] for fold in results.folds)


def test_noise_lands_at_chance():
    accuracies = []
    for seed in range(20):
        samples = make_samples(effect=0.0, seed=seed, n_subjects=6)
        results = score(
            samples,
            leave_one_subject_out(samples.table),
            [Candidate("logistic", logistic())],
            progress=False,
        )
        table = results.predictions
        accuracies.append((table["label"] == table["predicted"]).mean())
    assert np.mean(accuracies) == pytest.approx(0.5, abs=0.02)


def test_unreachable_scheduler_is_an_input_error(monkeypatch):
    monkeypatch.setattr(workers, "CONNECT_TIMEOUT_S", 1)
    samples = make_samples()
    with pytest.raises(DataMissingError, match="no Dask scheduler"):
        score(
            samples,
            leave_one_subject_out(samples.table),
            [Candidate("logistic", logistic())],
            scheduler="tcp://127.0.0.1:9",
            progress=False,
        )


def test_local_dask_cluster_gives_the_same(tmp_path):
    distributed = pytest.importorskip("distributed")
    samples = make_samples()
    splits = leave_one_subject_out(samples.table)
    candidates = [Candidate("logistic", logistic())]
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True
    ) as cluster:
        there = score(
            samples,
            splits,
            candidates,
            scheduler=cluster.scheduler_address,
            resume_folder=tmp_path,
            progress=False,
        )
    here = score(samples, splits, candidates, progress=False)
    pd.testing.assert_frame_equal(there.predictions, here.predictions)
    assert len(list(tmp_path.glob("*.npz"))) == len(splits)


def test_renamed_folds_are_resumed_under_their_new_names(tmp_path):
    samples = make_samples()
    splits = leave_one_subject_out(samples.table)
    candidates = [Candidate("logistic", logistic())]
    score(samples, splits, candidates, resume_folder=tmp_path, progress=False)
    renamed = [replace(split, name=f"new-{split.name}") for split in splits]
    results = score(
        samples,
        renamed,
        [*candidates, Candidate("forest", Pipeline([("model", RandomForestClassifier(5))]))],
        resume_folder=tmp_path,
        progress=False,
    )
    assert len(results.ledger()) == len(splits)
    assert set(results.predictions["fold"]) == {split.name for split in renamed}


def test_most_chosen_parameters_are_those_of_most_folds():
    samples = make_samples()
    results = score(
        samples,
        leave_one_subject_out(samples.table),
        [Candidate("logistic", logistic(), {"model__C": [0.1, 1.0]}), Candidate("a", logistic())],
        progress=False,
    )
    chosen = [fold["chosen"]["model__C"] for fold in results.folds if fold["model"] == "logistic"]
    most = results.most_chosen("logistic")["model__C"]
    assert chosen.count(most) >= len(chosen) / 2
    assert results.most_chosen("a") == {}


def test_what_is_done_of_a_group_stays_when_its_next_decoder_fails(tmp_path):
    """Aligned decoders of a fold are one job; a process keeps each as soon as it is done."""
    samples = make_samples()
    splits = leave_one_subject_out(samples.table)[:1]
    bad = Candidate("bad", logistic(C=-1.0))
    candidates = [Candidate("good", logistic()), bad]
    tasks = score_module._tasks(samples, splits, candidates, Tuning(), 0, tmp_path)
    given = samples.X, samples.table, samples.classes
    with pytest.raises(ValueError, match="'C'"):
        score_module._run_group(*given, tasks, Tuning(), tmp_path)
    assert [path.stem for path in tmp_path.glob("*.npz")] == [tasks[0].key]


def test_keys_of_finished_folds_know_whole_arrays():
    """numpy's repr leaves the middle of long arrays out: two atlases would share their folds."""
    first, second = np.ones(3000, dtype=int), np.ones(3000, dtype=int)
    second[1500] = 2
    described = [
        describe_pipeline(Pipeline([("align", CommonSpace(pieces=pieces))]))
        for pieces in (first, second, first.copy())
    ]
    assert described[0] == described[2]
    assert described[0] != described[1]
    lists = [
        describe_pipeline(Pipeline([("align", CommonSpace(pieces=[pieces, pieces]))]))
        for pieces in (first, second)
    ]
    assert lists[0] != lists[1]

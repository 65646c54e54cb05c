"""Ledger: what is recorded is what each step was handed, whatever the fold meant to hand it."""

import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.model_selection import ParameterGrid
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from designs import blocks, film
from emodecode.errors import InputError
from emodecode.evaluate import score as score_module
from emodecode.evaluate.audit import audit_split
from emodecode.evaluate.calibration import apply_temperature, fit_temperature
from emodecode.evaluate.foldfit import fit_fold
from emodecode.evaluate.inner import inner_splits
from emodecode.evaluate.ledger import Ledger, TracedRows, is_fresh, trace
from emodecode.evaluate.score import Candidate, Tuning, score
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.features.select import TopVoxels
from emodecode.models.catalogue import KINDS, make_pipeline_for
from emodecode.samples import Samples


def noise(table, n_voxels=20, seed=0, effect=0.0):
    rng = np.random.default_rng(seed)
    labels = table["label"].to_numpy()
    X = rng.normal(size=(len(table), n_voxels))
    for number, name in enumerate(sorted(set(labels))):
        X[labels == name, number] += effect
    return Samples(X=X.astype(np.float32), table=table)


def few(n_subjects=5, **options):
    """Few samples: two runs of six blocks of two volumes for each subject."""
    return noise(blocks(n_subjects=n_subjects, n_blocks=6, length=2), **options)


def logistic(**params):
    return Pipeline([("scale", StandardScaler()), ("classifier", LogisticRegression(**params))])


def run(samples, splits, *candidates, **options):
    return score(samples, splits, candidates, progress=False, **options)


def entry(step, kind, rows, **more):
    return {"step": step, "kind": kind, "rows": rows, "recorded": True} | more


def test_entries_name_parts_of_the_fold_only_where_they_are_equal():
    split = leave_one_subject_out(few().table)[0]
    ledger, X = Ledger(), trace(np.zeros((60 * 2, 1)))
    half = len(split.train) // 2
    ledger.saw("scale", "scaler", X[split.train[half:]], fresh=True)
    ledger.saw("scale", "scaler", X[split.train[:half]], fresh=False)
    ledger.saw("select", "selection", split.train[1:][::-1])
    ledger.saw("epochs", "early_stopping", X[split.test])
    ledger.saw("lost", "model", X.T)
    ledger.saw("lost", "model", X[split.train])
    ledger.saw("exchange", "permutation", [], unit="volume")
    found = ledger.entries(split)
    assert found == [
        entry("scale", "scaler", "train", fresh=False),
        entry("select", "selection", split.train[1:].tolist()),
        entry("epochs", "early_stopping", "test"),
        entry("lost", "model", None),
        entry("exchange", "permutation", [], unit="volume"),
    ]
    assert json.loads(json.dumps(found)) == found
    assert ledger.rows() is None


SLOW = {"boosted_trees", "random_forest", "mlp", "conv1d", "s2_conv1d"}
VOLUMES = {kind for kind in KINDS if KINDS[kind].reads_volumes}  # test_volumenet


@pytest.mark.parametrize("kind", sorted(set(KINDS) - SLOW - VOLUMES))
def test_clean_run_is_recorded_as_train_and_accused_of_nothing(kind):
    samples = few(n_subjects=3, n_voxels=60)
    splits = leave_one_subject_out(samples.table)
    pipeline = make_pipeline_for(kind, n_voxels=30, columns=range(50), select_by="subject")
    results = run(samples, splits, Candidate(kind, pipeline))
    kinds = {"columns": "model", "select": "selection", "scale": "scaler", "classifier": "model"}
    expected = [entry(name, kinds[name], "train", fresh=True) for name, _ in clone(pipeline).steps]
    assert results.ledger() == [expected] * len(splits)
    audit = audit_split(samples.table, splits, fitted=results.ledger())
    assert not {"T2", "T3", "T6", "T7", "T14"} & {finding.rule for finding in audit.findings}


def test_equal_entries_of_different_models_appear_once():
    samples = few(n_subjects=3)
    splits = leave_one_subject_out(samples.table)
    grid = {"classifier__C": [0.1, 1.0]}
    results = run(samples, splits, Candidate("a", logistic()), Candidate("b", logistic(), grid))
    assert [own["step"] for own in results.ledger()[0]] == ["scale", "classifier", "tuning"]


def test_selection_fitted_on_all_is_recorded_and_found():
    samples = few(n_subjects=3)
    splits = leave_one_subject_out(samples.table)
    pipeline = make_pipeline_for("lda", n_voxels=10, columns=range(15))
    candidate = Candidate("lda", pipeline, fit_on_all=("select",))
    results = run(samples, splits, candidate)
    everything = list(range(samples.n_samples))
    for own in results.ledger():
        assert own == [
            entry("columns", "model", "train", fresh=True),
            entry("select", "selection", everything, fresh=True),
            entry("scale", "scaler", "train", fresh=True),
            entry("classifier", "model", "train", fresh=True),
        ]
    audit = audit_split(samples.table, splits, fitted=results.ledger())
    (found,) = [finding for finding in audit.findings if finding.rule == "T2"]
    assert (found.verdict, found.n_samples) == ("leak", samples.n_samples)
    assert audit.verdict == "leak"


def test_loop_that_hands_out_test_rows_is_found(monkeypatch):
    samples = few(n_subjects=3)
    splits = leave_one_subject_out(samples.table)

    def careless(pipeline, X, y, table, rows, **options):
        extra = np.setdiff1d(np.arange(len(y)), rows)[:5]
        return fit_fold(pipeline, X, y, table, np.append(rows, extra), **options)

    monkeypatch.setattr(score_module, "fit_fold", careless)
    candidate = Candidate("lda", make_pipeline_for("lda", n_voxels=10))
    results = run(samples, splits, candidate)
    for own, split in zip(results.ledger(), splits, strict=True):
        assert own[0]["rows"] == sorted([*split.train, *split.test[:5]])
    audit = audit_split(samples.table, splits, fitted=results.ledger())
    (found,) = [f for f in audit.findings if f.rule == "T2" and "select" in f.title]
    assert found.n_samples == 5 * len(splits)


@pytest.mark.parametrize("grid", [{}, {"classifier__shrinkage": [0.1, 0.9]}])
def test_selection_on_all_is_of_the_chosen_kind_and_the_rest_of_train(grid):
    """Oracle: select on everything by hand, then fit as usual."""
    samples = few(n_subjects=3, n_voxels=40, effect=0.5)
    splits = leave_one_subject_out(samples.table)
    lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5)
    steps = [("select", SelectKBest(k=7)), ("scale", StandardScaler()), ("classifier", lda)]
    candidate = Candidate("lda", Pipeline(steps), grid, fit_on_all=("select",))
    results = run(samples, splits, candidate)
    X = SelectKBest(k=7).fit_transform(samples.X, samples.y)
    expected = []
    for fold, split in zip(results.folds, splits, strict=True):
        rest = clone(Pipeline(steps[1:])).set_params(**fold["chosen"])
        rest.fit(X[split.train], samples.y[split.train])
        expected.append(rest.predict_proba(X[split.test]))
    given = results.predictions[["p_c0", "p_c1", "p_c2"]].to_numpy()
    np.testing.assert_allclose(given, np.concatenate(expected), atol=1e-6)


class Warm(TransformerMixin, BaseEstimator):
    """A scaler that nobody clones: every fold goes on where the last one stopped."""

    def __sklearn_clone__(self):
        return self

    def fit(self, X, y=None):
        self.mean_ = X.mean(axis=0)
        return self

    def transform(self, X):
        return X - self.mean_


def test_step_that_outlives_its_fold_is_not_fresh():
    samples = few(n_subjects=3)
    splits = leave_one_subject_out(samples.table)
    pipeline = Pipeline([("scale", Warm()), ("classifier", LogisticRegression())])
    fresh = [own[0]["fresh"] for own in run(samples, splits, Candidate("a", pipeline)).ledger()]
    assert fresh == [True, False, False]
    done = FrozenEstimator(StandardScaler().fit(samples.X))
    frozen = Pipeline([("scale", done), ("classifier", LogisticRegression())])
    ledger = run(samples, splits, Candidate("a", frozen)).ledger()
    assert [[each["fresh"] for each in own] for own in ledger] == [[False, True]] * 3
    warm = Pipeline([("scale", Warm()), ("classifier", LogisticRegression())])
    tuned = run(samples, splits, Candidate("a", warm, {"classifier__C": [0.1, 1.0]})).ledger()
    assert [each["fresh"] for each in tuned[0]] == [False, False, True]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_decoder_of_ours_looks_fitted_before_it_is(kind):
    pipeline = make_pipeline_for(kind, n_voxels=3, columns=(0, 1))
    assert all(is_fresh(step) for _, step in pipeline.steps)


def test_tuning_and_temperature_record_the_rows_of_their_inner_folds():
    samples = few(effect=1.0)
    splits = leave_one_subject_out(samples.table)
    candidate = Candidate("a", logistic(), {"classifier__C": [1e-3, 1.0]}, calibrate=True)
    for own in run(samples, splits, candidate).ledger():
        assert own == [
            entry("tuning", "tuning", "train", fresh=True),
            entry("temperature", "calibration", "train", fresh=True),
            entry("scale", "scaler", "train", fresh=True),
            entry("classifier", "model", "train", fresh=True),
        ]


def test_purged_samples_were_not_used_for_tuning():
    """With a common film inner folds purge: the union is then less than the training rows."""
    samples = noise(film(n_subjects=6))
    splits = leave_one_subject_out(samples.table)[:2]
    tuning = Tuning(n_folds=2, gap_s=30.0)
    candidate = Candidate("a", logistic(), {"classifier__C": [1e-3, 1.0]})
    results = run(samples, splits, candidate, tuning=tuning, seed=3)
    for fold, (own, split) in enumerate(zip(results.ledger(), splits, strict=True)):
        seed = score_module.child_seed(3, "a", fold)
        inner = inner_splits(samples.table, split.train, n_folds=2, gap_s=30.0, seed=seed)
        used = np.unique(np.concatenate([np.append(each.train, each.test) for each in inner]))
        assert len(used) < len(split.train)
        assert own[0] == entry("tuning", "tuning", used.tolist(), fresh=True)


def test_selection_on_all_also_reaches_the_choice_of_parameters():
    samples = few(n_subjects=3)
    splits = leave_one_subject_out(samples.table)
    pipeline = make_pipeline_for("lda", n_voxels=10)
    grid = {"select__n_voxels": [5, 10]}
    results = run(samples, splits, Candidate("a", pipeline, grid, fit_on_all=("select",)))
    assert results.ledger()[0][0]["rows"] == list(range(samples.n_samples))


class Centre(TransformerMixin, BaseEstimator):
    """Takes each subject's mean off; unknown subjects have to be adapted to first."""

    __metadata_request__transform = {"subjects": True}  # noqa: RUF012
    __metadata_request__fit = {"subjects": True}  # noqa: RUF012

    def fit(self, X, y, *, subjects):
        assert type(X) is np.ndarray
        self.means_ = {each: X[subjects == each].mean(axis=0) for each in np.unique(subjects)}
        return self

    def fit_transform(self, X, y, *, subjects):
        return self.fit(X, y, subjects=subjects).transform(X, subjects=subjects)

    def transform(self, X, *, subjects):
        assert type(X) is np.ndarray
        return X - np.stack([self.means_[each] for each in subjects])

    def adapt(self, X, y, subject):
        assert type(X) is np.ndarray
        adapted = Centre()
        adapted.means_ = self.means_ | {subject: X.mean(axis=0)}
        return adapted


def test_adaptation_records_the_calibration_rows():
    samples = noise(film(n_subjects=4))
    splits = subject_by_stimulus(samples.table, groups="run", gap_s=0.0)
    assert len(splits[0].calibrate)
    steps = [("scale", StandardScaler()), ("align", Centre()), ("classifier", LogisticRegression())]
    for own in run(samples, splits, Candidate("a", Pipeline(steps))).ledger():
        assert own == [
            entry("scale", "scaler", "train", fresh=True),
            entry("align", "alignment", "train", fresh=True),
            entry("classifier", "model", "train", fresh=True),
            entry("align", "calibration", "calibrate"),
        ]


class Doubler(TransformerMixin, BaseEstimator):
    """Returns other samples than it was given while it is fitted."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return X[::-1][: len(X) - 1]


class Constant(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.full((len(X) + 1, len(self.classes_)), 1 / len(self.classes_))


def test_step_that_changes_the_samples_makes_the_next_rows_unknown():
    samples = few(n_subjects=3)
    pipeline = Pipeline([("resample", Doubler()), ("classifier", Constant())])
    own = run(samples, leave_one_subject_out(samples.table)[:1], Candidate("a", pipeline)).ledger()
    assert own == [
        [
            entry("resample", "resampler", "train", fresh=True),
            entry("classifier", "model", None, fresh=True),
        ]
    ]


class Curious(StandardScaler):
    """Refuses an array that is not plain."""

    def fit(self, X, y=None):
        assert type(X) is np.ndarray
        return super().fit(X, y)


def test_fitted_attributes_are_plain_arrays():
    samples = few()
    rows = np.arange(80)
    pipeline = Pipeline(
        [("select", TopVoxels(10)), ("scale", Curious()), ("classifier", LogisticRegression())]
    )
    fitted = fit_fold(pipeline, samples.X, samples.y, samples.table, rows)
    for kind in ("lda", "rbf_svm"):
        gram = make_pipeline_for(kind)
        wide = noise(samples.table, n_voxels=300)
        fitted_wide = fit_fold(gram, wide.X, wide.y, wide.table, rows)
        fitted.steps += [(kind, fitted_wide.steps[-1][1])]
    for _, step in fitted.steps:
        assert not any(isinstance(value, TracedRows) for value in vars(step).values())


def _by_hand(samples, splits, candidate, *, tuning, seed):
    """Score by scikit-learn alone: clone, fit, predict; the grid one point and fold at a time."""
    found = []
    for fold, split in enumerate(splits):
        child = score_module.child_seed(seed, candidate.name, fold)
        inner = inner_splits(
            samples.table, split.train, n_folds=tuning.n_folds, gap_s=tuning.gap_s, seed=child
        )

        def predict(point, train, test):
            model = clone(candidate.pipeline).set_params(**point)
            model.fit(samples.X[train], samples.y[train])
            return model.predict_proba(samples.X[test])

        points = list(ParameterGrid(candidate.grid))
        inner_given = [[predict(p, each.train, each.test) for each in inner] for p in points]
        values = [
            np.mean(
                [
                    balanced_accuracy_score(
                        samples.y[each.test], np.array(samples.classes)[p.argmax(axis=1)]
                    )
                    for each, p in zip(inner, given, strict=True)
                ]
            )
            for given in inner_given
        ]
        best = int(np.argmax(values))
        given = predict(points[best], split.train, split.test)
        if candidate.calibrate:
            truth = np.concatenate([samples.y[each.test] for each in inner])
            pooled = np.concatenate(inner_given[best])
            given = apply_temperature(
                given, fit_temperature(pooled, truth, classes=samples.classes)
            )
        found.append(given)
    return np.concatenate(found)


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("grid", [{}, {"classifier__C": [1e-4, 1e-2, 1.0], "select__k": [3, 9]}])
def test_same_numbers_as_scikit_learn_alone(grid, calibrate):
    samples = few(n_subjects=4, effect=0.7)
    splits, tuning = leave_one_subject_out(samples.table), Tuning(n_folds=2)
    steps = [("select", SelectKBest(k=9)), *logistic(tol=1e-8).steps]
    candidate = Candidate("a", Pipeline(steps), grid, calibrate=calibrate)
    results = run(samples, splits, candidate, tuning=tuning, seed=5)
    given = results.predictions[["p_c0", "p_c1", "p_c2"]].to_numpy()
    expected = _by_hand(samples, splits, candidate, tuning=tuning, seed=5)
    np.testing.assert_allclose(given, expected, atol=1e-6)
    assert (results.folds[0]["temperature"] is not None) == calibrate


def test_temperature_tames_a_decoder_that_is_too_sure():
    samples = few(n_subjects=6, effect=0.4)
    splits = leave_one_subject_out(samples.table)
    sure = logistic(C=1e4)
    results = run(samples, splits, Candidate("raw", sure), Candidate("mild", sure, calibrate=True))
    losses = {}
    for name, own in results.predictions.groupby("model"):
        p = own[["p_c0", "p_c1", "p_c2"]].to_numpy()  # sums to 1 in float32 only
        losses[name] = log_loss(own["label"], p / p.sum(axis=1, keepdims=True))
    assert losses["mild"] < losses["raw"]
    predicted = [own["predicted"].tolist() for _, own in results.predictions.groupby("model")]
    assert predicted[0] == predicted[1]
    assert all(f["temperature"] > 1 for f in results.folds if f["model"] == "mild")


def test_ledger_of_two_processes_is_that_of_one(tmp_path):
    samples = few(n_subjects=4)
    splits = leave_one_subject_out(samples.table)
    candidates = [
        Candidate("tuned", logistic(), {"classifier__C": [0.1, 1.0]}, calibrate=True),
        Candidate("leak", make_pipeline_for("lda", n_voxels=9), fit_on_all=("select",)),
    ]
    alone = run(samples, splits, *candidates, resume_folder=tmp_path)
    resumed = run(samples, splits, *candidates, resume_folder=tmp_path)
    both = run(samples, splits, *candidates, n_jobs=2)
    assert alone.ledger() == both.ledger() == resumed.ledger()
    assert [f["temperature"] for f in alone.folds] == [f["temperature"] for f in both.folds]


def test_leak_and_temperature_are_part_of_the_resume_key(tmp_path):
    samples = few(n_subjects=3)
    splits = leave_one_subject_out(samples.table)
    pipeline = make_pipeline_for("lda", n_voxels=5)
    forms = [{}, {"fit_on_all": ("select",)}, {"calibrate": True}]
    for form in forms:
        run(samples, splits, Candidate("a", pipeline, **form), resume_folder=tmp_path)
    assert len(list(tmp_path.glob("*.npz"))) == len(forms) * len(splits)


@pytest.mark.parametrize("name", ["selekt", "classifier"])
def test_unknown_steps_to_fit_on_all_are_refused(name):
    with pytest.raises(InputError, match="steps before the classifier"):
        Candidate("a", make_pipeline_for("lda", n_voxels=5), fit_on_all=(name,))


def test_selection_on_all_scores_on_noise_and_inside_the_folds_does_not():
    scores = {"inside": [], "outside": []}
    pipeline = make_pipeline_for("lda", n_voxels=50)
    for seed in range(4):
        samples = few(n_subjects=5, n_voxels=5000, seed=seed)
        splits = leave_one_subject_out(samples.table)
        inside = Candidate("inside", pipeline)
        outside = Candidate("outside", pipeline, fit_on_all=("select",))
        for name, own in run(samples, splits, inside, outside).predictions.groupby("model"):
            scores[name].append((own["label"] == own["predicted"]).mean())
    assert np.mean(scores["inside"]) == pytest.approx(1 / 3, abs=0.07)
    assert min(scores["outside"]) > 0.75
    assert np.mean(scores["inside"]) < np.mean(scores["outside"]) - 0.4

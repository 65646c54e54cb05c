"""Controls: each fails on the leak that it is for, and lands at chance without one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import Pipeline
from statsmodels.stats.multitest import multipletests

from designs import blocks, film, rows_table
from emodecode.errors import InputError
from emodecode.evaluate import controls
from emodecode.evaluate.audit import add_controls, audit_split
from emodecode.evaluate.controls import run_controls, scene_labels
from emodecode.evaluate.exchange import make_exchange, permuted_labels
from emodecode.evaluate.overlap import pooled_scores
from emodecode.evaluate.scenes import find_scenes
from emodecode.evaluate.score import Candidate, score
from emodecode.evaluate.splits import (
    leave_one_subject_out,
    leave_run_out,
    shuffled,
    subject_by_stimulus,
)
from emodecode.evaluate.timeonly import time_only_null, time_only_predictions
from emodecode.evaluate.verdicts import holm
from emodecode.models.catalogue import make_pipeline_for
from emodecode.samples import Samples
from emodecode.simulate.samples import simulate_samples
from emodecode.simulate.signals import autoregressive


def _noise(table, *, seed=0, n_voxels=40):
    rng = np.random.default_rng(seed)
    X = autoregressive(rng, (len(table), n_voxels), rho=0.5, dtype=np.float32)
    return Samples(X=X, table=table)


def _lda(*, n_voxels=None, fit_on_all=(), name="lda"):
    return Candidate(name, make_pipeline_for("lda", n_voxels=n_voxels), fit_on_all=fit_on_all)


def _run(samples, splits, candidates, **options):
    results = score(samples, splits, candidates, progress=False)
    return run_controls(samples, splits, candidates, results=results, progress=False, **options)


def _by_name(controls):
    return {control.name: control for control in controls}


def _film(seed=0, n_subjects=5, decoy=0.5):
    return simulate_samples(
        design="movie",
        code="null",
        decoy=decoy,
        n_subjects=n_subjects,
        n_runs=4,
        n_volumes=60,
        scene_s=(8.0, 16.0),
        average="none",
        seed=seed,
    )


def _quarter(table):
    """A tenth of the rows: one volume of each block."""
    return table[table.groupby(["subject", "run", "block"]).cumcount() == 4].reset_index(drop=True)


# the time-only decoder


def test_time_only_is_the_nearest_training_sample_on_the_stimulus_clock():
    table = film(n_subjects=3, shift_s=0.3)
    splits = [*shuffled(table, test_share=0.5), *leave_one_subject_out(table)]
    found = time_only_predictions(table, splits)
    moment, label = table["stimulus_time_s"].to_numpy(), table["label"].to_numpy()
    columns, start = [f"p_{name}" for name in sorted(set(label))], 0
    for split in splits:
        given = found[columns].to_numpy()[start : start + len(split.test)]
        for row, p in zip(split.test, given, strict=True):
            away = np.abs(moment[split.train] - moment[row])
            near = label[split.train][away <= away.min() + 1e-6]
            shares = [(near == name).mean() for name in sorted(set(label))]
            np.testing.assert_allclose(p, shares)
        start += len(split.test)
    assert (found["row"] == np.concatenate([split.test for split in splits])).all()
    assert (found["label"] == label[found["row"]]).all()


def test_two_clocks_that_touch_are_kept_apart():
    table = film(n_subjects=2, segments=((0, 100),)).assign(
        stimulus=["one"] * 50 + ["two"] * 50, label=["a"] * 50 + ["b"] * 50
    )
    split = replace(leave_one_subject_out(film(2, ((0, 100),)))[0])
    split = replace(split, train=np.r_[0:25, 50:75], test=np.r_[25:50, 75:100])
    found = time_only_predictions(table, [split])
    assert (found["predicted"] == found["label"]).all()
    assert set(found["p_a"]) == {0.0, 1.0}


def test_time_only_by_subject_and_its_fallbacks():
    own = blocks(order="own")
    splits = shuffled(own)
    same = pooled_scores(time_only_predictions(own, splits, clock="subject"))
    pooled = pooled_scores(time_only_predictions(own, splits, clock="stimulus"))
    assert same["balanced_accuracy"] > 0.9 > 0.5 > pooled["balanced_accuracy"]
    common = blocks(order="common")
    splits = leave_one_subject_out(common)
    for clock in ("stimulus", "subject"):  # neither stimulus nor own run: the run of that name
        found = time_only_predictions(common, splits, clock=clock)
        assert (found["predicted"] == found["label"]).all()
    rows = rows_table()
    assert time_only_predictions(rows, leave_one_subject_out(rows)).empty
    with pytest.raises(InputError, match="clock = 'sun'"):
        time_only_predictions(own, splits, clock="sun")


def test_null_of_time_only_is_that_of_the_decoder_on_exchanged_labels():
    table = _quarter(blocks(n_subjects=4))
    splits = leave_one_subject_out(table)
    drawn = time_only_null(table, splits, n_permutations=7, seed=0)
    own = table.assign(run=table["subject"] + table["run"])
    exchange = make_exchange(own, classes=["c0", "c1", "c2"])
    first = int(np.random.SeedSequence(0).generate_state(2)[0] >> 1)
    labels = permuted_labels(exchange, n_permutations=7, seed=first)[:, exchange.slot]
    for codes, value in zip(labels, drawn, strict=True):
        exchanged = table.assign(label=np.array(["c0", "c1", "c2"])[codes])
        found = time_only_predictions(exchanged, splits)
        right = found["label"] == found["predicted"]
        recall = right.groupby([found["subject"], found["label"]]).mean()
        assert recall.groupby("subject").mean().mean() == pytest.approx(value)


def test_blocks_on_two_sides_do_not_raise_the_null_of_time_only():
    table = blocks(n_subjects=4)
    drawn = time_only_null(table, shuffled(table), clock="subject", n_permutations=200)
    assert drawn.mean() == pytest.approx(1 / 3, abs=0.03)
    assert drawn.max() < 0.7


def test_few_positions_voted_by_many_subjects_are_not_accused():
    p = []
    for seed in range(40):
        table = blocks(n_subjects=12, n_blocks=10, length=1, n_classes=2, seed=seed)
        splits = leave_one_subject_out(table)
        found = time_only_predictions(table, splits)
        right = found["label"] == found["predicted"]
        value = right.groupby([found["subject"], found["label"]]).mean().mean()
        drawn = time_only_null(table, splits, n_permutations=99, seed=seed)
        p.append((1 + (drawn >= value - 1e-9).sum()) / 100)
    assert (np.array(p) <= 0.05).sum() <= binom.ppf(0.999, len(p), 0.05)
    assert np.mean(p) == pytest.approx(0.5, abs=0.15)


# scenes


def test_scenes_are_the_same_for_all_and_end_with_label_and_gap():
    table = film(n_subjects=3)
    scene = find_scenes(table)
    moment = table["stimulus_time_s"].to_numpy()
    np.testing.assert_array_equal(scene, np.unique(moment // 20, return_inverse=True)[1])
    holey = table[(moment < 100) | (moment > 110)].assign(label="c0").reset_index(drop=True)
    late = holey["stimulus_time_s"].to_numpy() > 105
    np.testing.assert_array_equal(find_scenes(holey), late.astype(int))
    pictures = table.assign(stimulus_time_s=np.nan, stimulus=table["block"])
    codes = pd.factorize(pictures["stimulus"], sort=True)[0]
    np.testing.assert_array_equal(find_scenes(pictures), codes)


def test_scene_labels_keep_the_number_of_scenes_of_each_class():
    table = film(n_subjects=3)
    scene = find_scenes(table)
    first = np.unique(scene, return_index=True)[1]
    drawn = scene_labels(table, seed=1)
    np.testing.assert_array_equal(drawn, drawn[first][scene])
    assert sorted(drawn[first]) == sorted(table["label"].to_numpy()[first])
    assert (drawn != table["label"]).any()
    np.testing.assert_array_equal(drawn, scene_labels(table, seed=1))
    assert (drawn != scene_labels(table, seed=2)).any()


def test_scene_control_fails_where_only_subjects_are_held_out():
    samples = _film()
    table = samples.table
    found = _by_name(_run(samples, leave_one_subject_out(table), [_lda()]))
    assert found["scene"].passed is False
    assert found["time_only"].passed is False
    assert found["noise_replay"].passed
    assert found["canary"].passed
    held_out = _by_name(_run(samples, subject_by_stimulus(table), [_lda()]))
    assert all(control.passed for control in held_out.values()), held_out
    assert len(held_out) == 5


# noise replay and canary


def test_selection_on_all_samples_is_found():
    table = _quarter(blocks(n_subjects=6, n_runs=2, n_blocks=9))
    samples, splits = _noise(table, n_voxels=1500), leave_one_subject_out(table)
    leaky = _by_name(_run(samples, splits, [_lda(n_voxels=40, fit_on_all=("select",))]))
    assert leaky["noise_replay"].value > 0.6
    assert leaky["noise_replay"].p_corrected <= 0.001
    assert leaky["noise_replay"].passed is False
    honest = _by_name(_run(samples, splits, [_lda(n_voxels=40)]))
    assert honest["noise_replay"].passed
    assert abs(honest["noise_replay"].value - 1 / 3) < 0.15
    audit = add_controls(audit_split(table, splits), list(leaky.values()), share=1.0)
    assert audit.verdict == "leak"
    assert add_controls(audit_split(table, splits), list(honest.values()), share=1.0).controls


def test_neighbours_in_time_are_found_by_noise_and_clock():
    table = blocks(n_subjects=4, n_runs=1)
    table["onset_s"] *= 0.2
    X = np.cumsum(_noise(table, n_voxels=20).X, axis=0).astype(np.float32)
    found = _by_name(_run(Samples(X=X, table=table), shuffled(table), [_lda()]))
    assert found["time_only"].passed is False
    assert found["time_only"].p_corrected <= 0.001
    honest = leave_one_subject_out(table)
    assert _by_name(_run(Samples(X=X, table=table), honest, [_lda()]))["time_only"].passed


class _Marked(TransformerMixin, BaseEstimator):
    """Puts the labels of all rows that it was fitted on beside them, as a bad alignment may."""

    def fit(self, X, y):
        """Learn every row by heart."""
        self.classes_ = np.unique(y)
        self.known_ = {row.tobytes(): label for row, label in zip(X, y, strict=True)}
        return self

    def transform(self, X):
        """Give the remembered label as columns."""
        own = np.array([self.known_.get(row.tobytes(), "") for row in X])
        return (own[:, None] == self.classes_).astype(np.float32)


def test_a_step_fitted_with_the_test_subject_kills_the_canary():
    table = _quarter(blocks(n_subjects=6))
    samples, splits = _noise(table), leave_one_subject_out(table)
    steps = [("align", _Marked()), *make_pipeline_for("lda").steps]
    leaky = Candidate("leaky", Pipeline(steps), fit_on_all=("align",))
    found = [each for each in _run(samples, splits, [leaky, _lda()]) if each.name == "canary"]
    assert {each.model: each.passed for each in found} == {"leaky": False, "lda": True}
    assert found[0].value > 0.9


# confounds


def test_motion_that_follows_the_labels_is_found():
    table = blocks(n_subjects=5)
    samples, splits = _noise(table), leave_one_subject_out(table)
    rng = np.random.default_rng(0)
    still = pd.DataFrame(rng.standard_normal((len(table), 6)), columns=list("abcdef"))
    still.iloc[0, 0] = np.nan
    locked = still.assign(b=still["b"] + 2.0 * (table["label"] == "c1"))
    found = _by_name(_run(samples, splits, [_lda()], confounds=locked))["confounds"]
    assert found.passed is False
    assert found.rule == "T13"
    assert "6 confounds such as motion, the global signal and time in the run" in found.sentence
    audit = add_controls(audit_split(table, splits), [found], share=1.0)
    assert audit.verdict == "caution"
    assert _by_name(_run(samples, splits, [_lda()], confounds=still))["confounds"].passed
    with pytest.raises(InputError, match="3 rows"):
        _run(samples, splits, [_lda()], confounds=still.iloc[:3])


# what is asked and how


def test_tables_of_features_leave_time_and_confounds_unasked():
    table = rows_table()
    samples = replace(_noise(table), features=tuple(f"f{k}" for k in range(40)))
    found = _by_name(_run(samples, leave_one_subject_out(table), [_lda()]))
    assert "scene" not in found
    for name in ("time_only", "confounds"):
        assert found[name].passed is None
        assert "not asked" in found[name].sentence
        assert found[name].p is None
    assert found["noise_replay"].passed
    assert found["canary"].passed


def test_dummies_are_left_out_and_the_share_sets_the_folds():
    table = _quarter(blocks(n_subjects=6))
    samples, splits = _noise(table), leave_one_subject_out(table)
    models = [_lda(), Candidate("dummy", make_pipeline_for("dummy")), _lda(name="other")]
    for share, folds, repeats in ((0.01, 1, 1), (1.0, 3, 1), (4.0, 6, 2)):
        found = [c for c in _run(samples, splits, models, share=share) if c.name == "canary"]
        assert [(c.model, c.n_folds, c.n_repeats) for c in found] == [
            ("lda", folds, repeats),
            ("other", folds, repeats),
        ]
        assert all(c.seconds > 0 and c.low <= c.value <= c.high for c in found if folds > 1)


def test_designs_with_too_few_labellings_cannot_pass():
    table = blocks(n_subjects=2, n_runs=1, n_blocks=2, n_classes=2, order="own")
    found = _run(_noise(table), leave_one_subject_out(table), [_lda()])
    assert all(control.passed is None for control in found)
    assert "too few ways" in found[0].sentence


def test_controls_do_not_depend_on_order_and_resume(tmp_path):
    table = _quarter(blocks(n_subjects=4))
    samples, splits = _noise(table), leave_one_subject_out(table)
    models = [_lda(), Candidate("ridge", make_pipeline_for("ridge"))]
    plain = [replace(each, seconds=0) for each in _run(samples, splits, models)]
    kept = [
        [replace(c, seconds=0) for c in _run(samples, splits, models, resume_folder=tmp_path)]
        for _ in range(2)
    ]
    assert kept[0] == kept[1] == plain
    assert len(list(tmp_path.glob("*.npz"))) == 12  # 2 + 2 folds of two models, 4 of confounds
    other = [replace(each, seconds=0) for each in _run(samples, splits, models[::-1])]
    assert {(c.name, c.model): c for c in other} == {(c.name, c.model): c for c in plain}
    with pytest.raises(AttributeError):
        plain[0].passed = True
    assert plain[0].to_json()["name"] == "time_only"


def test_holm_is_that_of_statsmodels():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7):
        p = rng.random(n) ** 3
        np.testing.assert_allclose(holm(p.tolist()), multipletests(p, method="holm")[1])


@pytest.mark.parametrize("split", ["subjects", "runs", "film"])
def test_clean_designs_are_not_accused(split):
    failed, n = 0, 6 if split == "film" else 12
    for seed in range(n):
        if split == "film":
            samples = _film(seed=seed, n_subjects=3)
            splits = subject_by_stimulus(samples.table)
        else:
            table = _quarter(blocks(n_subjects=5, n_runs=2, n_blocks=9, seed=seed))
            samples = _noise(table, seed=seed)
            splits = (leave_one_subject_out if split == "subjects" else leave_run_out)(table)
        found = _run(samples, splits, [_lda()], seed=seed)
        failed += any(control.passed is False for control in found)
    assert failed <= binom.ppf(0.999, n, 0.05)


def test_votes_of_the_true_labels_do_not_reach_the_scene_control():
    table = film(n_subjects=4)
    names = sorted(set(table["label"]))
    table = table.assign(**{f"p_{name}": 0.1 + 0.7 * (table["label"] == name) for name in names})
    samples = Samples(X=np.zeros((len(table), 2), np.float32), table=table)
    splits = leave_one_subject_out(table)
    study = controls._Study(samples, splits, [], None, 0, {})
    drawn = controls._scene_table(study, splits, 0)
    assert (drawn["label"] != table["label"]).any()
    for name in names:
        np.testing.assert_array_equal(drawn[f"p_{name}"], (drawn["label"] == name).astype(float))

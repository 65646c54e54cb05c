"""Alignment data: which volumes a fold may use, what they show, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from emodecode.align.space import CommonSpace
from emodecode.errors import InputError
from emodecode.evaluate.alignable import check_alignment, check_inner_alignment
from emodecode.evaluate.alignfold import (
    aligned_fold,
    calibration_part,
    connectivity,
    with_calibration,
)
from emodecode.evaluate.alignment import (
    Alignment,
    alignment_of,
    alignment_of_samples,
    check_time_locked,
    class_keys,
    replayed,
    split_off_unlabelled,
)
from emodecode.evaluate.fold import NOTHING, Split
from emodecode.evaluate.foldfit import Tuning
from emodecode.evaluate.splits import leave_one_subject_out, subject_by_stimulus
from emodecode.samples import TABLE_COLUMNS, TEXT_COLUMNS, Samples
from emodecode.simulate.samples import simulate_samples


def _film(n_subjects=4, n_runs=2, n_volumes=60, *, every=3) -> tuple[Samples, Samples]:
    """Samples of a film (every third volume labelled) and all its volumes."""
    rows = []
    for subject in range(n_subjects):
        for run in range(n_runs):
            for volume in range(n_volumes):
                rows.append((f"{subject:02d}", f"{run + 1}", volume))
    table = pd.DataFrame(rows, columns=["subject", "run", "volume"])
    for name in TABLE_COLUMNS:
        if name not in table:
            table[name] = "n/a" if name in TEXT_COLUMNS else np.nan
    table["onset_s"] = table["volume"] * 2.0
    X = np.random.default_rng(0).standard_normal((len(table), 8)).astype(np.float32)
    volumes = Samples(X=X, table=table)
    kept = np.flatnonzero(table["volume"] % every == 0)
    labelled = table.iloc[kept].reset_index(drop=True)
    labelled["label"] = np.where(labelled["volume"] // 15 % 2 == 0, "a", "b")
    labelled["block"] = (labelled["volume"] // 15).astype(str)
    labelled["stimulus"] = "film"
    runs = labelled["run"].astype(int) - 1
    labelled["stimulus_time_s"] = labelled["onset_s"] + runs * n_volumes * 2.0
    return Samples(X=X[kept], table=labelled), volumes


def test_volumes_that_are_samples_are_known_by_their_row():
    samples, volumes = _film()
    found = alignment_of(samples, volumes)
    known = np.flatnonzero(found.row >= 0)
    np.testing.assert_array_equal(found.X[known], samples.X[found.row[known]])
    assert len(known) == samples.n_samples
    assert (volumes.table["volume"].to_numpy()[known] % 3 == 0).all()


def test_independent_run_leaves_the_tested_run_out_in_every_subject():
    samples, volumes = _film()
    found = alignment_of(samples, volumes)
    for split in subject_by_stimulus(samples.table, groups="run"):
        run = set(samples.table["run"].iloc[split.test])
        usable = found.usable(samples.table, split.test)
        assert set(volumes.table["run"][usable]) == {"1", "2"} - run
        assert set(volumes.table["subject"][usable]) == set(samples.subjects)


def test_where_parts_of_one_run_are_tested_volumes_near_them_are_left_out():
    samples, volumes = _film(n_runs=1)
    found = alignment_of(samples, volumes)
    test = np.flatnonzero((samples.subjects == "01") & (samples.table["volume"] < 15))
    usable = found.usable(samples.table, test)
    last_s = samples.table["onset_s"].iloc[test].max()
    assert usable.any()
    assert volumes.table["onset_s"][usable].min() > last_s + 30
    near = volumes.table["onset_s"] <= last_s + 30
    assert not usable[near].any()  # of no subject


def test_an_outer_fold_narrows_what_an_inner_fold_may_use():
    samples, volumes = _film(n_runs=3)
    found = alignment_of(samples, volumes)
    outer = found.usable(samples.table, np.flatnonzero(samples.table["run"] == "1"))
    inner = found.usable(samples.table, np.flatnonzero(samples.table["run"] == "2"), within=outer)
    assert set(volumes.table["run"][inner]) == {"3"}


def test_a_film_of_its_own_serves_every_fold_whole():
    both = simulate_samples(film_volumes=40, n_subjects=3, seed=1)
    samples, film = split_off_unlabelled(both)
    found = alignment_of(samples, film)
    assert (found.row == -1).all()
    for split in leave_one_subject_out(samples.table):
        assert found.usable(samples.table, split.test).all()


def test_transductive_uses_the_tested_rows_and_connectivity_other_scans_only():
    samples, volumes = _film()
    split = subject_by_stimulus(samples.table, groups="run")[0]
    everything = alignment_of_samples(samples, protocol="transductive")
    assert everything.usable(samples.table, split.test)[split.test].all()
    apart = alignment_of(samples, volumes, protocol="connectivity")
    usable = apart.usable(samples.table, split.test)
    tested = samples.table.iloc[split.test[0]]
    own = (volumes.table["subject"] == tested["subject"]) & (volumes.table["run"] == tested["run"])
    np.testing.assert_array_equal(usable, ~own)


def test_calibration_blocks_use_training_and_calibration_rows_only():
    samples, _ = _film()
    found = alignment_of_samples(samples, protocol="calibration_blocks")
    splits = with_calibration(leave_one_subject_out(samples.table), samples.table)
    for split in splits:
        fold = aligned_fold(found, samples.table, split)
        np.testing.assert_array_equal(
            np.flatnonzero(fold.usable), np.sort(np.r_[split.train, split.calibrate])
        )
        assert set(samples.table["run"].iloc[split.calibrate]) == {"1"}
        assert set(samples.table["run"].iloc[split.test]) == {"2"}


def test_a_named_run_calibrates():
    samples, _ = _film()
    calibrate, test = calibration_part(
        samples.table, np.flatnonzero(samples.subjects == "02"), run="2"
    )
    assert set(samples.table["run"].iloc[calibrate]) == {"2"}
    assert set(samples.table["run"].iloc[test]) == {"1"}


def test_the_named_run_calibrates_in_inner_folds_too():
    samples, _ = _film()
    found = alignment_of_samples(samples, protocol="calibration_blocks", calibration_run="2")
    split = with_calibration(leave_one_subject_out(samples.table), samples.table, run="2")[0]
    fold = aligned_fold(found, samples.table, split)
    for subject in ("01", "02"):
        own = samples.subjects[split.train] == subject
        inner, judged = fold.inner(Split(split.train[~own], NOTHING, split.train[own]))
        assert set(samples.table["run"].iloc[judged]) == {"1"}
        used = samples.table[inner.usable & (samples.subjects == subject)]
        assert set(used["run"]) == {"2"}


def test_where_the_named_run_is_the_only_one_its_blocks_are_divided():
    samples, _ = _film(n_volumes=90)
    one = np.flatnonzero((samples.subjects == "02") & (samples.table["run"] == "1"))
    calibrate, test = calibration_part(samples.table, one, run="1")
    assert set(samples.table["block"].iloc[calibrate]) == {"0", "1", "2"}
    assert set(samples.table["block"].iloc[test]) == {"3", "4", "5"}


def test_inner_folds_that_would_judge_nothing_are_left_out():
    samples, _ = _film(n_runs=1)
    found = alignment_of_samples(samples, protocol="calibration_blocks")
    split = leave_one_subject_out(samples.table)[0]
    fold = aligned_fold(found, samples.table, split)
    block = samples.table["block"].to_numpy() == "0"
    whole, single = (
        Split(split.train[subjects != "01"], NOTHING, split.train[(subjects == "01") & kept])
        for subjects in [samples.subjects[split.train]]
        for kept in (np.ones(len(split.train), dtype=bool), block[split.train])
    )
    assert [each[0] for each in fold.inner_folds([whole, single])] == [whole]
    with pytest.raises(InputError, match="every sample of the inner test subjects calibrates"):
        list(fold.inner_folds([single]))


@pytest.mark.parametrize("lacks", [False, True])
def test_folds_that_cannot_be_aligned_are_refused_before_anything_is_fitted(lacks):
    """Without a task of its own nothing is left of a subject whose runs are all tested."""
    samples, volumes = _film()
    if lacks:
        kept = ~((samples.subjects == "01") & (samples.table["run"] == "2")).to_numpy()
        table = samples.table[kept].reset_index(drop=True)
        samples = Samples(X=samples.X[kept], table=table)
        kept = ~((volumes.table["subject"] == "01") & (volumes.table["run"] == "2")).to_numpy()
        volumes = Samples(X=volumes.X[kept], table=volumes.table[kept].reset_index(drop=True))
    blind = Samples(X=np.empty((volumes.n_samples, 0), dtype=np.float32), table=volumes.table)
    found = alignment_of(samples, blind)
    splits = leave_one_subject_out(samples.table)
    with pytest.raises(InputError, match=r"fold sub-0\d: alignment \(independent_run\): sub-0"):
        check_alignment(found, samples.table, splits)
    by_run = subject_by_stimulus(samples.table, groups="run")
    if lacks:
        with pytest.raises(InputError, match=r"sub-01: no volume that this fold may use"):
            check_alignment(found, samples.table, by_run)
    else:
        check_alignment(found, samples.table, by_run)


def test_inner_folds_with_one_training_subject_are_refused_before_anything_is_fitted():
    for n_subjects in (3, 6):
        both = simulate_samples(film_volumes=40, n_subjects=n_subjects, seed=1)
        samples, film = split_off_unlabelled(both)
        splits = leave_one_subject_out(samples.table)
        how = {"name": "svm", "tuning": Tuning(n_folds=2), "seed": 0}
        found = alignment_of(samples, film)
        check_alignment(found, samples.table, splits)
        if n_subjects == 6:
            check_inner_alignment(found, samples.table, splits, **how)
            continue
        with pytest.raises(InputError, match=r"inner folds of fold sub-0\d: alignment: 1 subject"):
            check_inner_alignment(found, samples.table, splits, **how)


def test_the_fingerprint_knows_the_clock_that_gaps_are_measured_on():
    samples, volumes = _film()
    other = volumes.table.assign(onset_s=volumes.table["onset_s"] * 1.5)
    later = alignment_of(samples, Samples(X=volumes.X, table=other))
    assert later.fingerprint != alignment_of(samples, volumes).fingerprint
    named = {
        alignment_of_samples(
            samples, protocol="calibration_blocks", calibration_run=run
        ).fingerprint
        for run in (None, "1", "2")
    }
    assert len(named) == 3


@pytest.mark.parametrize(("n_runs", "run"), [(1, None), (2, "7")])
def test_subjects_without_a_calibration_run_are_refused(n_runs, run):
    samples, _ = _film(n_runs=n_runs)
    with pytest.raises(InputError, match="calibration_blocks: sub-00") as caught:
        with_calibration(leave_one_subject_out(samples.table), samples.table, run=run)
    assert "calibration_run" in str(caught.value)


def test_class_keys_count_places_in_blocks_of_each_scan():
    samples, _ = _film()
    keys = class_keys(samples.table)
    first = samples.table["block"] == "0"
    assert set(keys[first & (samples.table["volume"] == 0)]) == {"a +000"}
    assert set(keys[first & (samples.table["volume"] == 12)]) == {"a +004"}
    assert set(class_keys(samples.table, by_time=False)) == {"a", "b"}


def test_films_are_time_locked_and_blocks_in_an_own_order_are_not():
    samples, _ = _film()
    assert check_time_locked(samples.table) is None
    own_order = simulate_samples(n_subjects=3, average="none", decoy=0.1, seed=0)
    assert "order of their own" in check_time_locked(own_order.table)
    unknown = simulate_samples(n_subjects=3, average="none", seed=0)
    assert "no moment of a stimulus" in check_time_locked(unknown.table)
    shifted = samples.table.copy()
    shifted.loc[shifted["subject"] == "01", "stimulus_time_s"] += 20
    assert check_time_locked(shifted) is not None


def test_connectivity_is_the_correlation_with_each_parcel():
    rng = np.random.default_rng(2)
    values = rng.standard_normal((50, 7)).astype(np.float32)
    courses = rng.standard_normal((50, 3))
    courses[:, 2] = 1.0  # a parcel that does not vary
    subjects = np.repeat(["a", "b"], 25)
    rows, keys, names = connectivity(values, courses, subjects, ("p1", "p2", "p3"))
    assert rows.shape == (6, 7)
    assert list(keys) == ["p1", "p2", "p3"] * 2
    assert list(names) == ["a"] * 3 + ["b"] * 3
    for number in range(7):
        alike = [np.corrcoef(courses[25:, k], values[25:, number])[0, 1] for k in (0, 1)]
        expected = np.array([*alike, 0.0]) - sum(alike) / 3  # 0: the parcel that does not vary
        np.testing.assert_allclose(rows[3:, number], expected, atol=1e-6)


@pytest.mark.parametrize("how", ["orthogonal", "ridge", "promises"])
def test_maps_of_connectivity_add_no_offset_of_their_own(how):
    """The mean of a voxel's correlations is no baseline of its signal."""
    rng = np.random.default_rng(3)
    subjects = np.repeat(["a", "b", "c"], 60)
    latent = rng.standard_normal((180, 9)) + 0.5 * rng.standard_normal((180, 1))
    values = latent @ rng.standard_normal((9, 7)) + rng.standard_normal((180, 7))
    rows, keys, names = connectivity(values, latent, subjects, tuple("pqrstuvwx"))
    step = CommonSpace(map=how).fit(rows, keys, subjects=names)
    for each in step.maps_.values():
        np.testing.assert_allclose(each.mean_in, 0, atol=1e-6)
        np.testing.assert_allclose(each.mean_out, 0, atol=1e-6)


def test_replayed_data_follow_the_samples_and_lose_what_was_shared():
    samples, volumes = _film(n_volumes=200)
    shared = np.random.default_rng(1).standard_normal((400, 8)).astype(np.float32)
    X = np.tile(shared, (4, 1))
    volumes = Samples(X=X, table=volumes.table)
    samples = Samples(X=X[alignment_of(samples, volumes).row >= 0], table=samples.table)
    found = alignment_of(samples, volumes)
    new = samples.X + 100
    after = replayed(found, new, seed=3)
    known = found.row >= 0
    np.testing.assert_array_equal(after.X[known], new[found.row[known]])
    assert after.fingerprint != found.fingerprint
    other = after.X[~known].reshape(4, -1)
    assert abs(np.corrcoef(other)[np.triu_indices(4, 1)]).max() < 0.1  # it was 1
    one = replayed(found, samples.X, seed=3, subjects=["01"])
    changed = (one.X != found.X).any(axis=1)
    assert set(volumes.table["subject"][changed]) == {"01"}


def test_parts_that_do_not_belong_together_are_refused():
    samples, volumes = _film()
    found = alignment_of(samples, volumes)
    with pytest.raises(InputError, match="one row of each part per volume"):
        Alignment("independent_run", found.X, found.table, found.key[:-1], found.row)
    with pytest.raises(InputError, match="one of independent_run"):
        alignment_of(samples, volumes, protocol="magic")

"""Splits: disjoint, complete, purged, the same again for the same seed."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from designs import blocks, film, rows_table
from emodecode.errors import DataMissingError, InputError
from emodecode.evaluate.design import Axis, read_design
from emodecode.evaluate.splits import (
    Split,
    choose_splits,
    group_k_fold,
    inner_splits,
    is_stimulus_locked,
    leave_one_subject_out,
    leave_run_out,
    leave_stimulus_out,
    read_splits,
    shuffled,
    subject_by_stimulus,
)
from emodecode.evaluate.stimuli import stimulus_groups


def smallest_gap(table, rows, others, *, within=("stimulus",), time="stimulus_time_s"):
    """Reference: every pair by itself."""
    best = np.inf
    a, b = table.iloc[rows], table.iloc[others]
    for key, part in a.groupby(list(within)):
        same = np.all([b[name] == value for name, value in zip(within, key, strict=True)], axis=0)
        if same.any():
            pairs = np.abs(part[time].to_numpy()[:, None] - b[time].to_numpy()[same])
            best = min(best, pairs.min())
    return best


def check_partition(splits, n):
    tested = np.concatenate([split.test for split in splits])
    np.testing.assert_array_equal(np.sort(tested), np.arange(n))
    for split in splits:
        for a, b in (("train", "test"), ("calibrate", "test"), ("train", "calibrate")):
            assert not np.intersect1d(getattr(split, a), getattr(split, b)).size, split
        for part in (split.train, split.calibrate, split.test):
            assert part.dtype == np.int64
            assert len(np.unique(part)) == len(part)
    assert len({split.name for split in splits}) == len(splits)


@pytest.mark.parametrize(
    ("make", "table"),
    [
        (leave_one_subject_out, blocks()),
        (leave_run_out, blocks()),
        (leave_run_out, film()),
        (leave_stimulus_out, film()),
        (lambda t: leave_stimulus_out(t, groups="segments", n_segments=3), film()),
        (subject_by_stimulus, film()),
        (lambda t: subject_by_stimulus(t, groups="segments", n_segments=5), film()),
        (lambda t: subject_by_stimulus(t, groups="run"), blocks()),
        (lambda t: subject_by_stimulus(t, subject_folds=2, seed=3), film()),
        (lambda t: group_k_fold(t, n_folds=3, seed=1), blocks()),
        (leave_one_subject_out, rows_table()),
    ],
)
def test_exhaustive_splits_test_every_sample_once_and_never_train_on_it(make, table):
    check_partition(make(table), len(table))


def test_parts_of_the_subjects_are_held_out_with_a_part_of_the_film():
    table = film()
    alone = subject_by_stimulus(table)
    names = sorted(table["subject"].unique())
    each = subject_by_stimulus(table, subject_folds=len(names))
    assert {tuple(split.test) for split in each} == {tuple(split.test) for split in alone}
    for split in subject_by_stimulus(table, subject_folds=2):
        parts = [set(table["subject"].iloc[rows]) for rows in (split.train, split.test)]
        assert not parts[0] & parts[1]
        assert parts[0] | parts[1] == set(names)
        assert smallest_gap(table, split.test, split.train) > 30


def test_leave_one_subject_out_trains_on_all_others():
    table = blocks()
    for split in leave_one_subject_out(table):
        assert table["subject"].iloc[split.test].nunique() == 1
        assert len(split.train) + len(split.test) == len(table)
        assert set(table["subject"].iloc[split.train]).isdisjoint(table["subject"].iloc[split.test])


@pytest.mark.parametrize("groups", ["run", "segments"])
@pytest.mark.parametrize("gap_s", [0.0, 10.0, 30.0])
def test_double_hold_out_keeps_subjects_and_moments_apart(groups, gap_s):
    table = film(shift_s=0.3)
    for split in subject_by_stimulus(table, groups=groups, n_segments=4, gap_s=gap_s):
        tested = table["subject"].iloc[split.test].unique()
        assert len(tested) == 1
        assert tested[0] not in set(table["subject"].iloc[split.train])
        assert set(table["subject"].iloc[split.calibrate]) <= set(tested)
        assert smallest_gap(table, split.test, split.train) > gap_s
        assert smallest_gap(table, split.test, split.calibrate) > gap_s
        scan = {"within": ("subject", "run"), "time": "onset_s"}
        assert smallest_gap(table, split.test, split.calibrate, **scan) > gap_s


def test_the_purge_takes_no_more_than_it_must():
    table, gap_s = film(), 30.0
    for split in subject_by_stimulus(table, groups="run", gap_s=gap_s):
        held = table.iloc[split.test]
        moments = held["stimulus_time_s"].to_numpy()
        away = np.abs(table["stimulus_time_s"].to_numpy()[:, None] - moments).min(axis=1)
        other_run = table["run"] != held["run"].iloc[0]
        other = table["subject"] != held["subject"].iloc[0]
        expected = np.flatnonzero(other_run & other & (away > gap_s))
        np.testing.assert_array_equal(split.train, expected)


def test_leave_stimulus_out_purges_neighbours_in_the_run():
    table = film(n_subjects=1)
    for split in leave_stimulus_out(table, groups="segments", n_segments=4, gap_s=30.0):
        assert smallest_gap(table, split.test, split.train) > 30
        scan = {"within": ("subject", "run"), "time": "onset_s"}
        assert smallest_gap(table, split.test, split.train, **scan) > 30


def test_leave_run_out_purges_overlapping_copies_only_on_demand():
    table = film()
    assert smallest_gap(table, *_first(leave_run_out(table))) == 0
    assert smallest_gap(table, *_first(leave_run_out(table, gap_s=12.0))) > 12


def _first(splits):
    return splits[0].test, splits[0].train


def test_shuffled_is_the_papers_split():
    from sklearn.model_selection import train_test_split

    table = blocks()
    rows = np.arange(len(table))
    _, test = train_test_split(rows, test_size=0.2, stratify=table["label"], random_state=42)
    [split] = shuffled(table, seed=42)
    np.testing.assert_array_equal(split.test, np.sort(test))
    assert len(shuffled(table, n_repeats=3)) == 3


def test_locked_means_the_same_moment_in_several_subjects():
    assert is_stimulus_locked(film())
    assert is_stimulus_locked(film(shift_s=0.6))
    assert not is_stimulus_locked(film(n_subjects=1))
    assert not is_stimulus_locked(blocks())
    assert not is_stimulus_locked(rows_table())
    own = film(n_subjects=3)
    own["stimulus"] = "film-" + own["subject"]
    assert not is_stimulus_locked(own)
    unknown = film()
    unknown["stimulus_time_s"] = np.nan
    assert not is_stimulus_locked(unknown)


def test_groups_fit_the_stimulus():
    assert stimulus_groups(read_design(film())).names == [f"ses-movie run-{r}" for r in (1, 2, 3)]
    again = film()  # the same piece of film in every run
    again["stimulus_time_s"] = again["onset_s"]
    names = stimulus_groups(read_design(again), n_segments=4).names
    assert names == [f"segment-{k}" for k in (1, 2, 3, 4)]
    clips = again.assign(stimulus="clip-" + (again["onset_s"] // 40).astype(int).astype(str))
    assert stimulus_groups(read_design(clips)).names == sorted(clips["stimulus"].unique())
    pictures = again.assign(stimulus="pic-" + (again["onset_s"] // 8).astype(int).astype(str))
    made = stimulus_groups(read_design(pictures), n_segments=4)
    assert made.names == [f"stimuli-{k}" for k in (1, 2, 3, 4)]
    per_picture = pictures.assign(group=made.code).groupby("stimulus")["group"].nunique()
    assert (per_picture == 1).all()


def test_segments_have_equally_many_moments():
    made = stimulus_groups(read_design(film()), groups="segments", n_segments=5)
    moments = film().assign(group=made.code).groupby("group")["stimulus_time_s"].nunique()
    assert moments.max() - moments.min() <= 1


def test_auto_takes_the_honest_split():
    assert choose_splits(film())[1] == "subject_by_stimulus"
    assert choose_splits(blocks())[1] == "leave_one_subject_out"
    splits, name, sentence = choose_splits(film(n_subjects=1))
    assert name == "leave_run_out"
    assert "Caution" in sentence
    assert smallest_gap(film(n_subjects=1), *_first(splits)) > 30
    for split in ("leave_stimulus_out", "group_k_fold", "shuffled", "leave_run_out"):
        splits, name, sentence = choose_splits(film(), split=split, n_folds=2)
        assert name == split
        assert split in sentence
        assert f"{len(splits)} fold" in sentence


@pytest.mark.parametrize("table", [film(), blocks(n_subjects=8), rows_table()])
def test_seeded_splits_repeat(table):
    for make in (
        lambda seed: group_k_fold(table, n_folds=3, seed=seed),
        lambda seed: shuffled(table, seed=seed),
        lambda seed: inner_splits(table, np.arange(len(table)), n_folds=3, gap_s=10.0, seed=seed),
    ):
        one, two = make(3), make(3)
        for a, b in zip(one, two, strict=True):
            np.testing.assert_array_equal(a.train, b.train)
            np.testing.assert_array_equal(a.test, b.test)


def test_group_k_fold_spreads_subjects_and_labels():
    table = blocks(n_subjects=9)
    splits = group_k_fold(table, n_folds=3, seed=0)
    assert [table["subject"].iloc[s.test].nunique() for s in splits] == [3, 3, 3]
    patients = rows_table(n_subjects=6)
    patients["label"] = np.where(patients["subject"].isin(["0", "1", "2"]), "MDD", "HC")
    for split in group_k_fold(patients, n_folds=3, seed=0):
        assert set(patients["label"].iloc[split.test]) == {"MDD", "HC"}


def test_inner_folds_stay_inside_and_honest_for_films():
    table = film(n_subjects=6)
    for outer in subject_by_stimulus(table)[::5]:
        inner = inner_splits(table, outer.train, n_folds=3, gap_s=30.0, seed=0)
        assert len(inner) == 3
        for split in inner:
            assert set(split.train) | set(split.test) <= set(outer.train)
            a, b = table["subject"].iloc[split.train], table["subject"].iloc[split.test]
            assert set(a).isdisjoint(b)
            assert smallest_gap(table, split.test, split.train) > 30


def test_inner_folds_without_a_stimulus_keep_subjects_apart():
    table = blocks(n_subjects=7)
    outer = leave_one_subject_out(table)[2]
    inner = inner_splits(table, outer.train, n_folds=3, gap_s=30.0, seed=0)
    np.testing.assert_array_equal(np.sort(np.concatenate([s.test for s in inner])), outer.train)
    for split in inner:
        a, b = table["subject"].iloc[split.train], table["subject"].iloc[split.test]
        assert set(a).isdisjoint(b)


def test_inner_folds_of_one_subject():
    runs = blocks(n_subjects=1, n_runs=4)
    outer = leave_run_out(runs)[0]
    for split in inner_splits(runs, outer.train, n_folds=3, gap_s=30.0, seed=0):
        assert set(runs["run"].iloc[split.train]).isdisjoint(runs["run"].iloc[split.test])
    one_run = blocks(n_subjects=1, n_runs=1, n_blocks=24)
    scan = {"within": ("subject", "run"), "time": "onset_s"}
    for split in inner_splits(one_run, np.arange(len(one_run)), n_folds=3, gap_s=30.0, seed=0):
        assert smallest_gap(one_run, split.test, split.train, **scan) > 30
        assert set(one_run["block"].iloc[split.train]).isdisjoint(one_run["block"].iloc[split.test])
    rows = rows_table(n_subjects=1)
    inner = inner_splits(rows, np.arange(len(rows)), n_folds=3, gap_s=30.0, seed=0)
    assert sorted(np.concatenate([s.test for s in inner])) == list(range(len(rows)))


def _without(table, label, keep):
    return table[(table["label"] != label) | keep(table)].reset_index(drop=True)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: leave_one_subject_out(blocks(n_subjects=1)), ["1 subject", "leave_run_out"]),
        (lambda: leave_run_out(blocks(n_runs=1)), ["1 run", "at least 2 runs"]),
        (
            lambda: group_k_fold(blocks(n_subjects=3), n_folds=4, seed=0),
            ["3 subjects (01, 02, 03)"],
        ),
        (lambda: subject_by_stimulus(film(n_subjects=1)), ["1 subject"]),
        (lambda: choose_splits(blocks(n_subjects=1, n_runs=1)), ["one subject with one run"]),
        (lambda: choose_splits(blocks(), split="loso"), ["'loso'", "leave_one_subject_out"]),
        (lambda: subject_by_stimulus(film(), groups="scene"), ["'scene'"]),
        (lambda: subject_by_stimulus(blocks(), groups="segments"), ["have no stimulus"]),
        (
            lambda: leave_one_subject_out(_without(blocks(), "c1", lambda t: t["subject"] == "03")),
            ["fold sub-03", "'c1'", "1 subject (03)"],
        ),
        (
            lambda: subject_by_stimulus(_without(film(), "c2", lambda t: t["run"] == "2")),
            ["run-2", "'c2'", "4 subjects (01, 02, 03, 04)"],
        ),
        (
            lambda: subject_by_stimulus(film(), groups="segments", gap_s=500.0),
            ["fold sub-01 segment", "no training sample"],
        ),
        (
            lambda: shuffled(
                _without(blocks(), "c1", lambda t: t.index == t.index[t["label"] == "c1"][0])
            ),
            ["stratified"],
        ),
        (lambda: leave_run_out(blocks().drop(columns="label")), ["no column label"]),
        (lambda: Split(np.array([True]), np.array([]), np.array([1])), ["bool"]),
    ],
)
def test_bad_folds_are_refused_by_name(make, parts):
    with pytest.raises(InputError) as caught:
        make()
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.remedy
    assert caught.value.expected


def test_a_class_that_is_never_tested_is_refused():
    table = blocks().iloc[:60].reset_index(drop=True)
    table["subject"] = ["a"] * 30 + ["b"] * 30
    table["label"] = ["x"] * 15 + ["y"] * 15 + ["x"] * 15 + ["y"] * 15
    rare = pd.concat([table, table.iloc[[0]].assign(label="z")], ignore_index=True)
    with pytest.raises(InputError, match="'z'"):
        shuffled(pd.concat([rare, rare.iloc[[-1]]], ignore_index=True), test_share=0.1)


def test_split_files_of_other_tools(tmp_path):
    path = tmp_path / "splits.json"
    path.write_text(json.dumps([{"train": [0, 1], "test": [2]}, {"train": [2], "test": [0, 1]}]))
    splits = read_splits(path, n_samples=3)
    assert [split.name for split in splits] == ["fold-1", "fold-2"]
    assert splits[0].calibrate.size == 0
    np.testing.assert_array_equal(splits[1].test, [0, 1])
    with pytest.raises(InputError, match="outside the table"):
        read_splits(path, n_samples=2)
    for bad in (
        "{}",
        "[]",
        "not json",
        '[{"train": [0]}]',
        '[{"train": [0], "test": []}]',
        '[{"train": [0.5], "test": [1]}]',
    ):
        path.write_text(bad)
        with pytest.raises(InputError, match=r"splits\.json|fold-1"):
            read_splits(path, n_samples=3)
    with pytest.raises(DataMissingError):
        read_splits(tmp_path / "none.json", n_samples=3)


def test_nearest_neighbours_agree_with_all_pairs():
    rng = np.random.default_rng(0)
    code, time_s = rng.integers(-1, 4, 300), rng.uniform(0, 500, 300)
    time_s[rng.random(300) < 0.1] = np.nan
    targets = rng.random(300) < 0.2
    distance, neighbour = Axis(code, time_s).nearest(np.arange(300), targets)
    pairs = np.abs(time_s[:, None] - time_s)
    usable = targets & (code[:, None] == code) & (code >= 0) & np.isfinite(pairs)
    expected = np.where(usable, pairs, np.inf).min(axis=1)
    np.testing.assert_array_equal(distance, expected)
    found = neighbour >= 0
    np.testing.assert_array_equal(found, np.isfinite(expected))
    np.testing.assert_allclose(pairs[np.flatnonzero(found), neighbour[found]], expected[found])


def test_a_whole_film_study_splits_in_seconds():
    segments = tuple((450 * r * 2 - 16 * r, 450 * (r + 1) * 2 - 16 * r) for r in range(8))
    table = film(n_subjects=15, segments=segments, n_classes=5)
    assert len(table) == 15 * 8 * 450
    started = time.perf_counter()
    splits, _, _ = choose_splits(table)
    assert len(splits) == 120
    assert time.perf_counter() - started < 10

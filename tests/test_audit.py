"""Audit: every planted leak is found and named, no clean design is accused."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from designs import blocks, film, rows_table
from emodecode.errors import InputError, LeakageError
from emodecode.evaluate.audit import audit_split, duplicate_codes, enforce
from emodecode.evaluate.splits import (
    Split,
    group_k_fold,
    leave_one_subject_out,
    leave_run_out,
    leave_stimulus_out,
    shuffled,
    subject_by_stimulus,
)


def noise(table, seed=0, n_columns=20):
    return np.random.default_rng(seed).normal(size=(len(table), n_columns)).astype(np.float32)


def rules(audit, verdict):
    return {finding.rule for finding in audit.findings if finding.verdict == verdict}


def one_split(table, train, test, calibrate=()):
    parts = (np.flatnonzero(train), np.array(calibrate, dtype=np.int64), np.flatnonzero(test))
    return [Split(*parts, name="planted")]


# each planted leak: (table, splits, keyword arguments, rule, what the worst case names)


def _shuffled_volumes():
    table = blocks()
    return table, shuffled(table), {}, "T1", "volume"


def _shuffled_film():
    table = film()
    return table, shuffled(table), {}, "T5", "run-"


def _subjects_of_a_shared_film():
    table = film()
    return table, leave_one_subject_out(table), {}, "T5", "sub-02"


def _subject_folds_of_a_shared_film():
    table = film(n_subjects=6, shift_s=0.7)
    return table, group_k_fold(table, n_folds=3, seed=0), {}, "T5", "fold group-"


def _overlap_copies():
    table = film()
    return table, leave_run_out(table), {}, "T5", "run-2"


def _renamed_copy_of_a_subject():
    table = blocks()
    X = noise(table)
    X[table["subject"] == "04"] = X[table["subject"] == "02"]
    return table, leave_one_subject_out(table), {"X": X}, "T1-dup", "sub-04"


def _one_renamed_volume():
    table = blocks()
    X = noise(table, n_columns=3000)
    X[7] = X[500]
    return table, leave_one_subject_out(table), {"X": X}, "T1-dup", "sub-01 run-1 volume 7"


def _calibration_is_the_test():
    table = film()
    splits = [Split(s.train, s.test, s.test, name=s.name) for s in subject_by_stimulus(table)]
    return table, splits, {}, "T1-calibrate-row", "fold sub-01"


def _calibration_next_to_the_test():
    table = film()
    splits = []
    for split in subject_by_stimulus(table):
        test, rest = split.test[:20], split.test[22:]
        splits.append(Split(split.train, rest, test, name=split.name))
    return table, splits, {}, "T1-calibrate", "volume 19"


def _calibration_with_the_overlap():
    table = film()
    splits = []
    for split in subject_by_stimulus(table):
        same = table["subject"] == table["subject"].iloc[split.test[0]]
        rest = np.setdiff1d(np.flatnonzero(same), split.test)
        splits.append(Split(split.train, rest, split.test, name=split.name))
    return table, splits, {}, "T5-calibrate", "run-2"


def _train_row_in_test():
    table = blocks()
    first = leave_one_subject_out(table)[0]
    split = Split(np.append(first.train, 33), first.calibrate, first.test, name="one row")
    return table, [split], {}, "T1-row", "fold one row: sub-01 run-1 volume 33"


def _scaler_on_everything():
    table = blocks()
    splits = leave_one_subject_out(table)
    step = {"step": "scale", "kind": "scaler", "rows": list(range(len(table)))}
    return table, splits, {"fitted": [[step] for _ in splits]}, "T14", "fitted on 900 samples"


def _fitted(kind, rule):
    def plant():
        table = blocks()
        splits = leave_one_subject_out(table)
        honest = {"step": "model", "kind": "tuning", "rows": splits[0].train}
        peek = {"step": "peek", "kind": kind, "rows": splits[3].test[:5]}
        fitted = [[honest | {"rows": s.train}] for s in splits]
        fitted[3].append(peek)
        return table, splits, {"fitted": fitted}, rule, "fold sub-04: fitted on 5 samples, 5 of"

    return plant


def _neighbours_beyond_ten_seconds():
    table = blocks()
    away = np.abs(table["volume"] - 45) > 5  # the gap is 12 s
    tested = (table["volume"] == 45) & (table["subject"] == "01")
    tested |= (table["volume"] == 5) & (table["subject"] == "02")
    tested |= (table["volume"] == 75) & (table["subject"] == "03")
    train = (table["subject"] == "01") & away & (table["run"] == "1")
    train |= table["subject"].isin(["04", "05"])
    test = tested & (table["run"] == "1")
    return table, one_split(table, train, test), {}, "T1", "12 s from"


def _segments_with_a_short_gap():
    table = film(n_subjects=1)
    splits = leave_stimulus_out(table, groups="segments", gap_s=10.0)
    return table, splits, {}, "T1", "12 s from"


def _table_rows_of_one_subject_on_both_sides():
    table = rows_table()
    return table, shuffled(table), {}, "T4", "sub-"


def _claim_across_subjects():
    table = blocks()
    return table, leave_run_out(table), {"claim": "across_subjects"}, "T4", "sub-01"


PLANTED = [
    _shuffled_volumes,
    _shuffled_film,
    _subjects_of_a_shared_film,
    _subject_folds_of_a_shared_film,
    _overlap_copies,
    _renamed_copy_of_a_subject,
    _one_renamed_volume,
    _calibration_is_the_test,
    _calibration_next_to_the_test,
    _calibration_with_the_overlap,
    _train_row_in_test,
    _scaler_on_everything,
    _fitted("selection", "T2"),
    _fitted("alignment", "T3"),
    _fitted("early_stopping", "T6"),
    _fitted("tuning", "T6"),
    _fitted("resampler", "T10"),
    _fitted("something new", "T2"),
    _neighbours_beyond_ten_seconds,
    _segments_with_a_short_gap,
    _table_rows_of_one_subject_on_both_sides,
    _claim_across_subjects,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_leaks_are_found_and_named(plant):
    table, splits, how, rule, worst = plant()
    audit = audit_split(table, splits, **how)
    assert audit.verdict == "leak"
    [finding] = [f for f in audit.findings if f.rule == rule]
    assert finding.verdict == "leak"
    assert finding.n_samples > 0
    assert 0 < finding.share <= 1
    assert worst in finding.worst
    assert finding.danger
    assert finding.remedy
    with pytest.raises(LeakageError) as caught:
        enforce(audit, allow_leakage=False)
    assert rule in str(caught.value)
    assert "allow_leakage" in caught.value.remedy
    enforce(audit, allow_leakage=True)


CLEAN = {
    "blocks, subjects": (blocks(), leave_one_subject_out),
    "blocks, many subjects": (blocks(n_subjects=20, n_runs=1, seed=3), leave_one_subject_out),
    "blocks, two subjects": (blocks(n_subjects=2, n_runs=1, n_blocks=6), leave_one_subject_out),
    "blocks, two classes": (blocks(n_classes=2, n_blocks=8, seed=5), leave_one_subject_out),
    "blocks, folds": (blocks(n_subjects=9), lambda t: group_k_fold(t, n_folds=3, seed=1)),
    "film, double": (film(), subject_by_stimulus),
    "film, double, segments": (film(), lambda t: subject_by_stimulus(t, groups="segments")),
    "film, double, clocks differ": (film(shift_s=0.4), subject_by_stimulus),
    "film, double, two classes": (film(n_classes=2), subject_by_stimulus),
    "rows, subjects": (rows_table(), leave_one_subject_out),
    "rows, folds": (rows_table(), lambda t: group_k_fold(t, n_folds=2, seed=0)),
}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_designs_are_not_accused(name):
    table, make = CLEAN[name]
    splits = make(table)
    fitted = [[{"step": "scale", "kind": "scaler", "rows": split.train}] for split in splits]
    audit = audit_split(table, splits, X=noise(table), fitted=fitted)
    assert (audit.verdict, audit.findings) == ("clean", ())
    enforce(audit, allow_leakage=False)


@pytest.mark.parametrize("seed", range(25))
def test_random_orders_are_not_mistaken_for_a_common_clock(seed):
    sizes = np.random.default_rng(seed).integers([2, 1, 3], [13, 4, 13])
    table = blocks(n_subjects=sizes[0], n_runs=sizes[1], n_blocks=sizes[2], seed=seed)
    audit = audit_split(table, leave_one_subject_out(table))
    assert rules(audit, "caution") == set()


def test_one_subject_is_a_caution_about_the_claim_only():
    table = blocks(n_subjects=1, n_runs=3)
    audit = audit_split(table, leave_run_out(table), X=noise(table))
    assert audit.verdict == "caution"
    assert rules(audit, "caution") == {"T4"}
    assert "One subject" in audit.findings[0].title
    said = audit_split(table, leave_run_out(table), claim="within_subject")
    assert said.verdict == "clean"


def test_runs_of_the_same_subjects_are_a_caution():
    table = blocks()
    assert rules(audit_split(table, leave_run_out(table)), "caution") == {"T4"}


def test_same_run_far_away_is_a_caution():
    table = film(n_subjects=1)
    audit = audit_split(table, leave_stimulus_out(table, groups="segments", gap_s=30.0))
    assert audit.verdict == "caution"
    assert rules(audit, "caution") == {"T1-run", "T4"}


def test_neighbouring_moments_of_other_subjects_are_a_caution():
    table = film()
    splits = subject_by_stimulus(table, groups="segments", gap_s=10.0)
    audit = audit_split(table, splits)
    assert rules(audit, "caution") == {"T5-near"}
    assert "12 s from" in audit.findings[0].worst


def test_a_common_order_is_a_caution_and_time_says_how_much():
    table = blocks(order="common")
    [finding] = audit_split(table, leave_one_subject_out(table)).findings
    assert (finding.rule, finding.verdict) == ("T5b", "caution")
    assert "in 100% of cases (33% by accident)" in finding.worst


def test_rest_that_always_comes_at_the_same_time_is_a_caution():
    table = blocks(n_subjects=11, n_classes=2, n_blocks=10)
    table["label"] = np.where(table["volume"] // 10 % 2 == 0, "rest", table["label"])
    audit = audit_split(table, leave_one_subject_out(table))
    assert rules(audit, "caution") == {"T5b"}


def test_a_common_order_in_every_run_is_found_across_runs():
    table = blocks(n_subjects=1, n_runs=6, seed=1)
    table["label"] = [f"c{v // 10 % 3}" for v in table["volume"]]
    assert "T5b" in rules(audit_split(table, leave_run_out(table)), "caution")


def test_a_film_without_stimulus_columns_is_still_noticed():
    table = film().drop(columns=["stimulus", "stimulus_time_s"])
    audit = audit_split(table, leave_one_subject_out(table))
    assert "T5b" in rules(audit, "caution")
    assert any("T5" in question for question in audit.not_checked)


def test_named_stimuli_without_times_are_a_caution():
    table = rows_table()
    table["stimulus"] = ["picture-" + block for block in table["block"]]
    audit = audit_split(table, leave_one_subject_out(table))
    assert rules(audit, "caution") == {"T5-name"}


def test_unequal_classes_are_only_noted():
    table = blocks(n_subjects=6)
    table = table[(table["label"] != "c2") | (table["volume"] % 2 == 0)].reset_index(drop=True)
    audit = audit_split(table, leave_one_subject_out(table))
    assert audit.verdict == "clean"
    assert [(f.rule, f.verdict) for f in audit.findings] == [("T10", "note")]
    assert "of c2" in audit.findings[0].worst


def test_oversampled_test_samples_are_a_caution():
    table = blocks()
    splits = [
        Split(s.train, s.calibrate, np.append(s.test, s.test[:9]), name=s.name)
        for s in leave_one_subject_out(table)
    ]
    audit = audit_split(table, splits)
    assert rules(audit, "caution") == {"T10-dup"}
    assert audit.findings[0].n_samples == 9 * 5


def test_cleaning_run_by_run_is_noted():
    table = blocks()
    splits = leave_one_subject_out(table)
    step = {"step": "clean", "kind": "cleaning", "rows": range(len(table))}
    audit = audit_split(table, splits, fitted=[step] * len(splits))
    assert audit.verdict == "clean"
    assert rules(audit, "note") == {"T14"}


def test_rows_of_fitted_steps_may_be_named():
    table = blocks()
    splits = leave_one_subject_out(table)
    named = [[{"step": "scale", "kind": "scaler", "rows": "train"}]] * len(splits)
    audit = audit_split(table, splits, fitted=named)
    assert audit.verdict == "clean"
    assert any("not recorded inside" in text for text in audit.not_checked)
    listed = [[{"step": "scale", "kind": "scaler", "rows": s.train.tolist()}] for s in splits]
    assert not any("T2" in t for t in audit_split(table, splits, fitted=listed).not_checked)
    named[2] = [{"step": "stop", "kind": "early_stopping", "rows": "test"}]
    [finding] = audit_split(table, splits, fitted=named).findings
    assert (finding.rule, finding.n_samples) == ("T6", 180)


def test_counts_are_exact():
    table = film()
    splits = leave_run_out(table)
    expected = 0
    for split in splits:
        test, train = table.iloc[split.test], table.iloc[split.train]
        pairs = test["stimulus_time_s"].to_numpy()[:, None] - train["stimulus_time_s"].to_numpy()
        expected += int((np.abs(pairs).min(axis=1) <= 2.0).sum())
    [finding] = [f for f in audit_split(table, splits).findings if f.rule == "T5"]
    assert finding.n_samples == expected
    assert finding.share == pytest.approx(expected / len(table))


def test_duplicates_are_exact_and_empty_rows_do_not_count(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4000)).astype(np.float32)
    X[10, 1200:2800] = X[11, 1200:2800]  # equal in the probe, not elsewhere
    X[20], X[21], X[22] = X[30], X[30], -X[30]
    X[40], X[41] = 0.0, 0.0  # no data
    X[50], X[51] = X[52], X[52]
    X[50, 7], X[51, 7], X[52, 7] = 0.0, -0.0, 0.0
    np.save(tmp_path / "X.npy", X)
    for array in (X, np.load(tmp_path / "X.npy", mmap_mode="r")):
        codes = duplicate_codes(array)
        groups = pd.Series(np.arange(60)).groupby(codes).apply(list)
        assert sorted(groups.drop(-1)) == [[20, 21, 30], [50, 51, 52]]


def test_equal_rows_of_few_discrete_features_are_no_proof():
    table = rows_table()
    X = np.random.default_rng(0).integers(0, 3, size=(len(table), 2)).astype(np.float32)
    audit = audit_split(table, leave_one_subject_out(table), X=X)
    assert rules(audit, "caution") == {"T1-dup"}


def test_json_holds_what_the_report_needs():
    table = film()
    plain = json.loads(json.dumps(audit_split(table, leave_one_subject_out(table)).to_json()))
    assert plain["verdict"] == "leak"
    assert {"rule", "n_samples", "worst", "danger", "remedy"} <= set(plain["findings"][0])
    assert plain["n_test"] == len(table)


def test_foreign_tables_need_only_subject_and_label():
    table = blocks()[["subject", "label"]]
    audit = audit_split(table, leave_one_subject_out(blocks()))
    assert audit.verdict == "clean"
    assert len(audit.not_checked) == 4


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({"claim": "everyone"}, "'everyone'"),
        ({"fitted": [[]]}, "1 entries for 5 folds"),
        ({"fitted": [[{"step": "scale"}]] * 5}, "fold sub-01"),
        ({"fitted": [[{"step": "scale", "rows": "all"}]] * 5}, "KeyError"),
        ({"fitted": ["scale"] * 5}, "fitted steps"),
    ],
)
def test_bad_questions_are_refused(how, found):
    with pytest.raises(InputError, match=found):
        audit_split(blocks(), leave_one_subject_out(blocks()), **how)
    with pytest.raises(InputError, match="outside the table"):
        audit_split(blocks(n_subjects=3), leave_one_subject_out(blocks()))


def test_the_leak_of_a_film_is_answered_with_the_double_hold_out():
    table = film()
    audit = audit_split(table, shuffled(table))
    with pytest.raises(LeakageError, match="subject_by_stimulus"):
        enforce(audit, allow_leakage=False)


def test_a_whole_film_study_is_audited_in_seconds():
    segments = tuple((450 * r * 2 - 16 * r, 450 * (r + 1) * 2 - 16 * r) for r in range(8))
    table = film(n_subjects=15, segments=segments, n_classes=5)
    splits = subject_by_stimulus(table)
    started = time.perf_counter()
    assert audit_split(table, splits).verdict == "clean"
    assert time.perf_counter() - started < 15

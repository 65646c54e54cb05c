"""Power of the audit: every planted leak is found and named, in memory and in files."""

import json

import numpy as np
import pandas as pd
import pytest

from designs import blocks, film, noise, raw_intensities, rows_table
from emodecode.errors import LeakageError
from emodecode.evaluate.audit import audit_split, enforce
from emodecode.evaluate.fitted import read_fitted
from emodecode.evaluate.splits import (
    Split,
    group_k_fold,
    leave_one_subject_out,
    leave_run_out,
    leave_stimulus_out,
    read_splits,
    shuffled,
    subject_by_stimulus,
)
from emodecode.samples import read_sample_table, write_table


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


def _studyforrest_overlap_on_two_sides():
    """The last 16 s of run 1 in training, the same 16 s at the start of run 2 tested."""
    starts = 0, 886, 1752.08  # spec S1.7
    table = film(n_subjects=2, segments=tuple((s, s + 902) for s in starts))
    first, second = table["run"] == "1", table["run"] == "2"
    both = (table["stimulus_time_s"] > 885) & (table["stimulus_time_s"] < 902)
    splits = one_split(table, (first & both) | (table["run"] == "3"), second & both)
    return (
        table,
        splits,
        {"claim": "within_subject"},
        "T5",
        "run-2 volume 0 and sub-01 ses-movie run-1 volume 443",
    )


def _s1_split_of_a_film():
    table = film(n_subjects=15).iloc[::3].reset_index(drop=True)
    return table, shuffled(table, seed=42), {}, "T1", "6 s from"


def _calibration_run_is_the_test_run():
    table = blocks()
    splits = []
    for split in leave_one_subject_out(table):
        tested = split.test[(table["run"] == "2").to_numpy()[split.test]]
        splits.append(Split(split.train, tested, tested, name=split.name))
    return table, splits, {}, "T1-calibrate-row", "fold sub-01: sub-01 run-2"


def _calibration_run_is_copied():
    table = blocks()
    X, splits = noise(table), []
    for split in leave_one_subject_out(table):
        second = (table["run"] == "2").to_numpy()[split.test]
        splits.append(Split(split.train, split.test[second], split.test[~second], name=split.name))
    X[splits[2].calibrate] = X[splits[2].test]
    return table, splits, {"X": X}, "T1-dup", "sub-03 run-1"


def _run_under_another_name():
    table = blocks()
    X = noise(table)
    own, run = table["subject"] == "05", table["run"]
    X[own & (run == "2")] = X[own & (run == "1")]
    return table, leave_run_out(table), {"X": X}, "T1-dup", "sub-05 run-1 volume 0 and sub-05 run-2"


def _scans(table):
    """Row numbers of the first runs of subjects 02 and 04."""
    first = table["run"] == "1"
    return [np.flatnonzero(first & (table["subject"] == name)) for name in ("02", "04")]


def _time_shifted_copy():
    table = blocks()
    X = noise(table, n_columns=300)
    source, copy = _scans(table)
    X[copy[5:]] = X[source[:-5]]
    names = "sub-02 run-1 volume 0 and sub-04 run-1 volume 5: shifted by 5 volumes"
    return table, leave_one_subject_out(table), {"X": X}, "T1-dup", names


def _rolled_copy():
    table = blocks()
    X = noise(table, n_columns=300)
    source, copy = _scans(table)
    X[copy] = np.roll(X[source], 5, axis=0) + 0.02 * noise(table, 1, 300)[copy]
    names = "sub-02 run-1 volume 0 and sub-04 run-1 volume 5: shifted by 5 volumes"
    return table, leave_one_subject_out(table), {"X": X}, "T1-copy", names


def _rescaled_copy_of_other_volumes():
    table = blocks()
    X = raw_intensities(table)
    source, copy = _scans(table)
    X[copy[20:]] = 1.7 * X[source[:-20]] + 3
    kept = np.delete(np.arange(len(table)), np.concatenate([source[55:], copy[:25]]))
    table = table.iloc[kept].reset_index(drop=True)
    splits = leave_one_subject_out(table)
    return table, splits, {"X": X[kept]}, "T1-copy", "shifted by 20 volumes"


def _oversampled_before_the_split():
    table = blocks()
    rare = np.flatnonzero(table["label"] == "c1")
    table = pd.concat([table, table.iloc[rare]], ignore_index=True)
    X = noise(table)
    X[len(X) - len(rare) :] = X[rare]
    return table, group_k_fold_of_rows(table), {"X": X}, "T1-dup", "volume"


def group_k_fold_of_rows(table):
    rows = np.arange(len(table))
    return [Split(rows[rows % 3 != k], [], rows[rows % 3 == k], name=f"{k}") for k in range(3)]


def _early_stop_on_the_test_subject():
    table = blocks()
    splits = leave_one_subject_out(table)
    stop = {"step": "best epoch", "kind": "early_stopping", "rows": "test"}
    return table, splits, {"fitted": [stop] * 5}, "T6", "fold sub-01: fitted on 180 samples, 180"


def _weights_of_another_fold():
    table = blocks()
    splits = leave_one_subject_out(table)
    fitted = [[{"step": "cnn", "kind": "model", "rows": "train"}] for _ in splits]
    fitted[2][0]["starts_from"] = "sub-01"
    worst = "fold sub-03 starts from fold sub-01, whose training holds 180 of its 180 test samples"
    return table, splits, {"fitted": fitted}, "T7", worst


def _fitted_already():
    table = blocks()
    splits = leave_one_subject_out(table)
    step = {"step": "cnn", "kind": "model", "rows": "train", "recorded": True}
    fitted = [[step | {"fresh": number == 0}] for number in range(len(splits))]
    return table, splits, {"fitted": fitted}, "T7", "fold sub-02: it was fitted already"


def _model_fitted_on_test():
    table = blocks()
    splits = leave_one_subject_out(table)
    step = {"step": "svm", "kind": "model", "rows": list(range(len(table)))}
    return table, splits, {"fitted": [step] * 5}, "T1-row", "fitted on 900 samples"


def _alignment_of_all_runs():
    table = film()
    splits = subject_by_stimulus(table)
    step = {"step": "hyperalignment", "kind": "alignment", "rows": list(range(len(table)))}
    return table, splits, {"fitted": [step] * len(splits)}, "T3", "fitted on"


def _temperature_on_test():
    table = blocks()
    splits = leave_one_subject_out(table)
    step = {"step": "temperature", "kind": "calibration", "rows": "test"}
    return table, splits, {"fitted": [step] * 5}, "T6", "fold sub-01"


def _unknown_times_in_a_shared_run():
    table = blocks().assign(onset_s=np.nan)
    return table, group_k_fold_of_rows(table), {}, "T4", "sub-01"


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
    _studyforrest_overlap_on_two_sides,
    _s1_split_of_a_film,
    _calibration_run_is_the_test_run,
    _calibration_run_is_copied,
    _run_under_another_name,
    _time_shifted_copy,
    _rolled_copy,
    _rescaled_copy_of_other_volumes,
    _oversampled_before_the_split,
    _early_stop_on_the_test_subject,
    _weights_of_another_fold,
    _fitted_already,
    _model_fitted_on_test,
    _alignment_of_all_runs,
    _temperature_on_test,
    _unknown_times_in_a_shared_run,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_leaks_are_found_and_named(plant):
    table, splits, how, rule, worst = plant()
    audit = audit_split(table, splits, **how)
    assert audit.verdict == "leak"
    finding = next(f for f in audit.findings if f.rule == rule)
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


def as_numbers(step, split):
    """A fitted step with plain lists, as another tool writes it."""
    rows = step.get("rows", [])
    rows = getattr(split, rows) if isinstance(rows, str) else rows
    return step | {"rows": [int(row) for row in rows]}


@pytest.mark.parametrize("plant", PLANTED)
def test_planted_leaks_are_found_in_files_of_other_tools(plant, tmp_path):
    table, splits, how, rule, worst = plant()
    write_table(table, tmp_path / "samples.tsv")
    parts = [
        {name: getattr(s, name).tolist() for name in ("train", "calibrate", "test")}
        | {"name": s.name}
        for s in splits
    ]
    (tmp_path / "splits.json").write_text(json.dumps(parts))
    read = read_sample_table(tmp_path / "samples.tsv")
    folds = read_splits(tmp_path / "splits.json", n_samples=len(read))
    if "fitted" in how:
        steps = [[e] if isinstance(e, dict) else e for e in how["fitted"]]
        steps = [[as_numbers(e, s) for e in own] for own, s in zip(steps, splits, strict=True)]
        (tmp_path / "fitted.json").write_text(json.dumps(steps))
        path = tmp_path / "fitted.json"
        how = how | {"fitted": read_fitted(path, n_samples=len(read), n_folds=len(folds))}
    audit = audit_split(read, folds, **how)
    assert worst in next(f for f in audit.findings if f.rule == rule and f.verdict == "leak").worst

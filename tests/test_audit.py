"""Audit: verdicts, counts, formats and refusals; test_audit_power.py has the planted leaks."""

import json
import time

import numpy as np
import pandas as pd
import pytest

from designs import blocks, film, noise, rows_table
from emodecode.errors import DataMissingError, InputError, LeakageError
from emodecode.evaluate.audit import add_controls, audit_split, duplicate_codes, enforce
from emodecode.evaluate.duplicates import find_duplicates
from emodecode.evaluate.fitted import read_fitted
from emodecode.evaluate.lags import lag_curve
from emodecode.evaluate.splits import (
    Split,
    leave_one_subject_out,
    leave_run_out,
    leave_stimulus_out,
    read_splits,
    shuffled,
    subject_by_stimulus,
)
from emodecode.simulate.samples import simulate_samples


def rules(audit, verdict):
    return {finding.rule for finding in audit.findings if finding.verdict == verdict}


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
    recorded = [[named[0][0] | {"recorded": True, "fresh": True}]] * len(splits)
    listed = [[{"step": "scale", "kind": "scaler", "rows": s.train.tolist()}] for s in splits]
    for known in (recorded, listed):
        assert not any("T2" in t for t in audit_split(table, splits, fitted=known).not_checked)
    unknown = [[{"step": "align", "kind": "alignment", "rows": None, "recorded": True}]] * 5
    [text] = [t for t in audit_split(table, splits, fitted=unknown).not_checked if "T2" in t]
    assert "what align saw" in text
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
    assert [text.split(":")[0] for text in audit.not_checked] == [
        "T1-dup, T1-copy",
        "T1",
        "T5",
        "T2, T3, T6, T7, T14",
        "T13",
    ]


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ({"claim": "everyone"}, "'everyone'"),
        ({"fitted": [[]]}, "1 entries for 5 folds"),
        ({"fitted": [[{"step": "scale"}]] * 5}, "fold sub-01"),
        ({"fitted": [[{"step": "scale", "rows": "all"}]] * 5}, "'all'"),
        ({"fitted": [[{"step": "scale", "rows": [9000]}]] * 5}, "outside the table"),
        ({"fitted": [[{"step": "scale", "rows": [0.5]}]] * 5}, "step 1"),
        ({"fitted": [[{"step": "svm", "kind": "model", "rows": [1], "fresh": "no"}]] * 5}, "fresh"),
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


def _scans(values, table):
    """Row numbers of the first runs of subjects 02 and 04."""
    first = table["run"] == "1"
    return [np.flatnonzero(first & (table["subject"] == name)) for name in ("02", "04")]


@pytest.mark.parametrize("anatomy", [0.0, 400.0])
@pytest.mark.parametrize("n_columns", [64, 300, 3000])
def test_shifted_and_rescaled_copies_are_found_whatever_the_anatomy(n_columns, anatomy):
    table = blocks(n_blocks=5)
    rng = np.random.default_rng(1)
    X = 5 * noise(table, n_columns=n_columns)
    X += (1000 + rng.normal(size=(5, n_columns)) * anatomy)[table["subject"].astype(int) - 1]
    source, copy = _scans(X, table)
    assert not len(find_duplicates(X, table).copies)
    X[copy[7:]] = 1.3 * X[source[:-7]] + 20
    pairs = find_duplicates(X, table).copies
    assert len(pairs) >= 2 * 40
    forward = pairs[np.isin(pairs[:, 0], copy)]
    assert set(table["volume"].to_numpy()[forward[:, 0]] - table["volume"][forward[:, 1]]) == {7}
    assert len(forward) * 2 == len(pairs)


def _alike(kind, table, rng):
    """Data whose scans resemble each other without being copies."""
    X = noise(table, seed=int(rng.integers(1000)), n_columns=100)
    volume = table["volume"].to_numpy()
    brain = (1000 + 400 * rng.normal(size=(5, 100)))[table["subject"].astype(int) - 1]
    if kind == "drift":
        return brain * (1 + 0.05 * volume[:, None] / 90) + 3 * X
    if kind == "saturation":
        return brain * (1 + 0.3 * np.exp(-volume[:, None] * 0.36)) + 3 * X
    if kind == "global signal":
        return brain * (1 + 0.1 * rng.normal(size=(len(X), 1))) + X
    if kind == "two components":
        return rng.normal(size=(len(X), 2)) @ rng.normal(size=(2, 100)) + 0.01 * X
    if kind == "slow":
        return np.cumsum(X, axis=0) + brain
    return 5 * rng.normal(size=(90, 100))[volume] + X


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "kind", ["drift", "saturation", "global signal", "two components", "slow", "shared response"]
)
def test_scans_that_resemble_each_other_are_no_copies(kind, seed):
    table = blocks(seed=seed)
    X = _alike(kind, table, np.random.default_rng(seed)).astype(np.float32)
    found = find_duplicates(X, table)
    assert len(found.copies) == 0
    assert (found.code == -1).all()


def test_duplicates_found_once_serve_every_audit():
    table = blocks()
    splits = leave_one_subject_out(table)
    X = noise(table)
    X[7] = X[500]
    known = find_duplicates(X, table)
    assert rules(audit_split(table, splits, duplicates=known), "leak") == {"T1-dup"}
    twice = audit_split(table, splits, X=X, duplicates=known)
    assert twice.findings == audit_split(table, splits, X=X).findings


@pytest.mark.parametrize("design", [{"preset": "s2"}, {"design": "blocks", "gap_s": 0}])
def test_labels_without_the_haemodynamic_lag_are_a_caution(design):
    for lag_s, flagged in ((0.0, True), (5.0, False)):
        samples = simulate_samples(average="none", lag_s=lag_s, code="linear", seed=1, **design)
        splits = leave_one_subject_out(samples.table)
        audit = audit_split(samples.table, splits, X=samples.X, tr_s=2.0)
        assert ("T8" in rules(audit, "caution")) is flagged
        assert audit.lags["flagged"] is flagged
        if flagged:
            [finding] = [f for f in audit.findings if f.rule == "T8"]
            assert f"moved {audit.lags['best_vol']} volumes" in finding.worst
            assert 2 <= audit.lags["best_vol"] <= 4


@pytest.mark.parametrize("seed", range(8))
def test_data_without_labels_have_no_lag(seed):
    film_, blocks_ = {"design": "movie", "lag_s": 5.0}, {"preset": "s2", "lag_s": 0.0}
    for choices in (film_, blocks_):
        samples = simulate_samples(average="none", code="null", seed=seed, **choices)
        assert lag_curve(samples.X, samples.table, tr_s=2.0)["flagged"] is False


def test_the_lag_curve_is_the_explained_variance_of_moved_labels():
    table = blocks(n_subjects=1, n_runs=1, n_blocks=9)
    X = noise(table, n_columns=5)
    found = lag_curve(X, table, tr_s=2.0, lags_vol=(-1, 0, 3))
    label, kept = table["label"].to_numpy(), np.arange(3, 89)
    z = (X[kept] - X[kept].mean(axis=0)) / X[kept].std(axis=0)
    for lag, share in zip((-1, 0, 3), found["share"], strict=True):
        moved = label[kept - lag]
        between = [(moved == c).sum() * z[moved == c].mean(axis=0) ** 2 for c in np.unique(moved)]
        assert share == pytest.approx(np.sum(between) / (len(kept) * 5), rel=1e-4)
    assert lag_curve(X[::10], table.iloc[::10], tr_s=2.0) == {}


def test_what_sidecars_say_about_timing_is_noted():
    table = blocks()
    splits = leave_one_subject_out(table)
    assert any(text.startswith("T9") for text in audit_split(table, splits).not_checked)
    audit = audit_split(table, splits, timing=["SliceTimingCorrected = True, StartTime = 0.97"])
    assert (audit.verdict, rules(audit, "note")) == ("clean", {"T9"})
    assert "StartTime = 0.97" in audit.findings[0].worst
    assert not any(text.startswith("T9") for text in audit.not_checked)


class _Control:
    """What the audit reads of a negative control."""

    def __init__(self, rule, p_corrected, passed):
        self.rule, self.p_corrected, self.passed = rule, p_corrected, passed
        self.title, self.sentence = "planted", f"planted control, p = {p_corrected}"

    def to_json(self):
        return {"rule": self.rule, "passed": self.passed}


@pytest.mark.parametrize(
    ("rule", "p", "passed", "verdict"),
    [
        ("T2", 0.3, True, "clean"),
        ("T5", 0.02, False, "caution"),
        ("T2", 0.001, False, "leak"),
        ("T3", 0.0005, False, "leak"),
        ("T13", 0.0005, False, "caution"),
    ],
)
def test_controls_that_are_not_at_chance_change_the_verdict(rule, p, passed, verdict):
    table = blocks()
    audit = audit_split(table, leave_one_subject_out(table), X=noise(table))
    assert (audit.verdict, audit.controls, audit.controls_share) == ("clean", (), None)
    more = add_controls(audit, [_Control(rule, p, passed)], share=0.4)
    assert more.verdict == verdict
    assert len(more.findings) == (passed is False)
    assert more.to_json()["controls"] == [{"rule": rule, "passed": passed}]
    assert more.controls_share == 0.4
    asked = any(text.startswith("T13") for text in more.not_checked)
    assert asked is not (rule == "T13")
    if more.findings:
        assert more.findings[0].worst == f"planted control, p = {p}"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[", "no JSON"),
        ("{}", "a dict for 2 folds"),
        ("[[]]", "1 entries for 2 folds"),
        ('[[], ["scale"]]', "fold-2, step 1"),
        ('[[], "scale"]', "fold-2"),
        ('[[], {"step": "scale"}]', "no rows"),
        ('[[], {"rows": [1]}]', "no name"),
        ('[[], {"step": "scale", "rows": [1, 99]}]', "first: 99"),
        ('[[], {"step": "scale", "rows": "all"}]', "'all'"),
        ('[[], {"step": "scale", "rows": [[1], 2]}]', "rows ="),
        ('[[], {"step": 3, "rows": [1]}]', "step = 3"),
    ],
)
def test_bad_files_of_fitted_steps_are_refused_with_the_place(tmp_path, content, found):
    path = tmp_path / "fitted.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_fitted(path, n_samples=20, n_folds=2)
    assert found in str(caught.value)
    assert "fitted.json" in caught.value.where
    with pytest.raises(DataMissingError):
        read_fitted(tmp_path / "none.json", n_samples=20, n_folds=2)


def test_files_of_fitted_steps_hold_one_entry_or_several_a_fold(tmp_path):
    path = tmp_path / "fitted.json"
    one = {"step": "scale", "kind": "scaler", "rows": [1, 2]}
    warm = {"kind": "model", "starts_from": "fold-1"}
    path.write_text(json.dumps([one, [one, warm]]))
    assert read_fitted(path, n_samples=20, n_folds=2) == [[one], [one, warm]]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"train": [0], "val": [1], "test": [2]}]', "'val'"),
        ('[{"train": [], "test": [2]}]', "without a training sample"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_folds_that_say_something_else_are_refused(content, found, tmp_path):
    (tmp_path / "splits.json").write_text(content)
    with pytest.raises(InputError, match=found):
        read_splits(tmp_path / "splits.json", n_samples=3)


@pytest.mark.parametrize(
    "entry",
    [
        '{"kind": "permutation", "unit": "banana"}',
        '{"step": "scale", "kind": "scaler", "rows": [true, 2]}',
    ],
)
def test_steps_that_cannot_be_understood_are_refused(entry, tmp_path):
    (tmp_path / "fitted.json").write_text(f"[[{entry}]]")
    with pytest.raises(InputError):
        read_fitted(tmp_path / "fitted.json", n_samples=3, n_folds=1)


@pytest.mark.parametrize(("share", "title"), [(None, "No control was run"), (0.1, "No control")])
def test_without_any_control_nothing_is_clean(share, title):
    table = blocks()
    audit = audit_split(table, leave_one_subject_out(table), X=noise(table))
    controls = [] if share is None else [_Control("T2", None, None)]
    more = add_controls(audit, controls, share=share)
    assert more.verdict == "caution"
    assert more.findings[0].title.startswith(title)

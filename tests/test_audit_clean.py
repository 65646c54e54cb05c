"""Power of the audit: doubts are cautions, and no clean design is accused."""

import numpy as np
import pytest

from designs import blocks, film, noise, raw_intensities, rows_table, slow_noise
from emodecode.evaluate.audit import audit_split, enforce
from emodecode.evaluate.splits import (
    Split,
    group_k_fold,
    leave_one_subject_out,
    leave_run_out,
    subject_by_stimulus,
)

# doubts that are no proven leak: (table, splits, keyword arguments, rule, what the worst case says)


def _exchanged_volumes():
    table = blocks()
    splits = leave_one_subject_out(table)
    step = {"step": "p value", "kind": "permutation", "unit": "volume", "rows": []}
    return table, splits, {"fitted": [step] * 5}, "T12", "samples of a run are 2 s apart"


def _alignment_beside_the_test():
    table = blocks()
    splits = [
        Split(s.train, s.calibrate, s.test[:80], name=s.name) for s in leave_one_subject_out(table)
    ]
    step = {"step": "align", "kind": "alignment", "rows": list(range(84, 90))}
    fitted = [[], [], [], [], []]
    fitted[0] = [step]
    worst = "fold sub-01: sub-01 run-1 volume 79 10 s from sub-01 run-1 volume 84"
    return table, splits, {"fitted": fitted}, "T3", worst


def _pretrained_weights():
    table = blocks()
    step = {"step": "cnn", "kind": "model", "starts_from": "bestmodel.pth"}
    return table, leave_one_subject_out(table), {"fitted": [step] * 5}, "T7", "bestmodel.pth"


def _two_blocks_in_one_order():
    table = blocks(n_subjects=6, n_runs=1, n_blocks=4, n_classes=2, order="common")
    return table, leave_one_subject_out(table), {}, "T19", "6 ways only: no permutation test"


def _one_label_a_subject():
    table = rows_table(n_subjects=4)
    table["label"] = np.where(table["subject"].isin(["0", "1"]), "anger", "joy")
    rows = np.arange(len(table))
    odd = [Split(rows[rows % 2 == k], [], rows[rows % 2 != k], name=str(k)) for k in range(2)]
    return table, odd, {"claim": "within_subject"}, "T19", "below p = 0.17"


DOUBTFUL = [
    _exchanged_volumes,
    _alignment_beside_the_test,
    _pretrained_weights,
    _two_blocks_in_one_order,
    _one_label_a_subject,
]


@pytest.mark.parametrize("plant", DOUBTFUL)
def test_doubts_are_cautions_with_a_name(plant):
    table, splits, how, rule, worst = plant()
    audit = audit_split(table, splits, **how)
    [finding] = [f for f in audit.findings if f.rule == rule]
    assert finding.verdict == "caution"
    assert worst in finding.worst
    assert finding.danger
    assert finding.remedy


def halves(table):
    return group_k_fold(table, n_folds=2, seed=0)


def with_gap(table):
    return subject_by_stimulus(table, groups="segments", n_segments=3, gap_s=40.0)


def averaged(table):
    """One sample a block, its number the first volume's."""
    return table[table["volume"] % 10 == 0].reset_index(drop=True)


def one_class_rarer(table):
    rare = (table["label"] == "c2") & (table["volume"] % 4 == 0)
    return table[~rare].reset_index(drop=True)


CLEAN = {
    "blocks": (blocks(), leave_one_subject_out),
    "blocks, many subjects": (blocks(n_subjects=20, n_runs=1, seed=3), leave_one_subject_out),
    "blocks, two subjects": (blocks(n_subjects=2, n_runs=1, n_blocks=6), leave_one_subject_out),
    "blocks, two classes": (blocks(n_classes=2, n_blocks=8, seed=5), leave_one_subject_out),
    "blocks, five classes": (blocks(n_classes=5, n_blocks=15, seed=2), leave_one_subject_out),
    "blocks, long": (blocks(length=25, seed=4), leave_one_subject_out),
    "blocks, folds": (blocks(n_subjects=9), lambda t: group_k_fold(t, n_folds=3, seed=1)),
    "blocks, halves": (blocks(n_subjects=8, n_runs=1, seed=6), halves),
    "blocks, averaged": (averaged(blocks(seed=7)), leave_one_subject_out),
    "blocks, averaged, folds": (averaged(blocks(n_subjects=6, seed=8)), halves),
    "blocks, no times": (blocks(seed=9).drop(columns="onset_s"), leave_one_subject_out),
    "blocks, bare": (blocks()[["subject", "label"]], lambda t: leave_one_subject_out(blocks())),
    "blocks, unequal": (one_class_rarer(blocks(seed=10)), leave_one_subject_out),
    "film": (film(), subject_by_stimulus),
    "film, many": (film(n_subjects=8), subject_by_stimulus),
    "film, segments": (film(), lambda t: subject_by_stimulus(t, groups="segments")),
    "film, gap": (film(), with_gap),
    "film, clocks differ": (film(shift_s=0.4), subject_by_stimulus),
    "film, two classes": (film(n_classes=2), subject_by_stimulus),
    "film, short volumes": (film(n_subjects=3, tr_s=1.0), subject_by_stimulus),
    "rows": (rows_table(), leave_one_subject_out),
    "rows, many": (rows_table(n_subjects=12, n_each=6), leave_one_subject_out),
    "rows, folds": (rows_table(), halves),
}
DATA = {"noise": noise, "slow": slow_noise, "raw": raw_intensities}


@pytest.mark.parametrize("name", CLEAN)
@pytest.mark.parametrize("kind", DATA)
def test_clean_designs_are_not_accused(name, kind):
    table, make = CLEAN[name]
    splits = make(table)
    common = {"recorded": True, "fresh": True}
    steps = [
        {"step": "scale", "kind": "scaler", "rows": "train"} | common,
        {"step": "select", "kind": "selection", "rows": "train"} | common,
        {"step": "svm", "kind": "model", "rows": "train"} | common,
        {"step": "p value", "kind": "permutation", "unit": "block", "rows": []},
    ]
    fitted = [[*steps, {"step": "grid", "kind": "tuning", "rows": s.train[::2]}] for s in splits]
    audit = audit_split(table, splits, X=DATA[kind](table), fitted=fitted)
    assert audit.verdict == "clean"
    assert {finding.rule for finding in audit.findings} <= {"T10"}
    assert not any("T2" in text for text in audit.not_checked)
    enforce(audit, allow_leakage=False)


def test_a_calibration_on_another_run_is_clean():
    table = blocks(seed=11)
    splits = []
    for split in leave_one_subject_out(table):
        second = (table["run"] == "2").to_numpy()[split.test]
        splits.append(Split(split.train, split.test[second], split.test[~second], name=split.name))
    steps = [{"step": "adapt", "kind": "alignment", "rows": "calibrate"}]
    for X in (slow_noise(table), raw_intensities(table)):
        audit = audit_split(table, splits, X=X, fitted=[steps] * 5)
        assert (audit.verdict, audit.findings) == ("clean", ())


def test_runs_of_one_subject_are_clean_if_only_that_is_claimed():
    table = blocks(n_subjects=1, n_runs=4, seed=12)
    audit = audit_split(
        table, leave_run_out(table), X=raw_intensities(table), claim="within_subject"
    )
    assert audit.verdict == "clean"


def test_single_samples_may_be_exchanged_where_they_are_no_time_series():
    table = rows_table()
    step = {"step": "p value", "kind": "permutation", "unit": "sample", "rows": []}
    splits = leave_one_subject_out(table)
    assert audit_split(table, splits, fitted=[step] * len(splits)).verdict == "clean"


@pytest.mark.parametrize("seed", range(50))
def test_random_orders_are_not_mistaken_for_a_common_clock(seed):
    sizes = np.random.default_rng(seed).integers([2, 1, 3], [13, 4, 13])
    table = blocks(n_subjects=sizes[0], n_runs=sizes[1], n_blocks=sizes[2], seed=seed)
    audit = audit_split(table, leave_one_subject_out(table), X=slow_noise(table, seed, 64))
    assert audit.verdict == "clean"


@pytest.mark.parametrize(("n_values", "verdict"), [(3, "caution"), (10**6, "leak")])
def test_equal_rows_of_ratings_may_be_accidents(n_values, verdict):
    table = blocks(n_subjects=5, n_runs=1)
    X = np.random.default_rng(0).integers(n_values, size=(len(table), 8)).astype(np.float32)
    X[-1] = X[0]
    audit = audit_split(table, leave_one_subject_out(table), X=X)
    found = {finding.rule: finding.verdict for finding in audit.findings}
    assert found["T1-dup"] == audit.verdict == verdict

"""Overlap: shares counted one by one, time-only scores, and S1's split from the raw annotations."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from designs import blocks, film, rows_table
from emodecode.evaluate.audit import audit_split
from emodecode.evaluate.overlap import describe_overlap, pooled_scores
from emodecode.evaluate.splits import (
    Split,
    leave_one_subject_out,
    leave_run_out,
    shuffled,
    subject_by_stimulus,
)


def _by_hand(table, splits):
    """Count pair by pair."""
    shared, others, within = [], [], {"4": [], "10": [], "30": []}
    for split in splits:
        for row in split.test:
            me, train = table.iloc[row], table.iloc[split.train].drop(index=row, errors="ignore")
            away = (train["stimulus_time_s"] - me["stimulus_time_s"]).abs()
            shared.append(bool((away <= 2.0).any()))
            there = train[(away < 1.0) & (train["subject"] != me["subject"])]
            others.append(there["subject"].nunique())
            own = train[(train["subject"] == me["subject"]) & (train["run"] == me["run"])]
            gaps = (own["onset_s"] - me["onset_s"]).abs()
            for key, found in within.items():
                found.append(bool((gaps <= float(key)).any()))
    return {
        "n_test": len(shared),
        "share_stimulus_in_training": np.mean(shared),
        "share_moment_of_others_in_training": np.mean(np.array(others) > 0),
        "mean_other_subjects_in_training": np.mean(others),
        "share_same_subject_within": {key: np.mean(found) for key, found in within.items()},
    }


@pytest.mark.parametrize("make", [shuffled, leave_run_out, subject_by_stimulus])
def test_shares_are_those_counted_pair_by_pair(make):
    table = film(n_subjects=3).iloc[::5].reset_index(drop=True)
    table["stimulus_time_s"] += 0.6 * (table["subject"] == "02")
    splits = make(table)
    found, expected = describe_overlap(table, splits, tr_s=2.0), _by_hand(table, splits)
    within = found.pop("share_same_subject_within")
    assert within == pytest.approx(expected.pop("share_same_subject_within"))
    assert found == pytest.approx(expected)


def test_a_row_is_no_neighbour_of_itself():
    table = blocks(n_subjects=1, n_runs=1)
    far = table.iloc[::20].reset_index(drop=True)
    everything = np.arange(len(far))
    split = Split(everything, [], everything[:2], name="all")
    within = describe_overlap(far, [split])["share_same_subject_within"]
    assert within == {"4": 0.0, "10": 0.0, "30": 0.0}


def test_what_a_table_does_not_tell_is_none():
    table = rows_table()
    found = audit_split(table, leave_one_subject_out(table)).overlap
    assert found["n_test"] == len(table)
    assert found["share_stimulus_in_training"] is None
    assert found["mean_other_subjects_in_training"] is None
    assert set(found["share_same_subject_within"].values()) == {None}
    assert found["time_only"] == {"stimulus": None, "subject": None}


def test_pooled_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    classes = np.array(["a", "b", "c"])
    given = rng.dirichlet(np.ones(3), size=200).round(1)
    given /= given.sum(axis=1, keepdims=True)
    label = classes[rng.integers(3, size=200)]
    table = pd.DataFrame(given, columns=[f"p_{name}" for name in classes])
    table = table.assign(label=label, predicted=classes[given.argmax(axis=1)])
    found = pooled_scores(table)
    assert found["balanced_accuracy"] == pytest.approx(
        balanced_accuracy_score(label, table["predicted"])
    )
    assert found["macro_auc"] == pytest.approx(
        roc_auc_score(label, given, multi_class="ovr", average="macro")
    )


def test_time_alone_knows_a_shuffled_film_and_nothing_of_a_double_hold_out():
    table = film(n_subjects=5)
    known = audit_split(table, shuffled(table)).overlap["time_only"]
    assert known["stimulus"]["balanced_accuracy"] > 0.95
    assert known["subject"]["balanced_accuracy"] > 0.85
    honest = audit_split(table, subject_by_stimulus(table)).overlap["time_only"]
    assert honest["stimulus"]["balanced_accuracy"] < 0.5


@pytest.mark.data
@pytest.mark.usefixtures("data_dir")
def test_s1_split_shares_every_moment_of_the_film():
    from emodecode.assemble import sample_table
    from emodecode.study import load_study

    study = Path(__file__).parents[1] / "studies" / "studyforrest_labels.toml"
    table, tr_s = sample_table(load_study(study))
    audit = audit_split(table, shuffled(table, test_share=0.2, seed=42), tr_s=tr_s)
    found = audit.overlap
    assert (found["n_test"], audit.verdict) == (1050, "leak")
    assert found["share_stimulus_in_training"] == 1.0
    assert found["share_moment_of_others_in_training"] == 1.0
    assert found["mean_other_subjects_in_training"] == pytest.approx(11.34, abs=0.01)
    within = found["share_same_subject_within"]
    assert within == pytest.approx({"4": 0.634, "10": 0.846, "30": 0.964}, abs=0.001)
    time_only = found["time_only"]
    assert time_only["subject"]["balanced_accuracy"] == pytest.approx(0.887, abs=0.005)
    assert time_only["stimulus"]["balanced_accuracy"] == 1.0

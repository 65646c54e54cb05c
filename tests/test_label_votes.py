"""Annotations and ratings -> labels of volumes, by hand-made observers."""

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import InputError
from emodecode.label.consensus import cast_votes, find_consensus
from emodecode.label.ratings import label_ratings, mean_in_windows
from emodecode.label.votes import label_annotations
from emodecode.run import Run


def annotate(*rows, observers=None):
    """Rows of (observer, start_s, end_s, emotion[, character])."""
    table = pd.DataFrame(
        [(*row, "A") if len(row) == 4 else row for row in rows],
        columns=["observer", "start_s", "end_s", "emotion", "character"],
    )
    return table.assign(valence="NEG", arousal="HIGH", direction="SELF")


def plan(n=10, tr_s=1.0, **more):
    fields = {"subject": "01", "run": "1", "stimulus": "film"} | more
    return Run(tr_s=tr_s, planned_volumes=n, **fields)


def text_of(labelled, n=10):
    labels = labelled.table.set_index("volume")["label"].reindex(range(n), fill_value="-")
    return "".join(label[0] for label in labels)


def votes_for(votes, label):
    return votes.active[votes.labels.index(label)].astype(int).tolist()


def test_an_observer_votes_for_all_that_is_active():
    rows = annotate(
        ("o1", 0, 4, "FEAR", "A"), ("o1", 2, 5, "SADNESS HOPE", "B"), ("o2", 1, 2, "FEAR", "A")
    )
    votes = cast_votes(rows)
    assert votes.labels == ("FEAR", "HOPE", "SADNESS")
    assert votes_for(votes, "FEAR") == [[1, 1, 1, 1, 0], [0, 1, 0, 0, 0]]
    assert votes_for(votes, "HOPE") == [[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_allclose(votes.fractions[0], [0.5, 1, 0.5, 0.5, 0])
    one = cast_votes(rows, characters=["B"])
    assert one.observers == ("o1", "o2")
    assert one.labels == ("HOPE", "SADNESS")
    whole = cast_votes(rows, split_labels=False)
    assert whole.labels == ("FEAR", "SADNESS HOPE")
    merged = cast_votes(rows, merge={"HOPE": "FEAR"})
    assert votes_for(merged, "FEAR") == [[1, 1, 1, 1, 1], [0, 1, 0, 0, 0]]


def test_later_rows_overwrite_and_are_counted():
    rows = annotate(("o1", 0, 4, "A"), ("o1", 3, 6, "B"), ("o1", 1, 2, "A"), ("o2", 1.9, 4.1, "A"))
    votes = cast_votes(rows, grid_s=2.0, overwrite=True, split_labels=False)
    # o1: cells 0-1 A, then 1-2 B, then cell 0 A again; o2 from floor(.95) to ceil(2.05)
    assert votes_for(votes, "A") == [[1, 0, 0], [1, 1, 1]]
    assert votes_for(votes, "B") == [[0, 1, 1], [0, 0, 0]]
    assert (votes.n_filled, votes.n_overwritten) == (6, 1)


def test_a_moment_without_length_is_seen_once():
    rows = annotate(("o1", 3, 3, "A"), ("o1", 5, 6, "A"))
    assert votes_for(cast_votes(rows), "A") == [[0, 0, 0, 1, 0, 1]]


def test_ties_are_no_consensus_unless_they_are_broken():
    fractions = np.array([[0.5, 0.6, 0.4, 0.0], [0.5, 0.2, 0.4, 0.0]])
    winner, share = find_consensus(fractions, agreement=0.5)
    assert winner.tolist() == [-1, 0, -1, -1]
    np.testing.assert_allclose(share, [0.5, 0.6, 0.4, 0.0])
    assert find_consensus(fractions, agreement=0.5, break_ties=True)[0].tolist() == [0, 0, -1, -1]
    assert find_consensus(fractions, agreement=0.6)[0].tolist() == [-1, 0, -1, -1]


@pytest.mark.parametrize("n", range(2, 12))
def test_half_of_the_observers_is_the_published_majority(n):
    counts = np.arange(n + 1)
    winner, _ = find_consensus(counts[None, :] / n, agreement=0.5, break_ties=True)
    np.testing.assert_array_equal(winner >= 0, counts >= np.ceil(n / 2))


def test_all_observers_count_also_those_who_say_nothing_of_this_character():
    rows = annotate(("o1", 0, 4, "FEAR", "A"), ("o2", 0, 4, "FEAR", "B"), ("o3", 0, 4, "n/a", "A"))
    run = plan(n=4)
    table = label_annotations([run], rows, lag_s=0, agreement=0.6).table
    np.testing.assert_allclose(table["agreement"], 2 / 3)
    with pytest.raises(InputError, match="no labelled volume"):
        label_annotations([run], rows, lag_s=0, characters=["A"])


def test_soft_labels_leave_out_what_never_wins():
    rows = annotate(
        ("o1", 0, 4, "FEAR"),
        ("o2", 0, 4, "FEAR"),
        ("o3", 0, 2, "JOY"),
        ("o3", 2, 4, "HOPE"),
        ("o1", 4, 8, "JOY"),
        ("o2", 4, 8, "JOY"),
    )
    labelled = label_annotations([plan()], rows, lag_s=0)
    assert text_of(labelled) == "FFFFJJJJ--"
    assert [name for name in labelled.table if name.startswith("p_")] == ["p_FEAR", "p_JOY"]
    np.testing.assert_allclose(labelled.table["p_FEAR"], [2 / 3, 2 / 3, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(labelled.table["p_FEAR"] + labelled.table["p_JOY"], 1.0)
    timeline = labelled.timeline
    np.testing.assert_allclose(timeline["p_FEAR"][:5], [2 / 3] * 4 + [0])
    assert timeline["label"].tolist() == ["FEAR"] * 4 + ["JOY"] * 4
    assert labelled.table["block"].tolist() == ["01"] * 4 + ["02"] * 4


def test_lag_and_start_of_the_run():
    rows = annotate(("o1", 0, 4, "FEAR"), ("o1", 4, 20, "JOY"))
    run = plan(stimulus_start_s=2.0)
    labelled = label_annotations([run], rows, lag_s=3.0)
    assert text_of(labelled) == "---FFJJJJJ"
    assert labelled.table["stimulus_time_s"].tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert set(labelled.table["stimulus"]) == {"film"}
    shifted = label_annotations([plan(stimulus_start_s=2.0, dummies=2)], rows, lag_s=3.0)
    assert text_of(shifted, 8) == "-FFJJJJJ"


def test_another_variable():
    rows = annotate(("o1", 0, 4, "n/a"))
    assert set(label_annotations([plan()], rows, variable="valence").table["label"]) == {"NEG"}


def test_hrf_weighted_votes_follow_the_convolution():
    from nilearn.glm.first_level.hemodynamic_models import compute_regressor

    rows = annotate(("o1", 10, 40, "FEAR"), ("o2", 10, 40, "FEAR"), ("o2", 40, 70, "JOY"))
    run = plan(n=80)
    labelled = label_annotations([run], rows, hrf=True, agreement=0.6)
    regressor, _ = compute_regressor(
        np.array([[10.0], [30.0], [1.0]]), "spm", run.onset_s, oversampling=50
    )
    regressor = regressor[:, 0]
    fear = labelled.table[labelled.table["label"] == "FEAR"]
    np.testing.assert_allclose(fear["agreement"], regressor[fear["volume"]].clip(0, 1), atol=0.03)
    assert fear["volume"].min() == np.flatnonzero(regressor >= 0.6)[0]
    assert set(labelled.table["label"]) == {"FEAR"}
    np.testing.assert_allclose(fear["stimulus_time_s"], fear["onset_s"] - 5.0)


def test_annotation_errors():
    rows = annotate(("o1", 0, 4, "FEAR", "JENNY"), ("o2", 0, 4, "FEAR", "JENNY"))
    with pytest.raises(InputError, match="no column 'emotions'") as caught:
        label_annotations([plan()], rows, variable="emotions")
    assert "'emotion'" in caught.value.remedy
    with pytest.raises(InputError, match="unknown label 'Jeny'") as caught:
        label_annotations([plan()], rows, characters=["Jeny"])
    assert "'JENNY'" in caught.value.remedy
    with pytest.raises(InputError, match="unknown label 'FAER'"):
        cast_votes(rows, merge={"FAER": "FEAR"})
    with pytest.raises(InputError, match="no row with a value"):
        cast_votes(rows.assign(emotion="n/a"))
    long = annotate(("o1", 0, 4, "FEAR"), ("o1", 500, 600, "FEAR"))
    with pytest.raises(InputError, match="2 runs that all start at 0 s"):
        label_annotations([plan(run="1"), plan(run="2")], long)


def test_notes_say_whose_labels_these_are():
    notes = label_annotations([plan()], annotate(("o1", 0, 4, "A B"), ("o2", 0, 2, "A"))).notes
    assert any("not what the scanned subjects" in note for note in notes)
    assert any("ties" in note for note in notes)


def make_ratings(values, *, rate_hz=1.0, run="n/a", by_volume=False):
    values = np.atleast_2d(values)
    table = pd.DataFrame({"run": run, "time_s": np.arange(values.shape[1]) / rate_hz, "volume": -1})
    if by_volume:
        table["time_s"], table["volume"] = np.nan, np.arange(values.shape[1])
    for number, course in enumerate(values, start=1):
        table[f"rater-{number}"] = course
    return table


def test_windows_average_by_time():
    rng = np.random.default_rng(0)
    time_s = np.cumsum(rng.uniform(0.2, 1.0, 40))
    values = rng.normal(size=40)
    start_s = np.arange(time_s[0] + 0.1, time_s[-1] - 2, 1.3)
    got = mean_in_windows(time_s, values, start_s=start_s, length_s=1.3)
    fine = np.arange(0, 1.3, 1e-4)
    for start, mean in zip(start_s, got, strict=True):
        at = np.searchsorted(time_s, start + fine, side="right") - 1
        assert mean == pytest.approx(values[at].mean(), abs=2e-3)


def test_windows_leave_out_what_is_missing():
    values = np.array([1.0, np.nan, np.nan, 4.0])
    got = mean_in_windows(
        np.arange(4.0), values, start_s=np.array([-3.0, 0.0, 1.0, 2.0, 3.0, 3.6]), length_s=2.0
    )
    np.testing.assert_allclose(got, [np.nan, 1.0, np.nan, 4.0, 4.0, np.nan])


def test_ratings_of_another_rate_become_two_classes():
    ratings = make_ratings([-1, -1, -1, 3, 0, 0, 5, 5], rate_hz=1.0)
    labelled = label_ratings([plan(n=4, tr_s=2.0)], ratings, lag_s=0.0)
    # means of pairs: -1, 1, 0 (equal to the limit: no sample), 5
    assert labelled.table["label"].tolist() == ["negative", "positive", "positive"]
    assert labelled.table["volume"].tolist() == [0, 1, 3]
    assert labelled.reliability is None
    later = label_ratings([plan(n=4, tr_s=2.0)], ratings, lag_s=2.0)
    assert later.table["volume"].tolist() == [1, 2]
    assert later.table["stimulus_time_s"].tolist() == [0.0, 2.0]


def test_agreement_is_the_share_of_raters_on_that_side():
    ratings = make_ratings([[1, -9, 2, 1], [1, 1, 2, -1], [1, 1, -1, 0]])
    table = label_ratings([plan(n=4)], ratings, lag_s=0.0, agreement=0.3).table
    assert table["label"].tolist() == ["positive", "negative", "positive"]
    np.testing.assert_allclose(table["agreement"], [1, 1 / 3, 2 / 3])
    np.testing.assert_allclose(table["p_negative"], [0, 1 / 3, 1 / 3])
    strict = label_ratings([plan(n=4)], ratings, lag_s=0.0, agreement=0.5).table
    assert strict["volume"].tolist() == [0, 2]


def test_ratings_per_volume_and_run():
    ratings = pd.concat(
        [
            make_ratings([1.0, 1, -1], run="1", by_volume=True),
            make_ratings([-1.0, 1], run="2", by_volume=True),
        ]
    )
    runs = [plan(n=3, run="01"), plan(n=2, run="02", stimulus_start_s=3.0)]
    table = label_ratings(runs, ratings, lag_s=0.0).table
    assert table["label"].str[0].tolist() == ["p", "p", "n", "n", "p"]
    assert table["stimulus_time_s"].tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="3 ratings for 4 volumes"):
        label_ratings([plan(n=4)], ratings, lag_s=0.0)
    with pytest.raises(InputError, match="no ratings of run 3"):
        label_ratings([plan(run="3")], ratings, lag_s=0.0)
    same_start = [plan(n=3, run="1"), plan(n=2, run="2")]
    table = label_ratings(same_start, ratings, lag_s=0.0).table
    assert set(table["stimulus"]) == {"film run-1", "film run-2"}


def test_rating_rules_are_checked():
    ratings = make_ratings([1.0, 1.0])
    with pytest.raises(InputError, match="low = 1, high = 0"):
        label_ratings([plan()], ratings, low=1.0, high=0.0)
    with pytest.raises(InputError, match="times do not rise"):
        label_ratings([plan()], pd.concat([ratings, ratings]))
    with pytest.raises(InputError, match="no labelled volume"):
        label_ratings([plan()], ratings, high=2.0)

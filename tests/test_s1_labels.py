"""S1's labels, its clock and the reliability of its observers, on the real annotations."""

import numpy as np
import pytest

from emodecode.label.clock import measure_clock_error
from emodecode.label.consensus import cast_votes
from emodecode.label.reliability import split_half
from emodecode.label.rules import apply_rules, count_labels
from emodecode.label.votes import label_annotations
from emodecode.read.annotations import read_annotations, read_ratings
from emodecode.read.design import plan_runs
from emodecode.sections import LABEL_PRESETS, STUDYFORREST_SEGMENTS_S

pytestmark = pytest.mark.data

RUN_VOLUMES = [451, 441, 438, 488, 462, 439, 542, 338]
NOMINAL_SEGMENTS_S = [(float(int(start)), end) for start, end in STUDYFORREST_SEGMENTS_S]
CONSENSUS_COUNTS = {
    "FEAR": 236,
    "SADNESS": 235,
    "HAPPINESS": 206,
    "ANGERRAGE": 143,
    "LOVE": 78,
}


@pytest.fixture(scope="module")
def annotations(data_dir):
    return read_annotations(
        data_dir / "studyforrest_annotations" / "emotions_raw", pattern="av1o*.csv"
    )


@pytest.fixture(scope="module")
def runs():
    runs, _ = plan_runs(
        subjects=["01", "02"], run_volumes=RUN_VOLUMES, tr_s=2.0, stimulus="forrest-gump"
    )
    return runs


@pytest.fixture(scope="module")
def published(annotations, runs):
    rules = LABEL_PRESETS["s1-as-published"]
    names = ("variable", "lag_s", "agreement", "grid_s", "split_labels", "overwrite")
    names = (*names, "segments_s", "clock")
    return label_annotations(runs, annotations, **{name: rules[name] for name in names})


def test_raw_annotations(annotations):
    assert len(annotations) == 5222
    emotion = annotations["emotion"]
    assert (emotion != "n/a").sum() == 3574
    assert emotion.str.contains(" ").sum() == 75
    assert annotations["observer"].nunique() == 9


def test_votes_overwrite_each_other_as_published(annotations):
    votes = cast_votes(annotations, grid_s=2.0, split_labels=False, overwrite=True)
    assert votes.active.shape[1:] == (9, 3526)
    assert (votes.n_filled, votes.n_overwritten) == (17_683, 6_124)


def test_published_consensus_counts(published):
    timeline = published.timeline
    assert len(timeline) == 3526
    assert (timeline["label"] != "n/a").sum() == 1010
    counts = count_labels(published.table)
    assert len(counts) == 17
    assert counts.head(5).to_dict() == CONSENSUS_COUNTS
    assert counts.to_dict() == timeline["label"].value_counts().drop("n/a").to_dict()
    assert len(published.table) == 2 * 1010


def test_published_balanced_sample_and_its_wrong_clock(published):
    rules = LABEL_PRESETS["s1-as-published"]
    names = ("min_count", "balance", "balance_count")
    table, notes = apply_rules(published.table, **{name: rules[name] for name in names})
    assert len(table) == 2 * 350
    assert count_labels(table).to_dict() == dict.fromkeys(sorted(CONSENSUS_COUNTS), 70)
    assert "350 moments of 107 episodes" in notes[-1]
    error = measure_clock_error(table, published.timeline)
    assert (error["n_moments"], error["n_wrong"]) == (350, 325)
    assert (error["n_same_label"], error["n_without_label"]) == (85, 177)
    assert error["mean_s"] == pytest.approx(59.4, abs=0.05)
    assert any("WRONG" in note and "954 of 1010" in note for note in published.notes)


def test_published_displacement_with_nominal_segment_starts(annotations, runs):
    labelled = label_annotations(
        runs,
        annotations,
        lag_s=0.0,
        grid_s=2.0,
        split_labels=False,
        overwrite=True,
        segments_s=NOMINAL_SEGMENTS_S,
        clock="published-cumulative",
    )
    table, _ = apply_rules(labelled.table, min_count=70, balance="volume", balance_count=70)
    error = measure_clock_error(table, labelled.timeline)
    assert error["mean_s"] == pytest.approx(59.6, abs=0.05)
    assert error["median_s"] == 48.0
    assert error["worst_s"] == 112.0
    assert (error["n_wrong"], error["n_same_label"], error["n_without_label"]) == (325, 85, 177)


def test_right_clock_gives_every_volume_the_label_of_its_moment(annotations, runs):
    labelled = label_annotations(
        runs, annotations, lag_s=5.0, segments_s=STUDYFORREST_SEGMENTS_S, overlap="first"
    )
    table = labelled.table
    assert "labelled_time_s" not in table
    of_moment = labelled.timeline.set_index("time_s")["label"]
    moments = np.floor(table["stimulus_time_s"] + 1e-6)
    assert (of_moment.loc[moments].to_numpy() == table["label"].to_numpy()).all()
    assert (table["onset_s"] >= 5.0).all()
    one = table[table["subject"] == "01"]
    assert not (one["stimulus_time_s"] // 2).duplicated().any()
    error = measure_clock_error(
        table.assign(labelled_time_s=table["stimulus_time_s"]), labelled.timeline
    )
    assert error["n_wrong"] == 0
    assert error["n_same_label"] == error["n_moments"]


LABS_2015 = {
    "FEAR": 0.749,
    "SADNESS": 0.737,
    "ANGERRAGE": 0.719,
    "HAPPINESS": 0.618,
    "LOVE": 0.568,
    "SHAME": 0.316,
}


def test_split_half_ranks_are_those_of_the_annotators_paper(annotations):
    votes = cast_votes(annotations)
    for name, value in LABS_2015.items():
        got = split_half(votes.active[votes.labels.index(name)].astype(float), n_halves=40)
        assert got["split_half_rank"] == pytest.approx(value, abs=0.01), name
    for variable, value in (("valence", 0.851), ("arousal", 0.676)):
        active = cast_votes(annotations, variable=variable).active.astype(float)
        got = split_half(active[0] - active[1], n_halves=40)
        assert got["split_half_rank"] == pytest.approx(value, abs=0.01), variable


def test_sherlock_valence_per_volume(data_dir):
    from emodecode.label.ratings import label_ratings

    ratings = read_ratings(
        data_dir / "sherlock_chen2017" / "sherlock_valence_arousal_per_TR.csv",
        variable="valence",
        run_column="run",
    )
    runs, _ = plan_runs(subjects=["01"], run_volumes=[946, 1030], tr_s=1.5, stimulus="sherlock")
    labelled = label_ratings(runs, ratings, lag_s=0.0)
    rated = ratings["rater-1"].to_numpy()
    assert len(labelled.table) == (rated != 0).sum()
    expected = np.where(rated[rated != 0] > 0, "positive", "negative")
    assert (labelled.table["label"].to_numpy() == expected).all()
    assert set(labelled.table["stimulus"]) == {"sherlock"}
    assert labelled.table["stimulus_time_s"].is_monotonic_increasing


def test_continuous_ratings_of_thirty_raters(data_dir):
    from emodecode.label.ratings import label_ratings

    ratings = read_ratings(
        data_dir / "ratings_affectprediction" / "sherlock_valence.mat",
        variable="valence",
        rate_hz=1 / 1.5,
    )
    runs, _ = plan_runs(subjects=["01"], run_volumes=[946, 978], tr_s=1.5, stimulus="sherlock")
    courses = ratings[[name for name in ratings if name.startswith("rater-")]].to_numpy()
    assert courses.shape == (1924, 30)
    middle = float(np.nanmean(courses))
    labelled = label_ratings(runs, ratings, low=middle, high=middle, lag_s=6.0)
    first = labelled.table[labelled.table["run"] == "1"]
    mean = np.nanmean(courses, axis=1)
    shown = mean[first["volume"] - 4]
    assert (np.where(shown < middle, "negative", "positive") == first["label"]).all()
    assert labelled.reliability is not None
    assert 0.8 < labelled.reliability["split_half"] < 1.0

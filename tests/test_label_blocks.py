"""Events -> labels of volumes, by hand-made designs."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import gamma

from emodecode.errors import InputError
from emodecode.label.blocks import label_data, label_events, list_blocks, write_events
from emodecode.run import Run
from emodecode.samples import TABLE_COLUMNS


def make_events(*rows, **columns):
    table = pd.DataFrame(rows, columns=["onset_s", "duration_s", "trial_type"])
    return table.assign(**columns)


def make_run(events, *, n=20, tr_s=2.0, **more):
    return Run(subject="01", run="1", tr_s=tr_s, planned_volumes=n, events=events, **more)


def labels_of(labelled, n=20):
    return labelled.table.set_index("volume")["label"].reindex(range(n), fill_value="-").tolist()


def test_a_volume_gets_the_event_that_covers_the_moment_before_the_lag():
    run = make_run(make_events((4.0, 6.0, "fear"), (12.0, 4.0, "joy")))
    labelled = label_events([run], lag_s=0.0)
    assert "".join(name[0] for name in labels_of(labelled)) == "--fff-jj------------"
    labelled = label_events([run], lag_s=5.0)
    assert "".join(name[0] for name in labels_of(labelled)) == "-----fff-jj---------"
    assert list(labelled.table.columns[: len(TABLE_COLUMNS)]) == list(TABLE_COLUMNS)
    assert labelled.table["stimulus"].eq("n/a").all()
    assert labelled.table["stimulus_time_s"].isna().all()
    assert labelled.table["block"].tolist() == ["01"] * 3 + ["02"] * 2
    assert len(labelled.timeline) == 20


def test_the_start_belongs_to_an_event_and_its_end_does_not():
    tr_s = 0.72
    run = make_run(make_events((tr_s * 3, tr_s * 2, "a")), n=10, tr_s=tr_s)
    assert label_events([run], lag_s=0.0).table["volume"].tolist() == [3, 4]


def test_lag_never_reaches_into_another_run():
    until_the_end = make_events((30.0, 10.0, "fear"))
    first = make_run(until_the_end)
    second = Run(
        subject="01", run="2", tr_s=2.0, planned_volumes=20, events=make_events((8.0, 4.0, "joy"))
    )
    table = label_events([first, second], lag_s=6.0).table
    assert table[table["run"] == "1"]["volume"].tolist() == [18, 19]
    assert table[table["run"] == "2"]["volume"].tolist() == [7, 8]
    early = make_run(make_events((-10.0, 40.0, "fear")))
    assert label_events([early], lag_s=5.0).table["volume"].min() == 3


def test_dummies_shift_the_volumes_and_not_the_clock():
    events = make_events((8.0, 4.0, "fear"))
    plain = label_events([make_run(events)], lag_s=2.0).table
    shifted = label_events([make_run(events, dummies=3)], lag_s=2.0).table
    assert plain["volume"].tolist() == [5, 6]
    assert shifted["volume"].tolist() == [2, 3]
    assert shifted["onset_s"].tolist() == plain["onset_s"].tolist() == [10.0, 12.0]


def test_events_of_one_label_without_a_gap_are_one_block():
    run = make_run(
        make_events((0, 4, "a"), (4, 4, "a"), (8, 4, "b"), (12, 4, "a"), (18, 4, "a")), n=12
    )
    table = label_events([run], lag_s=0.0).table
    assert table["block"].tolist() == [*["01"] * 4, *["02"] * 2, *["03"] * 2, *["04"] * 2]


def test_volumes_near_a_transition_are_dropped():
    run = make_run(make_events((4.0, 12.0, "a"), (16.0, 12.0, "b")))
    whole = label_events([run], lag_s=2.0).table
    inner = label_events([run], lag_s=2.0, transition_s=4.0)
    assert whole["volume"].tolist() == list(range(3, 15))
    assert inner.table["volume"].tolist() == [5, 6, 11, 12]
    assert any("8 volumes were dropped" in note for note in inner.notes)
    joined = make_run(make_events((4.0, 12.0, "a"), (16.0, 12.0, "a")))
    table = label_events([joined], lag_s=2.0, transition_s=4.0).table
    assert table["volume"].tolist() == list(range(5, 13))


def test_overlap_of_different_labels_is_dropped_and_told():
    run = make_run(make_events((0.0, 10.0, "a"), (6.0, 10.0, "b"), (12.0, 2.0, "b")))
    labelled = label_events([run], lag_s=0.0)
    assert "".join(labels_of(labelled, 10)) == "aaa--bbb--"
    assert any("2 volumes were dropped" in note for note in labelled.notes)


def test_keep_ignores_other_events_and_merge_renames_first():
    events = make_events((0.0, 10.0, "a1"), (4.0, 0.0, "press"), (10.0, 10.0, "a2"), (2, 30, "ctx"))
    run = make_run(events)
    with pytest.raises(InputError, match=r"1 of 4 events have no duration.*'press' at 4 s"):
        label_events([run])
    table = label_events([run], lag_s=0.0, merge={"a1": "a", "a2": "a"}, keep=["a"]).table
    assert table["volume"].tolist() == list(range(10))
    assert set(table["block"]) == {"01"}
    with pytest.raises(InputError, match="unknown label 'A1'") as caught:
        label_events([run], keep=["A1"])
    assert "Did you mean 'a1'" in caught.value.remedy


def test_stimulus_of_the_event_or_of_the_run():
    events = make_events((4.0, 4.0, "a"), (8.0, 4.0, "a"), picture=[1023, 2200])
    table = label_events([make_run(events)], lag_s=2.0, stimulus_column="picture").table
    assert table["stimulus"].tolist() == ["1023", "1023", "2200", "2200"]
    assert table["stimulus_time_s"].tolist() == [0.0, 2.0, 0.0, 2.0]
    film = make_run(events, stimulus="film", stimulus_start_s=100.0)
    table = label_events([film], lag_s=2.0).table
    assert set(table["stimulus"]) == {"film"}
    assert table["stimulus_time_s"].tolist() == [104.0, 106.0, 108.0, 110.0]


def plain_hrf(t):
    """SPM's canonical form, written out here once more."""
    return gamma.pdf(t, 6) - gamma.pdf(t, 16) / 6


def test_hrf_weights_equal_a_direct_convolution():
    run = make_run(make_events((10.0, 20.0, "a"), (30.0, 20.0, "b")), n=45)
    labelled = label_events([run], hrf=True)
    step = 0.01
    t = np.arange(0, 90, step)
    kernel = plain_hrf(np.arange(0, 32, step))
    kernel /= kernel.sum()
    weights = {}
    for name, start in (("a", 10.0), ("b", 30.0)):
        course = ((t >= start) & (t < start + 20)).astype(float)
        weights[name] = np.convolve(course, kernel)[: len(t)]
    at = np.round(labelled.table["onset_s"].to_numpy() / step).astype(int)
    total = weights["a"].clip(0) + weights["b"].clip(0)
    expected_volumes = np.flatnonzero(total[np.round(run.onset_s / step).astype(int)] >= 0.5)
    assert labelled.table["volume"].tolist() == expected_volumes.tolist()
    share = weights["a"][at].clip(0) / total[at]
    np.testing.assert_allclose(labelled.table["p_a"], share, atol=0.01)
    np.testing.assert_allclose(labelled.table["p_a"] + labelled.table["p_b"], 1.0)
    best = np.where(share > 0.5, "a", "b")
    assert labelled.table["label"].tolist() == best.tolist()
    np.testing.assert_allclose(labelled.table["agreement"], np.maximum(share, 1 - share), atol=0.01)
    assert set(labelled.table["block"]) == {"01", "02"}


def test_hrf_says_that_short_events_reach_nothing():
    run = make_run(make_events((4.0, 1.0, "a"), (20.0, 1.0, "b")))
    with pytest.raises(InputError, match="no labelled volume") as caught:
        label_events([run], hrf=True)
    assert "labels.lag_s" in caught.value.remedy


def test_hrf_stimulus_is_the_event_of_the_label():
    events = make_events((4.0, 10.0, "a"), (14.0, 10.0, "b"), film=["x", "y"])
    table = label_events([make_run(events)], hrf=True, stimulus_column="film").table
    assert set(zip(table["label"], table["stimulus"], strict=True)) == {("a", "x"), ("b", "y")}


def test_event_errors():
    run = make_run(make_events((4.0, 4.0, "a")))
    with pytest.raises(InputError, match="no column 'trial_typ'") as caught:
        label_events([run], column="trial_typ")
    assert "Did you mean 'trial_type'" in caught.value.remedy
    with pytest.raises(InputError, match="no events with a trial_type in any of the 1 runs"):
        label_events([make_run(None)])
    with pytest.raises(InputError, match="no runs"):
        label_events([])
    late = make_run(make_events((4.0, 4.0, "a"), (100.0, 4.0, "b")))
    with pytest.raises(InputError):
        label_events([late])
    assert set(label_events([late], late_events="drop").table["label"]) == {"a"}


def test_labels_that_come_with_the_volumes():
    run = Run(
        subject="01",
        run="7",
        tr_s=2.0,
        planned_volumes=7,
        dummies=1,
        volume_labels=pd.Series([0, 0, 0, 1, np.nan, 0, 0]),
        group="MDD",
    )
    table = label_data([run]).table
    assert table["label"].tolist() == ["0", "0", "1", "0", "0"]
    assert table["volume"].tolist() == [0, 1, 2, 4, 5]
    assert table["onset_s"].tolist() == [2.0, 4.0, 6.0, 10.0, 12.0]
    assert table["block"].tolist() == ["01", "01", "02", "03", "03"]
    assert set(table["group"]) == {"MDD"}
    with pytest.raises(InputError, match="no labels with the volumes"):
        label_data([make_run(None)])


def test_blocks_become_events_again(tmp_path):
    run = make_run(make_events((4.0, 6.0, "fear"), (12.0, 4.0, "joy")), session="a")
    empty = Run(subject="02", run="1", tr_s=2.0, planned_volumes=5, events=make_events())
    table = label_events([run, empty], lag_s=5.0).table
    blocks = list_blocks(table, tr_s=2.0)
    assert blocks["onset"].tolist() == [10.0, 18.0]
    assert blocks["duration"].tolist() == [6.0, 4.0]
    (path,) = write_events([run, empty], table, tmp_path / "events")
    assert path.name == "sub-01_ses-a_run-1_events.tsv"
    written = pd.read_csv(path, sep="\t", keep_default_na=False)
    assert list(written.columns[:3]) == ["onset", "duration", "trial_type"]
    assert written["trial_type"].tolist() == ["fear", "joy"]
    assert written["agreement"].tolist() == ["n/a", "n/a"]

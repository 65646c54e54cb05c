"""Stimulus time of volumes: segments, overlaps and the wrong clock."""

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import InputError
from emodecode.label.clock import map_runs, measure_clock_error
from emodecode.run import Run
from emodecode.sections import STUDYFORREST_SEGMENTS_S

RUN_VOLUMES = [451, 441, 438, 488, 462, 439, 542, 338]


def plan(run, n, *, subject="01", tr_s=2.0, **more):
    return Run(subject=subject, run=run, tr_s=tr_s, planned_volumes=n, **more)


def forrest(tr_s=2.0):
    return [plan(str(i), n, tr_s=tr_s) for i, n in enumerate(RUN_VOLUMES, start=1)]


def shown(clocks):
    return [clock.shown_s[~np.isnan(clock.shown_s)].tolist() for clock in clocks]


SHORT = [(0.0, 20.0), (12.0, 30.0)]


def test_every_volume_knows_its_moment_and_overlaps_are_in_both():
    clocks = map_runs([plan("1", 10), plan("2", 9)], lag_s=0.0, segments_s=SHORT)
    assert shown(clocks) == [list(range(0, 20, 2)), list(range(12, 30, 2))]
    np.testing.assert_array_equal(clocks[1].looked_up_s, clocks[1].shown_s)


def test_lag_takes_the_first_seconds_of_every_run():
    clocks = map_runs([plan("1", 10), plan("2", 9)], lag_s=5.0, segments_s=SHORT)
    assert shown(clocks) == [[1, 3, 5, 7, 9, 11, 13], [13, 15, 17, 19, 21, 23]]
    assert np.isnan(clocks[1].shown_s[:3]).all()


def test_nothing_is_shown_after_the_segment_has_ended():
    clocks = map_runs([plan("1", 15), plan("2", 9)], lag_s=0.0, segments_s=SHORT)
    assert shown(clocks)[0][-1] == 18.0


def test_first_keeps_the_copy_that_comes_first():
    runs = [plan("1", 10), plan("2", 9)]
    assert shown(map_runs(runs, lag_s=0.0, segments_s=SHORT, overlap="first"))[1] == [
        20,
        22,
        24,
        26,
        28,
    ]
    # with a lag run 1 has no volume for moments from 14 s on, run 2 has one for 15 s
    assert shown(map_runs(runs, lag_s=5.0, segments_s=SHORT, overlap="first"))[1][0] == 15.0
    alone = map_runs(runs[1:], lag_s=0.0, segments_s=SHORT, overlap="first")
    assert shown(alone)[0][0] == 12.0


def test_trim_cuts_the_overlap_in_half():
    clocks = map_runs([plan("1", 10), plan("2", 9)], lag_s=0.0, segments_s=SHORT, overlap="trim")
    assert shown(clocks) == [list(range(0, 16, 2)), list(range(16, 30, 2))]


@pytest.mark.parametrize("tr_s", [2.0, 2.00000061])
@pytest.mark.parametrize(("overlap", "n"), [("both", 3599), ("first", 3543), ("trim", 3543)])
def test_studyforrest_has_3543_volumes_of_film(tr_s, overlap, n):
    clocks = map_runs(forrest(tr_s), lag_s=0.0, segments_s=STUDYFORREST_SEGMENTS_S, overlap=overlap)
    assert sum(len(moments) for moments in shown(clocks)) == n


def test_trim_is_four_volumes_at_each_side_whatever_the_lag():
    segments = STUDYFORREST_SEGMENTS_S
    both = map_runs(forrest(), lag_s=5.0, segments_s=segments)
    trim = map_runs(forrest(), lag_s=5.0, segments_s=segments, overlap="trim")
    for index, (whole, cut) in enumerate(zip(both, trim, strict=True)):
        kept = np.flatnonzero(~np.isnan(cut.shown_s))
        assert kept[0] == (3 if index == 0 else 4)
        assert kept[-1] == len(whole.shown_s) - (1 if index == 7 else 5)


def test_published_clock_is_late_by_sixteen_seconds_a_run():
    runs = forrest()
    clocks = map_runs(
        runs, lag_s=0.0, segments_s=STUDYFORREST_SEGMENTS_S, clock="published-cumulative"
    )
    for index, clock in enumerate(clocks):
        away = clock.looked_up_s - clock.shown_s
        np.testing.assert_allclose(away, 16 * index, atol=0.5)
    looked_up = np.concatenate([clock.looked_up_s for clock in clocks])
    np.testing.assert_allclose(looked_up, 2.0 * np.arange(3599))
    with pytest.raises(InputError, match="without segments_s"):
        map_runs(runs, clock="published-cumulative")


def test_without_segments_runs_have_their_own_start():
    runs = [plan("1", 3, stimulus_start_s=0.0), plan("2", 3, stimulus_start_s=6.0)]
    assert shown(map_runs(runs, lag_s=2.0)) == [[0, 2], [6, 8]]


def test_runs_find_their_segments():
    segments = [(0.0, 10.0), (100.0, 110.0), (200.0, 210.0)]

    def starts(runs):
        return [clock.start_s for clock in map_runs(runs, segments_s=segments)]

    assert starts([plan("03", 5), plan("01", 5)]) == [200.0, 0.0]
    named = [plan(name, 5) for name in ("c", "a", "b")]
    assert starts(named) == [200.0, 0.0, 100.0]
    split = [
        plan("1", 5, session="2"),
        plan("1", 5, session="1"),
        plan("2", 5, session="1"),
    ]
    assert starts(split) == [200.0, 0.0, 100.0]
    twice = [plan("2", 5, session=session) for session in "ab"]
    assert starts(twice) == [100.0, 100.0]
    two_subjects = [plan("1", 5), plan("2", 5, subject="02")]
    assert starts(two_subjects) == [0.0, 100.0]
    with pytest.raises(InputError, match="2 runs named a, b for 3 segments"):
        starts([plan("a", 5), plan("b", 5)])
    with pytest.raises(InputError, match="runs named 4 for 3 segments"):
        starts([plan("4", 5)])


def test_clock_error_counts_moments_once_and_looks_at_what_was_shown():
    timeline = pd.DataFrame(
        {"time_s": np.arange(0.0, 20, 2), "label": list("aaaabbbb") + ["n/a"] * 2}
    )
    one = pd.DataFrame(
        {
            "session": "n/a",
            "run": "1",
            "volume": [0, 1, 2, 3],
            "label": ["a", "b", "b", "b"],
            "labelled_time_s": [0.0, 8.0, 10.0, 12.0],
            "stimulus_time_s": [0.0, 2.0, 10.0, 30.0],
        }
    )
    error = measure_clock_error(pd.concat([one, one]), timeline)
    assert error == {
        "n_moments": 4,
        "n_wrong": 2,
        "mean_s": 6.0,
        "median_s": 3.0,
        "worst_s": 18.0,
        "n_same_label": 2,
        "n_without_label": 1,
    }


def test_first_looks_over_sessions_and_no_further_than_the_segment():
    def moments(runs):
        clocks = map_runs(runs, lag_s=0.0, segments_s=[(0, 100), (84, 184)], overlap="first")
        return sorted(m for clock in clocks for m in clock.shown_s[np.isfinite(clock.shown_s)])

    same = moments([plan("1", 50), plan("2", 50)])
    assert same == list(np.arange(0, 184, 2.0))
    assert moments([plan("1", 50, session="a"), plan("2", 50, session="b")]) == same
    assert moments([plan("1", 60), plan("2", 50)]) == same

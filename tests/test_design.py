"""Planned runs."""

from itertools import pairwise

import numpy as np
import pytest

from emodecode.errors import InputError
from emodecode.read.design import plan_runs


def test_every_subject_gets_every_run_on_one_stimulus_clock():
    runs, notes = plan_runs(
        subjects=["01", "02"], run_volumes=[451, 441, 438], tr_s=2.0, task="movie", stimulus="film"
    )
    assert [run.name for run in runs[:3]] == [f"sub-01 task-movie run-{r}" for r in (1, 2, 3)]
    assert [run.planned_volumes for run in runs] == [451, 441, 438] * 2
    assert [run.stimulus_start_s for run in runs] == [0.0, 902.0, 1784.0] * 2
    # run r starts where run r - 1 ended
    for before, after in pairwise(runs[:3]):
        assert after.stimulus_start_s == before.stimulus_start_s + before.end_s
    assert "2 subjects x 3 runs" in notes[0]


def test_dummies_shift_the_kept_volumes_only():
    (run,), _ = plan_runs(subjects=["01"], run_volumes=[10], tr_s=1.5, dummies=4)
    assert run.n_volumes == 6
    np.testing.assert_allclose(run.onset_s, np.arange(4, 10) * 1.5)


def test_without_a_stimulus_there_is_no_stimulus_clock():
    runs, _ = plan_runs(subjects=["01"], run_volumes=[10, 10], tr_s=2.0)
    assert [run.stimulus_start_s for run in runs] == [0.0, 0.0]
    assert {run.stimulus for run in runs} == {"n/a"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"subjects": []}, "no subject"),
        ({"subjects": ["01", "02", "01"]}, "01 given twice"),
        ({"run_volumes": []}, "[]"),
        ({"run_volumes": [100, 0]}, "[100, 0]"),
        ({"dummies": 100}, "100 dummies of 100 volumes"),
        ({"tr_s": 2000.0}, "tr_s = 2000.0"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes, text):
    plan = {"subjects": ["01"], "run_volumes": [100], "tr_s": 2.0} | changes
    with pytest.raises(InputError) as caught:
        plan_runs(**plan)
    assert text in caught.value.found

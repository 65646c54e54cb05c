"""Random labels: shared by all who saw a stimulus, drawn without the data, one seed one draw."""

import numpy as np
import pytest

from emodecode.errors import InputError
from emodecode.label.random import label_random
from emodecode.read.design import plan_runs

CLASSES = ("fear", "joy", "love")


def runs(stimulus="film", subjects=("01", "02"), run_volumes=(300, 200)):
    return plan_runs(subjects=subjects, run_volumes=run_volumes, tr_s=2.0, stimulus=stimulus)[0]


def labels_of(table, subject, run):
    own = table[(table["subject"] == subject) & (table["run"].str.lstrip("0") == run)]
    return own.set_index("volume")["label"]


def test_everybody_who_saw_the_stimulus_gets_the_same_labels():
    table = label_random(runs(), classes=CLASSES, seed=3).table
    for run in ("1", "2"):
        assert labels_of(table, "01", run).equals(labels_of(table, "02", run))
    assert not labels_of(table, "01", "1")[:200].equals(labels_of(table, "01", "2")[:200])
    assert table["stimulus_time_s"].notna().all()


def test_without_a_stimulus_each_run_has_its_own():
    table = label_random(runs(stimulus="n/a"), classes=CLASSES, seed=3).table
    drawn = {tuple(labels_of(table, s, r)[:200]) for s in ("01", "02") for r in ("1", "2")}
    assert len(drawn) == 4
    assert table["stimulus_time_s"].isna().all()


def test_episodes_have_the_length_that_was_asked_for():
    table = label_random(
        runs(run_volumes=(3000,), subjects=("01",)), classes=CLASSES, episode_s=40.0
    ).table
    moment, label = table["onset_s"].to_numpy(), table["label"].to_numpy()
    change = np.flatnonzero(label[1:] != label[:-1])
    lengths = np.diff(moment[change])
    assert lengths.min() >= 18
    # neighbours of one class look like one long episode: the order is shuffled in sets of three
    assert 40 <= lengths.mean() <= 50
    shares = table["label"].value_counts(normalize=True)
    np.testing.assert_allclose(shares, 1 / 3, atol=0.03)


def test_a_lag_moves_the_labels_and_never_wraps():
    now = label_random(runs(), classes=CLASSES, lag_s=0.0).table
    late = label_random(runs(), classes=CLASSES, lag_s=6.0).table
    assert (late["volume"] >= 3).all()
    before, after = labels_of(now, "01", "1"), labels_of(late, "01", "1")
    np.testing.assert_array_equal(after.loc[3:299], before.loc[0:296])


def test_seeds_differ_and_repeat():
    one, two, again = (
        label_random(runs(), classes=CLASSES, seed=seed).table["label"] for seed in (0, 1, 0)
    )
    assert one.equals(again)
    assert not one.equals(two)


def test_the_notes_say_that_they_are_random():
    assert "RANDOM" in label_random(runs(), classes=CLASSES).notes[0]


def test_classes_that_are_named_twice_are_refused():
    with pytest.raises(InputError, match=r"labels\.classes"):
        label_random(runs(), classes=("a", "a"))

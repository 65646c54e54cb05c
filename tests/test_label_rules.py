"""Merge, keep, smallest count and balance on sample tables."""

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import InputError
from emodecode.label.labelled import number_blocks
from emodecode.label.rules import apply_rules, count_labels, has_common_stimulus
from emodecode.samples import TABLE_COLUMNS


def make_table(labels, *, subjects=("01",), stimulus="n/a", start_s=0.0, tr_s=2.0, run="1"):
    """One run per subject; labels one letter a volume, "-" for none."""
    labels = np.array(["n/a" if letter == "-" else letter for letter in labels], dtype=object)
    volume = np.arange(len(labels))
    parts = []
    for subject in subjects:
        rows = pd.DataFrame(
            {
                "subject": subject,
                "session": "n/a",
                "run": run,
                "volume": volume,
                "onset_s": volume * tr_s,
                "label": labels,
                "stimulus": stimulus,
                "stimulus_time_s": start_s + volume * tr_s if stimulus != "n/a" else np.nan,
                "block": number_blocks(labels),
                "agreement": np.nan,
            }
        )
        parts.append(rows[rows["label"] != "n/a"])
    return pd.concat(parts, ignore_index=True)[list(TABLE_COLUMNS)]


def test_keep_and_unknown_labels():
    table = make_table("aabbcc")
    kept, notes = apply_rules(table, keep=["a", "c"])
    assert "".join(kept["label"]) == "aacc"
    assert kept.index.tolist() == [0, 1, 2, 3]
    assert notes == []
    named = make_table("aabb").assign(label=["fear", "fear", "joy", "joy"])
    with pytest.raises(InputError, match="unknown label 'Fear'") as caught:
        apply_rules(named, keep=["Fear"])
    assert "fear, joy" in caught.value.expected
    assert "'fear'" in caught.value.remedy
    with pytest.raises(InputError, match=r"labels\.merge: unknown label"):
        apply_rules(named, merge={"anger": "fear"})


def test_merge_adds_soft_labels_and_joins_neighbouring_blocks():
    table = make_table("aabbc-aab").assign(p_a=0.5, p_b=0.3, p_c=0.2)
    merged, _ = apply_rules(table, merge={"a": "x", "b": "x"})
    assert "".join(merged["label"]) == "xxxxcxxx"
    assert merged["block"].tolist() == ["01"] * 4 + ["03"] + ["04"] * 3
    np.testing.assert_allclose(merged["p_x"], 0.8)
    assert [name for name in merged if name.startswith("p_")] == ["p_c", "p_x"]


def test_merge_does_not_join_blocks_that_were_apart():
    table = make_table("aa").assign(block=["01", "02"])
    table = pd.concat([table, make_table("bb", run="2")], ignore_index=True)
    merged, _ = apply_rules(table, merge={"b": "a"})
    assert merged["block"].tolist() == ["01", "02", "01", "01"]


def test_soft_labels_sum_to_one_over_the_labels_that_are_left():
    table = make_table("aab").assign(p_a=[0.5, 0.5, 0.2], p_b=[0.25, 0.1, 0.6], p_c=0.2)
    kept, _ = apply_rules(table, keep=["a", "b"])
    assert "p_c" not in kept
    np.testing.assert_allclose(kept["p_a"] + kept["p_b"], 1.0)
    np.testing.assert_allclose(kept["p_a"], [2 / 3, 5 / 6, 0.25])


def test_counts_are_moments_of_a_common_stimulus_and_else_volumes():
    film = make_table("aaab", subjects=("01", "02", "03"), stimulus="film")
    assert has_common_stimulus(film)
    assert count_labels(film).to_dict() == {"a": 3, "b": 1}
    blocks = make_table("aaab", subjects=("01", "02", "03"))
    assert not has_common_stimulus(blocks)
    assert count_labels(blocks).to_dict() == {"a": 9, "b": 3}
    kept, notes = apply_rules(blocks, min_count=3)
    assert len(kept) == 12
    kept, notes = apply_rules(film, min_count=2)
    assert set(kept["label"]) == {"a"}
    assert notes == ["Dropped for fewer than 2: b 1."]
    with pytest.raises(InputError, match="no label with 9 or more: a 3, b 1"):
        apply_rules(film, min_count=9)


def test_pictures_are_no_common_stimulus():
    table = make_table("aabb", stimulus="x").assign(stimulus=["p1", "p1", "p2", "p2"])
    assert not has_common_stimulus(table)
    restarts = make_table("aabb", stimulus="x").assign(stimulus_time_s=[0.0, 2.0, 0.0, 2.0])
    assert not has_common_stimulus(restarts)


def test_copies_of_a_moment_in_two_runs_count_once():
    first = make_table("aaaa", stimulus="film")
    second = make_table("aabb", stimulus="film", start_s=4.08, run="2")
    both = pd.concat([first, second], ignore_index=True)
    assert count_labels(both).to_dict() == {"a": 4, "b": 2}
    balanced, _ = apply_rules(both, balance="volume")
    moments = balanced["stimulus_time_s"] // 2
    assert moments.groupby(balanced["label"]).nunique().to_dict() == {"a": 2, "b": 2}


def test_counts_do_not_depend_on_rounding():
    for tr_s in (0.72, 1.5, 2.00000061, 0.1):
        film = make_table("ab" * 500, stimulus="film", start_s=0.0, tr_s=tr_s)
        assert count_labels(film).to_dict() == {"a": 500, "b": 500}


def test_the_labelled_moment_counts_where_the_clock_is_wrong():
    film = make_table("aaab", stimulus="film").assign(labelled_time_s=[0.0, 2.0, 4.0, 6.0])
    second = make_table("aaab", stimulus="film", run="2").assign(
        labelled_time_s=[8.0, 10.0, 12.0, 14.0]
    )
    assert count_labels(pd.concat([film, second])).to_dict() == {"a": 6, "b": 2}


def test_balance_by_volume_takes_the_same_moments_for_all():
    film = make_table("aaaaabbaaa-bbbb", subjects=("01", "02"), stimulus="film")
    balanced, notes = apply_rules(film, balance="volume", balance_count=4, seed=3)
    one = balanced[balanced["subject"] == "01"]
    two = balanced[balanced["subject"] == "02"]
    assert one["label"].value_counts().to_dict() == {"a": 4, "b": 4}
    assert one["volume"].tolist() == two["volume"].tolist()
    again, _ = apply_rules(film, balance="volume", balance_count=4, seed=3)
    pd.testing.assert_frame_equal(balanced, again)
    moments = film[(film["subject"] == "01") & (film["label"] == "a")]
    expected = moments.sample(n=4, random_state=3)["volume"]
    assert sorted(expected) == one[one["label"] == "a"]["volume"].tolist()
    assert "4 moments of the stimulus per label" in notes[0]
    with pytest.raises(InputError, match="b 6 for balance_count = 7"):
        apply_rules(film, balance="volume", balance_count=7)


def test_balance_by_episode_keeps_episodes_whole():
    film = make_table("aabaaabba-bbb-a", subjects=("01", "02"), stimulus="film")
    balanced, notes = apply_rules(film, balance="episode", seed=0)
    whole = {"a": ["aa", "aaa", "a", "a"], "b": ["b", "bb", "bbb"]}
    one = balanced[balanced["subject"] == "01"]
    for label, lengths in whole.items():
        sizes = one[one["label"] == label].groupby("block").size()
        assert len(sizes) == 3
        assert set(sizes) <= {len(text) for text in lengths}
    assert "3 episodes of the stimulus" in notes[0]
    design = make_table("aabaaabba", subjects=("01", "02"))
    balanced, notes = apply_rules(design, balance="episode", seed=0)
    for _, own in balanced.groupby("subject"):
        assert own.groupby("label")["block"].nunique().to_dict() == {"a": 2, "b": 2}
    assert notes == ["Balanced: 2 episodes per label in every subject."]


def test_balance_per_subject_of_volumes():
    design = pd.concat(
        [make_table("aaabb", subjects=("01",)), make_table("abbbb", subjects=("02",))],
        ignore_index=True,
    )
    balanced, notes = apply_rules(design, balance="volume", seed=1)
    counts = balanced.groupby(["subject", "label"]).size()
    assert counts.to_dict() == {("01", "a"): 2, ("01", "b"): 2, ("02", "a"): 1, ("02", "b"): 1}
    assert notes == ["Balanced: 1 to 2 volumes per label in every subject."]
    with pytest.raises(InputError, match="samples without blocks"):
        apply_rules(design.assign(block="n/a"), balance="episode")


def test_different_seeds_choose_differently():
    film = make_table("ab" * 60, stimulus="film")
    chosen = [
        tuple(apply_rules(film, balance="episode", balance_count=10, seed=seed)[0]["volume"])
        for seed in range(3)
    ]
    assert len(set(chosen)) == 3

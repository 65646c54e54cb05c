"""Events tables, BIDS and FSL."""

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.read.events import attach_events, check_events, read_events
from emodecode.run import Run


def write(path, *rows):
    path.write_text("".join("\t".join(row.split(" ")) + "\n" for row in rows))
    return path


def test_bids_table(tmp_path):
    path = write(
        tmp_path / "events.tsv",
        "onset duration trial_type identifier valence code note",
        "20 n/a fear 1050 1.5 007 loud",
        "-4.5 6 n/a n/a n/a 011 n/a",
        "4 0 1 2000 2 012 quiet",
    )
    events = read_events(path)
    expected = pd.DataFrame(
        {
            "onset_s": [-4.5, 4.0, 20.0],
            "duration_s": [6.0, 0.0, np.nan],
            "trial_type": ["n/a", "1", "fear"],
            "identifier": ["n/a", "2000", "1050"],
            "valence": [np.nan, 2.0, 1.5],
            "code": ["011", "012", "007"],
            "note": ["n/a", "quiet", "loud"],
        }
    )
    pd.testing.assert_frame_equal(events, expected)


def test_table_without_trial_type_or_rows(tmp_path):
    path = write(tmp_path / "events.tsv", "onset duration rating", "1 2 3", "3 2 4")
    events = read_events(path)
    assert events["trial_type"].tolist() == ["n/a", "n/a"]
    assert events["rating"].dtype == np.int64
    empty = read_events(write(tmp_path / "none.tsv", "onset duration trial_type"))
    assert len(empty) == 0
    assert list(empty) == ["onset_s", "duration_s", "trial_type"]


def test_byte_order_mark_and_windows_lines(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_bytes(b"\xef\xbb\xbfonset\tduration\ttrial_type\r\n1\t2\tfear\r\n")
    assert read_events(path)["trial_type"].tolist() == ["fear"]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (["start duration", "1 2"], "no column onset (it has start, duration)"),
        (["start end", "1 2"], "no column onset and duration"),
        (["onset,duration", "1,2"], "no column onset and duration"),
        (["onset duration", "1 2", "soon 2"], "line 3: onset = 'soon' (1 such rows)"),
        (["onset duration", "n/a 2", "n/a 2"], "line 2: onset = 'n/a' (2 such rows)"),
        (["onset duration", "1 inf"], "duration = 'inf'"),
        (["onset duration", "1 2", "1 -0.5"], "line 3: duration = -0.5"),
        (["onset duration", "1 2", "1 2 3 4"], "no table"),
        ([], "no table"),
    ],
)
def test_bad_tables(tmp_path, rows, text):
    path = write(tmp_path / "events.tsv", *rows)
    with pytest.raises(InputError) as caught:
        read_events(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataMissingError, match="no such file"):
        read_events(tmp_path / "events.tsv")


def test_fsl_folder(tmp_path):
    (tmp_path / "fear.txt").write_text("32.0 18 1\n10.9 18 1\n")
    (tmp_path / "neut.txt").write_text("\n53\t18\t0.5\n")
    (tmp_path / "none.txt").write_text("")
    (tmp_path / "Sync.txt").write_text("0.0107\n")
    (tmp_path / "EMOTION_Stats.csv").write_text("a,b\n")
    expected = pd.DataFrame(
        {
            "onset_s": [10.9, 32.0, 53.0],
            "duration_s": [18.0, 18.0, 18.0],
            "trial_type": ["fear", "fear", "neut"],
            "amplitude": [1.0, 1.0, 0.5],
        }
    )
    pd.testing.assert_frame_equal(read_events(tmp_path, format="fsl"), expected)
    files = [tmp_path / "fear.txt", tmp_path / "neut.txt"]
    pd.testing.assert_frame_equal(read_events(files, format="fsl"), expected)
    assert len(read_events(tmp_path / "none.txt", format="fsl")) == 0


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("1 2 1\n3 2\n", "line 2: 2 columns"),
        ("1 2 1\n\n3 x 1\n", "line 3: duration = 'x'"),
        ("1 -2 1\n", "line 1: duration = -2"),
    ],
)
def test_bad_fsl(tmp_path, content, text):
    (tmp_path / "fear.txt").write_text(content)
    with pytest.raises(InputError) as caught:
        read_events(tmp_path, format="fsl")
    assert text in str(caught.value)


def test_fsl_folder_without_files(tmp_path):
    with pytest.raises(DataMissingError, match="nothing to read"):
        read_events(tmp_path, format="fsl")


def make_run(onsets, **more):
    events = pd.DataFrame({"onset_s": onsets, "duration_s": 2.0, "trial_type": "fear"})
    return Run(subject="03", run="2", tr_s=2.0, planned_volumes=450, events=events, **more)


def test_events_within_the_run_pass():
    events, note = check_events(make_run([-3.0, 0.0, 899.9]))
    assert len(events) == 3
    assert note == ""
    events, note = check_events(Run(subject="03", tr_s=2.0, planned_volumes=450))
    assert len(events) == 0


def test_late_events():
    run = make_run([1.0, 900.0, 902.5, 901.0], dummies=5)
    with pytest.raises(InputError) as caught:
        check_events(run)
    text = str(caught.value)
    assert "sub-03 run-2: 3 of 4 events start after the last volume" in text
    assert "(onset_s 902.5, run ends at 900.0)" in text
    assert "Check tr_s = 2 " in text
    events, note = check_events(run, late="drop")
    assert events["onset_s"].tolist() == [1.0]
    assert "3 of 4 events" in note
    with pytest.raises(InputError, match="2 of 2"):
        check_events(make_run([901.0, 950.0]), late="drop")


def test_open_durations_are_noted():
    run = make_run([1.0, 5.0])
    run.events.loc[1, "duration_s"] = np.nan
    assert "1 of 2 events have no duration" in check_events(run)[1]


def test_attach_events(tmp_path):
    for subject, name in (("03", "LR"), ("04", "LR")):
        folder = tmp_path / subject / f"tfMRI_EMOTION_{name}" / "EVs"
        folder.mkdir(parents=True)
        (folder / "fear.txt").write_text(f"{subject} 18 1\n")
        (folder / "neut.txt").write_text("50 18 1\n")
    runs = [Run(subject=name, run="LR", tr_s=0.72, planned_volumes=176) for name in ("03", "04")]
    pattern = str(tmp_path / "{subject}" / "tfMRI_EMOTION_{run}" / "EVs")
    attached = attach_events(runs, pattern=pattern, format="fsl")
    assert [run.events["onset_s"].tolist() for run in attached] == [[3.0, 50.0], [4.0, 50.0]]
    same = attach_events(runs, pattern=pattern + "/*t.txt", format="fsl")
    assert same[0].events["trial_type"].tolist() == ["neut"]
    both = attach_events(runs, pattern=pattern + "/*[rt].txt", format="fsl")
    assert both[0].events.equals(attached[0].events)
    with pytest.raises(DataMissingError, match=r"sub-03 run-LR: no .*/03\.tsv"):
        attach_events(runs, pattern=str(tmp_path / "{subject}.tsv"))
    with pytest.raises(InputError, match="2 tables"):
        attach_events(runs, pattern=pattern + "/*.txt")

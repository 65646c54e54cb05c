"""Annotation and rating files -> tables."""

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from emodecode.errors import DataMissingError, InputError
from emodecode.read.annotations import ANNOTATION_COLUMNS, read_annotations, read_ratings

HEADER = "start,end,character,arousal,valence,direction,emotion,oncue,offcue\r\n"


def write_observer(folder, name, rows):
    (folder / name).write_text(HEADER + "".join(f"{row}\r\n" for row in rows))


def test_studyforrest_keeps_the_raw_labels_and_their_order(tmp_path):
    write_observer(
        tmp_path,
        "av1o02.csv",
        ["4.0,9.0,JENNY,LOW,POS,SELF,LOVE  HOPE,FACE,END", "1.0,2.5,FORREST,HIGH,NEG,OTHER,,,"],
    )
    write_observer(tmp_path, "av1o01.csv", ["0.0,1.0,FORREST,HIGH,NEG,SELF,FEAR,FACE,"])
    (tmp_path / "README.csv").write_text("not,an\nobserver,file\n")
    table = read_annotations(tmp_path, pattern="av1o*.csv")
    assert tuple(table.columns) == ANNOTATION_COLUMNS
    assert list(table["observer"]) == ["av1o01", "av1o02", "av1o02"]
    assert list(table["emotion"]) == ["FEAR", "LOVE HOPE", "n/a"]
    assert list(table["start_s"]) == [0.0, 4.0, 1.0]
    assert list(table["end_s"]) == [1.0, 9.0, 2.5]
    assert table["valence"].iloc[1] == "POS"


def test_bids_observers_from_a_column_or_from_the_files(tmp_path):
    one = tmp_path / "ratings_events.tsv"
    one.write_text(
        "onset\tduration\temotion\trater\n0\t2\tfear\tr1\n1.5\t3\tn/a\tr2\n2\t1\tjoy\tr1\n"
    )
    table = read_annotations(one, format="bids")
    assert list(table["observer"]) == ["r1", "r2", "r1"]
    assert list(table["end_s"]) == [2.0, 4.5, 3.0]
    assert list(table["emotion"]) == ["fear", "n/a", "joy"]
    folder = tmp_path / "each"
    folder.mkdir()
    for name in ("b", "a"):
        (folder / f"{name}.tsv").write_text("onset\tduration\ttrial_type\n0\t2\tfear\n")
    table = read_annotations(folder, pattern="*.tsv", format="bids", variable="mood")
    assert list(table["observer"]) == ["a", "b"]
    assert list(table["mood"]) == ["fear", "fear"]


def test_numbered_observers_are_text(tmp_path):
    path = tmp_path / "events.tsv"
    path.write_text("onset\tduration\temotion\tobserver\n0\t2\tfear\t1\n1\t1\tjoy\t2\n")
    assert list(read_annotations(path, format="bids")["observer"]) == ["1", "2"]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (["0,1,A,LOW,POS,SELF,FEAR,,", "9,3,A,LOW,POS,SELF,FEAR,,"], "first row 2: start 9 s"),
        (["0,x,A,LOW,POS,SELF,FEAR,,"], "values of end are no numbers, first row 1"),
        ([], "no rows below the header"),
    ],
)
def test_unusable_rows_are_named(tmp_path, rows, match):
    write_observer(tmp_path, "av1o01.csv", rows)
    with pytest.raises(InputError, match=match):
        read_annotations(tmp_path)


def test_missing_parts_are_named(tmp_path):
    with pytest.raises(DataMissingError, match="no such folder"):
        read_annotations(tmp_path / "none")
    with pytest.raises(DataMissingError, match="no file matches 'av1o"):
        read_annotations(tmp_path, pattern="av1o*.csv")
    (tmp_path / "a.csv").write_text("start,end,character,arousal,valence,direction,emotions\n" * 2)
    with pytest.raises(InputError, match="Did you mean 'emotions'"):
        read_annotations(tmp_path)
    (tmp_path / "b.csv").symlink_to(tmp_path / "annex")
    with pytest.raises(DataMissingError, match="datalad get"):
        read_annotations(tmp_path, pattern="b*.csv")
    (tmp_path / "c.csv").write_text("")
    with pytest.raises(InputError, match="not readable"):
        read_annotations(tmp_path, pattern="c.csv")
    with pytest.raises(InputError, match="annotation format 'elan'"):
        read_annotations(tmp_path, format="elan")


def test_ratings_with_a_rate_count_time_from_the_start_of_each_run(tmp_path):
    path = tmp_path / "r.csv"
    pd.DataFrame({"part": [1, 1, 2, 2], "valence": [1.0, None, 3.0, 4.0], "arousal": 0}).to_csv(
        path, index=False
    )
    table = read_ratings(path, variable="valence", rate_hz=2.0, run_column="part")
    assert list(table["run"]) == ["1", "1", "2", "2"]
    assert list(table["time_s"]) == [0.0, 0.5, 0.0, 0.5]
    np.testing.assert_array_equal(table["rater-1"], [1.0, np.nan, 3.0, 4.0])
    assert (table["volume"] == -1).all()


def test_one_row_per_volume_needs_no_rate(tmp_path):
    path = tmp_path / "r.csv"
    pd.DataFrame({"tr": range(4), "run": [1, 1, 1, 2], "valence": 1.0}).to_csv(path, index=False)
    table = read_ratings(path, variable="valence", run_column="run")
    assert list(table["volume"]) == [0, 1, 2, 0]
    assert table["time_s"].isna().all()


def test_several_raters_in_columns_and_matrices(tmp_path):
    path = tmp_path / "r.tsv"
    path.write_text("time_s\tvalence_a\tvalence_b\n0\t1\t2\n3\t4\t5\n")
    table = read_ratings(path, variable="valence")
    assert list(table["time_s"]) == [0.0, 3.0]
    assert list(table["rater-2"]) == [2.0, 5.0]
    ratings = np.arange(12.0).reshape(3, 4)
    savemat(tmp_path / "r.mat", {"all_ratings": ratings})
    table = read_ratings(tmp_path / "r.mat", variable="valence", rate_hz=0.5)
    assert list(table["time_s"]) == [0.0, 2.0, 4.0, 6.0]
    np.testing.assert_array_equal(table[["rater-1", "rater-2", "rater-3"]].to_numpy().T, ratings)


def test_rating_errors(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("valence,arousal\n1,2\nx,3\n")
    with pytest.raises(InputError, match="no rate"):
        read_ratings(path, variable="arousal")
    with pytest.raises(InputError, match="Did you mean 'valence'"):
        read_ratings(path, variable="valance", rate_hz=1.0)
    with pytest.raises(InputError, match="no column 'run'"):
        read_ratings(path, variable="valence", rate_hz=1.0, run_column="run")
    with pytest.raises(InputError, match="no numbers, first row 2: 'x'"):
        read_ratings(path, variable="valence", rate_hz=1.0)
    with pytest.raises(InputError, match="rate_hz = 0"):
        read_ratings(path, variable="arousal", rate_hz=0.0)
    with pytest.raises(DataMissingError):
        read_ratings(tmp_path / "none.csv", variable="valence")
    savemat(tmp_path / "r.mat", {"a": np.zeros((2, 5)), "b": np.zeros((2, 5))})
    with pytest.raises(InputError, match="no matrix 'valence'"):
        read_ratings(tmp_path / "r.mat", variable="valence", rate_hz=1.0)
    with pytest.raises(InputError, match="without the times"):
        read_ratings(tmp_path / "r.mat", variable="a")

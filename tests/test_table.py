"""Feature tables -> Samples."""

import gzip

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.read.table import read_feature_tables
from emodecode.samples import TABLE_COLUMNS, Samples

N_SUBJECTS, N_ROWS = 4, 6


@pytest.fixture
def frame():
    """24 rows: 4 subjects (with leading zeros) x 2 runs x 3 labels, 5 features."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "subject": np.repeat(["001", "002", "010", "NA"], N_ROWS),
            "emotion": np.tile(["fear", "anger", "disgust"], 8),
            "session_run": np.tile(np.repeat(["1", "2"], 3), N_SUBJECTS),
            "filename": [f"beta_{row:03d}.nii" for row in range(24)],
        }
    )
    values = pd.DataFrame(rng.normal(size=(24, 5)), columns=[f"region {c}" for c in "abcde"])
    return pd.concat([values, table], axis=1)


def read(folder, **changes):
    arguments = {"files": ["a.csv"], "label": "emotion", "ignore": ["filename", "session_run"]}
    return read_feature_tables(folder, **(arguments | changes))


def test_a_table_becomes_samples(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    samples, notes = read(tmp_path)
    assert isinstance(samples, Samples)
    np.testing.assert_allclose(samples.X, frame.iloc[:, :5].to_numpy(), rtol=1e-6)
    assert samples.features == tuple(frame.columns[:5])
    assert list(samples.table.columns) == list(TABLE_COLUMNS)
    assert list(samples.y) == list(frame["emotion"])
    # text stays text: leading zeros, and a subject called NA
    assert list(samples.subjects) == list(frame["subject"])
    assert set(samples.table["run"]) == {"n/a"}
    assert samples.table["stimulus_time_s"].isna().all()
    assert samples.mask is None
    assert samples.history[0]["files"] == ["a.csv"]
    assert notes == ["24 rows, 5 features, 4 subjects"]


def test_each_row_is_a_block_of_its_own(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    for run in (None, "session_run"):
        samples, _ = read(tmp_path, run=run, ignore=["filename", "session*"][: 1 if run else 2])
        rows = samples.table.groupby(["subject", "run"])
        assert not samples.table.duplicated(["subject", "run", "block"]).any()
        for _, part in rows:
            assert list(part["volume"]) == list(range(len(part)))
        assert set(rows.size()) == {3 if run else 6}


def test_what_is_written_is_read_again_from_a_saved_folder(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    samples, _ = read(tmp_path)
    opened = Samples.open(samples.save(tmp_path / "saved"))
    pd.testing.assert_frame_equal(opened.table, samples.table)
    assert opened.features == samples.features


@pytest.mark.parametrize(
    ("name", "separator"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.txt", " "), ("a.csv.gz", ",")]
)
def test_separators_are_found(tmp_path, frame, name, separator):
    frame = frame.rename(columns=lambda column: column.replace(" ", "_"))
    frame.to_csv(tmp_path / name, sep=separator, index=False)
    samples, _ = read(tmp_path, files=[name])
    np.testing.assert_allclose(samples.X, frame.iloc[:, :5].to_numpy(), rtol=1e-6)


def test_files_stand_side_by_side(tmp_path, frame):
    second = frame.copy()
    second.columns = [f"b'{name}'" if "region" in name else name for name in second]
    second.iloc[:, :5] += 1
    frame.to_csv(tmp_path / "a.csv", index=False)
    second.to_csv(tmp_path / "b.csv", index=False)
    samples, notes = read(tmp_path, files=["a.csv", "b.csv"])
    assert samples.features[0] == "a:region a"
    assert samples.features[5] == "b:region a"
    np.testing.assert_allclose(samples.X[:, 5:], samples.X[:, :5] + 1, rtol=1e-5)
    assert notes == ["24 rows, 10 features, 4 subjects"]


def test_files_in_another_order_are_refused(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.sort_values("emotion", kind="stable").to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(InputError, match=r"rows differ in 'subject'; row 3 is '001' .* '002'"):
        read(tmp_path, files=["a.csv", "b.csv"])


def test_ignored_columns_that_disagree_raise_a_doubt(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    swapped = frame.iloc[[3, 1, 2, 0, *range(4, 24)]]  # rows 1 and 4: same subject and label
    swapped.to_csv(tmp_path / "b.csv", index=False)
    _, notes = read(tmp_path, files=["a.csv", "b.csv"])
    assert any("'filename' differs between files, first in row 1" in note for note in notes)


def test_features_are_chosen_by_globs(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.csv", index=False)
    samples, _ = read(tmp_path, features=["region [ab]"], ignore=[])
    assert samples.features == ("region a", "region b")
    samples, _ = read(
        tmp_path, files=["a.csv", "b.csv"], features=["a:region a", "b:*d", "*n e"], ignore=[]
    )
    assert samples.features == ("a:region a", "a:region e", "b:region d", "b:region e")


@pytest.mark.parametrize("header", [False, True])
def test_numbers_without_a_header_and_labels_in_another_file(tmp_path, header):
    """S2-A: X and y as NumPy or pandas write them."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 7)), rng.integers(0, 3, 12)
    if header:
        pd.DataFrame(X).to_csv(tmp_path / "X.csv")  # with a column that counts the rows
        pd.Series(y).to_csv(tmp_path / "y.csv", index=False)
    else:
        np.savetxt(tmp_path / "X.csv", X, delimiter=",")
        np.savetxt(tmp_path / "y.csv", y)
    samples, notes = read_feature_tables(
        tmp_path, files=["X.csv"], labels_file="y.csv", rows_per_subject=4, rows_per_run=2
    )
    np.testing.assert_allclose(samples.X, X, rtol=1e-6)
    assert list(samples.y) == [str(label) for label in y]
    assert list(samples.subjects) == ["01"] * 4 + ["02"] * 4 + ["03"] * 4
    assert list(samples.table["run"]) == ["01", "01", "02", "02"] * 3
    assert list(samples.table["volume"]) == [0, 1] * 6
    assert any("without a name" in note for note in notes) == header


def test_labels_in_words_in_another_file(tmp_path, frame):
    frame.drop(columns="emotion").to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "y.txt").write_text("\n".join(frame["emotion"]) + "\n\n")
    samples, _ = read(tmp_path, labels_file="y.txt")
    assert list(samples.y) == list(frame["emotion"])
    frame[["subject", "emotion"]].to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    samples, _ = read(tmp_path, labels_file="y.tsv")
    assert list(samples.y) == list(frame["emotion"])
    frame[["subject", "emotion"]][::-1].to_csv(tmp_path / "y.tsv", sep="\t", index=False)
    with pytest.raises(InputError, match="24 rows differ in 'subject'"):
        read(tmp_path, labels_file="y.tsv")


def test_a_gap_in_the_first_row_is_no_header(tmp_path):
    (tmp_path / "X.csv").write_text("1.5,NaN,2\n0.5,1,2\n")
    (tmp_path / "y.csv").write_text("a\nb\n")
    with pytest.raises(InputError, match="the first in row 1, column column_2"):
        read_feature_tables(tmp_path, files=["X.csv"], labels_file="y.csv", rows_per_subject=1)


def test_stimulus_and_run_columns_are_kept(tmp_path, frame):
    frame["clip"] = [f"clip{n % 3}" for n in range(24)]
    frame.to_csv(tmp_path / "a.csv", index=False)
    samples, _ = read(tmp_path, run="session_run", stimulus="clip", ignore=["filename"])
    assert list(samples.table["stimulus"]) == list(frame["clip"])
    assert list(samples.table["run"]) == list(frame["session_run"])


def test_subjects_are_left_out_with_a_reason(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    samples, notes = read(tmp_path, exclude={"010": "moved"})
    assert set(samples.subjects) == {"001", "002", "NA"}
    assert samples.n_samples == 18
    assert "sub-010 left out: moved" in notes


def test_constant_columns_and_a_single_subject_are_noted(tmp_path, frame):
    frame["region c"] = 3.0
    frame["subject"] = "1"
    frame.to_csv(tmp_path / "a.csv", index=False)
    _, notes = read(tmp_path)
    assert "1 features are constant: region c" in notes
    assert any("one subject only" in note for note in notes)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ignore": []}, "columns that are no numbers: filename (filename is 'beta_000.nii'"),
        ({"label": "feeling"}, "no column 'feeling' (data.label)"),
        ({"subject": "who"}, "or set data.rows_per_subject"),
        ({"ignore": ["filename", "file name"]}, "no column fits 'file name'"),
        ({"features": ["voxel*"]}, "no feature among its columns"),
        ({"features": ["region *", "voxel*"]}, "no column fits 'voxel*'"),
        ({"exclude": {"1": "typo"}}, "no rows of subject 1"),
        ({"exclude": dict.fromkeys(["001", "002", "010", "NA"], "")}, "all subjects"),
        ({"rows_per_subject": 6}, "rows_per_subject = 6, and a column 'subject'"),
        ({"rows_per_run": 4}, "6 rows of a subject\nexpected: a multiple of rows_per_run = 4"),
        ({"files": []}, "no file"),
        ({"files": ["a.csv", "a.csv"]}, "a twice"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, frame, changes, text):
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError) as caught:
        read(tmp_path, **changes)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("region b", np.nan, "1 values missing or infinite, the first in row 8, column region b"),
        ("region b", np.inf, "1 values missing or infinite, the first in row 8, column region b"),
        ("region b", 1e300, "1 values missing or infinite"),
        ("region b", "0,5", "columns that are no numbers: region b"),
        ("emotion", "", "1 rows without 'emotion', the first is row 8"),
        ("emotion", "n/a", "1 rows without 'emotion', the first is row 8"),
        ("subject", "  ", "1 rows without 'subject', the first is row 8"),
    ],
)
def test_bad_cells_are_named(tmp_path, frame, column, value, text):
    frame[column] = frame[column].astype(object)
    frame.loc[7, column] = value
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert text in str(caught.value)


def test_doubled_columns_are_refused(tmp_path, frame):
    frame.columns = ["region a", "region a ", *frame.columns[2:]]
    frame.to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(InputError, match="2 columns called 'region a'"):
        read(tmp_path)


def test_tables_of_another_length_are_refused(tmp_path, frame):
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame[:-1].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(InputError, match=r"b.csv: 23 rows, but 24 in a.csv"):
        read(tmp_path, files=["a.csv", "b.csv"])
    (tmp_path / "y.csv").write_text("fear\n" * 26)
    with pytest.raises(InputError, match=r"y.csv: 26 rows, but 24"):
        read(tmp_path, labels_file="y.csv")
    with pytest.raises(InputError, match="24 rows\nexpected: a multiple of rows_per_subject = 5"):
        read(tmp_path, subject="x", rows_per_subject=5, ignore=["filename", "sess*", "subject"])


@pytest.mark.parametrize("row", ["1,2,3,4", "1,2,3,4,s,fear,1,f,extra"])
def test_ragged_rows_are_refused(tmp_path, frame, row):
    text = frame.to_csv(index=False) + row + "\n"
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=r"a\.csv: "):
        read(tmp_path)


def test_rows_that_are_all_too_long_are_refused(tmp_path):
    """pandas alone would drop or shift a column here."""
    (tmp_path / "a.csv").write_text("subject,emotion,r1\n1,fear,0.5,7\n2,anger,0.1,8\n")
    with pytest.raises(InputError, match=r"a\.csv: it cannot be read"):
        read(tmp_path, ignore=[])


def test_broken_files_are_named(tmp_path, frame):
    with pytest.raises(DataMissingError, match=r"a\.csv: no such file"):
        read(tmp_path)
    (tmp_path / "a.csv").write_text("\n\n")
    with pytest.raises(InputError, match="it is empty"):
        read(tmp_path)
    (tmp_path / "a.csv").write_bytes(b"subject,emotion,r\xe9gion\n1,fear,2\n")
    with pytest.raises(InputError, match="it cannot be read"):
        read(tmp_path)
    packed = gzip.compress(frame.to_csv(index=False).encode())
    (tmp_path / "a.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=r"a\.csv\.gz: it cannot be read"):
        read(tmp_path, files=["a.csv.gz"])


# --- real data -----------------------------------------------------------------------------------


@pytest.mark.data
def test_neu_tables(data_dir):
    sizes = {"Harvard_Oxford_cortl_0_x_1": 96, "Schaefer_100_x_7_x_1": 100, "AAL_SPM12": 116}
    samples, _ = read_feature_tables(
        data_dir / "neu_anger_disgust_fear",
        files=[f"{name}.csv" for name in sizes],
        label="emotion",
        ignore=["filename", "priming"],
    )
    assert samples.X.shape == (270, sum(sizes.values()))
    for name, size in sizes.items():
        assert sum(feature.startswith(f"{name}:") for feature in samples.features) == size
    assert "Schaefer_100_x_7_x_1:7Networks_LH_Vis_1" in samples.features
    assert samples.classes == ("anger", "disgust", "fear")
    counts = samples.table.groupby(["subject", "label"]).size()
    assert len(counts) == 90
    assert set(counts) == {3}
    assert set(samples.table["volume"]) == set(range(9))

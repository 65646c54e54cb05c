"""Samples and Run: checked once at the door, saved without loss, opened without reading."""

import pickle
import tracemalloc

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from emodecode.errors import DataMissingError, InputError
from emodecode.run import Run
from emodecode.samples import TABLE_COLUMNS, Samples, read_table, relabelled, write_table


def make_samples(n_samples=6, n_voxels=4):
    inside = np.zeros((3, 3, 3), dtype=np.uint8)
    inside.flat[:n_voxels] = 1
    table = pd.DataFrame(
        {
            "subject": ["01"] * 3 + ["02"] * (n_samples - 3),
            "session": "n/a",
            "run": "1",
            "volume": np.arange(n_samples),
            "onset_s": np.arange(n_samples) * 2.0,
            "label": ["fear", "joy"] * (n_samples // 2),
            "stimulus": "n/a",
            "stimulus_time_s": np.nan,
            "block": "00",
            "agreement": 1.0,
        }
    )
    X = np.random.default_rng(0).normal(size=(n_samples, n_voxels)).astype(np.float32)
    return Samples(
        X=X,
        table=table,
        mask=nib.Nifti1Image(inside, np.diag([3.0, 3, 3, 1])),
        history=({"operation": "made", "seed": 0},),
    )


def test_saved_samples_come_back_equal_and_stay_on_disk(tmp_path):
    samples = make_samples()
    opened = Samples.open(samples.save(tmp_path / "s"))
    np.testing.assert_array_equal(opened.X, samples.X)
    assert isinstance(opened.X, np.memmap)
    assert not opened.X.flags.writeable
    pd.testing.assert_frame_equal(opened.table, samples.table)
    assert opened.history == samples.history
    assert opened.classes == ("fear", "joy")
    assert not list(tmp_path.glob("*.partial"))


def test_opening_does_not_read_the_matrix(tmp_path):
    n_samples, n_voxels = 200, 50_000
    table = pd.concat([make_samples().table] * 40, ignore_index=True).iloc[:n_samples]
    X = np.ones((n_samples, n_voxels), dtype=np.float32)
    Samples(X=X, table=table).save(tmp_path / "s")
    tracemalloc.start()
    opened = Samples.open(tmp_path / "s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened.X.nbytes == 40_000_000
    assert peak < 2_000_000


@pytest.mark.parametrize(
    "change",
    [
        {"X": np.zeros((5, 4), np.float32)},
        {"X": np.zeros((6, 4))},
        {"X": np.zeros((6, 5), np.float32)},
        {"features": ("a", "b")},
        {"table": make_samples().table.drop(columns="label")},
    ],
)
def test_parts_that_do_not_fit_are_refused(change):
    parts = {name: getattr(make_samples(), name) for name in ("X", "table", "mask", "features")}
    with pytest.raises(InputError):
        Samples(**(parts | change))


def test_existing_folder_is_not_overwritten(tmp_path):
    make_samples().save(tmp_path / "s")
    with pytest.raises(InputError, match="exists already"):
        make_samples().save(tmp_path / "s")
    with pytest.raises(DataMissingError):
        Samples.open(tmp_path / "other")


def test_truncated_matrix_is_an_input_error(tmp_path):
    folder = make_samples().save(tmp_path / "s")
    data = (folder / "X.npy").read_bytes()
    (folder / "X.npy").write_bytes(data[:-10])
    with pytest.raises(InputError, match=r"X\.npy"):
        Samples.open(folder)


def test_to_image_puts_each_value_at_its_voxel():
    samples = make_samples()
    image = samples.to_image(np.array([1.0, 2, 3, 4]))
    values = image.get_fdata()
    assert values.flat[2] == 3
    assert np.count_nonzero(values) == 4


def test_tables_keep_text_and_missing_values(tmp_path):
    table = make_samples().table
    write_table(table, tmp_path / "t.tsv")
    text = (tmp_path / "t.tsv").read_text().splitlines()
    assert text[0].split("\t") == list(TABLE_COLUMNS)
    assert "\tn/a\t" in text[1]
    pd.testing.assert_frame_equal(read_table(tmp_path / "t.tsv"), table)


def test_votes_are_drawn_anew_with_the_labels():
    plain = make_samples(4).table
    table = plain.assign(p_joy=[0.1, 0.8, 0.1, 0.8], p_fear=[0.9, 0.2, 0.9, 0.2])
    drawn = relabelled(table, np.array(["joy", "fear", "fear", "joy"]))
    assert list(drawn["p_fear"]) == [0, 1, 1, 0]
    assert list(drawn["p_joy"]) == [1, 0, 0, 1]
    assert list(drawn["label"]) == ["joy", "fear", "fear", "joy"]
    assert list(relabelled(plain, plain["label"].to_numpy()[::-1])) == list(plain)


def test_run_counts_time_from_the_first_volume_in_the_file():
    run = Run(subject="01", run="1", tr_s=2.0, planned_volumes=10, dummies=3)
    assert run.n_volumes == 7
    assert run.onset_s[0] == 6.0
    assert run.end_s == 20.0
    assert run.name == "sub-01 run-1"


@pytest.mark.parametrize(
    "change",
    [
        {"tr_s": 2000.0},
        {"tr_s": float("nan")},
        {"planned_volumes": None},
        {"matrix": np.zeros((10, 2))},
        {"dummies": 10},
        {"confounds": pd.DataFrame({"a": [1, 2]})},
        {"planned_volumes": None, "image": nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4))},
    ],
)
def test_impossible_runs_are_refused(change):
    with pytest.raises(InputError):
        Run(**({"subject": "01", "tr_s": 2.0, "planned_volumes": 10} | change))


def test_errors_have_four_parts_and_cross_processes():
    error = InputError("here", found="this", expected="that", remedy="do so")
    assert str(error) == "here: this\nexpected: that\nwhat to do: do so"
    back = pickle.loads(pickle.dumps(error))
    assert (type(back), str(back)) == (InputError, str(error))

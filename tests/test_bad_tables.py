"""Bad MATLAB files, tables, annotations and ratings, given to the real command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import savemat

from refusal import Cases, evaluate, label
from small_study import save_mask, write_study

on_matrices, on_table, on_film = Cases(evaluate), Cases(evaluate), Cases(label)


# --- MATLAB files --------------------------------------------------------------------------------

MATRICES = {
    "source": "mat",
    "path": "mat",
    "pattern": "s{subject}.mat",
    "key": "data",
    "voxel_order": "F",
    "mask": "../mask.nii.gz",
    "tr_s": 2.0,
    "label_key": "labels",
}
"""Three subjects; 216 voxels x 24 volumes, and a label for each volume."""


def _write_matrices(root: Path) -> None:
    rng = np.random.default_rng(0)
    (root / "mat").mkdir()
    for subject in ("1", "2", "3"):
        labels = np.repeat([0, 1, 0, 1], 6)
        content = {"data": rng.normal(size=(216, 24)), "labels": labels}
        savemat(root / f"mat/s{subject}.mat", content)
    save_mask(root, np.ones((6, 6, 6)))
    _matrices(root)


def _matrices(root: Path, **changes: object) -> None:
    study = {"data": MATRICES | changes, "labels": {"source": "data", "lag_s": None}}
    write_study(root, study)


@on_matrices("s1.mat", "data has 216 voxels, the mask 215", "time_by_voxels")
def another_number_of_voxels(root):
    inside = np.ones((6, 6, 6))
    inside[0, 0, 0] = 0
    save_mask(root, inside)


@on_matrices("data.voxel_order", "not stated", '"F" or "C"', "scatters every map")
def voxel_order_not_stated(root):
    _matrices(root, voxel_order=None)


@on_matrices("data.mask", "nothing, with matrices", "data.voxel_order")
def matrices_without_a_mask(root):
    _matrices(root, mask=None, voxel_order=None, path="nowhere")


@on_matrices("s1.mat", "no variable rdata; there are data, labels", "data.key")
def wrong_key(root):
    _matrices(root, key="rdata")


@on_matrices("s2.mat", "cannot be read as a MATLAB file", "cut off")
def truncated_mat(root):
    path = root / "mat/s2.mat"
    path.write_bytes(path.read_bytes()[:3000])


@on_matrices("s1.mat", "24 volumes", "the sum of run_volumes = [10, 10]", "data.run_volumes")
def run_volumes_of_another_sum(root):
    _matrices(root, run_volumes=[10, 10])


@on_matrices("s1.mat and s01.mat", "the same subject", "data.pattern")
def subject_twice(root):
    (root / "mat/s01.mat").write_bytes((root / "mat/s1.mat").read_bytes())


@on_matrices("mat", "no file fits 'subject{subject}.mat'", "s1.mat, s2.mat, s3.mat")
def pattern_without_a_file(root):
    _matrices(root, pattern="subject{subject}.mat")


@on_matrices("s1.mat", "labels without a name: 1", "data.label_names")
def label_without_a_name(root):
    _matrices(root, label_names={"0": "rest"})


@on_matrices("s2.mat", "24 volumes in data, 23 labels in labels")
def a_label_too_few(root):
    content = {"data": np.random.default_rng(1).normal(size=(216, 24)), "labels": np.ones(23)}
    savemat(root / "mat/s2.mat", content)


# --- tables --------------------------------------------------------------------------------------


def _write_rows(root: Path) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(rng.normal(size=(24, 4)), columns=["AAL_1", "AAL_2", "HO_1", "HO_2"])
    rows.insert(0, "emotion", ["fear", "joy"] * 12)
    rows.insert(0, "subject", np.repeat(["a", "b", "c"], 8))
    rows.to_csv(root / "rows.csv", index=False)
    _rows(root)


def _rows(root: Path, **changes: object) -> None:
    data = {"source": "table", "path": ".", "files": ["rows.csv"], "label": "emotion", "mask": None}
    write_study(root, {"data": data} | changes)


def _change_rows(root: Path, change) -> None:
    change(pd.read_csv(root / "rows.csv")).to_csv(root / "rows.csv", index=False)


@on_table("rows.csv", "no column 'emotion' (data.label)", "subject")
def table_without_labels(root):
    _change_rows(root, lambda rows: rows.drop(columns="emotion"))


@on_table("rows.csv", "1 values missing or infinite", "row 4, column AAL_2")
def table_with_nan(root):
    _change_rows(root, lambda rows: rows.assign(AAL_2=rows["AAL_2"].where(rows.index != 3)))


@on_table("rows.csv", "columns that are no numbers: sex", "data.ignore")
def table_with_text(root):
    _change_rows(root, lambda rows: rows.assign(sex="F"))


@on_table("rows.csv", "all 4 features are constant", "data.features")
def voxels_of_constant_features(root):
    names = ("AAL_1", "AAL_2", "HO_1", "HO_2")
    _change_rows(root, lambda rows: rows.assign(**dict.fromkeys(names, 1.0)))
    _rows(root, features={"n_voxels": 2})


@on_table("models.lda.columns", "no feature is called Schaefer*", "AAL_1, AAL_2, HO_1")
def columns_that_match_nothing(root):
    _rows(root, models=[{"name": "lda", "columns": ["Schaefer*"]}])


@on_table("features.parcels", "tables of features", "Remove features.parcels")
def parcels_of_a_table(root):
    _rows(root, features={"parcels": "atlas.nii.gz"})


@on_table("rows.csv", "no rows below its header")
def table_without_rows(root):
    (root / "rows.csv").write_text("subject,emotion,x\n")


@on_table("rows.csv", "cannot be read", "rows of equal length")
def ragged_table(root):
    (root / "rows.csv").write_text("subject,emotion,x\na,fear,1\na,joy,2,3,4\n")


@on_table("labels", "one class only", "'joy'")
def table_of_one_class(root):
    _rows(root, labels={"keep": ["joy"]})


@on_table("1 subject (a)", "at least 2 subjects")
def table_of_one_subject(root):
    _change_rows(root, lambda rows: rows.assign(subject="a"))


@on_table("data.source", "no runs", "emodecode evaluate")
def label_a_table(root):
    return label(root)


# --- annotations and ratings ---------------------------------------------------------------------

HEADER = "start,end,character,arousal,valence,direction,emotion"


def _write_film(root: Path) -> None:
    (root / "raters").mkdir()
    for observer in "abc":
        rows = "0,20,X,1,1,SELF,JOY", "20,40,X,1,1,SELF,FEAR"
        (root / f"raters/{observer}.csv").write_text("\n".join((HEADER, *rows)) + "\n")
    (root / "ratings.csv").write_text("valence\n" + "0.5\n-0.5\n" * 24)
    _film_labels(root)


def _film_labels(root: Path, **labels: object) -> None:
    data = {"source": "design", "subjects": ["01", "02"], "run_volumes": [24], "tr_s": 2.0}
    labels = {"source": "annotations", "path": "raters"} | labels
    data |= {"path": None, "mask": None, "stimulus": "film"}
    write_study(root, {"data": data, "labels": labels})


@on_film("raters", "no file matches '*.csv'", "no observer", "labels.pattern")
def empty_folder_of_annotations(root):
    for path in (root / "raters").iterdir():
        path.unlink()


@on_film("b.csv", "1 of 2 rows end before they start", "row 2: start 40 s, end 20 s")
def annotation_that_ends_before_it_starts(root):
    rows = "0,20,X,1,1,SELF,JOY", "40,20,X,1,1,SELF,FEAR"
    (root / "raters/b.csv").write_text("\n".join((HEADER, *rows)))


@on_film("emotoin", "Did you mean 'emotion'?")
def unknown_variable(root):
    _film_labels(root, variable="emotoin")


@on_film("b.csv", "values of start are no numbers", "row 1: 'soon'")
def annotation_at_no_time(root):
    (root / "raters/b.csv").write_text(f"{HEADER}\nsoon,20,X,1,1,SELF,JOY\n")


@on_film("labels.path", "nothing", "[labels]")
def annotations_without_a_path(root):
    _film_labels(root, path=None)


@on_film("labels", "no labelled volume", "labels.agreement")
def no_agreement(root):
    for number, observer in enumerate("abc"):
        row = f"0,40,X,1,1,SELF,FEELING{number}"
        (root / f"raters/{observer}.csv").write_text(f"{HEADER}\n{row}\n")


@on_film("sub-01", "3 runs named 1, 2, 3 for 2 segments", "labels.segments_s")
def another_number_of_segments(root):
    _film_labels(root, segments_s=[[0.0, 24.0], [24.0, 48.0]])
    text = (root / "study.toml").read_text()
    (root / "study.toml").write_text(text.replace("    24,", "    8, 8, 8,"))


@on_film("ratings.csv", "no rate", "labels.rate_hz")
def ratings_without_a_rate(root):
    _film_labels(root, source="ratings", path="ratings.csv", variable="valence")


@on_film("ratings.csv", "no column 'valance'", "Did you mean 'valence'?")
def unknown_rating(root):
    _film_labels(root, source="ratings", path="ratings.csv", variable="valance", rate_hz=0.5)


@on_film("study.toml", "unknown preset 's2'", "s1-as-published")
def unknown_preset(root):
    _film_labels(root, preset="s2")


# --- the tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "words"), on_matrices.entries)
def test_refused_matrices(spoil, words, tmp_path, capsys):
    _write_matrices(tmp_path)
    on_matrices.check(spoil, words, tmp_path, capsys)


@pytest.mark.parametrize(("spoil", "words"), on_table.entries)
def test_refused_tables(spoil, words, tmp_path, capsys):
    _write_rows(tmp_path)
    on_table.check(spoil, words, tmp_path, capsys)


@pytest.mark.parametrize(("spoil", "words"), on_film.entries)
def test_refused_annotations(spoil, words, tmp_path, capsys):
    _write_film(tmp_path)
    on_film.check(spoil, words, tmp_path, capsys)

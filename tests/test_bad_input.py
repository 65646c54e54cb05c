"""Bad scans, masks, events and confounds, given to the real command line."""

import gzip
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bids_tree import AFFINE, write_json, write_tsv
from refusal import Cases, evaluate
from small_study import (
    SUBJECTS,
    events_path,
    func,
    image_path,
    load_image,
    save_image,
    save_mask,
    stem,
    write_events,
    write_small,
    write_study,
)

case = Cases(evaluate)


# --- time ----------------------------------------------------------------------------------------


def _no_sidecar(root: Path, *, tr_s: float = 0.0) -> None:
    """No TR in the root sidecar; `tr_s` in the header of sub-02 run-1."""
    write_json(root / "bids/task-faces_bold.json", {"TaskName": "faces"})
    save_image(root, load_image(root), tr_s=tr_s)


@case("sub-02 task-faces run-1", "no RepetitionTime", "no TR in the header", "data.tr_s")
def missing_tr(root):
    _no_sidecar(root)


@case("sub-01 task-faces run-1", "tr_s = 2000", "0.05 and 20 seconds", "not ms")
def tr_in_milliseconds(root):
    write_json(root / "bids/task-faces_bold.json", {"RepetitionTime": 2000})
    write_study(root, {"data": {"tr_s": 2000.0}})


@case("sub-01 task-faces run-1", "RepetitionTime = 2000", "2 s in the header", "data.tr_s")
def sidecar_in_milliseconds(root):
    write_json(root / "bids/task-faces_bold.json", {"RepetitionTime": 2000})


@case("sub-02 task-faces run-1", "2 s in the sidecar", "3 s in the header", "data.tr_s")
def sidecar_and_header_in_conflict(root):
    save_image(root, load_image(root), tr_s=3.0)


@case("sub-02 task-faces run-1", "RepetitionTime = 'two'", "Correct the sidecar")
def tr_in_words(root):
    sidecar = image_path(root).name.replace(".nii.gz", ".json")
    write_json(image_path(root).with_name(sidecar), {"RepetitionTime": "two"})


@case("task-faces_bold.json", "not valid JSON", "Correct the file")
def broken_sidecar(root):
    (root / "bids/task-faces_bold.json").write_text('{"RepetitionTime": 2.0')


@case("sub-01 task-faces run-1", "24 dummies of 24 volumes", "data.dummies")
def more_dummies_than_volumes(root):
    write_study(root, {"data": {"dummies": 24}})


@case("sub-01 task-faces run-1", "24 volumes (48 s)", "high_pass_hz", "64 s")
def run_too_short_for_the_filter(root):
    image_path(root, "01").write_bytes(image_path(root, "01").read_bytes()[:-2000])  # not read
    write_study(root, {"features": {"clean": {"high_pass_hz": 1 / 128}}})


# --- images --------------------------------------------------------------------------------------


@case("sub-02 task-faces run-1", "NaN or infinite values in 2 of 24 volumes (7, 9)", "216 of 216")
def nan_volumes(root):
    data = load_image(root)
    data[..., [7, 9]] = np.nan
    save_image(root, data)


@case("sub-02 task-faces run-1", "all 216 voxels", "constant", "data.exclude")
def all_voxels_constant(root):
    save_image(root, np.full_like(load_image(root), 100))


@case("sub-02_task-faces_run-1_bold.nii.gz", "shape (6, 6, 6)", "4-D image")
def a_single_volume(root):
    save_image(root, load_image(root)[..., 0])


@case("sub-02 task-faces run-1", "no volumes", "at least one volume")
def no_volumes(root):
    save_image(root, load_image(root)[..., :0])


@case("sub-02_task-faces_run-1_bold.nii.gz", "data code 999")
def damaged_header(root):
    image = gzip.decompress(image_path(root).read_bytes())
    code = (999).to_bytes(2, "little")
    image_path(root).write_bytes(gzip.compress(image[:70] + code + image[72:]))


@case("sub-02 task-faces run-1", "6 x 6 x 5 voxels", "grid of the others: 6 x 6 x 6")
def another_shape(root):
    save_image(root, load_image(root)[:, :, :5])


@case("sub-02 task-faces run-1", "origin (9, 0, 0)", "1 of 6 runs differ", "data.space")
def another_affine(root):
    affine = AFFINE.copy()
    affine[0, 3] = 9.0
    save_image(root, load_image(root), affine=affine)


@case("sub-02_task-faces_run-1_bold.nii.gz", "truncated or corrupt", "Download or copy")
def corrupt_gz(root):
    content = bytearray(image_path(root).read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    image_path(root).write_bytes(content)


@case("sub-02_task-faces_run-1_bold.nii.gz", "truncated or corrupt", "Download or copy")
def corrupt_from_the_start(root):
    content = bytearray(image_path(root).read_bytes())
    content[12:80] = bytes(68)
    image_path(root).write_bytes(content)


@case("sub-02_task-faces_run-1_bold.nii.gz", "truncated or corrupt")
def truncated_gz(root):
    image_path(root).write_bytes(image_path(root).read_bytes()[:-5000])


@case("sub-02_task-faces_run-1_bold.nii", "ends in volume 20 of 24")
def truncated_nifti(root):
    plain = image_path(root).with_suffix("")
    nib.save(nib.load(image_path(root)), plain)
    image_path(root).unlink()
    plain.write_bytes(plain.read_bytes()[: 352 + 4 * 216 * 20 + 8])


@case("sub-02_task-faces_run-1_bold.nii.gz", "truncated or corrupt")
def empty_file(root):
    image_path(root).write_bytes(b"")


@case("sub-02_task-faces_run-1_bold.nii.gz", "not downloaded (git-annex pointer)", "datalad get")
def annex_pointer(root):
    image_path(root).unlink()
    image_path(root).symlink_to("../../../.git/annex/objects/aa/bb/MD5E-s9--cc.nii.gz")


@case("sub-02_task-faces_run-1_bold.nii.gz", "not downloaded", "1 of 6 images", "datalad get")
def annex_pointer_text(root):
    image_path(root).write_text("/annex/objects/MD5E-s9--cc.nii.gz\n")


@case("no image: 6 events tables but not one *_bold.nii.gz", "data.derivatives")
def events_without_any_image(root):
    for subject in SUBJECTS:
        for run in "12":
            image_path(root, subject, run).unlink()


@case("sub-02 task-faces run-1", "2 images", "run-01_bold.nii.gz", "one image per subject")
def the_same_run_twice(root):
    shutil.copy(image_path(root), image_path(root, run="01"))


@case("none", "no such folder", "data.path")
def no_data_folder(root):
    write_study(root, {"data": {"path": "none"}})


@case("study.toml", "EMODECODE_NOWHERE", "not set")
def unset_variable(root):
    write_study(root, {"data": {"path": "$EMODECODE_NOWHERE/bids"}})


@case("bids/sub-01", "no sub-* folder (it holds func)", "Point to the folder")
def a_folder_too_deep(root):
    write_study(root, {"data": {"path": "bids/sub-01"}})


@case("data.subjects", "subject '04' has no image", "one of 01, 02, 03")
def unknown_subject(root):
    write_study(root, {"data": {"subjects": ["01", "04"]}})


@case("data.task", "task 'film' has no image", "one of faces")
def unknown_task(root):
    write_study(root, {"data": {"task": "film"}})


# --- masks ---------------------------------------------------------------------------------------


@case("mask.nii.gz", "5 x 6 x 6 voxels", "grid of the runs: 6 x 6 x 6", "resample_to_img")
def mask_on_another_grid(root):
    save_mask(root, np.ones((5, 6, 6)))


@case("mask.nii.gz", "it is empty", "zeros and one other value")
def empty_mask(root):
    save_mask(root, np.zeros((6, 6, 6)))


@case("mask.nii.gz", "3 values other than 0", "Threshold")
def atlas_as_mask(root):
    labels = np.zeros((6, 6, 6))
    labels[:3] = [[[1], [2], [3], [1], [2], [3]]]
    save_mask(root, labels)


@case("bids/sub-01", "no such file", "data.mask")
def folder_as_mask(root):
    write_study(root, {"data": {"mask": "sub-01"}})


@case("none.nii.gz", "no such file", "data.mask")
def no_mask_file(root):
    write_study(root, {"data": {"mask": "none.nii.gz"}})


@case("mask.nii.gz", "truncated or corrupt")
def broken_mask(root):
    (root / "mask.nii.gz").write_bytes(b"no image")


@case("sub-01 task-faces run-1", "NaN or infinite values in 1 of 24 volumes (7)")
def nan_volume_without_a_mask(root):
    data = load_image(root, subject="01")
    data[..., 7] = np.nan
    save_image(root, data, subject="01")
    write_study(root, {"data": {"mask": None}})


@case("sub-01 task-faces run-1", "no brain", "data.mask")
def no_brain_to_be_found(root):
    write_study(root, {"data": {"mask": None}})


# --- events --------------------------------------------------------------------------------------


@case(
    "sub-02 task-faces run-1", "1 of 3 events start after the last volume", "902.5", "run ends at"
)
def event_after_the_end(root):
    write_events(root, "2\t10\tjoy", "12\t10\tfear", "902.5\t10\tjoy")


@case("sub-02_task-faces_run-1_events.tsv line 3", "duration = -10", "0 s or more")
def negative_duration(root):
    write_events(root, "2\t10\tjoy", "12\t-10\tfear")


@case("sub-02_task-faces_run-1_events.tsv line 2", "onset = 'two'", "a number of seconds")
def onset_in_words(root):
    write_events(root, "two\t10\tjoy", "12\t10\tfear")


@case("sub-02_task-faces_run-1_events.tsv", "no column duration", "seconds")
def events_without_duration(root):
    write_tsv(events_path(root), "onset trial_type", "2 joy")


@case("sub-02_task-faces_run-1_events.tsv", "rows have more cells than the header")
def events_shifted_by_a_column(root):
    events_path(root).write_text("onset\tduration\trate\n2\t10\t0.5\tjoy\n20\t10\t0.1\tfear\n")


@case("sub-02_task-faces_run-1_events.tsv", "no table", "header")
def empty_events(root):
    events_path(root).write_text("")


@case("sub-01 task-faces run-1", "no column 'emotion'", "trial_type", "labels.column")
def unknown_column_of_events(root):
    write_study(root, {"labels": {"column": "emotion"}})


@case("labels", "no events", "events.tsv", "labels.column")
def no_events(root):
    for path in (root / "bids").rglob("*_events.tsv"):
        path.unlink()


@case("labels.keep", "unknown label 'joyy'", "fear, joy", "Did you mean 'joy'?")
def unknown_label_in_keep(root):
    write_study(root, {"labels": {"keep": ["joyy", "fear"]}})


@case("labels.merge", "unknown label 'anger'", "fear, joy")
def unknown_label_in_merge(root):
    write_study(root, {"labels": {"merge": {"anger": "negative"}}})


@case("labels.min_count", "no label with 500", "fear", "Lower labels.min_count")
def no_label_often_enough(root):
    write_study(root, {"labels": {"min_count": 500}})


@case("labels", "one class only", "'joy'", "two classes", "labels.keep")
def one_class_only(root):
    write_study(root, {"labels": {"keep": ["joy"]}})


@case("fold sub-02", "class 'anger' has no training sample", "labels.keep")
def class_of_one_subject(root):
    for run in "12":
        write_events(root, "2\t10\tjoy", "12\t10\tfear", "22\t10\tanger", run=run)


@case("sub-01 task-faces run-1", "ratings.txt", "labels.events_path")
def events_path_without_file(root):
    write_study(root, {"labels": {"events_path": "ratings.txt"}})


# --- confounds -----------------------------------------------------------------------------------


def _write_confounds(root: Path, n_rows: int, value: str = "0.5") -> None:
    for subject in SUBJECTS:
        for run in "12":
            rows = [f"{row}.5 {value}" for row in range(n_rows if subject == "02" else 24)]
            name = f"{stem(subject, run)}_desc-confounds_timeseries.tsv"
            write_tsv(func(root / "bids", subject) / name, "trans_x trans_y", *rows)


@case("desc-confounds_timeseries.tsv", "no column trans_zz", "trans_x", "data.confounds")
def unknown_confound(root):
    _write_confounds(root, 24)
    write_study(root, {"data": {"confounds": ["trans_zz"]}})


@case("sub-02 task-faces run-1", "19 rows of confounds for 24 volumes")
def wrong_number_of_confounds(root):
    _write_confounds(root, 19)
    write_study(root, {"data": {"confounds": ["trans_*"]}})


@case("sub-01_task-faces_run-1_desc-confounds_timeseries.tsv", "high", "numbers or n/a")
def confounds_in_words(root):
    _write_confounds(root, 24, "high")
    write_study(root, {"data": {"confounds": ["trans_y"]}})


@case("sub-02_task-faces_run-1_desc-confounds_timeseries.tsv", "no table", "saw 3")
def confounds_with_a_cell_too_many(root):
    _write_confounds(root, 24)
    name = f"{stem('02', '1')}_desc-confounds_timeseries.tsv"
    with (func(root / "bids", "02") / name).open("a") as file:
        file.write("1\t2\t3\n")
    write_study(root, {"data": {"confounds": ["trans_x"]}})


@case("sub-01 task-faces run-1", "no desc-confounds_timeseries.tsv", "data.derivatives")
def no_confounds(root):
    write_study(root, {"data": {"confounds": ["trans_x"]}})


# --- people --------------------------------------------------------------------------------------


@case("1 subject (02)", "at least 2 subjects", "leave_run_out")
def one_subject_with_leave_one_subject_out(root):
    write_study(root, {"data": {"subjects": ["02"]}})


@case("one subject with one run", "several runs")
def one_subject_with_one_run(root):
    write_study(root, {"data": {"subjects": ["02"], "runs": ["1"]}, "evaluate": {"split": "auto"}})


# --- the test -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "words"), case.entries)
def test_refused(spoil, words, tmp_path, capsys):
    write_small(tmp_path)
    case.check(spoil, words, tmp_path, capsys)

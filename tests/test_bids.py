"""Reading BIDS trees: what belongs to which run, and the traps of real data sets."""

import nibabel as nib
import numpy as np
import pytest

from bids_tree import (
    SHAPE,
    derivative_tree,
    func,
    make_image,
    raw_tree,
    write_image,
    write_json,
    write_tsv,
)
from emodecode.errors import DataMissingError, InputError
from emodecode.read.bids import read_bids
from emodecode.read.events import read_events


@pytest.fixture
def raw(tmp_path):
    return raw_tree(tmp_path / "raw")


@pytest.fixture
def prepared(tmp_path):
    return derivative_tree(tmp_path / "raw" / "derivatives" / "fmriprep")


def refuse(expected, *args, error=InputError, **kwargs):
    with pytest.raises(error) as caught:
        read_bids(*args, **kwargs)
    for text in [expected] if isinstance(expected, str) else expected:
        assert text in str(caught.value)
    return caught.value


def note_with(notes, text):
    found = [note for note in notes if text in note]
    assert len(found) == 1, notes
    return found[0]


def test_raw_tree(raw):
    runs, notes = read_bids(raw)
    assert [run.name for run in runs] == [
        f"sub-{subject} task-faces run-{run}" for subject in ("01", "02") for run in "12"
    ]
    assert {run.tr_s for run in runs} == {2.0}
    assert [run.n_volumes for run in runs] == [20] * 4
    assert runs[1].events["trial_type"].tolist() == ["fear2", "n/a"]
    assert runs[0].source == func(raw, "01") / "sub-01_task-faces_run-1_bold.nii.gz"
    assert not runs[0].image.in_memory
    assert not notes


def test_no_voxel_is_read(raw, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("voxels were read")

    monkeypatch.setattr(nib.arrayproxy.ArrayProxy, "_get_scaled", fail)
    monkeypatch.setattr(nib.arrayproxy.ArrayProxy, "_get_unscaled", fail)
    assert len(read_bids(raw)[0]) == 4


def test_derivatives_with_raw_events_masks_and_confounds(raw, prepared):
    runs, notes = read_bids(
        raw, derivatives=prepared, confounds=["trans_*", "a_comp_cor_0[0-4]", "trans_x"], dummies=2
    )
    run = runs[0]
    assert run.space == "MNI"
    assert "desc-preproc" in run.source.name
    assert run.n_volumes == 18
    assert run.onset_s[0] == 4.0
    assert run.events["trial_type"].tolist() == ["fear1", "n/a"]
    assert np.asanyarray(run.mask.dataobj).sum() == 6
    assert run.confounds.columns.tolist() == ["trans_x", "trans_x_derivative1", "a_comp_cor_00"]
    assert run.confounds["trans_x_derivative1"][0] == pytest.approx(np.arange(1, 20).mean())
    assert "trans_x_derivative1" in note_with(notes, "column's mean")
    assert "StartTime = 0.97" in note_with(notes, "all 4 runs: SliceTimingCorrected")


def test_old_confounds_name_and_failures(raw, prepared):
    for path in prepared.rglob("*_timeseries.tsv"):
        path.rename(path.with_name(path.name.replace("timeseries", "regressors")))
    asked = {"derivatives": prepared}
    assert read_bids(raw, **asked, confounds=["trans_x"])[0][0].confounds.shape == (20, 1)
    refuse(["no column trans_z", "trans_x"], raw, **asked, confounds=["trans_z"])
    path = func(prepared, "02") / "sub-02_task-faces_run-1_desc-confounds_regressors.tsv"
    text = path.read_text()
    path.write_text(text.replace("7.5\t7\t", "7.5\tn/a\t"))
    refuse("trans_x_derivative1 in row 8", raw, **asked, confounds=["trans_x_derivative1"])
    path.write_text("\n".join(text.splitlines()[:-1]))
    refuse("19 rows of confounds for 20 volumes", raw, **asked, confounds=["trans_x"])
    path.unlink()
    error = refuse("sub-02", raw, **asked, confounds=["trans_x"], error=DataMissingError)
    assert "desc-confounds_timeseries.tsv" in str(error)


def test_inheritance(tmp_path):
    root = raw_tree(tmp_path, events=False)
    write_tsv(root / "task-faces_run-1_events.tsv", "onset duration trial_type", "2 4 happy")
    write_tsv(root / "task-faces_run-2_events.tsv", "onset duration trial_type", "2 4 sad")
    own = func(root, "02") / "sub-02_task-faces_run-2_events.tsv"
    write_tsv(own, "onset duration trial_type", "2 4 angry")
    # a neighbour of the root sidecar, and two levels with lists: ancpbids' own merging fails here
    write_json(root / "task-aaa_bold.json", {"RepetitionTime": 9})
    write_json(root / "task-faces_bold.json", {"SliceTiming": [0, 1], "RepetitionTime": 9})
    for subject in ("01", "02"):
        for run in "12":
            write_json(
                func(root, subject) / f"sub-{subject}_task-faces_run-{run}_bold.json",
                {"SliceTiming": [0, 1], "RepetitionTime": 2.0},
            )
    runs, _ = read_bids(root)
    assert [run.events["trial_type"][0] for run in runs] == ["happy", "sad", "happy", "angry"]
    assert {run.tr_s for run in runs} == {2.0}


def test_run_numbers_with_and_without_zeros(tmp_path):
    root = raw_tree(tmp_path, events=False)
    for subject in ("01", "02"):
        for run in ("01", "02"):
            write_tsv(
                func(root, subject) / f"sub-{subject}_task-faces_run-{run}_events.tsv",
                "onset duration trial_type",
                f"2 4 {run}",
            )
    path = func(root, "02") / "sub-02_task-faces_run-2_bold.nii.gz"
    path.rename(path.with_name("sub-02_task-faces_run-002_bold.nii.gz"))
    runs, notes = read_bids(root)
    assert [run.events["trial_type"][0] for run in runs] == ["01", "02"] * 2
    assert [run.run for run in runs] == ["1", "2"] * 2
    assert not notes
    only, _ = read_bids(root, runs=["02"])
    assert [run.run for run in only] == ["2", "2"]


def test_space_resolution_and_desc_are_chosen(tmp_path):
    raw = raw_tree(tmp_path / "raw")
    variants = ("", "space-T1w", "space-MNI_res-1", "space-MNI_res-2")
    prepared = derivative_tree(tmp_path / "fmriprep", variants=variants)
    several = ["MNI:res-1 (4 images)", "MNI:res-2 (4", "T1w (4", "none (4", "data.space"]
    refuse(several, raw, derivatives=prepared)
    refuse(["MNI:res-1", "MNI:res-2"], raw, derivatives=prepared, space="MNI")
    refuse("one of MNI:res-1, MNI:res-2, T1w, none", raw, derivatives=prepared, space="Talairach")
    for space, part in (
        ("T1w", "space-T1w"),
        ("MNI:res-2", "res-2"),
        ("none", "run-1_desc-preproc"),
    ):
        runs, _ = read_bids(raw, derivatives=prepared, space=space)
        assert len(runs) == 4
        assert part in runs[0].source.name
    mask = runs[0].mask
    assert mask.get_filename().endswith("run-1_desc-brain_mask.nii.gz")

    for subject in ("01", "02"):
        for run in "12":
            stem = f"sub-{subject}_task-faces_run-{run}_space-T1w"
            write_image(func(prepared, subject) / f"{stem}_desc-smooth_bold.nii.gz")
    runs, notes = read_bids(raw, derivatives=prepared, space="T1w")
    assert "also there: smooth" in note_with(notes, "desc-preproc is used")
    runs, _ = read_bids(raw, derivatives=prepared, space="T1w", desc="smooth")
    assert "desc-smooth" in runs[0].source.name
    refuse("one of preproc, smooth", raw, derivatives=prepared, space="T1w", desc="denoised")


def test_several_tasks(raw):
    write_image(func(raw, "01") / "sub-01_task-rest_bold.nii.gz")
    refuse("faces (4 images), rest (1 images)", raw)
    assert len(read_bids(raw, task="faces")[0]) == 4
    assert read_bids(raw, task="rest")[0][0].run == "n/a"
    refuse("one of faces, rest", raw, task="music")


def test_missing_images_are_named(raw):
    (func(raw, "02") / "sub-02_task-faces_run-2_bold.nii.gz").unlink()
    runs, notes = read_bids(raw)
    assert len(runs) == 3
    assert "for 1 runs with events or raw images: sub-02 task-faces run-2" in note_with(
        notes, "no image"
    )
    assert not read_bids(raw, subjects=["01"])[1]
    for path in raw.rglob("*bold.nii.gz"):
        path.unlink()
    refuse(["no image", "4 events tables"], raw, error=DataMissingError)


def test_images_without_events(tmp_path):
    runs, notes = read_bids(raw_tree(tmp_path, events=False))
    assert all(run.events is None for run in runs)
    assert note_with(notes, "no events") == "all 4 runs: no events"


def test_events_of_another_task(tmp_path):
    root = raw_tree(tmp_path, subjects=("01",), runs=("1",), events=False)
    for film, onset in (("faces", 93.8), ("Sintel", 7.0)):
        write_tsv(
            func(root, "01") / f"sub-01_task-scan_acq-{film}_events.tsv",
            "onset duration trial_type",
            f"{onset} 2 film",
        )
    runs, notes = read_bids(root, events_task="scan", stimulus="Faces the film")
    assert runs[0].events["onset_s"][0] == 93.8
    assert runs[0].stimulus == "Faces the film"
    assert read_bids(root)[0][0].events is None
    assert len(notes) == 1, "the events have no run number: their key is no run of this task"


@pytest.mark.parametrize("kind", ["link", "text"])
def test_annex_pointers(raw, kind):
    path = func(raw, "02") / "sub-02_task-faces_run-1_bold.nii.gz"
    path.unlink()
    if kind == "link":
        path.symlink_to("../../.git/annex/objects/Xq/7v/MD5E-s9--0.nii.gz/MD5E-s9--0.nii.gz")
    else:
        path.write_text("/annex/objects/MD5E-s9--0.nii.gz\n")
    error = refuse("not downloaded", raw, error=DataMissingError)
    assert f"datalad get {path}" in error.remedy
    assert "1 of 4 images" in error.found
    assert len(read_bids(raw, subjects=["01"])[0]) == 2


def test_tr_conflict(raw):
    write_json(raw / "task-faces_bold.json", {"RepetitionTime": 2.006})
    refuse(["sub-01", "2.006 s in the sidecar, 2 s in the header", "data.tr_s"], raw)
    runs, notes = read_bids(raw, tr_s=2.006)
    assert runs[0].tr_s == 2.006
    assert "the header says 2 s" in note_with(notes, "tr_s = 2.006 as set")
    write_json(raw / "task-faces_bold.json", {"RepetitionTime": 2.00000061})
    assert read_bids(raw)[0][0].tr_s == 2.00000061


def test_tr_of_the_header(tmp_path):
    root = raw_tree(tmp_path, runs=("1",))
    (root / "task-faces_bold.json").unlink()
    runs, notes = read_bids(root)
    assert runs[0].tr_s == 2.0
    assert note_with(notes, "tr_s is the header's").startswith("all 2 runs")
    for tr, unit in ((1300.0, "msec"), (1300.0, "sec"), (1300.0, "unknown"), (1.3, "sec")):
        for subject in ("01", "02"):
            path = func(root, subject) / f"sub-{subject}_task-faces_run-1_bold.nii.gz"
            write_image(path, tr_s=tr, unit=unit)
        assert read_bids(root)[0][0].tr_s == pytest.approx(1.3)
    for subject in ("01", "02"):
        path = func(root, subject) / f"sub-{subject}_task-faces_run-1_bold.nii.gz"
        write_image(path, tr_s=1.0, unit="unknown")
    refuse(["no RepetitionTime", "no TR in the header", "data.tr_s"], root)
    assert read_bids(root, tr_s=1.5)[0][0].tr_s == 1.5


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('{"RepetitionTime": "2 s"}', "RepetitionTime = '2 s'"),
        ('{"RepetitionTime": 0}', "RepetitionTime = 0"),
        ('{"RepetitionTime": 2000}', "2000 s in the sidecar, 2 s in the header"),
        ('{"VolumeTiming": [0, 5, 9]}', "irregular"),
        ('{"RepetitionTime": 2', "not valid JSON"),
        ("[2]", "JSON that is a list"),
    ],
)
def test_bad_sidecars(raw, content, text):
    (raw / "task-faces_bold.json").write_text(content)
    refuse(text, raw)


def test_timing_notes(raw):
    write_json(
        raw / "task-faces_bold.json", {"RepetitionTime": 2.0, "NumberOfVolumesDiscardedByUser": 4}
    )
    _, notes = read_bids(raw)
    assert note_with(notes, "= 4: volumes were removed").startswith("all 4 runs")


def test_groups(raw):
    write_tsv(raw / "participants.tsv", "participant_id age diagnosis", "sub-01 30 MDD", "02 31 HC")
    runs, notes = read_bids(raw)
    assert [run.group for run in runs] == ["MDD", "MDD", "HC", "HC"]
    assert "diagnosis" in note_with(notes, "groups come from")
    write_tsv(raw / "participants.tsv", "participant_id dx group", "sub-01 MDD a", "sub-03 HC b")
    assert [run.group for run in read_bids(raw)[0]] == ["a", "a", "n/a", "n/a"]


def test_subjects_and_exclusions(raw):
    (raw / "sub-22" / "beh").mkdir(parents=True)
    (raw / "sub-22" / "beh" / "sub-22_task-faces_events.tsv").write_text("onset\tduration\n")
    runs, _ = read_bids(raw)
    assert {run.subject for run in runs} == {"01", "02"}
    assert {run.subject for run in read_bids(raw, subjects=["sub-02"])[0]} == {"02"}
    refuse(["subject '22' has no image", "one of 01, 02"], raw, subjects=["01", "22"])
    refuse("one of 1, 2", raw, runs=["3"])
    refuse("no image has one", raw, sessions=["movie"])
    runs, notes = read_bids(raw, exclude={"01": "sleeping"})
    assert {run.subject for run in runs} == {"02"}
    assert "sub-01 is excluded: sleeping" in notes
    refuse("no subject '1'", raw, exclude={"1": "a typing error"})
    refuse("all 2 subjects", raw, exclude={"01": "a", "02": "b"})
    refuse("subject '01' has no image", raw, subjects=["01"], exclude={"01": "asleep"})


def test_sessions(tmp_path):
    root = raw_tree(tmp_path, images=False, events=False)
    for session in ("movie", "localiser"):
        folder = root / "sub-01" / f"ses-{session}" / "func"
        write_image(folder / f"sub-01_ses-{session}_task-faces_bold.nii.gz")
    runs, _ = read_bids(root)
    assert [run.session for run in runs] == ["localiser", "movie"]
    assert [run.session for run in read_bids(root, sessions=["ses-movie"])[0]] == ["movie"]


def test_two_images_for_one_run(raw):
    write_image(func(raw, "01") / "sub-01_task-faces_acq-b_run-01_bold.nii.gz")
    refuse(["sub-01 task-faces run-1", "2 images", "acq-b"], raw)


def test_unreadable_and_flat_images(raw):
    path = func(raw, "02") / "sub-02_task-faces_run-1_bold.nii.gz"
    whole = path.read_bytes()
    for content in (b"", whole[:60], b"no image at all " * 40):
        path.write_bytes(content)
        refuse([str(path), "truncated or corrupt"], raw)
    nib.save(make_image(np.ones(SHAPE, np.float32)), path)
    refuse([str(path), f"shape {SHAPE}", "4-D"], raw)


def test_no_bids_folder(tmp_path):
    refuse("no such folder", tmp_path / "nowhere", error=DataMissingError)
    (tmp_path / "a.txt").write_text("")
    refuse(["no sub-* folder", "a.txt"], tmp_path)


def test_broken_description_and_git_folder_do_not_disturb(raw):
    (raw / "dataset_description.json").write_text("{")
    write_image(raw / ".git" / "annex" / "sub-09" / "func" / "sub-09_task-faces_bold.nii.gz")
    write_image(raw / "sourcedata" / "sub-09" / "func" / "sub-09_task-faces_bold.nii.gz")
    (func(raw, "01") / "._sub-01_task-faces_run-3_bold.nii.gz").write_bytes(b"finder")
    assert len(read_bids(raw)[0]) == 4


def test_tree_without_func_folders(tmp_path):
    """studyforrest-data-aligned keeps its images in ``sub-XX/in_bold3Tp2``."""
    write_image(tmp_path / "sub-03" / "in_bold3Tp2" / "sub-03_task-avmovie_run-1_bold.nii.gz")
    runs, _ = read_bids(tmp_path)
    assert runs[0].name == "sub-03 task-avmovie run-1"


@pytest.mark.data
def test_ds000108_has_events_but_no_images(data_dir):
    root = data_dir / "bids_ds000108_events"
    refuse("204 events tables", root, error=DataMissingError)
    tables = [read_events(path) for path in sorted(root.rglob("*_events.tsv"))]
    assert len(tables) == 204
    assert all(len(table) > 10 and table["onset_s"].is_monotonic_increasing for table in tables)
    kinds = set().union(*(table["trial_type"] for table in tables))
    assert {"Look_Neutral_Stim", "Look_Neg_Stim", "Reapp_Neg_Stim"} <= kinds

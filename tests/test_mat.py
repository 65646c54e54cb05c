"""MATLAB files -> Run."""

import pickle

import h5py
import nibabel as nib
import numpy as np
import pytest
from scipy.io import savemat

from emodecode.errors import DataMissingError, InputError
from emodecode.read.mat import read_mat

SHAPE = (4, 5, 3)
N_VOLUMES = 30


def save_v73(path, content):
    """Write what MATLAB's `save -v7.3` writes: transposed arrays, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            if value.dtype == object:
                cells = value.T
                references = np.empty(cells.shape, dtype=h5py.ref_dtype)
                for index, cell in np.ndenumerate(cells):
                    item = file.create_dataset(
                        f"#refs#/{name}{'_'.join(map(str, index))}", data=np.asarray(cell).T
                    )
                    references[index] = item.ref
                item = file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
                item.attrs["MATLAB_class"] = np.bytes_("cell")
            else:
                item = file.create_dataset(name, data=value.T)
                item.attrs["MATLAB_class"] = np.bytes_("double")


SAVERS = {"v5": savemat, "v7.3": save_v73}


@pytest.fixture
def mask(tmp_path):
    """A lopsided mask, so that C and Fortran order differ."""
    inside = np.random.default_rng(1).random(SHAPE) < 0.6
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    nib.save(nib.Nifti1Image(inside.astype(np.int16), affine), tmp_path / "mask.nii")
    return inside


@pytest.fixture
def volumes():
    """One 4-D image per subject, (x, y, z, volumes)."""
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(*SHAPE, N_VOLUMES)) for name in ("1", "2", "10")}


def in_fortran_order(image, inside):
    """What MATLAB does: data = reshape(image, [], n); data(find(mask), :)."""
    flat = image.reshape(-1, image.shape[3], order="F")
    return flat[np.flatnonzero(inside.ravel(order="F"))]


def write(folder, volumes, inside, *, saver=savemat, order="F", transpose=False):
    for name, image in volumes.items():
        matrix = in_fortran_order(image, inside) if order == "F" else image[inside]
        saver(folder / f"film_s{name}.mat", {"rdata": matrix.T if transpose else matrix})


def read(folder, **changes):
    arguments = {
        "pattern": "film_s{subject}.mat",
        "layout": "voxels_by_time",
        "key": "rdata",
        "tr_s": 1.5,
    } | changes
    return read_mat(folder, **arguments)


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize("order", ["F", "C"])
@pytest.mark.parametrize("layout", ["voxels_by_time", "time_by_voxels"])
def test_columns_follow_the_mask_in_c_order(tmp_path, mask, volumes, version, order, layout):
    write(
        tmp_path,
        volumes,
        mask,
        saver=SAVERS[version],
        order=order,
        transpose=layout == "time_by_voxels",
    )
    runs, notes = read(tmp_path, layout=layout, mask="mask.nii", voxel_order=order)
    assert [run.subject for run in runs] == ["1", "2", "10"]
    for run in runs:
        # numpy's own order of a boolean mask is the contract
        np.testing.assert_array_equal(
            run.matrix, volumes[run.subject][mask].T.astype(np.float32), strict=True
        )
        np.testing.assert_array_equal(np.asanyarray(run.mask.dataobj) != 0, mask)
        assert run.mask.affine[0, 0] == 3
        assert run.source == tmp_path / f"film_s{run.subject}.mat"
    assert any("Fortran" in note for note in notes) == (order == "F")


def test_runs_are_cut_and_share_the_clock_of_the_stimulus(tmp_path, mask, volumes):
    write(tmp_path, volumes, mask, order="C")
    runs, _ = read(tmp_path, run_volumes=[10, 12, 8], stimulus="film", dummies=2)
    assert [run.name for run in runs[:3]] == ["sub-1 run-1", "sub-1 run-2", "sub-1 run-3"]
    assert [run.stimulus_start_s for run in runs] == [0.0, 15.0, 33.0] * 3
    assert [run.n_volumes for run in runs[:3]] == [8, 10, 6]
    np.testing.assert_array_equal(
        np.concatenate([run.matrix for run in runs[:3]]), volumes["1"][mask].T.astype(np.float32)
    )
    assert runs[0].mask is None


def test_runs_in_files_of_their_own_share_the_clock_too(tmp_path):
    rng = np.random.default_rng(0)
    for subject in "ab":
        for run, length in (("2", 20), ("10", 15)):
            savemat(tmp_path / f"{subject}_run{run}.mat", {"x": rng.normal(size=(length, 4))})
    arguments = {"pattern": "{subject}_run{run}.mat", "layout": "time_by_voxels", "key": "x"}
    runs, _ = read(tmp_path, **arguments, stimulus="film")
    assert [(run.subject, run.run) for run in runs] == [(s, r) for s in "ab" for r in ("2", "10")]
    assert [run.stimulus_start_s for run in runs] == [0.0, 30.0] * 2
    savemat(tmp_path / "c_run2.mat", {"x": rng.normal(size=(19, 4))})
    with pytest.raises(InputError, match="sub-c run-2 has 19 volumes, sub-a run-2 20"):
        read(tmp_path, **arguments, stimulus="film")


def cells(volumes):
    row = np.empty((1, len(volumes)), dtype=object)
    for index, volume in enumerate(volumes):
        row[0, index] = volume
    return row


def write_conditions(folder, *, saver=savemat, n_test=5, labels=None):
    """S2-B's layout: I, I_test, labels, labels_test."""
    image = np.random.default_rng(3).normal(size=(*SHAPE, 20))
    numbers = np.arange(20) % 3
    parts = np.split(np.moveaxis(image, -1, 0), [15])
    saver(
        folder / "E13281_run7_3D_wholeBrain_allConds.mat",
        {
            "I": cells(parts[0]),
            "I_test": cells(parts[1][:n_test]),
            "labels": numbers[:15, None].astype(float),
            "labels_test": (numbers[15:, None] if labels is None else labels).astype(float),
        },
    )
    return image, numbers


CONDITIONS = {
    "pattern": "{subject}_run{run}_3D_wholeBrain_allConds.mat",
    "layout": "volumes",
    "key": ["I", "I_test"],
    "label_key": ["labels", "labels_test"],
    "label_names": {"0": "rest", "1": "neutral", "2": "negative"},
}


@pytest.mark.parametrize("version", SAVERS)
def test_cell_arrays_of_volumes_become_an_image_with_labels(tmp_path, version):
    image, numbers = write_conditions(tmp_path, saver=SAVERS[version])
    (run,), notes = read(tmp_path, **CONDITIONS)
    assert run.name == "sub-E13281 run-7"
    assert run.image.shape == (*SHAPE, 20)
    np.testing.assert_array_equal(run.image.get_fdata(dtype=np.float32), image.astype(np.float32))
    names = np.array(["rest", "neutral", "negative"])
    assert list(run.volume_labels) == list(names[numbers])
    assert any("joined in this order" in note for note in notes)
    assert any("no affine" in note for note in notes)


def test_an_image_of_a_mat_file_stays_on_disk_until_it_is_asked_for(tmp_path):
    write_conditions(tmp_path)
    (run,), _ = read(tmp_path, **CONDITIONS)
    assert nib.is_proxy(run.image.dataobj)
    assert not run.image.in_memory
    part = run.image.slicer[..., 3:5]
    np.testing.assert_array_equal(part.get_fdata(), run.image.get_fdata()[..., 3:5])


def test_nilearn_and_other_processes_can_use_the_image(tmp_path, mask):
    from nilearn.maskers import NiftiMasker

    image, _ = write_conditions(tmp_path)
    (run,), _ = read(tmp_path, **CONDITIONS, mask="mask.nii")
    masked = NiftiMasker(run.mask, standardize=None).fit().transform(run.image)
    np.testing.assert_allclose(masked, image[mask].T, rtol=1e-6)
    travelled = pickle.loads(pickle.dumps(run.image.dataobj))
    np.testing.assert_array_equal(np.asarray(travelled), image.astype(np.float32))


def test_the_mask_gives_volumes_their_place(tmp_path, mask):
    write_conditions(tmp_path)
    (run,), notes = read(tmp_path, **CONDITIONS, mask="mask.nii")
    np.testing.assert_array_equal(run.image.affine, run.mask.affine)
    assert any("the mask's is used" in note for note in notes)


def test_a_4d_array_and_labels_in_words_will_do(tmp_path):
    image = np.random.default_rng(3).normal(size=(*SHAPE, 4))
    words = cells(["calm", "fear ", "fear", "calm"])
    savemat(tmp_path / "s01.mat", {"vol": image, "cond": words})
    (run,), _ = read(
        tmp_path, pattern="s{subject}.mat", layout="volumes", key="vol", label_key="cond"
    )
    np.testing.assert_array_equal(run.image.get_fdata(dtype=np.float32), image.astype(np.float32))
    assert list(run.volume_labels) == ["calm", "fear", "fear", "calm"]
    (run, other), _ = read(
        tmp_path,
        pattern="s{subject}.mat",
        layout="volumes",
        key="vol",
        label_key="cond",
        run_volumes=[1, 3],
    )
    assert list(other.volume_labels) == ["fear", "fear", "calm"]
    np.testing.assert_array_equal(other.image.get_fdata(), image.astype(np.float32)[..., 1:])


def test_subjects_are_chosen_and_left_out_with_a_reason(tmp_path, mask, volumes):
    write(tmp_path, volumes, mask)
    runs, notes = read(tmp_path, subjects=["1", "10"], exclude={"10": "slept"})
    assert [run.subject for run in runs] == ["1"]
    assert "sub-10 left out: slept" in notes


def test_filled_up_volumes_are_refused_by_name_unless_excluded(tmp_path, mask, volumes):
    volumes["2"][..., 21:] = volumes["2"][..., 20:21]
    write(tmp_path, volumes, mask)
    with pytest.raises(InputError) as caught:
        read(tmp_path)
    assert "sub-2: 9 of 30 volumes repeat the one before (volumes 21 to 29)" in caught.value.found
    assert "sub-1" not in caught.value.found
    assert "data.exclude" in caught.value.remedy
    runs, _ = read(tmp_path, exclude={"2": "the end was not scanned"})
    assert [run.subject for run in runs] == ["1", "10"]


def test_constant_voxels_are_noted(tmp_path, mask, volumes):
    volumes["2"][..., :] = np.where(np.indices(SHAPE)[0] == 0, 0, 1)[..., None] * volumes["2"]
    write(tmp_path, volumes, mask)
    _, notes = read(tmp_path)
    expected = np.count_nonzero(mask[0])
    assert f"film_s2.mat: {expected} voxels are constant" in notes


def test_glob_characters_in_names_are_taken_literally(tmp_path):
    rng = np.random.default_rng(0)
    savemat(tmp_path / "a[1]b.mat", {"rdata": rng.normal(size=(4, 6))})
    savemat(tmp_path / "a1b.mat", {"rdata": rng.normal(size=(4, 6))})
    (run,), _ = read(tmp_path, pattern="a[{subject}]b.mat")
    assert run.subject == "1"


def test_folders_may_repeat_a_field(tmp_path):
    rng = np.random.default_rng(0)
    for folder, name in (("sub-01", "sub-01"), ("sub-02", "sub-02"), ("sub-03", "sub-99")):
        (tmp_path / folder).mkdir()
        savemat(tmp_path / folder / f"{name}.mat", {"rdata": rng.normal(size=(4, 6))})
    runs, _ = read(tmp_path, pattern="sub-{subject}/sub-{subject}.mat")
    assert [run.subject for run in runs] == ["01", "02"]


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"mask": "mask.nii"}, InputError, 'Write voxel_order = "F"'),
        ({"mask": "mask.nii", "voxel_order": "f"}, InputError, "'f'"),
        ({"mask": "other.nii", "voxel_order": "F"}, DataMissingError, "other.nii: no such file"),
        ({"key": "data"}, InputError, "no variable data; there are rdata"),
        ({"layout": "volumes"}, InputError, "volume 0 of rdata has shape"),
        ({"layout": "volumes", "voxel_order": "F"}, InputError, "no voxel order"),
        ({"layout": "matrix"}, InputError, "voxels_by_time, time_by_voxels or volumes"),
        ({"run_volumes": [10, 10]}, InputError, "30 volumes\nexpected: 20"),
        ({"pattern": "film_s{sub}.mat"}, InputError, "unknown field {sub}"),
        ({"pattern": "film.mat"}, InputError, "film.mat"),
        ({"pattern": "/film_s{subject}.mat"}, InputError, "below data.path"),
        ({"pattern": "movie_s{subject}.mat"}, DataMissingError, "film_s1.mat, film_s10.mat"),
        ({"pattern": "film_s{subject}{run}.mat", "run_volumes": [1, 2]}, InputError, "{run}"),
        ({"subjects": ["1", "3"]}, InputError, "no file of subject 3"),
        ({"exclude": {"01": "typo"}}, InputError, "no file of subject 01"),
        ({"exclude": {"1": "", "2": "", "10": ""}}, InputError, "all 3 subjects are left out"),
        ({"label_key": ["a", "b"]}, InputError, "2 variables of labels for 1 of data"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(tmp_path, mask, volumes, changes, error, text):
    write(tmp_path, volumes, mask)
    with pytest.raises(error) as caught:
        read(tmp_path, **changes)
    assert text in str(caught.value)


def test_a_mask_of_another_size_is_refused_with_both_numbers(tmp_path, mask, volumes):
    write(tmp_path, volumes, mask)
    smaller = mask.copy()
    smaller[tuple(np.argwhere(mask)[0])] = False
    nib.save(nib.Nifti1Image(smaller.astype(np.uint8), np.eye(4)), tmp_path / "small.nii")
    n = np.count_nonzero(mask)
    with pytest.raises(InputError, match=f"rdata has {n} voxels, the mask {n - 1}"):
        read(tmp_path, mask="small.nii", voxel_order="F")
    nib.save(nib.Nifti1Image(np.zeros((*SHAPE, 2)), np.eye(4)), tmp_path / "4d.nii")
    with pytest.raises(InputError, match="3-D mask"):
        read(tmp_path, mask="4d.nii", voxel_order="F")


def test_one_subject_under_two_names_is_refused(tmp_path, mask, volumes):
    write(tmp_path, {"1": volumes["1"], "01": volumes["2"]}, mask)
    with pytest.raises(InputError, match=r"film_s0?1\.mat and film_s0?1\.mat are the same subject"):
        read(tmp_path)


def test_labels_and_volumes_must_be_as_many(tmp_path):
    write_conditions(tmp_path, n_test=4)
    with pytest.raises(InputError, match="4 volumes in I_test, 5 labels in labels_test"):
        read(tmp_path, **CONDITIONS)


def test_labels_without_a_name_are_refused(tmp_path):
    write_conditions(tmp_path, labels=np.array([[0], [1], [2], [3], [3]]))
    with pytest.raises(InputError, match="labels without a name: 3"):
        read(tmp_path, **CONDITIONS)


def test_volumes_of_several_shapes_are_refused(tmp_path):
    volumes = [np.ones(SHAPE), np.zeros(SHAPE), np.ones((4, 5, 2))]
    savemat(tmp_path / "film_s1.mat", {"rdata": cells(volumes)})
    with pytest.raises(InputError, match=r"volume 2 of rdata has shape \(4, 5, 2\)"):
        read(tmp_path, layout="volumes")


def test_values_that_are_no_numbers_are_refused(tmp_path, mask, volumes):
    volumes["2"][..., 7] = np.nan
    write(tmp_path, volumes, mask)
    n = np.count_nonzero(mask)
    with pytest.raises(InputError, match=rf"film_s2.mat: {n} values .* in volume 7"):
        read(tmp_path)
    savemat(tmp_path / "s1.mat", {"I": volumes["2"]})
    with pytest.raises(InputError, match="1 volumes without a number, the first is 7"):
        read(tmp_path, pattern="s{subject}.mat", key="I", layout="volumes")


@pytest.mark.parametrize("version", SAVERS)
@pytest.mark.parametrize("keep", [0, 60, 700, -200])
def test_cut_off_files_are_named(tmp_path, version, keep):
    path = tmp_path / "film_s1.mat"
    SAVERS[version](path, {"rdata": np.random.default_rng(0).normal(size=(50, 40))})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"film_s1\.mat: it cannot be read|no variable rdata"):
        read(tmp_path)


def test_structures_are_refused(tmp_path):
    savemat(tmp_path / "film_s1.mat", {"rdata": {"data": np.ones((3, 3))}})
    with pytest.raises(InputError, match="empty or a structure"):
        read(tmp_path)
    with h5py.File(tmp_path / "film_s1.mat", "w") as file:
        file.create_group("rdata")
    with pytest.raises(InputError, match="empty or a structure"):
        read(tmp_path)


@pytest.mark.parametrize("as_link", [True, False])
def test_files_that_are_not_downloaded_are_recognised(tmp_path, as_link):
    target = ".git/annex/objects/aa/bb/MD5E-s100--0123.mat/MD5E-s100--0123.mat"
    path = tmp_path / "film_s1.mat"
    if as_link:
        path.symlink_to(target)
    else:
        path.write_text(f"/annex/objects/{target.rsplit('/', 1)[1]}\n")
    with pytest.raises(DataMissingError, match="datalad get"):
        read(tmp_path)


# --- real data -----------------------------------------------------------------------------------

SHERLOCK = {
    "pattern": "pmc_nn_sherlock_movie_s{subject}.mat",
    "layout": "voxels_by_time",
    "key": "rdata",
    "tr_s": 1.5,
    "mask": "pmc_nn.nii",
    "run_volumes": [946, 1030],
    "stimulus": "sherlock",
}


@pytest.mark.data
def test_sherlock_has_sixteen_usable_subjects(data_dir):
    folder = data_dir / "sherlock_chen2017"
    runs, _ = read_mat(
        folder, **SHERLOCK, voxel_order="F", exclude={"5": "the last 50 volumes are missing"}
    )
    assert [run.subject for run in runs[::2]] == [str(s) for s in range(1, 18) if s != 5]
    assert {run.matrix.shape for run in runs[::2]} == {(946, 481)}
    assert {run.matrix.shape for run in runs[1::2]} == {(1030, 481)}
    assert {run.stimulus_start_s for run in runs[1::2]} == {946 * 1.5}
    assert {run.run for run in runs} == {"1", "2"}


@pytest.mark.data
def test_sherlock_subject_five_is_flagged(data_dir):
    with pytest.raises(InputError) as caught:
        read_mat(
            data_dir / "sherlock_chen2017", **SHERLOCK, voxel_order="F", subjects=["4", "5", "6"]
        )
    assert caught.value.found == (
        "sub-5: 50 of 1976 volumes repeat the one before (volumes 1926 to 1975)"
    )


@pytest.mark.data
def test_sherlock_is_in_fortran_order(data_dir):
    """In the right order the time series of adjacent voxels look alike."""
    likeness = {}
    for order in "FC":
        (run, _), _ = read_mat(
            data_dir / "sherlock_chen2017", **SHERLOCK, voxel_order=order, subjects=["1"]
        )
        places = np.argwhere(np.asanyarray(run.mask.dataobj) != 0)
        steps = np.abs(places[:, None] - places[None]).sum(axis=2)
        first, second = np.nonzero(np.triu(steps == 1))
        correlation = np.corrcoef(run.matrix.T)
        likeness[order] = correlation[first, second].mean()
    assert likeness["F"] > 0.95 > 0.9 > likeness["C"]

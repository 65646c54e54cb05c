"""Brain masks and masked volumes."""

import gzip
import warnings

import nibabel as nib
import numpy as np
import pytest

from bids_tree import AFFINE, SHAPE, make_image, write_image, write_mask
from emodecode.errors import DataMissingError, InputError
from emodecode.prepare import brain_mask, masked
from emodecode.run import Run


def as_mask(inside, affine=AFFINE):
    return nib.Nifti1Image(np.asarray(inside, dtype=np.uint8), affine)


def some_mask(n, seed=0):
    inside = np.zeros(np.prod(SHAPE), bool)
    inside[np.random.default_rng(seed).permutation(inside.size)[:n]] = True
    return inside.reshape(SHAPE)


def make_run(subject="01", *, data=None, mask=None, affine=AFFINE, **more):
    if data is None:
        data = np.random.default_rng(int(subject)).normal(100, 5, (*SHAPE, 6)).astype(np.float32)
    return Run(
        subject=subject,
        run="1",
        tr_s=2.0,
        image=make_image(data, affine=affine),
        mask=None if mask is None else as_mask(mask),
        **more,
    )


def file_run(path, **more):
    return Run(subject="01", run="1", tr_s=2.0, image=nib.load(path), source=path, **more)


def values(mask):
    return np.asanyarray(mask.dataobj).astype(bool)


# --- masks ---------------------------------------------------------------------------------------


def test_intersection_of_the_runs_masks():
    first, second = some_mask(50, 1), some_mask(52, 2)
    runs = [make_run("01", mask=first), make_run("02", mask=second), make_run("03", mask=first)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mask = brain_mask(runs)
    assert np.array_equal(values(mask), first & second)
    assert np.array_equal(mask.affine, AFFINE)
    assert mask.get_data_dtype() == np.uint8


def test_large_loss_is_a_warning():
    whole = np.ones(SHAPE, bool)
    runs = [make_run(name, mask=whole) for name in ("01", "02")]
    assert values(brain_mask(runs)).all()
    runs.append(make_run("03", mask=some_mask(40)))
    with pytest.warns(UserWarning, match=r"40 voxels .* 33% less .* sub-03 run-1's \(40\)"):
        brain_mask(runs)


def test_no_overlap():
    inside = some_mask(30)
    with pytest.raises(InputError, match="no voxel is in the masks of all 2 runs"):
        brain_mask([make_run("01", mask=inside), make_run("02", mask=~inside)])


def test_computed_mask_is_nilearns(tmp_path):
    """A bright ball in the dark: nilearn's own mask of the 4-D image."""
    from nilearn.masking import compute_epi_mask

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"))
    ball = ((grid - 7.5) ** 2).sum(axis=0) < 36
    data = rng.normal(5, 1, (16, 16, 16, 8)) + 100 * ball[..., None]
    nib.save(make_image(data.astype(np.float32)), tmp_path / "bold.nii.gz")
    run = file_run(tmp_path / "bold.nii.gz", dummies=3)
    expected = compute_epi_mask(make_image(data[..., 3:].astype(np.float32)))
    found = values(brain_mask([run]))
    assert np.array_equal(found, values(expected))
    assert (found & ball).sum() > 0.85 * ball.sum()
    assert (found & ~ball).sum() == 0


def test_given_mask(tmp_path):
    inside = some_mask(12)
    write_mask(tmp_path / "mask.nii.gz", inside)
    run = make_run(mask=some_mask(20))
    assert np.array_equal(values(brain_mask([run], mask=tmp_path / "mask.nii.gz")), inside)
    assert np.array_equal(values(brain_mask([run], mask=as_mask(inside * 7))), inside)


@pytest.mark.parametrize(
    ("data", "affine", "text"),
    [
        (np.ones((4, 5, 4)), AFFINE, "4 x 5 x 4 voxels of 3 x 3 x 3 mm"),
        (np.ones(SHAPE), np.diag([2.0, 2, 2, 1]), "voxels of 2 x 2 x 2 mm"),
        (np.ones((*SHAPE, 2)), AFFINE, "a 3-D mask"),
        (np.zeros(SHAPE), AFFINE, "it is empty"),
        (np.arange(np.prod(SHAPE)).reshape(SHAPE), AFFINE, "59 values other than 0"),
        (np.full(SHAPE, np.nan), AFFINE, "zeros and one other value"),
    ],
)
def test_bad_given_masks(data, affine, text):
    with pytest.raises(InputError) as caught:
        brain_mask([make_run()], mask=nib.Nifti1Image(data.astype(np.float32), affine))
    assert text in str(caught.value)


def test_missing_mask_file(tmp_path):
    with pytest.raises(DataMissingError, match="no such file"):
        brain_mask([make_run()], mask=tmp_path / "mask.nii.gz")
    (tmp_path / "mask.nii.gz").symlink_to(".git/annex/objects/x")
    with pytest.raises(DataMissingError, match="datalad get"):
        brain_mask([make_run()], mask=tmp_path / "mask.nii.gz")
    write_image(tmp_path / "whole.nii.gz")
    cut = (tmp_path / "whole.nii.gz").read_bytes()[:50]
    (tmp_path / "cut.nii.gz").write_bytes(cut)
    with pytest.raises(InputError, match=r"cut\.nii\.gz: truncated"):
        brain_mask([make_run()], mask=tmp_path / "cut.nii.gz")


def test_odd_grid_is_named():
    moved = AFFINE.copy()
    moved[0, 3] = 1.0
    runs = [make_run("01", affine=moved), make_run("02"), make_run("03")]
    with pytest.raises(InputError) as caught:
        brain_mask(runs)
    assert str(caught.value).startswith("sub-01 run-1")
    assert "origin (1, 0, 0); 1 of 3 runs differ" in str(caught.value)
    nearly = AFFINE + 5e-4
    nearly[3] = [0, 0, 0, 1]
    brain_mask([make_run("02"), make_run("04", affine=nearly)], mask=as_mask(np.ones(SHAPE)))


def test_runs_without_data_or_mask():
    planned = Run(subject="01", tr_s=2.0, planned_volumes=5)
    with pytest.raises(InputError, match="planned run"):
        brain_mask([planned])
    with pytest.raises(InputError, match="planned run"):
        masked(planned, as_mask(np.ones(SHAPE)))
    bare = Run(subject="01", tr_s=2.0, matrix=np.ones((5, 3)))
    with pytest.raises(InputError, match="matrix without a mask"):
        brain_mask([bare])
    with pytest.raises(InputError, match="at least one run"):
        brain_mask([])


# --- volumes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, ">f8"])
def test_masked_equals_nilearn(tmp_path, ending, dtype):
    from nilearn.masking import apply_mask

    rng = np.random.default_rng(3)
    path = tmp_path / f"bold{ending}"
    image = nib.Nifti1Image(rng.normal(1000, 50, (*SHAPE, 9)), AFFINE)
    image.set_data_dtype(dtype)
    nib.save(image, path)
    inside = as_mask(some_mask(25))
    expected = apply_mask(nib.load(path), inside)
    found = masked(file_run(path, dummies=2), inside)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected[2:], rtol=1e-6)
    in_memory = Run(
        subject="01", tr_s=2.0, image=nib.Nifti1Image(nib.load(path).get_fdata(), AFFINE)
    )
    np.testing.assert_allclose(masked(in_memory, inside), expected, rtol=1e-6)


def test_a_volume_at_a_time(tmp_path):
    """A whole run of 200 volumes is never in memory at once."""
    import tracemalloc

    data = np.random.default_rng(0).integers(0, 999, (20, 20, 20, 200), dtype=np.int16)
    nib.save(nib.Nifti1Image(data, AFFINE), tmp_path / "bold.nii.gz")
    inside = np.zeros((20, 20, 20), bool)
    inside[5:8, 5:8, 5:8] = True
    run = file_run(tmp_path / "bold.nii.gz")
    tracemalloc.start()
    try:
        found = masked(run, as_mask(inside))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, data[inside].T)
    assert peak < data.nbytes / 4


def test_smoothing_equals_nilearn(tmp_path):
    from nilearn.image import smooth_img
    from nilearn.masking import apply_mask

    data = write_image(tmp_path / "bold.nii.gz", n_volumes=4)
    inside = as_mask(some_mask(25))
    expected = apply_mask(smooth_img(make_image(data), 5.0), inside)
    found = masked(file_run(tmp_path / "bold.nii.gz"), inside, smoothing_mm=5.0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert not np.allclose(found, masked(file_run(tmp_path / "bold.nii.gz"), inside), rtol=1e-2)


def cut_gz(whole):
    return whole[: len(whole) * 2 // 3]


def flip_bits(whole):
    at = len(whole) // 2
    return whole[:at] + bytes(byte ^ 0xFF for byte in whole[at : at + 40]) + whole[at + 40 :]


def wrong_checksum(whole):
    return whole[:-8] + b"\0\0\0\0" + whole[-4:]


def short_content(whole):
    return gzip.compress(gzip.decompress(whole)[:-100])


@pytest.mark.parametrize("damage", [cut_gz, flip_bits, wrong_checksum, short_content])
def test_damaged_gz(tmp_path, damage):
    path = tmp_path / "bold.nii.gz"
    write_image(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        masked(file_run(path), as_mask(np.ones(SHAPE)))
    assert str(caught.value).startswith(f"{path}: truncated or corrupt")


def test_truncated_nifti_says_which_volume(tmp_path):
    path = tmp_path / "bold.nii"
    write_image(path, n_volumes=20)
    n_volume = int(np.prod(SHAPE)) * 4
    path.write_bytes(path.read_bytes()[: 352 + 13 * n_volume + 5])
    with pytest.raises(InputError, match="it ends in volume 13 of 20"):
        masked(file_run(path), as_mask(np.ones(SHAPE)))


def test_complex_voxels(tmp_path):
    path = tmp_path / "bold.nii"
    nib.save(nib.Nifti1Image(np.ones((*SHAPE, 3), np.complex64), AFFINE), path)
    in_memory = make_run(data=np.ones((*SHAPE, 3), np.complex64))
    for run in (file_run(path), in_memory):
        with pytest.raises(InputError, match="complex64, not real numbers"):
            masked(run, as_mask(np.ones(SHAPE)))


@pytest.mark.parametrize("smoothing_mm", [None, 4.0])
def test_nan_volumes_are_named(smoothing_mm):
    data = np.random.default_rng(0).normal(100, 5, (*SHAPE, 30)).astype(np.float32)
    data[0, 0, 0] = np.nan  # outside the mask: nobody minds
    inside = np.ones(SHAPE, bool)
    inside[0, 0, 0] = False
    run = make_run(data=data.copy(), dummies=1)
    assert np.isfinite(masked(run, as_mask(inside), smoothing_mm=smoothing_mm)).all()
    data[1, :2, 1, 5] = np.inf
    data[1, 1, 1, 9] = -np.inf
    run = make_run(data=data, dummies=1)
    with pytest.raises(InputError) as caught:
        masked(run, as_mask(inside), smoothing_mm=smoothing_mm)
    assert "volume 4 has 2 of 59 voxels" in str(caught.value)
    if smoothing_mm is None:
        assert "in 2 of 29 volumes (4, 8)" in str(caught.value)


def test_opposite_infinities_in_one_volume():
    data = np.ones((*SHAPE, 3), np.float32)
    data[0, 0, :2, 1] = [np.inf, -np.inf]
    with pytest.raises(InputError, match="volume 1 has 2 of 60"):
        masked(make_run(data=data), as_mask(np.ones(SHAPE)))


def test_another_grid():
    with pytest.raises(InputError, match="the grid of the mask"):
        masked(make_run(), as_mask(np.ones(SHAPE), np.diag([2.0, 2, 2, 1])))


def test_mask_of_a_run_on_another_grid():
    run = Run(
        subject="01",
        tr_s=2.0,
        image=make_image(np.ones((*SHAPE, 3), np.float32)),
        mask=as_mask(np.ones((4, 5, 2))),
    )
    with pytest.raises(InputError, match="sub-01, its mask"):
        brain_mask([run])


# --- matrix runs ---------------------------------------------------------------------------------


def test_matrix_runs():
    own, common = some_mask(30), some_mask(30)
    common[np.nonzero(common)[0][0]] = False
    data = np.random.default_rng(0).normal(size=(*SHAPE, 7))
    run = Run(subject="01", tr_s=1.5, matrix=data[own].T, mask=as_mask(own), dummies=2)
    assert np.array_equal(values(brain_mask([run])), own)
    found = masked(run, as_mask(common))
    np.testing.assert_array_equal(found, data[common].T[2:].astype(np.float32))
    with pytest.raises(InputError, match="voxels of the mask that the run has no column for"):
        masked(run, as_mask(np.ones(SHAPE)))
    with pytest.raises(InputError, match="Smooth before"):
        masked(run, as_mask(own), smoothing_mm=4.0)
    with pytest.raises(InputError, match="29 columns"):
        masked(
            Run(subject="01", tr_s=1.5, matrix=data[own].T[:, 1:], mask=as_mask(own)), as_mask(own)
        )
    run.matrix[3, 4] = np.nan
    with pytest.raises(InputError, match=r"in 1 of 5 volumes \(1\)"):
        masked(run, as_mask(own))

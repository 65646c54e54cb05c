"""Cleaning of runs and extraction of samples, against nilearn."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from bids_tree import AFFINE, SHAPE, make_image, write_image
from emodecode.errors import InputError
from emodecode.features.clean import centre, clean_run, constant_voxels
from emodecode.features.extract import extract
from emodecode.run import Run
from emodecode.samples import Samples

TR_S = 2.0
PLAIN = {"detrend": True, "high_pass_hz": 0.01, "low_pass_hz": None, "standardize": "run"}


@pytest.fixture
def signals():
    """90 volumes of 7 drifting voxels far from zero."""
    rng = np.random.default_rng(0)
    drift = np.linspace(0, 40, 90)[:, None] * rng.normal(size=7)
    return (rng.normal(size=(90, 7)) + drift + 1000).astype(np.float32)


@pytest.fixture
def confounds():
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.normal(size=(90, 3)), columns=["trans_x", "trans_y", "csf"])
    return table.assign(constant=4.0)


def nilearn_clean(signals, **arguments):
    from nilearn import signal

    return signal.clean(signals.astype(np.float64), t_r=TR_S, **arguments)


# --- cleaning ------------------------------------------------------------------------------------


def test_equals_nilearn(signals, confounds):
    expected = nilearn_clean(
        signals,
        detrend=True,
        standardize="zscore_sample",
        filter="cosine",
        high_pass=1 / 128,
        confounds=confounds.iloc[:, :3].to_numpy(),
    )
    found = clean_run(signals, tr_s=TR_S, confounds=confounds)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equals_least_squares(signals, confounds):
    """Independent of nilearn: residuals of trend, cosines and confounds, then a z-score."""
    n = len(signals)
    volume = np.arange(n)
    order = int(2 * n * TR_S * 0.01)
    cosines = [np.cos(np.pi * (volume + 0.5) * k / n) for k in range(1, order + 1)]
    design = np.column_stack([np.ones(n), volume, *cosines, confounds.iloc[:, :3]])
    values = signals.astype(np.float64)
    rest = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    expected = rest / rest.std(axis=0, ddof=1)
    found = clean_run(signals, tr_s=TR_S, confounds=confounds, high_pass_hz=0.01)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_low_pass_is_a_butterworth(signals, confounds):
    expected = nilearn_clean(
        signals,
        detrend=True,
        standardize=None,
        filter="butterworth",
        low_pass=0.1,
        high_pass=0.01,
        confounds=confounds.iloc[:, :3].to_numpy(),
    )
    found = clean_run(
        signals,
        tr_s=TR_S,
        confounds=confounds,
        high_pass_hz=0.01,
        low_pass_hz=0.1,
        standardize="none",
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_nothing_to_do_keeps_the_values(signals):
    found = clean_run(signals, tr_s=TR_S, detrend=False, high_pass_hz=0, standardize="none")
    np.testing.assert_array_equal(found, signals)


def test_standardized_volumes(signals):
    signals[:, 2] = 55
    found = clean_run(signals, tr_s=TR_S, standardize="volume")
    others = np.delete(found, 2, axis=1)
    np.testing.assert_allclose(others.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(others.std(axis=1, ddof=1), 1, atol=1e-5)
    assert not found[:, 2].any()


@pytest.mark.parametrize("standardize", ["run", "volume", "none"])
@pytest.mark.parametrize("value", [0.0, 1234.567])
def test_constant_voxels_stay_zero(signals, standardize, value):
    signals[:, [1, 4]] = value
    found = clean_run(signals, tr_s=TR_S, standardize=standardize)
    assert np.isfinite(found).all()
    assert not found[:, [1, 4]].any()
    assert constant_voxels(signals).tolist() == [False, True, False, False, True, False, False]
    everything = np.full((90, 3), value, np.float32)
    assert not clean_run(everything, tr_s=TR_S, standardize=standardize).any()


def test_chunks_do_not_matter(signals, confounds, monkeypatch):
    whole = clean_run(signals, tr_s=TR_S, confounds=confounds)
    monkeypatch.setattr("emodecode.features.clean.CHUNK_VOXELS", 2)
    np.testing.assert_array_equal(clean_run(signals, tr_s=TR_S, confounds=confounds), whole)


def test_planted_drift_and_confound_are_gone(confounds):
    rng = np.random.default_rng(2)
    task = np.sin(2 * np.pi * np.arange(90) * TR_S / 30)
    noise = rng.normal(scale=0.1, size=90)
    drift = 20 * np.cos(np.pi * (np.arange(90) + 0.5) / 90) + 0.3 * np.arange(90)
    dirty = (task + noise + drift + 8 * confounds["csf"].to_numpy() + 500)[:, None]
    found = clean_run(dirty, tr_s=TR_S, confounds=confounds)[:, 0]
    assert np.corrcoef(dirty[:, 0], task)[0, 1] < 0.2
    assert np.corrcoef(found, task)[0, 1] > 0.95


def test_slow_motion_does_not_switch_the_high_pass_off(signals):
    """nilearn drops all its cosines when a confound looks like one of them."""
    n = len(signals)
    cosines = np.cos(np.pi * (np.arange(n)[:, None] + 0.5) / n * np.arange(1, 4))
    rng = np.random.default_rng(5)
    motion = cosines[:, 1] + 0.1 * rng.normal(size=n)
    dirty = signals + 30 * cosines[:, [0]]
    with pytest.warns(UserWarning, match="Cosine filter"):
        nilearn_clean(dirty, filter="cosine", high_pass=0.01, confounds=motion[:, None])
    found = clean_run(dirty, tr_s=TR_S, confounds=motion, high_pass_hz=0.01)
    for drift in (cosines, motion[:, None]):
        np.testing.assert_allclose(drift.T @ found, 0, atol=1e-3)


@pytest.mark.parametrize(
    ("n_volumes", "n_confounds", "more", "text"),
    [
        (20, 0, {}, "20 volumes (40 s)"),
        (20, 4, {"high_pass_hz": 0.2}, "16 drift terms"),
        (90, 87, {}, "2 drift terms and 87 confounds for 90 volumes"),
        (90, 0, {"low_pass_hz": 0.3}, "<= 0.25"),
        (90, 0, {"low_pass_hz": 0.005}, "high_pass_hz < low_pass_hz"),
        (90, 0, {"high_pass_hz": 0.25}, "high_pass_hz = 0.25"),
        (33, 0, {"low_pass_hz": 0.1, "high_pass_hz": 0.02}, "more than 33 volumes"),
    ],
)
def test_refused_filters(n_volumes, n_confounds, more, text):
    rng = np.random.default_rng(0)
    confounds = rng.normal(size=(n_volumes, n_confounds)) if n_confounds else None
    with pytest.raises(InputError) as caught:
        clean_run(
            rng.normal(size=(n_volumes, 3)), tr_s=TR_S, confounds=confounds, where="sub-01", **more
        )
    assert str(caught.value).startswith("sub-01")
    assert text in str(caught.value)


def test_shortest_run_for_a_butterworth():
    values = np.random.default_rng(0).normal(size=(34, 3))
    assert clean_run(values, tr_s=TR_S, low_pass_hz=0.1, high_pass_hz=0.02).shape == (34, 3)


def test_bad_confounds(signals, confounds):
    with pytest.raises(InputError, match="89 rows of confounds for 90 volumes"):
        clean_run(signals, tr_s=TR_S, confounds=confounds.iloc[1:])
    confounds.loc[3, "csf"] = np.nan
    with pytest.raises(InputError, match="1 values of them not finite"):
        clean_run(signals, tr_s=TR_S, confounds=confounds)


def test_centre():
    X = np.arange(24, dtype=np.float32).reshape(8, 3) ** 2
    table = pd.DataFrame(
        {
            "subject": list("aabbaabb"),
            "session": "n/a",
            "run": list("12121212"),
        },
        index=range(100, 108),
    )
    by_subject = centre(X, table, by="subject")
    by_run = centre(X, table, by="run")
    for subject in "ab":
        rows = (table["subject"] == subject).to_numpy()
        np.testing.assert_allclose(by_subject[rows], X[rows] - X[rows].mean(axis=0), rtol=1e-5)
        for run in "12":
            both = rows & (table["run"] == run).to_numpy()
            np.testing.assert_allclose(by_run[both].mean(axis=0), 0, atol=1e-4)
    assert X[0, 0] == 0
    assert X[-1, -1] == 23**2


# --- extraction ----------------------------------------------------------------------------------


def make_table(*rows):
    """Rows of (subject, run, volume, label)."""
    table = pd.DataFrame(rows, columns=["subject", "run", "volume", "label"])
    return table.assign(
        session="n/a",
        onset_s=table["volume"] * TR_S,
        stimulus="n/a",
        stimulus_time_s=np.nan,
        block="01",
        agreement=1.0,
    )


@pytest.fixture
def runs(tmp_path):
    """Three runs on disk with confounds and two dummies."""
    found = []
    for seed, (subject, name) in enumerate([("01", "1"), ("01", "2"), ("02", "1")]):
        path = tmp_path / f"sub-{subject}_run-{name}_bold.nii.gz"
        write_image(path, n_volumes=62, seed=seed)
        confounds = pd.DataFrame({"x": np.random.default_rng(seed).normal(size=62)})
        found.append(
            Run(
                subject=subject,
                run=name,
                tr_s=TR_S,
                image=nib.load(path),
                confounds=confounds,
                dummies=2,
                source=path,
            )
        )
    return found


@pytest.fixture
def mask():
    inside = np.zeros(SHAPE, np.uint8)
    inside[1:4, 1:4, 1:] = 1
    return nib.Nifti1Image(inside, AFFINE)


TABLE = make_table(
    ("02", "1", 59, "sad"), ("01", "1", 0, "sad"), ("02", "1", 3, "glad"), ("01", "1", 7, "glad")
)


def test_extraction_equals_nilearn(runs, mask):
    from nilearn.image import index_img
    from nilearn.maskers import NiftiMasker

    samples = extract(runs, TABLE, mask=mask, clean=PLAIN, smoothing_mm=4.0, progress=False)
    assert samples.X.shape == (4, 18)
    assert samples.X.dtype == np.float32
    for run in (runs[0], runs[2]):
        masker = NiftiMasker(
            mask_img=mask,
            smoothing_fwhm=4.0,
            detrend=True,
            standardize="zscore_sample",
            high_pass=0.01,
            t_r=TR_S,
            clean_args={"filter": "cosine"},
            dtype="float64",
        )
        expected = masker.fit_transform(
            index_img(run.image, slice(2, None)), confounds=run.confounds.iloc[2:]
        )
        rows = (TABLE["subject"] == run.subject).to_numpy()
        found = samples.X[rows]
        np.testing.assert_allclose(found, expected[TABLE["volume"][rows]], atol=1e-4)
    (step,) = samples.history
    assert step["operation"] == "extract"
    assert step["n_runs"] == 2, "the run without labels is not read"
    assert step["clean"] == PLAIN
    assert step["confounds"] == ["x"]
    assert step["constant_voxels"] == {}


def test_without_cleaning_the_values_are_the_files(runs, mask):
    samples = extract(runs, TABLE, mask=mask, clean=None, progress=False)
    volume = np.asanyarray(runs[2].image.dataobj)[..., 59 + 2]
    np.testing.assert_array_equal(samples.X[0], volume[np.asanyarray(mask.dataobj) > 0])
    np.testing.assert_array_equal(
        samples.to_image(samples.X[0]).get_fdata(), volume * np.asanyarray(mask.dataobj)
    )


def test_memory_map_in_a_folder(runs, mask, tmp_path):
    in_memory = extract(runs, TABLE, mask=mask, clean=PLAIN, progress=False)
    folder = tmp_path / "work" / "samples"
    on_disk = extract(runs, TABLE, mask=mask, clean=PLAIN, folder=folder, progress=False)
    assert isinstance(on_disk.X, np.memmap)
    assert not on_disk.X.flags.writeable
    np.testing.assert_array_equal(on_disk.X, in_memory.X)
    opened = Samples.open(folder)
    np.testing.assert_array_equal(opened.X, in_memory.X)
    assert opened.history == in_memory.history
    assert opened.y.tolist() == TABLE["label"].tolist()
    assert [path.name for path in folder.parent.iterdir()] == ["samples"]
    with pytest.raises(InputError, match="exists already"):
        extract(runs, TABLE, mask=mask, clean=PLAIN, folder=folder, progress=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        extract(runs, TABLE, mask=mask, clean=None, folder=tmp_path / "file" / "x", progress=False)


def test_failure_leaves_no_partial_folder(runs, mask, tmp_path):
    path = runs[2].source
    path.write_bytes(path.read_bytes()[:3000])
    folder = tmp_path / "work" / "samples"
    with pytest.raises(InputError) as caught:
        extract(runs, TABLE, mask=mask, clean=PLAIN, folder=folder, progress=False)
    assert str(path) in str(caught.value)
    assert list(folder.parent.iterdir()) == []


def test_constant_voxels_and_frozen_volumes_are_counted(mask):
    data = np.random.default_rng(0).normal(100, 5, (*SHAPE, 40)).astype(np.float32)
    data[1, 1:3, 1] = 7
    data[..., -10:] = data[..., -11:-10]
    run = Run(subject="01", run="1", tr_s=TR_S, image=make_image(data))
    samples = extract([run], TABLE.iloc[[1, 3]], mask=mask, clean=PLAIN, progress=False)
    assert samples.history[0]["constant_voxels"] == {"sub-01 run-1": 2}
    assert samples.history[0]["repeated_volumes"] == {"sub-01 run-1": 10}
    assert (samples.X == 0).all(axis=0).sum() == 2


def test_matrix_runs(mask):
    inside = np.asanyarray(mask.dataobj) > 0
    data = np.random.default_rng(0).normal(100, 5, (*SHAPE, 60)).astype(np.float32)
    by_image = Run(subject="01", run="1", tr_s=TR_S, image=make_image(data))
    by_matrix = Run(subject="01", run="1", tr_s=TR_S, matrix=data[inside].T, mask=mask)
    table = TABLE.iloc[[1, 3]]
    first, second = (
        extract([run], table, mask=mask, clean=PLAIN, progress=False)
        for run in (by_image, by_matrix)
    )
    np.testing.assert_array_equal(first.X, second.X)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("01", "1", 60, "sad")], "1 of 1 rows outside the run (volume 60)"),
        ([("01", "1", -1, "sad")], "volumes 0 to 59"),
        ([("03", "1", 0, "sad")], "sub-03 ses-n/a run-1: 1 rows of the sample table, but no such"),
    ],
)
def test_rows_that_fit_no_volume(runs, mask, rows, text):
    with pytest.raises(InputError) as caught:
        extract(runs, make_table(*rows), mask=mask, clean=None, progress=False)
    assert text in str(caught.value)


def test_runs_that_cannot_be_extracted(runs, mask):
    planned = Run(subject="01", run="1", tr_s=TR_S, planned_volumes=60)
    with pytest.raises(InputError, match="planned run"):
        extract([planned], TABLE.iloc[[1]], mask=mask, clean=None, progress=False)
    with pytest.raises(InputError, match="two runs"):
        extract([*runs, runs[0]], TABLE, mask=mask, clean=None, progress=False)


def test_progress_goes_to_stderr(runs, mask, capsys):
    extract(runs, TABLE, mask=mask, clean=None)
    shown = capsys.readouterr()
    assert "extract" in shown.err
    assert shown.out == ""
    extract(runs, TABLE, mask=mask, clean=None, progress=False)
    assert capsys.readouterr().err == ""


def test_cleaning_sees_no_label(runs, mask):
    """Other labels, the same values; and the unlabelled volumes take part in the cleaning."""
    first = extract(runs, TABLE, mask=mask, clean=PLAIN, progress=False)
    other = TABLE.assign(label=TABLE["label"].to_numpy()[::-1])
    second = extract(runs, other, mask=mask, clean=PLAIN, progress=False)
    np.testing.assert_array_equal(first.X, second.X)
    alone = extract(runs, TABLE.iloc[[0]], mask=mask, clean=PLAIN, progress=False)
    np.testing.assert_array_equal(alone.X[0], first.X[0])

"""What an interrupted evaluation finds again: only data extracted from the very same input."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from emodecode import assemble
from emodecode.simulate.dataset import simulate_dataset
from emodecode.study import make_study


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    return simulate_dataset(
        tmp_path_factory.mktemp("data") / "bids",
        n_subjects=2,
        n_runs=1,
        n_volumes=60,
        progress=False,
    )


def gather(bids, work):
    study = make_study(
        {
            "name": "a",
            "data": {
                "path": str(bids),
                "derivatives": "derivatives/fmriprep",
                "confounds": ["trans_*"],
            },
            "features": {"clean": {"high_pass_hz": 0.0}},
        }
    )
    return assemble.gather(study, work=work, progress=False)


def test_the_same_input_is_extracted_once(bids, tmp_path, monkeypatch):
    first = gather(bids, tmp_path)
    monkeypatch.setattr("emodecode.features.extract.extract", None)
    again = gather(bids, tmp_path)
    np.testing.assert_array_equal(first.samples.X, again.samples.X)
    assert first.notes == again.notes


def test_other_confounds_or_masks_are_extracted_anew(bids, tmp_path):
    first = gather(bids, tmp_path)
    table = next(bids.rglob("sub-01*confounds_timeseries.tsv"))
    kept = table.read_text()
    confounds = pd.read_csv(table, sep="\t")
    confounds["trans_x"] = np.random.default_rng(0).normal(size=len(confounds))
    confounds.to_csv(table, sep="\t", index=False, na_rep="n/a")
    other = gather(bids, tmp_path)
    table.write_text(kept)
    assert not np.allclose(first.samples.X, other.samples.X)

    path = next(bids.rglob("sub-01*desc-brain_mask.nii.gz"))
    image = nib.load(path)
    inside = np.asanyarray(image.dataobj).copy()
    inside[: inside.shape[0] // 2] = 0
    nib.save(nib.Nifti1Image(inside, image.affine, image.header), path)
    halved = gather(bids, tmp_path)
    assert halved.samples.n_voxels < first.samples.n_voxels
    assert any("mask" in note for note in halved.notes)
    assert halved.notes == gather(bids, tmp_path).notes


def test_steps_before_the_folds_are_told_to_the_audit(bids, tmp_path):
    from emodecode.evaluate.audit import audit_split
    from emodecode.evaluate.splits import leave_one_subject_out

    samples = gather(bids, tmp_path).samples
    splits = leave_one_subject_out(samples.table)
    fitted = [assemble.cleaned(samples, split) for split in splits]
    found = audit_split(samples.table, splits, fitted=fitted)
    notes = [finding for finding in found.findings if finding.rule == "T14"]
    assert [note.verdict for note in notes] == ["note"]
    assert found.verdict != "leak"

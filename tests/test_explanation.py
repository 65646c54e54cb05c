"""`emodecode explain`: files, page, tests over subjects, what is refused, what resumes."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from emodecode.cli import main
from emodecode.errors import InputError
from emodecode.explanation import fits
from emodecode.study import load_study
from emodecode.workflow import explain
from small_study import write_small

RULES = {"per_class": 4, "label_draws": 19, "weight_draws": 2, "space": "MNI152NLin6Asym"}


def _study(root, *models, **changes):
    models = models or ({"name": "dummy"}, {"name": "lda"})
    return load_study(write_small(root, {"models": list(models), "explain": RULES} | changes))


def test_a_linear_decoder_is_explained(tmp_path, capsys):
    path = write_small(tmp_path, {"explain": RULES})
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        main(["explain", str(path), "--out", str(out), "--quiet"])
    assert not caught.value.code
    said = capsys.readouterr().out
    assert "27 boxes, fill conditional; audit of the folds: " in said
    assert "lda (24 held-out samples, closed form)" in said
    told = json.loads((out / "explanation.json").read_text())
    (model,) = told["models"]
    assert [each["check"] for each in model["sanity"]["checks"]] == [
        *("edge", "deletion", "random weights", "random labels")
    ]
    with np.load(out / "drops-lda.npz") as kept:
        assert kept["drops"].shape == (24, 27, 2)
        assert set(kept["subject"]) == {"01", "02", "03"}
        own = [list(kept["classes"]).index(each) for each in kept["label"]]
        drop = kept["drops"][np.arange(24), :, own]
        fear = kept["label"] == "fear"
        mean = np.mean([drop[fear & (kept["subject"] == who)].mean(axis=0) for who in RUNNERS], 0)
        units = list(kept["units"])
    # the image holds these means: each class lifts its own half of the volume
    image = nib.load(out / "maps/model-lda_label-fear_drop.nii.gz").get_fdata()
    mask = nib.load(out / "mask.nii.gz").get_fdata() != 0
    for unit, value in zip(units, mean, strict=True):
        x, y, z = (int(part) for part in unit.split("-"))
        box = image[x : x + 2, y : y + 2, z : z + 2][mask[x : x + 2, y : y + 2, z : z + 2]]
        np.testing.assert_allclose(box, value, atol=1e-6)
    regions = pd.read_csv(out / "regions.tsv", sep="\t")
    assert set(regions["model"]) == {"lda"}
    page = (out / "explanation.html").read_text()
    assert model["sanity"]["sentence"] in page
    assert "data:image/png" in page


RUNNERS = ("01", "02", "03")


def test_a_network_is_explained_by_differences(tmp_path):
    params = {"max_epochs": 2, "n_members": 1, "device": "cpu"}
    net = {"name": "cnn", "kind": "small3d", "params": params}
    rules = {"per_class": 4, "label_draws": 0, "weight_draws": 2, "fill": "voxel_mean"}
    told = explain(_study(tmp_path, net, explain=rules), tmp_path / "out", progress=False)
    (model,) = told["models"]
    assert model["way"] == "incremental"
    assert told["space"] is None
    assert "not known" in (tmp_path / "out/explanation.html").read_text()
    assert not (tmp_path / "out/regions.tsv").exists()
    assert [each["check"] for each in model["sanity"]["checks"]] == [
        *("edge", "deletion", "random weights")
    ]


@pytest.mark.parametrize("unit", ["searchlights", "regions"])
def test_other_units(tmp_path, unit):
    rules = RULES | {"unit": unit, "label_draws": 0, "stride_vox": 3, "atlas": "atlas.nii.gz"}
    study = _study(tmp_path, explain=rules)
    mask = nib.load(tmp_path / "mask.nii.gz")
    labels = np.zeros(mask.shape, np.int16)
    labels[:3], labels[3:] = 1, 2
    nib.save(nib.Nifti1Image(labels, mask.affine), tmp_path / "atlas.nii.gz")
    told = explain(study, tmp_path / "out", progress=False)
    assert told["n_units"] == (2 if unit == "regions" else 8)


def test_finished_folds_are_not_fitted_again(tmp_path, monkeypatch):
    study = _study(tmp_path)
    real, fitted = fits._Task.fit, []

    def fit(self, X, table, labels):
        fitted.append(self.fold)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return real(self, X, table, labels)

    monkeypatch.setattr(fits._Task, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        explain(study, tmp_path / "out", progress=False)
    assert not (tmp_path / "out/explanation.json").exists()
    explain(study, tmp_path / "out", progress=False)
    assert fitted[3] == 2, "two folds are done"
    straight = explain(study, tmp_path / "straight", progress=False)
    resumed = json.loads((tmp_path / "out/explanation.json").read_text())
    assert resumed["models"][0]["sanity"] == straight["models"][0]["sanity"]
    for name in ("units.tsv", "regions.tsv"):
        one, two = ((tmp_path / folder / name).read_text() for folder in ("out", "straight"))
        assert one == two


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": [{"name": "dummy"}]}, "no decoder but the dummy"),
        (
            {"models": [{"name": "separable3d", "params": {"window": 2}}]},
            "a network that reads windows",
        ),
        ({"features": {"parcels": "atlas.nii.gz"}}, "features.parcels"),
        ({"explain": {"unit": "regions"}}, "needs atlas"),
        ({"explain": {"space": "T1w", "label_draws": 0}}, "space"),
        ({"explain": {"box": 2}}, "unknown key 'explain.box'"),
    ],
)
def test_what_cannot_be_explained_is_named(tmp_path, change, words):
    path = write_small(tmp_path, change)
    nib.save(nib.load(tmp_path / "mask.nii.gz"), tmp_path / "atlas.nii.gz")
    with pytest.raises(InputError, match=words):
        explain(load_study(path), tmp_path / "out", progress=False)
    assert not (tmp_path / "out/explanation.json").exists()


def test_classes_of_a_subject_are_explained_alike():
    table = pd.DataFrame(
        {"subject": ["1"] * 9 + ["2"] * 5, "label": list("aaaaabbbb") + list("aabbb")}
    )
    rows = fits.choose_samples(table, np.arange(14), per_class=3, seed=0)
    counts = table.iloc[rows].groupby(["subject", "label"]).size()
    assert counts.to_dict() == {("1", "a"): 3, ("1", "b"): 3, ("2", "a"): 2, ("2", "b"): 3}

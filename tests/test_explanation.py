"""`emodecode explain`: files, page, tests over subjects, what is refused, what resumes."""

import json
import re
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tomli_w

from emodecode.cli import main
from emodecode.errors import InputError
from emodecode.explain.occlusion import Occlusion
from emodecode.explain.units import make_units
from emodecode.explanation import fits, folds, tasks
from emodecode.report.scatter3d import scatter_script, script_hash
from emodecode.study import load_study
from emodecode.workflow import explain
from small_study import write_small

RULES = {
    "geometry": False,
    "per_class": 4,
    "label_draws": 19,
    "weight_draws": 2,
    "space": "MNI152NLin6Asym",
}


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
    assert "27 boxes, fill subject; audit of the folds: " in said
    assert "lda (24 held-out samples, closed form)" in said
    told = json.loads((out / "explanation.json").read_text())
    (model,) = told["models"]
    assert [each["check"] for each in model["sanity"]["checks"]] == [
        *("edge", "outside the brain", "deletion", "random weights", "settings", "random labels")
    ]
    score = told["scores"]["lda"]["balanced_accuracy"]
    assert score["value"] > 0.9
    assert abs(score["chance"] - 0.5) < 0.1
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
    assert f"script-src {script_hash()}" in page
    assert page.count(scatter_script()) == 1
    (out / "explanation.html").unlink()
    with pytest.raises(SystemExit) as caught:
        main(["report", str(out)])
    assert not caught.value.code
    assert (out / "explanation.html").read_text() == page
    methods = json.loads((out / "methods.json").read_text())["lda"]
    assert set(methods["maps"]) == {"occlusion", "haufe"}
    top = pd.read_csv(out / "geometry/top-lda.tsv", sep="\t")
    assert (top["drop"] > 0).all()
    assert top.groupby("class").size().max() == 22, "a tenth of 216 voxels"


RUNNERS = ("01", "02", "03")


def test_a_network_is_explained(tmp_path):
    params = {"max_epochs": 2, "n_members": 1, "device": "cpu"}
    net = {"name": "cnn", "kind": "small3d", "params": params}
    rules = {"per_class": 4, "label_draws": 0, "weight_draws": 2, "fill": "voxel_mean"}
    rules["geometry"] = False
    told = explain(_study(tmp_path, net, explain=rules), tmp_path / "out", progress=False)
    (model,) = told["models"]
    assert model["way"] == "batched"
    assert told["space"] is None
    assert "not known" in (tmp_path / "out/explanation.html").read_text()
    assert not (tmp_path / "out/regions.tsv").exists()
    assert [each["check"] for each in model["sanity"]["checks"]] == [
        *("edge", "deletion", "random weights", "settings")
    ]


PUBLISHED = {
    "evaluate.split": "shuffled",
    "evaluate.test_share": 0.3,
    "explain.form": "s1",
    "explain.fill": "zero",
}


def test_both_forms_stand_on_one_page(tmp_path):
    out = tmp_path / "out"
    rules = RULES | {"label_draws": 0, "weight_draws": 1}
    study = _study(tmp_path, explain=rules, as_published=PUBLISHED)
    told = explain(study, out, progress=False)
    published = told["published"]
    assert told["audit"]["verdict"] != "leak"
    assert published["audit"]["verdict"] == "leak"
    (model,) = published["models"]
    # S1's map: over samples whoever they are of, without a test
    with np.load(out / "as-published/drops-lda.npz") as kept:
        own = kept["label"] == "fear"
        number = list(kept["classes"]).index("fear")
        drop = kept["drops"][own, :, number].mean(axis=0)
        units = list(kept["units"])
        assert (
            kept["given"].argmax(axis=1) == np.searchsorted(kept["classes"], kept["label"])
        ).all()
    table = pd.read_csv(out / "as-published/units.tsv", sep="\t")
    table = table[table["class"] == "fear"]
    assert table["p_fwe"].isna().all()
    assert [units[k] for k in np.argsort(-drop, kind="stable")[:10]] == list(table["unit"])
    assert "n_significant" not in model["classes"][0]
    assert not (out / "as-published/maps/model-lda_label-fear_t.nii.gz").exists()
    page = (out / "explanation.html").read_text()
    assert page.count("leaks: see audit") > 5
    assert 'href="as-published/explanation.json"' in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {"audit", "as-published", "as-published-audit"} <= set(ids)
    for target in set(re.findall(r'href="#([^"]+)"', page)):
        assert target in ids, target
    for file in set(re.findall(r'href="([^"#:]+)"', page)):
        assert (out / file).is_file(), file


def test_a_leak_inside_a_fold_is_named(tmp_path, no_page):
    """Voxels chosen with the test samples: the folds are clean, what was fitted in them is not."""
    rules = RULES | {"label_draws": 0, "weight_draws": 0, "other_settings": False}
    published = {"features.fit_on": "all"}
    study = _study(tmp_path, explain=rules, features={"n_voxels": 50}, as_published=published)
    told = explain(study, tmp_path / "out", progress=False)
    assert told["audit"]["verdict"] != "leak"
    assert told["published"]["audit"]["verdict"] == "leak"


def test_names_of_classes_are_text(tmp_path):
    study = _write_columns(tmp_path, RULES | {"label_draws": 0}, names=("01", "<b>NA</b>"))
    explain(study, tmp_path / "out", progress=False)
    page = (tmp_path / "out/explanation.html").read_text()
    assert "&lt;b&gt;NA&lt;/b&gt;" in page
    assert "<b>NA</b>" not in page
    assert "<summary>01: " in page


def test_a_published_form_with_other_decoders(tmp_path):
    rules = RULES | {"label_draws": 0, "weight_draws": 0, "other_settings": False}
    published = {"models": [{"name": "logistic"}], "explain.form": "s1"}
    study = _study(tmp_path, explain=rules, as_published=published)
    told = explain(study, tmp_path / "out", progress=False)
    assert [each["model"] for each in told["published"]["models"]] == ["logistic"]
    page = (tmp_path / "out/explanation.html").read_text()
    assert "S1's figures" not in page
    with pytest.raises(InputError, match="lda"):
        explain(study, tmp_path / "one", model="lda", progress=False)


def test_a_map_alike_in_all_subjects_is_not_tested():
    maps = np.random.default_rng(0).normal(size=(5, 2, 30))
    maps[:, 1, 7] = 0.25
    group, said = fits._test(maps, seed=0)
    assert group is None
    assert "1 features with one value in all subjects" in said


def test_a_class_that_a_decoder_never_learnt_drops_by_nothing():
    units = make_units({"a": np.array([0]), "b": np.array([1])}, n_features=2)
    given, occluded = np.full((3, 2), 0.5), np.full((3, 2, 2), 0.25)
    found = Occlusion(given, occluded, units, ("x", "y"), "zero", "batched")
    np.testing.assert_allclose(folds.mean_drop(found, ["x", "z", "y"]), 0.25 * 2 / 3)


def test_moments_in_parts_are_those_of_the_training_samples(monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.normal(5, 2, size=(40, 6)).astype(np.float32)
    X[:, 3] = 7
    rows = rng.permutation(40)[:23]
    task = SimpleNamespace(split=SimpleNamespace(train=rows))
    monkeypatch.setattr(folds, "_CHUNK", 4)
    two = folds._moments(X, task)
    np.testing.assert_allclose(two.mean(axis=0), X[rows].mean(axis=0, dtype=float), rtol=1e-9)
    np.testing.assert_allclose(two.std(axis=0), X[rows].std(axis=0, dtype=float), atol=1e-6)


def test_sure_samples_are_chosen_as_s1_did():
    rng = np.random.default_rng(0)
    label = np.repeat(["a", "b", "c"], 40)
    table = pd.DataFrame({"subject": "1", "label": label})
    given = rng.dirichlet([0.2, 0.2, 0.2], size=120)
    given[80:, 2] = given[80:].min(axis=1) / 3  # no c is decoded correctly
    given /= given.sum(axis=1, keepdims=True)
    rows, said = tasks.choose_confident(
        table, np.arange(120), given, ("a", "b", "c"), per_class=5, seed=0
    )
    chosen = given[rows]
    number = np.searchsorted(["a", "b", "c"], label[rows])
    assert np.bincount(number).tolist() == [5, 5, 5]
    sure = chosen[np.arange(15), number] >= 0.75
    assert sure[:10].all()
    assert set(rows[10:]) == set(80 + np.argsort(-given[80:, 2])[:5])
    n = (given[np.arange(120), np.repeat([0, 1, 2], 40)] >= 0.75).sum()
    assert f"{n} of 120 held-out samples" in said
    assert "None of c" in said


@pytest.mark.slow  # UMAP
def test_geometry_is_written_and_drawn(tmp_path):
    out = tmp_path / "out"
    explain(_study(tmp_path, explain=RULES | {"geometry": True}), out, progress=False)
    geometry = json.loads((out / "geometry.json").read_text())
    assert "3 classes" in geometry["rsa"]["refused"]
    table = pd.read_csv(out / "geometry/spatial-lda.tsv", sep="\t")
    assert set(table["class"]) == {"fear", "joy"}
    assert 'id="geometry"' in (out / "explanation.html").read_text()


@pytest.mark.parametrize("kind", ["table", "parcels"])
def test_columns_that_are_no_voxels(tmp_path, kind):
    """Their drops are tested and named; there are no maps."""
    rules = RULES | {"label_draws": 0, "weight_draws": 1}
    if kind == "parcels":
        write_small(tmp_path)
        mask = nib.load(tmp_path / "mask.nii.gz")
        labels = np.zeros(mask.shape, np.int16)
        labels[:2], labels[2:4], labels[4:] = 1, 2, 3
        nib.save(nib.Nifti1Image(labels, mask.affine), tmp_path / "atlas.nii.gz")
        study = _study(tmp_path, explain=rules, features={"parcels": "atlas.nii.gz"})
    else:
        study = _write_columns(tmp_path, rules)
    out = tmp_path / "out"
    told = explain(study, out, progress=False)
    assert not told["in_place"]
    assert told["n_units"] == 3
    units = pd.read_csv(out / "units.tsv", sep="\t")
    first = units.sort_values("drop", ascending=False).groupby("class").first()["unit"].to_dict()
    if kind == "table":
        assert set(first.values()) == {"speaks"}
    page = (out / "explanation.html").read_text()
    assert "single columns" in page
    assert not (out / "maps").exists()


def _write_columns(root, rules, names=("fear", "joy")):
    rng = np.random.default_rng(0)
    rows = [
        {"subject": f"{who:02d}", "emotion": name, "quiet": rng.normal(), "also": rng.normal()}
        | {"speaks": rng.normal() + 6 * (name == names[1])}
        for who in range(6)
        for name in names
        for _ in range(4)
    ]
    (root / "data").mkdir()
    pd.DataFrame(rows).to_csv(root / "data/values.csv", index=False)
    (root / "study.toml").write_text(
        tomli_w.dumps(
            {
                "name": "columns",
                "data": {
                    "source": "table",
                    "path": "data",
                    "files": ["values.csv"],
                    "subject": "subject",
                    "label": "emotion",
                },
                "labels": {"source": "data"},
                "evaluate": {"split": "leave_one_subject_out", "n_permutations": 20},
                "models": [{"name": "lda"}],
                "explain": rules,
            }
        )
    )
    return load_study(root / "study.toml")


@pytest.mark.parametrize("unit", ["searchlights", "regions"])
def test_other_units(tmp_path, unit, no_page):
    rules = RULES | {"unit": unit, "label_draws": 0, "stride_vox": 3, "atlas": "atlas.nii.gz"}
    study = _study(tmp_path, explain=rules)
    mask = nib.load(tmp_path / "mask.nii.gz")
    labels = np.zeros(mask.shape, np.int16)
    labels[:3], labels[3:] = 1, 2
    nib.save(nib.Nifti1Image(labels, mask.affine), tmp_path / "atlas.nii.gz")
    told = explain(study, tmp_path / "out", progress=False)
    assert told["n_units"] == (2 if unit == "regions" else 8)


@pytest.fixture
def no_page(monkeypatch):
    monkeypatch.setattr("emodecode.report.explained.write_explained_page", lambda folder: folder)


def test_finished_folds_are_not_fitted_again(tmp_path, monkeypatch, no_page):
    study = _study(tmp_path)
    real, fitted = tasks.Task.fit, []

    def fit(self, X, table, labels, *, ledger=None):
        fitted.append(self.fold)
        if len(fitted) == 3:
            raise KeyboardInterrupt
        return real(self, X, table, labels, ledger=ledger)

    monkeypatch.setattr(tasks.Task, "fit", fit)
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


def test_a_fit_with_exchanged_labels_is_kept(tmp_path, monkeypatch, no_page):
    study = _study(tmp_path)
    real, fitted = tasks.Task.fit, []

    def fit(self, X, table, labels, *, ledger=None):
        fitted.append(self.fold)
        if len(fitted) == 10:
            raise KeyboardInterrupt
        return real(self, X, table, labels, ledger=ledger)

    monkeypatch.setattr(tasks.Task, "fit", fit)
    with pytest.raises(KeyboardInterrupt):
        explain(study, tmp_path / "out", progress=False)
    explain(study, tmp_path / "out", progress=False)
    assert len(fitted) == 10 + 19 - 6, "three folds and six labellings are done"


def test_classes_of_a_subject_are_explained_alike():
    table = pd.DataFrame(
        {"subject": ["1"] * 9 + ["2"] * 5, "label": list("aaaaabbbb") + list("aabbb")}
    )
    rows = tasks.choose_samples(table, np.arange(14), per_class=3, seed=0)
    counts = table.iloc[rows].groupby(["subject", "label"]).size()
    assert counts.to_dict() == {("1", "a"): 3, ("1", "b"): 3, ("2", "a"): 2, ("2", "b"): 3}

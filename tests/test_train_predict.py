"""`emodecode train`, `predict` and `export`: from a study to a table of probabilities."""

import json
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tomli_w

import small_decoder
from bids_tree import AFFINE, func, make_image
from emodecode import train
from emodecode.assemble import gather
from emodecode.candidates import make_candidates, make_tuning
from emodecode.cli import main
from emodecode.decoder import Decoder
from emodecode.evaluate.foldfit import fit_fold, tune_fold
from emodecode.evaluate.score import fingerprint_samples
from emodecode.simulate.dataset import simulate_dataset
from emodecode.study import load_study
from refusal import photograph, refuse
from small_study import (
    N_VOLUMES,
    RUNS,
    SHAPE,
    SUBJECTS,
    TR_S,
    image_path,
    save_image,
    stem,
    write_events,
    write_small,
    write_study,
)

QUICK = {"evaluate": {"controls": False, "n_permutations": 10}}
TUNED = {
    "models": [{"name": "ridge", "kind": "ridge", "grid": {"alpha": [1.0, 1e4]}}],
    "evaluate": QUICK["evaluate"] | {"calibrate": "temperature", "inner_folds": 2},
}


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def fit(root, *more, out="decoder"):
    arguments = ("train", root / "study.toml", "--out", root / out, "--quiet", *more)
    return [str(each) for each in arguments]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A study, its results, and a decoder whose scores come from them."""
    root = tmp_path_factory.mktemp("train")
    write_small(root, QUICK)
    assert run("evaluate", root / "study.toml", "--out", root / "results", "--quiet") == 0
    assert run(*fit(root, "--results", root / "results")) == 0
    return root


@pytest.fixture
def study_only(tmp_path):
    write_small(tmp_path, QUICK)
    return tmp_path


def samples_of(root, tmp_path):
    return gather(load_study(root / "study.toml"), work=tmp_path / "work", progress=False).samples


def test_a_table_of_every_volume_of_a_run(root, tmp_path, capsys):
    image = image_path(root, "02", "1")
    assert run("predict", root / "decoder", image) == 0
    said = capsys.readouterr().out
    assert run("predict", root / "decoder", image, "--out", tmp_path / "new" / "table.tsv") == 0
    assert (tmp_path / "new" / "table.tsv").read_text() == said
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["table.tsv"]
    table = pd.read_csv(tmp_path / "new" / "table.tsv", sep="\t")
    assert list(table) == ["volume", "onset_s", "predicted", "p_fear", "p_joy"]
    assert len(table) == N_VOLUMES
    np.testing.assert_allclose(table["onset_s"], TR_S * np.arange(N_VOLUMES))
    best = table[["p_fear", "p_joy"]].idxmax(axis=1).str.removeprefix("p_")
    assert (best == table["predicted"]).all()


def test_runs_are_prepared_as_the_training_samples_were(root, tmp_path):
    samples, decoder = samples_of(root, tmp_path), Decoder.load(root / "decoder")
    wanted = decoder.predict(samples)
    for subject in SUBJECTS:
        for name in RUNS:
            table = decoder.predict_run(image_path(root, subject, name))
            own = samples.table.query("subject == @subject and run == @name")
            found = table.set_index("volume").loc[own["volume"], ["p_fear", "p_joy"]]
            np.testing.assert_allclose(found, wanted[own.index], rtol=1e-9, atol=1e-15)


def test_scores_are_those_of_the_results_with_their_proof(root):
    told = read(root / "decoder" / "decoder.json")["evaluation"]
    scores, audit = read(root / "results" / "scores.json"), read(root / "results" / "audit.json")
    for metric in ("balanced_accuracy", "macro_auc"):
        for key in ("value", "low", "high", "chance", "p"):
            assert told[metric][key] == scores["models"]["lda"][metric][key]
    assert told["verdict"] == audit["verdict"]
    assert told["controls"] is None
    card = (root / "decoder" / "CARD.md").read_text()
    value, chance = (scores["models"]["lda"]["balanced_accuracy"][k] for k in ("value", "chance"))
    assert f"| balanced accuracy | {value:.3f} | [" in card
    assert f"{chance:.3f}" in card
    for words in (
        f"Audit of the evaluation: **{audit['verdict']}**",
        scores["split"]["sentence"],
        "controls: switched off",
        "fear | 60 | 3",
        "BSD-3-Clause",
        "the data's licence",
        "has no score of its own",
    ):
        assert words in card


def test_contract_and_fingerprint(root, tmp_path):
    content = read(root / "decoder" / "decoder.json")
    samples = samples_of(root, tmp_path)
    assert content["data"]["fingerprint"] == fingerprint_samples(samples)
    assert content["data"]["per_class"]["joy"] == {"n_samples": 60, "n_subjects": 3}
    contract = content["contract"]
    assert contract["shape"] == list(SHAPE)
    assert contract["affine"] == AFFINE.tolist()
    assert (contract["tr_s"], contract["lag_s"]) == (TR_S, 4.0)
    assert contract["classes"] == ["fear", "joy"]
    assert contract["clean"]["standardize"] == "run"
    assert not contract["causal"]
    assert content["subjects"] is None
    assert not list((root / "decoder").glob("*.p*kl"))


def test_without_results_the_model_is_evaluated_first(root, study_only, capsys):
    assert run(*fit(study_only)) == 0
    said = capsys.readouterr().out
    assert "audit: caution" in said  # no controls
    assert "chance" in said
    own = read(study_only / "decoder" / "decoder.json")
    other = read(root / "decoder" / "decoder.json")
    assert own["evaluation"] | {"source": ""} == other["evaluation"] | {"source": ""}
    assert not (study_only / "decoder" / ".resume").exists()
    X = np.random.default_rng(0).normal(size=(5, 216))
    pair = [Decoder.load(each / "decoder").predict(X) for each in (root, study_only)]
    np.testing.assert_array_equal(*pair)


def test_an_interrupted_training_goes_on(study_only, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(train, "fit_decoder", stop)
        assert run(*fit(study_only)) == 130
    kept = sorted(path.name for path in (study_only / "decoder" / ".resume").glob("*.npz"))
    assert kept
    assert not (study_only / "decoder" / "decoder.json").exists()
    monkeypatch.setattr("emodecode.evaluate.score._run_one", stop)  # nothing is evaluated anew
    assert run(*fit(study_only)) == 0
    Decoder.load(study_only / "decoder")


def test_tuning_and_temperature_happen_as_in_a_fold(tmp_path):
    write_small(tmp_path, TUNED)
    assert run(*fit(tmp_path)) == 0
    decoder, study = Decoder.load(tmp_path / "decoder"), load_study(tmp_path / "study.toml")
    samples = samples_of(tmp_path, tmp_path)
    candidate = make_candidates(study, samples)[0]
    given = (samples.X, samples.y, samples.table, np.arange(samples.n_samples))
    chosen, temperature = tune_fold(candidate, *given, tuning=make_tuning(study), seed=0)
    assert decoder.temperature == temperature
    assert decoder.about["model"]["chosen"] == chosen != {}
    fitted = fit_fold(candidate.pipeline, *given, params=chosen, seed=0)
    np.testing.assert_array_equal(
        decoder.pipeline.predict_proba(samples.X), fitted.predict_proba(samples.X)
    )
    assert f"temperature {temperature:.4g}" in (tmp_path / "decoder" / "CARD.md").read_text()


def test_parcels_and_centring_come_along(tmp_path):
    labels = np.repeat(np.arange(6), 36).reshape(SHAPE).astype(np.int16)  # 0: in none
    rules = {"parcels": "atlas.nii.gz", "centre": "run", "clean": {"smoothing_mm": 4.0}}
    write_small(tmp_path, QUICK | {"features": rules})
    nib.save(make_image(labels), tmp_path / "atlas.nii.gz")
    samples = samples_of(tmp_path, tmp_path)
    assert run(*fit(tmp_path)) == 0
    (tmp_path / "atlas.nii.gz").unlink()
    decoder = Decoder.load(tmp_path / "decoder")
    assert decoder.contract.features == "parcels"
    assert decoder.contract.names == samples.features
    run_ = decoder.contract.open_run(image_path(tmp_path, "01", "2"))
    own = samples.table.query("subject == '01' and run == '2'")
    features = decoder.contract.prepare(run_)[own["volume"]]
    # centred on all volumes here, on the labelled ones in training: a constant apart
    apart = features - samples.X[own.index]
    np.testing.assert_allclose(apart, np.broadcast_to(apart[0], apart.shape), atol=1e-5)
    assert decoder.predict_run(image_path(tmp_path)).shape == (N_VOLUMES, 5)


def write_confounds(root):
    rng = np.random.default_rng(4)
    for subject in SUBJECTS:
        for name in RUNS:
            table = pd.DataFrame(rng.normal(size=(N_VOLUMES, 2)), columns=["trans_x", "csf"])
            path = func(root / "bids", subject) / (
                f"{stem(subject, name)}_desc-confounds_timeseries.tsv"
            )
            table.to_csv(path, sep="\t", index=False)


def test_confounds_are_removed_as_in_training(tmp_path, capsys):
    write_small(tmp_path, QUICK | {"data": {"confounds": ["trans_*"], "dummies": 2}})
    write_confounds(tmp_path)
    assert run(*fit(tmp_path)) == 0
    image = image_path(tmp_path, "03", "1")
    table = func(tmp_path / "bids", "03") / f"{stem('03', '1')}_desc-confounds_timeseries.tsv"
    capsys.readouterr()
    assert run("predict", tmp_path / "decoder", image, "--confounds", table) == 0
    found = pd.read_csv(pd.io.common.StringIO(capsys.readouterr().out), sep="\t")
    assert found["onset_s"].iloc[0] == 2 * TR_S  # volume 0 comes after the dummies
    samples = samples_of(tmp_path, tmp_path)
    own = samples.table.query("subject == '03' and run == '1'")
    wanted = Decoder.load(tmp_path / "decoder").predict(samples)[own.index]
    rows = found.set_index("volume").loc[own["volume"], ["p_fear", "p_joy"]]
    np.testing.assert_allclose(rows, wanted, rtol=1e-9, atol=1e-15)
    refuse(
        ["predict", tmp_path / "decoder", image],
        ["no table of confounds", "--confounds", "trans_*"],
        root=tmp_path,
        capsys=capsys,
    )
    refuse(
        ["predict", tmp_path / "decoder", image, "--confounds", tmp_path / "no.tsv"],
        ["no.tsv"],
        root=tmp_path,
        capsys=capsys,
    )


def test_images_that_break_the_contract_are_refused(root, tmp_path, capsys):
    data = np.random.default_rng(0).normal(100, 5, (*SHAPE, 12)).astype(np.float32)
    cases = {
        "shape": (make_image(data[:5]), "(5, 6, 6)"),
        "affine": (make_image(data, affine=AFFINE * [[1, 1, 1, 1.1]] + np.eye(4)), "affine"),
        "tr": (make_image(data, tr_s=3.0), "3 s"),
        "single": (make_image(data[..., 0]), "single volume"),
    }
    for name, (image, words) in cases.items():
        nib.save(image, tmp_path / f"{name}.nii.gz")
        arguments = ["predict", root / "decoder", tmp_path / f"{name}.nii.gz"]
        refuse([*arguments, "--out", tmp_path / "table.tsv"], [words], root=tmp_path, capsys=capsys)
    nib.save(make_image(data, tr_s=3.0), tmp_path / "tr.nii.gz")
    assert run("predict", root / "decoder", tmp_path / "tr.nii.gz", "--tr-s", "2") == 0
    nib.save(make_image(data), tmp_path / "whole.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes((tmp_path / "whole.nii.gz").read_bytes()[:3000])
    for name, words in (("cut", "truncated"), ("none", "no such file")):
        arguments = ["predict", root / "decoder", tmp_path / f"{name}.nii.gz"]
        refuse(arguments, [words], root=tmp_path, capsys=capsys)


def test_a_spoilt_decoder_is_refused_in_three_lines(root, tmp_path, capsys):
    folder = shutil.copytree(root / "decoder", tmp_path / "copy")
    (folder / "mask.nii.gz").unlink()
    image = image_path(root)
    for arguments in (
        ["predict", folder, image],
        ["export", folder, "--onnx", tmp_path / "x.onnx"],
    ):
        refuse(arguments, ["mask.nii.gz", "no such file"], root=tmp_path, capsys=capsys)
    refuse(["predict", tmp_path, image], ["decoder.json"], root=tmp_path, capsys=capsys)


def test_decoders_that_are_no_networks_are_not_exported(root, tmp_path, capsys):
    arguments = ["export", root / "decoder", "--onnx", tmp_path / "x.onnx"]
    refuse(arguments, ["LinearByGram", "no network"], root=tmp_path, capsys=capsys)


MODELS = {"models": [{"name": name} for name in ("dummy", "lda", "logistic")]}


def test_one_of_several_models_has_to_be_named(study_only, capsys):
    write_study(study_only, QUICK | MODELS)
    words = ["lda, logistic", "--model lda"]
    refuse(fit(study_only), words, root=study_only, capsys=capsys)
    words = ["no model of that name", "dummy, lda, logistic"]
    refuse(fit(study_only, "--model", "svm"), words, root=study_only, capsys=capsys)
    assert run(*fit(study_only, "--model", "logistic")) == 0
    assert read(study_only / "decoder" / "decoder.json")["model"]["name"] == "logistic"


def test_an_earlier_decoder_is_replaced_only_on_demand(study_only, root, capsys):
    known = ("--results", root / "results")
    assert run(*fit(study_only, *known)) == 0
    refuse(fit(study_only, *known), ["--overwrite"], root=study_only, capsys=capsys)
    before = photograph(study_only / "decoder")
    assert run(*fit(study_only, *known, "--overwrite")) == 0
    assert set(photograph(study_only / "decoder")) == set(before)


def test_nothing_of_an_earlier_decoder_is_left(study_only, root):
    pipeline = small_decoder.fit("boosted_trees")
    earlier = Decoder(pipeline, small_decoder.make_contract())
    earlier.save(study_only / "decoder")
    assert run(*fit(study_only, "--results", root / "results", "--overwrite")) == 0
    assert not (study_only / "decoder" / "trees.ubj").exists()
    Decoder.load(study_only / "decoder")


def other_labels(root):
    write_events(root, "2\t10\tjoy", "12\t10\tjoy", "22\t10\tfear", "32\t10\tfear")
    return []


def other_scans(root):
    save_image(root, np.random.default_rng(9).normal(100, 5, (*SHAPE, N_VOLUMES)))
    return []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (other_labels, ["fingerprint"]),
        (other_scans, ["fingerprint"]),
        (lambda root: ["--set", "features.n_voxels=50"], ["features.n_voxels", "50"]),
        (lambda root: ["--set", "seed=3"], ["seed = 0", "3"]),
        (lambda root: ["--set", "labels.lag_s=6"], ["labels.lag_s"]),
        (
            lambda root: ["--set", 'models=[{name="lda", params={shrinkage=0.5}}]'],
            ["models.lda", "shrinkage"],
        ),
        (lambda root: ["--set", 'models=["ridge"]'], ["models.ridge = nothing"]),
    ],
)
def test_results_of_something_else_are_refused(root, study_only, capsys, change, words):
    arguments = fit(study_only, "--results", root / "results", *change(study_only))
    refuse(arguments, words, root=study_only, capsys=capsys)


def test_folders_that_are_no_results_are_refused(study_only, capsys):
    arguments = fit(study_only, "--results", study_only / "bids")
    refuse(arguments, ["no study.toml", "leave it out"], root=study_only, capsys=capsys)


def test_a_leak_that_the_study_allows_stands_beside_every_score(study_only, capsys):
    leaky = {"split": "shuffled", "allow_leakage": True, "controls": False, "n_permutations": 5}
    write_study(study_only, {"evaluate": leaky})
    assert run(*fit(study_only)) == 0
    assert "LEAK" in capsys.readouterr().out
    assert "REACHED THE TRAINING" in (study_only / "decoder" / "CARD.md").read_text()
    write_study(study_only, {"evaluate": leaky | {"allow_leakage": False}})
    arguments = fit(study_only, out="other")
    refuse(arguments, ["allow_leakage"], root=study_only, capsys=capsys)


def test_decoders_of_tables_take_columns(tmp_path, capsys):
    rng = np.random.default_rng(0)
    y = np.tile(["joy", "fear"], 30)
    table = pd.DataFrame(rng.normal(size=(60, 4)) + (y == "joy")[:, None], columns=list("abcd"))
    table.insert(0, "label", y)
    table.insert(0, "subject", np.repeat([f"s{n}" for n in range(6)], 10))
    table.to_csv(tmp_path / "table.csv", index=False)
    study = {
        "name": "table",
        "data": {"source": "table", "path": ".", "files": ["table.csv"]},
        "models": [{"name": "lda"}],
        "evaluate": QUICK["evaluate"],
    }
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
    assert run(*fit(tmp_path)) == 0
    decoder = Decoder.load(tmp_path / "decoder")
    assert decoder.contract.names == tuple("abcd")
    assert decoder.contract.shape is None
    found = decoder.predict(table[list("abcd")].to_numpy())
    np.testing.assert_allclose(found.sum(axis=1), 1)
    nib.save(make_image(np.ones((3, 3, 3, 4), np.float32)), tmp_path / "image.nii.gz")
    arguments = ["predict", tmp_path / "decoder", tmp_path / "image.nii.gz"]
    refuse(arguments, ["4 columns"], root=tmp_path, capsys=capsys)


def train_network(root, model):
    model = model | {"params": {"max_epochs": 1, "device": "cpu"}}
    write_study(root, QUICK | {"models": [model]})
    assert run(*fit(root)) == 0
    assert (root / "decoder" / "member-1.safetensors").is_file()
    return Decoder.load(root / "decoder")


def test_networks_of_volumes_get_the_mask_and_are_stored(study_only):
    decoder = train_network(study_only, {"name": "separable3d"})
    samples = samples_of(study_only, study_only)
    assert decoder.predict(samples).shape == (samples.n_samples, 2)
    assert decoder.predict_run(image_path(study_only)).shape == (N_VOLUMES, 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [{"name": "separable3d"}, {"name": "hanson_mlp", "n_voxels": 50}], ids=["3d", "1d"]
)
def test_networks_are_exported(study_only, model, capsys):
    train_network(study_only, model)
    graph = study_only / "graphs" / "net.onnx"
    assert run("export", study_only / "decoder", "--onnx", graph) == 0
    assert "differ by" in capsys.readouterr().out
    assert [path.name for path in graph.parent.iterdir()] == ["net.onnx"]


@pytest.mark.slow
def test_aligned_decoders_know_their_subjects(tmp_path, capsys):
    simulate_dataset(
        tmp_path / "bids",
        **{"n_subjects": 4, "n_runs": 2, "n_volumes": 60, "film_volumes": 80, "voxel_mm": 9.0},
        seed=3,
        progress=False,
    )
    study = {
        "name": "aligned",
        "data": {"path": "bids", "derivatives": "derivatives/fmriprep", "task": "emotion"},
        "features": {"n_voxels": 60, "clean": {"high_pass_hz": 0.0}},
        "align": {"task": "film", "beside": False},
        "models": [{"name": "lda"}],
        "evaluate": QUICK["evaluate"],
    }
    (tmp_path / "study.toml").write_text(tomli_w.dumps(study))
    assert run(*fit(tmp_path)) == 0
    content = read(tmp_path / "decoder" / "decoder.json")
    assert content["subjects"] == ["01", "02", "03", "04"]
    assert content["alignment"]["protocol"] == "independent_run"
    image = next((tmp_path / "bids").glob("derivatives/fmriprep/sub-02/func/*emotion*bold.nii.gz"))
    assert run("predict", tmp_path / "decoder", image, "--subject", "02") == 0
    refuse(["predict", tmp_path / "decoder", image], ["--subject"], root=tmp_path, capsys=capsys)

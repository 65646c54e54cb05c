"""Decoders on disk: what comes back is what went in, and nothing else is let in."""

import copy
import functools
import hashlib
import io
import json
import os
import shutil

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import sklearn
import skops.io
from sklearn.tree import DecisionTreeClassifier

from emodecode.align.space import CommonSpace
from emodecode.decoder import Decoder
from emodecode.errors import ContractError, DataMissingError, InputError, NotCalibratedError
from emodecode.evaluate import calibration
from emodecode.features.own import OwnVoxels
from emodecode.models.catalogue import KINDS, make_pipeline_for
from emodecode.models.networks3d import available3d
from emodecode.models.temperature import apply_temperature
from small_decoder import (
    AFFINE,
    CLASSES,
    INSIDE,
    MOMENTS,
    PER_VOLUME,
    SHAPE,
    SUBJECTS,
    X,
    Y,
    fit,
    make_contract,
)

SLOW = ("resnet3d", "s2_resnet3d", "efficientnet3d")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A decoder with selection, scaling and temperature, and its folder."""
    pipeline = fit("logistic", n_voxels=40)
    decoder = Decoder(pipeline, make_contract(), 1.3)
    return decoder, decoder.save(tmp_path_factory.mktemp("decoder") / "saved")


@pytest.fixture
def copied(saved, tmp_path):
    """A copy of that folder to spoil."""
    return shutil.copytree(saved[1], tmp_path / "copy")


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in KINDS]
)
def test_every_kind_comes_back_bit_for_bit(kind, tmp_path):
    if KINDS[kind].reads_volumes and KINDS[kind].make().network not in available3d():
        pytest.skip("that network is not there")
    pipeline = fit(kind, n_voxels=100, select_by="subject")
    with sklearn.config_context(enable_metadata_routing=True):
        wanted = pipeline.predict_proba(X)
    decoder = Decoder(pipeline, make_contract())
    loaded = Decoder.load(decoder.save(tmp_path / kind))
    np.testing.assert_array_equal(loaded.predict(X), wanted)
    np.testing.assert_array_equal(decoder.predict(X), wanted)
    assert loaded.classes == CLASSES
    kept = {path.suffix for path in (tmp_path / kind).iterdir()}
    assert not kept & {".pkl", ".pickle", ".pt", ".pth", ".joblib"}


def test_windows_and_members_of_volume_networks_come_back(tmp_path):
    params = {"window": 3, "max_epochs": 1, "n_members": 2, "normalise": "volume"}
    pipeline = fit("separable3d", params)
    loaded = Decoder.load(Decoder(pipeline, make_contract()).save(tmp_path / "windowed"))
    with sklearn.config_context(enable_metadata_routing=True):
        wanted = pipeline.predict_proba(X, moments=MOMENTS)
    assert "It reads windows of 3 volumes" in (tmp_path / "windowed" / "CARD.md").read_text()
    np.testing.assert_array_equal(loaded.predict(X, moments=MOMENTS), wanted)
    assert not np.array_equal(loaded.predict(X), wanted)  # each volume alone


def test_selection_by_subjects_asks_for_them_again(tmp_path):
    pipeline = fit("lda", n_voxels=30, select_by="subject")
    loaded = Decoder.load(Decoder(pipeline, make_contract()).save(tmp_path / "d"))
    again = sklearn.base.clone(loaded.pipeline)
    with sklearn.config_context(enable_metadata_routing=True):
        again.fit(X, Y, subjects=SUBJECTS)
    np.testing.assert_array_equal(again.predict_proba(X), loaded.predict(X))


def test_temperature_is_the_one_of_the_evaluation(saved):
    decoder, folder = saved
    plain = decoder.pipeline.predict_proba(X)
    assert apply_temperature is calibration.apply_temperature
    np.testing.assert_array_equal(Decoder.load(folder).predict(X), apply_temperature(plain, 1.3))


def test_contract_comes_back_at_full_precision(saved):
    contract = Decoder.load(saved[1]).contract
    np.testing.assert_array_equal(contract.mask.affine, AFFINE)
    np.testing.assert_array_equal(contract.mask.get_fdata(), saved[0].contract.mask.get_fdata())
    assert contract.to_json() == saved[0].contract.to_json()


def test_what_was_loaded_can_be_saved_again(saved, tmp_path):
    loaded = Decoder.load(saved[1])
    again = Decoder.load(loaded.save(tmp_path / "again"))
    np.testing.assert_array_equal(again.predict(X), loaded.predict(X))
    with pytest.raises(InputError, match="exists already"):
        loaded.save(tmp_path / "again")


def test_a_failed_save_leaves_nothing(saved, tmp_path):
    decoder = saved[0]
    steps = [*decoder.pipeline.steps[:-1], ("classifier", DecisionTreeClassifier())]
    foreign = Decoder(sklearn.pipeline.Pipeline(steps), decoder.contract)
    with pytest.raises(ContractError, match="DecisionTreeClassifier"):
        foreign.save(tmp_path / "foreign")
    assert not list(tmp_path.iterdir())


# bad folders ---------------------------------------------------------------------------------


def spoil(folder, name, how):
    path = folder / name
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "edited":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.unlink()


@pytest.mark.parametrize("name", ["decoder.json", "mask.nii.gz", "estimators.skops", "CARD.md"])
@pytest.mark.parametrize("how", ["truncated", "edited", "missing"])
def test_files_that_are_not_as_written_are_refused(copied, name, how):
    spoil(copied, name, how)
    with pytest.raises(ContractError) as refused:
        Decoder.load(copied)
    assert name in refused.value.where


def test_every_value_of_the_json_is_sealed(copied):
    path = copied / "decoder.json"
    content = json.loads(path.read_text())
    for change in (
        {"model": content["model"] | {"temperature": 1.0}},
        {"contract": content["contract"] | {"classes": ["fear", "calm", "joy"]}},
        {"files": {}},
        {"more": 1},
    ):
        path.write_text(json.dumps(content | change))
        with pytest.raises(ContractError, match=r"decoder.json.*edited"):
            Decoder.load(copied)
    path.write_text(json.dumps(content, indent=4, sort_keys=True))  # the same content
    Decoder.load(copied)


def test_files_that_do_not_belong_there_are_refused(copied):
    (copied / ".DS_Store").write_text("x")
    Decoder.load(copied)
    (copied / "more.pkl").write_text("x")
    with pytest.raises(ContractError, match=r"more.pkl.*does not belong"):
        Decoder.load(copied)


def test_json_of_any_other_shape_is_refused(copied):
    path = copied / "decoder.json"
    for text, words in (("[" * 100_000, "no JSON"), ("[]", "JSON that is a list")):
        path.write_text(text)
        with pytest.raises(ContractError, match=words):
            Decoder.load(copied)


def test_other_formats_are_refused(copied):
    reseal(copied, lambda content: content | {"format_version": 2})
    with pytest.raises(ContractError, match="version 2"):
        Decoder.load(copied)
    with pytest.raises(DataMissingError, match="no such folder"):
        Decoder.load(copied / "nowhere")


def reseal(folder, change=lambda content: content):
    """Do what somebody would who knows the format: all hashes are right again."""
    path = folder / "decoder.json"
    content = change(json.loads(path.read_text()))
    content["files"] = {
        each.name: hashlib.sha256(each.read_bytes()).hexdigest()
        for each in folder.iterdir()
        if each != path
    }
    del content["sha256"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    path.write_text(json.dumps(content))


def test_right_hashes_do_not_let_foreign_types_in(copied, tmp_path):
    class Touching(io.StringIO):
        pass

    skops.io.dump([ContractError, Touching], copied / "estimators.skops")
    reseal(copied)
    with pytest.raises(ContractError, match=r"estimators.skops.*types"):
        Decoder.load(copied)


def test_a_function_inside_a_step_is_refused(copied, saved, tmp_path):
    """What a pickle would do: name a function and what to call it with."""
    mark = tmp_path / "called"
    steps = [step for _, step in bare_steps(saved[0])]
    steps[1].more_ = functools.partial(os.system, f"touch {mark}")
    skops.io.dump(steps, copied / "estimators.skops")
    reseal(copied)
    with pytest.raises(ContractError, match=r"estimators.skops.*types[^$]*system"):
        Decoder.load(copied)
    assert not mark.exists()


def bare_steps(decoder):
    """Copies of the steps as they are stored."""
    copies = [(name, copy.copy(step)) for name, step in decoder.pipeline.steps]
    for _, step in copies:
        vars(step).pop("_metadata_request", None)
    return copies


def test_types_that_are_allowed_but_not_asked_for_are_refused(copied, saved):
    _, *others = (step for _, step in bare_steps(saved[0]))
    skops.io.dump([DecisionTreeClassifier(), *others], copied / "estimators.skops")
    reseal(copied)
    with pytest.raises(ContractError, match=r"estimators.skops.*instead of"):
        Decoder.load(copied)


def test_weights_of_another_network_are_refused(tmp_path):
    folders = [
        Decoder(fit("hanson_mlp", n_voxels=n), make_contract()).save(tmp_path / str(n))
        for n in (20, 30)
    ]
    name = "member-1.safetensors"
    spoil(folders[0], name, "edited")
    with pytest.raises(ContractError, match=name):
        Decoder.load(folders[0])
    shutil.copy(folders[1] / name, folders[0] / name)
    reseal(folders[0])
    with pytest.raises(ContractError, match=rf"{name}.*fit the network"):
        Decoder.load(folders[0])
    for number, (change, words) in enumerate(
        (
            ({"members": [name, "../member-2.safetensors"]}, "other members than 2"),
            ({"members": [name]}, "other members than 2"),
            ({"fitted": {"classes_": CLASSES, "predict_proba": 1}}, "'predict_proba', which no"),
        )
    ):
        spoilt = shutil.copytree(folders[1], tmp_path / f"spoilt-{number}")
        reseal(spoilt, lambda content, change=change: with_network(content, change))
        with pytest.raises(ContractError, match=words):
            Decoder.load(spoilt)
    reseal(folders[1], lambda content: with_network(content, {"class": "os.system"}))
    with pytest.raises(ContractError, match=r"class 'os\.system'"):
        Decoder.load(folders[1])


def with_network(content, change):
    content["steps"][-1]["network"].update(change)
    return content


def test_a_mask_that_does_not_fit_is_refused(copied):
    inside = INSIDE.astype(np.uint8)
    inside[np.nonzero(inside)[0][0]] = 0
    nib.save(nib.Nifti1Image(inside, AFFINE), copied / "mask.nii.gz")
    reseal(copied)
    with pytest.raises(ContractError, match=r"mask.nii.gz.*voxels for"):
        Decoder.load(copied)


# the contract --------------------------------------------------------------------------------


def image(n=6, *, affine=AFFINE, tr_s=2.0, shape=SHAPE):
    data = np.random.default_rng(2).normal(size=(*shape, n)).astype(np.float32)
    made = nib.Nifti1Image(data if n > 1 else data[..., 0], affine)
    made.header.set_xyzt_units("mm", "sec")
    if n > 1:
        made.header.set_zooms((*made.header.get_zooms()[:3], tr_s))
    return made


def test_a_run_is_masked_in_the_order_of_the_columns(saved):
    run = image()
    rows = run.get_fdata(dtype=np.float32)[INSIDE].T
    np.testing.assert_array_equal(saved[0].predict(run), saved[0].predict(rows))
    table = saved[0].predict_run(run)
    assert list(table) == ["volume", "onset_s", "predicted", *(f"p_{name}" for name in CLASSES)]
    np.testing.assert_array_equal(table["onset_s"], 2.0 * np.arange(6))
    np.testing.assert_allclose(table.filter(like="p_").sum(axis=1), 1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shape": (8, 7, 5)}, "shape (8, 7, 5)"),
        ({"affine": AFFINE + np.eye(4)[[0] * 4] * 0.01}, "affine"),
        ({"affine": np.diag([1, -1, 1, 1]) @ AFFINE}, "affine"),
        ({"tr_s": 1.5}, "repetition time of 1.5 s"),
        ({"tr_s": 0.0}, "no repetition time"),
    ],
)
def test_runs_of_another_grid_or_tr_are_refused(saved, wrong, words):
    with pytest.raises(ContractError) as refused:
        saved[0].predict(image(**wrong))
    assert words in refused.value.found
    assert all((refused.value.where, refused.value.expected, refused.value.remedy))


def test_a_stated_tr_stands_for_the_header(saved):
    wanted = saved[0].predict(image())
    for tr_s in (1.5, 0.0):
        found = saved[0].predict(image(tr_s=tr_s), tr_s=2.0)
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ContractError, match="3 s"):
        saved[0].predict(image(), tr_s=3.0)


def test_a_single_volume_needs_a_decoder_that_needs_no_other(saved):
    single = image(n=1)
    assert saved[0].contract.is_causal
    values = single.get_fdata(dtype=np.float32)[INSIDE][None]
    np.testing.assert_array_equal(saved[0].predict(single), saved[0].predict(values))
    by_volume = make_contract(clean=PER_VOLUME | {"standardize": "volume"})
    whole = image()
    first = nib.Nifti1Image(whole.get_fdata()[..., 0], AFFINE)
    rows = by_volume.prepare(by_volume.open_run(whole))
    np.testing.assert_allclose(by_volume.prepare(by_volume.open_run(first)), rows[:1], rtol=1e-6)
    for more in (
        {"clean": PER_VOLUME | {"detrend": True}},
        {"clean": PER_VOLUME | {"high_pass_hz": 0.01}},
        {"clean": PER_VOLUME | {"standardize": "run"}},
        {"centre": "run"},
        {"confounds": ("trans_*",)},
    ):
        contract = make_contract(**more)
        assert not contract.is_causal
        for each in (single, nib.Nifti1Image(single.get_fdata()[..., None], AFFINE)):
            with pytest.raises(ContractError, match="single volume"):
                contract.open_run(each)


def test_confounds_are_asked_for_and_refused_where_none_belong(saved):
    contract = make_contract(confounds=("trans_*", "csf"))
    table = pd.DataFrame({"trans_x": range(6), "csf": 1.0, "other": 2.0})
    run = contract.open_run(image(), confounds=table)
    assert list(run.confounds) == ["trans_x", "csf"]
    with pytest.raises(ContractError, match=r"no table of confounds[^$]*--confounds"):
        contract.open_run(image())
    with pytest.raises(ContractError, match="without csf"):
        contract.open_run(image(), confounds=table[["trans_x"]])
    with pytest.raises(ContractError, match="none"):
        saved[0].predict(image(), confounds=table)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.zeros((2, 3)), r"shape \(2, 3\)"),
        (np.zeros((0, 1)), "no sample"),
        (np.zeros(5), "shape"),
        (np.array([["a"]]), "type"),
    ],
)
def test_features_of_another_kind_are_refused(saved, given, words):
    with pytest.raises(ContractError, match=words):
        saved[0].predict(given)


def test_features_that_are_not_finite_are_refused(saved):
    wrong = X.copy()
    wrong[0, 0], wrong[1, 0] = np.inf, -np.inf
    with pytest.raises(ContractError, match="2 values that are not finite"):
        saved[0].predict(wrong)


# subjects ------------------------------------------------------------------------------------


def aligned(step, keys):
    with sklearn.config_context(enable_metadata_routing=True):
        step.set_fit_request(subjects=True).set_transform_request(subjects=True)
        values = step.fit(X, keys, subjects=SUBJECTS).transform(X, subjects=SUBJECTS)
        classifier = make_pipeline_for("lda").fit(values, Y)[-1]
    return sklearn.pipeline.Pipeline([("align", step), ("classifier", classifier)])


@pytest.mark.parametrize(
    "step",
    [
        CommonSpace(),
        CommonSpace(method="srm", map="orthogonal", n_components=4),
        CommonSpace(pieces=[np.arange(40), np.arange(30, 90)], map="orthogonal"),
        OwnVoxels(20),
    ],
    ids=["hyperalignment", "srm", "pieces", "own"],
)
def test_subjects_and_their_maps_come_back_and_new_ones_are_added(step, tmp_path):
    keys = Y if isinstance(step, OwnVoxels) else np.tile([f"k{n}" for n in range(9)], 3)
    decoder = Decoder(aligned(step, keys), make_contract())
    loaded = Decoder.load(decoder.save(tmp_path / "first"))
    assert loaded.subjects == ("01", "02", "03")
    wanted = decoder.predict(X, subject=SUBJECTS)
    np.testing.assert_array_equal(loaded.predict(X, subject=SUBJECTS), wanted)
    new = loaded.adapt(X[:9], keys[:9], subject="09")
    again = Decoder.load(new.save(tmp_path / "second"))
    assert again.subjects == ("01", "02", "03", "09")
    assert "09" in (tmp_path / "second" / "CARD.md").read_text()
    assert loaded.subjects == ("01", "02", "03")
    own = decoder.adapt(X[:9], keys[:9], subject="09").predict(X[:9], subject="09")
    np.testing.assert_array_equal(again.predict(X[:9], subject="09"), own)
    with pytest.raises(NotCalibratedError, match="09"):
        loaded.predict(X, subject="09")
    with pytest.raises(InputError, match="2 subjects for 27 samples"):
        loaded.predict(X, subject=["01", "02"])
    with pytest.raises(NotCalibratedError, match="no subject is named"):
        loaded.predict(X)


def test_decoders_that_know_nobody_take_everybody(saved):
    decoder = saved[0]
    assert decoder.subjects is None
    np.testing.assert_array_equal(decoder.predict(X, subject="99"), decoder.predict(X))
    with pytest.raises(InputError, match="none"):
        decoder.adapt(X, Y, subject="99")

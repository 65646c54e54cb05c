"""The study file: every choice typed, unknown keys refused with the nearest name."""

import pytest
import tomli_w

from emodecode.errors import DataMissingError, InputError
from emodecode.study import load_study, make_study, published_form, write_study

MINIMAL = {"name": "a", "data": {"source": "bids", "path": "bids"}}


def _with(**changes):
    return MINIMAL | changes


def test_written_study_reads_back_equal(tmp_path):
    study = make_study(
        _with(models=["lda", {"name": "svm", "kind": "linear_svm", "grid": {"C": [0.1, 1]}}]),
        folder=tmp_path,
    )
    write_study(study, tmp_path / "resolved.toml")
    assert load_study(tmp_path / "resolved.toml") == study
    assert not list(tmp_path.glob("*.partial"))


def test_defaults_are_spelled_out_in_the_written_study(tmp_path):
    write_study(make_study(MINIMAL, folder=tmp_path), tmp_path / "s.toml")
    text = (tmp_path / "s.toml").read_text()
    for key in ("lag_s", "high_pass_hz", "split", "gap_s", "seed", "allow_leakage"):
        assert f"{key} = " in text


@pytest.mark.parametrize(
    ("values", "near"),
    [
        (_with(sede=1), "seed"),
        (_with(data={"source": "bids", "path": "x", "tsk": "a"}), "task"),
        (_with(labels={"lag": 4}), "lag_s"),
        (_with(features={"clean": {"highpass_hz": 0.1}}), "high_pass_hz"),
        (_with(evaluate={"alow_leakage": True}), "allow_leakage"),
        (_with(models=[{"name": "a", "paramz": {}}]), "params"),
    ],
)
def test_unknown_key_names_the_nearest(values, near):
    with pytest.raises(InputError) as caught:
        make_study(values)
    assert f"Did you mean {near!r}" in caught.value.remedy


@pytest.mark.parametrize(
    "values",
    [
        {"data": {"source": "bids", "path": "x"}},
        _with(name="no spaces"),
        _with(labels={"lag_s": -1}),
        _with(labels={"preset": "s2"}),
        _with(models=["lda", "lda"]),
        _with(labels={"source": "ratings", "hrf": True}),
        _with(labels={"source": "annotations", "transition_s": 4}),
        _with(labels={"hrf": True, "transition_s": 4}),
        _with(models=[]),
        _with(evaluate={"split": "kfold"}),
        _with(data={"source": "nifty", "path": "x"}),
    ],
)
def test_wrong_values_are_input_errors(values):
    with pytest.raises(InputError) as caught:
        make_study(values, where="study.toml")
    assert caught.value.where == "study.toml"
    assert caught.value.remedy


def test_paths_are_relative_to_the_study_and_variables_are_filled_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SCANS", str(tmp_path / "scans"))
    (tmp_path / "s.toml").write_text('name = "a"\n[data]\npath = "$MY_SCANS/one"\nmask = "m.nii"\n')
    study = load_study(tmp_path / "s.toml")
    assert study.data.path == tmp_path / "scans" / "one"
    assert study.data.mask == tmp_path / "scans" / "one" / "m.nii"
    monkeypatch.delenv("MY_SCANS")
    with pytest.raises(DataMissingError, match="MY_SCANS"):
        load_study(tmp_path / "s.toml")


def test_overrides_replace_what_the_file_says(tmp_path):
    (tmp_path / "s.toml").write_text('name = "a"\n[data]\npath = "."\n[evaluate]\ngap_s = 10.0\n')
    study = load_study(
        tmp_path / "s.toml", overrides={"evaluate.gap_s": 20.0, "features.clean.detrend": False}
    )
    assert study.evaluate.gap_s == 20.0
    assert study.features.clean.detrend is False


def test_preset_can_be_refined_but_names_its_clock(tmp_path):
    study = make_study(_with(labels={"preset": "s1-as-published", "min_count": 50}))
    assert study.labels.clock == "published-cumulative"
    assert study.labels.min_count == 50
    assert study.labels.segments_s is not None
    assert len(study.labels.segments_s) == 8


def test_broken_toml_says_where(tmp_path):
    (tmp_path / "s.toml").write_text("name = \n")
    with pytest.raises(InputError, match=r"s\.toml.*line 1"):
        load_study(tmp_path / "s.toml")
    with pytest.raises(DataMissingError):
        load_study(tmp_path / "none.toml")


PUBLISHED = {"evaluate.split": "shuffled", "features.fit_on": "all"}


def test_the_published_form_changes_what_it_says_and_allows_its_leaks(tmp_path):
    study = make_study({"name": "s", "data": {"path": "bids"}, "as_published": PUBLISHED})
    published = published_form(study)
    assert (published.evaluate.split, published.features.fit_on) == ("shuffled", "all")
    assert published.evaluate.allow_leakage
    assert not published.as_published
    assert (study.evaluate.split, study.features.fit_on) == ("auto", "train")
    assert published.data == study.data
    write_study(study, tmp_path / "study.toml")
    assert load_study(tmp_path / "study.toml") == study


@pytest.mark.parametrize("key", ["labels.lag_s", "features.clean", "name", "features.scale"])
def test_the_published_form_keeps_the_samples(key):
    with pytest.raises(InputError, match="as_published"):
        make_study({"name": "s", "data": {"path": "bids"}, "as_published": {key: 1}})


def test_an_unknown_key_of_the_published_form_names_the_nearest():
    study = make_study(
        {"name": "s", "data": {"path": "bids"}, "as_published": {"evaluate.splitt": "shuffled"}}
    )
    with pytest.raises(InputError, match="as_published"):
        published_form(study)


ALIGNED = {"name": "s", "data": {"path": "bids"}, "align": {"task": "film"}}


@pytest.mark.parametrize("protocol", ["none", "transductive", "calibration_blocks", "connectivity"])
def test_a_protocol_that_knows_no_other_task_drops_it_when_it_is_set(protocol, tmp_path):
    changes = {"align.protocol": protocol}
    if protocol == "connectivity":
        changes["align.targets"] = "parcels.nii.gz"
    expected = "film" if protocol == "connectivity" else None
    (tmp_path / "s.toml").write_text(tomli_w.dumps(ALIGNED))
    study = load_study(tmp_path / "s.toml", overrides=changes)
    assert (study.align.protocol, study.align.task) == (protocol, expected)
    published = published_form(make_study(ALIGNED | {"as_published": changes}))
    assert (published.align.protocol, published.align.task) == (protocol, expected)
    if expected is None and protocol != "none":
        with pytest.raises(InputError, match="uses no other task"):
            load_study(tmp_path / "s.toml", overrides=changes | {"align.task": "film"})


def test_no_alignment_ignores_its_task():
    study = make_study(ALIGNED | {"align": {"task": "film", "protocol": "none"}})
    assert study.align.protocol == "none"


@pytest.mark.parametrize("name", ["ldaa", "dummy", "plain"])
def test_references_stand_beside_aligned_models_only(name):
    models = ["dummy", "lda", {"name": "plain", "kind": "lda", "align": False}]
    good = ALIGNED | {"models": models, "align": {"task": "film", "beside": ["lda"]}}
    assert make_study(good).align.beside == ["lda"]
    with pytest.raises(InputError, match=rf"align.beside: '{name}' is no aligned model \(lda\)"):
        make_study(good | {"align": {"task": "film", "beside": ["lda", name]}})

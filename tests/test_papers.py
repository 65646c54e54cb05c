"""What stands beside the papers: confident predictions, costs, sweeps, epochs, raw intensities."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from emodecode.candidates import warn_of_raw
from emodecode.errors import InputError
from emodecode.evaluate.costs import network_cost
from emodecode.evaluate.selection import select_confident
from emodecode.features.raw import mean_to_sd
from emodecode.models.catalogue import KINDS
from emodecode.models.conv1d import S2Conv1d
from emodecode.models.net import NetClassifier
from emodecode.models.volumenet import VolumeNetClassifier
from emodecode.printing import print_evaluation
from emodecode.report.folder import read_folder
from emodecode.report.networks import _find_sweeps, format_large
from emodecode.report.page import write_report
from emodecode.report.papers import PAPERS, describe_paper
from emodecode.study import load_study, make_study
from emodecode.workflow import evaluate
from results_folder import write_results_folder
from small_study import write_small

RAW_FEATURES = {
    "scale": False,
    "clean": {"high_pass_hz": 0.0, "detrend": False, "standardize": "none"},
}
RULES = {"split": "leave_one_subject_out", "n_permutations": 5, "controls": False}


def _predictions():
    rows = [
        ("01", "a", 0.9), ("01", "a", 0.6), ("01", "b", 0.2), ("01", "b", 0.7),
        ("02", "a", 0.8), ("02", "a", 0.4), ("02", "b", 0.1), ("02", "b", 0.45),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["subject", "label", "p_a"])
    table["p_b"] = 1 - table["p_a"]
    predicted = np.where(table["p_a"] >= 0.5, "a", "b")
    return table.assign(model="m", fold="1", run="1", volume=np.arange(8), predicted=predicted)


def test_confident_predictions_by_hand():
    everything, most = select_confident(_predictions(), classes=("a", "b"), thresholds=(0.0, 0.75))[
        "m"
    ]
    assert (everything["n_kept"], everything["share"], everything["n_right"]) == (8, 1.0, 6)
    assert everything["accuracy"]["value"] == pytest.approx(0.75)
    assert (most["n_kept"], most["share"], most["n_right"]) == (4, 0.5, 4)
    assert most["accuracy"]["value"] == 1.0
    assert most["balanced_accuracy"]["value"] == 1.0
    assert most["largest_class"]["value"] == 0.5


def test_no_prediction_is_confident_enough():
    (none,) = select_confident(_predictions(), classes=("a", "b"), thresholds=(0.99,))["m"]
    assert none["n_kept"] == 0
    assert none["accuracy"]["value"] is None


def test_cost_of_a_network_is_that_of_its_layers():
    net = NetClassifier(network="s2_conv1d")
    net.classes_, net.n_features_in_ = np.array(list("abc")), 300
    net.modules_ = [S2Conv1d(300, 3), S2Conv1d(300, 3)]
    found = network_cost(net)
    assert found["parameters"] == 17_316_195
    assert found["networks"] == 2
    assert found["input"] == [300]
    convolutions = sum(
        layer.weight.numel() * (300 - 9 * (number + 1))
        for number, layer in enumerate(net.modules_[0].convolutions)
    )
    dense = sum(layer.weight.numel() for layer in net.modules_[0].dense)
    assert found["multiply_adds"] == convolutions + dense
    assert net.modules_[0].composed
    assert network_cost(object()) is None


def test_large_counts_are_short():
    assert [format_large(n) for n in (1.5516e9, 24_100_000, 312_400, 950, None)] == [
        *("1.55\u202fG", "24.1\u202fM", "312\u202fk", "950", "n/a"),
    ]


def test_sweeps_are_models_that_differ_in_one_parameter():
    models = [
        {"name": "a", "kind": "s2_resnet3d", "params": {"l2": 1e-3}},
        {"name": "b", "kind": "s2_resnet3d"},
        {"name": "c", "kind": "s2_resnet3d", "params": {"l2": 1e-3, "batch_size": 16}},
        {"name": "d", "kind": "resnet3d"},
    ]
    found = {name: [each["name"] for each in group] for name, group in _find_sweeps(models)}
    assert found == {"l2": ["a", "b"], "batch_size": ["a", "c"]}


@pytest.mark.parametrize(("offset", "low", "high"), [(500.0, 90, 120), (0.0, 0, 1)])
def test_raw_intensities_are_told_from_cleaned_ones(offset, low, high):
    rng = np.random.default_rng(0)
    X = (offset + 5 * rng.standard_normal((40, 30))).astype(np.float32)
    X[:, 3] = 7.0  # does not change: does not count
    table = pd.DataFrame({"subject": "01", "run": np.repeat(["1", "2"], 20)})
    assert low <= mean_to_sd(X, table) <= high
    assert np.isnan(mean_to_sd(X[:1], table[:1]))


def test_numbers_of_the_papers():
    """As the papers print them (spec S1.13-S1.15, S2.18, S2.32-S2.35)."""
    found = {
        (paper, each.decoder): [number.value for number in each.numbers]
        for paper, known in PAPERS.items()
        for each in known.reported
    }
    assert found["S1", "CNN"] == [0.94, 0.93, 0.86, 0.91, 0.86, 0.681]
    assert found["S1", "“logistic regression”"] == [0.75, 0.77, 0.53, 0.75, 0.66]
    assert found["S2-A", "1-D CNN"] == [0.849]
    assert found["S2-B", "ResNet-50"] == [0.780, 0.82, 1.38]
    assert found["S2-B", "random forest"] == [0.867]
    assert all(each.caveat for known in PAPERS.values() for each in known.reported)


def test_decoders_of_the_papers_are_known():
    kinds = {kind for known in PAPERS.values() for each in known.reported for kind in each.kinds}
    assert kinds <= set(KINDS)


def test_ours_stand_beside_the_printed_number_of_the_same_class(tmp_path):
    folder = write_results_folder(
        tmp_path / "r", classes=("ANGERRAGE", "FEAR"), mask=False, verdict="leak"
    )
    path = folder / "study.toml"
    path.write_text('compare_with = "S1"\n' + path.read_text())
    results = read_folder(folder)
    logistic = describe_paper(results)["groups"][1]
    ours = {row["measure"]: row["ours"] for row in logistic["rows"]}
    per_class = results.scores["models"]["logistic"]["per_class"]
    assert ours["AUC, fear"] == [("logistic", per_class["FEAR"]["auc"])]
    assert ours["AUC, anger"] == [("logistic", per_class["ANGERRAGE"]["auc"])]
    assert ours["AUC, love"] == []
    page = write_report(folder).read_text()
    section = page[page.index('<section id="paper">') :].split("</section>")[0]
    scores = re.findall(r'<b class="score"[^>]*>[^<]*</b>(.{0,120})', section, flags=re.S)
    assert len(scores) == 2
    assert all("leaks: see audit" in after for after in scores)


def test_without_a_threshold_the_selection_is_the_score(tmp_path):
    results = read_folder(write_results_folder(tmp_path / "r", mask=False))
    found = select_confident(results.predictions, classes=results.classes)
    for name, rows in found.items():
        for metric in ("accuracy", "balanced_accuracy"):
            told = results.scores["models"][name][metric]
            assert rows[0][metric]["value"] == pytest.approx(told["value"])
            low = max(0.0, told["low"])
            assert rows[0][metric]["low"] == pytest.approx(low)


def test_cost_of_a_windowed_network_is_that_of_its_whole_window():
    rng, mask = np.random.default_rng(0), np.ones((6, 6, 6), dtype=bool)
    mask[0] = False
    X, y = rng.standard_normal((24, mask.sum())).astype(np.float32), np.tile(["a", "b"], 12)
    moments = np.column_stack([np.repeat([0, 1], 12), np.tile(np.arange(12), 2)])
    net = VolumeNetClassifier(network="small3d", mask=mask, window=2, max_epochs=1, device="cpu")
    found = network_cost(net.fit(X, y, subjects=np.repeat(["1", "2"], 12), moments=moments))
    assert found["input"] == [2, 6, 6, 6]
    assert found["parameters"] == sum(p.numel() for p in net.modules_[0].parameters())
    assert found["networks"] == 1


def test_an_unscaled_study_of_cleaned_voxels_gets_no_warning(tmp_path):
    path = write_small(tmp_path, {"features": {"scale": False}})
    study, rng = load_study(path), np.random.default_rng(0)
    X = (100 + 5 * rng.standard_normal((40, 30))).astype(np.float32)
    table = pd.DataFrame({"subject": "01", "run": np.repeat(["1", "2"], 20)})
    samples = SimpleNamespace(X=X, table=table)
    raw = make_study(study.model_dump() | {"features": RAW_FEATURES})
    assert len(warn_of_raw(raw, samples)) == 1
    assert warn_of_raw(raw, SimpleNamespace(X=X - 100, table=table)) == []
    assert warn_of_raw(study, samples) == []  # standardised run by run
    scaled = make_study(study.model_dump() | {"features": RAW_FEATURES | {"scale": True}})
    assert warn_of_raw(scaled, samples) == []


@pytest.mark.slow
def test_the_page_of_a_study_that_follows_a_paper(tmp_path, capsys):
    params = {"max_epochs": 1, "normalise": "none"}
    models = [
        {"name": "rbf_svm"},
        {"name": "weak", "kind": "separable3d", "params": params | {"l2": 1e-3}},
        {"name": "none", "kind": "separable3d", "params": params | {"l2": 0.0}},
    ]
    path = write_small(
        tmp_path,
        {
            "models": models,
            "evaluate": RULES,
            "compare_with": "S2-B",
            "features": RAW_FEATURES,
        },
    )
    out = tmp_path / "out"
    evaluation = evaluate(load_study(path), out, progress=False)
    (warning,) = evaluation.scores["warnings"]
    print_evaluation(evaluation)
    assert f"warning: {warning}" in capsys.readouterr().out
    assert warning.startswith("rbf_svm, weak, none got raw intensities")
    training = pd.read_csv(out / "training.tsv", sep="\t")
    for name in ("weak", "none"):
        epochs = pd.read_csv(out / f"epochs/{name}.csv")
        own = training[training["model"] == name].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(epochs, own)
    costs = json.loads((out / "provenance.json").read_text())["networks"]
    assert costs["weak"]["input"] == [1, 6, 6, 6]
    page = (out / "report.html").read_text()
    for text in (
        "What the paper reports",
        "Confident predictions only: a selection",
        "The best of these is no estimate.",
        "got raw intensities",
        "epochs/weak.csv",
    ):
        assert text in page
    study = (out / "study.toml").read_text()
    (out / "study.toml").write_text(study.replace('compare_with = "S2-B"\n', ""))
    assert "What the paper reports" not in write_report(out).read_text()


def test_an_unknown_paper_is_refused(tmp_path):
    with pytest.raises(InputError, match="compare_with"):
        load_study(write_small(tmp_path, {"compare_with": "S3"}))


pytestmark = pytest.mark.usefixtures("one_thread")

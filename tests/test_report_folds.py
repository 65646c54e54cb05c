"""Fold by fold, training and speed on the page: all of what the files say, or said to be part."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emodecode.errors import InputError
from emodecode.evaluate.foldscores import score_folds, write_fold_tables
from emodecode.report.fold_figures import TRAINING, VALIDATION, draw_histories, thin
from emodecode.report.folder import read_folder
from emodecode.report.folds import choose_folds
from emodecode.report.page import write_report
from emodecode.report.training import COLUMNS, _history
from emodecode.samples import read_table, write_table
from results_folder import write_results_folder

CLASSES = ["anger", "fear", "joy"]


def write_training(
    folder: Path, models: list[str], *, n_epochs: int = 30, seeds: tuple[int, ...] = (0,)
) -> pd.DataFrame:
    """Write a made-up ``training.tsv``: losses that fall, the validation rising again."""
    folds = list(dict.fromkeys(read_table(folder / "predictions.tsv")["fold"]))
    rng, tables = np.random.default_rng(0), []
    for model, (k, fold), seed in (
        (m, f, s) for m in models for f in enumerate(folds) for s in seeds
    ):
        epoch = np.arange(1, n_epochs + 1 - k % 3)
        pace = 8 / n_epochs
        train = 0.2 + 1.1 * np.exp(-pace * epoch) + 0.02 * rng.standard_normal(len(epoch))
        valid = train + 0.1 + 0.5 * epoch / n_epochs + 0.05 * rng.standard_normal(len(epoch))
        tables.append(
            pd.DataFrame(
                {
                    "model": model, "fold": fold, "seed": seed, "epoch": epoch,
                    "learning_rate": 0.001, "train_loss": train,
                    "train_accuracy": np.clip(1.1 - train / 1.8, 0, 1), "valid_loss": valid,
                    "valid_accuracy": np.clip(1.0 - valid / 1.8, 0, 1),
                    "best": np.where(epoch == epoch[valid.argmin()], "true", "false"),
                }
            )
        )  # fmt: skip
    table = pd.concat(tables, ignore_index=True)[list(COLUMNS)]
    write_table(table, folder / "training.tsv")
    return table


def write_latency(folder: Path, models: list[str], **changes) -> list[dict]:
    """Write a made-up ``latency.json`` of batch 1 and 600."""
    entries = [
        {
            "model": model, "n_features": 300, "batch": batch, "n_repeats": 200,
            "p50_ms": ms, "p95_ms": 1.2 * ms, "p99_ms": 1.5 * ms, "per_vector_ms": ms / batch,
            "what": "predict_proba of the whole fitted pipeline (select, scale, model)",
            "threads": 1, "device": "cpu",
        } | changes
        for model in models for batch, ms in ((600, 4.25), (1, 0.41))
    ]  # fmt: skip
    (folder / "latency.json").write_text(json.dumps(entries))
    return entries


def give_kind(folder: Path, model: str, kind: str) -> None:
    scores = json.loads((folder / "scores.json").read_text())
    scores["models"][model]["kind"] = kind
    (folder / "scores.json").write_text(json.dumps(scores))


def section(folder: Path, name: str) -> str:
    return find(write_report(folder).read_text(encoding="utf-8"), name)


def find(page: str, name: str) -> str:
    found = re.search(rf'<section id="{name}">(.*?)</section>', page, flags=re.S)
    assert (f'href="#{name}"' in page) == (found is not None)
    return "" if found is None else found[1]


def cells(row: str) -> list[str]:
    return [re.sub(r"<.*?>", "", each) for each in re.findall(r"<td.*?>(.*?)</td>", row)]


def shown(values) -> list[str]:
    return ["n/a" if np.isnan(v) else f"{v:.2f}".replace("0.", ".") for v in values]


@pytest.fixture
def small(tmp_path) -> Path:
    return write_results_folder(tmp_path / "r", mask=False, n_runs=1, n_subjects=5)


# -------------------------------------------------------------------------- fold by fold


def test_table_1_holds_every_fold_and_its_last_rows(small):
    scores = score_folds(read_table(small / "predictions.tsv"), CLASSES)
    part = section(small, "folds")
    for metric, name in (
        ("balanced_accuracy", "balanced accuracy"), ("macro_auc", "macro AUC"),
        ("log_loss", "log loss"),
    ):  # fmt: skip
        table = re.search(rf"<caption>{name}</caption>.*?</table>", part, flags=re.S)[0]
        rows = {
            re.search(r"<th.*?>(.*?)</th>", row)[1]: cells(row)[1:]
            for row in re.findall(r"<tr.*?</tr>", table, flags=re.S)[1:]
        }
        values = scores.wide(metric)
        assert list(rows)[:5] == list(values.index)
        for fold, own in values.iterrows():
            assert rows[fold] == shown(own)
        for row, expected in (
            ("mean", values.mean()), ("sd", values.std(ddof=1)), ("lowest", values.min()),
            ("highest", values.max()),
        ):  # fmt: skip
            assert rows[row] == shown(expected)
    folder = json.loads((small / "scores.json").read_text())["models"]
    assert rows["chance"] == shown(m["log_loss"]["chance"] for m in folder.values())
    assert "(n − 1)" in part
    for model, sd in scores.wide("balanced_accuracy").std(ddof=0).items():
        assert f"{model} {shown([sd])[0]}" in part


def test_confusion_of_each_fold_and_its_mean(small):
    scores = score_folds(read_table(small / "predictions.tsv"), CLASSES)
    part = section(small, "folds")
    means = re.findall(r'<table class="confusion mean">.*?</table>', part, flags=re.S)
    single = re.findall(r'<table class="confusion small">.*?</table>', part, flags=re.S)
    assert (len(means), len(single)) == (3, 15)
    found = [[int(n) for n in re.findall(r">(\d+)</td>", each)] for each in single]
    assert found == scores.counts.reshape(15, 9).tolist()
    for model, table in zip(scores.wide("accuracy"), means, strict=True):
        counts = scores.confusion_of(model)
        written = re.findall(r'<small class="sd">([\d.]+)</small>', table)
        np.testing.assert_allclose([float(n) for n in written], counts.mean(0).ravel(), atol=0.051)
        shares = re.findall(r'">([.\d]+)<small', table)
        expected = (counts / counts.sum(axis=2, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose([float(v) for v in shares], expected.ravel(), atol=0.00501)


def test_every_fold_has_its_roc_in_every_model(small):
    part = section(small, "folds")
    drawings = re.findall(r"<svg.*?</svg>", part, flags=re.S)
    scores = score_folds(read_table(small / "predictions.tsv"), CLASSES)
    assert len(drawings) == 3
    for model, svg in zip(scores.wide("accuracy"), drawings, strict=True):
        own = scores.folds[scores.folds["model"] == model]
        assert re.findall(r">(sub-\d+)</text>", svg) == list(own["fold"])
        assert re.findall(r">AUC ([.\d]+)</text>", svg) == shown(own["macro_auc"])


def test_single_fold_has_no_section(small):
    table = read_table(small / "predictions.tsv").assign(fold="all")
    write_table(table, small / "predictions.tsv")
    assert section(small, "folds") == ""


def test_class_that_a_fold_does_not_test_is_said_and_is_no_zero(tmp_path):
    folder = write_results_folder(tmp_path / "r", mask=False, n_runs=1, n_subjects=4)
    table = read_table(folder / "predictions.tsv")
    table = table[(table["fold"] != "sub-02") | (table["label"] != "joy")]
    write_table(table, folder / "predictions.tsv")
    scores = json.loads((folder / "scores.json").read_text())
    for each in scores["models"].values():
        each["confusion"] = None
    (folder / "scores.json").write_text(json.dumps(scores))
    part = section(folder, "folds")
    assert "Not every fold tests every class: joy is missing in 1." in part
    rows = re.search(r'<table class="compact foldclasses">.*?</table>', part, flags=re.S)[0]
    n_folds = [cells(row)[2] for row in re.findall(r"<tr>.*?</tr>", rows, flags=re.S)[1:]]
    assert n_folds == ["4", "4", "3"] * 3


def test_leak_is_marked_at_every_number(tmp_path):
    folder = write_results_folder(
        tmp_path / "r", mask=False, n_runs=1, n_subjects=3, verdict="leak"
    )
    write_training(folder, ["lda"])
    for name in ("folds", "training"):
        part = section(folder, name)
        numbers = re.findall(r'<td class="n">[^<]*?\.\d\d(.*?)</td>', part)
        assert numbers
        assert all("✕" in rest for rest in numbers)
        for svg in re.findall(r"<svg.*?</svg>", part, flags=re.S):
            assert "leaks: see audit" in svg.split(">")[0]
            assert svg.count("leaks: see audit") == 2
    mean = re.findall(r'<table class="confusion mean">.*?</table>', section(folder, "folds"))
    assert all(each.count("✕") >= 9 for each in mean)


def test_clean_page_has_no_mark(small):
    write_training(small, ["lda"])
    assert "✕" not in section(small, "folds") + section(small, "training")


def test_many_folds_and_models_stay_readable_and_small(tmp_path):
    models = {"dummy": 0.0} | {f"decoder_{k}": 0.3 + k / 15 for k in range(9)}
    folder = write_results_folder(
        tmp_path / "r", mask=False, n_runs=1, n_subjects=60, n_blocks=3, models=models
    )
    write_training(folder, ["decoder_3", "decoder_8"], n_epochs=400)
    page = write_report(folder).read_text(encoding="utf-8")
    assert len(page) < 2_000_000
    part, training = (find(page, name) for name in ("folds", "training"))
    visible = re.sub(r"<details>.*?</details>", "", part, flags=re.S)
    assert "sub-33" not in re.sub(r"<svg.*?</svg>", "", visible, flags=re.S)
    n_drawn = [len(re.findall(r">sub-\d+</text>", s)) for s in re.findall(r"<svg.*?</svg>", part)]
    assert set(n_drawn) == {18}
    assert "18 of 60 folds are shown" in part
    assert re.search(r"<code>folds.tsv</code> and <code>folds-classes.tsv</code> have", part)
    full = re.search(r"<summary>Balanced accuracy of all 60 folds</summary>.*?</table>", part, re.S)
    assert len(re.findall(r"<tr><th", full[0])) == 61
    assert "24 of 60 folds are drawn" in training


def test_many_classes_stay_small(tmp_path):
    classes = tuple(f"emotion number {k:02d}" for k in range(17))
    models = {f"decoder_{k}": 0.5 for k in range(4)}
    folder = write_results_folder(
        tmp_path / "r", mask=False, n_runs=1, n_blocks=1, n_subjects=20, models=models,
        classes=classes,
    )  # fmt: skip
    part = section(folder, "folds")
    assert len(part) < 1_200_000
    assert "<details><summary>Table of 68 rows</summary>" in part


def test_folds_shown_run_from_the_lowest_to_the_highest(tmp_path):
    folder = write_results_folder(tmp_path / "r", mask=False, n_runs=1, n_subjects=30)
    scores = score_folds(read_table(folder / "predictions.tsv"), CLASSES)
    chosen = choose_folds(scores, size=5, budget=90)
    assert len(chosen) == 6
    means = scores.wide("balanced_accuracy").mean(axis=1)
    assert {means.idxmin()} <= set(chosen)
    assert means[chosen].max() == means.max()
    assert chosen == [fold for fold in means.index if fold in chosen]
    assert choose_folds(scores, size=5, budget=10_000) != list(means.index)  # 30 > 24
    assert len(choose_folds(scores, size=1000, budget=1)) == 4


def test_files_of_the_folder_are_named(small):
    page = write_report(small).read_text()
    assert 'href="table1.tsv"' not in page
    write_fold_tables(small, read_table(small / "predictions.tsv"), CLASSES)
    page = write_report(small).read_text()
    for name in ("table1.tsv", "folds.tsv", "folds-classes.tsv", "folds-confusion.tsv"):
        assert f'href="{name}"' in page


# ------------------------------------------------------------------------------ training


def test_training_is_shown_only_where_it_was_recorded(small):
    assert section(small, "training") == ""
    write_training(small, ["logistic", "lda"])
    part = section(small, "training")
    assert len(re.findall("<svg", part)) == 2
    for svg in re.findall(r"<svg.*?</svg>", part, flags=re.S):
        assert re.findall(r">(sub-\d+)</text>", svg) == [f"sub-0{k}" for k in range(1, 6)]


def test_table_of_training_is_that_of_the_best_epochs(small):
    table = write_training(small, ["lda"], seeds=(1, 2))
    part = section(small, "training")
    rows = [cells(row) for row in re.findall(r'<tr><th scope="row">.*?</tr>', part, flags=re.S)]
    best = table[table["best"] == "true"]
    lengths = table.groupby(["fold", "seed"])["epoch"].max()
    assert [row[:3] for row in rows] == [
        [str(seed), str(n), str(epoch)]
        for (_, seed), n, epoch in zip(lengths.index, lengths, best["epoch"], strict=True)
    ]
    for row, (_, own) in zip(rows, best.iterrows(), strict=True):
        names = ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
        assert row[3:] == shown(own[name] for name in names)


@pytest.mark.parametrize("chosen_on", ["train", "test"])
def test_legend_says_what_the_validation_is(small, chosen_on):
    write_training(small, ["lda"])
    study = (small / "study.toml").read_text()
    study = study.replace("[evaluate]\n", f'[evaluate]\nchoose_epoch_on = "{chosen_on}"\n')
    (small / "study.toml").write_text(study)
    part = section(small, "training")
    assert ("no test sample is among them" in part) == (chosen_on == "train")
    assert ("the test samples of the fold themselves" in part) == (chosen_on == "test")
    assert f'style="border-color:{TRAINING}"></span>training<' in part
    assert f'style="border-color:{VALIDATION}"></span>validation<' in part


def test_colours_are_not_swapped(small):
    """Blue is training: its curve lies where the training loss is, below the validation."""
    run = write_training(small, ["lda"]).query("fold == 'sub-01'").assign(best=False)
    flat = run.assign(train_loss=0.25, valid_loss=0.75, train_accuracy=0.9, valid_accuracy=0.2)
    pair = ([_history(flat, "loss")], [_history(flat, "accuracy")])
    svg = draw_histories({"f": pair}, name="lda", index=0)
    heights = {}
    for colour in (TRAINING, VALIDATION):
        paths = re.findall(rf'<path d="([^"]*)"[^>]*stroke: {colour}', svg)
        numbers = [float(v) for v in re.findall(r"[\d.]+", " ".join(paths))]
        heights[colour] = sorted(set(numbers[1::2]))
    loss, accuracy = ([heights[c][k] for c in (TRAINING, VALIDATION)] for k in (0, 1))
    assert loss[0] > loss[1]  # y runs downwards: training has the lower loss
    assert accuracy[0] < accuracy[1]


def test_runs_without_validation_are_drawn_and_said(small):
    table = write_training(small, ["lda"])
    table[["valid_loss", "valid_accuracy", "learning_rate"]] = np.nan
    write_table(table.assign(best="n/a"), small / "training.tsv")
    part = section(small, "training")
    assert "Validation: none was recorded." in part
    assert "best epoch " not in re.sub(r"<svg.*?</svg>|<table.*?</table>|<p.*?</p>", "", part)
    assert not re.search(VALIDATION, re.search(r"<svg.*?</svg>", part, re.S)[0])


def test_broken_training_log_is_refused(small):
    table = write_training(small, ["lda"])
    write_table(table.drop(columns="valid_loss"), small / "training.tsv")
    with pytest.raises(InputError, match="no column valid_loss"):
        write_report(small)
    write_table(table.assign(train_loss="low"), small / "training.tsv")
    with pytest.raises(InputError, match="values of train_loss that are no numbers"):
        write_report(small)


def test_thinned_curves_keep_their_extremes():
    values = np.random.default_rng(0).standard_normal(5000)
    places = thin(values, keep=[1234])
    assert len(places) <= 103
    assert {0, 1234, 4999, values.argmin(), values.argmax()} <= set(places)
    assert np.array_equal(thin(values[:50]), np.arange(50))


# --------------------------------------------------------------------------------- speed


def test_speed_is_shown_only_where_it_was_measured(small):
    assert section(small, "speed") == ""
    (small / "latency.json").write_text("[]")
    assert section(small, "speed") == ""
    write_latency(small, ["lda", "logistic"])
    part = section(small, "speed")
    rows = [cells(row) for row in re.findall(r'<tr><th scope="row">.*?</tr>', part, flags=re.S)]
    one = ["300", "1", ".410", ".492", ".615", ".410", "2\u202f439", "200"]
    many = ["300", "600", "4.25", "5.10", "6.38", ".00708", "141\u202f176", "200"]
    assert rows == [one, many] * 2
    names = re.findall(r'<tr><th scope="row"><span.*?</span>(.*?)</th>', part)
    assert names == ["logistic", "logistic", "lda", "lda"]
    assert "(1 thread, CPU)" in part
    assert "<b>lda, 600 volumes a call</b>: predict_proba of the whole fitted pipeline" in part
    assert "1.29" not in part


def test_s2_speed_stands_beside_its_network_only(small):
    write_latency(small, ["lda"])
    give_kind(small, "lda", "conv1d")
    part = section(small, "speed")
    assert "S2 reports 1.29 ms a vector" in part
    assert re.search(r"as S2 reports</th>.*<b>1\.29</b>", part)
    assert "1.38" not in part
    give_kind(small, "lda", "resnet3d")
    part = section(small, "speed")
    assert "S2 reports 1.38 ms a volume" in part
    assert "1.29" not in part


def test_broken_latency_is_refused(small):
    (small / "latency.json").write_text('[{"model": "lda"}]')
    with pytest.raises(InputError, match="entries without all keys"):
        write_report(small)
    (small / "latency.json").write_text("[{")
    with pytest.raises(InputError, match="not valid JSON"):
        write_report(small)


def test_folder_without_the_new_files_is_still_read(small):
    assert read_folder(small).models == ["dummy", "logistic", "lda"]
    assert section(small, "folds")

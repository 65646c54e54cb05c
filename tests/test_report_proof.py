"""The report on what proves a score: controls, tests, subjects, comparison, calibration."""

import html
import json
import re
from pathlib import Path

import pytest

from emodecode.errors import DataMissingError
from emodecode.report.controls import judge, write_headline
from emodecode.report.methods import write_methods
from emodecode.report.page import write_report
from emodecode.report.proof import describe_test, explain_chance
from emodecode.report.published import find_differences
from emodecode.report.wording import (
    cell_p,
    format_difference,
    format_interval,
    format_number,
    format_probability,
    format_seconds,
    format_share,
)
from proven_folder import SAID, edit, make_control, make_controls, write_proven_folder
from results_folder import write_results_folder
from test_report import Page, read_page

CHANCE_OF_ALL = (
    "Chance is the mean score of the same predictions with exchanged labels (1\u202f000 "
    "permutations); it is not one over the number of classes."
)
FAILED = {"value": 0.91, "low": 0.88, "high": 0.94, "p": 1 / 1001, "passed": False}


@pytest.fixture(scope="module")
def proven(tmp_path_factory) -> tuple[Path, Page]:
    folder = tmp_path_factory.mktemp("report") / "proven"
    write_proven_folder(folder, mask=False)
    return folder, read_page(folder)


@pytest.fixture(scope="module")
def beside(tmp_path_factory) -> tuple[Path, Page]:
    folder = tmp_path_factory.mktemp("report") / "beside"
    models = {"dummy": 0.0, "logistic": 0.1, "lda": 0.08}
    write_proven_folder(folder, models=models, p=0.4, published=True, random=True, mask=False)
    write_report(folder / "as-published")
    return folder, read_page(folder)


def section(page: Page, name: str) -> str:
    """Return the source of one section, or nothing."""
    found = page.source.split(f'<section id="{name}">')
    return found[1].split("</section>")[0] if len(found) > 1 else ""


def words(source: str) -> str:
    text = re.sub(r"<svg.*?</svg>", "", source, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text)))


def test_controls_stand_before_the_scores_with_all_their_numbers(proven):
    folder, page = proven
    table = re.search(r'<table class="controls">.*?</table>', page.source, flags=re.S)[0]
    assert page.source.index('id="controls"') < page.source.index('<section id="scores">')
    rows = re.findall(r"<tr>.*?</tr>", table, flags=re.S)[1:]
    scores = json.loads((folder / "scores.json").read_text())["models"]
    for name, row in zip(("logistic", "lda"), rows, strict=False):
        assert format_interval(scores[name]["balanced_accuracy"]) in words(row)
    for control, row in zip(make_controls(), rows[2:], strict=True):
        said = words(row)
        if control["passed"] is None:
            assert "not asked" in said
            assert "Not asked: there is no film." in said
            continue
        assert f"{format_number(control['value'])} {format_interval(control)}" in said
        assert ".34 .310 1.000 ✓ at chance At chance, as it must be." in said
    for title in ("Time-only decoder", "Noise replay", "Scene control", "Leak canary"):
        assert table.count(title) == 1
    drawing = page.source[: page.source.index('<table class="controls">')]
    assert "decoders and of the controls" in drawing
    assert "Noise replay · lda" in drawing
    assert "Time-only decoder ·" not in drawing
    assert words(table).count("its own") == 2
    assert "The controls took 51 s, 1.02 times what the decoders" in page.text


def test_switched_off_controls_are_said(tmp_path):
    folder = write_proven_folder(tmp_path / "r", controls=[], share=None, mask=False)
    page = read_page(folder)
    assert "Controls were switched off (evaluate.controls = false)" in page.text
    assert "could reach the training; no controls were run." in page.text
    assert "Controls were switched off." in words(section(page, "methods"))
    assert '<table class="controls">' not in page.source


def test_older_folders_have_none_of_it(tmp_path):
    page = read_page(write_results_folder(tmp_path / "r", mask=False))
    for name in ("controls", "overlap", "as-published", "comparison", "inference", "calibration"):
        assert name not in page.attributes("id")
    assert CHANCE_OF_ALL.replace("\u202f", " ") in page.text
    assert "switched off" not in page.text
    assert "refitted" not in page.text
    assert "could reach the training." in page.text


def test_headline_stays_true():
    audit = {"verdict": "clean", "findings": []}
    assert write_headline(audit).endswith("could reach the training.")
    one, none = make_control("canary", "lda", 0.3), make_control("scene", "lda", None)
    assert write_headline(audit | {"controls": [one]}).endswith(
        "and every control landed at chance."
    )
    assert write_headline(audit | {"controls": [one, none]}).endswith(
        "and every control that was asked landed at chance."
    )
    assert write_headline(audit | {"controls": [none]}).endswith("no controls were run.")
    bad = make_control("noise_replay", "lda", **FAILED, p_corrected=0.0009)
    found = {"title": "Control not at chance: Noise replay", "verdict": "leak", "rule": "T2"}
    leak = {"verdict": "leak", "findings": [found], "controls": [bad]}
    assert write_headline(leak).startswith("Leak: a control scored above chance")
    copied = {"title": "Duplicates", "verdict": "leak", "rule": "T2"}
    assert write_headline(leak | {"findings": [found, copied]}).startswith(
        "Leak: test data reached"
    )
    assert write_headline(leak | {"verdict": "caution"}).startswith(
        "Caution: the audit found no leak"
    )


def test_failed_controls_are_judged_as_the_audit_judges_them():
    small, large = {"p_corrected": 0.001}, {"p_corrected": 0.04}
    assert judge(make_control("time_only", "time_only", **FAILED, **small)) == (
        "leak",
        "✕ above chance",
    )
    assert judge(make_control("time_only", "time_only", **FAILED, **large)) == (
        "caution",
        "! above chance",
    )
    assert judge(make_control("confounds", "confounds", **FAILED, **small))[0] == "caution"
    assert judge(make_control("scene", "lda", None)) == ("note", "not asked")


def test_overlap_is_in_numbers(proven):
    _, page = proven
    part = words(page.source.split('id="overlap"')[1].split("<nav")[0])
    for text in (
        "whoever saw it 100 %", "saw 94 %", "mean 12.4", "within 4 s 76 %", "within 30 s > 99.9 %",
        "any subject, no brain data: balanced accuracy, macro AUC .91, .99",
        "moved by +2 volumes (+4 s)",
    ):  # fmt: skip
        assert text in part
    assert "in the subject's own run" not in part
    assert "Share of variance that the labels explain" in page.source


def test_unknown_overlap_is_left_out(tmp_path):
    folder = write_proven_folder(tmp_path / "r", source="table", mask=False, n_subjects=3)
    empty = {
        "n_test": 3,
        "share_stimulus_in_training": None,
        "share_same_subject_within": {"4": None},
        "time_only": {"stimulus": None},
    }
    edit(folder / "audit.json", lambda audit: audit.update(overlap=empty, lags={}))
    assert "overlap" not in read_page(folder).attributes("id")


def test_every_p_says_how_it_was_found(proven):
    _, page = proven
    part = words(section(page, "scores"))
    assert "< .001 refitted m = 1 000, least p 1/1 001" in part
    assert part.count("predictions fixed, approximate m = 1 000") == 2
    assert "Chance of dummy and logistic is the mean score of the same predictions" in part
    assert "chance of lda is the mean score after everything was fitted anew" in part
    assert "1,000 labellings: labels of whole blocks exchanged; everything refitted." in part


def test_smallest_p_of_few_arrangements():
    score = {
        "balanced_accuracy": {"p_smallest": 1 / 36},
        "test": {"method": "refit", "n_permutations": 200, "sentence": "x"},
    }
    assert describe_test(score)["size"] == "m = 200, least p 1/36"
    assert describe_test({}) == {"how": "", "size": "", "sentence": ""}
    assert explain_chance({"a": {}}, 1000) == CHANCE_OF_ALL


def test_inference_over_subjects(proven):
    folder, page = proven
    part = words(page.source.split('id="inference"')[1].split("</details>")[0])
    for own in json.loads((folder / "scores.json").read_text())["models"].values():
        inference = own["inference"]
        assert format_interval(inference["bootstrap"]) in part
        assert cell_p(inference["sign_flip"]["p"]) in part
    assert "exact, least p 1/64" in part
    assert re.search(r"more than \d+ % \(at most \d+ % can be shown\)", part)
    assert "share training data" in part


def test_better_is_said_by_the_file_alone(proven, tmp_path):
    _, page = proven
    part = words(section(page, "comparison"))
    assert page.text.count("better than") == 1
    assert f"{SAID}." in part
    assert "lda logistic .12 [.04, .20] .031 .011 .011 .99 .01 < .01" in part
    folder = write_proven_folder(tmp_path / "r", mask=False)
    apart = "lda and logistic cannot be told apart: difference .12 [.04, .20]"
    edit(folder / "scores.json", lambda s: s["comparisons"][0].update(sentence=apart))
    other = read_page(folder)
    assert apart in other.text
    assert "better than" not in other.text


def test_untested_pair(tmp_path):
    folder = write_proven_folder(tmp_path / "r", mask=False)
    nothing = dict.fromkeys(("low", "high", "corrected_t", "bayes", "sign_flip", "p_holm"))
    edit(folder / "scores.json", lambda s: s["comparisons"][0].update(nothing))
    part = words(section(read_page(folder), "comparison"))
    assert "lda logistic .12 n/a n/a n/a n/a n/a n/a" in part


def test_calibration_before_and_after(proven):
    folder, page = proven
    scores = json.loads((folder / "scores.json").read_text())["models"]
    part = section(page, "calibration")
    assert part.count("<svg") == 3
    said = words(part)
    for own in scores.values():
        for key in ("log_loss", "brier", "ece"):
            assert f"{format_number(own[key]['value'])} {format_interval(own[key])}" in said
    before = [format_number(v) for v in scores["lda"]["uncalibrated"].values()]
    assert f"1.60 (1.60 to 1.60) before scaling {' '.join(before)}" in said
    assert said.count("not scaled") == 2


def test_without_scaling_there_is_no_before(tmp_path):
    folder = write_proven_folder(tmp_path / "r", mask=False, scaled=False)
    said = words(section(read_page(folder), "calibration"))
    assert said.count("not scaled") == 3
    assert "before scaling" not in said
    assert "Temperature: mean" not in said


# ------------------------------------------------------------------------- as published


def test_both_forms_stand_side_by_side(beside):
    folder, page = beside
    forms = [folder / "as-published", folder]
    published, honest = (json.loads((f / "scores.json").read_text())["models"] for f in forms)
    part = words(section(page, "as-published"))
    for name in ("logistic", "lda"):
        first, second = (form[name]["balanced_accuracy"] for form in (published, honest))
        row = re.search(rf" {name} \.\d.*?✓ clean", part)[0]
        assert row.count(format_number(first["value"])) >= 1
        auc = format_number(honest[name]["macro_auc"]["value"])
        cells = f"{format_number(second['value'])} {format_interval(second)} .34 .400 {auc} ✓ clean"
        assert cells in row
    best = max(("logistic", "lda"), key=lambda n: published[n]["balanced_accuracy"]["value"])
    said = [format_number(form[best]["balanced_accuracy"]["value"]) for form in (published, honest)]
    assert f"the published procedure scores {said[0]} ✕ leaks: see audit where the honest" in part
    assert f"one scores {said[1]} (chance .34; {best})" in part
    assert "split shuffled leave one subject out" in part
    assert "voxels selected on all train" in part
    sections = [attrs["id"] for tag, attrs in page.tags if tag == "section"]
    assert sections[1:3] == ["scores", "as-published"]
    assert page.attributes("href").count("as-published/report.html") >= 2
    assert "As published." in words(section(page, "methods"))


def test_published_numbers_carry_the_mark(beside):
    _, page = beside
    part = section(page, "as-published")
    cells = re.findall(r'<td class="(?:n )?published">(.*?)</td>', part, flags=re.S)
    assert len(cells) == 3 * 5
    assert all("leaks: see audit" in cell for cell in cells)
    assert "✕ leaks: see audit" in words(part.split("<table")[0])
    outside = page.source.replace(part, "")
    assert "leaks: see audit" not in outside
    honest = re.findall(r'<td class="n">(.*?)</td>', part, flags=re.S)
    assert honest
    assert not any("leaks" in cell for cell in honest)


def test_random_labels_are_called_random(beside, proven):
    assert beside[1].text.count("These labels are random: every score above chance is an") == 3
    assert "random:" not in proven[1].text


def test_incomplete_published_folder_is_refused(tmp_path):
    folder = write_proven_folder(tmp_path / "r", published=True, mask=False)
    (folder / "as-published" / "scores.json").unlink()
    with pytest.raises(DataMissingError, match=r"as-published.*scores\.json"):
        write_report(folder)


def test_published_page_that_is_not_there_is_not_linked(tmp_path):
    folder = write_proven_folder(tmp_path / "r", published=True, mask=False)
    page = read_page(folder)
    ids = page.attributes("id")
    for href in page.attributes("href", "xlink:href"):
        assert href.startswith("https://doi.org/") or (
            href[1:] in ids if href.startswith("#") else (folder / href).is_file()
        )


def test_differences_of_two_studies():
    one = {"evaluate": {"split": "shuffled", "allow_leakage": True, "n_folds": 5}, "name": "a"}
    two = {"evaluate": {"split": "auto", "allow_leakage": False}, "name": "b", "as_published": {}}
    assert find_differences(one, two) == [
        ("split", "shuffled", "auto"),
        ("evaluate.n_folds", "5", "not set"),
    ]


# --------------------------------------------------------------------------------- rest


def test_leak_marks_the_new_numbers_too(tmp_path):
    bad = make_control("time_only", "time_only", **FAILED, p_corrected=0.0009)
    folder = write_proven_folder(tmp_path / "r", verdict="leak", mask=False, controls=[bad])
    page = read_page(folder)
    after = re.findall(r'<b class="score"[^>]*>[^<]*</b>(.{0,130})', page.source, flags=re.S)
    assert len(after) > 3 * (3 + 3 * 4 + 4) + 2 + 1 + 3 * 3 + 3
    assert all("leaks: see audit" in each for each in after)
    table = re.search(r'<table class="controls">.*?</table>', page.source, flags=re.S)[0]
    assert "✕ above chance" in words(table)
    drawings = re.findall(r'<svg.*?aria-label="([^"]*)"', page.source, flags=re.S)
    own = [label for label in drawings if "Label of every" not in label and "variance" not in label]
    assert all("leaks: see audit" in label for label in own)


def test_names_in_new_places_are_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    controls = [make_control("canary", evil, 0.3, title=evil, sentence=evil)]
    folder = write_proven_folder(tmp_path / "r", mask=False, controls=controls)

    def poison(scores):
        scores["models"]["lda"]["test"]["sentence"] = evil
        scores["comparisons"][0].update(a=evil, sentence=evil)

    edit(folder / "scores.json", poison)
    page = read_page(folder)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.source.count(html.escape(evil)) >= 5


def test_page_is_whole_and_small(proven, beside):
    for folder, page in (proven, beside):
        ids = page.attributes("id")
        assert len(ids) == len(set(ids))
        assert set(re.findall(r"url\(#([^)]+)\)", page.source)) <= set(ids)
        assert (folder / "report.html").stat().st_size < 3_000_000
        for href in page.attributes("href", "xlink:href"):
            assert href.startswith("https://doi.org/") or (
                href[1:] in ids if href.startswith("#") else (folder / href).is_file()
            )


def test_methods_cite_what_was_used(proven, tmp_path):
    _, page = proven
    methods, listed = words(section(page, "methods")), words(section(page, "references"))
    for name in (
        "Ojala", "Phipson", "Nadeau", "Prichard", "Allefeld", "Guo", "Holm", "Benavoli", "Nichols",
        "Efron", "Brier",
    ):  # fmt: skip
        assert name in methods
        assert name in listed
    assert "For lda selection and fit were repeated on each labelling" in methods
    assert "For dummy and logistic the predictions stayed fixed." in methods
    old = words(section(read_page(write_results_folder(tmp_path / "r", mask=False)), "references"))
    assert not [name for name in ("Ojala", "Nadeau", "Prichard", "Allefeld", "Guo") if name in old]


def test_methods_name_failed_controls():
    scores = {"split": {}, "models": {}}
    bad = make_control("noise_replay", "lda", **FAILED, p_corrected=0.01)
    audit = {"verdict": "caution", "findings": [], "controls": [bad]}
    text = dict(write_methods({}, {"emodecode": "1"}, scores, audit)[0])["Controls"]
    assert "Not at chance: Noise replay." in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "100 %"), (0.0, "0 %"), (0.042, "4.2 %"), (0.5, "50 %"), (0.9996, "> 99.9 %"),
     (0.0004, "< 0.1 %"), (0.995, "99.5 %"), (None, "n/a")],
)  # fmt: skip
def test_shares_are_all_or_nothing_only_when_they_are(value, text):
    assert format_share(value) == text


def test_small_forms():
    assert [format_probability(p) for p in (1.0, 0.5, 0.001, None)] == [
        "> .99",
        ".50",
        "< .01",
        "n/a",
    ]
    assert [format_seconds(s) for s in (3.14, 84.2, 600, 36000, None)] == [
        "3.1 s", "84 s", "10 min", "10.0 h", "n/a",
    ]  # fmt: skip
    pair = {"difference": 0.12, "low": -0.003, "high": 0.2}
    assert format_difference(pair) == ".120 [−.003, .200]"

"""Bad folders, sample tables, split files and arguments, given to the real command line."""

import json

import pytest

from designs import blocks
from emodecode.samples import write_table
from refusal import Cases, evaluate, label
from results_folder import write_results_folder
from small_study import write_small, write_study

case = Cases(evaluate)


# --- where the results go ------------------------------------------------------------------------


@case("notes.txt/out", "cannot be written (Not a directory)", "Choose another --out")
def a_file_in_the_way(root):
    (root / "notes.txt").write_text("mine")
    return evaluate(root, out="notes.txt/out")


@case("notes.txt", "a file", "Choose another --out")
def a_file_instead_of_a_folder(root):
    (root / "notes.txt").write_text("mine")
    return evaluate(root, out="notes.txt")


@case("out", "holds 1 files already (notes.txt", "--overwrite")
def a_folder_that_holds_files(root):
    (root / "out").mkdir()
    (root / "out/notes.txt").write_text("mine")


@case("out", "holds 1 files already (notes.txt", "--overwrite")
def labels_into_a_folder_that_holds_files(root):
    (root / "out").mkdir()
    (root / "out/notes.txt").write_text("mine")
    return label(root)


@case("labels.keep", "unknown label 'anger'")
def nothing_is_left_of_new_folders(root):
    write_study(root, {"labels": {"keep": ["anger"]}})
    return evaluate(root, out="a/b/c")


@case("labels.keep", "unknown label 'anger'")
def nothing_is_lost_of_an_earlier_result(root):
    write_study(root, {"labels": {"keep": ["anger"]}})
    (root / "out/.resume").mkdir(parents=True)
    (root / "out/.resume/fold.npz").write_text("finished before the interruption")
    (root / "out/report.html").write_text("earlier")
    return evaluate(root, "--overwrite")


# --- audit ---------------------------------------------------------------------------------------


def _audit(root, splits: object, *, without: str = "") -> list:
    write_table(blocks().drop(columns=[without] if without else []), root / "samples.tsv")
    text = splits if isinstance(splits, str) else json.dumps(splits)
    (root / "splits.json").write_text(text)
    return ["audit", "--table", root / "samples.tsv", "--splits", root / "splits.json"]


@case(
    "splits.json: fold fold-1", "2 row numbers in test outside the table (first: 900)", "0 to 899"
)
def rows_outside_the_table(root):
    return _audit(root, [{"train": [0, 1], "test": [899, 900, 1000]}])


@case("splits.json: fold fold-1", "outside the table (first: -1)", "rows count from 0")
def negative_rows(root):
    return _audit(root, [{"train": [0, -1], "test": [3]}])


@case("splits.json", "fold 1 without train and test", "docs/")
def folds_without_test(root):
    return _audit(root, [{"train": [0, 1]}])


@case("splits.json", "no JSON")
def splits_that_are_no_json(root):
    return _audit(root, "[{")


@case("samples.tsv", "no column subject", "tab-separated")
def table_without_subject(root):
    return _audit(root, [{"train": [0], "test": [1]}], without="subject")


@case("samples.tsv", "onset_s = 'soon'", "no number")
def table_with_a_time_in_words(root):
    arguments = _audit(root, [{"train": [0], "test": [1]}])
    lines = (root / "samples.tsv").read_text().splitlines()
    lines[1] = lines[1].replace("\t0.0\t", "\tsoon\t")
    (root / "samples.tsv").write_text("\n".join(lines))
    return arguments


@case("splits.json: fold fold-1", "something else than lists of numbers")
def rows_beyond_all_bounds(root):
    return _audit(root, [{"train": [0], "test": [10**30]}])


@case("none.tsv", "no such file", "sample table")
def no_table(root):
    return ["audit", "--table", root / "none.tsv", "--splits", root / "none.json"]


@case("emodecode audit", "--table and --splits", "emodecode audit study.toml")
def audit_of_nothing(root):
    return ["audit", "--json"]


@case("1 subject (02)", "at least 2 subjects")
def audit_of_an_impossible_split(root):
    write_study(root, {"data": {"subjects": ["02"]}})
    return ["audit", root / "study.toml"]


# --- report --------------------------------------------------------------------------------------


@case("study.toml", "no such file", "emodecode evaluate")
def report_of_an_empty_folder(root):
    (root / "results").mkdir()
    return ["report", root / "results"]


@case("results", "no such folder", "Check the path")
def report_of_no_folder(root):
    return ["report", root / "results"]


@case("scores.json", "not valid JSON", "a complete JSON file")
def report_of_truncated_scores(root):
    scores = write_results_folder(root / "results") / "scores.json"
    scores.write_text(scores.read_text()[:400])
    return ["report", root / "results"]


@case("predictions.tsv", "another confusion matrix than", "the same evaluation")
def report_of_truncated_predictions(root):
    predictions = write_results_folder(root / "results") / "predictions.tsv"
    lines = predictions.read_text().splitlines()
    predictions.write_text("\n".join(lines[:-4]) + "\n")
    return ["report", root / "results"]


# --- simulate and fetch --------------------------------------------------------------------------


@case("simulation: design", "design = 'rest'", "blocks, movie")
def unknown_design(root):
    return ["simulate", root / "new", "--design", "rest", "--quiet"]


@case("--set preset", "docs/simulator.md", "emodecode simulate --help")
def option_as_a_choice(root):
    return ["simulate", root / "new", "--set", "preset=s1"]


@case("simulation: code", "code = 'quadratic'", "linear")
def unknown_code(root):
    return ["simulate", root / "new", "--code", "quadratic", "--quiet"]


@case("bids", "it exists already", "new folder")
def simulate_into_an_existing_folder(root):
    return ["simulate", root / "bids", "--quiet"]


@case("bids", "has no derivatives/truth/truth.json", "delete the folder yourself")
def simulate_over_real_data(root):
    return ["simulate", root / "bids", "--overwrite", "--quiet"]


@case("fetch", "no data set called 'studyforest'", "Did you mean 'studyforrest")
def unknown_set(root):
    return ["fetch", "studyforest", "--out", root / "new"]


@case("fetch --subjects", "no subject 99", "01, 02")
def unknown_subject_of_a_set(root):
    return ["fetch", "ds000113", "--out", root / "new", "--subjects", "99"]


@case("--url", "'mirror.org'", "http://")
def address_without_protocol(root):
    return ["fetch", "ds000113", "--out", root / "new", "--url", "mirror.org"]


# --- the test ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "words"), case.entries)
def test_refused(spoil, words, tmp_path, capsys):
    write_small(tmp_path)
    case.check(spoil, words, tmp_path, capsys)

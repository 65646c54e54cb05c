"""What the documents tell users of other tools to write, and what the pages tell readers."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import LeaveOneGroupOut

from emodecode.cli import main
from emodecode.report.methods import _selection
from emodecode.report.proof_methods import tell_controls

DOCS = Path(__file__).parents[1] / "docs"
SUBJECTS = np.repeat(["a", "b", "c", "d"], 12)


def run(*arguments) -> int:
    with pytest.raises(SystemExit) as done:
        main([str(argument) for argument in arguments])
    return done.value.code or 0


def write_by(number: int, folder: Path, monkeypatch, **names) -> list[Path]:
    """Run a recipe of docs/evaluation.md in `folder` beside a table; arguments of the audit."""
    labels = np.tile(np.repeat(["joy", "fear"], 3), 8)
    onset = np.tile(np.arange(12) * 2.0, 4)
    table = pd.DataFrame({"subject": SUBJECTS, "label": labels, "run": 1, "onset_s": onset})
    table.to_csv(folder / "samples.tsv", sep="\t", index=False)
    recipes = re.findall(r"```python\n(.*?)```", (DOCS / "evaluation.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(recipes[number], {"json": json, "Path": Path, **names})
    files = ("--table", "samples.tsv", "--splits", "splits.json", "--fitted", "fitted.json")
    return [Path(part) if part.endswith(("tsv", "json")) else part for part in files]


def test_the_recipe_for_scikit_learn_is_read_and_clean(tmp_path, monkeypatch):
    data = {"X": SUBJECTS, "y": SUBJECTS, "groups": SUBJECTS, "splitter": LeaveOneGroupOut()}
    assert run("audit", *write_by(0, tmp_path, monkeypatch, **data)) == 0


def test_the_recipe_for_nilearn_names_the_grid_that_is_chosen_on_test_folds(
    tmp_path, monkeypatch, capsys
):
    folds = list(LeaveOneGroupOut().split(SUBJECTS, groups=SUBJECTS))
    decoder = SimpleNamespace(cv_=folds)
    assert run("audit", *write_by(1, tmp_path, monkeypatch, decoder=decoder)) == 1
    assert "[leak] T6 The step 'param_grid'" in capsys.readouterr().out


@pytest.mark.parametrize(("validated", "code"), [(slice(24, 36), 0), (slice(36, 48), 1)])
def test_the_recipe_for_pytorch_takes_indices_of_any_kind(tmp_path, monkeypatch, validated, code):
    rows = np.arange(48)  # samplers keep what they are given: lists, arrays, ranges
    parts = {"train": range(24), "val": rows[validated], "test": rows[36:].tolist()}
    names = {name: SimpleNamespace(indices=part) for name, part in parts.items()}
    assert run("audit", *write_by(2, tmp_path, monkeypatch, **names)) == code


def test_keys_of_a_study_are_no_option_of_a_foreign_split(tmp_path, monkeypatch, capsys):
    data = {"X": SUBJECTS, "y": SUBJECTS, "groups": SUBJECTS, "splitter": LeaveOneGroupOut()}
    given = write_by(0, tmp_path, monkeypatch, **data)
    assert run("audit", *given, "--set", "evaluate.gap_s=3") == 2
    assert "--set" in capsys.readouterr().err


def test_methods_say_when_voxels_were_selected_on_all_samples():
    study = {"features": {"n_voxels": 300, "fit_on": "all"}, "models": [{"name": "lda"}]}
    (leaky,) = _selection(study, study["features"])
    assert "from all samples, test samples and their labels included" in leaky
    assert "training" not in leaky
    (honest,) = _selection(study, {"n_voxels": 300, "fit_on": "train"})
    assert honest.endswith("from the training data only.")


def test_methods_name_only_the_controls_that_were_asked():
    asked = {"name": "noise_replay", "title": "Noise replay", "passed": True}
    permuted = "With all rows permuted within their runs, the same pipeline (lda) scores .33."
    missing = {"name": "time_only", "title": "Time-only decoder", "passed": None}
    audit = {"controls": [asked | {"sentence": permuted}, missing]}
    text = " ".join(tell_controls({}, audit))
    assert "nearest neighbour" not in text
    assert "Not asked: Time-only decoder." in text
    assert "random order within each run" in text
    assert "random phases" not in text

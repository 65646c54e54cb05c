"""A results folder with everything that proves its scores: controls, tests, comparisons."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import tomli_w

from emodecode.evaluate.calibration import describe_calibration
from emodecode.evaluate.subjects import describe_subjects
from results_folder import write_results_folder

SAID = "lda is better than logistic by .12 [.04, .20] (corrected t, p = .011)"
OVERLAP = {
    "n_test": 288,
    "share_stimulus_in_training": 1.0,
    "share_moment_of_others_in_training": 0.942,
    "mean_other_subjects_in_training": 12.43,
    "share_same_subject_within": {"4": 0.761, "10": 0.988, "30": 0.9996},
    "time_only": {
        "stimulus": {"balanced_accuracy": 0.913, "macro_auc": 0.987},
        "subject": None,
    },
}
LAGS = {
    "lags_vol": list(range(-2, 7)),
    "lags_s": [2.0 * k for k in range(-2, 7)],
    "share": [0.011, 0.013, 0.017, 0.024, 0.031, 0.027, 0.02, 0.015, 0.012],
    "per_subject": {
        f"{s:02d}": [
            v + 0.004 * ((s * 7 + k) % 5 - 2)
            for k, v in enumerate([0.011, 0.013, 0.017, 0.024, 0.031, 0.027, 0.02, 0.015, 0.012])
        ]
        for s in range(1, 7)
    },
    "n_subjects": 6,
    "best_vol": 2,
    "best_s": 4.0,
    "p": 0.004,
    "z": 3.1,
    "by_accident": 0.010,
    "flagged": False,
}
TITLES = {
    "time_only": ("T5", "Time-only decoder"),
    "noise_replay": ("T2", "Noise replay"),
    "scene": ("T5", "Scene control"),
    "canary": ("T3", "Leak canary"),
    "confounds": ("T13", "Confound decoder"),
}


def make_control(name: str, model: str, value: float | None, **changes) -> dict:
    """Return one control as ``audit.json`` holds it; at chance unless changed."""
    rule, title = TITLES[name]
    asked = value is not None
    return {
        "name": name,
        "rule": rule,
        "title": title,
        "model": model,
        "value": value,
        "low": value - 0.05 if asked else None,
        "high": value + 0.05 if asked else None,
        "chance": 0.336 if asked else None,
        "p": 0.31 if asked else None,
        "p_corrected": 1.0 if asked else None,
        "n_folds": 6 if asked else 0,
        "n_repeats": 2 if asked else 0,
        "seconds": 7.25,
        "passed": True if asked else None,
        "sentence": "at chance, as it must be" if asked else "not asked: there is no film",
    } | changes


def make_controls(models=("logistic", "lda")) -> list[dict]:
    """Return all controls, the scene control not asked."""
    return [
        make_control("time_only", "time_only", 0.341),
        *(make_control("noise_replay", name, 0.322) for name in models),
        make_control("scene", "lda", None),
        *(make_control("canary", name, 0.352) for name in models),
        make_control("confounds", "confounds", 0.364),
    ]


def write_proven_folder(
    folder: Path,
    *,
    controls: list[dict] | None = None,
    share: float | None = 1.02,
    published: bool = False,
    random: bool = False,
    scaled: bool = True,
    **choices,
) -> Path:
    """Write a folder with all new keys; `choices` are those of `write_results_folder`."""
    write_results_folder(folder, **choices)
    controls = make_controls() if controls is None else controls
    edit(folder / "audit.json", lambda audit: audit.update(
        controls=controls, controls_share=share, overlap=OVERLAP, lags=LAGS
    ))  # fmt: skip
    edit(folder / "scores.json", lambda scores: _prove(folder, scores, scaled=scaled))
    (folder / "fitted.json").write_text("[]")
    rules = {"controls": share is not None, "control_share": 1.0, "permutation": "auto"}
    rules |= {"calibrate": "temperature" if scaled else "none"}
    edit_study(folder, evaluate=rules, features={"fit_on": "train"})
    if random:
        edit_study(folder, labels={"source": "random"})
    if published:
        _publish(folder, random=random)
    return folder


def edit(path: Path, change) -> None:
    """Change a JSON file in place."""
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_study(folder: Path, **sections: dict) -> None:
    """Change keys of the sections of ``study.toml``."""
    study = tomllib.loads((folder / "study.toml").read_text())
    for name, values in sections.items():
        study[name] |= values
    (folder / "study.toml").write_text(tomli_w.dumps(study))


def _prove(folder: Path, scores: dict, *, scaled: bool) -> None:
    predictions = pd.read_csv(folder / "predictions.tsv", sep="\t", dtype={"subject": str})
    rng = np.random.default_rng(1)
    for name, own in scores["models"].items():
        refitted = name == "lda"
        own["test"] = {
            "method": "refit" if refitted else "predictions",
            "n_permutations": 1000,
            "sentence": "1,000 labellings: labels of whole blocks exchanged; "
            + ("everything refitted" if refitted else "predictions fixed (approximate)"),
        }
        part = predictions[predictions["model"] == name]
        folds = part["fold"].unique()
        temperatures = dict.fromkeys(folds, 1.6) if scaled and name == "lda" else None
        own |= describe_calibration(
            part, classes=scores["classes"], seed=0, temperatures=temperatures
        )
        values = {s: each["balanced_accuracy"] for s, each in own["per_subject"].items()}
        own["inference"] = describe_subjects(
            values,
            own["balanced_accuracy"]["chance"],
            null_per_subject=rng.normal(0.335, 0.06, (200, len(values))) if refitted else None,
        )
    real = [name for name in scores["models"] if name != "dummy"]
    scores["comparisons"] = [_pair("lda", "logistic")] if {"lda", "logistic"} <= set(real) else []


def _pair(a: str, b: str) -> dict:
    return {
        "a": a,
        "b": b,
        "metric": "balanced_accuracy",
        "difference": 0.1234,
        "low": 0.0412,
        "high": 0.2046,
        "n_subjects": 6,
        "sign_flip": {"p": 0.03125, "p_smallest": 0.03125, "exact": True},
        "corrected_t": {
            "t": 3.9,
            "df": 5,
            "p": 0.0112,
            "n_units": 6,
            "unit": "folds",
            "ratio": 0.2,
        },
        "bayes": {"p_a_better": 0.9899, "p_rope": 0.0078, "p_b_better": 0.0023, "rope": 0.01},
        "p_holm": 0.0112,
        "n_pairs": 1,
        "sentence": SAID,
    }


def _publish(folder: Path, *, random: bool) -> None:
    inside = write_results_folder(
        folder / "as-published",
        models={"dummy": 0.0, "logistic": 2.5, "lda": 2.2},
        verdict="leak",
        mask=False,
        seed=3,
    )
    edit_study(inside, evaluate={"split": "shuffled"}, features={"fit_on": "all"})
    if random:
        edit_study(inside, labels={"source": "random"})

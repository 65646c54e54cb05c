"""A made-up results folder, as `emodecode evaluate` would write it: no brain was harmed."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import tomli_w
from scipy import stats

from emodecode.samples import write_table

MNI_3MM = np.array([[3.0, 0, 0, -90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
VERSIONS = {"python": "3.11.9", "numpy": "2.4.6", "scikit-learn": "1.9.1", "nilearn": "0.14.1"}
FINDINGS = {
    "leak": {
        "rule": "T1",
        "title": "Training samples of the same run close in time",
        "verdict": "leak",
        "n_samples": 118,
        "share": 0.82,
        "worst": "fold shuffle-1: sub-03 run-1 volume 41 2 s from sub-03 run-1 volume 40",
        "danger": "Neighbouring volumes are nearly equal: data without information score high.",
        "remedy": 'Hold out whole runs or subjects (split = "auto" chooses).',
    },
    "caution": {
        "rule": "T5b",
        "title": "Labels come at the same times in all subjects",
        "verdict": "caution",
        "n_samples": 288,
        "share": 1.0,
        "worst": "training samples at the same time in the run carry the label in 100% of cases",
        "danger": "Time alone predicts the label: drifts and fatigue can be decoded instead.",
        "remedy": "Test across runs with another order, or report it.",
    },
    "note": {
        "rule": "T10",
        "title": "Classes of unequal size among the test samples",
        "verdict": "note",
        "n_samples": 288,
        "share": 1.0,
        "worst": "120 of anger, 64 of joy: always guessing the first is right in 42%",
        "danger": "Plain accuracy rewards guessing the largest class; balanced accuracy does not.",
        "remedy": "Read balanced accuracy.",
    },
}


def write_results_folder(
    folder: Path,
    *,
    classes: tuple[str, ...] = ("anger", "fear", "joy"),
    models: dict[str, float] | None = None,
    n_subjects: int = 6,
    n_runs: int = 2,
    n_blocks: int = 4,
    verdict: str = "clean",
    source: str = "bids",
    labels: str = "events",
    mask: bool = True,
    timeline: bool = False,
    n_permutations: int = 1000,
    p: float | None = None,
    title: str = "",
    seed: int = 0,
) -> Path:
    """Write the folder and return it; the same arguments give the same bytes.

    Parameters
    ----------
    models : dict of str -> float
        Model and how much its probabilities know of the label (0: nothing).
    p : float, optional
        p of every real model; by default small for models that know something.
    """
    models = {"dummy": 0.0, "logistic": 0.9, "lda": 0.7} if models is None else models
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    classes = tuple(sorted(classes))
    samples = _samples(rng, classes, n_subjects, n_runs, n_blocks, source, labels)
    write_table(samples, folder / "samples.tsv")
    predictions = _predictions(rng, samples, classes, models)
    write_table(predictions, folder / "predictions.tsv")
    scores = {
        "classes": list(classes),
        "split": {
            "name": "leave_one_subject_out",
            "sentence": f"Split leave_one_subject_out ({n_subjects} folds): each subject is tested "
            "on a decoder of all the others.",
            "n_folds": n_subjects,
        },
        "chance": {
            "method": "labels of whole blocks exchanged within runs (12)",
            "n_permutations": n_permutations,
        },
        "models": {
            name: _scores(predictions, classes, name, strength, n_permutations, p)
            for name, strength in models.items()
        },
    }
    findings = {"clean": ["note"], "caution": ["caution"], "leak": ["leak", "caution"]}[verdict]
    audit = {
        "verdict": verdict,
        "gap_s": 30.0,
        "findings": [FINDINGS[name] for name in findings],
        "not_checked": ["T2, T3, T6, T14: what fitted steps saw (no ledger given)"],
        "allow_leakage": verdict == "leak",
    }
    _write(folder / "scores.json", scores)
    _write(folder / "audit.json", audit)
    _write(folder / "splits.json", [])
    (folder / "study.toml").write_text(tomli_w.dumps(_study(models, source, labels, title)))
    maps = _brain(rng, folder, classes, models) if mask else []
    if timeline:
        write_table(_timeline(rng, classes), folder / "labels-timeline.tsv")
    _write(
        folder / "provenance.json", _provenance(samples, list(models), source, labels, maps, mask)
    )
    return folder


def _samples(rng, classes, n_subjects, n_runs, n_blocks, source, labels) -> pd.DataFrame:
    rows = []
    images = source != "table"
    design = [rng.permutation(np.repeat(classes, n_blocks)) for _ in range(n_runs)]
    for subject in range(1, n_subjects + 1):
        for run in range(n_runs):
            for block, label in enumerate(design[run]):
                for volume in range(block * 6 + 3, block * 6 + 5):
                    rows.append(
                        {
                            "subject": f"{subject:02d}",
                            "session": "n/a",
                            "run": str(run + 1) if images else "n/a",
                            "volume": volume if images else block,
                            "onset_s": volume * 2.0 if images else np.nan,
                            "label": label,
                            "stimulus": "film" if labels == "annotations" else "n/a",
                            "stimulus_time_s": run * 600 + volume * 2.0 - 5
                            if labels == "annotations"
                            else np.nan,
                            "block": f"{block:02d}",
                            "agreement": 0.6 if labels == "annotations" else np.nan,
                        }
                    )
    return pd.DataFrame(rows)


def _predictions(rng, samples, classes, models) -> pd.DataFrame:
    tables = []
    truth = np.searchsorted(classes, samples["label"])
    skill = 1 + 0.3 * rng.standard_normal(samples["subject"].nunique())
    own = skill[samples["subject"].astype(int).to_numpy() - 1]
    for model, strength in models.items():
        scores = rng.standard_normal((len(samples), len(classes))) * (strength > 0)
        scores[np.arange(len(samples)), truth] += 1.6 * strength * own
        p = np.round(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), 6)
        table = samples[["subject", "run", "volume", "label"]].copy()
        table.insert(0, "model", model)
        table.insert(1, "fold", "sub-" + samples["subject"])
        table["predicted"] = np.asarray(classes)[p.argmax(axis=1)]
        tables.append(
            pd.concat([table, pd.DataFrame(p, columns=[f"p_{c}" for c in classes])], axis=1)
        )
    return pd.concat(tables, ignore_index=True)


def _interval(values) -> dict:
    values = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    mean = float(values.mean())
    return {"value": mean, "low": mean - half, "high": mean + half, "n_subjects": len(values)}


def _subject_scores(part: pd.DataFrame, classes) -> tuple[dict, dict]:
    """Scores of one subject: one number each, and one number a class each."""
    truth = part["label"].to_numpy()[:, None] == np.array(classes)
    said = part["predicted"].to_numpy()[:, None] == np.array(classes)
    given = part[[f"p_{c}" for c in classes]].to_numpy()
    n, right = truth.sum(axis=0), (truth & said).sum(axis=0)
    ranks = np.where(truth, stats.rankdata(given, axis=0), 0).sum(axis=0)
    each = {
        "precision": right / np.maximum(said.sum(axis=0), 1),
        "recall": right / n,
        "f1": 2 * right / (n + said.sum(axis=0)),
        "auc": (ranks - n * (n + 1) / 2) / (n * (len(part) - n)),
    }
    return {
        "balanced_accuracy": float(each["recall"].mean()),
        "accuracy": float(right.sum() / len(part)),
        "macro_auc": float(each["auc"].mean()),
        "log_loss": float(-np.log(given[truth]).mean()),
        "n_samples": len(part),
    }, each


def _scores(predictions, classes, name, strength, n_permutations, p) -> dict:
    own = predictions[predictions["model"] == name]
    scored = {s: _subject_scores(part, classes) for s, part in own.groupby("subject")}
    per_subject = {subject: scores for subject, (scores, _) in scored.items()}
    counted = pd.crosstab(own["label"], own["predicted"])
    counted = counted.reindex(index=classes, columns=classes, fill_value=0)
    smallest = 1 / (n_permutations + 1)
    result = {
        "kind": "dummy" if name == "dummy" else name,
        "confusion": counted.to_numpy().tolist(),
        "per_subject": per_subject,
        "notes": [],
        "per_class": {
            c: {
                metric: _interval([each[metric][k] for _, each in scored.values()])
                for metric in ("precision", "recall", "f1", "auc")
            }
            | {"support": int((own["label"] == c).sum())}
            for k, c in enumerate(classes)
        },
    }
    chances = {"macro_auc": 0.5, "log_loss": float(np.log(len(classes)))}
    for metric in ("balanced_accuracy", "accuracy", "macro_auc", "log_loss"):
        result[metric] = _interval([v[metric] for v in per_subject.values()]) | {
            "chance": chances.get(metric, 1 / len(classes) + 0.002),
            "chance_sd": 0.02,
            "p": 1.0 if strength == 0 else smallest if p is None else p,
            "p_smallest": smallest,
        }
    return result


def _study(models, source, labels, title) -> dict:
    data = {"source": source, "path": "/data/emotions"}
    if source == "bids":
        data |= {"task": "emotion", "space": "MNI152NLin2009cAsym", "dummies": 4}
        data |= {"confounds": ["trans_x", "trans_y", "csf"]}
    section = {"source": labels, "lag_s": 5.0, "hrf": False, "min_count": 1, "balance": "none"}
    if labels == "annotations":
        section |= {"variable": "emotion", "agreement": 0.5, "clock": "segments"}
    clean = {"detrend": True, "high_pass_hz": 1 / 128, "standardize": "run", "smoothing_mm": 6.0}
    return {
        "name": "made-up",
        "title": title,
        "seed": 7,
        "data": data,
        "labels": section,
        "features": {
            "clean": clean,
            "n_voxels": 500,
            "select_by": "group",
            "centre": "none",
            "scale": True,
        },
        "models": [
            {"name": name, "kind": name, "params": {}, "grid": {"C": [0.1, 1.0]} if i == 1 else {}}
            for i, name in enumerate(models)
        ],
        "evaluate": {
            "split": "leave_one_subject_out",
            "gap_s": 30.0,
            "inner_folds": 3,
            "tune_by": "balanced_accuracy",
            "allow_leakage": False,
            "n_permutations": 1000,
        },
    }


def _provenance(samples, models, source, labels, maps, mask) -> dict:
    images = source != "table"
    return {
        "emodecode": "0.1.0",
        "command": "emodecode evaluate studies/made-up.toml --out results",
        "started": "2026-01-05T09:30:00",
        "seconds": 84.2,
        "seed": 7,
        "versions": VERSIONS,
        "data": {
            "n_subjects": samples["subject"].nunique(),
            "n_runs": len(samples.groupby(["subject", "run"])) if images else None,
            "n_samples": len(samples),
            "n_voxels": 4321 if mask else 96,
            "fingerprint": "9f2c4e11ab53d07e9f2c4e11ab53d07e",
            "notes": ["sub-04 run-1: 2 events start after the last volume and were dropped"],
            "excluded": {"99": "moved more than 5 mm"},
            "groups": {"HC": 4, "MDD": 2} if images else {},
        },
        "labels": {
            "counts": samples["label"].value_counts().sort_index().to_dict(),
            "notes": [],
            "rule": "Each volume got the label of the block that was shown 5 s before it.",
            "reliability": _reliability(samples) if labels == "annotations" else None,
        },
        "features": {"notes": []},
        "tuning": [
            {
                "model": models[1],
                "fold": f"sub-{s}",
                "chosen": {"model__C": 0.1 if s < "04" else 1.0},
            }
            for s in sorted(samples["subject"].unique())
        ]
        if len(models) > 1
        else None,
        "warnings": [],
        "maps": maps,
    }


def _reliability(samples) -> dict:
    each = {"split_half": 0.81, "split_half_rank": 0.62, "left_out_recall": 0.7}
    return {
        "n_observers": 9,
        "fleiss_kappa": 0.412,
        "left_out_balanced_accuracy": 0.694,
        "per_label": dict.fromkeys(sorted(set(samples["label"])), each),
    }


def _brain(rng, folder, classes, models) -> list[dict]:
    shape = (61, 73, 61)
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    mm = grid @ MNI_3MM[:3, :3].T + MNI_3MM[:3, 3]
    mask = (((mm - (0, -20, 10)) / (64, 82, 56)) ** 2).sum(axis=-1) < 1
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), MNI_3MM), folder / "mask.nii.gz")
    (folder / "maps").mkdir()
    entries = []
    for model in [name for name, strength in models.items() if strength > 0][:2]:
        for label in classes[1:] if len(classes) == 2 else classes:
            centre = np.array([rng.uniform(-40, 40), rng.uniform(-70, 30), rng.uniform(-10, 45)])
            blob = np.exp(-((mm - centre) ** 2).sum(axis=-1) / (2 * 9**2))
            for kind, noise in (("weights", 0.2), ("pattern", 0.04)):
                values = np.where(mask, blob + noise * rng.standard_normal(shape), 0)
                name = f"maps/model-{model}_class-{label}_{kind}.nii.gz"
                image = nib.Nifti1Image(np.round(values, 3).astype(np.float32), MNI_3MM)
                nib.save(image, folder / name)
                best = np.argsort(-np.abs(values), axis=None)[:3]
                top = [
                    dict(zip(("x_mm", "y_mm", "z_mm"), mm.reshape(-1, 3)[i].tolist(), strict=True))
                    | {"value": float(values.flat[i])}
                    for i in best
                ]
                entries.append(
                    {"model": model, "class": label, "kind": kind, "file": name, "top": top}
                )
    return entries


def _timeline(rng, classes) -> pd.DataFrame:
    time_s = np.arange(0, 1200, 2.0)
    names = np.repeat(rng.choice([*classes, "n/a"], 60), 10)
    agreement = np.where(names == "n/a", 0.3, 0.7) + rng.uniform(-0.1, 0.1, 600)
    return pd.DataFrame({"time_s": time_s, "label": names, "agreement": np.round(agreement, 3)})


def _write(path: Path, values) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")

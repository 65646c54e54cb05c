"""Training curves and speed, where the results folder has their files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.report import wording
from emodecode.report.fold_figures import TRAINING, VALIDATION, History, draw_histories
from emodecode.report.folder import REMEDY, ResultsFolder
from emodecode.report.networks import SWEEP, describe_networks, describe_sweeps
from emodecode.samples import parse_table

MOST_PANELS, MOST_ALL, FEWEST = 24, 120, 4
"""Folds shown of one model, of all models together, and at least of each."""

COLUMNS = (
    *("model", "fold", "seed", "epoch", "learning_rate"),
    *("train_loss", "train_accuracy", "valid_loss", "valid_accuracy", "best"),
)
VALIDATED = {
    "train": "training samples of the fold that were kept out of the fit to choose the epoch; no "
    "test sample is among them",
    "test": "the test samples of the fold themselves: the epoch was chosen on what it is tested "
    "on, so the best value is too high",
    "none": "none was recorded",
}
_NAMES = {"balanced_accuracy": "Balanced accuracy", "macro_auc": "Macro AUC"}
SPEED_KEYS = ("model", "batch", "p50_ms", "p95_ms", "p99_ms", "per_vector_ms")
S2_SPEED: dict[str, dict[str, Any]] = {
    "conv1d": {
        "n_features": 300,
        "batch": 600,
        "ms": 771,
        "per_vector": "1.29",
        "per_second": "778",
        "note": "S2 reports 1.29 ms a vector for its network (600 vectors at once in .771 s; the "
        "first call of 7.8 s, alignment, masking and motion correction are not in it).",
    },
    "resnet3d": {
        "n_features": 64 * 64 * 44,
        "batch": 1950,
        "ms": 2687,
        "per_vector": "1.38",
        "per_second": "726",
        "note": "S2 reports 1.38 ms a volume for its ResNet-50 (1,950 volumes in batches in 2.687 "
        "s).",
    },
}
"""What S2 reports, by the kind of network (spec S2.24, S2.35)."""


def describe_training(results: ResultsFolder) -> dict[str, Any] | None:
    """Gather the curves of ``training.tsv``; None without that file.

    Raises
    ------
    InputError
        The file has not the columns of `COLUMNS`.
    """
    path = results.path / "training.tsv"
    if not path.is_file():
        return None
    table = _read_training(path)
    table = table[table["model"].isin(results.models)]
    names = [name for name in results.models if name in set(table["model"])]
    if not names:
        return None
    has_valid = bool(table[["valid_loss", "valid_accuracy"]].notna().any(axis=None))
    chosen = (results.study.get("evaluate") or {}).get("choose_epoch_on") or "train"
    most = max(FEWEST, min(MOST_PANELS, MOST_ALL // len(names)))
    return {
        "colours": {"training": TRAINING, "validation": VALIDATION},
        "validation": VALIDATED[chosen if has_valid and chosen in VALIDATED else "none"],
        "models": [
            _model(results, table[table["model"] == name], name, index, most)
            for index, name in enumerate(names)
        ],
        "networks": describe_networks(results),
        "sweeps": describe_sweeps(results, names),
        "sweep_note": SWEEP,
    }


def describe_speed(results: ResultsFolder) -> dict[str, Any] | None:
    """Gather the rows of ``latency.json``; None without that file or without entries.

    Raises
    ------
    InputError
        The file is no list of entries with `SPEED_KEYS`.
    """
    path = results.path / "latency.json"
    if not path.is_file():
        return None
    entries = _read_speed(path)
    if not entries:
        return None
    kinds = {name: str(score.get("kind")) for name, score in results.scores["models"].items()}
    timed = {kinds.get(str(each["model"]), "") for each in entries}
    order = {name: place for place, name in enumerate(results.models)}
    entries.sort(key=lambda each: (order.get(str(each["model"]), len(order)), each["batch"]))
    return {
        "rows": [_speed_row(each) for each in entries],
        "what": [
            (f"{each['model']}, {wording.count_of(each['batch'], 'volume')} a call", each["what"])
            for each in entries
            if each.get("what")
        ],
        "where": _where(entries),
        "published": [row for name, row in S2_SPEED.items() if any(name in kind for kind in timed)],
    }


def _model(
    results: ResultsFolder, table: pd.DataFrame, name: str, index: int, most: int
) -> dict[str, Any]:
    """Figure of the first `most` folds at even distances, and one row a fold and seed."""
    names = list(dict.fromkeys(table["fold"]))
    places = np.unique(np.round(np.linspace(0, len(names) - 1, min(most, len(names)))).astype(int))
    shown, rows = {}, []
    for fold, own in table.groupby("fold", sort=False):
        runs = [run.sort_values("epoch") for _, run in own.groupby("seed", dropna=False)]
        rows += [_row(str(fold), run) for run in runs]
        if names.index(fold) in places:
            shown[str(fold)] = (
                [_history(run, "loss") for run in runs],
                [_history(run, "accuracy") for run in runs],
            )
    leaks = results.verdict == "leak"
    return {
        "name": name,
        "svg": draw_histories(shown, name=name, index=index, leaks=leaks),
        "n_shown": len(shown),
        "n_folds": len(names),
        "rows": rows,
        "seeds": table["seed"].nunique(dropna=False) > 1,
        "summary": _summary(rows),
        "spread": _spread(results.path / "seeds-spread.tsv", name),
    }


def _spread(path: Path, name: str) -> list[dict[str, Any]]:
    """How the scores of a network's seeds spread, where it was trained from several."""
    if not path.is_file():
        return []
    try:
        table = parse_table(path, dtype={"model": str})
        own = table[table["model"] == name]
        return [
            {"metric": _NAMES.get(row["metric"], row["metric"])}
            | {key: float(row[key]) for key in ("n_seeds", "mean", "sd", "lowest", "highest")}
            for _, row in own.iterrows()
        ]
    except (KeyError, ValueError) as error:
        raise _wrong(path, f"not readable ({error})", "model metric n_seeds mean sd ...") from error


def _history(run: pd.DataFrame, what: str) -> History:
    best = np.flatnonzero(run["best"].to_numpy())
    return History(
        epoch=run["epoch"].to_numpy(dtype=float),
        train=run[f"train_{what}"].to_numpy(dtype=float),
        valid=run[f"valid_{what}"].to_numpy(dtype=float),
        best=int(best[0]) if len(best) else None,
    )


def _row(fold: str, run: pd.DataFrame) -> dict[str, Any]:
    """What one run came to: its length, and its values in the best epoch (else the last)."""
    best = run[run["best"]]
    at = best.iloc[0] if len(best) else run.iloc[-1]
    return {
        "fold": fold,
        "seed": run["seed"].iloc[0],
        "n_epochs": int(run["epoch"].max()),
        "best": int(at["epoch"]) if len(best) else None,
        "values": [
            float(at[key])
            for key in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy")
        ],
    }


def _summary(rows: list[dict[str, Any]]) -> str:
    epochs = [row["n_epochs"] for row in rows]
    text = f"{wording.count_of(len(rows), 'run')} of {_span(epochs)} epochs"
    best = [row["best"] for row in rows if row["best"] is not None]
    return f"{text}, best epoch {_span(best)}" if best else text


def _span(values: list[int]) -> str:
    low, high = (wording.format_count(edge(values)) for edge in (min, max))
    return low if low == high else f"{low} to {high}"


def _read_training(path: Path) -> pd.DataFrame:
    text = ("model", "fold", "seed", "best")
    try:
        table = parse_table(
            path,
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,
            na_values={name: ["n/a", ""] for name in COLUMNS if name not in text},
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise _wrong(path, f"not readable ({error})", "a table in TSV") from error
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise _wrong(path, f"no column {', '.join(missing)}", f"the columns {', '.join(COLUMNS)}")
    numbers = [name for name in COLUMNS if name not in text]
    broken = [name for name in numbers if table[name].dtype.kind not in "iuf"]
    if broken or table["epoch"].isna().any():
        wrong = broken[0] if broken else "epoch"
        raise _wrong(path, f"values of {wrong} that are no numbers", "numbers or n/a")
    return table.assign(best=table["best"].str.lower() == "true")


def _read_speed(path: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _wrong(path, f"not valid JSON ({error})", "a complete JSON file") from error
    complete = isinstance(entries, list) and all(
        isinstance(each, dict) and set(SPEED_KEYS) <= set(each) for each in entries
    )
    if not complete:
        raise _wrong(path, "entries without all keys", f"a list with {', '.join(SPEED_KEYS)}")
    return entries


def _speed_row(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": str(entry["model"]),
        "n_features": entry.get("n_features"),
        "batch": entry["batch"],
        "times": [format_ms(entry[key]) for key in ("p50_ms", "p95_ms", "p99_ms")],
        "per_vector": format_ms(entry["per_vector_ms"]),
        "per_second": _per_second(entry["per_vector_ms"]),
        "n_repeats": entry.get("n_repeats"),
    }


def _per_second(ms: float | None) -> str:
    """Volumes a second, two digits or whole numbers."""
    if ms is None or not np.isfinite(ms) or ms <= 0:
        return wording.MISSING
    rate = 1000 / ms
    return wording.format_short(rate) if rate < 10 else wording.format_count(round(rate))


def format_ms(value: float | None) -> str:
    """Three digits of a time in milliseconds: ``.0312``, ``1.29``, ``771``."""
    if value is None or not np.isfinite(value):
        return wording.MISSING
    return wording.format_short(value) if value < 1000 else wording.format_count(round(value))


def _where(entries: list[dict[str, Any]]) -> str:
    """Threads and device, where all entries agree on them."""
    parts = []
    threads = {int(each["threads"]) for each in entries if each.get("threads")}
    if len(threads) == 1:
        parts.append(wording.count_of(threads.pop(), "thread"))
    devices = sorted({str(each["device"]) for each in entries if each.get("device")})
    if devices:
        parts.append(wording.join_words(["CPU" if d == "cpu" else d for d in devices]))
    return ", ".join(parts)


def _wrong(path: Path, found: str, expected: str) -> InputError:
    return InputError(str(path), found=found, expected=expected, remedy=REMEDY)

"""Fold by fold, as S2's paper and supplement: Table 1, confusion, precision and recall, ROC."""

from typing import Any

import numpy as np

from emodecode.evaluate.foldscores import (
    CLASS_SCORES,
    FoldScores,
    average_classes,
    average_confusion,
    mean_and_sd,
    score_folds,
    trace_roc,
)
from emodecode.report.figures import NAMES
from emodecode.report.fold_figures import draw_fold_rocs
from emodecode.report.folder import ResultsFolder

METRICS = ("balanced_accuracy", "macro_auc", "log_loss")
LONG = 20
"""Folds from which on a table shows its last rows only, the others on demand."""
MOST_PANELS, MOST_CURVES, MOST_CELLS = 24, 900, 9000
"""What a page can hold: panels of one model, curves and cells of matrices of all models."""
FEWEST = 4


def describe_folds(results: ResultsFolder, classes: dict[str, str]) -> dict[str, Any] | None:
    """Gather everything that the page says fold by fold; None for a single fold.

    Parameters
    ----------
    results : ResultsFolder
    classes : dict of str -> str
        Colours of the classes.
    """
    if results.predictions["fold"].nunique() < 2:
        return None
    scores = score_folds(results.predictions, results.classes)
    n_folds, k = scores.folds["fold"].nunique(), len(results.classes)
    tables = [_table(results, scores, metric) for metric in METRICS]
    shown = {
        "roc": choose_folds(scores, size=k + 2, budget=MOST_CURVES),
        "confusion": choose_folds(scores, size=k * k, budget=MOST_CELLS),
    }
    per_class = _per_class(results, scores)
    return {
        "n_folds": n_folds,
        "n_test": sorted(int(n) for n in set(scores.folds["n_test"])),
        "long": n_folds > LONG,
        "main": tables[0],
        "others": tables[1:],
        "lacking": _lacking(scores),
        "confusion": [_confusion(scores, model, shown["confusion"]) for model in results.models],
        "n_confusion": len(shown["confusion"]),
        "per_class": per_class,
        "n_rows": sum(len(rows) for _, rows in per_class),
        "roc": _rocs(results, classes, shown["roc"]),
        "n_roc": len(shown["roc"]),
    }


def choose_folds(scores: FoldScores, *, size: int, budget: int) -> list[str]:
    """Choose the folds that a page can show of each model: all, or evenly many by their score.

    Folds are ranked by balanced accuracy, averaged over the models, and taken at even distances
    from the lowest to the highest, so that neither good nor bad ones are picked.

    Parameters
    ----------
    size, budget : int
        What a panel costs, and what all panels of all models may cost.
    """
    ranked = scores.wide("balanced_accuracy")
    n_folds, n_models = ranked.shape
    most = max(FEWEST, min(MOST_PANELS, budget // (size * n_models)))
    if n_folds <= most:
        return list(ranked.index)
    means = mean_and_sd(ranked.to_numpy(dtype=float).T)[0]
    order = np.argsort(np.where(np.isfinite(means), means, -1.0), kind="stable")
    taken = order[np.round(np.linspace(0, n_folds - 1, most)).astype(int)]
    return [ranked.index[place] for place in sorted(taken)]


def shade_cell(rate: float | None) -> str:
    """White for 0, dark blue for 1, with ink that can be read on it."""
    light, dark = (246, 248, 250), (25, 74, 112)
    share = rate if rate is not None and np.isfinite(rate) else 0.0
    mixed = [round(a + (b - a) * share) for a, b in zip(light, dark, strict=True)]
    ink = ";color:#fff" if share > 0.68 else ""
    return f"background:#{''.join(f'{part:02x}' for part in mixed)}{ink}"


def _table(results: ResultsFolder, scores: FoldScores, metric: str) -> dict[str, Any]:
    """S2's Table 1 of one metric: folds x models, then mean, sd and chance."""
    table = scores.wide(metric)[results.models]
    values = table.to_numpy(dtype=float)
    mean, sd = mean_and_sd(values)
    models = results.scores["models"]
    chance = [(models[name].get(metric) or {}).get("chance") for name in results.models]
    sizes = scores.folds.drop_duplicates("fold").set_index("fold")["n_test"]
    return {
        "name": NAMES[metric],
        "rows": [
            {"fold": fold, "n": int(sizes[fold]), "values": row}
            for fold, row in zip(table.index, values, strict=True)
        ],
        "last": [
            ("mean", mean),
            ("sd", sd),
            ("lowest", _edge(values, np.fmin)),
            ("highest", _edge(values, np.fmax)),
        ],
        "population": mean_and_sd(values, ddof=0)[1],
        "chance": chance if any(value is not None for value in chance) else None,
    }


def _edge(values: np.ndarray, which: np.ufunc) -> np.ndarray:
    return which.reduce(values, axis=0)


def _lacking(scores: FoldScores) -> dict[str, int]:
    """How many folds do not test a class at all; only classes that some fold does not test."""
    first = scores.per_class[scores.per_class["model"] == scores.folds["model"].iloc[0]]
    counts = first[first["n"] == 0].groupby("class", sort=False).size()
    return {str(name): int(n) for name, n in counts.items()}


def _confusion(scores: FoldScores, model: str, shown: list[str]) -> dict[str, Any]:
    counts = scores.confusion_of(model)
    mean = average_confusion(counts)
    names = scores.folds.loc[scores.folds["model"] == model, "fold"]
    return {
        "name": model,
        "mean": [
            (
                label,
                [
                    {
                        "share": mean.shares[r, c],
                        "sd": mean.shares_sd[r, c],
                        "n": f"{mean.counts[r, c]:.1f}",
                        "same": r == c,
                        "style": shade_cell(mean.shares[r, c]),
                    }
                    for c in range(len(scores.classes))
                ],
            )
            for r, label in enumerate(scores.classes)
        ],
        "folds": [
            (fold, _shaded(matrix))
            for fold, matrix in zip(names, counts, strict=True)
            if fold in shown
        ],
    }


def _shaded(matrix: np.ndarray) -> list[list[tuple[int, str]]]:
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    return [
        [(int(n), shade_cell(share)) for n, share in zip(row, shares, strict=True)]
        for row, shares in zip(matrix, matrix / totals, strict=True)
    ]


def _per_class(
    results: ResultsFolder, scores: FoldScores
) -> list[tuple[str, list[dict[str, Any]]]]:
    """S2's Table 3: by model, one row a class."""
    table = average_classes(scores)
    return [
        (
            model,
            [
                {
                    "class": row["class"],
                    "n": row["n"],
                    "n_folds": row["n_folds"],
                    "values": [(row[metric], row[f"{metric}_sd"]) for metric in CLASS_SCORES],
                }
                for row in table[table["model"] == model].to_dict("records")
            ],
        )
        for model in results.models
    ]


def _rocs(
    results: ResultsFolder, classes: dict[str, str], shown: list[str]
) -> list[dict[str, str]]:
    own = results.predictions[results.predictions["fold"].isin(shown)]
    curves, leaks = trace_roc(own, results.classes), results.verdict == "leak"
    return [
        {
            "name": name,
            "svg": draw_fold_rocs(curves[name], classes, name=name, index=index, leaks=leaks),
        }
        for index, name in enumerate(results.models)
    ]

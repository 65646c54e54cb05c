"""Results: out-of-sample predictions, one row per held-out sample, fold and model."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from emodecode.errors import InputError

PREDICTION_COLUMNS = ("model", "fold", "subject", "run", "volume", "label", "predicted")
"""Columns of ``predictions.tsv`` before one ``p_CLASS`` a class."""


@dataclass(frozen=True, eq=False)
class Results:
    """What the decoders said about samples that they had not seen.

    Every metric, test and figure is a function of `predictions`: nothing is refitted to redraw a
    report.

    Parameters
    ----------
    predictions : DataFrame
        Columns `PREDICTION_COLUMNS`, then ``p_CLASS`` for each class in sorted order.
    rows : ndarray of shape (n_predictions,), int64
        Row of the sample table that each prediction is about.
    classes : tuple of str
        Sorted classes.
    folds : tuple of dict
        For each model and fold: ``model``, ``fold``, ``n_train``, ``n_test``, ``chosen`` (tuned
        parameters), ``temperature`` (by which the probabilities were scaled; None: they were not),
        ``seconds``, ``warnings``, ``fitted`` (which rows each step was handed:
        :meth:`emodecode.evaluate.ledger.Ledger.entries`), ``history`` (epochs of a network),
        ``seeds`` (scores of its members, where there are several), ``latency`` (of the first
        fold, where it was timed) and ``cost`` (of the network of the first fold).
    """

    predictions: pd.DataFrame = field(repr=False)
    rows: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    folds: tuple[dict, ...] = field(repr=False)

    def __post_init__(self) -> None:
        expected = [*PREDICTION_COLUMNS, *(f"p_{name}" for name in self.classes)]
        if list(self.predictions.columns) != expected:
            raise InputError(
                "Results",
                found=f"the columns {', '.join(self.predictions.columns)}",
                expected=", ".join(expected),
                remedy="Make results with emodecode.evaluate.score.score.",
            )

    def ledger(self) -> list[list[dict]]:
        """List for each fold what the steps of all models saw, for ``audit_split(fitted=...)``.

        Entries of different models that are equal appear once.
        """
        steps: dict[str, dict[str, dict]] = {}
        for fold in self.folds:
            own = steps.setdefault(fold["fold"], {})
            own |= {repr(sorted(entry.items())): entry for entry in fold["fitted"]}
        return [list(own.values()) for own in steps.values()]

    def most_chosen(self, model: str) -> dict:
        """Tuned parameters of a model that most folds chose; the first of equals."""
        chosen = [fold["chosen"] for fold in self.folds if fold["model"] == model]
        keys = [repr(sorted(each.items())) for each in chosen]
        return max(zip(keys, chosen, strict=True), key=lambda each: keys.count(each[0]))[1]

    def training(self) -> pd.DataFrame:
        """Epochs of the networks, one row a model, fold, seed and epoch; empty without any."""
        rows = [
            {"model": fold["model"], "fold": fold["fold"]} | epoch
            for fold in self.folds
            for epoch in fold.get("history") or []
        ]
        return pd.DataFrame(rows)

    def seeds(self) -> pd.DataFrame:
        """Scores of the members of the networks, one row a model, fold and seed."""
        return pd.DataFrame(
            [
                {"model": fold["model"], "fold": fold["fold"]} | seed
                for fold in self.folds
                for seed in fold.get("seeds") or []
            ]
        )

    def latency(self) -> list[dict]:
        """How long the decoders of the first fold took, see `emodecode.evaluate.latency`."""
        return [entry for fold in self.folds for entry in fold.get("latency") or []]

    def costs(self) -> dict[str, dict]:
        """Network of each decoder that is one: `emodecode.evaluate.costs.network_cost`."""
        return {fold["model"]: fold["cost"] for fold in self.folds if fold.get("cost")}

    @property
    def models(self) -> list[str]:
        """Names of the models, in the order of the study."""
        return list(dict.fromkeys(self.predictions["model"]))

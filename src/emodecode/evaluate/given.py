"""Given: samples on their way through the steps of a fold, with what networks ask about them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator

from emodecode.errors import InputError
from emodecode.evaluate.design import read_design
from emodecode.evaluate.inner import inner_splits
from emodecode.evaluate.ledger import trace, trace_like
from emodecode.evaluate.stimuli import is_locked
from emodecode.models.rows import Rows
from emodecode.models.steps import asks_for, asks_for_more, transform_step
from emodecode.samples import moments_of

LOCKED_PARTS = 3
"""Parts of subjects and of the film: a network is judged on one of each, and trained on the others
of both. With more, too few samples are left to choose an epoch on (a 25th with five)."""


@dataclass(frozen=True)
class Given:
    """Traced values, labels, and the rows of the sample table.

    `X` is `Rows` where the decoder reads a memory map itself: taking rows then copies nothing.
    """

    X: "np.ndarray | Rows"
    y: np.ndarray
    table: pd.DataFrame

    @property
    def subjects(self) -> np.ndarray:
        """Subjects."""
        return self.table["subject"].to_numpy(dtype=str)

    def take(self, rows: np.ndarray) -> "Given":
        """Return some of the samples."""
        X = self.X.take(rows) if isinstance(self.X, Rows) else self.X[rows]
        return Given(X, self.y[rows], self.table.iloc[rows])

    def carrying(self, values: np.ndarray) -> "Given":
        """Return the same samples with other values."""
        return replace(self, X=trace_like(values, self.values))

    def through(self, step: BaseEstimator) -> "Given":
        """Return the samples as a fitted step leaves them."""
        return self.carrying(transform_step(step, np.asarray(self.values), self.subjects))

    @property
    def values(self) -> np.ndarray:
        """The samples' values in memory."""
        return self.X.read() if isinstance(self.X, Rows) else self.X

    @property
    def plain(self) -> "np.ndarray | Rows":
        """What is handed to a classifier: a plain array, or `Rows` as they are."""
        return self.X if isinstance(self.X, Rows) else np.asarray(self.X)


def given_of(X: np.ndarray, y: np.ndarray, table: pd.DataFrame, *, as_rows: bool = False) -> Given:
    """Return all samples of a table, traced; with `as_rows` for a decoder that reads them itself.

    A memory map is not read.
    """
    return Given(Rows(X, np.arange(len(X))) if as_rows else trace(X), y, table)


def asked_to_fit(
    classifier: BaseEstimator, y: np.ndarray, table: pd.DataFrame, *, gap_s: float, seed: int
) -> dict[str, Any]:
    """Return what a network asks for beside samples, labels and subjects.

    ``parts``: samples to train on and to choose the epoch on, disjoint by subject and stimulus;
    only where all subjects saw the same moments, else whole subjects are held out by the network
    itself. ``moments`` and ``votes``: see `emodecode.models.volumenet`.
    """
    asked: dict[str, Any] = {}
    if not asks_for_more(classifier):
        return asked
    if asks_for(classifier, "fit", "parts"):
        asked["parts"] = _parts(classifier, table.assign(label=y), gap_s, seed)
    if asks_for(classifier, "fit", "votes"):
        asked["votes"] = _votes(y, table)
    return asked | asked_to_read(classifier, table, "fit")


def asked_to_read(classifier: BaseEstimator, table: pd.DataFrame, method: str) -> dict[str, Any]:
    """Return run and volume of each sample, ``moments``, where a network may read windows."""
    if not asks_for(classifier, method, "moments"):
        return {}
    return {"moments": moments_of(table)}


def _parts(
    network: Any, table: pd.DataFrame, gap_s: float, seed: int
) -> "list[tuple[np.ndarray, np.ndarray]] | None":
    if not network.validation_share or not is_locked(read_design(table)):
        return None
    try:
        rows = np.arange(len(table))
        splits = inner_splits(table, rows, n_folds=LOCKED_PARTS, gap_s=gap_s, seed=seed)
    except InputError:
        return None  # too few scenes to hold some out: subjects alone are
    return [(split.train, split.test) for split in splits]


def _votes(y: np.ndarray, table: pd.DataFrame) -> np.ndarray | None:
    """Shares of the raters' votes for each class, where the labels come from raters."""
    classes = sorted(set(y))
    columns = [f"p_{name}" for name in classes]
    if not set(columns) <= set(table.columns):
        return None
    shares = table[columns].to_numpy(dtype=np.float64)
    total = shares.sum(axis=1, keepdims=True)
    own = (y[:, None] == np.array(classes)).astype(float)
    return np.where(total > 0, shares / np.where(total > 0, total, 1), own)

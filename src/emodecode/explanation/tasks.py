"""Tasks: one decoder in one fold, and which held-out samples are explained there."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import sklearn
import torch

import emodecode
from emodecode.candidates import make_tuning
from emodecode.explain.units import Units
from emodecode.study import Study

if TYPE_CHECKING:
    from emodecode.evaluate.ledger import Ledger
    from emodecode.evaluate.score import Candidate
    from emodecode.evaluate.splits import Split

S1_PROBABILITY = 0.75
"""What S1's code asked of a sample's predicted class (the paper says .8)."""
_DONORS = 10
"""Samples of a subject and class that others take values from, at most."""
_NOT_OF_FOLDS = ("label_draws", "weight_draws", "top_k", "space", "geometry")


@dataclass(frozen=True)
class Task:
    """A decoder in a fold.

    Parameters
    ----------
    study : Study
    candidate : Candidate
    split : Split
    fold : int
    data : str
        Hash of the samples.
    """

    study: Study
    candidate: "Candidate"
    split: "Split"
    fold: int
    data: str

    @property
    def seed(self) -> int:
        """Of everything that is drawn in this fold for this decoder."""
        from emodecode.evaluate.score import child_seed

        return child_seed(self.study.seed, self.candidate.name, self.fold)

    def fit(
        self,
        X: np.ndarray,
        table: pd.DataFrame,
        labels: np.ndarray,
        *,
        ledger: "Ledger | None" = None,
    ) -> Any:
        """Fit on the fold's training samples under some labels; the ledger says what was seen."""
        from emodecode.evaluate.score import fit_on_fold
        from emodecode.samples import relabelled

        if not np.array_equal(labels, table["label"].to_numpy(dtype=str)):
            table = relabelled(table, labels)  # the votes of true labels stay as they are
        with sklearn.config_context(enable_metadata_routing=True):
            fitted, _, _ = fit_on_fold(
                self.candidate,
                *(X, labels, table, self.split),
                tuning=make_tuning(self.study),
                seed=self.seed,
                ledger=ledger,
            )
        return fitted

    def rows(self, table: pd.DataFrame) -> np.ndarray:
        """Held-out samples to explain, the same of every decoder."""
        per_class, seed = self.study.explain.per_class, self.study.seed + self.fold
        return choose_samples(table, self.split.test, per_class=per_class, seed=seed)

    def donors(self, table: pd.DataFrame, rows: np.ndarray) -> np.ndarray:
        """Samples of the same subjects whose values may stand in for theirs: held out, if any."""
        subjects, held_out = set(table["subject"].iloc[rows]), table.iloc[self.split.test]
        kinds = held_out[held_out["subject"].isin(subjects)].groupby("subject")["label"].nunique()
        theirs = np.flatnonzero(table["subject"].isin(subjects))
        if (kinds > 1).all():
            theirs = np.intersect1d(theirs, self.split.test)
        return choose_samples(table, theirs, per_class=_DONORS, seed=self.study.seed)

    def key(self, units: Units, *more: object) -> str:
        """Hash of all that what is done in this fold depends on."""
        from emodecode.evaluate.workers import describe_pipeline

        digest = hashlib.blake2b(digest_size=16)
        for part in (self.split.train, self.split.calibrate, self.split.test, *units.columns):
            digest.update(np.ascontiguousarray(part, dtype=np.int64).data)
            digest.update(b"|")
        rules = self.study.explain.model_dump(exclude=set(_NOT_OF_FOLDS))
        candidate = self.candidate
        named = (rules, self.seed, self.study.seed, self.fold, make_tuning(self.study), units.names)
        fitted = (candidate.grid, candidate.fit_on_all, candidate.choose_epoch_on_test)
        described = describe_pipeline(candidate.pipeline)
        versions = (emodecode.__version__, sklearn.__version__, torch.__version__)
        digest.update(f"{versions}|{self.data}|{named}|{fitted}|{described}|{more}".encode())
        return f"explain-{digest.hexdigest()}"


def choose_samples(
    table: pd.DataFrame, rows: np.ndarray, *, per_class: int, seed: int
) -> np.ndarray:
    """Choose up to `per_class` samples of each class and subject among the rows."""
    rng = np.random.default_rng(seed)
    own = table.iloc[rows]
    chosen = [
        rng.permutation(rows[places])[:per_class]
        for places in own.groupby(["subject", "label"], sort=True).indices.values()
    ]
    return np.sort(np.concatenate(chosen))


def choose_confident(
    table: pd.DataFrame,
    rows: np.ndarray,
    probabilities: np.ndarray,
    classes: tuple[str, ...],
    *,
    per_class: int,
    seed: int,
) -> tuple[np.ndarray, str]:
    """Choose S1's samples: `per_class` of a class that are decoded correctly and surely.

    Parameters
    ----------
    table : DataFrame
    rows : ndarray of int
        Held-out samples.
    probabilities : ndarray of shape (n_rows, n_classes)
    classes : tuple of str
    per_class, seed : int

    Returns
    -------
    chosen : ndarray of int
    sentence : str
        How many there were, and where the surest were taken because none was sure enough.
    """
    rng = np.random.default_rng(seed)
    label = table["label"].iloc[rows].to_numpy(dtype=str)
    correct = np.asarray(classes)[probabilities.argmax(axis=1)] == label
    sure = correct & (probabilities.max(axis=1) >= S1_PROBABILITY)
    chosen, without = [], []
    for number, name in enumerate(classes):
        own = np.flatnonzero(label == name)
        passing = own[sure[own]]
        if len(passing):
            chosen.append(rng.permutation(passing)[:per_class])
        elif len(own):
            without.append(name)
            surest = np.argsort(-probabilities[own, number], kind="stable")
            chosen.append(own[surest[:per_class]])
    sentence = (
        f"{int(sure.sum()):,} of {len(rows):,} held-out samples are decoded correctly with a "
        f"probability of {S1_PROBABILITY:g} or more; up to {per_class} of each class and fold are "
        "explained."
    )
    if without:
        sentence += f" None of {', '.join(without)}: the surest are taken instead."
    return np.sort(rows[np.concatenate(chosen)]), sentence

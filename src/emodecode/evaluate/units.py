"""Units: which folds count as independent of each other, and what sharing training costs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from emodecode.errors import InputError
from emodecode.evaluate.fold import Split


class Units(NamedTuple):
    """What the corrected test counts: each fold's unit, the ratio n_test / n_train, the kind."""

    of_fold: dict[str, int]
    ratio: float
    kind: str

    @property
    def widening(self) -> float:
        """How much wider an interval of the mean is because units share training samples.

        ::

            sqrt((1 / J + n_test / n_train) / (1 / J)),  J units

        References
        ----------
        Nadeau & Bengio 2003, Machine Learning 52:239-281.
        """
        return float(np.sqrt(1 + len(set(self.of_fold.values())) * self.ratio))


def find_units(predictions: pd.DataFrame, splits: Sequence[Split]) -> Units:
    """Find the folds' units, and n_test / n_train (0 where no unit's rows are used in another).

    Folds that test a subject in common are one unit if that leaves several units; otherwise each
    fold is one.
    """
    by_name = {split.name: split for split in splits}
    pairs = predictions[["fold", "subject"]].astype(str).drop_duplicates()
    fold, folds = pd.factorize(pairs["fold"], sort=True)
    if len(by_name) != len(splits) or not set(folds) <= set(by_name):
        raise InputError(
            "folds",
            found=f"predictions of the folds {', '.join(folds[:3])} ... for splits named "
            f"{', '.join(list(by_name)[:3])} ...",
            expected="one split of its own name for each fold",
            remedy="Pass the splits that these predictions were made with.",
        )
    subject = pd.factorize(pairs["subject"])[0]
    size = (len(folds), int(subject.max()) + 1)
    tested = coo_array((np.ones(len(pairs)), (fold, subject)), shape=size).tocsr()
    n_units, unit = connected_components(tested @ tested.T, directed=False)
    together = 1 < n_units < len(folds)
    of_fold = dict(zip(folds, unit.tolist() if n_units > 1 else range(len(folds)), strict=True))
    kind = "folds of the same subjects" if together else "folds"
    return Units(of_fold, _ratio([by_name[name] for name in folds], list(of_fold.values())), kind)


def _ratio(splits: Sequence[Split], unit: Sequence[int]) -> float:
    n_rows = 1 + max(int(np.max(np.append(s.train, s.test))) for s in splits)
    trained, tested = (np.zeros((max(unit) + 1, n_rows), dtype=bool) for _ in range(2))
    for split, number in zip(splits, unit, strict=True):
        trained[number, split.train] = True
        tested[number, split.test] = True
    shared = trained.any(axis=0) & ((trained | tested).sum(axis=0) > 1)
    if not shared.any():
        return 0.0
    return float(tested.sum(axis=1).mean() / np.mean([len(split.train) for split in splits]))

"""Seeds: what each of several trained networks scores alone, before they are averaged.

S2 called ten sub-samples of one test set, scored by one network, ten trained instances. Here
they are ten trainings.
"""

import numpy as np
import pandas as pd

from emodecode.evaluate.foldscores import score_folds

METRICS = ("balanced_accuracy", "macro_auc")
"""Scores of a seed in a fold."""


def score_seeds(
    members: np.ndarray, table: pd.DataFrame, *, own: np.ndarray, classes: tuple[str, ...]
) -> list[dict]:
    """Score every member of a decoder on the test samples of a fold.

    Parameters
    ----------
    members : ndarray of shape (n_members, n_samples, n_own)
        Probabilities of each member.
    table : DataFrame of n_samples rows
        The fold's test samples.
    own : ndarray of str, shape (n_own,)
        Classes that the decoder knows.
    classes : tuple of str
        All classes.

    Returns
    -------
    list of dict
        ``seed`` (number of the member), ``balanced_accuracy``, ``macro_auc`` (None where the fold
        tests one class only).
    """
    part = table[["subject", "run", "volume", "label"]].reset_index(drop=True)
    frames = []
    for seed, given in enumerate(members):
        full = np.zeros((len(part), len(classes)))
        full[:, [classes.index(str(name)) for name in own]] = given
        predicted = np.asarray(classes)[full.argmax(axis=1)]
        columns = {f"p_{name}": full[:, c] for c, name in enumerate(classes)}
        frames.append(part.assign(model=str(seed), fold="0", predicted=predicted, **columns))
    scored = score_folds(pd.concat(frames, ignore_index=True), classes).folds
    return [
        {"seed": seed} | {name: _plain(row[name]) for name in METRICS}
        for seed, (_, row) in enumerate(scored.iterrows())
    ]


def spread_over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over the folds of each seed, and how these spread over the seeds.

    Parameters
    ----------
    table : DataFrame
        ``model fold seed`` and `METRICS`, one row a model, fold and seed.

    Returns
    -------
    DataFrame
        ``model metric n_seeds mean sd lowest highest``; sd divides by n - 1.
    """
    means = table.groupby(["model", "seed"], sort=False)[list(METRICS)].mean().reset_index()
    rows = []
    for model, own in means.groupby("model", sort=False):
        for metric in METRICS:
            values = own[metric].to_numpy(dtype=float)
            rows.append(
                {
                    "model": model,
                    "metric": metric,
                    "n_seeds": len(values),
                    "mean": values.mean(),
                    "sd": values.std(ddof=1),
                    "lowest": values.min(),
                    "highest": values.max(),
                }
            )
    return pd.DataFrame(rows)


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

"""Sample tables of designs that the tests of splits, audit and chance share."""

from itertools import pairwise

import numpy as np
import pandas as pd

SEGMENTS_S = ((0, 200), (184, 400), (384, 600))


def film(n_subjects=4, segments=SEGMENTS_S, n_classes=3, tr_s=2.0, shift_s=0.0):
    """Runs of a film that overlap by 16 s, labels in scenes of 20 s, the same for everyone."""
    parts = []
    for s in range(n_subjects):
        for r, (start, end) in enumerate(segments):
            onset = np.arange(0, end - start, tr_s)
            moment = start + onset + s * shift_s
            scene = (moment // 20).astype(int)
            parts.append(
                pd.DataFrame(
                    {
                        "subject": f"{s + 1:02d}",
                        "session": "movie",
                        "run": str(r + 1),
                        "volume": np.arange(len(onset)),
                        "onset_s": onset,
                        "label": [f"c{k % n_classes}" for k in scene],
                        "stimulus": "film",
                        "stimulus_time_s": moment,
                        "block": [f"{k:02d}" for k in scene],
                        "agreement": 1.0,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def blocks(n_subjects=5, n_runs=2, n_blocks=9, length=10, n_classes=3, seed=0, order="own"):
    """Block design without a common stimulus; the order is each subject's own, or common."""
    rng, parts = np.random.default_rng(seed), []
    common = [rng.permutation(n_blocks) % n_classes for _ in range(n_runs)]
    for s in range(n_subjects):
        for r in range(n_runs):
            kinds = rng.permutation(n_blocks) % n_classes if order == "own" else common[r]
            volume = np.arange(n_blocks * length)
            parts.append(
                pd.DataFrame(
                    {
                        "subject": f"{s + 1:02d}",
                        "session": "n/a",
                        "run": str(r + 1),
                        "volume": volume,
                        "onset_s": volume * 2.0,
                        "label": [f"c{kinds[v // length]}" for v in volume],
                        "stimulus": "n/a",
                        "stimulus_time_s": np.nan,
                        "block": [f"{v // length:02d}" for v in volume],
                        "agreement": np.nan,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def rows_table(n_subjects=6, n_each=3, labels=("anger", "fear", "joy")):
    """Rows of features: no runs, no times, each row its own block."""
    label = list(labels) * n_each
    parts = [
        pd.DataFrame(
            {
                "subject": str(s),
                "session": "n/a",
                "run": "n/a",
                "volume": range(len(label)),
                "onset_s": np.nan,
                "label": label,
                "stimulus": "n/a",
                "stimulus_time_s": np.nan,
                "block": [str(k) for k in range(len(label))],
                "agreement": np.nan,
            }
        )
        for s in range(n_subjects)
    ]
    return pd.concat(parts, ignore_index=True)


def noise(table, seed=0, n_columns=20):
    """Data without any information, one row for each row of the table."""
    return np.random.default_rng(seed).normal(size=(len(table), n_columns)).astype(np.float32)


def slow_noise(table, seed=0, n_columns=100):
    """Autocorrelated noise, every scan its own."""
    X = noise(table, seed, n_columns)
    keys = [name for name in ("subject", "run") if name in table]
    for rows in table.groupby(keys).indices.values():
        for before, after in pairwise(rows):
            X[after] = 0.6 * X[before] + 0.8 * X[after]
    return X


def raw_intensities(table, seed=0, n_columns=100):
    """Autocorrelated noise on a strong anatomy: volumes of all subjects correlate above .99."""
    rng = np.random.default_rng(seed)
    number = pd.factorize(table["subject"])[0]
    brain = 1000 + 400 * rng.normal(size=n_columns)
    own = 15 * rng.normal(size=(number.max() + 1, n_columns))
    return (brain + own[number] + 8 * slow_noise(table, seed, n_columns)).astype(np.float32)

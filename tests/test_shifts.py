"""Surrogates of designs that repeat in time: an accident of their phases is no leak."""

import numpy as np
import pandas as pd
import pytest

from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.shifts import LEAST_SAMPLES, shift_null

CLASSES = ("rest", "task")


def _predictions(phases, *, n=120, half_s=10):
    """Scans of alternating rest and task whose predictions run ahead by a phase of their own."""
    parts = []
    for number, phase in enumerate(phases):
        volume = np.arange(n)
        parts.append(
            pd.DataFrame(
                {
                    "model": "lda",
                    "fold": f"sub-{number:02d}",
                    "subject": f"{number:02d}",
                    "session": "n/a",
                    "run": "1",
                    "volume": volume,
                    "onset_s": 2.0 * volume,
                    "label": np.array(CLASSES)[volume // half_s % 2],
                    "predicted": np.array(CLASSES)[(volume + phase) // half_s % 2],
                    "block": (volume // half_s).astype(str),
                    "stimulus": "n/a",
                    "stimulus_time_s": np.nan,
                }
            )
        )
    table = pd.concat(parts, ignore_index=True)
    for name in CLASSES:
        table[f"p_{name}"] = (table["predicted"] == name).astype(float)
    return table


def _p(table, null, seed=0):
    drawn = null(seed, 500)
    own = (table["label"] == table["predicted"]).groupby(table["subject"]).mean().mean()
    return (np.sum(drawn >= own - 1e-9) + 1) / 501


def test_shifts_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    table = _predictions([0], n=40)
    table["predicted"] = rng.choice(CLASSES, 40)
    null = shift_null(table, np.arange(40), table, classes=CLASSES)
    label, predicted = table["label"].to_numpy(), table["predicted"].to_numpy()
    possible = set()
    for shift in range(40):
        hit = np.roll(predicted, shift) == label
        possible.add(round(np.mean([hit[label == name].mean() for name in CLASSES]), 9))
    drawn = {round(value, 9) for value in null(1, 2000)}
    assert drawn == possible


def test_accidental_phases_are_rejected_rarely_and_true_ones_always():
    rng, shifted, exchanged = np.random.default_rng(1), [], []
    for seed in range(60):
        table = _predictions(rng.integers(0, 20, size=2))
        null = shift_null(table, np.arange(len(table)), table, classes=CLASSES)
        shifted.append(_p(table, null, seed))
        columns = ["model", "fold", "subject", "run", "volume", "label", "predicted"]
        scored = score_predictions(
            table[[*columns, "p_rest", "p_task"]],
            classes=CLASSES,
            n_permutations=200,
            seed=seed,
            samples_table=table,
            rows=np.arange(len(table)),
        )
        exchanged.append(scored["models"]["lda"]["balanced_accuracy"]["p"])
    assert np.mean(np.array(shifted) <= 0.05) <= 0.1
    assert np.mean(np.array(exchanged) <= 0.05) >= 0.25  # what it is for
    table = _predictions([0] * 6)
    null = shift_null(table, np.arange(len(table)), table, classes=CLASSES)
    assert _p(table, null) == pytest.approx(1 / 501)


def test_without_times_or_with_few_samples_there_is_no_such_null():
    table = _predictions([0])
    rows = np.arange(len(table))
    assert shift_null(table, rows, table.assign(onset_s=np.nan), classes=CLASSES) is None
    few = rows[: LEAST_SAMPLES - 1]
    assert shift_null(table.iloc[few], few, table, classes=CLASSES) is None
    assert shift_null(table, rows, table, classes=CLASSES) is not None

"""Verdicts: negative controls against chance, corrected for their number, in words."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from emodecode.evaluate.corrected import holm
from emodecode.evaluate.fold import Split
from emodecode.evaluate.metrics import score_predictions
from emodecode.evaluate.rules import SURE_P
from emodecode.evaluate.tally import summarise

LEVEL = 0.05
"""Corrected p up to which a control does not pass."""


class _Kind(NamedTuple):
    rule: str
    title: str
    what: str
    passed: str
    failed: str


KINDS = {
    "time_only": _Kind(
        "T5",
        "Time-only decoder",
        "Without brain data, the nearest neighbour in time",
        "no sign that time alone tells the labels",
        "time alone tells the labels",
    ),
    "noise_replay": _Kind(
        "T2",
        "Noise replay",
        "On phase-randomised data, the same pipeline",
        "it finds nothing where there is nothing",
        "it finds labels in data that have none",
    ),
    "scene": _Kind(
        "T5",
        "Scene control",
        "With labels drawn anew for each scene, the same pipeline",
        "no sign that it recognises scenes",
        "it recognises scenes, whatever their label",
    ),
    "canary": _Kind(
        "T3",
        "Leak canary",
        "With the tested scans replaced by phase-randomised surrogates, the same pipeline",
        "no sign that test samples reach the training",
        "something of the test samples reaches the training",
    ),
    "confounds": _Kind(
        "T13",
        "Confound decoder",
        "A decoder of confounds alone",
        "no sign that they tell the labels",
        "they tell the labels without any pattern of the brain",
    ),
}
"""Name of each control -> rule of the audit, title, and the parts of its sentence."""


@dataclass(frozen=True)
class Control:
    """Outcome of one negative control for one decoder.

    Parameters
    ----------
    name : {"time_only", "noise_replay", "scene", "canary", "confounds"}
    rule : str
        Rule of the audit that it belongs to.
    title : str
    model : str
        Decoder that was refitted; ``"time_only"`` or ``"confounds"`` for these.
    value, low, high : float or None
        Balanced accuracy, mean over subjects with its 95 % t interval (widened where folds share
        training samples).
    chance : float or None
        Mean over exchanged labels.
    p, p_corrected : float or None
        One-sided (above chance); Holm over all controls and decoders of the run.
    n_folds, n_repeats : int
        Folds, and how often each was fitted with new surrogates or labels.
    seconds : float
    passed : bool or None
        ``p_corrected > .05``; None where it could not be asked.
    sentence : str
    """

    name: str
    rule: str
    title: str
    model: str
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    p: float | None
    p_corrected: float | None
    n_folds: int
    n_repeats: int
    seconds: float
    passed: bool | None
    sentence: str

    def to_json(self) -> dict[str, Any]:
        """Make an entry of ``controls`` in ``audit.json``."""
        return dataclasses.asdict(self)


class Part(NamedTuple):
    """Predictions of one repetition, with the table whose labels they are scored by.

    ``null(seed, n_permutations)`` may draw scores of a second null, which p must be small for too.
    """

    predictions: pd.DataFrame
    rows: np.ndarray
    table: pd.DataFrame
    splits: Sequence[Split]
    null: Callable[[int, int], np.ndarray] | None = None


@dataclass
class Asked:
    """A control for one decoder before it is judged; without parts, `why_not` says why."""

    name: str
    model: str
    parts: list[Part] = field(default_factory=list)
    n_folds: int = 0
    seconds: float = 0.0
    what: str = ""
    why_not: str = ""


def judge(
    asked: Sequence[Asked], *, classes: Sequence[str], seed: int, n_permutations: int
) -> list[Control]:
    """Test every control against exchanged labels and correct for how many there are.

    Parameters
    ----------
    asked : sequence of Asked
    classes : sequence of str
    seed, n_permutations : int
        Of the labellings. Where none of them reaches the score, more are drawn until one does or
        the corrected p can be `SURE_P`.
    """
    tested = [[_test(part, classes, seed, n_permutations) for part in each.parts] for each in asked]
    n_tests = sum(bool(parts) and all(part.p is not None for part in parts) for parts in tested)
    least = SURE_P / max(1, n_tests)
    outcomes = []
    for each, parts in zip(asked, tested, strict=True):
        sure = [
            _sharpen(part, test, classes, seed, n_permutations, least / min(2, len(parts)))
            for part, test in zip(each.parts, parts, strict=True)
        ]
        outcomes.append(_combine(sure))
    corrected = iter(holm([found.p for found in outcomes if found.p is not None]))
    return [
        _control(each, found, None if found.p is None else next(corrected), n_tests)
        for each, found in zip(asked, outcomes, strict=True)
    ]


class _Test(NamedTuple):
    """One repetition: per-subject scores, p over `m` labellings, the least p of the design."""

    per_subject: pd.Series
    chance: float | None
    p: float | None
    m: int
    floor: float
    widening: float


def _test(part: Part, classes: Sequence[str], seed: int, n_permutations: int) -> _Test:
    scored = score_predictions(
        part.predictions,
        classes=classes,
        seed=seed,
        n_permutations=n_permutations,
        samples_table=part.table,
        rows=part.rows,
        splits=part.splits,
    )
    found = scored["models"][part.predictions["model"].iloc[0]]
    main, own = found["balanced_accuracy"], found["per_subject"]
    series = pd.Series({name: each["balanced_accuracy"] for name, each in own.items()}, dtype=float)
    by_design = main["p_smallest"] > 1.0001 / (n_permutations + 1)
    floor = main["p_smallest"] if by_design else 0.0
    p = main["p"]
    if part.null is not None and p is not None:
        drawn = part.null(seed, n_permutations)
        p = max(p, (np.sum(drawn >= main["value"] - 1e-9) + 1) / (len(drawn) + 1))
    return _Test(series, main["chance"], p, n_permutations, floor, scored["widening"])


def _sharpen(
    part: Part, test: _Test, classes: Sequence[str], seed: int, n_permutations: int, least: float
) -> _Test:
    """Draw more labellings while none reaches the score and p could still get smaller."""
    batches = _seeds(seed)
    while test.p is not None and test.p * (test.m + 1) < 1.5 and test.p > least and not test.floor:
        more = _test(part, classes, next(batches), n_permutations)
        assert more.p is not None
        m = test.m + n_permutations
        reached = round(more.p * (n_permutations + 1)) - 1
        test = test._replace(p=(reached + 1) / (m + 1), m=m)
    return test


def _seeds(seed: int) -> Iterator[int]:
    number = 0
    while True:
        number += 1
        yield int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)


class _Outcome(NamedTuple):
    value: float | None
    low: float | None
    high: float | None
    chance: float | None
    p: float | None
    floor: float


def _combine(parts: Sequence[_Test]) -> _Outcome:
    """Mean over repetitions; p is twice the mean of theirs."""
    if not parts or any(part.p is None for part in parts):
        return _Outcome(None, None, None, None, None, 0.0)
    scores = pd.concat([part.per_subject for part in parts], axis=1).mean(axis=1)
    summary = summarise(scores.to_numpy(), widening=max(part.widening for part in parts))
    times = 1 if len(parts) == 1 else 2
    return _Outcome(
        value=summary["value"],
        low=summary["low"],
        high=summary["high"],
        chance=float(np.mean([part.chance for part in parts])),
        p=min(1.0, times * float(np.mean([part.p for part in parts]))),
        floor=times * max(part.floor for part in parts),
    )


def _control(asked: Asked, found: _Outcome, p_corrected: float | None, n_tests: int) -> Control:
    kind, passed, why = KINDS[asked.name], None, asked.why_not
    if p_corrected is None:
        why = why or "no subject has two classes among the tested samples"
    elif p_corrected <= LEVEL:
        passed = False
    elif found.floor * n_tests > LEVEL:
        why = "the labels of this design can be exchanged in too few ways for it to fail"
    else:
        passed = True
    return Control(
        name=asked.name,
        rule=kind.rule,
        title=kind.title,
        model=asked.model,
        value=found.value,
        low=found.low,
        high=found.high,
        chance=found.chance,
        p=found.p,
        p_corrected=p_corrected,
        n_folds=asked.n_folds,
        n_repeats=len(asked.parts),
        seconds=asked.seconds,
        passed=passed,
        sentence=_sentence(asked, found, p_corrected, passed, why, n_tests),
    )


def _sentence(
    asked: Asked,
    found: _Outcome,
    p_corrected: float | None,
    passed: bool | None,
    why: str,
    n_tests: int,
) -> str:
    kind = KINDS[asked.name]
    if found.value is None or found.chance is None or found.p is None or p_corrected is None:
        return f"{kind.title} not asked: {why}."
    what = asked.what or kind.what
    if what.endswith("the same pipeline"):
        what += f" ({asked.model})"
    numbers = f"chance {_short(found.chance)}, {_p(found.p)}"
    if n_tests > 1:
        numbers += f", {_p(p_corrected)} corrected for {n_tests} controls"
    verdict = why if passed is None else kind.passed if passed else kind.failed
    return f"{what} scores {_short(found.value)} ({numbers}): {verdict}."


def _short(value: float) -> str:
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else f"{value:.2f}"


def _p(p: float) -> str:
    if p < 0.001:
        return "p < .001"
    return f"p = {p:.3f}".replace("= 0.", "= .") if p < 0.1 else f"p = {_short(p)}"

"""Decoders of results folders, compared: what `emodecode compare` reads and prints."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from emodecode.errors import DataMissingError, InputError
from emodecode.evaluate.compare import compare, scores_of_subjects
from emodecode.evaluate.fold import Split, read_splits
from emodecode.evaluate.metrics import LARGEST, summarise
from emodecode.evaluate.same_folds import Evaluated, check_same_folds
from emodecode.evaluate.units import find_units
from emodecode.report import wording
from emodecode.report.folder import ResultsFolder, read_folder

_BETTER = {"log_loss": "lower is better"}


@dataclass(frozen=True, eq=False)
class _Decoder:
    """A decoder of a results folder, under the name that it has in the comparison."""

    name: str
    model: str
    folder: ResultsFolder = field(repr=False)
    splits: list[Split] = field(repr=False)

    @property
    def predictions(self) -> pd.DataFrame:
        predictions = self.folder.predictions
        return predictions[predictions["model"] == self.model]


def compare_folders(
    items: Sequence[str | Path],
    *,
    metric: str = "balanced_accuracy",
    rope: float = 0.01,
    seed: int = 0,
) -> dict[str, Any]:
    """Compare decoders of one or several results folders on the folds that they share.

    Parameters
    ----------
    items : sequence of str or Path
        ``FOLDER`` (all its decoders but the dummy) or ``FOLDER:MODEL``.
    metric, rope, seed
        See `emodecode.evaluate.compare.compare`.

    Returns
    -------
    dict
        ``metric``, ``rope``, ``n_folds``, ``n_samples``; under ``models`` for each decoder
        ``folder``, ``model``, ``verdict`` of its audit and ``value low high n_subjects``; and
        ``comparisons``, the list that `emodecode.evaluate.compare.compare` returns.

    Raises
    ------
    DataMissingError
        No such folder, or no complete one.
    InputError
        An unknown decoder, fewer than two of them, or other samples or folds in one folder than in
        another.
    """
    decoders = _select(items)
    first = decoders[0]
    if len(decoders) < 2:
        raise InputError(
            str(first.folder.path),
            found=f"one decoder ({first.model})",
            expected="two decoders or more; the dummy only counts where it is named",
            remedy="Name another folder, or FOLDER:MODEL.",
        )
    for other in decoders[1:]:
        _check_comparable(first, other)
    classes = first.folder.classes
    comparisons = compare(
        {decoder.name: decoder.predictions for decoder in decoders},
        first.splits,
        classes=classes,
        verdicts={decoder.name: decoder.folder.verdict for decoder in decoders},
        metric=metric,
        rope=rope,
        seed=seed,
    )
    widening = find_units(decoders[0].predictions, first.splits).widening
    return {
        "metric": metric,
        "rope": rope,
        "n_folds": len(first.splits),
        "n_samples": len(first.folder.samples),
        "models": {
            decoder.name: _describe(decoder, classes, metric, widening) for decoder in decoders
        },
        "comparisons": comparisons,
    }


def format_comparison(result: dict[str, Any]) -> str:
    """Format what `compare_folders` returns as tables and sentences for a terminal."""
    metric = result["metric"].replace("_", " ")
    note = f" ({_BETTER[result['metric']]})" if result["metric"] in _BETTER else ""
    same = wording.format_number(result["rope"], digits=_digits(result["rope"]))
    decoders = [
        (name, f"{wording.format_number(each['value'])} {wording.format_interval(each)}", each)
        for name, each in result["models"].items()
    ]
    scores = [("decoder", f"{metric} [95 %]", "audit")]
    scores += [(name, value, each["verdict"]) for name, value, each in decoders]
    chances = ("P(better)", f"P(same ±{same})", "P(worse)")
    titles = ("pair", "difference [95 %]", "corrected t", "Holm", "sign flip", *chances)
    pairs = [titles, *(_pair_row(pair) for pair in result["comparisons"])]
    shared = (
        f"{wording.count_of(result['n_samples'], 'sample')} in the same "
        f"{wording.count_of(result['n_folds'], 'fold')}; {metric}{note}, mean over subjects"
    )
    sentences = [pair["sentence"] for pair in result["comparisons"]]
    return "\n".join([shared, "", *_columns(scores), "", *_columns(pairs), "", *sentences])


def _pair_row(pair: dict[str, Any]) -> tuple[str, ...]:
    bayes, flips = pair["bayes"] or {}, pair["sign_flip"] or {}
    digits = _digits(pair["difference"])
    size = wording.format_number(pair["difference"], digits=digits)
    low, high = (wording.format_number(pair[key], digits=digits) for key in ("low", "high"))
    interval = "" if wording.MISSING in (low, high) else f" [{low}, {high}]"
    return (
        f"{pair['a']} - {pair['b']}",
        size + interval,
        wording.format_p((pair["corrected_t"] or {}).get("p")),
        wording.format_p(pair["p_holm"]),
        wording.format_p(flips.get("p"), smallest_p=flips.get("p_smallest")),
        *(wording.format_number(bayes.get(key)) for key in ("p_a_better", "p_rope", "p_b_better")),
    )


def _digits(value: float | None) -> int:
    return 2 if value is None or abs(value) >= 0.005 else 3


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _describe(
    decoder: _Decoder, classes: list[str], metric: str, widening: float
) -> dict[str, Any]:
    scores = scores_of_subjects(decoder.predictions, classes=classes, metric=metric)
    return {
        "folder": str(decoder.folder.path),
        "model": decoder.model,
        "verdict": decoder.folder.verdict,
        **summarise(scores.to_numpy(), largest=LARGEST[metric], widening=widening),
    }


def _select(items: Sequence[str | Path]) -> list[_Decoder]:
    """Decoders that the items stand for, each once, under names of their own."""
    read: dict[Path, tuple[ResultsFolder, list[Split]]] = {}
    chosen: dict[tuple[Path, str], None] = {}
    for item in items:
        path, model = _parse(item)
        key = path.resolve()
        if key not in read:
            folder = read_folder(path)
            splits = read_splits(path / "splits.json", n_samples=len(folder.samples))
            read[key] = folder, splits
        chosen |= dict.fromkeys((key, name) for name in _models(read[key][0], model))
    if not chosen:
        raise InputError(
            "comparison",
            found="no decoder" if items else "no results folder",
            expected="two decoders or more, as FOLDER or FOLDER:MODEL",
            remedy="Name the folders that `emodecode evaluate` wrote.",
        )
    names = _unique_names([(model, read[key][0].path) for key, model in chosen])
    return [
        _Decoder(name, model, *read[key]) for name, (key, model) in zip(names, chosen, strict=True)
    ]


def _parse(item: str | Path) -> tuple[Path, str | None]:
    """Split FOLDER:MODEL at the last colon that leaves a folder; either may hold colons."""
    text = str(item)
    if Path(text).is_dir():
        return Path(text), None
    for at in reversed([k for k, letter in enumerate(text) if letter == ":"]):
        if text[:at] and Path(text[:at]).is_dir():
            return Path(text[:at]), text[at + 1 :]
    raise DataMissingError(
        text,
        found="no such folder",
        expected="a results folder, as FOLDER or FOLDER:MODEL",
        remedy="Check the path; `emodecode evaluate` writes such a folder.",
    )


def _models(folder: ResultsFolder, model: str | None) -> list[str]:
    kinds = {name: score.get("kind", name) for name, score in folder.scores["models"].items()}
    if model is None:
        return [name for name, kind in kinds.items() if kind != "dummy"]
    if model not in kinds:
        near = difflib.get_close_matches(model, kinds, n=1, cutoff=0.0)
        raise InputError(
            str(folder.path),
            found=f"no decoder {model!r}",
            expected=f"one of {', '.join(kinds)}",
            remedy=f"Did you mean {folder.path}:{near[0]}?",
        )
    return [model]


def _unique_names(decoders: list[tuple[str, Path]]) -> list[str]:
    """Name of the model; where several share it with the folder's name or, if need be, path."""
    names = [model for model, _ in decoders]
    for folder_name in (lambda path: path.resolve().name, str):
        often = Counter(names)
        names = [
            f"{folder_name(path)}:{model}" if often[name] > 1 else name
            for name, (model, path) in zip(names, decoders, strict=True)
        ]
    return names


def _check_comparable(one: _Decoder, other: _Decoder) -> None:
    if one.folder is other.folder:
        return
    if one.folder.classes != other.folder.classes:
        raise InputError(
            f"{one.folder.path} and {other.folder.path}",
            found=f"the classes {', '.join(one.folder.classes)} and "
            f"{', '.join(other.folder.classes)}",
            expected="the same classes",
            remedy="Compare decoders of the same labels.",
        )
    check_same_folds(*(_evaluated(decoder) for decoder in (one, other)))


def _evaluated(decoder: _Decoder) -> Evaluated:
    return Evaluated(
        name=str(decoder.folder.path),
        predictions=decoder.predictions,
        splits=decoder.splits,
        table=decoder.folder.samples,
    )

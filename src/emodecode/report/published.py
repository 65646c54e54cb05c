"""The published form of a study beside the honest one, for the page."""

from typing import Any

from emodecode.report import wording
from emodecode.report.folder import PUBLISHED, ResultsFolder

NOT_COMPARED = ("as_published", "explain", "evaluate.allow_leakage", "title", "description", "name")
NAMES = {
    "evaluate.split": "split",
    "features.fit_on": "voxels selected on",
    "labels.source": "labels",
    "features.n_voxels": "number of voxels",
    "features.select_by": "selection over",
}


def describe_published(results: ResultsFolder) -> dict[str, Any] | None:
    """Scores of both forms, what differs between them, and one plain sentence."""
    published = results.published
    if published is None:
        return None
    page = published.path / "report.html"
    return {
        "href": f"{PUBLISHED}/report.html" if page.is_file() else "",
        "verdict": published.verdict,
        "leaks": published.verdict == "leak",
        "headline": list(dict.fromkeys(each.get("title", "") for each in _gravest(published))),
        "rows": [_row(name, results, published) for name in _shared(results, published)],
        "differences": find_differences(published.study, results.study),
        "splits": [form.scores["split"].get("sentence", "") for form in (published, results)],
        "sentence": _compare_best(results, published),
    }


def labels_are_random(results: ResultsFolder) -> bool:
    """Whether the labels were drawn at random, so that there is nothing to find."""
    return (results.study.get("labels") or {}).get("source") == "random"


def find_differences(
    published: dict[str, Any], honest: dict[str, Any]
) -> list[tuple[str, str, str]]:
    """Return ``(name, as published, honest)`` of every key in which two studies differ."""
    first, second = _flatten(published), _flatten(honest)
    keys = [*NAMES, *sorted((set(first) | set(second)) - set(NAMES))]
    return [
        (NAMES.get(key, key), _write(first.get(key)), _write(second.get(key)))
        for key in keys
        if first.get(key) != second.get(key) and not key.startswith(NOT_COMPARED)
    ]


def _shared(results: ResultsFolder, published: ResultsFolder) -> list[str]:
    return [name for name in results.models if name in published.scores["models"]]


def _row(name: str, results: ResultsFolder, published: ResultsFolder) -> dict[str, Any]:
    return {
        "name": name,
        "published": _side(name, published),
        "honest": _side(name, results),
    }


def _side(name: str, form: ResultsFolder) -> dict[str, Any]:
    scores = form.scores["models"][name]
    score = scores.get("balanced_accuracy") or {}
    return {
        "score": {"value": None} | score,
        "auc": (scores.get("macro_auc") or {}).get("value"),
        "p": wording.cell_p(score.get("p"), smallest_p=score.get("p_smallest")),
        "verdict": form.verdict,
    }


def _compare_best(results: ResultsFolder, published: ResultsFolder) -> dict[str, str] | None:
    """The decoder that scores highest as published, and both its scores."""
    known = []
    for name in _shared(results, published):
        models = [form.scores["models"][name] for form in (published, results)]
        scores = [model.get("balanced_accuracy") or {} for model in models]
        if models[0].get("kind") != "dummy" and None not in [s.get("value") for s in scores]:
            known.append((scores[0]["value"], name, scores[1]))
    if not known:
        return None
    high, name, honest = max(known, key=lambda each: each[0])
    return {
        "name": name,
        "published": wording.format_number(high),
        "honest": wording.format_number(honest["value"]),
        "chance": wording.format_number(honest.get("chance")),
    }


def _gravest(form: ResultsFolder) -> list[dict[str, Any]]:
    return [each for each in form.audit["findings"] if each.get("verdict") == form.verdict]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _write(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, list):
        return ", ".join(map(_write, value))
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("_", " ") if isinstance(value, str) else f"{value:g}"

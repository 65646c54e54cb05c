"""What the page shows: every number, sentence and figure, gathered from a results folder."""

from collections import Counter
from typing import Any
from urllib.parse import quote

from emodecode.evaluate.corrected import holm
from emodecode.report import wording
from emodecode.report.alignment import describe_alignment
from emodecode.report.controls import describe_controls, describe_overlap, write_headline
from emodecode.report.drawing import class_colours, model_colours
from emodecode.report.figures import NAMES, draw_roc, draw_scores, draw_subjects
from emodecode.report.folder import PUBLISHED, ResultsFolder
from emodecode.report.folds import describe_folds, shade_cell
from emodecode.report.methods import write_methods
from emodecode.report.papers import describe_paper
from emodecode.report.proof import (
    describe_calibration,
    describe_comparisons,
    describe_inference,
    describe_selection,
    describe_test,
    explain_chance,
)
from emodecode.report.published import describe_published, labels_are_random
from emodecode.report.references import REFERENCES
from emodecode.report.timeline import draw_timeline
from emodecode.report.training import describe_speed, describe_training

MAX_MAP_BYTES = 1_400_000
"""Images of maps on the page; the others are only named, so that a page stays below 3 MB."""
DOWNLOADS = {
    "study.toml": "the study as resolved, every default spelled out",
    "samples.tsv": "the labelled samples",
    "predictions.tsv": "every held-out prediction with its probabilities",
    "scores.json": "all scores with intervals, chance and p",
    "table1.tsv": "balanced accuracy and macro AUC, folds by decoders, mean and sd",
    "folds.tsv": "scores of every fold",
    "folds-classes.tsv": "precision, recall, F1 and AUC of every class in every fold",
    "folds-confusion.tsv": "confusion of every fold",
    "training.tsv": "loss and accuracy of every epoch",
    "seeds.tsv": "scores of every seed of a network in every fold",
    "latency.json": "how long predictions take",
    "audit.json": "the audit and its findings",
    "splits.json": "the folds",
    "fitted.json": "which rows each fitted step was handed",
    "provenance.json": "data, labels, versions, seed",
    "labels-timeline.tsv": "labels over time",
    "mask.nii.gz": "the mask",
}


def describe_page(results: ResultsFolder) -> dict[str, Any]:
    """Gather all that the template shows."""
    scores, study = results.scores["models"], results.study
    dummies = [name for name, score in scores.items() if score.get("kind") == "dummy"]
    colours = model_colours(results.models, dummies=dummies)
    classes = class_colours(results.classes)
    leaks = results.verdict == "leak"
    published = describe_published(results)
    methods, cited = write_methods(
        study,
        results.provenance,
        results.scores,
        results.audit,
        published=published["differences"] if published else None,
    )
    brain = _brain(results)
    if brain and brain["on_template"]:
        cited.append("fonov2011")
    cited.append("clarkpolner2017")
    return {
        "title": study.get("title") or study.get("name") or "Results",
        "description": study.get("description", ""),
        "lead": _lead(results),
        "split": results.scores["split"].get("sentence", ""),
        "verdict": results.verdict,
        "leaks": leaks,
        "headline": write_headline(results.audit),
        "random": labels_are_random(results),
        "audit": results.audit,
        "controls": describe_controls(results, colours),
        "overlap": describe_overlap(results.audit),
        "findings": [_finding(finding) for finding in results.audit["findings"]],
        "models": _models(results, colours),
        "best": min(results.models, key=lambda name: _rank(results, (name, ""))),
        "score_figure": draw_scores(scores, colours, leaks=leaks),
        "warnings": results.scores.get("warnings") or [],
        "widening": results.scores.get("widening") or 1.0,
        "chance_text": _chance_text(results),
        "published": published,
        "paper": describe_paper(results),
        "comparisons": describe_comparisons(results),
        "calibration": describe_calibration(results),
        "selection": describe_selection(results),
        "inference": describe_inference(results),
        "subject_figure": draw_subjects(scores, colours, leaks=leaks),
        "subjects": _subjects(results),
        "outlier": _outlier(results, dummies),
        "colours": colours,
        "classes": classes,
        "roc": _roc(results, classes),
        "folds": describe_folds(results, classes),
        "training": describe_training(results),
        "speed": describe_speed(results),
        "timeline": draw_timeline(results.samples, results.timeline, classes),
        "labels": results.provenance.get("labels") or {},
        "counts": _class_counts(results),
        "reliability": _reliability(results),
        "portrayed": study.get("labels", {}).get("source") == "annotations",
        "alignment": describe_alignment(results),
        "brain": brain,
        "methods": methods,
        "references": [REFERENCES[key] for key in sorted(dict.fromkeys(cited))],
        "provenance": results.provenance,
        "duration": wording.format_seconds(results.provenance.get("seconds")),
        "tuning": _tuning(results.provenance.get("tuning") or []),
        "notes": _notes(results),
        "downloads": _downloads(results),
    }


def _lead(results: ResultsFolder) -> str:
    """What was run, in one sentence."""
    n_subjects = results.samples["subject"].nunique()
    classes = results.classes
    named = wording.join_words(classes if len(classes) <= 8 else [*classes[:7], "others"])
    return (
        f"{wording.count_of(len(results.models), 'decoder')} of {len(classes)} classes ({named}), "
        f"tested on {wording.count_of(len(results.samples), 'sample')} of "
        f"{wording.count_of(n_subjects, 'subject')}."
    )


def _chance_text(results: ResultsFolder) -> str:
    chance = results.scores.get("chance") or {}
    return explain_chance(results.scores["models"], chance.get("n_permutations"))


def _finding(finding: dict[str, Any]) -> dict[str, Any]:
    share = finding.get("share")
    worst = finding.get("worst")
    return {
        "title": finding.get("title") or finding.get("rule", "").replace("_", " "),
        "rule": finding.get("rule", ""),
        "verdict": finding.get("verdict", "caution"),
        "n_samples": wording.format_count(finding.get("n_samples")),
        "share": "" if share is None else f"{100 * share:.0f} %",
        "worst": wording.MISSING if worst in (None, "") else str(worst),
        "danger": finding.get("danger", ""),
        "remedy": finding.get("remedy", ""),
    }


def _models(results: ResultsFolder, colours: dict[str, str]) -> list[dict[str, Any]]:
    described = []
    corrected = _correct(results.scores["models"])
    for name, score in results.scores["models"].items():
        main = score.get("balanced_accuracy") or {}
        described.append(
            {
                "name": name,
                "kind": score.get("kind", name),
                "colour": colours[name],
                "scores": {metric: {"value": None} | (score.get(metric) or {}) for metric in NAMES},
                "p": wording.cell_p(main.get("p"), smallest_p=main.get("p_smallest")),
                "test": describe_test(score),
                "claim": wording.claim(
                    main,
                    verdict=results.verdict,
                    p_corrected=corrected.get(name),
                    n_tested=len(corrected),
                ),
                "per_class": score.get("per_class") or {},
                "confusion": _confusion(score.get("confusion") or [], results.classes),
            }
        )
    return described


def _correct(models: dict[str, dict]) -> dict[str, float]:
    """Holm's correction of p over the decoders that could be above chance."""
    tested = {
        name: score["balanced_accuracy"]["p"]
        for name, score in models.items()
        if score.get("kind") != "dummy" and (score.get("balanced_accuracy") or {}).get("p")
    }
    return dict(zip(tested, holm(list(tested.values())), strict=True))


def _confusion(counts: list[list[int]], classes: list[str]) -> list[tuple[str, list[dict]]]:
    rows = []
    for name, row in zip(classes, counts, strict=False):
        total = sum(row)
        rates = [count / total if total else None for count in row]
        cells = [
            {"rate": rate, "count": count, "same": other == name, "style": shade_cell(rate)}
            for rate, count, other in zip(rates, row, classes, strict=True)
        ]
        rows.append((name, cells))
    return rows


def _subjects(results: ResultsFolder) -> list[dict[str, Any]]:
    """One row a subject, with the balanced accuracy of every model."""
    scores = results.scores["models"]
    own = {name: scores[name].get("per_subject") or {} for name in scores}
    subjects = sorted({subject for rows in own.values() for subject in rows})
    return [
        {
            "name": subject,
            "n_samples": max(
                (rows.get(subject) or {}).get("n_samples") or 0 for rows in own.values()
            ),
            "values": [
                (own[name].get(subject) or {}).get("balanced_accuracy") for name in results.models
            ],
        }
        for subject in subjects
    ]


def _outlier(results: ResultsFolder, dummies: list[str]) -> str:
    """Name the subject that is lowest in most models, if it is in more than half of several."""
    lowest = Counter[str]()
    real = [name for name in results.models if name not in dummies]
    for name in real:
        rows = results.scores["models"][name].get("per_subject") or {}
        values = {s: row.get("balanced_accuracy") for s, row in rows.items()}
        known = {s: value for s, value in values.items() if value is not None}
        if len(set(known.values())) > 1:
            lowest[min(known, key=lambda s: (known[s], s))] += 1
    if len(real) < 2 or not lowest:
        return ""
    subject, count = lowest.most_common(1)[0]
    if 2 * count <= len(real):
        return ""
    return f"Subject {subject} is the lowest in {count} of {len(real)} decoders."


def _roc(results: ResultsFolder, colours: dict[str, str]) -> list[dict[str, Any]]:
    from emodecode.evaluate.roc import roc_curves

    widening = results.scores.get("widening") or 1.0
    curves = roc_curves(results.predictions, results.classes, widening=widening)
    panels = []
    for index, name in enumerate(results.models):
        drawn, score = curves[name]["subjects"], results.scores["models"][name]
        per_class = score.get("per_class") or {}
        if drawn["macro"] is None:
            drawn = curves[name]["pooled"]
        leaks = results.verdict == "leak"
        panels.append(
            {
                "name": name,
                "svg": draw_roc(drawn, colours, name=name, index=index, leaks=leaks),
                "macro": (score.get("macro_auc") or {}).get("value"),
                "aucs": {
                    label: ((per_class.get(label) or {}).get("auc") or {}).get("value")
                    for label in results.classes
                },
            }
        )
    return panels


def _class_counts(results: ResultsFolder) -> list[tuple[str, int, float]]:
    counts = results.samples["label"].value_counts()
    return [
        (name, int(counts.get(name, 0)), 100 * counts.get(name, 0) / counts.max())
        for name in results.classes
    ]


def _reliability(results: ResultsFolder) -> dict[str, Any] | None:
    """How far the observers agree, over all and per class."""
    found = (results.provenance.get("labels") or {}).get("reliability")
    if not found:
        return None
    names = {
        "left_out_balanced_accuracy": "balanced accuracy of one observer against the others",
        "fleiss_kappa": "Fleiss' kappa",
        "split_half": "split-half reliability (Spearman–Brown)",
        "split_half_rank": "rank correlation of the halves",
    }
    rows = [(text, found[key]) for key, text in names.items() if found.get(key) is not None]
    return {
        "n_observers": found.get("n_observers"),
        "rows": rows,
        "per_label": found.get("per_label") or {},
        "ceiling": found.get("left_out_balanced_accuracy"),
    }


def _brain(results: ResultsFolder) -> dict[str, Any] | None:
    """Images of the mask and of as many maps as the page can hold, the best decoder first."""
    if results.mask is None:
        return None
    from emodecode.report.brain import draw_map, draw_mask, make_backdrop

    backdrop = make_backdrop(results.mask, space=results.study.get("data", {}).get("space"))
    pairs: dict[tuple[str, str], dict[str, dict]] = {}
    for entry in results.maps:
        pairs.setdefault((entry["model"], entry["class"]), {})[entry["kind"]] = entry
    shown: list[dict[str, Any]] = []
    n_bytes = 0
    for (model, label), kinds in sorted(pairs.items(), key=lambda item: _rank(results, item[0])):
        if n_bytes > MAX_MAP_BYTES:
            break
        anchor = kinds.get("pattern") or next(iter(kinds.values()))
        peak = (anchor.get("top") or [None])[0]
        at_mm = None if peak is None else [peak[key] for key in ("x_mm", "y_mm", "z_mm")]
        images = [
            {
                "kind": kind,
                "image": draw_map(results.path / kinds[kind]["file"], backdrop, at_mm=at_mm),
                "top": (kinds[kind].get("top") or [])[:5],
                "file": kinds[kind]["file"],
                "href": quote(kinds[kind]["file"]),
            }
            for kind in ("pattern", "weights")
            if kind in kinds
        ]
        n_bytes += sum(len(image["image"]) for image in images)
        shown.append({"model": model, "class": label, "maps": images})
    return {
        "mask": draw_mask(results.mask, backdrop),
        "on_template": backdrop.on_template,
        "shown": shown,
        "n_hidden": len(pairs) - len(shown),
    }


def _rank(results: ResultsFolder, pair: tuple[str, str]) -> tuple[float, int, str]:
    model, label = pair
    score = results.scores["models"].get(model, {}).get("balanced_accuracy") or {}
    place = results.models.index(model) if model in results.models else len(results.models)
    return (-(score.get("value") or 0.0), place, label)


def _tuning(chosen: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How often each value was chosen, by model and parameter."""
    found: dict[tuple[str, str], Counter] = {}
    for entry in chosen:
        for parameter, value in (entry.get("chosen") or {}).items():
            key = entry["model"], parameter.split("__")[-1]
            found.setdefault(key, Counter())[str(value)] += 1
    return [
        {
            "model": model,
            "parameter": parameter,
            "values": wording.join_words(
                [f"{value} ({times} ×)" for value, times in sorted(counts.items(), key=_most)]
            ),
        }
        for (model, parameter), counts in found.items()
    ]


def _most(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _notes(results: ResultsFolder) -> list[str]:
    provenance, notes = results.provenance, list(results.scores.get("warnings") or [])
    for part in ("data", "labels", "features"):
        notes += (provenance.get(part) or {}).get("notes") or []
    for score in results.scores["models"].values():
        notes += score.get("notes") or []
    notes += [f"warning from {text}" for text in provenance.get("warnings") or []]
    return list(dict.fromkeys(notes))


def _downloads(results: ResultsFolder) -> list[tuple[str, str, str]]:
    present = [name for name in DOWNLOADS if (results.path / name).is_file()]
    rows = [(name, quote(name), DOWNLOADS[name]) for name in present]
    if results.published is not None and (results.published.path / "report.html").is_file():
        href = f"{PUBLISHED}/report.html"
        rows.append((href, href, "the report of the published form"))
    for path in sorted((results.path / "epochs").glob("*.csv")):
        name = f"epochs/{path.name}"
        rows.append((name, quote(name), f"every epoch of {path.stem}"))
    for entry in results.maps:
        what = f"{entry['kind']} of {entry['model']} for {entry['class']}"
        rows.append((entry["file"], quote(entry["file"]), what))
    return rows

"""The automatic controls and what train and test share, as the page shows them."""

from typing import Any

from emodecode.evaluate.rules import SURE_P
from emodecode.report import wording
from emodecode.report.control_figures import draw_controls, draw_lags
from emodecode.report.folder import ResultsFolder

OF_CONTROL = "Control not at chance"
"""How titles of findings begin that come from controls."""

MOMENTS = {
    "share_stimulus_in_training": "test samples whose moment of the stimulus, to one TR, is in "
    "training, whoever saw it",
    "share_moment_of_others_in_training": "test samples whose very moment another subject in "
    "training saw",
}
CLOCKS = {
    "stimulus": "nearest neighbour in time, of any subject",
    "subject": "nearest neighbour in time, in the subject's own run where that is in training",
}
OFF = (
    "Controls were switched off (evaluate.controls = false): nothing shows that these decoders "
    "find nothing where there is nothing."
)
NONE = (
    "No controls were run: nothing shows that these decoders find nothing where there is nothing."
)


def write_headline(audit: dict[str, Any]) -> str:
    """Return the audit's verdict as a sentence that stays true with and without controls."""
    verdict, controls = audit["verdict"], audit.get("controls") or []
    if verdict == "leak":
        return wording.HEADLINES["control" if _leaks_by_controls(audit) else "leak"]
    if verdict == "caution":
        return wording.HEADLINES[verdict] + "."
    asked = [control for control in controls if control.get("passed") is not None]
    if asked and all(control["passed"] for control in asked):
        which = "every control" if len(asked) == len(controls) else "every control that was asked"
        return f"{wording.HEADLINES[verdict]}, and {which} landed at chance."
    if "controls" in audit and not asked:
        return f"{wording.HEADLINES[verdict]}; no controls were run."
    return wording.HEADLINES[verdict] + "."


def judge(control: dict[str, Any]) -> tuple[str, str]:
    """Return the class of the badge and its text for one control."""
    if control.get("passed") is None:
        return "note", "not asked"
    if control["passed"]:
        return "clean", f"{wording.SYMBOLS['clean']} at chance"
    kind = "leak" if _is_leak(control) else "caution"
    return kind, f"{wording.SYMBOLS[kind]} above chance"


def describe_controls(results: ResultsFolder, colours: dict[str, str]) -> dict[str, Any] | None:
    """Everything about the controls; None for folders that are older than they are."""
    audit = results.audit
    controls = [each | {"model": _decoder(each)} for each in audit.get("controls") or []]
    if not controls:
        if "controls_share" not in audit and "controls" not in audit:
            return None
        asked = (results.study.get("evaluate") or {}).get("controls")
        return {"off": NONE if asked else OFF, "groups": [], "figure": "", "cost": ""}
    leaks = results.verdict == "leak"
    main = {
        name: score.get("balanced_accuracy") or {}
        for name, score in results.scores["models"].items()
        if score.get("kind") != "dummy"
    }
    drawn = [control | {"badge": judge(control)[0]} for control in controls]
    return {
        "off": "",
        "main": [
            {"name": name, "score": {"value": None} | score, "p": _p(score)}
            for name, score in main.items()
        ],
        "groups": _group(controls),
        "figure": draw_controls(main, drawn, colours, leaks=leaks),
        "cost": _cost(controls, audit.get("controls_share")),
    }


def describe_overlap(audit: dict[str, Any]) -> dict[str, Any] | None:
    """What train and test share, as rows of name and value, and the curve over lags."""
    lags = audit.get("lags") or {}
    rows = _overlap_rows(audit.get("overlap") or {})
    drawn = len(lags.get("share") or []) > 1 and bool(lags.get("lags_vol"))
    if not (rows or drawn):
        return None
    return {
        "rows": rows,
        "lags": draw_lags(lags) if drawn else "",
        "best": _best_lag(lags) if drawn else "",
    }


def _overlap_rows(overlap: dict[str, Any]) -> list[tuple[str, str]]:
    within = overlap.get("share_same_subject_within") or {}
    asked = [(text, wording.format_share(overlap.get(key))) for key, text in MOMENTS.items()]
    mean = overlap.get("mean_other_subjects_in_training")
    asked += [("other subjects with that moment in training, mean", _mean_count(mean))]
    asked += [
        (
            f"test samples with one of the same subject and run within {seconds}\u00a0s",
            wording.format_share(share),
        )
        for seconds, share in within.items()
    ]
    asked += [
        (
            f"{CLOCKS.get(clock, clock)}, no brain data: balanced accuracy, macro AUC",
            f"{wording.format_number(found.get('balanced_accuracy'))}, "
            f"{wording.format_number(found.get('macro_auc'))}",
        )
        for clock, found in (overlap.get("time_only") or {}).items()
        if found
    ]
    return [(name, value) for name, value in asked if value != wording.MISSING]


def _mean_count(mean: float | None) -> str:
    return wording.MISSING if mean is None else f"{mean:.1f}"


def _best_lag(lags: dict[str, Any]) -> str:
    """Where the labels fit best, and what the audit makes of it."""
    if lags.get("best_vol") is None:
        return ""
    noun = "volume" if abs(lags["best_vol"]) == 1 else "volumes"
    by = f"{lags['best_vol']:+d} {noun}".replace("-", "−")
    if lags.get("best_s") is not None:
        by += f" ({lags['best_s']:+.3g}\u00a0s)".replace("-", "−")
    if not lags["best_vol"]:
        return "The labels fit the data best where they are."
    far = "a finding" if lags.get("flagged") else "no finding, it is too near or too weak"
    return f"The labels fit the data best when moved by {by}: {far}."


def _leaks_by_controls(audit: dict[str, Any]) -> bool:
    """Whether each finding that says leak comes from a control that did not pass."""
    failed = any(_is_leak(each) for each in audit.get("controls") or [])
    titles = [str(each.get("title")) for each in audit["findings"] if each["verdict"] == "leak"]
    return failed and all(title.startswith(OF_CONTROL) for title in titles)


def _is_leak(control: dict[str, Any]) -> bool:
    p = control.get("p_corrected")
    failed = control.get("passed") is False and control.get("name") != "confounds"
    return failed and p is not None and p <= SURE_P


def _decoder(control: dict[str, Any]) -> str:
    """Name of the study's decoder; none where the control brings its own, named like itself."""
    model = control.get("model") or ""
    return "" if model == control.get("name") else model


def _group(controls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Controls of one kind together, one row a decoder."""
    groups: dict[str, dict[str, Any]] = {}
    for control in controls:
        name = control.get("name") or control.get("title") or "control"
        title = control.get("title") or name.replace("_", " ")
        group = groups.setdefault(
            name, {"title": title, "rule": control.get("rule") or "", "rows": []}
        )
        group["rows"].append(_row(control))
    return list(groups.values())


def _row(control: dict[str, Any]) -> dict[str, Any]:
    kind, verdict = judge(control)
    folds, repeats = control.get("n_folds"), control.get("n_repeats")
    size = wording.count_of(folds, "fold") if folds else ""
    if size and repeats and repeats > 1:
        size += f" × {wording.format_count(repeats)}"
    return {
        "model": control["model"],
        "score": {"value": None} | {k: control.get(k) for k in ("value", "low", "high", "chance")},
        "p": wording.cell_p(control.get("p")),
        "p_corrected": wording.cell_p(control.get("p_corrected")),
        "kind": kind,
        "verdict": verdict,
        "size": size,
        "sentence": wording.as_sentence(control.get("sentence") or ""),
    }


def _p(score: dict[str, Any]) -> str:
    return wording.cell_p(score.get("p"), smallest_p=score.get("p_smallest"))


def _cost(controls: list[dict[str, Any]], share: float | None) -> str:
    seconds = sum(control.get("seconds") or 0.0 for control in controls)
    text = f"The controls took {wording.format_seconds(seconds)}"
    if not share:
        return f"{text}."
    return f"{text}, {wording.format_number(share)} times what the decoders' own fits took."

"""What proves a score, for the page: how p was found, subjects, differences, calibration."""

from typing import Any

from emodecode.evaluate.selection import select_confident
from emodecode.report import wording
from emodecode.report.calibration import draw_reliability
from emodecode.report.folder import ResultsFolder

METHODS = {
    "refit": "refitted",
    "predictions": "predictions fixed, approximate",
    "surrogates": "refitted on surrogates",
}


def describe_test(score: dict[str, Any]) -> dict[str, str]:
    """Say how one decoder's p was found: the test, m and the smallest p it can give."""
    test, main = score.get("test") or {}, score.get("balanced_accuracy") or {}
    if not test.get("method"):
        return {"how": "", "size": "", "sentence": ""}
    smallest, size = main.get("p_smallest"), []
    if test.get("n_permutations"):
        size.append(f"m = {wording.format_count(test['n_permutations'])}")
    if smallest is not None:
        size.append(f"least p {_least(smallest)}")
    return {
        "how": METHODS.get(test["method"], test["method"]),
        "size": ", ".join(size),
        "sentence": wording.as_sentence(test.get("sentence") or ""),
    }


def explain_chance(models: dict[str, dict[str, Any]], n_permutations: int | None) -> str:
    """Say for every decoder what its chance is the mean of."""
    groups: dict[tuple[str, int | None], list[str]] = {}
    for name, score in models.items():
        test = score.get("test") or {}
        own = test.get("method") or "predictions", test.get("n_permutations") or n_permutations
        groups.setdefault(own, []).append(name)
    parts = []
    for (method, count), names in groups.items():
        times = f" ({wording.format_count(count)} permutations)" if count else ""
        of = f" of {wording.join_words(names)}" if len(groups) > 1 else ""
        if method == "surrogates":
            drawn = times.replace("permutations", "surrogates")
            parts.append(
                f"Chance{of} is the mean score after everything was fitted anew on "
                f"phase-randomised surrogates of the data{drawn}"
            )
        elif method == "refit":
            parts.append(
                f"Chance{of} is the mean score after everything was fitted anew on exchanged "
                f"labels{times}"
            )
        else:
            parts.append(f"Chance{of} is the mean score of the same predictions with exchanged ")
            parts[-1] += f"labels{times}"
    return (
        f"{'; '.join([parts[0], *(_small(part) for part in parts[1:])])}; it is not one over "
        "the number of classes."
    )


def describe_inference(results: ResultsFolder) -> list[dict[str, Any]]:
    """One row a decoder: sign flips, bootstrap and prevalence over subjects; none for one."""
    rows = []
    for name, score in results.scores["models"].items():
        found = score.get("inference")
        if not found or found.get("n_subjects") == 1:
            continue
        flips, boot = found.get("sign_flip") or {}, found.get("bootstrap") or {}
        prevalence = found.get("prevalence") or {}
        rows.append(
            {
                "name": name,
                "n_subjects": found.get("n_subjects"),
                "p": wording.cell_p(flips.get("p"), smallest_p=flips.get("p_smallest")),
                "how": _how_flipped(flips),
                "bootstrap": {"value": (score.get("balanced_accuracy") or {}).get("value")} | boot,
                "prevalence": _prevalence(prevalence),
                "majority": wording.cell_p(prevalence.get("p_majority"))
                if prevalence
                else wording.MISSING,
            }
        )
    return rows


def describe_comparisons(results: ResultsFolder) -> list[dict[str, Any]]:
    """One row a pair of decoders; what may be said of it is in the file, nothing is added."""
    return [
        {
            "a": pair["a"],
            "b": pair["b"],
            "difference": wording.format_difference(pair),
            "sign_flip": wording.cell_p(
                (pair.get("sign_flip") or {}).get("p"),
                smallest_p=(pair.get("sign_flip") or {}).get("p_smallest"),
            ),
            "corrected_t": wording.cell_p((pair.get("corrected_t") or {}).get("p")),
            "p_holm": wording.cell_p(pair.get("p_holm")),
            "bayes": [
                wording.format_probability((pair.get("bayes") or {}).get(key))
                for key in ("p_a_better", "p_rope", "p_b_better")
            ],
            "rope": wording.format_number((pair.get("bayes") or {}).get("rope")),
            "sentence": pair.get("sentence") or "",
        }
        for pair in results.scores.get("comparisons") or []
    ]


def describe_calibration(results: ResultsFolder) -> list[dict[str, Any]]:
    """One entry a decoder: scores of its probabilities, before and after scaling, and the plot."""
    entries = []
    for index, (name, score) in enumerate(results.scores["models"].items()):
        ece, bins = score.get("ece"), score.get("reliability")
        if not (score.get("brier") or ece or bins):
            continue
        blank = {"value": None}
        entries.append(
            {
                "name": name,
                "scores": [blank | (score.get(key) or {}) for key in ("log_loss", "brier", "ece")],
                "if_calibrated": (ece or {}).get("if_calibrated"),
                "temperature": _temperature(score.get("temperature")),
                "before": _before(score.get("uncalibrated")),
                "svg": draw_reliability(
                    bins, name=name, index=index, ece=ece, leaks=results.verdict == "leak"
                )
                if bins
                else "",
            }
        )
    return entries


def describe_selection(results: ResultsFolder) -> list[dict[str, Any]]:
    """Scores of the confident predictions only, one entry a decoder with a row a threshold."""
    widening = results.scores.get("widening") or 1.0
    found = select_confident(results.predictions, classes=results.classes, widening=widening)
    return [
        {
            "name": name,
            "rows": [
                row
                | {
                    "kept": "all"
                    if row["threshold"] == 0
                    else f"≥ {wording.format_number(row['threshold'])}",
                    "share": wording.format_share(row["share"]),
                }
                for row in found[name]
            ],
        }
        for name, score in results.scores["models"].items()
        if score.get("kind") != "dummy"
    ]


def _how_flipped(flips: dict[str, Any]) -> str:
    if not flips:
        return ""
    least = flips.get("p_smallest")
    how = "exact" if flips.get("exact") else "sampled"
    return how if least is None else f"{how}, least p {_least(least)}"


def _prevalence(found: dict[str, Any]) -> str:
    """In which share of the population the effect is shown to be."""
    if not found:
        return wording.MISSING
    if found.get("gamma0") is None:
        return "none shown"
    text = f"more than {100 * found['gamma0']:.0f} %"
    most = found.get("gamma0_largest")
    return text if most is None else f"{text} (at most {100 * most:.0f} % can be shown)"


def _temperature(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    mean, low, high = (wording.format_number(found.get(key)) for key in ("mean", "low", "high"))
    return mean if wording.MISSING in (low, high) else f"{mean} ({low} to {high})"


def _before(found: dict[str, Any] | None) -> list[float | None]:
    return [found.get(key) for key in ("log_loss", "brier", "ece")] if found else []


def _least(smallest: float) -> str:
    """``1/1 001`` where it is such a fraction, else three digits."""
    parts = round(1 / smallest) if smallest > 0 else 0
    if parts and abs(smallest * parts - 1) < 1e-6:
        return f"1/{wording.format_count(parts)}" if parts > 1 else "1"
    return wording.format_number(smallest, digits=3) if smallest >= 0.0005 else f"{smallest:.0e}"


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]

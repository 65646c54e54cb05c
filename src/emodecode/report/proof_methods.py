"""Methods text on what proves the scores: chance, controls, subjects, differences, calibration."""

from typing import Any

from emodecode.report.wording import as_sentence, format_count, format_number, join_words

_CONTROLS = {
    "time_only": "a nearest neighbour in time without brain data",
    "noise_replay": "the whole pipeline on surrogate data",
    "scene": "labels drawn anew for each scene",
    "canary": "the tested subject replaced by a surrogate of itself",
    "confounds": "a decoder of what is known of head motion, global signal and time in the run",
}


def tell_chance(scores: dict[str, Any]) -> list[str]:
    """Say how chance and p were found."""
    chance, models = scores.get("chance") or {}, scores["models"]
    sentences = [
        *_tell_tests(models, chance),
        *(["p is (b + 1) / (m + 1) with b of m labellings that score at least as high "
           "[@phipson2010]" + _holm(models)] if _any_p(models) else []),
    ]  # fmt: skip
    return sentences


def tell_controls(study: dict[str, Any], audit: dict[str, Any]) -> list[str]:
    """Say which controls were run and how they ended."""
    controls = audit.get("controls") or []
    if not controls:
        off = (study.get("evaluate") or {}).get("controls") is False
        return ["Controls were switched off."] if off else []
    asked = [each for each in controls if each.get("passed") is not None]
    if not asked:
        return ["No control could be asked."]
    names = list(dict.fromkeys(each.get("name", "") for each in asked))
    kinds = [_CONTROLS.get(name, name) for name in names]
    sentences = [
        f"Controls that must land at chance were run in the same folds: {join_words(kinds)}."
    ]
    if {"noise_replay", "canary"} & set(names):
        sentences.append(_tell_surrogates(asked))
    failed = [each for each in asked if not each["passed"]]
    titles = dict.fromkeys(each.get("title") or each.get("name", "") for each in failed)
    outcome = "All that could be asked landed at chance."
    if failed:
        outcome = f"Not at chance: {join_words(list(titles))}."
    sentences.append(f"{outcome} Their p are corrected for their number [@holm1979].")
    missing = [each for each in controls if each.get("passed") is None]
    if missing:
        left = dict.fromkeys(each.get("title") or each.get("name", "") for each in missing)
        sentences.append(f"Not asked: {join_words(list(left))}.")
    return sentences


def _tell_surrogates(asked: list[dict[str, Any]]) -> str:
    """How surrogates are made: scans keep their spectra, rows without times are permuted."""
    if any("permuted" in (each.get("sentence") or "") for each in asked):
        return "Surrogates have the rows of the data in a random order within each run."
    return (
        "Surrogates have the spectra and correlations of the data but random phases, the same for "
        "all voxels of a scan [@prichard1994]."
    )


def tell_subjects(models: dict[str, dict[str, Any]]) -> list[str]:
    """Say which inferences over subjects were made."""
    every = [each["inference"] for each in models.values() if each.get("inference")]
    found = [each for each in every if each.get("n_subjects") != 1]
    if not found:
        return []
    flips = next((each["sign_flip"] for each in found if each.get("sign_flip")), None)
    parts = []
    if flips:
        how = "all sign patterns" if flips.get("exact") else "sampled sign patterns"
        parts.append(f"sign flips of the score minus chance ({how}) [@nichols2002]")
    if any((each.get("bootstrap") or {}).get("low") is not None for each in found):
        parts.append("the bias-corrected and accelerated bootstrap [@efron1987]")
    if any(each.get("prevalence") for each in found):
        parts.append("permutation-based prevalence inference [@allefeld2016]")
    if not parts:
        return []
    return [
        f"Over subjects there are {join_words(parts)}; they take subjects for independent, though "
        "their decoders share training data."
    ]


def tell_comparisons(scores: dict[str, Any]) -> list[str]:
    """Say how decoders were compared."""
    pairs = scores.get("comparisons") or []
    if not pairs:
        return []
    text = (
        "Decoders were compared on the same folds by the corrected resampled t test "
        "[@nadeau2003], by sign flips over subjects"
    )
    rope = next((each["bayes"].get("rope") for each in pairs if each.get("bayes")), None)
    if rope is not None:
        text += (
            " and by the Bayesian correlated t test with a region of practical equivalence of "
            f"{format_number(rope)} [@benavoli2017]"
        )
    if len(pairs) > 1:
        text += "; p is corrected for the number of pairs [@holm1979]"
    return [f"{text}. A difference is claimed only after a clean audit."]


def tell_calibration(models: dict[str, dict[str, Any]]) -> list[str]:
    """Say how probabilities were judged and scaled."""
    sentences = []
    if any(each.get("brier") or each.get("ece") for each in models.values()):
        sentences.append(
            "Probabilities were judged by log loss, the Brier score [@brier1950] and the expected "
            "calibration error in bins of equally many predictions [@guo2017]."
        )
    scaled = [name for name, each in models.items() if each.get("temperature")]
    if scaled:
        sentences.append(
            f"Those of {join_words(scaled)} were scaled by one temperature a fold, fitted on inner "
            "folds of the training samples [@guo2017]."
        )
    return sentences


def tell_published(differences: list[tuple[str, str, str]] | None) -> list[str]:
    """Say that a published form was evaluated too, and how it differs."""
    if differences is None:
        return []
    parts = [f"{name}: {first} instead of {second}" for name, first, second in differences]
    return [
        "The study was evaluated a second time on the same samples in its published form"
        f"{f' ({join_words(parts)})' if parts else ''}. Claims rest on the first form only."
    ]


def _tell_tests(models: dict[str, dict[str, Any]], chance: dict[str, Any]) -> list[str]:
    exchange = as_sentence(chance["method"]).rstrip(".") if chance.get("method") else ""
    counts = {(each.get("test") or {}).get("n_permutations") for each in models.values()}
    count = chance.get("n_permutations") or next((n for n in counts if n), None)
    times = f" in {format_count(count)} permutations" if count else ""
    methods: dict[str, list[str]] = {}
    for name, each in models.items():
        methods.setdefault((each.get("test") or {}).get("method", ""), []).append(name)
    if set(methods) == {""}:
        return (
            [f"Chance is the mean score of the same predictions{times} of the labels: "
             f"{chance['method']}."] if chance.get("method") else []
        )  # fmt: skip
    sentences = [f"Chance is the mean score{times} of the labels. {exchange}.".replace(" .", "")]
    if methods.get("refit"):
        sentences.append(
            f"For {join_words(methods['refit'])} selection and fit were repeated on each labelling "
            "in every fold [@ojala2010]."
        )
    if methods.get("surrogates"):
        sentences.append(
            f"For {join_words(methods['surrogates'])} chance is instead that of phase-randomised "
            "surrogates of the data with the true labels, everything refitted [@prichard1994]."
        )
    if methods.get("predictions"):
        text = f"For {join_words(methods['predictions'])} the predictions stayed fixed"
        shared = [models[name]["test"].get("sentence", "") for name in methods["predictions"]]
        if any("share training" in sentence for sentence in shared):
            text += (
                "; as the folds share training samples, deviations from chance were widened by "
                "the square root of two [@nadeau2003], which is approximate"
            )
        sentences.append(f"{text}.")
    return sentences


def _holm(models: dict[str, dict[str, Any]]) -> str:
    if len(models) < 2:
        return "."
    return "; claims use p corrected for the number of decoders [@holm1979]."


def _any_p(models: dict[str, dict[str, Any]]) -> bool:
    return any(
        (each.get("balanced_accuracy") or {}).get("p") is not None for each in models.values()
    )

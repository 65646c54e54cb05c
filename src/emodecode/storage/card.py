"""The decoder card: what a decoder decodes, how well, on whom it was trained and its limits."""

from typing import Any

LICENCE = (
    "The software (emodecode) is licensed under BSD-3-Clause. The weights are derived from the "
    "data named above: the data's licence and the participants' consent apply to them."
)


def write_card(content: dict[str, Any]) -> str:
    """Return the text of ``CARD.md``.

    Parameters
    ----------
    content : dict
        Of ``decoder.json``: ``contract model subjects study data evaluation versions``.
    """
    classes = content["contract"]["classes"]
    sections = [
        ("What it decodes", _what(content)),
        ("How well", _scores(content.get("evaluation"))),
        ("What it was trained on", _data(content.get("data"))),
        ("From a scan to features", _features(content["contract"])),
        ("Model", _model(content["model"])),
        ("Limits of use", _limits(content)),
        ("Use", _use(content["contract"])),
        ("Versions", _versions(content)),
        ("Licence", [LICENCE]),
    ]
    title = f"# Decoder of {_listed(classes)}"
    parts = [f"## {name}\n\n" + "\n".join(lines) for name, lines in sections if lines]
    return "\n\n".join([title, *parts]) + "\n"


def _what(content: dict[str, Any]) -> list[str]:
    contract, study = content["contract"], content.get("study") or {}
    lag = f"A volume tells about the moment {contract['lag_s']:g} s before it (the labels' lag)."
    if contract["hrf"]:
        lag = "A volume tells about the moments that the haemodynamic response weighs."
    elif not contract["lag_s"]:
        lag = "A volume tells about the moment of its label: no lag is known."
    lines = [
        f"The probability of each of {len(contract['classes'])} classes "
        f"({_listed(contract['classes'])}), volume by volume, from "
        f"{contract['n_features']} {contract['features']}.",
        lag if contract["tr_s"] else "",
        f"Study: {study.get('title') or study['name']}." if study else "",
        study.get("rule", "") if study else "",
    ]
    return [line for line in lines if line]


def _scores(evaluation: dict[str, Any] | None) -> list[str]:
    if not evaluation:
        return [
            "Not known: this decoder came without an evaluation. Nothing can be said about what "
            "its probabilities are worth."
        ]
    accuracy, auc = evaluation["balanced_accuracy"], evaluation["macro_auc"]
    verdict = evaluation["verdict"]
    warning = " **THE TEST DATA REACHED THE TRAINING: do not trust the scores.**"
    lines = [
        f"Audit of the evaluation: **{verdict}**.{warning if verdict == 'leak' else ''}",
        "",
        "| score | value | 95 % over subjects | chance | p |",
        "| --- | --- | --- | --- | --- |",
        f"| balanced accuracy | {_row(accuracy)} |",
        f"| macro AUC | {_row(auc)} |",
        "",
        f"{evaluation['split']} {evaluation['n_subjects']} subjects.",
        f"Test against chance: {evaluation['test']}.",
        f"The scores are those of decoders fitted in the same way ({evaluation['source']}) without "
        "the subjects or scenes that they were tested on. This decoder is fitted on all samples, "
        "so it has no score of its own.",
    ]
    lines += [
        f"- [{each['verdict']}] {each['rule']} {each['title']}" for each in evaluation["findings"]
    ]
    if evaluation["controls"] is None:
        lines.append("- controls: switched off (evaluate.controls = false)")
    said = {True: "passed", False: "FAILED", None: "not asked"}
    for each in evaluation["controls"] or []:
        lines.append(f"- control {said[each['passed']]}: {each['sentence']}")
    lines += [f"- not checked: {each}" for each in evaluation["not_checked"]]
    return lines


def _data(data: dict[str, Any] | None) -> list[str]:
    if not data:
        return ["Not said."]
    lines = [
        f"{data['n_samples']} labelled samples of {len(data['subjects'])} subjects in "
        f"{data['n_runs']} runs. Fingerprint of the data: `{data['fingerprint']}`.",
        "",
        "| class | samples | subjects |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {name} | {each['n_samples']} | {each['n_subjects']} |"
        for name, each in data["per_class"].items()
    ]
    lines += [f"\nGroups: {data['groups']}."] if data.get("groups") else []
    return lines


def _features(contract: dict[str, Any]) -> list[str]:
    if contract["features"] == "columns":
        return [
            f"Columns of a table, as they come: {_some(contract['names'] or ['without names'])}."
        ]
    clean = contract["clean"] or {}
    size = " x ".join(map(str, contract["shape"]))
    lines = [
        f"- volumes of {size} voxels in the space of `mask.nii.gz`, repetition time "
        f"{contract['tr_s']:g} s; {contract['dummies']} volumes skipped at the start of a run",
        f"- smoothing: {_or_none(contract['smoothing_mm'], 'mm')}",
        f"- removed over the whole run: {_removed(clean, contract['confounds'])}",
        f"- standardised by: {clean.get('standardize', 'none')}",
    ]
    if contract["features"] == "parcels":
        lines.append(f"- means over {contract['n_features']} parcels (`parcels.nii.gz`)")
    if contract["centre"] != "none":
        lines.append(
            f"- centred by {contract['centre']}: in training on its labelled samples, in use on "
            "all volumes of the run"
        )
    causal = (
        "A volume's features depend on no later volume: it can be used live as it is."
        if contract["causal"]
        else "A volume's features depend on the whole run: not for live use as it is."
    )
    return [*lines, "", causal]


def _removed(clean: dict[str, Any], confounds: list[str]) -> str:
    parts = ["the linear trend"] if clean.get("detrend") else []
    if clean.get("high_pass_hz"):
        parts.append(f"drifts slower than {clean['high_pass_hz']:.4g} Hz")
    if clean.get("low_pass_hz"):
        parts.append(f"changes faster than {clean['low_pass_hz']:.4g} Hz")
    if confounds:
        parts.append(f"the confounds {_some(confounds)}")
    return _listed(parts) if parts else "nothing"


def _model(model: dict[str, Any]) -> list[str]:
    lines = [f"`{model['name']}`, kind `{model['kind']}`: {' -> '.join(model['steps'])}."]
    if model.get("params"):
        lines.append(f"Parameters set in the study: {_pairs(model['params'])}.")
    if model.get("chosen"):
        lines.append(f"Chosen in inner folds of the samples: {_pairs(model['chosen'])}.")
    if model.get("temperature") is not None:
        lines.append(
            f"Probabilities are scaled by the temperature {model['temperature']:.4g}, fitted in "
            "inner folds."
        )
    return lines


def _limits(content: dict[str, Any]) -> list[str]:
    contract, aligned = content["contract"], content.get("alignment")
    known = content.get("subjects")
    lines = [
        "- For research. Not a medical device, no diagnosis, no statement about a person.",
        f"- It knows {len(contract['classes'])} classes and always names one of them, whatever the "
        "person feels or does.",
        "- It is good for scans like those that it was trained on: space, voxel size, repetition "
        "time and cleaning are checked, scanner, sequence, task and population are not.",
        "- What it says about the subjects that it was trained on is no test of it.",
    ]
    if window := content["model"].get("window"):
        lines.append(
            f"- It reads windows of {window} volumes. In training and in the scores above they "
            "held labelled volumes only; in a run they hold every volume. How well it decodes such "
            "windows has not been measured."
        )
    if known is not None:
        way = f" (align.protocol = {aligned['protocol']})" if aligned else ""
        lines.append(
            f"- It decodes only subjects that it knows ({_some(known)}); a new subject needs data "
            f"of its own: `Decoder.adapt`{way}."
        )
    return lines


def _use(contract: dict[str, Any]) -> list[str]:
    more = " --confounds CONFOUNDS.tsv" if contract["confounds"] else ""
    command = f"emodecode predict FOLDER RUN.nii.gz{more} --out table.tsv"
    if contract["features"] == "columns":
        command = 'Decoder.load("FOLDER").predict(X)   # from emodecode.decoder'
    return ["```", command, "```"]


def _versions(content: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    return [f"Made {content['created']} with {versions}."]


def _row(score: dict[str, Any]) -> str:
    interval = f"[{_number(score['low'])}, {_number(score['high'])}]"
    chance, p = _number(score["chance"]), _number(score.get("p"))
    return f"{_number(score['value'])} | {interval} | {chance} | {p}"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _or_none(value: float | None, unit: str) -> str:
    return f"{value:.4g} {unit}" if value else "none"


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in values.items())


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")

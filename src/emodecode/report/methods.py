"""Methods text that a paper could use: what was done, read from the study and its provenance."""

from pathlib import PurePath
from typing import Any

from emodecode.report.alignment import tell_alignment
from emodecode.report.proof_methods import (
    tell_calibration,
    tell_chance,
    tell_comparisons,
    tell_controls,
    tell_published,
    tell_subjects,
)
from emodecode.report.references import cite
from emodecode.report.wording import (
    PORTRAYED,
    RANDOM,
    as_sentence,
    count_of,
    format_count,
    join_words,
)

_CITED = {"lda": " [@ledoit2004]", "boosted_trees": " [@chen2016]"}
METRICS = {"balanced_accuracy": "balanced accuracy", "log_loss": "log loss"}


def write_methods(
    study: dict[str, Any],
    provenance: dict[str, Any],
    scores: dict[str, Any],
    audit: dict[str, Any],
    *,
    published: list[tuple[str, str, str]] | None = None,
) -> tuple[list[tuple[str, str]], list[str]]:
    """Return the methods as headed paragraphs, and the keys of the references in them.

    Only what the study, the provenance and the results say was done is written.

    Parameters
    ----------
    study : dict
        ``study.toml`` as resolved.
    provenance, scores, audit : dict
        The JSON files of the results folder.
    published : list of (name, as published, honest), optional
        In what a published form that was evaluated too differs.

    Returns
    -------
    paragraphs : list of (heading, text)
    keys : list of str
        Of `emodecode.report.references.REFERENCES`, in order of appearance.
    """
    drafts = (
        ("Data", _data(study.get("data", {}), provenance.get("data", {}))),
        ("Preparation", _preparation(study)),
        ("Labels", _labels(study.get("labels", {}), provenance.get("labels") or {})),
        ("Decoders", _decoders(study)),
        ("Alignment", tell_alignment(scores.get("alignment"))),
        ("Split", _split(scores)),
        ("Scores and chance", _scores(scores)),
        ("Inference over subjects", tell_subjects(scores["models"])),
        ("Comparison", tell_comparisons(scores)),
        ("Calibration", tell_calibration(scores["models"])),
        ("Audit", _audit(study, audit)),
        ("Controls", tell_controls(study, audit)),
        ("As published", tell_published(published)),
        ("Maps", _maps(provenance.get("maps") or [])),
        ("Software", _software(study, provenance)),
    )
    paragraphs, keys = [], []
    for heading, sentences in drafts:
        if sentences:
            text, cited = cite(" ".join(sentences))
            paragraphs.append((heading, text))
            keys += cited
    return paragraphs, list(dict.fromkeys(keys))


def _data(data: dict, found: dict) -> list[str]:
    name = PurePath(data.get("path", "")).name
    kind = {
        "bids": "a BIDS data set of fMRI",
        "mat": "MATLAB files of fMRI volumes",
        "table": "tables of features",
        "design": "a planned design without images",
    }.get(data.get("source", ""), "the data")
    where = [f"task {data['task']}"] if data.get("task") else []
    where += [f"space {data['space']}"] if data.get("space") else []
    sentences = [f"The data are {kind}{f' ({name})' if name else ''}"]
    sentences[0] += f", {join_words(where)}." if where else "."
    size = [count_of(found["n_subjects"], "subject")] if found.get("n_subjects") else []
    size += [count_of(found["n_runs"], "run")] if found.get("n_runs") else []
    size += [count_of(found["n_samples"], "labelled sample")] if found.get("n_samples") else []
    unit = "feature" if data.get("source") == "table" else "voxel"
    size += [count_of(found["n_voxels"], unit)] if found.get("n_voxels") else []
    if size:
        sentences.append(f"There are {join_words(size)}.")
    groups = found.get("groups") or {}
    if len(groups) > 1:
        parts = [f"{format_count(n)} {group}" for group, n in groups.items()]
        sentences.append(f"The groups are {join_words(parts)} (subjects).")
    excluded = found.get("excluded") or {}
    if excluded:
        parts = [f"{subject} ({reason})" for subject, reason in excluded.items()]
        sentences.append(f"Excluded: {join_words(parts)}.")
    if data.get("dummies"):
        volumes = count_of(data["dummies"], "volume")
        sentences.append(f"The first {volumes} of every run {_were(data['dummies'])} dropped.")
    return sentences


def _preparation(study: dict) -> list[str]:
    data, features = study.get("data", {}), study.get("features", {})
    clean, sentences = features.get("clean", {}), []
    if data.get("source") in ("bids", "mat"):
        steps = []
        if clean.get("smoothing_mm"):
            steps.append(f"smoothed with a Gaussian of {clean['smoothing_mm']:g} mm FWHM")
        if clean.get("detrend"):
            steps.append("linearly detrended")
        if clean.get("high_pass_hz"):
            steps.append(f"high-pass filtered at {clean['high_pass_hz']:.4g} Hz")
        if clean.get("low_pass_hz"):
            steps.append(f"low-pass filtered at {clean['low_pass_hz']:.4g} Hz")
        if data.get("confounds"):
            steps.append(f"cleaned of the confounds {join_words(data['confounds'])} by regression")
        standardize = clean.get("standardize")
        if standardize == "run":
            steps.append("standardised to mean 0 and standard deviation 1 per voxel")
        elif standardize == "volume":
            steps.append("standardised over the voxels of each volume")
        if steps:
            sentences.append(
                f"Each run was {join_words(steps)}, blind to the labels, with nilearn "
                "[@abraham2014]."
            )
        else:
            sentences.append("The volumes were used as they were read, without cleaning.")
    if features.get("parcels"):
        name = PurePath(features["parcels"]).name
        sentences.append(f"Voxels were averaged within the parcels of {name}.")
    if features.get("centre") in ("subject", "run"):
        sentences.append(f"Features were centred per {features['centre']}, blind to the labels.")
    if features.get("scale") and any(_is_scaled(model) for model in study.get("models", [])):
        sentences.append("Features were scaled with the mean and deviation of the training data.")
    return sentences


def _is_scaled(model: dict) -> bool:
    from emodecode.models.catalogue import KINDS

    kind = KINDS.get(model.get("kind", ""))
    return kind is None or kind.is_scaled


def _labels(labels: dict, found: dict) -> list[str]:
    sentences = [as_sentence(found["rule"])] if found.get("rule") else []
    source = labels.get("source")
    if not sentences and source in ("events", "annotations", "ratings"):
        lag = (
            "weighted by the canonical haemodynamic response"
            if labels.get("hrf")
            else f"{labels.get('lag_s', 0):g} s earlier"
        )
        sentences.append(f"Each volume got its label from the {source} {lag}.")
    if source == "annotations":
        sentences.append(PORTRAYED)
    if source == "random":
        sentences.append(RANDOM)
    if labels.get("clock") == "published-cumulative":
        sentences.append(
            "The clock of the labels is the published one, which is wrong: it adds up segments "
            "that overlap, so that volumes lie before the labelled moment (see the notes). It was "
            "kept to repeat what was published."
        )
    if labels.get("merge"):
        pairs = [f"{old} into {new}" for old, new in labels["merge"].items()]
        sentences.append(f"Labels were merged: {join_words(pairs)}.")
    if labels.get("keep"):
        sentences.append(f"Only {join_words(labels['keep'])} were kept.")
    if (labels.get("min_count") or 1) > 1:
        sentences.append(
            f"Labels with a count below {labels['min_count']} (of samples, or of moments of a "
            "common stimulus) were dropped."
        )
    if labels.get("transition_s"):
        sentences.append(
            f"Volumes within {labels['transition_s']:g} s of a change of label were dropped."
        )
    if labels.get("balance") in ("episode", "volume"):
        sentences.append(f"Classes were balanced by drawing whole {labels['balance']}s.")
    counts = found.get("counts") or {}
    if counts:
        parts = [f"{name} {format_count(n)}" for name, n in counts.items()]
        sentences.append(f"Samples per class: {join_words(parts)}.")
    return sentences


def _decoders(study: dict) -> list[str]:
    from emodecode.models.catalogue import KINDS

    models, features = study.get("models", []), study.get("features", {})
    rules, described = study.get("evaluate", {}), []
    for model in models:
        kind = model.get("kind", model["name"])
        what = KINDS[kind].description if kind in KINDS else f"a decoder of kind {kind}"
        details = [f"{key} = {_value(value)}" for key, value in (model.get("params") or {}).items()]
        if model.get("n_voxels"):
            details.append(f"{format_count(model['n_voxels'])} selected voxels")
        if model.get("columns"):
            details.append(f"columns {join_words(model['columns'])}")
        inside = "; ".join([f"{what}{_CITED.get(kind, '')}", *details])
        described.append(f"{model['name']} ({inside})")
    if not described:
        return []
    sentences = [
        f"The decoders were {join_words(described)}. Parameters not named here are emodecode's "
        "defaults; classifiers are scikit-learn's [@pedregosa2011] where it has them."
    ]
    sentences += _selection(study, features)
    tuned = [model for model in models if model.get("tune") or model.get("grid")]
    if tuned:
        grids = []
        for model in tuned:
            kind = model.get("kind", model["name"])
            grid = model.get("grid") or (KINDS[kind].grid if kind in KINDS else {})
            values = "; ".join(f"{key}: {_value(value)}" for key, value in grid.items())
            grids.append(f"{model['name']} ({values})")
        metric = METRICS.get(rules.get("tune_by", ""), "the score")
        sentences.append(
            f"Hyper-parameters of {join_words(grids)} were chosen by {metric} in "
            f"{rules.get('inner_folds', 3)} inner folds of the training data, which keep subjects "
            "apart, and stimuli where these are shared."
        )
    return sentences


def _selection(study: dict, features: dict) -> list[str]:
    """How voxels were selected, by default or for single models."""
    sizes = [model.get("n_voxels") for model in study.get("models", [])]
    if not features.get("n_voxels") and not any(sizes):
        return []
    unit = "features" if study.get("data", {}).get("source") == "table" else "voxels"
    per = "over all training subjects together"
    if features.get("select_by") == "subject":
        per = "per training subject"
    count = format_count(features["n_voxels"]) if features.get("n_voxels") else "stated number of"
    what = f"the {count} {unit} with the largest F of a one-way analysis of variance"
    if features.get("fit_on") == "all":
        per = per.replace("training ", "")
        return [
            f"Before the folds, {what} {per} were selected from all samples, test samples and "
            "their labels included."
        ]
    return [f"In each fold {what} {per} were selected, from the training data only."]


def _split(scores: dict) -> list[str]:
    return [as_sentence(scores["split"].get("sentence") or scores["split"].get("name", ""))]


def _scores(scores: dict) -> list[str]:
    sentences = [
        "Decoders were scored on held-out samples by balanced accuracy, the mean recall over "
        "classes [@brodersen2010], and by the area under the one-versus-rest ROC curve, averaged "
        "over classes. Scores were computed per subject; means and 95 % intervals are over "
        "subjects, because samples of one subject are not independent [@schreiber2013; "
        "@varoquaux2017]."
    ]
    widening = scores.get("widening") or 1.0
    if widening > 1:
        sentences.append(
            f"Intervals are {widening:.2f} times as wide as those of independent subjects, because "
            "the folds share training samples [@nadeau2003]."
        )
    sentences += tell_chance(scores)
    return sentences


def _audit(study: dict, audit: dict) -> list[str]:
    gap = audit.get("gap_s")
    near = f", volumes of the same run within {gap:g} s" if gap else ""
    sentences = [
        "Before scoring, every test sample was compared with the training samples of its fold, as "
        f"far as the data tell, for the same subject, run and moment of the stimulus{near} and "
        "duplicated data, because such overlap inflates scores [@rosenblatt2024]."
    ]
    titles = dict.fromkeys(each.get("title") or each.get("rule", "") for each in audit["findings"])
    outcome = {
        "clean": "The audit found nothing that could inflate them.",
        "caution": "The audit advises caution.",
        "leak": "The audit found a leak, so the scores cannot be interpreted.",
    }[audit["verdict"]]
    sentences.append(outcome)
    if titles:
        sentences.append(f"Findings: {'; '.join(titles)}.")
    if audit["verdict"] == "leak" and audit.get("allow_leakage"):
        sentences.append("The study allowed the leak knowingly (allow_leakage = true).")
    return sentences


def _maps(maps: list[dict]) -> list[str]:
    kinds = {entry["kind"] for entry in maps}
    if not kinds:
        return []
    models = list(dict.fromkeys(entry["model"] for entry in maps))
    sentences = [f"Maps are of {join_words(models)}, fitted to all samples."]
    if "pattern" in kinds:
        sentences.append(
            "Weights were turned into activation patterns by the covariance of the data, since "
            "weights alone do not say where the signal is [@haufe2014]."
        )
    return sentences


def _software(study: dict, provenance: dict) -> list[str]:
    versions = provenance.get("versions") or {}
    listed = join_words([f"{name} {version}" for name, version in versions.items()])
    text = f"emodecode {provenance['emodecode']}"
    seed = provenance.get("seed", study.get("seed"))
    return [
        f"The analysis was run with {text}{f' ({listed})' if listed else ''}"
        + (f"; the random seed was {seed}." if seed is not None else ".")
    ]


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}" if abs(value) >= 1 or value == 0 else _small(value)
    return str(value)


def _small(value: float) -> str:
    """``.001``, ``.1``: a small parameter without its zero."""
    text = f"{value:g}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def _were(count: int) -> str:
    return "was" if count == 1 else "were"

"""Train: one decoder of a study, fitted on all samples, with what its evaluation says of it."""

import contextlib
import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import sklearn
from sklearn.base import clone

import emodecode
from emodecode import archive, assemble
from emodecode.assemble import Gathered
from emodecode.candidates import make_candidates, make_tuning
from emodecode.contract import Contract
from emodecode.decoder import Decoder
from emodecode.errors import ContractError, DataMissingError, InputError
from emodecode.evaluate.score import Candidate, Tuning, fingerprint_samples
from emodecode.output import RESUME_FOLDER, open_output
from emodecode.proof import Work, prove
from emodecode.samples import Samples
from emodecode.sections import Model
from emodecode.storage.folder import CONTENT
from emodecode.study import Study, load_study
from emodecode.timelock import gather_alignment

if TYPE_CHECKING:
    from emodecode.evaluate.alignment import Alignment

LIBRARIES = (*archive.LIBRARIES, "skops", "safetensors")

_NO_MATTER = ("name", "title", "description", "as_published", "compare_with", "models", "explain")
"""Keys of a study that change no score of one of its models."""


def train(
    study: Study,
    out: Path,
    *,
    model: str | None = None,
    results: Path | None = None,
    n_jobs: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> Decoder:
    """Fit one decoder on all samples of a study and write it, with its card, into a folder.

    Parameters
    ----------
    study : Study
    out : Path
        Folder of the decoder. An interrupted call leaves its finished parts in ``out/.resume``.
    model : str, optional
        Which of the study's models; may be left out where there is one beside the dummy.
    results : Path, optional
        Results of `emodecode evaluate` on the same study and data, which the scores are taken from;
        without them the model is evaluated first.
    n_jobs : int
        Processes for the evaluation.
    overwrite, progress : bool

    Raises
    ------
    InputError
        No such model, or several to choose from.
    ContractError
        `results` are of other data, another model or other settings.
    LeakageError
        The audit finds a leak that the study does not allow.
    """
    chosen = choose_model(study, model)
    study = study.model_copy(update={"models": [chosen], "as_published": {}})
    assemble.refuse_at_once(study)
    known = None if results is None else read_evaluation(results, study)
    with open_output(out, overwrite=overwrite) as staging:
        work = Work(out / RESUME_FOLDER, n_jobs, None, progress)
        gathered = assemble.gather(study, work=work.resume, progress=progress)
        if known is not None:
            _same_data(known, gathered.samples, results)
        alignment = gather_alignment(
            *(study, gathered.samples, gathered.runs), work=work.resume, progress=progress
        )
        if known is None:
            proof = prove(study, gathered, work=work, alignment=alignment)
            audit = proof.audit.to_json() | {"allow_leakage": study.evaluate.allow_leakage}
            known = {"scores": proof.scores, "audit": audit, "source": "evaluated for it"}
        decoder = fit_decoder(study, gathered, alignment=alignment, resume=work.resume)
        told = summarise_evaluation(known, chosen.name)
        decoder = replace(decoder, about=decoder.about | {"evaluation": told})
        decoder.write_into(staging)
        _forget_earlier(out, staging)
    return decoder


def choose_model(study: Study, name: str | None) -> Model:
    """Return the model of that name, or the only one beside the dummy.

    Raises
    ------
    InputError
        No such model, or several to choose from.
    """
    if name is None:
        real = [model for model in study.models if model.kind != "dummy"] or study.models
        if len(real) == 1:
            return real[0]
        raise InputError(
            f"study {study.name}",
            found=f"{len(real)} models: {', '.join(model.name for model in real)}",
            expected="the name of the one to train",
            remedy=f"Name it: --model {real[0].name}",
        )
    for model in study.models:
        if model.name == name:
            return model
    raise InputError(
        f"--model {name}",
        found="no model of that name in the study",
        expected=f"one of {', '.join(model.name for model in study.models)}",
        remedy="Correct the name, or add a [[models]] table to the study.",
    )


def fit_decoder(
    study: Study,
    gathered: Gathered,
    *,
    alignment: "Alignment | None" = None,
    resume: Path | None = None,
) -> Decoder:
    """Fit the study's first model on all samples, tuned and calibrated as in every fold.

    Parameters
    ----------
    study : Study
        With one model.
    gathered : Gathered
    alignment : Alignment, optional
        Needed if the study has an alignment: all of it may be used, nothing is tested.
    resume : Path, optional
        A network keeps the state of its training there.
    """
    samples, model = gathered.samples, study.models[0]
    candidate = make_candidates(study, samples, alignment)[0]
    if resume is not None:
        candidate = _with_checkpoint(candidate, resume)
    pipeline, chosen, temperature = _fit(candidate, samples, make_tuning(study), seed=study.seed)
    about = {
        "model": {
            "name": model.name,
            "kind": model.kind,
            "params": model.params,
            "chosen": {name: _plain(value) for name, value in chosen.items()},
        },
        "study": {
            "name": study.name,
            "title": study.title,
            "seed": study.seed,
            "rule": archive.label_rule(study),
        },
        "data": describe_data(gathered),
        "versions": {"emodecode": emodecode.__version__} | _versions(),
    }
    if alignment is not None and candidate.alignment is not None:
        about["alignment"] = {"protocol": alignment.protocol, "by_time": alignment.by_time}
    return Decoder(pipeline, make_contract(study, gathered), temperature, about)


def make_contract(study: Study, gathered: Gathered) -> Contract:
    """Say what a decoder of these samples takes."""
    samples, rules = gathered.samples, study.features
    images = study.data.source != "table"
    features = "voxels" if images else "columns"
    parcels = None
    if rules.parcels is not None:
        features, parcels = "parcels", _parcels_on_grid(samples, rules.parcels)
    clean = rules.clean.model_dump(exclude={"smoothing_mm"}) if images else None
    return Contract(
        classes=samples.classes,
        features=features,
        n_features=samples.n_voxels,
        names=samples.features,
        mask=samples.mask if images else None,
        parcels=parcels,
        tr_s=gathered.tr_s if images else None,
        dummies=getattr(study.data, "dummies", 0),
        clean=clean,
        smoothing_mm=rules.clean.smoothing_mm if images else None,
        confounds=tuple(getattr(study.data, "confounds", ())),
        centre=rules.centre,
        lag_s=study.labels.lag_s if _has_lag(study) else 0.0,
        hrf=study.labels.hrf,
    )


def _has_lag(study: Study) -> bool:
    """Tell whether labels were moved by a lag: not those that came with the data."""
    return study.data.source != "table" and study.labels.source != "data"


def describe_data(gathered: Gathered) -> dict[str, Any]:
    """Say what a decoder was trained on: counts and the fingerprint, no labels, no scans."""
    samples, table = gathered.samples, gathered.samples.table
    of_class = table.groupby("label")["subject"].agg(["size", "nunique"])
    return {
        "fingerprint": fingerprint_samples(samples),
        "n_samples": samples.n_samples,
        "n_runs": len(table[["subject", "session", "run"]].drop_duplicates()),
        "subjects": sorted(set(samples.subjects.tolist())),
        "per_class": {
            str(name): {"n_samples": int(n), "n_subjects": int(whose)}
            for name, n, whose in of_class.itertuples()
        },
    }


def read_evaluation(results: Path, study: Study) -> dict[str, Any]:
    """Read what `emodecode evaluate` wrote about the study's one model.

    Returns
    -------
    dict
        ``scores audit fingerprint source``.

    Raises
    ------
    DataMissingError
        No results folder.
    ContractError
        Results of other settings, or without this model.
    """
    results = Path(results)
    names = ("study.toml", "scores.json", "audit.json", "provenance.json")
    for name in names:
        if not (results / name).is_file():
            raise DataMissingError(
                str(results),
                found=f"no {name}",
                expected="a folder that `emodecode evaluate` wrote",
                remedy="Correct --results, or leave it out: the model is then evaluated first.",
            )
    evaluated, model = load_study(results / "study.toml"), study.models[0]
    known = [each for each in evaluated.models if each.name == model.name]
    pairs: list[tuple[str, Any, Any]]
    pairs = [(f"models.{model.name}", model.model_dump(), known[0].model_dump() if known else None)]
    ours, theirs = _settings(study), _settings(evaluated)
    pairs += [(key, ours.get(key), theirs.get(key)) for key in ours | theirs]
    for key, own, other in pairs:
        if own != other:
            raise _other(results, f"{key} = {_short(other)}", f"{_short(own)}, as in the study")
    scores, audit, provenance = (json.loads((results / name).read_text()) for name in names[1:])
    return {
        "scores": scores,
        "audit": audit,
        "fingerprint": provenance["data"]["fingerprint"],
        "source": f"results of emodecode {provenance['emodecode']}, {provenance['started']}",
    }


def summarise_evaluation(known: dict[str, Any], model: str) -> dict[str, Any]:
    """Return what the card says about the scores: never a score without its proof."""
    scores, audit = known["scores"], known["audit"]
    own = scores["models"][model]
    kept = ("value", "low", "high", "chance", "p")
    test = own.get("test") or {}
    approximate = " (approximate: nothing refitted)" if test.get("method") == "predictions" else ""
    switched_off = audit["controls_share"] is None
    return {
        "source": known["source"],
        "split": scores["split"]["sentence"],
        "n_folds": scores["split"]["n_folds"],
        "n_subjects": own["balanced_accuracy"]["n_subjects"],
        **{
            metric: {key: _number(own[metric].get(key)) for key in kept}
            for metric in ("balanced_accuracy", "macro_auc")
        },
        "test": test.get("sentence", "none") + approximate,
        "verdict": audit["verdict"],
        "allow_leakage": audit["allow_leakage"],
        "findings": [
            {key: each[key] for key in ("verdict", "rule", "title")} for each in audit["findings"]
        ],
        "controls": None
        if switched_off
        else [
            {key: each[key] for key in ("name", "passed", "sentence")} for each in audit["controls"]
        ],
        "not_checked": list(audit["not_checked"]),
    }


def _fit(
    candidate: Candidate, samples: Samples, tuning: Tuning, *, seed: int
) -> "tuple[Any, dict[str, Any], float | None]":
    from emodecode.evaluate.alignfold import whole_alignment
    from emodecode.evaluate.foldfit import fit_fold, tune_fold

    table, rows = samples.table, np.arange(samples.n_samples)
    given = (samples.X, samples.y, table, rows)
    fold = whole_alignment(candidate.alignment, table)
    with sklearn.config_context(enable_metadata_routing=True):
        chosen, temperature = tune_fold(candidate, *given, tuning=tuning, seed=seed, fold=fold)
        pipeline = fit_fold(
            candidate.pipeline, *given, params=chosen, seed=seed, gap_s=tuning.gap_s, fold=fold
        )
    return pipeline, chosen, temperature


def _with_checkpoint(candidate: Candidate, resume: Path) -> Candidate:
    name = f"{candidate.pipeline.steps[-1][0]}__checkpoint"
    if name not in candidate.pipeline.get_params():
        return candidate
    pipeline = clone(candidate.pipeline).set_params(**{name: resume / "decoder.net"})
    return replace(candidate, pipeline=pipeline)


def _parcels_on_grid(samples: Samples, atlas: Path) -> Any:
    """The atlas as it was averaged over: a label for each voxel of the mask, on its grid."""
    import nibabel as nib

    from emodecode.features.parcels import parcel_of_voxels

    assert samples.mask is not None
    inside = np.asanyarray(samples.mask.dataobj) != 0
    labels = np.zeros(inside.shape, dtype=np.int32)
    labels[inside] = parcel_of_voxels(atlas, mask_img=samples.mask)
    return nib.Nifti1Image(labels, samples.mask.affine)


def _settings(study: Study) -> dict[str, Any]:
    """Dotted keys and values of a study that its samples and scores depend on, without paths."""
    flat: dict[str, Any] = {}
    for name, value in study:
        if name in _NO_MATTER:
            continue
        if not hasattr(value, "model_dump"):
            flat[name] = value
            continue
        for key, inner in value.model_dump(mode="python").items():
            flat[f"{name}.{key}"] = "a path" if isinstance(inner, Path) else inner
    return flat


def _forget_earlier(out: Path, staging: Path) -> None:
    """Remove files of an earlier decoder that this one has not: they do not belong to it."""
    try:
        names = json.loads((out / CONTENT).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # no earlier decoder
    for name in map(str, names):
        if name == Path(name).name and not (staging / name).exists():
            (out / name).unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    known = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(ModuleNotFoundError):
            known[name] = version(name)
    return known


def _same_data(known: dict[str, Any], samples: Samples, results: Path | None) -> None:
    own = fingerprint_samples(samples)
    if known["fingerprint"] != own:
        assert results is not None
        raise _other(
            results, f"data of the fingerprint {known['fingerprint']}", f"{own}, that of the study"
        )


def _other(results: Path, found: str, expected: str) -> ContractError:
    return ContractError(
        str(results),
        found=found,
        expected=expected,
        remedy="Give the results of this study and its data, or leave --results out: the model is "
        "then evaluated first.",
    )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 90 else text[:87] + "..."


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _number(value: Any) -> float | None:
    return None if value is None or not np.isfinite(value) else float(value)

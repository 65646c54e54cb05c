"""Study -> candidates: the decoders that a study names, their grids, the libraries they need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from emodecode.errors import DataMissingError, InputError
from emodecode.study import Model, Study

if TYPE_CHECKING:
    import numpy as np
    from sklearn.base import BaseEstimator
    from sklearn.pipeline import Pipeline

    from emodecode.evaluate.alignment import Alignment
    from emodecode.evaluate.score import Candidate, Tuning
    from emodecode.samples import Samples


BEFORE_FOLDS = ("select", "align")
"""Steps that ``features.fit_on = "all"`` fits on all samples before the folds, as S2 did."""

MONAI = ("resnet3d", "s2_resnet3d", "efficientnet3d")
"""Kinds of decoder that MONAI builds."""
NETWORKS = ("conv1d", "s2_conv1d", "hanson_mlp", "small3d", "separable3d", *MONAI)
"""Kinds of decoder that need torch (`emodecode.models.networks`)."""


def require_installed(extra: str, *modules: str) -> None:
    """Refuse to start a job that would fail at its end for want of a library.

    Raises
    ------
    DataMissingError
        One of `modules` is not installed; the message names the `extra` that brings it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise DataMissingError(
            "installation",
            found=f"{' and '.join(missing)} not installed",
            expected=f"the libraries of emodecode[{extra}]",
            remedy=f"pip install 'emodecode[{extra}]'",
        )


def make_candidates(
    study: Study, samples: "Samples", alignment: "Alignment | None" = None
) -> "list[Candidate]":
    """Build the pipeline of every model of the study.

    Parameters
    ----------
    study : Study
    samples : Samples
    alignment : Alignment, optional
        What aligned pipelines are fitted on; needed if the study has an alignment.
    """
    step = None if alignment is None else make_align_step(study, samples)
    return [
        make_candidate(
            study,
            model,
            columns=match_columns(model.name, model.columns, samples.features or ()),
            mask=mask_of(samples),
            align=step if is_aligned_model(study, model) else None,
            alignment=alignment if is_aligned_model(study, model) else None,
        )
        for model in study.models
    ]


def is_aligned_model(study: Study, model: Model) -> bool:
    """Tell whether a model decodes in the common space: not the dummy, not ``align = false``."""
    protocol = "none" if study.align is None else study.align.protocol
    return protocol != "none" and model.align and model.kind != "dummy"


def check_model(study: Study, model: Model) -> bool:
    """Build a model to see that it can be built; tell whether it needs inner folds.

    Raises
    ------
    InputError
        As `make_candidate`.
    """
    candidate = make_candidate(study, model)
    return bool(candidate.grid or candidate.calibrate)


def make_candidate(
    study: Study,
    model: Model,
    *,
    columns: Sequence[int] | None = None,
    mask: "np.ndarray | None" = None,
    align: "BaseEstimator | None" = None,
    alignment: "Alignment | None" = None,
) -> "Candidate":
    """Build the pipeline of a model and the grid that it is tuned on.

    Parameters
    ----------
    study, model
    columns : sequence of int, optional
        Named columns of a table.
    mask : ndarray of bool, shape (x, y, z), optional
        For networks that read volumes.
    align : estimator, optional
        The step that takes subjects into the common space; `alignment` is what it is fitted on.

    Raises
    ------
    InputError
        An unknown kind or parameter, or a value out of range; the message names the model.
    """
    from emodecode.evaluate.score import Candidate
    from emodecode.models.catalogue import make_grid, make_pipeline_for

    with naming_model(model):
        _refuse_no_volumes(study, model)
        pipeline = make_pipeline_for(
            model.kind,
            params=model.params,
            n_voxels=model.n_voxels or study.features.n_voxels,
            select_by=_select_by(study),
            scale=study.features.scale,
            columns=columns,
            mask=mask,
            seed=study.seed,
        )
        tuned = model.tune or bool(model.grid)
        grid = make_grid(model.kind, model.grid, pipeline=pipeline) if tuned else {}
    if study.features.select_by == "own" and "select" in pipeline.named_steps:
        pipeline = _with_own_voxels(pipeline)
    if align is not None:
        pipeline = _with_alignment(pipeline, align, in_pieces=align.pieces is not None)
    on_all = [name for name in BEFORE_FOLDS if name in pipeline.named_steps]
    return Candidate(
        model.name,
        pipeline,
        grid,
        fit_on_all=tuple(on_all if study.features.fit_on == "all" else ()),
        calibrate=study.evaluate.calibrate == "temperature" and model.kind != "dummy",
        alignment=alignment,
        choose_epoch_on_test=study.evaluate.choose_epoch_on == "test" and model.kind in NETWORKS,
    )


def mask_of(samples: "Samples") -> "np.ndarray | None":
    """Return the mask whose voxels the columns of samples are; None where they are no voxels."""
    import numpy as np

    if samples.mask is None or samples.features is not None:
        return None
    return np.asanyarray(samples.mask.dataobj) != 0


def warn_of_raw(study: Study, samples: "Samples") -> list[str]:
    """Say which decoders see raw intensities and depend on their scale; empty if none does.

    S2's experiment B trained so: its SVM with a Gaussian kernel scored .458 where chance is .5
    (spec S2.29).
    """
    names = [model.name for model in study.models if _sees_raw(study, model)]
    if not names:
        return []
    from emodecode.features.raw import RAW, mean_to_sd

    ratio = mean_to_sd(samples.X, samples.table)
    if not ratio > RAW:
        return []
    return [
        f"{', '.join(names)} got raw intensities (in the median voxel the mean of a run is "
        f"{ratio:.0f} times its sd): scale-dependent decoders such as rbf_svm can score at or "
        'below chance on them. Set features.clean.standardize = "run" or features.scale = true; '
        'for 3-D networks normalise = "voxel".'
    ]


def _sees_raw(study: Study, model: Model) -> bool:
    """Whether nothing between the images and a decoder that depends on scale takes it away."""
    from emodecode.models.catalogue import kind_of

    features, kind = study.features, kind_of(model.kind)
    if study.data.source == "table" or features.clean.standardize != "none":
        return False
    if not kind.reads_volumes:
        return kind.is_scaled and not features.scale and not is_aligned_model(study, model)
    usual = kind.defaults["normalise"] if features.scale else None
    return model.params.get("normalise", usual) in (None, "none")


def _refuse_no_volumes(study: Study, model: Model) -> None:
    """Refuse a 3-D network where the samples that it would get are no whole volumes."""
    from emodecode.models.catalogue import kind_of

    if not kind_of(model.kind).reads_volumes:
        return
    reasons = {
        "a table of features": study.data.source == "table",
        "parcels (features.parcels)": study.features.parcels is not None,
        "some voxels (n_voxels)": model.n_voxels is not None,
        "some columns (columns)": model.columns is not None,
        "voxels of a common space (align)": is_aligned_model(study, model),
    }
    for found in (name for name, holds in reasons.items() if holds):
        raise InputError(
            f"model {model.kind}",
            found=found,
            expected="all voxels of a mask: it reads whole volumes",
            remedy="Say align = false for this model."
            if "align" in found
            else "Leave that out for this model, or decode with another kind.",
        )


def _select_by(study: Study) -> str:
    """Selection over the group or the subjects' ranks; voxels of each subject's own replace it."""
    if study.features.select_by != "own":
        return study.features.select_by
    protocol = "none" if study.align is None else study.align.protocol
    if protocol != "none" and study.features.fit_on == "all":
        return "group"
    raise InputError(
        "features.select_by",
        found="\"own\": each subject's own voxels, which a new subject's labels would choose",
        expected='"group" or "subject"',
        remedy='To see S2\'s published form, put it under [as_published] with "features.fit_on" = '
        '"all".',
    )


def _with_own_voxels(pipeline: "Pipeline") -> "Pipeline":
    import sklearn
    from sklearn.pipeline import Pipeline

    from emodecode.features.own import OwnVoxels

    own = OwnVoxels(pipeline.named_steps["select"].n_voxels)
    with sklearn.config_context(enable_metadata_routing=True):
        own.set_fit_request(subjects=True).set_transform_request(subjects=True)
    return Pipeline([(name, own if name == "select" else step) for name, step in pipeline.steps])


def make_align_step(study: Study, samples: "Samples", **choices: Any) -> "BaseEstimator":
    """Build the step that takes every subject into the common space.

    Parameters
    ----------
    study, samples
    **choices
        ``method``, ``map``, ``n_components``, to replace what the study says.

    Raises
    ------
    InputError
        Pieces or searchlights of samples that are no voxels.
    """
    import sklearn

    from emodecode.align.space import CommonSpace

    rules = study.align
    assert rules is not None
    step = CommonSpace(
        method=choices.get("method", rules.method),
        map=choices.get("map", rules.map),
        shrinkage=rules.shrinkage,
        n_components=choices.get("n_components", rules.n_components),
        level2_niter=rules.level2_niter,
        scaling=rules.scaling,
        reflection=rules.reflection,
        alpha=rules.alpha,
        zscore_common=rules.zscore_common,
        pieces=_pieces(study, samples),
    )
    with sklearn.config_context(enable_metadata_routing=True):
        return step.set_fit_request(subjects=True).set_transform_request(subjects=True)


def _pieces(study: Study, samples: "Samples"):
    """Parcel of each voxel, or searchlights; None where the brain is aligned as a whole."""
    rules = study.align
    assert rules is not None
    if rules.pieces is None and rules.searchlight_mm is None:
        return None
    if samples.mask is None or samples.features is not None:
        raise InputError(
            "align.pieces",
            found="pieces of the brain, with features that are no voxels",
            expected="voxels with a mask",
            remedy="Leave align.pieces and align.searchlight_mm out.",
        )
    if rules.pieces is not None:
        from emodecode.features.parcels import parcel_of_voxels

        return parcel_of_voxels(rules.pieces, mask_img=samples.mask)
    import nibabel as nib
    import numpy as np

    assert rules.searchlight_mm is not None
    from emodecode.align.piecewise import searchlights

    inside = np.argwhere(np.asanyarray(samples.mask.dataobj) != 0)
    coordinates = nib.affines.apply_affine(samples.mask.affine, inside)
    return searchlights(coordinates, radius_mm=rules.searchlight_mm)


def _with_alignment(pipeline: "Pipeline", align: "BaseEstimator", *, in_pieces: bool) -> "Pipeline":
    """Put the alignment behind the selection; in front of it where pieces of brains are aligned."""
    from sklearn.pipeline import Pipeline

    before = ("columns",) if in_pieces else ("columns", "select")
    place = sum(name in before for name, _ in pipeline.steps)
    return Pipeline([*pipeline.steps[:place], ("align", align), *pipeline.steps[place:]])


@contextmanager
def naming_model(model: Model) -> Iterator[None]:
    """Let an error say which of the study's models it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"models.{model.name} ({error.where})",
            found=error.found,
            expected=error.expected,
            remedy=error.remedy,
        ) from error


def match_columns(
    name: str, patterns: list[str] | None, features: Sequence[str]
) -> list[int] | None:
    """Return the columns whose names fit a pattern of model `name`; None without patterns."""
    if patterns is None:
        return None
    from fnmatch import fnmatchcase

    chosen = [
        column
        for column, feature in enumerate(features)
        if any(fnmatchcase(feature, pattern) for pattern in patterns)
    ]
    if not chosen:
        shown = ", ".join(features[:3]) or "voxels without names"
        raise InputError(
            f"models.{name}.columns",
            found=f"no feature is called {' or '.join(patterns)}",
            expected=f"patterns of the features' names ({shown} ...)",
            remedy="Correct the pattern; * stands for any text.",
        )
    return chosen


def make_tuning(study: Study) -> "Tuning":
    """Say how hyper-parameters are chosen inside the training rows."""
    from emodecode.evaluate.score import Tuning

    rules = study.evaluate
    return Tuning(n_folds=rules.inner_folds, metric=rules.tune_by, gap_s=rules.gap_s)

"""Study -> candidates: the decoders that a study names, their grids, the libraries they need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from emodecode.errors import DataMissingError, InputError
from emodecode.study import Model, Study

if TYPE_CHECKING:
    from emodecode.evaluate.score import Candidate, Tuning
    from emodecode.samples import Samples


BEFORE_FOLDS = ("select",)
"""Steps that ``features.fit_on = "all"`` fits on all samples before the folds, as S2 did."""


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


def make_candidates(study: Study, samples: "Samples") -> "list[Candidate]":
    """Build the pipeline of every model of the study."""
    return [
        make_candidate(
            study, model, columns=match_columns(model.name, model.columns, samples.features or ())
        )
        for model in study.models
    ]


def make_candidate(
    study: Study, model: Model, *, columns: Sequence[int] | None = None
) -> "Candidate":
    """Build the pipeline of a model and the grid that it is tuned on.

    Raises
    ------
    InputError
        An unknown kind or parameter, or a value out of range; the message names the model.
    """
    from emodecode.evaluate.score import Candidate
    from emodecode.models.catalogue import make_grid, make_pipeline_for

    with naming_model(model):
        pipeline = make_pipeline_for(
            model.kind,
            params=model.params,
            n_voxels=model.n_voxels or study.features.n_voxels,
            select_by=study.features.select_by,
            scale=study.features.scale,
            columns=columns,
            seed=study.seed,
        )
        tuned = model.tune or bool(model.grid)
        grid = make_grid(model.kind, model.grid, pipeline=pipeline) if tuned else {}
    on_all = [name for name in BEFORE_FOLDS if name in pipeline.named_steps]
    return Candidate(
        model.name,
        pipeline,
        grid,
        fit_on_all=tuple(on_all if study.features.fit_on == "all" else ()),
        calibrate=study.evaluate.calibrate == "temperature" and model.kind != "dummy",
    )


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

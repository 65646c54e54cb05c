"""Study: the typed TOML file that names every choice that a result depends on."""

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from emodecode.errors import DataMissingError, InputError

STUDYFORREST_SEGMENTS_S = [
    (0.0, 902.0),
    (886.0, 1768.0),
    (1752.08, 2628.0),
    (2612.16, 3588.0),
    (3572.20, 4496.0),
    (4480.28, 5358.0),
    (5342.36, 6426.0),
    (6410.44, 7086.0),
]
"""Start and end of each run's film segment on the film's clock, seconds (ds000113,
``code/stimulus/movie/segment_timing.csv``); consecutive segments overlap by about 16 s."""

LABEL_PRESETS: dict[str, dict[str, Any]] = {
    "studyforrest": {
        "source": "annotations",
        "annotation_format": "studyforrest",
        "pattern": "av1o*.csv",
        "variable": "emotion",
        "segments_s": STUDYFORREST_SEGMENTS_S,
    },
    "s1-as-published": {
        "source": "annotations",
        "annotation_format": "studyforrest",
        "pattern": "av1o*.csv",
        "variable": "emotion",
        "segments_s": STUDYFORREST_SEGMENTS_S,
        "clock": "published-cumulative",
        "split_labels": False,
        "overwrite": True,
        "grid_s": 2.0,
        "agreement": 0.5,
        "lag_s": 0.0,
        "min_count": 70,
        "balance": "volume",
        "balance_count": 70,
    },
}
"""Named label rules. ``s1-as-published`` is S1's, wrong clock included (spec S1.2-S1.8)."""


class Section(BaseModel):
    """A table of the study; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class BidsData(Section):
    """A BIDS data set, raw or with fMRIPrep derivatives."""

    source: Literal["bids"] = "bids"
    path: Path
    derivatives: Path | None = None
    task: str | None = None
    space: str | None = None
    desc: str | None = None
    sessions: list[str] | None = None
    runs: list[str] | None = None
    subjects: list[str] | None = None
    exclude: dict[str, str] = {}
    dummies: Annotated[int, Field(ge=0)] = 0
    tr_s: Annotated[float, Field(gt=0)] | None = None
    mask: Path | None = None
    confounds: list[str] = []
    events_task: str | None = None
    stimulus: str | None = None


class MatData(Section):
    """MATLAB files: one matrix a subject with a mask, or S2-B's object arrays of volumes."""

    source: Literal["mat"] = "mat"
    path: Path
    pattern: str
    layout: Literal["voxels_by_time", "time_by_voxels", "volumes"] = "voxels_by_time"
    key: str | list[str] = "data"
    label_key: str | list[str] | None = None
    label_names: dict[str, str] = {}
    voxel_order: Literal["F", "C"] | None = None
    mask: Path | None = None
    tr_s: Annotated[float, Field(gt=0)]
    run_volumes: list[int] | None = None
    missing: Literal["error", "truncate"] = "error"
    subjects: list[str] | None = None
    exclude: dict[str, str] = {}
    dummies: Annotated[int, Field(ge=0)] = 0
    stimulus: str | None = None


class DesignData(Section):
    """Runs that are only planned (no images): to work on labels before any scan is at hand."""

    source: Literal["design"] = "design"
    path: Path = Path()
    subjects: Annotated[list[str], Field(min_length=1)]
    run_volumes: Annotated[list[int], Field(min_length=1)]
    tr_s: Annotated[float, Field(gt=0)]
    dummies: Annotated[int, Field(ge=0)] = 0
    task: str = "n/a"
    stimulus: str = "n/a"


class TableData(Section):
    """CSV or TSV tables of features, one row a sample.

    Several `files` hold the same rows with other columns: they are put side by side, and each
    column is named ``FILE:COLUMN``.
    """

    source: Literal["table"] = "table"
    path: Path
    files: list[str]
    labels_file: str | None = None
    subject: str = "subject"
    label: str = "label"
    run: str | None = None
    stimulus: str | None = None
    rows_per_subject: Annotated[int, Field(ge=1)] | None = None
    rows_per_run: Annotated[int, Field(ge=1)] | None = None
    features: list[str] | None = None
    ignore: list[str] = []
    exclude: dict[str, str] = {}


class Labels(Section):
    """How samples get their labels.

    `lag_s` is the haemodynamic lag in seconds. `hrf = true` weights the labels by the canonical
    haemodynamic response instead.
    """

    source: Literal["events", "annotations", "ratings", "data", "random"] = "events"
    preset: str | None = None
    lag_s: Annotated[float, Field(ge=0, le=20)] = 5.0
    hrf: bool = False
    merge: dict[str, str] = {}
    keep: list[str] | None = None
    min_count: Annotated[int, Field(ge=1)] = 1
    balance: Literal["none", "episode", "volume"] = "none"
    balance_count: Annotated[int, Field(ge=1)] | None = None
    transition_s: Annotated[float, Field(ge=0)] = 0.0
    late_events: Literal["error", "drop"] = "error"
    # events
    column: str = "trial_type"
    events_format: Literal["bids", "fsl"] = "bids"
    events_path: Path | None = None
    stimulus_column: str | None = None
    # annotations and ratings
    path: Path | None = None
    annotation_format: Literal["studyforrest", "bids"] = "studyforrest"
    pattern: str = "*.csv"
    variable: str = "emotion"
    characters: list[str] | None = None
    split_labels: bool = True
    agreement: Annotated[float, Field(gt=0, le=1)] = 0.5
    overwrite: bool = False
    grid_s: Annotated[float, Field(gt=0)] = 1.0
    segments_s: list[tuple[float, float]] | None = None
    clock: Literal["segments", "published-cumulative"] = "segments"
    overlap: Literal["both", "first", "trim"] = "both"
    # ratings
    rate_hz: Annotated[float, Field(gt=0)] | None = None
    run_column: str | None = None
    low: float = 0.0
    high: float = 0.0
    names: tuple[str, str] = ("negative", "positive")
    # random: labels that are not in the data
    classes: Annotated[list[str], Field(min_length=2)] = ["A", "B", "C"]
    episode_s: Annotated[float, Field(gt=0)] = 30.0

    @model_validator(mode="after")
    def _refuse_what_is_not_used(self) -> "Labels":
        if self.hrf and self.source in ("ratings", "data", "random"):
            raise ValueError(f"hrf = false: source = {self.source!r} knows no response weighting")
        if self.transition_s and (self.source != "events" or self.hrf):
            raise ValueError("transition_s = 0: only events with a fixed lag have transitions")
        return self

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, dict) else None
        if name is None:
            return values
        if name not in LABEL_PRESETS:
            raise ValueError(f"unknown preset {name!r}; known: {', '.join(sorted(LABEL_PRESETS))}")
        return LABEL_PRESETS[name] | values


class Clean(Section):
    """Signal cleaning of each run, blind to the labels (nilearn); ``high_pass_hz = 0``: none."""

    detrend: bool = True
    high_pass_hz: Annotated[float, Field(ge=0)] = 1 / 128
    low_pass_hz: Annotated[float, Field(gt=0)] | None = None
    standardize: Literal["run", "volume", "none"] = "run"
    smoothing_mm: Annotated[float, Field(gt=0)] | None = None


class Features(Section):
    """Samples -> features; ``fit_on = "all"`` selects once, before the folds, as S2 did: a leak."""

    clean: Clean = Clean()
    n_voxels: Annotated[int, Field(ge=1)] | None = None
    select_by: Literal["group", "subject"] = "group"
    parcels: Path | None = None
    centre: Literal["none", "subject", "run"] = "none"
    scale: bool = True
    fit_on: Literal["train", "all"] = "train"


class Model(Section):
    """One decoder of the catalogue and its parameters.

    `grid` lists the values to choose from in inner folds; ``tune = true`` takes the catalogue's.
    `columns` restricts the features by name (``["AAL*"]``), `n_voxels` overrides the study's.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$")]
    kind: str
    params: dict[str, Any] = {}
    tune: bool = False
    grid: dict[str, list[Any]] = {}
    n_voxels: Annotated[int, Field(ge=1)] | None = None
    columns: list[str] | None = None


class Evaluate(Section):
    """How the decoders are tested."""

    split: Literal[
        "auto",
        "leave_one_subject_out",
        "leave_run_out",
        "leave_stimulus_out",
        "subject_by_stimulus",
        "group_k_fold",
        "shuffled",
    ] = "auto"
    stimulus_groups: Literal["auto", "run", "stimulus", "segments"] = "auto"
    n_segments: Annotated[int, Field(ge=2)] = 4
    n_folds: Annotated[int, Field(ge=2)] = 5
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    gap_s: Annotated[float, Field(ge=0)] = 30.0
    inner_folds: Annotated[int, Field(ge=2)] = 3
    tune_by: Literal["balanced_accuracy", "log_loss"] = "balanced_accuracy"
    allow_leakage: bool = False
    n_permutations: Annotated[int, Field(ge=1)] = 1000
    permutation: Literal["auto", "refit", "predictions"] = "auto"
    exchange: str = "block"
    calibrate: Literal["none", "temperature"] = "none"
    controls: bool = True
    control_share: Annotated[float, Field(gt=0, le=100)] = 1.0
    split_seed: Annotated[int, Field(ge=0)] | None = None

    @field_validator("exchange")
    @classmethod
    def _never_single_volumes(cls, value: str) -> str:
        if value not in ("block", "shift", "phase"):
            raise ValueError("block, shift or phase: single volumes would find effects in noise")
        return value


PUBLISHED_KEYS = ("evaluate.", "features.fit_on", "features.n_voxels", "features.select_by")
"""Keys that the published form of a study may change: both forms use the same samples."""


class Study(Section):
    """Every choice that a result depends on.

    `as_published` holds dotted keys of a published form that is evaluated beside this one.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    title: str = ""
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    data: Annotated[BidsData | MatData | TableData | DesignData, Field(discriminator="source")]
    labels: Labels = Labels()
    features: Features = Features()
    models: Annotated[list[Model], Field(min_length=1)] = [
        Model(name="dummy", kind="dummy"),
        Model(name="logistic", kind="logistic"),
        Model(name="lda", kind="lda"),
    ]
    evaluate: Evaluate = Evaluate()
    as_published: dict[str, Any] = {}

    @field_validator("as_published")
    @classmethod
    def _only_what_keeps_the_samples(cls, values: dict[str, Any]) -> dict[str, Any]:
        for key in values:
            if not key.startswith(PUBLISHED_KEYS):
                raise ValueError(
                    f"only evaluate.*, {', '.join(PUBLISHED_KEYS[1:])} (dotted keys), not {key!r}"
                )
        return values

    @field_validator("data", mode="before")
    @classmethod
    def _bids_by_default(cls, data: Any) -> Any:
        return {"source": "bids"} | data if isinstance(data, dict) else data

    @field_validator("models", mode="before")
    @classmethod
    def _name_models(cls, models: Any) -> Any:
        if not isinstance(models, list):
            return models
        named = [{"name": m, "kind": m} if isinstance(m, str) else m for m in models]
        return [
            ({"kind": m["name"]} | m) if isinstance(m, dict) and "name" in m else m for m in named
        ]

    @model_validator(mode="after")
    def _unique_models(self) -> "Study":
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"models: the name {name!r} is given twice")
        return self


def load_study(path: str | os.PathLike, *, overrides: dict[str, Any] | None = None) -> Study:
    """Read and check a study file.

    Parameters
    ----------
    path : path of a TOML file
        Paths inside it are relative to its folder; ``$NAME`` in them is an environment variable.
    overrides : dict, optional
        Dotted keys and values that replace what the file says (``{"evaluate.split": "shuffled"}``).

    Raises
    ------
    DataMissingError
        No such file.
    InputError
        No valid TOML, an unknown key (the nearest known one is named) or a value out of range.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissingError(
            str(path),
            found="no such file",
            expected="a study in TOML",
            remedy="Check the path; `emodecode demo` writes one to start from.",
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(
            str(path),
            found=f"not valid TOML ({error})",
            expected="a study in TOML",
            remedy="Correct that line.",
        ) from error
    for key, value in (overrides or {}).items():
        _set_dotted(values, key, value)
    return make_study(values, where=str(path), folder=path.parent)


def make_study(
    values: dict[str, Any], *, where: str = "study", folder: Path | None = None
) -> Study:
    """Check the values of a study; paths become absolute, relative to `folder`."""
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        raise _study_error(where, error) from error
    return _resolve_paths(study, Path(folder or "."), where)


def published_form(study: Study) -> Study:
    """Return the study as it was published: `as_published` applied, leaks allowed."""
    values = study.model_dump(mode="json", exclude={"as_published"})
    for key, value in (study.as_published | {"evaluate.allow_leakage": True}).items():
        _set_dotted(values, key, value)
    return make_study(values, where=f"{study.name}: as_published")


def write_study(study: Study, path: Path) -> None:
    """Write the study as resolved (every default spelled out)."""
    text = tomli_w.dumps(_without_none(study.model_dump(mode="json")))
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(
                f"--set {key}",
                found=f"{parent} is no table",
                expected="a dotted key such as evaluate.split",
                remedy="docs/study.md lists all keys.",
            )
    values[last] = value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_none(item) for item in value]
    return value


def _resolve_paths(study: Study, folder: Path, where: str) -> Study:
    def resolve(path: Path | None, base: Path) -> Path | None:
        if path is None:
            return None
        text = os.path.expandvars(path.expanduser())
        unset = re.search(r"\$\{?(\w+)", text)
        if unset:
            raise DataMissingError(
                where,
                found=f"{path} names the environment variable {unset[1]}, which is not set",
                expected="a path that exists",
                remedy=f"Set {unset[1]} to the folder of the data, or say --set data.path=...",
            )
        return (base / text).resolve()

    def update(section: Section, base: Path, *keys: str) -> dict[str, Path | None]:
        return {key: resolve(getattr(section, key), base) for key in keys if hasattr(section, key)}

    root = resolve(study.data.path, folder)
    assert root is not None
    data = study.data.model_copy(
        update={"path": root} | update(study.data, root, "derivatives", "mask")
    )
    labels = study.labels.model_copy(update=update(study.labels, folder, "path", "events_path"))
    features = study.features.model_copy(update=update(study.features, folder, "parcels"))
    return study.model_copy(update={"data": data, "labels": labels, "features": features})


def _study_error(where: str, error: ValidationError) -> InputError:
    first = error.errors()[0]
    parts = [str(part) for part in first["loc"] if part not in ("bids", "mat", "table", "design")]
    key = ".".join(parts)
    if first["type"] == "extra_forbidden":
        known = _known_keys(error.title, first["loc"])
        near = difflib.get_close_matches(parts[-1], known, n=1, cutoff=0.4)
        expected = f"one of {', '.join(sorted(known))}"
        remedy = f"Did you mean {near[0]!r}?" if near else "Remove the key."
        return InputError(where, found=f"unknown key {key!r}", expected=expected, remedy=remedy)
    message = first["msg"].removeprefix("Value error, ")
    found = f"{key or 'the study'} = {_short(first.get('input'))}"
    if first["type"] == "missing":
        found, message = f"no key {key!r}", "that key: it has no default"
    return InputError(
        where, found=found, expected=message, remedy=f"Correct {key or 'the study'} there."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SECTIONS: dict[str, type[Section]] = {
    "bids": BidsData,
    "mat": MatData,
    "table": TableData,
    "design": DesignData,
    "labels": Labels,
    "features": Features,
    "clean": Clean,
    "models": Model,
    "evaluate": Evaluate,
}


def _known_keys(title: str, location: tuple[int | str, ...]) -> list[str]:
    names = [part for part in location[:-1] if isinstance(part, str) and part in _SECTIONS]
    section = _SECTIONS[names[-1]] if names else Study
    return list(section.model_fields)

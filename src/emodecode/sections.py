"""Sections of a study: the tables of its file, each key with its type, range and default."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

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
    select_by: Literal["group", "subject", "own"] = "group"
    parcels: Path | None = None
    centre: Literal["none", "subject", "run"] = "none"
    scale: bool = True
    fit_on: Literal["train", "all"] = "train"


class Model(Section):
    """One decoder of the catalogue and its parameters.

    `grid` lists the values to choose from in inner folds; ``tune = true`` takes the catalogue's.
    `columns` restricts the features by name (``["AAL*"]``), `n_voxels` overrides the study's,
    ``align = false`` leaves this decoder without the study's alignment.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.+-]+$")]
    kind: str
    params: dict[str, Any] = {}
    tune: bool = False
    grid: dict[str, list[Any]] = {}
    n_voxels: Annotated[int, Field(ge=1)] | None = None
    columns: list[str] | None = None
    align: bool = True


class Evaluate(Section):
    """How the decoders are tested; ``choose_epoch_on = "test"`` is S2's way: a leak."""

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
    subject_folds: Annotated[int, Field(ge=2)] | None = None
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    gap_s: Annotated[float, Field(ge=0)] = 30.0
    inner_folds: Annotated[int, Field(ge=2)] = 3
    tune_by: Literal["balanced_accuracy", "log_loss"] = "balanced_accuracy"
    allow_leakage: bool = False
    n_permutations: Annotated[int, Field(ge=1)] = 1000
    permutation: Literal["auto", "refit", "predictions"] = "auto"
    exchange: str = "block"
    calibrate: Literal["none", "temperature"] = "none"
    choose_epoch_on: Literal["train", "test"] = "train"
    controls: bool = True
    control_share: Annotated[float, Field(gt=0, le=100)] = 1.0
    split_seed: Annotated[int, Field(ge=0)] | None = None

    @field_validator("exchange")
    @classmethod
    def _never_single_volumes(cls, value: str) -> str:
        if value not in ("block", "shift", "phase"):
            raise ValueError("block, shift or phase: single volumes would find effects in noise")
        return value


class Explain(Section):
    """What `emodecode explain` takes away from a volume, what it puts there, and of how many.

    `unit` is what is occluded together; `label_draws` and `weight_draws` are how often labels and
    weights are drawn anew for the sanity checks (0: not checked). `form = "s1"` chooses samples,
    averages and compares as S1 did, for the published form of a study.
    """

    form: Literal["honest", "s1"] = "honest"
    unit: Literal["boxes", "searchlights", "regions"] = "boxes"
    box_vox: Annotated[int, Field(ge=1)] = 2
    stride_vox: Annotated[int, Field(ge=1)] = 2
    radius_mm: Annotated[float, Field(gt=0)] = 8.0
    atlas: Path | None = None
    fill: Literal["subject", "conditional", "voxel_mean", "volume_mean", "zero", "noise"] = (
        "subject"
    )
    n_draws: Annotated[int, Field(ge=1)] = 4
    per_class: Annotated[int, Field(ge=1)] = 10
    top_k: Annotated[int, Field(ge=1)] = 500
    label_draws: Annotated[int, Field(ge=0)] = 19
    weight_draws: Annotated[int, Field(ge=0)] = 3
    other_settings: bool = True
    methods: bool = True
    gradients_per_class: Annotated[int, Field(ge=1)] = 2
    gradient_steps: Annotated[int, Field(ge=2)] = 32
    geometry: bool = True
    space: str | None = None

    @field_validator("label_draws")
    @classmethod
    def _enough_for_a_test(cls, value: int) -> int:
        if 0 < value < 19:
            raise ValueError("0, or 19 at least: fewer cannot give p = .05")
        return value

    @model_validator(mode="after")
    def _regions_of_an_atlas(self) -> "Explain":
        if self.unit == "regions" and self.atlas is None:
            raise ValueError('unit = "regions" needs atlas: a label image on the data\'s grid')
        return self


ALIGNS_ON_TASK = ("independent_run", "connectivity")
"""Protocols whose maps may be fitted on the runs of another task."""


class Align(Section):
    """One space for all subjects: how it is made, and which data a subject's map is fitted on.

    `protocol` says how a subject gets into the common space (see docs/alignment.md); `task` names
    the BIDS task of separate, time-locked runs that only serve alignment (``none`` ignores it).
    """

    protocol: Literal[
        "independent_run", "calibration_blocks", "transductive", "connectivity", "none"
    ] = "independent_run"
    method: Literal["hyperalignment", "template", "srm"] = "hyperalignment"
    map: Literal["orthogonal", "ridge", "promises"] = "ridge"
    shrinkage: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    n_components: Annotated[int, Field(ge=1)] | None = None
    level2_niter: Annotated[int, Field(ge=0)] = 1
    scaling: bool = True
    reflection: bool = True
    alpha: Annotated[float, Field(ge=0, le=1)] = 1.0
    zscore_common: bool = True
    task: str | None = None
    calibration_run: str | None = None
    calibration_rows: Literal["class_by_time", "class"] = "class_by_time"
    targets: Path | None = None
    pieces: Path | None = None
    searchlight_mm: Annotated[float, Field(gt=0)] | None = None
    beside: bool | list[str] = True

    @model_validator(mode="after")
    def _refuse_what_does_not_fit(self) -> "Align":
        if self.protocol == "connectivity" and self.targets is None:
            raise ValueError("connectivity needs align.targets, a label image of parcels")
        if self.pieces is not None and self.searchlight_mm is not None:
            raise ValueError("pieces or searchlight_mm, not both")
        if self.method == "srm" and (self.pieces is not None or self.searchlight_mm is not None):
            raise ValueError("hyperalignment or template: srm has no piecewise form")
        if self.task is not None and self.protocol not in (*ALIGNS_ON_TASK, "none"):
            raise ValueError(f"independent_run or connectivity: {self.protocol} uses no other task")
        return self

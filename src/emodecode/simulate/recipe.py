"""Recipe: every choice of a simulation, checked once."""

import difflib
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from emodecode.errors import InputError

STRENGTHS: dict[str, tuple[float, float]] = {
    "linear": (1.0, 0.0),
    "interaction": (0.0, 2.0),
    "mixed": (0.2, 2.0),
    "null": (0.0, 0.0),
}
"""Strength of the linear and of the interaction part of each named code."""

CLASSES = {
    "blocks": ("negative", "neutral", "positive"),
    "movie": ("ANGERRAGE", "FEAR", "HAPPINESS", "SADNESS"),
}

PRESETS: dict[str, dict[str, Any]] = {
    "s2": {
        "design": "blocks",
        "n_subjects": 11,
        "classes": ("rest", "neutral", "negative"),
    },
    "s1": {
        "design": "movie",
        "n_subjects": 15,
        "n_runs": 8,
        "n_volumes": 450,
        "classes": ("ANGERRAGE", "FEAR", "HAPPINESS", "LOVE", "SADNESS"),
    },
    "s2b": {
        "design": "blocks",
        "n_subjects": 11,
        "n_volumes": 80,
        "classes": ("rest", "neutral", "negative"),
        "shape": (64, 64, 44),
        "voxel_mm": 3.0,
        "gain_sd": 0.3,
        "shift_mm": 4.0,
        "warp_mm": 3.0,
    },
}
"""Named recipes. ``s2``: 11 subjects x 2 runs x 200 volumes of 20-s blocks, rest between all of
them (give ``shape=(64, 64, 44), voxel_mm=3.0`` for its volumes); ``s1``: a film in 8 segments;
``s2b``: the whole volumes of S2's experiment B, 11 subjects x 2 runs x 80 volumes of 20-s blocks,
anatomies that differ and a scanner gain of each run's own."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every choice of a simulation; a component is off where its amount is 0.

    Parameters
    ----------
    design : {"blocks", "movie"}
        Blocks in an order of their own per subject, or one film for everybody, in segments.
    code : {"linear", "interaction", "mixed", "null"}
        How the classes differ: by the mean of the linear regions; by whether two regions A and B
        move together (first class), opposite (second) or independently (the others), with a
        random sign per block and subject, so that all class means are zero; both; not at all.
    linear, interaction : float, optional
        Strengths of the two parts, in units of the spontaneous latent fluctuation; the default
        follows `code` (`STRENGTHS`).
    effect : float
        Multiplies both strengths.
    cnr : float
        Voxel standard deviation of a latent of unit strength over that of the noise.
    shared : float
        Share (of variance) of a subject's topography that all subjects have in common (0 to 1).
    decoy : float, optional
        Pairwise inter-subject correlation of the stimulus-locked response without emotion in the
        voxels of the decoy regions (V1 three times as much, at most 0.9). Default 0 for blocks,
        0.1 for a movie.
    film : float
        Strength of the film-locked latents that reach all other regions through each subject's
        own topography (what functional alignment works on); film runs only.
    labels : {"planted", "random"}
        ``random``: labels are drawn after the fact and are nowhere in the data.
    same_order : bool
        One block order for all subjects.
    classes : tuple of str, optional
        ``"rest"`` among the classes of blocks alternates with all others and evokes nothing.
    n_subjects, n_runs, n_volumes, tr_s, block_s, gap_s
        Size and timing; `gap_s` is empty time after each block.
    scene_s : (float, float)
        Shortest and longest scene of a film, seconds.
    overlap_s : float
        Overlap of consecutive film segments.
    segments_s : sequence of (start, end), optional
        Start and end of each run's segment on the film's clock, seconds; the first `n_runs` are
        shown, and `n_volumes` and `overlap_s` are not used. Default: segments of equal length.
    film_volumes : int
        Blocks only: length of one more run per subject, ``task-film``, time-locked, unlabelled.
    n_latents, background
        Latent dimensions per region; strength of their spontaneous fluctuation.
    n_regions, n_region_voxels
        Array path only (`simulate_samples`): regions and voxels in each.
    voxel_mm, shape
        Grid on disk; `shape` defaults to one that holds the whole brain.
    sfnr : float
        Temporal signal to noise: mean over temporal standard deviation of the noise.
    gain_sd : float
        Spread (standard deviation of the logarithm) of the scanner's gain over runs.
    ar1, ar1_sd : float
        Lag-1 autocorrelation of the noise at one TR, and its spread over voxels.
    smoothness_mm, pattern_mm : float
        FWHM of the noise and of the topographies.
    drift, white, physiology : float
        Shares of the noise's standard deviation; the autoregressive part fills up to 1.
    fd_mm : float
        Mean framewise displacement of the head motion.
    motion_residual : float
        Share of the displacement that is left in the signal after realignment.
    n_spikes : int
        Sudden displacements of 0.5 to 1 mm per run.
    hrf_peak_s, hrf_subject_sd_s, hrf_region_sd_s : float
        Peak of the haemodynamic response and its spread (subjects are kept within 3.5 to 7 s).
    shift_mm, warp_mm : float
        Anatomical misalignment: length of a rigid shift and rms of a smooth warp.
    n_observers, observer_miss, observer_confusion, observer_jitter_s
        Film annotations: chance to miss an episode, to name another emotion; onset jitter (sd).
    groups : tuple of str
        Given to the subjects in turn.
    group_effect : float
        Multiplies `effect` in every group but the first.
    seed : int
        Everything follows from it, whatever the order or the number of jobs.

    Raises
    ------
    InputError
        A value out of range.

    References
    ----------
    Where the defaults come from: fmrisim's sample subject (SFNR, smoothness, share of drift), the
    Turbo-BrainVoyager simulator (AR, white noise), Schmaelzle et al. 2017 (inter-subject
    correlations), Handwerker et al. 2004 (haemodynamic peaks); `shared` and `cnr` are tuned.
    """

    design: Literal["blocks", "movie"] = "blocks"
    code: Literal["linear", "interaction", "mixed", "null"] = "linear"
    linear: float | None = None
    interaction: float | None = None
    effect: float = 1.0
    cnr: float = 0.25
    shared: float = 0.3
    decoy: float | None = None
    film: float = 2.0
    labels: Literal["planted", "random"] = "planted"
    same_order: bool = False
    classes: tuple[str, ...] | None = None
    n_subjects: int = 12
    n_runs: int = 2
    n_volumes: int = 200
    tr_s: float = 2.0
    block_s: float = 20.0
    gap_s: float = 0.0
    scene_s: tuple[float, float] = (10.0, 60.0)
    overlap_s: float = 16.0
    segments_s: tuple[tuple[float, float], ...] | None = None
    film_volumes: int = 0
    n_latents: int = 12
    background: float = 1.0
    n_regions: int = 6
    n_region_voxels: int = 40
    voxel_mm: float = 6.0
    shape: tuple[int, int, int] | None = None
    sfnr: float = 70.0
    gain_sd: float = 0.0
    ar1: float = 0.3
    ar1_sd: float = 0.1
    smoothness_mm: float = 5.0
    pattern_mm: float = 8.0
    drift: float = 0.6
    white: float = 0.35
    physiology: float = 0.2
    fd_mm: float = 0.15
    motion_residual: float = 0.2
    n_spikes: int = 2
    hrf_peak_s: float = 5.0
    hrf_subject_sd_s: float = 0.6
    hrf_region_sd_s: float = 0.3
    shift_mm: float = 0.0
    warp_mm: float = 0.0
    n_observers: int = 9
    observer_miss: float = 0.3
    observer_confusion: float = 0.1
    observer_jitter_s: float = 1.5
    groups: tuple[str, ...] = ("HC", "MDD")
    group_effect: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("design", tuple(CLASSES)),
            ("code", tuple(STRENGTHS)),
            ("labels", ("planted", "random")),
        ):
            self._require(getattr(self, name) in known, name, "one of " + ", ".join(known))
        for name in ("classes", "scene_s", "shape", "groups"):  # JSON and TOML bring lists
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if self.segments_s is not None:
            parts = tuple((float(start), float(end)) for start, end in self.segments_s)
            object.__setattr__(self, "segments_s", parts)
        self._fill_defaults()
        self._check_ranges()

    def _fill_defaults(self) -> None:
        linear, interaction = STRENGTHS[self.code]
        defaults = {
            "linear": linear,
            "interaction": interaction,
            "classes": CLASSES[self.design],
            "decoy": 0.1 if self.design == "movie" else 0.0,
        }
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_ranges(self) -> None:
        for name in ("n_subjects", "n_runs", "n_latents", "n_observers", "n_region_voxels"):
            self._require(getattr(self, name) >= 1, name, "at least 1")
        for name in ("tr_s", "block_s", "voxel_mm", "sfnr", "hrf_peak_s"):
            self._require(getattr(self, name) > 0, name, "more than 0")
        amounts = ("gap_s", "overlap_s", "cnr", "background", "smoothness_mm", "pattern_mm")
        for name in (*amounts, "gain_sd"):
            self._require(getattr(self, name) >= 0, name, "at least 0")
        for name in ("shared", "observer_miss", "observer_confusion"):
            self._require(0 <= getattr(self, name) <= 1, name, "from 0 to 1")
        self._require(self.n_regions >= 6, "n_regions", "at least 6")
        self._require(0 <= self.ar1 < 1, "ar1", "from 0 to below 1")
        assert self.decoy is not None
        self._require(0 <= self.decoy <= 0.9, "decoy", "from 0 to 0.9")
        used = self.drift**2 + self.white**2 + self.physiology**2
        self._require(used < 1, "drift", "drift^2 + white^2 + physiology^2 below 1")
        names = self.class_names
        self._require(len(set(names)) == len(names) >= 2, "classes", "two or more different names")
        self._require(len(self.groups) >= 1, "groups", "at least one name")
        low, high = self.scene_s
        self._require(0 < low <= high, "scene_s", "two durations in ascending order")
        self._require(
            self.overlap_s < self.run_s, "overlap_s", f"less than a run ({self.run_s:g} s)"
        )
        self._require(self.n_volumes >= 20, "n_volumes", "at least 20")
        if self.segments_s is not None:
            self._check_segments(self.segments_s)

    def _check_segments(self, segments_s: tuple[tuple[float, float], ...]) -> None:
        starts = [start for start, _ in segments_s]
        self._require(self.design == "movie", "segments_s", "none: only films have segments")
        self._require(
            starts == sorted(set(starts)) and starts[:1] >= [0.0],
            "segments_s",
            "segments in ascending order, from 0 s on",
        )
        shortest_s = min(end - start for start, end in segments_s)
        self._require(shortest_s >= 20 * self.tr_s, "segments_s", "20 volumes or more in each")
        self._require(
            self.n_runs <= len(starts), "n_runs", f"at most {len(starts)}, one run a segment"
        )

    def _require(self, fulfilled: bool, name: str, expected: str) -> None:
        if not fulfilled:
            raise InputError(
                f"simulation: {name}",
                found=f"{name} = {getattr(self, name)!r}",
                expected=expected,
                remedy=f"Correct {name}; the defaults are listed in emodecode.simulate.recipe.",
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order that the interaction code refers to."""
        assert self.classes is not None
        return self.classes

    @property
    def run_s(self) -> float:
        """Length of a run in seconds."""
        return self.n_volumes * self.tr_s

    @property
    def strengths(self) -> tuple[float, float]:
        """Linear and interaction strength as planted (zero with random labels)."""
        assert self.linear is not None
        assert self.interaction is not None
        factor = 0.0 if self.labels == "random" else self.effect
        return self.linear * factor, self.interaction * factor

    @property
    def decoy_isc(self) -> float:
        """Pairwise inter-subject correlation in an ordinary decoy region."""
        assert self.decoy is not None
        return self.decoy

    def subject_names(self) -> list[str]:
        """``01`` to ``12``, zero-padded to at least two digits."""
        width = max(2, len(str(self.n_subjects)))
        return [f"{number:0{width}d}" for number in range(1, self.n_subjects + 1)]

    def as_dict(self) -> dict[str, Any]:
        """All parameters, for JSON."""
        return asdict(self)


def make_recipe(*, preset: str | None = None, **choices: Any) -> Recipe:
    """Build a recipe from a preset and choices that replace its values.

    Raises
    ------
    InputError
        An unknown preset or parameter (the nearest known one is named), or a value out of range.
    """
    if preset is not None and preset not in PRESETS:
        raise InputError(
            "simulation: preset",
            found=f"preset = {preset!r}",
            expected="one of " + ", ".join(PRESETS),
            remedy="Correct the name, or leave it out.",
        )
    known = [field.name for field in fields(Recipe)]
    for name in choices:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise InputError(
                "simulation",
                found=f"no parameter {name!r}",
                expected="a parameter of emodecode.simulate.recipe.Recipe",
                remedy=f"Did you mean {near[0]!r}?" if near else "Known: " + ", ".join(known),
            )
    values = ({} if preset is None else PRESETS[preset]) | choices
    try:
        return Recipe(**values)
    except TypeError as error:
        shown = ", ".join(f"{name} = {value!r}" for name, value in choices.items())
        raise InputError(
            "simulation",
            found=f"{shown} ({error})",
            expected="values of the types that docs/simulator.md shows",
            remedy="Correct the type: numbers without quotes, lists in square brackets.",
        ) from error

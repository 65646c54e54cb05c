"""What all simulated subjects share: plans of the runs, class patterns, topographies, stimuli."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d

from emodecode.errors import InputError
from emodecode.simulate.blocks import REST, block_events, clock_length_s
from emodecode.simulate.brain import Brain
from emodecode.simulate.movie import (
    AnnotatedFilm,
    count_volumes,
    draw_scenes,
    lay_scenes,
    observe,
    scene_events,
    segment_bounds,
)
from emodecode.simulate.recipe import Recipe
from emodecode.simulate.signals import convolve, smooth_field

FINE_S = 0.5
STIMULUS_WIDTH_S = 2.0
FILM, PICTURES = "film", "pictures"


@dataclass(frozen=True, eq=False)
class RunPlan:
    """One run before anything is simulated.

    `events` has the columns of :func:`emodecode.simulate.blocks.block_events`; `reel` names the
    stimulus whose latents drive the run (``None``: no common stimulus).
    """

    task: str
    run: str
    n_volumes: int
    events: pd.DataFrame = field(repr=False)
    reel: str | None = None
    start_s: float = 0.0


@dataclass(frozen=True, eq=False)
class World:
    """What all subjects share.

    Parameters
    ----------
    class_patterns : ndarray of shape (n_classes, n_regions, n_latents)
        Mean latent of each class; zero outside the linear regions.
    pair_axes : ndarray of shape (2, n_latents)
        Latent directions of regions A and B.
    topography, decoy_topography : ndarray of shape (n_voxels, n_latents)
    reels : dict of ndarray of shape (n_fine, n_regions, n_latents)
        Latents that each stimulus evokes, of unit variance after the haemodynamic response.
    scenes : DataFrame, optional
        The film's scenes (movies only), `segments` its parts shown in the runs.
    annotated : AnnotatedFilm, optional
        The real film whose emotions the scenes have.
    """

    recipe: Recipe
    brain: Brain
    step: int
    class_patterns: np.ndarray = field(repr=False)
    pair_axes: np.ndarray = field(repr=False)
    topography: np.ndarray = field(repr=False)
    decoy_topography: np.ndarray = field(repr=False)
    reels: dict[str, np.ndarray] = field(repr=False)
    scenes: pd.DataFrame | None = None
    segments: tuple[tuple[float, float], ...] = ()
    annotated: AnnotatedFilm | None = None

    @property
    def dt_s(self) -> float:
        """Step of the neural time grid."""
        return self.recipe.tr_s / self.step

    def annotations(self) -> dict[str, pd.DataFrame]:
        """What the observers wrote down about the film, empty for blocks."""
        if self.scenes is None:
            return {}
        if self.annotated is not None:
            return self.annotated.observers
        seeds = [seed_of(self.recipe, 1, number) for number in range(self.recipe.n_observers)]
        return observe(self.scenes, self.recipe, seeds)

    def plans(self, subject: int) -> list[RunPlan]:
        """The runs of subject number `subject` (from 0)."""
        recipe = self.recipe
        if self.scenes is not None:
            return [
                RunPlan(
                    task="movie",
                    run=str(run),
                    n_volumes=count_volumes(recipe, segment),
                    events=scene_events(self.scenes, segment),
                    reel=FILM,
                    start_s=segment[0],
                )
                for run, segment in enumerate(self.segments, start=1)
            ]
        key = (0, 5) if recipe.same_order else (2, subject, 2)
        rng = np.random.default_rng(seed_of(recipe, *key))
        reel = PICTURES if PICTURES in self.reels else None
        plans = [
            RunPlan(
                "emotion",
                str(run + 1),
                recipe.n_volumes,
                block_events(recipe, rng, run=run),
                reel=reel,
            )
            for run in range(recipe.n_runs)
        ]
        if FILM in self.reels:
            nothing = plans[0].events.iloc[:0]
            plans.append(RunPlan(FILM, "1", recipe.film_volumes, nothing, reel=FILM))
        return plans


def seed_of(recipe: Recipe, *key: int) -> np.random.SeedSequence:
    """Seed of one part, the same whatever else is simulated, and in whatever order."""
    return np.random.SeedSequence(recipe.seed, spawn_key=key)


def event_at(events: pd.DataFrame, time_s: np.ndarray) -> np.ndarray:
    """Row of the event that covers each moment, -1 for none."""
    if not len(events):
        return np.full(len(time_s), -1)
    onset = events["onset_s"].to_numpy()
    row = np.searchsorted(onset, time_s + 1e-9, side="right") - 1
    end = onset + events["duration_s"].to_numpy()
    return np.where((row >= 0) & (time_s < end[row] - 1e-9), row, -1)


def make_world(recipe: Recipe, brain: Brain, *, annotated: AnnotatedFilm | None = None) -> World:
    """Draw everything that the subjects share; `annotated`: a real film instead of a drawn one."""
    if annotated is not None and recipe.design != "movie":
        raise InputError(
            "simulation: design",
            found="blocks, with annotations of a film",
            expected="a film",
            remedy="Use design = movie, or the preset s1.",
        )
    step = int(np.ceil(recipe.tr_s / FINE_S))
    rngs = [np.random.default_rng(seed_of(recipe, 0, part)) for part in range(5)]
    scenes, segments = None, segment_bounds(recipe) if recipe.design == "movie" else []
    if segments:
        scenes = (
            draw_scenes(recipe, rngs[4], segments)
            if annotated is None
            else lay_scenes(recipe, rngs[4], segments, annotated)
        )
    axes = rngs[0].standard_normal((2, recipe.n_latents))
    return World(
        recipe=recipe,
        brain=brain,
        step=step,
        class_patterns=_class_patterns(recipe, brain, rngs[0]),
        pair_axes=axes / np.sqrt((axes**2).mean(axis=1, keepdims=True)),
        topography=draw_topography(recipe, brain, rngs[1]),
        decoy_topography=draw_topography(recipe, brain, rngs[2]),
        reels=_reels(recipe, brain, rngs[3], step=step, scenes=scenes),
        scenes=scenes,
        segments=tuple(segments),
        annotated=annotated,
    )


def draw_topography(recipe: Recipe, brain: Brain, rng: np.random.Generator) -> np.ndarray:
    """Random weights (n_voxels, n_latents); a latent of unit variance gives a voxel of one."""
    fwhm_mm = recipe.pattern_mm if brain.inside.ndim == 3 and brain.inside.shape[2] > 1 else 0.0
    fields = smooth_field(rng, brain, fwhm_mm=fwhm_mm, n_fields=recipe.n_latents)
    return fields.T / np.sqrt(recipe.n_latents)


def _class_patterns(recipe: Recipe, brain: Brain, rng: np.random.Generator) -> np.ndarray:
    """Directions of unit rms per class, centred over the classes; none for rest."""
    shown = [n for n, name in enumerate(recipe.class_names) if name != REST]
    patterns = np.zeros((len(recipe.class_names), len(brain.regions), recipe.n_latents))
    for region in brain.numbers("linear"):
        drawn = rng.standard_normal((len(shown), recipe.n_latents))
        if len(shown) > 1:
            drawn -= drawn.mean(axis=0)
        patterns[shown, region] = drawn / np.sqrt((drawn**2).mean(axis=1, keepdims=True))
    return patterns


def _reels(
    recipe: Recipe,
    brain: Brain,
    rng: np.random.Generator,
    *,
    step: int,
    scenes: pd.DataFrame | None,
) -> dict[str, np.ndarray]:
    """Latents evoked by each stimulus: half a constant per scene, half faster fluctuation."""
    cuts: dict[str, np.ndarray] = {}
    if scenes is not None:
        cuts[FILM] = np.array([*scenes["start_s"], scenes["end_s"].iloc[-1]])
    elif recipe.film_volumes:
        cuts[FILM] = _regular_cuts(recipe.film_volumes * recipe.tr_s)
    if recipe.design == "blocks" and recipe.decoy_isc > 0:
        length_s = clock_length_s(recipe)
        cuts[PICTURES] = np.append(np.arange(0, length_s, recipe.block_s), length_s)
    dt_s = recipe.tr_s / step
    size = (len(brain.regions), recipe.n_latents)
    return {
        name: _reel(rng, borders, size, dt_s=dt_s, peak_s=recipe.hrf_peak_s)
        for name, borders in cuts.items()
    }


def _regular_cuts(length_s: float, scene_s: float = 20.0) -> np.ndarray:
    return np.append(np.arange(0, length_s, scene_s), length_s)


def _reel(
    rng: np.random.Generator,
    borders: np.ndarray,
    size: tuple[int, int],
    *,
    dt_s: float,
    peak_s: float,
) -> np.ndarray:
    n_fine = int(np.ceil(borders[-1] / dt_s)) + 1  # starts of segments are rounded to the grid
    scene = np.searchsorted(borders, np.arange(n_fine) * dt_s, side="right") - 1
    constant = rng.standard_normal((len(borders), *size))[scene]
    fast = gaussian_filter1d(rng.standard_normal((n_fine, *size)), STIMULUS_WIDTH_S / dt_s, axis=0)
    parts = []
    for part in (constant, fast):
        blurred = convolve(part, peak_s=peak_s, dt_s=dt_s, step=1)
        parts.append(part / blurred.std(axis=(0, 2), keepdims=True))
    return np.sqrt(0.5) * (parts[0] + parts[1])

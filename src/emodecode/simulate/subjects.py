"""Simulated people: their topographies, and the signal that the stimuli evoke in them."""

from dataclasses import dataclass, field

import numpy as np

from emodecode.simulate.blocks import REST
from emodecode.simulate.brain import Brain
from emodecode.simulate.recipe import Recipe
from emodecode.simulate.signals import autoregressive, convolve, smooth_field
from emodecode.simulate.world import (
    FILM,
    RunPlan,
    World,
    draw_topography,
    event_at,
    seed_of,
)

BACKGROUND_S = 5.0
"""Time constant of the spontaneous fluctuation of the latents."""


@dataclass(frozen=True, eq=False)
class Subject:
    """One simulated person: topographies (n_voxels, n_latents), response peaks, brain labels."""

    number: int
    name: str
    group: str
    effect: float
    peaks_s: np.ndarray
    labels: np.ndarray = field(repr=False)
    topography: np.ndarray = field(repr=False)
    decoy_topography: np.ndarray = field(repr=False)


def make_subject(world: World, number: int) -> Subject:
    """Draw one person: anatomy, topographies, haemodynamic responses."""
    recipe, brain = world.recipe, world.brain
    rng = np.random.default_rng(seed_of(recipe, 2, number, 0))
    source = _misaligned(recipe, brain, rng)
    own = draw_topography(recipe, brain, rng)
    common = world.topography[source]
    peak_s = np.clip(recipe.hrf_peak_s + recipe.hrf_subject_sd_s * rng.standard_normal(), 3.5, 7)
    spread_s = recipe.hrf_region_sd_s * rng.standard_normal(len(brain.regions))
    group = number % len(recipe.groups)
    return Subject(
        number=number,
        name=recipe.subject_names()[number],
        group=recipe.groups[group],
        effect=1.0 if group == 0 else recipe.group_effect,
        peaks_s=np.maximum(peak_s + spread_s, 2.0),
        labels=brain.labels[source],
        topography=np.sqrt(recipe.shared) * common + np.sqrt(1 - recipe.shared) * own,
        decoy_topography=world.decoy_topography[source],
    )


def _misaligned(recipe: Recipe, brain: Brain, rng: np.random.Generator) -> np.ndarray:
    """Column of the template voxel that lies under each voxel of this person."""
    columns = np.arange(brain.n_voxels)
    direction = rng.standard_normal(3)
    if recipe.shift_mm == 0 and recipe.warp_mm == 0:
        return columns
    moved_mm = np.tile(recipe.shift_mm * direction / np.linalg.norm(direction), (len(columns), 1))
    if recipe.warp_mm > 0:
        warp = smooth_field(rng, brain, fwhm_mm=40.0, n_fields=3).T
        moved_mm += recipe.warp_mm * warp / np.sqrt(3)
    place = np.argwhere(brain.inside) + np.rint(moved_mm / brain.voxel_mm).astype(int)
    place = np.clip(place, 0, np.array(brain.inside.shape) - 1)
    numbers = np.full(brain.inside.shape, -1)
    numbers[brain.inside] = columns
    source = numbers[tuple(place.T)]
    return np.where(source >= 0, source, columns)


def subject_signal(world: World, subject: Subject, plan: RunPlan, *, position: int) -> np.ndarray:
    """Signal of one run without noise, (n_volumes, n_voxels), in noise standard deviations."""
    recipe, brain = world.recipe, world.brain
    rng = np.random.default_rng(seed_of(recipe, 2, subject.number, 3, position))
    neural = _code_latents(world, subject, plan, rng)
    n_fine = plan.n_volumes * world.step
    reel = None
    if plan.reel is not None:
        reel = _played(world, plan, n_fine)
        if plan.reel == FILM:
            others = [n for n, region in enumerate(brain.regions) if region.role != "decoy"]
            neural[:, others] += recipe.film * reel[:, others]
    size = (plan.n_volumes, len(brain.regions), recipe.n_latents)
    rho = float(np.exp(-recipe.tr_s / BACKGROUND_S))
    latents = recipe.background * autoregressive(rng, size, rho=rho)
    signal = np.zeros((plan.n_volumes, brain.n_voxels), dtype=np.float32)
    for number, region in enumerate(brain.regions):
        timing = {"peak_s": subject.peaks_s[number], "dt_s": world.dt_s, "step": world.step}
        latents[:, number] += convolve(neural[:, number], **timing)
        columns = np.flatnonzero(subject.labels == number + 1)
        signal[:, columns] = recipe.cnr * latents[:, number] @ subject.topography[columns].T
        if region.role == "decoy" and reel is not None and recipe.decoy_isc > 0:
            isc = min(recipe.decoy_isc * region.isc_factor, 0.9)
            other = 1 + (recipe.cnr * recipe.background) ** 2
            strength = np.sqrt(isc / (1 - isc) * other)
            course = convolve(reel[:, number], **timing)
            signal[:, columns] += strength * course @ subject.decoy_topography[columns].T
    return signal


def _code_latents(
    world: World, subject: Subject, plan: RunPlan, rng: np.random.Generator
) -> np.ndarray:
    """Neural latents of the emotion code, (n_fine, n_regions, n_latents)."""
    recipe, brain = world.recipe, world.brain
    linear, interaction = (subject.effect * strength for strength in recipe.strengths)
    n_events = len(plan.events)
    vectors = np.zeros((n_events + 1, len(brain.regions), recipe.n_latents))  # last: nothing
    signs = rng.choice([-1.0, 1.0], size=(n_events, 2))
    shown = [name for name in recipe.class_names if name != REST]
    pair = brain.numbers("interaction")
    for row, label in enumerate(plan.events["trial_type"]):
        if label not in recipe.class_names:
            continue
        vectors[row] = linear * world.class_patterns[recipe.class_names.index(label)]
        if label == REST:
            continue
        first, second = signs[row]
        kind = shown.index(label)
        second = (first, -first, second)[min(kind, 2)]
        vectors[row, pair[0]] += interaction * first * world.pair_axes[0]
        vectors[row, pair[1]] += interaction * second * world.pair_axes[1]
    time_s = np.arange(plan.n_volumes * world.step) * world.dt_s
    return vectors[event_at(plan.events, time_s)]


def _played(world: World, plan: RunPlan, n_fine: int) -> np.ndarray:
    """Latents of the stimulus as it was shown in this run."""
    assert plan.reel is not None
    reel = world.reels[plan.reel]
    if plan.reel == FILM:
        start = round(plan.start_s / world.dt_s)
        return reel[start : start + n_fine]
    time_s = np.arange(n_fine) * world.dt_s
    row = event_at(plan.events, time_s)
    place_s = (plan.events["stimulus_s"] - plan.events["onset_s"]).to_numpy()[row] + time_s
    shown = (row >= 0) & np.isfinite(place_s)
    index = np.rint(np.where(shown, place_s, 0) / world.dt_s).astype(int)
    return reel[np.clip(index, 0, len(reel) - 1)] * shown[:, None, None]

"""Simulated runs as scanned: the signal of each subject with all kinds of noise on it."""

from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd

from emodecode.run import Run
from emodecode.simulate.brain import Brain, make_brain
from emodecode.simulate.movie import AnnotatedFilm
from emodecode.simulate.recipe import Recipe, make_recipe
from emodecode.simulate.signals import (
    drift,
    framewise_displacement,
    head_motion,
    motion_maps,
    physiology,
    smooth_field,
    smooth_noise,
)
from emodecode.simulate.subjects import Subject, make_subject, subject_signal
from emodecode.simulate.world import FILM, RunPlan, World, make_world, seed_of

MEAN_INTENSITY = 1000.0


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated runs and the planted answer.

    Parameters
    ----------
    runs : list of Run
        With `matrix` and `mask`; intensities around 1000.
    mask, region_image : SpatialImage
        The brain, and the number (from 1) of each region in it.
    truth : dict
        ``parameters``, ``regions`` and ``carries`` (names of the regions that carry the linear
        code, the interaction code and the decoy), ``segments_s``, ``subjects``.
    scenes : DataFrame, optional
        The film: ``start_s end_s emotion scene``.
    annotations : dict of DataFrame
        What each simulated observer wrote down about the film.
    """

    runs: list[Run] = field(repr=False)
    mask: nib.Nifti1Image = field(repr=False)
    region_image: nib.Nifti1Image = field(repr=False)
    truth: dict[str, Any]
    scenes: pd.DataFrame | None = field(default=None, repr=False)
    annotations: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)


def simulate_runs(
    *, preset: str | None = None, annotated: AnnotatedFilm | None = None, **choices: Any
) -> Simulation:
    """Simulate all runs in memory.

    Parameters
    ----------
    preset : str, optional
        A name in :data:`emodecode.simulate.recipe.PRESETS`.
    annotated : AnnotatedFilm, optional
        A real film, whose emotions are planted instead of drawn ones.
    **choices
        Parameters of :class:`emodecode.simulate.recipe.Recipe`.

    Raises
    ------
    InputError
        An unknown or impossible parameter.
    """
    recipe = make_recipe(preset=preset, **choices)
    world = make_world(recipe, make_brain(recipe), annotated=annotated)
    runs = [
        run
        for number in range(recipe.n_subjects)
        for run in simulate_subject(world, make_subject(world, number))
    ]
    return Simulation(
        runs=runs,
        mask=world.brain.mask_image(),
        region_image=world.brain.region_image(),
        truth=describe_truth(world),
        scenes=world.scenes,
        annotations=world.annotations(),
    )


def simulate_subject(world: World, subject: Subject) -> list[Run]:
    """All runs of one subject as scanned: intensities, events, confounds."""
    recipe, brain = world.recipe, world.brain
    rng = np.random.default_rng(seed_of(recipe, 2, subject.number, 1))
    texture = smooth_field(rng, brain, fwhm_mm=20.0, n_fields=1)[0]
    intensity = MEAN_INTENSITY * np.clip(1 + 0.1 * texture, 0.5, 1.5)
    mask = brain.mask_image()
    runs = []
    for position, plan in enumerate(world.plans(subject.number)):
        rng = np.random.default_rng(seed_of(recipe, 2, subject.number, 4, position))
        data = subject_signal(world, subject, plan, position=position)
        _add_noise(data, rng, brain, recipe)
        data *= intensity / recipe.sfnr
        data += intensity
        motion = head_motion(rng, recipe, n_volumes=plan.n_volumes)
        if recipe.motion_residual > 0:
            moved = motion.to_numpy() - motion.to_numpy().mean(axis=0)
            data += recipe.motion_residual * moved @ motion_maps(brain, intensity)
        if recipe.gain_sd > 0:
            data *= np.exp(recipe.gain_sd * rng.standard_normal())
        confounds = motion.assign(
            framewise_displacement=framewise_displacement(motion),
            global_signal=data.mean(axis=1, dtype=np.float64),
        )
        runs.append(
            Run(
                subject=subject.name,
                run=plan.run,
                task=plan.task,
                tr_s=recipe.tr_s,
                matrix=data,
                mask=mask,
                events=_shown_events(plan),
                confounds=confounds,
                stimulus="n/a" if plan.reel is None else plan.reel,
                stimulus_start_s=plan.start_s,
                group=subject.group,
                space="MNI152NLin2009cAsym",
            )
        )
    return runs


def _add_noise(data: np.ndarray, rng: np.random.Generator, brain: Brain, recipe: Recipe) -> None:
    """Add drift, physiology, white and autoregressive noise of unit variance in all, in place."""
    for share, courses_and_maps in ((recipe.drift, drift), (recipe.physiology, physiology)):
        courses, maps = courses_and_maps(rng, brain, n_volumes=len(data), tr_s=recipe.tr_s)
        data += (share * courses @ maps).astype(np.float32)
    rest = np.sqrt(1 - recipe.drift**2 - recipe.physiology**2 - recipe.white**2)
    volumes = smooth_noise(rng, brain, recipe, n_volumes=len(data))
    for row, volume in zip(data, volumes, strict=True):
        row += rest * volume
        row += recipe.white * rng.standard_normal(len(row), dtype=np.float32)


def _shown_events(plan: RunPlan) -> pd.DataFrame:
    """What an experimenter would have logged: for a film its scenes, without any emotion."""
    events = plan.events.copy()
    if plan.reel == FILM:
        events["trial_type"] = "scene"
    return events.drop(columns="stimulus_s")


def describe_truth(world: World) -> dict[str, Any]:
    """The planted answer, ready for JSON."""
    recipe, brain = world.recipe, world.brain
    linear, interaction = recipe.strengths
    planted = {"linear": linear, "interaction": interaction, "decoy": recipe.decoy_isc}
    return {
        "parameters": recipe.as_dict(),
        "regions": [
            {
                "number": number + 1,
                "name": region.name,
                "role": region.role,
                "centre_mm": list(region.centre_mm),
                "n_voxels": len(brain.columns(number)),
            }
            for number, region in enumerate(brain.regions)
        ],
        "carries": {
            role: [region.name for region in brain.regions if region.role == role and strength]
            for role, strength in planted.items()
        },
        "classes": list(recipe.class_names),
        "segments_s": [list(segment) for segment in world.segments],
    }

"""A quick path to labelled samples of a few bare regions, for tests over many seeds."""

from typing import Any, Literal

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.samples import Samples
from emodecode.simulate.brain import make_patch
from emodecode.simulate.recipe import Recipe, make_recipe
from emodecode.simulate.signals import autoregressive
from emodecode.simulate.subjects import Subject, make_subject, subject_signal
from emodecode.simulate.world import FILM, RunPlan, event_at, make_world, seed_of


def simulate_samples(
    *,
    preset: str | None = None,
    average: Literal["block", "none"] = "block",
    lag_s: float = 5.0,
    **choices: Any,
) -> Samples:
    """Simulate labelled samples of a few bare regions: the same code, only AR(1) noise.

    Meant for tests over many seeds: no brain, drift, physiology or motion; voxels have noise of
    unit variance. The mask has one voxel per column; its region is
    ``column // n_region_voxels`` (1 and 2 interaction, 3 and 4 linear, 5 and 6 decoy).

    Parameters
    ----------
    preset, **choices
        As in :func:`emodecode.simulate.runs.simulate_runs`.
    average : {"block", "none"}
        One sample per block or scene (mean of its volumes), or one per volume.
    lag_s : float
        Haemodynamic lag of the labels.

    Returns
    -------
    Samples
        The volumes of a film run next to blocks (``film_volumes``) come with the label ``n/a``.

    Raises
    ------
    InputError
        An unknown or impossible parameter.
    """
    recipe = make_recipe(preset=preset, **choices)
    if average not in ("block", "none"):
        raise InputError(
            "simulation: average",
            found=f"average = {average!r}",
            expected="block or none",
            remedy="Correct it.",
        )
    world = make_world(recipe, make_patch(recipe))
    matrices, tables = [], []
    for number in range(recipe.n_subjects):
        subject = make_subject(world, number)
        for position, plan in enumerate(world.plans(number)):
            data = subject_signal(world, subject, plan, position=position)
            rng = np.random.default_rng(seed_of(recipe, 2, number, 4, position))
            data += autoregressive(rng, data.shape, rho=recipe.ar1, dtype=np.float32)
            table = _label(plan, subject, recipe, lag_s=lag_s)
            data = data[table["volume"]]
            if average == "block" and len(plan.events):
                data, table = _average_blocks(data, table)
            matrices.append(data)
            tables.append(table)
    history = {"operation": "simulate_samples", "average": average, "lag_s": lag_s}
    return Samples(
        X=np.concatenate(matrices).astype(np.float32),
        table=pd.DataFrame(
            {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        ),
        mask=world.brain.mask_image(),
        history=(history | {"recipe": recipe.as_dict()},),
    )


def _label(
    plan: RunPlan, subject: Subject, recipe: Recipe, *, lag_s: float
) -> dict[str, np.ndarray]:
    """Table columns of the labelled volumes of one run (of all, where it has no events)."""
    onset_s = np.arange(plan.n_volumes) * recipe.tr_s
    moment_s = onset_s - lag_s
    stimulus_s = np.full(plan.n_volumes, np.nan)
    label = np.full(plan.n_volumes, "n/a", dtype=object)
    block = label.copy()
    kept = np.ones(plan.n_volumes, dtype=bool)
    if plan.reel is not None:
        stimulus_s = moment_s + plan.start_s
    if len(plan.events):
        row = event_at(plan.events, moment_s)
        events = {name: plan.events[name].to_numpy()[row] for name in plan.events}
        label, block = events["trial_type"].astype(object), events["block"].astype(object)
        kept = (row >= 0) & (label != "n/a")
        if plan.reel is not None:
            stimulus_s = events["stimulus_s"] + moment_s - events["onset_s"]
    columns = {
        "subject": subject.name,
        "session": "n/a",
        "run": FILM if plan.task == FILM else plan.run,
        "volume": np.arange(plan.n_volumes),
        "onset_s": onset_s,
        "label": label,
        "stimulus": "n/a" if plan.reel is None else plan.reel,
        "stimulus_time_s": stimulus_s,
        "block": block,
        "agreement": np.nan,
        "group": subject.group,
    }
    return {
        name: np.broadcast_to(np.asarray(values), plan.n_volumes)[kept]
        for name, values in columns.items()
    }


def _average_blocks(
    data: np.ndarray, table: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Mean of the volumes of each block; its first volume stands for it in the table."""
    block = table["block"]
    first = np.flatnonzero(np.append(True, block[1:] != block[:-1]))
    size = np.diff(np.append(first, len(block)))
    short = {name: values[first] for name, values in table.items()}
    short["stimulus_time_s"] = np.add.reduceat(table["stimulus_time_s"], first) / size
    return np.add.reduceat(data, first, axis=0) / size[:, None], short

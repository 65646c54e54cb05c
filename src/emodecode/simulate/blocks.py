"""Block designs: which block when."""

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.simulate.recipe import Recipe

REST = "rest"


def block_events(recipe: Recipe, rng: np.random.Generator, *, run: int) -> pd.DataFrame:
    """Draw the blocks of one run: every class equally often, none twice in a row.

    Returns
    -------
    DataFrame
        ``onset_s duration_s trial_type block stim_file stimulus_s``. Each stimulus belongs to one
        class and one run; ``stimulus_s`` is its place on the common clock of all stimuli.

    Raises
    ------
    InputError
        When not even one block of each class fits into a run.
    """
    with_rest = REST in recipe.class_names
    shown = [name for name in recipe.class_names if name != REST]
    trial_s = (recipe.block_s + recipe.gap_s) * (2 if with_rest else 1)
    n_cycles = int(recipe.run_s / trial_s / len(shown))
    if n_cycles < 1:
        raise InputError(
            "simulation: n_volumes",
            found=f"runs of {recipe.run_s:g} s",
            expected=f"at least {trial_s * len(shown):g} s, one block of each class",
            remedy="Use more volumes, fewer classes or shorter blocks.",
        )
    order = _order(rng, n_cycles=n_cycles, n_classes=len(shown))
    spare_s = recipe.run_s - n_cycles * trial_s * len(shown)
    clock_s = spare_s / 2 // recipe.tr_s * recipe.tr_s
    pieces = {kind: list(rng.permutation(n_cycles)) for kind in range(len(shown))}
    rows = []
    for kind in order:
        if with_rest:
            rows.append((clock_s, REST, "n/a", np.nan))
            clock_s += recipe.block_s + recipe.gap_s
        piece = int(pieces[kind].pop())
        place = (run * n_cycles + piece) * len(shown) + kind
        name = f"{shown[kind]}_{run + 1}_{piece + 1:02d}"
        rows.append((clock_s, shown[kind], name, place * recipe.block_s))
        clock_s += recipe.block_s + recipe.gap_s
    events = pd.DataFrame(rows, columns=["onset_s", "trial_type", "stim_file", "stimulus_s"])
    events.insert(1, "duration_s", recipe.block_s)
    events["block"] = [f"{number:02d}" for number in range(1, len(events) + 1)]
    return events


def clock_length_s(recipe: Recipe) -> float:
    """Length of the common clock of all stimuli of a block design, seconds."""
    return recipe.run_s * recipe.n_runs


def _order(rng: np.random.Generator, *, n_cycles: int, n_classes: int) -> list[int]:
    order: list[int] = []
    for _ in range(n_cycles):
        cycle = rng.permutation(n_classes)
        while order and n_classes > 1 and cycle[0] == order[-1]:
            cycle = rng.permutation(n_classes)
        order.extend(int(kind) for kind in cycle)
    return order

"""Scenes: stretches of a stimulus with one label, and labels drawn anew for them."""

import numpy as np
import pandas as pd

from emodecode.evaluate.design import TOLERANCE_S, Design, read_design

SCENE_GAP = 3
"""A scene ends where more than so many volumes (or half seconds) of the stimulus are missing."""


def find_scenes(table: pd.DataFrame) -> np.ndarray:
    """Number the scenes, the same for everybody who saw them.

    On the clock of each stimulus, all subjects pooled, a scene ends where the label changes (that
    of most samples within one repetition time) or where time is missing. A stimulus without times
    is one scene. Samples without a stimulus are scenes by their scan, block and label.

    Returns
    -------
    ndarray of shape (n_samples,), int
        From 0.
    """
    design = read_design(table)
    timed = design.stimulus_axis().known
    named = ~timed & (design.stimulus.code >= 0)
    scene = np.full(design.n, -1, dtype=np.int64)
    if timed.any():
        scene[timed] = _stretches(design, timed)
    scene[named] = scene.max() + 1 + design.stimulus.code[named]
    other = ~timed & ~named
    own = design.block.code * len(design.label.names) + design.label.code
    scene[other] = scene.max() + 1 + own[other]
    return np.unique(scene, return_inverse=True)[1]


def scene_labels(table: pd.DataFrame, *, seed: int) -> np.ndarray:
    """Exchange the labels of all scenes; as many scenes as before have each label.

    Returns
    -------
    ndarray of shape (n_samples,), str
        The same for everybody who saw a scene, and nowhere in the data but for accidents.
    """
    design, scene = read_design(table), find_scenes(table)
    label = _majority(scene, design.label.code, len(design.label.names))
    drawn = np.random.default_rng(np.random.SeedSequence(seed)).permutation(label)
    return np.asarray(design.label.names)[drawn[scene]]


def _stretches(design: Design, timed: np.ndarray) -> np.ndarray:
    clock, moment = design.stimulus.code[timed], design.moment_s[timed]
    tick = np.floor((moment - moment.min() + TOLERANCE_S) / design.tolerance_s).astype(np.int64)
    key = clock * (tick.max() + SCENE_GAP + 1) + tick  # clocks lie farther apart than the gap
    ticks, where = np.unique(key, return_inverse=True)
    label = _majority(where, design.label.code[timed], len(design.label.names))
    new = (np.diff(label, prepend=label[0]) != 0) | (np.diff(ticks, prepend=ticks[0]) > SCENE_GAP)
    return np.cumsum(new)[where]


def _majority(group: np.ndarray, label: np.ndarray, n_classes: int) -> np.ndarray:
    counts = np.bincount(group * n_classes + label, minlength=(group.max() + 1) * n_classes)
    return counts.reshape(-1, n_classes).argmax(axis=1)

"""The film: scenes, segments shown in the runs, and observers who annotate emotions."""

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd

from emodecode.errors import InputError
from emodecode.simulate.recipe import Recipe

NEUTRAL_SHARE = 0.2
POSITIVE = ("HAPPINESS", "LOVE", "PRIDE", "HOPE", "ADMIRATION", "positive")
CALM = ("SADNESS", "LOVE", "neutral")
SCENE_COLUMNS = ("start_s", "end_s", "emotion")
CHARACTERS = ("HERO", "FRIEND", "RIVAL")
ON_CUES = ("FACE", "VERBAL", "FACE VERBAL", "GESTURE", "CONTEXT")
OFF_CUES = ("EMOFADED", "SCENEEND", "CHARLEFT", "EMOCHANGE")
ANNOTATION_COLUMNS = (
    *("start", "end", "character", "arousal", "valence", "direction", "emotion"),
    *("oncue", "offcue"),
)
FALSE_ALARM = 0.02
SECOND_LABEL = 0.05


@dataclass(frozen=True, eq=False)
class AnnotatedFilm:
    """A real film as observers have annotated it: its emotions are theirs.

    Parameters
    ----------
    episodes : DataFrame
        ``start_s end_s emotion`` on the film's clock, in the order of time, none overlaps another.
        Emotions that are no classes of the recipe evoke no code.
    observers : dict of DataFrame
        What each observer wrote down, in StudyForrest's columns; goes to ``annotations/`` as it is.

    Raises
    ------
    InputError
        A missing column, episodes that overlap, or none at all.
    """

    episodes: pd.DataFrame = field(repr=False)
    observers: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        missing = [name for name in SCENE_COLUMNS if name not in self.episodes]
        found = f"no column {', '.join(missing)}" if missing else ""
        if not found and self.episodes.empty:
            found = "no episode"
        if not found:
            start_s, end_s = (self.episodes[name].to_numpy() for name in SCENE_COLUMNS[:2])
            if (end_s <= start_s).any() or (start_s[1:] < end_s[:-1] - 1e-9).any():
                found = "episodes that overlap, are out of order or end before they start"
        if found:
            raise InputError(
                "simulation: episodes",
                found=found,
                expected=f"columns {', '.join(SCENE_COLUMNS)}, episodes one after the other",
                remedy="Take them from emodecode.label.episodes.find_episodes.",
            )


def segment_bounds(recipe: Recipe) -> list[tuple[float, float]]:
    """Start and end of each run's segment on the film's clock; neighbours overlap."""
    if recipe.segments_s is not None:
        return list(recipe.segments_s[: recipe.n_runs])
    step_s = recipe.run_s - recipe.overlap_s
    return [(run * step_s, run * step_s + recipe.run_s) for run in range(recipe.n_runs)]


def draw_scenes(
    recipe: Recipe, rng: np.random.Generator, segments: list[tuple[float, float]]
) -> pd.DataFrame:
    """Cut the film into scenes and give each an emotion.

    A scene ends in the middle of each overlap, as in StudyForrest. The labels of a segment are
    balanced; about a fifth of the scenes have none (``n/a``).

    Returns
    -------
    DataFrame
        ``start_s end_s emotion scene``
    """
    borders = [round((left[1] + right[0]) / 2) for left, right in pairwise(segments)]
    tables = []
    for start_s, end_s in pairwise([0.0, *borders, segments[-1][1]]):
        starts = _scene_starts(recipe, rng, start_s, end_s)
        table = pd.DataFrame({"start_s": starts, "end_s": [*starts[1:], end_s]})
        table["emotion"] = _scene_labels(recipe, rng, len(starts))
        tables.append(table)
    scenes = pd.concat(tables, ignore_index=True)
    scenes["scene"] = [f"scene_{number:03d}" for number in range(1, len(scenes) + 1)]
    return scenes


def lay_scenes(
    recipe: Recipe,
    rng: np.random.Generator,
    segments: list[tuple[float, float]],
    film: AnnotatedFilm,
) -> pd.DataFrame:
    """Scenes of a real film: its episodes, and scenes of drawn lengths (``n/a``) between them.

    Returns
    -------
    DataFrame
        As of :func:`draw_scenes`, from 0 s to the last volume.

    Raises
    ------
    InputError
        When no episode of a class is shown.
    """
    film_end_s = max(
        start + count_volumes(recipe, (start, end)) * recipe.tr_s for start, end in segments
    )
    rows: list[tuple[float, float, str]] = []
    clock_s = 0.0
    for start, end, emotion in film.episodes[list(SCENE_COLUMNS)].itertuples(index=False):
        start_s, end_s = float(np.clip(start, clock_s, film_end_s)), min(float(end), film_end_s)
        rows += _empty_scenes(recipe, rng, clock_s, start_s)
        if end_s > start_s:
            rows.append((start_s, end_s, str(emotion)))
        clock_s = max(clock_s, end_s)
    rows += _empty_scenes(recipe, rng, clock_s, film_end_s)
    scenes = pd.DataFrame(rows, columns=list(SCENE_COLUMNS))
    if not scenes["emotion"].isin(recipe.class_names).any():
        raise InputError(
            "simulation: classes",
            found=f"no episode of {', '.join(recipe.class_names)} in {film_end_s:g} s of film",
            expected="emotions that the annotations have: "
            + ", ".join(sorted(set(film.episodes["emotion"]))[:8]),
            remedy="Correct classes, or show more of the film (n_runs, segments_s).",
        )
    scenes["scene"] = [f"scene_{number:04d}" for number in range(1, len(scenes) + 1)]
    return scenes


def count_volumes(recipe: Recipe, segment: tuple[float, float]) -> int:
    """Volumes of the run that shows a segment."""
    if recipe.segments_s is None:
        return recipe.n_volumes
    return int(np.ceil((segment[1] - segment[0]) / recipe.tr_s - 1e-6))


def _empty_scenes(
    recipe: Recipe, rng: np.random.Generator, start_s: float, end_s: float
) -> list[tuple[float, float, str]]:
    if end_s <= start_s:
        return []
    starts = _scene_starts(recipe, rng, start_s, end_s)
    return [(start, stop, "n/a") for start, stop in pairwise([*starts, end_s])]


def _scene_starts(
    recipe: Recipe, rng: np.random.Generator, start_s: float, end_s: float
) -> list[float]:
    low, high = recipe.scene_s
    starts = [start_s]
    while True:
        following = starts[-1] + round(rng.uniform(low, high))
        if following > end_s - low:
            return starts
        starts.append(following)


def _scene_labels(recipe: Recipe, rng: np.random.Generator, n_scenes: int) -> list[str]:
    names = list(recipe.class_names)
    n_neutral = min(round(NEUTRAL_SHARE * n_scenes), max(0, n_scenes - len(names)))
    labels = ["n/a"] * n_neutral
    while len(labels) < n_scenes:
        labels.extend(names[kind] for kind in rng.permutation(len(names)))
    return [labels[n] for n in rng.permutation(n_scenes)]


def scene_events(scenes: pd.DataFrame, segment: tuple[float, float]) -> pd.DataFrame:
    """The scenes of one segment on the run's clock, in the columns of `block_events`."""
    start_s, end_s = segment
    shown = scenes[(scenes["end_s"] > start_s) & (scenes["start_s"] < end_s)]
    begin = shown["start_s"].clip(lower=start_s)
    return pd.DataFrame(
        {
            "onset_s": begin - start_s,
            "duration_s": shown["end_s"].clip(upper=end_s) - begin,
            "trial_type": shown["emotion"],
            "stim_file": shown["scene"],
            "stimulus_s": begin,
            "block": shown["scene"].str.removeprefix("scene_"),
        }
    ).reset_index(drop=True)


def observe(
    scenes: pd.DataFrame, recipe: Recipe, seeds: list[np.random.SeedSequence]
) -> dict[str, pd.DataFrame]:
    """Annotations of each observer in StudyForrest's format (whole seconds).

    Each observer misses some episodes, names another emotion for some, starts and ends them with
    jitter and sees a few that are not there.
    """
    return {
        f"obs{number:02d}": _watch(scenes, recipe, np.random.default_rng(seed))
        for number, seed in enumerate(seeds, start=1)
    }


def _watch(scenes: pd.DataFrame, recipe: Recipe, rng: np.random.Generator) -> pd.DataFrame:
    names = [name for name in recipe.class_names if name != "n/a"]
    film_end_s = float(scenes["end_s"].max())
    rows = []
    for scene in scenes.itertuples():
        true = str(scene.emotion)
        seen = _judge(true, names, recipe, rng)
        if seen is None:
            continue
        start_s, end_s = np.rint(
            np.array([scene.start_s, scene.end_s], dtype=float)
            + recipe.observer_jitter_s * rng.standard_normal(2)
        )
        start_s = float(np.clip(start_s, 0, film_end_s - 1))
        rows.append(
            (
                start_s,
                float(np.clip(end_s, start_s + 1, film_end_s)),
                str(rng.choice(CHARACTERS)),
                "LOW" if seen.split()[0] in CALM else "HIGH",
                "POS" if seen.split()[0] in POSITIVE else "NEG",
                str(rng.choice(["SELF", "OTHER"])),
                seen,
                str(rng.choice(ON_CUES)),
                str(rng.choice(OFF_CUES)),
            )
        )
    return pd.DataFrame(rows, columns=list(ANNOTATION_COLUMNS))


def _judge(true: str, names: list[str], recipe: Recipe, rng: np.random.Generator) -> str | None:
    if true == "n/a":
        return str(rng.choice(names)) if rng.random() < FALSE_ALARM else None
    if rng.random() < recipe.observer_miss:
        return None
    other = str(rng.choice([name for name in names if name != true]))
    if rng.random() < recipe.observer_confusion:
        return other
    return f"{true} {other}" if rng.random() < SECOND_LABEL else true

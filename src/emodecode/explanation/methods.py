"""Maps by other methods than occlusion: patterns of linear decoders, gradients of networks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline
from tqdm import tqdm

from emodecode.errors import InputError
from emodecode.explain.patterns import haufe_patterns
from emodecode.models.linear import linear_weights
from emodecode.models.rows import Rows

METHODS = ("occlusion", "haufe", "integrated_gradients", "grad_cam")
"""All methods that are compared, in the order of tables and pictures."""

Maps = dict[str, np.ndarray]
"""Method -> maps of shape (n_subjects, n_classes, n_voxels); NaN: no map."""


def fold_maps(
    fitted: Any,
    X: np.ndarray,
    table: pd.DataFrame,
    rows: np.ndarray,
    *,
    classes: Sequence[str],
    test: np.ndarray,
    per_class: int,
    n_steps: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Maps, list[str]]:
    """Return each held-out subject's map of each class, by every method that suits the decoder.

    Larger values speak for the class in every map, as a drop of its probability does.

    - ``haufe``, of linear decoders: ``A = cov(X_s) w / var(X_s w)`` with the fold's weights w of
      the class and the subject's own test samples X_s. Each output is taken by itself: the joint
      form divides by the outputs' covariance, which one-against-rest decoders (linear SVM) make
      nearly singular. Of two classes, which share one output, the first gets the negative.
    - ``integrated_gradients``, of networks: of the logit of a sample's own class, from 0 in what
      the network reads; mean over the subject's samples of the class.
    - ``grad_cam``, of 3-D networks: the same with Grad-CAM, what speaks against the class kept.

    Parameters
    ----------
    fitted : Pipeline or classifier
        Fitted on the fold's training samples.
    X : ndarray of shape (n_samples, n_voxels)
        Of the whole study; may be a memory map.
    table : DataFrame of n_samples rows
        With ``subject`` and ``label``.
    rows : ndarray of int
        Held-out samples that gradients are taken of.
    classes : sequence of str
        The study's.
    test : ndarray of int
        All samples that the fold held out.
    per_class : int
        Samples of each class and subject among `rows`, at most; drawn with `seed` if there are
        more.
    n_steps : int
        Of integrated gradients.
    seed : int
    progress : bool
        Show a bar.

    Returns
    -------
    maps : dict of method -> ndarray of shape (n_subjects, n_classes, n_voxels), float32
        The subjects of `fold_subjects`. NaN for a class that a subject or the decoder lacks.
    notes : list of str
        Which methods were left out, and why.

    References
    ----------
    Haufe et al. (2014), NeuroImage 87:96-110, equation 6. Sundararajan, Taly & Yan 2017, ICML,
    equation 1. Selvaraju et al. 2017, ICCV, equations 1 and 2.
    """
    subjects, names = fold_subjects(table, test), [str(name) for name in classes]
    weights, blocking = _weights_of(fitted)
    if weights is not None:
        order = [str(name) for name in fitted.classes_]
        found = _haufe(X, table, test, weights, order=order, classes=names, subjects=subjects)
        return {"haufe": found}, []
    if not _is_network(fitted):
        return {}, [
            "No other method than occlusion: this decoder is neither linear nor a network "
            f"({blocking})."
        ]
    if _asks_for_subjects(fitted):
        return {}, ["No gradient maps: the network reads voxels of each subject's own."]
    chosen = _choose(table, rows, per_class=per_class, seed=seed)
    known = set(map(str, fitted.classes_))
    maps, notes = {}, _baseline_notes(fitted)
    for method, explain in _gradients(fitted, n_steps).items():
        if isinstance(explain, str):
            notes.append(explain)
            continue
        given = (explain, X, table, chosen)
        bar = tqdm(subjects, desc=method, unit="subject", leave=False, disable=not progress)
        try:
            maps[method] = _class_means(*given, classes=names, known=known, subjects=bar)
        except InputError as error:
            way_out = f" {error.remedy}" if error.where == "installation" else ""
            notes.append(f"No {_words(method)}: {error.found}.{way_out}")
    return maps, notes


def fold_subjects(table: pd.DataFrame, test: np.ndarray) -> tuple[str, ...]:
    """Return the subjects of `fold_maps`, in its order: those held out, sorted."""
    return tuple(sorted(set(table["subject"].iloc[test].astype(str))))


def join_folds(
    parts: Sequence[tuple[Sequence[str], Maps]], *, subjects: Sequence[str], n_voxels: int
) -> Maps:
    """Put the maps of all folds together; of a subject held out in several folds their mean.

    Parameters
    ----------
    parts : sequence of (subjects, maps)
        From `fold_subjects` and `fold_maps`.
    subjects : sequence of str
        Whose maps are wanted, in that order; others are left out.
    n_voxels : int

    Returns
    -------
    dict of method -> ndarray of shape (n_subjects, n_classes, n_voxels), float32
        NaN where no fold has a map.
    """
    place = {who: number for number, who in enumerate(subjects)}
    joined: Maps = {}
    for method in METHODS:
        own = [(who, maps[method]) for who, maps in parts if method in maps]
        if not own:
            continue
        n_classes = own[0][1].shape[1]
        total = np.zeros((len(subjects), n_classes, n_voxels), dtype=np.float32)
        count = np.zeros((len(subjects), n_classes, 1), dtype=np.float32)
        for names, maps in own:
            for who, values in zip(names, maps, strict=True):
                if who not in place:
                    continue
                there = np.isfinite(values).all(axis=-1)
                total[place[who], there] += values[there]
                count[place[who], there] += 1
        joined[method] = np.where(count > 0, total / np.maximum(count, 1), np.float32(np.nan))
    return joined


def _weights_of(fitted: Any) -> tuple[np.ndarray | None, str]:
    """Weights of a linear decoder, or what is not linear in it."""
    if not isinstance(fitted, Pipeline):
        return None, type(fitted).__name__
    try:
        return linear_weights(fitted)[0], ""
    except InputError:
        return None, type(fitted.steps[-1][1]).__name__


def _haufe(
    X: np.ndarray,
    table: pd.DataFrame,
    test: np.ndarray,
    weights: np.ndarray,
    *,
    order: list[str],
    classes: list[str],
    subjects: tuple[str, ...],
) -> np.ndarray:
    found = np.full((len(subjects), len(classes), X.shape[1]), np.nan, dtype=np.float32)
    who, label = (table[name].iloc[test].to_numpy(dtype=str) for name in ("subject", "label"))
    for place, subject in enumerate(subjects):
        own = who == subject
        if own.sum() < 2:
            continue
        samples = X[test[own]]
        patterns = haufe_patterns(samples, weights, jointly=False)
        if len(patterns) == 1:
            patterns = np.concatenate([-patterns, patterns])
        for name, pattern in zip(order, patterns, strict=True):
            if name in classes and name in label[own]:
                found[place, classes.index(name)] = pattern
    return found


def _steps(fitted: Any) -> list[Any]:
    return [step for _, step in fitted.steps] if isinstance(fitted, Pipeline) else [fitted]


def _is_network(fitted: Any) -> bool:
    """Whether its last step is a network; without the networks' library installed it is not."""
    return hasattr(_steps(fitted)[-1], "modules_")


def _asks_for_subjects(fitted: Any) -> bool:
    return any(isinstance(getattr(step, "indices_", None), dict) for step in _steps(fitted))


def _choose(table: pd.DataFrame, rows: np.ndarray, *, per_class: int, seed: int) -> np.ndarray:
    """Up to `per_class` samples of each class and subject among the rows."""
    rng, rows = np.random.default_rng(seed), np.asarray(rows)
    groups = table.iloc[rows].groupby(["subject", "label"], sort=True).indices
    chosen = [rng.permutation(rows[places])[:per_class] for places in groups.values()]
    return np.sort(np.concatenate(chosen))


Explain = Callable[[Rows, np.ndarray], np.ndarray]


def _gradients(fitted: Any, n_steps: int) -> dict[str, Explain | str]:
    """What makes the map of each method: from rows and their classes; or why it is not made."""
    from emodecode.explain.gradients import grad_cam, integrated_gradients
    from emodecode.models.volumenet import VolumeNetClassifier

    def by_integral(given: Rows, target: np.ndarray) -> np.ndarray:
        return integrated_gradients(fitted, given, target=target, n_steps=n_steps)

    def by_cam(given: Rows, target: np.ndarray) -> np.ndarray:
        return grad_cam(fitted, given, target=target, relu=False)

    of_volumes = isinstance(_steps(fitted)[-1], VolumeNetClassifier)
    cam: Explain | str = by_cam if of_volumes else "No Grad-CAM: it needs a 3-D network."
    return {"integrated_gradients": by_integral, "grad_cam": cam}


def _class_means(
    explain: Explain,
    X: np.ndarray,
    table: pd.DataFrame,
    chosen: np.ndarray,
    *,
    classes: list[str],
    known: set[str],
    subjects: Any,
) -> np.ndarray:
    """Mean map over the samples of each class of each subject."""
    who, label = (table[name].iloc[chosen].to_numpy(dtype=str) for name in ("subject", "label"))
    means = []
    for subject in subjects:
        mean = np.full((len(classes), X.shape[1]), np.nan, dtype=np.float32)
        own = np.flatnonzero((who == subject) & np.isin(label, [*known.intersection(classes)]))
        values = explain(Rows(X, chosen[own]), label[own]) if len(own) else np.empty((0, 1))
        for name in set(label[own]):
            here = values[label[own] == name]
            mean[classes.index(name)] = here.mean(axis=0, dtype=np.float64)
        means.append(mean)
    return np.array(means)


def _baseline_notes(fitted: Any) -> list[str]:
    """What 0 is, where it is not each voxel's training mean."""
    *front, last = _steps(fitted)
    how = getattr(last, "normalise", None)
    if how == "voxel" or any(hasattr(step, "mean_") for step in front):
        return []
    if how == "volume":
        return ["Integrated gradients start from a volume that is its own mean everywhere."]
    return [
        "Integrated gradients start from zeros: the decoder does not standardise its input, so "
        "they are the training mean only if the data were standardised before."
    ]


def _words(method: str) -> str:
    return {"integrated_gradients": "integrated gradients", "grad_cam": "Grad-CAM"}[method]

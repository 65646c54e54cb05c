"""Sanity of maps: do they hang on weights and labels, lie in the brain, survive other settings?

A map that fails a check is labelled so wherever it is shown. The limits are conventions, named
below with their reasons; every check reports its value beside the limit.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage
from sklearn.pipeline import Pipeline

from emodecode.errors import InputError
from emodecode.explain.agreement import agreement, as_rows, similarity
from emodecode.explain.perturb import Comparison

ALIKE = 0.5
"""|Spearman| from which two maps count as alike: a quarter of the variance of ranks is shared."""
OUTSIDE = 1.0
"""Mass outside the brain over that of an even map: no signal is there, so less is expected."""
AT_EDGE = 1.5
"""The same for the outermost voxels, where cortex lies, so that some excess is no artefact."""
ALPHA = 0.05
LEAST_PERMUTED = 19
"""Fewer permuted labellings than these cannot give p = .05."""

Explain = Callable[[Any], np.ndarray]
"""A fitted decoder -> its map ``(n_features,)`` or ``(n_classes, n_features)``."""


@dataclass(frozen=True, eq=False)
class Check:
    """One check of a map.

    Parameters
    ----------
    name : str
    value : float
        What was measured.
    expected : str
        What it should be.
    passed : bool
    sentence : str
        For the report.
    details : dict of str -> float
        What `value` was made from.
    """

    name: str
    value: float
    expected: str
    passed: bool
    sentence: str
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SanityReport:
    """All checks of a map."""

    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[str]:
        """Names of the checks that failed."""
        return [check.name for check in self.checks if not check.passed]

    @property
    def passed(self) -> bool:
        """Whether there were checks, and all passed."""
        return bool(self.checks) and not self.failed

    @property
    def sentence(self) -> str:
        """The label that the map carries."""
        if not self.checks:
            return "This map has not been checked."
        if self.passed:
            return f"This map passed {len(self.checks)} of {len(self.checks)} checks."
        failed = ", ".join(self.failed)
        return f"THIS MAP FAILED {len(self.failed)} of {len(self.checks)} checks: {failed}."

    def to_table(self) -> pd.DataFrame:
        """Return one row a check: ``check value expected passed sentence``."""
        rows = [(c.name, c.value, c.expected, c.passed, c.sentence) for c in self.checks]
        return pd.DataFrame(rows, columns=["check", "value", "expected", "passed", "sentence"])


def randomised(classifier: Any, *, seed: int, n_layers: int | None = None) -> Any:
    """Return a copy of a fitted decoder with weights drawn anew, from the output backwards.

    Kernels are drawn from a normal distribution with their own root mean square, so that what comes
    after stays in its range; biases and gains keep their values in another order. What
    standardises the data (statistics of batch normalisation, the scaler) stays.

    Parameters
    ----------
    classifier : fitted decoder
        A network of ours, a linear decoder, or a pipeline that ends with one.
    seed : int
    n_layers : int, optional
        Only so many layers, the output first (in the order in which the network lists them); the
        same seed draws the same weights for them. None: all.

    Raises
    ------
    InputError
        A decoder that has no weights.

    References
    ----------
    Adebayo et al. 2018, NeurIPS, "Sanity checks for saliency maps", section 3.
    """
    if isinstance(classifier, Pipeline):
        *front, (name, last) = classifier.steps
        return Pipeline([*front, (name, randomised(last, seed=seed, n_layers=n_layers))])
    layers_of(classifier)  # refuses what has none
    copy = deepcopy(classifier)
    if not hasattr(copy, "modules_"):
        rng = np.random.default_rng(np.random.SeedSequence(seed).spawn(1)[0])
        if n_layers is None or n_layers > 0:
            copy.coef_ = _drawn(np.asarray(copy.coef_), rng)
        return copy
    sources = np.random.SeedSequence(seed).spawn(len(copy.modules_))
    for module, source in zip(copy.modules_, sources, strict=True):
        names = _layers(module)[:n_layers]
        for layer, child in zip(names, source.spawn(len(names)), strict=True):
            _draw_layer(module.get_submodule(layer), np.random.default_rng(child))
    if hasattr(copy, "inference_"):
        copy.inference_ = [
            module.collapse() if hasattr(module, "collapse") else module for module in copy.modules_
        ]
    return copy


def layers_of(classifier: Any) -> list[str]:
    """Return the layers that have weights, the output first; of a linear decoder ``["coef_"]``."""
    last = classifier.steps[-1][1] if isinstance(classifier, Pipeline) else classifier
    if hasattr(last, "modules_"):
        return _layers(last.modules_[0])
    if hasattr(last, "coef_"):
        return ["coef_"]
    raise _bad(
        f"a decoder without weights to draw ({type(last).__name__})",
        "a fitted network or a linear decoder",
        "Check maps of this decoder with permuted labels and deletion curves.",
    )


def cascade(explain: Explain, classifier: Any, *, seed: int = 0) -> pd.DataFrame:
    """Draw one more layer anew at a time, from the output, and compare the maps.

    Returns
    -------
    DataFrame
        ``n_layers layer similarity``: layers drawn so far, the last of them, |Spearman| with the
        map of the trained network (0 where the map has become constant).
    """
    layers = layers_of(classifier)
    own = _varying(explain(classifier))
    rows = []
    for number, layer in enumerate(layers, start=1):
        drawn = explain(randomised(classifier, seed=seed, n_layers=number))
        rows.append((number, layer, _or_zero(similarity(own, drawn))))
    return pd.DataFrame(rows, columns=["n_layers", "layer", "similarity"])


def check_weights(
    explain: Explain, classifier: Any, *, n_draws: int = 5, seed: int = 0, limit: float = ALIKE
) -> Check:
    """Check that the map changes when all weights are drawn anew.

    A map that stays the same shows the data or the network's shape, not what was learned.

    Parameters
    ----------
    explain : callable
        A fitted decoder -> its map.
    classifier : fitted decoder
        See `randomised`.
    n_draws : int
        The mean |Spearman| over so many draws is compared with the limit: smooth maps have few
        independent values, and single draws may be alike by accident.
    limit : float
    """
    if n_draws < 1:
        raise _bad(f"{n_draws} draws of weights", "1 or more", "Take 5.")
    own = _varying(explain(classifier))
    alike = [
        _or_zero(similarity(own, explain(randomised(classifier, seed=seed + draw))))
        for draw in range(n_draws)
    ]
    value = float(np.mean(alike))
    verb = "changes" if value < limit else "hardly changes"
    return Check(
        name="random weights",
        value=value,
        expected=f"mean |Spearman| < {limit:g}",
        passed=value < limit,
        sentence=f"With random weights the map {verb} (mean |Spearman| {value:.2f}, "
        f"{n_draws} draws).",
        details={f"draw {number}": each for number, each in enumerate(alike, start=1)},
    )


def peak(values: np.ndarray) -> float:
    """Return the largest absolute value in units of the map's root mean square."""
    return float(np.abs(values).max() / np.sqrt(np.mean(np.square(values))))


def check_labels(
    explain: Explain,
    fit: Callable[[np.ndarray], Any],
    labels: np.ndarray,
    permuted: Sequence[np.ndarray],
    *,
    statistic: Callable[[np.ndarray], float] | None = None,
    alpha: float = ALPHA,
    limit: float = ALIKE,
) -> Check:
    """Check the map against those of decoders that were trained on permuted labels.

    It passes if it is unlike them (mean |Spearman| under `limit`) and stands out from them:
    ``p = (b + 1) / (m + 1)`` with b the permuted labellings whose map has a statistic at least as
    large. Being unlike is not enough: maps of two meaningless decoders are unlike as well.

    Parameters
    ----------
    explain : callable
        A fitted decoder -> its map, best on samples that no decoder is trained on.
    fit : callable
        Labels ``(n_samples,)`` -> fitted decoder.
    labels : ndarray of shape (n_samples,)
    permuted : sequence of ndarray of shape (n_samples,)
        At least 19. Exchange whole blocks within runs, as `emodecode.evaluate.exchange` draws them:
        single volumes are not exchangeable.
    statistic : callable, optional
        Map -> number, large for a map that means something. None: the largest absolute value,
        which suits drops by occlusion and integrated gradients, whose unit is the prediction's.
        Haufe patterns have another unit in every decoder: take `peak`.
    alpha, limit : float

    Raises
    ------
    InputError
        Too few permuted labellings, another length, one that equals the labels.

    References
    ----------
    Adebayo et al. 2018, NeurIPS, section 4. Phipson & Smyth 2010, Statistical Applications in
    Genetics and Molecular Biology 9:39.
    """
    labels = np.asarray(labels)
    others = [np.asarray(each) for each in permuted]
    if len(others) < LEAST_PERMUTED or any(each.shape != labels.shape for each in others):
        raise _bad(
            f"{len(others)} permuted labellings for {labels.shape} labels",
            f"{LEAST_PERMUTED} or more, each of the same shape",
            "Draw them with emodecode.evaluate.exchange.permuted_labels.",
        )
    if all((each == labels).all() for each in others):
        raise _bad(
            "permuted labellings that equal the labels",
            "labels that were exchanged",
            "Exchange labels of whole blocks; with one block a class nothing can be exchanged.",
        )
    measure = statistic or (lambda values: float(np.abs(values).max()))
    own = _varying(explain(fit(labels)))
    maps = [np.asarray(explain(fit(each))) for each in others]
    alike = float(np.mean([_or_zero(similarity(own, each)) for each in maps]))
    strength, null = measure(own), np.array([measure(each) for each in maps])
    p = float(((null >= strength - 1e-12 * abs(strength)).sum() + 1) / (len(maps) + 1))
    passed = p <= alpha and alike < limit
    verb = "stands out from" if passed else "is not told apart from"
    return Check(
        name="random labels",
        value=p,
        expected=f"p <= {alpha:g} and mean |Spearman| < {limit:g}",
        passed=passed,
        sentence=f"The map {verb} those of {len(maps)} decoders trained on permuted labels "
        f"(p = {p:.3g}, mean |Spearman| {alike:.2f}).",
        details={
            "p": p,
            "similarity": alike,
            "statistic": float(strength),
            "null_mean": float(null.mean()),
        },
    )


def check_outside(
    values: np.ndarray, *, mask: np.ndarray, brain: np.ndarray, limit: float = OUTSIDE
) -> Check:
    """Check that the map does not lie outside the brain.

    The share of the absolute mass outside is divided by the share of voxels outside: 1 for a map
    that is even, 0 for one inside the brain alone.

    Parameters
    ----------
    values : ndarray of shape (n_features,) or (n_classes, n_features)
    mask : ndarray of bool, shape (x, y, z)
        Its True voxels are the features, in C order.
    brain : ndarray of bool, shape (x, y, z)
        A mask of the brain on the same grid.
    limit : float
    """
    mask = _checked_mask(values, mask)
    if np.shape(brain) != mask.shape or not np.asarray(brain)[mask].any():
        raise _bad(
            f"a brain mask of shape {np.shape(brain)} for a mask of shape {mask.shape}",
            "the same grid, and voxels in common",
            "Resample the brain mask to the grid of the samples.",
        )
    outside = ~(np.asarray(brain) != 0)[mask]
    mass, voxels, ratio = _shares(values, outside)
    passed = ratio <= limit
    return Check(
        name="outside the brain",
        value=ratio,
        expected=f"mass / voxels outside <= {limit:g}",
        passed=passed,
        sentence=f"{mass:.1%} of the map's absolute mass lies outside the brain, where {voxels:.1%}"
        " of its voxels are.",
        details={"mass": mass, "voxels": voxels},
    )


def check_edge(values: np.ndarray, *, mask: np.ndarray, limit: float = AT_EDGE) -> Check:
    """Check that the map is not concentrated in the outermost voxels of its mask.

    The outermost voxels are those that an erosion by one voxel (6 neighbours) takes away, the
    border of the volume included. Beside it, for each side of the volume, the voxels that nothing
    of the mask lies beyond; the worst side is named. S1 suspected such a plane at low i in its
    maps.

    Parameters
    ----------
    values, mask
        See `check_outside`.
    limit : float
        Of mass share over voxel share.
    """
    mask = _checked_mask(values, mask)
    shell = mask & ~ndimage.binary_erosion(mask)
    mass, voxels, ratio = _shares(values, shell[mask])
    sides = {name: _shares(values, side[mask])[2] for name, side in _sides(mask)}
    worst = max(sides, key=sides.__getitem__)
    return Check(
        name="edge",
        value=ratio,
        expected=f"mass / voxels in the outermost voxels <= {limit:g}",
        passed=ratio <= limit,
        sentence=f"{mass:.1%} of the map's absolute mass lies in the outermost voxels, which are "
        f"{voxels:.1%} of all; at {worst} it is {sides[worst]:.1f} times what an even map has.",
        details={"mass": mass, "voxels": voxels} | sides,
    )


def check_settings(maps: dict[str, np.ndarray], *, limit: float = ALIKE) -> Check:
    """Check that the map stays the same under other fills and box sizes.

    Parameters
    ----------
    maps : dict of name -> map
        One map a setting (``"zero, 2 voxels"``), two or more.
    limit : float
        The lowest Spearman correlation of two settings must reach it.
    """
    table = agreement(maps)
    found: np.ndarray = table["over_voxels"].to_numpy(dtype=float)
    if np.isnan(found).any():
        raise _bad(
            "a map that is constant",
            "maps that vary",
            "Look at how it was computed: with some setting nothing changes the prediction.",
        )
    pairs = [f"{one} / {other}" for one, other in zip(table["first"], table["second"], strict=True)]
    at = int(found.argmin())
    value = float(found[at])
    return Check(
        name="settings",
        value=value,
        expected=f"lowest Spearman >= {limit:g}",
        passed=value >= limit,
        sentence=f"Between settings the map agrees with Spearman {value:.2f} to {found.max():.2f}; "
        f"the least alike are {pairs[at]}.",
        details=dict(zip(pairs, found.tolist(), strict=True)),
    )


def check_removal(comparison: Comparison, *, alpha: float = ALPHA) -> Check:
    """Check that removing what the map names first hurts more than removing at random.

    Parameters
    ----------
    comparison : Comparison
        From `emodecode.explain.perturb.compare_with_random`, on held-out samples.
    alpha : float
    """
    own, inverted = comparison.curve, comparison.inverted
    ahead = own.area < inverted.area if own.kind == "deletion" else own.area > inverted.area
    return Check(
        name=own.kind,
        value=comparison.p,
        expected=f"p <= {alpha:g} against random orders, and better than the inverted order",
        passed=bool(comparison.p <= alpha and ahead),
        sentence=f"{comparison.sentence[0].upper()}{comparison.sentence[1:]}.",
        details={
            "area": own.area,
            "random": float(comparison.random_areas.mean()),
            "inverted": inverted.area,
        },
    )


def _varying(values: np.ndarray) -> np.ndarray:
    (rows,) = as_rows(values)
    if (np.ptp(rows, axis=1) == 0).any():
        raise _bad(
            "a map that is constant",
            "a map that varies over voxels",
            "Look at how it was computed: the decoder's output may not depend on its input.",
        )
    return rows if np.ndim(values) == 2 else rows[0]


def _or_zero(value: float) -> float:
    """A map that has become constant is unlike any other."""
    return 0.0 if np.isnan(value) else value


def _layers(module: Any) -> list[str]:
    """Modules with weights of their own, the last first."""
    own = [
        name
        for name, part in module.named_modules()
        if any(weight.numel() for weight in part.parameters(recurse=False))
    ]
    return own[::-1]


def _draw_layer(layer: Any, rng: np.random.Generator) -> None:
    for weight in layer.parameters(recurse=False):
        drawn = _drawn(weight.detach().cpu().double().numpy(), rng)
        weight.data.copy_(weight.data.new_tensor(drawn))


def _drawn(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if weight.ndim < 2:
        return rng.permutation(weight)
    size = np.sqrt((weight**2).mean()) or np.prod(weight.shape[1:]) ** -0.5
    return size * rng.standard_normal(weight.shape)


def _sides(mask: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """For each side of the volume the voxels of the mask that none lies beyond."""
    for axis, letter in enumerate("ijk"):
        for name, step in (("low", 1), ("high", -1)):
            turned = np.flip(mask, axis) if step < 0 else mask
            first = turned & (np.cumsum(turned, axis=axis) == 1)
            yield f"{name} {letter}", np.flip(first, axis) if step < 0 else first


def _checked_mask(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    (rows,) = as_rows(values)
    inside = np.asarray(mask) != 0
    if inside.ndim != 3 or int(inside.sum()) != rows.shape[1] or not rows.any():
        raise _bad(
            f"a map of {rows.shape[1]} voxels ({np.count_nonzero(rows)} values not 0) and a mask "
            f"of shape {inside.shape} with {int(inside.sum())}",
            "a map that is not 0, in the voxels of a 3-D mask",
            "Pass the mask that the samples were extracted with.",
        )
    return inside


def _shares(values: np.ndarray, where: np.ndarray) -> tuple[float, float, float]:
    """Share of the absolute mass and of the voxels somewhere, and their ratio (0 of none)."""
    mass = np.abs(np.atleast_2d(values)).sum(axis=0)
    own, voxels = float(mass[where].sum() / mass.sum()), float(where.mean())
    return own, voxels, own / voxels if voxels else 0.0


def _bad(found: str, expected: str, remedy: str) -> InputError:
    return InputError("sanity of a map", found=found, expected=expected, remedy=remedy)

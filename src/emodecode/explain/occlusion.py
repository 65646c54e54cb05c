"""Occlusion: how the probabilities change when a part of the brain is taken away."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from joblib import Parallel, delayed
from sklearn.pipeline import Pipeline
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from emodecode.errors import InputError
from emodecode.explain.fills import make_fill
from emodecode.explain.incremental import Plan
from emodecode.explain.units import Units, triple
from emodecode.models.linear import as_probabilities, linear_weights
from emodecode.models.members import resolve_device

_BATCH_BYTES = 2**26
"""Of changed samples that are decoded together where there is no quicker way."""


def occlude(
    module: nn.Module,
    volume: "torch.Tensor | np.ndarray",
    *,
    box_vox: int | Sequence[int] = 2,
    stride_vox: int | Sequence[int] = 2,
    fill: float = 0.0,
    n_jobs: int = 1,
) -> "torch.Tensor | np.ndarray":
    """Return the logits of a volume with each box of a grid replaced by one value.

    Exact: the same as one forward pass a box, up to rounding, and for networks whose receptive
    field grows slowly a thousand times faster (`emodecode.explain.incremental`).

    Parameters
    ----------
    module : Module
        In eval mode: volumes ``(batch, 1, x, y, z)`` -> logits ``(batch, n_classes)``.
    volume : Tensor or ndarray of shape (x, y, z)
    box_vox, stride_vox : int or (int, int, int)
        Size of the boxes and distance of their first voxels; the grid starts at voxel 0 and holds
        every box that fits.
    fill : float
    n_jobs : int
        Processes, of one thread each.

    Returns
    -------
    Tensor or ndarray of shape (n_x, n_y, n_z, n_classes), as the volume is

    Raises
    ------
    InputError
        A module in training mode, a volume with other axes or values that are not finite, a box
        larger than the volume.
    """
    given = torch.as_tensor(volume)
    box, stride = triple(box_vox, "box_vox"), triple(stride_vox, "stride_vox")
    _check(module, given, box)
    like = next(module.parameters(), torch.empty(0))
    given = given.to(like.device, like.dtype)
    counts = [(n - b) // s + 1 for n, b, s in zip(given.shape, box, stride, strict=True)]
    start = np.indices(counts).reshape(3, -1).T * np.array(stride)
    plan = Plan(module, triple(list(given.shape), "volume"), box)
    if plan.stuck:
        warnings.warn(
            "differences cannot be carried through this network: every box is a forward pass",
            stacklevel=2,
        )
    parts = np.array_split(start, max(1, min(n_jobs, len(start))))
    if len(parts) == 1:
        found = [_occlude_boxes(plan, given, start, box, fill)]
    else:
        found = Parallel(n_jobs=len(parts))(
            delayed(_plan_and_occlude)(module, given, part, box, fill) for part in parts
        )
    logits = torch.cat(found).view(*counts, -1)
    return logits if isinstance(volume, torch.Tensor) else logits.cpu().numpy()


@dataclass(frozen=True, eq=False)
class Occlusion:
    """Probabilities of samples as they are, and with each unit occluded.

    Parameters
    ----------
    given : ndarray of shape (n_samples, n_classes)
    occluded : ndarray of shape (n_samples, n_units, n_classes)
        Means over the draws of the fill.
    units : Units
    classes : tuple of str
    fill : str
    way : {"incremental", "closed form", "batched"}
        How it was computed; all are exact.
    """

    given: np.ndarray
    occluded: np.ndarray
    units: Units
    classes: tuple[str, ...]
    fill: str
    way: str

    @property
    def drops(self) -> np.ndarray:
        """What each probability loses, (n_samples, n_units, n_classes)."""
        return self.given[:, None] - self.occluded

    def drop_of(self, labels: Sequence) -> np.ndarray:
        """Return the drop of each sample's own class, (n_samples, n_units)."""
        number = {name: k for k, name in enumerate(self.classes)}
        which = np.array([number[str(each)] for each in labels])
        return self.drops[np.arange(len(which)), :, which]


def occlude_samples(
    fitted: Pipeline,
    X: np.ndarray,
    *,
    units: Units,
    fill: str = "conditional",
    labels: Sequence | None = None,
    subjects: Sequence | None = None,
    reference: np.ndarray | None = None,
    donors: "tuple[np.ndarray, Sequence, Sequence] | None" = None,
    n_draws: int = 4,
    seed: int = 0,
    asked: dict[str, Any] | None = None,
    progress: bool = False,
) -> Occlusion:
    """Occlude each unit in each sample and decode what is left.

    Linear decoders are explained in closed form, networks on volumes by the differences that reach
    their logits, whatever else by decoding every changed sample.

    Parameters
    ----------
    fitted : Pipeline
    X : ndarray of shape (n_samples, n_features)
    units : Units
    fill, labels, subjects, reference, donors, n_draws, seed
        See `emodecode.explain.fills.make_fill`.
    asked : dict, optional
        What ``predict_proba`` asks for beside the samples (``subjects``), one value a sample.
    progress : bool
        Show a bar.

    Raises
    ------
    InputError
        Units of other columns, or what `make_fill` refuses.
    """
    X = np.asarray(X)
    if units.n_features != X.shape[1]:
        raise InputError(
            "units",
            found=f"sets of {units.n_features} columns for samples of {X.shape[1]}",
            expected="sets of the samples' own columns",
            remedy="Make the units from the mask that the samples were read with.",
        )
    fills = make_fill(
        fill,
        X,
        labels=labels,
        subjects=subjects,
        reference=reference,
        donors=donors,
        n_draws=n_draws,
        seed=seed,
    )
    way, explain = _way(fitted, units, asked)
    occluded = np.zeros((len(X), len(units), len(fitted.classes_)))
    given = np.empty((len(X), len(fitted.classes_)))
    bar = tqdm(
        total=len(fills) * len(X),
        desc="occlusion",
        unit="volume",
        leave=False,
        disable=not progress,
    )
    with bar, one_thread(), full_precision():
        for number in range(len(X)):
            for each in fills:
                given[number], found = explain(X[number], each[number], number)
                occluded[number] += found / len(fills)
                bar.update()
    classes = tuple(str(each) for each in fitted.classes_)
    return Occlusion(given, occluded, units, classes, fill, way)


def _way(fitted: Pipeline, units: Units, asked: dict[str, Any] | None) -> tuple[str, Any]:
    """Choose how changed samples are decoded: ``explain(x, fill, number) -> given, occluded``."""
    try:
        weights = linear_weights(fitted)
    except InputError:
        pass
    else:
        if not asked:
            return "closed form", _Linear(weights, units)
    network = fitted.steps[-1][1]
    volumes = len(fitted.steps) == 1 and getattr(network, "reads_rows", False)
    # where each volume is standardised by itself, a change reaches all of its voxels
    if volumes and not network.window and network.normalise != "volume":
        explain = _Network(network, units)
        return ("batched" if explain.plans[0].stuck else "incremental"), explain
    return "batched", _Batched(fitted, units, asked or {})


class _Linear:
    def __init__(self, weights: tuple[np.ndarray, np.ndarray], units: Units) -> None:
        self.coef, self.intercept = weights
        self.member = units.membership

    def __call__(self, x: np.ndarray, fill: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray]:
        x = x.astype(np.float64)
        base = self.coef @ x + self.intercept
        moved = self.member.T @ ((fill - x) * self.coef).T  # (n_units, n_outputs)
        scores = np.vstack([base, base + moved])
        found = as_probabilities(scores[:, 0] if scores.shape[1] == 1 else scores)
        return found[0], found[1:]


class _Batched:
    def __init__(self, fitted: Pipeline, units: Units, asked: dict[str, Any]) -> None:
        self.fitted, self.units, self.asked = fitted, units, asked
        self.step = max(1, _BATCH_BYTES // (4 * units.n_features))

    def __call__(
        self, x: np.ndarray, fill: np.ndarray, number: int
    ) -> tuple[np.ndarray, np.ndarray]:
        found = [self._decode(x[None], number)]
        for start in range(0, len(self.units), self.step):
            columns = self.units.columns[start : start + self.step]
            changed = np.repeat(x[None], len(columns), axis=0)
            for row, own in zip(changed, columns, strict=True):
                row[own] = fill[own]
            found.append(self._decode(changed, number))
        return found[0][0], np.concatenate(found[1:])

    def _decode(self, X: np.ndarray, number: int) -> np.ndarray:
        own = {key: np.repeat(value[number : number + 1], len(X), axis=0)
               for key, value in self.asked.items()}  # fmt: skip
        with sklearn.config_context(enable_metadata_routing=True):
            return self.fitted.predict_proba(X, **own)


class _Network:
    """Changes of volumes followed through each of a classifier's networks."""

    def __init__(self, classifier: Any, units: Units) -> None:
        self.classifier = classifier
        self.device = resolve_device(classifier.device)
        self.module = classifier.modules_[0].to(self.device)
        self.shape = self.module.shape
        self.groups = list(_by_size(units, np.asarray(classifier.mask) != 0))
        self.n_units = len(units)
        common = max(self.groups, key=lambda each: len(each[1]))[0]
        self.plans = [
            Plan(module.to(self.device).network, self.shape, common)
            for module in classifier.modules_
        ]

    def __call__(self, x: np.ndarray, fill: np.ndarray, _: int) -> tuple[np.ndarray, np.ndarray]:
        given, found = [], []
        for module, plan in zip(self.classifier.modules_, self.plans, strict=True):
            with torch.no_grad():
                rows = torch.from_numpy(np.stack([x, fill]).astype(np.float32))
                both = module.to_volumes(rows.to(self.device))
            followed = plan.open(both[0, 0])
            change = both[1, 0] - both[0, 0]
            logits = torch.empty(self.n_units, len(followed.logits))
            for size, which, start, inside in self.groups:
                boxes = _boxes(change, start, size) * torch.from_numpy(inside).to(self.device)
                logits[which] = followed.run(start, boxes).cpu()
            given.append(torch.softmax(followed.logits, dim=0).cpu().numpy())
            found.append(torch.softmax(logits, dim=1).numpy())
        return np.mean(given, axis=0), np.mean(found, axis=0)


def _by_size(
    units: Units, mask: np.ndarray
) -> Iterator[tuple[tuple[int, int, int], np.ndarray, np.ndarray, np.ndarray]]:
    """Yield size, unit numbers, starts and insides of the boxes around units, size by size."""
    voxels = np.argwhere(mask)
    start = np.array([voxels[own].min(axis=0) for own in units.columns])
    sizes = np.array([voxels[own].max(axis=0) + 1 for own in units.columns]) - start
    for size in np.unique(sizes, axis=0):
        which = np.flatnonzero((sizes == size).all(axis=1))
        inside = np.zeros((len(which), *size), dtype=np.float32)
        for row, number in enumerate(which):
            x, y, z = (voxels[units.columns[number]] - start[number]).T
            inside[row, x, y, z] = 1
        a, b, c = (int(each) for each in size)
        yield (a, b, c), which, start[which], inside


def _plan_and_occlude(
    module: nn.Module,
    volume: torch.Tensor,
    start: np.ndarray,
    box: tuple[int, int, int],
    fill: float,
) -> torch.Tensor:
    plan = Plan(module, triple(list(volume.shape), "volume"), box)
    return _occlude_boxes(plan, volume, start, box, fill)


def _occlude_boxes(
    plan: Plan, volume: torch.Tensor, start: np.ndarray, box: tuple[int, int, int], fill: float
) -> torch.Tensor:
    with one_thread(), full_precision():
        return plan.open(volume).run(start, fill - _boxes(volume, start, box))


def _boxes(volume: torch.Tensor, start: np.ndarray, size: tuple[int, int, int]) -> torch.Tensor:
    """Return the values in boxes, (n, x, y, z)."""
    windows = volume.unfold(0, size[0], 1).unfold(1, size[1], 1).unfold(2, size[2], 1)
    x, y, z = torch.from_numpy(start).to(volume.device).T
    return windows[x, y, z]


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch: patches are so small that two wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions on a GPU in float32: shortened products (TF32) are off by a thousandth."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def _check(module: nn.Module, volume: torch.Tensor, box: tuple[int, int, int]) -> None:
    problem = None
    kinds = {part.dtype for part in module.parameters()}
    if any(part.training for part in module.modules()):
        problem = ("module", "training mode", "eval mode", "Call module.eval() first.")
    elif any(isinstance(p, _BatchNorm) and p.running_mean is None for p in module.modules()):
        found = "normalisation without statistics of its own: volumes would depend on each other"
        remedy = "Train it with track_running_stats=True."
        problem = ("module", found, "each volume computed by itself", remedy)
    elif kinds - {torch.float32, torch.float64}:
        found = ", ".join(sorted(map(str, kinds)))
        remedy = "Call module.float(): in half precision one effect in ten has the wrong sign."
        problem = ("module", found, "float32 or float64", remedy)
    elif volume.ndim != 3:
        problem = ("volume", f"shape {tuple(volume.shape)}", "(x, y, z)", "Pass one volume.")
    elif not torch.isfinite(volume).all():
        remedy = "Replace what is not finite, by 0 outside the brain."
        problem = ("volume", "values that are not finite", "finite values", remedy)
    elif any(b > n for b, n in zip(box, volume.shape, strict=True)):
        found = f"{box} in a volume of {tuple(volume.shape)}"
        problem = ("box_vox", found, "a box that fits", "Take a smaller box.")
    if problem is not None:
        where, found, expected, remedy = problem
        raise InputError(where, found=found, expected=expected, remedy=remedy)

"""VolumeNetClassifier: 3-D networks on masked volumes as scikit-learn classifiers.

Samples come as vectors of the mask's voxels, like those of every other decoder; `Unmask` puts them
back into volumes, a batch at a time, read from the memory map when their turn comes.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from emodecode.errors import InputError
from emodecode.features.anova import column_moments
from emodecode.features.scale import check_width
from emodecode.models.batches import find_windows, read_windows
from emodecode.models.linear import check_classes
from emodecode.models.members import (
    Given,
    Parts,
    alone,
    divide,
    encode,
    member_recipe,
    resolve_device,
    train_members,
)
from emodecode.models.networks3d import build_network3d
from emodecode.models.rows import Rows, as_rows
from emodecode.models.training import Recipe
from emodecode.models.unmask import Unmask

OPTIONS: dict[str, tuple[str, ...]] = {
    "separable3d": ("dropout",),
    "resnet3d": ("depth",),
    "efficientnet3d": ("size",),
    "small3d": ("dropout", "noise", "n_filters"),
}
"""Network -> parameters of the classifier that go to it."""

_IN_MODULE = ("window", "window_by", "normalise", "shift_vox", "intensity", "soft_labels")
"""Parameters that shape the module or its targets: part of what a checkpoint is of."""


class VolumeNetClassifier(ClassifierMixin, BaseEstimator):
    """A 3-D network, or a few that are averaged, with the epoch chosen on held-out subjects.

    Parameters
    ----------
    network : str
        "separable3d" (S1), "resnet3d", "efficientnet3d" or "small3d"; see
        `emodecode.models.networks3d`.
    mask : ndarray of bool, shape (x, y, z)
        Its True voxels are the columns of X, in C order. Needed at `fit`.
    depth, size, dropout, noise, n_filters
        Of the networks that have them.
    window : int, optional
        Successive volumes that are read together: the newest and those before it in its run. A
        volume that is no sample is left out of the window. 1: the same network without a past, to
        compare with; None: the network on single volumes.
    window_by : {"attention", "gru"}
        How a window's volumes are put together, causally.
    normalise : {"voxel", "volume"}, optional
        Standardise each voxel by the training samples, or each volume by itself (S1); None:
        nothing (S2-B).
    shift_vox, intensity
        Augmentation in training (`Unmask`); 0: none.
    schedule : {"plateau", "cosine"}
        "cosine": the learning rate falls to 0 over `max_epochs`. "plateau": see `NetClassifier`.
    soft_labels : bool
        Train on the raters' shares of votes instead of the label that won; they are needed.
    precision : {"auto", "float32", "bf16"}
        "auto": bf16 autocast on a GPU that has it, else float32.
    accumulate : int
        Parts that a batch is worked off in, where memory is short.
    compile : bool
        Let torch compile the network first. Slower on a CPU (57 s for a ResNet-50, then no gain).
    n_workers : int
        Processes that read batches ahead of the training.
    max_epochs, batch_size, learning_rate, l1, l2, weight_decay, plateau_factor, plateau_patience,
    min_learning_rate, patience, choose_by, validation_share, n_members, class_weight,
    random_state, device, checkpoint, checkpoint_epochs, progress
        See `emodecode.models.net.NetClassifier`.

    Attributes
    ----------
    classes_, modules_, history_, best_epochs_, validation_subjects_
        See `emodecode.models.net.NetClassifier`; the modules are `Unmask` around the network.

    Raises
    ------
    InputError
        At `fit`: no mask, one of another size, one class, or a loss that is no longer finite.
    """

    reads_rows = True
    """`fit` and `predict_proba` take `Rows` as well: nothing is copied but a batch."""

    def __init__(
        self,
        *,
        network: str = "small3d",
        mask: np.ndarray | None = None,
        depth: int = 50,
        size: str = "b0",
        dropout: float = 0.3,
        noise: float = 1.0,
        n_filters: int = 36,
        window: int | None = None,
        window_by: str = "attention",
        normalise: str | None = "voxel",
        shift_vox: int = 0,
        intensity: float = 0.0,
        max_epochs: int = 50,
        batch_size: int = 16,
        learning_rate: float = 1e-3,
        schedule: str = "cosine",
        l1: float = 0.0,
        l2: float = 0.0,
        weight_decay: float = 1e-4,
        plateau_factor: float = 1.0,
        plateau_patience: int = 30,
        min_learning_rate: float = 1e-6,
        patience: int | None = None,
        choose_by: str = "loss",
        validation_share: float = 0.2,
        n_members: int = 1,
        class_weight: str | None = "balanced",
        soft_labels: bool = False,
        random_state: int = 0,
        device: str = "auto",
        precision: str = "auto",
        accumulate: int = 1,
        compile: bool = False,
        n_workers: int = 0,
        checkpoint: str | Path | None = None,
        checkpoint_epochs: int = 1,
        progress: bool = False,
    ) -> None:
        self.network = network
        self.mask = mask
        self.depth = depth
        self.size = size
        self.dropout = dropout
        self.noise = noise
        self.n_filters = n_filters
        self.window = window
        self.window_by = window_by
        self.normalise = normalise
        self.shift_vox = shift_vox
        self.intensity = intensity
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.l1 = l1
        self.l2 = l2
        self.weight_decay = weight_decay
        self.plateau_factor = plateau_factor
        self.plateau_patience = plateau_patience
        self.min_learning_rate = min_learning_rate
        self.patience = patience
        self.choose_by = choose_by
        self.validation_share = validation_share
        self.n_members = n_members
        self.class_weight = class_weight
        self.soft_labels = soft_labels
        self.random_state = random_state
        self.device = device
        self.precision = precision
        self.accumulate = accumulate
        self.compile = compile
        self.n_workers = n_workers
        self.checkpoint = checkpoint
        self.checkpoint_epochs = checkpoint_epochs
        self.progress = progress

    def fit(
        self,
        X: "np.ndarray | Rows",
        y: np.ndarray,
        *,
        subjects: np.ndarray | None = None,
        parts: Parts | None = None,
        moments: np.ndarray | None = None,
        votes: np.ndarray | None = None,
        validation: tuple[Any, ...] | None = None,
    ) -> "VolumeNetClassifier":
        """Train.

        Parameters
        ----------
        X : ndarray or Rows, shape (n_samples, n_voxels)
        y : ndarray of shape (n_samples,)
        subjects, parts
            See `emodecode.models.net.NetClassifier.fit`.
        validation : (X, y) or (X, y, moments), optional
            Likewise; `moments` as below, for its own samples.
        moments : ndarray of int, shape (n_samples, 2), optional
            Run (any number) and volume of each sample; needed where `window` > 1.
        votes : ndarray of shape (n_samples, n_classes), optional
            Share of the raters for each class, in the order of the sorted classes; for
            `soft_labels`, which need them.
        """
        check_classes(y)
        rows = as_rows(X)
        mask = self._check(rows, moments)
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        self.n_features_in_ = rows.shape[1]
        self._find_scale(rows)
        judged = None if validation is None else self._judged(*validation)
        divisions = divide(
            codes,
            subjects,
            n_members=self.n_members,
            share=self.validation_share if validation is None else 0.0,
            seed=self.random_state,
            parts=parts,
        )
        found = train_members(
            lambda: self._make_module(mask),
            Given(rows, codes, self._shares(votes), moments, self.window),
            divisions,
            recipe_of=self._recipe,
            validation=judged,
        )
        found.give_to(self)
        return self

    def predict_proba(
        self, X: "np.ndarray | Rows", *, moments: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the members' mean probabilities, shape (n_samples, n_classes).

        Without `moments` each sample of a windowed network stands alone.
        """
        return self.predict_members(X, moments=moments).mean(axis=0)

    def predict_members(
        self, X: "np.ndarray | Rows", *, moments: np.ndarray | None = None
    ) -> np.ndarray:
        """Return each member's probabilities, shape (n_members, n_samples, n_classes)."""
        check_is_fitted(self, "modules_")
        rows = as_rows(X)
        check_width(rows.X, self.n_features_in_)
        windows = self._windows(len(rows), moments)
        found = np.empty((len(self.modules_), len(rows), len(self.classes_)))
        device = resolve_device(self.device)
        for module in self.modules_:
            module.to(device)  # and stays there: at the scanner every call counts
        with torch.inference_mode():
            for own, module in zip(found, self.modules_, strict=True):
                for start in range(0, len(rows), self.batch_size):
                    part = slice(start, start + self.batch_size)
                    batch = (
                        rows.read(part) if windows is None else read_windows(rows, windows[part])
                    )
                    logits = module(torch.from_numpy(batch).to(device))
                    own[part] = torch.softmax(logits.float(), dim=1).cpu().numpy()
        return found

    def predict(self, X: "np.ndarray | Rows", *, moments: np.ndarray | None = None) -> np.ndarray:
        return self.classes_[self.predict_proba(X, moments=moments).argmax(axis=1)]

    def _check(self, rows: Rows, moments: np.ndarray | None) -> np.ndarray:
        if self.mask is None or int(np.count_nonzero(self.mask)) != rows.shape[1]:
            n = (
                "no mask"
                if self.mask is None
                else f"a mask of {np.count_nonzero(self.mask)} voxels"
            )
            raise InputError(
                f"model {self.network}",
                found=f"{n} for samples of {rows.shape[1]} columns",
                expected="the mask whose voxels the columns are: a 3-D network reads volumes",
                remedy="Give it voxels with their mask, not parcels or selected voxels.",
            )
        if (self.window or 1) > 1 and moments is None:
            raise InputError(
                f"model {self.network}",
                found=f"window = {self.window}, and nothing that says which volumes follow another",
                expected="run and volume of each sample (moments)",
                remedy="Pass moments, or set window = 1.",
            )
        return np.asarray(self.mask) != 0

    def _find_scale(self, rows: Rows) -> None:
        """Find mean and scale of each voxel in the training samples, if these are asked for."""
        self.mean_ = self.scale_ = None
        if self.normalise == "voxel":
            mean, variance = column_moments(rows.X, rows=rows.rows)
            self.mean_ = mean.astype(np.float32)
            scale = np.sqrt(variance)
            self.scale_ = np.where(scale > 0, scale, np.inf).astype(np.float32)

    def _make_module(self, mask: np.ndarray | None = None) -> Unmask:
        """Build the network with its first weights, behind `Unmask`."""
        inside = np.asarray(self.mask) != 0 if mask is None else mask
        x, y, z = inside.shape
        network = build_network3d(
            self.network,
            shape=(x, y, z),
            n_classes=len(self.classes_),
            window=self.window,
            window_options=None if self.window is None else {"how": self.window_by},
            **self._options(),
        )
        return Unmask(
            network,
            inside,
            mean=self.mean_,
            scale=self.scale_,
            by_volume=self.normalise == "volume",
            shift_vox=self.shift_vox,
            intensity=self.intensity,
        )

    def _judged(
        self, X: "np.ndarray | Rows", y: np.ndarray, moments: np.ndarray | None = None
    ) -> tuple[Any, ...]:
        rows, codes = as_rows(X), encode(y, self.classes_, where=f"model {self.network}")
        windows = self._windows(len(rows), moments)
        return (rows, codes) if windows is None else (rows, codes, windows)

    def _shares(self, votes: np.ndarray | None) -> np.ndarray | None:
        if not self.soft_labels:
            return None
        if votes is None:
            raise InputError(
                f"model {self.network}",
                found="soft_labels = true, and no votes",
                expected="the raters' share of votes for each class (columns p_CLASS of samples)",
                remedy="Label with several raters, or set soft_labels = false.",
            )
        return np.asarray(votes, dtype=np.float32)

    def _windows(self, n: int, moments: np.ndarray | None) -> np.ndarray | None:
        if self.window is None:
            return None
        scan, volume = np.asarray(alone(n) if moments is None else moments).T
        return find_windows(scan, volume, self.window)

    def _options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in OPTIONS[self.network]}

    def _recipe(self, member: int) -> Recipe:
        named = {name: getattr(self, name) for name in _IN_MODULE} | self._options()
        for name, values in (("mask", self.mask), ("mean", self.mean_), ("scale", self.scale_)):
            named[name] = None if values is None else hash_of(np.asarray(values))
        precision = self.precision
        if precision == "auto":
            on_gpu = resolve_device(self.device) != "cpu"
            precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "float32"
        return member_recipe(self, member, options=named, heavy=True, precision=precision)


def hash_of(values: np.ndarray) -> str:
    """Return a hash of an array, its shape and type."""
    digest = hashlib.blake2b(f"{values.shape}{values.dtype}".encode(), digest_size=8)
    digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()

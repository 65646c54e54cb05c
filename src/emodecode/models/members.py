"""Members: a few networks of one decoder, each with its epoch chosen on other subjects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from emodecode.errors import InputError
from emodecode.models.batches import find_windows
from emodecode.models.rows import Rows
from emodecode.models.shared import is_first_process
from emodecode.models.training import Arrays, Recipe, train

Parts = Sequence[tuple[np.ndarray, np.ndarray]]
"""Positions to train on and to judge on, for one member after another."""


@dataclass(frozen=True)
class Given:
    """What the members of a decoder are trained on.

    Parameters
    ----------
    X : ndarray or Rows, shape (n_samples, n_features)
    codes : ndarray of int, shape (n_samples,)
        Classes.
    shares : ndarray of shape (n_samples, n_classes), optional
        Soft labels to train on instead of the classes.
    moments : ndarray of int, shape (n_samples, 2), optional
        Run and volume of each sample, for a network that reads windows of `window` volumes.
    """

    X: "np.ndarray | Rows"
    codes: np.ndarray
    shares: np.ndarray | None = None
    moments: np.ndarray | None = None
    window: int | None = None

    def take(self, chosen: np.ndarray) -> Arrays | None:
        """Return samples by position or boolean mask, as `train` wants them; None for none.

        Windows are made of these samples only.
        """
        X = self.X.take(chosen) if isinstance(self.X, Rows) else self.X[chosen]
        if not len(X):
            return None
        targets = self.codes[chosen] if self.shares is None else self.shares[chosen]
        if self.window is None:
            return X, targets
        moments = alone(len(self.codes)) if self.moments is None else self.moments
        scan, volume = moments[chosen].T
        return X, targets, find_windows(scan, volume, self.window)


@dataclass
class Members:
    """Trained networks, their epochs, and whom each was judged on."""

    modules: list[Any] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epochs: list[int] = field(default_factory=list)
    validation_subjects: list[list[str]] = field(default_factory=list)

    def give_to(self, estimator: Any) -> None:
        """Set the attributes of a fitted classifier."""
        estimator.modules_, estimator.history_ = self.modules, self.history
        estimator.best_epochs_ = self.best_epochs
        estimator.validation_subjects_ = self.validation_subjects


class Division(NamedTuple):
    """Samples that a member is judged on (boolean mask), those it may train on, and whose."""

    judged: np.ndarray
    trained: np.ndarray
    names: list[str]


def train_members(
    make: Callable[[], nn.Module],
    given: Given,
    divisions: Sequence[Division],
    *,
    recipe_of: Callable[[int], Recipe],
    validation: Arrays | None = None,
) -> Members:
    """Train one network a division; with `validation` all of them are judged on that instead.

    Checkpoints go when the last one is trained, so that a killed training repeats none of them.

    Raises
    ------
    InputError
        A division leaves fewer than two samples to train on; a loss that is no longer finite.
    """
    found, checkpoints = Members(), []
    n_classes = int(given.codes.max()) + 1
    for member, division in enumerate(divisions):
        trained = given.take(division.trained)
        if trained is None or len(trained[1]) < 2:
            raise _too_few(recipe_of(member).network, int(division.trained.sum()))
        judged = given.take(division.judged) if validation is None else validation
        network = train(make, trained, judged, recipe=recipe_of(member), n_classes=n_classes)
        checkpoints.append(network.checkpoint)
        found.modules.append(network.module)
        found.best_epochs.append(network.best_epoch)
        found.history += [{"seed": member} | row for row in network.history]
        if validation is None:
            found.validation_subjects.append(division.names)
    for path in checkpoints:
        if path is not None and is_first_process():
            path.unlink(missing_ok=True)
    return found


def divide(
    codes: np.ndarray,
    subjects: np.ndarray | None,
    *,
    n_members: int,
    share: float,
    seed: int,
    parts: Parts | None = None,
) -> list[Division]:
    """Choose the samples that each member is judged on.

    Parameters
    ----------
    codes : ndarray of int, shape (n_samples,)
    subjects : ndarray, optional
        Whole subjects are held out; with fewer than three, or none given, contiguous rows: the
        last ones for the first member, those before them for the next.
    n_members : int
    share : float
        Of the subjects (or rows) that are held out; 0: nobody.
    seed : int
    parts : sequence of (train, judge), optional
        Positions to train and judge on instead, disjoint by subject and stimulus; what is in
        neither of a part's two lists is left out.

    Returns
    -------
    list of Division
        What would leave the training without a class is not held out.
    """
    everything = np.ones(len(codes), dtype=bool)
    nobody = Division(~everything, everything, [])
    if not share:
        return [nobody] * n_members
    if parts is not None:
        names = np.full(len(codes), "") if subjects is None else np.asarray(subjects)
        known = [_of_part(part, names) for part in parts]
        return [known[member % len(known)] for member in range(n_members)]
    n_parts = max(n_members, round(1 / share), 2)
    names = np.empty(0) if subjects is None else np.unique(subjects)
    by_subject = subjects is not None and len(names) >= 3
    if by_subject:
        owners = np.asarray(subjects)
        names = np.random.default_rng(seed).permutation(names)
    else:
        owners, names = _contiguous(len(codes), n_parts), np.arange(n_parts)
    pieces = np.array_split(names, min(n_parts, len(names)))
    return [
        next(
            (
                Division(judged, ~judged, sorted(map(str, piece)) if by_subject else [])
                for piece in (*pieces[member % len(pieces) :], *pieces[: member % len(pieces)])
                if _leaves_all(codes, ~(judged := np.isin(owners, piece)))
            ),
            nobody,
        )
        for member in range(n_members)
    ]


def member_recipe(estimator: Any, member: int, **fixed: Any) -> Recipe:
    """Recipe of a member: the estimator's parameters of the same names, a seed of its own."""
    seed = np.random.SeedSequence([estimator.random_state, member]).generate_state(1)[0]
    params = estimator.get_params(deep=False)
    named = {name: params[name] for name in Recipe.__dataclass_fields__ if name in params} | fixed
    if named["checkpoint"] is not None:
        named["checkpoint"] = Path(named["checkpoint"])
    named["device"] = resolve_device(named["device"])
    return Recipe(**named, seed=int(seed))


def resolve_device(device: str) -> str:
    """Return the device that a parameter names: "auto" is a GPU where there is one.

    Raises
    ------
    InputError
        A GPU that this machine has not got.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        return "cuda" if n_gpus else "cpu"
    if device.startswith("cuda") and int(device.partition(":")[2] or 0) >= n_gpus:
        raise InputError(
            f"device {device}",
            found=f"a machine with {n_gpus} GPUs that torch can use",
            expected="a GPU of this number",
            remedy='Set device = "auto", or install the torch build for this machine\'s GPU.',
        )
    return device


def encode(y: np.ndarray, classes: np.ndarray, *, where: str) -> np.ndarray:
    """Return the number of each label among the classes.

    Raises
    ------
    InputError
        A label that is no class.
    """
    codes = np.searchsorted(classes, y)
    if not (classes[np.minimum(codes, len(classes) - 1)] == y).all():
        raise InputError(
            where,
            found="validation samples of a class that is not in training",
            expected=f"classes {', '.join(map(str, classes))}",
            remedy="Leave these samples out of the validation.",
        )
    return codes


def alone(n: int) -> np.ndarray:
    """Moments of samples that follow no other: each a run of its own."""
    return np.stack([np.arange(n), np.zeros(n, dtype=np.int64)], axis=1)


def _too_few(network: str, n: int) -> InputError:
    return InputError(
        f"model {network}",
        found=f"{n} samples to train on, the others are held out to choose the epoch",
        expected="two at least",
        remedy="Give it more samples, or set validation_share = 0.",
    )


def _of_part(part: tuple[np.ndarray, np.ndarray], names: np.ndarray) -> Division:
    trained, judged = (np.isin(np.arange(len(names)), positions) for positions in part)
    return Division(judged, trained, sorted(set(map(str, names[judged])) - {""}))


def _leaves_all(codes: np.ndarray, trained: np.ndarray) -> bool:
    return len(np.unique(codes[trained])) == codes.max() + 1


def _contiguous(n: int, n_parts: int) -> np.ndarray:
    """Number the rows' contiguous parts of equal length, from the last to the first."""
    return (np.arange(n)[::-1] * n_parts) // n

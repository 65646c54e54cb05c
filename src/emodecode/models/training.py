"""Training of one network by skorch: from samples and a recipe to the weights of the best epoch."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch.helper import predefined_split
from torch import distributed, nn

from emodecode.models.batches import Batches, SampleSet
from emodecode.models.rows import Rows
from emodecode.models.shared import share_statistics
from emodecode.models.stepping import SteppedNet, penalised
from emodecode.models.watch import EnoughError, Watch

SMALL = 1_000_000
"""Networks with fewer weights are trained on one thread: others would only wait for each other.
Convolutions over volumes have few weights and much to do (`Recipe.heavy`)."""

Arrays = tuple[Any, ...]
"""Samples, (n_samples, n_features) float32 or `Rows`; their class codes, or shares of the classes;
of a windowed network also the positions of each sample's volumes (`SampleSet`)."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; see `emodecode.models.net.NetClassifier`.

    `options` are the network's own parameters, `checkpoint` is the start of a file name. `heavy`
    networks are trained on all threads, on a GPU with channels last. A batch is worked off in
    `accumulate` parts where memory is short (batch normalisation then sees a part). `precision` is
    "float32" or "bf16" (autocast); `n_workers` processes read ahead.
    """

    network: str
    max_epochs: int
    batch_size: int
    learning_rate: float
    l1: float
    l2: float
    weight_decay: float
    plateau_factor: float
    plateau_patience: int
    min_learning_rate: float
    patience: int | None
    choose_by: str
    class_weight: str | None
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    schedule: str = "plateau"
    heavy: bool = False
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False
    n_workers: int = 0
    device: str = "cpu"
    checkpoint: Path | None = None
    checkpoint_epochs: int = 10
    progress: bool = False


class Trained(NamedTuple):
    """A trained network with the weights of its best epoch (from 1), its epochs, its checkpoint.

    The checkpoint stays until the caller has no more use for it.
    """

    module: nn.Module
    best_epoch: int
    history: list[dict[str, Any]]
    checkpoint: Path | None


def train(
    make: Callable[[], nn.Module],
    training: Arrays,
    validation: Arrays | None,
    *,
    recipe: Recipe,
    n_classes: int,
) -> Trained:
    """Train a network from the start, or on from its checkpoint.

    Where torch's process group has been started (`emodecode.models.shared`), every process calls
    this with the same arguments and works on its share of each batch.

    Parameters
    ----------
    make : callable
        Builds the network; the weights follow from the recipe's seed.
    training, validation : (X, targets) or (X, targets, windows)
        Without validation the last epoch is taken.
    recipe : Recipe
    n_classes : int

    Raises
    ------
    InputError
        The loss is no longer finite.
    KeyboardInterrupt
        Passed on; the checkpoint stays.
    """
    with torch.random.fork_rng(devices=_gpus(recipe)), _steady():
        torch.manual_seed(recipe.seed)
        watch = Watch(recipe, fingerprint=_fingerprint(recipe, training, validation))
        module = make()
        if recipe.heavy and recipe.device.startswith("cuda"):  # on a CPU it is slower
            module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        with share_statistics(module), _threads(module, recipe):
            net = make_net(module, training, validation, recipe, n_classes, watch)
            net.initialize()
            watch.resume(net)
            if recipe.compile:
                net.module_.compile()
            _go_on(net, _as_set(training), watch)
            if watch.epoch % recipe.checkpoint_epochs:
                watch.save(net)
    module = net.module_.cpu()
    module.load_state_dict(watch.best_state or module.state_dict())
    history = [row | {"best": row["epoch"] == watch.best_epoch} for row in watch.history]
    return Trained(module.eval(), watch.best_epoch, history, watch.path)


def make_net(
    module: nn.Module,
    training: Arrays,
    validation: Arrays | None,
    recipe: Recipe,
    n_classes: int,
    watch: Watch,
) -> SteppedNet:
    """Put network, loss, optimiser and batches together."""
    decay = [(name, {"weight_decay": recipe.weight_decay}) for name, _ in penalised(module)]
    split = None if validation is None else predefined_split(_as_set(validation))
    reading = {"n_workers": recipe.n_workers, "pin": recipe.device.startswith("cuda")}
    return SteppedNet(
        module,
        criterion=nn.CrossEntropyLoss,
        criterion__weight=class_weights(training[1], n_classes, recipe.class_weight),
        optimizer=torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam,
        optimizer__weight_decay=0.0,
        optimizer__fused=True,
        optimizer__eps=1e-7,  # Keras's
        optimizer__param_groups=decay if recipe.weight_decay else [],
        lr=recipe.learning_rate,
        batch_size=recipe.batch_size,
        max_epochs=recipe.max_epochs,
        iterator_train=Batches,
        iterator_train__shuffle=True,
        iterator_valid=Batches,
        **{f"iterator_{which}__{k}": v for which in ("train", "valid") for k, v in reading.items()},
        train_split=split,
        callbacks=[("watch", watch)],
        device=recipe.device,
        verbose=0,
        l1=recipe.l1,
        l2=recipe.l2,
        accumulate=recipe.accumulate,
        precision=recipe.precision,
    )


def class_weights(targets: np.ndarray, n_classes: int, how: str | None) -> torch.Tensor | None:
    """Weight of each class in the loss: ``n / (n_classes * n_class)`` for "balanced"."""
    if how is None:
        return None
    soft = targets.ndim == 2
    counts = targets.sum(axis=0) if soft else np.bincount(targets, minlength=n_classes)
    weights = len(targets) / (n_classes * np.maximum(counts, 1))
    return torch.tensor(weights, dtype=torch.float32)


def _go_on(net: SteppedNet, training: SampleSet, watch: Watch) -> None:
    """Train until all epochs are done, or the validation has not improved for long enough."""
    to_do = watch.recipe.max_epochs - watch.epoch
    try:
        if to_do > 0 and not watch.enough():
            net.partial_fit(training, None, epochs=to_do)
            if watch.epoch < watch.recipe.max_epochs:
                raise KeyboardInterrupt  # skorch takes it for a wish to stop training
    except EnoughError:
        pass
    finally:
        watch.close()


def _as_set(arrays: Arrays) -> SampleSet:
    X, targets, *windows = arrays
    return SampleSet(X, targets, windows=windows[0] if windows else None)


def _steady() -> contextlib.AbstractContextManager:
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def _gpus(recipe: Recipe) -> list[int]:
    return list(range(torch.cuda.device_count())) if recipe.device.startswith("cuda") else []


@contextlib.contextmanager
def _threads(module: nn.Module, recipe: Recipe) -> Iterator[None]:
    before = torch.get_num_threads()
    if not recipe.heavy and sum(part.numel() for part in module.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fingerprint(recipe: Recipe, training: Arrays, validation: Arrays | None) -> str:
    """Hash what a checkpoint is of; nothing is read where none is kept."""
    if recipe.checkpoint is None:
        return ""
    ignored = ("checkpoint", "checkpoint_epochs", "progress", "n_workers")
    named = {key: value for key, value in asdict(recipe).items() if key not in ignored}
    named["torch"] = torch.__version__
    if distributed.is_initialized():
        named["processes"] = distributed.get_world_size()
    digest = hashlib.blake2b(repr(sorted(named.items())).encode(), digest_size=8)
    for part in (*training, *(validation or ())):
        for chunk in part.chunks() if isinstance(part, Rows) else [part]:
            digest.update(np.ascontiguousarray(chunk).data)
    return digest.hexdigest()

"""Training of one network by skorch: epoch log, best epoch, learning rate, checkpoints."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch import nn
from tqdm import tqdm

from emodecode.errors import InputError

SMALL = 1_000_000
"""Networks with fewer weights are trained on one thread: others would only wait for each other."""

Arrays = tuple[np.ndarray, np.ndarray]
"""Samples (n_samples, n_features) float32 and their class codes."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; see `emodecode.models.net.NetClassifier`.

    `options` are the network's own parameters, `checkpoint` is the start of a file name.
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
    options: dict[str, float] = field(default_factory=dict)
    device: str = "cpu"
    checkpoint: Path | None = None
    checkpoint_epochs: int = 10
    progress: bool = False


class Trained(NamedTuple):
    """A trained network with the weights of its best epoch (from 1), and its epochs."""

    module: nn.Module
    best_epoch: int
    history: list[dict[str, Any]]


def train(
    make: Callable[[], nn.Module],
    training: Arrays,
    validation: Arrays | None,
    *,
    recipe: Recipe,
    n_classes: int,
) -> Trained:
    """Train a network from the start, or on from its checkpoint.

    Parameters
    ----------
    make : callable
        Builds the network; the weights follow from the recipe's seed.
    training, validation : (X, codes)
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
    steady = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices=[]), steady:
        torch.manual_seed(recipe.seed)
        watch = _Watch(recipe, fingerprint=_fingerprint(recipe, training, validation))
        net = _make_net(make(), training, validation, recipe, n_classes, watch)
        net.initialize()
        watch.resume(net)
        threads = torch.get_num_threads()
        if sum(part.numel() for part in net.module_.parameters()) < SMALL:
            torch.set_num_threads(1)
        try:
            if watch.epoch < recipe.max_epochs and not watch.enough():
                X, y = _tensors(training)
                net.partial_fit(X, y, epochs=recipe.max_epochs - watch.epoch)
                if watch.epoch < recipe.max_epochs:
                    raise KeyboardInterrupt  # skorch takes it for a wish to stop training
        except _EnoughError:
            pass
        finally:
            watch.close()
            torch.set_num_threads(threads)
    module = net.module_.cpu()
    module.load_state_dict(watch.best_state or module.state_dict())
    if watch.path is not None:
        watch.path.unlink(missing_ok=True)
    history = [row | {"best": row["epoch"] == watch.best_epoch} for row in watch.history]
    return Trained(module.eval(), watch.best_epoch, history)


class _EnoughError(Exception):
    """Training has not improved for long enough."""


class _Net(NeuralNet):
    """skorch's net with penalties on the weights that the network names.

    The loss that is logged is the cross-entropy alone.
    """

    def __init__(self, *args: Any, l1: float = 0.0, l2: float = 0.0, **kwargs: Any) -> None:
        self.l1, self.l2 = l1, l2
        super().__init__(*args, **kwargs)

    def train_step_single(self, batch, **fit_params):
        step = super().train_step_single(batch, **fit_params)
        if self.l1 or self.l2:
            with torch.no_grad():  # the penalty's gradient; autograd needs twice the time for it
                for _, part in penalised(self.module_):
                    if part.grad is not None:
                        part.grad.add_(part.sign(), alpha=self.l1).add_(part, alpha=2 * self.l2)
        return step

    def penalty(self) -> float:
        """Return ``l1 sum |w| + l2 sum w^2`` of the weights as they are."""
        if not (self.l1 or self.l2):
            return 0.0
        with torch.no_grad():
            weights = [part for _, part in penalised(self.module_)]
            absolute = sum(float(part.abs().sum()) for part in weights)
            return self.l1 * absolute + self.l2 * sum(
                float(part.square().sum()) for part in weights
            )


def penalised(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the weights of a network that penalties are on, by its patterns ``penalised``."""
    patterns = getattr(module, "penalised", ("*",))
    return [
        (name, part)
        for name, part in module.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


class _Batches:
    """Batches of tensors that lie in memory; shuffled by torch's own generator."""

    def __init__(self, dataset: Dataset, batch_size: int, shuffle: bool = False) -> None:
        self.X, self.y = dataset.X, dataset.y
        self.batch_size, self.shuffle = batch_size, shuffle

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        n = len(self.X)
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        for start in range(0, n, self.batch_size):
            rows = order[start : start + self.batch_size]
            if len(rows) > 1 or not self.shuffle:  # batch normalisation needs two
                yield self.X[rows], self.y[rows]


def _make_net(
    module: nn.Module,
    training: Arrays,
    validation: Arrays | None,
    recipe: Recipe,
    n_classes: int,
    watch: "_Watch",
) -> _Net:
    decay = [(name, {"weight_decay": recipe.weight_decay}) for name, _ in penalised(module)]
    split = None if validation is None else predefined_split(Dataset(*_tensors(validation)))
    return _Net(
        module,
        criterion=nn.CrossEntropyLoss,
        criterion__weight=_class_weights(training[1], n_classes, recipe.class_weight),
        optimizer=torch.optim.AdamW if recipe.weight_decay else torch.optim.Adam,
        optimizer__weight_decay=0.0,
        optimizer__fused=True,
        optimizer__eps=1e-7,  # Keras's
        optimizer__param_groups=decay if recipe.weight_decay else [],
        lr=recipe.learning_rate,
        batch_size=recipe.batch_size,
        max_epochs=recipe.max_epochs,
        iterator_train=_Batches,
        iterator_train__shuffle=True,
        iterator_valid=_Batches,
        train_split=split,
        callbacks=[("watch", watch)],
        device=recipe.device,
        verbose=0,
        l1=recipe.l1,
        l2=recipe.l2,
    )


def _tensors(arrays: Arrays) -> tuple[torch.Tensor, torch.Tensor]:
    X, codes = arrays
    return torch.from_numpy(np.ascontiguousarray(X)), torch.from_numpy(codes.astype(np.int64))


def _class_weights(codes: np.ndarray, n_classes: int, how: str | None) -> torch.Tensor | None:
    if how is None:
        return None
    counts = np.bincount(codes, minlength=n_classes)
    return torch.tensor(len(codes) / (n_classes * np.maximum(counts, 1)), dtype=torch.float32)


@dataclass(eq=False)
class _Watch(Callback):
    """Log, learning rate, best epoch, early end, checkpoints; all state is in the checkpoint."""

    recipe: Recipe
    fingerprint: str
    history: list[dict[str, Any]] = field(default_factory=list)
    best_epoch: int = 0
    best_state: dict[str, torch.Tensor] | None = None
    best_value: float = -math.inf
    scheduler: Any = None
    bar: Any = None
    seen: dict[bool, list[float]] = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """Checkpoint of this training; others of the same name (folds, members) keep theirs."""
        start = self.recipe.checkpoint
        return None if start is None else start.with_name(f"{start.name}.{self.fingerprint}")

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    def enough(self) -> bool:
        """Tell whether the validation has not improved for as long as the recipe waits."""
        patience = self.recipe.patience
        return patience is not None and self.epoch - self.best_epoch >= patience

    def on_train_begin(self, net, **kwargs):
        self.bar = tqdm(
            total=self.recipe.max_epochs,
            initial=self.epoch,
            desc=self.recipe.network,
            unit="epoch",
            leave=False,
            disable=not self.recipe.progress,
        )

    def on_epoch_begin(self, net, **kwargs):
        self.seen = {True: [0.0, 0.0, 0.0], False: [0.0, 0.0, 0.0]}

    def on_batch_end(self, net, batch=None, training=False, loss=None, y_pred=None, **kwargs):
        value, n = float(loss.detach()), len(batch[1])
        if not math.isfinite(value):
            raise self._diverged(net, value)
        hits = int((y_pred.argmax(1) == batch[1].to(y_pred.device)).sum())
        for place, amount in enumerate((n, n * value, hits)):
            self.seen[training][place] += amount

    def on_epoch_end(self, net, **kwargs):
        (n, loss, hits), (n_valid, valid_loss, valid_hits) = self.seen[True], self.seen[False]
        row = {
            "epoch": self.epoch + 1,
            "learning_rate": float(net.optimizer_.param_groups[0]["lr"]),
            "train_loss": loss / n,
            "train_accuracy": hits / n,
            "valid_loss": valid_loss / n_valid if n_valid else None,
            "valid_accuracy": valid_hits / n_valid if n_valid else None,
            "penalty": net.penalty(),
        }
        self.history.append(row)
        self._keep_best(net, row)
        if self.recipe.plateau_factor < 1:
            watched = row["valid_loss"] if n_valid else row["train_loss"]
            self._plateau(net).step(watched + row["penalty"])
        self.bar.update()
        self._save(net)
        if self.enough():
            raise _EnoughError

    def resume(self, net: _Net) -> None:
        """Take up the state of a checkpoint of the same data and recipe, if there is one."""
        if self.path is None or not self.path.is_file():
            return
        try:
            state = torch.load(self.path, weights_only=True)
        except Exception:
            return  # whatever torch says of a file that is no checkpoint: trained anew
        if not isinstance(state, dict) or state.get("fingerprint") != self.fingerprint:
            return
        net.module_.load_state_dict(state["module"])
        net.optimizer_.load_state_dict(state["optimizer"])
        if state["scheduler"] is not None:
            self._plateau(net).load_state_dict(state["scheduler"])
        self.history, self.best_epoch = state["history"], state["best_epoch"]
        self.best_state, self.best_value = state["best_state"], state["best_value"]
        torch.set_rng_state(state["random"])

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _keep_best(self, net: _Net, row: dict[str, Any]) -> None:
        if row["valid_loss"] is None:
            self.best_epoch = row["epoch"]  # the last one
            return
        by_loss = self.recipe.choose_by == "loss"
        value = -row["valid_loss"] if by_loss else row["valid_accuracy"]
        if value > self.best_value:
            self.best_value, self.best_epoch = value, row["epoch"]
            state = net.module_.state_dict()
            self.best_state = {name: part.detach().cpu().clone() for name, part in state.items()}

    def _plateau(self, net: _Net) -> Any:
        if self.scheduler is None:
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                net.optimizer_,
                factor=self.recipe.plateau_factor,
                patience=self.recipe.plateau_patience - 1,  # torch waits one epoch longer
                threshold_mode="abs",
                min_lr=self.recipe.min_learning_rate,
            )
        return self.scheduler

    def _save(self, net: _Net) -> None:
        path = self.path
        if path is None or self.epoch % self.recipe.checkpoint_epochs:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        state = {
            "fingerprint": self.fingerprint,
            "module": net.module_.state_dict(),
            "optimizer": net.optimizer_.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "history": self.history,
            "best_epoch": self.best_epoch,
            "best_state": self.best_state,
            "best_value": self.best_value,
            "random": torch.get_rng_state(),
        }
        torch.save(state, partial)
        partial.replace(path)

    def _diverged(self, net: _Net, value: float) -> InputError:
        rate = net.optimizer_.param_groups[0]["lr"]
        return InputError(
            f"model {self.recipe.network}: epoch {self.epoch + 1}",
            found=f"a loss of {value} at learning rate {rate:g}: the training has diverged",
            expected="a finite loss",
            remedy="Lower learning_rate (a tenth is a good start), and scale the features "
            "(features.scale = true).",
        )


def _fingerprint(recipe: Recipe, training: Arrays, validation: Arrays | None) -> str:
    ignored = ("checkpoint", "checkpoint_epochs", "progress")
    named = {key: value for key, value in asdict(recipe).items() if key not in ignored}
    named["torch"] = torch.__version__
    digest = hashlib.blake2b(repr(sorted(named.items())).encode(), digest_size=8)
    for part in (*training, *(validation or ())):
        digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()

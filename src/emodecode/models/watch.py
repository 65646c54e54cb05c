"""Watch: what happens around every epoch - log, learning rate, best epoch, checkpoint."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback
from tqdm import tqdm

from emodecode.errors import InputError
from emodecode.models.shared import is_first_process, over_processes

if TYPE_CHECKING:
    from emodecode.models.training import Recipe


class EnoughError(Exception):
    """Training has not improved for long enough."""


@dataclass(eq=False)
class Watch(Callback):
    """Log, learning rate, best epoch, early end, checkpoints; all state is in the checkpoint."""

    recipe: "Recipe"
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
        """Show the bar; begin a schedule that the first step must know."""
        if self.recipe.schedule == "cosine":
            self._scheduler(net)  # before the first step of the optimiser
        self.bar = tqdm(
            total=self.recipe.max_epochs,
            initial=self.epoch,
            desc=self.recipe.network,
            unit="epoch",
            leave=False,
            disable=not self.recipe.progress,
        )

    def on_epoch_begin(self, net, **kwargs):
        """Count anew."""
        self.seen = {True: [0.0] * 4, False: [0.0] * 4}

    def on_batch_end(self, net, batch=None, training=False, loss=None, y_pred=None, **kwargs):
        """Count samples, hits and loss, weighted as in the mean; stop at a loss not finite."""
        value, n = float(loss.detach()), len(batch[1])
        share = net.share(batch[1])
        lost = [float(not math.isfinite(value))]
        if any(over_processes(lost) if training else lost):  # in each process, if in one
            raise self._diverged(net, value)
        truth = batch[1].to(y_pred.device)
        hits = int((y_pred.argmax(1) == (truth.argmax(1) if truth.ndim == 2 else truth)).sum())
        for place, amount in enumerate((n, hits, share, share * value)):
            self.seen[training][place] += amount

    def on_epoch_end(self, net, **kwargs):
        """Log the epoch, keep the best weights, set the learning rate, write the checkpoint."""
        n, hits, share, loss = over_processes(self.seen[True])
        n_valid, valid_hits, valid_share, valid_loss = self.seen[False]
        row = {
            "epoch": self.epoch + 1,
            "learning_rate": float(net.optimizer_.param_groups[0]["lr"]),
            "train_loss": loss / share,
            "train_accuracy": hits / n,
            "valid_loss": valid_loss / valid_share if n_valid else None,
            "valid_accuracy": valid_hits / n_valid if n_valid else None,
            "penalty": net.penalty(),
        }
        self.history.append(row)
        self._keep_best(net, row)
        if self.recipe.schedule == "cosine":
            self._scheduler(net).step()
        elif self.recipe.plateau_factor < 1:
            watched = row["valid_loss"] if n_valid else row["train_loss"]
            self._scheduler(net).step(watched + row["penalty"])
        self.bar.update()
        if self.epoch % self.recipe.checkpoint_epochs == 0:
            self.save(net)
        if self.enough():
            raise EnoughError

    def resume(self, net: NeuralNet) -> None:
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
            self._scheduler(net).load_state_dict(state["scheduler"])
        self.history, self.best_epoch = state["history"], state["best_epoch"]
        self.best_state, self.best_value = state["best_state"], state["best_value"]
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def save(self, net: NeuralNet) -> None:
        """Write the checkpoint, if one is asked for."""
        path = self.path
        if path is None or not is_first_process():
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
            "random_cuda": _cuda_random(self.recipe.device),
        }
        torch.save(state, partial)
        partial.replace(path)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _keep_best(self, net: NeuralNet, row: dict[str, Any]) -> None:
        if row["valid_loss"] is None:
            self.best_epoch = row["epoch"]  # the last one
            return
        by_loss = self.recipe.choose_by == "loss"
        value = -row["valid_loss"] if by_loss else row["valid_accuracy"]
        if value > self.best_value:
            self.best_value, self.best_epoch = value, row["epoch"]
            state = net.module_.state_dict()
            self.best_state = {name: part.detach().cpu().clone() for name, part in state.items()}

    def _scheduler(self, net: NeuralNet) -> Any:
        if self.scheduler is None and self.recipe.schedule == "cosine":
            self.scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                net.optimizer_, T_max=self.recipe.max_epochs
            )
        elif self.scheduler is None:
            self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                net.optimizer_,
                factor=self.recipe.plateau_factor,
                patience=self.recipe.plateau_patience - 1,  # torch waits one epoch longer
                threshold_mode="abs",
                min_lr=self.recipe.min_learning_rate,
            )
        return self.scheduler

    def _diverged(self, net: NeuralNet, value: float) -> InputError:
        rate = net.optimizer_.param_groups[0]["lr"]
        return InputError(
            f"model {self.recipe.network}: epoch {self.epoch + 1}",
            found=f"a loss of {value} at learning rate {rate:g}: the training has diverged",
            expected="a finite loss",
            remedy="Lower learning_rate (a tenth is a good start), and scale the features "
            "(features.scale = true).",
        )


def _cuda_random(device: str) -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if device.startswith("cuda") else []

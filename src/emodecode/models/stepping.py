"""One training step: parts of a batch, penalties, precision, processes that share a batch."""

from fnmatch import fnmatchcase
from typing import Any

import torch
from skorch import NeuralNet
from torch import distributed, nn

from emodecode.models.shared import over_processes


class SteppedNet(NeuralNet):
    """skorch's net with the steps that our recipes name.

    A batch is worked off in `accumulate` parts (of two samples at least), and by all processes that
    share the training; the gradient is that of the whole batch's mean loss. Penalties are on the
    weights that the network names as penalised. The loss that is logged is the cross-entropy alone.
    """

    def __init__(
        self,
        *args: Any,
        l1: float = 0.0,
        l2: float = 0.0,
        accumulate: int = 1,
        precision: str = "float32",
        **kwargs: Any,
    ) -> None:
        self.l1, self.l2 = l1, l2
        self.accumulate, self.precision = accumulate, precision
        super().__init__(*args, **kwargs)

    def infer(self, x, **fit_params):
        """Apply the network; its output is float32 whatever it was computed in."""
        if self.precision == "float32":
            return super().infer(x, **fit_params)
        with torch.autocast(str(self.device).split(":")[0], dtype=torch.bfloat16):
            found = super().infer(x, **fit_params)
        return found.float()

    def train_step_single(self, batch, **fit_params):
        """Forward and backward of one batch: ``{"loss", "y_pred"}``; gradients are added up."""
        self._set_training(True)
        X, y = batch
        n_parts = self._n_parts(len(y))
        parts = list(zip(X.tensor_split(n_parts), y.tensor_split(n_parts), strict=True))
        shares = [self.share(own_y) for _, own_y in parts]
        (whole,) = over_processes([sum(shares)])
        losses, outputs = [], []
        for (own_X, own_y), share in zip(parts, shares, strict=True):
            output = self.infer(own_X, **fit_params)
            loss = self.get_loss(output, own_y, X=own_X, training=True)
            (loss if share == whole else loss * (share / whole)).backward()
            losses.append(loss.detach() * (share / sum(shares)))
            outputs.append(output.detach())
        _add_gradients(self.module_)
        self._add_penalties()
        return {"loss": torch.stack(losses).sum(), "y_pred": torch.cat(outputs)}

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

    def share(self, y: torch.Tensor) -> float:
        """Return what the mean loss of these samples was divided by."""
        weight = self.criterion_.weight
        if weight is None or y.ndim == 2:  # torch divides by the number where targets are shares
            return float(len(y))
        return float(weight[y.to(weight.device)].sum())

    def _n_parts(self, n: int) -> int:
        """Parts of a batch, as many in every process: they wait for each other in each."""
        if self.accumulate == 1:
            return 1
        (smallest,) = over_processes([n], least=True)
        return max(1, min(self.accumulate, int(smallest) // 2))

    def _add_penalties(self) -> None:
        if not (self.l1 or self.l2):
            return
        with torch.no_grad():  # the penalty's gradient; autograd needs twice the time for it
            for _, part in penalised(self.module_):
                if part.grad is not None:
                    part.grad.add_(part.sign(), alpha=self.l1).add_(part, alpha=2 * self.l2)


def penalised(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the weights of a network that penalties are on, by its patterns ``penalised``."""
    patterns = getattr(module, "penalised", ("*",))
    return [
        (name, part)
        for name, part in module.named_parameters()
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]


def _add_gradients(module: nn.Module) -> None:
    """Sum the gradients over the processes, in one message."""
    if not distributed.is_initialized():
        return
    given = [part.grad for part in module.parameters() if part.grad is not None]
    flat = torch.cat([each.flatten() for each in given])
    distributed.all_reduce(flat)
    for each, total in zip(given, flat.split([each.numel() for each in given]), strict=True):
        each.copy_(total.view_as(each))

"""Shared training: several processes, each with its part of every batch, as one.

    torchrun --nproc-per-node 2 --no-python emodecode evaluate study.toml --out out

Gradients, losses and the statistics of batch normalisation are those of the whole batch, so that
the loss curve is that of one process (with dropout or noise, which each process draws for itself,
it is one of the same kind).
"""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextlib.contextmanager
def process_group() -> Iterator[int]:
    """Join the processes that torchrun started, for as long as this lasts; gives the own number.

    Outside torchrun nothing happens and the number is 0. What lies on a GPU (one a process) goes
    through nccl, what lies in memory through gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or distributed.is_initialized():
        yield 0
        return
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()


def is_first_process() -> bool:
    """Tell whether this process keeps files; the others of a shared training do not."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def over_processes(amounts: Sequence[float], *, least: bool = False) -> list[float]:
    """Sum amounts over the processes that share a training, or find the least of each."""
    if not distributed.is_initialized():
        return list(amounts)
    total = torch.tensor(amounts, dtype=torch.float64)
    distributed.all_reduce(total, distributed.ReduceOp.MIN if least else distributed.ReduceOp.SUM)
    return total.tolist()


@contextlib.contextmanager
def folder_of_process(out: Path, resume: str) -> Iterator[Path]:
    """Give the first process `out`, every other one a folder that goes away, and no voice.

    All do the same work in the same order, from the same finished parts (``out/resume``, which all
    of them must see); what is kept is the first one's.
    """
    first = is_first_process()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        own = out if first else Path(folder) / out.name
        if not first:
            if (out / resume).is_dir():
                shutil.copytree(out / resume, own / resume)
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        if distributed.is_initialized():
            distributed.barrier()
        yield own


@contextlib.contextmanager
def share_statistics(module: nn.Module) -> Iterator[None]:
    """Let batch normalisation see the batches of all processes, for as long as this lasts.

    torch's own SyncBatchNorm does not run on CPUs.
    """
    layers = [each for each in module.modules() if isinstance(each, _BatchNorm)]
    if not distributed.is_initialized():
        layers = []
    for layer in layers:
        layer.forward = partial(_normalise, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


class _Sum(torch.autograd.Function):
    """Sum over the processes; each one's gradient is the sum of all that come back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def _normalise(layer: Any, given: torch.Tensor) -> torch.Tensor:
    """Batch normalisation by the moments over all processes; gradients go through them.

    In float32, as torch's own is where the input is of half precision.
    """
    if not layer.training:
        return type(layer).forward(layer, given)
    x = given.float()
    axes = [axis for axis in range(x.ndim) if axis != 1]
    sums = torch.cat([x.sum(axes), x.new_tensor([x.numel() / x.shape[1]])])
    total: Any = _Sum.apply(sums)
    n = total[-1]
    mean = (total[:-1] / n).view(1, -1, *[1] * (x.ndim - 2))
    variance: Any = _Sum.apply((x - mean).square().sum(axes)) / n
    if layer.track_running_stats:
        with torch.no_grad():
            rate = layer.momentum
            layer.running_mean.lerp_(mean.flatten(), rate)
            layer.running_var.lerp_(variance * n / (n - 1), rate)
            layer.num_batches_tracked.add_(1)
    scaled = (x - mean) * torch.rsqrt(variance + layer.eps).view_as(mean)
    if layer.affine:
        scaled = scaled * layer.weight.view_as(mean) + layer.bias.view_as(mean)
    return scaled.to(given.dtype)

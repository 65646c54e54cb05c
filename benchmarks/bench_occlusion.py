"""Occlusion of a whole volume by differences, beside the naive loop, captum and MONAI.

    python benchmarks/bench_occlusion.py [--repeats 3] [--positions 200]
    python benchmarks/bench_occlusion.py --device cuda [--positions 4096]

One thread, CPU seconds of this process; on a GPU seconds on the clock, and how far its logits are
from a forward pass in float64 on the CPU. Boxes of 2x2x2 voxels, stride 2, filled with 0. The
whole map is measured by differences (with what is computed once for the volume; of ResNets a
quarter of it); the others are measured on at least so many positions and extrapolated to the map,
in turns with ours.
"""

import argparse
import contextlib
import copy
import math
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch import nn

from emodecode.explain.incremental import Plan
from emodecode.explain.occlusion import occlude
from emodecode.models.networks3d import build_network3d

NETWORKS: dict[str, tuple[dict, tuple[int, int, int]]] = {
    "S1's CNN, 80x80x35": ({"name": "separable3d", "n_classes": 5}, (80, 80, 35)),
    "ResNet-18, 64x64x44": ({"name": "resnet3d", "n_classes": 3, "depth": 18}, (64, 64, 44)),
    "ResNet-50, 64x64x44": ({"name": "resnet3d", "n_classes": 3, "depth": 50}, (64, 64, 44)),
}


GPU: list[str] = []
"""Name of the device, if not the CPU."""


class _EnoughError(Exception):
    pass


def cpu(work: Callable[[], object]) -> float:
    """CPU seconds of a call; where there is a GPU at work, seconds until it is done."""
    if not GPU:
        started = time.process_time()
        work()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def differences(module: nn.Module, volume: torch.Tensor, total: int) -> float:
    """CPU seconds a map; of large networks the middle quarter of its slabs, times four."""
    if GPU or sum(part.numel() for part in module.parameters()) < 1_000_000:
        return cpu(lambda: occlude(module, volume, box_vox=2, stride_vox=2))
    counts = [(size - 2) // 2 + 1 for size in volume.shape]
    start = 2 * np.indices(counts).reshape(3, -1).T
    start = start[np.abs(start[:, 0] - volume.shape[0] / 2) < volume.shape[0] / 8]
    plan = Plan(module, tuple(volume.shape), (2, 2, 2))
    windows = volume.unfold(0, 2, 1).unfold(1, 2, 1).unfold(2, 2, 1)
    changes = -windows[tuple(torch.from_numpy(start).T)]
    return cpu(lambda: plan.open(volume).run(start, changes)) * total / len(start)


def naive(module: nn.Module, volume: torch.Tensor, n: int, batch: int) -> float:
    """CPU seconds a position, in batches."""
    corners = np.random.default_rng(0).integers(0, np.array(volume.shape) - 1, (n, 3))

    def work() -> None:
        with torch.inference_mode():
            for start in range(0, n, batch):
                part = corners[start : start + batch]
                changed = volume.repeat(len(part), 1, 1, 1, 1)
                for own, (x, y, z) in zip(changed, part, strict=True):
                    own[0, x : x + 2, y : y + 2, z : z + 2] = 0
                module(changed)

    return cpu(work) / n


def with_captum(module: nn.Module, volume: torch.Tensor, n: int) -> float:
    """CPU seconds a position of captum's Occlusion, stopped after n of them."""
    from captum.attr import Occlusion

    explain, calls = Occlusion(module), [0]

    def count(_: object, given: tuple[torch.Tensor], __: object) -> None:
        calls[0] += len(given[0])
        if calls[0] > n:
            raise _EnoughError

    def work() -> None:
        with torch.inference_mode(), contextlib.suppress(_EnoughError):
            explain.attribute(
                volume[None, None],
                target=0,
                sliding_window_shapes=(1, 2, 2, 2),
                strides=(1, 2, 2, 2),
                perturbations_per_eval=64 if GPU else 1,
            )

    handle = module.register_forward_hook(count)
    seconds = cpu(work)
    handle.remove()
    return seconds / calls[0]


def with_monai(module: nn.Module, volume: torch.Tensor, n: int) -> float:
    """CPU seconds a position of MONAI's OcclusionSensitivity, in a part of the volume."""
    from monai.visualize import OcclusionSensitivity

    edge = math.ceil(n ** (1 / 3))
    explain = OcclusionSensitivity(
        module,
        mask_size=2,
        n_batch=64 if GPU else 4,
        verbose=False,
        mode=0.0,
        overlap=0.0,
        activate=False,
    )
    calls = [0]
    handle = module.register_forward_hook(
        lambda _, given, __: calls.__setitem__(0, calls[0] + len(given[0]))
    )
    box = [part for size in volume.shape for part in (size // 2 - edge, size // 2 + edge - 1)]
    with torch.inference_mode():
        seconds = cpu(lambda: explain(volume[None, None], b_box=[*box]))
    handle.remove()
    return seconds / calls[0]


def rows(name: str, repeats: int, n: int) -> list[str]:
    """Rows of the table for one network."""
    how, shape = NETWORKS[name]
    torch.manual_seed(0)
    options = {key: value for key, value in how.items() if key not in ("name", "n_classes")}
    module = build_network3d(how["name"], shape=shape, n_classes=how["n_classes"], **options).eval()
    volume = torch.randn(shape)
    module, volume = (each.to(GPU[0] if GPU else "cpu") for each in (module, volume))
    total = math.prod((size - 2) // 2 + 1 for size in shape)
    ways: dict[str, Callable[[], float]] = {
        "differences": lambda: differences(module, volume, total),
        "of these: tracing, once a network": lambda: cpu(lambda: Plan(module, shape, (2, 2, 2))),
        "naive, batch 1": lambda: naive(module, volume, n if not GPU else n // 16, 1) * total,
        "naive, batch 16": lambda: naive(module, volume, n, 16) * total,
        "captum Occlusion": lambda: with_captum(module, volume, n) * total,
        "MONAI OcclusionSensitivity": lambda: with_monai(module, volume, n) * total,
    }
    if GPU:
        ways["naive, batch 64"] = lambda: naive(module, volume, n, 64) * total
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    ways["differences"]()  # imports, once
    for _ in range(repeats):
        for way, measure in ways.items():
            seconds[way].append(measure())
    ours = median(seconds["differences"])
    if GPU:
        print(f"{name}: largest difference of a logit {largest_difference(module, volume):.1e}")
    return [
        f"| {name} | {way} | {total:,} | {median(each):.1f} | {median(each) / ours:.1f} |"
        for way, each in seconds.items()
    ]


def largest_difference(module: nn.Module, volume: torch.Tensor) -> float:
    """Of logits by differences, from 64 forward passes in float64 on the CPU."""
    logits = occlude(module, volume, box_vox=2, stride_vox=2).cpu()
    exact, given = copy.deepcopy(module).cpu().double(), volume.cpu().double()
    found = 0.0
    for x, y, z in np.random.default_rng(0).integers(0, logits.shape[:3], (64, 3)):
        changed = given.clone()
        changed[2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2] = 0
        with torch.inference_mode():
            right = exact(changed[None, None])[0]
        found = max(found, float((right - logits[x, y, z]).abs().max()))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--positions", type=int, default=200)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.device != "cpu":
        GPU.append(given.device)
        print(torch.cuda.get_device_name())
    print(f"| network | way | positions | {'' if GPU else 'CPU '}s a map | times ours |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name in given.network or NETWORKS:
        print("\n".join(rows(name, given.repeats, given.positions)), flush=True)


if __name__ == "__main__":
    main()

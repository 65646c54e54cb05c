"""S2's 1-D CNN as written, composed and collapsed: prediction and training on one thread.

    python benchmarks/bench_conv1d.py [--repeats 200]

Peer: the same layers one after another in torch, as S2 wrote them for Keras. The ways take turns
within a repeat, so that a busy machine hits all of them alike.
"""

import argparse
import copy
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from emodecode.models.conv1d import PairConv1d, S2Conv1d

N_FEATURES, N_CLASSES, BATCH = 300, 3, 64
WRITTEN, COMPOSED, COLLAPSED = "as written", "composed", "collapsed"
OURS = "`conv1d`, one member"
L1 = 0.005
COLUMNS = (
    *("batch", "network", "p50, ms", "p95, ms", "p99, ms", "p50 a vector, ms"),
    *("times faster", "largest difference of a logit"),
)


def make_networks() -> dict[str, torch.nn.Module]:
    """Return S2's network in its three forms, with the same weights, and ours."""
    torch.manual_seed(0)
    written = S2Conv1d(N_FEATURES, N_CLASSES, composed=False).eval()
    composed = copy.deepcopy(written)
    composed.composed = True
    ours = PairConv1d(N_FEATURES, N_CLASSES).eval()
    return {WRITTEN: written, COMPOSED: composed, COLLAPSED: written.collapse(), OURS: ours}


def time_turns(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Return the milliseconds of each call of each way; the first three are not counted."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 3):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(each[3:]) for name, each in times.items()}


def predict_rows(networks: dict[str, torch.nn.Module], batch: int, repeats: int) -> list[str]:
    """Time the prediction of one batch; say how far each form is from the one as written."""
    x = torch.randn(batch, N_FEATURES, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ways = {name: (lambda module=module: module(x)) for name, module in networks.items()}
        times = time_turns(ways, repeats)
        truth = networks[WRITTEN](x)
        apart = {name: float((module(x) - truth).abs().max()) for name, module in networks.items()}
    lines = []
    for name, each in times.items():
        p50, p95, p99 = np.percentile(each, [50, 95, 99])
        difference = "" if name == OURS else f"{apart[name]:.0e}"
        lines.append(
            f"| {batch} | {name} | {p50:.3f} | {p95:.3f} | {p99:.3f} | {p50 / batch:.4f} "
            f"| {np.median(times[WRITTEN]) / p50:.0f} | {difference} |"
        )
    return lines


def training_step(module: torch.nn.Module, penalised: str, l1: float) -> Callable[[], None]:
    """Return one step of Adam on a batch, with S2's penalty added to the gradients."""
    module = copy.deepcopy(module).train()
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-5, fused=True)
    x, y = torch.randn(BATCH, N_FEATURES), torch.arange(BATCH) % N_CLASSES
    weights = [part for name, part in module.named_parameters() if name.startswith(penalised)]

    def step() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(module(x), y).backward()
        with torch.no_grad():
            for part in weights if l1 else ():
                part.grad.add_(part.sign(), alpha=l1)
        optimizer.step()

    return step


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    networks = make_networks()
    sizes = f"{N_FEATURES} features, {N_CLASSES} classes"
    print(f"{sizes}, float32, one thread, torch {torch.__version__}\n")
    print("| " + " | ".join(COLUMNS) + " |")
    print("| --- " * len(COLUMNS) + "|")
    print("\n".join(predict_rows(networks, 1, options.repeats)))
    print("\n".join(predict_rows(networks, 600, max(5, options.repeats // 20))))
    steps = {name: training_step(networks[name], "dense", L1) for name in (WRITTEN, COMPOSED)}
    steps[OURS] = training_step(networks[OURS], "output", 0.0)
    times = time_turns(steps, max(5, options.repeats // 10))
    print(f"\n| training step, batch {BATCH} | p50, ms | p95, ms | times faster |")
    print("| --- | --- | --- | --- |")
    for name, each in times.items():
        p50, p95 = np.percentile(each, [50, 95])
        print(f"| {name} | {p50:.1f} | {p95:.1f} | {np.median(times[WRITTEN]) / p50:.1f} |")


if __name__ == "__main__":
    main()

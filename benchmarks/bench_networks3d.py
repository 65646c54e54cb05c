"""3-D networks: a training step and a prediction beside their peers, and memory on a memory map.

    python benchmarks/bench_networks3d.py steps [--repeats 5] [--threads 1]
    python benchmarks/bench_networks3d.py memory [--samples 4400]
    python benchmarks/bench_networks3d.py epoch        (needs a GPU)

Peers: the same layers in a plain PyTorch loop (torch's own ReLU6, no engine), and MONAI's
ResNet-50 with its default first stride of 1. The ways take turns within a repeat, so that a busy
machine hits all of them alike. ``memory`` trains on 3.2 GB of volumes on disk and watches the
memory of the process beyond the file cache (RssAnon). ``epoch`` times one epoch of S1 (4,200
volumes of 80x80x35) and of S2-B (1,950 of 64x64x44) at full size.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from emodecode.models.cost import measure_cost
from emodecode.models.networks3d import build_network3d
from emodecode.models.rows import Rows
from emodecode.models.stepping import SteppedNet
from emodecode.models.volumenet import VolumeNetClassifier

S1, S2 = (80, 80, 35), (64, 64, 44)


def peers() -> dict[str, tuple[nn.Module, tuple[int, int, int], int, int]]:
    """Name -> network, shape, classes, batch of a training step."""
    import monai.networks.nets as nets

    torch.manual_seed(0)
    plain = build_network3d("separable3d", shape=S1, n_classes=5)
    for module in list(plain.modules()):
        for name, child in module.named_children():
            if type(child).__name__ == "LeanRelu6":
                setattr(module, name, nn.ReLU6())
    default = nets.resnet50(spatial_dims=3, n_input_channels=1, num_classes=2)
    resnet = build_network3d("resnet3d", shape=S2, n_classes=2, depth=50)
    return {
        "S1's CNN, plain PyTorch": (plain, S1, 5, 4),
        "S1's CNN, ours": (build_network3d("separable3d", shape=S1, n_classes=5), S1, 5, 4),
        "ResNet-50, MONAI's default stride": (default, S2, 2, 4),
        "ResNet-50, plain PyTorch": (resnet, S2, 2, 4),
        "ResNet-50, ours": (resnet, S2, 2, 4),
    }


def one_step(network: nn.Module, *, ours: bool) -> Callable[[torch.Tensor, torch.Tensor], None]:
    """Return a training step: our engine's, or the plain loop's."""
    if ours:
        net = SteppedNet(
            network, criterion=nn.CrossEntropyLoss, optimizer=torch.optim.AdamW, train_split=None
        ).initialize()
        return lambda X, y: net.train_step((X, y))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step(X: torch.Tensor, y: torch.Tensor) -> None:
        network.train()
        optimizer.zero_grad()
        functional.cross_entropy(network(X), y).backward()
        optimizer.step()

    return step


def steps(repeats: int) -> list[str]:
    """Rows of a table: seconds a volume in training, ms a volume in prediction."""
    ways = peers()
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
    makers = {name: one_step(way[0], ours=name.endswith("ours")) for name, way in ways.items()}
    for turn in range(repeats + 1):
        for name, (network, shape, n_classes, batch) in ways.items():
            X, y = torch.randn(batch, 1, *shape), torch.arange(batch) % n_classes
            started = time.perf_counter()
            makers[name](X, y)
            trained = time.perf_counter() - started
            network.eval()
            with torch.inference_mode():
                started = time.perf_counter()
                network(X[:1])
                predicted = time.perf_counter() - started
            if turn:
                times[name][0].append(trained / batch)
                times[name][1].append(1000 * predicted)
    lines = ["| network | multiply-adds | training, s a volume | prediction, ms a volume |"]
    lines.append("| --- | ---: | ---: | ---: |")
    for name, (network, shape, _, _) in ways.items():
        cost = measure_cost(network, (1, *shape)).multiply_adds / 1e9
        trained, predicted = (median(each) for each in times[name])
        lines.append(f"| {name} | {cost:.2f} G | {trained:.3f} | {predicted:.0f} |")
    return lines


class Watching(threading.Thread):
    """Follows the memory of this process beyond mapped files, GiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.done = 0.0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.05):
            status = Path("/proc/self/status").read_text()
            kib = next(line for line in status.splitlines() if line.startswith("RssAnon"))
            self.peak = max(self.peak, int(kib.split()[1]) / 2**20)


def memory(n_samples: int) -> list[str]:
    """Rows of a table: memory beyond the file cache while a network is trained from disk."""
    rng = np.random.default_rng(0)
    mask = np.ones(S2, dtype=bool)
    lines = ["| network | batch | parts of a batch | RssAnon at the peak, GiB |"]
    lines.append("| --- | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        X = np.lib.format.open_memmap(path, "w+", np.float32, (n_samples, mask.size))
        for start in range(0, n_samples, 100):
            part = X[start : start + 100]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        X.flush()
        del X
        X = np.load(path, mmap_mode="r")
        y = np.array(["neutral", "negative"])[np.arange(n_samples) % 2]
        subjects = np.repeat(np.arange(11), n_samples // 11).astype(str)
        rows = np.arange(len(subjects))
        for kind, batch, parts in (
            ("separable3d", 16, 4),
            ("resnet3d", 32, 1),
            ("resnet3d", 32, 2),
        ):
            watching = Watching()
            watching.start()
            net = VolumeNetClassifier(
                network=kind, depth=50, mask=mask, batch_size=batch, accumulate=parts, max_epochs=1
            )
            _train_briefly(net, Rows(X, rows), y[rows], subjects)
            watching.done.set()
            watching.join()
            lines.append(f"| {kind} | {batch} | {parts} | {watching.peak:.2f} |")
    return lines


def _train_briefly(net: VolumeNetClassifier, rows: Rows, y: np.ndarray, subjects: np.ndarray):
    """Standardise by all rows, then a few steps on batches from all over the map."""
    real = SteppedNet.train_step
    taken = []

    class EnoughError(Exception):
        pass

    def step(self, *args, **kwargs):
        taken.append(1)
        if len(taken) > 4:
            raise EnoughError
        return real(self, *args, **kwargs)

    SteppedNet.train_step = step
    try:
        net.fit(rows, y, subjects=subjects)
    except EnoughError:
        pass
    finally:
        SteppedNet.train_step = real


def epoch() -> Iterator[str]:
    """Rows of a table: one epoch at full size on the GPU, and how much of its peak that is."""
    yield torch.cuda.get_device_name(0) + "\n"
    yield "| network | volumes | s an epoch | TFLOP/s | read from the map, GB/s |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for kind, shape, n, batch, n_classes in (
        ("separable3d", S1, 4200, 16, 5),
        ("resnet3d", S2, 1950, 32, 2),
    ):
        mask = np.ones(shape, dtype=bool)
        X = np.random.default_rng(0).standard_normal((n, mask.size), dtype=np.float32)
        y = np.array(list("abcde"))[np.arange(n) % n_classes]
        net = VolumeNetClassifier(
            network=kind, depth=50, mask=mask, batch_size=batch, max_epochs=2, validation_share=0.0,
            patience=None, n_workers=4, device="cuda",
        )  # fmt: skip
        started = time.perf_counter()
        net.fit(X, y)
        one = time.perf_counter() - started
        net.set_params(max_epochs=6)
        started = time.perf_counter()
        net.fit(X, y)
        seconds = (time.perf_counter() - started - one) / 4
        cost = measure_cost(net.modules_[0].network, (1, *shape)).multiply_adds
        flops = 6 * cost * n / seconds / 1e12
        yield f"| {kind} | {n} | {seconds:.1f} | {flops:.1f} | {X.nbytes / seconds / 1e9:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("steps", "memory", "epoch"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=4400)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.what == "epoch" and not torch.cuda.is_available():
        parser.error("no GPU is at hand")
    rows = {
        "steps": lambda: steps(given.repeats),
        "memory": lambda: memory(given.samples),
        "epoch": epoch,
    }
    for row in rows[given.what]():
        print(row, flush=True)


if __name__ == "__main__":
    main()

"""How far apart the layers of a network hold the classes: one RDM a layer."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.pipeline import Pipeline
from torch import nn

from emodecode.errors import InputError
from emodecode.explain.rdm import check_labels, correlation_rdm
from emodecode.models.net import NetClassifier
from emodecode.models.resnet3d import PadTo
from emodecode.models.rows import Rows, as_rows
from emodecode.models.unmask import Unmask
from emodecode.models.volumenet import VolumeNetClassifier
from emodecode.models.windowed3d import Windowed3D


@dataclass(frozen=True, eq=False)
class _Tap:
    """Where values are taken: what goes into a module, or what comes out of it."""

    name: str
    module: nn.Module
    takes_input: bool


def layer_rdms(
    classifier: Any,
    X: "np.ndarray | Rows",
    labels: np.ndarray,
    *,
    zscore: bool = True,
    layers: Sequence[str] | None = None,
    asked: Mapping[str, np.ndarray] | None = None,
    batch_size: int = 4,
) -> dict[str, np.ndarray]:
    """Return 1 - r between the mean activations of the classes, for each layer of a network.

    Layers are the network's top-level blocks and, last, the features that its output layer reads.
    The first convolution on the full grid is left out: S1's has 7 million values for a volume.
    Only sums and squares are kept, of one batch after another. With several members the RDM is
    the mean of theirs.

    Parameters
    ----------
    classifier : fitted Pipeline, NetClassifier or VolumeNetClassifier
    X : ndarray or Rows, shape (n_samples, n_features)
    labels : ndarray of shape (n_samples,)
    zscore : bool, default True
        Standardise every feature over the samples first, as S1 did with the last one (spec
        S1.24); a feature that is constant becomes 0.
    layers : sequence of str, optional
        Only these.
    asked : mapping, optional
        What steps of the pipeline ask for beside the samples (``subjects``).
    batch_size : int
        Samples that go through the network at once.

    Returns
    -------
    dict of str -> ndarray of shape (n_classes, n_classes)
        Layer, from input to output (``block 1``, ``features (256)``) -> RDM in sorted order of the
        classes. A layer whose mean activations of a class are constant has no RDM and is left
        out. Empty for a decoder without layers.

    Raises
    ------
    InputError
        An unknown layer, labels that do not fit, values that are not finite.

    References
    ----------
    S1, Figure 5. Chan, Golub and LeVeque 1979, Stanford STAN-CS-79-773 (variance by batches).
    """
    front, last = _split(classifier)
    if not isinstance(last, (NetClassifier, VolumeNetClassifier)) or not hasattr(last, "modules_"):
        return {}
    if front is not None:
        with sklearn.config_context(enable_metadata_routing=True):
            X = front.transform(X.read() if isinstance(X, Rows) else X, **dict(asked or {}))
    rows = as_rows(X)
    classes, codes = np.unique(check_labels(labels, len(rows), where="labels"), return_inverse=True)
    found: dict[str, list[np.ndarray]] = {}
    for module in last.modules_:
        sums = _run(module, rows, codes, len(classes), layers=layers, last=last, size=batch_size)
        for name, each in sums.items():
            rdm = each.rdm(zscore=zscore)
            if rdm is not None:
                found.setdefault(name, []).append(rdm)
    return {name: np.mean(rdms, axis=0) for name, rdms in found.items()}


class _Sums:
    """Class sums, mean and squared deviations of every feature, from one batch after another."""

    def __init__(self, n_classes: int) -> None:
        self.n_of_class = np.zeros(n_classes)
        self.sums = self.mean = self.squares = np.empty(0)

    def add(self, values: np.ndarray, codes: np.ndarray) -> None:
        """Add a batch: values (n, n_features) and class numbers (n,)."""
        values = values.astype(np.float64)
        if not self.n_of_class.any():
            self.sums = np.zeros((len(self.n_of_class), values.shape[1]))
            self.mean, self.squares = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        before, n = self.n_of_class.sum(), len(values)
        own = values.mean(axis=0)
        gap = own - self.mean
        self.mean += gap * n / (before + n)
        self.squares += ((values - own) ** 2).sum(axis=0) + gap**2 * before * n / (before + n)
        for value, code in zip(values, codes, strict=True):
            self.sums[code] += value
            self.n_of_class[code] += 1

    def rdm(self, *, zscore: bool) -> np.ndarray | None:
        """RDM of the class means; None where a mean is constant."""
        if not np.isfinite(self.sums).all():
            raise _bad("activations that are not finite", "finite activations")
        means = self.sums / self.n_of_class[:, None]
        if zscore:
            spread = np.sqrt(self.squares / self.n_of_class.sum())
            largest = np.abs(means).max(axis=0, initial=0)
            means = (means - self.mean) / np.where(spread > 1e-12 * largest, spread, np.inf)
        try:
            return correlation_rdm(means)
        except InputError:
            return None


def _split(classifier: Any) -> tuple[Any, Any]:
    """Steps before the network, None without any, and the network."""
    if not isinstance(classifier, Pipeline):
        return None, classifier
    return (classifier[:-1] if len(classifier) > 1 else None), classifier[-1]


def _run(
    module: Any,
    rows: Rows,
    codes: np.ndarray,
    n_classes: int,
    *,
    layers: Sequence[str] | None,
    last: Any,
    size: int,
) -> dict[str, _Sums]:
    taps = _taps(module)
    names = [tap.name for tap in taps]
    for name in layers or ():
        if name not in names:
            raise _bad(f"no layer {name!r}", f"one of {', '.join(names)}")
    taps = [tap for tap in taps if layers is None or tap.name in layers]
    sums = {tap.name: _Sums(n_classes) for tap in taps}
    part: list[np.ndarray] = []

    def keep(name: str, value: torch.Tensor) -> None:
        if name in sums:
            n = len(part[0])  # of a window only the newest volume counts
            flat = value.detach().float().reshape(n, len(value) // n, -1)[:, -1]
            sums[name].add(flat.cpu().numpy(), part[0])

    weight = next(module.parameters())
    windowed = getattr(last, "window", None)
    with _in_eval(module), _hooked(taps, keep), torch.inference_mode():
        for start in range(0, len(rows), size):
            part[:] = [codes[start : start + size]]
            given = torch.from_numpy(rows.read(slice(start, start + size))).to(weight)
            if windowed is not None:  # every sample alone: the volumes before it are not there
                past = torch.full_like(given, torch.nan)[:, None].expand(-1, windowed - 1, -1)
                given = torch.cat([past, given[:, None]], dim=1)
            module(given)
    return sums


@contextmanager
def _in_eval(module: nn.Module) -> Iterator[None]:
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


@contextmanager
def _hooked(taps: Sequence[_Tap], keep: Callable[[str, torch.Tensor], None]) -> Iterator[None]:
    """Call `keep` with the values of each tap at once: later layers may work in place."""
    handles: list[Any] = []
    for tap in taps:
        if tap.takes_input:
            handles.append(
                tap.module.register_forward_pre_hook(
                    lambda _m, given, name=tap.name: keep(name, given[0])
                )
            )
        else:
            handles.append(
                tap.module.register_forward_hook(
                    lambda _m, _g, value, name=tap.name: keep(name, value)
                )
            )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _taps(module: Any) -> list[_Tap]:
    """Layers from input to output, the features before the output last."""
    network = module.network if isinstance(module, Unmask) else module
    encoder = network.encoder if isinstance(network, Windowed3D) else network
    if isinstance(encoder, nn.Sequential) and any(isinstance(part, PadTo) for part in encoder):
        encoder = encoder[-1]
    output = getattr(network, "output", None)
    if not isinstance(output, nn.Linear):
        output = [part for part in network.modules() if isinstance(part, nn.Linear)][-1]
    taps = [
        _Tap(f"block {number}", block, False)
        for number, block in enumerate(_blocks(encoder), start=1)
    ]
    taps += [
        _Tap(f"dense {number}", after, True)  # what the next layer reads, behind the ReLU
        for number, after in enumerate(list(getattr(encoder, "dense", []))[1:-1], start=1)
    ]
    filters = getattr(encoder, "filters", None)
    if isinstance(filters, nn.Module):
        taps.append(_Tap("filters", filters, False))
    return [*taps, _Tap(f"features ({output.in_features})", output, True)]


def _blocks(encoder: nn.Module) -> list[nn.Module]:
    """Top-level parts that hold layers with weights; of a single sequence of such parts, these."""
    found = _with_layers(encoder)
    if len(found) == 1 and isinstance(found[0], nn.Sequential):
        return _with_layers(found[0]) or found
    return found


def _with_layers(module: nn.Module) -> list[nn.Module]:
    return [
        part
        for part in module.children()
        if any(True for _ in part.children())
        and any(True for _ in part.parameters())
        and not isinstance(part, nn.ModuleList)
    ]


def _bad(found: str, expected: str) -> InputError:
    return InputError(
        "layers of a network",
        found=found,
        expected=expected,
        remedy="Leave layers out for all of them, or check the samples.",
    )

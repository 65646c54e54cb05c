"""Networks on vectors of aligned voxels: S2's 1-D CNN, S2's perceptron, and a small one of ours."""

import itertools
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from emodecode.errors import InputError

KERNEL = 10
"""Width of S2's convolutions."""
CHANNELS = (128, 128, 128, 64, 64, 64)
"""Channels of S2's six convolutions."""
DENSE = (1024, 512, 256, 128, 64, 32, 16)
"""Units of S2's dense layers before the output."""


class S2Conv1d(nn.Module):
    """S2's 1-D CNN as published: six linear convolutions, then eight dense layers.

    There is no activation and no normalisation between the convolutions (the paper names batch
    normalisation; the published code has none), so together they are one convolution of width 55
    from 1 to 64 channels, ``W = W6 * ... * W1``. It is composed of the six kernels in every
    forward pass and applied once: outputs and gradients of all parameters are those of the layers
    one after another, at a hundredth of the multiplications. ``composed=False`` runs them as
    written. For 300 features and 3 classes there are 17,316,195 parameters. The dense layers have
    ReLU as the paper says; dropout .25 behind the convolutions and .5 behind the first dense layer.

    Parameters
    ----------
    n_features : int
        At least 55: six valid convolutions of width 10 take away 54.
    n_classes : int
    composed : bool, default True

    References
    ----------
    S2, experiment A (spec S2.13). Keras flattens (position, channel), torch (channel, position):
    the same network with other names for its weights. Weights start as in Keras: Glorot uniform,
    biases zero.
    """

    penalised = ("dense.*",)  # S2's L1 penalty: kernels and biases of the dense layers

    def __init__(self, n_features: int = 300, n_classes: int = 3, *, composed: bool = True):
        super().__init__()
        check_width(n_features)
        self.composed = composed
        ins = (1, *CHANNELS[:-1])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(a, b, KERNEL) for a, b in zip(ins, CHANNELS, strict=True)
        )
        n_flat = CHANNELS[-1] * (n_features - len(CHANNELS) * (KERNEL - 1))
        sizes = (n_flat, *DENSE, n_classes)
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        _start_as_keras(*self.convolutions, *self.dense)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors ``(batch, n_features)`` -> logits ``(batch, n_classes)``."""
        flat = self._convolve(x[:, None]).flatten(1)
        hidden = functional.dropout(flat, 0.25, self.training)
        for number, layer in enumerate(self.dense[:-1]):
            hidden = functional.relu(layer(hidden))
            if number == 0:
                hidden = functional.dropout(hidden, 0.5, self.training)
        return self.dense[-1](hidden)

    def collapse(self) -> nn.Module:
        """Return the same network for inference, the convolutions folded into the first layer."""
        return CollapsedConv1d(self)

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        if not self.composed:
            for layer in self.convolutions:
                x = layer(x)
            return x
        kernel, bias = compose(self.convolutions)
        return functional.conv1d(x, kernel, bias)


class CollapsedConv1d(nn.Module):
    """`S2Conv1d` for inference: its convolutions and first dense layer are one matrix.

    ``W[h, v] = sum over o and p of D[h, o, p] K[o, v - p]`` with the dense layer's weights D and
    the composed kernel K. It is summed in float64 and kept in the network's own type; the other
    dense layers are the network's.
    """

    def __init__(self, network: S2Conv1d):
        super().__init__()
        dense: Any = network.dense[0]
        with torch.no_grad():
            kernel, bias = (part.double() for part in compose(network.convolutions))
            n_positions = dense.in_features // len(bias)
            spread = dense.weight.double().reshape(-1, len(bias), n_positions)
            merged = functional.conv_transpose1d(spread, kernel)[:, 0]
            shift = dense.bias.double() + spread.sum(-1) @ bias
            self.first = nn.Linear(merged.shape[1], len(merged), dtype=dense.weight.dtype)
            self.first.weight.copy_(merged)
            self.first.bias.copy_(shift)
        self.dense = network.dense[1:]
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors ``(batch, n_features)`` -> logits ``(batch, n_classes)``."""
        hidden = functional.relu(self.first(x))
        for layer in self.dense[:-1]:
            hidden = functional.relu(layer(hidden))
        return self.dense[-1](hidden)


class HansonMlp(nn.Module):
    """S2's perceptron as published: ten tanh units that all voxels share, then one dense layer.

    A dense layer of 1 to 10 units applied to each voxel (20 parameters), flattened, then dense to
    the classes: 9,023 parameters for 300 features and 3 classes.

    References
    ----------
    S2, experiment A, baseline "MLP" (spec S2.17).
    """

    penalised = ("*",)

    def __init__(self, n_features: int = 300, n_classes: int = 3, *, n_units: int = 10):
        super().__init__()
        self.units = nn.Linear(1, n_units)
        self.output = nn.Linear(n_features * n_units, n_classes)
        _start_as_keras(self.units, self.output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors ``(batch, n_features)`` -> logits ``(batch, n_classes)``."""
        return self.output(torch.tanh(self.units(x[..., None])).flatten(1))


class PairConv1d(nn.Module):
    """A small network of ours that reads single filters and products of two.

    Emotion may be coded by whether two regions move together: then class means are equal and only
    products of voxels tell the classes apart. S2's convolutions see ten neighbours on an axis whose
    order means nothing; here each of a few filters is a convolution as wide as the vector::

        z = BN(x) + noise                    (noise in training only)
        h = BN(conv(z))                      (n_filters)
        logits = A dropout([h, h_i h_j / sqrt(2), i <= j]) + B z

    The noise on the standardised input is what keeps so many products from learning single
    subjects; the linear path B keeps what a linear decoder finds.

    Parameters
    ----------
    n_features, n_classes : int
    n_filters : int, default 16
    dropout : float, default 0.25
    noise : float, default 2
        Standard deviation of the noise, in units of a feature's own.
    """

    penalised = ("output.*", "linear.*")  # the readout, not the filters, whose scale is free

    def __init__(
        self,
        n_features: int = 300,
        n_classes: int = 3,
        *,
        n_filters: int = 16,
        dropout: float = 0.25,
        noise: float = 2.0,
    ):
        super().__init__()
        self.noise, self.dropout = noise, dropout
        self.standardise = nn.BatchNorm1d(n_features, affine=False)
        self.filters = nn.Conv1d(1, n_filters, n_features, bias=False)
        nn.init.normal_(self.filters.weight, std=n_features**-0.5)
        self.normalise = nn.BatchNorm1d(n_filters, eps=1e-3, affine=False)
        pairs = torch.triu_indices(n_filters, n_filters)
        self.register_buffer("first", pairs[0], persistent=False)
        self.register_buffer("second", pairs[1], persistent=False)
        self.output = nn.Linear(n_filters + pairs.shape[1], n_classes)
        self.linear = nn.Linear(n_features, n_classes, bias=False)
        for layer in (self.output, self.linear):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors ``(batch, n_features)`` -> logits ``(batch, n_classes)``."""
        z = self.standardise(x)
        if self.training and self.noise:
            z = z + self.noise * torch.randn_like(z)
        h = self.normalise(self.filters(z[:, None])[..., 0])
        products = h[:, self.first] * h[:, self.second] / 2**0.5
        found = functional.dropout(torch.cat([h, products], 1), self.dropout, self.training)
        return self.output(found) + self.linear(z)


NETWORKS: dict[str, type[nn.Module]] = {
    "conv1d": PairConv1d,
    "s2_conv1d": S2Conv1d,
    "hanson_mlp": HansonMlp,
}
"""Kind of decoder -> its network."""


def compose(layers: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compose linear convolutions into one: kernel ``(out, in, width)`` and bias ``(out,)``.

    ``(W2 * W1)[d, i, t] = sum over c and s of W2[d, c, s] W1[c, i, t - s]``; a bias goes through a
    later layer as a constant (valid convolutions have no border).
    """
    first, *others = layers
    kernel, bias = first.weight, first.bias
    for layer in others:
        wide = functional.pad(kernel.transpose(0, 1), [layer.weight.shape[-1] - 1] * 2)
        kernel = functional.conv1d(wide, layer.weight.flip(-1)).transpose(0, 1)
        bias = layer.weight.sum(-1) @ bias + layer.bias
    return kernel, bias


def _start_as_keras(*layers: Any) -> None:
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def check_width(n_features: int) -> None:
    """Refuse vectors that six convolutions of width 10 leave nothing of."""
    least = len(CHANNELS) * (KERNEL - 1) + 1
    if n_features < least:
        raise InputError(
            "model s2_conv1d",
            found=f"{n_features} features",
            expected=f"at least {least}: its six convolutions take away {least - 1}",
            remedy="Select more voxels (features.n_voxels = 300 as S2), or use kind = conv1d.",
        )

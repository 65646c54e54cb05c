"""Successive volumes through one 3-D network: attention or a recurrent unit over their features."""

import torch
from torch import nn
from torch.nn import functional

from emodecode.errors import InputError


class Windowed3D(nn.Module):
    """Decode the newest of k successive volumes with what came before it.

    Every volume goes through the same encoder; the k vectors f of features are put together and a
    small perceptron gives the logits::

        t_j = LayerNorm(P f_j)                      (width)
        s   = [t_0, attention(t_0; t_0 ... t_k-1)]  or  GRU(t_k-1, ..., t_0)
        logits = B dropout(GELU(A s))

    where j counts back from the newest volume, j = 0. No volume after the newest is ever seen, so
    the network runs during a scan as it does afterwards. Window 1 is the same network without a
    past: what k volumes add to it is the gain of the window and of nothing else.

    Parameters
    ----------
    encoder : nn.Module
        Volumes ``(n, 1, x, y, z)`` -> features ``(n, n_features)``.
    n_features, n_classes : int
    window : int
        k, the volumes of a sample; at least 1.
    how : {"attention", "gru"}, default "attention"
    width : int, default 64
    n_heads : int, default 4
        Of the attention; divides `width`.
    dropout : float, default 0.3

    Raises
    ------
    InputError
        A window under 1, an unknown `how`, or a width that the heads do not divide.

    References
    ----------
    The future work of S1 (spec F2). Attention: Vaswani et al. 2017, NeurIPS; GRU: Cho et al. 2014,
    EMNLP.
    """

    def __init__(
        self,
        encoder: nn.Module,
        n_features: int,
        n_classes: int,
        window: int,
        how: str = "attention",
        *,
        width: int = 64,
        n_heads: int = 4,
        dropout: float = 0.3,
    ):
        super().__init__()
        _check_options(window, how, width, n_heads)
        self.window = window
        self.encoder = encoder
        self.project = nn.Linear(n_features, width)
        self.normalise = nn.LayerNorm(width)
        if how == "attention":
            self.summary: nn.Module = LastQuery(width, window, n_heads=n_heads)
        else:
            self.summary = MaskedGru(width)
        n_summary = 2 * width if how == "attention" else width
        self.hidden = nn.Linear(n_summary, width)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, n_classes)

    def forward(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Windows ``(batch, k, x, y, z)``, the newest volume last -> logits ``(batch, n_classes)``.

        ``valid`` (batch, k) is False for volumes that are not there, before the start of a run or
        left out; their values have no influence. The last is always valid. None: all are there.
        """
        return self.decode(self.encode(x, valid), valid)

    def encode(self, x: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Windows ``(batch, k, x, y, z)`` -> features ``(batch, k, n_features)``."""
        if x.ndim != 5 or x.shape[1] != self.window:
            raise InputError(
                "windowed network",
                found=f"input of shape {tuple(x.shape)}",
                expected=f"(batch, {self.window}, x, y, z)",
                remedy="Hand over as many successive volumes as the window has.",
            )
        if valid is None:
            return self.encoder(x.flatten(0, 1)[:, None]).unflatten(0, x.shape[:2])
        if not self.training:  # shapes that do not depend on values: can be exported
            return self.encode(torch.where(valid[..., None, None, None], x, 0))
        found = self.encoder(x[valid][:, None])  # batch statistics of volumes that are there
        features = found.new_zeros(*valid.shape, found.shape[1])
        return features.index_put((valid,), found)

    def decode(self, features: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """Features ``(batch, k, n_features)`` -> logits; for live use, which keeps the features."""
        if valid is None:
            valid = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
        features = features.masked_fill(~valid[..., None], 0)
        tokens = self.normalise(self.project(features))
        hidden = functional.gelu(self.hidden(self.summary(tokens, valid)))
        return self.output(self.dropout(hidden))


class LastQuery(nn.Module):
    """Attention in which only the newest volume asks; a learned code tells how far back one is."""

    def __init__(self, width: int, window: int, *, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.lags = nn.Parameter(0.02 * torch.randn(window, width))  # row j: j volumes back
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)

    def forward(self, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """``(batch, k, width)`` -> newest token and what it found ``(batch, 2 width)``."""
        tokens = tokens + self.lags.flip(0)
        newest = tokens[:, -1]
        query = self.query(newest).unflatten(-1, (self.n_heads, -1))
        key, value = (
            layer(tokens).unflatten(-1, (self.n_heads, -1)) for layer in (self.key, self.value)
        )
        scores = torch.einsum("bhd,bkhd->bhk", query, key) * query.shape[-1] ** -0.5
        weights = scores.masked_fill(~valid[:, None], -torch.inf).softmax(-1)
        found = torch.einsum("bhk,bkhd->bhd", weights.to(value.dtype), value)
        return torch.cat([newest, found.flatten(1)], 1)


class MaskedGru(nn.Module):
    """A gated recurrent unit that starts at zero and passes over volumes that are not there."""

    def __init__(self, width: int):
        super().__init__()
        self.cell = nn.GRUCell(width, width)

    def forward(self, tokens: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """``(batch, k, width)``, oldest first -> state after the newest ``(batch, width)``."""
        state = torch.zeros_like(tokens[:, 0])
        for token, there in zip(tokens.unbind(1), valid.unbind(1), strict=True):
            state = torch.where(there[:, None], self.cell(token, state).to(state.dtype), state)
        return state


def _check_options(window: int, how: str, width: int, n_heads: int) -> None:
    checks = (
        (window >= 1, f"window = {window}", "at least 1 volume"),
        (how in ("attention", "gru"), f"how = {how!r}", "attention or gru"),
        (n_heads >= 1 and width % max(n_heads, 1) == 0, f"width {width} for {n_heads} heads",
         "a width that the heads divide"),
    )  # fmt: skip
    for good, found, expected in checks:
        if not good:
            raise InputError(
                "windowed network",
                found=found,
                expected=expected,
                remedy="Correct it in the study.",
            )

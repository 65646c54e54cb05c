"""Patches: differences on boxes, carried through one operation after another.

A patch is ``(x, y, z, n, channels)``: the differences of n volumes from one volume, on boxes of one
size; in this order, what a tap of a kernel reads is long runs of memory. Nothing here is
approximate: a curve's difference is ``f(p + d) - f(p)`` with the values p of the volume itself, a
maximum is taken again over values and differences.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from emodecode.explain.boxes import Boxes, offsets, taps
from emodecode.explain.trace import Op, Window

_MOST_DENSE = 2**18
"""Entries of a matrix that takes a whole patch to a whole patch at once."""


class Cache:
    """Values of one volume in a map ``(channels, x, y, z)``, to be read in boxes."""

    def __init__(self, values: torch.Tensor) -> None:
        self.shape = tuple(values.shape[1:])
        self.rows = values.permute(1, 2, 3, 0).reshape(-1, len(values)).contiguous()

    def read(self, start: np.ndarray, size: Sequence[int]) -> torch.Tensor:
        """Return the values in boxes, (x, y, z, n, channels)."""
        places = _places(start, size, self.shape)
        inside, first = (torch.from_numpy(each).to(self.rows.device) for each in places)
        rows = (inside[:, None] + first).view(-1)
        return self.rows.index_select(0, rows).view(*size, len(start), -1)


def convolve(
    op: Op,
    given: torch.Tensor,
    offset: Sequence[int],
    size: Sequence[int],
    memo: dict,
    *,
    into: torch.Tensor | None = None,
) -> torch.Tensor:
    """Carry differences through a convolution.

    Parameters
    ----------
    op : Op
    given : Tensor of shape (x, y, z, n, n_in)
    offset : (int, int, int)
        Where the window of the first place begins, counted from the first place of `given`.
    size : (int, int, int)
        Of the box in the convolution's map.
    memo : dict
        Keeps what groups of the same shape share.
    into : Tensor of shape (x, y, z, n, n_out), optional
        Zeros that a kernel's taps may be added to; what is returned is then this.
    """
    weight = op.weight
    assert weight is not None
    n_out, n_own = weight.shape[:2]
    n, n_in = given.shape[3:]
    if op.window.is_point and op.groups == 1:
        return (given.reshape(-1, n_in) @ weight[:, :, 0, 0, 0].T).view(*given.shape[:4], n_out)
    if op.window.is_point and op.groups == n_in == n_out:
        return given * weight.view(-1)
    inside = tuple(given.shape[:3])
    entries = math.prod(inside) * n_in * math.prod(size) * n_out
    if n_in == op.groups == 1 and entries <= _MOST_DENSE:
        matrix = _matrix(op, inside, tuple(offset), tuple(size), memo)
        return (given.reshape(-1, n).T @ matrix).view(*size, n, n_out)
    found = given.new_zeros(*size, n, n_out) if into is None else into
    weights = _weights(op, memo)
    for tap, target, part in _meetings(op.window, offset, found, given, memo):
        own = weights[tap]
        if n_in == 1 or op.groups == n_in == n_out:
            target.addcmul_(part, own.view(-1))
        elif op.groups == 1:
            target += (part.reshape(-1, n_in) @ own.T).view(target.shape)
        else:
            split = part.unflatten(-1, (op.groups, n_own))
            each = own.view(op.groups, n_out // op.groups, n_own)
            target += torch.einsum("xyzngi,goi->xyzngo", split, each).flatten(-2)
    return found


def bend(op: Op, given: torch.Tensor, cache: Cache, start: np.ndarray) -> torch.Tensor:
    """Carry differences through a curve; `given` is used up."""
    assert op.curve is not None
    before = cache.read(start, given.shape[:3])
    after = op.curve(given.add_(before))
    return after.sub_(op.curve(before))


def pool(
    op: Op,
    given: torch.Tensor,
    caches: tuple[Cache, Cache],
    boxes: tuple[Boxes, Boxes, Boxes],
    memo: dict,
) -> torch.Tensor:
    """Carry differences through a maximum over windows.

    Parameters
    ----------
    op : Op
    given : Tensor of shape (x, y, z, n, channels)
    caches : (Cache, Cache)
        Of its input and of its own map.
    boxes : (Boxes, Boxes, Boxes)
        Of the differences, of what the windows read, and of the own map.
    memo : dict
        Keeps what groups of the same shape share.
    """
    changed, read, own = boxes
    size = first_of(own.size)
    values = caches[0].read(read.start, first_of(read.size))
    _add_overlap(values, given, first_of(changed.start - read.start))
    found = values.new_full((*size, *given.shape[3:]), -torch.inf)
    offset = first_of(offsets(op.window, read.start, own.start))
    for _, target, part in _meetings(op.window, offset, found, values, memo):
        torch.maximum(target, part, out=target)
    found.sub_(caches[1].read(own.start, size))
    # a window that reads nothing but padding is -inf before and after
    return found.nan_to_num_(nan=0.0) if max(op.window.padding) else found


def add(parts: Sequence[tuple[torch.Tensor, Sequence[int]]], size: Sequence[int]) -> torch.Tensor:
    """Add patches, each placed at its offset within a box."""
    given = parts[0][0]
    found = given.new_zeros(*size, *given.shape[3:])
    for patch, offset in parts:
        x, y, z = (slice(o, o + n) for o, n in zip(offset, patch.shape[:3], strict=True))
        found[x, y, z] += patch
    return found


def put(whole: torch.Tensor, patch: torch.Tensor, start: np.ndarray) -> None:
    """Add patches ``(x, y, z, n, c)`` to whole maps ``(n, c, X, Y, Z)``."""
    inside, first = _places(start, patch.shape[:3], whole.shape[2:])
    at = torch.from_numpy(first[:, None] + inside).to(whole.device)
    rows = patch.flatten(0, 2).permute(1, 2, 0)
    whole.flatten(2).scatter_add_(2, at[:, None].expand(rows.shape), rows)


def first_of(values: np.ndarray) -> tuple[int, ...]:
    """Return what is alike in all of a group, from its first member, (n, 3) -> (3,)."""
    return tuple(int(each) for each in values[0])


def _places(
    start: np.ndarray, size: Sequence[int], shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of a box in a flattened map, and where each box begins."""
    n_y, n_z = shape[1:]
    x, y, z = (np.arange(each) for each in size)
    inside = ((x[:, None] * n_y + y)[:, :, None] * n_z + z).ravel()
    return inside, (start[:, 0] * n_y + start[:, 1]) * n_z + start[:, 2]


def _add_overlap(values: torch.Tensor, patch: torch.Tensor, offset: Sequence[int]) -> None:
    """Add a patch at an offset; what lies outside is left out."""
    own, other = [], []
    for o, n, width in zip(offset, patch.shape[:3], values.shape[:3], strict=True):
        low, high = max(o, 0), min(o + n, width)
        own.append(slice(low, high))
        other.append(slice(low - o, high - o))
    values[tuple(own)] += patch[tuple(other)]


def _meetings(
    window: Window, offset: Any, found: torch.Tensor, given: torch.Tensor, memo: dict
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """Yield the number of each tap that meets the boxes, its outputs and its inputs."""
    inside, size = tuple(given.shape[:3]), tuple(found.shape[:3])
    first = tuple(int(each) for each in offset)
    key = (window, first, inside, size)
    if key not in memo:
        memo[key] = list(_each_tap(window, first, inside, size))
    own, other = found.stride(), given.stride()
    start, begin = found.storage_offset(), given.storage_offset()
    for tap, shape, (ox, oy, oz), (ix, iy, iz), step in memo[key]:
        yield (
            tap,
            found.as_strided(
                (*shape, *found.shape[3:]), own, start + ox * own[0] + oy * own[1] + oz * own[2]
            ),
            given.as_strided(
                (*shape, *given.shape[3:]),
                (*(s * each for s, each in zip(step, other, strict=False)), *other[3:]),
                begin + ix * other[0] + iy * other[1] + iz * other[2],
            ),
        )


def _each_tap(window: Window, offset: Sequence[int], inside: Sequence[int], size: Sequence[int]):
    """Yield (number of the tap, shape, first output, first input, stride)."""
    kernel, stride, dilation = window.kernel, window.stride, window.dilation
    axes = [
        taps(kernel[k], stride[k], dilation[k], offset[k], inside[k], size[k]) for k in range(3)
    ]
    for each in itertools.product(*axes):
        tap, out, stop, read = zip(*each, strict=True)
        shape = tuple(b - a for a, b in zip(out, stop, strict=True))
        yield (tap[0] * kernel[1] + tap[1]) * kernel[2] + tap[2], shape, out, read, stride


def _weights(op: Op, memo: dict) -> tuple[torch.Tensor, ...]:
    """Return the weights of each tap, (n_out, n_in / groups)."""
    if op not in memo:
        assert op.weight is not None
        memo[op] = op.weight.flatten(2).permute(2, 0, 1).contiguous().unbind()
    return memo[op]


def _matrix(op: Op, inside: tuple, offset: tuple, size: tuple, memo: dict) -> torch.Tensor:
    """Return the convolution as a matrix for each place, (x, y, z, places read, n_out)."""
    key = (op, inside, tuple(map(int, offset)), size)
    if key not in memo:
        assert op.weight is not None
        n = math.prod(inside)
        unit = torch.eye(n, dtype=op.weight.dtype, device=op.weight.device).view(*inside, n, 1)
        found = unit.new_zeros(*size, n, len(op.weight))
        weights = _weights(op, memo)
        for tap, target, part in _meetings(op.window, offset, found, unit, memo):
            target += part @ weights[tap].T
        memo[key] = found
    return memo[key]

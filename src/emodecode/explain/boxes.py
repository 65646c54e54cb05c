"""Boxes: which part of each map a change of some voxels can reach."""

from dataclasses import dataclass

import numpy as np

from emodecode.explain.trace import Op, Window


@dataclass(frozen=True)
class Boxes:
    """Boxes of places in a map: ``start`` and ``stop``, (n, 3) each; empty where stop <= start."""

    start: np.ndarray
    stop: np.ndarray

    @property
    def size(self) -> np.ndarray:
        """Places along each axis, (n, 3)."""
        return np.maximum(self.stop - self.start, 0)

    def take(self, rows: np.ndarray) -> "Boxes":
        """Return some of them."""
        return Boxes(self.start[rows], self.stop[rows])


def reach_all(ops: list[Op], given: dict[Op, Boxes]) -> dict[Op, Boxes]:
    """Return the boxes that changes reach in each operation, from those that are given."""
    found = dict(given)
    for op in ops:
        if op in found:
            continue
        if op.kind == "add":
            found[op] = _union(*(found[each] for each in op.inputs))
        else:
            found[op] = reach(found[op.inputs[0]], op.window, op.shape)
    return found


def reach(boxes: Boxes, window: Window, shape: tuple[int, int, int]) -> Boxes:
    """Return the places of an operation's map whose windows meet the boxes."""
    if window.is_point:
        return boxes
    kernel, stride, padding, dilation = (np.array(each) for each in _parts(window))
    start = -(((kernel - 1) * dilation - padding - boxes.start) // stride)
    last = (boxes.stop - 1 + padding) // stride
    empty = boxes.stop <= boxes.start
    start, stop = np.maximum(start, 0), np.minimum(last + 1, np.array(shape))
    return Boxes(start, np.where(empty, start, stop))


def offsets(window: Window, given: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Return where the first place's window begins, counted from the box that it reads (n, 3)."""
    return found * np.array(window.stride) - np.array(window.padding) - given


def keys(ops: list[Op], boxes: dict[Op, Boxes]) -> np.ndarray:
    """Return what tells apart the shapes of all boxes and how they lie to each other, (n, m)."""
    parts = []
    for op in ops:
        own = boxes[op]
        parts.append(own.size)
        for each in op.inputs:
            parts.append(offsets(op.window, boxes[each].start, own.start))
        if op.kind == "max":  # windows over the border read less
            read, (first, stop) = read_by(op, own), _unclipped(op, own)
            parts += [read.start - first, stop - read.stop]
    return np.concatenate(parts, axis=1)


def read_by(op: Op, own: Boxes) -> Boxes:
    """Return the boxes of its input that an operation's boxes read, within the map."""
    first, stop = _unclipped(op, own)
    return Boxes(np.maximum(first, 0), np.minimum(stop, np.array(op.inputs[0].shape)))


def groups(found: np.ndarray) -> list[np.ndarray]:
    """Return the row numbers of each different row."""
    least = found.min(axis=0)
    ranges = found.max(axis=0) - least + 1
    varying = ranges > 1
    if not varying.any():
        return [np.arange(len(found))]
    if np.log2(ranges.astype(float)).sum() < 62:  # one whole number for a row
        places = np.cumprod([1, *ranges[varying][:-1]])
        which = (found - least)[:, varying] @ places
    else:
        which = np.unique(found, axis=0, return_inverse=True)[1].ravel()
    order = np.argsort(which, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(which[order])) + 1)


def taps(kernel: int, stride: int, dilation: int, offset: int, n_in: int, n_out: int) -> list:
    """Return which outputs each tap gives something to, along one axis.

    Returns
    -------
    list of (tap, first output, stop, first input)
        Output ``first + j`` reads input ``first input + stride j``.
    """
    found = []
    for tap in range(kernel):
        shift = offset + tap * dilation  # input of output 0
        first = max(0, -(shift // stride) if shift < 0 else 0)
        stop = min(n_out, (n_in - 1 - shift) // stride + 1)
        if first < stop:
            found.append((tap, first, stop, shift + first * stride))
    return found


def count_pairs(op: Op, given: Boxes, found: Boxes) -> np.ndarray:
    """Return how many pairs of a place and one that it reads lie in the boxes, (n,)."""
    size, own = given.size, found.size
    if op.window.is_point or op.kind == "add":
        return own.prod(axis=1).astype(float)
    offset = offsets(op.window, given.start, found.start)
    total = np.ones(len(own))
    for axis in range(3):
        kernel, stride = op.window.kernel[axis], op.window.stride[axis]
        n = np.zeros(len(own))
        for tap in range(kernel):
            shift = offset[:, axis] + tap * op.window.dilation[axis]
            first = np.maximum(0, -(shift // stride))
            stop = np.minimum(own[:, axis], (size[:, axis] - 1 - shift) // stride + 1)
            n += np.maximum(stop - first, 0)
        total *= n
    return total


def _unclipped(op: Op, own: Boxes) -> tuple[np.ndarray, np.ndarray]:
    kernel, stride, padding, dilation = (np.array(each) for each in _parts(op.window))
    last = (own.stop - 1) * stride - padding + (kernel - 1) * dilation
    return own.start * stride - padding, last + 1


def _union(one: Boxes, other: Boxes) -> Boxes:
    first, second = one.size.prod(axis=1) > 0, other.size.prod(axis=1) > 0
    start = np.minimum(one.start, other.start)
    stop = np.maximum(one.stop, other.stop)
    only = (first & ~second)[:, None]
    start, stop = np.where(only, one.start, start), np.where(only, one.stop, stop)
    only = (second & ~first)[:, None]
    return Boxes(np.where(only, other.start, start), np.where(only, other.stop, stop))


def _parts(window: Window) -> tuple:
    return window.kernel, window.stride, window.padding, window.dilation

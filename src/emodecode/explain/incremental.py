"""Logits of many slightly changed volumes, from the differences alone.

Changing a few voxels changes a small box of every early map of a network. The volume itself is
computed once; for each change only the differences on that box are carried on, to where the
network takes the mean over the map (what comes then is a handful of numbers), or to where the boxes
have grown so far that the rest is cheaper computed as a whole. Exact up to rounding.

References
----------
Nakandala et al. (2019), SIGMOD, "Incremental and approximate inference for faster occlusion-based
deep CNN explanations" (2-D, by reading windows again). Here: 3-D, by differences.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from emodecode.explain import patches
from emodecode.explain.boxes import Boxes, count_pairs, groups, keys, offsets, reach_all, read_by
from emodecode.explain.trace import Cut, Op, Traced, Triple, ops_before, trace


@dataclass(frozen=True)
class Limits:
    """How much is worked on at a time.

    Parameters
    ----------
    block : int
        Changes whose boxes are carried through the network together.
    n_bytes : int
        Of one operation's patches: what lies in a processor's cache, or keeps a GPU busy.
    whole : int
        Whole maps that are computed together.
    """

    block: int = 8192
    n_bytes: int = 3 * 2**20
    whole: int = 16


_LIMITS = {"cpu": Limits(), "cuda": Limits(block=2**16, n_bytes=2**30, whole=64)}
_OVERHEAD = 1.2
"""Seconds per multiply-add on boxes, in those of the network's own operations."""


@dataclass(eq=False)
class Stage:
    """Operations from one place that everything goes through to another."""

    first: Op
    last: Op
    ops: list[Op]
    readers: dict[Op, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for op in self.ops:
            for each in op.inputs:
                self.readers[each] = self.readers.get(each, 0) + 1


class Plan:
    """How changes of a network's volumes are followed.

    Parameters
    ----------
    module : Module
        In eval mode, volumes ``(batch, 1, x, y, z)`` -> logits ``(batch, n_classes)``.
    shape : (x, y, z)
    size : (x, y, z)
        About the size of the changes to come: where to stop carrying differences follows from it.

    Attributes
    ----------
    whole : bool
        Every changed volume is computed as a whole: the network begins with something that
        differences cannot be carried through (`stuck`), or it is as cheap.
    stuck : bool
    """

    def __init__(self, module: nn.Module, shape: Triple, size: Triple) -> None:
        self.module, self.shape = module, shape
        self.memo: dict[Any, Any] = {}
        traced = trace(module, shape)
        self.whole = self.stuck = traced is None
        if traced is None:
            return
        self.traced = traced
        self.cut = _best_cut(traced, shape, size)
        self.ops = ops_before(self.cut.op)
        self.cached = _cached(self.ops)
        self.stages = _stages(self.ops, self.cut)
        self.whole = self.cut.op.kind == "input"
        self.stuck = all(cut.op.kind == "input" for cut in traced.cuts)

    def open(self, volume: torch.Tensor) -> "Followed | Whole":
        """Compute a volume ``(x, y, z)`` once, so that its changes can be followed."""
        return Whole(self.module, volume) if self.whole else Followed(self, volume)

    def rest(self, value: torch.Tensor) -> torch.Tensor:
        """Compute logits from values at the cut, which are used up."""
        return self.traced.rest(self.cut, value, self.shape)


class Whole:
    """A volume whose changes are computed as a whole, for networks that cannot be traced.

    Attributes
    ----------
    logits : Tensor of shape (n_classes,)
    """

    def __init__(self, module: nn.Module, volume: torch.Tensor) -> None:
        self.module, self.volume = module, volume
        with torch.no_grad():
            self.logits = module(volume[None, None].clone())[0]

    def run(self, start: np.ndarray, changes: torch.Tensor) -> torch.Tensor:
        """See `Followed.run`."""
        found = []
        with torch.no_grad():
            step = limits_of(self.volume).whole
            for at in range(0, len(start), step):
                part = slice(at, at + step)
                whole = self.volume.repeat(len(start[part]), 1, 1, 1, 1)
                patches.put(whole, changes[part].permute(1, 2, 3, 0)[..., None], start[part])
                found.append(self.module(whole))
        return torch.cat(found)


@dataclass(eq=False)
class Piece:
    """Differences of some changes in one map: which, where their boxes start, and the patch."""

    rows: np.ndarray
    start: np.ndarray
    patch: torch.Tensor


class Followed:
    """A volume whose changes are followed through a network.

    Attributes
    ----------
    logits : Tensor of shape (n_classes,)
        Of the volume itself.
    """

    def __init__(self, plan: Plan, volume: torch.Tensor) -> None:
        self.plan = plan
        keep = {op.node for op in plan.cached} | {plan.cut.nodes[-1]}
        with torch.no_grad():
            values = plan.traced.values(volume[None, None].clone(), keep)
            self.base = values[plan.cut.nodes[-1]]
            self.logits = plan.rest(self.base.clone())[0]
        self.memory: dict[Op, torch.Tensor] = {}
        self.caches = {op: patches.Cache(values[op.node][0]) for op in plan.cached}

    def run(self, start: np.ndarray, changes: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, n_classes) of the volume with each of n boxes changed.

        Parameters
        ----------
        start : ndarray of int, shape (n, 3)
            First voxels of the boxes, all of which lie within the volume.
        changes : Tensor of shape (n, x, y, z)
            What is added to the volume there.
        """
        found = self.logits.repeat(len(start), 1)
        with torch.no_grad():
            step = limits_of(changes).block
            for begin in range(0, len(start), step):
                rows = np.arange(begin, min(begin + step, len(start)))
                given = changes[begin : begin + step].permute(1, 2, 3, 0)[..., None]
                block = [Piece(rows, start[rows], given.contiguous())]
                for stage in self.plan.stages:
                    block = self._advance(stage, block)
                self._finish(block, rows, found)
        return found

    def _advance(self, stage: Stage, pieces: list[Piece]) -> list[Piece]:
        """Carry all patches through a stage; those whose boxes have one size come out together."""
        tasks, counts = [], Counter[tuple[int, ...]]()
        for piece in pieces:
            stop = piece.start + np.array(piece.patch.shape[:3])
            boxes = reach_all(stage.ops, {stage.first: Boxes(piece.start, stop)})
            sizes = boxes[stage.last].size
            for group in groups(keys(stage.ops, boxes)):
                size = patches.first_of(sizes[group])
                if math.prod(size):
                    tasks.append((piece, boxes, group, size))
                    counts[size] += len(group)
        found = self._empty(stage, counts, pieces[0].patch)
        filled = dict.fromkeys(counts, 0)
        for piece, boxes, group, size in tasks:
            step = _step(stage.ops, boxes, group[0], piece.patch)
            for at in range(0, len(group), step):
                members = group[at : at + step]
                own = {op: each.take(members) for op, each in boxes.items()}
                part = slice(filled[size], filled[size] + len(members))
                into = found[size].patch[..., part, :]
                self._carry(stage, own, _take(piece.patch, members), into)
                found[size].rows[part] = piece.rows[members]
                found[size].start[part] = own[stage.last].start
                filled[size] = part.stop
        return list(found.values())

    def _empty(
        self, stage: Stage, counts: dict[tuple[int, ...], int], like: torch.Tensor
    ) -> dict[tuple[int, ...], Piece]:
        """Return zeros for what comes out of a stage, in memory that the last block used."""
        n_channels = stage.last.n_channels
        lengths = [math.prod(size) * n * n_channels for size, n in counts.items()]
        memory = self.memory.get(stage.last)
        if memory is None or len(memory) < sum(lengths):
            memory = self.memory[stage.last] = like.new_empty(sum(lengths))
        parts = memory[: sum(lengths)].zero_().split(lengths)
        return {
            size: Piece(
                np.empty(n, dtype=np.int64),
                np.empty((n, 3), dtype=np.int64),
                part.view(*size, n, n_channels),
            )
            for (size, n), part in zip(counts.items(), parts, strict=True)
        }

    def _carry(
        self, stage: Stage, boxes: dict[Op, Boxes], given: torch.Tensor, into: torch.Tensor
    ) -> None:
        """Carry the patches of one group through a stage and add what comes out to `into`."""
        found: dict[Op, torch.Tensor | None] = {stage.first: given}
        readers = dict(stage.readers)
        for op in stage.ops:
            inputs = [found[each] for each in op.inputs]
            last = into if op is stage.last else None
            if not boxes[op].size[0].prod() or all(each is None for each in inputs):
                found[op] = None
            else:
                found[op] = self._apply(op, inputs, boxes, readers, last)
            for each in op.inputs:
                readers[each] -= 1
                if not readers[each]:
                    found[each] = None
        result = found[stage.last]
        if result is not None and result is not into:
            into.add_(result)

    def _apply(
        self,
        op: Op,
        inputs: list[torch.Tensor | None],
        boxes: dict[Op, Boxes],
        readers: dict[Op, int],
        into: torch.Tensor | None,
    ) -> torch.Tensor:
        own, first = boxes[op], op.inputs[0]
        size = patches.first_of(own.size)
        if op.kind == "add":
            parts = [
                (patch, patches.first_of(boxes[each].start - own.start))
                for each, patch in zip(op.inputs, inputs, strict=True)
                if patch is not None
            ]
            return patches.add(parts, size)
        (given,) = inputs
        assert given is not None
        memo = self.plan.memo
        if op.kind == "curve":
            mine = given if readers[first] == 1 else given.clone()
            return patches.bend(op, mine, self.caches[first], own.start)
        if op.kind == "conv":
            offset = patches.first_of(offsets(op.window, boxes[first].start, own.start))
            return patches.convolve(op, given, offset, size, memo, into=into)
        caches = self.caches[first], self.caches[op]
        return patches.pool(op, given, caches, (boxes[first], read_by(op, own), own), memo)

    def _finish(self, block: list[Piece], rows: np.ndarray, found: torch.Tensor) -> None:
        """Add to the logits what the differences at the cut make of them."""
        plan, base = self.plan, self.base
        if plan.cut.mean:
            sums = base.new_zeros(len(rows), plan.cut.op.n_channels)
            for piece in block:
                which = torch.from_numpy(piece.rows - rows[0]).to(base.device)
                sums[which] = piece.patch.sum((0, 1, 2)) / math.prod(plan.cut.op.shape)
            moved = sums if plan.cut.matrix is None else sums @ plan.cut.matrix.T
            moved = moved.view(len(rows), *base.shape[1:])
            found[rows[0] : rows[-1] + 1] += plan.rest(base + moved) - self.logits
            return
        for piece in block:
            step = limits_of(base).whole
            for at in range(0, len(piece.rows), step):
                part = slice(at, at + step)
                whole = base.repeat(len(piece.rows[part]), 1, 1, 1, 1)
                patches.put(whole, piece.patch[..., part, :], piece.start[part])
                which = torch.from_numpy(piece.rows[part]).to(base.device)
                found[which] += plan.rest(whole) - self.logits


def _stages(ops: list[Op], cut: Cut) -> list[Stage]:
    """Break the operations behind windows: until there, boxes of one size stay of one size."""
    place = {op: number for number, op in enumerate(ops)}
    earliest = [min((place[each] for each in op.inputs), default=0) for op in ops]
    through = {op for op in ops if min(earliest[place[op] + 1 :], default=len(ops)) >= place[op]}
    found, first, own = [], ops[0], []
    for op in ops[1:]:
        own.append(op)
        wide = [each for each in own if not each.window.is_point]
        enough = len(wide) > 1 or any(max(each.window.stride) > 1 for each in wide)
        if op is cut.op or (op in through and enough):
            found.append(Stage(first, op, own))
            first, own = op, []
    return found


def _best_cut(traced: Traced, shape: Triple, size: Triple) -> Cut:
    """Choose where to go over to whole maps: what costs least, for boxes all over the volume."""
    last = [cut for cut in traced.cuts if not cut.mean][-1]
    ops = ops_before(last.op)
    most = np.maximum(np.array(shape) - np.array(size), 0)
    start = np.random.default_rng(0).integers(0, most + 1, (64, 3))
    boxes = reach_all(ops, {ops[0]: Boxes(start, start + np.minimum(size, shape))})
    on_boxes, whole = [0.0], [0.0]
    for op in ops[1:]:
        first = op.inputs[0]
        n_pairs = count_pairs(op, boxes[first], boxes[op]).mean()
        on_boxes.append(_OVERHEAD * op.cost(n_pairs))
        whole.append(op.cost(math.prod(op.shape) * math.prod(op.window.kernel)))
    costs = []
    for cut in traced.cuts:
        at = ops.index(cut.op) + 1 if cut.op in ops else len(ops)
        known = cut.op in ops or cut.mean
        later = 0.0 if cut.mean else sum(whole[at:])
        costs.append(sum(on_boxes[:at]) + later if known else math.inf)
    return traced.cuts[len(costs) - 1 - int(np.argmin(costs[::-1]))]  # of equals the last


def _cached(ops: list[Op]) -> list[Op]:
    """Operations whose values are needed: what goes into curves and maxima, and their maxima."""
    before = [op.inputs[0] for op in ops if op.kind in ("curve", "max")]
    return list(dict.fromkeys([*before, *(op for op in ops if op.kind == "max")]))


def _take(patch: torch.Tensor, members: np.ndarray) -> torch.Tensor:
    first, last = int(members[0]), int(members[-1])
    if last - first + 1 == len(members):  # in order: nothing is copied
        return patch[..., first : last + 1, :]
    return patch.index_select(3, torch.from_numpy(members).to(patch.device))


def limits_of(values: torch.Tensor) -> Limits:
    """Return how much is worked on at a time where some values lie."""
    return _LIMITS.get(values.device.type, _LIMITS["cpu"])


def _step(ops: list[Op], boxes: dict[Op, Boxes], example: int, like: torch.Tensor) -> int:
    """Changes to work on at a time, so that an operation's patches are not too large."""
    widest = max(int(boxes[op].size[example].prod()) * op.n_channels for op in ops)
    return max(16, limits_of(like).n_bytes // max(1, widest * like.element_size()))

"""Trace: a network as operations that a difference can be carried through.

torch.export gives the operations, batch normalisation is folded into the convolution before it,
and 1x1x1 convolutions that follow each other become one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

Triple = tuple[int, int, int]

_CURVES = (
    *("relu", "relu_", "relu6", "relu6_", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_"),
    *("elu", "elu_", "silu", "silu_", "gelu", "hardswish", "hardswish_", "sigmoid", "tanh", "mish"),
)
"""Functions of each value by itself."""
_SAME = ("dropout", "detach")
"""What hands its input on, the same memory."""
_NO_VOLUME = ("sym_size", "sym_numel")


@dataclass(frozen=True)
class Window:
    """Which values of its input an operation reads, along each axis."""

    kernel: Triple
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)

    @property
    def is_point(self) -> bool:
        """Each output reads the input at its own place and nothing else."""
        return self == Window((1, 1, 1))


POINT = Window((1, 1, 1))


@dataclass(eq=False)
class Op:
    """One operation on maps ``(batch, channels, x, y, z)``.

    Parameters
    ----------
    kind : {"input", "conv", "curve", "max", "add"}
        What adds a constant is left out: a difference does not see it.
    node : fx.Node
        Whose value it is.
    inputs : list of Op
    window : Window
        Of "conv" and "max".
    weight : Tensor of shape (n_out, n_in / groups, kx, ky, kz), optional
    groups : int
    curve : callable, optional
        Of "curve": works in place where it can.
    """

    kind: str
    node: fx.Node
    inputs: list["Op"]
    window: Window = POINT
    weight: torch.Tensor | None = None
    groups: int = 1
    curve: Callable[[torch.Tensor], torch.Tensor] | None = None

    @property
    def n_channels(self) -> int:
        """Channels of its value."""
        return int(self.node.meta["val"].shape[1])

    @property
    def shape(self) -> Triple:
        """Shape of its map."""
        x, y, z = (int(size) for size in self.node.meta["val"].shape[2:])
        return x, y, z

    def cost(self, n_pairs: float) -> float:
        """Multiply-adds for so many pairs of an output place and a place that it reads."""
        if self.weight is None:
            return n_pairs * self.n_channels / 4  # no products, but memory is read
        return n_pairs * self.weight.shape[0] * self.weight.shape[1]


@dataclass(eq=False)
class Cut:
    """A place that everything goes through: what comes after can be computed from it alone.

    Parameters
    ----------
    op : Op
    nodes : list of fx.Node
        The nodes that have its value.
    rest : list of fx.Node
        What is to be computed after it, in order.
    mean : bool
        The rest reads nothing but the mean over the map, `matrix` times it.
    matrix : Tensor of shape (n_out, n_in), optional
    """

    op: Op
    nodes: list[fx.Node]
    rest: list[fx.Node]
    mean: bool = False
    matrix: torch.Tensor | None = None


@dataclass(eq=False)
class Traced:
    """A network as operations, and the places where it can be cut, the input first."""

    graph: fx.GraphModule
    cuts: list[Cut]

    def values(self, given: torch.Tensor, keep: set[fx.Node]) -> dict[fx.Node, torch.Tensor]:
        """Compute the network and return copies of the values that are asked for."""
        found: dict[fx.Node, torch.Tensor] = {}
        env: dict[fx.Node, Any] = {}
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                env[node] = given
            elif node.op == "get_attr":
                env[node] = attribute(self.graph, str(node.target))
            elif node.op == "call_function":
                env[node] = _call(node, env)
            if node in keep:
                found[node] = env[node].clone()  # before it is changed in place
        return found

    def rest(self, cut: Cut, value: torch.Tensor, shape: Triple) -> torch.Tensor:
        """Compute what comes after a cut from its value, which is used up."""
        env: dict[fx.Node, Any] = {}
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":  # only its size can still be asked for
                env[node] = value.new_empty(1).expand(len(value), 1, *shape)
            elif node.op == "get_attr":
                env[node] = attribute(self.graph, str(node.target))
        env |= dict.fromkeys(cut.nodes, value)
        for node in cut.rest:
            env[node] = _call(node, env)
        output = next(node for node in self.graph.graph.nodes if node.op == "output")
        (last,) = output.all_input_nodes
        return env[last]


def trace(module: nn.Module, shape: Triple) -> Traced | None:
    """Trace a network in eval mode, for volumes of a shape, in the type of its parameters.

    None where torch cannot: its course depends on values, or it has no parameters.
    """
    like = next(module.parameters(), None)
    if like is None:
        return None
    try:
        return _trace(module, like.detach().new_zeros(2, 1, *shape))
    except Exception:  # torch.export raises what its many parts raise
        return None


def _trace(module: nn.Module, example: torch.Tensor) -> Traced:
    batch = torch.export.Dim("batch", min=1, max=2**15)  # cuDNN takes 2**16 - 1
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: batch},), strict=False)
    graph: Any = exported.module(check_guards=False)
    return Traced(graph, _Tracer(graph).cuts())


def ops_before(op: Op) -> list[Op]:
    """Return the operations that one needs, in order, itself last."""
    found: dict[Op, None] = {}

    def visit(each: Op) -> None:
        if each not in found:
            for other in each.inputs:
                visit(other)
            found[each] = None

    visit(op)
    return list(found)


class _Tracer:
    def __init__(self, graph: fx.GraphModule) -> None:
        self.graph = graph
        self.nodes = list(graph.graph.nodes)
        self.value: dict[fx.Node, Op] = {}  # of in-place operations the new one

    def cuts(self) -> list[Cut]:
        found: list[Cut] = []
        for number, node in enumerate(self.nodes):
            if node.op == "placeholder":
                self.value[node] = Op("input", node, [])
            elif node.op == "call_function" and self._reads(node):
                op = self._translate(node)
                if op is None:
                    cut = self._mean(node, number)
                    return found if cut is None else [*found, cut]
                self.value[node] = op
                if str(node.target).split(".")[1].endswith("_"):
                    self._replace(node.args[0], op)
            else:
                continue
            cut = self._cut(self.value[node], number)
            if cut is not None:
                found.append(cut)
        return found

    def _has_one_reader(self, op: Op) -> bool:
        """Nothing but one node reads the value, under any of the names that it has."""
        names = {node for node, value in self.value.items() if value is op}
        return len({user for name in names for user in name.users} - names) == 1

    def _reads(self, node: fx.Node) -> bool:
        return _name(node) not in _NO_VOLUME and any(each in self.value for each in _inputs(node))

    def _replace(self, node: Any, op: Op) -> None:
        old = self.value[node]
        for each, value in self.value.items():
            if value is old:
                self.value[each] = op

    def _cut(self, op: Op, number: int) -> Cut | None:
        """Nothing but this value is read by what comes after."""
        rest = self._rest(number)
        read = {
            self.value[each]
            for node in rest
            if _name(node) not in _NO_VOLUME
            for each in _inputs(node)
            if each in self.value
        }
        if read - {op}:
            return None
        return Cut(op, [node for node, value in self.value.items() if value is op], rest)

    def _rest(self, number: int) -> list[fx.Node]:
        """What is to be computed after a node, and constants that it may need."""
        return [
            node
            for at, node in enumerate(self.nodes)
            if node.op == "call_function" and (at > number or node not in self.value)
        ]

    def _mean(self, node: fx.Node, number: int) -> Cut | None:
        """The mean over the volume, if that is what the node takes."""
        name, args = _name(node), _args(node)
        if name == "mean":
            axes = sorted(axis % 5 for axis in args[1]) if len(args) > 1 and args[1] else []
            good = axes == [2, 3, 4]
        else:
            good = name == "adaptive_avg_pool3d" and set(args[1]) == {1}
        if not good:
            return None
        op = self.value[args[0]]
        weight: torch.Tensor | None = None
        rest = [each for each in self._rest(number) if each is not node]
        if self._cut(op, number - 1) is None or any(map(self._reads, rest)):
            return None
        own = op.weight
        if self._is_plain_point(op) and own is not None:
            op, weight = op.inputs[0], own[:, :, 0, 0, 0]
        return Cut(op, [node], rest, mean=True, matrix=weight)

    def _translate(self, node: fx.Node) -> Op | None:
        name, args = _name(node), _args(node)
        given = self.value.get(args[0]) if isinstance(args[0], fx.Node) else None
        if given is None or (node.kwargs and name not in ("conv3d", "max_pool3d")):
            return None
        if name in _SAME:
            return given
        if name in _CURVES:
            return Op("curve", node, [given], curve=_curve(node))
        if name in ("add", "add_"):
            other = self.value.get(args[1]) if isinstance(args[1], fx.Node) else None
            if other is None or other.node.meta["val"].shape != given.node.meta["val"].shape:
                return None
            return Op("add", node, [given, other])
        if name == "batch_norm":
            return self._normalise(node, given)
        if name == "conv3d":
            return self._convolve(node, given)
        if name == "max_pool3d":
            options: Any = (*args[1:], *_POOL[len(args) - 1 :])
            kernel, stride, padding, dilation, ceil = options
            if ceil or node.kwargs:
                return None
            window = Window(*(_triple(v) for v in (kernel, stride or kernel, padding, dilation)))
            return Op("max", node, [given], window)
        return None

    def _normalise(self, node: fx.Node, given: Op) -> Op | None:
        _, weight, _, _, variance, _, _, eps, _ = _args(node)
        if not all(each is None or _is_constant(each) for each in (weight, variance)):
            return None
        scale = torch.rsqrt(self._constant(variance).double() + eps)
        if weight is not None:
            scale = scale * self._constant(weight).double()
        dtype = self._constant(variance).dtype
        if given.kind == "conv" and self._has_one_reader(given):
            assert given.weight is not None
            folded = (given.weight.double() * scale.view(-1, 1, 1, 1, 1)).to(dtype)
            return Op("conv", node, given.inputs, given.window, folded, given.groups)
        own = scale.view(-1, 1, 1, 1, 1).to(dtype)
        return Op("conv", node, [given], POINT, own, len(own))

    def _convolve(self, node: fx.Node, given: Op) -> Op | None:
        args: list[Any] = [*node.args, *_CONV[len(node.args) - 2 :]]
        _, weight, _, stride, padding, dilation, groups = args
        if node.kwargs or isinstance(padding, str) or not _is_constant(weight):
            return None
        own = self._constant(weight)
        kernel = _triple(list(own.shape[2:]))
        window = Window(kernel, _triple(stride), _triple(padding), _triple(dilation))
        if window.is_point and groups == 1 and self._is_plain_point(given):
            assert given.weight is not None
            both = torch.einsum("oi...,ij...->oj...", own.double(), given.weight.double())
            return Op("conv", node, given.inputs, POINT, both.to(own.dtype), 1)
        return Op("conv", node, [given], window, own, groups)

    def _is_plain_point(self, op: Op) -> bool:
        plain = op.kind == "conv" and op.window.is_point and op.groups == 1
        return plain and self._has_one_reader(op)

    def _constant(self, node: Any) -> torch.Tensor:
        return attribute(self.graph, node.target).detach()


_CONV = (None, (1, 1, 1), (0, 0, 0), (1, 1, 1), 1)
"""What aten.conv3d takes after input and weight, if nothing is said."""
_POOL = (None, None, (0, 0, 0), (1, 1, 1), False)


def _is_constant(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr"


def _name(node: fx.Node) -> str:
    return str(node.target).split(".")[1] if str(node.target).startswith("aten.") else ""


def _args(node: fx.Node) -> list[Any]:
    return list(node.args)


def _inputs(node: fx.Node) -> list[fx.Node]:
    return list(node.all_input_nodes)


def _triple(values: Any) -> Triple:
    parts = [int(each) for each in values] if hasattr(values, "__iter__") else [int(values)]
    x, y, z = parts * 3 if len(parts) == 1 else parts
    return x, y, z


def _curve(node: fx.Node) -> Callable[[torch.Tensor], torch.Tensor]:
    target: Any = node.target
    return lambda values: target(values, *node.args[1:])


def attribute(graph: fx.GraphModule, path: str) -> Any:
    """Return a parameter or buffer by its path."""
    value: Any = graph
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _call(node: fx.Node, env: dict[fx.Node, Any]) -> Any:
    args: Any = fx.map_arg(node.args, env.__getitem__)
    kwargs: Any = fx.map_arg(node.kwargs, env.__getitem__)
    target: Any = node.target
    return target(*args, **kwargs)

"""Recognise activations that exporters write as several operators, so that they are quantized as the one layer they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.fx import GraphModule, Node

from yoloquant.graph.operators import cap_of
from yoloquant.graph.sizes import readers

aten = torch.ops.aten

# x * f(x) for these chains f, innermost operator first -> the activation.
_GATES: dict[tuple[object, ...], object] = {
    (aten.sigmoid.default,): aten.silu.default,
    (aten.hardsigmoid.default,): aten.hardswish.default,
    (aten.softplus.default, aten.tanh.default): aten.mish.default,
}


def fuse_activations(graph_module: GraphModule) -> int:
    """Replace activations that are written as arithmetic by the one operator they are, in place.

    `x * sigmoid(x)`, `x * hardsigmoid(x)` and `x * tanh(softplus(x))` become SiLU, Hardswish and Mish; clipped lines
    `clip(x / 6 + 1 / 2, 0, 1)`, however their factors are placed, become Hardsigmoid.

    Returns:
        How many were replaced.
    """
    count = 0
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function":
            count += _fuse_hard_sigmoid(graph_module, node) or _fuse_gate(graph_module, node)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return count


def _replace(graph_module: GraphModule, node: Node, activation: object, source: Node) -> None:
    with graph_module.graph.inserting_before(node):
        fused = graph_module.graph.call_function(activation, (source,))  # type: ignore[arg-type]
    fused.meta = dict(node.meta)
    node.replace_all_uses_with(fused)
    graph_module.graph.erase_node(node)


def _fuse_gate(graph_module: GraphModule, node: Node) -> bool:
    if node.target is not aten.mul.Tensor:
        return False
    first, second = node.args
    for source, gate in ((first, second), (second, first)):
        for chain, activation in _GATES.items():
            if isinstance(source, Node) and _chain_start(gate, chain) is source:
                _replace(graph_module, node, activation, source)
                return True
    return False


def _chain_start(node: object, chain: tuple[object, ...]) -> object:
    """What a chain of operators that ends in `node` starts from; none if it is another chain or others read its values."""
    for target in reversed(chain):
        if not (isinstance(node, Node) and node.target is target and len(readers(node)) == 1 and len(node.args) == 1):
            return None
        node = node.args[0]
    return node


class _Line(NamedTuple):
    """`factor * source + offset`."""

    source: object
    factor: float
    offset: float


def _fuse_hard_sigmoid(graph_module: GraphModule, node: Node) -> bool:
    """`k clip(a x + b, low, high)` is Hardsigmoid where it is 0 and 1 at its ends, and x / 6 + 1 / 2 between them.

    Where the factor k comes last of all, behind the product with x, it is `k (x * clip(...))`, and Hardswish as a whole.
    """
    *_, outer = _Line(node, 1.0, 0.0), *_lines(node)
    if outer.offset != 0.0 or not isinstance(outer.source, Node) or not _read_here(outer.source, node):
        return False
    source = _hard_sigmoid_source(outer.source, outer.factor)
    if source is not None:
        _replace(graph_module, node, aten.hardsigmoid.default, source)
        return True
    if outer.source is node or outer.source.target is not aten.mul.Tensor:
        return False
    first, second = outer.source.args
    for x, gate in ((first, second), (second, first)):
        alone = isinstance(gate, Node) and len(readers(gate)) == 1
        if alone and isinstance(x, Node) and _hard_sigmoid_source(gate, outer.factor) is x:
            _replace(graph_module, node, aten.hardswish.default, x)
            return True
    return False


def _read_here(source: Node, node: Node) -> bool:
    return source is node or len(readers(source)) == 1


def _hard_sigmoid_source(clip: object, factor: float) -> Node | None:
    """The x of which `factor * clip` is the Hardsigmoid; none if it is not."""
    bounds = _bounds(clip)
    if bounds is None or not isinstance(clip, Node):
        return None
    inner = clip.args[0]
    if not isinstance(inner, Node) or len(readers(inner)) != 1:
        return None
    for line in _lines(inner):
        found = (line.factor * factor, line.offset * factor, bounds[0] * factor, bounds[1] * factor)
        # Files hold 1/6 with six digits at times; what that changes is far below a step of 16-bit integers.
        if all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(found, (1 / 6, 0.5, 0.0, 1.0), strict=True)):
            return line.source if isinstance(line.source, Node) else None
    return None


def _bounds(node: object) -> tuple[float, float] | None:
    """Where an operator cuts off its input on both sides; none for anything else."""
    if not isinstance(node, Node):
        return None
    if node.target is aten.clamp.default and len(node.args) == 3 and all(isinstance(end, int | float) for end in node.args[1:]):
        return float(node.args[1]), float(node.args[2])  # type: ignore[arg-type]
    cap = cap_of(node)
    return None if cap is None else (0.0, cap)


def _lines(node: Node) -> Iterator[_Line]:
    """Products and sums with numbers that end in `node`, as one line, longer each time; all but the last are read once."""
    factor, offset = 1.0, 0.0
    current: object = node
    while isinstance(current, Node) and _read_here(current, node):
        step = _step(current)
        if step is None:
            return
        current, offset, factor = step.source, offset + factor * step.offset, factor * step.factor
        yield _Line(current, factor, offset)


def _step(node: Node) -> _Line | None:
    """One sum, product or quotient of a tensor and a number; none for anything else."""
    if node.kwargs or len(node.args) != 2:
        return None
    first, second = node.args
    if isinstance(first, int | float) and node.target in (aten.add.Tensor, aten.mul.Tensor):
        first, second = second, first
    if not isinstance(first, Node) or not isinstance(second, int | float):
        return None
    number = float(second)
    if node.target is aten.add.Tensor:
        return _Line(first, 1.0, number)
    if node.target is aten.sub.Tensor:
        return _Line(first, 1.0, -number)
    if node.target is aten.mul.Tensor:
        return _Line(first, number, 0.0)
    return _Line(first, 1.0 / number, 0.0) if node.target is aten.div.Tensor and number else None

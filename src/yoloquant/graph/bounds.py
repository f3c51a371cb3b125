"""Between which values the outputs of a graph's nodes lie, whatever the images: what activations and layouts imply."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import NamedTuple

import torch
from torch.fx import GraphModule, Node

from yoloquant.graph.operators import clamp_of, kind
from yoloquant.graph.sizes import tensor_inputs

aten = torch.ops.aten


class Bounds(NamedTuple):
    """A closed range of real numbers."""

    low: float
    high: float


ANYTHING = Bounds(-inf, inf)

# Operators whose output lies in one range for every input.
_FIXED: dict[object, Bounds] = {
    aten.sigmoid.default: Bounds(0.0, 1.0),
    aten.hardsigmoid.default: Bounds(0.0, 1.0),
    aten.softmax.int: Bounds(0.0, 1.0),
    aten.softplus.default: Bounds(0.0, inf),
    aten.tanh.default: Bounds(-1.0, 1.0),
}


def value_bounds(graph_module: GraphModule) -> dict[Node, Bounds]:
    """Node -> range that holds its output in exact arithmetic; `ANYTHING` where nothing is known."""
    found: dict[Node, Bounds] = {}
    for node in graph_module.graph.nodes:
        sources = [found[source] for source in tensor_inputs(node) if kind(source) != "parameter"]
        found[node] = _bounds(node, sources)
    return found


def _bounds(node: Node, sources: list[Bounds]) -> Bounds:
    if node.target in _FIXED:
        return _FIXED[node.target]
    rule = _BY_OPERATOR.get(node.target) or _BY_KIND.get(kind(node))
    return rule(node, sources) if rule is not None and sources else ANYTHING


def _rectified(_node: Node, sources: list[Bounds]) -> Bounds:
    return Bounds(max(sources[0].low, 0.0), max(sources[0].high, 0.0))


def _clamped(node: Node, _sources: list[Bounds]) -> Bounds:
    return Bounds(*(clamp_of(node) or ANYTHING))


def _union(_node: Node, sources: list[Bounds]) -> Bounds:
    return Bounds(min(source.low for source in sources), max(source.high for source in sources))


def _sum(node: Node, sources: list[Bounds]) -> Bounds:
    # A constant or the same value twice: too rare to be worth knowing.
    if len(sources) < len(node.args) or node.kwargs:
        return ANYTHING
    return Bounds(sum(source.low for source in sources), sum(source.high for source in sources))


_BY_OPERATOR: dict[object, Callable[[Node, list[Bounds]], Bounds]] = {
    aten.relu.default: _rectified,
    aten.relu6.default: _clamped,
    aten.hardtanh.default: _clamped,
    aten.add.Tensor: _sum,
}
_BY_KIND: dict[str, Callable[[Node, list[Bounds]], Bounds]] = dict.fromkeys(
    ("view", "concat", "max_pool", "avg_pool", "upsample"), _union
)

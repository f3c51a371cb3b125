"""Sizes in a captured graph: numbers that nodes take from the shape of a tensor, and not values of it.

A node that takes a size does not read the tensor, so whoever asks which layers read a value must not count it. At capture all
sizes are taken from the image, so that none keeps a layer from being folded or fused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

# Sympy and torch.utils._sympy.functions: the classes that shapes of tensors are made of.
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
}


def is_size(node: Node) -> bool:
    """The node's value is a number made of tensors' sizes, not a tensor."""
    value = node.meta.get("val")
    return node.op == "call_function" and isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool | int | float)


def tensor_inputs(node: Node) -> list[Node]:
    """Nodes whose tensors a node reads, parameters included, sizes left out."""
    return [source for source in node.all_input_nodes if not is_size(source)]


def readers(node: Node) -> list[Node]:
    """Nodes that read a node's values; those that only take its sizes are left out."""
    return [user for user in node.users if not is_size(user)]


def measured_tensors(size: Node) -> list[Node]:
    """The tensors whose shapes a size is made of."""
    found = dict.fromkeys(tensor_inputs(size))
    for source in size.all_input_nodes:
        if is_size(source):
            found |= dict.fromkeys(measured_tensors(source))
    return list(found)


def take_sizes_from_image(graph_module: GraphModule) -> None:
    """Let every size be computed from the size of the network's input instead of that of a tensor inside, in place."""
    graph = graph_module.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    inside = [node for node in graph.nodes if node.target is aten.sym_size.int and node.args[0] is not images]
    sizes = Sizes(graph, [images])
    for node in inside:
        if sizes.knows(node):
            node.replace_all_uses_with(sizes.get(node))
            graph.erase_node(node)
    graph_module.recompile()


class Sizes:
    """Sizes as nodes of a graph that are computed from the shapes of given tensors."""

    def __init__(self, graph: Graph, sources: Iterable[Node]) -> None:
        """Choose where sizes are taken from.

        Args:
            graph: Graph to extend, directly behind the last of the sources.
            sources: Nodes of the graph, in its order; `meta["val"]` holds their symbolic shapes.
        """
        self._graph = graph
        self._last: Node | None = None
        self._nodes: dict[Any, Any] = {}
        # Symbol of a shape -> tensor, axis, and how many times the symbol its size is.
        self._symbols: dict[Any, tuple[Node, int, int]] = {}
        for source in sources:
            self._last = source
            for axis, size in enumerate(getattr(source.meta.get("val"), "shape", ())):
                self._add_symbol(source, axis, size)

    def _add_symbol(self, source: Node, axis: int, size: int | torch.SymInt) -> None:
        if isinstance(size, torch.SymInt):
            factor, symbol = size.node.expr.as_coeff_Mul()
            if symbol.is_Symbol and (symbol not in self._symbols or int(factor) == 1):
                self._symbols[symbol] = source, axis, int(factor)

    def knows(self, node: Node) -> bool:
        """The size `node` can be computed from the shapes of the sources."""
        value = node.meta["val"]
        return isinstance(value, torch.SymInt) and bool(value.node.expr.free_symbols) and self._known(value.node.expr)

    def get(self, node: Node) -> Node:
        """The node that computes the same size as `node`, which is known, from the sources."""
        found = self._computed(node.meta["val"].node.expr)
        assert isinstance(found, Node)
        return found

    def _known(self, expression: Any) -> bool:
        if expression.is_Integer or expression in self._symbols:
            return True
        return type(expression).__name__ in _OPERATORS and all(self._known(argument) for argument in expression.args)

    def _computed(self, expression: Any) -> Any:
        if expression.is_Integer:
            return int(expression)
        if expression not in self._nodes:
            if expression in self._symbols:
                source, axis, factor = self._symbols[expression]
                size = self._append(aten.sym_size.int, (source, axis), source.meta["val"].shape[axis])
                self._nodes[expression] = size if factor == 1 else self._combined(operator.floordiv, size, factor)
            else:
                function = _OPERATORS[type(expression).__name__]
                parts = [self._computed(argument) for argument in expression.args]
                self._nodes[expression] = reduce(lambda first, second: self._combined(function, first, second), parts)
        return self._nodes[expression]

    def _combined(self, function: Callable[[Any, Any], Any], *parts: Node | int) -> Node:
        values = (part.meta["val"] if isinstance(part, Node) else part for part in parts)
        return self._append(function, parts, function(*values))

    def _append(self, function: Any, arguments: tuple[Any, ...], value: Any) -> Node:
        assert self._last is not None
        with self._graph.inserting_after(self._last):
            self._last = self._graph.call_function(function, arguments)
        self._last.meta["val"] = value
        return self._last

"""Recognise activations that exporters write as several operators, so that they are quantized as the one layer they are."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

# x * f(x) for these chains f, innermost operator first -> the activation.
_GATES: dict[tuple[object, ...], object] = {
    (aten.sigmoid.default,): aten.silu.default,
    (aten.hardsigmoid.default,): aten.hardswish.default,
    (aten.softplus.default, aten.tanh.default): aten.mish.default,
}


def fuse_activations(graph_module: GraphModule) -> int:
    """Replace `x * sigmoid(x)`, `x * hardsigmoid(x)` and `x * tanh(softplus(x))` by SiLU, Hardswish and Mish, in place.

    Returns:
        How many were replaced.
    """
    count = 0
    for node in list(graph_module.graph.nodes):
        if node.op == "call_function" and node.target is aten.mul.Tensor:
            first, second = node.args
            count += _fuse(graph_module, node, first, second) or _fuse(graph_module, node, second, first)
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return count


def _fuse(graph_module: GraphModule, product: Node, source: object, gate: object) -> bool:
    for chain, activation in _GATES.items():
        if isinstance(source, Node) and _chain_start(gate, chain) is source:
            with graph_module.graph.inserting_before(product):
                fused = graph_module.graph.call_function(activation, (source,))  # type: ignore[arg-type]
            fused.meta = dict(product.meta)
            product.replace_all_uses_with(fused)
            graph_module.graph.erase_node(product)
            return True
    return False


def _chain_start(node: object, chain: tuple[object, ...]) -> object:
    """What a chain of operators that ends in `node` starts from; none if it is another chain or others read its values."""
    for target in reversed(chain):
        if not (isinstance(node, Node) and node.target is target and len(node.users) == 1 and len(node.args) == 1):
            return None
        node = node.args[0]
    return node

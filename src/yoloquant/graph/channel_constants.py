"""Constants of each channel in a captured graph: multipliers, and the caps that ReLU6 has once its channels are scaled.

What is put in is recorded on the graph module, so that a file of its tensors is enough to put it in again.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import cap_of, channel_axis

aten = torch.ops.aten
_RECORD = "channel_constants"
MULTIPLIER, INPUT_MULTIPLIER, CAP, SCALED = "multiplier", "input_multiplier", "cap", "scaled"


def multiply_channels(graph_module: GraphModule, node: Node, factors: Tensor) -> Node:
    """Let all readers of a value read it times a factor for each channel, `(C,)`; returns the new node."""
    graph = graph_module.graph
    readers = list(node.users)
    constant = _constant(graph_module, node, MULTIPLIER, factors)
    with graph.inserting_after(node):
        product = graph.create_node("call_function", aten.mul.Tensor, (node, constant), name=f"{node.name}_{MULTIPLIER}")
    product.meta.update(node.meta, layer=f"{layer_name(node)}.{MULTIPLIER}")
    for reader in readers:
        reader.replace_input_with(node, product)
    _finish(graph_module, node, MULTIPLIER)
    return product


def multiply_input_channels(graph_module: GraphModule, node: Node, factors: Tensor) -> Node:
    """Let an activation read its input times a factor for each channel, `(C,)`; returns the new node."""
    source = node.args[0]
    assert isinstance(source, Node)
    graph = graph_module.graph
    constant = _constant(graph_module, node, INPUT_MULTIPLIER, factors)
    with graph.inserting_before(node):
        product = graph.create_node("call_function", aten.mul.Tensor, (source, constant), name=f"{node.name}_{INPUT_MULTIPLIER}")
    product.meta.update(source.meta, layer=f"{layer_name(node)}.{INPUT_MULTIPLIER}")
    node.update_arg(0, product)
    _finish(graph_module, node, INPUT_MULTIPLIER)
    return product


def cap_channels(graph_module: GraphModule, node: Node) -> Node:
    """Turn a ReLU6, in place, into ReLU and a minimum with a cap for each channel; returns the minimum's node."""
    graph = graph_module.graph
    channels = node.meta["val"].shape[channel_axis(node)]
    cap = cap_of(node)
    assert cap is not None
    constant = _constant(graph_module, node, CAP, torch.full((channels,), cap))
    readers = list(node.users)
    with graph.inserting_after(node):
        capped = graph.create_node("call_function", aten.minimum.default, (node, constant), name=f"{node.name}_{CAP}")
    capped.meta.update(node.meta, layer=f"{layer_name(node)}.{CAP}")
    node.target, node.args = aten.relu.default, (node.args[0],)
    for reader in readers:
        reader.replace_input_with(node, capped)
    _finish(graph_module, node, CAP)
    return capped


def note_scaled(graph_module: GraphModule, name: str) -> None:
    """Record that the channels around a value were scaled by what images showed, so that weights do not show by how much."""
    _record(graph_module, name, SCALED)


def is_scaled(graph_module: GraphModule) -> bool:
    """Channels were scaled by what images showed."""
    return any(what == SCALED for what, _ in constants(graph_module))


def constants(graph_module: GraphModule) -> list[list[str]]:
    """What was put in, as JSON values: kind and node, in order."""
    return [list(entry) for entry in graph_module.meta.get(_RECORD, ())]


def put_back(graph_module: GraphModule, recorded: Iterable[Iterable[str]]) -> None:
    """Repeat what `constants` records, in a newly captured graph; the values are placeholders, to be loaded."""
    for what, name in recorded:
        if what == SCALED:
            note_scaled(graph_module, name)
            continue
        node = next(node for node in graph_module.graph.nodes if node.name == name)
        ones = torch.ones(node.meta["val"].shape[channel_axis(node)])
        if what == CAP:
            cap_channels(graph_module, node)
        elif what == INPUT_MULTIPLIER:
            multiply_input_channels(graph_module, node, ones)
        else:
            multiply_channels(graph_module, node, ones)


def _constant(graph_module: GraphModule, node: Node, what: str, values: Tensor) -> Node:
    """A new buffer that holds values for each channel of what a node makes, read before the node."""
    name = f"{node.name}_{what}_values"
    shape = [1] * (node.meta["val"].dim() - 1)
    shape[channel_axis(node) - 1] = -1
    graph_module.register_buffer(name, values.detach().clone().view(shape))
    with graph_module.graph.inserting_before(node):
        constant = graph_module.graph.get_attr(name)
    constant.meta["layer"] = f"{layer_name(node)}.{what}_values"
    return constant


def _finish(graph_module: GraphModule, node: Node, what: str) -> None:
    _record(graph_module, node.name, what)
    graph_module.recompile()


def _record(graph_module: GraphModule, name: str, what: str) -> None:
    graph_module.meta[_RECORD] = [*graph_module.meta.get(_RECORD, ()), (what, name)]

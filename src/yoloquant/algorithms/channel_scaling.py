"""Scale the channels between two layers without changing the network's output: what equalisation and smoothing share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from yoloquant.graph.channel_constants import cap_channels
from yoloquant.graph.operators import group_count, is_capped, is_homogeneous, kind
from yoloquant.graph.sizes import readers
from yoloquant.quant.arithmetic import expand_parameter

aten = torch.ops.aten


class Source(NamedTuple):
    """The layer that makes a value, with only operators between whose channels may be scaled.

    Attributes:
        layer: Convolution or linear layer.
        caps: ReLU6 on the way, or the minima that stand for them; their caps are scaled, too.
    """

    layer: Node
    caps: tuple[Node, ...]


def source_of(value: Node) -> Source | None:
    """The layer whose output channels can be scaled instead of a value's; none if others read it, or something is between."""
    caps: list[Node] = []
    node = value
    while kind(node) not in ("conv", "linear"):
        if not (is_homogeneous(node) or kind(node) in ("max_pool", "upsample")):
            return None
        if is_capped(node):
            caps.append(node)
        node = node.args[0]  # type: ignore[assignment]
        if not isinstance(node, Node) or len(readers(node)) != 1:
            return None
    return Source(node, tuple(caps))


def takes_scaled_input(layer: Node) -> bool:
    """The weight of a layer can take up a scale of each input channel."""
    return kind(layer) in ("conv", "linear") and group_count(layer) == 1 and kind(layer.args[1]) == "parameter"  # type: ignore[arg-type]


def divide_output(graph_module: GraphModule, source: Source, scale: Tensor) -> Source:
    """Divide the output channels of a layer, `scale` `(C,)`; returns the source as it is now."""
    divide_rows(graph_module, source.layer, scale)
    return Source(source.layer, tuple(divide_cap(graph_module, node, scale) for node in source.caps))


def divide_rows(graph_module: GraphModule, layer: Node, scale: Tensor) -> None:
    """Divide weight and bias of a convolution or linear layer along its output channels, `scale` `(C,)`."""
    with torch.no_grad():
        weight = parameter(graph_module, layer.args[1])
        weight.div_(expand_parameter(scale, weight, 0, 0))
        if len(layer.args) > 2 and layer.args[2] is not None:
            parameter(graph_module, layer.args[2]).div_(scale)


def divide_cap(graph_module: GraphModule, node: Node, scale: Tensor) -> Node:
    """Divide the cap of a ReLU6, `scale` `(C,)`; returns the minimum that stands for it from now on."""
    capped = node if node.target == aten.minimum.default else cap_channels(graph_module, node)
    cap = graph_module.get_buffer(str(capped.args[1].target))  # type: ignore[union-attr]
    cap.div_(scale.view(cap.shape))
    return capped


def multiply_input(graph_module: GraphModule, layer: Node, scale: Tensor) -> None:
    """Multiply the weight of a convolution or linear layer along its input channels, of all its groups, `scale` `(C,)`."""
    with torch.no_grad():
        weight = parameter(graph_module, layer.args[1])
        by_group = scale.view(group_count(layer), 1, weight.shape[1]).expand(-1, weight.shape[0] // group_count(layer), -1)
        weight.mul_(by_group.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2)))


def input_strength(graph_module: GraphModule, layer: Node) -> Tensor:
    """Largest absolute weight of each input channel of a convolution or linear layer, `(C,)`."""
    weight = parameter(graph_module, layer.args[1]).detach().abs()
    grouped = weight.reshape(group_count(layer), -1, *weight.shape[1:])
    return grouped.transpose(1, 2).flatten(2).amax(2).flatten()


def parameter(graph_module: GraphModule, node: object) -> nn.Parameter:
    """The parameter that a `get_attr` node stands for."""
    assert isinstance(node, Node)
    return graph_module.get_parameter(str(node.target))

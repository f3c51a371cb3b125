"""Scale the channels between two layers without changing what the network answers: what equalisation and smoothing share."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from yoloquant.graph.channel_constants import cap_channels
from yoloquant.graph.operators import cap_of, group_count, kind
from yoloquant.graph.sizes import readers
from yoloquant.quant.arithmetic import expand_parameter

aten = torch.ops.aten

# f(s * x) = s * f(x) for every s > 0, channel by channel. SiLU and other smooth activations are not of this kind.
_HOMOGENEOUS = frozenset({aten.relu.default, aten.leaky_relu.default})


class Source(NamedTuple):
    """The layer that makes a value, with only operators between whose channels may be scaled.

    Attributes:
        layer: convolution or linear layer.
        caps: ReLU6 on the way, or the minima that stand for them; their caps are scaled, too.
    """

    layer: Node
    caps: tuple[Node, ...]


def source_of(value: Node) -> Source | None:
    """The layer whose output channels can be scaled instead of a value's; none if others read it, or something is between."""
    caps: list[Node] = []
    node = value
    while kind(node) not in ("conv", "linear"):
        capped = cap_of(node) is not None or node.target == aten.minimum.default
        if not (capped or node.target in _HOMOGENEOUS or kind(node) in ("max_pool", "upsample")):
            return None
        if capped:
            caps.append(node)
        node = node.args[0]  # type: ignore[assignment]
        if not isinstance(node, Node) or len(readers(node)) != 1:
            return None
    return Source(node, tuple(caps))


def takes_scaled_input(layer: Node) -> bool:
    """The weight of a layer can take up a scale of each input channel."""
    return kind(layer) in ("conv", "linear") and group_count(layer) == 1 and kind(layer.args[1]) == "parameter"  # type: ignore[arg-type]


def divide_output(graph_module: GraphModule, source: Source, scale: Tensor) -> Source:
    """Divide the channels that a layer answers with, `scale` `(C,)`; answers with the source as it is now."""
    caps = tuple(node if node.target == aten.minimum.default else cap_channels(graph_module, node) for node in source.caps)
    with torch.no_grad():
        weight = parameter(graph_module, source.layer.args[1])
        weight.div_(expand_parameter(scale, weight, 0, 0))
        if len(source.layer.args) > 2 and source.layer.args[2] is not None:
            parameter(graph_module, source.layer.args[2]).div_(scale)
        for node in caps:
            cap = graph_module.get_buffer(str(node.args[1].target))  # type: ignore[union-attr]
            cap.div_(scale.view(cap.shape))
    return Source(source.layer, caps)


def multiply_input(graph_module: GraphModule, layer: Node, scale: Tensor) -> None:
    """Multiply a layer's weight along its input channels, `scale` `(C,)`."""
    with torch.no_grad():
        weight = parameter(graph_module, layer.args[1])
        weight.mul_(expand_parameter(scale, weight, 1, 0))


def parameter(graph_module: GraphModule, node: object) -> nn.Parameter:
    """The parameter that a `get_attr` node stands for."""
    assert isinstance(node, Node)
    return graph_module.get_parameter(str(node.target))

"""Cross-layer equalisation: channels of two layers in a row get the same range, without changing what the network answers.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.fx import GraphModule, Node

from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, group_count, kind
from yoloquant.quant.arithmetic import expand_parameter

aten = torch.ops.aten

# f(s * x) = s * f(x) for every s > 0, channel by channel. SiLU and other smooth activations are not of this kind, nor is ReLU6,
# whose cap would become another number in each channel.
_HOMOGENEOUS = frozenset({aten.relu.default, aten.leaky_relu.default})


def equalize(graph_module: GraphModule, rounds: int = 20) -> dict[str, str]:
    """Equalise all pairs of layers between which only positively homogeneous operators stand, in place.

    Args:
        graph_module: captured, BatchNorm folded, without quantizers.
        rounds: sweeps over all pairs, at most; a layer may stand in two pairs.

    Returns:
        First layer -> second layer, of each pair.
    """
    pairs = list(_pairs(graph_module))
    for _ in range(rounds):
        changes = [_balance(graph_module, first, second) for first, second in pairs]
        if not changes or max(changes) < 1e-3:
            break
    return {layer_name(first): layer_name(second) for first, second in pairs}


def _pairs(graph_module: GraphModule) -> Iterator[tuple[Node, Node]]:
    for first in graph_module.graph.nodes:
        if kind(first) not in ("conv", "linear"):
            continue
        node = first
        while len(node.users) == 1:
            node = next(iter(node.users))
            if kind(node) in WEIGHTED:
                if kind(node) == kind(first) and node.args[0] in node.all_input_nodes and group_count(node) == 1:
                    yield first, node
                break
            if node.target not in _HOMOGENEOUS and kind(node) not in ("max_pool", "upsample"):
                break


def _balance(graph_module: GraphModule, first: Node, second: Node) -> float:
    """Scale one pair; the largest change of a channel's scale, as a share."""
    weight, following = (_parameter(graph_module, node.args[1]) for node in (first, second))
    bias = _parameter(graph_module, first.args[2]) if len(first.args) > 2 and first.args[2] is not None else None
    own = weight.abs().flatten(1).amax(1)
    next_ = following.abs().transpose(0, 1).flatten(1).amax(1)
    usable = (own > 0) & (next_ > 0)
    # Equation 11: afterwards both ranges are the geometric mean of what they were.
    scale = torch.where(usable, (own / next_.clamp(min=1e-30)).sqrt(), 1.0).clamp(1e-4, 1e4)
    with torch.no_grad():
        weight.div_(expand_parameter(scale, weight, 0, 0))
        if bias is not None:
            bias.div_(scale)
        following.mul_(expand_parameter(scale, following, 1, 0))
    return float((scale - 1.0).abs().max().detach())


def _parameter(graph_module: GraphModule, node: object) -> nn.Parameter:
    assert isinstance(node, Node)
    return graph_module.get_parameter(str(node.target))

"""Fold BatchNorm into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from yoloquant.graph.operators import kind, weight_axis
from yoloquant.graph.sizes import readers
from yoloquant.models.reparameterize import folded


def fold_batch_norm(graph_module: GraphModule) -> int:
    """Fold every BatchNorm that directly follows a convolution, in place.

    A BatchNorm after anything else (or after a convolution that others read, too) stays as it is.

    Returns:
        How many were folded.
    """
    count = 0
    for node in list(graph_module.graph.nodes):
        if kind(node) == "batch_norm" and _foldable(node):
            _fold_pair(graph_module, node.args[0], node)
            count += 1
    graph_module.graph.eliminate_dead_code()
    graph_module.delete_all_unused_submodules()
    _drop_unused_attributes(graph_module)
    graph_module.recompile()
    return count


def _foldable(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    if kind(source) not in ("conv", "conv_transpose") or len(readers(source)) != 1:
        return False
    weight = source.args[1]
    grouped_transpose = kind(source) == "conv_transpose" and len(source.args) > 6 and source.args[6] != 1
    return isinstance(weight, Node) and weight.op == "get_attr" and len(weight.users) == 1 and not grouped_transpose


def _fold_pair(graph_module: GraphModule, convolution: Any, norm: Any) -> None:
    weight_node, bias_node = convolution.args[1], convolution.args[2] if len(convolution.args) > 2 else None
    gamma, beta, mean, variance = (attribute(graph_module, argument) for argument in norm.args[1:5])
    weight = attribute(graph_module, weight_node)
    assert weight is not None
    assert mean is not None
    assert variance is not None
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    with torch.no_grad():
        new_weight, new_bias = folded(
            weight,
            attribute(graph_module, bias_node),
            gamma,
            beta,
            mean,
            variance,
            norm.args[7],
            weight_axis(convolution),
        )
    owner_path, _, _ = weight_node.target.rpartition(".")
    owner = graph_module.get_submodule(owner_path)
    owner.weight = nn.Parameter(new_weight)
    owner.bias = nn.Parameter(new_bias)
    if bias_node is None:
        with graph_module.graph.inserting_after(weight_node):
            bias_node = graph_module.graph.get_attr(f"{owner_path}.bias".lstrip("."))
    arguments = list(convolution.args)
    arguments[2:3] = [bias_node]
    convolution.args = tuple(arguments)
    norm.replace_all_uses_with(convolution)
    graph_module.graph.erase_node(norm)


def attribute(graph_module: GraphModule, node: object) -> Tensor | None:
    """The tensor that a `get_attr` node stands for; none for anything else."""
    if not (isinstance(node, Node) and node.op == "get_attr"):
        return None
    owner_path, _, name = str(node.target).rpartition(".")
    value: Tensor | None = getattr(graph_module.get_submodule(owner_path), name)
    return value


def _drop_unused_attributes(graph_module: GraphModule) -> None:
    """Delete parameters and buffers that no node reads (the statistics of folded BatchNorms)."""
    used = {node.target for node in graph_module.graph.nodes if node.op == "get_attr"}
    for names in (graph_module.named_parameters(), graph_module.named_buffers()):
        for name, _ in list(names):
            if name not in used:
                owner_path, _, leaf = name.rpartition(".")
                delattr(graph_module.get_submodule(owner_path), leaf)

"""In which order tensors of images lie in memory while a network trains."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.fx import GraphModule

from yoloquant.graph.operators import kind


def memory_format(network: nn.Module, device: torch.device) -> torch.memory_format:
    """Channels last, which is faster, wherever it works.

    On CPUs oneDNN 3.12 (torch 2.13) writes beyond its buffers when it computes the weight gradient of a strided 1x1 convolution
    in that order; YOLOv6's blocks in training form have such convolutions.
    """
    shapes = _captured(network) if isinstance(network, GraphModule) else _of_modules(network)
    strided = any(kernel == (1, 1) and stride != (1, 1) for kernel, stride in shapes)
    return torch.contiguous_format if strided and device.type == "cpu" else torch.channels_last


def _of_modules(network: nn.Module) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Kernel and stride of each convolution."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            yield tuple(module.kernel_size), tuple(module.stride)


def _captured(network: GraphModule) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """The same of a captured network, with quantizers or without."""
    for node in network.graph.nodes:
        if kind(node) == "conv":
            weight = node.args[1]
            while weight.op != "get_attr":
                weight = weight.all_input_nodes[0]
            stride = node.args[3] if len(node.args) > 3 else (1, 1)
            yield tuple(network.get_parameter(str(weight.target)).shape[2:]), tuple(stride)

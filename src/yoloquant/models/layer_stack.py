"""What the builders of fresh networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from yoloquant.models.layered import LayeredNetwork

M = TypeVar("M", bound=nn.Module)


def assemble(module: M, **parts: object) -> M:
    """Give a module its children and settings."""
    for name, value in parts.items():
        setattr(module, name, value)
    return module


def divisible(channels: float) -> int:
    """Channels rounded up to a multiple of eight."""
    return math.ceil(channels / 8) * 8


class LayerStack:
    """A `LayeredNetwork` that grows, and knows the number of output channels of each of its layers."""

    def __init__(self) -> None:
        """Begin with the images."""
        self._layers: list[nn.Module] = []
        self._channels: list[int] = []

    def channels(self, source: int | Sequence[int] = -1) -> int:
        """Of a layer's output, or of several side by side."""
        if isinstance(source, int):
            return self._channels[source] if self._channels else 3
        return sum(self._channels[index] for index in source)

    def add(self, module: nn.Module, channels: int, source: int | list[int] = -1) -> int:
        """Append a layer that reads from others (negative: counted back from here); returns its index."""
        vars(module).update(f=source, i=len(self._layers))
        self._layers.append(module)
        self._channels.append(channels)
        return len(self._layers) - 1

    def network(self) -> LayeredNetwork:
        """All layers."""
        return settle_norms(assemble(LayeredNetwork(), model=nn.Sequential(*self._layers)))


def settle_norms(network: M) -> M:
    """BatchNorm with the constants that all YOLO families train with."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps, module.momentum = 1e-3, 0.03
    return network


def measure_strides(network: nn.Module, side: int = 256) -> tuple[int, ...]:
    """Strides of the maps of a network, in their order."""
    with torch.no_grad():
        maps: list[Tensor] = network.eval()(torch.zeros(1, 3, side, side))
    return tuple(side // raw.shape[-2] for raw in maps)


def initialise_anchor_biases(convolutions: nn.ModuleList, anchors: int, strides: Sequence[int], class_count: int) -> None:
    """Start from rare objects: 8 in an image of 640 pixels, and classes at 0.6 over their number (Lin et al. 2017, 3.3)."""
    for conv, stride in zip(convolutions, strides, strict=True):
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        bias = conv.bias.data.view(anchors, -1)
        bias[:, 4] += math.log(8 / (640 / stride) ** 2)
        bias[:, 5:] += math.log(0.6 / (class_count - 0.99999))

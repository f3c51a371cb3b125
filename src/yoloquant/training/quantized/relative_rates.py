"""Optimizer steps that are as large as what they change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# Channels that are nearly zero would never move again.
_LEAST = 0.05
# A bias moves every value of its channel in one direction, a weight only those that its input moves.
_BIAS = 0.1


class RelativeSteps:
    """Scales what an optimizer does to each output channel by the root mean square of its weights.

    BatchNorm that is folded into a convolution leaves channels whose weights differ a hundredfold. Adam moves all values alike,
    so that at any one rate some channels drown in noise and others stand still. It is as if weights were trained as shares of
    their channel's size (compare LARS, You et al. 2017, which does the same for whole layers).
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        """Measure weights and biases as they are now."""
        self._sizes = [(parameter, _size(parameter)) for parameter in parameters]

    @contextmanager
    def scaled(self) -> Iterator[None]:
        """Around the optimizer's step."""
        before = [parameter.detach().clone() for parameter, _ in self._sizes]
        yield
        with torch.no_grad():
            for (parameter, size), old in zip(self._sizes, before, strict=True):
                parameter.copy_(old + (parameter - old) * size)


def _size(parameter: nn.Parameter) -> Tensor:
    """Of each output channel's weights, or of all biases together, to be multiplied with a step."""
    values = parameter.detach()
    if values.dim() < 2:
        return _BIAS * values.square().mean().sqrt()
    size = values.square().mean(tuple(range(1, values.dim())), keepdim=True).sqrt()
    return size.clamp(min=_LEAST * float(size.mean()))

"""Weights that jump between two integers step after step, as few bits make them (Nagel et al. 2022, "Overcoming oscillations").

Rounding passes gradients as if it were not there, so that a weight whose best value lies between two integers crosses the
threshold again and again, and the network's output never settles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from yoloquant.quant.arithmetic import expand_parameter
from yoloquant.quant.fake_quantize import FakeQuantize

# Share of steps in which a weight turns back, as a moving average, from which on it is fixed; and that average's share of new.
_OFTEN, _NEW = 0.1, 0.02


@torch.no_grad()
def damp(weights: Mapping[FakeQuantize, nn.Parameter], share: float) -> None:
    """Bring each weight nearer to the middle of its step, in place: by that share of its distance.

    This is the paper's dampening (section 4.1) apart from the gradient, as AdamW has weight decay, so that the optimizer does not
    rescale it. What saturates is left alone.
    """
    if share <= 0.0:
        return
    for quantizer, weight in weights.items():
        steps, scale = _steps(quantizer, weight)
        middle = steps.round()
        inside = (middle >= _low(quantizer, weight)) & (middle <= _high(quantizer, weight))
        weight.add_(torch.where(inside, (middle - steps) * scale, 0.0), alpha=share)


@dataclass
class _Watched:
    """Integers of one weight as they were, where each last went, how often each turned back, and which are fixed at what."""

    integers: Tensor
    direction: Tensor
    frequency: Tensor
    average: Tensor
    fixed: Tensor


class Oscillations:
    """Counts how often each weight turns back, and fixes those that do so too often (section 4.2, iterative freezing).

    Attributes:
        fixed: Number of fixed weights.
    """

    def __init__(self, weights: Mapping[FakeQuantize, nn.Parameter]) -> None:
        """Watch some weights."""
        self._weights = weights
        self._watched: dict[FakeQuantize, _Watched] = {}

    @property
    def fixed(self) -> int:
        """How many weights are fixed."""
        return sum(int(watched.fixed.sum()) for watched in self._watched.values())

    @torch.no_grad()
    def update(self) -> None:
        """Look at the weights after an optimizer step; a fixed one goes back to the integer where it was most of the time."""
        for quantizer, weight in self._weights.items():
            steps, scale = _steps(quantizer, weight)
            integers = steps.round()
            watched = self._watched.get(quantizer)
            if watched is None:
                none = torch.zeros_like(integers)
                self._watched[quantizer] = _Watched(integers, none.clone(), none.clone(), integers.clone(), none.bool())
                continue
            change = (integers - watched.integers).sign()
            turned = change * watched.direction < 0
            watched.frequency.lerp_(turned.to(weight.dtype), _NEW)
            watched.average.lerp_(integers, _NEW)
            watched.direction = torch.where(change != 0, change, watched.direction)
            watched.integers = integers
            watched.fixed |= watched.frequency > _OFTEN
            weight.copy_(torch.where(watched.fixed, watched.average.round() * scale, weight))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that is remembered, by name."""
        return {
            f"{quantizer.name}.{key}": value
            for quantizer, watched in self._watched.items()
            for key, value in vars(watched).items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        keys = tuple(_Watched.__dataclass_fields__)
        self._watched = {
            quantizer: _Watched(*(tensors[f"{quantizer.name}.{key}"] for key in keys))
            for quantizer in self._weights
            if f"{quantizer.name}.{keys[0]}" in tensors
        }


def _steps(quantizer: FakeQuantize, weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight in steps of its scale, and that scale, wide."""
    scale = quantizer.trained.parameters_now()[0] if quantizer.trained is not None else quantizer.scale
    wide = expand_parameter(scale, weight, quantizer.axis, quantizer.group_size)
    return weight / wide, wide


def _low(quantizer: FakeQuantize, weight: Tensor) -> Tensor:
    return quantizer.spec.quant_min - _zero(quantizer, weight)


def _high(quantizer: FakeQuantize, weight: Tensor) -> Tensor:
    return quantizer.spec.quant_max - _zero(quantizer, weight)


def _zero(quantizer: FakeQuantize, weight: Tensor) -> Tensor:
    zero = quantizer.trained.parameters_now()[1] if quantizer.trained is not None else quantizer.zero_point
    return expand_parameter(zero, weight, quantizer.axis, quantizer.group_size)

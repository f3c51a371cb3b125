"""Learned rounding: whether each weight is rounded up or down is found by gradient descent.

Two ways: AdaRound lets each choice be soft while it is learned (Nagel et al. 2020, "Up or down? Adaptive rounding for
post-training quantization"); SignRound always rounds, and learns what is added before (Cheng et al. 2023, "Optimize weight
rounding via signed gradient descent for the quantization of LLMs").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from yoloquant.quant.arithmetic import expand_parameter

# The sigmoid is stretched, so that 0 and 1 are reached with gradients that do not vanish (eq. 23 of the paper).
ZETA, GAMMA = 1.1, -0.1

# `h` of a choice that was made before, or 1 less it, when it is learned again.
_DOUBT = 0.2


class LearnedRounding(nn.Module):
    """Base: one choice for each weight, whether its scale is one tensor's, one channel's or one group's.

    Attributes:
        choice: Parameter of the weight's shape.
        steps: The float weight in steps of its scale.
    """

    choice: nn.Parameter
    steps: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self, weight: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int, group_size: int
    ) -> None:
        """Take the float weight, and the parameters as `yoloquant::fake_quantize` does."""
        super().__init__()
        wide = expand_parameter(scale.detach(), weight, axis, group_size)
        self.quant_min, self.quant_max = quant_min, quant_max
        self.register_buffer("scale", wide)
        self.register_buffer("zero_point", expand_parameter(zero_point, weight, axis, group_size).to(weight.dtype))
        self.register_buffer("steps", weight.detach() / wide)

    def start_from(self, rounded: Tensor) -> None:
        """Begin near the choices of a weight whose rounding was learned before."""
        raise NotImplementedError

    def forward(self) -> Tensor:
        """The weight as it is now, differentiable in `choice`."""
        raise NotImplementedError

    def decided(self) -> Tensor:
        """The weight with every choice made: quantizing it by rounding to nearest changes nothing."""
        raise NotImplementedError

    def indecision(self, beta: float) -> Tensor:
        """Mean of how open the choices are, 0..1."""
        raise NotImplementedError

    def _dequantized(self, integers: Tensor) -> Tensor:
        shifted = (integers + self.zero_point).clamp(self.quant_min, self.quant_max)
        return (shifted - self.zero_point) * self.scale


class SoftRounding(LearnedRounding):
    """AdaRound: `scale * (clamp(floor(w / scale) + h + zero_point) - zero_point)`, `h` in 0..1 the stretched sigmoid of `choice`.

    It starts where `h` is the weight's own fraction, so that the network starts from the float weights.
    """

    def __init__(self, *args: Any) -> None:
        """As the base."""
        super().__init__(*args)
        self.floor = self.steps.floor()
        self.choice = nn.Parameter(_choice_of(self.steps - self.floor))

    def start_from(self, rounded: Tensor) -> None:
        """Let `h` be 0.8 or 0.2 by the earlier choice."""
        up = torch.round(rounded.detach() / self.scale) > self.floor
        self.choice.data = _choice_of(torch.where(up, 1.0 - _DOUBT, _DOUBT))

    def up(self) -> Tensor:
        """`h`: 0 for rounded down, 1 for rounded up, between while it is learned."""
        return (torch.sigmoid(self.choice) * (ZETA - GAMMA) + GAMMA).clamp(0.0, 1.0)

    def forward(self) -> Tensor:
        """The weight between its two roundings."""
        return self._dequantized(self.floor + self.up())

    def decided(self) -> Tensor:
        """The weight with each choice as it leans."""
        return self._dequantized(self.floor + (self.choice.detach() >= 0.0).to(self.floor.dtype))

    def indecision(self, beta: float) -> Tensor:
        """Mean of `1 - |2h - 1|^beta` (eq. 24)."""
        return (1.0 - (2.0 * self.up() - 1.0).abs().pow(beta)).mean()


def _choice_of(up: Tensor) -> Tensor:
    return torch.logit(((up - GAMMA) / (ZETA - GAMMA)).clamp(1e-4, 1.0 - 1e-4))


class SignRounding(LearnedRounding):
    """SignRound: `scale * (clamp(round(w / scale + choice) + zero_point) - zero_point)`, `choice` within -reach..reach.

    The gradient passes through rounding as if it were not there. With a reach of one half it chooses between the two neighbours.
    """

    def __init__(self, *args: Any, reach: float = 0.5) -> None:
        """As the base; `reach` in steps."""
        super().__init__(*args)
        self.reach = reach
        self.choice = nn.Parameter(torch.zeros_like(self.steps))

    def start_from(self, rounded: Tensor) -> None:
        """Shift each weight to the middle of the step that it was rounded to, within reach."""
        self.choice.data = (torch.round(rounded.detach() / self.scale) - self.steps).clamp(-self.reach, self.reach)

    def forward(self) -> Tensor:
        """The weight, rounded."""
        shifted = self.steps + self.choice.clamp(-self.reach, self.reach)
        return self._dequantized(shifted + (shifted.round() - shifted).detach())

    def decided(self) -> Tensor:
        """The weight, rounded."""
        return self.forward().detach()

    def indecision(self, beta: float) -> Tensor:  # noqa: ARG002  (the signature of the base)
        """Nothing is ever open."""
        return self.choice.new_zeros(())

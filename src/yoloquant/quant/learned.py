"""What stands in for a quantizer's scale and zero point while the network is trained.

Scales are learned as their logarithm to the base 2, as trained quantization thresholds are (Jain et al. 2020): none can become
negative, a learning rate means the same share of every scale, and powers of two are its rounded values.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from yoloquant.distributed import extremes_over_processes, process_count
from yoloquant.quant.arithmetic import fake_quantize, operator_constants
from yoloquant.quant.observers import extremes, rows
from yoloquant.quant.qparams import scale_and_zero_point
from yoloquant.spec import TensorSpec


class TrainedQuantization(nn.Module):
    """Base: quantizes with parameters that training changes.

    Attributes:
        spec: Spec of the quantization.
        moving: Whether scale and zero point still change.
    """

    def __init__(self, spec: TensorSpec, name: str) -> None:
        """Keep what the arithmetic needs."""
        super().__init__()
        self.spec, self.name = spec, name
        self.moving = True

    def parameters_now(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point, as `FakeQuantize` holds them; differentiable."""
        raise NotImplementedError

    def stop(self) -> None:
        """Let scale and zero point stay as they are."""
        self.moving = False
        for parameter in self.parameters():
            parameter.requires_grad = False
            parameter.grad = None

    def forward(self, x: Tensor) -> Tensor:
        """`x`, quantized."""
        return self._quantized(x, *self.parameters_now())

    def _quantized(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        quantized: Tensor = fake_quantize(x, scale, zero_point, *operator_constants(self.spec), self.name)
        return quantized


class LearnedScale(TrainedQuantization):
    """LSQ and LSQ+: scales, and zero points if asked for, by gradients of the loss (Esser et al. 2020; Bhalgat et al. 2020).

    Attributes:
        exponent: Parameter, the scale's logarithm to the base 2; rounded for a power-of-two scale, which gradients do not see.
        offset: Parameter of LSQ+, the zero point as a share of the integer range; else a buffer.
    """

    offset: Tensor

    def __init__(self, spec: TensorSpec, name: str, scale: Tensor, zero_point: Tensor, *, learn_offset: bool = False) -> None:
        """Start from given values; symmetric tensors have no offset to learn, and ranges that begin at zero keep it.

        Runtimes merge a ReLU into the layer before only where the zero point is the lowest integer.
        """
        super().__init__(spec, name)
        self._levels = spec.quant_max - spec.quant_min
        self.exponent = nn.Parameter(scale.detach().float().log2())
        offset = zero_point.detach().float() / self._levels
        if learn_offset and not spec.symmetric and bool((zero_point > spec.quant_min).all()):
            self.offset = nn.Parameter(offset)
        else:
            self.register_buffer("offset", offset)

    def parameters_now(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point; rounding passes gradients on."""
        exponent = _rounded(self.exponent) if self.spec.power_of_two else self.exponent
        zero_point = _rounded(self.offset * self._levels).clamp(self.spec.quant_min, self.spec.quant_max)
        return torch.exp2(exponent), zero_point

    def forward(self, x: Tensor) -> Tensor:
        """`x`, quantized; the scale's gradient is divided by the root of how many levels it serves (LSQ, section 2.2).

        Activations count in all processes, each of which has its share of the batch; weights are the same in all.
        """
        scale, zero_point = self.parameters_now()
        values = x.numel() * (1 if of_weight(self.name) else process_count())
        share = (values / scale.numel() * self.spec.quant_max) ** -0.5
        return self._clipped(x, _with_gradient(scale, share), _with_gradient(zero_point, share))

    def _clipped(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return self._quantized(x, scale, zero_point)


class ClippingScale(LearnedScale):
    """PACT: only values outside the range move its ends, as the derivative of a clipping does (Choi et al. 2018, section 3)."""

    def _clipped(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        low, high = ((end - zero_point) * scale for end in (self.spec.quant_min, self.spec.quant_max))
        return self._quantized(x.clamp(low, high), scale.detach(), zero_point.detach())


class ObservedScale(TrainedQuantization):
    """Ranges that follow what passes, as moving averages of its extremes, until they are stopped (Jacob et al. 2018).

    Attributes:
        low: Buffer, lowest values, one for each scale.
        high: Buffer, highest values.
        momentum: Share of the old average that stays at each batch; 0 takes each batch's own range.
    """

    low: Tensor
    high: Tensor

    def __init__(self, spec: TensorSpec, name: str, scale: Tensor, zero_point: Tensor, momentum: float = 0.9) -> None:
        """Start from given values."""
        super().__init__(spec, name)
        self.momentum = momentum
        high = ((spec.quant_max - zero_point) * scale).detach().float()
        # The lowest integer of a signed symmetric tensor lies beyond its range.
        self.register_buffer("low", -high if spec.symmetric else ((spec.quant_min - zero_point) * scale).detach().float())
        self.register_buffer("high", high)

    def parameters_now(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the averages."""
        return scale_and_zero_point(self.low, self.high, self.spec)

    def forward(self, x: Tensor) -> Tensor:
        """Observe where gradients are computed, then quantize."""
        if self.moving and torch.is_grad_enabled():
            whole = extremes_over_processes(*extremes(rows(x.detach(), self.spec)))
            for average, found in zip((self.low, self.high), whole, strict=True):
                average.copy_(torch.lerp(found.view(average.shape).to(average), average, self.momentum))
        return super().forward(x)


class TangentWeight(nn.Module):
    """DoReFa's transform of a weight: its hyperbolic tangent, stretched to the largest value again (Zhou et al. 2016).

    The paper's weights end within -1..1 (section 2.3), where BatchNorm makes up for their size. It is folded here, so weights
    keep their largest absolute value, and training starts where the transform gives the weight as it is.

    Attributes:
        largest: Buffer, the largest absolute value.
    """

    largest: Tensor

    def __init__(self, weight: Tensor) -> None:
        """Take the largest absolute value from a weight."""
        super().__init__()
        self.register_buffer("largest", weight.detach().abs().amax().clamp(min=torch.finfo(torch.float32).tiny))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What to train instead of a weight; `torch.nn.utils.parametrize` asks for it by this name."""
        return torch.atanh(weight.detach() / self.largest * math.tanh(1.0))

    def forward(self, latent: Tensor) -> Tensor:
        """The weight."""
        bent = torch.tanh(latent)
        return bent / bent.abs().amax() * self.largest


def of_weight(name: str) -> bool:
    """A quantizer of this name stands on a weight, not on an activation."""
    return name.endswith(".weight_quantizer")


def _rounded(x: Tensor) -> Tensor:
    """Round; gradients pass as if it were not there."""
    return x + (x.round() - x).detach()


def _with_gradient(x: Tensor, share: float) -> Tensor:
    """`x`, whose gradient is only a share of what it would be."""
    return x.detach() + share * (x - x.detach()) if x.requires_grad else x

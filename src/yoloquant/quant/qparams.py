"""From a range of real values to scale and zero point."""

from __future__ import annotations

import torch
from torch import Tensor

from yoloquant.spec import TensorSpec

# Below this a scale underflows in float16 engines and a constant tensor would be divided by zero.
SMALLEST_SCALE = 2.0**-24


def scale_and_zero_point(low: Tensor, high: Tensor, spec: TensorSpec) -> tuple[Tensor, Tensor]:
    """Scale and zero point that represent a range.

    Zero is always representable exactly, since padding and ReLU make zeros (Jacob et al. 2018, section 2.1).
    Power-of-two scales are rounded up, so that nothing of the range is lost: for a symmetric signed spec
    `2^ceil(log2(max(|low|, |high|) / 2^(bits-1)))`.

    Args:
        low: Lowest values, any shape.
        high: Highest values, the same shape; `high >= low`.
        spec: Spec of the quantization.

    Returns:
        Scale (float32, positive) and zero point (int32, within the integer range), of the shape of `low`.
    """
    low, high = torch.clamp(low.double(), max=0.0), torch.clamp(high.double(), min=0.0)
    if spec.symmetric:
        scale = torch.maximum(-low, high) / _symmetric_steps(spec)
    else:
        scale = (high - low) / (spec.quant_max - spec.quant_min)
    scale = torch.clamp(scale, min=SMALLEST_SCALE)
    if spec.power_of_two:
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    # The zero point follows from the scale in the precision that runtimes hold it in.
    scale = scale.float()
    if spec.symmetric:
        zero_point = torch.full_like(scale, 0 if spec.signed else 1 << (spec.bits - 1))
    else:
        zero_point = (spec.quant_min - low / scale.double()).round().clamp(spec.quant_min, spec.quant_max)
    return scale, zero_point.to(torch.int32)


def _symmetric_steps(spec: TensorSpec) -> float:
    """How many steps the larger side of a symmetric range has.

    Power-of-two recipes divide by 2^(bits-1), which leaves the highest value half a step short and keeps the scale a shift.
    """
    half = 1 << (spec.bits - 1)
    return float(half if spec.power_of_two else half - 1)

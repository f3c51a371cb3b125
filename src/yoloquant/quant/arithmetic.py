"""The arithmetic of fake quantization, equal to ONNX QuantizeLinear followed by DequantizeLinear.

`q = saturate(round_half_to_even(x / scale) + zero_point)`, `y = (q - zero_point) * scale`
(ONNX operator specification, QuantizeLinear-21 and DequantizeLinear-21). The division is a division: multiplying by the
reciprocal, as torch's own fake quantize does, rounds ties differently and disagrees with the runtimes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from yoloquant.spec import TensorSpec

# Axis value of the custom operator that stands for one scale for the whole tensor.
PER_TENSOR = -1


def operator_constants(spec: TensorSpec) -> tuple[int, int, int, int]:
    """Lowest and highest integer, axis and group size, as `fake_quantize` takes them."""
    axis = PER_TENSOR if spec.granularity == "tensor" else spec.axis
    return spec.quant_min, spec.quant_max, axis, spec.group_size if spec.granularity == "group" else 0


def expand_parameter(parameter: Tensor, x: Tensor, axis: int, group_size: int) -> Tensor:
    """Shape a scale or zero point so that it broadcasts against `x`.

    Args:
        parameter: `()` per tensor, `(C,)` per channel, `(C, G)` group-wise with `G = ceil(x.shape[1 - axis] / group_size)`.
        x: The tensor to be quantized.
        axis: Channel axis, or `PER_TENSOR`; 0 or 1 if group-wise.
        group_size: Number of indices of the other one of axes 0 and 1 in a group, 0 if not group-wise.
    """
    if axis == PER_TENSOR:
        return parameter
    if group_size:
        repeated = parameter.repeat_interleave(group_size, dim=1)[:, : x.shape[1 - axis]].transpose(0, axis)
        return repeated.reshape(repeated.shape + (1,) * (x.dim() - 2))
    shape = [1] * x.dim()
    shape[axis] = -1
    return parameter.view(shape)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Integers (held in floating point) of `x`; scale and zero point must broadcast against it."""
    return torch.div(x, scale).round_().add_(zero_point).clamp_(quant_min, quant_max)


@torch.library.custom_op("yoloquant::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int, group_size: int, name: str
) -> Tensor:
    """Quantize and dequantize.

    Args:
        x: Any floating tensor.
        scale: Positive scale, `()`, `(C,)` or `(C, G)`; see `expand_parameter`.
        zero_point: Integers of the same shape; floating ones, where training wants their gradient.
        quant_min: Lowest integer.
        quant_max: Highest integer.
        axis: Channel axis, or `PER_TENSOR`.
        group_size: 0 unless group-wise.
        name: Name of the quantizer; it does nothing here and names the tensors in exported files.

    Returns:
        A tensor like `x` with at most `quant_max - quant_min + 1` values for each scale.
    """
    scale_wide = expand_parameter(scale, x, axis, group_size)
    zero_wide = expand_parameter(zero_point, x, axis, group_size).to(x.dtype)
    # The zero point is added and taken away again in the ends, which saves two passes over the values.
    steps = torch.div(x, scale_wide).round_()
    if axis == PER_TENSOR:
        # Clamping to numbers is ten times as fast as to tensors.
        zero = float(zero_wide)
        return steps.clamp_(quant_min - zero, quant_max - zero).mul_(scale_wide)
    return steps.clamp_(quant_min - zero_wide, quant_max - zero_wide).mul_(scale_wide)


@fake_quantize.register_fake
def _(
    x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, axis: int, group_size: int, name: str
) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, zero_point, quant_min, quant_max, axis, group_size, _ = inputs
    # The answer is for the scale's gradient; the layer that reads it keeps the same memory anyway.
    ctx.save_for_backward(x, scale, zero_point, output if scale.requires_grad else None)
    ctx.constants = (quant_min, quant_max, axis, group_size)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Straight-through inside the range (Bengio et al. 2013); LSQ's derivative for the scale (Esser et al. 2020, eq. 3).

    Inside is what rounding does not saturate: half a step beyond the lowest and the highest integer. What saturates has
    `(end - zero_point) * scale`, whose derivative for the zero point is `-scale` (LSQ+, Bhalgat et al. 2020).
    """
    x, scale, zero_point, answer = ctx.saved_tensors
    quant_min, quant_max, axis, group_size = ctx.constants
    if axis == PER_TENSOR:
        low, high = ((float(end - zero_point.detach()) * float(scale.detach())) for end in (quant_min - 0.5, quant_max + 0.5))
        # One fused pass, where a comparison and a product of booleans cost ten times as much.
        inside = torch.ops.aten.hardtanh_backward(gradient, x, low, high)
    else:
        wide = expand_parameter(scale, x, axis, group_size)
        ends = (expand_parameter(end - zero_point, x, axis, group_size) * wide for end in (quant_min - 0.5, quant_max + 0.5))
        inside = torch.where((x > next(ends)) & (x < next(ends)), gradient, 0.0)
    gradient_scale = gradient_zero = None
    if ctx.needs_input_grad[1]:
        # The level where it saturates, else the error of rounding, both as `answer` has them: times the scale.
        saturated = _sums_of_products(gradient - inside, answer, scale, axis, group_size)
        gradient_scale = (saturated + _sums_of_products(inside, answer - x, scale, axis, group_size)) / scale
    if ctx.needs_input_grad[2]:
        gradient_zero = _reduce_to(inside - gradient, scale, axis, group_size) * scale
    return inside, gradient_scale, gradient_zero, None, None, None, None, None


def _sums_of_products(a: Tensor, b: Tensor, scale: Tensor, axis: int, group_size: int) -> Tensor:
    """Sum `a * b` over all elements that one scale serves."""
    if axis == PER_TENSOR:
        # One pass without a temporary, in the order in which the values lie in memory.
        strides = b.stride()
        order = sorted(range(b.dim()), key=lambda dimension: -strides[dimension])
        flat = (tensor.permute(order).reshape(-1) for tensor in (a, b))
        return torch.dot(next(flat), next(flat)).view(scale.shape)
    return _reduce_to(a * b, scale, axis, group_size)


def _reduce_to(values: Tensor, scale: Tensor, axis: int, group_size: int) -> Tensor:
    """Sum `values` over all elements that one scale serves."""
    if axis == PER_TENSOR:
        return values.sum().view(scale.shape)
    if group_size:
        columns = values.reshape(values.shape[0], values.shape[1], -1).sum(dim=2).transpose(0, axis)
        padding = scale.shape[1] * group_size - columns.shape[1]
        return torch.nn.functional.pad(columns, (0, padding)).reshape(scale.shape[0], scale.shape[1], group_size).sum(dim=2)
    return values.sum(dim=[dimension for dimension in range(values.dim()) if dimension != axis])


fake_quantize.register_autograd(_backward, setup_context=_setup_context)

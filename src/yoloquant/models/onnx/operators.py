"""ONNX operators as torch functions, for the operators that detectors' networks are made of.

Numbers that describe shapes are Python values here: a number for a scalar, a list for a vector. `numbers` computes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Values = list[Any]
Attributes = dict[str, Any]
Operator = Callable[[Values, Attributes], Any]

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register the function of ONNX operators."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def _optional(values: Values, index: int, default: Any = None) -> Any:
    return values[index] if index < len(values) and values[index] is not None else default


def _given(values: Values, index: int, attributes: Attributes, name: str, default: Any = None) -> Any:
    """What older operator sets have as an attribute and newer ones as an input."""
    return _optional(values, index, attributes.get(name, default))


# Convolutions and products.


def _begin_end(x: Tensor, attributes: Attributes, kernel: list[int]) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis."""
    count = len(kernel)
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", "VALID"):
        pads = attributes.get("pads") or [0] * (2 * count)
        return pads[:count], pads[count:]
    strides, dilations = attributes.get("strides") or [1] * count, attributes.get("dilations") or [1] * count
    begins, ends = [], []
    for size, k, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
        total = max((math.ceil(int(size) / stride) - 1) * stride + (k - 1) * dilation + 1 - int(size), 0)
        small, large = total // 2, total - total // 2
        begins.append(small if automatic == "SAME_UPPER" else large)
        ends.append(large if automatic == "SAME_UPPER" else small)
    return begins, ends


def _padded(x: Tensor, attributes: Attributes, kernel: list[int], value: float = 0.0) -> tuple[Tensor, list[int]]:
    """The map, padded here where both sides differ, and the padding that is left for the operator."""
    begins, ends = _begin_end(x, attributes, kernel)
    if begins == ends:
        return x, begins
    flat = [pad for pair in zip(reversed(begins), reversed(ends), strict=True) for pad in pair]
    return F.pad(x, flat, value=value), [0] * len(kernel)


@operator("Conv")
def _conv(values: Values, attributes: Attributes) -> Tensor:
    x, weight, bias = values[0], values[1], _optional(values, 2)
    x, padding = _padded(x, attributes, list(weight.shape[2:]))
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    return F.conv2d(x, weight, bias, strides, padding, dilations, attributes.get("group", 1))


@operator("ConvTranspose")
def _conv_transpose(values: Values, attributes: Attributes) -> Tensor:
    x, weight, bias = values[0], values[1], _optional(values, 2)
    begins, ends = _begin_end(x, attributes, list(weight.shape[2:]))
    extra = attributes.get("output_padding", [0] * len(begins))
    # torch cuts both sides alike; a smaller cut at the end is a larger output, and a larger cut is done here.
    extra = [e + begin - end for e, begin, end in zip(extra, begins, ends, strict=True)]
    strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
    grown = [max(0, e) for e in extra]
    y = F.conv_transpose2d(x, weight, bias, strides, begins, grown, attributes.get("group", 1), dilations)
    if min(extra) < 0:
        y = y[..., : y.shape[-2] + min(0, extra[0]), : y.shape[-1] + min(0, extra[1])]
    return y


@operator("Gemm")
def _gemm(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    weight: Tensor = values[1]
    x = x.transpose(0, 1) if attributes.get("transA") else x
    weight = weight if attributes.get("transB") else weight.transpose(0, 1)
    y: Tensor = F.linear(x, weight) * attributes.get("alpha", 1.0)
    bias = _optional(values, 2)
    return y if bias is None else y + bias * attributes.get("beta", 1.0)


@operator("MatMul")
def _matmul(values: Values, _attributes: Attributes) -> Tensor:
    return torch.matmul(values[0], values[1])


@operator("BatchNormalization")
def _batch_norm(values: Values, attributes: Attributes) -> Tensor:
    x, gamma, beta, mean, variance = values[:5]
    return F.batch_norm(x, mean, variance, gamma, beta, training=False, eps=attributes.get("epsilon", 1e-5))


# Activations.

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Softplus": F.softplus,
    "HardSwish": F.hardswish,
    "Mish": F.mish,
    "Exp": torch.exp,
    "Sqrt": torch.sqrt,
    "Erf": torch.erf,
    "Neg": torch.neg,
    "Abs": torch.abs,
    "Floor": torch.floor,
    "Ceil": torch.ceil,
    "Reciprocal": torch.reciprocal,
    "Log": torch.log,
    "GlobalAveragePool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "GlobalMaxPool": lambda x: F.adaptive_max_pool2d(x, 1),
}
for _name, _function in _UNARY.items():
    OPERATORS[_name] = lambda values, _attributes, function=_function: function(values[0])  # type: ignore[misc]


@operator("LeakyRelu")
def _leaky_relu(values: Values, attributes: Attributes) -> Tensor:
    return F.leaky_relu(values[0], attributes.get("alpha", 0.01))


@operator("Elu")
def _elu(values: Values, attributes: Attributes) -> Tensor:
    return F.elu(values[0], attributes.get("alpha", 1.0))


@operator("PRelu")
def _prelu(values: Values, _attributes: Attributes) -> Tensor:
    return F.prelu(values[0], values[1].flatten())


@operator("Gelu")
def _gelu(values: Values, attributes: Attributes) -> Tensor:
    return F.gelu(values[0], approximate=attributes.get("approximate", "none"))


@operator("HardSigmoid")
def _hard_sigmoid(values: Values, attributes: Attributes) -> Tensor:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    x: Tensor = values[0]
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return F.hardsigmoid(x)
    y: Tensor = x * alpha + beta
    return y.clamp(0.0, 1.0)


@operator("Clip")
def _clip(values: Values, attributes: Attributes) -> Tensor:
    low, high = _given(values, 1, attributes, "min"), _given(values, 2, attributes, "max")
    return _clipped(values[0], None if low is None else float(low), None if high is None else float(high))


def _clipped(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """Cut off at bounds, as the activation that these bounds make."""
    high = None if high is not None and high >= torch.finfo(torch.float32).max else high
    low = None if low is not None and low <= torch.finfo(torch.float32).min else low
    if low is None and high is None:
        return x
    if low == 0.0 and high in (None, 6.0):
        return F.relu(x) if high is None else F.relu6(x)
    return torch.clamp(x, low, high)


@operator("Softmax")
def _softmax(values: Values, attributes: Attributes) -> Tensor:
    return torch.softmax(values[0], attributes.get("axis", -1))


# Arithmetic.


def _elementwise(function: Callable[[Any, Any], Any]) -> Operator:
    return lambda values, _attributes: function(values[0], values[1])


OPERATORS["Add"] = _elementwise(lambda a, b: a + b)
OPERATORS["Sub"] = _elementwise(lambda a, b: a - b)
OPERATORS["Mul"] = _elementwise(lambda a, b: a * b)
OPERATORS["Pow"] = _elementwise(lambda a, b: a**b)
OPERATORS["Equal"] = _elementwise(lambda a, b: a == b)
OPERATORS["Less"] = _elementwise(lambda a, b: a < b)
OPERATORS["Greater"] = _elementwise(lambda a, b: a > b)


@operator("Div")
def _divide(values: Values, _attributes: Attributes) -> Tensor:
    a, b = values[:2]
    whole = all(isinstance(value, int) or (isinstance(value, Tensor) and not value.is_floating_point()) for value in (a, b))
    return torch.div(a, b, rounding_mode="trunc") if whole else a / b


@operator("Where")
def _where(values: Values, _attributes: Attributes) -> Tensor:
    return torch.where(values[0].bool(), values[1], values[2])


@operator("Max", "Min")
def _extreme(values: Values, attributes: Attributes) -> Tensor:
    is_max = attributes["op"] == "Max"
    tensors = [value for value in values if isinstance(value, Tensor)]
    result = tensors[0]
    for value in tensors[1:]:
        result = torch.maximum(result, value) if is_max else torch.minimum(result, value)
    for bound in (value for value in values if not isinstance(value, Tensor)):
        result = _clipped(result, bound if is_max else None, None if is_max else bound)
    return result


@operator("ReduceMean", "ReduceMax", "ReduceSum", "ReduceMin")
def _reduce(values: Values, attributes: Attributes) -> Tensor:
    axes, keep = _given(values, 1, attributes, "axes"), bool(attributes.get("keepdims", 1))
    x = values[0]
    axes = list(range(x.dim())) if axes is None else axes
    functions: dict[str, Callable[..., Tensor]] = {
        "ReduceMean": torch.mean,
        "ReduceMax": torch.amax,
        "ReduceMin": torch.amin,
        "ReduceSum": torch.sum,
    }
    return functions[attributes["op"]](x, dim=axes, keepdim=keep)


# Pooling, resizing, padding.


@operator("MaxPool")
def _max_pool(values: Values, attributes: Attributes) -> Tensor:
    kernel = attributes["kernel_shape"]
    x, padding = _padded(values[0], attributes, kernel, float("-inf"))
    strides, dilations = attributes.get("strides", [1] * len(kernel)), attributes.get("dilations", [1] * len(kernel))
    return F.max_pool2d(x, kernel, strides, padding, dilations, bool(attributes.get("ceil_mode", 0)))


@operator("AveragePool")
def _average_pool(values: Values, attributes: Attributes) -> Tensor:
    kernel = attributes["kernel_shape"]
    counted = bool(attributes.get("count_include_pad", 0))
    x, padding = _padded(values[0], attributes, kernel)
    strides = attributes.get("strides", [1] * len(kernel))
    return F.avg_pool2d(x, kernel, strides, padding, bool(attributes.get("ceil_mode", 0)), counted)


@operator("Resize", "Upsample")
def _resize(values: Values, attributes: Attributes) -> Tensor:
    x = values[0]
    scales = _given(values, 1 if attributes["op"] == "Upsample" else 2, attributes, "scales")
    sizes = _optional(values, 3)
    scales = scales.tolist() if isinstance(scales, Tensor) else scales
    mode = attributes.get("mode", "nearest")
    chosen: dict[str, Any] = {"size": sizes[2:]} if not scales else {"scale_factor": [float(s) for s in scales[2:]]}
    if mode == "nearest":
        return F.interpolate(x, mode="nearest", **chosen)
    align = attributes.get("coordinate_transformation_mode", "half_pixel") == "align_corners"
    return F.interpolate(x, mode="bilinear" if mode == "linear" else "bicubic", align_corners=align, **chosen)


@operator("Pad")
def _pad(values: Values, attributes: Attributes) -> Tensor:
    pads = _given(values, 1, attributes, "pads")
    count = len(pads) // 2
    flat = [pad for axis in reversed(range(count)) for pad in (pads[axis], pads[axis + count])]
    value = _given(values, 2, attributes, "value", 0.0)
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}[attributes.get("mode", "constant")]
    if mode == "constant":
        return F.pad(values[0], flat, value=float(value))
    return F.pad(values[0], flat[: 2 * (count - 2)], mode=mode)


@operator("SpaceToDepth")
def _space_to_depth(values: Values, attributes: Attributes) -> Tensor:
    size = attributes["blocksize"]
    x: Tensor = values[0]
    batch, channels, height, width = x.shape
    blocks = x.view(batch, channels, height // size, size, width // size, size)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, channels * size * size, height // size, width // size)


@operator("DepthToSpace")
def _depth_to_space(values: Values, attributes: Attributes) -> Tensor:
    size = attributes["blocksize"]
    x: Tensor = values[0]
    if attributes.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    blocks = x.view(batch, size, size, channels // (size * size), height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // (size * size), height * size, width * size)


# Moving values about.


@operator("Concat")
def _concat(values: Values, attributes: Attributes) -> Tensor:
    return torch.cat(values, attributes["axis"])


@operator("Split")
def _split(values: Values, attributes: Attributes) -> tuple[Tensor, ...]:
    x: Tensor = values[0]
    axis = attributes.get("axis", 0)
    sizes = _given(values, 1, attributes, "split")
    if sizes is None:
        return x.chunk(attributes["outputs"], axis)
    parts: tuple[Tensor, ...] = x.split(list(sizes), axis)
    return parts


@operator("Slice")
def _slice(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    starts, ends = _given(values, 1, attributes, "starts"), _given(values, 2, attributes, "ends")
    axes = _given(values, 3, attributes, "axes", list(range(len(starts))))
    steps = _optional(values, 4, [1] * len(starts))
    index: list[slice] = [slice(None)] * x.dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if isinstance(end, int) and end >= 2**31 - 1 else end, step)
    return x[tuple(index)]


@operator("Reshape")
def _reshape(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    shape = list(values[1])
    if not attributes.get("allowzero", 0):
        shape = [x.shape[axis] if isinstance(size, int) and size == 0 else size for axis, size in enumerate(shape)]
    return x.reshape(_for_any_batch(x, shape, attributes.get("batch", 0)))


def _for_any_batch(x: Tensor, shape: list[Any], batch: int) -> list[Any]:
    """Files for a fixed number of images say so in their reshapes; any number passes through here."""
    if not batch or not shape:
        return shape
    if all(isinstance(size, int) and size > 0 for size in shape):
        return [-1, *shape[1:]]
    return [x.shape[0], *shape[1:]] if isinstance(shape[0], int) and shape[0] == batch else shape


@operator("Transpose")
def _transpose(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    return x.permute(attributes.get("perm", list(reversed(range(x.dim())))))


@operator("Flatten")
def _flatten(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    axis = attributes.get("axis", 1)
    return x.reshape(*([1] if axis == 0 else [math.prod(x.shape[:axis])]), -1)


@operator("Squeeze")
def _squeeze(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    axes = _given(values, 1, attributes, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes) if isinstance(axes, list) else axes)


@operator("Unsqueeze")
def _unsqueeze(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    axes = _given(values, 1, attributes, "axes")
    axes = axes if isinstance(axes, list) else [axes]
    rank = x.dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def _expand(values: Values, _attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    shape = values[1]
    aligned = [1] * (len(shape) - x.dim()) + list(x.shape)
    # A size of 1 stands for whatever the tensor has there.
    return x.expand([own if isinstance(size, int) and size == 1 else size for own, size in zip(aligned, shape, strict=True)])


@operator("Tile")
def _tile(values: Values, _attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    return x.repeat(values[1])


@operator("Gather")
def _gather(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    index, axis = values[1], attributes.get("axis", 0)
    if isinstance(index, list):
        return x.index_select(axis, torch.tensor(index, device=x.device))
    return x.index_select(axis, index) if isinstance(index, Tensor) else x.select(axis, index)


@operator("Cast")
def _cast(values: Values, attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    # Networks are computed in float32, whatever width a file has them in.
    return x.float() if attributes["to"] in (1, 10, 11, 16) else x


@operator("Identity", "Dropout")
def _same(values: Values, _attributes: Attributes) -> Tensor:
    x: Tensor = values[0]
    return x

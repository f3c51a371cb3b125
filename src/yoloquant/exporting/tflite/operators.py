"""One function for each operator of ONNX: what LiteRT has for it, on int8 where its inputs and its output are quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from yoloquant.errors import ExportError
from yoloquant.exporting.onnx_nodes import attributes
from yoloquant.exporting.tflite.convert import Conversion
from yoloquant.exporting.tflite.layers import convolution, product, transposed_convolution
from yoloquant.exporting.tflite.values import TO_LAST, Value
from yoloquant.exporting.tflite.windows import average_pool, max_pool

Translation = Callable[[Conversion, onnx.NodeProto], None]


def _common_layout(values: Sequence[Value]) -> bool:
    """Channels last, where a map is among the values and the others can be turned, too."""
    rank = max(len(value.shape) for value in values)
    return any(value.last for value in values) and all(len(value.shape) in (0, rank) for value in values)


def _elementwise(kind: str, options: str | None = None, integer: bool = True, **fields: Any) -> Translation:
    """An operator on one value, or on several with the same shape or one that is spread out."""

    def translate(state: Conversion, node: onnx.NodeProto) -> None:
        values = [state.value(name) for name in node.input if name]
        last = _common_layout(values)
        wanted = state.wanted(node.output[0])
        quantized = integer and wanted is not None and all(value.quantization is not None for value in values)
        inputs = [state.forms.tensor(value, quantized, last and len(value.shape) == 4) for value in values]
        output = state.put(node.output[0], last, wanted if quantized else None)
        state.model.operator(kind, inputs, [output], options, **fields)

    return translate


def _through(
    state: Conversion,
    node: onnx.NodeProto,
    kind: str,
    last: bool,
    extra: Sequence[int] = (),
    options: str | None = None,
    **fields: Any,
) -> None:
    """An operator whose output holds values of its one input only, and so has its scale."""
    value = state.value(node.input[0])
    quantized = value.quantization is not None
    source = state.forms.tensor(value, quantized, last)
    state.model.operator(kind, [source, *extra], [state.put(node.output[0], last, value.quantization)], options, **fields)


def _reshape(state: Conversion, node: onnx.NodeProto) -> None:
    shape = np.array(state.shapes[node.output[0]], np.int32)
    _through(
        state, node, "RESHAPE", False, [state.model.constant(f"{node.output[0]}.shape", shape)], "ReshapeOptions", newShape=shape
    )


def _transpose(state: Conversion, node: onnx.NodeProto) -> None:
    order = np.array(attributes(node)["perm"], np.int32)
    _through(state, node, "TRANSPOSE", False, [state.model.constant(f"{node.output[0]}.order", order)], "TransposeOptions")


def _resize(state: Conversion, node: onnx.NodeProto) -> None:
    found = attributes(node)
    half = found.get("coordinate_transformation_mode", b"half_pixel") != b"asymmetric"
    if found.get("mode", b"nearest") != b"nearest":
        raise ExportError(f"format tflite resizes to the nearest pixel only ({node.name}): choose another format")
    size = state.model.constant(f"{node.output[0]}.size", np.array(state.shapes[node.output[0]][2:], np.int32))
    fields = {"alignCorners": False, "halfPixelCenters": half}
    _through(state, node, "RESIZE_NEAREST_NEIGHBOR", True, [size], "ResizeNearestNeighborOptions", **fields)


def _concat(state: Conversion, node: onnx.NodeProto) -> None:
    values = [state.value(name) for name in node.input]
    axis = attributes(node)["axis"] % len(values[0].shape)
    last = _common_layout(values)
    scales = [value.quantization for value in values]
    quantization = state.wanted(node.output[0]) or next((scale for scale in scales if scale is not None), None)
    if quantization is None or any(scale is None for scale in scales):
        quantization = None
    else:
        # Where the file has several scales for one concat, each input is brought to the output's, as LiteRT wants it.
        values = [state.forms.quantize(value, f"{node.output[0]}.{number}", quantization) for number, value in enumerate(values)]
    inputs = [state.forms.tensor(value, quantization is not None, last) for value in values]
    output = state.put(node.output[0], last, quantization)
    place = TO_LAST.index(axis) if last else axis
    state.model.operator("CONCATENATION", inputs, [output], "ConcatenationOptions", axis=place, fusedActivationFunction=0)


def _part(state: Conversion, name: str, source: Value, begin: list[int], end: list[int], steps: list[int]) -> None:
    """A part of a value, as an output of its own."""
    last = source.last
    order = TO_LAST if last else tuple(range(len(source.shape)))
    begin, end, steps = ([part[axis] for axis in order] for part in (begin, end, steps))
    quantized = source.quantization is not None
    output = state.put(name, last, source.quantization)
    source_tensor = state.forms.tensor(source, quantized, last)
    if all(step == 1 for step in steps):
        kind, options = "SLICE", "SliceOptions"
        parts = {"begin": begin, "size": [stop - start for start, stop in zip(begin, end, strict=True)]}
    else:
        kind, options = "STRIDED_SLICE", "StridedSliceOptions"
        parts = {"begin": begin, "end": end, "steps": steps}
    numbers = [state.model.constant(f"{name}.{key}", np.array(part, np.int32)) for key, part in parts.items()]
    state.model.operator(kind, [source_tensor, *numbers], [output], options)


def _split(state: Conversion, node: onnx.NodeProto) -> None:
    source = state.value(node.input[0])
    axis = attributes(node).get("axis", 0) % len(source.shape)
    start = 0
    for name in node.output:
        begin, end = [0] * len(source.shape), list(source.shape)
        begin[axis], end[axis] = start, start + state.shapes[name][axis]
        start = end[axis]
        _part(state, name, source, begin, end, [1] * len(source.shape))


def _slice(state: Conversion, node: onnx.NodeProto) -> None:
    source = state.value(node.input[0])
    starts, ends, *rest = (state.constants[name].tolist() for name in node.input[1:] if name)
    axes = rest[0] if rest else list(range(len(starts)))
    strides = rest[1] if len(rest) > 1 else [1] * len(starts)
    begin, end, steps = [0] * len(source.shape), list(source.shape), [1] * len(source.shape)
    for axis, first, stop, step in zip(axes, starts, ends, strides, strict=True):
        begin[axis], end[axis], _ = slice(first, stop, step).indices(source.shape[axis])
        steps[axis] = step
    _part(state, node.output[0], source, begin, end, steps)


def _softmax(state: Conversion, node: onnx.NodeProto) -> None:
    """Softmax along any axis; LiteRT's runs along the last one."""
    value, wanted = state.value(node.input[0]), state.wanted(node.output[0])
    quantization = wanted if value.quantization is not None else None
    rank = len(value.shape)
    axis = attributes(node).get("axis", -1) % rank
    source = state.forms.tensor(value, quantization is not None, False)
    output = state.put(node.output[0], False, quantization)
    if axis == rank - 1:
        state.model.operator("SOFTMAX", [source], [output], "SoftmaxOptions", beta=1.0)
        return
    order = [*range(rank)]
    order[axis], order[-1] = order[-1], order[axis]
    turn = state.model.constant(f"{node.output[0]}.order", np.array(order, np.int32))
    shape = tuple(value.shape[place] for place in order)
    dtype = "int8" if quantization is not None else "float32"
    scales = (value.quantization if quantization is not None else None, quantization)
    turned, done = (
        state.model.tensor(f"{node.output[0]}.{name}", shape, dtype, scale)
        for name, scale in zip(("turned", "last"), scales, strict=True)
    )
    state.model.operator("TRANSPOSE", [source, turn], [turned], "TransposeOptions")
    state.model.operator("SOFTMAX", [turned], [done], "SoftmaxOptions", beta=1.0)
    state.model.operator("TRANSPOSE", [done, turn], [output], "TransposeOptions")


def _reduce(kind: str) -> Translation:
    def translate(state: Conversion, node: onnx.NodeProto) -> None:
        value, found = state.value(node.input[0]), attributes(node)
        axes = state.constants[node.input[1]].reshape(-1).tolist() if len(node.input) > 1 else list(found["axes"])
        places = np.array([axis % len(value.shape) for axis in axes], np.int32)
        inputs = [state.forms.tensor(value, False, False), state.model.constant(f"{node.output[0]}.axes", places)]
        state.model.operator(
            kind, inputs, [state.put(node.output[0], False, None)], "ReducerOptions", keepDims=bool(found.get("keepdims", 1))
        )

    return translate


def _clip(state: Conversion, node: onnx.NodeProto) -> None:
    """A cap that no layer before it computes: maximum and minimum with constants."""
    low, high = state.limits(node)
    value = state.value(node.input[0])
    source = state.forms.tensor(value, False, value.last)
    output = state.put(node.output[0], value.last, None)
    between = state.model.tensor(f"{node.output[0]}.low", tuple(value.shape[a] for a in TO_LAST) if value.last else value.shape)
    bounds = [
        state.model.constant(f"{node.output[0]}.{end}", np.array(bound, np.float32))
        for end, bound in (("min", low), ("max", high))
    ]
    state.model.operator("MAXIMUM", [source, bounds[0]], [between], "MaximumMinimumOptions")
    state.model.operator("MINIMUM", [between, bounds[1]], [output], "MaximumMinimumOptions")


def _leaky_relu(state: Conversion, node: onnx.NodeProto) -> None:
    _elementwise("LEAKY_RELU", "LeakyReluOptions", alpha=float(attributes(node).get("alpha", 0.01)))(state, node)


def _relu(state: Conversion, node: onnx.NodeProto) -> None:
    """Relu of a value whose reader has its own scale runs in integers, too."""
    _elementwise("RELU")(state, node)


OPERATORS: dict[str, Translation] = {
    "Add": _elementwise("ADD", "AddOptions"),
    "AveragePool": average_pool,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Div": _elementwise("DIV", "DivOptions", integer=False),
    "Exp": _elementwise("EXP", "ExpOptions", integer=False),
    "Flatten": _reshape,
    "HardSwish": _elementwise("HARD_SWISH", "HardSwishOptions"),
    "LeakyRelu": _leaky_relu,
    "MatMul": product,
    "MaxPool": max_pool,
    "Mul": _elementwise("MUL", "MulOptions"),
    "Pow": _elementwise("POW", "PowOptions", integer=False),
    "ReduceMax": _reduce("REDUCE_MAX"),
    "ReduceMean": _reduce("MEAN"),
    "ReduceSum": _reduce("SUM"),
    "Relu": _relu,
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _elementwise("LOGISTIC"),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _elementwise("SQRT", integer=False),
    "Squeeze": _reshape,
    "Sub": _elementwise("SUB", "SubOptions"),
    "Tanh": _elementwise("TANH"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}

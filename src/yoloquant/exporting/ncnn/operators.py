"""One function for each operator of ONNX without weights: what ncnn has for it, in float."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from yoloquant.errors import ExportError
from yoloquant.exporting.ncnn.convert import Conversion, Value, without_batch
from yoloquant.exporting.ncnn.layers import convolution, limits, product, transposed_convolution
from yoloquant.exporting.ncnn.model import sides
from yoloquant.exporting.onnx_nodes import attributes

Translation = Callable[[Conversion, onnx.NodeProto], None]

# Numbers of operations in ncnn's documentation ("BinaryOp", "UnaryOp", "Reduction").
_ADD, _SUB, _MUL, _DIV, _POWER, _REVERSED_SUB, _REVERSED_DIV = 0, 1, 2, 3, 6, 7, 8
_SQUARE, _SQRT, _EXP = 4, 5, 7
_SUM, _MEAN, _MAX = 0, 3, 4
# Kinds of a Pooling, and the way of padding that takes its parameters as they are.
_MAX_POOL, _AVERAGE_POOL, _EXPLICIT = 0, 1, 1
_REVERSED = {_SUB: _REVERSED_SUB, _DIV: _REVERSED_DIV, _ADD: _ADD, _MUL: _MUL}
# Orders of a Permute, as sides of the output from the fastest-running one on ("Permute", Order Type).
_ORDERS = {
    2: ("WH", "HW"),
    3: ("WHC", "HWC", "WCH", "CWH", "HCW", "CHW"),
    4: (
        *("WHDC", "HWDC", "WDHC", "DWHC", "HDWC", "DHWC", "WHCD", "HWCD", "WCHD", "CWHD", "HCWD", "CHWD"),
        *("WDCH", "DWCH", "WCDH", "CWDH", "DCWH", "CDWH", "HDCW", "DHCW", "HCDW", "CHDW", "DCHW", "CDHW"),
    ),
}
_NAMES = {2: "HW", 3: "CHW", 4: "CDHW"}


def _simple(kind: str, **parameters: float) -> Translation:
    """A layer that reads one value, with parameters named `p0`, `p1`, ... by their numbers."""

    def translate(state: Conversion, node: onnx.NodeProto) -> None:
        numbered = {int(name[1:]): value for name, value in parameters.items()}
        state.layer(kind, node, [state.floating(node.input[0])], numbered)

    return translate


def _binary(operation: int) -> Translation:
    def translate(state: Conversion, node: onnx.NodeProto) -> None:
        first, second = (state.constants.get(name) for name in node.input)
        if second is not None and second.size == 1:
            _with_scalar(state, node, node.input[0], operation, second)
        elif first is not None and first.size == 1 and operation in _REVERSED:
            _with_scalar(state, node, node.input[1], _REVERSED[operation], first)
        else:
            rank = len(state.shapes[node.output[0]])
            values = [_of_rank(state, state.floating(name), rank) for name in node.input]
            state.layer("BinaryOp", node, values, {0: operation})

    return translate


def _with_scalar(state: Conversion, node: onnx.NodeProto, name: str, operation: int, scalar: np.ndarray) -> None:
    value = float(scalar.reshape(-1)[0])
    if operation == _POWER and value == 2.0:
        state.layer("UnaryOp", node, [state.floating(name)], {0: _SQUARE})
        return
    state.layer("BinaryOp", node, [state.floating(name)], {0: operation, 1: 1, 2: value})


def _of_rank(state: Conversion, value: Value, rank: int) -> Value:
    """A value with as many sides as the other, so that sides of one are spread as numpy spreads them."""
    return state.reshaped(value, (1,) * (rank - len(value.shape)) + value.shape)


def _multiply(state: Conversion, node: onnx.NodeProto) -> None:
    """Mul; of a value and its sigmoid it is a Swish."""
    for value, other in (node.input, reversed(node.input)):
        if state.sigmoids.get(other) == value:
            state.layer("Swish", node, [state.floating(value)])
            return
    _binary(_MUL)(state, node)


def _sigmoid(state: Conversion, node: onnx.NodeProto) -> None:
    """Sigmoid, but where it and its product are a Swish."""
    (source,), (name,) = node.input, node.output
    reader = state.only_reader(name)
    if reader is not None and reader.op_type == "Mul" and source in reader.input:
        state.sigmoids[name] = source
        return
    state.layer("Sigmoid", node, [state.floating(source)])


def _reshape(state: Conversion, node: onnx.NodeProto) -> None:
    value, name = state.floating(node.input[0]), node.output[0]
    blob = state.put(name)
    state.model.add("Reshape", name, [value.blob], [blob], sides(state.values[name].sides))


def _transpose(state: Conversion, node: onnx.NodeProto) -> None:
    value, order = state.floating(node.input[0]), list(attributes(node)["perm"])
    count = len(value.sides)
    dropped = len(value.shape) - count
    if order[:dropped] != list(range(dropped)) or len(without_batch(state.shapes[node.output[0]])) != count:
        raise ExportError(f"format ncnn cannot move the batch as {node.name} does: choose another format")
    names = "".join(_NAMES[count][axis - dropped] for axis in order[dropped:])
    state.layer("Permute", node, [value], {0: _ORDERS[count].index(names[::-1])})


def _resize(state: Conversion, node: onnx.NodeProto) -> None:
    value, size = state.floating(node.input[0]), state.shapes[node.output[0]]
    whole = all(large % small == 0 for large, small in zip(size[2:], value.shape[2:], strict=True))
    if attributes(node).get("mode", b"nearest") != b"nearest" or not whole:
        raise ExportError(f"format ncnn resizes to the nearest pixel, by whole factors only ({node.name}): choose another format")
    state.layer("Interp", node, [value], {0: 1, 3: size[2], 4: size[3]})


def _concat(state: Conversion, node: onnx.NodeProto) -> None:
    values = [state.floating(name) for name in node.input]
    state.layer("Concat", node, values, {0: values[0].axis(attributes(node)["axis"])})


def _split(state: Conversion, node: onnx.NodeProto) -> None:
    """Split: a Slice, or crops where nothing reads one of its parts, which would be an output of the network."""
    value = state.floating(node.input[0])
    axis = attributes(node).get("axis", 0) % len(value.shape)
    sizes = [state.shapes[name][axis] for name in node.output]
    if all(state.is_read(name) for name in node.output):
        state.model.add(
            "Slice", node.output[0], [value.blob], [state.put(name) for name in node.output], {0: sizes, 1: value.axis(axis)}
        )
        return
    ends = np.cumsum(sizes).tolist()
    for name, size, end in zip(node.output, sizes, ends, strict=True):
        if state.is_read(name):
            _crop(state, value, name, {axis: (end - size, end)})


def _crop(state: Conversion, value: Value, name: str, bounds: dict[int, tuple[int, int]]) -> Value:
    """A part of a value, by the first pixel and the one behind the last on axes of ONNX."""
    shape = list(value.shape)
    for axis, (start, end) in bounds.items():
        shape[axis] = end - start
    starts, ends = ([place[side] for place in bounds.values()] for side in (0, 1))
    places = [value.axis(axis) for axis in bounds]
    state.model.add("Crop", name, [value.blob], [state.put(name, tuple(shape))], {9: starts, 10: ends, 11: places})
    return state.values[name]


def _slice(state: Conversion, node: onnx.NodeProto) -> None:
    """Slice: a Crop, and a pooling of single pixels where it has steps."""
    value = state.floating(node.input[0])
    starts, ends, *rest = (state.constants[name].reshape(-1).tolist() for name in node.input[1:] if name)
    axes = [axis % len(value.shape) for axis in (rest[0] if rest else range(len(starts)))]
    steps = dict(zip(axes, rest[1] if len(rest) > 1 else [1] * len(axes), strict=True))
    if min(steps.values()) < 1 or any(step > 1 and axis not in (2, 3) for axis, step in steps.items()):
        raise ExportError(f"format ncnn has no layer for the steps of {node.name}: choose another format")
    places = zip(axes, starts, ends, strict=True)
    bounds = {axis: slice(first, stop).indices(value.shape[axis])[:2] for axis, first, stop in places}
    cut = {axis: bound for axis, bound in bounds.items() if bound != (0, value.shape[axis])}
    if max(steps.values()) == 1:
        _crop(state, value, node.output[0], bounds)
        return
    part = _crop(state, value, f"{node.output[0]}.part", cut) if cut else value
    state.layer("Pooling", node, [part], {0: _MAX_POOL, 1: 1, 2: steps.get(3, 1), 12: steps.get(2, 1), 5: _EXPLICIT})


def _pool(kind: int) -> Translation:
    def translate(state: Conversion, node: onnx.NodeProto) -> None:
        found = attributes(node)
        if found.get("ceil_mode") or found.get("auto_pad", b"NOTSET") != b"NOTSET" or max(found.get("dilations", [1])) > 1:
            raise ExportError(f"format ncnn cannot hold the padding or dilation of {node.name}: choose another format")
        (high, wide), (down, across) = found["kernel_shape"], found.get("strides", [1, 1])
        top, left, bottom, right = found.get("pads", [0, 0, 0, 0])
        counted = {6: int(found.get("count_include_pad", 0))}
        window = {1: wide, 11: high, 2: across, 12: down, 3: left, 13: top, 14: right, 15: bottom}
        state.layer("Pooling", node, [state.floating(node.input[0])], {0: kind, **window, 5: _EXPLICIT, **counted})

    return translate


def _softmax(state: Conversion, node: onnx.NodeProto) -> None:
    value = state.floating(node.input[0])
    state.layer("Softmax", node, [value], {0: value.axis(attributes(node).get("axis", -1)), 1: 1})


def _reduce(operation: int) -> Translation:
    def translate(state: Conversion, node: onnx.NodeProto) -> None:
        value, found = state.floating(node.input[0]), attributes(node)
        given = state.constants[node.input[1]].reshape(-1).tolist() if len(node.input) > 1 else list(found["axes"])
        axes = [value.axis(axis) for axis in given]
        state.layer("Reduction", node, [value], {0: operation, 1: 0, 3: axes, 4: int(found.get("keepdims", 1)), 5: 1})

    return translate


def _clip(state: Conversion, node: onnx.NodeProto) -> None:
    low, high = limits(state, node)
    state.layer("Clip", node, [state.floating(node.input[0])], {0: low, 1: high})


def _leaky_relu(state: Conversion, node: onnx.NodeProto) -> None:
    state.layer("ReLU", node, [state.floating(node.input[0])], {0: float(attributes(node).get("alpha", 0.01))})


OPERATORS: dict[str, Translation] = {
    "Add": _binary(_ADD),
    "AveragePool": _pool(_AVERAGE_POOL),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": convolution,
    "ConvTranspose": transposed_convolution,
    "Div": _binary(_DIV),
    "Exp": _simple("UnaryOp", p0=_EXP),
    "Flatten": _reshape,
    "HardSwish": _simple("HardSwish", p0=1.0 / 6.0, p1=0.5),
    "LeakyRelu": _leaky_relu,
    "MatMul": product,
    "MaxPool": _pool(_MAX_POOL),
    "Mul": _multiply,
    "Pow": _binary(_POWER),
    "ReduceMax": _reduce(_MAX),
    "ReduceMean": _reduce(_MEAN),
    "ReduceSum": _reduce(_SUM),
    "Relu": _simple("ReLU"),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _simple("UnaryOp", p0=_SQRT),
    "Squeeze": _reshape,
    "Sub": _binary(_SUB),
    "Tanh": _simple("TanH"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}

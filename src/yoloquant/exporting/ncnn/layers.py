"""Layers with weights: int8 with the folder's integers and scales where they are quantized, float otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from yoloquant.errors import ExportError
from yoloquant.exporting.ncnn.convert import Conversion, Value
from yoloquant.exporting.ncnn.model import Parameter, plain, tagged
from yoloquant.exporting.ncnn.pairs import Weight
from yoloquant.exporting.onnx_nodes import attributes

# `activation_type` of layers (ncnn, src/layer/fused_activation.h).
_RELU, _LEAKY, _CLIP, _HARDSWISH = 1, 2, 3, 6
# `int8_scale_term`: a scale of each output channel, or of each group; this much more where the output is int8, too.
_PER_CHANNEL, _PER_GROUP, _REQUANTIZED = 2, 1, 100
# Slope of ONNX's HardSwish: x * max(0, min(1, x / 6 + 0.5)).
_SIXTH, _HALF = 1.0 / 6.0, 0.5


def convolution(state: Conversion, node: onnx.NodeProto) -> None:
    """Conv: Convolution, ConvolutionDepthWise, or a Convolution for each group where groups have several scales."""
    source, group = state.value(node.input[0]), int(attributes(node).get("group", 1))
    weight, channels = _weight(state, node), state.shapes[node.output[0]][1]
    if not isinstance(weight, Weight):
        source = state.floating(node.input[0])
    elif source.scale is None:
        weight = in_float(weight)
    name, activation = _activation_behind(state, node.output[0])
    made = _window(node, weight)
    if isinstance(weight, Weight) and group not in (1, channels):
        _by_groups(state, node, source, weight, group, {**made, **activation}, name)
        return
    kind, extra = ("Convolution", {}) if group == 1 else ("ConvolutionDepthWise", {7: group})
    bias = _bias(state, node)
    parameters = {0: channels, **made, 5: int(bias is not None), **extra, **activation}
    contents = _contents(weight, bias)
    if isinstance(weight, Weight):
        term, more = _scales(state, source, weight, channels, _PER_CHANNEL if group == 1 else _PER_GROUP, name)
        parameters[8], contents = term, contents + more
    state.model.add(kind, node.name, [source.blob], [state.put(name)], parameters, contents)


def transposed_convolution(state: Conversion, node: onnx.NodeProto) -> None:
    """ConvTranspose: Deconvolution, which has no integers; weights with output channels first."""
    found, weight = attributes(node), _weight(state, node)
    stored = in_float(weight) if isinstance(weight, Weight) else weight
    if found.get("group", 1) != 1 or any(found.get("output_padding", ())):
        raise ExportError(f"format ncnn has no layer for the groups or output padding of {node.name}: choose another format")
    source, bias = state.floating(node.input[0]), _bias(state, node)
    parameters = {0: stored.shape[1], **_window(node, stored), 5: int(bias is not None)}
    contents = _contents(stored.swapaxes(0, 1), bias)
    state.model.add("Deconvolution", node.name, [source.blob], [state.put(node.output[0])], parameters, contents)


def product(state: Conversion, node: onnx.NodeProto) -> None:
    """MatMul of two activations, in float."""
    if any(name in state.constants or name in state.weights for name in node.input):
        raise ExportError(f"format ncnn has no layer for the constant factor of {node.name}: choose another format")
    state.layer("MatMul", node, [state.floating(name) for name in node.input])


def in_float(weight: Weight) -> np.ndarray:
    """The real values that integers stand for."""
    wide = weight.scale.reshape([-1] + [1] * (weight.integers.ndim - 1))
    found: np.ndarray = weight.integers.astype(np.float32) * wide
    return found


def _weight(state: Conversion, node: onnx.NodeProto) -> Weight | np.ndarray:
    name = node.input[1]
    if name in state.weights:
        return state.weights[name]
    return state.constants[name].astype(np.float32)


def _bias(state: Conversion, node: onnx.NodeProto) -> np.ndarray | None:
    return state.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else None


def _contents(weight: Weight | np.ndarray, bias: np.ndarray | None) -> list[bytes]:
    stored = weight.integers if isinstance(weight, Weight) else weight
    return [tagged(stored), *([] if bias is None else [plain(bias)])]


def _window(node: onnx.NodeProto, weight: Weight | np.ndarray) -> dict[int, Parameter]:
    """Kernel, dilations, strides and padding, each of the width and of the height."""
    found = attributes(node)
    if found.get("auto_pad", b"NOTSET") != b"NOTSET":
        raise ExportError(f"format ncnn cannot hold the padding of {node.name}: choose another format")
    shape = (weight.integers if isinstance(weight, Weight) else weight).shape
    top, left, bottom, right = found.get("pads", [0, 0, 0, 0])
    down, across = found.get("strides", [1, 1])
    high, wide = found.get("dilations", [1, 1])
    size = int(np.prod(shape))
    return {1: shape[3], 11: shape[2], 2: wide, 12: high, 3: across, 13: down, 4: left, 14: top, 15: right, 16: bottom, 6: size}


def _scales(state: Conversion, source: Value, weight: Weight, channels: int, term: int, name: str) -> tuple[int, list[bytes]]:
    """`int8_scale_term`, and what is multiplied by to become integers: weights, the input, and the output where it stays so."""
    assert source.scale is not None
    contents = [plain(1.0 / np.broadcast_to(weight.scale, channels)), plain(1.0 / source.scale)]
    wanted = state.requantized(name)
    if wanted is None:
        return term, contents
    return term + _REQUANTIZED, [*contents, plain(1.0 / wanted)]


def _activation_behind(state: Conversion, name: str) -> tuple[str, dict[int, Any]]:
    """The value that comes out of a layer with the activation that it computes, and its parameters for that."""
    reader = state.only_reader(name)
    if reader is None:
        return name, {}
    found = attributes(reader)
    parameters: dict[str, dict[int, Any]] = {
        "Relu": {9: _RELU},
        "LeakyRelu": {9: _LEAKY, 10: [float(found.get("alpha", 0.01))]},
        "HardSwish": {9: _HARDSWISH, 10: [_SIXTH, _HALF]},
    }
    if reader.op_type == "Clip":
        parameters["Clip"] = {9: _CLIP, 10: list(limits(state, reader))}
    if reader.op_type not in parameters:
        return name, {}
    state.done.add(reader.output[0])
    return reader.output[0], parameters[reader.op_type]


def limits(state: Conversion, node: onnx.NodeProto) -> tuple[float, float]:
    """Lowest and highest value of a Clip."""
    largest = float(np.finfo(np.float32).max)
    low, high = [*node.input[1:3], "", ""][:2]
    return (
        float(state.constants[low]) if low else -largest,
        float(state.constants[high]) if high else largest,
    )


def _by_groups(
    state: Conversion,
    node: onnx.NodeProto,
    source: Value,
    weight: Weight,
    group: int,
    parameters: dict[int, Any],
    name: str,
) -> None:
    """A convolution for each group: ncnn's layer of several groups has one scale for all output channels of a group."""
    channels = state.shapes[node.output[0]][1] // group
    parts = [f"{name}.group.{number}" for number in range(group)]
    read = [f"{part}.input" for part in parts]
    state.model.add("Slice", f"{name}.groups", [source.blob], read, {0: [source.shape[1] // group] * group, 1: 0})
    bias = _bias(state, node)
    scales = np.broadcast_to(weight.scale, channels * group)
    for number, part in enumerate(parts):
        own = slice(number * channels, (number + 1) * channels)
        of_part = replace(weight, integers=weight.integers[own], scale=scales[own])
        term, more = _scales(state, source, of_part, channels, _PER_CHANNEL, part)
        size = of_part.integers.size
        own_parameters = {0: channels, **parameters, 6: size, 5: int(bias is not None), 8: term}
        contents = [*_contents(of_part, None if bias is None else bias[own]), *more]
        state.model.add("Convolution", f"{node.name}.{number}", [read[number]], [part], own_parameters, contents)
    state.model.add("Concat", f"{name}.concat", parts, [state.put(name)], {0: 0})

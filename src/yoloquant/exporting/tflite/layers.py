"""Layers with weights: integers as they were quantized, biases as int32 on the product of both scales."""

from __future__ import annotations

import numpy as np
import onnx

from yoloquant.exporting.tflite.convert import Conversion
from yoloquant.exporting.tflite.model import Quantization
from yoloquant.exporting.tflite.windows import SAME, VALID, padded, window_of

# Behind a layer's name, in the name of its weight.
WEIGHT = ".weight"
_INT32 = np.iinfo(np.int32)


def convolution(state: Conversion, node: onnx.NodeProto) -> None:
    """Conv: CONV_2D with weights (out, height, width, in), or DEPTHWISE_CONV_2D with (1, height, width, out)."""
    value = state.value(node.input[0])
    shape = _weight_shape(state, node)
    window = window_of(node, list(shape[2:]))
    depthwise = window["group"] == value.shape[1] > 1
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    activation, output_name = state.activation_behind(node.output[0])
    wanted = state.wanted(output_name)
    quantized = value.quantization is not None and wanted is not None and node.input[1] in state.weights
    if not quantized:
        activation, output_name = _unfused(state, output_name), node.output[0]
    source = state.forms.tensor(value, quantized, True)
    source, padding = padded(state, node.output[0], source, value.shape, window, value.quantization if quantized else None)
    weights = _weights(state, node, order, axis, quantized)
    output = state.put(output_name, True, wanted if quantized else None)
    fields = {
        "padding": padding,
        "strideH": window["strides"][0],
        "strideW": window["strides"][1],
        "dilationHFactor": window["dilations"][0],
        "dilationWFactor": window["dilations"][1],
        "fusedActivationFunction": getattr(state.model.schema.ActivationFunctionType, activation),
    }
    if depthwise:
        multiplier = shape[0] // value.shape[1]
        state.model.operator(
            "DEPTHWISE_CONV_2D", [source, *weights], [output], "DepthwiseConv2DOptions", depthMultiplier=multiplier, **fields
        )
    else:
        state.model.operator("CONV_2D", [source, *weights], [output], "Conv2DOptions", **fields)


def transposed_convolution(state: Conversion, node: onnx.NodeProto) -> None:
    """ConvTranspose: TRANSPOSE_CONV with weights (out, height, width, in)."""
    value, shape = state.value(node.input[0]), _weight_shape(state, node)
    window, wanted = window_of(node, list(shape[2:])), state.wanted(node.output[0])
    quantized = value.quantization is not None and wanted is not None and node.input[1] in state.weights
    source = state.forms.tensor(value, quantized, True)
    weights = _weights(state, node, (1, 2, 3, 0), 0, quantized)
    output = state.put(node.output[0], True, wanted if quantized else None)
    batch, channels, height, width = state.shapes[node.output[0]]
    size = state.model.constant(f"{node.output[0]}.size", np.array([batch, height, width, channels], np.int32))
    fields = {"strideH": window["strides"][0], "strideW": window["strides"][1], "fusedActivationFunction": 0}
    padding = SAME if any(window["pads"]) else VALID
    inputs = [size, weights[0], source, *weights[1:]]
    state.model.operator("TRANSPOSE_CONV", inputs, [output], "TransposeConvOptions", padding=padding, **fields)


def product(state: Conversion, node: onnx.NodeProto) -> None:
    """MatMul of two activations: BATCH_MATMUL."""
    values = [state.value(name) for name in node.input]
    wanted = state.wanted(node.output[0])
    quantized = wanted is not None and all(value.quantization is not None for value in values)
    inputs = [state.forms.tensor(value, quantized, False) for value in values]
    output = state.put(node.output[0], False, wanted if quantized else None)
    state.model.operator(
        "BATCH_MATMUL", inputs, [output], "BatchMatMulOptions", adjX=False, adjY=False, asymmetricQuantizeInputs=False
    )


def _unfused(state: Conversion, output_name: str) -> str:
    """Leave the activation to an operator of its own, where the layer runs in float."""
    state.fused.discard(output_name)
    return "NONE"


def _weight_shape(state: Conversion, node: onnx.NodeProto) -> tuple[int, ...]:
    name = node.input[1]
    return state.weights[name][0].shape if name in state.weights else state.constants[name].shape


def _weights(state: Conversion, node: onnx.NodeProto, order: tuple[int, ...], axis: int, quantized: bool) -> list[int]:
    """Tensors of weight and bias.

    Args:
        state: State of the conversion.
        node: Node of the layer.
        order: Order of the weight's dimensions in the file.
        axis: Axis of output channels there.
        quantized: Whether weights are stored as integers.
    """
    name = node.input[1]
    label = node.name + WEIGHT
    channels = state.shapes[node.output[0]][1]
    bias = state.constants[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(channels, np.float32)
    if not quantized:
        weight = _in_float(*state.weights[name]) if name in state.weights else state.constants[name]
        return [
            state.model.constant(label, np.ascontiguousarray(weight.transpose(order).astype(np.float32))),
            state.model.constant(f"{node.name}.bias", bias.astype(np.float32)),
        ]
    integers, own = state.weights[name]
    scale = np.broadcast_to(own.scale, channels).astype(np.float32)
    per_channel = Quantization(scale, np.zeros(channels, np.int64), axis)
    source = state.value(node.input[0]).quantization
    assert source is not None
    product_scale = Quantization(source.scale * scale, np.zeros(channels, np.int64))
    rounded = np.rint(bias.astype(np.float64) / product_scale.scale).clip(_INT32.min, _INT32.max).astype(np.int32)
    return [
        state.model.constant(label, np.ascontiguousarray(integers.transpose(order)), per_channel),
        state.model.constant(f"{node.name}.bias", rounded, product_scale),
    ]


def _in_float(integers: np.ndarray, own: Quantization) -> np.ndarray:
    wide = [-1 if axis == own.axis else 1 for axis in range(integers.ndim)]
    scale, zero = (part.reshape(wide) if part.size > 1 else part for part in (own.scale, own.zero_point))
    found: np.ndarray = (integers.astype(np.float32) - zero.astype(np.float32)) * scale
    return found

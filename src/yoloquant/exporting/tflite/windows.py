"""What slides a window over a map: LiteRT pads by one of two rules; any other padding is an operator of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

from yoloquant.errors import ExportError
from yoloquant.exporting.onnx_nodes import attributes
from yoloquant.exporting.tflite.convert import Conversion
from yoloquant.exporting.tflite.model import Quantization

# Values of `Padding` in the schema.
SAME, VALID = 0, 1
# Below every value of a map, for maxima.
_LOWEST = float(np.finfo(np.float32).min)


def same_pads(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels that SAME adds before and behind: as many as give `ceil(size / stride)` outputs, the odd one behind."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def padded(
    state: Conversion,
    label: str,
    source: int,
    shape: tuple[int, ...],
    window: dict[str, Any],
    quantization: Quantization | None,
    lowest: bool = False,
) -> tuple[int, int]:
    """The tensor that a window slides over, and the rule of padding.

    Args:
        state: State of the conversion.
        label: Label for names.
        source: Tensor with channels last.
        shape: Shape of the tensor, channels second.
        window: `kernel`, `strides`, `pads` (top, left, bottom, right) and `dilations`.
        quantization: Quantization of the tensor.
        lowest: Whether padding holds the lowest value, which no maximum takes, in place of zeros.
    """
    pads = window["pads"]
    if not any(pads):
        return source, VALID
    sides = zip(shape[2:], window["kernel"], window["strides"], window["dilations"], strict=True)
    wanted = [same_pads(size, (kernel - 1) * dilation + 1, stride) for size, kernel, stride, dilation in sides]
    if [wanted[0][0], wanted[1][0], wanted[0][1], wanted[1][1]] == list(pads):
        return source, SAME
    (_, channels, height, width) = shape
    around = np.array([[0, 0], [pads[0], pads[2]], [pads[1], pads[3]], [0, 0]], np.int32)
    dtype = "float32" if quantization is None else "int8"
    wide = (shape[0], height + pads[0] + pads[2], width + pads[1] + pads[3], channels)
    made = state.model.tensor(f"{label}.padded", wide, dtype, quantization)
    inputs = [source, state.model.constant(f"{label}.pads", around)]
    if lowest:
        filler = np.array(_LOWEST, np.float32) if quantization is None else np.array(-128, np.int8)
        inputs.append(state.model.constant(f"{label}.filler", filler, quantization))
        state.model.operator("PADV2", inputs, [made], "PadV2Options")
    else:
        state.model.operator("PAD", inputs, [made], "PadOptions")
    return made, VALID


def window_of(node: onnx.NodeProto, kernel: list[int] | None = None) -> dict[str, Any]:
    """Kernel, strides, pads and dilations of a node."""
    found = attributes(node)
    if found.get("auto_pad", b"NOTSET") != b"NOTSET" or found.get("ceil_mode"):
        raise ExportError(f"format tflite cannot hold the padding of {node.name}: choose another format")
    return {
        "kernel": kernel or list(found["kernel_shape"]),
        "strides": list(found.get("strides", [1, 1])),
        "pads": list(found.get("pads", [0, 0, 0, 0])),
        "dilations": list(found.get("dilations", [1, 1])),
        "group": found.get("group", 1),
    }


def max_pool(state: Conversion, node: onnx.NodeProto) -> None:
    """MaxPool; its output has the scale of its input."""
    value, window = state.value(node.input[0]), window_of(node)
    quantized = value.quantization is not None
    source = state.forms.tensor(value, quantized, True)
    source, padding = padded(state, node.output[0], source, value.shape, window, value.quantization, lowest=True)
    output = state.put(node.output[0], True, value.quantization)
    state.model.operator("MAX_POOL_2D", [source], [output], "Pool2DOptions", **_pool(window, padding))


def average_pool(state: Conversion, node: onnx.NodeProto) -> None:
    """AveragePool without padding, in float: LiteRT's integer one would round its mean to the input's scale."""
    value, window = state.value(node.input[0]), window_of(node)
    if any(window["pads"]):
        raise ExportError(f"format tflite cannot hold the padding of {node.name}: choose another format")
    source = state.forms.tensor(value, False, True)
    output = state.put(node.output[0], True, None)
    state.model.operator("AVERAGE_POOL_2D", [source], [output], "Pool2DOptions", **_pool(window, VALID))


def _pool(window: dict[str, Any], padding: int) -> dict[str, Any]:
    return {
        "padding": padding,
        "strideH": window["strides"][0],
        "strideW": window["strides"][1],
        "filterHeight": window["kernel"][0],
        "filterWidth": window["kernel"][1],
        "fusedActivationFunction": 0,
    }

"""TensorRT's calibration cache: the scales of a Q/DQ file for a float file, for users of implicit quantization.

TensorRT up to version 10 takes either Q/DQ in the file or such a cache beside a float one, never both. With a cache it chooses
itself which layers run in integers.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.errors import ExportError
from yoloquant.files.writing import replaced_whole

# TensorRT compares only what follows the version: the cache is of the calibrator that keeps scales per tensor.
HEADER = "TRT-100000-EntropyCalibration2"


def write_calibration_cache(quantized: Path, model: Path, cache: Path) -> int:
    """Split a Q/DQ file into a float file and a calibration cache.

    A line of the cache is a tensor's name and its scale as a big-endian IEEE-754 float in hexadecimal.

    Args:
        quantized: File for the target `tensorrt`: zero point 0, one scale for each activation.
        model: Float file to write; weights keep their rounding.
        cache: File to write, `calibration.cache` by habit.

    Returns:
        Tensors with a scale.

    Raises:
        ExportError: An activation is unsigned, has a zero point or several scales, which a cache cannot hold.
    """
    proto = load_onnx(quantized)
    scales = _remove_quantization(proto)
    if not scales:
        raise ExportError("no activation is quantized, so the calibration cache would be empty: quantize with --target tensorrt")
    onnx.checker.check_model(proto)
    lines = [HEADER, *(f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items())]
    with replaced_whole(model) as partial_model, replaced_whole(cache) as partial_cache:
        onnx.save(proto, str(partial_model))
        partial_cache.write_text("\n".join(lines) + "\n", encoding="ascii")
    return len(scales)


def _remove_quantization(model: onnx.ModelProto) -> dict[str, float]:
    """Take Q/DQ out of a model; returns tensor name -> scale."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # Value -> what its readers read instead.
    instead: dict[str, str] = {}
    scales: dict[str, float] = {}
    for node in list(graph.node):
        if node.op_type == "QuantizeLinear":
            source = instead.get(node.input[0], node.input[0])
            instead[node.output[0]] = source
            scales.setdefault(source, _only_scale(node, constants))
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            graph.initializer.append(numpy_helper.from_array(_dequantized(node, constants), node.output[0]))
        elif node.op_type == "DequantizeLinear":
            instead[node.output[0]] = instead[node.input[0]]
        else:
            node.input[:] = [instead.get(name, name) for name in node.input]
            continue
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    return scales


def _only_scale(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> float:
    scale, zero_point = constants[node.input[1]], constants[node.input[2]]
    # Unsigned integers reach twice as far with one scale as the signed ones that a cache is for.
    if scale.size != 1 or zero_point.any() or zero_point.dtype != np.int8:
        raise ExportError(
            f"{node.name} is unsigned, has a zero point or several scales, which TensorRT's calibration cache cannot hold: "
            "quantize with --target tensorrt"
        )
    return float(scale)


def _dequantized(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> np.ndarray:
    """Values of a quantized weight: scales along one axis, or one for all."""
    integers, scale = constants[node.input[0]], constants[node.input[1]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    shape = [-1 if dimension == axis else 1 for dimension in range(integers.ndim)] if scale.ndim else []
    values: np.ndarray = integers.astype(np.float32) * scale.reshape(shape)
    return values.astype(np.float32)

"""Pairs of QuantizeLinear and DequantizeLinear as ncnn has them: the scale of the values that an int8 layer reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from yoloquant.errors import ExportError

# ncnn's kernels quantize to -127..127 (src/layer/quantize.cpp, float2int8).
_HIGHEST = 127


@dataclass(frozen=True)
class Pair:
    """A quantized activation.

    Attributes:
        source: Name of the float values.
        scale: Real size of one integer step.
    """

    source: str
    scale: np.float32


@dataclass(frozen=True)
class Weight:
    """A quantized weight.

    Attributes:
        integers: Integers, int8, in ONNX's order of dimensions.
        scale: Scale, float32, of each output channel, or one.
    """

    integers: np.ndarray
    scale: np.ndarray


def take_pairs(graph: onnx.GraphProto, constants: Mapping[str, np.ndarray]) -> tuple[dict[str, Pair], dict[str, Weight]]:
    """Take the quantization out of a graph: what layers of ncnn do themselves.

    Args:
        graph: Changed in place; what reads quantized values keeps the names of them.
        constants: Constants of the graph, by name.

    Returns:
        Quantized activations and weights, by the name of the value that their DequantizeLinear made.

    Raises:
        ExportError: Ncnn has no such quantization.
    """
    producers = {name: node for node in graph.node for name in node.output}
    pairs: dict[str, Pair] = {}
    weights: dict[str, Weight] = {}
    taken: set[str] = set()
    for node in graph.node:
        if node.op_type != "DequantizeLinear":
            continue
        (name,) = node.output
        taken.add(name)
        if node.input[0] in constants:
            weights[name] = _weight(node, constants)
        else:
            taken.add(node.input[0])
            pairs[name], clipped = _pair(node, producers, constants)
            taken |= clipped
    kept = [node for node in graph.node if node.output[0] not in taken]
    del graph.node[:]
    graph.node.extend(kept)
    return pairs, weights


def _pair(
    node: onnx.NodeProto, producers: Mapping[str, onnx.NodeProto], constants: Mapping[str, np.ndarray]
) -> tuple[Pair, set[str]]:
    """A quantized activation, and the output of the Clip that ncnn does itself."""
    scale = _scale(node, constants)
    source = producers[node.input[0]].input[0]
    clip = producers.get(source)
    if clip is None or clip.op_type != "Clip" or scale.size > 1:
        raise ExportError(f"{node.output[0]} is not quantized to -127..127 with one scale: quantize with --target ncnn")
    step = np.float32(scale.reshape(-1)[0])
    limits = [float(constants[name]) for name in clip.input[1:3]]
    if np.allclose(limits, [-_HIGHEST * step, _HIGHEST * step], rtol=1e-5):
        return Pair(clip.input[0], step), {source}
    # Fewer bits: the values are limited before ncnn quantizes them.
    return Pair(source, step), set()


def _weight(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> Weight:
    scale, integers = _scale(node, constants), constants[node.input[0]]
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    if scale.ndim > 1 or (scale.size > 1 and axis != 0):
        raise ExportError(f"{node.output[0]} has other scales than one for each output channel, as ncnn wants them")
    return Weight(integers.astype(np.int8), scale.reshape(-1).astype(np.float32))


def _scale(node: onnx.NodeProto, constants: Mapping[str, np.ndarray]) -> np.ndarray:
    scale, zero = (constants[name] for name in node.input[1:3])
    if zero.dtype.name not in ("int8", "int4") or np.any(zero.astype(np.int8)):
        raise ExportError(
            f"{node.output[0]} has {zero.dtype} integers or a zero point; ncnn has int8 without one: quantize with --target ncnn"
        )
    return scale

"""Half precision in an ONNX file: for runtimes that compute each layer in the type that the file gives it (TensorRT 11)."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from yoloquant.errors import ExportError

# QuantizeLinear and DequantizeLinear take half precision since this opset.
LOWEST_OPSET = 19
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Inputs that stay in 32 bits whatever the type of the first one is (ONNX, Resize-19: roi and scales).
_SINGLE = {"Resize": (1, 2)}
# The lowest positive number of half precision: no scale may be zero.
_LEAST = np.float16(2.0**-24)


def to_half(model: onnx.ModelProto) -> None:
    """Bring all layers up to the last one with weights into half precision, in place; images and outputs stay in 32 bits.

    What decodes boxes and scores behind the last layers stays in 32 bits: half precision counts pixels above 512 in halves.
    Scales of quantization are in half precision, too, since they have the type of what is quantized; that of weights moves them
    by at most 1/2048 of their value.

    Args:
        model: Model with opset 19 or later.

    Raises:
        ExportError: A weight or constant is beyond half precision.
    """
    graph = model.graph
    _constants_to_initializers(graph)
    network = _before_last_weights(graph)
    made = {name for node in network for name in node.output}
    behind = [node for node in graph.node if node.output[0] not in made]
    halves = _half_constants(
        network, {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    )
    (image,) = (value.name for value in graph.input)
    read_in_single = {name for node in behind for name in node.input} | {output.name for output in graph.output}
    crossing = [name for node in network for name in node.output if name in read_in_single]
    for node in network:
        _halve(node, {*halves, *crossing, image})
    del graph.node[:]
    graph.node.append(_cast(image, _half(image), TensorProto.FLOAT16))
    graph.node.extend([*network, *(_cast(_half(name), name, TensorProto.FLOAT) for name in crossing), *behind])
    graph.initializer.extend(halves.values())
    _drop_unused(graph)
    # Types of values in between are others now; readers infer them.
    del graph.value_info[:]


def _halve(node: onnx.NodeProto, renamed: set[str]) -> None:
    """Let a node read and make what has another name in half precision, and cast to it."""
    kept = _SINGLE.get(node.op_type, ())
    for place, name in enumerate(node.input):
        if name in renamed and place not in kept:
            node.input[place] = _half(name)
    node.output[:] = [_half(name) if name in renamed else name for name in node.output]
    if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT:
        node.attribute[0].i = TensorProto.FLOAT16


def _cast(source: str, name: str, dtype: int) -> onnx.NodeProto:
    return onnx.helper.make_node("Cast", [source], [name], name=f"{name}.cast", to=dtype)


def _half(name: str) -> str:
    return f"{name}.half"


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _before_last_weights(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that a layer with weights depends on, and those layers, in the file's order."""
    wanted: set[str] = set()
    found = []
    for node in reversed(graph.node):
        if node.op_type in _WEIGHTED or any(name in wanted for name in node.output):
            found.append(node)
            wanted.update(node.input)
    return found[::-1]


def _half_constants(network: list[onnx.NodeProto], single: dict[str, TensorProto]) -> dict[str, TensorProto]:
    """Constants of the network in half precision, by their names in the file."""
    halves = {}
    for node in network:
        for place, name in enumerate(node.input):
            if name in single and place not in _SINGLE.get(node.op_type, ()):
                is_scale = node.op_type in ("QuantizeLinear", "DequantizeLinear")
                halves[name] = _narrowed(single[name], is_scale=is_scale)
    return halves


def _narrowed(tensor: TensorProto, *, is_scale: bool) -> TensorProto:
    content = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        narrow = content.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise ExportError(f"{tensor.name} holds {np.abs(content).max():.3g}, beyond half precision: leave --half out")
    return numpy_helper.from_array(np.maximum(narrow, _LEAST) if is_scale else narrow, _half(tensor.name))


def _drop_unused(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)

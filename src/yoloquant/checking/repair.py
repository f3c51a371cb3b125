"""Repairs of a Q/DQ file that need no calibration: what only has to go."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from yoloquant.checking.finding import Finding
from yoloquant.checking.findings import check_graph
from yoloquant.checking.integer_layers import merged_activation
from yoloquant.checking.qdq_graph import SAME_VALUES, QdqGraph, Scale
from yoloquant.targets.target import Target


def repair(model: onnx.ModelProto, target: Target) -> tuple[onnx.ModelProto, list[Finding]]:
    """Mend all fixable findings.

    Args:
        model: Model to repair; it is not changed.
        target: Target that it is for.

    Returns:
        The mended model, and what was mended.
    """
    mended = onnx.ModelProto()
    mended.CopyFrom(model)
    done: list[Finding] = []
    # A repair can lay bare another one: a pair within a pair.
    while found := [finding for finding in check_graph(QdqGraph(mended), target).findings if finding.fixable]:
        graph = QdqGraph(mended)
        nodes = {graph.label(node): node for node in graph.nodes}
        for finding in found:
            _REPAIRS[finding.kind](graph, nodes[finding.node])
        _drop_unread(mended)
        done += found
    return mended, done


def _remove_pair(graph: QdqGraph, quantizer: onnx.NodeProto) -> None:
    """Let all who read the dequantized value read the one before the QuantizeLinear."""
    for dequantizer in graph.readers.get(quantizer.output[0], ()):
        _replace(graph, dequantizer.output[0], quantizer.input[0])


def _remove_behind(graph: QdqGraph, layer: onnx.NodeProto) -> None:
    for quantizer in graph.quantizers_behind(layer.output[0]):
        _remove_pair(graph, quantizer)


def _float_bias(graph: QdqGraph, layer: onnx.NodeProto) -> None:
    _float_constant(graph, layer, 2)


def _float_weight(graph: QdqGraph, layer: onnx.NodeProto) -> None:
    _float_constant(graph, layer, 1)


def _float_constant(graph: QdqGraph, layer: onnx.NodeProto, index: int) -> None:
    """Let a layer read a weight or a bias in float, with the values that its integers stand for."""
    dequantizer = graph.dequantized(layer.input[index])
    scale = graph.scale_of(dequantizer)
    assert dequantizer is not None
    assert scale is not None
    integers = graph.constants[dequantizer.input[0]].astype(np.float64)
    factor, zero = (_along(part, integers.shape, dequantizer) for part in (scale.scale, scale.zero_point))
    name = f"{layer.input[index]}_float"
    graph.model.graph.initializer.append(numpy_helper.from_array(((integers - zero) * factor).astype(np.float32), name))
    layer.input[index] = name


def _along(parameter: np.ndarray, shape: tuple[int, ...], dequantizer: onnx.NodeProto) -> np.ndarray:
    """A scale or zero point, one for each channel or block, in a shape that the integers broadcast with."""
    if parameter.size == 1:
        return parameter
    attributes = {attribute.name: attribute.i for attribute in dequantizer.attribute}
    axis = attributes.get("axis", 1) % len(shape)
    if parameter.ndim == 1:
        return parameter.reshape([-1 if dimension == axis else 1 for dimension in range(len(shape))])
    return np.repeat(parameter, attributes["block_size"], axis).take(range(shape[axis]), axis)


def _read_integers(graph: QdqGraph, layer: onnx.NodeProto) -> None:
    """Let all who read a layer's output in float read what is quantized for the others."""
    value = (merged_activation(graph, layer) or layer).output[0]
    quantizer = graph.quantizers_behind(value)[0]
    dequantizer = graph.readers[quantizer.output[0]][0]
    for reader in graph.readers[value]:
        if reader is not quantizer:
            for index, name in enumerate(reader.input):
                if name == value:
                    reader.input[index] = dequantizer.output[0]


def _lowest_zero_point(graph: QdqGraph, layer: onnx.NodeProto) -> None:
    """Quantize what is behind a layer's Relu from the lowest integer on.

    The step stays; the integers below the old zero point, which stood for nothing, now stand for values above the old range. A
    concat behind it then rescales.
    """
    activation = merged_activation(graph, layer)
    assert activation is not None
    (quantizer,) = graph.quantizers_behind(activation.output[0])
    scale = graph.scale_of(quantizer)
    assert scale is not None
    name = f"{quantizer.output[0]}_lowest"
    lowest = np.full(scale.zero_point.shape, np.iinfo(scale.dtype).min, scale.dtype)
    graph.model.graph.initializer.append(numpy_helper.from_array(lowest, name))
    _set_zero_point(graph, quantizer, scale, name)


def _set_zero_point(graph: QdqGraph, quantizer: onnx.NodeProto, old: Scale, name: str) -> None:
    """Change a pair's zero point, and that of pairs with the same scale behind operators that only move its values."""
    quantizer.input[2] = name
    for dequantizer in graph.readers.get(quantizer.output[0], ()):
        dequantizer.input[2] = name
        for reader in graph.readers.get(dequantizer.output[0], ()):
            if reader.op_type not in SAME_VALUES or reader.op_type == "Concat":
                continue
            for value in reader.output:
                for other in graph.quantizers_behind(value):
                    scale = graph.scale_of(other)
                    if scale is not None and scale.is_same(old):
                        _set_zero_point(graph, other, old, name)


def _replace(graph: QdqGraph, old: str, new: str) -> None:
    for reader in graph.readers.get(old, ()):
        for index, name in enumerate(reader.input):
            if name == old:
                reader.input[index] = new
    if old in graph.outputs:
        # The file's outputs keep their names.
        graph.model.graph.node.append(onnx.helper.make_node("Identity", [new], [f"{old}_kept"], name=f"{old}_kept"))
        for node in graph.nodes:
            for index, name in enumerate(node.output):
                if name == old:
                    node.output[index] = f"{old}_before"
        graph.model.graph.node[-1].output[0] = old


def _drop_unread(model: onnx.ModelProto) -> None:
    """Remove nodes and initializers that nothing reads any more."""
    graph = model.graph
    outputs = {value.name for value in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | outputs
        dead = [node for node in graph.node if not any(name in read for name in node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


_REPAIRS = {
    "needless-pair": _remove_pair,
    "before-activation": _remove_behind,
    "inside-activation": _remove_pair,
    "quantized-bias": _float_bias,
    "quantized-decode": _remove_pair,
    "no-integer-kernel": _float_weight,
    "not-merged": _lowest_zero_point,
    "output-not-quantized": _read_integers,
}

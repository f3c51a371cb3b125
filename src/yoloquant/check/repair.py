"""Repairs of a Q/DQ file that need no calibration: what only has to go."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from yoloquant.check.findings import Finding, check_graph
from yoloquant.check.qdq_graph import QdqGraph
from yoloquant.targets.base import Target


def repair(model: onnx.ModelProto, target: Target) -> tuple[onnx.ModelProto, list[Finding]]:
    """Mend all fixable findings.

    Args:
        model: is left as it is.
        target: that it is for.

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
    dequantizer = graph.dequantized(layer.input[2])
    scale = graph.scale_of(dequantizer)
    assert dequantizer is not None
    assert scale is not None
    values = (graph.constants[dequantizer.input[0]].astype(np.float64) - scale.zero_point) * scale.scale
    name = f"{layer.input[2]}_float"
    graph.model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    layer.input[2] = name


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
}

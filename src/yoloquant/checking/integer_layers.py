"""Why a layer of a Q/DQ file runs in float: what each target's runtime wants around a layer with an integer kernel."""

from __future__ import annotations

import numpy as np
import onnx

from yoloquant.checking.finding import Finding
from yoloquant.checking.qdq_graph import QdqGraph, Scale
from yoloquant.targets.target import Target

# Kinds of layers as placements have them.
_KINDS = {"Conv": "conv", "ConvTranspose": "conv_transpose", "Gemm": "linear", "MatMul": "linear"}


def runs_in_integers(graph: QdqGraph, node: onnx.NodeProto, target: Target) -> bool:
    """The target's runtime computes a layer with integers."""
    return why_in_float(graph, node, target) is None


def why_in_float(graph: QdqGraph, node: onnx.NodeProto, target: Target) -> Finding | None:
    """What keeps a layer with weights in float; none if it runs in integers."""
    has_input, has_weight = _is_input_quantized(graph, node, target), graph.dequantized(node.input[1]) is not None
    label, kind = graph.label(node), _KINDS[node.op_type]
    if not has_weight and (not has_input or kind not in target.kernels.layers or _is_needed_before(graph, node, target)):
        return Finding("float-layer", label, f"{label} runs in float: its weight is not quantized")
    if has_input != has_weight:
        missing = "weight" if has_input else "input"
        sentence = f"{label} runs in float although it is half quantized: its {missing} has no DequantizeLinear"
        return Finding("half-quantized", label, sentence)
    if kind not in target.kernels.layers:
        sentence = (
            f"{label} is quantized without effect: {target.name} computes {node.op_type} in float alone; keep its weight in float"
        )
        return Finding("no-integer-kernel", label, sentence, fixable=True)
    if kind in target.kernels.at_lowest and _has_zero_point(graph, node):
        sentence = (
            f"{label} is quantized without effect: {target.name} computes {node.op_type} in float where its input has a zero "
            "point; keep its weight in float"
        )
        return Finding("no-integer-kernel", label, sentence, fixable=True)
    return _why_not_behind(graph, node) if target.needs_output_quantizer else None


def _is_input_quantized(graph: QdqGraph, node: onnx.NodeProto, target: Target) -> bool:
    """The activation is dequantized, at once or, where the runtime carries integers, before operators that only move values."""
    return graph.dequantized(node.input[0]) is not None or (
        target.carries_integers and graph.carried_scale(node.input[0]) is not None
    )


def _is_needed_before(graph: QdqGraph, node: onnx.NodeProto, target: Target) -> bool:
    """The input's integers are there for the layer before, which needs them to run in integers itself."""
    dequantizer = graph.dequantized(node.input[0])
    quantizer = graph.producers.get(dequantizer.input[0]) if dequantizer is not None else None
    before = graph.producers.get(quantizer.input[0]) if quantizer is not None else None
    if before is not None and before.op_type in ("Relu", "Clip"):
        before = graph.producers.get(before.input[0])
    return target.needs_output_quantizer and before is not None and before.op_type in _KINDS


def _has_zero_point(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    scale = graph.carried_scale(node.input[0])
    return scale is not None and bool(scale.zero_point.any())


def _why_not_behind(graph: QdqGraph, node: onnx.NodeProto) -> Finding | None:
    """ONNX Runtime wants one QuantizeLinear behind a layer, which takes up a Relu or Clip that changes none of its integers.

    int8 activations are for Arm there (session option `session.qdqisint8allowed`), but for values with one reader, which it turns
    into uint8 itself. Products with a matrix need no QuantizeLinear: MatMulIntegerToFloat, QGemm without bias.
    """
    label, merged = graph.label(node), merged_activation(graph, node)
    value = (merged or node).output[0]
    readers = graph.readers.get(value, [])
    quantizers = graph.quantizers_behind(value)
    needs_none = node.op_type == "MatMul" or (node.op_type == "Gemm" and len(node.input) < 3)
    if not quantizers and needs_none:
        return None
    if value in graph.outputs or not quantizers or len(quantizers) < len(readers):
        sentence = f"{label} runs in float in ONNX Runtime: its output is not quantized for all who read it"
        return Finding("output-not-quantized", label, sentence, fixable=bool(quantizers) and value not in graph.outputs)
    # The same QuantizeLinear twice is one to its optimiser.
    if any(list(other.input) != list(quantizers[0].input) for other in quantizers):
        sentence = f"{label} runs in float in ONNX Runtime: {len(quantizers)} QuantizeLinear read its output; share one scale"
        return Finding("output-quantized-twice", label, sentence)
    scale = graph.scale_of(quantizers[0])
    if merged is not None and scale is not None and not _changes_nothing(graph, merged, scale):
        at_lowest = not is_at_lowest(scale)
        sentence = (
            f"{label} runs in float in ONNX Runtime, which merges {merged.op_type} only where the QuantizeLinear behind it has "
            "the lowest integer as zero point and no integer outside of its range: "
            f"zero point {int(scale.zero_point.flat[0])}, scale {float(scale.scale.flat[0]):.4g}"
        )
        return Finding("not-merged", label, sentence, fixable=at_lowest and merged.op_type == "Relu")
    if _stays_signed(graph, node, quantizers[0]):
        sentence = f"{label} runs in float in ONNX Runtime on x86, where int8 activations are not taken: quantize to uint8"
        return Finding("signed-values", label, sentence)
    return None


def merged_activation(graph: QdqGraph, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The Relu or Clip that alone reads a layer's output."""
    readers = graph.readers.get(node.output[0], [])
    alone = len(readers) == 1 and node.output[0] not in graph.outputs
    return readers[0] if alone and readers[0].op_type in ("Relu", "Clip") else None


def is_at_lowest(scale: Scale) -> bool:
    """The zero point is the lowest integer of its type."""
    return bool((scale.zero_point == np.iinfo(scale.dtype).min).all())


def _changes_nothing(graph: QdqGraph, activation: onnx.NodeProto, scale: Scale) -> bool:
    """No integer stands for a value that the activation changes."""
    if activation.op_type == "Relu":
        return is_at_lowest(scale)
    if not all(name in graph.constants for name in activation.input[1:] if name):
        return False
    ends = [graph.constants[name] if name else None for name in (*activation.input[1:], "", "")[:2]]
    low, high = ((np.float32(i) - scale.zero_point) * scale.scale for i in (np.iinfo(scale.dtype).min, np.iinfo(scale.dtype).max))
    # As its optimiser compares: within the smallest step of float32 at 1.
    step = np.finfo(np.float32).eps
    return bool((ends[0] is None or ends[0] <= low.min() + step) and (ends[1] is None or ends[1] >= high.max() - step))


def _stays_signed(graph: QdqGraph, node: onnx.NodeProto, quantizer: onnx.NodeProto) -> bool:
    """A layer's input or output is int8 and has several readers."""
    source = graph.dequantized(node.input[0])
    integers = [(source, source.input[0])] if source is not None else []
    for parameters, name in (*integers, (quantizer, quantizer.output[0])):
        scale = graph.scale_of(parameters)
        readers = [reader for other in graph.readers.get(name, ()) for reader in graph.readers.get(other.output[0], ())]
        if scale is not None and scale.dtype.startswith("int") and len(readers) != 1:
            return True
    return False

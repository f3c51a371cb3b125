"""What is wrong with a Q/DQ file for a target: each check is a function from a graph to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from yoloquant.checking.check_report import CheckReport
from yoloquant.checking.finding import LEVELS, Finding
from yoloquant.checking.integer_layers import is_at_lowest, runs_in_integers, why_in_float
from yoloquant.checking.qdq_graph import ACTIVATIONS, SAME_VALUES, WEIGHTED, QdqGraph, Scale
from yoloquant.checkpoint.onnx_checks import onnx_parsed, open_detector_file
from yoloquant.targets.registry import get_target
from yoloquant.targets.target import Target

# Kinds whose cost is multiplications in float, and kinds whose cost is values that are converted.
_IN_FLOAT = frozenset(
    {
        "float-layer",
        "half-quantized",
        "no-integer-kernel",
        "not-merged",
        "output-not-quantized",
        "output-quantized-twice",
        "signed-values",
    }
)
_CONVERTED = frozenset(
    {"before-activation", "inside-activation", "needless-pair", "rescaling", "mismatched-scales", "quantized-decode"}
)

_NOT_QUANTIZED = Finding(
    "not-quantized",
    "",
    "the file holds no QuantizeLinear or DequantizeLinear, so every layer runs in float: quantize it",
)

Check = Callable[[QdqGraph, Target], Iterator[Finding]]


def check_file(path: str | Path, target: str) -> CheckReport:
    """Check a file for a target.

    Args:
        path: ONNX file with Q/DQ, of any tool.
        target: Deployment target, a key of `yoloquant.targets.registry.TARGETS`.

    Raises:
        CheckpointError: The file is no ONNX file.
        RecipeError: There is no such target.
    """
    with onnx_parsed(Path(path)):
        return check_graph(QdqGraph(open_detector_file(Path(path))), get_target(target))


def check_graph(graph: QdqGraph, target: Target) -> CheckReport:
    """All checks; of a file without any quantization nothing but that."""
    layers = graph.weighted()
    if not any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.nodes):
        return CheckReport(findings=(_NOT_QUANTIZED,), layers=len(layers), integer_layers=0, integer_work=0.0, conversions=0)
    whole = sum(graph.multiplications(node) for node in layers)
    nodes = {graph.label(node): node for node in graph.nodes}
    found = [_with_cost(graph, finding, nodes[finding.node], whole) for check in CHECKS for finding in check(graph, target)]
    findings = tuple(sorted(found, key=lambda finding: -LEVELS.index(finding.level)))
    integer = [node for node in layers if runs_in_integers(graph, node, target)]
    work = sum(graph.multiplications(node) for node in integer) / whole if whole else 0.0
    conversions = sum(
        node.op_type in ("QuantizeLinear", "DequantizeLinear") and not graph.is_weight(node.input[0]) for node in graph.nodes
    )
    return CheckReport(
        findings=findings, layers=len(layers), integer_layers=len(integer), integer_work=work, conversions=conversions
    )


def _with_cost(graph: QdqGraph, finding: Finding, node: onnx.NodeProto, whole: int) -> Finding:
    """The finding with what it costs: multiplications in float, or values that are converted."""
    if finding.kind in _IN_FLOAT and whole:
        return replace(finding, work=graph.multiplications(node) / whole)
    if finding.kind in _CONVERTED:
        return replace(finding, values=int(np.prod(graph.shapes.get(node.output[0], (0,)), dtype=np.int64)))
    return finding


def float_layers(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """Layers that run in float, and why."""
    for node in graph.weighted():
        finding = why_in_float(graph, node, target)
        if finding is not None:
            yield finding


def conversions_before_activations(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """Q/DQ between a layer and its activation, where the runtime would fuse the two."""
    if not target.fuses_activations:
        return
    for node in graph.weighted():
        for quantizer in graph.quantizers_behind(node.output[0]):
            for dequantizer in graph.readers.get(quantizer.output[0], ()):
                behind = graph.readers.get(dequantizer.output[0], ())
                if any(reader.op_type in ACTIVATIONS for reader in behind):
                    label = graph.label(node)
                    sentence = (
                        f"Q/DQ stands between {label} and its activation, so that {target.name} cannot fuse them: remove it"
                    )
                    yield Finding("before-activation", label, sentence, fixable=True)


def conversions_inside_activations(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """Q/DQ between the sigmoid of a SiLU and its product: three operators on integers instead of one activation.

    TensorFlow Lite has no SiLU, there it must be so (LiteRT's 8-bit specification, LOGISTIC).
    """
    if not target.has_silu:
        return
    for node in graph.nodes:
        if node.op_type not in ("Sigmoid", "HardSigmoid"):
            continue
        for quantizer in graph.quantizers_behind(node.output[0]):
            behind = [reader for d in graph.readers.get(quantizer.output[0], ()) for reader in graph.readers.get(d.output[0], ())]
            if any(reader.op_type == "Mul" and _multiplies_with(graph, reader, node.input[0]) for reader in behind):
                label = graph.label(quantizer)
                sentence = f"{label} splits a SiLU: its sigmoid is rounded alone, and nothing can fuse it any more: remove it"
                yield Finding("inside-activation", label, sentence, fixable=True)


def _multiplies_with(graph: QdqGraph, product: onnx.NodeProto, source: str) -> bool:
    """One factor is the value that the sigmoid reads, behind the same DequantizeLinear or another of the same integers."""
    origin = graph.dequantized(source)
    for name in product.input:
        other = graph.dequantized(name)
        if name == source or (origin is not None and other is not None and other.input[0] == origin.input[0]):
            return True
    return False


def needless_conversions(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """DequantizeLinear followed by QuantizeLinear: nothing computes between.

    Where the runtime carries integers through operators that only move values, these count as nothing, too, if the scale is the
    same; others want both pairs.
    """
    for node in graph.nodes:
        if node.op_type != "QuantizeLinear" or graph.is_weight(node.input[0]):
            continue
        at_once = graph.dequantized(node.input[0]) is not None
        first, second = graph.carried_scale(node.input[0]), graph.scale_of(node)
        if first is None or second is None or not (at_once or (target.carries_integers and first.is_same(second))):
            continue
        label = graph.label(node)
        if first.is_same(second):
            yield Finding(
                "needless-pair", label, f"{label} quantizes what was quantized with the same scale: remove the pair", fixable=True
            )
        else:
            sentence = f"{label} converts integers from one scale to another with nothing between: let both share one scale"
            yield Finding("rescaling", label, sentence)


def mismatched_scales(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """Concat, pooling and resizing whose sides have different scales."""
    for node in graph.nodes:
        if node.op_type not in SAME_VALUES:
            continue
        inputs = [name for name in node.input if not graph.is_weight(name)] if node.op_type == "Concat" else list(node.input[:1])
        scales = [graph.scale_of(graph.dequantized(name)) for name in inputs]
        scales += [graph.scale_of(quantizer) for name in node.output for quantizer in graph.quantizers_behind(name)]
        known = [scale for scale in scales if scale is not None]
        if node.op_type == "Concat" and _must_differ(known, target):
            continue
        if any(not scale.is_same(known[0]) for scale in known[1:]):
            label = graph.label(node)
            sentence = (
                f"{node.op_type} {label} has {_different(known)} different scales around it: each costs a conversion; share one"
            )
            yield Finding("mismatched-scales", label, sentence)


def _must_differ(scales: list[Scale], target: Target) -> bool:
    """One of the scales has the lowest integer as zero point because the runtime wants it there, and another cannot."""
    wants_lowest = target.kernels.merges_at_lowest or bool(target.kernels.at_lowest)
    return wants_lowest and len({is_at_lowest(scale) for scale in scales}) == 2


def _different(scales: list[Scale]) -> int:
    distinct: list[Scale] = []
    for scale in scales:
        if not any(scale.is_same(other) for other in distinct):
            distinct.append(scale)
    return len(distinct)


def weight_scales(graph: QdqGraph, _target: Target) -> Iterator[Finding]:
    """Weights with one scale for the whole tensor."""
    for node in graph.weighted():
        scale = graph.scale_of(graph.dequantized(node.input[1]))
        if scale is not None and scale.is_per_tensor and node.op_type in ("Conv", "ConvTranspose"):
            label = graph.label(node)
            yield Finding(
                "per-tensor-weight", label, f"{label} has one scale for all its weights: one for each channel is more exact"
            )


def refused_types(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """Zero points and integer types that the target does not take."""
    for node in graph.nodes:
        scale = graph.scale_of(node)
        if scale is None or (node.op_type == "DequantizeLinear" and not graph.is_weight(node.input[0])):
            continue
        label = graph.label(node)
        if target.symmetric_activations_only and scale.zero_point.any():
            yield Finding(
                "zero-point", label, f"{label} has a zero point other than 0, which {target.name} refuses: quantize for it"
            )
        if target.symmetric_activations_only and scale.dtype.startswith("uint"):
            yield Finding("unsigned", label, f"{label} quantizes to {scale.dtype}, and {target.name} takes signed integers only")
        if target.unsigned_activations and scale.dtype == "int8" and node.op_type == "QuantizeLinear":
            sentence = (
                f"{label} quantizes activations to int8, with which OpenVINO on CPU computes some graphs wrongly: use uint8"
            )
            yield Finding("signed-activation", label, sentence)


def quantized_biases(graph: QdqGraph, target: Target) -> Iterator[Finding]:
    """Biases behind a DequantizeLinear, which TensorRT refuses."""
    if not target.float_biases:
        return
    for node in graph.nodes:
        if (
            node.op_type in ("Conv", "ConvTranspose", "Gemm")
            and len(node.input) > 2
            and graph.dequantized(node.input[2]) is not None
        ):
            label = graph.label(node)
            yield Finding(
                "quantized-bias",
                label,
                f"the bias of {label} is quantized, which TensorRT refuses: keep it in float",
                fixable=True,
            )


def quantized_decode(graph: QdqGraph, _target: Target) -> Iterator[Finding]:
    """Q/DQ behind the last layers: boxes and scores share no scale, so quantizing their decoding costs several mAP."""
    for node in decode_nodes(graph):
        if node.op_type == "QuantizeLinear":
            label = graph.label(node)
            yield Finding(
                "quantized-decode", label, f"{label} quantizes the decoding of boxes and scores: leave it in float", fixable=True
            )


def decode_nodes(graph: QdqGraph) -> list[onnx.NodeProto]:
    """Nodes of the decoding: behind the last weighted layers, without the quantizers of these layers' own outputs."""
    layers = [node for node in graph.nodes if node.op_type in WEIGHTED and not _is_expectation(graph, node)]
    weighted = {id(node) for node in layers}
    feeds: set[str] = set()
    for node in reversed(graph.nodes):
        if id(node) in weighted or any(name in feeds for name in node.output):
            feeds.update(node.input)
    behind = {name for node in layers for name in node.output if name not in feeds}
    last = set(behind)
    found = []
    for node in graph.nodes:
        if id(node) not in weighted and any(name in behind for name in node.input):
            found.append(node)
            behind.update(node.output)
    return [node for node in found if not (node.op_type == "QuantizeLinear" and node.input[0] in last)]


def _is_expectation(graph: QdqGraph, node: onnx.NodeProto) -> bool:
    """A convolution with the weights 0, 1, 2, ...: the mean of a distribution of distances (DFL), part of the decoding."""
    name = node.input[1]
    while name not in graph.constants and name in graph.producers:
        name = graph.producers[name].input[0]
    weight = graph.constants.get(name)
    if weight is None or node.op_type != "Conv" or weight.shape[0] != 1:
        return False
    flat = weight.ravel().astype(np.float64)
    return len(flat) > 1 and bool(np.allclose(flat / max(flat[-1], 1e-9) * (len(flat) - 1), np.arange(len(flat)), atol=0.1))


CHECKS: tuple[Check, ...] = (
    float_layers,
    conversions_before_activations,
    conversions_inside_activations,
    needless_conversions,
    mismatched_scales,
    weight_scales,
    refused_types,
    quantized_biases,
    quantized_decode,
)

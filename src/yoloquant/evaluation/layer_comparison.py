"""Compare an exported file with torch layer by layer: every layer of the file runs in ONNX Runtime on torch's own integers.

From image to detections small differences of a layer drown in those that rounding makes behind it. Here they cannot travel: what
a layer reads is torch's, so its output may differ by one integer where a sum in another order crosses a rounding boundary, and by
no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch.fx import Node

from yoloquant.checking.qdq_graph import QdqGraph
from yoloquant.evaluation.file_contents import Place, activation_places, layer_in_file
from yoloquant.graph.capture import layer_name
from yoloquant.graph.interpret import Observed
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.quant.quantized_detector import QuantizedDetector

# Share of a tensor's integers that may be further off than by one step. Where float layers cancel out large sums, a few are.
WRONG_SHARE = 1e-3
# The least signal to noise, in decibels, of layers whose output stays in float.
FLOAT_AGREEMENT_DB = 60.0

_SUFFIX = "@torch"


@dataclass(frozen=True)
class LayerDifference:
    """How one value of the file differs from torch's.

    Attributes:
        name: Name of the quantizer, or of the layer whose output stays in float.
        wrong: Number of values that differ by more than one integer; of a float value, all or none.
        count: Number of values.
    """

    name: str
    wrong: int
    count: int

    @property
    def agrees(self) -> bool:
        """Too few are wrong to be a fault."""
        return self.wrong <= WRONG_SHARE * self.count


def compare_layers(detector: QuantizedDetector, path: Path, image: np.ndarray) -> list[LayerDifference]:
    """Run each layer of a file on what torch's layer reads.

    Args:
        detector: Detector that was exported.
        path: Path of the ONNX file.
        image: `(1, 3, H, W)` float32, 0..1, RGB.

    Returns:
        One entry for every quantized activation and every last layer in float, in the network's order.
    """
    graph = QdqGraph(onnx.load(str(path)))
    model, producers = graph.model, graph.producers
    places = [place for place in activation_places(detector) if _quantizer_of(producers, place.name) is not None]
    last = _last_float_layers(detector)
    expected = _recorded(detector, places, last, image)
    integers = {place.name: producers[place.name].input[0] for place in places}
    in_file = {layer_name(node): layer_in_file(detector.network, graph, node) for node in last}
    floats = {name: node.output[0] for name, node in in_file.items() if node is not None}
    feeds = _cut(model, integers, floats.values(), expected)
    outputs = _run(model, {**feeds, model.graph.input[0].name: detector.preprocessing.convert(image)})
    found = [_integer_difference(place, expected[place.name], outputs[integers[place.name]]) for place in places]
    return found + [_float_difference(name, expected[name], outputs[value]) for name, value in floats.items()]


def _quantizer_of(producers: dict[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    """The QuantizeLinear of a pair that produces a value."""
    dequantize = producers.get(name)
    quantize = None if dequantize is None else producers.get(dequantize.input[0])
    return quantize if quantize is not None and quantize.op_type == "QuantizeLinear" else None


def _last_float_layers(detector: QuantizedDetector) -> list[Node]:
    """Weighted layers from which the network's outputs come without being quantized."""
    (output,) = (node for node in detector.network.graph.nodes if node.op == "output")
    pending, found, seen = list(output.all_input_nodes), set(), set()
    while pending:
        node = pending.pop()
        if node in seen or kind(node) == "quantizer":
            continue
        seen.add(node)
        if kind(node) in WEIGHTED:
            found.add(node)
        else:
            pending += node.all_input_nodes
    return [node for node in detector.network.graph.nodes if node in found]


def _recorded(detector: QuantizedDetector, places: list[Place], layers: list[Node], image: np.ndarray) -> dict[str, np.ndarray]:
    """Integers of activations by place, as the file's type holds them, and float outputs by layer."""
    at = {place.call: place for place in places}
    values: dict[str, np.ndarray] = {}

    def look(node: Node, value: Any) -> None:
        if node in at:
            spec, quantizer = at[node].quantizer.spec, at[node].quantizer
            integers = (value / quantizer.scale).round_() + quantizer.zero_point
            kinds = (np.int8, np.int16) if spec.quant_min < 0 else (np.uint8, np.uint16)
            values[at[node].name] = integers.numpy().astype(kinds[spec.bits > 8])
        elif node in layers:
            values[layer_name(node)] = value.numpy()

    with torch.inference_mode():
        Observed(detector.network, look).run(torch.from_numpy(image))
    return values


def _cut(
    model: onnx.ModelProto, integers: dict[str, str], outputs: Iterable[str], expected: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Let each DequantizeLinear read an input of its own and each QuantizeLinear be an output, in place.

    Returns:
        Name of the new input -> its value.
    """
    graph = model.graph
    nodes = {node.output[0]: node for node in graph.node}
    del graph.output[:]
    feeds = {}
    for place, name in integers.items():
        values = expected[place]
        kind_of = onnx.helper.np_dtype_to_tensor_dtype(values.dtype)
        nodes[place].input[0] = f"{place}{_SUFFIX}"
        graph.input.append(onnx.helper.make_tensor_value_info(f"{place}{_SUFFIX}", kind_of, None))
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind_of, None))
        feeds[f"{place}{_SUFFIX}"] = values
    graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs)
    return feeds


def _run(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Without it kernels for processors without VNNI saturate sums of two products, in one of a thousand integers of a YOLOv8n: a
    # fault of the processor, not of the file.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    known = {value.name for value in session.get_inputs()}
    return dict(zip(names, session.run(names, {k: v for k, v in feeds.items() if k in known}), strict=True))


def _integer_difference(place: Place, expected: np.ndarray, found: np.ndarray) -> LayerDifference:
    """Integers finer than a byte's are compared in steps of a byte."""
    step = max(1, 1 << (place.quantizer.spec.bits - 8)) if place.quantizer.spec.bits > 8 else 1
    if expected.shape != found.shape:
        return LayerDifference(place.name, expected.size, expected.size)
    wrong = np.abs(expected.astype(np.int32) - found.astype(np.int32)) > step
    return LayerDifference(place.name, int(wrong.sum()), expected.size)


def _float_difference(name: str, expected: np.ndarray, found: np.ndarray) -> LayerDifference:
    noise = float(np.square(expected - found, dtype=np.float64).sum())
    signal = float(np.square(expected, dtype=np.float64).sum())
    agrees = noise <= signal * 10.0 ** (-FLOAT_AGREEMENT_DB / 10.0)
    return LayerDifference(name, 0 if agrees else expected.size, expected.size)

"""Is everything that a quantized detector holds in its exported file: every Q/DQ pair, integer, scale, zero point and bias.

The file's own graph is read, without a runtime, so the check is exact: a scale that is a tenth too large makes hardly more noise
than quantization itself, and passes any comparison of outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from torch.fx import GraphModule, Node

from yoloquant.checking.qdq_graph import WEIGHTED as WEIGHTED_OPERATORS
from yoloquant.checking.qdq_graph import QdqGraph
from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import SAME_VALUES, WEIGHTED, kind
from yoloquant.quant.arithmetic import expand_parameter, quantize
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.targets.placement import is_floating
from yoloquant.targets.registry import TARGETS

# Between a weight and the layer that reads it.
_REARRANGING = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze"})


class Fault(NamedTuple):
    """Where a file is not what the detector holds.

    Attributes:
        layer: Name of the layer, or of the quantizer.
        problem: What is wrong, as the rest of a sentence that begins with the layer.
    """

    layer: str
    problem: str


class Place(NamedTuple):
    """One quantized activation.

    Attributes:
        name: Name of the dequantized value in the file.
        call: Node of the captured graph that quantizes it.
        quantizer: Module of that node.
    """

    name: str
    call: Node
    quantizer: FakeQuantize


def activation_places(detector: QuantizedDetector) -> list[Place]:
    """All quantized activations in the graph's order; a quantizer that stands at several places numbers them."""
    counts: dict[str, int] = {}
    places = []
    for call, quantizer in detector.calls():
        counts[quantizer.name] = counts.get(quantizer.name, 0) + 1
        number = counts[quantizer.name]
        if not quantizer.of_weight:
            places.append(Place(quantizer.name if number == 1 else f"{quantizer.name}@{number}", call, quantizer))
    return places


def layer_in_file(network: GraphModule, graph: QdqGraph, layer: Node) -> onnx.NodeProto | None:
    """The file's node of a weighted layer, found by the weight that it reads; none if no node reads it."""
    name = _weight_name(network, layer)
    pending = [] if name is None else list(graph.readers.get(name, ()))
    while pending:
        node = pending.pop(0)
        if node.op_type in WEIGHTED_OPERATORS:
            return node
        if node.op_type in _REARRANGING:
            pending += graph.readers.get(node.output[0], ())
    return None


def _weight_name(network: GraphModule, layer: Node) -> str | None:
    """The name that a layer's weight has in files; none where it is no parameter."""
    weight = layer.args[1]
    assert isinstance(weight, Node)
    if kind(weight) == "quantizer":
        module = network.get_submodule(str(weight.target))
        assert isinstance(module, FakeQuantize)
        return module.name.removesuffix("_quantizer")
    return str(weight.target) if kind(weight) == "parameter" else None


def file_faults(detector: QuantizedDetector, path: Path) -> list[Fault]:
    """Everything in a file that is not as the detector holds it, in the network's order; empty for a right file.

    Args:
        detector: Detector that was exported.
        path: Path of the ONNX file.
    """
    return _Comparison(detector, path).faults()


class _Comparison:
    """A detector beside its file."""

    def __init__(self, detector: QuantizedDetector, path: Path) -> None:
        self.detector, self.network = detector, detector.network
        self.graph = QdqGraph(onnx.load(str(path)))
        target = TARGETS.get(read_metadata(path).target)
        self.places = activation_places(detector)
        by_call = {place.call: place for place in self.places}
        self.by_call = by_call
        # Files for runtimes that carry integers have no second pair behind operators that only move values.
        moved = self.places if target is not None and target.carries_integers else []
        self.left_out = {place.call for place in moved if place.name not in self.graph.producers and self._is_carried(place)}

    def faults(self) -> list[Fault]:
        found = []
        for node in self.network.graph.nodes:
            if node in self.by_call:
                found += self._activation_faults(self.by_call[node])
            elif kind(node) in WEIGHTED:
                found += [Fault(layer_name(node), problem) for problem in self._layer_problems(node)]
        return found

    def _is_carried(self, place: Place) -> bool:
        """Every value that comes here through operators that only move values is quantized by the same quantizer before."""
        pending = [place.call.args[0]]
        while pending:
            node = pending.pop()
            assert isinstance(node, Node)
            if node in self.by_call:
                if self.by_call[node].quantizer is not place.quantizer:
                    return False
            elif kind(node) in SAME_VALUES:
                # Not the sizes that a view is given.
                pending += [source for source in node.all_input_nodes if is_floating(source)]
            else:
                return False
        return True

    def _activation_faults(self, place: Place) -> list[Fault]:
        if place.call in self.left_out:
            return []
        problem = self._pair_problem(place) or self._bypass_problem(place)
        return [Fault(place.name, problem)] if problem else []

    def _pair_problem(self, place: Place) -> str | None:
        dequantize = self.graph.dequantized(place.name)
        quantizer = None if dequantize is None else self.graph.producers.get(dequantize.input[0])
        if dequantize is None or quantizer is None or quantizer.op_type != "QuantizeLinear":
            return "has no QuantizeLinear and DequantizeLinear"
        if not self.graph.readers.get(place.name) and place.name not in self.graph.outputs:
            return "is dequantized, and nothing reads it"
        for node in (quantizer, dequantize):
            problem = self._parameter_problem(node, place.quantizer)
            if problem is not None:
                return problem
        return self._limit_problem(quantizer, place.quantizer)

    def _parameter_problem(self, node: onnx.NodeProto, expected: FakeQuantize) -> str | None:
        found = self.graph.scale_of(node)
        if found is None:
            return "has a scale that is no constant"
        if not np.array_equal(found.scale.reshape(-1), expected.scale.detach().numpy().reshape(-1)):
            return f"has scale {_short(found.scale)} instead of {_short(expected.scale.detach().numpy())}"
        if not np.array_equal(found.zero_point.reshape(-1), expected.zero_point.numpy().reshape(-1)):
            return f"has zero point {_short(found.zero_point)} instead of {_short(expected.zero_point.numpy())}"
        if found.dtype.startswith("u") == (expected.spec.quant_min < 0):
            return f"holds {found.dtype} instead of integers from {expected.spec.quant_min}"
        return None

    def _limit_problem(self, quantizer: onnx.NodeProto, expected: FakeQuantize) -> str | None:
        """Integers narrower than the file's type are clipped before."""
        spec, found = expected.spec, self.graph.scale_of(quantizer)
        assert found is not None
        whole = np.iinfo(found.dtype)
        if (spec.quant_min, spec.quant_max) == (whole.min, whole.max):
            return None
        clip = self.graph.producers.get(quantizer.input[0])
        if clip is None or clip.op_type != "Clip":
            return f"is not clipped to {spec.quant_min}..{spec.quant_max}"
        zero = found.zero_point.astype(np.float32)
        wanted = [(np.float32(end) - zero) * found.scale for end in (spec.quant_min, spec.quant_max)]
        limits = [self.graph.constants.get(name) for name in clip.input[1:3]]
        same = all(limit is not None and np.array_equal(limit, end) for limit, end in zip(limits, wanted, strict=True))
        return None if same else f"is clipped to other limits than {spec.quant_min}..{spec.quant_max}"

    def _bypass_problem(self, place: Place) -> str | None:
        """Where every reader of a value gets it quantized, no node of the file may read it before."""
        source = place.call.args[0]
        assert isinstance(source, Node)
        if kind(source) in ("view", "parameter") or any(user not in self.by_call for user in source.users):
            return None
        name = self.graph.producers[self.graph.producers[place.name].input[0]].input[0]
        if self.graph.producers.get(name, onnx.NodeProto()).op_type == "Clip":
            name = self.graph.producers[name].input[0]
        others = [node for node in self.graph.readers[name] if node.op_type not in ("QuantizeLinear", "Clip", "Shape")]
        return f"is read unquantized by {self.graph.label(others[0])}" if others else None

    def _layer_problems(self, node: Node) -> Iterator[str]:
        weight_node = node.args[1]
        assert isinstance(weight_node, Node)
        name = _weight_name(self.network, node)
        if name is None:
            return
        is_quantized = kind(weight_node) == "quantizer"
        problem = self._weight_problem(name, weight_node) if is_quantized else self._float_weight_problem(name)
        if problem is not None:
            yield problem
        layer = layer_in_file(self.network, self.graph, node)
        if layer is not None:
            yield from self._input_problems(node, layer)
            yield from self._bias_problems(node, layer)
        elif is_quantized:
            yield "has no convolution or matrix multiplication that reads its weight"

    def _weight_problem(self, name: str, call: Node) -> str | None:
        quantizer, source = self.network.get_submodule(str(call.target)), call.args[0]
        assert isinstance(quantizer, FakeQuantize)
        assert isinstance(source, Node)
        weight = _held(self.network, str(source.target)).detach()
        node = self.graph.dequantized(name)
        if node is None or node.input[0] not in self.graph.constants:
            return "has no weight in integers"
        found = self.graph.scale_of(node)
        assert found is not None
        wide = [_wide(part, weight.shape, node) for part in (found.scale, found.zero_point)]
        scale, zero = (
            expand_parameter(part.detach(), weight, quantizer.axis, quantizer.group_size)
            for part in (quantizer.scale, quantizer.zero_point)
        )
        if not np.array_equal(wide[0], np.broadcast_to(scale.numpy(), weight.shape)):
            return "has other scales of its weight"
        if not np.array_equal(wide[1], np.broadcast_to(zero.numpy(), weight.shape)):
            return "has other zero points of its weight"
        expected = quantize(weight, scale, zero.to(weight.dtype), quantizer.spec.quant_min, quantizer.spec.quant_max)
        integers = self.graph.constants[node.input[0]].astype(np.int64)
        if integers.shape != tuple(expected.shape):
            return f"has a weight of shape {integers.shape} instead of {tuple(expected.shape)}"
        wrong = int((integers != expected.numpy().astype(np.int64)).sum())
        return f"has {wrong} wrong integers of {integers.size} in its weight" if wrong else None

    def _float_weight_problem(self, name: str) -> str | None:
        """A weight that stays in float is in the file, whatever its name there; matrices may be transposed."""
        expected = _held(self.network, name).detach().numpy()
        if name in self.graph.constants:
            same = np.array_equal(self.graph.constants[name], expected)
        else:
            others = [found for found in self.graph.constants.values() if found.size == expected.size]
            same = any(np.array_equal(found, expected) or np.array_equal(found.T, expected) for found in others)
        return None if same else "has another weight"

    def _input_problems(self, node: Node, layer: onnx.NodeProto) -> Iterator[str]:
        """The file's layer reads the value that the detector's layer reads quantized."""
        place = self.by_call.get(node.args[0])  # type: ignore[arg-type]
        if place is None:
            return
        name = layer.input[0]
        while (source := self.graph.producers.get(name)) is not None and source.op_type in _REARRANGING:
            name = source.input[0]
        if place.call in self.left_out:
            found = self.graph.carried_scale(name)
            if found is None or not np.array_equal(found.scale, place.quantizer.scale.detach().numpy()):
                yield "reads a value that is not quantized with its scale"
        elif name != place.name:
            yield f"does not read the quantized value {place.name}"

    def _bias_problems(self, node: Node, layer: onnx.NodeProto) -> Iterator[str]:
        bias = node.args[2] if len(node.args) > 2 else None
        expected = _held(self.network, str(bias.target)).detach().numpy() if isinstance(bias, Node) else None
        name = layer.input[2] if len(layer.input) > 2 else self._added_to(layer) if expected is not None else None
        found = None if not name else self._constant(name)
        if expected is None:
            if found is not None and np.any(found):
                yield "has a bias"
        elif found is None:
            # The exporter leaves out a bias of zeros.
            if np.any(expected):
                yield "has no bias"
        elif not self._is_bias(found, expected, name):
            yield "has another bias"

    def _added_to(self, layer: onnx.NodeProto) -> str | None:
        """The constant of the addition behind a matrix multiplication."""
        for reader in self.graph.readers.get(layer.output[0], ()):
            if reader.op_type == "Add":
                return next((name for name in reader.input if self._constant(name) is not None), None)
        return None

    def _constant(self, name: str) -> np.ndarray | None:
        """A constant, dequantized if it is held in integers."""
        node = self.graph.dequantized(name)
        if node is None or node.input[0] not in self.graph.constants:
            return self.graph.constants.get(name)
        scale = self.graph.scale_of(node)
        return None if scale is None else (self.graph.constants[node.input[0]] - scale.zero_point) * scale.scale

    def _is_bias(self, found: np.ndarray, expected: np.ndarray, name: str | None) -> bool:
        """Equal, or as near as the integers that hold it can be."""
        node = self.graph.dequantized(str(name))
        scale = None if node is None else self.graph.scale_of(node)
        if found.size != expected.size or scale is None:
            return np.array_equal(found.reshape(-1), expected.reshape(-1))
        return bool(np.all(np.abs(found.reshape(-1) - expected.reshape(-1)) <= 0.5001 * scale.scale.reshape(-1)))


def _held(network: GraphModule, name: str) -> torch.Tensor:
    """A tensor of the network by its path; foreign ONNX files may hold constants as buffers."""
    held = attrgetter(name)(network)
    assert isinstance(held, torch.Tensor)
    return held


def _wide(parameter: np.ndarray, shape: torch.Size, node: onnx.NodeProto) -> np.ndarray:
    """A DequantizeLinear's scale or zero point for every element of its input (ONNX, DequantizeLinear-21)."""
    attributes = {entry.name: entry.i for entry in node.attribute}
    if parameter.size == 1:
        return np.broadcast_to(parameter.reshape(()), shape)
    axis, block = attributes.get("axis", 1), attributes.get("block_size", 0)
    if block:
        return np.broadcast_to(np.repeat(parameter, block, axis=axis), shape)
    return np.broadcast_to(parameter.reshape([-1 if index == axis else 1 for index in range(len(shape))]), shape)


def _short(values: np.ndarray) -> str:
    return f"{values.reshape(-1)[0]:g}" if values.size == 1 else "for each channel"

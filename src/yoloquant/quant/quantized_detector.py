"""Insert quantizers into a captured graph, and the `QuantizedDetector` that results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from yoloquant.graph.capture import captured, layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.models.detector import Detector, Head
from yoloquant.models.preprocessing import PLAIN, Preprocessing
from yoloquant.quant.fake_quantize import FakeQuantize, State
from yoloquant.targets.placement import QuantizationPlacement


class QuantizedWeight(NamedTuple):
    """A layer with a quantized weight.

    Attributes:
        node: Node of the layer, in the captured graph.
        quantizer: Quantizer of its weight.
        weight: The parameter that is quantized.
        path: Path of the quantizer in the network.
    """

    node: Node
    quantizer: FakeQuantize
    weight: nn.Parameter
    path: str


@dataclass
class QuantizedDetector:
    """A detector whose network carries quantizers.

    Attributes:
        network: Captured module from images `(N, 3, H, W)`, RGB, 0..1, to raw head maps, with `FakeQuantize` modules on its
            edges.
        placement: Placement of the quantizers.
        head: Head that decodes raw maps, in float.
        names: Class names.
        strides: Strides in pixels.
        input_size: `(height, width)` in pixels.
        family: Family of the detector.
        preprocessing: Preprocessing of the detector.
        detector: Float detector that it was made from; of one that was read from a folder, its architecture alone.
    """

    network: GraphModule
    placement: QuantizationPlacement
    head: Head
    names: tuple[str, ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    family: str
    preprocessing: Preprocessing = PLAIN
    detector: Detector | None = field(default=None, repr=False, compare=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Decoded output for images `(N, 3, H, W)`, RGB, 0..1."""
        out: Tensor = self.head(list(self.network(images)))
        return out

    def quantizers(self) -> Iterator[tuple[str, FakeQuantize]]:
        """Names and modules of all quantizers, in the graph's order, each once."""
        for quantizer in self.quantizer_calls():
            yield quantizer.name, quantizer

    def quantizer_calls(self) -> dict[FakeQuantize, list[Node]]:
        """All quantizers in the graph's order, each with the nodes that call it."""
        found: dict[FakeQuantize, list[Node]] = {}
        for node, quantizer in self.calls():
            found.setdefault(quantizer, []).append(node)
        return found

    def calls(self) -> Iterator[tuple[Node, FakeQuantize]]:
        """All nodes that call a quantizer, in the graph's order, and the quantizer."""
        for node in self.network.graph.nodes:
            if node.op == "call_module":
                module = self.network.get_submodule(node.target)
                if isinstance(module, FakeQuantize):
                    yield node, module

    def quantized_weights(self) -> Iterator[QuantizedWeight]:
        """Layers with quantized weights, in the graph's order."""
        for node in self.network.graph.nodes:
            if kind(node) in WEIGHTED and kind(node.args[1]) == "quantizer":
                call = node.args[1]
                quantizer = self.network.get_submodule(call.target)
                assert isinstance(quantizer, FakeQuantize)
                yield QuantizedWeight(node, quantizer, self.network.get_parameter(call.args[0].target), call.target)

    def set_state(self, state: State) -> None:
        """Put all quantizers into one state."""
        for _, quantizer in self.quantizers():
            quantizer.state = state


def insert_quantizers(graph_module: GraphModule, placement: QuantizationPlacement) -> None:
    """Put a `FakeQuantize` on every edge of a placement, in place.

    Edges that carry the same value and share a quantizer get one node; the quantizer of several values is one module called
    at several nodes, so that it observes and quantizes all of them alike.
    """
    graph = graph_module.graph
    nodes = {node.name: node for node in graph.nodes}
    calls: dict[tuple[str, str], Node] = {}
    for name, spec in placement.specs.items():
        graph_module.add_submodule(name, FakeQuantize(spec, name))
    for edge, name in placement.edges.items():
        producer, consumer = nodes[edge.producer], nodes[edge.consumer]
        call = calls.get((edge.producer, name))
        if call is None:
            with graph.inserting_after(producer):
                call = graph.call_module(name, (producer,))
            call.meta["layer"] = name
            if "val" in producer.meta:
                call.meta["val"] = producer.meta["val"]
            calls[edge.producer, name] = call
        _replace_input(consumer, producer, call, is_weight=producer.op == "get_attr")
    graph_module.recompile()


def _replace_input(consumer: Node, old: Node, new: Node, *, is_weight: bool) -> None:
    """Let `consumer` read `new` instead of `old` in its first argument (or its list of inputs), or in its second if a weight."""
    if is_weight:
        consumer.update_arg(1, new)
    else:
        consumer.replace_input_with(old, new)


def weight_bits(detector: QuantizedDetector) -> dict[str, int]:
    """Layer name -> bits of its weight, of layers with quantized weights."""
    return {layer_name(layer.node): layer.quantizer.spec.bits for layer in detector.quantized_weights()}


def quantized_layer_count(detector: QuantizedDetector) -> int:
    """Layers whose weights are quantized."""
    return sum(1 for _ in detector.quantized_weights())


def quantized_from(
    detector: Detector, placement: QuantizationPlacement, graph_module: GraphModule | None = None
) -> QuantizedDetector:
    """A detector with fresh quantizers.

    Args:
        detector: Float detector.
        placement: Placement of the quantizers.
        graph_module: Captured network of the detector, if there is one already; it is changed.
    """
    network = graph_module or captured(detector)
    insert_quantizers(network, placement)
    return QuantizedDetector(
        network,
        placement,
        detector.head,
        detector.names,
        detector.strides,
        detector.input_size,
        detector.family,
        detector.preprocessing,
        detector,
    )

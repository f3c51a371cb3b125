"""Where quantizers stand, as data: edges of a captured graph, the quantizer of each, and its spec."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import gcd
from typing import Any, NamedTuple

from torch.fx import GraphModule, Node

from yoloquant.graph.bounds import Bounds, value_bounds
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import SAME_VALUES, WEIGHTED, group_count, kind, weight_axis
from yoloquant.graph.sizes import readers, tensor_inputs
from yoloquant.spec import TensorSpec


class Edge(NamedTuple):
    """A tensor on its way: read by `consumer` as its tensor input number `position` from `producer` (names of graph nodes)."""

    producer: str
    consumer: str
    position: int


class FloatLayer(NamedTuple):
    """Why a weighted layer stays in float.

    Attributes:
        because: Who decided it and for what reason, as a clause.
        gain: Share of the whole detection error that goes with it, 0..1, where the step `keep_float` measured it.
    """

    because: str
    gain: float | None = None


@dataclass(frozen=True)
class QuantizationPlacement:
    """Which edges are quantized, how, which share a quantizer, and why the weights of other layers are not.

    Attributes:
        edges: Mapping edge -> name of its quantizer; edges with the same name share one scale.
        specs: Mapping quantizer name -> spec.
        kept_float: Weighted layer with a weight in float -> why.
    """

    edges: dict[Edge, str]
    specs: dict[str, TensorSpec]
    kept_float: dict[str, FloatLayer] = field(default_factory=dict)

    @property
    def gains(self) -> dict[str, float]:
        """Layer that step `keep_float` chose -> share of the detection error that goes with it, in the order of the choice."""
        return {name: layer.gain for name, layer in self.kept_float.items() if layer.gain is not None}

    def explain(self, layer: str) -> str:
        """How a layer's weight is quantized, or why it is in float, in a few words.

        Raises:
            KeyError: The network has no weighted layer of that name.
        """
        if layer in self.kept_float:
            return f"float: {self.kept_float[layer].because}"
        return str(self.specs[f"{layer}.weight_quantizer"])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "edges": [[*edge, name] for edge, name in self.edges.items()],
            "specs": {name: spec.to_dict() for name, spec in self.specs.items()},
            "kept_float": {name: list(layer) for name, layer in self.kept_float.items()},
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> QuantizationPlacement:
        """The inverse of `to_dict`."""
        edges = {Edge(str(p), str(c), int(i)): str(name) for p, c, i, name in values["edges"]}
        kept_float = {name: FloatLayer(*layer) for name, layer in values.get("kept_float", {}).items()}
        return cls(edges, {name: TensorSpec(**spec) for name, spec in values["specs"].items()}, kept_float)


@dataclass(frozen=True)
class Kernels:
    """What a runtime's integer kernels compute, and what they want of scales.

    Attributes:
        layers: Kinds of weighted layers that have an integer kernel.
        merges: Whether the runtime computes this operator within the integer kernel of the weighted layer before it.
        merges_at_lowest: Whether it does so only where the zero point is the lowest integer.
        at_lowest: Kinds of weighted layers whose kernel takes no other zero point than the lowest integer at its input.
    """

    layers: frozenset[str] = WEIGHTED
    merges: Callable[[Node], bool] = lambda _node: False
    merges_at_lowest: bool = False
    at_lowest: frozenset[str] = frozenset()


@dataclass
class Draft:
    """A placement in the making; rules add edges and say which values share.

    An activation edge belongs to the value (producer node) it carries, so that all readers of a value share its quantizer
    without saying so.

    Attributes:
        graph_module: The captured graph.
        activations: Quantized activation edges.
        weights: Quantized weight edges.
        ignored: Layers that rules must leave in float.
        kernels: Kernels of the runtime.
    """

    graph_module: GraphModule
    ignored: frozenset[str] = frozenset()
    kernels: Kernels = field(default_factory=Kernels)
    activations: set[Edge] = field(default_factory=set)
    weights: set[Edge] = field(default_factory=set)
    _parent: dict[str, str] = field(default_factory=dict)

    def nodes(self, *kinds: str) -> Iterator[Node]:
        """Nodes of the given kinds in the graph's order, without ignored layers."""
        for node in self.graph_module.graph.nodes:
            if kind(node) in kinds and layer_name(node) not in self.ignored:
                yield node

    def integer_layers(self) -> Iterator[Node]:
        """Weighted layers that the runtime has an integer kernel for, without ignored ones."""
        for node in self.nodes(*self.kernels.layers):
            if kind(node) not in self.kernels.at_lowest or self._bounds[node.args[0]].low >= 0.0:  # type: ignore[index]
                yield node

    def merged_activation(self, node: Node) -> Node | None:
        """The activation that the runtime computes within a weighted layer: the one reader of the layer's output."""
        reading = readers(node)
        reader = reading[0] if len(reading) == 1 else None
        return reader if reader is not None and self.kernels.merges(reader) else None

    def quantize_inputs(self, node: Node, indices: tuple[int, ...] | None = None) -> None:
        """Quantize the activation inputs of a node (all of them, or those with the given indices)."""
        for index, producer in enumerate(node.all_input_nodes):
            wanted = indices is None or index in indices
            if wanted and kind(producer) not in ("parameter", "size") and is_floating(producer):
                self.activations.add(Edge(producer.name, node.name, index))

    def quantize_weight(self, node: Node) -> None:
        """Quantize the weight of a weighted node whose weight is a parameter."""
        producer = node.args[1]
        if isinstance(producer, Node) and kind(producer) == "parameter":
            self.weights.add(Edge(producer.name, node.name, node.all_input_nodes.index(producer)))

    def quantize_output(self, node: Node) -> None:
        """Quantize a value for all who read it, except the network's own outputs and layers that stay in float."""
        for user in readers(node):
            in_float = kind(user) in WEIGHTED and (layer_name(user) in self.ignored or kind(user) not in self.kernels.layers)
            if kind(user) != "output" and not in_float:
                self.activations.add(Edge(node.name, user.name, user.all_input_nodes.index(node)))

    def quantize_for_all(self, node: Node) -> None:
        """Quantize a value for all who read it, the network's own outputs and layers that stay in float, too."""
        for user in readers(node):
            self.activations.add(Edge(node.name, user.name, user.all_input_nodes.index(node)))

    def quantize_for_output(self, node: Node) -> None:
        """Quantize a value where it is an output of the network itself."""
        for user in node.users:
            if kind(user) == "output":
                self.activations.add(Edge(node.name, user.name, user.all_input_nodes.index(node)))

    def is_output_quantized(self, node: Node) -> bool:
        """Some reader of the value gets it quantized."""
        return any(Edge(node.name, user.name, user.all_input_nodes.index(node)) in self.activations for user in node.users)

    def may_share(self, values: list[Node]) -> bool:
        """One scale for all of these values leaves the zero point at the lowest integer wherever the runtime needs it there.

        A value that is never negative has that zero point by itself. A cap (ReLU6) is merged only where no integer stands for
        more.
        """
        caps = [self._bounds[value].high for value in values if value in self._at_lowest]
        return not caps or all(self._bounds[value].low >= 0.0 and self._bounds[value].high <= min(caps) for value in values)

    @cached_property
    def _at_lowest(self) -> frozenset[Node]:
        """Merged activations, inputs of kernels without zero points, and what has the same values as one of them."""
        found = set()
        for node in self.integer_layers():
            activation = self.merged_activation(node) if self.kernels.merges_at_lowest else None
            if activation is not None:
                found.add(activation)
            if kind(node) in self.kernels.at_lowest:
                found.add(node.all_input_nodes[0])
        repeating = list(self.nodes(*SAME_VALUES))
        for node in reversed(repeating):
            if node in found:
                found.update(tensor_inputs(node))
        for node in repeating:
            if any(source in found for source in tensor_inputs(node)):
                found.add(node)
        return frozenset(found)

    @cached_property
    def _bounds(self) -> dict[Node, Bounds]:
        return value_bounds(self.graph_module)

    def share(self, first: Node, second: Node) -> None:
        """Let two values use one quantizer."""
        self._parent[self._root(second.name)] = self._root(first.name)

    def _root(self, name: str) -> str:
        while self._parent.get(name, name) != name:
            name = self._parent[name]
        return name

    def groups(self) -> dict[str, list[Edge]]:
        """Quantizer name -> its activation edges; named by the first value of the group in the graph's order."""
        nodes = {node.name: node for node in self.graph_module.graph.nodes}
        order = {name: position for position, name in enumerate(nodes)}
        by_root: dict[str, list[Edge]] = {}
        for edge in sorted(self.activations, key=lambda edge: (order[edge.producer], order[edge.consumer], edge.position)):
            by_root.setdefault(self._root(edge.producer), []).append(edge)
        return {f"{layer_name(nodes[edges[0].producer])}.output_quantizer": edges for edges in by_root.values()}


def is_floating(node: Node) -> bool:
    """The node's value is a floating-point tensor."""
    value = node.meta.get("val")
    return value is None or (hasattr(value, "is_floating_point") and value.is_floating_point())


def weighted_layers(graph_module: GraphModule) -> dict[str, Node]:
    """Layer name -> node, for convolutions and linear layers."""
    return {layer_name(node): node for node in graph_module.graph.nodes if kind(node) in WEIGHTED}


def output_layers(graph_module: GraphModule) -> frozenset[str]:
    """Names of the weighted layers whose outputs are the network's own."""
    return frozenset(
        name for name, node in weighted_layers(graph_module).items() if any(kind(user) == "output" for user in node.users)
    )


def input_layers(graph_module: GraphModule) -> frozenset[str]:
    """Names of the weighted layers that see the image before any other weighted layer does."""
    # Behind a weighted layer the image is no longer seen.
    seen: set[Node] = set()
    found = set()
    for node in graph_module.graph.nodes:
        if node.op == "placeholder":
            seen.add(node)
        elif any(source in seen for source in tensor_inputs(node)):
            if kind(node) in WEIGHTED:
                found.add(layer_name(node))
            else:
                seen.add(node)
    return frozenset(found)


def fitted_to_layer(graph_module: GraphModule, edge: Edge, spec: TensorSpec) -> TensorSpec:
    """The spec of the weight on an edge, with the channel axis of its layer.

    A grouped transposed convolution holds the input channels of all its groups on one axis. Groups of the quantization become
    as small as it takes for none to reach from one group of the convolution into the next.
    """
    node = next(node for node in graph_module.graph.nodes if node.name == edge.consumer)
    spec = spec.with_changes(axis=weight_axis(node))
    if spec.group_size and kind(node) == "conv_transpose" and group_count(node) > 1:
        inputs = graph_module.get_parameter(str(node.args[1].target)).shape[0] // group_count(node)
        return spec.with_changes(group_size=gcd(spec.group_size, inputs))
    return spec

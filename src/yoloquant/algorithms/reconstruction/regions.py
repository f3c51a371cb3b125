"""Cut a graph into regions that run one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from torch.fx import Graph, GraphModule, Node

from yoloquant.graph.capture import block_name, layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.graph.sizes import Sizes, is_size, measured_tensors, tensor_inputs

UNITS = ("layer", "region", "block", "network")


@dataclass(frozen=True)
class Region:
    """Consecutive nodes of a graph.

    Attributes:
        name: Name of its first layer and its last.
        nodes: Nodes that compute, in the graph's order; weights and their quantizers are not among them.
        inputs: Nodes outside whose values it reads.
        outputs: Its nodes whose values later regions or the network's caller read.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Node, ...] = field(default=())
    outputs: tuple[Node, ...] = field(default=())


def find_regions(network: GraphModule, unit: str, most_layers: int = 5) -> list[Region]:
    """Cut a network into regions.

    Args:
        network: Captured network, with quantizers or without.
        unit: "layer": each convolution or linear layer with all that follows it up to the next; "region": at most `most_layers`
            of these, cut where fewest values cross; "block": a top-level module (`model.4`); "network": all in one.
        most_layers: Maximum number of weighted layers of a "region".

    Returns:
        Regions that hold every computing node once, in an order in which they can run.
    """
    nodes = computing_nodes(network)
    starts: dict[str, Callable[[list[Node]], list[int]]] = {"layer": _layers, "block": _blocks, "network": lambda _: [0]}
    first = _few_crossings(nodes, most_layers) if unit == "region" else starts[unit](nodes)
    bounds = [*sorted({0, *first}), len(nodes)]
    return [_region(nodes[start:end]) for start, end in pairwise(bounds) if start < end]


def computing_nodes(network: GraphModule) -> list[Node]:
    """Nodes whose tensors depend on the input, in the graph's order, without input and output."""
    reached: dict[Node, None] = {}
    for node in network.graph.nodes:
        if node.op == "placeholder" or (not is_size(node) and any(source in reached for source in tensor_inputs(node))):
            reached[node] = None
    return [node for node in reached if node.op not in ("placeholder", "output")]


def region_module(network: GraphModule, region: Region) -> GraphModule:
    """A region as a network of its own, which shares modules and parameters with the whole.

    It takes the values of `region.inputs` in their order and returns a tuple of those of `region.outputs`.
    """
    graph = Graph()
    copies: dict[Node, Node] = {source: _placeholder(graph, source) for source in region.inputs}
    sizes = Sizes(graph, (copies[source] for source in region.inputs))

    def copy(node: Node) -> Node:
        if is_size(node) and node not in copies and sizes.knows(node):
            copies[node] = sizes.get(node)
        if node not in copies:
            for source in node.all_input_nodes:
                copy(source)
            copies[node] = graph.node_copy(node, lambda source: copies[source])
        return copies[node]

    for node in region.nodes:
        copy(node)
    graph.output(tuple(copies[node] for node in region.outputs))
    return GraphModule(network, graph)


def _placeholder(graph: Graph, source: Node) -> Node:
    node = graph.placeholder(source.name)
    node.meta.update(source.meta)
    return node


def value_of(node: Node) -> Node:
    """The node of the float network whose value a node of the quantized one stands for: behind quantizers, their source."""
    while kind(node) == "quantizer":
        node = node.all_input_nodes[0]
    return node


def _region(nodes: list[Node]) -> Region:
    inside = set(nodes)
    read = dict.fromkeys(source for node in nodes for source in tensor_inputs(node) if source not in inside)
    inputs = {source: None for source in read if not _is_constant(source)}
    told = Sizes(Graph(), inputs)
    sizes = (source for node in nodes for source in node.all_input_nodes if is_size(source))
    inputs |= dict.fromkeys(tensor for size in sizes if not told.knows(size) for tensor in measured_tensors(size))
    outputs = tuple(node for node in nodes if any(user not in inside for user in node.users))
    layers = [layer_name(node) for node in nodes if kind(node) in WEIGHTED] or [layer_name(nodes[0])]
    name = layers[0] if len(layers) == 1 else f"{layers[0]} to {layers[-1]}"
    return Region(name, tuple(nodes), tuple(inputs), outputs)


def _is_constant(node: Node) -> bool:
    """The value does not depend on the network's input."""
    return node.op == "get_attr" or (node.op != "placeholder" and all(_is_constant(source) for source in node.all_input_nodes))


def _layers(nodes: list[Node]) -> list[int]:
    return [index for index, node in enumerate(nodes) if kind(node) in WEIGHTED][1:]


def _blocks(nodes: list[Node]) -> list[int]:
    """Where the top-level module changes; nodes that have no module of their own stay with what they follow."""
    starts, current = [], None
    for index, node in enumerate(nodes):
        block = _block(node)
        if block is not None and block != current:
            starts.append(index)
            current = block
    return starts


def _block(node: Node) -> str | None:
    """The top-level module; none for nodes that are in no module with a number, unless they have weights."""
    if kind(node) == "quantizer":
        return None
    block = block_name(layer_name(node))
    return block if kind(node) in WEIGHTED or block.rpartition(".")[2].isdigit() else None


def _few_crossings(nodes: list[Node], most_layers: int) -> list[int]:
    """Greedy: of the places where the next `most_layers` layers could end, the last of those that fewest values cross."""
    possible = [0, *_layers(nodes), len(nodes)]
    crossing = dict(zip(possible, _crossings(nodes, possible), strict=True))
    starts, position = [], 0
    while position < len(possible) - 1:
        ahead = range(position + 1, min(position + most_layers, len(possible) - 1) + 1)
        # At the end of the graph nothing crosses, so it always wins when it is near.
        position = min(ahead, key=lambda index: (crossing[possible[index]], -index))
        starts.append(possible[position])
    return starts[:-1]


def _crossings(nodes: list[Node], places: Iterable[int]) -> list[int]:
    order = {node: index for index, node in enumerate(nodes)}
    last = {node: max((order.get(user, len(nodes)) for user in node.users), default=-1) for node in nodes}
    return [sum(index < place <= last[node] for node, index in order.items()) if place < len(nodes) else 0 for place in places]

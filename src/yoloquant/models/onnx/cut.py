"""Where a detector's ONNX graph ends being a network and begins to be a head.

The network ends at the last convolutions: those from which no other convolution or product with weights is reached. What comes
behind only decodes: sigmoids, grids, anchors, suppression.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from yoloquant.errors import CheckpointError

_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True)
class Cut:
    """The two parts of a graph.

    Attributes:
        network: Indices of its nodes, in the graph's order.
        head: Indices of the nodes of the head.
        maps: Values that the head reads from the network, in the graph's order.
    """

    network: tuple[int, ...]
    head: tuple[int, ...]
    maps: tuple[str, ...]


def find_cut(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> Cut:
    """Cut a graph behind its last convolutions.

    Args:
        graph: Graph in topological order, as ONNX demands.
        constants: Values of initializers and constant nodes.

    Raises:
        CheckpointError: It has no convolution, or its head reads the images themselves.
    """
    nodes = list(graph.node)
    producer = {name: index for index, node in enumerate(nodes) for name in node.output}
    weighted = [index for index, node in enumerate(nodes) if _is_weighted(node, constants)]
    if not weighted:
        raise CheckpointError("its graph has no convolution: it is no detector")
    last = _without_weighted_successor(nodes, set(weighted))
    network = _ancestors(nodes, producer, last)
    head = tuple(index for index in range(len(nodes)) if index not in network and nodes[index].op_type != "Constant")
    made = {name for index in network for name in nodes[index].output} - set(constants)
    read = {name for index in head for name in nodes[index].input} | {output.name for output in graph.output}
    if graph.input[0].name in read:
        raise CheckpointError("its head reads the images themselves, not only the network's maps: export it without that")
    order = sorted(network)
    maps = tuple(name for index in order for name in nodes[index].output if name in made & read)
    return Cut(tuple(index for index in order if nodes[index].op_type != "Constant"), head, maps)


def _is_weighted(node: onnx.NodeProto, constants: dict[str, np.ndarray]) -> bool:
    if node.op_type not in _WEIGHTED or node.input[1] not in constants:
        return False
    weight = constants[node.input[1]]
    # The mean of a distribution over distances 0, 1, 2, ... is written as a convolution, too, and belongs to decoding.
    return not (weight.size > 1 and np.array_equal(weight.ravel(), np.arange(weight.size)))


def _without_weighted_successor(nodes: list[onnx.NodeProto], weighted: set[int]) -> list[int]:
    """Those of the weighted nodes from which no other is reached."""
    leads_on: dict[str, bool] = {}
    last = []
    for index in reversed(range(len(nodes))):
        onward = any(leads_on.get(name, False) for name in nodes[index].output)
        if index in weighted and not onward:
            last.append(index)
        for name in nodes[index].input:
            leads_on[name] = leads_on.get(name, False) or onward or index in weighted
    return last


def _ancestors(nodes: list[onnx.NodeProto], producer: dict[str, int], ends: list[int]) -> set[int]:
    found, waiting = set(ends), list(ends)
    while waiting:
        for name in nodes[waiting.pop()].input:
            index = producer.get(name)
            if index is not None and index not in found:
                found.add(index)
                waiting.append(index)
    return found


def constants_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Values of all initializers and constant nodes."""
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            found[node.output[0]] = _constant_value(node)
    return found


def _constant_value(node: onnx.NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = onnx.helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if attribute.name == "value" else np.asarray(value)

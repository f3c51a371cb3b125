"""Put the head of an ONNX file behind an exported network, as it is in the file."""

from __future__ import annotations

import onnx
from onnx import version_converter

from yoloquant.errors import ExportError, first_line


def attach_head(network: onnx.ModelProto, head: onnx.ModelProto, input_name: str) -> onnx.ModelProto:
    """One model of both; outputs and the name of the input are those of the original file.

    Args:
        network: Module from images to raw maps.
        head: Head whose inputs are the raw maps, in the network's order.
        input_name: Name of the input of images.

    Raises:
        ExportError: The head's operators cannot be brought to the network's operator set.
    """
    opset = next(entry.version for entry in network.opset_import if entry.domain in ("", "ai.onnx"))
    head = _converted(head, opset)
    pairs = zip(head.graph.input, network.graph.output, strict=True)
    names = {str(map_of_head.name): str(map_of_network.name) for map_of_head, map_of_network in pairs}
    taken = {name for node in network.graph.node for name in node.output} | {t.name for t in network.graph.initializer}
    outputs = {output.name for output in head.graph.output}
    inner = {name for node in head.graph.node for name in node.output} | {t.name for t in head.graph.initializer}
    names.update({name: f"{name}__head" for name in (inner - outputs) & taken})
    # A value of the network that bears an output's name gives way.
    own = {network.graph.input[0].name: input_name, **{name: f"{name}__network" for name in outputs & taken}}
    _rename(network.graph, own)
    _rename(head.graph, {old: own.get(new, new) for old, new in names.items()})
    network.graph.node.extend(head.graph.node)
    network.graph.initializer.extend(head.graph.initializer)
    del network.graph.output[:]
    network.graph.output.extend(head.graph.output)
    _adopt_opsets(network, head)
    return network


def _converted(head: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    current = next(entry.version for entry in head.opset_import if entry.domain in ("", "ai.onnx"))
    if current == opset:
        return head
    try:
        return version_converter.convert_version(head, opset)
    except (RuntimeError, ValueError, IndexError) as error:
        raise ExportError(
            f"the head of this file cannot be brought from operator set {current} to {opset} ({first_line(error)}): "
            f"export the original file with operator set {opset}"
        ) from error


def _rename(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    """Rename values everywhere in a graph, the graphs inside its nodes included."""
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
    for values in (graph.initializer, graph.input, graph.output, graph.value_info):
        for value in values:
            value.name = names.get(value.name, value.name)


def _adopt_opsets(network: onnx.ModelProto, head: onnx.ModelProto) -> None:
    known = {entry.domain for entry in network.opset_import}
    network.opset_import.extend(entry for entry in head.opset_import if entry.domain not in known | {"ai.onnx", ""})

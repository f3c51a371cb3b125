"""Read an ONNX file as a `Detector`: the network becomes torch, the head stays ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper

from yoloquant.checkpoint.onnx_branch import branch_in
from yoloquant.checkpoint.onnx_checks import image_input, onnx_parsed, open_detector_file
from yoloquant.checkpoint.onnx_constants import fold_constants, widen
from yoloquant.checkpoint.onnx_metadata import fixed_size, foreign_facts
from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import Description, build
from yoloquant.models.detector import Detector
from yoloquant.models.onnx.cut import Cut, constants_of, find_cut
from yoloquant.models.onnx.head import OnnxHead
from yoloquant.models.onnx.network import CONVERSION, KNOWN
from yoloquant.models.onnx.numbers import NUMBERS
from yoloquant.models.preprocessing import Preprocessing

# Inputs of these operators that hold weights; every other constant is a buffer.
_PARAMETERS = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,), "PRelu": (1,)}
# Operators whose floating inputs behind the first are settings: bounds, factors, fill values.
_SETTINGS = frozenset({"Clip", "Pad", "Resize", "Upsample"})
# Operators that take a number in the place of a tensor; a factor of all values is no second operand.
_SCALARS = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where"})
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"})


def read_onnx(path: Path, preprocessing: Preprocessing | None = None) -> Detector:
    """The float detector in an ONNX file.

    Args:
        path: Path of the file.
        preprocessing: Preprocessing that the file wants; by default what its exporter is known for.

    Raises:
        CheckpointError: The file is damaged, no detector, already quantized, in half precision, or its network holds an
            operator that is not supported; the message names the node.
    """
    model = open_detector_file(path)
    try:
        with onnx_parsed(path):
            return _detector(model, preprocessing)
    except CheckpointError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _detector(model: onnx.ModelProto, preprocessing: Preprocessing | None) -> Detector:
    graph = _checked(model)
    facts = foreign_facts(model)
    widen(model)
    fold_constants(model)
    wanted = preprocessing or facts.preprocessing
    constants = constants_of(graph)
    cut = find_cut(graph, constants)
    description = _describe(model, cut, constants)
    if not wanted.is_plain:
        values = {"bgr": wanted.bgr, "maximum": wanted.maximum}
        description.children[CONVERSION] = Description("yoloquant.InputConversion", values)
    network = build(description)
    head_model = _head_model(model, cut, constants)
    size = fixed_size(graph.input[0])
    head = OnnxHead(head_model, list(cut.maps), graph.input[0].name, facts.layout, len(facts.names), facts.decoder, size)
    head.branch = branch_in(model)
    source = {"producer": model.producer_name, "opset": opset_of(model)}
    return Detector(network, head.eval(), facts.names, facts.strides, facts.input_size, facts.family, wanted, source)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set."""
    version: int = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return version


def _checked(model: onnx.ModelProto) -> onnx.GraphProto:
    graph = model.graph
    quantized = next((node for node in graph.node if node.op_type in _QUANTIZED), None)
    if quantized is not None:
        raise CheckpointError(f"it is quantized already (node {quantized.name!r}): give the float file it was made from")
    # Very old files list their initializers as inputs, too; here the first input is the images.
    images = image_input(graph)
    del graph.input[:]
    graph.input.append(images)
    return graph


def node_name(node: onnx.NodeProto) -> str:
    """The node's name, or one made of its output's."""
    return node.name or f"{node.op_type}_{node.output[0]}"


def _describe(model: onnx.ModelProto, cut: Cut, constants: dict[str, np.ndarray]) -> Description:
    graph, opset = model.graph, opset_of(model)
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value
    nodes, children = [], {}
    numbers = _numbers(graph, constants)
    seen: dict[str, int] = {}
    for index in cut.network:
        node = graph.node[index]
        name = node_name(node)
        if node.op_type in _CONTROL_FLOW or node.op_type not in KNOWN or node.domain not in ("", "ai.onnx"):
            why = "control flow" if node.op_type in _CONTROL_FLOW else "an operator that is not supported in a detector's network"
            raise CheckpointError(f"node {name!r} is a {node.op_type}, {why}: export the model without it")
        seen[name] = seen.get(name, 0) + 1
        unique = name if seen[name] == 1 else f"{name}#{seen[name]}"
        child = f"n{index}"
        children[child] = _describe_node(node, constants, opset, batch, of_numbers=node.output[0] in numbers)
        inputs = ["" if value in constants else value for value in node.input]
        nodes.append([child, unique, inputs, list(node.output)])
    fields = {"nodes": nodes, "input_name": graph.input[0].name, "output_names": list(cut.maps)}
    return Description("yoloquant.OnnxNetwork", fields, children)


def _numbers(graph: onnx.GraphProto, constants: dict[str, np.ndarray]) -> set[str]:
    """Values that are sizes of tensors, or computed from these and constants alone."""
    found: set[str] = set()
    for node in graph.node:
        free = [name for name in node.input if name and name not in constants]
        if node.op_type in ("Shape", "Size") or (node.op_type in NUMBERS and free and all(name in found for name in free)):
            found.update(node.output)
    return found


def _describe_node(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], opset: int, batch: int, *, of_numbers: bool = False
) -> Description:
    """A node with its constants; those of a node that computes with numbers are all Python values."""
    attributes = {attribute.name: _plain(attribute) for attribute in node.attribute}
    if node.op_type == "Split":
        attributes["outputs"] = len(node.output)
    if node.op_type == "Reshape" and batch > 0:
        attributes["batch"] = batch
    if node.op_type == "Softmax":
        attributes.setdefault("axis", -1 if opset >= 13 else 1)
    integers: dict[str, Any] = {}
    tensors: dict[str, torch.Tensor] = {}
    names: dict[str, str] = {}
    parameters = set()
    for position, value in enumerate(node.input):
        if value not in constants:
            continue
        array = constants[value]
        if of_numbers or _is_python_value(node.op_type, array):
            integers[str(position)] = array.item() if array.dtype.kind == "f" and array.size == 1 else array.tolist()
            continue
        is_parameter = position in _PARAMETERS.get(node.op_type, ())
        name = {1: "weight", 2: "bias"}.get(position, f"input{position}") if is_parameter else f"constant{position}"
        tensors[name] = torch.from_numpy(np.array(array, dtype=np.float32))
        names[str(position)] = name
        if is_parameter:
            parameters.add(name)
    fields = {"op": node.op_type, "attributes": attributes, "constants": integers, "tensor_names": names}
    return Description("yoloquant.OnnxNode", fields, {}, tensors, frozenset(parameters))


def _is_python_value(op_type: str, array: np.ndarray) -> bool:
    """Integers, and floats that settle what an operator does: captured as tensors, their values could not be asked for."""
    return array.dtype.kind != "f" or op_type in _SETTINGS or (array.size == 1 and array.ndim <= 1 and op_type in _SCALARS)


def _plain(attribute: onnx.AttributeProto) -> Any:
    """Attributes as JSON values."""
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value).tolist()
    if isinstance(value, int | float):
        return value
    if isinstance(value, onnx.GraphProto):
        return None
    return [item.decode() if isinstance(item, bytes) else item for item in value]


def _head_model(model: onnx.ModelProto, cut: Cut, constants: dict[str, np.ndarray]) -> bytes:
    """The head's nodes as a model of their own, whose inputs are the maps."""
    graph = model.graph
    nodes = [graph.node[index] for index in cut.head]
    outputs = {output.name for output in graph.output}
    made = {name for node in nodes for name in node.output}
    # A map that is an output of the file passes through an Identity, since no value may be both.
    inputs = {name: f"{name}__map" if name in outputs else name for name in cut.maps}
    copies = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [inputs.get(name, name) for name in node.input]
        copies.append(copy)
    copies = [onnx.helper.make_node("Identity", [inputs[name]], [name]) for name in cut.maps if name in outputs] + copies
    read = {name for node in copies for name in _all_inputs(node)} | outputs
    initializers = [numpy_helper.from_array(constants[name], name) for name in constants if name in read and name not in made]
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value or "batch"
    values = [onnx.helper.make_tensor_value_info(inputs[name], TensorProto.FLOAT, [batch, None, None, None]) for name in cut.maps]
    part = onnx.helper.make_graph(copies, "head", values, list(graph.output), initializers)
    made_model = onnx.helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    serialized: bytes = made_model.SerializeToString()
    return serialized


def _all_inputs(node: onnx.NodeProto) -> list[str]:
    """What a node reads, the graphs inside it included."""
    found = list(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            found += [name for inner in attribute.g.node for name in _all_inputs(inner)]
    return found

"""Lower the exporter's `yoloquant::FakeQuantize` nodes to standard QuantizeLinear and DequantizeLinear.

The torch exporter writes one node of our own domain for each fake quantization, with the quantizer's name as an attribute.
Here weights become integer initializers behind a DequantizeLinear, activations a QuantizeLinear/DequantizeLinear pair, and
their values get the quantizer's name, so that a reader of the file finds the layers of the reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np
import onnx_ir as ir
from onnx.defs import OpSchema

DOMAIN = "yoloquant"
OP_TYPE = "FakeQuantize"


def operator_schema() -> OpSchema:
    """ONNX schema of the intermediate node."""
    parameter, kinds = OpSchema.FormalParameter, OpSchema.AttrType
    integers = [OpSchema.Attribute(name, kinds.INT, "") for name in ("quant_min", "quant_max", "axis", "group_size")]
    return OpSchema(
        OP_TYPE,
        DOMAIN,
        1,
        inputs=[parameter("x", "T"), parameter("scale", "T"), parameter("zero_point", "tensor(int32)")],
        outputs=[parameter("y", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[*integers, OpSchema.Attribute("name", kinds.STRING, "")],
    )


@dataclass(frozen=True)
class Container:
    """The ONNX integer type that holds a range of integers.

    Attributes:
        dtype: Type of the file's tensors.
        low: Lowest integer of the type.
        high: Highest integer of the type.
    """

    dtype: ir.DataType
    low: int
    high: int


CONTAINERS = (
    Container(ir.DataType.UINT4, 0, 15),
    Container(ir.DataType.INT4, -8, 7),
    Container(ir.DataType.UINT8, 0, 255),
    Container(ir.DataType.INT8, -128, 127),
    Container(ir.DataType.UINT16, 0, 65535),
    Container(ir.DataType.INT16, -32768, 32767),
)

# 8-bit types are in QuantizeLinear since opset 13; 4- and 16-bit types and blocks since 21.
OPSET_OF_SMALL_TYPES = 21

# Their answers hold values of their inputs only; Resize does where a quantizer is shared across it (`targets/rules.py`).
_SAME_VALUES = frozenset({"Concat", "MaxPool", "Resize", "Reshape", "Transpose", "Slice", "Split"})


def container(quant_min: int, quant_max: int, least_bits: int = 4) -> Container:
    """The smallest type of at least `least_bits` that holds the integers."""
    for candidate in CONTAINERS:
        if candidate.high - candidate.low + 1 < 1 << least_bits:
            continue
        if candidate.low <= quant_min and quant_max <= candidate.high and (candidate.low < 0) == (quant_min < 0):
            return candidate
    raise ValueError(f"no ONNX integer type holds {quant_min}..{quant_max}")


def needs_small_types(quant_min: int, quant_max: int, group_size: int) -> bool:
    """A tensor like this needs opset 21."""
    return group_size > 0 or container(quant_min, quant_max).dtype not in (ir.DataType.UINT8, ir.DataType.INT8)


def lower_fake_quantize(model: ir.Model) -> int:
    """Replace every `FakeQuantize` of the graph, in place.

    Returns:
        How many were replaced.
    """
    nodes = [node for node in model.graph if node.op_type == OP_TYPE and node.domain == DOMAIN]
    used: dict[str, int] = {}
    for node in nodes:
        _lower(model.graph, node, used)
    model.opset_imports.pop(DOMAIN, None)
    remove_unused_initializers(model.graph)
    return len(nodes)


def remove_repeated_pairs(model: ir.Model) -> int:
    """Take out each QuantizeLinear and DequantizeLinear whose values the same scale has quantized before, in place.

    Concat, max pooling and the like output values of their inputs, so that quantizing them once more with the inputs' own
    scale changes nothing. OpenVINO carries integers through these operators by itself, and pays for the second pair: 18
    elementwise passes in YOLOv5n. ONNX Runtime and TensorRT want both pairs.

    Returns:
        How many pairs were taken out.
    """
    # Value -> names of the scale and the zero point whose multiples it holds.
    grids: dict[ir.Value, tuple[str | None, ...]] = {}
    count = 0
    for node in list(model.graph):
        value = node.inputs[0]
        if node.op_type == "DequantizeLinear" and value is not None and value.producer() is not None:
            quantizer = value.producer()
            assert quantizer is not None
            source = quantizer.inputs[0]
            grid = tuple(parameter.name for parameter in node.inputs[1:] if parameter is not None)
            # An output of the graph keeps its own value: the other may be one, too.
            if source in grids and grids[source] == grid and not node.outputs[0].is_graph_output():
                ir.convenience.replace_all_uses_with(node.outputs[0], source)
                model.graph.remove(node, safe=True)
                if not quantizer.outputs[0].uses():
                    model.graph.remove(quantizer, safe=True)
                count += 1
            else:
                grids[node.outputs[0]] = grid
        elif node.op_type in _SAME_VALUES:
            data = node.inputs if node.op_type == "Concat" else node.inputs[:1]
            found = {grids.get(other) for other in data if other is not None}
            if len(found) == 1 and (grid_of_all := found.pop()) is not None:
                grids.update(dict.fromkeys(node.outputs, grid_of_all))
    return count


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let all readers of `old` read `new`, which takes over its name where it is an output of the graph."""
    if old.is_graph_output():
        new.name = old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def remove_unused_initializers(graph: ir.Graph) -> None:
    """Drop initializers that no node reads."""
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _lower(graph: ir.Graph, node: ir.Node, used: dict[str, int]) -> None:
    x, scale_value, zero_value = node.inputs
    # All three are always there; the types allow for optional inputs.
    assert x is not None
    assert scale_value is not None
    assert zero_value is not None
    name = node.attributes["name"].as_string()
    # A shared quantizer stands at several places; each gets a name of its own.
    used[name] = used.get(name, 0) + 1
    place = name if used[name] == 1 else f"{name}@{used[name]}"
    scale = array_of(scale_value).astype(np.float32)
    zero = array_of(zero_value).astype(np.int64)
    integers = node.attributes["quant_min"].as_int(), node.attributes["quant_max"].as_int()
    axis, group_size = node.attributes["axis"].as_int(), node.attributes["group_size"].as_int()
    if x.const_value is not None:
        last = _dequantized_constant(graph, x, scale, zero, integers, axis, group_size, place)
    else:
        last = _quantize_dequantize(graph, x, scale, zero, integers, axis, place, name)
    graph.insert_before(node, last)
    replace_value(node.outputs[0], last[-1].outputs[0])
    graph.remove(node, safe=True)


def array_of(value: ir.Value) -> np.ndarray:
    """The content of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def constant(graph: ir.Graph, name: str, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
    """An initializer; the same name and content is made once."""
    if name not in graph.initializers:
        tensor = ir.tensor(array if dtype is None else array.astype(dtype.numpy()), name=name)
        graph.initializers[name] = ir.Value(
            name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(list(tensor.numpy().shape))
        )
    return graph.initializers[name]


def _broadcast(parameter: np.ndarray, shape: tuple[int, ...], axis: int, group_size: int) -> np.ndarray:
    if axis < 0:
        return parameter
    if group_size:
        wide = np.repeat(parameter, group_size, axis=1)[:, : shape[1 - axis]].swapaxes(0, axis)
        return wide.reshape(wide.shape + (1,) * (len(shape) - 2))
    return parameter.reshape([-1 if dimension == axis else 1 for dimension in range(len(shape))])


def _of_blocks(parameter: np.ndarray, repeats: int, blocks: int, axis: int, kernel: tuple[int, ...]) -> np.ndarray:
    """Parameters of groups `(C, G)`, each repeated, as parameters of blocks at every position of the kernel."""
    wide = np.repeat(parameter, repeats, axis=1)[:, :blocks].swapaxes(0, axis)
    return np.ascontiguousarray(np.broadcast_to(wide.reshape(wide.shape + (1,) * len(kernel)), wide.shape + kernel))


def _dequantized_constant(
    graph: ir.Graph,
    x: ir.Value,
    scale: np.ndarray,
    zero: np.ndarray,
    integers: tuple[int, int],
    axis: int,
    group_size: int,
    place: str,
) -> list[ir.Node]:
    """A weight: its integers as an initializer, and the DequantizeLinear that reads them."""
    weight = array_of(x)
    holder = container(*integers)
    wide_scale, wide_zero = (_broadcast(part, weight.shape, axis, group_size) for part in (scale, zero))
    quantized = np.clip(np.rint(weight / wide_scale) + wide_zero, *integers)
    attributes: dict[str, int] = {}
    inputs = weight.shape[1 - axis] if group_size else 0
    if group_size and group_size >= inputs:
        # One group holds all: a scale for each output channel.
        scale, zero = scale[:, 0], zero[:, 0]
        attributes = {"axis": axis}
    elif group_size:
        # ONNX blocks run along one axis and have a scale for each kernel position (DequantizeLinear-21). OpenVINO refuses a last
        # block that is shorter than the others, so blocks are as long as divides both: neighbours then have the same scale.
        block = gcd(group_size, inputs)
        scale, zero = (_of_blocks(part, group_size // block, inputs // block, axis, weight.shape[2:]) for part in (scale, zero))
        attributes = {"axis": 1 - axis, "block_size": block}
    elif axis >= 0:
        attributes = {"axis": axis}
    base = place.removesuffix("_quantizer")
    values = [
        constant(graph, f"{base}_quantized", quantized, holder.dtype),
        constant(graph, f"{base}_scale", scale),
        constant(graph, f"{base}_zero_point", zero, holder.dtype),
    ]
    node = ir.node("DequantizeLinear", values, attributes=attributes, name=f"{base}.dequantize")
    node.outputs[0].name = base
    copy_type(x, node.outputs[0])
    return [node]


def _quantize_dequantize(
    graph: ir.Graph,
    x: ir.Value,
    scale: np.ndarray,
    zero: np.ndarray,
    integers: tuple[int, int],
    axis: int,
    place: str,
    shared_name: str,
) -> list[ir.Node]:
    """An activation: QuantizeLinear and DequantizeLinear, clipped first where the type holds more than the integers."""
    # Bytes at least: 4-bit types save nothing at run time where no kernel computes with them, and running YOLOv5n with such
    # activations ended in a corrupted heap (ONNX Runtime 1.31 and OpenVINO 2026.4 in one process; which of them is not known).
    holder = container(*integers, least_bits=8)
    nodes: list[ir.Node] = []
    source = x
    if integers != (holder.low, holder.high):
        low, high = ((np.float32(bound) - zero.astype(np.float32)) * scale for bound in integers)
        limits = [constant(graph, f"{shared_name}.{end}", part) for end, part in (("low", low), ("high", high))]
        nodes.append(ir.node("Clip", [source, *limits], name=f"{place}.clip"))
        source = nodes[-1].outputs[0]
        source.name = f"{place}.clipped"
        copy_type(x, source)
    parameters = [
        constant(graph, f"{shared_name}.scale", scale),
        constant(graph, f"{shared_name}.zero_point", zero, holder.dtype),
    ]
    attributes = {"axis": axis} if axis >= 0 else {}
    quantize = ir.node("QuantizeLinear", [source, *parameters], attributes=attributes, name=f"{place}.quantize")
    quantize.outputs[0].name = f"{place}.integers"
    quantize.outputs[0].type, quantize.outputs[0].shape = ir.TensorType(holder.dtype), x.shape
    dequantize = ir.node(
        "DequantizeLinear", [quantize.outputs[0], *parameters], attributes=attributes, name=f"{place}.dequantize"
    )
    dequantize.outputs[0].name = place
    copy_type(x, dequantize.outputs[0])
    return [*nodes, quantize, dequantize]


def copy_type(source: ir.Value, target: ir.Value) -> None:
    """Give a value the type and the shape of another one."""
    target.type, target.shape = source.type, source.shape

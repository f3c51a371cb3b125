"""The walk over an ONNX graph with Q/DQ, whose shapes are all fixed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from yoloquant.errors import ExportError
from yoloquant.exporting.tflite.model import Quantization, TfliteModel
from yoloquant.exporting.tflite.values import Value, Values

# Behind a quantizer's name, in the name of its integers.
INTEGERS = ".integers"
# Caps that integer layers of the schema compute themselves, by (low, high): names of ActivationFunctionType.
_CAPS = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


class Conversion:
    """A graph on its way into a `.tflite` file.

    Attributes:
        model: Model in the making.
        values: Values by name in the ONNX graph.
        forms: Conversions of the values.
        weights: Integers of weights with their quantization, by the name of the value that DequantizeLinear makes of them.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        """Take over constants and shapes."""
        self.model = TfliteModel()
        self.forms = Values(self.model)
        self.values: dict[str, Value] = {}
        self.weights: dict[str, tuple[np.ndarray, Quantization]] = {}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.outputs = {output.name for output in graph.output}
        self.shapes = {
            value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        # Outputs of activations that the layer before them computes.
        self.fused: set[str] = set()

    def value(self, name: str) -> Value:
        """A value that operators read; constants become one."""
        if name not in self.values:
            content = self.constants[name]
            content = content.astype(np.float32) if content.dtype == np.float64 else content
            self.values[name] = Value(name, content.shape, content=content)
        return self.values[name]

    def wanted(self, name: str) -> Quantization | None:
        """How all readers of a value quantize it; none where one reads it in float, or they differ."""
        readers = self.readers.get(name, [])
        if name in self.outputs or not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
            return None
        found = [self.quantization(reader) for reader in readers]
        return found[0] if all(found[0].same(other) for other in found) else None

    def quantization(self, node: onnx.NodeProto, axis: int = 0) -> Quantization:
        """Scale and zero point of a QuantizeLinear or DequantizeLinear.

        Raises:
            ExportError: They are not for int8.
        """
        scale, zero = (np.atleast_1d(self.constants[name]) for name in node.input[1:3])
        if zero.dtype != np.int8:
            raise ExportError(
                f"{node.output[0]} has {zero.dtype} integers; files for LiteRT have int8: quantize with --target tflite"
            )
        return Quantization(scale, zero.astype(np.int64), axis)

    def activation_behind(self, name: str) -> tuple[str, str]:
        """What an integer layer computes with its product: its name in the schema, and the value that comes out."""
        readers = self.readers.get(name, [])
        if len(readers) == 1 and name not in self.outputs:
            (reader,) = readers
            kind = "RELU" if reader.op_type == "Relu" else _CAPS.get(self.limits(reader)) if reader.op_type == "Clip" else None
            if kind is not None and self.wanted(reader.output[0]) is not None:
                self.fused.add(reader.output[0])
                return kind, reader.output[0]
        return "NONE", name

    def limits(self, node: onnx.NodeProto) -> tuple[float, float]:
        """Lowest and highest value of a Clip."""
        bounds = [float(self.constants[name]) if name else None for name in ((*node.input[1:3], "", "")[:2])]
        low, high = bounds
        return -np.inf if low is None else low, np.inf if high is None else high

    def put(self, name: str, last: bool, quantization: Quantization | None) -> int:
        """Enter a value that an operator makes; returns the tensor to make it in."""
        readers = self.readers.get(name, []) if quantization is not None and name not in self.outputs else []
        # An integer tensor has the name of its quantizer, by which reports know it.
        label = next((reader.output[0].removesuffix(INTEGERS) for reader in readers if reader.op_type == "QuantizeLinear"), name)
        made, number = self.forms.made(label, self.shapes[name], last, quantization)
        self.values[name] = made
        return number


def convert(path: Path) -> bytes:
    """A `.tflite` file of an ONNX file with int8 Q/DQ and a fixed batch; the input has channels last.

    Raises:
        ExportError: LiteRT has no operator for a part of it.
    """
    from yoloquant.exporting.tflite.operators import OPERATORS

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path)), data_prop=True).graph
    state = Conversion(graph)
    (image,) = graph.input
    state.put(image.name, True, None)
    number = state.values[image.name].tensors[False, True]
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            _quantize(state, node)
        elif node.op_type == "DequantizeLinear":
            _dequantize(state, node)
        elif node.op_type == "Constant":
            state.constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        elif node.output[0] not in state.fused:
            if node.op_type not in OPERATORS:
                raise ExportError(f"format tflite has no operator for {node.op_type} ({node.name}): choose another format")
            OPERATORS[node.op_type](state, node)
    outputs = [state.forms.tensor(state.value(output.name), False, False) for output in graph.output]
    return state.model.pack([number], outputs)


def _quantize(state: Conversion, node: onnx.NodeProto) -> None:
    label = node.output[0].removesuffix(INTEGERS)
    state.values[node.output[0]] = state.forms.quantize(state.value(node.input[0]), label, state.quantization(node))


def _dequantize(state: Conversion, node: onnx.NodeProto) -> None:
    source = node.input[0]
    if source in state.constants:
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        state.weights[node.output[0]] = state.constants[source], state.quantization(node, axis)
    else:
        state.values[node.output[0]] = state.values[source]

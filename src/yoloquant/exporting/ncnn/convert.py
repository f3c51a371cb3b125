"""The walk over an ONNX graph with Q/DQ, whose shapes are all fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from yoloquant.checkpoint.onnx_constants import fold_constants
from yoloquant.errors import ExportError
from yoloquant.exporting.ncnn.model import NcnnModel, Parameter, plain, sides
from yoloquant.exporting.ncnn.pairs import take_pairs
from yoloquant.models.onnx.cut import constants_of

# Sides of ncnn's Mats.
_MOST = 4


@dataclass(frozen=True)
class Value:
    """A value of the ONNX graph.

    Attributes:
        blob: Blob that holds it.
        shape: Shape as ONNX has it.
        scale: Scale with which layers in integers read it; None where it is not quantized.
    """

    blob: str
    shape: tuple[int, ...]
    scale: np.float32 | None = None

    @property
    def sides(self) -> tuple[int, ...]:
        """Shape of the Mat, slowest-running side first: ncnn has no batch."""
        return without_batch(self.shape)

    def axis(self, axis: int) -> int:
        """ONNX's axis as one of the Mat.

        Raises:
            ExportError: It is the batch.
        """
        found = axis % len(self.shape) - (len(self.shape) - len(self.sides))
        if found < 0:
            raise ExportError(
                f"format ncnn has no batch, which a layer that reads {self.blob} computes along: choose another format"
            )
        return found


def without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without a first side of one, which is the batch."""
    return shape[1:] if len(shape) > 1 and shape[0] == 1 else shape


class Conversion:
    """A graph on its way into ncnn's files.

    Attributes:
        model: Model in the making.
        values: Values by name in the ONNX graph.
        constants: Constants of the graph, by name.
        pairs: Quantized activations, by the name of the quantized value.
        weights: Quantized weights, likewise.
        shapes: Shapes of all values.
        graph: Without quantization.
        done: Values that are computed already where the walk comes to their nodes.
        sigmoids: What the argument is of each sigmoid that a layer for its product computes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Take over constants, scales and shapes.

        Raises:
            ExportError: Ncnn has no such quantization.
        """
        self.model = NcnnModel()
        self.values: dict[str, Value] = {}
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        self.graph = model.graph
        self.shapes = {
            value.name: tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim)
            for value in (*self.graph.input, *self.graph.value_info, *self.graph.output)
        }
        self.pairs, self.weights = take_pairs(self.graph, constants_of(self.graph))
        self._fold_shapes(model)
        self.constants = constants_of(self.graph)
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self._quantized = {pair.source for pair in self.pairs.values()}
        self._outputs = {output.name for output in self.graph.output}
        self.done: set[str] = set()
        self.sigmoids: dict[str, str] = {}

    def _fold_shapes(self, model: onnx.ModelProto) -> None:
        """Compute what follows from shapes alone."""
        for node in self.graph.node:
            if node.op_type == "Shape":
                shape = numpy_helper.from_array(np.array(self.shapes[node.input[0]], np.int64))
                node.CopyFrom(onnx.helper.make_node("Constant", [], node.output, value=shape))
        fold_constants(model)

    def is_read(self, name: str) -> bool:
        """Something uses the value."""
        return name in self._outputs or name in self._readers or name in self._quantized

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a value; none where several do, or it is quantized or an output."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._outputs and name not in self._quantized else None

    def requantized(self, name: str) -> np.float32 | None:
        """The one scale with which only layers in integers read a value, which need not become float then; none otherwise."""
        scales = {pair.scale for pair in self.pairs.values() if pair.source == name}
        return scales.pop() if len(scales) == 1 and name not in self._outputs and name not in self._readers else None

    def value(self, name: str) -> Value:
        """A value that a layer reads, quantized or not; a constant becomes a layer of its own.

        Raises:
            ExportError: It is a weight.
        """
        if name in self.pairs:
            pair = self.pairs[name]
            return replace(self.value(pair.source), scale=pair.scale)
        if name in self.weights:
            raise ExportError(
                f"format ncnn has integer weights in convolutions only, and {name} is another: choose another format"
            )
        if name not in self.values:
            content = self.constants[name].astype(np.float32)
            blob = self.put(name, content.shape)
            self.model.add("MemoryData", name, [], [blob], sides(self.values[name].sides), [plain(content)])
        return self.values[name]

    def floating(self, name: str) -> Value:
        """A value that a layer in float reads.

        Raises:
            ExportError: It is quantized.
        """
        if name in self.pairs:
            raise ExportError(
                f"format ncnn cannot hold {name}, which is quantized and read in float: quantize with --target ncnn"
            )
        return self.value(name)

    def put(self, name: str, shape: tuple[int, ...] | None = None) -> str:
        """Enter a value that a layer makes; returns the blob to make it in.

        Raises:
            ExportError: A Mat has fewer sides.
        """
        # ncnn has outputs in the order of the layers that make them; several are put into the graph's order at the end.
        is_one_of_several = name in self._outputs and len(self._outputs) > 1
        made = Value(f"{name}.unordered" if is_one_of_several else name, shape or self.shapes[name])
        if not 0 < len(made.sides) <= _MOST:
            raise ExportError(f"format ncnn cannot hold {name} of shape {made.shape}: choose another format")
        self.values[name] = made
        return made.blob

    def end(self) -> None:
        """Put several outputs into the graph's order."""
        for output in self.graph.output if len(self._outputs) > 1 else []:
            self.model.add("Noop", output.name, [self.value(output.name).blob], [output.name])

    def layer(
        self, kind: str, node: onnx.NodeProto, inputs: list[Value], parameters: Mapping[int, Parameter] | None = None
    ) -> None:
        """A layer without weights that makes the one output of a node."""
        name = node.output[0]
        self.model.add(kind, name, [value.blob for value in inputs], [self.put(name)], parameters)

    def reshaped(self, value: Value, shape: tuple[int, ...]) -> Value:
        """A value with other sides, by a layer where ncnn's are others, too."""
        found = without_batch(shape)
        if found == value.sides:
            return Value(value.blob, shape)
        blob = f"{value.blob}.{'x'.join(map(str, shape))}"
        if blob not in self.values:
            self.model.add("Reshape", blob, [value.blob], [self.put(blob, shape)], sides(found))
        return self.values[blob]


def convert(path: Path) -> tuple[str, bytes]:
    """ncnn's `.param` and `.bin` of an ONNX file with int8 Q/DQ and a fixed batch of one.

    Raises:
        ExportError: Ncnn has no layer for a part of it.
    """
    from yoloquant.exporting.ncnn.operators import OPERATORS

    state = Conversion(onnx.load(str(path)))
    (image,) = state.graph.input
    state.model.add("Input", image.name, [], [state.put(image.name)], sides(state.values[image.name].sides))
    for node in state.graph.node:
        if node.op_type == "Constant" or node.output[0] in state.done:
            continue
        if node.op_type not in OPERATORS:
            raise ExportError(f"format ncnn has no layer for {node.op_type} ({node.name}): choose another format")
        OPERATORS[node.op_type](state, node)
    state.end()
    return state.model.pack()

"""An ONNX graph with questions that matter for quantization: who reads what, and with which scale."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import numpy_helper

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
ACTIVATIONS = frozenset(
    {
        "Relu",
        "LeakyRelu",
        "Clip",
        "Sigmoid",
        "HardSwish",
        "HardSigmoid",
        "Mish",
        "Elu",
        "PRelu",
        "Softplus",
        "Tanh",
        "Gelu",
        "Swish",
        "QuickGelu",
    }
)
# Their output holds values of their inputs only.
SAME_VALUES = frozenset(
    {"Concat", "MaxPool", "Resize", "Upsample", "Reshape", "Transpose", "Slice", "Split", "Flatten", "Squeeze"}
)


@dataclass(frozen=True)
class Scale:
    """Parameters of a QuantizeLinear or DequantizeLinear node.

    Attributes:
        scale: Float array, one value or one for each channel or block.
        zero_point: Integer array of the same shape, or 0.
        dtype: Name of the integer type: "int8", "uint8", "int4", ...
    """

    scale: np.ndarray
    zero_point: np.ndarray
    dtype: str

    @property
    def is_per_tensor(self) -> bool:
        """One scale for everything."""
        return self.scale.size == 1

    def is_same(self, other: Scale) -> bool:
        """Both turn the same integers into the same values."""
        return (
            self.dtype == other.dtype
            and self.scale.shape == other.scale.shape
            and bool(np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point))
        )


class QdqGraph:
    """A model's main graph.

    Attributes:
        model: Model as it was read; repairs change it.
        nodes: Nodes of the graph.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Look at a model."""
        self.model = model
        self.nodes = list(model.graph.node)

    @cached_property
    def constants(self) -> dict[str, np.ndarray]:
        """Values of initializers and of Constant nodes, by name."""
        found = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.model.graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
                found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        return found

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        """Value -> the node that produces it."""
        return {name: node for node in self.nodes for name in node.output}

    @cached_property
    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Value -> nodes that read it, each once."""
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def outputs(self) -> frozenset[str]:
        """Names of the graph's outputs."""
        return frozenset(value.name for value in self.model.graph.output)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Value -> shape where it is known; a free batch counts as 1."""
        try:
            inferred = onnx.shape_inference.infer_shapes(self.model)
        except (onnx.shape_inference.InferenceError, ValueError):
            inferred = self.model
        graph = inferred.graph
        found = {}
        for value in (*graph.value_info, *graph.input, *graph.output):
            dimensions = value.type.tensor_type.shape.dim
            found[value.name] = tuple(d.dim_value or 1 for d in dimensions)
        return found

    def is_weight(self, name: str) -> bool:
        """The value is a constant, quantized or not."""
        if name in self.constants:
            return True
        node = self.producers.get(name)
        return node is not None and node.op_type in ("DequantizeLinear", "QuantizeLinear") and self.is_weight(node.input[0])

    def scale_of(self, node: onnx.NodeProto | None) -> Scale | None:
        """Parameters of a Q or DQ node; none for other nodes, and where they are no constants."""
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[1] not in self.constants:
            return None
        scale = self.constants[node.input[1]]
        if len(node.input) > 2 and node.input[2] in self.constants:
            zero = self.constants[node.input[2]]
            return Scale(scale, zero.astype(np.int64), str(zero.dtype))
        dtype = "uint8"
        if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
            dtype = str(self.constants[node.input[0]].dtype)
        return Scale(scale, np.zeros_like(scale, dtype=np.int64), dtype)

    def dequantized(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that produces a value."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def carried_scale(self, name: str) -> Scale | None:
        """The one scale that a value's integers have, through operators that only move values; none where there are several."""
        node = self.producers.get(name)
        if node is None or node.op_type not in SAME_VALUES:
            return self.scale_of(self.dequantized(name))
        names = node.input if node.op_type == "Concat" else node.input[:1]
        first, *others = (self.carried_scale(source) for source in names)
        return first if first is not None and all(other is not None and other.is_same(first) for other in others) else None

    def quantizers_behind(self, name: str) -> list[onnx.NodeProto]:
        """QuantizeLinear nodes that read a value."""
        return [node for node in self.readers.get(name, ()) if node.op_type == "QuantizeLinear"]

    def weighted(self) -> list[onnx.NodeProto]:
        """Layers with constant weights, in the graph's order."""
        return [node for node in self.nodes if node.op_type in WEIGHTED and self.is_weight(node.input[1])]

    def multiplications(self, node: onnx.NodeProto) -> int:
        """Of a weighted layer for one image; 0 where shapes are unknown."""
        weight = self._weight_shape(node.input[1])
        output = self.shapes.get(node.output[0], ())
        if not weight or not output:
            return 0
        if node.op_type == "ConvTranspose":
            places = self.shapes.get(node.input[0], ())
            return int(np.prod(places[2:], dtype=np.int64)) * int(np.prod(weight, dtype=np.int64)) if places else 0
        if node.op_type == "Conv":
            return int(np.prod(output[1:], dtype=np.int64)) * int(np.prod(weight[1:], dtype=np.int64))
        inner = weight[0] if node.op_type == "MatMul" else int(np.prod(weight, dtype=np.int64)) // max(output[-1], 1)
        return int(np.prod(output[1:], dtype=np.int64)) * int(inner)

    def _weight_shape(self, name: str) -> tuple[int, ...]:
        while name not in self.constants:
            name = self.producers[name].input[0]
        return self.constants[name].shape

    def label(self, node: onnx.NodeProto) -> str:
        """The node's name, or that of its first output."""
        return node.name or node.output[0]

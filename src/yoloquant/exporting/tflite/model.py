"""The flatbuffer of a `.tflite` file: tensors, operators, and their packing by the schema that LiteRT ships."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

# Schema version and identifier of all files (tensorflow/lite/schema/schema.fbs).
_SCHEMA_VERSION = 3
_IDENTIFIER = b"TFL3"
_TYPES = {"float32": "FLOAT32", "int8": "INT8", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}
# Lowest versions of operators that take int8 and the options used here (tensorflow/lite/tools/versioning/op_version.cc); the
# others have had one version only.
_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "TRANSPOSE_CONV": 3,
    "BATCH_MATMUL": 2,
    "RESIZE_NEAREST_NEIGHBOR": 3,
    **dict.fromkeys(["ADD", "MUL", "SUB", "LOGISTIC", "TANH", "SOFTMAX", "RELU", "LEAKY_RELU", "MEAN", "SUM", "REDUCE_MAX"], 2),
    **dict.fromkeys(
        ["CONCATENATION", "MAX_POOL_2D", "AVERAGE_POOL_2D", "PAD", "PADV2", "SLICE", "STRIDED_SLICE", "TRANSPOSE"], 2
    ),
    **dict.fromkeys(["QUANTIZE", "DEQUANTIZE", "MAXIMUM", "MINIMUM"], 2),
}


@dataclass(frozen=True)
class Quantization:
    """Scale and zero point of an int8 tensor; several scales run along `axis`.

    Attributes:
        scale: Scale, float32 `(1,)` or `(C,)`.
        zero_point: Zero point, int64, of the same shape.
        axis: Axis of the channels.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    def same(self, other: Quantization | None) -> bool:
        """The other stands for the same values."""
        return other is not None and bool(
            np.array_equal(self.scale, other.scale) and np.array_equal(self.zero_point, other.zero_point)
        )


class TfliteModel:
    """A model in the making: one subgraph, tensors by their number."""

    def __init__(self) -> None:
        """Start without tensors."""
        from ai_edge_litert import schema_py_generated

        self.schema: Any = schema_py_generated
        self._graph = self.schema.SubGraphT()
        self._graph.name, self._graph.tensors, self._graph.operators = "main", [], []
        # The first buffer is that of all tensors without content.
        empty = self.schema.BufferT()
        self._buffers: list[Any] = [empty]
        self._codes: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str = "float32",
        quantization: Quantization | None = None,
        content: np.ndarray | None = None,
    ) -> int:
        """Add a tensor; constants have content. Returns its number."""
        made = self.schema.TensorT()
        made.name, made.shape = name.encode(), np.array(shape, np.int32)
        made.type = getattr(self.schema.TensorType, _TYPES[dtype])
        if quantization is not None:
            made.quantization = self.schema.QuantizationParametersT()
            made.quantization.scale = quantization.scale.astype(np.float32)
            made.quantization.zeroPoint = quantization.zero_point.astype(np.int64)
            made.quantization.quantizedDimension = quantization.axis
        made.buffer = 0
        if content is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(content).tobytes(), np.uint8)
            made.buffer = len(self._buffers)
            self._buffers.append(buffer)
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def constant(self, name: str, content: np.ndarray, quantization: Quantization | None = None) -> int:
        """Add a tensor with content."""
        return self.tensor(name, content.shape, str(content.dtype), quantization, content)

    def operator(self, kind: str, inputs: list[int], outputs: list[int], options: str | None = None, **fields: Any) -> None:
        """Add an operator.

        Args:
            kind: Kind of `BuiltinOperator`, as "CONV_2D".
            inputs: Numbers of tensors; -1 for one that is left out.
            outputs: Numbers of tensors.
            options: Table of its options, as "Conv2DOptions".
            fields: Fields of that table.
        """
        made = self.schema.OperatorT()
        made.opcodeIndex = self._codes.setdefault(kind, len(self._codes))
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if options is not None:
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            made.builtinOptions = getattr(self.schema, f"{options}T")()
            for name, value in fields.items():
                setattr(made.builtinOptions, name, value)
        self._graph.operators.append(made)

    def pack(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file's bytes."""
        import flatbuffers

        self._graph.inputs, self._graph.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        model = self.schema.ModelT()
        model.version, model.description = _SCHEMA_VERSION, b"yoloquant"
        model.subgraphs, model.buffers, model.operatorCodes = [self._graph], self._buffers, []
        for kind in self._codes:
            code = self.schema.OperatorCodeT()
            number = getattr(self.schema.BuiltinOperator, kind)
            # Readers from before there were more than 127 operators look here.
            code.deprecatedBuiltinCode, code.builtinCode = min(number, 127), number
            code.version = _VERSIONS.get(kind, 1)
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())

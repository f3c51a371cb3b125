"""Values of the graph while it is converted: each in the layout and the precision that an operator wants."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from yoloquant.exporting.tflite.model import Quantization, TfliteModel

# Maps: LiteRT has channels last where ONNX has them second.
TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass
class Value:
    """A value of the ONNX graph.

    Attributes:
        name: Name for tensors.
        shape: Shape as ONNX has it.
        last: Whether the tensor was made with channels last.
        quantization: Quantization of the int8 tensor that holds it; None where it was made in float.
        content: Content of a constant, as ONNX has it.
        tensors: Numbers of tensors by (quantized, channels last).
    """

    name: str
    shape: tuple[int, ...]
    last: bool = False
    quantization: Quantization | None = None
    content: np.ndarray | None = None
    tensors: dict[tuple[bool, bool], int] = field(default_factory=dict)


class Values:
    """Makes tensors of values, and converts between their forms where operators want another."""

    def __init__(self, model: TfliteModel) -> None:
        """Of a model in the making."""
        self.model = model

    def made(self, name: str, shape: tuple[int, ...], last: bool, quantization: Quantization | None) -> tuple[Value, int]:
        """A value that an operator is about to make, and the tensor to make it in."""
        value = Value(name, shape, last, quantization)
        return value, self._new(value, quantization is not None, last)

    def tensor(self, value: Value, quantized: bool, last: bool) -> int:
        """The tensor of a value in a precision and a layout; conversions are added once.

        Args:
            value: Value to read; constants only in float.
            quantized: Whether to read it as int8; only for values with a quantization.
            last: Whether channels are last; only for values of four dimensions.
        """
        if (quantized, last) in value.tensors:
            return value.tensors[quantized, last]
        if value.content is not None:
            content = value.content.transpose(TO_LAST) if last else value.content
            number = self.model.constant(value.name, np.ascontiguousarray(content))
            value.tensors[quantized, last] = number
            return number
        own = value.quantization is not None
        if quantized != own:
            # Only int8 -> float: a float value becomes int8 as a value of its own, by `quantize`.
            source = self.tensor(value, own, last)
            number = self._new(value, quantized, last)
            self.model.operator("DEQUANTIZE", [source], [number], "DequantizeOptions")
            return number
        source = self.tensor(value, own, value.last)
        number = self._new(value, quantized, last)
        order = self.model.constant(f"{value.name}.order", np.array(TO_LAST if last else TO_FIRST, np.int32))
        self.model.operator("TRANSPOSE", [source, order], [number], "TransposeOptions")
        return number

    def quantize(self, value: Value, name: str, quantization: Quantization) -> Value:
        """A value as int8 with a scale and a zero point; itself where it is so already."""
        if quantization.same(value.quantization):
            return value
        made, number = self.made(name, value.shape, value.last, quantization)
        self.model.operator(
            "QUANTIZE", [self.tensor(value, value.quantization is not None, value.last)], [number], "QuantizeOptions"
        )
        return made

    def _new(self, value: Value, quantized: bool, last: bool) -> int:
        shape = tuple(value.shape[axis] for axis in TO_LAST) if last else value.shape
        form = ("" if quantized == (value.quantization is not None) else ".float") + ("" if last == value.last else ".turned")
        number = self.model.tensor(
            value.name + form, shape, "int8" if quantized else "float32", value.quantization if quantized else None
        )
        value.tensors[quantized, last] = number
        return number

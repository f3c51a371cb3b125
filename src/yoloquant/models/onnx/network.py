"""The network part of an ONNX graph as a torch module, node by node."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.onnx.numbers import NUMBERS, as_numbers, as_tensor
from yoloquant.models.onnx.operators import OPERATORS

# Name of the child that converts images to what the file takes, where it is not RGB in 0..1.
CONVERSION = "input_conversion"


@architecture("yoloquant.OnnxNode")
class OnnxNode(nn.Module):
    """One node: its operator, attributes, and constant inputs; floating constants are tensors, integers are Python values."""

    fields: ClassVar[dict[str, Field]] = {
        "op": Field((str,)),
        "attributes": Field((dict,)),
        "constants": Field((dict,)),
        "tensor_names": Field((dict,)),
    }
    op: str
    attributes: dict[str, Any]
    constants: dict[str, Any]
    tensor_names: dict[str, str]

    def forward(self, values: list[Any]) -> Any:
        """Inputs, none where constant -> the operator's output: a tensor, several, or numbers that describe a shape."""
        values = list(values)
        for position, constant in self.constants.items():
            values[int(position)] = as_numbers(constant)
        for position, name in self.tensor_names.items():
            values[int(position)] = getattr(self, name)
        attributes = {**self.attributes, "op": self.op}
        if self.op in _SHAPE_OF:
            return _SHAPE_OF[self.op](values[0].shape, attributes)
        if self.op in NUMBERS and not any(isinstance(value, Tensor) for value in values):
            return NUMBERS[self.op](values, attributes)
        return OPERATORS[self.op](_for_tensors(self.op, values), attributes)


_SHAPE_OF: dict[str, Callable[[Sequence[Any], dict[str, Any]], np.ndarray]] = {
    "Shape": lambda shape, attributes: as_numbers(list(shape)[attributes.get("start", 0) : attributes.get("end")]),
    "Size": lambda shape, _attributes: as_numbers(math.prod(shape)),
}
# Operators all of whose inputs are values of one kind; of the others only the first is.
_ALIKE = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Where", "Concat", "MatMul", "Equal", "Less", "Greater"})
KNOWN = frozenset({*OPERATORS, *NUMBERS, *_SHAPE_OF})


def _for_tensors(op: str, values: list[Any]) -> list[Any]:
    """Numbers as the operators on tensors take them: tensors among tensors, Python values where they are settings."""

    def converted(position: int, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        is_data = position == 0 or op in _ALIKE
        return as_tensor(value) if is_data and value.ndim else value.tolist()

    return [converted(position, value) for position, value in enumerate(values)]


@architecture("yoloquant.OnnxNetwork")
class OnnxNetwork(nn.Module):
    """Nodes in order.

    Attributes:
        nodes: Name of the child module, name of the node in the file, names of input values (empty where constant or absent)
            and output values.
        input_name: Name of the input of images.
        output_names: Names of the raw maps.
        layer_names: Mapping child module -> name of the node, which layers are known by.
    """

    fields: ClassVar[dict[str, Field]] = {
        "nodes": Field((list,)),
        "input_name": Field((str,)),
        "output_names": Field((list,)),
    }
    nodes: list[list[Any]]
    input_name: str
    output_names: list[str]

    @property
    def layer_names(self) -> dict[str, str]:
        """Child module -> name of its node in the file."""
        return {module: name for module, name, _, _ in self.nodes}

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images `(N, 3, H, W)`, RGB, 0..1 -> raw maps."""
        if hasattr(self, CONVERSION):
            images = self.get_submodule(CONVERSION)(images)
        values: dict[str, Any] = {self.input_name: images}
        for module, _, inputs, outputs in self.nodes:
            answer = self.get_submodule(module)([values.get(name) for name in inputs])
            values.update(zip(outputs, answer if isinstance(answer, tuple) else (answer,), strict=False))
        maps = [values[name] for name in self.output_names]
        return [value if isinstance(value, Tensor) else as_tensor(value) for value in maps]

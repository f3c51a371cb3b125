"""What a runtime really executes: counted in its own optimised graph, not in the file."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from yoloquant.checking.qdq_graph import QdqGraph
from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.errors import YoloquantError, first_line

# Operators of ONNX Runtime's optimised graph that multiply integers.
_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "MatMulIntegerToFloat", "ConvInteger"})
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat"})


@dataclass(frozen=True)
class Executed:
    """Layers with weights, as a runtime executes them, by their names in the file.

    Attributes:
        runtime: Runtime that was asked.
        integer: Names of the layers computed in integers.
        floating: Names of the layers computed in float.
        in_vain: Layers of `floating` whose weights the file holds as integers.
        products: Number of matrix products of two activations (attention); integer_products: Number of those computed in
            integers.
    """

    runtime: str
    integer: tuple[str, ...]
    floating: tuple[str, ...]
    in_vain: tuple[str, ...] = ()
    products: int = 0
    integer_products: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, for metrics.json."""
        return {
            "runtime": self.runtime,
            "integer_layers": len(self.integer),
            "integer": list(self.integer),
            "float": list(self.floating),
            "in_float_although_quantized": list(self.in_vain),
            "products": self.products,
            "integer_products": self.integer_products,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Executed:
        """The inverse of `to_dict`."""
        integer, floating, in_vain = (tuple(values[key]) for key in ("integer", "float", "in_float_although_quantized"))
        return cls(str(values["runtime"]), integer, floating, in_vain, int(values["products"]), int(values["integer_products"]))


def executed_layers(path: Path, runtime: str) -> Executed:
    """Ask a runtime for the graph that it runs.

    Raises:
        YoloquantError: The runtime is not one that can be asked, or cannot load the file.
    """
    if runtime not in _IN_INTEGERS:
        raise YoloquantError(f"{runtime} does not report what it executes: choose {' or '.join(_IN_INTEGERS)}")
    model = load_onnx(path)
    quantized, products = _name_all(model)
    found = set(_IN_INTEGERS[runtime](model))
    integer = tuple(name for name in quantized if name in found)
    floating = tuple(name for name in quantized if name not in found)
    in_vain = tuple(name for name in floating if quantized[name])
    return Executed(runtime, integer, floating, in_vain, len(products), sum(name in found for name in products))


def executed_where_installed(path: Path, runtime: str) -> Executed | None:
    """What `executed_layers` finds, or None where the runtime does not report it or is not installed here."""
    if runtime not in _IN_INTEGERS or importlib.util.find_spec(runtime) is None:
        return None
    return executed_layers(path, runtime)


def _name_all(model: onnx.ModelProto) -> tuple[dict[str, bool], list[str]]:
    """Layers with weights, by name: whether the weight is quantized; and names of the products of two activations.

    Each gets a name of its own if it has none.
    """
    graph = QdqGraph(model)
    layers = graph.weighted()
    weighted = {id(node) for node in layers}
    products = [node for node in graph.nodes if node.op_type in _PRODUCTS and id(node) not in weighted]
    seen: set[str] = set()
    for node in (*layers, *products):
        if not node.name or node.name in seen:
            node.name = node.output[0]
        seen.add(node.name)
    return {node.name: graph.dequantized(node.input[1]) is not None for node in layers}, [node.name for node in products]


def _onnxruntime(model: onnx.ModelProto) -> Iterable[str]:
    """Names of the nodes that ONNX Runtime computes in integers; transformers add a number to them."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        try:
            onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises classes of its own for each status code, without a common base.
            raise YoloquantError(f"ONNX Runtime cannot load the model: {first_line(error)}") from error
        graph = onnx.load(options.optimized_model_filepath).graph
    return [re.sub(r"_token_\d+$", "", node.name) for node in graph.node if node.op_type in _INTEGER]


def _openvino(model: onnx.ModelProto) -> Iterable[str]:
    """Names of the layers that OpenVINO's kernels compute in integers."""
    from yoloquant.runtime.openvino_layers import integer_kernels
    from yoloquant.runtime.openvino_runner import read_openvino

    return integer_kernels(read_openvino(model.SerializeToString()))


_IN_INTEGERS: dict[str, Callable[[onnx.ModelProto], Iterable[str]]] = {"onnxruntime": _onnxruntime, "openvino": _openvino}

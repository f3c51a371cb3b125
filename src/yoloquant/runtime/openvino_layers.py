"""What OpenVINO computes in integers: counted in the graph that it has compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yoloquant.runtime.executed_layers import Executed
from yoloquant.runtime.openvino_runner import compile_openvino, read_openvino

# Layer types of the compiled graph that multiply.
_COMPILED = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
# Operators of files that multiply.
_IN_FILES = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"})
# What stands between a weight's integers and its layer.
_DEQUANTIZING = frozenset({"Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize"})
# What the reader of ONNX files calls a convolution whose bias it adds as an operator of its own.
_WITHOUT_BIAS = "/WithoutBiases"


def integer_kernels(model: Any) -> list[str]:
    """Names of all layers of an `openvino.Model` that are fused into one whose kernel multiplies integers.

    The precision of the compiled graph is that of the inputs, also where a transposed convolution then falls back to a float
    kernel: the kernel's own name says what is multiplied (`jit_avx2_I8`, `brgconv_avx512_I8`).
    """
    found: list[str] = []
    for operator in compile_openvino(model).get_runtime_model().get_ops():
        facts: Any = operator.get_rt_info()
        if facts["layerType"].value in _COMPILED and facts["primitiveType"].value.upper().endswith("I8"):
            found += [_plain(name) for name in facts["originalLayersNames"].value.split(",")]
    return found


def executed_in_openvino(path: Path) -> Executed:
    """Layers of an `.xml` as OpenVINO executes them.

    Raises:
        YoloquantError: OpenVINO cannot load the file.
    """
    model = read_openvino(path)
    found = set(integer_kernels(model))
    layers: dict[str, bool] = {}
    products: list[str] = []
    for operator in model.get_ordered_ops():
        if operator.get_type_name() in _IN_FILES:
            quantized = _integer_weight(operator.input_value(1).get_node())
            if quantized is None:
                products.append(_plain(operator.get_friendly_name()))
            else:
                layers[_plain(operator.get_friendly_name())] = quantized
    floating = tuple(name for name in layers if name not in found)
    return Executed(
        "openvino",
        integer=tuple(name for name in layers if name in found),
        floating=floating,
        in_vain=tuple(name for name in floating if layers[name]),
        products=len(products),
        integer_products=sum(name in found for name in products),
    )


def _plain(name: str) -> str:
    return name.removesuffix(_WITHOUT_BIAS)


def _integer_weight(node: Any) -> bool | None:
    """Whether the second factor of a product is a weight that the file holds as integers; none if it is no weight."""
    while node.get_type_name() in _DEQUANTIZING:
        node = node.input_value(0).get_node()
    return None if node.get_type_name() != "Constant" else node.get_element_type().is_integral_number()

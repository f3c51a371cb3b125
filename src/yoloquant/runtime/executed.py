"""What a runtime really executes: counted in its own optimised graph, not in the file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from yoloquant.errors import YoloquantError

# Names that ONNX Runtime's optimiser gives layers that multiply integers, and those that multiply floats.
_INTEGER = frozenset({"QLinearConv", "QLinearMatMul", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul"})
_FLOAT = frozenset({"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose", "Gemm", "FusedGemm", "FusedMatMul", "MatMul"})


@dataclass(frozen=True)
class Executed:
    """Layers with weights, as a runtime executes them.

    Attributes:
        runtime: that was asked.
        integer: names of layers computed in integers.
        floating: names of the others.
    """

    runtime: str
    integer: tuple[str, ...]
    floating: tuple[str, ...]


def executed_layers(path: Path, runtime: str) -> Executed:
    """Ask a runtime for the graph that it runs.

    Raises:
        YoloquantError: the runtime is not one that can be asked, or cannot load the file.
    """
    if runtime == "onnxruntime":
        return _in_onnxruntime(path)
    if runtime == "openvino":
        return _in_openvino(path)
    raise YoloquantError(f"{runtime} does not tell what it executes: choose onnxruntime or openvino")


def _in_onnxruntime(path: Path) -> Executed:
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime raises classes of its own for each status code, without a common base.
            raise YoloquantError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error
        graph = onnx.load(options.optimized_model_filepath).graph
    constants = {tensor.name for tensor in graph.initializer}
    # Weights of layers that were quantized in vain come dequantized.
    constants |= {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in constants}
    integer = tuple(node.name for node in graph.node if node.op_type in _INTEGER)
    # A product of two activations has no weight; attention's are not counted.
    floating = tuple(node.name for node in graph.node if node.op_type in _FLOAT and any(name in constants for name in node.input))
    return Executed("onnxruntime", integer, floating)


def _in_openvino(path: Path) -> Executed:
    from yoloquant.runtime.openvino_runner import compile_openvino, read_openvino

    compiled = compile_openvino(read_openvino(path))
    integer: list[str] = []
    floating: list[str] = []
    for operator in compiled.get_runtime_model().get_ops():
        facts = operator.get_rt_info()
        if facts["layerType"].value not in ("Convolution", "Deconvolution", "FullyConnected"):
            continue
        name = operator.get_friendly_name()
        (integer if facts["runtimePrecision"].value in ("i8", "u8") else floating).append(name)
    return Executed("openvino", tuple(integer), tuple(floating))

"""What each layer of a file takes on this machine, from the runtime's own profile."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx

from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.runtime.profile import LayerTime, layer_times

# What may stand behind a layer's name in a runtime's: "/WithoutBiases", "_nchwc", ".output_quantizer", "_f32_u8_...".
_SEPARATORS = "/_.@ "


def times_in_file(path: Path, runtime: str, layers: Sequence[str], threads: int = 0) -> dict[str, float]:
    """Milliseconds of each layer in a file, with one image.

    Operators are counted as a layer's where the runtime's name for them begins with it: conversions of its input or output, and
    an activation beside it, included.

    Args:
        path: ONNX file.
        runtime: "onnxruntime" or "openvino".
        layers: Layer names, as in the graph.
        threads: Threads of the runtime; 0 lets it choose.
    """
    return times_of_layers(layer_times(path, runtime, threads=threads), layers, _answers(load_onnx(path)))


def times_of_layers(operators: Sequence[LayerTime], layers: Sequence[str], answers: dict[str, str]) -> dict[str, float]:
    """Milliseconds of each layer.

    Args:
        operators: Times of operators, from a profile.
        layers: Layer names.
        answers: Mapping layer -> name of its output in the file, which some runtimes call an operator by.
    """
    keys = {key: layer for layer in layers for key in (layer, layer.removesuffix(".conv"), answers.get(layer, layer))}
    times = dict.fromkeys(layers, 0.0)
    for operator in operators:
        matches = [key for key in keys if _begins_with(operator.name, key)]
        if matches:
            times[keys[max(matches, key=len)]] += operator.milliseconds
    return times


def _begins_with(name: str, key: str) -> bool:
    return name.startswith(key) and (len(name) == len(key) or name[len(key)] in _SEPARATORS)


def _answers(model: onnx.ModelProto) -> dict[str, str]:
    return {node.name: node.output[0] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}

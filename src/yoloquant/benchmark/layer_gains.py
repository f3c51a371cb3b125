"""What each layer gains by integers on this machine: its time in a float file against its time in an integer one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from yoloquant.checkpoint.onnx_facts import load_onnx
from yoloquant.runtime.layer_times import LayerTime, layer_times

# What may stand behind a layer's name in a runtime's: "/WithoutBiases", "_nchwc", ".output_quantizer", "_f32_u8_...".
_SEPARATORS = "/_.@ "


def layer_gains(float_file: Path, integer_file: Path, runtime: str, layers: Iterable[str], threads: int = 0) -> dict[str, float]:
    """Profile both files and compare layer by layer.

    Operators are counted as a layer's where the runtime's name for them begins with it: conversions of its input or answer, and
    an activation beside it, included.

    Args:
        float_file: ONNX file without Q/DQ.
        integer_file: the same network with every layer quantized.
        runtime: "onnxruntime" or "openvino".
        layers: names, as in the graph.
        threads: of the runtime; 0 lets it choose.

    Returns:
        Layer -> milliseconds that integers save; negative where float is faster.
    """
    names = list(layers)
    before, after = (times_in_file(path, runtime, names, threads) for path in (float_file, integer_file))
    return {name: before[name] - after[name] for name in names}


def times_in_file(path: Path, runtime: str, layers: Sequence[str], threads: int = 0) -> dict[str, float]:
    """Milliseconds of each layer in a file."""
    return times_of_layers(layer_times(path, runtime, threads=threads), layers, _answers(load_onnx(path)))


def times_of_layers(operators: Sequence[LayerTime], layers: Sequence[str], answers: dict[str, str]) -> dict[str, float]:
    """Milliseconds of each layer.

    Args:
        operators: a profile.
        layers: names.
        answers: layer -> name of its output in the file, which some runtimes call an operator by.
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

"""The `trtexec` command that builds a file into an engine."""

from __future__ import annotations

import shlex
from pathlib import Path

import onnx

from yoloquant.checkpoint.onnx_checks import load_onnx


def trtexec_command(model: Path, cache: Path | None = None, *, batch_size: int = 1, fp16: bool = True) -> str:
    """The command line for TensorRT 8.6 to 10, to be run where the GPU is.

    Args:
        model: ONNX file, with Q/DQ, or in float beside a cache.
        cache: Calibration cache of a float file.
        batch_size: Maximum batch size, where the file leaves it free; the engine is tuned for it.
        fp16: Whether layers that are not in integers may run in half precision.
    """
    command = ["trtexec", f"--onnx={model}", f"--saveEngine={model.with_suffix('.engine')}", "--int8"]
    if fp16:
        command.append("--fp16")
    if cache is not None:
        command.append(f"--calib={cache}")
    source = load_onnx(model).graph.input[0]
    if _has_free_batch(source):
        for limit, count in (("min", 1), ("opt", batch_size), ("max", batch_size)):
            sides = [str(dimension.dim_value) for dimension in source.type.tensor_type.shape.dim[1:]]
            command.append(f"--{limit}Shapes={source.name}:{'x'.join([str(count), *sides])}")
    return shlex.join(command)


def _has_free_batch(source: onnx.ValueInfoProto) -> bool:
    return not source.type.tensor_type.shape.dim[0].HasField("dim_value")

"""The `trtexec` command that builds a file into an engine."""

from __future__ import annotations

import importlib.metadata
import shlex
from pathlib import Path

import onnx

from yoloquant.checkpoint.onnx_checks import load_onnx
from yoloquant.errors import ExportError

# From this one on all networks are strongly typed: precision is what the file says, and `--int8`, `--fp16` and `--calib` are gone
# (TensorRT documentation, "Migrating trtexec Usage from TensorRT 10.x to 11.x").
STRONGLY_TYPED = 11


def installed_major() -> int | None:
    """Major version of the TensorRT that is installed here; none where it is not."""
    try:
        return int(importlib.metadata.version("tensorrt").partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return None


def trtexec_command(
    model: Path, cache: Path | None = None, *, batch_size: int = 1, fp16: bool = True, major: int = STRONGLY_TYPED - 1
) -> str:
    """The command line, to be run where the GPU is.

    Args:
        model: ONNX file, with Q/DQ, or in float beside a cache.
        cache: Calibration cache of a float file, for TensorRT up to 10.
        batch_size: Maximum batch size, where the file leaves it free; the engine is tuned for it.
        fp16: Whether layers that are not in integers may run in half precision; TensorRT 11 asks the file instead.
        major: Major version of TensorRT; those from 8.6 to 10 have the same command.

    Raises:
        ExportError: The version takes no calibration cache.
    """
    command = ["trtexec", f"--onnx={model}", f"--saveEngine={model.with_suffix('.engine')}", *_precision(cache, major, fp16=fp16)]
    source = load_onnx(model).graph.input[0]
    if _has_free_batch(source):
        for limit, count in (("min", 1), ("opt", batch_size), ("max", batch_size)):
            sides = [str(dimension.dim_value) for dimension in source.type.tensor_type.shape.dim[1:]]
            command.append(f"--{limit}Shapes={source.name}:{'x'.join([str(count), *sides])}")
    return shlex.join(command)


def commands_by_version(model: Path, cache: Path | None = None) -> dict[str, str]:
    """The command of the TensorRT that is installed here, or of all versions, by their names."""
    own = installed_major()
    old, new = f"TensorRT 8.6 to {STRONGLY_TYPED - 1}", f"TensorRT {STRONGLY_TYPED}"
    majors = {old: STRONGLY_TYPED - 1, **({new: STRONGLY_TYPED} if cache is None else {})}
    if own is not None:
        majors = {f"TensorRT {own}": own}
    return {name: trtexec_command(model, cache, major=major) for name, major in majors.items()}


def _precision(cache: Path | None, major: int, *, fp16: bool) -> list[str]:
    if major >= STRONGLY_TYPED:
        if cache is not None:
            raise ExportError(
                f"TensorRT {major} takes no calibration cache: build the file with Q/DQ, which `export` writes without"
            )
        return []
    return ["--int8", *(["--fp16"] if fp16 else []), *([] if cache is None else [f"--calib={cache}"])]


def _has_free_batch(source: onnx.ValueInfoProto) -> bool:
    return not source.type.tensor_type.shape.dim[0].HasField("dim_value")

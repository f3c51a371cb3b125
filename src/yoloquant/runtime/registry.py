"""Open any model in any installed runtime."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.environment import plug_ins
from yoloquant.errors import CheckpointError, YoloquantError
from yoloquant.models.onnx.metadata import ModelMetadata

if TYPE_CHECKING:
    from yoloquant.runtime.file_runner import FileRunner


@dataclass(frozen=True)
class Runtime:
    """A runtime that runs ONNX files.

    Attributes:
        package: Package that must be importable.
        open: Function from path or bytes, metadata and threads to a runner.
        needs_gpu: Whether an NVIDIA GPU is needed, too.
    """

    package: str
    open: Callable[[Path | bytes, ModelMetadata | None, int], FileRunner]
    needs_gpu: bool = False

    def is_installed(self) -> bool:
        """The package is there, and the GPU that it needs."""
        return importlib.util.find_spec(self.package) is not None and (not self.needs_gpu or _has_gpu())


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _onnxruntime(path: Path | bytes, metadata: ModelMetadata | None, threads: int) -> FileRunner:
    from yoloquant.runtime.onnxruntime_runner import OnnxRuntimeRunner

    return OnnxRuntimeRunner(path, metadata, threads)


def _openvino(path: Path | bytes, metadata: ModelMetadata | None, threads: int) -> FileRunner:
    from yoloquant.runtime.openvino_runner import OpenVinoRunner

    return OpenVinoRunner(path, metadata, threads)


def _tensorrt(path: Path | bytes, metadata: ModelMetadata | None, threads: int) -> FileRunner:
    from yoloquant.runtime.tensorrt_runner import TensorRtRunner

    return TensorRtRunner(path, metadata, threads)


RUNTIMES: dict[str, Runtime] = {
    "onnxruntime": Runtime("onnxruntime", _onnxruntime),
    "openvino": Runtime("openvino", _openvino),
    "tensorrt": Runtime("tensorrt", _tensorrt, needs_gpu=True),
    **plug_ins("yoloquant.runtimes"),
}


def open_onnx(
    path: Path | bytes, runtime: str = "onnxruntime", *, metadata: ModelMetadata | None = None, threads: int = 0
) -> FileRunner:
    """Load an ONNX file (or a serialized model) into a runtime.

    Args:
        path: Path of the file, or its bytes.
        runtime: "onnxruntime", "openvino" or "tensorrt".
        metadata: Metadata instead of the file's own.
        threads: 0 lets the runtime choose.

    Returns:
        A `Runner` that also has `outputs(images) -> dict`.

    Raises:
        YoloquantError: There is no such file, it is no detector's, or the runtime is unknown, not installed, or cannot load it.
    """
    if runtime not in RUNTIMES:
        raise YoloquantError(f"there is no runtime {runtime!r} for ONNX files: choose one of {', '.join(RUNTIMES)}")
    if not RUNTIMES[runtime].is_installed():
        package = RUNTIMES[runtime].package
        if importlib.util.find_spec(package) is None:
            raise YoloquantError(f"{runtime} is not installed: run `pip install {package}`")
        raise YoloquantError(f"{runtime} needs an NVIDIA GPU, and torch sees none: use the file where there is one")
    if isinstance(path, Path) and not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    # What no runtime can use as a detector is refused before one loads it.
    return RUNTIMES[runtime].open(path, metadata or read_metadata(path), threads)

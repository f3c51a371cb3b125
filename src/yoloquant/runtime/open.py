"""Open whatever a user names as a model: a checkpoint, an ONNX file, a runtime's own file, or a quantized folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from yoloquant.models.preprocessing import Preprocessing
from yoloquant.runtime.native import native_file, open_native
from yoloquant.runtime.runner import Runner

TORCH = "torch"


def open_model(
    path: str | Path,
    runtime: str | None = None,
    *,
    threads: int = 0,
    device: str = "cpu",
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
) -> Runner:
    """Load a model into a runtime.

    Args:
        path: of a `.pt` or `.safetensors` checkpoint, an `.onnx` file, a file that `yoloquant deliver` wrote (by its ending, see
            `yoloquant.runtime.native`) or the folder of it, or a folder that `yoloquant quantize` wrote.
        runtime: "torch", "onnxruntime", "openvino" or "tensorrt"; by default torch for checkpoints, for a
            runtime's own file that one, and ONNX Runtime for the others.
        threads: of the runtime; 0 lets it choose.
        device: for torch.
        preprocessing: how an ONNX file of another exporter wants its images; by default as that exporter is known for. Files that
            `yoloquant deliver` wrote say so themselves.
        branch: `one-to-one` or `one-to-many`, of checkpoints that hold both; other models must be of the branch.

    Raises:
        YoloquantError: the file cannot be read, or answers with another branch, or the runtime cannot run it.
    """
    path = Path(path)
    native = native_file(path)
    if native is not None:
        return _of_branch(open_native(native, runtime, threads), branch)
    if path.is_dir():
        return _of_branch(_open_folder(path, runtime, threads, device), branch)
    if path.suffix == ".onnx":
        return _of_branch(_open_onnx_file(path, runtime, threads, device, preprocessing), branch)
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.models.branches import choose_branch

    detector = choose_branch(read_detector(path, preprocessing), branch)
    if runtime in (None, TORCH):
        return _torch_runner(detector, threads, device)
    return _through_onnx(detector, str(runtime), threads)


def _of_branch(runner: Runner, branch: str | None) -> Runner:
    from yoloquant.models.branches import check_branch

    check_branch(runner.branch, branch)
    return runner


def _open_onnx_file(path: Path, runtime: str | None, threads: int, device: str, preprocessing: Preprocessing | None) -> Runner:
    from yoloquant.checkpoint.onnx_metadata import read_metadata
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.runtime.registry import open_onnx

    if runtime == TORCH:
        return _torch_runner(read_detector(path, preprocessing), threads, device)
    metadata = None
    if preprocessing is not None:
        metadata = read_metadata(path)
        metadata = replace(metadata, extra={**metadata.extra, "preprocessing": preprocessing.to_dict()})
    return open_onnx(path, runtime or "onnxruntime", metadata=metadata, threads=threads)


def _open_folder(path: Path, runtime: str | None, threads: int, device: str) -> Runner:
    from yoloquant.exporting.folder import MODEL, check_quantized_folder, load_quantized

    check_quantized_folder(path)
    if runtime == TORCH:
        return _torch_runner(load_quantized(path), threads, device)
    from yoloquant.runtime.registry import open_onnx

    return open_onnx(path / MODEL, runtime or "onnxruntime", threads=threads)


def _torch_runner(detector: Any, threads: int, device: str) -> Runner:
    import torch

    from yoloquant.runtime.torch_runner import TorchRunner

    if threads:
        torch.set_num_threads(threads)
    return TorchRunner(detector, device)


def _through_onnx(detector: Any, runtime: str, threads: int) -> Runner:
    """A float checkpoint in a runtime for ONNX files."""
    import tempfile

    from yoloquant.exporting.onnx_export import export_onnx
    from yoloquant.runtime.registry import open_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_onnx(detector, path)
        return open_onnx(path.read_bytes(), runtime, threads=threads)

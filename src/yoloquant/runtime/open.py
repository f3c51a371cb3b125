"""Open whatever a user names as a model: as a detector, or loaded into a runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloquant.models.preprocessing import Preprocessing
from yoloquant.runtime.native import native_file, open_native
from yoloquant.runtime.runner import Runner

if TYPE_CHECKING:
    from yoloquant.models.detector import Detector
    from yoloquant.quant.quantized_detector import QuantizedDetector

TORCH = "torch"


def load(
    model: str | Path | Detector | QuantizedDetector | Any,
    *,
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    network_of: Detector | None = None,
) -> Detector | QuantizedDetector:
    """Load a detector into memory. Nothing in a file is executed.

    Args:
        model: Checkpoint (`.pt`, `.safetensors`), ONNX file, quantized folder, detector that is in memory already, or an object
            of an original repository, as `ultralytics.YOLO("x.pt")`.
        preprocessing: How an ONNX file of another exporter wants its images; by default as that exporter is known for.
        branch: `one-to-one` or `one-to-many`, of networks that hold both (YOLOv10, YOLO26); others must be of the branch.
        input_size: `(height, width)` or one side, pixels, of a float detector; by default its own.
        network_of: Float detector that a quantized folder was made from, where its network is a module of your own, which files
            do not hold.

    Returns:
        A `QuantizedDetector` of a quantized folder, a float `Detector` of everything else.

    Raises:
        YoloquantError: It cannot be read, is no detector, or does not hold the branch or take the size.
    """
    from yoloquant.checkpoint.open import to_detector
    from yoloquant.models.branches import check_branch
    from yoloquant.quant.quantized_detector import QuantizedDetector

    loaded = _quantized(model, network_of)
    if not isinstance(loaded, QuantizedDetector):
        return to_detector(model, preprocessing=preprocessing, branch=branch, input_size=input_size)
    if preprocessing is not None or input_size is not None:
        from yoloquant.errors import CheckpointError

        raise CheckpointError("a quantized detector has its images and their size from when it was made: leave both out")
    check_branch(loaded.head.branch, branch)
    return loaded


def _quantized(model: Any, network_of: Detector | None) -> Any:
    """The quantized detector in a folder; what else is given as it is."""
    from yoloquant.checkpoint.read import QUANTIZED
    from yoloquant.exporting.folder import load_quantized
    from yoloquant.files.reading import is_file

    if isinstance(model, str | Path) and is_file(Path(model) / QUANTIZED):
        return load_quantized(Path(model), network_of)
    return model


def open_runner(
    model: str | Path | Detector | QuantizedDetector | Any,
    runtime: str | None = None,
    *,
    threads: int = 0,
    device: str = "cpu",
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
) -> Runner:
    """Load a model into a runtime.

    Args:
        model: Checkpoint (`.pt`, `.safetensors`), ONNX file, file that `yoloquant deliver` wrote (by its ending, see
            `yoloquant.runtime.native`) or the folder of it, folder that `yoloquant quantize` wrote, or a detector in memory.
        runtime: "torch", "onnxruntime", "openvino" or "tensorrt"; by default torch for checkpoints and detectors in memory, its
            own for a runtime's own file, and ONNX Runtime for the others.
        threads: Threads of the runtime; 0 lets it choose.
        device: Device for torch.
        preprocessing: How an ONNX file of another exporter wants its images; by default as that exporter is known for. Files that
            `yoloquant deliver` wrote say so themselves.
        branch: `one-to-one` or `one-to-many`, of checkpoints that hold both; other models must be of the branch.

    Returns:
        A `yoloquant.runtime.runner.Runner`: images `(N, 3, H, W)`, RGB, 0..1 -> decoded output.

    Raises:
        YoloquantError: The file cannot be read, or outputs another branch, or the runtime cannot run it.
    """
    if isinstance(model, str | Path):
        path = Path(model)
        native = native_file(path)
        if native is not None:
            return _of_branch(open_native(native, runtime, threads), branch)
        if path.is_dir():
            return _of_branch(_open_folder(path, runtime, threads, device), branch)
        if path.suffix == ".onnx":
            return _of_branch(_open_onnx_file(path, runtime, threads, device, preprocessing), branch)
    detector = load(model, preprocessing=preprocessing, branch=branch)
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
    """A detector in a runtime for ONNX files, by a file for that runtime."""
    import tempfile

    from yoloquant.exporting.onnx_export import export_onnx
    from yoloquant.quant.quantized_detector import QuantizedDetector
    from yoloquant.runtime.registry import open_onnx

    target = runtime if isinstance(detector, QuantizedDetector) else "float"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(detector, path, target=target)
        return open_onnx(path.read_bytes(), runtime, threads=threads)

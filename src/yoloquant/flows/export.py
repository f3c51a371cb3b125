"""The flow behind `yoloquant export`: a float or quantized detector as an ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.checkpoint.open import file_of_model
from yoloquant.errors import ExportError
from yoloquant.evaluation.parity import LEAST_SIGNAL_TO_NOISE_DB, Reference
from yoloquant.exporting.calibration_cache import write_calibration_cache
from yoloquant.exporting.nms import NmsOptions, add_nms_to_file
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.writing import checked_file, replaced_whole
from yoloquant.flows.job import note_branch
from yoloquant.flows.measure import drawn_images
from yoloquant.models.detector import Detector
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import recipe_of
from yoloquant.runtime.open import load
from yoloquant.runtime.registry import open_onnx
from yoloquant.targets.registry import get_target
from yoloquant.targets.target import Target


def export(
    model: str | Path | Detector | QuantizedDetector | Any,
    output: str | Path,
    *,
    target: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    branch: str | None = None,
    dynamic_batch: bool = True,
    opset: int | None = None,
    nms: NmsOptions | None = None,
    calibration_cache: str | Path | None = None,
    half: bool = False,
    reporter: Reporter | None = None,
) -> Path:
    """Export a float detector, or a quantized one again, to ONNX.

    Args:
        model: Checkpoint, float ONNX file, quantized folder, or detector in memory.
        output: ONNX file to write.
        target: Deployment target of a quantized detector in memory; folders name their own, and float files have none.
        input_size: `(height, width)` or one side, pixels; the detector's own by default.
        branch: `one-to-one` or `one-to-many`, of networks that hold both; others must be of the branch.
        dynamic_batch: Leave the batch size free.
        opset: ONNX opset, 18 or later; by default the lowest that can hold the file's types.
        nms: Suppression that is put into the file.
        calibration_cache: For TensorRT: write a float file, and the scales of a quantized folder into this cache.
        half: Layers that are not in integers are in half precision in the file, as TensorRT 11 wants it; the input, the outputs
            and the decoding of boxes stay in 32 bits. The file is compared in ONNX Runtime with the one in 32 bits.
        reporter: Receives notes.

    Returns:
        The file.

    Raises:
        YoloquantError: Something given cannot be read or used, an output would replace an input, or half precision changes what
            the network finds.
    """
    file = Path(output)
    checked_file(file)
    refuse_inputs([file, calibration_cache], [file_of_model(model)])
    if file.suffix != ".onnx":
        raise ExportError(f"{output}: export writes ONNX files, whose names end in .onnx")
    is_quantized = isinstance(model, QuantizedDetector) or (isinstance(model, str | Path) and Path(model).is_dir())
    if calibration_cache is not None:
        checked_file(calibration_cache)
        if not is_quantized:
            raise ExportError(f"{model} has no scales for a calibration cache: name a folder quantized with --target tensorrt")
        if half:
            raise ExportError(
                "a calibration cache is for TensorRT up to 10, which chooses half precision itself: leave --half out"
            )
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    with reserved(file, calibration_cache), replaced_whole(file) as partial:
        detector = load(model, branch=branch)
        chosen = _target_of(model, target) if is_quantized else None
        name = "float" if chosen is None else chosen.name
        settings: dict[str, Any] = {"target": name, "input_size": size, "dynamic_batch": dynamic_batch, "opset": opset}
        export_onnx(detector, partial, **settings, half=half)
        if half:
            _require_half(detector, partial, settings)
        if nms is not None:
            add_nms_to_file(partial, nms, tensorrt=chosen is not None and chosen.nms == "tensorrt")
        if calibration_cache is not None:
            write_calibration_cache(partial, partial, Path(calibration_cache))
    note_branch(detector.head.branch, reporter or Silent())
    return file


def _require_half(detector: Detector | QuantizedDetector, path: Path, settings: dict[str, Any]) -> None:
    """Hold a file in half precision against the same one in 32 bits, both in ONNX Runtime, on drawn images.

    Raises:
        ExportError: They find different objects.
    """
    images = drawn_images(settings["input_size"] or detector.input_size)
    with tempfile.TemporaryDirectory() as scratch:
        single = Path(scratch) / "single.onnx"
        export_onnx(detector, single, **settings)
        runner = open_onnx(single)
        decoded = np.concatenate([runner(images[number : number + 1]) for number in range(len(images))])
        runner.close()
    found = Reference(images, decoded, detector.head.layout, LEAST_SIGNAL_TO_NOISE_DB).check(open_onnx(path))
    if not found.agrees:
        raise ExportError(
            f"half precision changes what the network finds ({found.signal_to_noise:.1f} dB signal to noise): leave --half out"
        )


def _target_of(model: Any, target: str | None) -> Target:
    """The target of a quantized detector: what its folder's recipe says, or for one in memory what is named.

    Raises:
        YoloquantError: It is not named, or the folder is for another one.
    """
    if isinstance(model, QuantizedDetector):
        if target is None:
            raise ExportError("a quantized detector does not know its target: name the one that it was quantized for")
        return get_target(target)
    own = recipe_of(Path(model)).target
    if target not in (None, own):
        raise ExportError(f"{model} is quantized for {own}: quantize again for {target}")
    return get_target(own)

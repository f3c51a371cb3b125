"""`yoloquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yoloquant.cli.console import OUT
from yoloquant.cli.options import (
    Branch,
    Exportable,
    ImageSize,
    Nms,
    NmsAgnostic,
    NmsConfidence,
    NmsIou,
    NmsMost,
    app,
    tell_branch,
)
from yoloquant.cli.results import tell_trtexec

if TYPE_CHECKING:
    from yoloquant.models.detector import Detector
    from yoloquant.quant.quantized_detector import QuantizedDetector


@app.command()
def export(
    model: Exportable,
    output: Annotated[Path, typer.Option(help="ONNX file to write.")],
    image_size: ImageSize = None,
    branch: Branch = None,
    dynamic_batch: Annotated[bool, typer.Option(help="Leave the batch size free.")] = True,
    opset: Annotated[int | None, typer.Option(help="ONNX opset, 18 or later.")] = None,
    nms: Nms = False,
    nms_confidence: NmsConfidence = 0.25,
    nms_iou: NmsIou = 0.45,
    nms_max: NmsMost = 300,
    nms_agnostic: NmsAgnostic = False,
    calibration_cache: Annotated[
        Path | None, typer.Option(help="For TensorRT: write a float file, and the quantized folder's scales into this cache.")
    ] = None,
) -> None:
    """Export a float checkpoint, or a quantized folder again, to ONNX."""
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.errors import ExportError
    from yoloquant.exporting.calibration_cache import write_calibration_cache
    from yoloquant.exporting.folder import load_quantized
    from yoloquant.exporting.nms import NmsOptions, add_nms_to_file
    from yoloquant.exporting.onnx_export import export_onnx
    from yoloquant.files.outputs import refuse_inputs, reserved
    from yoloquant.files.writing import checked_file, replaced_whole
    from yoloquant.models.branches import check_branch, choose_branch
    from yoloquant.recipe.recipe import recipe_of
    from yoloquant.targets.registry import get_target

    checked_file(output)
    refuse_inputs([output, calibration_cache], [model])
    if output.suffix != ".onnx":
        raise ExportError(f"{output}: export writes ONNX files, whose names end in .onnx")
    if calibration_cache is not None:
        checked_file(calibration_cache)
        if not model.is_dir():
            raise ExportError(f"{model} has no scales for a calibration cache: name a folder quantized with --target tensorrt")
    size = (image_size, image_size) if image_size else None
    with reserved(output, calibration_cache), replaced_whole(output) as file:
        if model.is_dir():
            detector: Detector | QuantizedDetector = load_quantized(model)
            check_branch(detector.head.branch, branch)
        else:
            detector = choose_branch(read_detector(model), branch)
        target = get_target(recipe_of(model).target) if model.is_dir() else None
        name = target.name if target is not None else "float"
        export_onnx(detector, file, target=name, input_size=size, dynamic_batch=dynamic_batch, opset=opset)
        if nms:
            options = NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic)
            add_nms_to_file(file, options, tensorrt=target is not None and target.nms == "tensorrt")
        if calibration_cache is not None:
            write_calibration_cache(file, file, calibration_cache)
    tell_branch(detector.head.branch)
    OUT.print(f"written to {output}", markup=False)
    if target is not None and target.builds_engine:
        tell_trtexec(output, calibration_cache)

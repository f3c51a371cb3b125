"""`yoloquant export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import (
    Branch,
    Exportable,
    ImageSize,
    Nms,
    NmsAgnostic,
    NmsConfidence,
    NmsIou,
    NmsMost,
    command,
)
from yoloquant.cli.results import tell_next, tell_trtexec


@command(example="yoloquant export yolov8n.pt --output yolov8n.onnx --imgsz 640")
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
    half: Annotated[
        bool, typer.Option("--half", help="For TensorRT 11: what is not in integers is in half precision in the file.")
    ] = False,
) -> None:
    """Export a float checkpoint, or a quantized folder again, to ONNX."""
    from yoloquant.checkpoint.onnx_metadata import read_metadata
    from yoloquant.exporting.nms import NmsOptions
    from yoloquant.flows.export import export as run
    from yoloquant.targets.registry import TARGETS

    run(
        model,
        output,
        input_size=image_size,
        branch=branch,
        dynamic_batch=dynamic_batch,
        opset=opset,
        nms=NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic) if nms else None,
        calibration_cache=calibration_cache,
        half=half,
        reporter=RichReporter(),
    )
    OUT.print(f"written to {output}", markup=False)
    target = TARGETS.get(read_metadata(output).target)
    if target is not None and target.builds_engine:
        tell_trtexec(output, calibration_cache)
    tell_next("evaluate", output, "--data", "data.yaml")

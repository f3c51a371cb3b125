"""`yoloquant quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import RichReporter
from yoloquant.cli.options import (
    Annotations,
    Branch,
    Checkpoint,
    Formats,
    ImageSize,
    Limit,
    Nms,
    NmsAgnostic,
    NmsConfidence,
    NmsIou,
    NmsMost,
    Pixels,
    Plots,
    Set,
    TargetName,
    app,
    preprocessing,
)
from yoloquant.cli.results import tell_result


@app.command()
def quantize(
    model: Checkpoint,
    data: Annotated[
        Path | None, typer.Option(help="data.yaml or COCO JSON; not needed where --calibration names images.")
    ] = None,
    target: TargetName = None,
    recipe: Annotated[str, typer.Option(help="Preset or YAML file; see `yoloquant recipes`.")] = "int8",
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("out"),
    overrides: Set = None,
    calibration: Annotated[Path | None, typer.Option(help="Images to calibrate on instead of the train split.")] = None,
    annotations: Annotations = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate and time float and quantized models.")] = True,
    limit: Limit = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    branch: Branch = None,
    device: Annotated[str, typer.Option(help="Where steps that learn run: cpu, cuda, cuda:1.")] = "cpu",
    nms: Nms = False,
    nms_confidence: NmsConfidence = 0.25,
    nms_iou: NmsIou = 0.45,
    nms_max: NmsMost = 300,
    nms_agnostic: NmsAgnostic = False,
    formats: Formats = None,
    report: Annotated[bool, typer.Option(help="Write report.html and the figures of every layer.")] = True,
    analysis: Annotated[Path | None, typer.Option(help="Folder of `yoloquant analyze`, for the report.")] = None,
    plots: Plots = None,
) -> None:
    """Quantize a detector, export it to ONNX, verify the file, and show what it cost."""
    from yoloquant.exporting.nms import NmsOptions
    from yoloquant.flows.quantize import quantize as run

    result = run(
        model,
        data,
        target=target,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        output=output,
        calibration=calibration,
        annotations=annotations,
        measure=evaluate,
        limit=limit,
        input_size=image_size,
        preprocessing=preprocessing(pixels),
        branch=branch,
        device=device,
        nms=NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic) if nms else None,
        formats=tuple(formats or ()),
        report=report,
        analysis=analysis,
        plots=plots,
        reporter=RichReporter(),
    )
    tell_result(result, output)

"""`yoloquant quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import RichReporter
from yoloquant.cli.options import (
    Annotations,
    Branch,
    Calibration,
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
    opened,
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
    calibration: Calibration = None,
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
    from yoloquant.data.source import Source
    from yoloquant.exporting.nms import NmsOptions
    from yoloquant.flows.options import Measure, Output, Report
    from yoloquant.flows.quantize import quantize as run
    from yoloquant.recipe.recipe import load_recipe

    suppression = NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic) if nms else None
    result = run(
        opened(model, pixels=pixels, branch=branch, image_size=image_size),
        Source(data, calibration, annotations),
        target=target,
        recipe=load_recipe(recipe, overrides or ()),
        output=Output(output, suppression, tuple(formats or ())),
        measure=Measure(evaluate=evaluate, limit=limit),
        report=Report(plots=plots, analysis=analysis) if report else None,
        device=device,
        reporter=RichReporter(),
    )
    tell_result(result, output)

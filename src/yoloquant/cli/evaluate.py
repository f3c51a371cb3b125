"""`yoloquant evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import (
    Annotations,
    BatchSize,
    Branch,
    Confidence,
    Data,
    ImageSize,
    Iou,
    Json,
    Limit,
    MaxDetections,
    Model,
    Pixels,
    Plots,
    RuntimeName,
    command,
    preprocessing,
)
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


@command("evaluate", earlier="eval", example="yoloquant evaluate out --data data.yaml --runtime openvino")
def evaluate_command(
    model: Model,
    data: Data,
    runtime: RuntimeName = None,
    split: Annotated[str, typer.Option(help="Split of the data.yaml.")] = "val",
    annotations: Annotations = None,
    confidence: Confidence = 0.001,
    iou: Iou = 0.6,
    max_detections: MaxDetections = 300,
    batch_size: BatchSize = 8,
    image_size: ImageSize = None,
    rectangular: Annotated[bool, typer.Option(help="Pad images to multiples of the stride instead of squares.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that load images.")] = 2,
    limit: Limit = None,
    per_class: Annotated[bool, typer.Option("--verbose", "--per-class", help="Show each class that has objects.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", "--save-json", help="Write the boxes as COCO JSON.")
    ] = None,
    plots: Plots = None,
    output: Annotated[Path, typer.Option(help="Folder for the plots and pictures of --plots.")] = Path("evaluation"),
    pixels: Pixels = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on images with known boxes: COCO's figures, precision, recall, F1 of all classes and of each."""
    from yoloquant.data.source import Source
    from yoloquant.evaluation.evaluator import EvaluationSettings
    from yoloquant.flows.evaluate import EvaluationFiles, evaluate

    settings = EvaluationSettings(
        confidence=confidence,
        iou=iou,
        max_detections=max_detections,
        batch_size=batch_size,
        image_size=(image_size, image_size) if image_size else None,
        rectangular=rectangular,
        workers=workers,
        limit=limit,
    )
    result = evaluate(
        model,
        Source(data, annotations=annotations),
        settings,
        split=split,
        runtime=runtime,
        preprocessing=preprocessing(pixels),
        branch=branch,
        files=EvaluationFiles(figures=figures, predictions=predictions, plots=plots, folder=output),
        reporter=RichReporter(),
    )
    OUT.print(on_screen(result.table(per_class=per_class)))
    OUT.print(on_screen(result.coco_table()))
    OUT.print(result.speed())
    tell_figures(result.to_dict(), as_json)
    tell_next("predict", model, "pictures/")

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
    Limit,
    MaxDetections,
    Model,
    Pixels,
    Plots,
    RuntimeName,
    app,
    preprocessing,
    save_plots,
    tell_branch,
)


@app.command("eval", hidden=True)
@app.command("evaluate")
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
    predictions: Annotated[
        Path | None, typer.Option("--predictions", "--save-json", help="Write the boxes as COCO JSON.")
    ] = None,
    plots: Plots = None,
    output: Annotated[Path, typer.Option(help="Folder for the plots and pictures of --plots.")] = Path("evaluation"),
    pixels: Pixels = None,
    branch: Branch = None,
) -> None:
    """Evaluate a model on images with known boxes: COCO's figures, precision, recall, F1 of all classes and of each."""
    from yoloquant.cli.tables import class_table, coco_table, speed_sentence
    from yoloquant.data.dataset import load_dataset
    from yoloquant.evaluation.evaluator import EvaluationSettings, check_image_size, evaluate
    from yoloquant.files.outputs import refuse_images, refuse_inputs
    from yoloquant.files.writing import checked_file
    from yoloquant.report.accuracy_charts import evaluation_charts
    from yoloquant.report.evaluation_files import checked_plots, save_truth_beside
    from yoloquant.runtime.open import open_model

    if predictions is not None:
        checked_file(predictions)
    dataset = load_dataset(data, split, annotations=annotations)
    refuse_inputs([predictions], [model, data, annotations, *dataset.files])
    refuse_images([predictions], dataset.images)
    if plots is not None:
        checked_plots(output, plots, dataset, [model, data, annotations, predictions])
    runner = open_model(model, runtime, preprocessing=preprocessing(pixels), branch=branch)
    tell_branch(runner.branch)
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
    check_image_size(runner, settings)
    with RichReporter().step(f"Evaluate in {runner.name}") as update:
        result = evaluate(runner, dataset, settings, update)
    for sentence in dataset.problem_sentences():
        OUT.print(sentence, markup=False)
    for sentence in result.skipped:
        OUT.print(f"skipped: {sentence}", markup=False)
    OUT.print(class_table(result, per_class))
    OUT.print(coco_table(result))
    OUT.print(speed_sentence(result))
    if predictions:
        result.write_coco_json(predictions)
    if plots is not None:
        save_plots(evaluation_charts(result, runner.names), output, plots)
        pictures = save_truth_beside(result, dataset, runner.names, output)
        OUT.print(f"{len(pictures)} pictures in {output / 'pictures'}", markup=False)

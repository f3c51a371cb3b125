"""Commands that measure models: accuracy, latency, pictures, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.options import (
    Annotations,
    Branch,
    Confidence,
    Data,
    ImageSize,
    Iou,
    Limit,
    Model,
    Pixels,
    Plots,
    RuntimeName,
    app,
    preprocessing,
    save_plots,
    tell_branch,
)
from yoloquant.console import OUT, RichReporter


@app.command("eval")
def evaluate_command(
    model: Model,
    data: Data,
    runtime: RuntimeName = None,
    split: Annotated[str, typer.Option(help="Split of the data.yaml.")] = "val",
    annotations: Annotations = None,
    confidence: Confidence = 0.001,
    iou: Iou = 0.6,
    max_detections: Annotated[int, typer.Option(min=1, help="Boxes kept in an image.")] = 300,
    batch_size: Annotated[int, typer.Option(min=1)] = 8,
    image_size: ImageSize = None,
    rectangular: Annotated[bool, typer.Option(help="Pad images to multiples of the stride instead of squares.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that load images.")] = 2,
    limit: Limit = None,
    per_class: Annotated[bool, typer.Option(help="Show each class.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="Write the boxes as COCO JSON.")] = None,
    pixels: Pixels = None,
    branch: Branch = None,
) -> None:
    """Evaluate a model on images with known boxes: COCO's figures, precision, recall, F1."""
    from yoloquant.data.dataset import load_dataset
    from yoloquant.evaluation.evaluator import EvaluationSettings, check_image_size, evaluate
    from yoloquant.loading import open_model
    from yoloquant.outputs import refuse_images, refuse_inputs
    from yoloquant.report.tables import evaluation_table
    from yoloquant.writing import checked_file

    if predictions is not None:
        checked_file(predictions)
    dataset = load_dataset(data, split, annotations=annotations)
    refuse_inputs([predictions], [model, data, annotations, *dataset.files])
    refuse_images([predictions], dataset.images)
    runner = open_model(model, runtime, preprocessing=preprocessing(pixels), branch=branch)
    tell_branch(runner.branch)
    settings = EvaluationSettings(
        confidence,
        iou,
        max_detections,
        batch_size,
        (image_size, image_size) if image_size else None,
        rectangular,
        workers,
        limit,
    )
    check_image_size(runner, settings)
    with RichReporter().step(f"Evaluate in {runner.name}") as update:
        result = evaluate(runner, dataset, settings, update)
    for sentence in dataset.problem_sentences():
        OUT.print(sentence, markup=False)
    for sentence in result.skipped:
        OUT.print(f"skipped: {sentence}", markup=False)
    OUT.print(evaluation_table(result, per_class))
    OUT.print(f"{result.seconds['total']:.1f} s, of these the network {result.seconds['run']:.1f} s")
    if predictions:
        result.write_coco_json(predictions)


@app.command()
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Images, folders or lists.")],
    output: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("predictions"),
    compare: Annotated[Path | None, typer.Option(help="A second model, drawn beside the first.")] = None,
    runtime: RuntimeName = None,
    confidence: Confidence = 0.25,
    iou: Iou = 0.45,
    pixels: Pixels = None,
    branch: Branch = None,
) -> None:
    """Detect objects in pictures and draw them."""
    from yoloquant.evaluation.predict import check_pictures, find_images, predict_to_files
    from yoloquant.loading import open_model

    entries = find_images(images)
    check_pictures(entries, output, [model, compare])
    runner = open_model(model, runtime, preprocessing=preprocessing(pixels), branch=branch)
    tell_branch(runner.branch)
    second = open_model(compare) if compare else None
    titles = (model.name, compare.name if compare else "")
    skipped: list[str] = []
    pictures = predict_to_files(runner, entries, output, confidence, iou, compare=second, titles=titles, skipped=skipped)
    for path, detections in pictures:
        OUT.print(f"{path}: {len(detections)} objects", markup=False)
    for sentence in skipped:
        OUT.print(f"skipped: {sentence}", markup=False)


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help="Models; ratios are against the first.")],
    runtime: Annotated[list[str] | None, typer.Option(help="torch, onnxruntime, openvino, tensorrt; repeatable.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of each runtime; 0 lets it choose.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1)] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Counted calls of each.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Calls of each before those that count.")] = 3,
    layers: Annotated[int, typer.Option(min=0, help="Show so many of each file's slowest operators.")] = 0,
) -> None:
    """Time models in turns, and count the layers that each runtime really computes in integers."""
    from yoloquant.benchmark.latency import measure_latency
    from yoloquant.loading import open_model
    from yoloquant.report.tables import latency_table, layer_table
    from yoloquant.runtime.executed import executed_layers
    from yoloquant.runtime.layer_times import layer_times
    from yoloquant.runtime.loading import RUNTIMES

    names = runtime or [name for name in RUNTIMES if RUNTIMES[name].is_installed()]
    runners = {(str(path), name): open_model(path, name, threads=threads) for path in files for name in names}
    with RichReporter().step("Measure latency") as update:
        labelled = {"\n".join(key): runner for key, runner in runners.items()}
        times = measure_latency(labelled, batch_size=batch_size, runs=runs, warmup=warmup, progress=update)
    executed = {key: executed_layers(Path(key[0]), key[1]) for key in runners if key[1] in RUNTIMES and key[0].endswith(".onnx")}
    OUT.print(latency_table({key: times["\n".join(key)] for key in runners}, executed))
    for path, name in executed if layers else ():
        profile = layer_times(Path(path), name, batch_size=runners[path, name].batch_size or batch_size, threads=threads)
        OUT.print(layer_table(path, name, profile, layers))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Folders that `yoloquant quantize` wrote.")],
    output: Annotated[Path | None, typer.Option(help="Page to write, with accuracy drawn against latency and size.")] = None,
    plots: Plots = None,
) -> None:
    """Put several quantized folders into one table, and one picture of what is worth having."""
    from yoloquant.outputs import refuse_inputs
    from yoloquant.report.comparison import comparison_charts, comparison_table, read_entries, write_comparison
    from yoloquant.report.formats import check_format
    from yoloquant.writing import checked_file

    check_format(plots)
    if output is not None:
        checked_file(output)
        refuse_inputs([output], folders)
    entries = read_entries(folders)
    OUT.print(comparison_table(entries))
    if output is not None:
        write_comparison(entries, output)
        OUT.print(f"written to {output}", markup=False)
    save_plots(comparison_charts(entries), (output or Path("comparison")).with_suffix(""), plots)

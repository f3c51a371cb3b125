"""The command line: parses, calls, prints. Everything it does is in the Python API, too."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from yoloquant.console import ERR, OUT, RichReporter
from yoloquant.errors import YoloquantError

if TYPE_CHECKING:
    from yoloquant.models.preprocessing import Preprocessing
    from yoloquant.report.charts import Chart

app = typer.Typer(
    name="yoloquant",
    help="Quantize YOLO detectors for integer runtimes, and see what it costs and where.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[Path, typer.Argument(help="Checkpoint (.pt, .safetensors), ONNX file, or quantized folder.")]
Checkpoint = Annotated[Path, typer.Argument(help="Checkpoint (.pt or .safetensors) or float ONNX file.")]
Data = Annotated[Path, typer.Option(help="data.yaml or COCO JSON.")]
Annotations = Annotated[Path | None, typer.Option(help="COCO JSON with the ground truth of the val split.")]
TargetName = Annotated[str | None, typer.Option(help="Deployment target; see `yoloquant targets`.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe, as weights.bits=4; repeatable.")]
RuntimeName = Annotated[str | None, typer.Option(help="torch, onnxruntime or openvino.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Evaluate only the first so many images.")]
Confidence = Annotated[float, typer.Option(min=0.0, max=1.0, help="Least score of a box.")]
Iou = Annotated[float, typer.Option(min=0.0, max=1.0, help="Threshold of non-maximum suppression.")]
Nms = Annotated[bool, typer.Option("--nms", help="Put non-maximum suppression into the file.")]
NmsConfidence = Annotated[float, typer.Option(min=0.0, max=1.0, help="Least score that the file's suppression keeps.")]
NmsIou = Annotated[float, typer.Option(min=0.0, max=1.0, help="Threshold of the file's suppression.")]
NmsMost = Annotated[int, typer.Option(min=1, help="Boxes that the file answers with.")]
NmsAgnostic = Annotated[bool, typer.Option("--nms-agnostic", help="Boxes of different classes suppress each other in the file.")]
Plots = Annotated[str | None, typer.Option(metavar="png|pdf", help="Write every chart as a file, too.")]
ImageSize = Annotated[int | None, typer.Option(min=32, help="Side of the network's input, pixels.")]
Pixels = Annotated[
    str | None,
    typer.Option(
        "--images",
        metavar="WORDS",
        help="How an ONNX file wants its images, as bgr,0..255,top-left; known of this project's files and of known exporters.",
    ),
]


def _preprocessing(words: str | None) -> Preprocessing | None:
    from yoloquant.models.preprocessing import parse_preprocessing

    return None if words is None else parse_preprocessing(words)


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
    device: Annotated[str, typer.Option(help="Where steps that learn run: cpu, cuda, cuda:1.")] = "cpu",
    nms: Nms = False,
    nms_confidence: NmsConfidence = 0.25,
    nms_iou: NmsIou = 0.45,
    nms_max: NmsMost = 300,
    nms_agnostic: NmsAgnostic = False,
    report: Annotated[bool, typer.Option(help="Write report.html and the figures of every layer.")] = True,
    analysis: Annotated[Path | None, typer.Option(help="Folder of `yoloquant analyze`, for the report.")] = None,
    plots: Plots = None,
) -> None:
    """Quantize a detector, export it to ONNX, verify the file, and show what it cost."""
    from yoloquant.export.nms import NmsOptions
    from yoloquant.pipeline import quantize as run
    from yoloquant.report.tables import result_table

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
        preprocessing=_preprocessing(pixels),
        device=device,
        nms=NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic) if nms else None,
        report=report,
        analysis=analysis,
        plots=plots,
        reporter=RichReporter(),
    )
    for parity in result.parity:
        if parity.agrees:
            OUT.print(f"the file agrees with torch in {parity.runtime}: {parity.signal_to_noise:.1f} dB")
    if result.rows:
        OUT.print(result_table(result.rows))
    written = ("report.html, layers.csv, classes.csv" if report else "") + (", plots/" if report and plots else "")
    files = ", ".join(filter(None, ("model.onnx, quantized.safetensors, recipe.yaml, metrics.json", written)))
    OUT.print(f"written to {output}: {files}", markup=False)
    if result.recipe.target == "tensorrt":
        _tell_trtexec(output / "model.onnx")


def _tell_trtexec(model: Path, cache: Path | None = None) -> None:
    from yoloquant.export.tensorrt_command import trtexec_command

    OUT.print(f"build the engine where the GPU is: {trtexec_command(model, cache)}", markup=False, soft_wrap=True)


def _save_plots(charts: Sequence[Chart], folder: Path, suffix: str | None) -> None:
    """Charts as files of their own, where they are asked for."""
    if suffix is not None:
        from yoloquant.report.plots import save_charts

        with RichReporter().step("Draw plots") as update:
            files = save_charts(charts, folder, suffix, update)
        OUT.print(f"{len(files)} plots in {folder}", markup=False)


@app.command()
def analyze(
    model: Checkpoint,
    data: Data,
    target: TargetName = None,
    recipe: Annotated[str, typer.Option(help="Preset or YAML file.")] = "int8-mse",
    output: Annotated[Path, typer.Option(help="Folder to write; an interrupted run goes on there.")] = Path("analysis"),
    overrides: Set = None,
    measure: Annotated[str, typer.Option(help="error (of boxes and scores, without labels) or map.")] = "error",
    mode: Annotated[str, typer.Option(help="one (layer quantized), all-but-one, or block (one quantized).")] = "one",
    images: Annotated[int, typer.Option(min=1, help="Calibration images for errors and statistics.")] = 8,
    fast: Annotated[int | None, typer.Option(min=1, help="For map: only so many images of the val split.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Images to calibrate on instead of the train split.")] = None,
    annotations: Annotations = None,
    top: Annotated[int, typer.Option(min=1, help="Layers to show.")] = 15,
    plots: Plots = None,
) -> None:
    """Show what each layer's quantization costs, and what to do about it."""
    from yoloquant.analysis import analyze as run
    from yoloquant.report.analysis_page import analysis_charts
    from yoloquant.report.formats import check_format
    from yoloquant.report.tables import sensitivity_table

    check_format(plots)
    found = run(
        model,
        data,
        target=target,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        output=output,
        measure=measure,
        mode=mode,  # type: ignore[arg-type]
        images=images,
        fast=fast,
        calibration=calibration,
        annotations=annotations,
        reporter=RichReporter(),
    )
    OUT.print(sensitivity_table(found, top))
    for sentence in found.advice[:top]:
        OUT.print(sentence, markup=False)
    OUT.print(f"written to {output}: analysis.html, analysis.json, sensitivity.csv, statistics.csv", markup=False)
    _save_plots(analysis_charts(found), output / "plots", plots)


@app.command()
def bench(
    files: Annotated[list[Path], typer.Argument(help="Models; ratios are against the first.")],
    runtime: Annotated[list[str] | None, typer.Option(help="torch, onnxruntime, openvino; repeatable.")] = None,
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
    from yoloquant.report.comparison import comparison_charts, comparison_table, read_entries, write_comparison
    from yoloquant.report.formats import check_format

    check_format(plots)
    entries = read_entries(folders)
    OUT.print(comparison_table(entries))
    if output is not None:
        write_comparison(entries, output)
        OUT.print(f"written to {output}", markup=False)
    _save_plots(comparison_charts(entries), (output or Path("comparison")).with_suffix(""), plots)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="ONNX file with Q/DQ, of any tool.")],
    target: Annotated[str, typer.Option(help="Deployment target; see `yoloquant targets`.")] = "onnxruntime",
    fix: Annotated[Path | None, typer.Option(help="Write the file with everything mended that needs no calibration.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show every finding, not the first three of a kind.")] = False,
) -> None:
    """Say what a target's runtime will not run as it seems: float layers, needless conversions, scales that do not match.

    Exit code 1 where anything is found.
    """
    import onnx

    from yoloquant.check.findings import check_file
    from yoloquant.check.repair import repair
    from yoloquant.checkpoint.onnx_facts import load_onnx
    from yoloquant.report.tables import findings_table
    from yoloquant.targets.registry import get_target

    result = check_file(file, target)
    work = f"{result.integer_work:.0%} of the multiplications"
    OUT.print(
        f"{result.integer_layers} of {result.layers} layers in integers, {work}; {result.conversions} Q/DQ nodes on activations"
    )
    kinds: dict[str, int] = {}
    for finding in result.findings:
        kinds[finding.kind] = kinds.get(finding.kind, 0) + 1
        if everything or kinds[finding.kind] <= 3:
            OUT.print(f"{finding.kind}: {finding.sentence}", markup=False)
    if kinds:
        OUT.print(findings_table(result.findings))
    if not everything and max(kinds.values(), default=0) > 3:
        OUT.print("three of each kind are shown; --all shows all")
    if fix is not None:
        mended, done = repair(load_onnx(file), get_target(target))
        onnx.checker.check_model(mended)
        onnx.save(mended, str(fix))
        OUT.print(f"{len(done)} of {len(result.findings)} findings mended, written to {fix}", markup=False)
    if result.findings:
        raise typer.Exit(1)


@app.command()
def search(
    model: Checkpoint,
    data: Data,
    max_drop: Annotated[float | None, typer.Option(min=0.0, help="mAP50-95 that may be lost, percent points.")] = None,
    target_map: Annotated[float | None, typer.Option(min=0.0, help="mAP50-95 to reach, percent.")] = None,
    raise_bits: Annotated[int | None, typer.Option(help="Give layers so many weight bits instead of float.")] = None,
    optimize_latency: Annotated[
        bool, typer.Option("--optimize-latency", help="Choose layers by error mended per millisecond lost on this machine.")
    ] = False,
    target: TargetName = None,
    recipe: Annotated[str, typer.Option(help="Preset or YAML file to start from.")] = "int8-mse",
    output: Annotated[Path, typer.Option(help="Recipe to write; the curve stands beside it.")] = Path("found.yaml"),
    model_folder: Annotated[Path | None, typer.Option("--model", help="Also write the quantized folder of the recipe.")] = None,
    overrides: Set = None,
    calibration: Annotated[Path | None, typer.Option(help="Images to calibrate on instead of the train split.")] = None,
    annotations: Annotations = None,
) -> None:
    """Find the fewest layers in float that keep an accuracy, and write the recipe."""
    from yoloquant.pipeline import quantize
    from yoloquant.report.search_page import write_search_page
    from yoloquant.report.tables import search_table
    from yoloquant.search import search as run

    found = run(
        model,
        data,
        max_drop=max_drop,
        target_map=target_map,
        raise_bits=raise_bits,
        optimize_latency=optimize_latency,
        target=target,
        recipe=recipe,
        overrides=tuple(overrides or ()),
        calibration=calibration,
        annotations=annotations,
        record=output.with_suffix(".search.json"),
        reporter=RichReporter(),
    )
    output.write_text(found.recipe.to_yaml(), encoding="utf-8")
    page = output.with_suffix(".html")
    write_search_page(found, page)
    change = "in float" if raise_bits is None else f"at {raise_bits} bit"
    OUT.print(search_table(found))
    OUT.print(f"{len(found.layers)} layers {change}: {', '.join(found.layers) or 'none'}", markup=False)
    reached = f"{found.found_map:.2f} of the float model's {found.float_map:.2f} mAP50-95"
    OUT.print(f"{reached}, in {found.evaluations} evaluations", markup=False)
    if model_folder is not None:
        quantize(model, data, recipe=found.recipe, output=model_folder, calibration=calibration, annotations=annotations)
        OUT.print(f"the model is in {model_folder}", markup=False)
    how = f": `yoloquant quantize ... --recipe {output}` makes the model" if model_folder is None else ""
    OUT.print(f"written to {output} and {page}{how}", markup=False)


@app.command()
def inspect(file: Checkpoint, layers: Annotated[bool, typer.Option(help="List the layers that have weights.")] = True) -> None:
    """Show what a checkpoint holds: family, classes, parameters, strides, layers. Nothing in it is executed."""
    from yoloquant.checkpoint.inspect import inspect_file

    facts = inspect_file(file)
    height, width = facts.input_size
    OUT.print(f"family      {facts.family}")
    OUT.print(
        f"classes     {len(facts.names)}: {', '.join(facts.names[:8])}{' ...' if len(facts.names) > 8 else ''}",
        markup=False,
    )
    OUT.print(f"parameters  {facts.parameters:,}")
    OUT.print(f"strides     {', '.join(map(str, facts.strides))}")
    OUT.print(f"input size  {height} x {width}")
    for key, value in facts.source.items():
        OUT.print(f"{key:11} {value}", markup=False)
    if layers:
        table = Table("layer", "kind", "weight", "parameters")
        for layer in facts.layers:
            table.add_row(layer.name, layer.kind, " x ".join(map(str, layer.shape)), f"{layer.parameters:,}")
        OUT.print(table)


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
    rectangular: Annotated[bool, typer.Option(help="Pad images as little as the stride allows.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that load images.")] = 2,
    limit: Limit = None,
    per_class: Annotated[bool, typer.Option(help="Show each class.")] = False,
    predictions: Annotated[Path | None, typer.Option(help="Write the boxes as COCO JSON.")] = None,
    pixels: Pixels = None,
) -> None:
    """Evaluate a model on images with known boxes: COCO's figures, precision, recall, F1."""
    from yoloquant.data.dataset import load_dataset
    from yoloquant.evaluate.evaluator import EvaluationSettings, evaluate
    from yoloquant.loading import open_model
    from yoloquant.report.tables import evaluation_table

    dataset = load_dataset(data, split, annotations=annotations)
    runner = open_model(model, runtime, preprocessing=_preprocessing(pixels))
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
    with RichReporter().step(f"Evaluate in {runner.name}") as update:
        result = evaluate(runner, dataset, settings, update)
    for kind, count in dataset.problem_counts().items():
        OUT.print(f"{kind}: {count}; the first: {dataset.problems[kind][0]}", markup=False)
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
) -> None:
    """Detect objects in pictures and draw them."""
    from yoloquant.evaluate.predict import find_images, predict_to_files
    from yoloquant.loading import open_model

    entries = find_images(images)
    runner = open_model(model, runtime, preprocessing=_preprocessing(pixels))
    second = open_model(compare) if compare else None
    pictures = predict_to_files(
        runner, entries, output, confidence, iou, compare=second, titles=(model.name, compare.name if compare else "")
    )
    for path, detections in pictures:
        OUT.print(f"{path}: {len(detections)} objects", markup=False)


@app.command()
def export(
    model: Checkpoint,
    output: Annotated[Path, typer.Option(help="ONNX file to write.")],
    image_size: ImageSize = None,
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
    from yoloquant.export.calibration_cache import write_calibration_cache
    from yoloquant.export.nms import NmsOptions, add_nms_to_file
    from yoloquant.export.onnx_file import export_onnx
    from yoloquant.export.quantized_folder import RECIPE, load_quantized
    from yoloquant.recipe import load_recipe

    size = (image_size, image_size) if image_size else None
    detector = load_quantized(model) if model.is_dir() else read_detector(model)
    target = load_recipe(model / RECIPE).target if model.is_dir() else "float"
    export_onnx(detector, output, target=target, input_size=size, dynamic_batch=dynamic_batch, opset=opset)
    if nms:
        options = NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic)
        add_nms_to_file(output, options, tensorrt=target == "tensorrt")
    if calibration_cache is not None:
        write_calibration_cache(output, output, calibration_cache)
    OUT.print(f"written to {output}", markup=False)
    if target == "tensorrt":
        _tell_trtexec(output, calibration_cache)


@app.command("sample-calibration")
def sample_calibration(
    data: Data,
    output: Annotated[Path, typer.Option(help="List file to write.")] = Path("calibration.txt"),
    count: Annotated[int, typer.Option(min=1, help="Images to draw.")] = 128,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 42,
) -> None:
    """Draw calibration images from the train split and write their list."""
    from yoloquant.data.sample import calibration_images, write_image_list

    entries = calibration_images(data, count, seed)
    write_image_list(entries, output)
    OUT.print(f"{len(entries)} images written to {output}", markup=False)


@app.command()
def recipes(name: Annotated[str | None, typer.Argument(help="Show this one.")] = None) -> None:
    """List the preset recipes, or show one."""
    from yoloquant.recipe import load_recipe, preset_text, presets

    if name is not None:
        load_recipe(name)
        OUT.print(preset_text(name) if name in presets() else Path(name).read_text(encoding="utf-8"), markup=False)
        return
    table = Table("recipe", "what it is for")
    for key, sentence in presets().items():
        table.add_row(key, sentence)
    OUT.print(table)


@app.command()
def targets(name: Annotated[str | None, typer.Argument(help="Explain this one.")] = None) -> None:
    """List the deployment targets, or explain one: its rules and where they are from."""
    from yoloquant.targets.registry import TARGETS, get_target

    if name is None:
        table = Table("target", "what it is", "weights", "activations")
        for target in TARGETS.values():
            table.add_row(target.name, target.summary, str(target.weights), str(target.activations))
        OUT.print(table)
        return
    target = get_target(name)
    lines = [target.summary, f"weights: {target.weights}", f"activations: {target.activations}"]
    for place, in_float in (("first", target.float_inputs), ("last", target.float_outputs)):
        lines.append(f"{place} convolutions: {'in float' if in_float else 'quantized'}")
    lines += [f"- {sentence}" for sentence in target.explain()]
    lines += [f"source: {source}" for source in target.sources]
    for line in lines:
        OUT.print(line, markup=False)


@app.command()
def train(
    model: Annotated[str, typer.Argument(help="Checkpoint, or fresh weights: yolov5n, yolov6n, yolov7-tiny, yolov8n, ...")],
    data: Annotated[Path, typer.Option(help="data.yaml with a train and a val split.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("run"),
    epochs: Annotated[int, typer.Option(min=1, help="In all.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Images in a batch, of all processes together.")] = 16,
    image_size: ImageSize = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Hyperparameter, as lr0=0.01; repeatable.")] = None,
    cosine: Annotated[bool, typer.Option(help="Let the learning rate fall in a cosine.")] = False,
    patience: Annotated[int | None, typer.Option(min=1, help="End after so many epochs without a better mAP.")] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Epochs between evaluations.")] = 1,
    clip: Annotated[float, typer.Option(min=0.0, help="Largest norm of the gradient.")] = 10.0,
    amp: Annotated[bool, typer.Option(help="Mixed precision: fp16 on CUDA, bf16 on a CPU.")] = False,
    activation: Annotated[str | None, typer.Option(help="Swap activations: relu, relu6, hardswish, leaky_relu, silu.")] = None,
    distill: Annotated[bool, typer.Option(help="The detector as it was given teaches.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda; under torchrun each process takes its own GPU.")] = "cpu",
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard's event files, too.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and augment images.")] = 2,
) -> None:
    """Train a float detector, and keep the best by mAP50-95."""
    from yoloquant.training import TrainingOptions
    from yoloquant.training import train as run

    options = TrainingOptions(
        epochs=epochs,
        batch_size=batch,
        image_size=image_size,
        overrides=tuple(overrides or ()),
        cosine=cosine,
        patience=patience,
        evaluate_every=evaluate_every,
        gradient_clip=clip,
        amp=amp,
        activation=activation,
        distill=distill,
        seed=seed,
        device=device,
        tensorboard=tensorboard,
        workers=workers,
    )
    result = run(model, data, output, options, resume=resume, reporter=RichReporter())
    if result.path is not None:
        OUT.print(f"best mAP50-95 {result.map50_95:.2f} in epoch {result.epoch + 1}, written to {result.path}", markup=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("yoloquant-demo"),
    target: Annotated[str, typer.Option(help="Deployment target.")] = "onnxruntime",
) -> None:
    """Quantize the shipped detector on a generated data set: no download, no data, under two minutes."""
    from yoloquant.demo import run_demo
    from yoloquant.report.tables import result_table

    result, careless = run_demo(output, target, RichReporter())
    OUT.print(result_table(result.rows))
    OUT.print(
        f"careless INT8 (extremes, one scale for each tensor) would have kept {careless.map50_95:.2f} mAP50-95; "
        f"this one keeps {result.rows[1].evaluation.map50_95:.2f}"  # type: ignore[union-attr]
    )
    OUT.print(f"written to {output}: open {output / 'report.html'}", markup=False)


def main() -> None:
    """Entry point: one sentence and exit code 2 for what a user can mend."""
    try:
        app(standalone_mode=True)
    except YoloquantError as error:
        ERR.print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        ERR.print("interrupted")
        sys.exit(130)


if __name__ == "__main__":
    main()

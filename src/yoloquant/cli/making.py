"""Commands that make models: quantize, train, export, and what they need."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yoloquant.cli.options import (
    Annotations,
    Branch,
    Checkpoint,
    Data,
    Exportable,
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
    tell_branch,
)
from yoloquant.console import OUT, RichReporter
from yoloquant.errors import YoloquantError

if TYPE_CHECKING:
    from yoloquant.models.detector import Detector
    from yoloquant.quant.network import QuantizedDetector
    from yoloquant.results import QuantizationResult


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
    report: Annotated[bool, typer.Option(help="Write report.html and the figures of every layer.")] = True,
    analysis: Annotated[Path | None, typer.Option(help="Folder of `yoloquant analyze`, for the report.")] = None,
    plots: Plots = None,
) -> None:
    """Quantize a detector, export it to ONNX, verify the file, and show what it cost."""
    from yoloquant.export.nms import NmsOptions
    from yoloquant.pipeline import quantize as run

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
        report=report,
        analysis=analysis,
        plots=plots,
        reporter=RichReporter(),
    )
    _tell_result(result, output)


def _tell_result(result: QuantizationResult, output: Path) -> None:
    """What was made, and where."""
    from yoloquant.export.quantized_folder import FILES
    from yoloquant.report.tables import result_table

    for parity in result.parity:
        if parity.agrees:
            OUT.print(f"the file agrees with torch in {parity.runtime}: {parity.signal_to_noise:.1f} dB")
    if result.rows:
        OUT.print(result_table(result.rows))
    OUT.print(f"written to {output}: {', '.join(name for name in FILES if (output / name).exists())}", markup=False)
    if result.recipe.target == "tensorrt":
        _tell_trtexec(output / "model.onnx")


def _tell_trtexec(model: Path, cache: Path | None = None) -> None:
    from yoloquant.export.tensorrt_command import trtexec_command

    OUT.print(f"build the engine where the GPU is: {trtexec_command(model, cache)}", markup=False, soft_wrap=True)


@app.command()
def train(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="Checkpoint, random weights (yolov5n, yolov6n, yolov7-tiny, yolov8n, ...), or quantized folder.")
    ],
    data: Annotated[
        Path,
        typer.Option(help="data.yaml with a train and a val split; a quantized folder also takes images, a list or COCO JSON."),
    ],
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("run"),
    epochs: Annotated[int, typer.Option(min=1, help="In all; 8 by default for a quantized folder.")] = 100,
    batch: Annotated[
        int, typer.Option(min=1, help="Images in a batch, of all processes together; 8 by default for a quantized folder.")
    ] = 16,
    image_size: ImageSize = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Hyperparameter, as lr0=0.01, or of a quantized folder rate=0.0001; repeatable."),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="For a quantized folder: the float checkpoint it was made from.")] = None,
    evaluate: Annotated[bool, typer.Option(help="For a quantized folder: evaluate and time what it becomes.")] = True,
    cosine: Annotated[bool, typer.Option(help="Let the learning rate fall in a cosine.")] = False,
    patience: Annotated[int | None, typer.Option(min=1, help="End after so many epochs without a better mAP.")] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Epochs between evaluations.")] = 1,
    clip: Annotated[float, typer.Option(min=0.0, help="Largest norm of the gradient.")] = 10.0,
    amp: Annotated[bool, typer.Option(help="Mixed precision: fp16 on CUDA, bf16 on a CPU and in quantized folders.")] = False,
    activation: Annotated[str | None, typer.Option(help="Swap activations: relu, relu6, hardswish, leaky_relu, silu.")] = None,
    distill: Annotated[bool, typer.Option(help="The detector as it was given teaches.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda; under torchrun each process takes its own GPU.")] = "cpu",
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard's event files, too.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and augment images.")] = 2,
) -> None:
    """Train a float detector, and keep the best by mAP50-95; or go on training a quantized folder."""
    from yoloquant.models.build import ARCHITECTURES
    from yoloquant.training import TrainingOptions
    from yoloquant.training import train as run

    # A folder may bear an architecture's name by chance.
    if Path(model).is_dir() and model not in ARCHITECTURES:
        _train_folder(context)
        return
    if teacher is not None:
        raise YoloquantError("--teacher is for quantized folders: with --distill a float detector teaches what it becomes")
    if not evaluate:
        raise YoloquantError("--no-evaluate is for quantized folders: a float detector is kept by its mAP, see --evaluate-every")
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


# Options of `train` -> settings of the recipe's step.
_STEP_SETTINGS = {
    "epochs": "epochs",
    "batch": "batch_size",
    "image_size": "size",
    "seed": "seed",
    "clip": "gradient_clip",
    "amp": "amp",
}


def _train_folder(context: typer.Context) -> None:
    from yoloquant.quantized_training import train_folder

    options = context.params
    given = {name for name in options if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    usable = {"model", "data", "output", "device", "teacher", "evaluate", "overrides", *_STEP_SETTINGS}
    unusable = sorted(f"--{name.replace('_', '-')}" for name in given - usable)
    if unusable:
        raise YoloquantError(
            f"{', '.join(unusable)}: for float training alone; {options['model']} is a quantized folder: change its training "
            "with --set, and give the same command again to go on with an interrupted run"
        )
    result = train_folder(
        options["model"],
        options["data"],
        options["output"],
        teacher=options["teacher"],
        settings={_STEP_SETTINGS[name]: options[name] for name in given & set(_STEP_SETTINGS)},
        overrides=options["overrides"] or (),
        measure=options["evaluate"],
        device=options["device"],
        reporter=RichReporter(),
    )
    _tell_result(result, options["output"])


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
    from yoloquant.export.calibration_cache import write_calibration_cache
    from yoloquant.export.nms import NmsOptions, add_nms_to_file
    from yoloquant.export.onnx_file import export_onnx
    from yoloquant.export.quantized_folder import load_quantized, recipe_of
    from yoloquant.models.branches import check_branch, choose_branch
    from yoloquant.outputs import refuse_inputs, reserved
    from yoloquant.writing import checked_file, replaced_whole

    checked_file(output)
    refuse_inputs([output, calibration_cache], [model])
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
        target = recipe_of(model).target if model.is_dir() else "float"
        export_onnx(detector, file, target=target, input_size=size, dynamic_batch=dynamic_batch, opset=opset)
        if nms:
            options = NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic)
            add_nms_to_file(file, options, tensorrt=target == "tensorrt")
        if calibration_cache is not None:
            write_calibration_cache(file, file, calibration_cache)
    tell_branch(detector.head.branch)
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
    from yoloquant.data.images import read_image
    from yoloquant.data.sample import readable_sample, source_images, write_image_list
    from yoloquant.outputs import refuse_images, refuse_inputs
    from yoloquant.writing import checked_file

    checked_file(output)
    refuse_inputs([output], [data])
    source = source_images(data)
    refuse_inputs([output], source.files)
    refuse_images([output], source.images)
    entries, skipped = readable_sample(source.images, count, seed, read_image)
    write_image_list(entries, output)
    for sentence in (*source.problem_sentences(), *(f"skipped: {image}" for image in skipped)):
        OUT.print(sentence, markup=False)
    OUT.print(f"{len(entries)} images written to {output}", markup=False)


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

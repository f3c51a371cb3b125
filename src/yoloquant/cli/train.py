"""`yoloquant train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import ImageSize, app
from yoloquant.cli.results import tell_result
from yoloquant.errors import YoloquantError


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
        int,
        typer.Option(
            "--batch",
            "--batch-size",
            min=1,
            help="Images in a batch, of all processes together; 8 by default for a quantized folder.",
        ),
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
    from yoloquant.flows.train import TrainingOptions
    from yoloquant.flows.train import train as run
    from yoloquant.models.registry import ARCHITECTURES

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
    from yoloquant.flows.finetune import finetune

    options = context.params
    given = {name for name in options if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"}
    usable = {"model", "data", "output", "device", "teacher", "evaluate", "overrides", *_STEP_SETTINGS}
    unusable = sorted(f"--{name.replace('_', '-')}" for name in given - usable)
    if unusable:
        raise YoloquantError(
            f"{', '.join(unusable)}: for float training alone; {options['model']} is a quantized folder: change its training "
            "with --set, and give the same command again to go on with an interrupted run"
        )
    result = finetune(
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
    tell_result(result, options["output"])

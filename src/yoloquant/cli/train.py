"""`yoloquant train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.ending import stays
from yoloquant.cli.options import Device, ImageSize, Json, command
from yoloquant.cli.results import tell_figures, tell_next


@command(example="yoloquant train yolov8n.pt --data data.yaml --epochs 50 --output run")
def train(
    model: Annotated[str, typer.Argument(help="Checkpoint, or random weights: yolov5n, yolov6n, yolov7-tiny, yolov8n, ...")],
    data: Annotated[Path, typer.Option(help="data.yaml with a train and a val split.")],
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("run"),
    epochs: Annotated[int, typer.Option(min=1, help="In all.")] = 100,
    batch: Annotated[
        int, typer.Option("--batch", "--batch-size", min=1, help="Images in a batch, of all processes together.")
    ] = 16,
    image_size: ImageSize = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Hyperparameter, as lr0=0.01; repeatable."),
    ] = None,
    cosine: Annotated[bool, typer.Option(help="Let the learning rate fall in a cosine.")] = False,
    patience: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs without a better mAP after which the run ends.")
    ] = None,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Epochs between evaluations.")] = 1,
    clip: Annotated[float, typer.Option(min=0.0, help="Largest norm of the gradient.")] = 10.0,
    amp: Annotated[bool, typer.Option(help="Mixed precision: fp16 on CUDA, bf16 on a CPU.")] = False,
    activation: Annotated[str | None, typer.Option(help="Swap activations: relu, relu6, hardswish, leaky_relu, silu.")] = None,
    distill: Annotated[bool, typer.Option(help="Distil from the initial detector.")] = False,
    resume: Annotated[bool, typer.Option(help="Go on with the run in the folder.")] = False,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    device: Device = "cpu",
    tensorboard: Annotated[bool, typer.Option(help="Write TensorBoard's event files, too.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read and augment images.")] = 2,
    as_json: Json = False,
) -> None:
    """Train a float detector, and keep the best by mAP50-95. Quantized folders train on by `yoloquant finetune`."""
    from yoloquant.flows.train import TrainingOptions
    from yoloquant.flows.train import train as run

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
    stays(f"finished epochs stay in {output}: --resume goes on with them")
    result = run(model, data, output, options, resume=resume, reporter=RichReporter())
    if result.path is not None:
        OUT.print(f"best mAP50-95 {result.map50_95:.2f} in epoch {result.epoch + 1}, written to {result.path}", markup=False)
        tell_next("quantize", result.path, "--data", data)
    tell_figures(result.to_dict(), as_json)

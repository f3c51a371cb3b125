"""`yoloquant finetune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import RichReporter
from yoloquant.cli.ending import stays
from yoloquant.cli.options import Device, ImageSize, Json, command
from yoloquant.cli.results import tell_next, tell_result


@command(example="yoloquant finetune out --data data.yaml --teacher yolov8n.pt --output out-trained")
def finetune(
    model: Annotated[Path, typer.Argument(help="Folder that `yoloquant quantize` or this command wrote.")],
    data: Annotated[Path, typer.Option(help="data.yaml, COCO JSON, or with --teacher any folder or list of images.")],
    output: Annotated[Path, typer.Option(help="Folder to write; an interrupted run goes on.")] = Path("run"),
    teacher: Annotated[
        Path | None, typer.Option(help="The float checkpoint that the folder was made from; labels teach without it.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="In all; 8 by default.")] = None,
    batch: Annotated[
        int | None,
        typer.Option("--batch", "--batch-size", min=1, help="Images in a batch, of all processes together; 8 by default."),
    ] = None,
    image_size: ImageSize = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Setting of the recipe's step `train` or hyperparameter, as learning_rate=0.0001; repeatable."
        ),
    ] = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate and time what the folder becomes.")] = True,
    clip: Annotated[float | None, typer.Option(min=0.0, help="Largest norm of the gradient; 10 by default.")] = None,
    amp: Annotated[bool | None, typer.Option(help="Mixed precision: bf16.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order and augmentation; 0 by default.")] = None,
    device: Device = "cpu",
    as_json: Json = False,
) -> None:
    """Train a quantized folder further, with the float network as teacher or with labels, and write the result as a folder."""
    from yoloquant.files.reading import parse_setting
    from yoloquant.flows.finetune import finetune as run
    from yoloquant.flows.options import Measure

    changed = dict(parse_setting(override, "learning_rate=0.0001") for override in overrides or ())
    settings = {
        "epochs": epochs,
        "batch_size": batch,
        "crop_size": image_size,
        "seed": seed,
        "gradient_clip": clip,
        "amp": amp,
    }
    stays(f"what was trained stays in {output}.partial: the same command goes on with it")
    result = run(
        model,
        data,
        output,
        teacher=teacher,
        # What is not given stays as the recipe's step has it; what is set by its own name wins.
        settings={**{name: value for name, value in settings.items() if value is not None}, **changed},
        measure=Measure(evaluate=evaluate),
        device=device,
        reporter=RichReporter(),
    )
    tell_result(result, output, as_json)
    tell_next("compare", model, output, "--output", "compare.html")

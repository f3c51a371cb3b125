"""`yoloquant predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import Branch, Confidence, Iou, Model, Pixels, RuntimeName, app, preprocessing


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
    from yoloquant.flows.predict import predict as run

    pictures = run(
        model,
        images,
        output,
        compare=compare,
        runtime=runtime,
        confidence=confidence,
        iou=iou,
        preprocessing=preprocessing(pixels),
        branch=branch,
        reporter=RichReporter(),
    )
    for path, detections in pictures:
        OUT.print(f"{path}: {len(detections)} objects", markup=False)

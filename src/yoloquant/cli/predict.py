"""`yoloquant predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT
from yoloquant.cli.options import Branch, Confidence, Iou, Model, Pixels, RuntimeName, app, preprocessing, tell_branch


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
    from yoloquant.runtime.open import open_model

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

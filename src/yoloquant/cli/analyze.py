"""`yoloquant analyze`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.ending import stays
from yoloquant.cli.options import (
    Annotations,
    Branch,
    Calibration,
    Checkpoint,
    Data,
    ImageSize,
    Json,
    Plots,
    Set,
    TargetName,
    command,
    opened,
)
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


@command(example="yoloquant analyze yolov8n.pt --data data.yaml --output analysis")
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
    fast: Annotated[
        int | None, typer.Option("--limit", "--fast", min=1, help="For map: maximum number of images of the val split.")
    ] = None,
    calibration: Calibration = None,
    annotations: Annotations = None,
    image_size: ImageSize = None,
    branch: Branch = None,
    top: Annotated[int, typer.Option(min=1, help="Layers to show.")] = 15,
    plots: Plots = None,
    as_json: Json = False,
) -> None:
    """Show what each layer's quantization costs, and what to do about it."""
    from yoloquant.data.source import Source
    from yoloquant.flows.analyze import AnalysisOptions
    from yoloquant.flows.analyze import analyze as run
    from yoloquant.recipe.recipe import load_recipe

    stays(f"what was measured stays in {output}: the same command goes on with it")
    found = run(
        opened(model, branch=branch, image_size=image_size),
        Source(data, calibration, annotations),
        AnalysisOptions(measure=measure, mode=mode, images=images, fast=fast),  # type: ignore[arg-type]
        target=target,
        recipe=load_recipe(recipe, overrides or ()),
        output=output,
        plots=plots,
        reporter=RichReporter(),
    )
    OUT.print(on_screen(found.table(top)))
    for sentence in found.advice[:top]:
        OUT.print(sentence, markup=False)
    OUT.print(f"written to {output}: analysis.html, analysis.json, sensitivity.csv, statistics.csv", markup=False)
    tell_figures(found.to_dict(), as_json)
    tell_next("quantize", model, "--data", data, "--analysis", output)

"""`yoloquant search`."""

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
    Set,
    TargetName,
    command,
    opened,
)
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


@command(example="yoloquant search yolov8n.pt --data data.yaml --max-drop 0.5 --output found.yaml")
def search(
    model: Checkpoint,
    data: Data,
    max_drop: Annotated[float | None, typer.Option(min=0.0, help="mAP50-95 that may be lost, percent points.")] = None,
    target_map: Annotated[float | None, typer.Option(min=0.0, help="mAP50-95 to reach, percent.")] = None,
    raise_bits: Annotated[int | None, typer.Option(help="Number of weight bits for these layers, instead of float.")] = None,
    optimize_latency: Annotated[
        bool, typer.Option("--optimize-latency", help="Choose layers by error mended per millisecond lost on this machine.")
    ] = False,
    target: TargetName = None,
    recipe: Annotated[str, typer.Option(help="Preset or YAML file to start from.")] = "int8-mse",
    output: Annotated[Path, typer.Option(help="Recipe to write; the curve stands beside it.")] = Path("found.yaml"),
    model_folder: Annotated[Path | None, typer.Option("--model", help="Also write the quantized folder of the recipe.")] = None,
    overrides: Set = None,
    calibration: Calibration = None,
    annotations: Annotations = None,
    image_size: ImageSize = None,
    branch: Branch = None,
    as_json: Json = False,
) -> None:
    """Find the fewest layers in float that keep an accuracy, and write the recipe."""
    from yoloquant.data.source import Source
    from yoloquant.files.outputs import refuse_inputs
    from yoloquant.flows.finish import checked_output
    from yoloquant.flows.save import save
    from yoloquant.flows.search import search as run
    from yoloquant.recipe.recipe import file_of, load_recipe

    source, start = Source(data, calibration, annotations), load_recipe(recipe, overrides or ())
    # Told before the search, which is long, and not behind it.
    checked_output(model_folder)
    refuse_inputs([output, model_folder], [model, *source.files, file_of(start)])
    stays(f"what was measured stays beside {output}: the same command goes on with it")
    found = run(
        opened(model, branch=branch, image_size=image_size),
        source,
        max_drop=max_drop,
        target_map=target_map,
        raise_bits=raise_bits,
        optimize_latency=optimize_latency,
        target=target,
        recipe=start,
        output=output,
        reporter=RichReporter(),
    )
    change = "in float" if raise_bits is None else f"at {raise_bits} bit"
    OUT.print(on_screen(found.table()))
    OUT.print(f"{len(found.layers)} layers {change}: {', '.join(found.layers) or 'none'}", markup=False)
    reached = f"{found.found_map:.2f} of the float model's {found.float_map:.2f} mAP50-95"
    OUT.print(f"{reached}, in {found.evaluations} evaluations", markup=False)
    if model_folder is not None:
        save(found, model_folder, reporter=RichReporter())
        OUT.print(f"the model is in {model_folder}", markup=False)
    OUT.print(f"written to {output} and {output.with_suffix('.html')}", markup=False)
    tell_figures(found.to_dict(), as_json)
    tell_next("quantize", model, "--data", data, "--recipe", output)

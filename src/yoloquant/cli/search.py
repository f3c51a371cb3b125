"""`yoloquant search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import Annotations, Branch, Checkpoint, Data, Set, TargetName, app
from yoloquant.errors import YoloquantError


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
    branch: Branch = None,
) -> None:
    """Find the fewest layers in float that keep an accuracy, and write the recipe."""
    from yoloquant.cli.tables import search_table
    from yoloquant.files.outputs import refuse_inputs, reserved
    from yoloquant.files.writing import checked_file, write_text
    from yoloquant.flows.deliver import checked_output
    from yoloquant.flows.search import deliver_found
    from yoloquant.flows.search import search as run
    from yoloquant.recipe.recipe import file_of
    from yoloquant.report.search_page import write_search_page

    page = output.with_suffix(".html")
    if page == output:
        raise YoloquantError(f"{output} is the name of the curve's page: give the recipe's, as {output.with_suffix('.yaml')}")
    for path in (output, page):
        checked_file(path)
    checked_output(model_folder)
    record = output.with_suffix(".search.json")
    refuse_inputs([output, page, record, model_folder], [model, data, file_of(recipe), calibration, annotations])
    with reserved(output):
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
            branch=branch,
            record=record,
            reporter=RichReporter(),
        )
        write_text(output, found.recipe.to_yaml())
        write_search_page(found, page)
    change = "in float" if raise_bits is None else f"at {raise_bits} bit"
    OUT.print(search_table(found))
    OUT.print(f"{len(found.layers)} layers {change}: {', '.join(found.layers) or 'none'}", markup=False)
    reached = f"{found.found_map:.2f} of the float model's {found.float_map:.2f} mAP50-95"
    OUT.print(f"{reached}, in {found.evaluations} evaluations", markup=False)
    if model_folder is not None:
        deliver_found(found, model, data, model_folder, calibration=calibration, annotations=annotations, branch=branch)
        OUT.print(f"the model is in {model_folder}", markup=False)
    how = f": `yoloquant quantize ... --recipe {output}` makes the model" if model_folder is None else ""
    OUT.print(f"written to {output} and {page}{how}", markup=False)

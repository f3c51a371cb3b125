"""Commands that find what is wrong and what would be better."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.options import Annotations, Branch, Checkpoint, Data, Plots, Set, TargetName, app, save_plots
from yoloquant.console import OUT, RichReporter
from yoloquant.errors import YoloquantError


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
    branch: Branch = None,
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
        branch=branch,
        reporter=RichReporter(),
    )
    OUT.print(sensitivity_table(found, top))
    for sentence in found.advice[:top]:
        OUT.print(sentence, markup=False)
    OUT.print(f"written to {output}: analysis.html, analysis.json, sensitivity.csv, statistics.csv", markup=False)
    save_plots(analysis_charts(found), output / "plots", plots)


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
    from yoloquant.finishing import checked_output
    from yoloquant.outputs import refuse_inputs, reserved
    from yoloquant.pipeline import quantize
    from yoloquant.recipe import file_of
    from yoloquant.report.search_page import write_search_page
    from yoloquant.report.tables import search_table
    from yoloquant.search import search as run
    from yoloquant.writing import checked_file, write_text

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
        quantize(
            model, data, recipe=found.recipe, output=model_folder, calibration=calibration, annotations=annotations, branch=branch
        )
        OUT.print(f"the model is in {model_folder}", markup=False)
    how = f": `yoloquant quantize ... --recipe {output}` makes the model" if model_folder is None else ""
    OUT.print(f"written to {output} and {page}{how}", markup=False)


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
    from yoloquant.checkpoint.onnx_checks import open_detector_file
    from yoloquant.outputs import refuse_inputs
    from yoloquant.report.tables import findings_table
    from yoloquant.targets.registry import get_target
    from yoloquant.writing import checked_file, replaced_whole

    if fix is not None:
        checked_file(fix)
        refuse_inputs([fix], [file])
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
        mended, done = repair(open_detector_file(file), get_target(target))
        onnx.checker.check_model(mended)
        with replaced_whole(fix) as partial:
            onnx.save(mended, str(partial))
        OUT.print(f"{len(done)} of {len(result.findings)} findings mended, written to {fix}", markup=False)
    if result.findings:
        raise typer.Exit(1)

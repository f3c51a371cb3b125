"""`yoloquant quantize`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import RichReporter
from yoloquant.cli.ending import stays
from yoloquant.cli.options import (
    Annotations,
    Branch,
    Calibration,
    Checkpoint,
    Device,
    Formats,
    ImageSize,
    Json,
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
    command,
    opened,
)
from yoloquant.cli.results import tell_next, tell_result


@command(example="yoloquant quantize yolov8n.pt --data data.yaml --target openvino --output out")
def quantize(
    model: Checkpoint,
    data: Annotated[
        Path | None, typer.Option(help="data.yaml or COCO JSON; not needed where --calibration names images.")
    ] = None,
    target: TargetName = None,
    recipe: Annotated[str, typer.Option(help="Preset or YAML file; see `yoloquant recipes`.")] = "int8",
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("out"),
    overrides: Set = None,
    calibration: Calibration = None,
    annotations: Annotations = None,
    evaluate: Annotated[bool, typer.Option(help="Evaluate and time float and quantized models.")] = True,
    limit: Limit = None,
    image_size: ImageSize = None,
    pixels: Pixels = None,
    branch: Branch = None,
    device: Device = "cpu",
    nms: Nms = False,
    nms_confidence: NmsConfidence = 0.25,
    nms_iou: NmsIou = 0.45,
    nms_max: NmsMost = 300,
    nms_agnostic: NmsAgnostic = False,
    formats: Formats = None,
    report: Annotated[bool, typer.Option(help="Write report.html and the figures of every layer.")] = True,
    analysis: Annotated[Path | None, typer.Option(help="Folder of `yoloquant analyze`, for the report.")] = None,
    plots: Plots = None,
    as_json: Json = False,
) -> None:
    """Quantize a detector, export it to ONNX, verify the file, and show what it cost."""
    from yoloquant.data.source import Source
    from yoloquant.exporting.nms import NmsOptions
    from yoloquant.flows.options import Measure, Output, Report
    from yoloquant.flows.quantize import quantize as run
    from yoloquant.recipe.recipe import load_recipe

    suppression = NmsOptions(nms_confidence, nms_iou, nms_max, nms_agnostic) if nms else None
    stays(f"what was learned stays in {output}.partial: the same command goes on with it")
    result = run(
        opened(model, pixels=pixels, branch=branch, image_size=image_size),
        Source(data, calibration, annotations),
        target=target,
        recipe=load_recipe(recipe, overrides or ()),
        output=Output(output, suppression, tuple(formats or ())),
        measure=Measure(evaluate=evaluate, limit=limit),
        report=Report(plots=plots, analysis=analysis) if report else None,
        device=device,
        reporter=RichReporter(),
    )
    tell_result(result, output, as_json)
    tell_next(*_next(result.recipe.target, output, formats or ()))


def _next(target: str, output: Path, written: Sequence[str]) -> tuple[str | Path, ...]:
    """The file that the target's runtime takes, where it is a format of its own; otherwise a look at what the model sees."""
    from yoloquant.exporting.formats.registry import FORMATS

    own = [name for name, known in FORMATS.items() if target in known.targets and name not in written]
    return ("deliver", output, "--format", own[0]) if own else ("predict", output, "pictures/")

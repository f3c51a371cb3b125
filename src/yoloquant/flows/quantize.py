"""The flow behind `yoloquant quantize`: read, place, calibrate, learn; `finish` has the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yoloquant.checkpoint.open import file_of_model, to_detector
from yoloquant.data.source import Source
from yoloquant.distributed import checked_device, process_group, process_number
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.flows.commands import commands_of_quantize
from yoloquant.flows.finish import FolderPlan, checked_output, checked_report, finish, partial_folder
from yoloquant.flows.job import begin, follow, tell_branch
from yoloquant.flows.measure import dataset_to_evaluate
from yoloquant.flows.options import MEASURE, REPORT, Measure, Output, Report
from yoloquant.flows.write_formats import check_formats
from yoloquant.models.detector import Detector
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.recipe.recipe import Recipe, file_of, resolve_recipe
from yoloquant.results.quantization import Quantization
from yoloquant.targets.registry import get_target


def quantize(
    model: str | Path | Detector | Any,
    source: str | Path | Source | None = None,
    *,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    output: str | Path | Output | None = None,
    measure: Measure = MEASURE,
    report: Report | None = REPORT,
    device: str = "cpu",
    reporter: Reporter | None = None,
) -> Quantization:
    """Quantize a detector, export it, verify the file, and measure what it cost.

    Under `torchrun` the processes share training and evaluation, and the first one writes.

    Args:
        model: Checkpoint or ONNX file, a `Detector` (`yoloquant.load` chooses branch, size and images), or an object of an
            original repository (`ultralytics.YOLO("x.pt")`).
        source: `data.yaml` or COCO JSON, whose train split calibrates and whose val split evaluates; `Source` names others.
        target: Deployment target; the recipe's own by default.
        recipe: Preset name, YAML file or `Recipe` (`yoloquant.load_recipe` changes one); the preset `int8` by default.
        output: Folder to write; it must not exist, or be one that was written so. Without it nothing is written, and
            `yoloquant.save` can write the result later. `Output` also puts suppression into its file, and writes
            further formats.
        measure: What is evaluated and timed; everything by default, which needs labels.
        report: What the report shows, with figures of layers and tensors; none for no report.
        device: Device of the steps that learn: `cpu`, `cuda`, `cuda:1`.
        reporter: Receives progress.

    Returns:
        The quantized detector and all figures.

    Raises:
        YoloquantError: Something given cannot be used, or the exported file is not right in the target's runtime.
    """
    tell, from_files, written = reporter or Silent(), Source.of(source), Output.of(output)
    folder = checked_output(written.folder)
    inputs = [file_of_model(model), *from_files.files, file_of(recipe), report.analysis if report else None]
    refuse_inputs([folder], inputs)
    settings = resolve_recipe(recipe, target)
    if target is not None and settings.written_for is not None:
        tell.note(
            f"recipe {settings.read_from} is written for {settings.written_for}: {target} places quantizers by other rules, "
            "and figures will differ"
        )
    analysis = checked_report(report)
    get_target(settings.target)
    check_formats(written.formats, settings.target)
    checked_device(device)
    detector = to_detector(model)
    tell_branch(detector, tell)
    images = images_to_calibrate(settings.calibration, from_files.data, from_files.calibration)
    dataset = dataset_to_evaluate(from_files, detector.names, measure)
    for sentence in (*images.problems, *(dataset.problem_sentences() if dataset else ())):
        tell.note(sentence)
    wanted = FolderPlan(
        folder=folder,
        nms=written.nms,
        recipe=settings,
        source=from_files,
        dataset=dataset,
        measure=measure,
        formats=written.formats,
        report=report,
        analysis=analysis,
        commands=commands_of_quantize(detector.origin, settings, written.folder, from_files, measure.limit),
    )
    with reserved(folder), process_group(device) as own_device:
        own_tell = tell if process_number() == 0 else Silent()
        partial = None if folder is None else partial_folder(folder)
        job = begin(detector, settings, images, own_tell, device=own_device, partial=partial)
        return finish(follow(settings, job), wanted)

"""The flow behind `save`: a quantized detector that is in memory becomes a folder, verified, measured and reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from yoloquant.algorithms.job import Job
from yoloquant.checkpoint.open import file_of_model
from yoloquant.data.source import Source
from yoloquant.distributed import process_group
from yoloquant.errors import YoloquantError
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.flows.commands import commands_of_quantize
from yoloquant.flows.finish import FolderPlan, checked_output, checked_report, finish
from yoloquant.flows.measure import dataset_to_evaluate
from yoloquant.flows.options import MEASURE, REPORT, Measure, Output, Report
from yoloquant.flows.write_formats import check_formats
from yoloquant.graph.capture import copy_graph
from yoloquant.progress import Clock, Reporter, Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import Recipe, file_of, resolve_recipe
from yoloquant.results.quantization import Quantization
from yoloquant.results.search import Search


def save(
    made: Quantization | Search | QuantizedDetector,
    output: str | Path | Output,
    source: str | Path | Source | None = None,
    *,
    recipe: str | Path | Recipe | None = None,
    measure: Measure | None = None,
    report: Report | None = REPORT,
    reporter: Reporter | None = None,
) -> Quantization:
    """Export a quantized detector that is in memory, verify the file, measure it, and write all as a folder.

    Args:
        made: What `quantize` made without an output, what `search` found, or a quantized detector.
        output: Folder to write; `Output` also puts suppression into its file, and writes further formats.
        source: Data set as for `yoloquant.quantize`; by default the one that a result was made with. Its calibration images
            verify the file, its val split is evaluated.
        recipe: Recipe that a quantized detector was made by; results have their own.
        measure: What to measure; by default everything, but nothing again that a result has measured.
        report: What the report shows; none for no report.
        reporter: Receives progress.

    Returns:
        The quantized detector with all figures. The float model is measured beside those that were made in this process.

    Raises:
        YoloquantError: Something given cannot be used, or the exported file is not right in the target's runtime.
    """
    tell, wanted_output = reporter or Silent(), Output.of(output)
    folder = checked_output(wanted_output.folder)
    if folder is None:
        raise YoloquantError("save writes a folder: name it")
    from_files = (None if source is None else Source.of(source)) or getattr(made, "source", None) or Source()
    analysis = checked_report(report)
    refuse_inputs([folder], [*from_files.files, file_of(recipe), report.analysis if report else None])
    job, followed = _job_of(made, from_files, recipe, tell)
    refuse_inputs([folder], [file_of_model(job.detector)])
    rows = made.rows if isinstance(made, Quantization) and measure is None else ()
    asked = replace(measure or MEASURE, evaluate=False) if rows else measure or MEASURE
    check_formats(wanted_output.formats, followed.target)
    wanted = FolderPlan(
        folder=folder,
        nms=wanted_output.nms,
        formats=wanted_output.formats,
        recipe=followed,
        source=from_files,
        dataset=dataset_to_evaluate(from_files, job.detector.names, measure or MEASURE),
        measure=asked,
        rows=rows,
        report=report,
        analysis=analysis,
        commands=commands_of_quantize(job.detector.origin, followed, wanted_output.folder, from_files, asked.limit),
    )
    with reserved(folder), process_group("cpu"):
        return finish(job, wanted)


def _job_of(
    made: Quantization | Search | QuantizedDetector, source: Source, recipe: str | Path | Recipe | None, tell: Reporter
) -> tuple[Job, Recipe]:
    """The job that made a detector, to be taken up again, or one for a detector alone; and the recipe that it followed."""
    if not isinstance(made, QuantizedDetector):
        if recipe is not None:
            raise YoloquantError("a result has the recipe that it was made by: leave the recipe out")
        if made.job is not None:
            job = replace(made.job, reporter=tell, clock=Clock(made.job.clock.seconds))
            job.quantized = made.job.quantized
            return job, made.recipe
    quantized, followed = (made, recipe) if isinstance(made, QuantizedDetector) else (made.detector, made.recipe)
    if followed is None:
        raise YoloquantError("a quantized detector does not know its recipe, which names the target: give it as recipe")
    if quantized.detector is None:
        raise YoloquantError("this quantized detector does not hold its architecture: load its folder, or quantize again")
    rules = resolve_recipe(followed)
    job = Job(
        detector=quantized.detector,
        reference=copy_graph(quantized.network),
        rules=rules,
        images=images_to_calibrate(rules.calibration, source.data, source.calibration),
        reporter=tell,
        has_float=False,
        reference_matches=False,
    )
    job.quantized = quantized
    return job, rules

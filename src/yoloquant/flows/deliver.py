"""The flow behind `deliver`: a quantized detector is exported, verified, measured, reported, and written as a folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path

from yoloquant.algorithms.job import Job
from yoloquant.algorithms.reconstruction.checkpoints import is_state
from yoloquant.checkpoint.open import file_of_model
from yoloquant.data.dataset import DetectionDataset
from yoloquant.data.source import Source
from yoloquant.distributed import process_group, process_number
from yoloquant.errors import YoloquantError
from yoloquant.exporting.folder import FILES, MODEL, RECIPE, WEIGHTS, save_quantized
from yoloquant.exporting.nms import NmsOptions, add_nms_to_file
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.files.outputs import put_in_place, refuse_inputs, reserved, working_folder
from yoloquant.files.writing import checked_replaceable_folder
from yoloquant.flows.add_report import add_report, write_metrics
from yoloquant.flows.commands import commands_of_quantize
from yoloquant.flows.measure import dataset_to_evaluate, installed, integer_notes, measured, verified
from yoloquant.flows.options import MEASURE, REPORT, Measure, Output, Report
from yoloquant.graph.capture import copy_graph
from yoloquant.progress import Clock, Reporter, Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.quant.quantized_detector import QuantizedDetector, quantized_layer_count
from yoloquant.recipe.recipe import Recipe, file_of, resolve_recipe
from yoloquant.report.formats import check_format
from yoloquant.results.analysis import Analysis
from yoloquant.results.quantization import Quantization, Row
from yoloquant.results.search import Search
from yoloquant.runtime.executed_layers import executed_where_installed


def deliver(
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
        output: Folder to write; `Output` also puts suppression into its file.
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
        raise YoloquantError("deliver writes a folder: name it")
    from_files = (None if source is None else Source.of(source)) or getattr(made, "source", None) or Source()
    analysis = checked_report(report)
    refuse_inputs([folder], [*from_files.files, file_of(recipe), report.analysis if report else None])
    job, followed = _job_of(made, from_files, recipe, tell)
    refuse_inputs([folder], [file_of_model(job.detector)])
    rows = made.rows if isinstance(made, Quantization) and measure is None else ()
    asked = replace(measure or MEASURE, evaluate=False) if rows else measure or MEASURE
    wanted = Delivery(
        folder=folder,
        nms=wanted_output.nms,
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


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What to do with a quantized detector, checked.

    Attributes:
        folder: to write; none for nothing.
        nms: puts suppression into the file.
        recipe: that was followed.
        source: of images and ground truth.
        dataset: to evaluate on, and for photographs of the report.
        measure: what is measured.
        rows: that were measured before.
        report: what the report shows; none for no report.
        analysis: that the report shows.
        commands: that the report names, where it is not told others.
    """

    folder: Path | None
    nms: NmsOptions | None = None
    recipe: Recipe
    source: Source
    dataset: DetectionDataset | None = None
    measure: Measure = MEASURE
    rows: tuple[Row, ...] = ()
    report: Report | None = REPORT
    analysis: Analysis | None = None
    commands: tuple[str, ...] = ()


def checked_report(report: Report | None) -> Analysis | None:
    """The analysis that a report shows.

    Raises:
        YoloquantError: There is none, or charts are asked for in an unknown format.
    """
    if report is None:
        return None
    check_format(report.plots)
    return None if report.analysis is None else Analysis.load(report.analysis)


def checked_output(output: str | Path | None) -> Path | None:
    """The folder to write; nothing is made yet.

    Raises:
        YoloquantError: it holds something else than an earlier output, or cannot be made.
    """
    if output is None:
        return None
    folder = checked_replaceable_folder(output, WEIGHTS, FILES, "an earlier output to replace")
    partial = partial_folder(folder)
    others = [entry.name for entry in partial.iterdir() if not is_state(entry)] if partial.is_dir() else []
    if others or (partial.exists() and not partial.is_dir()):
        reason = f"holds {others[0]}" if others else "is a file"
        raise YoloquantError(f"{partial} is for the state of an interrupted run, and {reason}: move it, or name another output")
    return folder


def partial_folder(folder: Path) -> Path:
    """Where an interrupted run keeps what it has done."""
    return folder.with_name(f"{folder.name}.partial")


def _remove_states(partial: Path) -> None:
    """Remove what interrupted runs kept, and nothing else."""
    for path in filter(is_state, partial.iterdir() if partial.is_dir() else ()):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        partial.rmdir()


def finish(job: Job, wanted: Delivery) -> Quantization:
    """Export, verify, measure and write.

    Of several processes each has files of its own to evaluate its share of the images with; the first one times and writes, and
    the others answer without latency, figures of layers and folder.

    Raises:
        YoloquantError: the exported file is not right in the target's runtime.
    """
    quantized, folder, tell, clock = job.quantized, wanted.folder, job.reporter, job.clock
    target, measure, runtimes = job.target, wanted.measure, installed(wanted.measure.runtimes)
    # Beside the output, so that the finished folder is moved into place in one step; of several processes the first writes it.
    with working_folder(folder if process_number() == 0 else None) as scratch:
        work = scratch / "output"
        work.mkdir()
        # Only measuring compares with the float network's file.
        float_file = scratch / "float.onnx" if job.has_float and measure.evaluate else None
        with tell.step("Export") as update:
            export_onnx(quantized, work / MODEL, target=target.name)
            update(1, 2)
            if float_file is not None:
                export_onnx(job.detector, float_file)
            update(2, 2)
        clock.stop("export")
        parity = verified(job, work / MODEL, runtimes)
        executed = executed_where_installed(work / MODEL, target.name)
        for note in integer_notes(quantized, target, job.layer_count, executed):
            tell.note(note)
        clock.stop("verify")
        settings = wanted.recipe.evaluation.settings(measure.limit)
        new = measured(job, float_file, work / MODEL, runtimes, wanted.dataset, settings) if measure.evaluate else ()
        clock.stop("measure")
        if wanted.nms is not None:
            add_nms_to_file(work / MODEL, wanted.nms, tensorrt=target.nms == "tensorrt")
        report = wanted.report
        result = Quantization(
            detector=quantized,
            recipe=wanted.recipe,
            rows=wanted.rows or new,
            parity=tuple(parity),
            calibration_count=len(job.images.calibration),
            quantized_layers=quantized_layer_count(quantized),
            layer_count=job.layer_count,
            seconds=clock.seconds,
            output=folder if process_number() == 0 else None,
            commands=wanted.commands if report is None or report.commands is None else report.commands,
            analysis=wanted.analysis,
            executed=executed,
            job=job,
            source=wanted.source,
        )
        if result.output is not None:
            _complete(result, job, work)
    if result.output is not None and report is not None:
        images, plots = job.images.calibration, report.plots
        result = add_report(result, job.float_weights, images, wanted.dataset, plots, tell, clock)
    return result


def _complete(result: Quantization, job: Job, work: Path) -> None:
    """Complete the folder `work`, which holds the verified file, and move it into place."""
    assert result.output is not None
    save_quantized(result.detector, job.detector, work / WEIGHTS)
    (work / RECIPE).write_text(result.recipe.to_yaml(), encoding="utf-8")
    write_metrics(result, work)
    left = put_in_place(work, result.output)
    if left is not None:
        job.reporter.note(left)
    _remove_states(partial_folder(result.output))

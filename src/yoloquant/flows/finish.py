"""What ends every flow that quantizes: the detector is exported, verified, measured, reported, and written as a folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from yoloquant.algorithms.job import Job
from yoloquant.algorithms.reconstruction.checkpoints import is_state
from yoloquant.data.dataset import DetectionDataset
from yoloquant.data.source import Source
from yoloquant.distributed import process_number
from yoloquant.errors import YoloquantError
from yoloquant.exporting.folder import FILES, MODEL, RECIPE, WEIGHTS, save_quantized
from yoloquant.exporting.nms import NmsOptions, add_nms_to_file
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.files.outputs import put_in_place, working_folder
from yoloquant.files.writing import checked_replaceable_folder
from yoloquant.flows.add_report import add_report, write_metrics
from yoloquant.flows.measure import installed, integer_notes, measured, parity_images, verified
from yoloquant.flows.options import MEASURE, REPORT, Measure, Report
from yoloquant.flows.write_formats import add_formats
from yoloquant.quant.quantized_detector import quantized_layer_count
from yoloquant.recipe.recipe import Recipe
from yoloquant.report.formats import check_format
from yoloquant.results.analysis import Analysis
from yoloquant.results.quantization import Quantization, Row
from yoloquant.runtime.executed_layers import executed_where_installed


@dataclass(frozen=True, kw_only=True)
class FolderPlan:
    """What becomes of a quantized detector, checked.

    Attributes:
        folder: Folder to write; None for nothing.
        nms: Options of suppression in the ONNX file; None for none.
        formats: Further files to write into the folder, by the names of their formats.
        recipe: Recipe that was followed.
        source: Source of images and ground truth.
        dataset: Data set to evaluate on, and for photographs of the report.
        measure: Measurements to take.
        rows: Rows that were measured before.
        report: Contents of the report; None for no report.
        analysis: Analysis that the report shows.
        commands: Commands that the report shows by default.
    """

    folder: Path | None
    nms: NmsOptions | None = None
    formats: tuple[str, ...] = ()
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
        YoloquantError: It holds something else than an earlier output, or cannot be made.
    """
    if output is None:
        return None
    folder = checked_replaceable_folder(output, WEIGHTS, FILES, "an earlier output to replace")
    states = partial_folder(folder)
    others = [entry.name for entry in states.iterdir() if not is_state(entry)] if states.is_dir() else []
    if others or (states.exists() and not states.is_dir()):
        reason = f"holds {others[0]}" if others else "is a file"
        raise YoloquantError(f"{states} is for the state of an interrupted run, and {reason}: move it, or name another output")
    return folder


def partial_folder(folder: Path) -> Path:
    """Where an interrupted run keeps what it has done."""
    return folder.with_name(f"{folder.name}.partial")


def _remove_states(states: Path) -> None:
    """Remove what interrupted runs kept, and nothing else."""
    for path in filter(is_state, states.iterdir() if states.is_dir() else ()):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        states.rmdir()


def finish(job: Job, wanted: FolderPlan) -> Quantization:
    """Export, verify, measure and write.

    Of several processes each has files of its own to evaluate its share of the images with; the first one times and writes, and
    the others return results without latency, figures of layers and folder.

    Raises:
        YoloquantError: The exported file is not right in the target's runtime.
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
        if folder is not None and process_number() == 0:
            real_images = partial(parity_images, quantized, job.images.calibration)
            for delivered in add_formats(work, wanted.formats, quantized, target.name, real_images, tell):
                for sentence in delivered.sentences(folder):
                    tell.note(sentence)
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

"""What becomes of a quantized detector: it is exported, verified, measured, reported, and written as a folder."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.algorithms.job import Job
from yoloquant.algorithms.reconstruction.checkpoints import is_state
from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.distributed import process_number
from yoloquant.errors import YoloquantError
from yoloquant.evaluation.evaluator import Evaluation, evaluate
from yoloquant.evaluation.latency import Latency, measure_latency
from yoloquant.evaluation.parity import Parity, binding, check_parity, require_parity
from yoloquant.exporting.folder import FILES, MODEL, RECIPE, WEIGHTS, save_quantized
from yoloquant.exporting.nms import NmsOptions, add_nms_to_file
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.files.outputs import put_in_place, working_folder
from yoloquant.files.writing import checked_replaceable_folder
from yoloquant.flows.add_report import add_report, write_metrics
from yoloquant.flows.deliver_as import PARITY_IMAGES, add_formats
from yoloquant.progress import Reporter
from yoloquant.quant.images import first_images
from yoloquant.quant.quantized_detector import QuantizedDetector, quantized_layer_count
from yoloquant.recipe.recipe import Recipe
from yoloquant.results.quantization import QuantizationResult, Row, precision_label
from yoloquant.runtime.executed_layers import Executed, executed_where_installed
from yoloquant.runtime.registry import RUNTIMES, open_onnx
from yoloquant.runtime.runner import Runner
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.registry import get_target
from yoloquant.targets.target import Target


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """What to do with a quantized detector.

    Attributes:
        folder: to write; none for nothing.
        dataset: to evaluate on.
        measure: evaluate, where there is a data set, and time.
        limit: evaluate only the first so many images.
        runtimes: that verify and measure the file beside torch; all installed ones by default.
        nms: puts suppression into the ONNX file.
        formats: further files to write into the folder, by the names of their formats.
        report: write report.html.
        plots: "png" or "pdf": every chart as a file.
        commands: that the report names.
        analysis: content of analysis.json, for the report.
    """

    folder: Path | None
    dataset: DetectionDataset | None = None
    measure: bool = True
    limit: int | None = None
    runtimes: tuple[str, ...] | None = None
    nms: NmsOptions | None = None
    formats: tuple[str, ...] = ()
    report: bool = True
    plots: str | None = None
    commands: tuple[str, ...] = ()
    analysis: dict[str, Any] | None = None


def checked_output(output: str | Path | None) -> Path | None:
    """The folder to write; nothing is made yet.

    Raises:
        YoloquantError: it holds something else than an earlier output, or cannot be made.
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


def _remove_states(folder: Path) -> None:
    """Remove what interrupted runs kept, and nothing else."""
    for path in filter(is_state, folder.iterdir() if folder.is_dir() else ()):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def deliver(job: Job, recipe: Recipe, wanted: Delivery) -> QuantizationResult:
    """Export, verify, measure and write.

    Of several processes each has files of its own to evaluate its share of the images with; the first one times and writes, and
    the others answer without latency, figures of layers and folder.

    Raises:
        YoloquantError: the exported file is not right in the target's runtime.
    """
    quantized, folder, tell, clock = job.quantized, wanted.folder, job.reporter, job.clock
    target, runtimes = get_target(recipe.target), installed(wanted.runtimes)
    # Beside the output, so that the finished folder is moved into place in one step; of several processes the first writes it.
    with working_folder(folder if process_number() == 0 else None) as scratch:
        work = scratch / "output"
        work.mkdir()
        # Only measuring compares with the float network's file.
        float_file = scratch / "float.onnx" if job.has_float and wanted.measure else None
        with tell.step("Export") as update:
            export_onnx(quantized, work / MODEL, target=target.name)
            update(1, 2)
            if float_file is not None:
                export_onnx(job.detector, float_file)
            update(2, 2)
        clock.stop("export")
        parity = _verify(quantized, work / MODEL, job.images.calibration, target, runtimes, tell)
        executed = executed_where_installed(work / MODEL, target.name)
        for note in integer_notes(quantized, target, job.layer_count, executed):
            tell.note(note)
        clock.stop("verify")
        rows = _measure(job, recipe, wanted, float_file, work / MODEL, runtimes) if wanted.measure else []
        clock.stop("measure")
        if folder is not None and process_number() == 0:
            images = partial(_parity_images, quantized, job.images.calibration)
            for delivered in add_formats(work, wanted.formats, quantized, target.name, images, tell):
                for sentence in delivered.sentences(folder):
                    tell.note(sentence)
        if wanted.nms is not None:
            add_nms_to_file(work / MODEL, wanted.nms, tensorrt=target.nms == "tensorrt")
        result = QuantizationResult(
            detector=quantized,
            recipe=recipe,
            rows=tuple(rows),
            parity=tuple(parity),
            calibration_count=len(job.images.calibration),
            quantized_layers=quantized_layer_count(quantized),
            layer_count=job.layer_count,
            seconds=clock.seconds,
            output=folder if process_number() == 0 else None,
            commands=wanted.commands,
            analysis=wanted.analysis,
            executed=executed,
        )
        if result.output is not None:
            _complete(result, job, work)
    if result.output is not None and wanted.report:
        result = add_report(result, job.float_weights, job.images.calibration, wanted.dataset, wanted.plots, tell, clock)
    return result


def _complete(result: QuantizationResult, job: Job, work: Path) -> None:
    """Complete the folder `work`, which holds the verified file, and move it into place."""
    assert result.output is not None
    save_quantized(result.detector, job.detector, work / WEIGHTS)
    (work / RECIPE).write_text(result.recipe.to_yaml(), encoding="utf-8")
    write_metrics(result, work)
    left = put_in_place(work, result.output)
    if left is not None:
        job.reporter.note(left)
    _remove_states(partial_folder(result.output))


def installed(names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Those of the runtimes that are installed; all known ones are asked for by default."""
    return tuple(name for name in (RUNTIMES if names is None else names) if RUNTIMES[name].is_installed())


def _parity_images(detector: QuantizedDetector, entries: list[ImageEntry]) -> np.ndarray:
    """Photographs that files are held against torch on, `(N, 3, H, W)` float32, 0..1."""
    return first_images(detector, entries, PARITY_IMAGES).numpy().astype(np.float32) / np.float32(255.0)


def _verify(
    detector: QuantizedDetector,
    path: Path,
    entries: list[ImageEntry],
    target: Target,
    runtimes: tuple[str, ...],
    tell: Reporter,
) -> list[Parity]:
    """Check the file in every installed runtime; the target's own must agree, others are told about."""
    images = _parity_images(detector, entries)
    with tell.step("Verify the exported file") as update:
        results = check_parity(detector, path, images, runtimes)
        update(1, 1)
    require_parity(binding(results, target.name, target.runtimes))
    for result in results:
        if result.saturates:
            tell.note(
                f"this processor saturates sums of 8-bit products in {result.runtime} (it has no VNNI instructions): on such "
                "processors set the session option session.x64quantprecision=1, or quantize with --set weights.bits=7"
            )
        if not result.agrees:
            tell.note(
                f"this file is for {target.name}; {result.runtime} does not run it right "
                f"({result.signal_to_noise:.0f} dB, from {result.first_layer}): for {result.runtime} quantize with its own target"
            )
    return results


def _measure(
    job: Job, recipe: Recipe, wanted: Delivery, float_file: Path | None, file: Path, runtimes: tuple[str, ...]
) -> list[Row]:
    """Evaluate float and quantized models in torch and in the runtimes that run the target's files; time them in its own."""
    quantized, dataset, tell = job.quantized, wanted.dataset, job.reporter
    label = precision_label(quantized)
    runners: dict[tuple[str, str], tuple[Runner, Path | None]] = {}
    if float_file is not None:
        runners["float", "torch"] = (TorchRunner(job.detector), None)
    runners[label, "torch"] = (TorchRunner(quantized), None)
    for name in get_target(recipe.target).runtimes:
        if name in runtimes:
            if float_file is not None:
                runners["float", name] = (open_onnx(float_file, name), float_file)
            runners[label, name] = (open_onnx(file, name), file)
    evaluations: dict[tuple[str, str], Evaluation] = {}
    settings = recipe.evaluation.settings(wanted.limit)
    for key, (runner, _) in runners.items() if dataset is not None else ():
        with tell.step(f"Evaluate {key[0]} in {key[1]}") as update:
            assert dataset is not None
            evaluations[key] = evaluate(runner, dataset, settings, update)
    for sentence in next((evaluation.skipped for evaluation in evaluations.values()), ()):
        tell.note(f"skipped: {sentence}")
    latency: dict[str, Latency] = {}
    # What another runtime takes for a file that is not for it says nothing, and neither do fake quantizers in torch.
    timed = {"/".join(key): runner for key, (runner, _) in runners.items() if key[1] == recipe.target}
    if process_number() == 0 and timed:
        with tell.step("Measure latency") as update:
            latency = measure_latency(timed, progress=update)
    elif process_number() == 0:
        tell.note(f"not timed: the runtime that files for {recipe.target} are for does not run here")
    rows = [
        Row(
            model=key[0],
            runtime=key[1],
            evaluation=evaluations.get(key),
            latency=latency.get("/".join(key)),
            file_size=path.stat().st_size if path else None,
        )
        for key, (_, path) in runners.items()
    ]
    for runner, _ in runners.values():
        if runner.name != "torch":
            runner.close()
    return rows


def integer_notes(detector: QuantizedDetector, target: Target, layer_count: int, executed: Executed | None) -> list[str]:
    """How many layers run in integers: as the target's runtime executes the file, or as it was placed where none can be asked.

    Args:
        detector: quantized.
        target: of its recipe.
        layer_count: layers with weights.
        executed: what the target's own runtime says; none if it cannot be asked here.
    """
    placed = quantized_layer_count(detector)
    activations = sum(1 for name, _ in detector.quantizers()) - placed
    count = placed if executed is None else len(executed.integer)
    source = ", as placed" if executed is None else ""
    notes = [
        f"target {target.name}: {count} of {layer_count} weighted layers in integers{source}, {activations} activation scales"
    ]
    notes += float_notes(detector)
    if executed is not None and executed.in_vain:
        notes.append(f"{target.name} runs in float although quantized: {', '.join(executed.in_vain)}; `yoloquant check` says why")
    return notes


def float_notes(detector: QuantizedDetector, shown: int = 4) -> list[str]:
    """Why weighted layers stay in float: a line for each reason, with the first few layers."""
    by_reason: dict[str, list[str]] = {}
    for name, layer in detector.placement.kept_float.items():
        by_reason.setdefault(layer.because, []).append(name)
    return [
        f"in float: {', '.join(names[:shown])}{f' and {len(names) - shown} more' if len(names) > shown else ''}: {reason}"
        for reason, names in by_reason.items()
    ]

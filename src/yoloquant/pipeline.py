"""The whole flow behind `yoloquant quantize`: read, place, calibrate, export, verify, measure, write."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yoloquant.algorithms.layer_figures import float_reasons, layer_figures
from yoloquant.algorithms.tensor_statistics import tensor_statistics
from yoloquant.analysis import noise_along
from yoloquant.benchmark.latency import measure_latency
from yoloquant.data.dataset import DetectionDataset, ImageEntry, load_dataset
from yoloquant.devices import checked_device
from yoloquant.errors import YoloquantError
from yoloquant.evaluate.evaluator import Evaluation, EvaluationSettings, evaluate
from yoloquant.evaluate.parity import Parity, check_parity, require_parity
from yoloquant.export.nms import NmsOptions, add_nms_to_file
from yoloquant.export.onnx_file import export_onnx
from yoloquant.export.quantized_folder import METRICS, MODEL, RECIPE, WEIGHTS, save_quantized
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.network import QuantizedDetector
from yoloquant.quantizing import (
    Clock,
    calibration_entries,
    loader_for,
    place,
    placement_note,
    prepare,
    quantized_layer_count,
    run_algorithms,
    spread_images,
    to_detector,
)
from yoloquant.recipe import Recipe, resolve_recipe
from yoloquant.report.formats import check_format
from yoloquant.results import QuantizationResult, Row, precision_label
from yoloquant.runtime.loading import RUNTIMES, open_onnx
from yoloquant.runtime.runner import Runner
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.base import Target
from yoloquant.targets.registry import get_target

# Photographs that parity is checked on.
PARITY_IMAGES = 4
# Calibration images that the report's figures of layers and tensors are taken from.
REPORT_IMAGES = 4


def quantize(
    model: str | Path | Detector | Any,
    data: str | Path | None = None,
    *,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    overrides: tuple[str, ...] = (),
    output: str | Path | None = None,
    calibration: str | Path | None = None,
    annotations: str | Path | None = None,
    measure: bool = True,
    limit: int | None = None,
    input_size: int | tuple[int, int] | None = None,
    preprocessing: Preprocessing | None = None,
    runtimes: tuple[str, ...] | None = None,
    device: str = "cpu",
    nms: NmsOptions | None = None,
    report: bool = True,
    analysis: str | Path | None = None,
    plots: str | None = None,
    commands: tuple[str, ...] | None = None,
    reporter: Reporter | None = None,
) -> QuantizationResult:
    """Quantize a detector, export it, verify the file, and measure what it cost.

    Args:
        model: checkpoint or ONNX file, a `Detector`, or an object of an original repository (`ultralytics.YOLO("x.pt")`).
        data: `data.yaml` or COCO JSON; its train split calibrates, its val split evaluates.
        target: deployment target; the recipe's own by default.
        recipe: preset name, YAML file or `Recipe`; the preset `int8` by default.
        overrides: `key=value` changes to the recipe.
        output: folder to write; it must not exist, or be one that this function wrote. Nothing is written without.
        calibration: images to calibrate on instead of the train split: a list, a folder or a data set.
        annotations: COCO JSON with the val split's ground truth.
        measure: evaluate and time float and quantized models; needs labels.
        limit: evaluate only the first so many images.
        input_size: `(height, width)` or one side, pixels; the checkpoint's own by default.
        preprocessing: how an ONNX file wants its images; by default as its exporter is known for.
        runtimes: that verify and measure the file beside torch; all installed ones by default.
        device: that the steps which learn run on: `cpu`, `cuda`, `cuda:1`.
        nms: puts suppression into the file after it was verified and measured without.
        report: write report.html and the figures of layers and tensors into the folder.
        analysis: folder of `yoloquant analyze`, whose ranking the report shows.
        plots: "png" or "pdf": every chart of the report as a file, too.
        commands: that the report names to repeat it; by default what these arguments are on the command line.
        reporter: told about progress.

    Returns:
        The quantized detector and all figures.

    Raises:
        YoloquantError: something given cannot be used, or the exported file is not right in the target's runtime.
    """
    tell = reporter or Silent()
    folder = _checked_output(output)
    settings = resolve_recipe(recipe, overrides, target)
    ranking = None if analysis is None else _read_analysis(Path(analysis))
    check_format(plots)
    chosen = get_target(settings.target)
    checked_device(device)
    detector = to_detector(model, preprocessing)
    if input_size is not None:
        detector.input_size = (input_size, input_size) if isinstance(input_size, int) else input_size
    entries = calibration_entries(settings, data, calibration)
    dataset = load_dataset(data, "val", annotations=annotations) if data is not None and measure else None
    if dataset is not None:
        _ = dataset.ground_truth  # Missing labels are told before anything long begins.

    clock = Clock()
    partial = None if folder is None else folder.with_name(f"{folder.name}.partial")
    reference = prepare(detector, settings, entries, tell)
    quantized, layer_count = place(detector, reference, settings, chosen)
    clock.stop("capture")
    quantized, in_float = run_algorithms(quantized, detector, reference, settings, chosen, entries, partial, tell, clock, device)
    tell.note(placement_note(quantized, chosen, layer_count))
    # Beside the output, so that the finished folder is moved into place in one step.
    with tempfile.TemporaryDirectory(prefix=".yoloquant-", dir=folder.parent if folder else None) as scratch:
        work = Path(scratch) / "output"
        work.mkdir()
        with tell.step("Export") as update:
            export_onnx(quantized, work / MODEL, target=chosen.name)
            update(1, 2)
            float_file = Path(scratch) / "float.onnx"
            export_onnx(detector, float_file)
            update(2, 2)
        clock.stop("export")
        available = installed(runtimes)
        parity = _verify(quantized, work / MODEL, entries, chosen, available, tell)
        clock.stop("verify")
        rows = (
            _measure(detector, quantized, float_file, work / MODEL, dataset, settings, limit, available, tell) if measure else ()
        )
        clock.stop("measure")
        if nms is not None:
            add_nms_to_file(work / MODEL, nms, tensorrt=chosen.name == "tensorrt")
        result = QuantizationResult(
            quantized,
            settings,
            tuple(rows),
            tuple(parity),
            tuple(in_float),
            len(entries),
            quantized_layer_count(quantized),
            layer_count,
            clock.seconds,
            folder,
            commands=_commands(model, data, settings, output, calibration, annotations, limit, input_size, preprocessing)
            if commands is None
            else commands,
            analysis=ranking,
        )
        if folder is not None:
            if report:
                result = _with_figures(result, dict(reference.named_parameters()), entries, tell)
                _write_report(result, work, dataset, plots, tell)
                clock.stop("report")
            _write(result, detector, work)
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)
    if partial is not None:
        shutil.rmtree(partial, ignore_errors=True)
    return result


def installed(names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Those of the runtimes that are installed; all known ones are asked for by default."""
    return tuple(name for name in (RUNTIMES if names is None else names) if RUNTIMES[name].is_installed())


def _checked_output(output: str | Path | None) -> Path | None:
    if output is None:
        return None
    folder = Path(output).absolute()
    if folder.is_file():
        raise YoloquantError(f"the output {folder} is a file: name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / WEIGHTS).is_file():
        raise YoloquantError(f"the output folder {folder} holds other files: name a new folder, or an earlier output to replace")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise YoloquantError(f"the output folder {folder} cannot be made: {error.strerror}") from error
    return folder


def _verify(
    detector: QuantizedDetector,
    path: Path,
    entries: list[ImageEntry],
    target: Target,
    runtimes: tuple[str, ...],
    tell: Reporter,
) -> list[Parity]:
    """Check the file in every installed runtime; the target's own must agree, others are told about."""
    batch = next(iter(loader_for(detector, entries[:PARITY_IMAGES], PARITY_IMAGES)))
    images = batch.images.numpy().astype(np.float32) / np.float32(255.0)
    with tell.step("Verify the exported file") as update:
        results = check_parity(detector, path, images, runtimes)
        update(1, 1)
    require_parity(result for result in results if result.runtime in target.runtimes)
    for result in results:
        if not result.agrees:
            tell.note(
                f"this file is for {target.name}; {result.runtime} does not run it right "
                f"({result.signal_to_noise:.0f} dB, from {result.first_layer}): for {result.runtime} quantize with its own target"
            )
    return results


def _measure(
    detector: Detector,
    quantized: QuantizedDetector,
    float_file: Path,
    file: Path,
    dataset: DetectionDataset | None,
    recipe: Recipe,
    limit: int | None,
    runtimes: tuple[str, ...],
    tell: Reporter,
) -> list[Row]:
    """Evaluate and time float and quantized models in torch and in the runtimes that run the target's files."""
    label = precision_label(quantized)
    runners: dict[tuple[str, str], tuple[Runner, Path | None]] = {
        ("float", "torch"): (TorchRunner(detector), None),
        (label, "torch"): (TorchRunner(quantized), None),
    }
    for name in get_target(recipe.target).runtimes:
        if name in runtimes:
            runners["float", name] = (open_onnx(float_file, name), float_file)
            runners[label, name] = (open_onnx(file, name), file)
    evaluations: dict[tuple[str, str], Evaluation] = {}
    settings = EvaluationSettings(**recipe.evaluation.model_dump(), limit=limit)
    for key, (runner, _) in runners.items() if dataset is not None else ():
        with tell.step(f"Evaluate {key[0]} in {key[1]}") as update:
            assert dataset is not None
            evaluations[key] = evaluate(runner, dataset, settings, update)
    with tell.step("Measure latency") as update:
        latency = measure_latency({"/".join(key): runner for key, (runner, _) in runners.items()}, progress=update)
    rows = [
        Row(*key, evaluations.get(key), latency["/".join(key)], path.stat().st_size if path else None)
        for key, (_, path) in runners.items()
    ]
    for runner, _ in runners.values():
        if runner.name != "torch":
            runner.close()
    return rows


def _with_figures(
    result: QuantizationResult, reference: Mapping[str, torch.Tensor], entries: list[ImageEntry], tell: Reporter
) -> QuantizationResult:
    """The result with figures of every layer and tensor, from a few calibration images."""
    detector, recipe = result.detector, result.recipe
    images = spread_images(detector, entries, REPORT_IMAGES)
    with tell.step("Gather statistics") as update:
        statistics = tensor_statistics(detector, iter(images.split(1)), len(images), update, reference)
    reasons = float_reasons(detector.network, recipe, get_target(recipe.target), result.float_layers)
    layers = layer_figures(detector.network, statistics, noise_along(detector, images[:2], reference), reasons)
    return replace(result, layers=tuple(layers), statistics=tuple(statistics))


def _write_report(
    result: QuantizationResult, folder: Path, dataset: DetectionDataset | None, plots: str | None, tell: Reporter
) -> None:
    from yoloquant.report.quantization_page import report_charts, write_report

    with tell.step("Write the report") as update:
        write_report(result, folder, dataset)
        if plots is not None:
            from yoloquant.report.plots import save_charts

            save_charts(report_charts(result), folder / "plots", plots, update)
        update(1, 1)


def _commands(
    model: Any,
    data: str | Path | None,
    recipe: Recipe,
    output: str | Path | None,
    calibration: str | Path | None,
    annotations: str | Path | None,
    limit: int | None,
    input_size: int | tuple[int, int] | None,
    preprocessing: Preprocessing | None,
) -> tuple[str, ...]:
    """What to type to do it again, to evaluate the folder, and to see what each layer costs; none for objects in memory."""
    if not isinstance(model, str | Path) or output is None or data is None:
        return ()

    def command(name: str, subject: str | Path, **options: Any) -> str:
        given = [(f"--{option.replace('_', '-')}", str(value)) for option, value in options.items() if value is not None]
        return shlex.join(["yoloquant", name, str(subject), *(word for pair in given for word in pair)])

    images = preprocessing.words() if preprocessing else None
    side = max(input_size) if isinstance(input_size, tuple) else input_size
    sources = {"data": data, "calibration": calibration, "annotations": annotations}
    chosen = {"recipe": Path(output) / RECIPE, "output": f"{output}-again"}
    return (
        command("quantize", model, **sources, **chosen, limit=limit, image_size=side, images=images),
        command("eval", output, data=data, annotations=annotations, limit=limit),
        command("analyze", model, **sources, target=recipe.target),
    )


def _read_analysis(folder: Path) -> dict[str, Any]:
    """What an analysis found; only its ranking is kept.

    Raises:
        YoloquantError: the folder holds none.
    """
    try:
        content = json.loads((folder / "analysis.json").read_text(encoding="utf-8"))
        return {name: content[name] for name in ("measure", "mode", "sensitivities")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise YoloquantError(f"{folder} has no readable analysis.json: name a folder that `yoloquant analyze` wrote") from error


def _write(result: QuantizationResult, detector: Detector, folder: Path) -> None:
    save_quantized(result.detector, detector, folder / WEIGHTS)
    (folder / RECIPE).write_text(result.recipe.to_yaml(), encoding="utf-8")
    (folder / METRICS).write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")

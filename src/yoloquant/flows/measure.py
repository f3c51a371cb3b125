"""A quantized file beside the float model: whether it is right in each runtime, what it scores, and how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yoloquant.algorithms.job import Job
from yoloquant.data.dataset import DetectionDataset, ImageEntry, load_dataset
from yoloquant.data.source import Source
from yoloquant.data.synthetic import generate_image
from yoloquant.distributed import process_number
from yoloquant.errors import DataError
from yoloquant.evaluation.evaluator import EvaluationSettings, check_classes, evaluate
from yoloquant.evaluation.latency import Latency, measure_latency
from yoloquant.evaluation.parity import Parity, binding, check_parity, require_parity
from yoloquant.flows.options import Measure
from yoloquant.progress import Reporter
from yoloquant.quant.images import first_images
from yoloquant.quant.quantized_detector import QuantizedDetector, quantized_layer_count
from yoloquant.results.quantization import Row, precision_label, with_drops
from yoloquant.runtime.executed_layers import Executed
from yoloquant.runtime.registry import RUNTIMES, open_onnx
from yoloquant.runtime.runner import Runner
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.target import Target

# Photographs that parity is checked on.
PARITY_IMAGES = 4


def installed(names: tuple[str, ...] | None = None) -> tuple[str, ...]:
    """Those of the runtimes that are installed; all known ones are asked for by default."""
    return tuple(name for name in (RUNTIMES if names is None else names) if RUNTIMES[name].is_installed())


def dataset_to_evaluate(source: Source, names: Sequence[str], measure: Measure) -> DetectionDataset | None:
    """The val split, if it is to be evaluated; what is wrong with its labels is reported before anything long begins.

    Args:
        source: Data set.
        names: Classes of the model.
        measure: What is wanted.

    Raises:
        DataError: It cannot be read, has other classes than the model, or no labels.
    """
    if source.data is None or not measure.evaluate:
        return None
    dataset = load_dataset(source.data, "val", annotations=source.annotations)
    check_classes(names, dataset)
    try:
        _ = dataset.ground_truth
    except DataError as error:
        raise DataError(f"{error}; --no-evaluate quantizes without labels") from error
    return dataset


def parity_images(detector: QuantizedDetector, entries: list[ImageEntry]) -> np.ndarray:
    """Photographs that files are held against torch on, `(N, 3, H, W)` float32, 0..1."""
    return first_images(detector, entries, PARITY_IMAGES).numpy().astype(np.float32) / np.float32(255.0)


def drawn_images(size: tuple[int, int]) -> np.ndarray:
    """Drawn images where no photographs are named, `(N, 3, H, W)` float32, 0..1, of a height and a width."""
    height, width = size
    drawn = [generate_image(0, index, max(height, width)).image[:height, :width] for index in range(PARITY_IMAGES)]
    return np.ascontiguousarray(np.stack(drawn).transpose(0, 3, 1, 2), dtype=np.float32) / np.float32(255.0)


def verified(job: Job, path: Path, runtimes: tuple[str, ...]) -> list[Parity]:
    """Check the quantized detector's file in installed runtimes; the target's own must agree, others are reported.

    Raises:
        ExportError: The target's runtime does not agree with torch.
    """
    target, tell = job.target, job.reporter
    images = parity_images(job.quantized, job.images.calibration)
    with tell.step("Verify the exported file") as update:
        results = check_parity(job.quantized, path, images, runtimes)
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


def measured(
    job: Job,
    float_file: Path | None,
    file: Path,
    runtimes: tuple[str, ...],
    dataset: DetectionDataset | None,
    settings: EvaluationSettings,
) -> tuple[Row, ...]:
    """Evaluate float and quantized models in torch and in the runtimes that run the target's files; time them in its own.

    Args:
        job: With the quantized detector.
        float_file: The float detector's file; none where its weights are not known.
        file: The quantized detector's file.
        runtimes: Installed runtimes to measure in.
        dataset: Images with ground truth; none to time alone.
        settings: How to evaluate.
    """
    target, tell = job.target, job.reporter
    label = precision_label(job.quantized)
    runners: dict[tuple[str, str], tuple[Runner, Path | None]] = {}
    if float_file is not None:
        runners["float", "torch"] = (TorchRunner(job.detector), None)
    runners[label, "torch"] = (TorchRunner(job.quantized), None)
    for name in target.runtimes:
        if name in runtimes:
            if float_file is not None:
                runners["float", name] = (open_onnx(float_file, name), float_file)
            runners[label, name] = (open_onnx(file, name), file)
    evaluations = {}
    for key, (runner, _) in runners.items() if dataset is not None else ():
        with tell.step(f"Evaluate {key[0]} in {key[1]}") as update:
            assert dataset is not None
            evaluations[key] = evaluate(runner, dataset, settings, update)
    for sentence in next((evaluation.skipped for evaluation in evaluations.values()), ()):
        tell.note(f"skipped: {sentence}")
    latency = _timed({key: runner for key, (runner, _) in runners.items()}, target.name, tell)
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
    return with_drops(rows)


def _timed(runners: dict[tuple[str, str], Runner], target: str, tell: Reporter) -> dict[str, Latency]:
    """Latency of files in the runtime that they are for; the first of several processes takes it.

    What another runtime takes for a file that is not for it says nothing, and neither do fake quantizers in torch.
    """
    timed = {"/".join(key): runner for key, runner in runners.items() if key[1] == target}
    if process_number() != 0:
        return {}
    if not timed:
        tell.note(f"not timed: the runtime that files for {target} are for does not run here")
        return {}
    with tell.step("Measure latency") as update:
        return measure_latency(timed, progress=update)


def integer_notes(detector: QuantizedDetector, target: Target, layer_count: int, executed: Executed | None) -> list[str]:
    """How many layers run in integers: as the target's runtime executes the file, or as it was placed where none can be asked.

    Args:
        detector: Quantized detector.
        target: Target of its recipe.
        layer_count: Layers with weights.
        executed: Layers as the target's own runtime runs them; None if it cannot be asked here.
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

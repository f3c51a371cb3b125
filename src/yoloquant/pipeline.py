"""The whole flow behind `yoloquant quantize`: read, place, calibrate, export, verify, measure, write."""

from __future__ import annotations

import glob
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule

from yoloquant.algorithms.bias_correction import correct_biases
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.equalize import equalize
from yoloquant.algorithms.mixed_precision import choose_bits, layer_choices, total_weights
from yoloquant.algorithms.reconstruction.checkpoints import RegionCheckpoints, state_key
from yoloquant.algorithms.reconstruction.reconstruct import reconstruct
from yoloquant.algorithms.sensitive_layers import SensitiveLayer, most_sensitive_layers
from yoloquant.algorithms.weight_ranges import choose_weight_ranges
from yoloquant.benchmark.latency import Latency, measure_latency
from yoloquant.checkpoint.live import detector_from_live
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.dataset import DetectionDataset, ImageEntry, load_dataset
from yoloquant.data.loader import ImageLoader
from yoloquant.data.sample import calibration_images
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluate.evaluator import Evaluation, EvaluationSettings, evaluate
from yoloquant.evaluate.parity import Parity, check_parity, require_parity
from yoloquant.export.onnx_file import export_onnx
from yoloquant.export.quantized_folder import METRICS, MODEL, RECIPE, REPORT, WEIGHTS, quantized_from, save_quantized
from yoloquant.graph.capture import capture
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.models.detector import Detector
from yoloquant.models.layouts import LAYOUTS
from yoloquant.models.onnx.head import OnnxHead
from yoloquant.models.preprocessing import Preprocessing
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.network import QuantizedDetector
from yoloquant.recipe import (
    BiasCorrection,
    Equalize,
    KeepFloat,
    MixedPrecision,
    Override,
    Recipe,
    Reconstruct,
    TensorSettings,
    WeightRanges,
    load_recipe,
)
from yoloquant.runtime.loading import RUNTIMES, open_onnx
from yoloquant.runtime.runner import Runner
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.spec import TensorSpec
from yoloquant.targets.base import Target
from yoloquant.targets.placement import input_layers, output_layers
from yoloquant.targets.registry import get_target

# Photographs that parity is checked on.
PARITY_IMAGES = 4


@dataclass(frozen=True)
class Row:
    """One line of the result table.

    Attributes:
        model: "float" or the precision, "int8".
        runtime: that ran it.
        evaluation: what it scored; none if not evaluated.
        latency: of one image.
        file_size: bytes of the file that was run; none for a network in memory.
    """

    model: str
    runtime: str
    evaluation: Evaluation | None
    latency: Latency | None
    file_size: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "runtime": self.runtime,
            "evaluation": self.evaluation.to_dict() if self.evaluation else None,
            "latency_ms": asdict(self.latency) if self.latency else None,
            "file_size": self.file_size,
        }


@dataclass(frozen=True)
class QuantizationResult:
    """What `quantize` did.

    Attributes:
        detector: the quantized detector, ready to run or to change further.
        recipe: that was followed.
        rows: of the result table, float first.
        parity: agreement of the exported file with torch, by runtime.
        float_layers: that were found to cost most and stay in float; beside those that target and recipe leave out.
        calibration_count: images that were observed.
        quantized_layers: convolutions and linear layers with quantized weights.
        layer_count: all of them.
        seconds: wall time of each step.
        output: the folder, if one was written.
    """

    detector: QuantizedDetector
    recipe: Recipe
    rows: tuple[Row, ...]
    parity: tuple[Parity, ...]
    float_layers: tuple[SensitiveLayer, ...]
    calibration_count: int
    quantized_layers: int
    layer_count: int
    seconds: dict[str, float]
    output: Path | None

    def row(self, model: str, runtime: str) -> Row:
        """The table's line for a model ("float" or "int8") and a runtime.

        Raises:
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.model, row.runtime) == (model, runtime):
                return row
        raise KeyError(f"{model} was not run in {runtime}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what metrics.json holds."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "rows": [row.to_dict() for row in self.rows],
            "parity": [{**asdict(parity), "signal_to_noise": min(parity.signal_to_noise, 999.0)} for parity in self.parity],
            "float_layers": {layer.name: round(layer.gain, 4) for layer in self.float_layers},
            "calibration_images": self.calibration_count,
            "weight_bits": weight_bits(self.detector),
            "quantized_layers": self.quantized_layers,
            "layers": self.layer_count,
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "versions": versions(),
        }


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
        reporter: told about progress.

    Returns:
        The quantized detector and all figures.

    Raises:
        YoloquantError: something given cannot be used, or the exported file is not right in the target's runtime.
    """
    tell = reporter or Silent()
    folder = _checked_output(output)
    settings = recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides, **({"target": target} if target else {}))
    chosen = get_target(settings.target)
    detector = _detector(model, preprocessing)
    if input_size is not None:
        detector.input_size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if data is None and calibration is None:
        raise DataError("calibration needs images: name a data.yaml with --data, or images with --calibration")
    entries = calibration_images(calibration or data, settings.calibration.images, settings.calibration.seed)  # type: ignore[arg-type]
    dataset = load_dataset(data, "val", annotations=annotations) if data is not None and measure else None
    if dataset is not None:
        _ = dataset.ground_truth  # Missing labels are told before anything long begins.

    clock = _Clock()
    partial = None if folder is None else folder.with_name(f"{folder.name}.partial")
    quantized, layer_count = _place(detector, settings, chosen)
    clock.stop("capture")
    quantized, in_float = _run_algorithms(quantized, detector, settings, chosen, entries, partial, tell, clock)
    tell.note(_placement_note(quantized, chosen, layer_count))
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
        result = QuantizationResult(
            quantized,
            settings,
            tuple(rows),
            tuple(parity),
            tuple(in_float),
            len(entries),
            _quantized_layer_count(quantized),
            layer_count,
            clock.seconds,
            folder,
        )
        if folder is not None:
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


def _detector(model: Any, preprocessing: Preprocessing | None) -> Detector:
    if isinstance(model, Detector):
        return model
    return read_detector(model, preprocessing) if isinstance(model, str | Path) else detector_from_live(model)


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def stop(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._start
        self._start = now


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


def _captured(detector: Detector, recipe: Recipe) -> GraphModule:
    """The float network as quantizers and reconstruction see it."""
    graph_module = capture(detector.network, detector.input_size, max(detector.strides))
    for step in recipe.algorithms:
        if isinstance(step, Equalize):
            equalize(graph_module, step.rounds)
    return graph_module


def _place(detector: Detector, recipe: Recipe, target: Target, in_float: Iterable[str] = ()) -> tuple[QuantizedDetector, int]:
    graph_module = _captured(detector, recipe)
    kinds = {node.meta["layer"]: kind(node) for node in graph_module.graph.nodes}
    layers = [name for name, found in kinds.items() if found not in ("parameter", "input", "output")]
    first, last = input_layers(graph_module), output_layers(graph_module)

    def choose(layer: str, tensor: str, spec: TensorSpec) -> TensorSpec | None:
        places = {place for place, names in (("@first", first), ("@last", last)) if layer in names}
        return recipe.choose(layer, kinds[layer], tensor, spec, places)

    placement = target.place(
        graph_module,
        choose,
        recipe.ignored(layers) | frozenset(in_float),
        None if recipe.output_layers is None else recipe.output_layers == "float",
    )
    return quantized_from(detector, placement, graph_module), sum(found in WEIGHTED for found in kinds.values())


def _quantized_layer_count(detector: QuantizedDetector) -> int:
    return sum(name.endswith(".weight_quantizer") for name, _ in detector.quantizers())


def _placement_note(detector: QuantizedDetector, target: Target, layer_count: int) -> str:
    activations = sum(1 for name, _ in detector.quantizers()) - _quantized_layer_count(detector)
    return (
        f"target {target.name}: {_quantized_layer_count(detector)} of {layer_count} weighted layers in integers, "
        f"{activations} activation scales"
    )


def _run_algorithms(
    quantized: QuantizedDetector,
    detector: Detector,
    recipe: Recipe,
    target: Target,
    entries: list[ImageEntry],
    partial: Path | None,
    tell: Reporter,
    clock: _Clock,
) -> tuple[QuantizedDetector, list[SensitiveLayer]]:
    """The recipe's algorithms in their order; answers with the detector they leave and the layers they put back into float.

    Long ones keep what they have done in the folder `partial`, if there is one, and go on from there.
    """
    in_float: list[SensitiveLayer] = []
    _calibrate(quantized, recipe, entries, tell)
    clock.stop("calibrate")
    for step in recipe.algorithms:
        if isinstance(step, KeepFloat) and isinstance(quantized.head, OnnxHead) and LAYOUTS[quantized.head.layout].suppressed:
            tell.note("keep_float is left out: the file's head suppresses boxes, so errors cannot be compared box by box")
        elif isinstance(step, KeepFloat):
            in_float = _costliest_layers(quantized, step, entries, tell)
            if in_float:
                quantized, _ = _place(detector, recipe, target, (layer.name for layer in in_float))
                _calibrate(quantized, recipe, entries, tell)
        elif isinstance(step, MixedPrecision):
            recipe = _with_bits(recipe, _chosen_bits(quantized, step, entries, tell))
            quantized, _ = _place(detector, recipe, target, (layer.name for layer in in_float))
            _calibrate(quantized, recipe, entries, tell)
        elif isinstance(step, BiasCorrection):
            with tell.step("Correct biases") as update:
                correct_biases(quantized, _first_images(quantized, entries, step.images), update)
        elif isinstance(step, WeightRanges):
            loader = _loader(quantized, entries[: step.images], recipe.calibration.batch_size)
            with tell.step("Choose weight ranges") as update:
                choose_weight_ranges(quantized, (batch.images for batch in loader), len(loader), update)
        elif isinstance(step, Reconstruct):
            _reconstruct(quantized, _captured(detector, recipe), step, entries, partial, tell)
        clock.stop(step.name)
    return quantized, in_float


def _chosen_bits(quantized: QuantizedDetector, step: MixedPrecision, entries: list[ImageEntry], tell: Reporter) -> dict[str, int]:
    unit = "bit_operations" if step.bit_operations is not None else "weight_bytes"
    images = _spread_images(quantized, entries, step.images)
    with tell.step("Measure each layer at each width") as update:
        layers = layer_choices(quantized, images, step.bits, unit, update)
    budget = step.bit_operations or step.weight_bytes
    if step.average_bits is not None:
        budget = step.average_bits / 8.0 * total_weights(quantized)
    assert budget is not None
    bits = choose_bits(layers, budget)
    taken = sum(layer.costs[layer.bits.index(bits[layer.name])] for layer in layers)
    counts = ", ".join(f"{list(bits.values()).count(width)} layers at {width} bit" for width in sorted(set(bits.values())))
    tell.note(f"{counts}: {taken:,} {unit.replace('_', ' ')} of {budget:,.0f}")
    return bits


def _with_bits(recipe: Recipe, bits: dict[str, int]) -> Recipe:
    chosen = tuple(Override(match=glob.escape(name), weights=TensorSettings(bits=width)) for name, width in bits.items())
    return recipe.model_copy(update={"overrides": (*recipe.overrides, *chosen)})


def _reconstruct(
    quantized: QuantizedDetector,
    reference: GraphModule,
    step: Reconstruct,
    entries: list[ImageEntry],
    partial: Path | None,
    tell: Reporter,
) -> None:
    images = _first_images(quantized, entries, step.images)
    checkpoints = None
    if partial is not None:
        checkpoints = RegionCheckpoints(partial, state_key(quantized, step, [entry.path.name for entry in entries]))
    with tell.step(f"Reconstruct each {step.unit}") as update:

        def progress(number: int, count: int, name: str, done: float, loss: float) -> None:
            whole = count * step.iterations
            update(round((number + done) * step.iterations), whole, f"{name}: loss {loss:.2f} of that before")

        results = reconstruct(quantized, reference, images, step, checkpoints, progress)
    shares = [result.after / result.before for result in results if result.before > 0.0]
    if shares:
        tell.note(f"reconstruction left {statistics.geometric_mean(shares):.0%} of the loss, the mean of {len(shares)} regions")


def _loader(detector: QuantizedDetector, entries: list[ImageEntry], batch_size: int) -> ImageLoader:
    return ImageLoader(entries, detector.input_size, batch_size, top_left=detector.preprocessing.top_left)


def _calibrate(quantized: QuantizedDetector, recipe: Recipe, entries: list[ImageEntry], tell: Reporter) -> None:
    loader = _loader(quantized, entries, recipe.calibration.batch_size)
    with tell.step(f"Calibrate on {len(entries)} images") as update:
        calibrate(quantized, (batch.images for batch in loader), len(loader), update)
    for sentence in loader.skipped:
        tell.note(f"skipped: {sentence}")


def _costliest_layers(
    quantized: QuantizedDetector, step: KeepFloat, entries: list[ImageEntry], tell: Reporter
) -> list[SensitiveLayer]:
    images = _spread_images(quantized, entries, step.images)
    with tell.step("Find the layers that cost most") as update:
        layers = most_sensitive_layers(quantized, images, step.layers, step.least_gain, update)
    if layers:
        named = ", ".join(f"{layer.name} ({layer.gain:.0%} of the error)" for layer in layers)
        tell.note(f"kept in float: {named}")
    return layers


def _spread_images(quantized: QuantizedDetector, entries: list[ImageEntry], count: int) -> Tensor:
    """Some of the sorted images, which often come in groups that look alike."""
    return _first_images(quantized, entries[:: max(1, len(entries) // count)], count)


def _first_images(quantized: QuantizedDetector, entries: list[ImageEntry], count: int) -> Tensor:
    return next(iter(_loader(quantized, entries[:count], count))).images


def _verify(
    detector: QuantizedDetector,
    path: Path,
    entries: list[ImageEntry],
    target: Target,
    runtimes: tuple[str, ...],
    tell: Reporter,
) -> list[Parity]:
    """Check the file in every installed runtime; the target's own must agree, others are told about."""
    batch = next(iter(_loader(detector, entries[:PARITY_IMAGES], PARITY_IMAGES)))
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


def precision_label(detector: QuantizedDetector) -> str:
    """`int8`, or weight and activation bits as in `w4a8`, the most common of each."""
    bits: dict[str, list[int]] = {"w": [], "a": []}
    for name, quantizer in detector.quantizers():
        bits["w" if name.endswith("weight_quantizer") else "a"].append(quantizer.spec.bits)
    common = {key: max(set(values), key=values.count) if values else 32 for key, values in bits.items()}
    return f"int{common['w']}" if common["w"] == common["a"] else f"w{common['w']}a{common['a']}"


def weight_bits(detector: QuantizedDetector) -> dict[str, int]:
    """Layer name -> bits of its weight, of layers with quantized weights."""
    suffix = ".weight_quantizer"
    return {name.removesuffix(suffix): quantizer.spec.bits for name, quantizer in detector.quantizers() if name.endswith(suffix)}


def _write(result: QuantizationResult, detector: Detector, folder: Path) -> None:
    from yoloquant.report.html import write_report

    save_quantized(result.detector, detector, folder / WEIGHTS)
    (folder / RECIPE).write_text(result.recipe.to_yaml(), encoding="utf-8")
    (folder / METRICS).write_text(json.dumps(result.to_dict(), indent=2), encoding="utf-8")
    write_report(result, folder / REPORT)


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"torch": str(torch.__version__)}
    for package in ("yoloquant", "onnx", "onnxruntime", "openvino", "faster-coco-eval", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

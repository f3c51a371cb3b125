"""Quantize in memory: from a float detector and a recipe to a calibrated, corrected, learned `QuantizedDetector`."""

from __future__ import annotations

import glob
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch.fx import GraphModule

from yoloquant.algorithms.bias_correction import correct_biases, correct_biases_fast, reestimate_batch_norm
from yoloquant.algorithms.calibrate import calibrate, take_ranges
from yoloquant.algorithms.detection_ranges import choose_ranges_by_detections
from yoloquant.algorithms.equalize import equalize
from yoloquant.algorithms.mixed_precision import IN_FLOAT, at_width, choose_bits, float_choices, layer_choices, total_weights
from yoloquant.algorithms.reconstruction.checkpoints import RegionCheckpoints, state_key
from yoloquant.algorithms.reconstruction.reconstruct import reconstruct
from yoloquant.algorithms.smooth import smooth
from yoloquant.algorithms.weight_ranges import choose_weight_ranges
from yoloquant.analysis.sensitive_layers import SensitiveLayer, most_sensitive_layers
from yoloquant.data.contents import contents_of
from yoloquant.data.dataset import ImageEntry
from yoloquant.data.sample import readable_sample, sample_images, source_images
from yoloquant.distributed import from_first
from yoloquant.errors import DataError
from yoloquant.evaluation.layer_latency import measured_times, runtime_to_time
from yoloquant.graph.capture import captured, copy_graph, layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.models.branches import branch_sentence, two_pairs
from yoloquant.models.detector import Detector
from yoloquant.progress import Clock, Reporter
from yoloquant.quant.images import first_images, loader_for, spread_images
from yoloquant.quant.int32_bias import fit_biases
from yoloquant.quant.quantized_detector import QuantizedDetector, quantized_from, weight_bits
from yoloquant.recipe.recipe import (
    Algorithm,
    BatchNormReestimation,
    BiasCorrection,
    DetectionRanges,
    Equalize,
    KeepFloat,
    MixedPrecision,
    Override,
    Recipe,
    Reconstruct,
    Smooth,
    TensorSettings,
    WeightRanges,
)
from yoloquant.spec import TensorSpec
from yoloquant.targets.placement import input_layers, output_layers
from yoloquant.targets.registry import get_target
from yoloquant.targets.target import Target
from yoloquant.training.quantized.run import train_quantized
from yoloquant.training.quantized.step import Train


def tell_branch(detector: Detector, tell: Reporter) -> None:
    """Say which branch is quantized, where a family has two."""
    sentence = branch_sentence(detector.head.branch, two_pairs(detector.network) is not None)
    if sentence is not None:
        tell.note(sentence)


@dataclass(frozen=True)
class RecipeImages:
    """The images that a recipe sees.

    Attributes:
        available: Images that all others are drawn from.
        calibration: Images to calibrate on.
        seed: Random seed of every draw.
        problems: Sentences about what was left out.
    """

    available: tuple[ImageEntry, ...]
    calibration: list[ImageEntry]
    seed: int
    problems: tuple[str, ...] = ()

    def training(self, step: Train) -> list[ImageEntry]:
        """Those that a step trains on: as many as it asks for, or those that calibrate."""
        return self.calibration if step.images is None else sample_images(self.available, step.images, self.seed)


def recipe_images(recipe: Recipe, data: str | Path | None, calibration: str | Path | None) -> RecipeImages:
    """The images that a recipe sees, of `calibration`, or of the train split of `data`.

    Raises:
        DataError: neither is given, or there are no images.
    """
    source = calibration or data
    if source is None:
        raise DataError("calibration needs images: name a data.yaml with --data, or images with --calibration")
    found, settings = source_images(source), recipe.calibration
    drawn, skipped = readable_sample(found.images, settings.images, settings.seed)
    problems = (*found.problem_sentences(), *(f"skipped: {sentence}" for sentence in skipped))
    return RecipeImages(found.images, drawn, settings.seed, problems)


def prepare(detector: Detector, recipe: Recipe, entries: list[ImageEntry], tell: Reporter) -> GraphModule:
    """The float network as quantizers and reconstruction see it: captured, and what the recipe does before calibration."""
    graph_module = captured(detector)
    for step in recipe.algorithms:
        if isinstance(step, Equalize):
            equalize(graph_module, step.rounds)
        elif isinstance(step, Smooth):
            loader = loader_for(detector, entries[: step.images], recipe.calibration.batch_size)
            with tell.step("Smooth activations") as update:
                batches = (batch.images for batch in loader)
                smoothed = smooth(graph_module, batches, step.alpha, step.least_gain, len(loader), update)
            tell.note(f"{len(smoothed)} activations smoothed")
    return graph_module


def place(
    detector: Detector, reference: GraphModule, recipe: Recipe, target: Target, in_float: Iterable[str] = ()
) -> tuple[QuantizedDetector, int]:
    """A detector with fresh quantizers, and how many layers with weights it has.

    Args:
        detector: float.
        reference: its network, from `prepare`; it is not changed.
        recipe: decides specs and layers to leave out.
        target: decides where quantizers stand.
        in_float: names of further layers that stay in float.
    """
    graph_module = copy_graph(reference)
    kinds = {node.meta["layer"]: kind(node) for node in graph_module.graph.nodes}
    layers = [name for name, found in kinds.items() if found not in ("parameter", "input", "output")]
    recipe.check_overrides(layers)
    first, last = input_layers(graph_module), output_layers(graph_module)

    def choose(layer: str, tensor: str, spec: TensorSpec) -> TensorSpec | None:
        places = {place for place, names in (("@first", first), ("@last", last)) if layer in names}
        return recipe.choose(layer, kinds[layer], tensor, spec, places)

    placement = target.place(
        graph_module,
        choose,
        recipe.ignored(layers) | frozenset(in_float),
        None if recipe.output_layers is None else recipe.output_layers == "float",
        None if recipe.input_layers is None else recipe.input_layers == "float",
    )
    return quantized_from(detector, placement, graph_module), sum(found in WEIGHTED for found in kinds.values())


def quantized_in_memory(detector: Detector, recipe: Recipe, images: RecipeImages, tell: Reporter) -> QuantizedDetector:
    """All that a recipe does, and nothing written."""
    target = get_target(recipe.target)
    reference = prepare(detector, recipe, images.calibration, tell)
    quantized, _ = place(detector, reference, recipe, target)
    return run_algorithms(quantized, detector, reference, recipe, target, images, None, tell, Clock())[0]


def run_algorithms(
    quantized: QuantizedDetector,
    detector: Detector,
    reference: GraphModule,
    recipe: Recipe,
    target: Target,
    images: RecipeImages,
    partial: Path | None,
    tell: Reporter,
    clock: Clock,
    device: str = "cpu",
) -> tuple[QuantizedDetector, list[SensitiveLayer]]:
    """The recipe's algorithms in their order; answers with the detector they leave and the layers they put back into float.

    Long ones keep what they have done in the folder `partial`, if there is one, and go on from there. Those that learn do so on
    `device`. Of several processes each repeats them, the first chooses layers for all, and all share the training.
    """
    in_float: list[SensitiveLayer] = []
    entries = images.calibration
    _calibrate(quantized, recipe, entries, tell)
    clock.stop("calibrate")
    for step in recipe.algorithms:
        if quantized.head.suppresses and compares_boxes(step):
            tell.note(f"{step.name} is left out: the file's head suppresses boxes, so errors cannot be compared box by box")
        elif isinstance(step, KeepFloat):
            most = target.costly_layers if step.layers is None else step.layers
            in_float = from_first(_costliest_layers, quantized, step, most, entries, tell) if most else []
            if in_float:
                quantized = _placed_anew(quantized, detector, reference, recipe, target, in_float, entries, tell)
        elif isinstance(step, MixedPrecision):
            bits = from_first(_chosen_bits, detector, quantized, step, recipe.target, entries, tell)
            recipe = _with_bits(recipe, quantized, bits)
            quantized = _placed_anew(quantized, detector, reference, recipe, target, in_float, entries, tell)
        elif isinstance(step, BiasCorrection):
            _correct_biases(quantized, step, recipe, entries, tell)
        elif isinstance(step, BatchNormReestimation):
            with tell.step("Estimate batch norms again") as update:
                reestimate_batch_norm(quantized, first_images(quantized, entries, step.images), update)
        elif isinstance(step, WeightRanges):
            loader = loader_for(quantized, entries[: step.images], recipe.calibration.batch_size)
            with tell.step("Choose weight ranges") as update:
                choose_weight_ranges(quantized, (batch.images for batch in loader), len(loader), update)
        elif isinstance(step, DetectionRanges):
            few = spread_images(quantized, entries, step.images)
            with tell.step("Choose ranges by detections") as update:
                changed = choose_ranges_by_detections(quantized, few, step.factors, update, reference)
            tell.note(f"{len(changed)} activation ranges changed")
        elif isinstance(step, Reconstruct):
            _reconstruct(quantized, reference, step, entries, partial, tell, device)
        elif isinstance(step, Train):
            train_quantized(quantized, reference, step, images.training(step), partial, tell, device)
        clock.stop(step.name)
    # Steps change biases and scales after calibration.
    fit_biases(quantized)
    return quantized, in_float


def _correct_biases(
    quantized: QuantizedDetector, step: BiasCorrection, recipe: Recipe, entries: list[ImageEntry], tell: Reporter
) -> None:
    with tell.step("Correct biases") as update:
        if step.method == "exact":
            correct_biases(quantized, first_images(quantized, entries, step.images), update)
        else:
            loader = loader_for(quantized, entries[: step.images], recipe.calibration.batch_size)
            correct_biases_fast(quantized, (batch.images for batch in loader), len(loader), update)


def compares_boxes(step: Algorithm) -> bool:
    """A step compares boxes of the float and the quantized network."""
    if isinstance(step, Reconstruct):
        return step.loss != "mse"
    if isinstance(step, Train):
        return step.teacher in ("detections", "both")
    return isinstance(step, KeepFloat | MixedPrecision | DetectionRanges)


def _chosen_bits(
    detector: Detector,
    quantized: QuantizedDetector,
    step: MixedPrecision,
    target: str,
    entries: list[ImageEntry],
    tell: Reporter,
) -> dict[str, int]:
    images = spread_images(quantized, entries, step.images)
    if step.latency is not None:
        unit = "hundredths of a millisecond"
        times = measured_times(detector, quantized, runtime_to_time(target), list(weight_bits(quantized)), tell)
        with tell.step("Measure each layer") as update:
            layers = float_choices(quantized, images, times, update)
        budget = step.latency * sum(layer.costs[-1] for layer in layers)
    else:
        unit = "bit_operations" if step.bit_operations is not None else "weight_bytes"
        with tell.step("Measure each layer at each width") as update:
            layers = layer_choices(quantized, images, step.bits, unit, update)
        whole = total_weights(quantized) / 8.0
        budget = step.bit_operations or step.weight_bytes or (step.average_bits or 0.0) * whole
    bits = choose_bits(layers, budget)
    taken = sum(layer.costs[layer.bits.index(bits[layer.name])] for layer in layers)
    counts = ", ".join(f"{list(bits.values()).count(width)} layers at {width} bit" for width in sorted(set(bits.values())))
    tell.note(f"{counts}: {taken:,} {unit.replace('_', ' ')} of {budget:,.0f}")
    return bits


def _with_bits(recipe: Recipe, quantized: QuantizedDetector, bits: dict[str, int]) -> Recipe:
    specs = {layer_name(layer.node): layer.quantizer.spec for layer in quantized.quantized_weights()}
    chosen = {name: at_width(specs[name], width) for name, width in bits.items() if width != IN_FLOAT}
    overrides = tuple(
        Override(match=glob.escape(name), weights=TensorSettings(bits=spec.bits, granularity=spec.granularity))
        for name, spec in chosen.items()
    )
    in_float = tuple(glob.escape(name) for name, width in bits.items() if width == IN_FLOAT)
    return recipe.model_copy(update={"overrides": (*recipe.overrides, *overrides), "ignore": (*recipe.ignore, *in_float)})


def _reconstruct(
    quantized: QuantizedDetector,
    reference: GraphModule,
    step: Reconstruct,
    entries: list[ImageEntry],
    partial: Path | None,
    tell: Reporter,
    device: str,
) -> None:
    images = first_images(quantized, entries, step.images)
    checkpoints = None
    if partial is not None:
        checkpoints = RegionCheckpoints(partial, state_key(quantized, step, contents_of(entries)))
    with tell.step(f"Reconstruct each {step.unit}") as update:

        def progress(number: int, count: int, name: str, done: float, loss: float) -> None:
            whole = count * step.iterations
            update(round((number + done) * step.iterations), whole, f"{name}: loss {loss:.2f} of that before")

        results = reconstruct(quantized, reference, images, step, checkpoints, progress, device)
    shares = [result.after / result.before for result in results if result.before > 0.0]
    if shares:
        tell.note(f"reconstruction left {statistics.geometric_mean(shares):.0%} of the loss, the mean of {len(shares)} regions")


def _calibrate(quantized: QuantizedDetector, recipe: Recipe, entries: list[ImageEntry], tell: Reporter) -> None:
    loader = loader_for(quantized, entries, recipe.calibration.batch_size)
    with tell.step(f"Calibrate on {len(entries)} images") as update:
        calibrate(quantized, (batch.images for batch in loader), len(loader), update)
    for sentence in loader.skipped:
        tell.note(f"skipped: {sentence}")


def _placed_anew(
    quantized: QuantizedDetector,
    detector: Detector,
    reference: GraphModule,
    recipe: Recipe,
    target: Target,
    in_float: Iterable[SensitiveLayer],
    entries: list[ImageEntry],
    tell: Reporter,
) -> QuantizedDetector:
    """The detector placed and calibrated once more, after a step decided what its layers become."""
    again, _ = place(detector, reference, recipe, target, (layer.name for layer in in_float))
    if take_ranges(again, quantized):
        _calibrate(again, recipe, entries, tell)
    else:
        calibrate(again, ())
    return again


def _costliest_layers(
    quantized: QuantizedDetector, step: KeepFloat, most: int, entries: list[ImageEntry], tell: Reporter
) -> list[SensitiveLayer]:
    images = spread_images(quantized, entries, step.images)
    with tell.step("Find the layers that cost most") as update:
        layers = most_sensitive_layers(quantized, images, most, step.least_gain, update)
    if layers:
        named = ", ".join(f"{layer.name} ({layer.gain:.0%} of the error)" for layer in layers)
        tell.note(f"kept in float: {named}")
    return layers

"""The flow behind `yoloquant search`: the fewest layers in float (or with more bits) that keep the accuracy asked for."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yoloquant.algorithms.sensitivity import ranked_layers, sensitivities
from yoloquant.analysis import error_cost
from yoloquant.benchmark.latency import Latency
from yoloquant.data.dataset import load_dataset
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluate.evaluator import EvaluationSettings, evaluate
from yoloquant.latency_search import by_value, measured_gains, runtime_to_time, whole_latency
from yoloquant.models.detector import Detector
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.network import QuantizedDetector
from yoloquant.quantizing import calibration_entries, quantized_in_memory, spread_images, to_detector
from yoloquant.recipe import Override, Recipe, TensorSettings, resolve_recipe
from yoloquant.runtime.torch_runner import TorchRunner


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        recipe: that reaches the goal; its `ignore` or `overrides` name the layers.
        layers: that were changed, the costliest first.
        float_map: mAP50-95 of the float detector, percent.
        found_map: of the recipe's.
        curve: number of changed layers -> mAP50-95, of everything that was measured.
        evaluations: of whole detectors, the float one's included.
        latency: "float", "all in integers" and "found", where latency was searched, too.
    """

    recipe: Recipe
    layers: tuple[str, ...]
    float_map: float
    found_map: float
    curve: dict[int, float]
    evaluations: int
    latency: dict[str, Latency] = field(default_factory=dict)


def search(
    model: str | Path | Detector | Any,
    data: str | Path,
    *,
    max_drop: float | None = None,
    target_map: float | None = None,
    raise_bits: int | None = None,
    optimize_latency: bool = False,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    overrides: tuple[str, ...] = (),
    images: int = 8,
    calibration: str | Path | None = None,
    annotations: str | Path | None = None,
    record: Path | None = None,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Change as few layers as possible to reach an accuracy.

    Layers are ranked once without labels; then bisection over how many of the first are changed finds the number where the goal
    is reached and is missed with one fewer: of n layers, about log2(n) evaluations.

    Args:
        model: as for `yoloquant.quantize`.
        data: `data.yaml` or COCO JSON with labels.
        max_drop: of mAP50-95 against the float detector, percent points; or
        target_map: mAP50-95 to reach, percent.
        raise_bits: give the layers' weights so many bits instead of leaving them in float.
        optimize_latency: all layers may be integers, the last ones too; layers go into float in the order of error mended for
            each millisecond lost on this machine, those that float runs faster first.
        target: deployment target.
        recipe: to start from; `int8-mse` by default.
        overrides: `key=value` changes to the recipe.
        images: calibration images that layers are ranked on.
        calibration: images to calibrate on instead of the train split.
        annotations: COCO JSON with the val split's ground truth.
        record: JSON file that keeps what was measured; an interrupted search goes on from there.
        reporter: told about progress.

    Raises:
        YoloquantError: the goal is above the float detector's own accuracy, or not reached with all layers changed.
    """
    if (max_drop is None) == (target_map is None):
        raise YoloquantError("a search needs one goal: --max-drop or --target-map")
    if optimize_latency and raise_bits is not None:
        raise YoloquantError("more weight bits do not change latency: leave out --raise-bits or --optimize-latency")
    tell = reporter or Silent()
    start = resolve_recipe(recipe, overrides, target, default="int8-mse")
    if optimize_latency:
        runtime = runtime_to_time(start.target)
        start = start.model_copy(update={"input_layers": "quantized", "output_layers": "quantized"})
    detector = to_detector(model)
    entries = calibration_entries(start, data, calibration)
    dataset = load_dataset(data, "val", annotations=annotations)
    if not dataset.ground_truth["annotations"]:
        raise DataError(f"{data} has no boxes to measure mAP with")
    options = EvaluationSettings(**start.evaluation.model_dump())
    known = _Known(record, start)

    def measured(name: str, runner: Callable[[], TorchRunner]) -> float:
        if name not in known.values:
            model_to_run = runner()
            with tell.step(f"Evaluate: {name}") as update:
                known.add(name, evaluate(model_to_run, dataset, options, update).map50_95)
        return known.values[name]

    plain = measured("float", lambda: TorchRunner(detector))
    goal = plain - max_drop if max_drop is not None else float(target_map or 0.0)
    if goal > plain:
        raise YoloquantError(f"the goal of {goal:.2f} mAP50-95 is above the float model's own {plain:.2f}: ask for less")

    def quantized(changed: Recipe) -> QuantizedDetector:
        return quantized_in_memory(detector, changed, entries, tell)

    base = quantized(start)
    cost = error_cost(base, spread_images(base, entries, images))
    with tell.step("Rank layers") as update:
        found = sensitivities(base, cost, "one", ("both",), progress=update)
    ranking, free = list(ranked_layers(found)), 0
    if optimize_latency:
        gains = measured_gains(detector, base, runtime, ranking, tell)
        ranking, free = by_value({result.name: result.cost for result in found}, gains)

    def reached(count: int) -> float:
        changed = with_layers(start, ranking[:count], raise_bits)
        return measured(f"{count} layers", lambda: TorchRunner(base if count == 0 else quantized(changed)))

    count = _least(len(ranking), lambda number: reached(number) >= goal, free)
    if count is None:
        at_best = f"{reached(len(ranking)):.2f} with all {len(ranking)} layers changed"
        raise YoloquantError(
            f"the goal of {goal:.2f} mAP50-95 is not reached: {at_best}; ask for less, or start from another recipe"
        )
    latency: dict[str, Latency] = {}
    if optimize_latency:
        best = quantized(with_layers(start, ranking[:count], None)) if count else base
        latency = whole_latency({"float": detector, "all in integers": base, "found": best}, runtime, tell)
    curve = {int(name.split()[0]): value for name, value in known.values.items() if name != "float"}
    return SearchResult(
        with_layers(start, ranking[:count], raise_bits),
        tuple(ranking[:count]),
        plain,
        reached(count),
        dict(sorted(curve.items())),
        len(known.values),
        latency,
    )


def with_layers(recipe: Recipe, layers: list[str], bits: int | None) -> Recipe:
    """The recipe with some layers in float, or with more weight bits."""
    names = [glob.escape(name) for name in layers]
    if bits is None:
        return recipe.model_copy(update={"ignore": (*recipe.ignore, *names)})
    # Wider weights do without groups, which exist for few bits.
    settings = TensorSettings.model_validate({"bits": bits, "granularity": "channel"})
    changes = tuple(Override(match=name, weights=settings) for name in names)
    return recipe.model_copy(update={"overrides": (*recipe.overrides, *changes)})


def _least(most: int, holds: Callable[[int], bool], first: int = 0) -> int | None:
    """The least number in first..most for which `holds`, which stays true once it is; none if it never is."""
    if holds(first):
        return first
    below, above = first, most
    while above - below > 1:
        middle = (below + above) // 2
        if holds(middle):
            above = middle
        else:
            below = middle
    # `most` itself is only asked about where nothing less holds.
    return above if above < most or (most > 0 and holds(most)) else None


class _Known:
    """What was measured, kept in a file."""

    def __init__(self, path: Path | None, recipe: Recipe) -> None:
        self.path, self.key = path, recipe.to_yaml()
        self.values: dict[str, float] = {}
        if path is not None and path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            self.values = content["values"] if content.get("recipe") == self.key else {}

    def add(self, name: str, value: float) -> None:
        self.values[name] = value
        if self.path is not None:
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps({"recipe": self.key, "values": self.values}, indent=2), encoding="utf-8")
            partial.replace(self.path)

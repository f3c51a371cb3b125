"""The flow behind `yoloquant search`: the fewest layers in float (or with more bits) that keep the accuracy asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from yoloquant.algorithms.job import Job
from yoloquant.analysis.costs import error_cost
from yoloquant.analysis.sensitivity import ranked_layers, sensitivities
from yoloquant.checkpoint.open import file_of_model, to_detector
from yoloquant.data.contents import contents_of, dataset_contents
from yoloquant.data.dataset import DetectionDataset
from yoloquant.data.source import Source
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import evaluate, labelled_split
from yoloquant.evaluation.layer_latency import can_be_timed, measured_gains, runtime_to_time, whole_latency
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.writing import checked_file, write_text
from yoloquant.flows.job import begin, follow, tell_branch
from yoloquant.flows.search_record import SearchRecord
from yoloquant.models.detector import Detector, digest_of
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.images import CalibrationImages, images_to_calibrate, spread_images
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import Recipe, file_of, resolve_recipe
from yoloquant.report.search_page import write_search_page
from yoloquant.results.quantization import versions
from yoloquant.results.search import Search, record_beside
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.layer_rules import TensorSettings
from yoloquant.targets.registry import get_target

# Calibration images that layers are ranked on.
RANKING_IMAGES = 8


def search(
    model: str | Path | Detector | Any,
    source: str | Path | Source,
    *,
    max_drop: float | None = None,
    target_map: float | None = None,
    raise_bits: int | None = None,
    optimize_latency: bool = False,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Search:
    """Change as few layers as possible to reach an accuracy.

    Layers are ranked once without labels; then bisection over how many of the first are changed finds the number where the goal
    is reached and is missed with one fewer: of n layers, about log2(n) evaluations.

    Args:
        model: As for `yoloquant.quantize`.
        source: As for `yoloquant.quantize`, with labels.
        max_drop: Drop of mAP50-95 that is allowed against the float detector, percent points; or
        target_map: mAP50-95 to reach, percent.
        raise_bits: Bits of the weights of changed layers, which stay in float otherwise.
        optimize_latency: Leave first in float what is faster so in the target's runtime on this machine, then the layers whose
            error is largest for each millisecond that float costs; the last layers are quantized, too.
        target: Deployment target; the recipe's own by default.
        recipe: Recipe to start from; `int8-mse` by default.
        output: Recipe to write (`found.yaml`); the curve (`found.html`) and a record of what was measured (`found.search.json`)
            stand beside it. An interrupted search goes on from there.
        reporter: Receives progress.

    Returns:
        The recipe, and the detector that it makes, which `yoloquant.save` writes.

    Raises:
        YoloquantError: The goal is above the float detector's own accuracy, or not reached with all layers changed.
    """
    tell, from_files = reporter or Silent(), Source.of(source)
    if (max_drop is None) == (target_map is None):
        raise YoloquantError("a search needs one goal: --max-drop or --target-map")
    if optimize_latency and raise_bits is not None:
        raise YoloquantError("more weight bits do not change latency: leave out --raise-bits or --optimize-latency")
    written = _checked_files(output)
    refuse_inputs(written or (), [file_of_model(model), *from_files.files, file_of(recipe)])
    start = resolve_recipe(recipe, target, default="int8-mse")
    chosen = get_target(start.target)
    if raise_bits is not None:
        chosen.check(chosen.weights.with_changes(bits=raise_bits), "--raise-bits")
    if optimize_latency:
        runtime_to_time(start.target)
        start = start.model_copy(update={"output_layers": "quantized"})
    detector = to_detector(model)
    tell_branch(detector, tell)
    if from_files.data is None:
        raise DataError("a search measures mAP: name a data set with labels")
    drawn = images_to_calibrate(start.calibration, from_files.data, from_files.calibration)
    dataset = labelled_split(detector.names, from_files.data, from_files.annotations)
    if not dataset.ground_truth["annotations"]:
        raise DataError(f"{from_files.data} has no boxes to measure mAP with")
    for sentence in (*drawn.problems, *dataset.problem_sentences()):
        tell.note(sentence)
    recipe_file, page, record = written or (None, None, None)
    with reserved(recipe_file):
        facts = (start.to_yaml(), raise_bits, optimize_latency, RANKING_IMAGES, sorted(versions().items()))
        key = digest_of(detector, *facts, contents_of(drawn.calibration), dataset_contents(dataset))
        known = SearchRecord(record, key, tell)
        run = _Search(detector, start, drawn, dataset, known, tell, raise_bits)
        found = replace(_found(run, max_drop, target_map, optimize_latency=optimize_latency), source=from_files)
        if recipe_file is not None and page is not None:
            write_text(recipe_file, found.recipe.to_yaml())
            write_search_page(found, page)
            known.end(found)
    return found


def _checked_files(output: str | Path | None) -> tuple[Path, Path, Path] | None:
    """Recipe, page and record to write.

    Raises:
        YoloquantError: One cannot be written, or the page has the recipe's name.
    """
    if output is None:
        return None
    recipe = Path(output)
    page = recipe.with_suffix(".html")
    if page == recipe:
        raise YoloquantError(f"{output} is the name of the curve's page: give the recipe's, as {recipe.with_suffix('.yaml')}")
    files = (recipe, page, record_beside(recipe))
    for path in files:
        checked_file(path)
    return files


def _found(run: _Search, max_drop: float | None, target_map: float | None, *, optimize_latency: bool) -> Search:
    """The bisection."""
    plain = run.measured("float", lambda: TorchRunner(run.detector))
    goal = plain - max_drop if max_drop is not None else float(target_map or 0.0)
    if goal > plain:
        raise YoloquantError(f"the goal of {goal:.2f} mAP50-95 is above the float model's own {plain:.2f}: ask for less")
    free = run.rank(optimize_latency=optimize_latency)
    most = len(run.ranking)
    count = _least(most, lambda number: run.reached(number) >= goal, free)
    if count is None:
        at_best = f"{run.reached(most):.2f} with all {most} layers changed"
        raise YoloquantError(
            f"the goal of {goal:.2f} mAP50-95 is not reached: {at_best}; ask for less, or start from another recipe"
        )
    return run.result(count, goal, plain)


class _Search:
    """What a search knows."""

    def __init__(
        self,
        detector: Detector,
        start: Recipe,
        drawn: CalibrationImages,
        dataset: DetectionDataset,
        known: SearchRecord,
        tell: Reporter,
        raise_bits: int | None,
    ) -> None:
        self.detector, self.start, self.drawn, self.dataset = detector, start, drawn, dataset
        self.known, self.tell, self.raise_bits = known, tell, raise_bits
        self.options = start.evaluation.settings()
        self.ranking: list[str] = []
        self.jobs: dict[int, Job] = {}

    def measured(self, name: str, runner: Callable[[], TorchRunner]) -> float:
        """mAP50-95, measured once."""
        layers = self.ranking[: int(name.split()[0])] if name != "float" else []
        if self.known.get(name, layers) is None:
            model_to_run = runner()
            with self.tell.step(f"Evaluate: {name}") as update:
                found = evaluate(model_to_run, self.dataset, self.options, update)
            self.known.add(name, layers, found.map50_95)
            for sentence in found.skipped if name == "float" else ():
                self.tell.note(f"skipped: {sentence}")
        return self.known.values[name].map50_95

    def rank(self, *, optimize_latency: bool) -> int:
        """Order the layers; returns how many of the first are changed in any case, since float is faster there."""
        base = self.with_changed(0)
        cost = error_cost(base, spread_images(base, self.drawn.calibration, RANKING_IMAGES))
        with self.tell.step("Rank layers") as update:
            found = sensitivities(base, cost, "one", ("both",), progress=update)
        self.ranking = list(ranked_layers(found))
        if not optimize_latency:
            return 0
        gains = measured_gains(self.detector, base, self.start.target, self.ranking, self.tell)
        self.ranking, free = by_value({result.name: result.cost for result in found}, gains)
        return free

    def changed(self, count: int) -> Recipe:
        """The recipe with the first layers changed."""
        return with_layers(self.start, self.ranking[:count], self.raise_bits)

    def with_changed(self, count: int) -> QuantizedDetector:
        """The detector with the first layers changed, made once."""
        if count not in self.jobs:
            recipe = self.changed(count)
            self.jobs[count] = follow(recipe, begin(self.detector, recipe, self.drawn, self.tell))
        return self.jobs[count].quantized

    def reached(self, count: int) -> float:
        """mAP50-95 with the first layers changed."""
        return self.measured(f"{count} layers", lambda: TorchRunner(self.with_changed(count)))

    def result(self, count: int, goal: float, plain: float) -> Search:
        """All that was found; detectors that were made are timed, where the target's runtime is installed."""
        curve = {
            int(name.split()[0]): value.map50_95
            for name, value in self.known.values.items()
            if name != "float" and value.layers == tuple(self.ranking[: int(name.split()[0])])
        }
        # Made again, where an earlier search measured it.
        self.with_changed(count)
        found = Search(
            recipe=self.changed(count),
            job=self.jobs[count],
            layers=tuple(self.ranking[:count]),
            raise_bits=self.raise_bits,
            goal=goal,
            float_map=plain,
            found_map=self.reached(count),
            curve=dict(sorted(curve.items())),
            evaluations=len(curve) + 1,
        )
        if not can_be_timed(self.start.target):
            return found
        files: dict[str, Detector | QuantizedDetector] = {str(number): job.quantized for number, job in sorted(self.jobs.items())}
        times = whole_latency({"float": self.detector, **files}, self.start.target, self.tell)
        latency = {int(name): value for name, value in times.items() if name != "float"}
        return replace(found, runtime=self.start.target, latency=latency, float_latency=times["float"])


def with_layers(recipe: Recipe, layers: list[str], bits: int | None) -> Recipe:
    """The recipe with some layers in float, or with more weight bits."""
    if bits is None:
        return recipe.with_layers(in_float=layers)
    # Wider weights do without groups, which exist for few bits.
    settings = TensorSettings.model_validate({"bits": bits, "granularity": "channel"})
    return recipe.with_layers(weights=dict.fromkeys(layers, settings))


def _least(most: int, holds: Callable[[int], bool], first: int = 0) -> int | None:
    """The minimum number in first..most for which `holds`, which stays true once it is; none if it never is."""
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


def by_value(costs: Mapping[str, float], gains: Mapping[str, float]) -> tuple[list[str], int]:
    """The order in which layers should go back into float, and how many of the first are faster there anyway.

    Behind those, the first is the one whose error is largest for each millisecond that it costs in float.
    """
    free = sorted((name for name in costs if gains[name] <= 0.0), key=lambda name: gains[name])
    others = sorted((name for name in costs if gains[name] > 0.0), key=lambda name: -costs[name] / gains[name])
    return [*free, *others], len(free)

"""The flow behind `yoloquant analyze`: quantize in memory, measure every layer, gather statistics, write what was found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from yoloquant.analysis.costs import error_cost, map_cost, noise_along
from yoloquant.analysis.sensitivity import Mode, Part, Record, Sensitivity, sensitivities
from yoloquant.analysis.tensor_statistics import TensorStatistics, tensor_statistics
from yoloquant.checkpoint.open import file_of_model, to_detector
from yoloquant.data.contents import contents_of, dataset_contents
from yoloquant.data.dataset import DetectionDataset
from yoloquant.data.source import Source
from yoloquant.distributed import process_group, process_number
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import labelled_split
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.writing import checked_own_folder, write_rows, write_text
from yoloquant.flows.job import quantized_in_memory, tell_branch
from yoloquant.flows.plots import write_plots
from yoloquant.models.detector import Detector, digest_of
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.images import images_to_calibrate, spread_images
from yoloquant.recipe.recipe import Recipe, file_of, resolve_recipe
from yoloquant.report.analysis_page import analysis_charts, write_analysis_page
from yoloquant.report.formats import check_format
from yoloquant.results.analysis import ANALYSIS, Analysis
from yoloquant.results.quantization import versions
from yoloquant.targets.registry import get_target

MEASUREMENTS = "measurements.jsonl"
MEASURES = ("error", "map")


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """What is measured of each layer.

    Attributes:
        measure: "error" (of boxes and scores, without labels) or "map" (mAP50-95 lost, percent).
        mode: "one" (only the layer is quantized), "all-but-one", or "block" (only a block is).
        parts: Quantizers of each layer to switch: "both", "weights" and "activations".
        images: Calibration images that errors and statistics are taken from.
        fast: For "map": images of the val split to measure on, spread over few and many objects; all by default.
    """

    measure: str = "error"
    mode: Mode = "one"
    parts: Sequence[Part] = ("both", "weights", "activations")
    images: int = 8
    fast: int | None = None


# What `analyze` does where nothing is said.
ANALYSIS_OPTIONS = AnalysisOptions()


def analyze(
    model: str | Path | Detector | Any,
    source: str | Path | Source | None = None,
    options: AnalysisOptions = ANALYSIS_OPTIONS,
    *,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    output: str | Path | None = None,
    plots: str | None = None,
    reporter: Reporter | None = None,
) -> Analysis:
    """Find what each layer's quantization costs. Under `torchrun` the processes share the layers, and the first one writes.

    Args:
        model: As for `yoloquant.quantize`.
        source: As for `yoloquant.quantize`; labels are only needed for the measure "map".
        options: What is measured.
        target: Deployment target; the recipe's own by default.
        recipe: Preset name, YAML file or `Recipe`; `int8-mse` by default, since the default keeps the costliest layers in float.
        output: Folder for the files; measurements there of an earlier run with the same settings are not repeated.
        plots: "png" or "pdf": every chart as a file in the folder, too.
        reporter: Receives progress.

    Raises:
        YoloquantError: Something given cannot be used.
    """
    tell, from_files = reporter or Silent(), Source.of(source)
    folder = None if output is None else checked_own_folder(output, MEASUREMENTS, "an earlier analysis to go on")
    refuse_inputs([folder], [file_of_model(model), *from_files.files, file_of(recipe)])
    _check_choices(options, plots, folder)
    settings = resolve_recipe(recipe, target, default="int8-mse")
    get_target(settings.target)
    detector = to_detector(model)
    tell_branch(detector, tell)
    images = images_to_calibrate(settings.calibration, from_files.data, from_files.calibration)
    dataset = None
    if options.measure == "map":
        if from_files.data is None:
            raise DataError("measuring mAP needs labels: name a data.yaml with --data")
        dataset = labelled_split(detector.names, from_files.data, from_files.annotations)
    for sentence in (*images.problems, *(dataset.problem_sentences() if dataset else ())):
        tell.note(sentence)
    entries, quantized = images.calibration, quantized_in_memory(detector, settings, images, tell)
    pictures = spread_images(quantized, entries, options.images)
    cost = (
        error_cost(quantized, pictures)
        if dataset is None
        else map_cost(quantized, _smaller(dataset, options.fast), settings.evaluation.settings())
    )
    truth = None if dataset is None else dataset_contents(dataset)
    facts = (settings.to_yaml(), options.measure, options.images, options.fast, contents_of(entries), truth)
    key = digest_of(detector, *facts, sorted(versions().items()))
    # Only now: whatever cannot be used was told, and left nothing behind.
    with reserved(folder):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MEASUREMENTS).touch()
        record = Record(folder / MEASUREMENTS if folder else None, key)
        with process_group("cpu"), tell.step("Measure each layer") as update:
            results = sensitivities(quantized, cost, options.mode, options.parts, record, update)
            writes = process_number() == 0
        with tell.step("Gather statistics") as update:
            statistics = tensor_statistics(quantized, iter(pictures.split(1)), len(pictures), update)
        found = Analysis(
            measure=options.measure,
            mode=options.mode,
            sensitivities=tuple(results),
            statistics=tuple(statistics),
            noise=noise_along(quantized, pictures[:2]),
            advice=_advice(results, statistics),
            recipe=settings,
        )
        if folder and writes:
            write_analysis(found, folder)
            write_plots(analysis_charts(found), folder / "plots", plots, tell)
    return found


def _smaller(dataset: DetectionDataset, count: int | None) -> DetectionDataset:
    """Every k-th image in the order of their numbers of objects, so that a few stand for all."""
    if count is None or count >= len(dataset.images):
        return dataset
    objects: dict[int, int] = {}
    for annotation in dataset.ground_truth["annotations"]:
        objects[annotation["image_id"]] = objects.get(annotation["image_id"], 0) + 1
    ordered = sorted(dataset.images, key=lambda entry: (objects.get(entry.image_id, 0), str(entry.path)))
    step = len(ordered) / count
    return dataclasses.replace(dataset, images=tuple(ordered[int((index + 0.5) * step)] for index in range(count)))


def _advice(results: Sequence[Sensitivity], statistics: Sequence[TensorStatistics]) -> tuple[str, ...]:
    """Sentences on tensors, those of the costliest layers first."""
    rank: dict[str, int] = {}
    for result in results:
        # A convolution and its activation have one parent: model.1.conv, model.1.act.
        unit = result.name if result.mode == "block" else (result.name.rpartition(".")[0] or result.name)
        rank.setdefault(unit + ".", len(rank))

    def place_of(entry: TensorStatistics) -> int:
        return min((place for unit, place in rank.items() if entry.name.startswith(unit)), default=len(rank))

    return tuple(sentence for entry in sorted(statistics, key=place_of) if (sentence := entry.advice()))


def write_analysis(found: Analysis, folder: Path) -> None:
    """Write analysis.json, sensitivity.csv, statistics.csv and analysis.html."""
    write_text(folder / ANALYSIS, json.dumps(found.to_dict(), indent=2))
    write_rows(folder / "sensitivity.csv", [asdict(result) for result in found.sensitivities])
    write_rows(folder / "statistics.csv", [entry.figures() for entry in found.statistics])
    write_analysis_page(found, folder / "analysis.html")


def _check_choices(options: AnalysisOptions, plots: str | None, folder: Path | None) -> None:
    if options.measure not in MEASURES:
        raise YoloquantError(f"the measure is {' or '.join(MEASURES)}, not {options.measure!r}")
    if options.mode not in get_args(Mode):
        raise YoloquantError(f"the mode is {', '.join(get_args(Mode)[:-1])} or {get_args(Mode)[-1]}, not {options.mode!r}")
    check_format(plots)
    if plots is not None and folder is None:
        raise YoloquantError("plots are written into the folder of the analysis: name an output")

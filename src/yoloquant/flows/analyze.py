"""The flow behind `yoloquant analyze`: quantize in memory, measure every layer, gather statistics, write what was found."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

from yoloquant.analysis.costs import error_cost, map_cost, noise_along
from yoloquant.analysis.sensitivity import Mode, Part, Record, Sensitivity, sensitivities
from yoloquant.analysis.tensor_statistics import TensorStatistics, tensor_statistics
from yoloquant.checkpoint.open import to_detector
from yoloquant.data.contents import contents_of, dataset_contents
from yoloquant.data.dataset import DetectionDataset
from yoloquant.distributed import process_group, process_number
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import labelled_split
from yoloquant.files.outputs import refuse_inputs, reserved
from yoloquant.files.writing import checked_own_folder, write_rows, write_text
from yoloquant.flows.job import quantized_in_memory, tell_branch
from yoloquant.models.detector import Detector, digest_of
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.images import images_to_calibrate, spread_images
from yoloquant.recipe.recipe import Recipe, file_of, resolve_recipe
from yoloquant.results.analysis import Analysis
from yoloquant.results.quantization import versions
from yoloquant.targets.registry import get_target

MEASUREMENTS = "measurements.jsonl"
MEASURES = ("error", "map")


def analyze(
    model: str | Path | Detector | Any,
    data: str | Path | None = None,
    *,
    target: str | None = None,
    recipe: str | Path | Recipe | None = None,
    overrides: tuple[str, ...] = (),
    output: str | Path | None = None,
    measure: str = "error",
    mode: Mode = "one",
    parts: Sequence[Part] = ("both", "weights", "activations"),
    images: int = 8,
    fast: int | None = None,
    branch: str | None = None,
    calibration: str | Path | None = None,
    annotations: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Analysis:
    """Find what each layer's quantization costs. Under `torchrun` the processes share the layers, and the first one writes.

    Args:
        model: as for `yoloquant.quantize`.
        data: `data.yaml` or COCO JSON; labels are only needed for measure "map".
        target: deployment target; the recipe's own by default.
        recipe: preset name, YAML file or `Recipe`; `int8-mse` by default, since the default keeps the costliest layers in float.
        overrides: `key=value` changes to the recipe.
        output: folder for the files; measurements there of an earlier run with the same settings are not repeated.
        measure: "error" or "map".
        mode: "one", "all-but-one" or "block".
        parts: of each layer, "both", "weights" and "activations".
        images: calibration images that errors and statistics are taken from.
        fast: for "map": only so many images of the val split, spread over few and many objects.
        branch: `one-to-one` or `one-to-many`, where a network holds both (YOLOv10, YOLO26); see `yoloquant.models.branches`.
        calibration: images to calibrate on instead of the train split.
        annotations: COCO JSON with the val split's ground truth.
        reporter: told about progress.

    Raises:
        YoloquantError: something given cannot be used.
    """
    tell = reporter or Silent()
    folder = None if output is None else checked_own_folder(output, MEASUREMENTS, "an earlier analysis to go on")
    refuse_inputs([folder], [model, data, file_of(recipe), calibration, annotations])
    _check_choices(measure, mode)
    settings = resolve_recipe(recipe, overrides, target, default="int8-mse")
    get_target(settings.target)
    detector = to_detector(model, branch=branch)
    tell_branch(detector, reporter or Silent())
    source = images_to_calibrate(settings.calibration, data, calibration)
    dataset = None
    if measure == "map":
        if data is None:
            raise DataError("measuring mAP needs labels: name a data.yaml with --data")
        dataset = labelled_split(detector.names, data, annotations)
    for sentence in (*source.problems, *(dataset.problem_sentences() if dataset else ())):
        tell.note(sentence)
    entries, quantized = source.calibration, quantized_in_memory(detector, settings, source, tell)
    pictures = spread_images(quantized, entries, images)
    cost = (
        error_cost(quantized, pictures)
        if dataset is None
        else map_cost(quantized, _smaller(dataset, fast), settings.evaluation.settings())
    )
    truth = None if dataset is None else dataset_contents(dataset)
    key = digest_of(detector, settings.to_yaml(), measure, images, fast, contents_of(entries), truth, sorted(versions().items()))
    # Only now: whatever cannot be used was told, and left nothing behind.
    with reserved(folder):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / MEASUREMENTS).touch()
        record = Record(folder / MEASUREMENTS if folder else None, key)
        with process_group("cpu"), tell.step("Measure each layer") as update:
            results = sensitivities(quantized, cost, mode, parts, record, update)
            writes = process_number() == 0
        with tell.step("Gather statistics") as update:
            statistics = tensor_statistics(quantized, iter(pictures.split(1)), len(pictures), update)
        found = Analysis(
            measure=measure,
            mode=mode,
            sensitivities=tuple(results),
            statistics=tuple(statistics),
            noise=noise_along(quantized, pictures[:2]),
            advice=_advice(results, statistics),
            recipe=settings,
        )
        if folder and writes:
            write_analysis(found, folder)
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
    from yoloquant.report.analysis_page import write_analysis_page

    write_text(folder / "analysis.json", json.dumps(found.to_dict(), indent=2))
    write_rows(folder / "sensitivity.csv", [asdict(result) for result in found.sensitivities])
    write_rows(folder / "statistics.csv", [entry.figures() for entry in found.statistics])
    write_analysis_page(found, folder / "analysis.html")


def _check_choices(measure: str, mode: str) -> None:
    if measure not in MEASURES:
        raise YoloquantError(f"the measure is {' or '.join(MEASURES)}, not {measure!r}")
    if mode not in get_args(Mode):
        raise YoloquantError(f"the mode is {', '.join(get_args(Mode)[:-1])} or {get_args(Mode)[-1]}, not {mode!r}")

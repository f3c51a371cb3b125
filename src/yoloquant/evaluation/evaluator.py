"""Evaluate a runner on a data set."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from yoloquant.data.dataset import DetectionDataset, ImageEntry, load_dataset
from yoloquant.data.loader import Batch, ImageLoader
from yoloquant.distributed import gathered, process_count, process_number
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import DetectionTable, joined, table_of
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.matching import match_objects
from yoloquant.evaluation.postprocess import detections_of
from yoloquant.evaluation.precision_recall import class_curves, class_figures, precision_recall
from yoloquant.models.detector import check_input_size
from yoloquant.progress import Update
from yoloquant.runtime.runner import Runner
from yoloquant.spec import Count, Section

# Outputs of the network that wait for suppression at most.
WAITING_OUTPUTS = 2

# Rectangular images are padded to multiples of at least this, as YOLOv5 pads them.
LEAST_STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How detections are made and counted.

    Attributes:
        confidence: Minimum score of a candidate, 0..1.
        iou: Threshold of non-maximum suppression.
        max_detections: Maximum number of boxes in an image.
        batch_size: Number of images run at once; a runner with a fixed batch size gets its own.
        image_size: `(height, width)`; the runner's own by default.
        rectangular: Pad images as `rectangular_size` says, for runners with free height and width.
        workers: Number of threads that load images.
        limit: Maximum number of images, the first ones; None for all.
        class_agnostic: Whether boxes of different classes suppress each other.
    """

    confidence: float = 0.001
    iou: float = 0.6
    max_detections: int = 300
    batch_size: int = 8
    image_size: tuple[int, int] | None = None
    rectangular: bool = False
    workers: int = 2
    limit: int | None = None
    class_agnostic: bool = False


class EvaluationOptions(Section):
    """Thresholds of evaluation; the defaults are those of YOLOv5's own validation for COCO."""

    confidence: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.001
    iou: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    max_detections: Count = 300
    batch_size: Count = 8

    def settings(self, limit: int | None = None) -> EvaluationSettings:
        """How to evaluate with these thresholds, on the first `limit` images or on all of them."""
        return EvaluationSettings(**self.model_dump(), limit=limit)


def _below(sentences: Iterable[str], entries: Sequence[ImageEntry]) -> tuple[str, ...]:
    """Sentences about images, which are named relative to the folder that holds all of them: figures travel, folders do not."""
    folder = f"{os.path.commonpath([entry.path.parent for entry in entries])}{os.sep}" if entries else ""
    return tuple(sentence.replace(folder, "") for sentence in sentences)


def evaluate(
    runner: Runner,
    dataset: DetectionDataset,
    settings: EvaluationSettings | None = None,
    progress: Update | None = None,
) -> Evaluation:
    """Run a model over a data set and measure it.

    In several processes each runs its share of the images, and all return the figures of the whole set.

    Args:
        runner: Runner of the model.
        dataset: Images with ground truth.
        settings: Thresholds; YOLOv5's for COCO by default.
        progress: Callback, called with (images done, images).

    Raises:
        DataError: The data set has no ground truth, or other classes than the model.
        YoloquantError: The model does not run at the image size.
    """
    settings = settings or EvaluationSettings()
    check_classes(runner.names, dataset)
    check_image_size(runner, settings)
    started = time.perf_counter()
    truth = dataset.ground_truth
    annotated = {image["id"] for image in truth["images"]}
    entries = [entry for entry in dataset.images if entry.image_id in annotated][: settings.limit]
    entries = entries[process_number() :: process_count()]
    loader = ImageLoader(
        entries,
        settings.image_size or runner.input_size,
        runner.batch_size or settings.batch_size,
        workers=settings.workers,
        rectangular=settings.rectangular,
        stride=max(LEAST_STRIDE, runner.stride),
        top_left=runner.preprocessing.top_left,
    )
    run_seconds, after_seconds, done = 0.0, 0.0, 0
    tables: list[DetectionTable] = []
    waiting: deque[Future[tuple[DetectionTable, float]]] = deque()
    image_ids: list[int] = []

    def take() -> None:
        nonlocal after_seconds
        table, seconds = waiting.popleft().result()
        tables.append(table)
        after_seconds += seconds

    # Suppression runs beside the network: OpenCV works outside of Python's lock.
    with ThreadPoolExecutor(1) as pool:
        for batch in loader:
            start = time.perf_counter()
            output = run_images(runner, batch.images.numpy())
            run_seconds += time.perf_counter() - start
            waiting.append(pool.submit(_detect, batch, output, runner.layout, settings))
            # Outputs are large: a network that is faster than suppression waits for it.
            if len(waiting) > WAITING_OUTPUTS:
                take()
            image_ids += [entry.image_id for entry in batch.entries]
            done += len(batch.entries)
            if progress:
                progress(done, len(entries))
        while waiting:
            take()
    detections = joined(gathered([joined(tables)]))
    image_ids = gathered(image_ids)
    if not image_ids:
        raise DataError(f"none of the {len(entries)} images could be decoded; the first: {loader.skipped[0]}")
    figures, per_class = coco_figures(truth, detections, image_ids)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    matches = match_objects(truth, detections, image_ids)
    curves = class_curves(matches)
    return Evaluation(
        figures=figures,
        classification=precision_recall(curves),
        classes=class_figures(curves, names),
        per_class={names[category]: values for category, values in per_class.items()},
        image_count=len(image_ids),
        seconds={
            "total": time.perf_counter() - started,
            "before": loader.seconds,
            "run": run_seconds,
            "after": after_seconds,
        },
        skipped=_below(loader.skipped, entries),
        detections=detections,
        matches=matches,
        file_names={image["id"]: image["file_name"] for image in truth["images"]},
        coco_ids=dataset.coco_ids,
    )


def check_image_size(runner: Runner, settings: EvaluationSettings) -> None:
    """Make sure that a model runs at the size that is asked for.

    Raises:
        YoloquantError: It runs at its own size alone, or the size is no multiple of its stride.
    """
    size = settings.image_size or runner.input_size
    is_own = size == runner.input_size
    if not runner.free_size and (settings.rectangular or not is_own):
        height, width = runner.input_size
        raise YoloquantError(
            f"the model runs in {runner.name} at {height}x{width} pixels alone: leave out --image-size and --rectangular, "
            "or export it at the other size"
        )
    if not is_own:
        check_input_size(size, runner.stride)


def run_images(runner: Runner, images: np.ndarray) -> np.ndarray:
    """The runner's decoded output for images uint8 `(N, 3, H, W)`; a fixed batch size is filled up with black images."""
    values = images.astype(np.float32) / np.float32(255.0)
    count = len(values)
    if runner.batch_size and count < runner.batch_size:
        values = np.concatenate([values, np.zeros((runner.batch_size - count, *values.shape[1:]), np.float32)])
    return runner(values)[:count]


def _detect(batch: Batch, output: np.ndarray, layout: str, settings: EvaluationSettings) -> tuple[DetectionTable, float]:
    """Detections of a batch, and the seconds that they took."""
    started = time.perf_counter()
    detections = detections_of(
        output,
        layout,
        settings.confidence,
        settings.iou,
        settings.max_detections,
        class_agnostic=settings.class_agnostic,
    )
    return table_of(batch, detections), time.perf_counter() - started


def labelled_split(names: Sequence[str], data: str | Path, annotations: str | Path | None = None) -> DetectionDataset:
    """The val split that a model can be measured on; what is missing is reported now, and not after all that precedes measuring.

    Raises:
        DataError: There is none, it has other classes than the model, or no labels.
    """
    dataset = load_dataset(data, "val", annotations=annotations)
    check_classes(names, dataset)
    _ = dataset.ground_truth
    return dataset


def check_classes(names: Sequence[str], dataset: DetectionDataset) -> None:
    """Make sure that a data set has as many classes as a model.

    Raises:
        DataError: It has others; one without names is taken as it is.
    """
    if dataset.names and len(dataset.names) != len(names):
        raise DataError(
            f"the model has {len(names)} classes but the data set has {len(dataset.names)}: "
            "give the data set that the model was trained on"
        )

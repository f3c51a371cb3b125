"""Evaluate a runner on a data set."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from yoloquant.data.dataset import DetectionDataset, ImageEntry, load_dataset
from yoloquant.data.ground_truth import CocoIds
from yoloquant.data.loader import Batch, ImageLoader
from yoloquant.distributed import gathered, process_count, process_number
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import DetectionTable, joined, table_of
from yoloquant.evaluation.postprocess import detections_of
from yoloquant.evaluation.precision_recall import PrecisionRecall, precision_recall
from yoloquant.files.reading import parse_json, parsed, read_text
from yoloquant.files.writing import write_text
from yoloquant.models.detector import check_input_size
from yoloquant.progress import Update
from yoloquant.runtime.runner import Runner
from yoloquant.spec import Count, Section
from yoloquant.table import TextTable

# Bytes of a file of figures: some for each of many classes.
LARGEST_FIGURES = 64 << 20

# Outputs of the network that wait for suppression at most.
WAITING_OUTPUTS = 2

# Rectangular images are padded to multiples of at least this, as YOLOv5 pads them.
LEAST_STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How detections are made and counted.

    Attributes:
        confidence: least score of a candidate, 0..1.
        iou: threshold of non-maximum suppression.
        max_detections: kept in an image.
        batch_size: images run at once; a runner with a fixed batch size gets its own.
        image_size: `(height, width)`; the runner's own by default.
        rectangular: Pad images as `rectangular_size` says, for runners with free height and width.
        workers: threads that load images.
        limit: only the first so many images.
        class_agnostic: boxes of different classes suppress each other.
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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: COCO's twelve, percent, by name.
        classification: Precision, recall, F1 and mAP by YOLOv5's formulas.
        per_class: class name -> (mAP50-95, mAP50), percent.
        image_count: images that counted.
        seconds: wall time; "run" is the network's share.
        skipped: sentences about images left out.
        detections: All detections.
        file_names: Image id -> file name.
        coco_ids: Ids of the data set's annotations, for results that are written.
    """

    figures: dict[str, float]
    classification: PrecisionRecall
    per_class: dict[str, tuple[float, float]]
    image_count: int
    seconds: dict[str, float]
    skipped: tuple[str, ...] = ()
    detections: DetectionTable = field(default_factory=lambda: joined([]), repr=False)
    file_names: dict[int, str] = field(default_factory=dict, repr=False)
    coco_ids: CocoIds = field(default_factory=CocoIds, repr=False)

    @property
    def map50_95(self) -> float:
        """mAP at IoU 0.50 to 0.95, percent."""
        return self.figures["mAP50-95"]

    @property
    def map50(self) -> float:
        """mAP at IoU 0.50, percent."""
        return self.figures["mAP50"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The detections as COCO results, with the data set's image ids and class indices, made anew."""
        return list(self.detections.rows())

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values, without the detections; figures over no objects are null."""
        values = asdict(replace(self, detections=joined([]), file_names={}, coco_ids=CocoIds()))
        for name in ("detections", "file_names", "coco_ids"):
            del values[name]
        plain: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda _: None)
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """The inverse of `to_dict`, without the detections."""
        return cls(
            figures=_with_nan(values["figures"]),
            classification=PrecisionRecall(**_with_nan(values["classification"])),
            per_class={name: tuple(_with_nan(pair)) for name, pair in values["per_class"].items()},
            image_count=int(values["image_count"]),
            seconds=dict(values["seconds"]),
            skipped=tuple(values["skipped"]),
        )

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read the figures that `yoloquant evaluate --figures` wrote.

        Raises:
            YoloquantError: The file is missing or damaged, or holds no such figures.
        """
        with parsed(Path(path), YoloquantError, "name a file that `yoloquant evaluate --figures` wrote"):
            return cls.from_dict(parse_json(read_text(Path(path), largest=LARGEST_FIGURES), str(path)))

    def table(self, per_class: bool = False) -> TextTable:
        """COCO's figures, and precision, recall, F1 and mAP by YOLOv5's formulas, percent; each class on request."""
        found = self.classification
        rows = [(name, f"{value:.2f}") for name, value in self.figures.items()]
        at_best = (("precision", found.precision), ("recall", found.recall), ("f1", found.f1))
        rows += [(f"{name} (at confidence {found.confidence:.3f})", f"{value:.2f}") for name, value in at_best]
        areas = (("mAP50-95", found.map50_95), ("mAP50", found.map50))
        rows += [(f"{name} by YOLOv5's formula", f"{value:.2f}") for name, value in areas]
        if per_class:
            rows += [(f"{name}: mAP50-95 / mAP50", f"{a:.2f} / {b:.2f}") for name, (a, b) in self.per_class.items()]
        return TextTable(("figure", "%"), tuple(rows), f"{self.image_count} images")

    def __str__(self) -> str:
        return str(self.table())

    def write_coco_json(self, path: Path) -> None:
        """Write the detections as COCO results, with the image and category ids of the annotations where there are any.

        Without annotations the category is the class index, and the image id the number that is the file's name, or the position
        in the set where names are no numbers.
        """
        images, categories = self.coco_ids.images, self.coco_ids.categories
        rows = [
            {
                **row,
                "image_id": images.get(row["image_id"], row["image_id"]),
                "category_id": categories.get(row["category_id"], row["category_id"]),
                "file_name": self.file_names[row["image_id"]],
            }
            for row in self.detections.rows()
        ]
        write_text(path, json.dumps(rows))


def _with_nan(values: Any) -> Any:
    """Figures read from JSON, where those over no objects are null."""
    if isinstance(values, dict):
        return {name: _with_nan(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_with_nan(value) for value in values]
    return float("nan") if values is None else values


def _below(sentences: Iterable[str], entries: Sequence[ImageEntry]) -> tuple[str, ...]:
    """Sentences about images, which are named relative to the folder that holds all of them: figures travel, folders do not."""
    folder = f"{os.path.commonpath([entry.path.parent for entry in entries])}{os.sep}"
    return tuple(sentence.replace(folder, "") for sentence in sentences)


def evaluate(
    runner: Runner,
    dataset: DetectionDataset,
    settings: EvaluationSettings | None = None,
    progress: Update | None = None,
) -> Evaluation:
    """Run a model over a data set and measure it.

    In several processes each runs its share of the images, and all answer with the figures of the whole set.

    Args:
        runner: the model.
        dataset: images with ground truth.
        settings: thresholds; YOLOv5's for COCO by default.
        progress: called with (images done, images).

    Raises:
        DataError: the data set has no ground truth, or other classes than the model.
        YoloquantError: the model does not run at the image size.
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
    run_seconds, done = 0.0, 0
    tables: list[DetectionTable] = []
    waiting: deque[Future[DetectionTable]] = deque()
    image_ids: list[int] = []
    # Suppression runs beside the network: OpenCV works outside of Python's lock.
    with ThreadPoolExecutor(1) as pool:
        for batch in loader:
            start = time.perf_counter()
            output = run_batch(runner, batch)
            run_seconds += time.perf_counter() - start
            waiting.append(pool.submit(_detect, batch, output, runner.layout, settings))
            # Outputs are large: a network that is faster than suppression waits for it.
            if len(waiting) > WAITING_OUTPUTS:
                tables.append(waiting.popleft().result())
            image_ids += [entry.image_id for entry in batch.entries]
            done += len(batch.entries)
            if progress:
                progress(done, len(entries))
        tables += [future.result() for future in waiting]
    detections = joined(gathered([joined(tables)]))
    image_ids = gathered(image_ids)
    if not image_ids:
        raise DataError(f"none of the {len(entries)} images could be decoded; the first: {loader.skipped[0]}")
    figures, per_class = coco_figures(truth, detections.rows(), image_ids)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    return Evaluation(
        figures=figures,
        classification=precision_recall(truth, detections, image_ids),
        per_class={names[category]: values for category, values in per_class.items()},
        image_count=len(image_ids),
        seconds={"total": time.perf_counter() - started, "run": run_seconds},
        skipped=tuple(loader.skipped),
        detections=detections,
        file_names={image["id"]: image["file_name"] for image in truth["images"]},
        coco_ids=dataset.coco_ids,
    )


def check_image_size(runner: Runner, settings: EvaluationSettings) -> None:
    """Make sure that a model runs at the size that is asked for.

    Raises:
        YoloquantError: it runs at its own size alone, or the size is no multiple of its stride.
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


def run_batch(runner: Runner, batch: Batch) -> np.ndarray:
    """The runner's decoded output for a batch; a fixed batch size is filled up with black images."""
    images = batch.images.numpy().astype(np.float32) / np.float32(255.0)
    count = len(images)
    if runner.batch_size and count < runner.batch_size:
        images = np.concatenate([images, np.zeros((runner.batch_size - count, *images.shape[1:]), np.float32)])
    return runner(images)[:count]


def _detect(batch: Batch, output: np.ndarray, layout: str, settings: EvaluationSettings) -> DetectionTable:
    detections = detections_of(
        output,
        layout,
        settings.confidence,
        settings.iou,
        settings.max_detections,
        class_agnostic=settings.class_agnostic,
    )
    return table_of(batch, detections)


def labelled_split(names: Sequence[str], data: str | Path, annotations: str | Path | None = None) -> DetectionDataset:
    """The val split that a model can be measured on; what is missing is told now, and not after all that precedes measuring.

    Raises:
        DataError: there is none, it has other classes than the model, or no labels.
    """
    dataset = load_dataset(data, "val", annotations=annotations)
    check_classes(names, dataset)
    _ = dataset.ground_truth
    return dataset


def check_classes(names: Sequence[str], dataset: DetectionDataset) -> None:
    """Make sure that a data set has as many classes as a model.

    Raises:
        DataError: it has others; one without names is taken as it is.
    """
    if dataset.names and len(dataset.names) != len(names):
        raise DataError(
            f"the model has {len(names)} classes but the data set has {len(dataset.names)}: "
            "give the data set that the model was trained on"
        )

"""Which detections of a data set are right, by the rule of YOLOv5's validation."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from yoloquant.evaluation.detection_table import DetectionTable

# IoU 0.50, 0.55 to 0.95.
THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True)
class Objects:
    """The objects of a data set, crowds left out.

    Attributes:
        images: `(i,)` int64, ids of all evaluated images, ascending, with or without objects.
        image_ids: `(m,)` int64, the image of each object.
        classes: `(m,)` int32, class indices.
        boxes: `(m, 4)` float64, corners x1, y1, x2, y2 in pixels of the image.
    """

    images: np.ndarray
    image_ids: np.ndarray
    classes: np.ndarray
    boxes: np.ndarray

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.classes)

    def by_image(self) -> dict[int, np.ndarray]:
        """Image id -> indices of its objects."""
        return indices_by(self.image_ids)


@dataclass(frozen=True)
class Matches:
    """Detections with what they hit, by image and class, the most confident first.

    Attributes:
        objects: Objects of the same images.
        image_ids: `(n,)` int64, the image of each detection.
        classes: `(n,)` int32, class indices.
        scores: `(n,)` float64, 0..1.
        hits: `(n, 10)` bool, whether the detection is right at each of `THRESHOLDS`.
    """

    objects: Objects
    image_ids: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    hits: np.ndarray


def no_matches() -> Matches:
    """Of no images."""
    return match_objects({"annotations": []}, DetectionTable.empty(), [])


def indices_by(keys: np.ndarray) -> dict[int, np.ndarray]:
    """Value -> ascending indices at which it stands in `keys`."""
    order = np.argsort(keys, kind="stable")
    values, starts = np.unique(keys[order], return_index=True)
    return {int(value): part for value, part in zip(values, np.split(order, starts[1:]), strict=False)}


def objects_of(truth: dict[str, Any], image_ids: list[int]) -> Objects:
    """The objects of some images.

    Args:
        truth: COCO dictionary.
        image_ids: Images to count; the others are ignored.
    """
    wanted = set(image_ids)
    found = [entry for entry in truth["annotations"] if entry["image_id"] in wanted and not entry["iscrowd"]]
    return Objects(
        np.array(sorted(wanted), np.int64),
        np.array([entry["image_id"] for entry in found], np.int64),
        np.array([entry["category_id"] for entry in found], np.int32),
        corners(np.array([entry["bbox"] for entry in found], np.float64).reshape(-1, 4)),
    )


def match_objects(truth: dict[str, Any], detections: DetectionTable, image_ids: list[int]) -> Matches:
    """Match the detections of some images to their objects.

    Args:
        truth: COCO dictionary.
        detections: Detections of these and possibly other images.
        image_ids: Match in these images only.
    """
    objects = objects_of(truth, image_ids)
    by_image = objects.by_image()
    # By image and class, the most confident first.
    order = np.lexsort((-detections.scores, detections.classes, detections.image_ids))
    order = order[np.isin(detections.image_ids[order], objects.images)]
    images, classes, scores = (column[order] for column in (detections.image_ids, detections.classes, detections.scores))
    boxes = corners(detections.boxes[order])
    hits = np.zeros((len(order), len(THRESHOLDS)), bool)
    starts = np.flatnonzero(np.r_[True, (np.diff(images) != 0) | (np.diff(classes) != 0)][: len(order)])
    for start, end in pairwise([*starts, len(order)]):
        own = by_image.get(int(images[start]))
        if own is not None:
            same = own[objects.classes[own] == classes[start]]
            hits[start:end] = match_detections(boxes[start:end], objects.boxes[same])
    return Matches(objects, images, classes, scores.astype(np.float64), hits)


def match_detections(detections: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Which detections of one class in one image are right.

    Each detection keeps the object it overlaps most, then each object its most confident detection: the rule of `process_batch`
    in YOLOv5 7.0. A detection whose best object has a more confident one is wrong, even if it overlaps another object.

    Args:
        detections: `(n, 4)` corners, the most confident first.
        objects: `(m, 4)` corners.

    Returns:
        `(n, 10)` bool, for each of `THRESHOLDS`.
    """
    right = np.zeros((len(detections), len(THRESHOLDS)), bool)
    if len(detections) and len(objects):
        overlap = box_iou(detections, objects)
        best, value = overlap.argmax(axis=1), overlap.max(axis=1)
        for column, threshold in enumerate(THRESHOLDS):
            candidates = np.nonzero(value >= threshold)[0]
            right[candidates[np.unique(best[candidates], return_index=True)[1]], column] = True
    return right


def corners(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height -> x1, y1, x2, y2, as float64."""
    boxes = boxes.astype(np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of corner boxes `(n, 4)` and `(m, 4)`: `(n, m)`."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    overlap: np.ndarray = shared / np.maximum(area[0][:, None] + area[1][None] - shared, 1e-12)
    return overlap

"""Precision, recall, F1 and average precision by the formulas of YOLOv5's validation."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from yoloquant.evaluation.detection_table import DetectionTable

# IoU 0.50, 0.55 to 0.95.
THRESHOLDS = np.linspace(0.5, 0.95, 10)

# Recalls that average precision is read at, as COCO reads it.
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class PrecisionRecall:
    """Means over the classes that occur, in percent; NaN where no class occurs.

    Attributes:
        precision: Share of detections that are right, at `confidence`.
        recall: Share of objects that are found, at `confidence`.
        f1: Harmonic mean of both, averaged over classes, at `confidence`.
        confidence: Confidence with the highest mean F1, 0..1.
        map50_95: Area under the curve of precision over recall, mean of IoU 0.50 to 0.95; the curve is a line between detections,
            so that this lies below COCO's mAP.
        map50: The same at IoU 0.50.
    """

    precision: float
    recall: float
    f1: float
    confidence: float
    map50_95: float = float("nan")
    map50: float = float("nan")


def precision_recall(truth: dict[str, Any], detections: DetectionTable, image_ids: list[int]) -> PrecisionRecall:
    """Match detections to objects and find the best confidence, as YOLOv5 7.0 does.

    The mean F1 is smoothed over confidence before its highest value is taken. Crowds do not count.

    Args:
        truth: COCO dictionary.
        detections: Of these and possibly other images.
        image_ids: Evaluate on these images only.
    """
    wanted = set(image_ids)
    objects: dict[tuple[int, int], list[list[float]]] = {}
    for annotation in truth["annotations"]:
        if annotation["image_id"] in wanted and not annotation["iscrowd"]:
            objects.setdefault((annotation["image_id"], annotation["category_id"]), []).append(annotation["bbox"])
    counts = Counter(category for (_, category), boxes in objects.items() for _ in boxes)
    if not counts:
        return PrecisionRecall(float("nan"), float("nan"), float("nan"), 0.0)
    # By image and class, the most confident first.
    order = np.lexsort((-detections.scores, detections.classes, detections.image_ids))
    order = order[np.isin(detections.image_ids[order], image_ids)]
    images, classes, scores = (column[order] for column in (detections.image_ids, detections.classes, detections.scores))
    corners = _corners(detections.boxes[order])
    hits = np.zeros((len(order), len(THRESHOLDS)), bool)
    starts = np.flatnonzero(np.r_[True, (np.diff(images) != 0) | (np.diff(classes) != 0)][: len(order)])
    for start, end in pairwise([*starts, len(order)]):
        found = objects.get((int(images[start]), int(classes[start])))
        if found is not None:
            hits[start:end] = match_detections(corners[start:end], _corners(np.array(found)))
    return _summary({c: (scores[classes == c].astype(np.float64), hits[classes == c], counts[c]) for c in sorted(counts)})


def _summary(classes: dict[int, tuple[np.ndarray, np.ndarray, int]]) -> PrecisionRecall:
    """Figures of classes with their scores, hits and numbers of objects."""
    grid = np.linspace(0.0, 1.0, 1000)
    curves = [_curves(*found, grid) for found in classes.values()]
    precision, recall = np.array([curve[0] for curve in curves]), np.array([curve[1] for curve in curves])
    areas = np.array([average_precision(*found) for found in classes.values()]) * 100
    f1 = 2 * precision * recall / (precision + recall + 1e-16)
    best = int(_smooth(f1.mean(axis=0), 0.1).argmax())
    means = [float(values[:, best].mean() * 100) for values in (precision, recall, f1)]
    return PrecisionRecall(means[0], means[1], means[2], float(grid[best]), float(areas.mean()), float(areas[:, 0].mean()))


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


def _corners(boxes: np.ndarray) -> np.ndarray:
    """x, y, width, height -> x1, y1, x2, y2."""
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


def average_precision(scores: np.ndarray, hits: np.ndarray, count: int) -> np.ndarray:
    """Area under the curve of precision over recall, by the trapezoidal rule over 101 recalls, as in YOLOv5 and ultralytics.

    Args:
        scores: `(n,)`.
        hits: `(n, t)` bool, for t thresholds.
        count: Objects of the class.

    Returns:
        `(t,)`, 0..1.
    """
    if not len(scores):
        return np.zeros(hits.shape[1])
    right = hits[np.argsort(-scores, kind="stable")].cumsum(axis=0)
    precisions, recalls = right / np.arange(1, len(right) + 1)[:, None], right / count
    return np.array([_area(precision, recall) for precision, recall in zip(precisions.T, recalls.T, strict=True)])


def _area(precision: np.ndarray, recall: np.ndarray) -> float:
    """Area under one curve, which begins at precision 1 and falls to 0 behind its last recall."""
    x = np.concatenate([[0.0], recall, [recall[-1], 1.0]])
    y = np.maximum.accumulate(np.concatenate([[1.0], precision, [0.0, 0.0]])[::-1])[::-1]
    values = np.interp(_RECALLS, x, y)
    return float(((values[1:] + values[:-1]) / 2 * np.diff(_RECALLS)).sum())


def _curves(scores: np.ndarray, hits: np.ndarray, count: int, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of one class at IoU 0.50, at each confidence of the grid."""
    if not len(scores):
        return np.zeros_like(grid), np.zeros_like(grid)
    order = np.argsort(-scores, kind="stable")
    right = hits[order, 0].cumsum()
    precision = np.interp(-grid, -scores[order], right / np.arange(1, len(right) + 1), left=1.0)
    recall = np.interp(-grid, -scores[order], right / count, left=0.0)
    return precision, recall


def _smooth(values: np.ndarray, share: float) -> np.ndarray:
    """Box filter over `share` of the values, ends repeated."""
    width = round(len(values) * share * 2) // 2 + 1
    padding = np.ones(width // 2)
    padded = np.concatenate([padding * values[0], values, padding * values[-1]])
    return np.convolve(padded, np.ones(width) / width, mode="valid")

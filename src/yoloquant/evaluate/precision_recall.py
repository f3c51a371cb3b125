"""Precision, recall and F1 as YOLOv5's validation prints them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PrecisionRecall:
    """Means over the classes that occur, in percent, at the confidence with the highest mean F1.

    Attributes:
        precision: share of detections that are right.
        recall: share of objects that are found.
        f1: harmonic mean of both, averaged over classes.
        confidence: where these hold, 0..1.
    """

    precision: float
    recall: float
    f1: float
    confidence: float


def precision_recall(truth: dict[str, Any], rows: list[dict[str, Any]], image_ids: list[int]) -> PrecisionRecall:
    """Match detections to objects at IoU 0.5 and find the best confidence.

    Each detection is matched to the object of its class that it overlaps most, each object to one detection; the curves
    are smoothed over confidence before the highest mean F1 is taken, as in YOLOv5. Crowds do not count.

    Args:
        truth: COCO dictionary.
        rows: COCO results.
        image_ids: evaluate on these images only.
    """
    wanted = set(image_ids)
    objects = _by_image_and_class(a for a in truth["annotations"] if a["image_id"] in wanted and not a["iscrowd"])
    found = _by_image_and_class(row for row in rows if row["image_id"] in wanted)
    counts: dict[int, int] = {}
    for (_, category), boxes in objects.items():
        counts[category] = counts.get(category, 0) + len(boxes)
    scores: dict[int, list[float]] = {category: [] for category in counts}
    hits: dict[int, list[bool]] = {category: [] for category in counts}
    for key, detections in found.items():
        if key[1] in counts:
            scores[key[1]] += [row["score"] for row in detections]
            hits[key[1]] += _match(detections, objects.get(key, [])).tolist()
    if not counts:
        return PrecisionRecall(float("nan"), float("nan"), float("nan"), 0.0)
    grid = np.linspace(0.0, 1.0, 1000)
    curves = [_curves(np.array(scores[c]), np.array(hits[c], bool), counts[c], grid) for c in sorted(counts)]
    precision, recall = np.array([curve[0] for curve in curves]), np.array([curve[1] for curve in curves])
    f1 = 2 * precision * recall / (precision + recall + 1e-16)
    best = int(_smooth(f1.mean(axis=0), 0.1).argmax())
    means = [float(values[:, best].mean() * 100) for values in (precision, recall, f1)]
    return PrecisionRecall(means[0], means[1], means[2], float(grid[best]))


def _by_image_and_class(rows: Any) -> dict[tuple[int, int], list[dict[str, Any]]]:
    grouped: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["image_id"], row["category_id"]), []).append(row)
    return grouped


def _match(detections: list[dict[str, Any]], objects: list[dict[str, Any]]) -> np.ndarray:
    """Which detections are right: pairs by falling overlap, each side used once."""
    right = np.zeros(len(detections), bool)
    if not objects:
        return right
    overlap = box_iou(_corners(objects), _corners(detections))
    object_index, detection_index = np.nonzero(overlap >= 0.5)
    used = np.zeros(len(objects), bool)
    for pair in np.argsort(-overlap[object_index, detection_index], kind="stable"):
        o, d = object_index[pair], detection_index[pair]
        if not used[o] and not right[d]:
            used[o] = right[d] = True
    return right


def _corners(rows: list[dict[str, Any]]) -> np.ndarray:
    boxes = np.array([row["bbox"] for row in rows], np.float64)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of corner boxes `(n, 4)` and `(m, 4)`: `(n, m)`."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area = [np.prod(np.clip(boxes[:, 2:] - boxes[:, :2], 0, None), axis=1) for boxes in (first, second)]
    return shared / np.maximum(area[0][:, None] + area[1][None] - shared, 1e-12)


def _curves(scores: np.ndarray, hits: np.ndarray, count: int, grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of one class at each confidence of the grid."""
    if not len(scores):
        return np.zeros_like(grid), np.zeros_like(grid)
    order = np.argsort(-scores, kind="stable")
    right = hits[order].cumsum()
    wrong = (~hits[order]).cumsum()
    precision = np.interp(-grid, -scores[order], right / (right + wrong), left=1.0)
    recall = np.interp(-grid, -scores[order], right / count, left=0.0)
    return precision, recall


def _smooth(values: np.ndarray, share: float) -> np.ndarray:
    """Box filter over `share` of the values, ends repeated."""
    width = round(len(values) * share * 2) // 2 + 1
    padding = np.ones(width // 2)
    padded = np.concatenate([padding * values[0], values, padding * values[-1]])
    return np.convolve(padded, np.ones(width) / width, mode="valid")

"""Precision, recall, F1 and average precision of each class by the formulas of YOLOv5's validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from yoloquant.evaluation.matching import THRESHOLDS, Matches

# Confidences that precision and recall are read at, and recalls that precision is read at for a picture.
GRID = np.linspace(0.0, 1.0, 1000)
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


@dataclass(frozen=True)
class ClassCurves:
    """Curves of the classes that occur, at IoU 0.50; all values 0..1.

    Attributes:
        classes: `(k,)` int, class indices, ascending.
        objects: `(k,)` int, objects of each class.
        images: `(k,)` int, images that hold them.
        precision: `(k, 1000)`, at each confidence of `GRID`.
        recall: `(k, 1000)`, at each confidence of `GRID`.
        precision_at_recall: `(k, 1000)`, at each recall of `GRID`.
        average_precision: `(k, 10)`, at each of `THRESHOLDS`.
    """

    classes: np.ndarray
    objects: np.ndarray
    images: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    precision_at_recall: np.ndarray
    average_precision: np.ndarray

    @cached_property
    def f1(self) -> np.ndarray:
        """`(k, 1000)`, harmonic mean of precision and recall at each confidence of `GRID`."""
        mean: np.ndarray = 2 * self.precision * self.recall / (self.precision + self.recall + 1e-16)
        return mean

    @cached_property
    def best(self) -> int:
        """Index into `GRID` of the confidence at which the mean F1, smoothed over confidence, is highest; 0 without classes."""
        return int(smooth(self.f1.mean(axis=0), 0.1).argmax()) if len(self.classes) else 0


def class_curves(matches: Matches) -> ClassCurves:
    """The curves of every class that has objects."""
    objects = matches.objects
    classes, counts = np.unique(objects.classes, return_counts=True)
    images = np.array([len(np.unique(objects.image_ids[objects.classes == index])) for index in classes], int)
    precision, recall, over_recall = (np.zeros((len(classes), len(GRID))) for _ in range(3))
    areas = np.zeros((len(classes), len(THRESHOLDS)))
    for row, (index, count) in enumerate(zip(classes, counts, strict=True)):
        own = np.flatnonzero(matches.classes == index)
        own = own[np.argsort(-matches.scores[own], kind="stable")]
        if len(own):
            scores, hits = matches.scores[own], matches.hits[own]
            precision[row], recall[row] = _over_confidence(scores, hits[:, 0], count)
            over_recall[row] = np.interp(GRID, *_envelope(hits[:, 0], count))
            areas[row] = average_precision(scores, hits, count)
    return ClassCurves(classes, counts, images, precision, recall, over_recall, areas)


def precision_recall(curves: ClassCurves) -> PrecisionRecall:
    """Means over the classes, at the confidence with the best mean F1, as YOLOv5 7.0 takes them."""
    if not len(curves.classes):
        return PrecisionRecall(float("nan"), float("nan"), float("nan"), 0.0)
    means = [float(values[:, curves.best].mean() * 100) for values in (curves.precision, curves.recall, curves.f1)]
    areas = curves.average_precision * 100
    return PrecisionRecall(
        means[0], means[1], means[2], float(GRID[curves.best]), float(areas.mean()), float(areas[:, 0].mean())
    )  # fmt: skip


@dataclass(frozen=True)
class ClassFigures:
    """One class that occurs; percentages by YOLOv5's formulas.

    Attributes:
        name: Name of the class.
        images: Number of images that hold objects of it.
        objects: Number of objects of it.
        precision: Percent, at the confidence with the best mean F1 of all classes.
        recall: Percent, at the same confidence.
        map50: Average precision at IoU 0.50, percent.
        map50_95: Average precision, mean of IoU 0.50 to 0.95, percent.
    """

    name: str
    images: int
    objects: int
    precision: float
    recall: float
    map50: float
    map50_95: float


def class_figures(curves: ClassCurves, names: dict[int, str]) -> tuple[ClassFigures, ...]:
    """The row of each class that occurs, in the order of class indices; `names` has a name for each index."""
    areas = curves.average_precision * 100
    return tuple(
        ClassFigures(
            name=names[int(index)],
            images=int(curves.images[row]),
            objects=int(curves.objects[row]),
            precision=float(curves.precision[row, curves.best] * 100),
            recall=float(curves.recall[row, curves.best] * 100),
            map50=float(areas[row, 0]),
            map50_95=float(areas[row].mean()),
        )
        for row, index in enumerate(curves.classes)
    )


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
    ordered = hits[np.argsort(-scores, kind="stable")]
    return np.array([_area(*_envelope(column, count)) for column in ordered.T])


def _envelope(hits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Recalls, and the maximum precision at each or a greater one: 1 at first, and 0 behind the last recall.

    Args:
        hits: `(n,)` bool, the most confident first.
        count: Objects of the class.
    """
    right = hits.cumsum()
    recall = right / count
    x = np.concatenate([[0.0], recall, [recall[-1], 1.0]])
    y = np.concatenate([[1.0], right / np.arange(1, len(right) + 1), [0.0, 0.0]])
    return x, np.maximum.accumulate(y[::-1])[::-1]


def _area(x: np.ndarray, y: np.ndarray) -> float:
    values = np.interp(_RECALLS, x, y)
    return float(((values[1:] + values[:-1]) / 2 * np.diff(_RECALLS)).sum())


def _over_confidence(scores: np.ndarray, hits: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of one class at each confidence of `GRID`; scores and hits come with the most confident first."""
    right = hits.cumsum()
    precision = np.interp(-GRID, -scores, right / np.arange(1, len(right) + 1), left=1.0)
    recall = np.interp(-GRID, -scores, right / count, left=0.0)
    return precision, recall


def smooth(values: np.ndarray, share: float) -> np.ndarray:
    """Box filter over `share` of the values, ends repeated."""
    width = round(len(values) * share * 2) // 2 + 1
    padding = np.ones(width // 2)
    padded = np.concatenate([padding * values[0], values, padding * values[-1]])
    return np.convolve(padded, np.ones(width) / width, mode="valid")

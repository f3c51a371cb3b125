"""From candidate boxes to detections."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch

from yoloquant.models.output_formats import LAYOUTS

# Candidates that are compared at first, for each box that may stay, and how much faster their number then grows.
_FIRST = 4


@dataclass(frozen=True)
class Detections:
    """Boxes that were found in one image, best first.

    Attributes:
        boxes: `(n, 4)` float32, x1, y1, x2, y2.
        scores: `(n,)` float32, 0..1.
        classes: `(n,)` int64.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.scores)


def detections_of(
    output: np.ndarray,
    layout: str,
    confidence: float = 0.001,
    iou: float = 0.6,
    max_detections: int = 300,
    *,
    class_agnostic: bool = False,
    multi_label: bool = True,
) -> list[Detections]:
    """Detections in a runner's decoded output; layouts of final detections are only cut by score and count.

    Args:
        output: Output of the runner.
        layout: Layout of the decoded output, a key of `LAYOUTS`.
        confidence: Minimum score.
        iou: Threshold of suppression.
        max_detections: Maximum number of boxes in an image.
        class_agnostic: Whether boxes of different classes suppress each other.
        multi_label: Whether a box counts once for each class above the confidence.
    """
    chosen = LAYOUTS[layout]
    boxes, scores = (part.numpy() for part in chosen.candidates(torch.from_numpy(np.ascontiguousarray(output))))
    # Boxes overlap by at most 1, so this threshold suppresses nothing.
    iou = 1.0 if chosen.suppressed else iou
    return non_maximum_suppression(
        boxes, scores, confidence, iou, max_detections, class_agnostic=class_agnostic, multi_label=multi_label
    )


def non_maximum_suppression(
    boxes: np.ndarray,
    scores: np.ndarray,
    confidence: float = 0.001,
    iou: float = 0.6,
    max_detections: int = 300,
    *,
    class_agnostic: bool = False,
    multi_label: bool = True,
    max_candidates: int = 30000,
) -> list[Detections]:
    """Greedy suppression of overlapping boxes of one class, as YOLOv5's validation does it.

    Args:
        boxes: `(N, A, 4)`, x1, y1, x2, y2.
        scores: `(N, A, C)`, 0..1.
        confidence: Score that candidates must exceed.
        iou: Intersection over union with a better box above which a box is suppressed.
        max_detections: Maximum number of boxes in an image.
        class_agnostic: Whether boxes of different classes suppress each other.
        multi_label: Whether a box counts once for each class above the confidence, not only for its best.
        max_candidates: Maximum number of candidates that enter the suppression, the best ones.

    Returns:
        Detections of each image.
    """
    suppress = partial(_suppress, class_agnostic=class_agnostic, multi_label=multi_label, max_candidates=max_candidates)
    return [suppress(*image, confidence, iou, max_detections) for image in zip(boxes, scores, strict=True)]


def _suppress(
    boxes: np.ndarray,
    scores: np.ndarray,
    confidence: float,
    iou: float,
    max_detections: int,
    *,
    class_agnostic: bool,
    multi_label: bool,
    max_candidates: int,
) -> Detections:
    if multi_label:
        rows, classes = np.nonzero(scores > confidence)
    else:
        best = scores.argmax(axis=1)
        rows = np.nonzero(scores[np.arange(len(scores)), best] > confidence)[0]
        classes = best[rows]
    values = scores[rows, classes]
    # A stable sort lets equal scores keep their order, so that every platform keeps the same boxes.
    order = np.argsort(-values, kind="stable")[:max_candidates]
    rows, classes, values = rows[order], classes[order], values[order]
    chosen = boxes[rows]
    kept = greedy_suppression(chosen, np.zeros_like(classes) if class_agnostic else classes, iou, max_detections)
    return Detections(chosen[kept].astype(np.float32), values[kept].astype(np.float32), classes[kept].astype(np.int64))


def greedy_suppression(boxes: np.ndarray, classes: np.ndarray, iou: float, max_kept: int) -> np.ndarray:
    """Indices of the boxes that stay.

    Args:
        boxes: `(n, 4)` corners, best first.
        classes: `(n,)`; only boxes of one class suppress each other.
        iou: Threshold.
        max_kept: Maximum number of boxes, the best ones.

    Returns:
        Ascending indices.
    """
    # Which of the first boxes stay does not depend on those behind them: where enough stay, the others are not compared. Of the
    # 30,000 candidates of an unsure network nearly all do.
    taken = min(len(boxes), _FIRST * max_kept)
    while True:
        kept = _all_kept(boxes[:taken], classes[:taken], iou)
        if len(kept) >= max_kept or taken == len(boxes):
            return kept[:max_kept]
        taken = min(len(boxes), _FIRST * taken)


def _all_kept(boxes: np.ndarray, classes: np.ndarray, iou: float) -> np.ndarray:
    """Ascending indices of the boxes, best first, that no better one of their class suppresses."""
    if not len(boxes):
        return np.zeros(0, np.int64)
    rectangles: Any = np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0)], axis=1).astype(np.float64)
    # Scores that fall with the index make OpenCV keep the given order.
    ranks: Any = np.linspace(1.0, 0.5, len(boxes), dtype=np.float32)
    numbers: Any = classes.astype(np.int32)
    kept = cv2.dnn.NMSBoxesBatched(rectangles, ranks, numbers, 0.0, iou)
    return np.sort(np.asarray(kept, np.int64).reshape(-1))

"""The confusion matrix: which class a detection has, and which the object it covers."""

from __future__ import annotations

import numpy as np

from yoloquant.evaluation.detection_table import DetectionTable
from yoloquant.evaluation.matching import Objects, box_iou, corners, indices_by

# As in ultralytics' validation.
CONFIDENCE, IOU = 0.25, 0.45


def confusion_matrix(
    objects: Objects, detections: DetectionTable, class_count: int, confidence: float = CONFIDENCE, iou: float = IOU
) -> np.ndarray:
    """Count pairs of detections and objects, whatever their classes, as ultralytics 8.4's `ConfusionMatrix` does.

    The most confident detection takes the free object that it overlaps most, if by more than `iou`, then the next detection.

    Args:
        objects: Objects of the evaluated images.
        detections: Detections of these and possibly other images.
        class_count: C, classes of the model.
        confidence: Score that detections must exceed.
        iou: Intersection over union that a detection and its object must exceed.

    Returns:
        `(C + 1, C + 1)` int64, rows: class that was predicted, columns: class of the object. The last row counts objects that
        were missed, the last column detections of nothing.
    """
    matrix = np.zeros((class_count + 1, class_count + 1), np.int64)
    chosen = np.flatnonzero((detections.scores > confidence) & np.isin(detections.image_ids, objects.images))
    boxes, scores, classes = corners(detections.boxes[chosen]), detections.scores[chosen], detections.classes[chosen]
    detections_in, objects_in = indices_by(detections.image_ids[chosen]), objects.by_image()
    none = np.zeros(0, int)
    for image in objects.images.tolist():
        found, things = detections_in.get(image, none), objects_in.get(image, none)
        found = found[np.argsort(-scores[found], kind="stable")]
        partners = _partners(box_iou(boxes[found], objects.boxes[things]), iou)
        missed = np.setdiff1d(np.arange(len(things)), partners)
        true = np.where(partners >= 0, np.append(objects.classes[things], class_count)[partners], class_count)
        np.add.at(matrix, (classes[found], true), 1)
        np.add.at(matrix, (class_count, objects.classes[things[missed]]), 1)
    return matrix


def _partners(overlap: np.ndarray, iou: float) -> np.ndarray:
    """For each detection, the most confident first, the object that it takes, or -1; `overlap` is `(n, m)` and is changed."""
    partners = np.full(len(overlap), -1)
    for number, row in enumerate(overlap if overlap.shape[1] else ()):
        best = int(row.argmax())
        if row[best] > iou:
            partners[number] = best
            overlap[:, best] = 0.0
    return partners

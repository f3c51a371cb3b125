"""COCO's twelve figures, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from yoloquant.evaluation.detection_table import DetectionTable

FIGURES = (
    "mAP50-95",
    "mAP50",
    "mAP75",
    "mAP50-95 small",
    "mAP50-95 medium",
    "mAP50-95 large",
    "mAR 1",
    "mAR 10",
    "mAR 100",
    "mAR small",
    "mAR medium",
    "mAR large",
)

# Pairs of a class and an image, boxes of either kind among them, that are evaluated at once: each takes some hundred bytes.
_AT_ONCE = 500_000
_NO_OUTLINE: list[Any] = []


def coco_figures(
    truth: dict[str, Any], detections: DetectionTable, image_ids: list[int]
) -> tuple[dict[str, float], dict[int, tuple[float, float]]]:
    """The twelve figures, and for each class mAP50-95 and mAP50, all in percent.

    All figures are means over the classes that have objects, so that classes are evaluated a few at a time, on the images that
    have objects or detections of them: memory grows neither with the number of classes nor with that of images beside them.

    Args:
        truth: COCO dictionary.
        detections: Detections of these and possibly other images.
        image_ids: Images to evaluate on; the others are ignored.

    Returns:
        Figures by the names of `FIGURES`; class index -> (mAP50-95, mAP50), NaN for classes without objects. A figure over no
        objects is NaN.
    """
    objects = _objects(truth, set(image_ids))
    found = _positions(detections, image_ids)
    nothing = np.zeros(0, np.int64)
    values: dict[int, np.ndarray] = {}
    for classes in _together({category: len(boxes) + len(found.get(category, ())) for category, boxes in objects.items()}):
        # Rows and annotations take many times the memory of columns, and only those of these classes are there.
        rows = detections.taken(np.sort(np.concatenate([found.get(category, nothing) for category in classes]))).rows()
        values.update(_class_values(truth, [box for category in classes for box in objects[category]], list(rows)))
    columns = np.array([values[category] for category in sorted(values)]).reshape(-1, len(FIGURES)).T
    figures = {name: _mean_percent(column) for name, column in zip(FIGURES, columns, strict=True)}
    none = np.full(2, -1.0)
    per_class = {int(category["id"]): values.get(category["id"], none)[:2] for category in truth["categories"]}
    return figures, {
        category: (_mean_percent(overall), _mean_percent(at_half)) for category, (overall, at_half) in sorted(per_class.items())
    }


def _objects(truth: dict[str, Any], image_ids: set[int]) -> dict[int, list[dict[str, Any]]]:
    """Annotations of some images, by their class."""
    found: dict[int, list[dict[str, Any]]] = {}
    for annotation in truth["annotations"]:
        if annotation["image_id"] in image_ids:
            found.setdefault(annotation["category_id"], []).append(annotation)
    return found


def _positions(detections: DetectionTable, image_ids: list[int]) -> dict[int, np.ndarray]:
    """Class -> ascending positions in the table of its detections in some images."""
    wanted = np.flatnonzero(np.isin(detections.image_ids, image_ids))
    order = wanted[np.argsort(detections.classes[wanted], kind="stable")]
    classes, starts = np.unique(detections.classes[order], return_index=True)
    return dict(zip(classes.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}


def _together(counts: dict[int, int]) -> Iterator[list[int]]:
    """Classes that are evaluated at once, each of which has the given number of boxes, in no more images than that."""
    classes: list[int] = []
    boxes = 0
    for category, count in sorted(counts.items()):
        if classes and (len(classes) + 1) * (boxes + count) > _AT_ONCE:
            yield classes
            classes, boxes = [], 0
        classes.append(category)
        boxes += count
    if classes:
        yield classes


def _class_values(truth: dict[str, Any], annotations: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[int, np.ndarray]:
    """Class -> its values of `FIGURES`, 0..1; -1 where it has no objects of a size."""
    from faster_coco_eval import COCO, COCOeval_faster

    classes = {annotation["category_id"] for annotation in annotations}
    image_ids = {box["image_id"] for box in (*annotations, *rows)}
    part = {
        "info": {},
        "images": [image for image in truth["images"] if image["id"] in image_ids],
        "annotations": annotations,
        "categories": [category for category in truth["categories"] if category["id"] in classes],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(part)
        for row in rows:
            # It would be made of each box where there is none.
            row["segmentation"] = _NO_OUTLINE
        results = ground.loadRes(rows) if rows else COCO({**part, "annotations": []})
        evaluation = COCOeval_faster(ground, results, "bbox", print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
    # (IoU, recall, class, area, detections) and (IoU, class, area, detections); a class without objects has -1 throughout.
    precision, recall = (np.asarray(evaluation.eval[name]) for name in ("precision", "recall"))
    best = precision[..., -1]
    values = [
        *(best[..., 0].mean((0, 1)), best[0, ..., 0].mean(0), best[5, ..., 0].mean(0)),
        *(best[..., area].mean((0, 1)) for area in (1, 2, 3)),
        *(recall[:, :, 0, most].mean(0) for most in (0, 1, 2)),
        *(recall[:, :, area, -1].mean(0) for area in (1, 2, 3)),
    ]
    return dict(zip(map(int, evaluation.params.catIds), np.stack(values, axis=1), strict=True))


def _mean_percent(values: np.ndarray) -> float:
    """The mean of one or more values that are not -1, in percent; NaN where all are."""
    valid = values[values > -1]
    return float(valid.mean() * 100.0) if len(valid) else float("nan")

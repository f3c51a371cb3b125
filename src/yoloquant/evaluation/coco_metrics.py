"""COCO's twelve figures, by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable
from typing import Any

import numpy as np

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

_NO_OUTLINE: list[Any] = []


def coco_figures(
    truth: dict[str, Any], rows: Iterable[dict[str, Any]], image_ids: list[int]
) -> tuple[dict[str, float], dict[int, tuple[float, float]]]:
    """The twelve figures, and for each class mAP50-95 and mAP50, all in percent.

    Args:
        truth: COCO dictionary.
        rows: COCO results.
        image_ids: evaluate on these images only.

    Returns:
        Figures by the names of `FIGURES`; class index -> (mAP50-95, mAP50), NaN for classes without objects. A figure over no
        objects is NaN.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        ground = COCO(truth)
        # Copies, since the rows get further keys; an outline of each box would be made where there is none.
        found = [{**row, "segmentation": _NO_OUTLINE} for row in rows]
        results = ground.loadRes(found) if found else COCO({**truth, "annotations": []})
        evaluation = COCOeval_faster(ground, results, "bbox", print_function=lambda *_: None)
        evaluation.params.imgIds = sorted(image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    figures = dict(zip(FIGURES, (_percent(value) for value in evaluation.stats[:12]), strict=True))
    precision = np.asarray(evaluation.eval["precision"])  # (IoU, recall, class, area, detections)
    per_class = {}
    for position, category in enumerate(evaluation.params.catIds):
        values = precision[:, :, position, 0, -1]
        valid = values > -1
        overall = float(values[valid].mean() * 100) if valid.any() else float("nan")
        at_half = float(values[0][valid[0]].mean() * 100) if valid[0].any() else float("nan")
        per_class[int(category)] = (overall, at_half)
    return figures, per_class


def _percent(value: float) -> float:
    return float("nan") if value < 0 else float(value) * 100.0

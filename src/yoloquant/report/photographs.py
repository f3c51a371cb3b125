"""The photographs in which float and quantized detections differ most, as small pictures that a page holds itself."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yoloquant.data.images import read_image
from yoloquant.evaluation.postprocess import Detections
from yoloquant.evaluation.predict import draw_detections

# Least score of a box that a person would be shown, and overlap from which two boxes are the same object.
_CONFIDENCE, _IOU = 0.25, 0.5
_SIDE, _QUALITY = 480, 72

Row = dict[str, Any]


@dataclass(frozen=True)
class Photograph:
    """One photograph, twice.

    Attributes:
        name: of the file.
        before: data URI of a JPEG with the float model's boxes; after: with the quantized one's.
        lost: boxes of the float model that the quantized one does not find; found: the other way round.
        size: `(width, height)` of the pictures, pixels.
    """

    name: str
    before: str
    after: str
    lost: int
    found: int
    size: tuple[int, int]


def unmatched(before: Sequence[Row], after: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """COCO result rows of one image that have no partner of the same class with an overlap of at least 0.5 in the other list."""
    left = sorted(after, key=lambda row: -row["score"])
    lost = []
    for row in sorted(before, key=lambda row: -row["score"]):
        same = [other for other in left if other["category_id"] == row["category_id"]]
        best = max(same, key=lambda other: _overlap(row["bbox"], other["bbox"]), default=None)
        if best is None or _overlap(row["bbox"], best["bbox"]) < _IOU:
            lost.append(row)
        else:
            left.remove(best)
    return lost, left


def _overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    wide = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    high = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    shared = max(wide, 0.0) * max(high, 0.0)
    return shared / max(first[2] * first[3] + second[2] * second[3] - shared, 1e-9)


def differing_photographs(
    paths: Mapping[int, Path], before: Iterable[Row], after: Iterable[Row], names: Sequence[str], count: int = 4
) -> list[Photograph]:
    """Those photographs where the boxes that only one model finds weigh most by their scores.

    Args:
        paths: image id -> file.
        before: the float model's detections as COCO result rows.
        after: the quantized model's.
        names: class names.
        count: photographs, at most.
    """
    rows = _by_image(before), _by_image(after)
    differences = {number: unmatched(*(part.get(number, []) for part in rows)) for number in paths}
    weight = {number: sum(row["score"] for part in parts for row in part) for number, parts in differences.items()}
    chosen = sorted((number for number in paths if weight[number] > 0.0), key=lambda number: -weight[number])[:count]
    return [_photograph(paths[number], [part.get(number, []) for part in rows], names, differences[number]) for number in chosen]


def _by_image(rows: Iterable[Row]) -> dict[int, list[Row]]:
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row["score"] >= _CONFIDENCE:
            found.setdefault(row["image_id"], []).append(row)
    return found


def _photograph(path: Path, rows: Sequence[list[Row]], names: Sequence[str], parts: tuple[list[Row], list[Row]]) -> Photograph:
    image = read_image(path)
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    before, after = (_data_uri(draw_detections(small, _detections(part, scale), names)) for part in rows)
    return Photograph(path.name, before, after, len(parts[0]), len(parts[1]), (small.shape[1], small.shape[0]))


def _detections(rows: Sequence[Row], scale: float) -> Detections:
    ordered = sorted(rows, key=lambda row: -row["score"])
    boxes = np.array([row["bbox"] for row in ordered], np.float32).reshape(-1, 4) * scale
    boxes[:, 2:] += boxes[:, :2]
    scores = np.array([row["score"] for row in ordered], np.float32)
    return Detections(boxes, scores, np.array([row["category_id"] for row in ordered], np.int64))


def _data_uri(image: np.ndarray) -> str:
    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")

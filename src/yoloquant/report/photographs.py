"""The photographs in which float and quantized detections differ most, with what changed, as small pictures inside of a page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yoloquant.data.images import read_image
from yoloquant.evaluation.detection_table import DetectionTable
from yoloquant.evaluation.drawing import Color, Mark, draw_marks
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.matching import box_iou, corners, indices_by

# Minimum score of a box that a person would be shown, and overlap from which two boxes are the same object.
CONFIDENCE, _IOU = 0.25, 0.5
_SIDE, _QUALITY = 480, 72
# What becomes of a box, and its colour, RGB.
TRUTH, KEPT, LOST, NEW = (26, 127, 55), (125, 133, 144), (207, 34, 46), (130, 80, 223)


@dataclass(frozen=True)
class Photograph:
    """One photograph, three times.

    Attributes:
        name: Name of the file.
        truth: Data URI of a JPEG with the objects that are labelled.
        before: Data URI with the float model's boxes, those that are lost marked.
        after: Data URI with the quantized model's boxes, new ones marked.
        kept: Boxes that both models find; lost: Boxes of the float model alone; new: Boxes of the quantized model alone.
        size: `(width, height)` of the pictures, pixels.
    """

    name: str
    truth: str
    before: str
    after: str
    kept: int
    lost: int
    new: int
    size: tuple[int, int]


@dataclass(frozen=True)
class _Boxes:
    """Boxes of one image: corners `(n, 4)`, scores `(n,)`, classes `(n,)`, the best first."""

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def weight(self, chosen: np.ndarray) -> float:
        return float(self.scores[chosen].sum())


_NOTHING = _Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))


def unmatched(before: _Boxes, after: _Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes of each list have no partner of the same class with an overlap of at least 0.5 in the other one: two masks."""
    overlap = box_iou(before.boxes, after.boxes) * (before.classes[:, None] == after.classes[None])
    lost, new = np.ones(len(before.boxes), bool), np.ones(len(after.boxes), bool)
    for number, row in enumerate(overlap if overlap.size else ()):
        best = int((row * new).argmax())
        if new[best] and row[best] >= _IOU:
            lost[number] = new[best] = False
    return lost, new


def differing_photographs(
    paths: Mapping[int, Path], before: Evaluation, after: Evaluation, names: Sequence[str], count: int = 4
) -> list[Photograph]:
    """Those photographs where the boxes that only one model finds weigh most by their scores.

    Args:
        paths: Mapping image id -> file.
        before: Evaluation of the float model.
        after: Evaluation of the quantized model on the same images.
        names: Class names.
        count: Maximum number of photographs.
    """
    first, second = (_by_image(found.detections) for found in (before, after))
    changes = {number: unmatched(first.get(number, _NOTHING), second.get(number, _NOTHING)) for number in paths}
    weight = {
        number: first.get(number, _NOTHING).weight(lost) + second.get(number, _NOTHING).weight(new)
        for number, (lost, new) in changes.items()
    }
    chosen = sorted((number for number in paths if weight[number] > 0.0), key=lambda number: -weight[number])[:count]
    objects = before.matches.objects
    own = objects.by_image()
    pictures = []
    for number in chosen:
        things = own.get(number, np.zeros(0, int))
        truth = _Boxes(objects.boxes[things], np.ones(len(things)), objects.classes[things])
        boxes = (truth, first.get(number, _NOTHING), second.get(number, _NOTHING))
        pictures.append(_photograph(paths[number], boxes, changes[number], names))
    return pictures


def _by_image(table: DetectionTable) -> dict[int, _Boxes]:
    shown = np.flatnonzero(table.scores >= CONFIDENCE)
    shown = shown[np.argsort(-table.scores[shown], kind="stable")]
    boxes = corners(table.boxes[shown])
    return {
        number: _Boxes(boxes[own], table.scores[shown[own]], table.classes[shown[own]])
        for number, own in indices_by(table.image_ids[shown]).items()
    }


def _photograph(
    path: Path, boxes: tuple[_Boxes, _Boxes, _Boxes], changes: tuple[np.ndarray, np.ndarray], names: Sequence[str]
) -> Photograph:
    image = read_image(path)
    scale = min(1.0, _SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    truth, before, after = boxes
    objects = [Mark(box * scale, names[index], TRUTH) for box, index in zip(truth.boxes, truth.classes, strict=True)]
    lost, new = changes
    pictures = (objects, _marks(before, lost, "lost", LOST, scale, names), _marks(after, new, "new", NEW, scale, names))
    uris = [_data_uri(draw_marks(small, marks)) for marks in pictures]
    return Photograph(
        name=path.name,
        truth=uris[0],
        before=uris[1],
        after=uris[2],
        kept=int((~lost).sum()),
        lost=int(lost.sum()),
        new=int(new.sum()),
        size=(small.shape[1], small.shape[0]),
    )


def _marks(boxes: _Boxes, changed: np.ndarray, word: str, color: Color, scale: float, names: Sequence[str]) -> list[Mark]:
    """Boxes that the other model finds, too, in grey, and those that only this one finds in colour and on top."""
    marks = []
    # Worst first, so that the best boxes lie on top; what changed comes last.
    for number in sorted(range(len(changed)), key=lambda number: (changed[number], -number)):
        text, box = f"{names[boxes.classes[number]]} {boxes.scores[number]:.2f}", boxes.boxes[number] * scale
        marks.append(Mark(box, f"{word}: {text}", color, 2.0) if changed[number] else Mark(box, text, KEPT))
    return marks


def _data_uri(image: np.ndarray) -> str:
    _, content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")

"""Draw boxes into pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from yoloquant.evaluation.postprocess import Detections

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Mark:
    """A box to draw.

    Attributes:
        box: Corners x1, y1, x2, y2, pixels.
        text: Text at its upper left corner; empty for none.
        color: RGB, 0..255.
        weight: Thickness as a multiple of the picture's usual one.
    """

    box: Sequence[float]
    text: str
    color: Color
    weight: float = 1.0


def class_color(index: int) -> Color:
    """A colour for a class, RGB; neighbours in number differ by the golden ratio of the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803 % 1.0, 0.85, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(image: np.ndarray, detections: Detections, names: Sequence[str]) -> np.ndarray:
    """A copy of an image with boxes, class names and scores.

    Args:
        image: Image, uint8 `(H, W, 3)`, RGB.
        detections: Detections in the image's pixels, best first; the best boxes lie on top.
        names: Class names.
    """
    found = zip(detections.boxes, detections.scores, detections.classes, strict=True)
    marks = [Mark(box, f"{names[int(index)]} {score:.2f}", class_color(int(index))) for box, score, index in found]
    return draw_marks(image, marks[::-1])


def draw_marks(image: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """A copy of an image, uint8 `(H, W, 3)` RGB, with boxes, the last on top."""
    canvas = np.ascontiguousarray(image).copy()
    usual = max(1, round(max(canvas.shape[:2]) / 320))
    for mark in marks:
        x1, y1, x2, y2 = (round(float(value)) for value in mark.box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), mark.color, max(1, round(usual * mark.weight)), cv2.LINE_AA)
        if mark.text:
            _draw_label(canvas, mark.text, (x1, y1), mark.color, usual)
    return canvas


def _draw_label(canvas: np.ndarray, text: str, corner: tuple[int, int], color: Color, thickness: int) -> None:
    """Text on a filled ground above a box, or inside it at the image's upper edge."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.3 + 0.12 * thickness
    (width, height), baseline = cv2.getTextSize(text, font, scale, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = corner[1] if corner[1] >= height + baseline else corner[1] + height + baseline
    cv2.rectangle(canvas, (x, y - height - baseline), (x + width, y), color, cv2.FILLED)
    ink = (0, 0, 0) if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 else (255, 255, 255)
    cv2.putText(canvas, text, (x, y - baseline // 2 - 1), font, scale, ink, 1, cv2.LINE_AA)


def side_by_side(pictures: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one height in a row, each under its title."""
    columns = []
    for title, picture in pictures:
        bar = np.full((28, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(bar, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([bar, picture]))
    return np.concatenate(columns, axis=1)

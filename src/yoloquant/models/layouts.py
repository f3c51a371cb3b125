"""Layouts of decoded detector outputs, as users of each family know them, and their common form.

Every runtime answers with one array in the family's own layout; evaluation and drawing need boxes and class scores. The
layout's name travels in the exported file's metadata, so that a file alone is enough to run it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Candidates(NamedTuple):
    """Boxes before non-maximum suppression.

    Attributes:
        boxes: `(N, A, 4)` float32, corners x1, y1, x2, y2 in pixels of the network's input.
        scores: `(N, A, C)` float32 class scores in 0..1, objectness already multiplied in.
    """

    boxes: np.ndarray
    scores: np.ndarray


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes `(..., 4)` given as centre x, centre y, width, height -> corners x1, y1, x2, y2."""
    half = boxes[..., 2:4] * 0.5
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def _objectness(output: np.ndarray) -> Candidates:
    return Candidates(corners(output[..., :4]), output[..., 5:] * output[..., 4:5])


def _channels_first(output: np.ndarray) -> Candidates:
    rows = np.swapaxes(output, 1, 2)
    return Candidates(corners(rows[..., :4]), rows[..., 4:])


LAYOUTS: dict[str, Callable[[np.ndarray], Candidates]] = {
    # YOLOv5, YOLOv6, YOLOv7: (N, A, 5 + C), centre x, centre y, width, height, objectness, class probabilities.
    "rows_objectness": _objectness,
    # YOLOv8 and later: (N, 4 + C, A), centre x, centre y, width, height, class probabilities.
    "columns_classes": _channels_first,
}

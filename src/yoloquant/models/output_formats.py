"""Layouts of decoded detector outputs, as users of each family know them, and their common form.

Every runtime outputs one array in the family's own layout; evaluation and drawing need boxes and class scores. The
layout's name travels in the exported file's metadata, so that a file alone is enough to run it. Everything here is
differentiable, since quantization is also tuned by what it does to boxes and scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """Boxes with their scores.

    Attributes:
        boxes: `(N, A, 4)` float32, corners x1, y1, x2, y2 in pixels of the network's input.
        scores: `(N, A, C)` float32 class scores in 0..1, objectness already multiplied in.
    """

    boxes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Layout:
    """How a family writes its boxes.

    Attributes:
        candidates: Function from decoded output to boxes and scores.
        suppressed: Whether the output holds final detections, no duplicates; suppression must leave them alone.
    """

    candidates: Callable[[Tensor], Candidates]
    suppressed: bool = False


def corners(boxes: Tensor) -> Tensor:
    """Boxes `(..., 4)` given as centre x, centre y, width, height -> corners x1, y1, x2, y2."""
    half = boxes[..., 2:4] * 0.5
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], dim=-1)


def _objectness(output: Tensor) -> Candidates:
    return Candidates(corners(output[..., :4]), output[..., 5:] * output[..., 4:5])


def _channels_first(output: Tensor) -> Candidates:
    rows = output.transpose(1, 2)
    return Candidates(corners(rows[..., :4]), rows[..., 4:])


def _final(output: Tensor) -> Candidates:
    classes = output[..., 5].long()
    count = int(classes.max()) + 1 if classes.numel() else 1
    scores = torch.zeros(*classes.shape, count, dtype=output.dtype, device=output.device)
    return Candidates(output[..., :4], scores.scatter(-1, classes[..., None], output[..., 4:5]))


LAYOUTS: dict[str, Layout] = {
    # YOLOv5, YOLOv6, YOLOv7: (N, A, 5 + C), centre x, centre y, width, height, objectness, class probabilities.
    "rows_objectness": Layout(_objectness),
    # YOLOv8 and later: (N, 4 + C, A), centre x, centre y, width, height, class probabilities.
    "columns_classes": Layout(_channels_first),
    # End-to-end heads (YOLOv10, YOLO26): (N, K, 6), corners, score, class number; best first.
    "rows_final": Layout(_final, suppressed=True),
}

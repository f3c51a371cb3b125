"""Detections of many images as columns, which take a tenth of the memory of COCO's dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from yoloquant.data.loader import Batch
from yoloquant.evaluation.postprocess import Detections


@dataclass(frozen=True)
class DetectionTable:
    """Detections in the pixels of their images; those of one image are neighbours, the best first.

    Attributes:
        image_ids: `(n,)` int64, the data set's image ids.
        boxes: `(n, 4)` float32: x, y, width, height.
        scores: `(n,)` float32, 0..1.
        classes: `(n,)` int32, class indices.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        """Number of detections."""
        return len(self.scores)

    def taken(self, positions: np.ndarray) -> DetectionTable:
        """The detections at some positions, in their order."""
        return DetectionTable(*(getattr(self, name)[positions] for name in _COLUMNS))

    @classmethod
    def empty(cls) -> DetectionTable:
        """No detections."""
        return cls(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32))

    def rows(self) -> Iterator[dict[str, Any]]:
        """The detections as COCO result rows, category ids being class indices."""
        for start in range(0, len(self), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            boxes = self.boxes[part].astype(np.float64).round(3).tolist()
            scores = self.scores[part].astype(np.float64).round(6).tolist()
            columns = zip(self.image_ids[part].tolist(), self.classes[part].tolist(), boxes, scores, strict=True)
            for image_id, category, box, score in columns:
                yield {"image_id": image_id, "category_id": category, "bbox": box, "score": score}


# Detections that are made into rows together.
_AT_ONCE = 10_000


def table_of(batch: Batch, detections: Iterable[Detections]) -> DetectionTable:
    """Detections in a batch's input pixels, in the images' own."""
    return joined(
        DetectionTable(
            np.full(len(found), entry.image_id, np.int64),
            _sizes(box.to_original(found.boxes)),
            found.scores,
            found.classes.astype(np.int32),
        )
        for entry, box, found in zip(batch.entries, batch.letterboxes, detections, strict=True)
    )


def joined(tables: Iterable[DetectionTable]) -> DetectionTable:
    """One table after the other."""
    parts = [DetectionTable.empty(), *tables]
    return DetectionTable(*(np.concatenate([getattr(part, name) for part in parts]) for name in _COLUMNS))


def table_from_rows(rows: Iterable[dict[str, Any]]) -> DetectionTable:
    """COCO result rows as a table."""
    listed = list(rows)
    return DetectionTable(
        np.array([row["image_id"] for row in listed], np.int64),
        np.array([row["bbox"] for row in listed], np.float32).reshape(-1, 4),
        np.array([row["score"] for row in listed], np.float32),
        np.array([row["category_id"] for row in listed], np.int32),
    )


_COLUMNS = ("image_ids", "boxes", "scores", "classes")


def _sizes(corners: np.ndarray) -> np.ndarray:
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).astype(np.float32)

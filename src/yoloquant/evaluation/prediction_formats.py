"""Detections as a JSON line, as rows of a label file, and as frames of a video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yoloquant.data.video import open_video
from yoloquant.errors import YoloquantError
from yoloquant.evaluation.postprocess import Detections
from yoloquant.files.writing import replaced_whole


def json_line(name: str, size: tuple[int, int], found: Detections, names: Sequence[str], frame: int | None) -> dict[str, Any]:
    """One picture or frame with its detections, each with the keys of COCO's results.

    Args:
        name: Name of the picture or video.
        size: `(height, width)`, pixels.
        found: Detections in its pixels.
        names: Class names.
        frame: Number of the frame, from 0; none for a picture.
    """
    corners = found.boxes.astype(np.float64)
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(3).tolist()
    return {
        "file_name": name,
        **({} if frame is None else {"frame": frame}),
        "height": size[0],
        "width": size[1],
        "detections": [
            {"category_id": int(index), "category_name": names[index], "bbox": box, "score": round(float(score), 6)}
            for box, score, index in zip(boxes, found.scores, found.classes, strict=True)
        ],
    }


def label_rows(size: tuple[int, int], found: Detections, *, scores: bool = False) -> str:
    """YOLO's label file: class, centre x, centre y, width and height as shares of the picture, and the score if wanted."""
    height, width = size
    corners = found.boxes.astype(np.float64) / [width, height, width, height]
    rows = np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)
    if scores:
        rows = np.concatenate([rows, found.scores[:, None]], axis=1)
    lines = (f"{index} {' '.join(f'{value:.6f}' for value in row)}" for index, row in zip(found.classes, rows, strict=True))
    return "".join(f"{line}\n" for line in lines)


@contextmanager
def film(path: Path, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """An MP4 file to add RGB frames to, all of the size of the first; it is there when all went well.

    Raises:
        YoloquantError: It cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: cv2.VideoWriter | None = None
    size, count = (0, 0), 0

    with replaced_whole(path) as partial:

        def add(frame: np.ndarray) -> None:
            nonlocal writer, size, count
            if writer is None:
                # Sides of an MP4 are even: the last row and column stand twice where they are not.
                size = (frame.shape[1] + frame.shape[1] % 2, frame.shape[0] + frame.shape[0] % 2)
                writer = cv2.VideoWriter(str(partial), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
                if not writer.isOpened():
                    raise YoloquantError(f"the video {path} cannot be written: OpenCV has no encoder for it here")
            writer.write(np.ascontiguousarray(_fitted(frame, size)[..., ::-1]))
            count += 1

        try:
            yield add
        finally:
            if writer is not None:
                writer.release()
        # The encoder says nothing about a full disk.
        if count and open_video(partial).count < count:
            raise YoloquantError(f"the video {path} cannot be written whole: make room, or name another output")


def _fitted(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A frame at the size of the video `(width, height)`: one pixel is added, any other difference is scaled."""
    missing = (size[0] - frame.shape[1], size[1] - frame.shape[0])
    if all(number in (0, 1) for number in missing):
        return cv2.copyMakeBorder(frame, 0, missing[1], 0, missing[0], cv2.BORDER_REPLICATE)
    return cv2.resize(frame, size, interpolation=cv2.INTER_AREA)

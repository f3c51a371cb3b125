"""What every example does with a picture: fit it into the network's input, and bring boxes back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def read_picture(path: Path, height: int, width: int) -> tuple[np.ndarray, float, int, int]:
    """A picture as the network takes it.

    Args:
        path: of the picture.
        height: of the network's input, pixels.
        width: of the network's input, pixels.

    Returns:
        Images `(1, 3, height, width)` float32, RGB, 0..1; the scale; and the padding on the left and above, input pixels.
    """
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    scale = min(height / picture.shape[0], width / picture.shape[1])
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    left, top = (width - size[0]) // 2, (height - size[1]) // 2
    padded = np.full((height, width, 3), 114, np.uint8)
    padded[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size, interpolation=method)
    images = padded[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255.0
    return np.ascontiguousarray(images), scale, left, top


def print_detections(rows: np.ndarray, scale: float, left: int, top: int, names: dict[int, str]) -> None:
    """One line for each detection.

    Args:
        rows: `(K, 6)` corners in input pixels, score, class number; rows of score 0 are no detections.
        scale: of `read_picture`.
        left: of `read_picture`.
        top: of `read_picture`.
        names: class number -> name.
    """
    for x1, y1, x2, y2, score, number in rows[rows[:, 4] > 0.0]:
        corners = [(x1 - left) / scale, (y1 - top) / scale, (x2 - left) / scale, (y2 - top) / scale]
        print(names.get(int(number), str(int(number))), f"{score:.2f}", *(f"{value:.0f}" for value in corners))

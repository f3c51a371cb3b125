"""Read images, and fit them into the network's input."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from yoloquant.errors import DataError

PADDING_VALUE = 114
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 `(H, W, 3)`, RGB, turned as its EXIF orientation says.

    Raises:
        DataError: the file is missing, no image, or damaged.
    """
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"the image {path} cannot be read: {error.strerror}") from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise DataError(f"{path} is not an image that can be decoded: it is damaged or of another kind")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class Letterbox:
    """How an image was fitted into the network's input.

    Attributes:
        scale: original pixels times this are input pixels.
        left: padding, input pixels.
        top: padding, input pixels.
        original_size: `(height, width)` of the image.
    """

    scale: float
    left: int
    top: int
    original_size: tuple[int, int]

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `(n, 4)` x1, y1, x2, y2 from input pixels to the image's pixels, clipped to the image."""
        height, width = self.original_size
        moved = (boxes - np.array([self.left, self.top, self.left, self.top])) / self.scale
        return np.clip(moved, 0, np.array([width, height, width, height])).astype(np.float32)


def letterbox(image: np.ndarray, size: tuple[int, int], *, top_left: bool = False) -> tuple[np.ndarray, Letterbox]:
    """Scale an image to fit, keep its aspect ratio, and pad with grey on both sides (YOLOv5's validation arithmetic).

    Args:
        image: uint8 `(H, W, 3)`.
        size: `(height, width)` of the answer.
        top_left: all padding on the right and below, as YOLOX does it.

    Returns:
        The padded image, and how boxes come back.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    new_width, new_height = round(width * scale), round(height * scale)
    if (new_width, new_height) != (width, height):
        method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        image = cv2.resize(image, (max(1, new_width), max(1, new_height)), interpolation=method)
    new_height, new_width = image.shape[:2]
    top = 0 if top_left else round((size[0] - new_height) / 2 - 0.1)
    left = 0 if top_left else round((size[1] - new_width) / 2 - 0.1)
    padded = np.full((*size, 3), PADDING_VALUE, np.uint8)
    padded[top : top + new_height, left : left + new_width] = image
    return padded, Letterbox(scale, left, top, (height, width))


def rectangular_size(image_size: tuple[int, int], long_side: int, stride: int) -> tuple[int, int]:
    """The smallest `(height, width)` in multiples of `stride` that holds an image scaled to `long_side`."""
    scale = long_side / max(image_size)
    return tuple(max(1, int(np.ceil(side * scale / stride - 1e-6))) * stride for side in image_size)  # type: ignore[return-value]

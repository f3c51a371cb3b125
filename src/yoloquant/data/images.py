"""Read images, and fit them into the network's input."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from yoloquant.data.image_header import UnknownSize, size_in_header
from yoloquant.errors import DataError
from yoloquant.files.reading import parsed

PADDING_VALUE = 114
# Pixels of an image, which takes six bytes for each of them while it is decoded.
MOST_PIXELS = 1 << 27
_TOO_LARGE = f"it has more than {MOST_PIXELS >> 20} million pixels; make it smaller or cut it into tiles"
IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def read_image(path: Path) -> np.ndarray:
    """Read an image as uint8 `(H, W, 3)`, RGB, turned as its EXIF orientation says.

    Raises:
        DataError: The file is missing, no image, damaged, or has more than `MOST_PIXELS`.
    """
    with parsed(path, DataError):
        return _decoded(np.fromfile(path, np.uint8), str(path))


def decode_image(content: bytes, name: str) -> np.ndarray:
    """The same for an image in memory.

    Args:
        content: Content of the file.
        name: Name for messages.

    Raises:
        DataError: As `read_image`.
    """
    with parsed(name, DataError):
        return _decoded(np.frombuffer(content, np.uint8), name)


def _decoded(data: np.ndarray, name: str) -> np.ndarray:
    try:
        height, width = size_in_header(io.BytesIO(data.data))
        if height * width > MOST_PIXELS:
            raise DataError(f"{name} cannot be decoded: {_TOO_LARGE}")
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is not None:
            return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except UnknownSize:
        pass
    except cv2.error as error:
        raise DataError(f"{name} cannot be decoded: {_reason(error)}") from error
    raise DataError(f"{name} is not an image that can be decoded: it is damaged or of another kind")


def _reason(error: cv2.error) -> str:
    """What OpenCV objects to, in words."""
    # OpenCV checks sizes before it decodes, by conditions that name its limits.
    if "CV_IO_MAX_IMAGE" in str(error):
        return _TOO_LARGE
    return f"OpenCV says {error.err or error}"


@dataclass(frozen=True)
class Letterbox:
    """How an image was fitted into the network's input.

    Attributes:
        scale: `(horizontal, vertical)`: Input pixels for each pixel of the image; they differ where a side was rounded.
        left: Padding, input pixels.
        top: Padding, input pixels.
        original_size: `(height, width)` of the image.
    """

    scale: tuple[float, float]
    left: int
    top: int
    original_size: tuple[int, int]

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes `(n, 4)` x1, y1, x2, y2 from input pixels to the image's pixels, clipped to the image."""
        height, width = self.original_size
        moved = (boxes - np.array([self.left, self.top] * 2)) / np.array(self.scale * 2)
        clipped: np.ndarray = np.clip(moved, 0, np.array([width, height, width, height]))
        return clipped.astype(np.float32)


def letterbox(
    image: np.ndarray, size: tuple[int, int], *, long_side: int | None = None, top_left: bool = False
) -> tuple[np.ndarray, Letterbox]:
    """Scale an image to fit, keep its aspect ratio, and pad with grey on both sides.

    The arithmetic is that of YOLOv5's and ultralytics' validation. These two interpolate differently where an image becomes
    smaller: areas are averaged here, as in YOLOv5.

    Args:
        image: Image, uint8 `(H, W, 3)`.
        size: `(height, width)` of the output.
        long_side: Length that the image's longer side gets, pixels; by default the image fills `size`.
        top_left: All padding is on the right and below, and sides are rounded down, as in YOLOX.

    Returns:
        The padded image, and how boxes come back.
    """
    height, width = image.shape[:2]
    new_height, new_width = _scaled(height, width, size, long_side, math.floor if top_left else math.ceil)
    if (new_width, new_height) != (width, height):
        method = cv2.INTER_LINEAR if new_width > width or new_height > height else cv2.INTER_AREA
        image = cv2.resize(image, (new_width, new_height), interpolation=method)
    top = 0 if top_left else round((size[0] - new_height) / 2 - 0.1)
    left = 0 if top_left else round((size[1] - new_width) / 2 - 0.1)
    padded = np.full((*size, 3), PADDING_VALUE, np.uint8)
    padded[top : top + new_height, left : left + new_width] = image
    return padded, Letterbox((new_width / width, new_height / height), left, top, (height, width))


def _scaled(
    height: int, width: int, size: tuple[int, int], long_side: int | None, whole: Callable[[float], int]
) -> tuple[int, int]:
    """Height and width of the scaled image; `whole` makes integers of them."""
    limits = size if long_side is None else (long_side, long_side)
    scale = min(limits[0] / height, limits[1] / width)
    return max(1, min(whole(height * scale), limits[0])), max(1, min(whole(width * scale), limits[1]))


def rectangular_size(image_size: tuple[int, int], long_side: int, stride: int) -> tuple[int, int]:
    """`(height, width)` that an image scaled to `long_side` is padded to: the next multiple of `stride` after half a stride more.

    YOLOv5 and ultralytics pad so in their validation (`pad=0.5`); with one image in a batch their shapes are these.
    """
    ratio = image_size[0] / image_size[1]
    sides = (min(ratio, 1.0), min(1.0 / ratio, 1.0))
    return tuple(math.ceil(side * long_side / stride + 0.5) * stride for side in sides)  # type: ignore[return-value]


def to_input(images: Tensor, device: torch.device | None = None) -> Tensor:
    """Images uint8 `(N, 3, H, W)` -> float32 in 0..1, channels last, as networks take them; where they are, or on a device."""
    return images.to(device or images.device, memory_format=torch.channels_last).float().div_(255.0)

"""Sizes of images from their headers, without decoding their pixels."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import ExifTags, Image, UnidentifiedImageError

from yoloquant.data.images import read_image
from yoloquant.errors import DataError

# Formats whose orientation Pillow and OpenCV read alike.
_READ_BY_HEADER = ("JPEG", "PNG", "BMP")
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of an image, turned as its EXIF orientation says; (0, 0) if it is no readable image."""
    try:
        with warnings.catch_warnings():
            # A warning about many pixels: none are decoded here.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path, formats=_READ_BY_HEADER) as image:
                width, height = image.size
                turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _decoded_size(path)
    return (width, height) if turned else (height, width)


def check_header(path: Path) -> None:
    """Make sure that an image can be opened; what lies behind its header may be damaged still.

    Raises:
        DataError: It cannot.
    """
    if not all(image_size(path)):
        read_image(path)


def _decoded_size(path: Path) -> tuple[int, int]:
    try:
        height, width = read_image(path).shape[:2]
    except DataError:
        return 0, 0
    return height, width

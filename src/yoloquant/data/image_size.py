"""Sizes of images, from their headers where these say what OpenCV will decode."""

from __future__ import annotations

from pathlib import Path

from yoloquant.data.image_header import UnknownSize, size_in_header
from yoloquant.data.images import MOST_PIXELS, read_image
from yoloquant.errors import DataError
from yoloquant.files.reading import is_file

# OpenCV decodes no longer sides.
_LONGEST = 1 << 20
# Formats in which OpenCV's size may differ from the header's: orientation, several pages, a canvas.
_DECODED = (b"II*\0", b"MM\0*", b"RIFF")


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of an image, turned as its EXIF orientation says; (0, 0) if it is no image that can be decoded."""
    size = _size_in_header(path)
    usable = size is not None and min(size) > 0 and max(size) <= _LONGEST and size[0] * size[1] <= MOST_PIXELS
    return size if size is not None and usable else _decoded_size(path)


def check_header(path: Path) -> None:
    """Make sure that an image can be opened; what lies behind its header may be damaged still.

    Raises:
        DataError: It cannot.
    """
    if not all(image_size(path)):
        read_image(path)


def _size_in_header(path: Path) -> tuple[int, int] | None:
    """None where the format is another one or the header is damaged."""
    if not is_file(path):
        return None
    try:
        with path.open("rb") as file:
            is_decoded = file.read(4) in _DECODED
            file.seek(0)
            return None if is_decoded else size_in_header(file, MOST_PIXELS)
    except (OSError, UnknownSize):
        return None


def _decoded_size(path: Path) -> tuple[int, int]:
    try:
        height, width = read_image(path).shape[:2]
    except DataError:
        return 0, 0
    return height, width

"""Sizes of images from their headers, without decoding their pixels."""

from __future__ import annotations

import struct
from pathlib import Path

from PIL import ExifTags, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from yoloquant.data.images import read_image
from yoloquant.errors import DataError

# Formats whose orientation Pillow and OpenCV read alike, by their first bytes. `PIL.Image.open` is not asked: ultralytics
# replaces it by one that installs packages where Pillow does not know a file.
_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"BM": BmpImageFile,
}
# EXIF orientations that exchange height and width.
_TURNED = (5, 6, 7, 8)
# What Pillow's readers raise.
_DAMAGED = (OSError, ValueError, SyntaxError, IndexError, KeyError, TypeError, struct.error)
# OpenCV decodes no longer sides and no more pixels.
_LONGEST, _MOST = 1 << 20, 1 << 30


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of an image, turned as its EXIF orientation says; (0, 0) if it is no image that can be decoded."""
    size = _size_in_header(path)
    usable = size is not None and min(size) > 0 and max(size) <= _LONGEST and size[0] * size[1] <= _MOST
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
    try:
        with path.open("rb") as file:
            first = file.read(8)
            file.seek(0)
            reader = next((reader for start, reader in _READERS.items() if first.startswith(start)), None)
            if reader is None:
                return None
            image = reader(file, str(path))
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    except _DAMAGED:
        return None
    return (width, height) if turned else (height, width)


def _decoded_size(path: Path) -> tuple[int, int]:
    try:
        height, width = read_image(path).shape[:2]
    except DataError:
        return 0, 0
    return height, width

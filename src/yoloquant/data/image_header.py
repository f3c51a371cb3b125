"""What the first bytes of an image say: its format and its size, without decoding a pixel."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import BinaryIO

from PIL import ExifTags, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

_PNG = b"\x89PNG\r\n\x1a\n"
# Formats by their first bytes. `PIL.Image.open` is not asked: ultralytics replaces it by one that installs packages where Pillow
# does not know a file.
_READERS: dict[bytes, type[ImageFile.ImageFile]] = {
    b"\xff\xd8\xff": JpegImageFile,
    _PNG: PngImageFile,
    b"BM": BmpImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
}
# EXIF orientations that exchange height and width, and formats in which OpenCV follows them.
_TURNED = (5, 6, 7, 8)
_ORIENTED = (JpegImageFile, PngImageFile)
# Bytes in which the header of a WebP file lies.
_WEBP = 30


class UnknownSize(Exception):
    """The format is none that is read here, or its header is damaged."""


def size_in_header(file: BinaryIO, largest: int = 0) -> tuple[int, int]:
    """`(height, width)` of an image in pixels, turned as its EXIF orientation says.

    Args:
        file: JPEG, PNG, BMP, TIFF or WebP, at its beginning.
        largest: Pixels up to which the orientation is looked for, which of a PNG may stand behind all of them.

    Raises:
        UnknownSize: It is none of these, or its header is damaged.
    """
    first = file.read(_WEBP)
    file.seek(0)
    try:
        return _pillow_size(file, first, largest) if first[:4] != b"RIFF" else _webp_size(first)
    except UnknownSize:
        raise
    except Exception as error:
        # Pillow's readers raise nearly anything for damaged headers.
        raise UnknownSize(f"the header is damaged: {error}") from error


def _pillow_size(file: BinaryIO, first: bytes, largest: int) -> tuple[int, int]:
    reader = next((reader for start, reader in _READERS.items() if first.startswith(start)), None)
    if reader is None:
        raise UnknownSize("the format is unknown")
    image = reader(file, "")
    width, height = image.size
    may_turn = isinstance(image, _ORIENTED) and width * height <= largest and _may_have_exif(image, file)
    turned = may_turn and image.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return (width, height) if turned else (height, width)


def _may_have_exif(image: ImageFile.ImageFile, file: BinaryIO) -> bool:
    """No for a PNG without a chunk of it, of which Pillow would decode all pixels to look behind them."""
    if not isinstance(image, PngImageFile):
        return True
    place = file.tell()
    try:
        file.seek(len(_PNG))
        while len(head := file.read(8)) == 8:
            if head[4:] in (b"eXIf", b"IEND"):
                return head[4:] == b"eXIf"
            # Behind the data there are four bytes of a checksum.
            file.seek(int.from_bytes(head[:4], "big") + 4, 1)
        return False
    finally:
        file.seek(place)


def _webp_size(first: bytes) -> tuple[int, int]:
    """By RFC 9649: the canvas, or the size of the only frame."""
    readers: dict[bytes, Callable[[], tuple[int, int]]] = {
        b"VP8X": lambda: (1 + int.from_bytes(first[27:30], "little"), 1 + int.from_bytes(first[24:27], "little")),
        b"VP8L": lambda: _lossless_size(int.from_bytes(first[21:25], "little")),
        b"VP8 ": lambda: tuple(side & 0x3FFF for side in struct.unpack("<HH", first[26:30]))[::-1],
    }
    if first[8:12] != b"WEBP" or first[12:16] not in readers:
        raise UnknownSize("the format is unknown")
    return readers[first[12:16]]()


def _lossless_size(bits: int) -> tuple[int, int]:
    return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)

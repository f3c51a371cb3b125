"""Sizes of images from headers, against what OpenCV decodes."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from yoloquant.data.image_size import check_header, image_size
from yoloquant.data.images import read_image
from yoloquant.errors import DataError


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp"])
@pytest.mark.parametrize("orientation", [0, 1, 3, 5, 6, 7, 8])
def test_the_size_is_that_of_the_decoded_image(suffix, orientation, tmp_path):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))
    path = tmp_path / f"x.{suffix}"
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(path, **({"exif": exif} if orientation and suffix != "bmp" else {}))
    assert image_size(path) == read_image(path).shape[:2]


def test_what_is_no_image_has_no_size(tmp_path):
    for name, content in (("empty.jpg", b""), ("text.png", b"no image"), ("cut.jpg", b"\xff\xd8\xff")):
        (tmp_path / name).write_bytes(content)
        assert image_size(tmp_path / name) == (0, 0)
        with pytest.raises(DataError, match=f"{name} is not an image"):
            check_header(tmp_path / name)


def test_images_beyond_the_decoder_are_told(shared, tmp_path, capfd):
    path = shared / "cases" / "huge_image" / "huge.png"
    assert image_size(path) == (0, 0)
    for read in (check_header, read_image):
        with pytest.raises(DataError, match=r"huge\.png cannot be decoded: it has more than 128 million pixels"):
            read(path)


def test_pillow_is_not_asked_to_open_files(tmp_path, monkeypatch):
    # ultralytics replaces this function, and Pillow's own refuses more than some 180 million pixels.
    monkeypatch.setattr(Image, "open", None)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    cv2.imwrite(str(tmp_path / "x.png"), np.zeros((40, 60), np.uint8))
    assert image_size(tmp_path / "x.png") == (40, 60)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_headers_are_sizes_or_none(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    suffix = data.draw(st.sampled_from(["jpg", "png", "bmp"]))
    _, encoded = cv2.imencode(f".{suffix}", np.zeros((40, 60, 3), np.uint8))
    content = bytearray(encoded.tobytes())
    for position in data.draw(st.lists(st.integers(0, 60), max_size=4)):
        content[position % len(content)] = data.draw(st.integers(0, 255))
    path = folder / f"x.{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    height, width = image_size(path)
    assert (height == 0) == (width == 0)


# Orientation 6 as XMP says it, which OpenCV does not follow.
XMP = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'


@pytest.mark.parametrize("is_behind", [False, True])
@pytest.mark.parametrize("kind", [b"eXIf", b"iTXt"])
def test_orientations_of_png_images_are_those_that_are_decoded(kind, is_behind, tmp_path):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0") if kind == b"eXIf" else XMP
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    # Behind the header of 13 bytes, or before the end of 12.
    data = path.read_bytes()
    place = len(data) - 12 if is_behind else 8 + 12 + 13
    path.write_bytes(data[:place] + chunk + data[place:])
    assert image_size(path) == read_image(path).shape[:2] == ((60, 40) if kind == b"eXIf" else (40, 60))

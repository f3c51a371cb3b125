"""Images and sets that are odd and fine: kinds of pixels, one pixel, animation, many classes."""

import time

import numpy as np
import pytest
from PIL import Image

from small_sets import write_set
from yoloquant.data.dataset import load_dataset
from yoloquant.data.image_size import image_size
from yoloquant.data.images import letterbox, read_image
from yoloquant.data.labels import read_labels

SIZE = (30, 20)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def frames():
    return [Image.fromarray(np.full((20, 30, 3), value, np.uint8)) for value in (10, 100, 200)]


MAKE = {
    "one pixel.png": lambda path: saved(path, Image.new("RGB", (1, 1), (1, 2, 3))),
    "one row.png": lambda path: saved(path, Image.new("RGB", (300, 1))),
    "16 bit.png": lambda path: saved(path, Image.fromarray((np.arange(600).reshape(20, 30) * 100).astype(np.uint16))),
    "16 bit.tif": lambda path: saved(path, Image.fromarray((np.arange(600).reshape(20, 30) * 100).astype(np.uint16))),
    "grey.jpg": lambda path: saved(path, Image.new("L", SIZE, 77)),
    "alpha.png": lambda path: saved(path, Image.new("RGBA", SIZE, (1, 2, 3, 4))),
    "palette.png": lambda path: saved(path, Image.fromarray(PIXELS).convert("P")),
    "one bit.png": lambda path: saved(path, Image.new("1", SIZE)),
    "cmyk.jpg": lambda path: saved(path, Image.new("CMYK", SIZE, (0, 255, 255, 0))),
    "animated.webp": lambda path: saved(path, frames()[0], save_all=True, append_images=frames()[1:]),
    "animated.png": lambda path: saved(path, frames()[0], save_all=True, append_images=frames()[1:]),
    "pages.tif": lambda path: saved(path, frames()[0], save_all=True, append_images=frames()[1:]),
}


@pytest.mark.parametrize("name", MAKE)
def test_odd_images_are_read_as_three_channels_of_8_bits(name, tmp_path):
    path = MAKE[name](tmp_path / name)
    image = read_image(path)
    with Image.open(path) as known:
        assert image.shape == (known.height, known.width, 3)
    assert image.dtype == np.uint8
    assert image_size(path) == image.shape[:2]
    fitted, place = letterbox(image, (64, 64))
    assert fitted.shape == (64, 64, 3)
    assert place.original_size == image.shape[:2]
    if "animated" in name or "pages" in name:
        # The first picture.
        assert abs(int(image[10, 10, 0]) - 10) < 8
    if name == "cmyk.jpg":
        assert image[10, 10, 0] > 200 > 60 > image[10, 10, 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_followed_and_sizes_agree(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "x.jpg", Image.fromarray(PIXELS), exif=exif)
    assert read_image(path).shape[:2] == image_size(path) == ((20, 30) if orientation < 5 else (30, 20))


@pytest.mark.parametrize(
    "text", ["0 0.5 0.5 0.4 0.2", "\ufeff0 0.5 0.5 0.4 0.2\n", "0 0.5 0.5 0.4 0.2\r\n\r\n", "\n\n0 0.5 0.5 0.4 0.2  "]
)
def test_label_files_without_an_end_of_line_or_with_a_mark(text, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "x.txt").write_text(text, encoding="utf-8", newline="")
    problems = {}
    assert read_labels(tmp_path / "images" / "x.jpg", 2, problems).tolist() == [[0.0, 0.5, 0.5, 0.4, 0.2]]
    assert not problems


def test_ten_thousand_classes(tmp_path):
    data = write_set(tmp_path, names="[" + ", ".join(f"c{number}" for number in range(10_000)) + "]")
    begin = time.process_time()
    dataset = load_dataset(data)
    assert len(dataset.ground_truth["categories"]) == 10_000
    assert time.process_time() - begin < 10

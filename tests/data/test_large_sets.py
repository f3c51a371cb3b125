"""Data sets of many images and many classes: memory holds what is known of an image, and never the images."""

import pytest

from large_sets import load_of, write_large_set

KIB = 1 << 10


@pytest.mark.slow
def test_memory_grows_by_little_for_each_image(tmp_path):
    small, large = (load_of(write_large_set(tmp_path / str(count), count)) for count in (2_000, 12_000))
    assert small.figure == large.figure == pytest.approx(100.0)
    images = 10_000
    # Names, sizes and boxes of an image; an image alone has 3 KiB, and as the network's input 12.
    assert (large.opened - small.opened) / images < 4 * KIB
    assert (large.running - small.running) / images < 4 * KIB
    # Of each of the five boxes in an image what faster-coco-eval makes of it.
    assert (large.peak - small.peak) / images < 25 * KIB


@pytest.mark.slow
def test_memory_does_not_grow_with_classes_that_do_not_occur(tmp_path):
    few, many = (load_of(write_large_set(tmp_path / str(classes), 1_000, classes), classes) for classes in (2, 10_000))
    assert many.figure == few.figure == pytest.approx(100.0)
    assert (many.peak - few.peak) / 10_000 < 10 * KIB

"""The generated set: repeatable, with boxes that fit the drawn shapes, and readable as any other data set."""

import hashlib
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoloquant.data import synthetic
from yoloquant.data.dataset import load_dataset
from yoloquant.data.synthetic import CLASS_NAMES, LEAST_VISIBLE, generate_image, write_generated_dataset


def digest(seed, index, size):
    drawn = generate_image(seed, index, size)
    return hashlib.sha256(drawn.image.tobytes() + drawn.labels.tobytes()).hexdigest()


def test_the_same_seed_draws_the_same_in_another_process():
    code = "import sys; sys.path.insert(0, 'tests/data'); from test_generated import digest; print(digest(7, 3, 96))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert other.stdout.strip() == digest(7, 3, 96)


def test_images_of_other_seeds_and_indices_differ():
    assert len({digest(seed, index, 64) for seed in range(3) for index in range(3)}) == 9


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**31), st.integers(0, 2**31), st.sampled_from([64, 128, 192]))
def test_images_and_boxes_are_valid(seed, index, size):
    drawn = generate_image(seed, index, size)
    assert drawn.image.shape == (size, size, 3)
    assert drawn.image.dtype == np.uint8
    classes, centers, sides = drawn.labels[:, 0], drawn.labels[:, 1:3], drawn.labels[:, 3:]
    assert set(classes) <= set(range(len(CLASS_NAMES)))
    assert (centers - sides / 2 >= -1e-9).all()
    assert (centers + sides / 2 <= 1 + 1e-9).all()
    assert (sides > 0).all()


def test_boxes_fit_what_was_drawn(monkeypatch):
    """Every box touches its shape on all four sides: the drawing calls are watched, shapes counted pixel by pixel."""
    masks = []
    original = synthetic._shape_mask

    def watched(*arguments):
        mask = original(*arguments)
        masks.append((arguments[0], mask))
        return mask

    monkeypatch.setattr(synthetic, "_shape_mask", watched)
    for index in range(20):
        masks.clear()
        size = 160
        labels = generate_image(11, index, size).labels
        expected = []
        for number, (kind, mask) in enumerate(masks):
            pixels = {(y, x) for y, x in zip(*np.nonzero(mask > 0.5), strict=True)}
            above = np.max([later for _, later in masks[number + 1 :]] or [np.zeros_like(mask)], axis=0)
            free = sum(above[pixel] <= 0.5 for pixel in pixels)
            if pixels and free / len(pixels) >= LEAST_VISIBLE:
                ys, xs = zip(*pixels, strict=True)
                expected.append([kind, min(xs), min(ys), max(xs) + 1, max(ys) + 1])
        centers, sides = labels[:, 1:3] * size, labels[:, 3:] * size
        found = np.concatenate([labels[:, :1], centers - sides / 2, centers + sides / 2], 1)
        np.testing.assert_allclose(found, np.array(expected).reshape(-1, 5), atol=1e-6)


@pytest.mark.parametrize("name", CLASS_NAMES)
def test_each_class_covers_its_area(name):
    """Areas by geometry, of shapes that lie whole in the image, turned and squeezed; OpenCV fills border pixels too."""
    radius, size = 60.0, 160
    ring, disc = 1 - 0.55**2, np.pi
    areas = {
        "circle": disc, "ring": disc * ring, "square": 2.0, "triangle": 3 * np.sqrt(3) / 4,
        "pentagon": 5 / 2 * np.sin(2 * np.pi / 5), "star": 5 * 0.42 * np.sin(np.pi / 5), "cross": 4 * 0.36 * (2 - 0.36),
        "crescent": disc - lens(1.0, 0.85, 0.5),
    }  # fmt: skip
    for angle in (0.0, 0.7, 2.1):
        generator = np.random.default_rng(3)
        stretch = np.random.default_rng(3).uniform(0.75, 1.0)
        mask = synthetic._shape_mask(CLASS_NAMES.index(name), np.array([80.0, 80.0]), radius, angle, size, generator)
        assert mask.sum() == pytest.approx(areas[name] * stretch * radius**2, rel=0.1)


def lens(first, second, distance):
    """Area that two discs share."""
    a = first**2 * np.arccos((distance**2 + first**2 - second**2) / (2 * distance * first))
    b = second**2 * np.arccos((distance**2 + second**2 - first**2) / (2 * distance * second))
    c = 0.5 * np.sqrt(
        (-distance + first + second) * (distance + first - second) * (distance - first + second) * (distance + first + second)
    )
    return a + b - c


def test_the_set_has_all_classes_many_small_objects_and_overlap():
    labels = [generate_image(0, index).labels for index in range(60)]
    rows = np.concatenate(labels)
    counts = np.bincount(rows[:, 0].astype(int), minlength=len(CLASS_NAMES))
    assert counts.min() > 0.5 * counts.mean()
    longer = rows[:, 3:].max(axis=1) * 192
    assert (longer < 32).mean() > 0.2
    assert longer.max() > 64
    overlapping = 0
    for own in labels:
        apart = np.abs(own[:, None, 1:3] - own[None, :, 1:3]) >= (own[:, None, 3:] + own[None, :, 3:]) / 2
        overlapping += int((~apart.any(-1)).sum()) - len(own)
    assert overlapping > 0.5 * len(rows)


def test_a_written_set_reads_back_with_the_same_boxes(tmp_path):
    path = write_generated_dataset(tmp_path / "set", train=2, val=3, size=96, seed=9)
    validation, training = load_dataset(path), load_dataset(path, "train")
    assert validation.names == CLASS_NAMES
    assert (len(training.images), len(validation.images)) == (2, 3)
    assert not {entry.path.name for entry in training.images} & {entry.path.name for entry in validation.images}
    truth = validation.ground_truth
    for entry in validation.images:
        drawn = generate_image(9, int(entry.path.stem), 96)
        np.testing.assert_array_equal(cv2.imread(str(entry.path))[..., ::-1], drawn.image)
        boxes = [[a["category_id"], *a["bbox"]] for a in truth["annotations"] if a["image_id"] == entry.image_id]
        corners = (drawn.labels[:, 1:3] - drawn.labels[:, 3:] / 2) * 96
        expected = np.concatenate([drawn.labels[:, :1], corners, drawn.labels[:, 3:] * 96], 1)
        np.testing.assert_allclose(np.array(boxes).reshape(-1, 5), expected, atol=1e-3)
    assert not validation.problems


def test_progress_counts_every_image(tmp_path):
    seen = []
    write_generated_dataset(tmp_path, train=1, val=2, size=64, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

"""Augmentation: coloured rectangles are transformed, and boxes must still be where the colours are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yoloquant.data.images import PADDING_VALUE
from yoloquant.training.augment import affine, augment, change_colors, flip, mosaic, to_targets, transform_boxes
from yoloquant.training.hyperparameters import Hyperparameters

SIZE = 128
NONE = Hyperparameters(hsv_h=0, hsv_s=0, hsv_v=0, degrees=0, translate=0, scale=0, shear=0, flipud=0, fliplr=0, mosaic=0, mixup=0)
COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
seeds = st.integers(0, 2**31)


def painted(seed, height=SIZE, width=SIZE):
    """A grey image with rectangles that do not touch; the class is the colour."""
    generator = np.random.default_rng(seed)
    image = np.full((height, width, 3), PADDING_VALUE, np.uint8)
    rows = []
    for kind, band in enumerate(np.array_split(np.arange(2, width - 2), 3)):
        w, h = int(generator.integers(20, len(band) - 4)), int(generator.integers(20, height - 8))
        x, y = int(band[0] + generator.integers(0, len(band) - w)), int(generator.integers(4, height - h))
        image[y : y + h, x : x + w] = COLORS[kind]
        rows.append([kind, x, y, x + w, y + h])
    return image, np.array(rows, np.float64)


def colored_box(image, kind):
    """Box around the pixels that are more of a class's colour than not, or none."""
    distance = np.abs(image.astype(int) - COLORS[kind]).max(axis=2)
    ys, xs = np.nonzero(distance < 70)
    return None if len(xs) == 0 else np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def assert_boxes_are_tight(image, labels, tolerance):
    for kind in range(3):
        rows = labels[labels[:, 0] == kind]
        if len(rows):
            assert colored_box(image, kind) == pytest.approx(rows[0, 1:], abs=tolerance)


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0, 0.3), st.floats(0, 0.6))
def test_shift_and_scale_keep_boxes_tight(seed, translate, scale):
    parameters = NONE.model_copy(update={"translate": translate, "scale": scale})
    image, labels = affine(painted(seed), SIZE, parameters, np.random.default_rng(seed))
    assert image.shape == (SIZE, SIZE, 3)
    # The colour is counted from 70 levels on, which is within one pixel of the edge.
    assert_boxes_are_tight(image, labels, 1.01)


def test_scaling_has_no_half_pixel_bias():
    """The edge of a rectangle, measured below a pixel by its grey level, is where the box says."""
    image, labels = np.full((SIZE, SIZE, 3), PADDING_VALUE, np.uint8), np.array([[0.0, 32, 32, 96, 96]])
    image[32:96, 32:96] = 255
    parameters = NONE.model_copy(update={"scale": 0.5})
    errors = []
    for seed in range(60):
        warped, moved = affine((image, labels), SIZE, parameters, np.random.default_rng(seed))
        # Enlarged images are sampled finely enough to measure by grey level.
        if moved[0, 3] - moved[0, 1] > 1.2 * 64:
            line = (warped[SIZE // 2, :, 0].astype(np.float64) - PADDING_VALUE) / (255 - PADDING_VALUE)
            errors.append(SIZE // 2 - line[: SIZE // 2].sum() - moved[0, 1])
    assert len(errors) > 5
    assert abs(np.mean(errors)) < 0.05


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0, 45), st.floats(0, 10))
def test_rotated_boxes_cover_their_object(seed, degrees, shear):
    parameters = NONE.model_copy(update={"degrees": degrees, "shear": shear, "scale": 0.2})
    image, labels = affine(painted(seed), SIZE, parameters, np.random.default_rng(seed))
    for kind in range(3):
        rows = labels[labels[:, 0] == kind]
        if len(rows):
            low, high = colored_box(image, kind)[:2], colored_box(image, kind)[2:]
            assert (rows[0, 1:3] <= low + 1).all()
            assert (rows[0, 3:] >= high - 1).all()
            # The corners of a rectangle touch all four sides, unless they lie outside of the image.
            inside = (rows[0, 1:] > 1).all() and (rows[0, 1:] < SIZE - 1).all()
            if inside:
                assert np.concatenate([low, high]) == pytest.approx(rows[0, 1:], abs=2.5)


@settings(deadline=None, max_examples=40)
@given(seeds)
def test_mosaic_keeps_each_box_on_its_object(seed):
    samples = [painted(seed + number, *sides) for number, sides in enumerate([(128, 128), (96, 128), (128, 100), (128, 128)])]
    for number, (image, labels) in enumerate(samples):
        # One colour in each quarter, so that a box can be told apart from those of other quarters.
        own = labels[:, 0] == number % 3
        for row in labels[~own].astype(int):
            image[row[2] : row[4], row[1] : row[3]] = PADDING_VALUE
        samples[number] = image, labels[own] if number < 3 else labels[:0]
    samples[3][0][:] = PADDING_VALUE
    image, labels = mosaic(samples, SIZE, np.random.default_rng(seed))
    assert image.shape == (2 * SIZE, 2 * SIZE, 3)
    sides = labels[:, 3:] - labels[:, 1:3]
    assert_boxes_are_tight(image, labels[(sides > 0).all(axis=1)], 0)


@given(seeds, st.booleans(), st.booleans())
def test_flips_keep_boxes_tight(seed, left_right, up_down):
    image, labels = flip(painted(seed), left_right=left_right, up_down=up_down)
    assert_boxes_are_tight(image, labels, 0)


def test_a_flip_of_no_boxes():
    image, labels = flip((np.zeros((8, 8, 3), np.uint8), np.zeros((0, 5))), left_right=True, up_down=True)
    assert labels.shape == (0, 5)
    assert image.flags.c_contiguous


def test_boxes_that_lose_most_of_themselves_go():
    labels = np.array([[0.0, 10, 10, 30, 30], [1, 100, 10, 120, 30], [2, 50, 50, 51.5, 80]])
    shifted = np.array([[1.0, 0, -29], [0, 1, 0], [0, 0, 1]])
    # The first keeps 1 of 20 columns, the third is too thin.
    assert transform_boxes(labels, shifted, SIZE)[:, 0].tolist() == [1]


def test_colors_change_within_their_bounds_and_grey_keeps_its_hue():
    grey = np.full((4, 4, 3), 128, np.uint8)
    parameters = NONE.model_copy(update={"hsv_h": 0.5, "hsv_s": 0.9, "hsv_v": 0.25})
    values = []
    for seed in range(50):
        changed = change_colors(grey, parameters, np.random.default_rng(seed))
        assert np.ptp(changed.astype(int), axis=2).max() == 0
        values.append(int(changed[0, 0, 0]))
    assert 95 <= min(values) < 110 < 145 < max(values) <= 160


def test_nothing_is_changed_without_augmentation():
    samples = [painted(seed) for seed in range(3)]
    image, labels = augment(1, samples.__getitem__, 3, SIZE, NONE, np.random.default_rng(0))
    np.testing.assert_array_equal(image, samples[1][0])
    np.testing.assert_array_equal(labels, samples[1][1])


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_everything_at_once_gives_valid_boxes_and_is_repeatable(seed):
    parameters = Hyperparameters(degrees=10, shear=3, flipud=0.5, mixup=0.5, mosaic=0.7)
    samples = [painted(number) for number in range(6)]
    answers = [augment(2, samples.__getitem__, 6, SIZE, parameters, np.random.default_rng(seed)) for _ in range(2)]
    np.testing.assert_array_equal(answers[0][0], answers[1][0])
    np.testing.assert_array_equal(answers[0][1], answers[1][1])
    image, labels = answers[0]
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    assert (labels[:, 1:] >= 0).all()
    assert (labels[:, 1:] <= SIZE).all()
    assert (labels[:, 3:] - labels[:, 1:3] > 2 - 1e-9).all()


def test_targets_are_centres_and_sizes():
    rows = to_targets(np.array([[3.0, 16, 32, 48, 64]]), 64)
    assert rows.tolist() == [[3, 0.5, 0.75, 0.5, 0.5]]
    assert rows.dtype == np.float32

"""Augmentation of images with boxes. Images are uint8 `(H, W, 3)` RGB; labels `(n, 5)`: class, x1, y1, x2, y2 in pixels."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from yoloquant.data.images import PADDING_VALUE
from yoloquant.models.hyperparameters import Hyperparameters

Sample = tuple[np.ndarray, np.ndarray]


def mosaic(samples: list[Sample], size: int, generator: np.random.Generator) -> Sample:
    """Four images around a random centre on a canvas of twice the size (Bochkovskiy et al. 2020, section 3.4).

    Args:
        samples: Four samples.
        size: Half the side of the output, pixels.
        generator: Generator of randomness.
    """
    canvas = np.full((2 * size, 2 * size, 3), PADDING_VALUE, np.uint8)
    center_x, center_y = (int(generator.uniform(0.5 * size, 1.5 * size)) for _ in range(2))
    moved = []
    for position, (image, labels) in enumerate(samples):
        height, width = image.shape[:2]
        x = center_x - width if position % 2 == 0 else center_x
        y = center_y - height if position < 2 else center_y
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + width, 2 * size), min(y + height, 2 * size)
        canvas[top:bottom, left:right] = image[top - y : bottom - y, left - x : right - x]
        moved.append(labels + np.array([0, x, y, x, y]))
    labels = np.concatenate(moved)
    labels[:, 1:] = labels[:, 1:].clip(0, 2 * size)
    return canvas, labels


def affine(sample: Sample, size: int, parameters: Hyperparameters, generator: np.random.Generator) -> Sample:
    """Rotate, scale, shear and shift around the centre into a square image.

    Boxes become those of their turned corners; boxes that lose nine tenths of their area, or become thinner than two pixels,
    go.

    Args:
        sample: Sample of any size; a mosaic has twice `size`.
        size: Side of the output, pixels.
        parameters: `degrees`, `scale`, `shear`, `translate`.
        generator: Generator of randomness.
    """
    image, labels = sample
    factor = float(generator.uniform(1 - parameters.scale, 1 + parameters.scale))
    angle = float(generator.uniform(-parameters.degrees, parameters.degrees))
    shear = np.tan(np.radians(generator.uniform(-parameters.shear, parameters.shear, 2)))
    shift = generator.uniform(0.5 - parameters.translate, 0.5 + parameters.translate, 2) * size
    to_center = np.array([[1, 0, -image.shape[1] / 2], [0, 1, -image.shape[0] / 2], [0, 0, 1]])
    turn = np.vstack([cv2.getRotationMatrix2D((0, 0), angle, factor), [0, 0, 1]])
    skew = np.array([[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1]])
    place = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    matrix = place @ skew @ turn @ to_center
    # Boxes measure from the edges of pixels, OpenCV from their centres.
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    of_centers = np.linalg.inv(half) @ matrix @ half
    warped = cv2.warpAffine(image, of_centers[:2], (size, size), borderValue=(PADDING_VALUE,) * 3)
    return warped, transform_boxes(labels, matrix, size, factor)


def transform_boxes(labels: np.ndarray, matrix: np.ndarray, size: int, factor: float = 1.0) -> np.ndarray:
    """Boxes after an affine map, clipped to a square of `size`; too little of a box left over drops it."""
    if not len(labels):
        return labels
    corners = labels[:, [1, 2, 3, 4, 1, 4, 3, 2]].reshape(-1, 4, 2)
    points = corners @ matrix[:2, :2].T + matrix[:2, 2]
    boxes = np.concatenate([points.min(axis=1), points.max(axis=1)], axis=1).clip(0, size)
    before = (labels[:, 3:] - labels[:, 1:3]) * factor
    after = boxes[:, 2:] - boxes[:, :2]
    kept = (after > 2).all(axis=1) & (after.prod(axis=1) > 0.1 * before.prod(axis=1))
    moved: np.ndarray = np.concatenate([labels[:, :1], boxes], axis=1)[kept]
    return moved


def flip(sample: Sample, *, left_right: bool, up_down: bool) -> Sample:
    """Mirror image and boxes."""
    image, labels = sample
    height, width = image.shape[:2]
    if left_right:
        image = image[:, ::-1]
        labels = np.stack([labels[:, 0], width - labels[:, 3], labels[:, 2], width - labels[:, 1], labels[:, 4]], 1)
    if up_down:
        image = image[::-1]
        labels = np.stack([labels[:, 0], labels[:, 1], height - labels[:, 4], labels[:, 3], height - labels[:, 2]], 1)
    return np.ascontiguousarray(image), labels


def change_colors(image: np.ndarray, parameters: Hyperparameters, generator: np.random.Generator) -> np.ndarray:
    """Random gains on hue, saturation and value, by lookup tables."""
    if not (parameters.hsv_h or parameters.hsv_s or parameters.hsv_v):
        # The way to HSV and back rounds.
        return image
    gains = generator.uniform(-1, 1, 3) * [parameters.hsv_h, parameters.hsv_s, parameters.hsv_v] + 1
    values = np.arange(256)
    tables = (
        (values * gains[0] % 180).astype(np.uint8),
        (values * gains[1]).clip(0, 255).astype(np.uint8),
        (values * gains[2]).clip(0, 255).astype(np.uint8),
    )
    channels = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    changed = cv2.merge([cv2.LUT(channel, table) for channel, table in zip(channels, tables, strict=True)])
    return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)


def augment(
    index: int,
    get: Callable[[int], Sample],
    count: int,
    size: int,
    parameters: Hyperparameters,
    generator: np.random.Generator,
) -> Sample:
    """One training image.

    Args:
        index: Index of the image.
        get: Function from an index to a sample of side `size`.
        count: Number of samples.
        size: Side of the output, pixels.
        parameters: Probabilities and amounts.
        generator: Generator of randomness.
    """
    sample = _composed(index, get, count, size, parameters, generator)
    if generator.random() < parameters.mixup:
        other = _composed(int(generator.integers(count)), get, count, size, parameters, generator)
        share = float(generator.beta(32.0, 32.0))
        blended = cv2.addWeighted(sample[0], share, other[0], 1 - share, 0)
        sample = blended, np.concatenate([sample[1], other[1]])
    image = change_colors(sample[0], parameters, generator)
    flips = generator.random(2) < (parameters.fliplr, parameters.flipud)
    return flip((image, sample[1]), left_right=bool(flips[0]), up_down=bool(flips[1]))


def _composed(
    index: int,
    get: Callable[[int], Sample],
    count: int,
    size: int,
    parameters: Hyperparameters,
    generator: np.random.Generator,
) -> Sample:
    if generator.random() < parameters.mosaic:
        indices = [index, *generator.integers(count, size=3).tolist()]
        return affine(mosaic([get(i) for i in indices], size, generator), size, parameters, generator)
    return affine(get(index), size, parameters, generator)


def to_targets(labels: np.ndarray, size: int) -> np.ndarray:
    """`(n, 5)` class, corners in pixels -> class, centre x, centre y, width, height in 0..1."""
    boxes = labels[:, 1:] / size
    return np.concatenate([labels[:, :1], (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1).astype(
        np.float32
    )

"""A detection set that needs no download: textured, overlapping shapes, drawn from a seed.

The same seed draws the same images everywhere, up to the last bit of OpenCV's drawing. An object's box is that of its
whole shape within the image; shapes of which less than a quarter can still be seen carry no box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from yoloquant.progress import Update

CLASS_NAMES = ("circle", "square", "triangle", "star", "cross", "ring", "pentagon", "crescent")
LEAST_VISIBLE = 0.25


@dataclass(frozen=True)
class GeneratedImage:
    """An image with its objects.

    Attributes:
        image: Image, uint8 `(H, W, 3)`, RGB.
        labels: `(n, 5)` float64: class, centre x, centre y, width, height, normalised to 0..1.
    """

    image: np.ndarray
    labels: np.ndarray


def generate_image(seed: int, index: int, size: int = 192) -> GeneratedImage:
    """Draw the `index`-th image of the set with a seed.

    Args:
        seed: Seed of the set.
        index: Index of the image; images are independent of each other.
        size: Height and width, pixels.
    """
    generator = np.random.default_rng((seed, index))
    image = _background(generator, size)
    classes, masks = [], []
    for _ in range(int(generator.integers(3, 13))):
        # Log-uniform: as many small objects as large ones in each octave.
        radius = size * float(np.exp(generator.uniform(np.log(0.05), np.log(0.24))))
        center = generator.uniform(0.04 * size, 0.96 * size, 2)
        kind = int(generator.integers(len(CLASS_NAMES)))
        mask = _shape_mask(kind, center, radius, float(generator.uniform(0, 2 * np.pi)), size, generator)
        _paint(image, mask, generator)
        classes.append(kind)
        masks.append(mask)
    image = _camera(image, generator)
    return GeneratedImage(image, _labels(classes, masks, size))


def write_generated_dataset(
    folder: Path, *, train: int = 256, val: int = 256, size: int = 192, seed: int = 0, progress: Update | None = None
) -> Path:
    """Write a set in YOLO layout: images/, labels/ and data.yaml.

    Args:
        folder: Folder to write into; created if missing.
        train: Number of images of the train split.
        val: Number of images of the val split.
        size: Height and width, pixels.
        seed: Seed of the set; splits of one seed do not overlap.
        progress: Callback, called with (images written, images).

    Returns:
        The path of the data.yaml.
    """
    splits = {"train": range(train), "val": range(1_000_000, 1_000_000 + val)}
    done = 0
    for split, indices in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in indices:
            drawn = generate_image(seed, index, size)
            stem = f"{index:08d}"
            # PNG, since JPEG encoders differ between machines.
            cv2.imwrite(str(folder / "images" / split / f"{stem}.png"), drawn.image[..., ::-1])
            lines = (f"{int(row[0])} " + " ".join(f"{value:.6f}" for value in row[1:]) for row in drawn.labels)
            (folder / "labels" / split / f"{stem}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
            done += 1
            if progress:
                progress(done, train + val)
    path = folder / "data.yaml"
    content = {"path": ".", "train": "images/train", "val": "images/val", "names": dict(enumerate(CLASS_NAMES))}
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def _background(generator: np.random.Generator, size: int) -> np.ndarray:
    """A colour gradient with noise of several sizes and a few lines; float32 `(H, W, 3)`, 0..1."""
    corners = generator.uniform(0.1, 0.9, (2, 2, 3)).astype(np.float32)
    image = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    for cells in (4, 16, 64):
        noise = generator.normal(0, 0.05, (cells, cells, 3)).astype(np.float32)
        image = image + cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(generator.integers(0, 6))):
        ends = generator.integers(0, size, 4).tolist()
        color = generator.uniform(0, 1, 3).tolist()
        cv2.line(image, tuple(ends[:2]), tuple(ends[2:]), color, int(generator.integers(1, 4)), cv2.LINE_AA)
    return image


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """Points of a regular polygon, or of a star where every other point is at `inner`."""
    count = corners * (2 if inner < 1 else 1)
    angles = np.arange(count) * 2 * np.pi / count
    radii = np.where(np.arange(count) % 2 == 1, inner, 1.0) if inner < 1 else np.ones(count)
    return np.stack([np.cos(angles) * radii, np.sin(angles) * radii], 1)


_ARM = 0.36
_CROSS = np.array(
    [(1, _ARM), (_ARM, _ARM), (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM),
     (-1, -_ARM), (-_ARM, -_ARM), (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM)]
)  # fmt: skip
_POLYGONS = {
    "square": _regular(4),
    "triangle": _regular(3),
    "star": _regular(5, 0.42),
    "cross": _CROSS,
    "pentagon": _regular(5),
}


def _shape_mask(
    kind: int, center: np.ndarray, radius: float, angle: float, size: int, generator: np.random.Generator
) -> np.ndarray:
    """Coverage of a shape, float32 `(H, W)`, 0..1."""
    mask = np.zeros((size, size), np.uint8)
    name = CLASS_NAMES[kind]
    stretch = np.array([1.0, float(generator.uniform(0.75, 1.0))])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = _POLYGONS.get(name, _regular(48))
    _fill(mask, (outline * stretch) @ turn.T * radius + center, 255)
    if name == "ring":
        _fill(mask, (outline * stretch * 0.55) @ turn.T * radius + center, 0)
    if name == "crescent":
        _fill(mask, ((outline * 0.85 + np.array([0.5, 0.0])) * stretch) @ turn.T * radius + center, 0)
    return mask.astype(np.float32) / 255.0


def _fill(mask: np.ndarray, points: np.ndarray, value: int) -> None:
    # OpenCV takes fixed-point coordinates with 4 fractional bits here.
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], value, cv2.LINE_AA, 4)


def _stripes(generator: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    angle, period = generator.uniform(0, np.pi), generator.uniform(4, 16)
    signs: np.ndarray = np.sign(np.sin((columns * np.cos(angle) + rows * np.sin(angle)) * 2 * np.pi / period))
    return signs


def _checks(generator: np.random.Generator, size: int) -> np.ndarray:
    rows, columns = np.mgrid[0:size, 0:size]
    cell = int(generator.integers(3, 9))
    signs: np.ndarray = (rows // cell + columns // cell) % 2 * 2 - 1
    return signs.astype(np.float32)


def _grain(generator: np.random.Generator, size: int) -> np.ndarray:
    return cv2.resize(generator.normal(0, 0.7, (size // 3, size // 3)).astype(np.float32), (size, size))


def _flat(_generator: np.random.Generator, size: int) -> np.ndarray:
    return np.zeros((size, size), np.float32)


_TEXTURES: tuple[Callable[[np.random.Generator, int], np.ndarray], ...] = (_stripes, _checks, _grain, _flat)


def _paint(image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> None:
    """Lay a textured shape over the image, partly transparent now and then."""
    texture = _TEXTURES[int(generator.integers(len(_TEXTURES)))](generator, len(image))
    # At least so far from the middle of what it covers that a person sees it.
    behind = (image * mask[..., None]).sum((0, 1)) / max(float(mask.sum()), 1.0)
    color = generator.uniform(0, 1, 3)
    if np.abs(color - behind).max() < 0.3:
        color = (color + 0.5) % 1.0
    color = color + generator.uniform(0.05, 0.2) * texture[..., None]
    alpha = (mask * generator.uniform(0.7, 1.0))[..., None]
    image += alpha * (color.astype(np.float32) - image)


def _camera(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Contrast, blur and noise of a cheap camera; uint8."""
    image = (image - 0.5) * generator.uniform(0.6, 1.1) + 0.5 + generator.uniform(-0.12, 0.12)
    if generator.random() < 0.4:
        image = cv2.GaussianBlur(image.astype(np.float32), (0, 0), float(generator.uniform(0.4, 1.3)))
    image = image + generator.normal(0, generator.uniform(0.0, 0.05), image.shape)
    return np.clip(image * 255.0, 0, 255).astype(np.uint8)


def _labels(classes: list[int], masks: list[np.ndarray], size: int) -> np.ndarray:
    rows = []
    covered = np.zeros_like(masks[0])
    # From the top down, so that what lies above is known.
    for kind, mask in zip(reversed(classes), reversed(masks), strict=True):
        solid = mask > 0.5
        area = solid.sum()
        if area > 0 and (solid & (covered <= 0.5)).sum() / area >= LEAST_VISIBLE:
            ys, xs = np.nonzero(solid)
            x1, y1, x2, y2 = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
            rows.append([kind, (x1 + x2) / 2 / size, (y1 + y2) / 2 / size, (x2 - x1) / size, (y2 - y1) / size])
        covered = np.maximum(covered, mask)
    return np.array(rows[::-1], np.float64).reshape(-1, 5)

"""Images as a detector takes them: in batches, the first ones, or some of all."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from yoloquant.data.dataset import ImageEntry
from yoloquant.data.loader import ImageLoader
from yoloquant.data.sample import readable_sample, sample_images, source_images
from yoloquant.errors import DataError
from yoloquant.models.detector import Detector
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.spec import Count, Section


class CalibrationSettings(Section):
    """Which images observers see: `images` of them drawn with `seed`, in batches of `batch_size`."""

    images: Count = 128
    seed: int = 42
    batch_size: Count = 8


@dataclass(frozen=True)
class CalibrationImages:
    """The images that a recipe sees.

    Attributes:
        available: Images that all others are drawn from.
        calibration: Images to calibrate on.
        seed: Random seed of every draw.
        batch_size: Number of images in a batch of observers.
        problems: Sentences about what was left out.
    """

    available: tuple[ImageEntry, ...]
    calibration: list[ImageEntry]
    seed: int
    batch_size: int = CalibrationSettings().batch_size
    problems: tuple[str, ...] = ()

    def sample(self, count: int | None) -> list[ImageEntry]:
        """Some of the available images, drawn at random; the calibration images where no count is given."""
        return self.calibration if count is None else sample_images(self.available, count, self.seed)


def images_to_calibrate(
    settings: CalibrationSettings, data: str | Path | None, calibration: str | Path | None
) -> CalibrationImages:
    """Images of `calibration`, or of the train split of `data`.

    Raises:
        DataError: Neither is given, or there are no images.
    """
    source = calibration or data
    if source is None:
        raise DataError("calibration needs images: name a data.yaml with --data, or images with --calibration")
    found = source_images(source)
    drawn, skipped = readable_sample(found.images, settings.images, settings.seed)
    problems = (*found.problem_sentences(), *(f"skipped: {sentence}" for sentence in skipped))
    return CalibrationImages(found.images, drawn, settings.seed, settings.batch_size, problems)


def loader_for(detector: Detector | QuantizedDetector, entries: list[ImageEntry], batch_size: int) -> ImageLoader:
    """Images as the detector takes them."""
    return ImageLoader(entries, detector.input_size, batch_size, top_left=detector.preprocessing.top_left)


def first_images(detector: Detector | QuantizedDetector, entries: list[ImageEntry], count: int) -> Tensor:
    """The first `count` images that can be decoded, or as many as there are, uint8 `(count, 3, H, W)`.

    Raises:
        DataError: There are none.
    """
    loader = loader_for(detector, entries, 1)
    images = [batch.images for batch in itertools.islice(loader, count)]
    if not images:
        raise DataError(f"none of the {len(entries)} images can be decoded; the first: {loader.skipped[0]}")
    return torch.cat(images)


def spread_images(detector: Detector | QuantizedDetector, entries: list[ImageEntry], count: int) -> Tensor:
    """Some of the sorted images, which often come in groups that look alike."""
    return first_images(detector, entries[:: max(1, len(entries) // count)], count)

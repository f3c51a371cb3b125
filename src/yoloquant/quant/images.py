"""Images as a detector takes them: in batches, the first ones, or some of all."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from yoloquant.data.dataset import ImageEntry
from yoloquant.data.loader import ImageLoader
from yoloquant.errors import DataError
from yoloquant.models.detector import Detector
from yoloquant.quant.quantized_detector import QuantizedDetector


def loader_for(detector: Detector | QuantizedDetector, entries: list[ImageEntry], batch_size: int) -> ImageLoader:
    """Images as the detector takes them."""
    return ImageLoader(entries, detector.input_size, batch_size, top_left=detector.preprocessing.top_left)


def first_images(quantized: QuantizedDetector, entries: list[ImageEntry], count: int) -> Tensor:
    """The first `count` images that can be decoded, or as many as there are, uint8 `(count, 3, H, W)`.

    Raises:
        DataError: There are none.
    """
    loader = loader_for(quantized, entries, 1)
    images = [batch.images for batch in itertools.islice(loader, count)]
    if not images:
        raise DataError(f"none of the {len(entries)} images can be decoded; the first: {loader.skipped[0]}")
    return torch.cat(images)


def spread_images(quantized: QuantizedDetector, entries: list[ImageEntry], count: int) -> Tensor:
    """Some of the sorted images, which often come in groups that look alike."""
    return first_images(quantized, entries[:: max(1, len(entries) // count)], count)

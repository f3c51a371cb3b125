"""Draw calibration images."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from yoloquant.data.dataset import ImageEntry, load_dataset
from yoloquant.errors import DataError


def sample_images(entries: Sequence[ImageEntry], count: int = 128, seed: int = 42) -> list[ImageEntry]:
    """Draw `count` images at random without repetition, or all of them if there are fewer; sorted by path.

    The draw depends only on the seed and the file names, not on the order of the source.
    """
    ordered = sorted(entries, key=lambda entry: str(entry.path))
    drawn = random.Random(seed).sample(ordered, min(count, len(ordered)))
    return sorted(drawn, key=lambda entry: str(entry.path))


def calibration_images(source: str | Path, count: int = 128, seed: int = 42) -> list[ImageEntry]:
    """Calibration images of a source, see `source_images`.

    Raises:
        DataError: there are none.
    """
    return sample_images(source_images(source), count, seed)


def source_images(source: str | Path) -> tuple[ImageEntry, ...]:
    """What calibration images are drawn from: the train split of a `data.yaml`, or the images of a list or a folder.

    Raises:
        DataError: there are none.
    """
    try:
        return load_dataset(source, "train").images
    except DataError as error:
        if "has no split" in str(error):
            raise DataError(f"{source} has no train split to calibrate on: add one, or name images with --calibration") from error
        raise


def write_image_list(entries: Sequence[ImageEntry], path: Path) -> None:
    """Write absolute image paths, one a line."""
    path.write_text("".join(f"{entry.path.resolve()}\n" for entry in entries), encoding="utf-8")

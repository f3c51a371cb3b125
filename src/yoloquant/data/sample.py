"""Draw calibration images."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from yoloquant.data.dataset import DetectionDataset, ImageEntry, load_dataset
from yoloquant.data.image_size import check_header
from yoloquant.errors import DataError
from yoloquant.files.writing import write_text


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
        DataError: There are none.
    """
    return sample_images(source_images(source).images, count, seed)


def readable_sample(
    entries: Sequence[ImageEntry], count: int = 128, seed: int = 42, check: Callable[[Path], object] = check_header
) -> tuple[list[ImageEntry], list[str]]:
    """Draw as `sample_images` does, and draw further images in place of those that cannot be read.

    Args:
        entries: Images to draw from.
        count: Number of images to draw.
        seed: Random seed.
        check: Raises a `DataError` for an image that cannot be read.

    Returns:
        The images, sorted by path, and a sentence for each one that was left out.

    Raises:
        DataError: There are none.
    """
    waiting = list(entries)
    kept: list[ImageEntry] = []
    skipped: list[str] = []
    while waiting and len(kept) < count:
        drawn = sample_images(waiting, count - len(kept), seed)
        for entry in drawn:
            try:
                check(entry.path)
                kept.append(entry)
            except DataError as error:
                skipped.append(str(error))
        gone = set(drawn)
        waiting = [entry for entry in waiting if entry not in gone]
    if not kept:
        raise DataError(f"none of the {len(entries)} images can be read; the first: {skipped[0]}")
    return sorted(kept, key=lambda entry: str(entry.path)), skipped


def source_images(source: str | Path) -> DetectionDataset:
    """What calibration images are drawn from: the train split of a `data.yaml`, or the images of a list or a folder.

    Raises:
        DataError: There are none.
    """
    try:
        return load_dataset(source, "train")
    except DataError as error:
        if "has no split" in str(error):
            raise DataError(f"{source} has no train split to calibrate on: add one, or name images with --calibration") from error
        raise


def write_image_list(entries: Sequence[ImageEntry], path: Path) -> None:
    """Write absolute image paths, one a line."""
    write_text(path, "".join(f"{entry.path.resolve()}\n" for entry in entries))

"""What images and labels hold, so that measurements are taken up again for the same ones alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.data.labels import label_path


def contents_of(entries: Iterable[ImageEntry]) -> list[str]:
    """For each image its name and a digest of its file and its label file."""
    return [f"{entry.path.name}:{_digest(entry.path, label_path(entry.path))}" for entry in entries]


def dataset_contents(dataset: DetectionDataset) -> list[str]:
    """The same for all images of a data set, and a digest of its boxes as they are used."""
    truth = json.dumps(dataset.ground_truth, sort_keys=True).encode()
    return [*contents_of(dataset.images), hashlib.sha256(truth).hexdigest()]


def _digest(*paths: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        digest.update(path.read_bytes() if path.is_file() else b"")
        digest.update(b"\0")
    return digest.hexdigest()

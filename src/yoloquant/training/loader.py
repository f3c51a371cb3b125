"""Training batches: images in memory or, where they are too many, on disk; augmented ahead by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.data.images import PADDING_VALUE, read_image
from yoloquant.data.labels import read_labels
from yoloquant.distributed import process_count, process_number
from yoloquant.errors import DataError
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.training.augment import Sample, augment, to_targets

# What the images of a set may take in memory, bytes; larger sets are read again in each epoch.
IN_MEMORY = 4 << 30


def load_samples(dataset: DetectionDataset, size: int) -> list[Sample]:
    """Images and boxes of a set, scaled so that the longer side is `size`; images without labels count as background.

    Damaged images are left out and named in `dataset.problems`.

    Raises:
        DataError: No image can be read.
    """
    samples = []
    for entry in dataset.images:
        try:
            samples.append(_read_sample(dataset, entry, size))
        except DataError as error:
            dataset.problems.setdefault("damaged image", []).append(str(error))
    if not samples:
        raise DataError("none of the training images can be read")
    return samples


class SamplesOnDisk(Sequence[Sample]):
    """The same, read when they are asked for; a damaged image is a grey one without boxes."""

    def __init__(self, dataset: DetectionDataset, size: int) -> None:
        """Keep the paths."""
        self._dataset, self._size = dataset, size

    def __len__(self) -> int:
        """Images."""
        return len(self._dataset.images)

    def __getitem__(self, index: Any) -> Any:
        """One sample."""
        entry = self._dataset.images[index]
        try:
            return _read_sample(self._dataset, entry, self._size)
        except DataError as error:
            self._dataset.problems.setdefault("damaged image", []).append(str(error))
            return np.full((self._size, self._size, 3), PADDING_VALUE, np.uint8), np.zeros((0, 5))


def open_samples(dataset: DetectionDataset, size: int, in_memory: int = IN_MEMORY) -> Sequence[Sample]:
    """Samples in memory where they fit, else on disk.

    Args:
        dataset: Data set with labels.
        size: Longer side, pixels.
        in_memory: Maximum number of bytes in memory.

    Raises:
        DataError: No image can be read.
    """
    return load_samples(dataset, size) if len(dataset.images) * size * size * 3 <= in_memory else SamplesOnDisk(dataset, size)


def _read_sample(dataset: DetectionDataset, entry: ImageEntry, size: int) -> Sample:
    image = read_image(entry.path)
    labels = read_labels(entry.path, len(dataset.names), dataset.problems, entry.keypoint_columns)
    scale = size / max(image.shape[:2])
    if scale != 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    height, width = image.shape[:2]
    rows = np.zeros((0, 5)) if labels is None else labels
    corners = np.concatenate([rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], 1)
    return image, np.concatenate([rows[:, :1], corners * [width, height, width, height]], 1)


class TrainingLoader:
    """Batches of an epoch; the same seed and epoch give the same batches, whatever the threads do.

    In several processes each gets its equal share of every batch.

    Attributes:
        batch_size: Number of images in a batch, of all processes together.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: int,
        batch_size: int,
        parameters: Hyperparameters,
        seed: int = 0,
        workers: int = 2,
        epochs: int | None = None,
    ) -> None:
        """Keep the samples.

        Args:
            samples: Samples from `open_samples`.
            size: Side of the batches, pixels.
            batch_size: Number of images in a batch of all processes; an incomplete last batch is left out, unless it is the only
                one.
            parameters: Augmentation.
            seed: Seed of all randomness.
            workers: Number of threads.
            epochs: Number of epochs of the run; the last of them go without mosaic where the parameters say so.

        Raises:
            DataError: There are no samples, or fewer than processes.
        """
        if not samples:
            raise DataError("there are no training images")
        self._first, self._processes = process_number(), process_count()
        if min(batch_size, len(samples)) < self._processes:
            raise DataError(f"{self._processes} processes cannot share a batch of {min(batch_size, len(samples))} images")
        self.samples, self.size, self.parameters, self.seed = samples, size, parameters, seed
        self.batch_size = min(batch_size, len(samples)) // self._processes * self._processes
        self._workers = workers
        self._closes = epochs - parameters.close_mosaic if epochs is not None else None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.samples) // self.batch_size

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of an epoch.

        Yields:
            Images uint8 `(N, 3, size, size)` and targets `(n, 6)`: image, class, centre x, centre y, width, height in 0..1.
        """
        order = np.random.default_rng((self.seed, number)).permutation(len(self.samples))
        batches = [
            order[i * self.batch_size : (i + 1) * self.batch_size][self._first :: self._processes] for i in range(len(self))
        ]
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[list[Future[Sample]]] = deque()
            try:
                for position in range(len(batches) + 2):
                    if position < len(batches):
                        waiting.append([pool.submit(self._one, int(index), number) for index in batches[position]])
                    if position >= 2:
                        yield self._collate([future.result() for future in waiting.popleft()])
            finally:
                pool.shutdown(cancel_futures=True)

    def _one(self, index: int, epoch: int) -> Sample:
        generator = np.random.default_rng((self.seed, epoch, index))
        parameters = self.parameters
        if self._closes is not None and epoch >= self._closes:
            parameters = parameters.model_copy(update={"mosaic": 0.0, "mixup": 0.0})
        return augment(index, self.samples.__getitem__, len(self.samples), self.size, parameters, generator)

    def _collate(self, samples: list[Sample]) -> tuple[Tensor, Tensor]:
        images = np.stack([image for image, _ in samples]).transpose(0, 3, 1, 2)
        targets = []
        for number, (_, labels) in enumerate(samples):
            rows = to_targets(labels, self.size)
            targets.append(np.concatenate([np.full((len(rows), 1), number, np.float32), rows], axis=1))
        return torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(np.concatenate(targets))

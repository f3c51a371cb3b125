"""Batches of letterboxed images, loaded ahead by threads."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from yoloquant.data.dataset import ImageEntry
from yoloquant.data.image_size import image_size
from yoloquant.data.images import Letterbox, letterbox, read_image, rectangular_size
from yoloquant.errors import DataError


@dataclass(frozen=True)
class Batch:
    """Some images of a data set.

    Attributes:
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        entries: Data set entries of the images.
        letterboxes: Letterbox of each image, which maps boxes back to it.
    """

    images: Tensor
    entries: tuple[ImageEntry, ...]
    letterboxes: tuple[Letterbox, ...]


_Loaded = tuple[tuple[np.ndarray, Letterbox] | str, float]


class ImageLoader:
    """Iterates over batches; OpenCV decodes and scales outside of Python's lock, so threads are enough.

    Attributes:
        skipped: Sentences about images that could not be decoded and were left out.
        seconds: Seconds that decoding and scaling took, all threads together.
    """

    def __init__(
        self,
        entries: Sequence[ImageEntry],
        size: tuple[int, int],
        batch_size: int = 8,
        *,
        workers: int = 2,
        rectangular: bool = False,
        stride: int = 32,
        top_left: bool = False,
    ) -> None:
        """Prepare to load.

        Args:
            entries: Images in order.
            size: `(height, width)` of the network's input; with `rectangular`, its longer side.
            batch_size: Number of images in a batch.
            workers: Number of threads.
            rectangular: Batches of one shape, padded as `rectangular_size` says; changes the order.
            stride: Stride of the network, pixels.
            top_left: Whether images stand at the top left of the input.

        Raises:
            DataError: There are no images.
        """
        if not entries:
            raise DataError("there are no images to load")
        self.skipped: list[str] = []
        self.seconds = 0.0
        self._workers = workers
        self._top_left = top_left
        self._long_side = max(size) if rectangular else None
        self._groups = _rectangular_groups(entries, max(size), stride, batch_size) if rectangular else [
            (tuple(entries[start : start + batch_size]), size) for start in range(0, len(entries), batch_size)
        ]  # fmt: skip

    def __len__(self) -> int:
        """Number of batches, if no image is damaged."""
        return len(self._groups)

    def __iter__(self) -> Iterator[Batch]:
        """Load batches; at most three are ready ahead, so memory does not grow with the set."""
        self.skipped.clear()
        self.seconds = 0.0
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[tuple[tuple[ImageEntry, ...], list[Future[_Loaded]]]] = deque()
            groups = iter(self._groups)
            try:
                while True:
                    while len(waiting) < 3 and (group := next(groups, None)):
                        entries, size = group
                        waiting.append((entries, [pool.submit(self._load, entry, size) for entry in entries]))
                    if not waiting:
                        return
                    batch = self._assemble(*waiting.popleft())
                    if batch is not None:
                        yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def _load(self, entry: ImageEntry, size: tuple[int, int]) -> _Loaded:
        """An image `(3, H, W)` and how boxes come back, or what is wrong with its file; and the seconds that it took."""
        started = time.perf_counter()
        try:
            image, box = letterbox(read_image(entry.path), size, long_side=self._long_side, top_left=self._top_left)
        except DataError as error:
            return str(error), time.perf_counter() - started
        return (np.ascontiguousarray(image.transpose(2, 0, 1)), box), time.perf_counter() - started

    def _assemble(self, entries: tuple[ImageEntry, ...], futures: list[Future[_Loaded]]) -> Batch | None:
        images, kept, boxes = [], [], []
        for entry, future in zip(entries, futures, strict=True):
            loaded, seconds = future.result()
            self.seconds += seconds
            if isinstance(loaded, str):
                self.skipped.append(loaded)
            else:
                images.append(loaded[0])
                boxes.append(loaded[1])
                kept.append(entry)
        if not images:
            return None
        return Batch(torch.from_numpy(np.stack(images)), tuple(kept), tuple(boxes))


def _rectangular_groups(
    entries: Sequence[ImageEntry], long_side: int, stride: int, batch_size: int
) -> list[tuple[tuple[ImageEntry, ...], tuple[int, int]]]:
    """Batches of images of one padded size."""
    by_size: dict[tuple[int, int], list[ImageEntry]] = {}
    for entry in entries:
        size = image_size(entry.path)
        by_size.setdefault(rectangular_size(size, long_side, stride) if all(size) else (long_side, long_side), []).append(entry)
    return [
        (tuple(members[start : start + batch_size]), size)
        for size, members in sorted(by_size.items())
        for start in range(0, len(members), batch_size)
    ]

"""Values at the borders of regions for all images, in memory or on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

# Images that are computed at once when values are made.
BATCH = 8


class ValueStore:
    """Tensors by name, each with one entry for each image.

    On disk each tensor is a memory-mapped file: pages that are not used are the system's to drop.
    """

    def __init__(self, *, on_disk: bool) -> None:
        """Open an empty store; `on_disk` makes a temporary folder that `close` removes."""
        self._tensors: dict[str, Tensor] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="yoloquant-values-") if on_disk else None

    def __enter__(self) -> ValueStore:
        return self

    def __exit__(self, *_: object) -> None:
        self._tensors.clear()
        if self._folder:
            self._folder.cleanup()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def write(self, name: str, start: int, count: int, values: Tensor) -> None:
        """Put the values of a batch that begins at image `start` of `count`."""
        if name not in self._tensors:
            self._tensors[name] = self._empty(name, count, values)
        self._tensors[name][start : start + len(values)] = values

    def keep(self, names: Container[str]) -> None:
        """Forget all tensors but these, and their files."""
        for name in [name for name in self._tensors if name not in names]:
            del self._tensors[name]
            if self._folder:
                self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return Path(self._folder.name) / name.replace("/", "_")

    def _empty(self, name: str, count: int, like: Tensor) -> Tensor:
        shape = (count, *like.shape[1:])
        # Maps stay channels last, as convolutions want them.
        channels_last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
        if self._folder is None:
            layout = torch.channels_last if channels_last else torch.contiguous_format
            return torch.empty(shape, dtype=like.dtype, memory_format=layout)
        flat = torch.from_file(str(self._path(name)), shared=True, size=count * like[0].numel(), dtype=like.dtype)
        if channels_last:
            _, channels, height, width = shape
            return flat.view(count, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(shape)


def batches(count: int, size: int = BATCH) -> Iterator[range]:
    """Ranges of image numbers."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))


def fits_in_memory(wanted: int) -> bool:
    """Half of the memory that is free now is enough for `wanted` bytes."""
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return wanted < 2 << 30
    return wanted < free // 2


def largest_cut(sizes: Sequence[tuple[int, int, int]]) -> int:
    """Most bytes alive at one time, of values `(first step, last step, bytes)`."""
    steps = {first for first, _, _ in sizes}
    return max((sum(size for first, last, size in sizes if first <= step <= last) for step in steps), default=0)

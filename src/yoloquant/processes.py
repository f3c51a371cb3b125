"""One process or several (`torchrun`): how many there are, which one this is, and sums over all of them."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

T = TypeVar("T")


def process_count() -> int:
    """Processes that train or evaluate together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_number() -> int:
    """This process, counted from 0; only 0 writes and prints."""
    return dist.get_rank() if process_count() > 1 else 0


@torch.no_grad()
def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes, without gradient; with one process the tensor itself, detached."""
    value = value.detach()
    if process_count() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total


def gathered(values: list[T]) -> list[T]:
    """The lists of all processes, one after the other, in every process."""
    if process_count() == 1:
        return values
    parts: list[list[T]] = [[] for _ in range(process_count())]
    dist.all_gather_object(parts, values)
    return [value for part in parts for value in part]

"""Where torch computes: the device, and one process or several (`torchrun`), with sums over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from yoloquant.environment import told_number
from yoloquant.errors import YoloquantError

T = TypeVar("T")
P = ParamSpec("P")


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


def from_first(make: Callable[P, T], *given: P.args, **options: P.kwargs) -> T:
    """Return value of a function in process 0, in every process; the others wait and do not call it."""
    if process_count() == 1:
        return make(*given, **options)
    held: list[T | None] = [make(*given, **options) if process_number() == 0 else None]
    dist.broadcast_object_list(held, src=0)
    return held[0]  # type: ignore[return-value]


@torch.no_grad()
def take_from_first(tensors: Iterable[Tensor]) -> None:
    """Give tensors the values that they have in process 0, in place; all processes hold as many, of the same shapes."""
    if process_count() > 1:
        for tensor in tensors:
            # Some backends only send tensors whose values lie in order.
            sent = tensor.detach().contiguous()
            dist.broadcast(sent, src=0)
            tensor.copy_(sent)


@torch.no_grad()
def extremes_over_processes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum of all processes' `low` and maximum of their `high`, element by element."""
    if process_count() == 1:
        return low, high
    both = torch.stack([-low, high])
    dist.all_reduce(both, dist.ReduceOp.MAX)
    return -both[0], both[1]


@contextmanager
def process_group(device: str) -> Iterator[str]:
    """Join the processes that `torchrun` started, and leave them at the end; nothing happens in a process that is alone.

    Args:
        device: "cpu", "cuda" or "auto"; each process takes the GPU of its number.

    Yields:
        The device of this process.

    Raises:
        YoloquantError: There is no such device.
    """
    device = str(checked_device(device))
    if told_number("WORLD_SIZE", 1) == 1 or process_count() > 1:
        yield device
        return
    cuda = device.startswith("cuda")
    if cuda:
        device = f"cuda:{told_number('LOCAL_RANK', 0)}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def checked_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU where torch sees one.

    Raises:
        YoloquantError: There is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.device_count() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise YoloquantError(f"{name!r} is no device: name auto, cpu, cuda or cuda:1") from error
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if device.type not in ("cpu", "cuda") or (device.index or 0) >= count:
        raise YoloquantError(f"the device {name} is not there: torch sees {count if device.type == 'cuda' else 0} of its kind")
    return device


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(module.parameters()).device


@contextmanager
def on_device(device: torch.device | str, *modules: nn.Module) -> Iterator[None]:
    """Move modules to a device, and back to the processor afterwards."""
    for module in modules:
        module.to(device)
    try:
        yield
    finally:
        for module in modules:
            module.to("cpu")

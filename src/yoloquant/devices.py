"""Where torch computes: the processor, or a GPU for the steps that learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from yoloquant.errors import YoloquantError


def checked_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, `cuda:1`.

    Raises:
        YoloquantError: there is no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise YoloquantError(f"{name!r} is no device: name cpu, cuda or cuda:1") from error
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

"""Modules of a checkpoint as inert data, as far as families are recognised and their heads are read by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import numpy as np
from torch import Tensor

from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import canonical


class Record:
    """An object of the pickle as inert data.

    Attributes:
        path: `module.name` of the class that the pickle names.
        state: Its attributes.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: dict[Any, Any] = {}


def is_module(value: object) -> TypeGuard[Record]:
    """The record is a pickled `nn.Module`."""
    return isinstance(value, Record) and isinstance(value.state.get("_modules"), dict)


def modules_in(record: Record) -> Iterator[Record]:
    """A pickled module and all modules in it, parents first."""
    yield record
    for child in record.state["_modules"].values():
        if is_module(child):
            yield from modules_in(child)


def classes_in(record: Record) -> set[str]:
    """Class paths of a pickled module and of all modules in it, as `architecture.canonical` writes them."""
    return {canonical(module.path) for module in modules_in(record)}


def head_record(network: Record) -> Record:
    """The record of a network's detection head: its child `detect`, or the last of its layers.

    Raises:
        CheckpointError: It has no layers.
    """
    children = network.state["_modules"]
    detect = children.get("detect")
    if is_module(detect):
        return detect
    layers = children.get("model")
    if not is_module(layers) or not layers.state["_modules"]:
        raise CheckpointError("it holds a network without layers: the checkpoint is damaged")
    last = list(layers.state["_modules"].values())[-1]
    if not is_module(last):
        raise CheckpointError("the last layer of its network is none: the checkpoint is damaged")
    return last


def to_number(value: Any) -> Any:
    """Numbers of torch (0-dimensional tensors) as Python's; anything else as it is."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, np.generic):
        return value.item()
    return value

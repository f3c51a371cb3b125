"""A run's state as one safetensors file: named tensors, and everything else as JSON in its metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from yoloquant.checkpoint.safetensors_file import read_safetensors
from yoloquant.errors import CheckpointError
from yoloquant.files.reading import parsed
from yoloquant.files.writing import replaced_whole

FORMAT = "yoloquant.training.1"


def save_state(path: Path, groups: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> None:
    """Write a state; an interruption leaves the file that was there before.

    Args:
        path: Path of the file.
        groups: Tensors by group and name; groups have no dot in their names.
        facts: JSON values.
    """
    # Clones, since safetensors refuses tensors that share memory.
    tensors = {
        f"{group}.{name}": tensor.detach().clone(memory_format=torch.contiguous_format)
        for group, members in groups.items()
        for name, tensor in members.items()
    }
    with replaced_whole(path) as partial:
        save_file(tensors, str(partial), {"format": FORMAT, "facts": json.dumps(facts)})


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `save_state` wrote; groups that were empty are missing.

    Raises:
        CheckpointError: The file is missing, damaged, or of another kind.
    """
    tensors, metadata = read_safetensors(path, FORMAT)
    groups: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition(".")
        groups.setdefault(group, {})[name] = tensor
    with parsed(path, CheckpointError, "its description cannot be read"):
        return groups, dict(json.loads(metadata["facts"]))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers, as `index of the parameter.name`."""
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, slots in optimizer.state_dict()["state"].items()
        for name, value in slots.items()
        if value is not None
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_tensors`; learning rates stay as they are."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})


def gradient_tensors(parameters: Iterable[nn.Parameter]) -> dict[str, Tensor]:
    """Gradients that no optimiser step has used yet, by index."""
    return {str(index): parameter.grad for index, parameter in enumerate(parameters) if parameter.grad is not None}


def load_gradient_tensors(parameters: Iterable[nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `gradient_tensors`."""
    for index, parameter in enumerate(parameters):
        gradient = tensors.get(str(index))
        # In the parameter's own memory layout, so that sums over it round as in an unbroken run.
        parameter.grad = None if gradient is None else torch.empty_like(parameter).copy_(gradient)

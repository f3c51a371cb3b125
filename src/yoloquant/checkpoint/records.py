"""From inert pickle records to descriptions of networks."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import CLASSES, POSITION_FIELDS, Description, canonical, fields_of
from yoloquant.models.record import Record, is_module, to_number

# Levels of modules in each other, and modules, that no detector comes near.
_DEEPEST, _MOST_MODULES = 50, 20_000
# Numbers of a tensor that is a setting.
_LONGEST_SETTING = 4096


def check_modules(record: Record) -> None:
    """Make sure that a network is a tree of modules that can be walked.

    Raises:
        CheckpointError: It is very deep, has very many modules, or holds itself.
    """
    waiting = [(record, 0)]
    count = 0
    while waiting:
        module, depth = waiting.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_MODULES:
            what = f"hold each other more than {_DEEPEST} deep, or are more than {_MOST_MODULES}"
            raise CheckpointError(f"its modules {what}: the checkpoint is damaged")
        waiting += [(child, depth + 1) for child in module.state["_modules"].values() if is_module(child)]


def describe_record(record: Record, path: str = "") -> Description:
    """The description of a pickled module.

    Raises:
        CheckpointError: The class of a layer is not known; the message names class and layer.
    """
    name = canonical(getattr(record, "path", ""))
    if not is_module(record) or name not in CLASSES:
        where = f" at layer {path}" if path else ""
        raise CheckpointError(
            f"the checkpoint holds a {getattr(record, 'path', type(record).__name__)}{where}, which is not supported"
        )
    state, cls = record.state, CLASSES[name]
    wanted = [*fields_of(cls), *POSITION_FIELDS]
    children = {
        str(name): describe_record(child, f"{path}.{name}" if path else str(name))
        for name, child in state["_modules"].items()
        if child is not None and name not in getattr(cls, "left_out", ())
    }
    parameters, buffers = _pruned(_tensors(state.get("_parameters")), _tensors(state.get("_buffers")))
    return Description(
        name,
        {name: _plain(state[name]) for name in wanted if name in state},
        children,
        {**parameters, **buffers},
        frozenset(parameters),
    )


def _pruned(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Parameters times their masks, as `torch.nn.utils.prune` keeps them apart: `weight_orig` and `weight_mask`."""
    masked = {name.removesuffix("_orig"): name for name in parameters if name.endswith("_orig")}
    masked = {name: original for name, original in masked.items() if f"{name}_mask" in buffers}
    if not masked:
        return parameters, buffers
    whole = {name: value for name, value in parameters.items() if name not in masked.values()}
    whole.update({name: parameters[original] * buffers[f"{name}_mask"] for name, original in masked.items()})
    return whole, {name: value for name, value in buffers.items() if name.removesuffix("_mask") not in masked}


def unwrapped(record: Record) -> Record:
    """The network inside of torch's wrappers for several devices, which hold it as their child `module`."""
    while record.path.startswith("torch.nn.parallel.") and is_module(record.state["_modules"].get("module")):
        record = record.state["_modules"]["module"]
    return record


def _tensors(values: Any) -> dict[str, Tensor]:
    if not isinstance(values, dict):
        return {}
    return {str(name): value for name, value in values.items() if isinstance(value, Tensor)}


def _plain(value: Any) -> Any:
    """Settings as JSON values; tensors of several numbers become lists."""
    value = to_number(value)
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() <= _LONGEST_SETTING else None
    return list(value) if isinstance(value, tuple) else value

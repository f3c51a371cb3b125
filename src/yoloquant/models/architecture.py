"""Networks as data: a tree that says which module stands where, with which settings and tensors.

A `Description` comes from a checkpoint's inert records or from JSON, and `build` makes a network of this project's own
modules from it, whichever it was. So files are read without running their code, and any network that was read can be written as
JSON and safetensors and built again without the original file.

A module class takes part by `@architecture(names)`: the names are the class paths it stands for in pickles, the first of them
is its name in JSON. Its `fields` say which settings its `forward` reads, its annotations which children it must have. A tuple
`left_out` names children that a file may have and nothing here needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from yoloquant.errors import CheckpointError

REQUIRED = object()


@dataclass(frozen=True)
class Field:
    """A setting of a module.

    Attributes:
        kinds: Types it may have.
        default: Default where a file has none; `REQUIRED` if it must have one.
    """

    kinds: tuple[type, ...]
    default: Any = REQUIRED


@dataclass
class Description:
    """A module as data.

    Attributes:
        name: Registered name of its class.
        fields: Settings, JSON values.
        children: Submodules by name.
        tensors: Parameters and buffers by name; from JSON they are empty tensors of the right shape and type.
        parameters: Names of the tensors that are parameters.
    """

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    children: dict[str, Description] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    parameters: frozenset[str] = frozenset()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, tensors by shape and type only."""
        return {
            "name": self.name,
            "fields": self.fields,
            "children": {name: child.to_dict() for name, child in self.children.items()},
            "tensors": {
                name: [list(tensor.shape), str(tensor.dtype).removeprefix("torch."), name in self.parameters]
                for name, tensor in self.tensors.items()
            },
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Description:
        """The inverse of `to_dict`, tensors empty."""
        tensors = values["tensors"]
        return cls(
            values["name"],
            dict(values["fields"]),
            {name: cls.from_dict(child) for name, child in values["children"].items()},
            {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype, _) in tensors.items()},
            frozenset(name for name, (_, _, is_parameter) in tensors.items() if is_parameter),
        )


# Where a layer stands in a layered network; any module of a pickle may have these.
POSITION_FIELDS = {"f": Field((int, list, tuple), None), "i": Field((int,), None)}

CLASSES: dict[str, type[nn.Module]] = {}
NAMES: dict[type[nn.Module], str] = {}


def architecture(*names: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register a module class under the class paths it stands for."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        for name in names:
            CLASSES[name] = cls
        NAMES.setdefault(cls, names[0])
        return cls

    return register


# Packages, with the dot behind them, whose classes moved between their files from release to release.
_FLAT_PACKAGES: set[str] = set()


def flat_package(prefix: str) -> None:
    """Register a package whose classes go by `prefix` and their own name, whichever of its files they stand in.

    Args:
        prefix: Prefix of the package, with the dot behind it.
    """
    _FLAT_PACKAGES.add(prefix)


def canonical(path: str) -> str:
    """The name that a class path of a pickle is registered under: without the file's name in a flat package."""
    package = next((prefix for prefix in _FLAT_PACKAGES if path.startswith(prefix)), None)
    return path if package is None else package + path.rpartition(".")[2]


# torch's own modules: constructor arguments by attribute name.
_number, _size = (int, float), (int, tuple, list)
TORCH_FIELDS: dict[type[nn.Module], dict[str, Field]] = {
    nn.Conv2d: {
        "in_channels": Field((int,)),
        "out_channels": Field((int,)),
        "kernel_size": Field(_size),
        "stride": Field(_size),
        "padding": Field((*_size, str)),
        "dilation": Field(_size),
        "groups": Field((int,)),
        "padding_mode": Field((str,), "zeros"),
    },
    nn.ConvTranspose2d: {
        "in_channels": Field((int,)),
        "out_channels": Field((int,)),
        "kernel_size": Field(_size),
        "stride": Field(_size),
        "padding": Field(_size),
        "output_padding": Field(_size, 0),
        "groups": Field((int,)),
        "dilation": Field(_size),
    },
    nn.BatchNorm2d: {
        "num_features": Field((int,)),
        "eps": Field(_number, 1e-5),
        "momentum": Field((*_number, type(None)), 0.1),
    },
    nn.Linear: {"in_features": Field((int,)), "out_features": Field((int,))},
    nn.LayerNorm: {"normalized_shape": Field(_size), "eps": Field(_number, 1e-5)},
    nn.MultiheadAttention: {"embed_dim": Field((int,)), "num_heads": Field((int,))},
    nn.MaxPool2d: {
        "kernel_size": Field(_size),
        "stride": Field(_size),
        "padding": Field(_size, 0),
        "dilation": Field(_size, 1),
        "ceil_mode": Field((bool,), default=False),
    },
    nn.AvgPool2d: {
        "kernel_size": Field(_size),
        "stride": Field(_size),
        "padding": Field(_size, 0),
        "ceil_mode": Field((bool,), default=False),
        "count_include_pad": Field((bool,), default=True),
    },
    nn.AdaptiveAvgPool2d: {"output_size": Field(_size)},
    nn.Upsample: {
        "size": Field((*_size, type(None)), None),
        "scale_factor": Field((*_number, tuple, list, type(None)), None),
        "mode": Field((str,), "nearest"),
    },
    nn.ZeroPad2d: {"padding": Field(_size)},
    nn.LeakyReLU: {"negative_slope": Field(_number, 0.01)},
    nn.ELU: {"alpha": Field(_number, 1.0)},
    nn.Dropout: {"p": Field(_number, 0.5)},
    nn.Softmax: {"dim": Field((int, type(None)), None)},
    **{cls: {} for cls in (nn.SiLU, nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.GELU, nn.Sigmoid, nn.Tanh)},
    nn.Identity: {},
    nn.Sequential: {},
    nn.ModuleList: {},
}
for _cls in TORCH_FIELDS:
    architecture(f"{_cls.__module__}.{_cls.__name__}")(_cls)
# The same layer under another name, inside torch's attention.
architecture("torch.nn.modules.linear.NonDynamicallyQuantizableLinear")(nn.Linear)
TORCH_FIELDS[NonDynamicallyQuantizableLinear] = TORCH_FIELDS[nn.Linear]
NAMES[NonDynamicallyQuantizableLinear] = NAMES[nn.Linear]


def fields_of(cls: type[nn.Module]) -> dict[str, Field]:
    """The settings of a registered class."""
    return TORCH_FIELDS[cls] if cls in TORCH_FIELDS else getattr(cls, "fields", {})


def children_of(cls: type[nn.Module]) -> dict[str, Any]:
    """The children that a registered class of ours must have, by name."""
    if cls in TORCH_FIELDS:
        return {}
    hints = get_type_hints(cls)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and issubclass(hint, nn.Module)}


def build(description: Description, path: str = "") -> nn.Module:
    """Make the network of a description, in evaluation mode.

    Args:
        description: Description of the network.
        path: Layer name for error messages.

    Raises:
        CheckpointError: A class is unknown, or a setting or child is missing or of the wrong type.
    """
    where = path or "the network"
    cls = CLASSES.get(description.name)
    if cls is None:
        raise CheckpointError(f"{where} is a {description.name}, a layer that this version does not know")
    settings = _checked_fields(cls, description, where)
    if cls in TORCH_FIELDS and cls not in (nn.Sequential, nn.ModuleList, nn.MultiheadAttention):
        module = _build_torch(cls, settings, description, where)
    else:
        module = _build_container(cls, settings, description, path)
    for name, kind in POSITION_FIELDS.items():
        if isinstance(description.fields.get(name), kind.kinds):
            setattr(module, name, description.fields[name])
    return module.eval()


def _checked_fields(cls: type[nn.Module], description: Description, where: str) -> dict[str, Any]:
    settings = {}
    for name, expected in fields_of(cls).items():
        value = description.fields.get(name, expected.default)
        if value is REQUIRED or not (isinstance(value, expected.kinds) or value is expected.default):
            state = "has no" if value is REQUIRED else "has an unusable"
            raise CheckpointError(
                f"{where} ({cls.__name__}) {state} {name!r}: the checkpoint is damaged or of an unknown release"
            )
        settings[name] = tuple(value) if isinstance(value, list) and cls in TORCH_FIELDS else value
    return settings


def _build_torch(cls: type[nn.Module], settings: dict[str, Any], description: Description, where: str) -> nn.Module:
    if cls in (nn.Conv2d, nn.ConvTranspose2d, nn.Linear):
        settings["bias"] = "bias" in description.tensors
    try:
        # Without memory of its own: its tensors come from the file, whatever sizes the settings name.
        with torch.device("meta"):
            module = cls(**settings)
    except Exception as error:
        # Settings of a damaged file make constructors raise nearly anything.
        raise CheckpointError(f"{where} ({cls.__name__}) cannot be built: {error}") from error
    _load_tensors(module, description, where)
    return module


def _build_container(cls: type[nn.Module], settings: dict[str, Any], description: Description, path: str) -> nn.Module:
    where = path or "the network"
    # Constructors make fresh layers; here the layers come from the description.
    module = cls.__new__(cls)
    nn.Module.__init__(module)
    for name, value in settings.items():
        # Some settings are numbers in one file and parameters in another.
        if name not in description.tensors:
            setattr(module, name, value)
    for name, child in description.children.items():
        module.add_module(name, build(child, f"{path}.{name}" if path else name))
    for name, hint in children_of(cls).items():
        if not isinstance(getattr(module, name, None), hint):
            raise CheckpointError(f"{where} ({cls.__name__}) lacks its part {name!r}: the checkpoint is damaged")
    for name, tensor in description.tensors.items():
        _set_tensor(module, name, tensor, is_parameter=name in description.parameters, where=where)
    return module


def _load_tensors(module: nn.Module, description: Description, where: str) -> None:
    for name, own in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
        given = description.tensors.get(name)
        if given is None or given.shape != own.shape:
            found = "is missing" if given is None else f"has shape {tuple(given.shape)} instead of {tuple(own.shape)}"
            if name == "num_batches_tracked":
                setattr(module, name, torch.zeros((), dtype=torch.int64))
                continue
            raise CheckpointError(f"{where}.{name} {found}: the checkpoint is damaged")
        _set_tensor(module, name, given, is_parameter=isinstance(own, nn.Parameter), where=where)


def _set_tensor(module: nn.Module, name: str, given: Tensor, *, is_parameter: bool, where: str) -> None:
    value = _as_float(given)
    if not is_parameter:
        module.register_buffer(name, value)
    elif value.is_floating_point():
        module.register_parameter(name, nn.Parameter(value))
    else:
        raise CheckpointError(f"{where}.{name} holds integers, not floats: the checkpoint is damaged")


def _as_float(tensor: Tensor) -> Tensor:
    """Checkpoints hold half precision to be small; networks compute in float32."""
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def describe(module: nn.Module) -> Description:
    """The description of a network made of registered modules.

    Raises:
        CheckpointError: A module is of a class that is not registered.
    """
    cls = type(module)
    if cls not in NAMES:
        raise CheckpointError(f"{cls.__name__} is no module that yoloquant can write to a file")
    values = {name: getattr(module, name) for name in fields_of(cls)}
    fields = {name: _json_value(value) for name, value in values.items() if not isinstance(value, Tensor)}
    fields.update({name: _json_value(getattr(module, name)) for name in POSITION_FIELDS if hasattr(module, name)})
    return Description(
        NAMES[cls],
        fields,
        {name: describe(child) for name, child in module.named_children()},
        {
            name: tensor.detach()
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        },
        frozenset(name for name, _ in module.named_parameters(recurse=False)),
    )


def _json_value(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

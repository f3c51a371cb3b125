"""ONNX operators on numbers that describe shapes: sizes of tensors, and what a graph computes from them.

They are evaluated here as arrays of Python numbers, not as tensors, so that graphs that compute their shapes at run time are
captured as graphs that know them; sizes that are free stay symbols (`torch.SymInt`). An operator whose result has a free shape of
its own makes a tensor.
"""

from __future__ import annotations

import math
import operator as python
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

Numbers = np.ndarray
NUMBERS: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {}


def as_numbers(value: Any) -> Numbers:
    """Python numbers, or lists of them, as an array that holds them as they are."""
    return value if isinstance(value, np.ndarray) else np.array(value, dtype=object)


def _register(*names: str) -> Callable[[Any], Any]:
    def register(function: Any) -> Any:
        NUMBERS.update(dict.fromkeys(names, function))
        return function

    return register


def _given(values: list[Any], index: int, attributes: dict[str, Any], name: str, default: Any = None) -> Any:
    """What older operator sets have as an attribute and newer ones as an input, as Python numbers."""
    value = values[index] if index < len(values) else None
    return attributes.get(name, default) if value is None else value.tolist()


def _is_float(number: Any) -> bool:
    return isinstance(number, float | torch.SymFloat)


def _quotient(a: Any, b: Any) -> Any:
    return a / b if _is_float(a) or _is_float(b) else a // b


_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": python.add,
    "Sub": python.sub,
    "Mul": python.mul,
    "Div": _quotient,
    "Mod": python.mod,
    "Pow": python.pow,
    "Equal": python.eq,
    "Less": python.lt,
    "LessOrEqual": python.le,
    "Greater": python.gt,
    "GreaterOrEqual": python.ge,
    "And": lambda a, b: bool(a) and bool(b),
    "Or": lambda a, b: bool(a) or bool(b),
}
_UNARY: dict[str, Callable[[Any], Any]] = {
    "Neg": python.neg,
    "Abs": abs,
    "Floor": lambda x: torch.sym_float(math.floor(x)),
    "Ceil": lambda x: torch.sym_float(math.ceil(x)),
    "Sqrt": math.sqrt,
    "Not": python.not_,
}


def _each(function: Callable[..., Any], count: int) -> Callable[[list[Any], dict[str, Any]], Numbers]:
    """An operator on `count` inputs, number by number."""
    by_number = np.frompyfunc(function, count, 1)
    return lambda values, _attributes: as_numbers(by_number(*values[:count]))


NUMBERS.update({name: _each(function, 2) for name, function in _BINARY.items()})
NUMBERS.update({name: _each(function, 1) for name, function in _UNARY.items()})


@_register("Max", "Min")
def _extreme(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    function = np.frompyfunc(torch.sym_max if attributes["op"] == "Max" else torch.sym_min, 2, 1)
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return as_numbers(result)


@_register("Cast")
def _cast(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    kinds = {1: torch.sym_float, 10: torch.sym_float, 11: torch.sym_float, 16: torch.sym_float, 9: bool}
    return _each(kinds.get(attributes["to"], torch.sym_int), 1)(values, attributes)


@_register("Where")
def _where(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    return _each(lambda which, a, b: a if bool(which) else b, 3)(values, attributes)


@_register("Identity")
def _same(values: list[Any], _attributes: dict[str, Any]) -> Any:
    return values[0]


# Moving numbers about.


@_register("Concat")
def _concat(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    return np.concatenate([np.atleast_1d(value) for value in values], attributes["axis"])


@_register("Split")
def _split(values: list[Any], attributes: dict[str, Any]) -> tuple[Numbers, ...]:
    axis, sizes = attributes.get("axis", 0), _given(values, 1, attributes, "split")
    if sizes is None:
        return tuple(np.array_split(values[0], attributes["outputs"], axis))
    return tuple(np.split(values[0], np.cumsum(sizes)[:-1].astype(int), axis))


@_register("Slice")
def _slice(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    starts, ends = _given(values, 1, attributes, "starts"), _given(values, 2, attributes, "ends")
    axes = _given(values, 3, attributes, "axes", list(range(len(starts))))
    steps = _given(values, 4, attributes, "steps", [1] * len(starts))
    index: list[slice] = [slice(None)] * values[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, end, step)
    part: Numbers = values[0][tuple(index)]
    return part


@_register("Gather")
def _gather(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    return as_numbers(np.take(values[0], values[1].astype(int), axis=attributes.get("axis", 0)))


@_register("Squeeze")
def _squeeze(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    axes = _given(values, 1, attributes, "axes")
    numbers: Numbers = values[0]
    return np.squeeze(numbers, None if axes is None else tuple(np.atleast_1d(axes)))


@_register("Unsqueeze")
def _unsqueeze(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    return np.expand_dims(values[0], tuple(np.atleast_1d(_given(values, 1, attributes, "axes"))))


@_register("Reshape")
def _reshape(values: list[Any], _attributes: dict[str, Any]) -> Numbers:
    numbers: Numbers = values[0]
    return numbers.reshape(values[1].tolist())


@_register("Flatten")
def _flatten(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    numbers: Numbers = values[0]
    return numbers.reshape(math.prod(numbers.shape[: attributes.get("axis", 1)]), -1)


@_register("Transpose")
def _transpose(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    numbers: Numbers = values[0]
    return numbers.transpose(attributes.get("perm"))


_REDUCTIONS: dict[str, Callable[[Iterable[Any]], Any]] = {
    "ReduceProd": math.prod,
    "ReduceSum": sum,
    "ReduceMax": max,
    "ReduceMin": min,
}


@_register(*_REDUCTIONS)
def _reduce(values: list[Any], attributes: dict[str, Any]) -> Numbers:
    """Over all numbers; shapes are vectors."""
    result = as_numbers(_REDUCTIONS[attributes["op"]](values[0].ravel().tolist()))
    return result.reshape([1] * values[0].ndim) if attributes.get("keepdims", 1) else result


# Operators whose result has the shape that they are given.


@_register("ConstantOfShape")
def _constant_of_shape(values: list[Any], attributes: dict[str, Any]) -> Any:
    (fill,) = np.ravel(attributes.get("value", 0.0)).tolist()
    return _repeated(as_numbers(fill), values[0].tolist())


@_register("Expand")
def _expand(values: list[Any], _attributes: dict[str, Any]) -> Any:
    return _repeated(values[0], values[1].tolist())


@_register("Range")
def _range(values: list[Any], _attributes: dict[str, Any]) -> Any:
    start, limit, step = (value.item() for value in values)
    if any(isinstance(number, torch.SymInt | torch.SymFloat) for number in (start, limit, step)):
        return torch.arange(start, limit, step)
    return as_numbers(np.arange(start, limit, step).tolist())


def _repeated(numbers: Numbers, shape: list[Any]) -> Any:
    if not any(isinstance(size, torch.SymInt) for size in shape):
        return np.broadcast_to(numbers, np.broadcast_shapes(numbers.shape, shape))
    return as_tensor(numbers).expand(shape)


def as_tensor(numbers: Numbers) -> torch.Tensor:
    """Numbers as a tensor, floats in float32."""
    values = numbers.ravel().tolist()
    dtype = torch.float32 if any(_is_float(value) for value in values) else torch.int64
    if any(isinstance(value, torch.SymInt | torch.SymFloat) for value in values):
        return torch.stack([torch.scalar_tensor(value, dtype=dtype) for value in values]).reshape(numbers.shape)
    return torch.tensor(values, dtype=dtype).reshape(numbers.shape)

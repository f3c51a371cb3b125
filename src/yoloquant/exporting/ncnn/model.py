"""The two files of an ncnn network: `.param`, text with a line for each layer, and `.bin`, the weights in the layers' order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

# First line of a text file, and what stands before a weight in int8 or float32 (ncnn, docs/developer-guide/
# param-and-model-file-structure.md).
_MAGIC = "7767517"
_INT8, _FLOAT32 = (tag.to_bytes(4, "little") for tag in (0x000D4B38, 0))
# Arrays stand under their number subtracted from this.
_ARRAY = -23300
# What stands for the sides of a Mat, the fastest-running first, by the number of its dimensions.
_SIDES = {1: (0,), 2: (0, 1), 3: (0, 1, 2), 4: (0, 1, 11, 2)}

Parameter = int | float | Sequence[int] | Sequence[float]


@dataclass(frozen=True)
class NcnnLayer:
    """A line of the `.param` file.

    Attributes:
        kind: Kind of the layer.
        name: Name of it.
        inputs: Inputs; names of the blobs that it reads.
        outputs: Outputs; names of the blobs that it makes.
        parameters: Parameters by the numbers of ncnn's documentation.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[int, Parameter]

    def line(self) -> str:
        """The layer in a `.param` file."""
        counts = [str(len(self.inputs)), str(len(self.outputs))]
        written = [_written(number, value) for number, value in self.parameters.items()]
        # Words stand between spaces.
        names = ["_".join(name.split()) for name in (self.name or self.outputs[0], *self.inputs, *self.outputs)]
        return " ".join([self.kind, names[0], *counts, *names[1:], *written])


class NcnnModel:
    """A network in the making; layers stand in the order in which they are added."""

    def __init__(self) -> None:
        """Start without layers."""
        self._layers: list[NcnnLayer] = []
        self._weights: list[bytes] = []

    def add(
        self,
        kind: str,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        parameters: Mapping[int, Parameter] | None = None,
        weights: Sequence[bytes] = (),
    ) -> None:
        """Append a layer with its weights, in the order in which the layer's kind loads them."""
        self._layers.append(NcnnLayer(kind, name, tuple(inputs), tuple(outputs), parameters or {}))
        self._weights += weights

    def pack(self) -> tuple[str, bytes]:
        """The content of `.param` and of `.bin`."""
        layers = _with_splits(self._layers)
        blobs = sum(len(layer.outputs) for layer in layers)
        lines = [_MAGIC, f"{len(layers)} {blobs}", *(layer.line() for layer in layers)]
        return "\n".join(lines) + "\n", b"".join(self._weights)


def plain(values: npt.ArrayLike) -> bytes:
    """Biases, scales and constants: float32, without a tag."""
    return np.asarray(values, dtype="<f4").tobytes()


def tagged(values: np.ndarray) -> bytes:
    """A weight: int8 or float32 behind the tag that says so; int8 is filled up to four bytes."""
    if values.dtype != np.int8:
        return _FLOAT32 + plain(values)
    return _INT8 + values.tobytes() + bytes(-values.size % 4)


def sides(shape: Sequence[int]) -> dict[int, Parameter]:
    """Parameters that say the shape of a Mat, slowest-running side first: width, height, depth and channels."""
    return dict(zip(_SIDES[len(shape)], reversed(shape), strict=True))


def _written(number: int, value: Parameter) -> str:
    if isinstance(value, Sequence):
        return f"{_ARRAY - number}={len(value)},{','.join(map(_number, value))}"
    return f"{number}={_number(value)}"


def _number(value: float) -> str:
    # ncnn reads 15 characters of a number at most; nine digits are a float32.
    return str(value) if isinstance(value, int) else f"{value:.8e}"


def _with_splits(layers: Sequence[NcnnLayer]) -> list[NcnnLayer]:
    """ncnn lets one layer read a blob; where several do, a `Split` makes one for each."""
    counts: dict[str, int] = {}
    for layer in layers:
        for name in layer.inputs:
            counts[name] = counts.get(name, 0) + 1
    several = {name: iter(range(count)) for name, count in counts.items() if count > 1}
    done: list[NcnnLayer] = []
    for layer in layers:
        inputs = tuple(_part(name, next(several[name])) if name in several else name for name in layer.inputs)
        done.append(replace(layer, inputs=inputs))
        for name in layer.outputs:
            if name in several:
                parts = tuple(_part(name, number) for number in range(counts[name]))
                done.append(NcnnLayer("Split", f"{name}.split", (name,), parts, {}))
    return done


def _part(name: str, number: int) -> str:
    return f"{name}.split.{number}"

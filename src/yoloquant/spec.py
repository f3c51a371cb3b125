"""The terms of quantization, defined once: `TensorSpec` says how one tensor becomes integers, `Section` is a part of a recipe.

Only data lives here; no torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Granularity = Literal["tensor", "channel", "group"]

# A number of things, of which there must be one at least.
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Options that users write in a recipe: validated, unknown names refused, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class TensorSpec:
    """How a tensor is quantized: `q = clamp(round(x / scale) + zero_point, quant_min, quant_max)`.

    Attributes:
        bits: Width of the integers, 2..8 or 16.
        signed: Whether integers begin at -2^(bits-1); otherwise at 0.
        symmetric: Whether the represented range is centred on zero (zero point 0 if signed, 2^(bits-1) if not).
        granularity: One scale for the tensor, for each index of `axis`, or for each group of `group_size` input channels within
            each index of `axis` (weights only).
        axis: The channel axis of a per-channel or group-wise spec: 0 for weights `(O, I, kh, kw)`, 1 for those of transposed
            convolutions, `(I, O/groups, kh, kw)`; input channels are on the other one of these two axes.
        group_size: Input channels that share a scale; 0 unless the granularity is "group".
        power_of_two: Whether the scale is rounded up to a power of two, so that hardware shifts instead of multiplying.
        narrow: Whether signed integers leave out the lowest value, so that the range is symmetric (-127..127 for 8 bits).
        observer: Name of the method that chooses the range, a key of `yoloquant.quant.observers.OBSERVERS`.
        options: Options of that observer.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = True
    granularity: Granularity = "tensor"
    axis: int = 0
    group_size: int = 0
    power_of_two: bool = False
    narrow: bool = False
    observer: str = "minmax"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def quant_min(self) -> int:
        """The lowest integer."""
        return -(1 << (self.bits - 1)) + int(self.narrow) if self.signed else 0

    @property
    def quant_max(self) -> int:
        """The highest integer."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    def with_changes(self, **changes: Any) -> TensorSpec:
        """A copy with some attributes replaced."""
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `TensorSpec(**spec.to_dict())` is equal to `spec`."""
        return asdict(self)

    def __str__(self) -> str:
        """Short form for tables: `int8 symmetric per channel (mse)`."""
        kind = f"{'int' if self.signed else 'uint'}{self.bits}"
        scheme = "symmetric" if self.symmetric else "asymmetric"
        where = f"per group of {self.group_size}" if self.granularity == "group" else f"per {self.granularity}"
        power = " power-of-two" if self.power_of_two else ""
        return f"{kind} {scheme}{power} {where} ({self.observer})"

"""What a loss returns, in one process or in several."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of, for logs.

    In several processes each returns its share: what the shares sum to is the loss of the whole batch, since every mean is taken
    over all processes.

    Attributes:
        total: Scalar to minimise.
        parts: Mapping name -> weighted mean, detached.
    """

    total: Tensor
    parts: dict[str, Tensor]


def weighted(sums: dict[str, Tensor], gains: dict[str, float], factor: float = 1.0) -> LossParts:
    """Parts times their gains; the total is the sum of these, times a factor."""
    parts = {name: value * gains[name] for name, value in sums.items()}
    total = sum(parts.values(), next(iter(parts.values())).new_zeros(()))
    return LossParts(total * factor, {name: value.detach() for name, value in parts.items()})

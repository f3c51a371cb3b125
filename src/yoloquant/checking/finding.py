"""`Finding`: one thing that a runtime will not do as the user thinks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that a runtime will not do as the user thinks.

    Attributes:
        kind: short name, the same for the same mistake.
        node: that it is about.
        sentence: what is wrong and what to do.
        fixable: `repair` mends it.
        work: estimated cost of a layer that runs in float: its share of all multiplications, 0..1.
        values: estimated cost of a conversion: values of one image that pass through it.
    """

    kind: str
    node: str
    sentence: str
    fixable: bool = False
    work: float = 0.0
    values: int = 0

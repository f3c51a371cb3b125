"""`Finding`: one thing that a runtime will not do as the user thinks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Level = Literal["note", "warning", "error"]
# From what may be wanted to what is wrong.
LEVELS: tuple[Level, ...] = get_args(Level)
# What a kind of finding is, where it is more or less than a warning: a layer that was left in float is a choice, and what the
# runtime refuses or computes wrongly is an error.
_LEVEL_OF: dict[str, Level] = {
    "float-layer": "note",
    "zero-point": "error",
    "unsigned": "error",
    "signed-activation": "error",
    "quantized-bias": "error",
}


@dataclass(frozen=True)
class Finding:
    """One thing that a runtime will not do as the user thinks.

    Attributes:
        kind: Short name of the kind of mistake.
        node: Node that it is about.
        sentence: Sentence on the fault and its remedy.
        fixable: `repair` mends it.
        work: Estimated cost of a layer that runs in float: its share of all multiplications, 0..1.
        values: Estimated cost of a conversion: values of one image that pass through it.
    """

    kind: str
    node: str
    sentence: str
    fixable: bool = False
    work: float = 0.0
    values: int = 0

    @property
    def level(self) -> Level:
        """A note on what the file's maker may want, a warning of what costs speed or accuracy, or an error in the runtime."""
        return _LEVEL_OF.get(self.kind, "warning")

"""What is around the program, read without torch: what `torchrun` tells its processes, and installed plug-ins."""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import Any


def told_number(name: str, default: int) -> int:
    """A whole number that an environment variable holds; the default where it holds none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else default


def is_first_process() -> bool:
    """Whether this process speaks and writes: it is alone, or `torchrun` gave it the number 0."""
    return told_number("WORLD_SIZE", 1) == 1 or told_number("RANK", 0) == 0


def plug_ins(group: str) -> dict[str, Any]:
    """What installed packages add: for each of their entry points of a group its name and what it leads to.

    Args:
        group: `yoloquant.targets` (a `Target`), `yoloquant.runtimes` (a `Runtime`), `yoloquant.steps` or `yoloquant.observers`
            (a module that enrols what it holds by the decorator).
    """
    return {entry.name: entry.load() for entry in entry_points(group=group)}

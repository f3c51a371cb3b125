"""What `torchrun` tells its processes through the environment, read without torch."""

from __future__ import annotations

import os


def told_number(name: str, default: int) -> int:
    """A whole number that an environment variable holds; the default where it holds none."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 10 else default


def is_first_process() -> bool:
    """Whether this process speaks and writes: it is alone, or `torchrun` gave it the number 0."""
    return told_number("WORLD_SIZE", 1) == 1 or told_number("RANK", 0) == 0

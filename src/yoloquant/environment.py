"""What is around the program, read without torch: what `torchrun` passes to its processes, installed plug-ins, the processor."""

from __future__ import annotations

import os
import platform
from importlib.metadata import entry_points
from pathlib import Path
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
        group: `yoloquant.targets` (a `Target`), `yoloquant.runtimes` (a `Runtime`), `yoloquant.families` (a `Family`),
            `yoloquant.formats` (a `Format`),
            `yoloquant.steps` or `yoloquant.observers` (a module that enrols what it holds by the decorator).
    """
    return {entry.name: entry.load() for entry in entry_points(group=group)}


def processor_name() -> str:
    """The processor's name and the number of its cores that this process may use, as for "AMD EPYC, 2 cores"."""
    names = [line.partition(":")[2].strip() for line in _processor_lines() if line.startswith("model name")]
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {count} core{'s' if count > 1 else ''}"


def _processor_lines() -> list[str]:
    """What Linux reports of its processors; nothing elsewhere."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []

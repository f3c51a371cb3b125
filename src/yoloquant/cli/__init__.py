"""The command line: parses, calls, prints. Everything it does is in the Python API, too.

What belongs here: a file for each command, of its name; in `options.py` and `results.py` what commands share, and in `ending.py`
how all of them end.
"""

from __future__ import annotations

from importlib import import_module

from yoloquant.cli import ending
from yoloquant.cli.options import app

__all__ = ["app", "main"]

# In the order of the help; each file adds its command to the application.
COMMANDS = (
    "quantize",
    "train",
    "finetune",
    "evaluate",
    "predict",
    "benchmark",
    "compare",
    "analyze",
    "search",
    "check",
    "export",
    "deliver",
    "inspect",
    "recipes",
    "targets",
    "sample_calibration",
    "demo",
)
for command in COMMANDS:
    import_module(f"yoloquant.cli.{command}")


def main() -> None:
    """Entry point: one sentence and exit code 2 for what a user can mend."""
    ending.run(app)

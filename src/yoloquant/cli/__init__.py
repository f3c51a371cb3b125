"""The command line: parses, calls, prints. Everything it does is in the Python API, too.

What belongs here: a function for each command, in the module of what it is for, in `options.py` what commands share, and in
`ending.py` how all of them end.
"""

from __future__ import annotations

from yoloquant.cli import ending, explaining, finding, making, measuring
from yoloquant.cli.options import app

__all__ = ["app", "explaining", "finding", "main", "making", "measuring"]


def main() -> None:
    """Entry point: one sentence and exit code 2 for what a user can mend."""
    ending.run(app)

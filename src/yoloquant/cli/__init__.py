"""The command line: parses, calls, prints. Everything it does is in the Python API, too.

What belongs here: a function for each command, in the module of what it is for, and in `options.py` what commands share.
"""

from __future__ import annotations

import sys

from yoloquant.cli import explaining, finding, making, measuring
from yoloquant.cli.options import app
from yoloquant.console import ERR
from yoloquant.errors import YoloquantError

__all__ = ["app", "explaining", "finding", "main", "making", "measuring"]


def main() -> None:
    """Entry point: one sentence and exit code 2 for what a user can mend."""
    try:
        app(standalone_mode=True)
    except YoloquantError as error:
        ERR.print(f"error: {error}", style="red", markup=False)
        sys.exit(2)
    except KeyboardInterrupt:
        ERR.print("interrupted")
        sys.exit(130)

"""What the command line shows: progress bars, notes, and the one sentence of an error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from yoloquant.environment import is_first_process
from yoloquant.progress import Update

# Columns of output that goes into a file or a pipe, where no line is wrapped and no name is cut.
UNLIMITED = 10_000


def _console(*, stderr: bool, quiet: bool = False) -> Console:
    """A console as wide as the terminal, and of unlimited width without one; brackets in names of classes are no markup."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, width=None if terminal else UNLIMITED)


# Of several processes (`torchrun` gives each its number) one speaks for all.
OUT = _console(stderr=False, quiet=not is_first_process())
ERR = _console(stderr=True)


def show_figures_alone(wanted: bool) -> bool:
    """Whether everything but a command's figures goes to standard error, so that a program can read these; gives it back."""
    OUT.stderr = wanted
    return wanted


class RichReporter:
    """Shows each step as a bar, and leaves its time behind."""

    @contextmanager
    def step(self, title: str) -> Iterator[Update]:
        """A bar for one step."""
        columns = (
            TextColumn("{task.description:32}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        with Progress(*columns, console=OUT) as progress:
            task = progress.add_task(title, total=None, detail="")

            def update(done: int, total: int, detail: str = "") -> None:
                progress.update(task, completed=done, total=total, detail=detail)

            yield update

    def note(self, message: str) -> None:
        """A line of its own."""
        OUT.print(message, markup=False)

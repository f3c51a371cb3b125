"""What the command line shows: progress bars, notes, and the one sentence of an error."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from yoloquant.progress import Update

# Of several processes (`torchrun` gives each its number) one speaks for all.
OUT = Console(highlight=False, quiet=os.environ.get("RANK", "0") != "0")
ERR = Console(stderr=True, highlight=False)


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

"""Tables on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from yoloquant.table import TextTable


def on_screen(table: TextTable) -> Table:
    """A table as rich draws it; numbers are aligned on the right."""
    shown = Table(title=table.title or None)
    for header, is_number in zip(table.headers, table.is_number, strict=True):
        shown.add_column(header, justify="right" if is_number else "left")
    for cells in table.rows:
        shown.add_row(*cells)
    return shown

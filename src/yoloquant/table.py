"""`TextTable`: figures in rows and columns as text, which terminals and pages show in their own way."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextTable:
    """A table whose cells are text already.

    Attributes:
        headers: Names of the columns.
        rows: Cells of each row, as many as there are headers.
        title: Line above the table; none where it is empty.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    @property
    def is_number(self) -> tuple[bool, ...]:
        """For each column, whether it holds numbers (and empty cells) alone, which are aligned on the right."""
        return tuple(all(map(_is_number, column)) and any(column) for column in zip(*self.rows, strict=True)) or tuple(
            False for _ in self.headers
        )

    def __str__(self) -> str:
        lines = [self.headers, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [self._line(cells, widths) for cells in lines]
        return "\n".join([*([self.title] if self.title else []), *shown])

    def _line(self, cells: tuple[str, ...], widths: list[int]) -> str:
        columns = zip(cells, widths, self.is_number, strict=True)
        return "  ".join(cell.rjust(width) if number else cell.ljust(width) for cell, width, number in columns).rstrip()


def _is_number(cell: str) -> bool:
    try:
        float(cell.removesuffix("%") or "0")
    except ValueError:
        return False
    return True

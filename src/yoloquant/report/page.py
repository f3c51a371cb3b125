"""What all pages share: the base template, tables that sort and filter, and pictures drawn where a template asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.files.writing import write_text
from yoloquant.report.charts import NO_NOISE, Boxes, Histogram, boxes, histogram
from yoloquant.report.svg import draw


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: Heading of the column.
        is_text: Whether cells are words, aligned left; numbers otherwise.
        meaning: Explanation of the figures, where the heading is too short for it.
    """

    header: str
    is_text: bool = False
    meaning: str = ""


@dataclass(frozen=True)
class TableRow:
    """A line of a table; links lead to its name, if it has one."""

    cells: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table in a page.

    Attributes:
        name: ID of the table.
        caption: Caption of the table.
        columns: Columns in order.
        rows: Rows in order.
        filter: An example of what to filter for; no filter where it is empty.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    filter: str = ""


def write_page(template: str, path: Path, **values: Any) -> None:
    """Render one of the templates into a file that needs nothing else."""
    from yoloquant.results.quantization import versions

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("yoloquant.report", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["draw"] = draw
    write_text(path, environment.get_template(template).render(versions=versions(), **values))


def number(value: float | None, digits: int = 2) -> str:
    """A figure as text; nothing where there is none."""
    return "" if value is None or value != value else f"{value:.{digits}f}"


def decibel(ratio: float | None, digits: int = 1) -> str:
    """A signal-to-noise ratio as text; without noise to speak of, in words."""
    return "equal" if ratio is not None and ratio > NO_NOISE else number(ratio, digits)


def link(target: str, text: str) -> Markup:
    """A link to an id in the same page."""
    return Markup('<a href="#{}">{}</a>').format(target, escape(text))


@dataclass(frozen=True)
class Distribution:
    """A tensor with its pictures and what can be done about it."""

    statistics: TensorStatistics
    histogram: Histogram
    boxes: Boxes
    advice: str | None


def distributions(statistics: Sequence[TensorStatistics]) -> list[Distribution]:
    """The pictures of every tensor."""
    return [Distribution(entry, histogram(entry), boxes(entry), entry.advice()) for entry in statistics]


def tensor_table(statistics: Sequence[TensorStatistics]) -> PageTable:
    """Every quantized tensor, each leading to its pictures."""
    columns = (
        Column("tensor", is_text=True),
        Column("how", is_text=True),
        Column("scale", meaning="maximum, where channels have scales of their own"),
        Column("minimum"),
        Column("maximum"),
        Column("range from"),
        Column("to"),
        Column("clipped %", meaning="values outside of the range"),
        Column("to zero %", meaning="values other than 0 that become 0"),
        Column("dB", meaning="signal-to-noise ratio of the quantized values"),
        Column("bulk %", meaning="share of the range that holds 99.9 % of the values"),
        Column("outlier channels", is_text=True, meaning="channels that reach eight times as far as the median one"),
    )
    rows = [
        TableRow(
            (
                link(f"tensor-{entry.name}", entry.name),
                entry.spec,
                f"{entry.scales[1]:.3g}",
                *(f"{value:.3g}" for value in (entry.low, entry.high, entry.range_low, entry.range_high)),
                number(100.0 * entry.clipped),
                number(100.0 * entry.zeros, 1),
                number(entry.signal_to_noise, 1),
                number(100.0 * entry.bulk, 0),
                ", ".join(map(str, entry.outlier_channels[:12])) + (" ..." if len(entry.outlier_channels) > 12 else ""),
            )
        )
        for entry in statistics
    ]
    return PageTable("tensors-table", "Every quantized tensor", columns, tuple(rows), "weight, int8, model.2")

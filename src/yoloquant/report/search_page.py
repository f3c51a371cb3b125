"""A search as one HTML file: what each number of changed layers costs in accuracy, and in latency where that was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.report.charts import Point, Points
from yoloquant.report.page import Column, PageTable, TableRow, number, write_page

if TYPE_CHECKING:
    from yoloquant.results.search import Search


def search_charts(found: Search) -> list[Points]:
    """Drop against the number of changed layers, and against latency."""
    chosen = len(found.layers)
    goal = found.float_map - found.goal
    by_count = tuple(
        Point(float(count), found.float_map - value, f"{count} layers: {value:.2f} mAP50-95", count == chosen)
        for count, value in found.curve.items()
    )
    charts = [
        Points("drop-layers", "Drop against layers changed", "layers changed", "mAP50-95 lost", by_count, joined=True, goal=goal)
    ]
    ratios = {count: ratio for count in found.curve if (ratio := found.ratio(count)) is not None}
    by_latency = tuple(
        Point(ratio, found.float_map - found.curve[count], f"{count} layers: {ratio:.2f} of float's latency", count == chosen)
        for count, ratio in ratios.items()
    )
    if by_latency:
        label = f"latency in {found.runtime}, as a share of float's"
        charts.append(Points("drop-latency", "Drop against latency", label, "mAP50-95 lost", by_latency, goal=goal))
    return charts


def write_search_page(found: Search, path: Path) -> None:
    """Write the page."""
    columns = (Column("layers changed"), Column("mAP50-95"), Column("drop"), Column("latency against float"))
    rows = [
        TableRow((str(count), number(value), number(found.float_map - value), number(found.ratio(count))))
        for count, value in found.curve.items()
    ]
    write_page(
        "search.html.j2",
        path,
        title=f"Layers to change for {found.recipe.target}",
        found=found,
        change="in float" if found.raise_bits is None else f"at {found.raise_bits} bit",
        charts=search_charts(found),
        table=PageTable("curve", "All that was measured", columns, tuple(rows)),
        recipe=found.recipe.to_yaml(),
    )

"""Several quantized folders as one page: a table, and accuracy against latency and size with the Pareto front marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yoloquant.report.charts import Point, Points
from yoloquant.report.page import Column, PageTable, TableRow, write_page
from yoloquant.results.comparison import HEADERS, Entry, cells


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point (cost, worth), whether none costs no more and is worth no less, one of the two strictly."""
    return [not any(c <= cost and w >= worth and (c < cost or w > worth) for c, w in points) for cost, worth in points]


def comparison_charts(entries: Sequence[Entry]) -> list[Points]:
    """Accuracy against latency and against size, the Pareto front marked."""
    charts = [
        _pareto(entries, "ratio", "latency, as a share of float's in the same runtime"),
        _pareto(entries, "megabytes", "file size, MB"),
    ]
    return [chart for chart in charts if chart.points]


def _pareto(entries: Sequence[Entry], attribute: str, label: str) -> Points:
    # Fake quantizers in torch are no way to run a network: neither their time nor their size is one to choose by.
    run = [entry for entry in entries if entry.runtime != "torch" and entry.map50_95 is not None]
    chosen = [entry for entry in run if getattr(entry, attribute) is not None]
    values = [(float(getattr(entry, attribute)), float(entry.map50_95 or 0.0)) for entry in chosen]
    points = tuple(
        Point(x, y, f"{entry.folder}, {entry.model} in {entry.runtime}: {y:.2f} mAP50-95, {x:.2f}", best)
        for entry, (x, y), best in zip(chosen, values, pareto_front(values), strict=True)
    )
    return Points(f"pareto-{attribute}", f"Accuracy against {label}", label, "mAP50-95", points)


def write_comparison(entries: Sequence[Entry], path: Path) -> None:
    """Write the page."""
    columns = tuple(Column(header, header in ("folder", "model", "target", "runtime")) for header in HEADERS)
    table = PageTable("comparison", "All folders", columns, tuple(TableRow(cells(entry)) for entry in entries))
    write_page("comparison.html.j2", path, title="Comparison", table=table, charts=comparison_charts(entries))

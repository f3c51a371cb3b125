"""Several quantized folders side by side: a table, and accuracy against latency and size with the Pareto front marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from yoloquant.errors import YoloquantError
from yoloquant.exporting.folder import LARGEST_METRICS, METRICS
from yoloquant.files.reading import parse_json, read_text
from yoloquant.report.charts import Point, Points
from yoloquant.report.page import Column, PageTable, TableRow, number, write_page


@dataclass(frozen=True)
class Entry:
    """One model of one folder in one runtime.

    Attributes:
        folder: name of the folder.
        model: "float", "int8", ...
        runtime: that ran it.
        target: it was quantized for.
        images: evaluated; none if not known.
        map50_95: percent; drop: against the float model in the same runtime and folder.
        drop_error: one standard error of the drop; none if not known.
        latency: median milliseconds; ratio: to the float model in the same runtime and folder.
        megabytes: of the file.
    """

    folder: str
    model: str
    runtime: str
    target: str
    images: int | None
    map50_95: float | None
    drop: float | None
    drop_error: float | None
    latency: float | None
    ratio: float | None
    megabytes: float | None


def read_entries(folders: Sequence[Path]) -> list[Entry]:
    """All quantized rows of several folders, behind the float rows of the first folder that has them.

    Raises:
        YoloquantError: a folder has no readable metrics, or they were evaluated on different numbers of images.
    """
    entries = []
    for folder in folders:
        try:
            entries += _entries(folder)
        except _Unmeasured as error:
            raise YoloquantError(
                f"{folder} was quantized without measuring: run `yoloquant quantize` without --no-evaluate"
            ) from error
        except Exception as error:
            # Whatever the file holds instead of metrics.
            raise YoloquantError(f"{folder} has no readable {METRICS}: name folders that `yoloquant quantize` wrote") from error
    counts = {entry.images: entry.folder for entry in entries if entry.images is not None}
    if len(counts) > 1:
        told = " and ".join(f"{folder} on {count}" for count, folder in sorted(counts.items()))
        raise YoloquantError(f"their figures are of different images, {told}: evaluate all of them on the same ones")
    # Float is the same network in each folder that was made of it; its name and accuracy say which.
    floats: dict[tuple[str, float | None], Entry] = {}
    for entry in entries:
        if entry.model == "float":
            floats.setdefault((entry.runtime, entry.map50_95), entry)
    return [*floats.values(), *(entry for entry in entries if entry.model != "float")]


class _Unmeasured(Exception):
    """There are no figures."""


def _entries(folder: Path) -> list[Entry]:
    content = parse_json(read_text(folder / METRICS, largest=LARGEST_METRICS), METRICS)
    rows, target = content["rows"], str(content["recipe"].get("target", ""))
    if not rows:
        raise _Unmeasured
    floats = {row["runtime"]: row for row in rows if row["model"] == "float"}
    return [_entry(folder.name, target, row, floats.get(row["runtime"])) for row in rows]


def _entry(folder: str, target: str, row: dict[str, Any], plain: dict[str, Any] | None) -> Entry:
    accuracy, latency = _accuracy(row), _median(row)
    before, float_latency = (_accuracy(plain), _median(plain)) if plain else (None, None)
    return Entry(
        folder,
        row["model"],
        row["runtime"],
        target,
        row["evaluation"].get("image_count") if row.get("evaluation") else None,
        accuracy,
        before - accuracy if before is not None and accuracy is not None else None,
        (row.get("drop") or {}).get("error"),
        latency,
        latency / float_latency if latency and float_latency else None,
        row["file_size"] / 1e6 if row.get("file_size") else None,
    )


def _accuracy(row: dict[str, Any]) -> float | None:
    evaluation = row.get("evaluation")
    return evaluation["figures"]["mAP50-95"] if evaluation else None


def _median(row: dict[str, Any]) -> float | None:
    return row["latency_ms"]["median"] if row.get("latency_ms") else None


HEADERS = ("folder", "model", "target", "runtime", "mAP50-95", "drop", "latency ms", "against float", "file MB")


def cells(entry: Entry) -> tuple[str, ...]:
    """The entry's row of the table."""
    map50_95, drop, *others = (
        number(value) for value in (entry.map50_95, entry.drop, entry.latency, entry.ratio, entry.megabytes)
    )
    drop += "" if entry.drop_error is None else f" ± {number(entry.drop_error)}"
    return (entry.folder, entry.model, entry.target, entry.runtime, map50_95, drop, *others)


def comparison_table(entries: Sequence[Entry]) -> Table:
    """All entries."""
    table = Table(*HEADERS)
    for entry in entries:
        table.add_row(*cells(entry))
    return table


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

"""Cells of the result table as text, for terminals and pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from yoloquant.evaluation.uncertainty import map_loss

if TYPE_CHECKING:
    from yoloquant.results.quantization import Row

HEADERS = ("model", "runtime", "mAP50-95", "drop", "mAP50", "latency ms", "against float", "file MB")


def result_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The result table's cells as text; drop (± one standard error) and latency are against float in the same runtime."""
    floats = {row.runtime: row.evaluation for row in rows if row.model == "float"}
    times = {row.runtime: row.latency.median for row in rows if row.model == "float" and row.latency}
    cells: list[tuple[str, ...]] = []
    for row in rows:
        reference = floats.get(row.runtime)
        is_float = row.model == "float"
        drop = "" if is_float or not (row.evaluation and reference) else str(map_loss(reference, row.evaluation))
        cells.append(
            (
                row.model,
                row.runtime,
                f"{row.evaluation.map50_95:.2f}" if row.evaluation else "",
                drop,
                f"{row.evaluation.map50:.2f}" if row.evaluation else "",
                f"{row.latency.median:.1f}" if row.latency else "",
                f"{row.latency.median / times[row.runtime]:.2f}" if row.latency and not is_float and row.runtime in times else "",
                f"{row.file_size / 1e6:.2f}" if row.file_size else "",
            )
        )
    return cells

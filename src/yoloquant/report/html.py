"""The report of a quantization as one HTML file that needs nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from yoloquant.report.tables import HEADERS, result_cells

if TYPE_CHECKING:
    from yoloquant.pipeline import QuantizationResult


def write_report(result: QuantizationResult, path: Path) -> None:
    """Write the report of a result."""
    from yoloquant.pipeline import precision_label, versions

    environment = jinja2.Environment(loader=jinja2.PackageLoader("yoloquant.report", "."), autoescape=True)
    page = environment.get_template("page.html.j2").render(
        result=result,
        label=precision_label(result.detector),
        target=result.recipe.target,
        headers=HEADERS,
        cells=result_cells(result.rows),
        classes=_class_rows(result),
        quantizers=[
            (name, str(quantizer.spec), f"{float(quantizer.scale.min()):.3g}", f"{float(quantizer.scale.max()):.3g}")
            for name, quantizer in result.detector.quantizers()
        ],
        recipe=result.recipe.to_yaml(),
        versions=versions(),
    )
    path.write_text(page, encoding="utf-8")


def _class_rows(result: QuantizationResult) -> list[tuple[str, ...]]:
    """Class, float, quantized, drop; the largest drop first, classes without objects left out."""
    measured = [row.evaluation for row in result.rows[:2] if row.evaluation]
    if len(measured) < 2:
        return []
    before, after = (evaluation.per_class for evaluation in measured)
    rows = [(name, before[name][0], after[name][0]) for name in before if before[name][0] == before[name][0]]
    rows.sort(key=lambda row: row[2] - row[1])
    return [(name, f"{a:.1f}", f"{b:.1f}", f"{a - b:.1f}") for name, a, b in rows]

"""An analysis as one HTML file: advice, ranking, noise along the network, statistics and pictures of every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.report import charts
from yoloquant.report.page import Column, PageTable, TableRow, distributions, number, tensor_table, write_page

if TYPE_CHECKING:
    from yoloquant.results.analysis import Analysis

_SECTIONS = {
    "advice": "What to do",
    "ranking": "Costliest first",
    "noise": "Noise along the network",
    "tensors": "Every quantized tensor",
    "pictures": "Values before and after",
    "recipe": "Recipe",
}


def cost_unit(measure: str) -> str:
    """What costs of a measure are, in words."""
    return "mAP50-95 lost" if measure == "map" else "error of boxes and scores"


def write_analysis_page(found: Analysis, path: Path) -> None:
    """Write the page."""
    write_page(
        "analysis.html.j2",
        path,
        title="Where the accuracy goes",
        sections=_SECTIONS,
        found=found,
        unit=cost_unit(found.measure),
        chart=charts.ranking(found.sensitivities, cost_unit(found.measure)),
        ranking=_ranking_table(found),
        noise=charts.noise(found.noise),
        tensors=tensor_table(found.statistics),
        entries=distributions(found.statistics),
        recipe=found.recipe.to_yaml(),
    )


def analysis_charts(found: Analysis) -> list[charts.Chart]:
    """Every chart of the page."""
    unit = cost_unit(found.measure)
    return [charts.ranking(found.sensitivities, unit), charts.noise(found.noise), *charts.of_tensors(found.statistics)]


def _ranking_table(found: Analysis) -> PageTable:
    columns = (
        Column("layer", is_text=True),
        Column("cost"),
        Column("weights alone"),
        Column("activations alone"),
        Column("dB", meaning="signal-to-noise ratio of its output in the whole quantized network"),
    )
    by_part = {(result.name, result.part): result.cost for result in found.sensitivities}
    rows = []
    for result in found.whole_layers:
        parts = (by_part.get((result.name, part)) for part in ("weights", "activations"))
        figures = (number(value, 4) for value in (result.cost, *parts))
        rows.append(TableRow((result.name, *figures, number(found.noise.get(result.name), 1))))
    return PageTable("ranking-table", "Costliest first", columns, tuple(rows), "model.2")

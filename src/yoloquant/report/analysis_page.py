"""An analysis as one HTML file that needs nothing else: ranking, advice, noise along the network, a histogram of every tensor."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from yoloquant.algorithms.sensitivity import Sensitivity
from yoloquant.algorithms.tensor_statistics import TensorStatistics

if TYPE_CHECKING:
    from yoloquant.analysis import Analysis

# Bars of a histogram picture, and its size in SVG units.
_BARS, _WIDTH, _HEIGHT = 96, 192, 48


@dataclass(frozen=True)
class _Bar:
    """One layer of the ranking; lengths in percent of the longest."""

    name: str
    cost: float
    length: float
    weights: float | None
    activations: float | None


def write_analysis_page(found: Analysis, path: Path) -> None:
    """Write the page."""
    from yoloquant.pipeline import versions

    environment = jinja2.Environment(loader=jinja2.PackageLoader("yoloquant.report", "."), autoescape=True)
    page = environment.get_template("analysis.html.j2").render(
        found=found,
        unit="mAP50-95 lost" if found.measure == "map" else "error of boxes and scores",
        bars=_bars(found.sensitivities),
        noise=list(found.noise.items()),
        tensors=[(entry, histogram_path(entry)) for entry in found.statistics],
        width=_WIDTH,
        height=_HEIGHT,
        recipe=found.recipe.to_yaml(),
        versions=versions(),
    )
    path.write_text(page, encoding="utf-8")


def _bars(results: tuple[Sensitivity, ...]) -> list[_Bar]:
    by_part = {(result.name, result.part): result.cost for result in results}
    whole = [result for result in results if result.part == "both"] or list(results)
    longest = max((abs(result.cost) for result in whole), default=0.0) or 1.0
    return [
        _Bar(
            result.name,
            result.cost,
            100.0 * max(result.cost, 0.0) / longest,
            by_part.get((result.name, "weights")),
            by_part.get((result.name, "activations")),
        )
        for result in whole
    ]


def histogram_path(entry: TensorStatistics) -> str:
    """The outline of a tensor's histogram as the data of an SVG path, heights on a logarithmic scale."""
    import math

    counts, edges = entry.counts, entry.edges
    if len(edges) < 2 or edges[-1] <= edges[0]:
        return ""
    bars = [0.0] * _BARS
    span = edges[-1] - edges[0]
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        bars[min(_BARS - 1, int(((left + right) / 2 - edges[0]) / span * _BARS))] += count
    top = math.log1p(max(bars)) or 1.0
    step = _WIDTH / _BARS
    points = []
    for index, bar in enumerate(bars):
        y = _HEIGHT * (1.0 - math.log1p(bar) / top)
        points.append(f"L{index * step:.1f} {y:.1f}L{(index + 1) * step:.1f} {y:.1f}")
    return f"M0 {_HEIGHT}{''.join(points)}L{_WIDTH} {_HEIGHT}Z"

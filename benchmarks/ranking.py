"""Does the ranking of layers without labels agree with the one by mAP?

`YOLOQUANT_SHARED=... python benchmarks/ranking.py [IMAGES] [BITS]`: YOLOv5n, each layer quantized alone, its weights to 3 bit
for each channel and its input to 8 bit, ranges by MinMax. mAP on a few hundred photographs is known to some tenths, so it can
only rank layers that lose more than that: with 4 bit it tells the first ten apart, and the others are chance. Printed are
both rankings' first layers, Spearman's rank correlation over all and over those that lose at least a quarter of a point, and
the time each took.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from yoloquant.flows.analyze import AnalysisOptions, analyze
from yoloquant.recipe.recipe import load_recipe
from yoloquant.results.analysis import Analysis

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
# mAP lost, points, from which on a layer's place is more than chance.
TOLD_APART = 0.25


def settings(bits: int) -> tuple[str, ...]:
    """What is changed in the recipe."""
    return (
        "target=reference",
        "output_layers=quantized",
        f"weights={{bits: {bits}, granularity: channel, observer: minmax}}",
        "activations={bits: 8, observer: minmax}",
        "algorithms=[calibrate]",
    )


def ranking(measure: str, fast: int | None, bits: int) -> tuple[Analysis, float]:
    """The analysis, and its seconds."""
    start = time.perf_counter()
    found = analyze(
        SHARED / "weights" / "yolov5n.pt",
        SHARED / "coco" / "data.yaml",
        AnalysisOptions(measure=measure, parts=("both",), images=24, fast=fast),
        recipe=load_recipe("int8-minmax", settings(bits)),
    )
    return found, time.perf_counter() - start


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation, -1..1; ties get the mean of their ranks."""

    def ranks(values: np.ndarray) -> np.ndarray:
        below = (values[None] < values[:, None]).sum(1)
        return below + ((values[None] == values[:, None]).sum(1) - 1) / 2.0

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def main() -> None:
    """Print the table."""
    images, bits = (int(given) for given in (sys.argv[1:] + ["300", "3"][len(sys.argv) - 1 :])[:2])
    by_error, seconds = ranking("error", None, bits)
    by_map, seconds_map = ranking("map", images, bits)
    errors = {result.name: result.cost for result in by_error.sensitivities}
    drops = {result.name: result.cost for result in by_map.sensitivities}
    names = list(errors)
    table = Table("rank", "by error of boxes and scores", "cost", f"by mAP on {images} images", "mAP50-95 lost")
    for rank, (a, b) in enumerate(zip(by_error.sensitivities[:10], by_map.sensitivities[:10], strict=True), start=1):
        table.add_row(str(rank), a.name, f"{a.cost:.4f}", b.name, f"{b.cost:.2f}")
    console = Console()
    console.print(table)
    for some in (names, [name for name in names if drops[name] >= TOLD_APART]):
        correlation = spearman(np.array([errors[name] for name in some]), np.array([drops[name] for name in some]))
        console.print(f"Spearman's rank correlation over {len(some)} layers: {correlation:.3f}")
    console.print(f"{seconds:.0f} s without labels, {seconds_map:.0f} s by mAP")


if __name__ == "__main__":
    main()

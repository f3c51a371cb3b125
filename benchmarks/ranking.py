"""Does the ranking of layers without labels agree with the one by mAP?

`YOLOQUANT_SHARED=... python benchmarks/ranking.py [IMAGES]`: YOLOv5n, each layer quantized alone, its weights to 4 bit for each
channel and its input to 8 bit, ranges by MinMax: errors are large enough there for mAP on some hundred photographs to tell layers
apart. Printed are both rankings' first layers, Spearman's rank correlation, and the time each took.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from yoloquant.analysis import Analysis, analyze

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
SETTINGS = (
    "target=reference",
    "output_layers=quantized",
    "weights={bits: 4, granularity: channel, observer: minmax}",
    "activations={bits: 8, observer: minmax}",
    "algorithms=[calibrate]",
)


def ranking(measure: str, fast: int | None) -> tuple[Analysis, float]:
    """The analysis, and its seconds."""
    start = time.perf_counter()
    found = analyze(
        SHARED / "weights" / "yolov5n.pt",
        SHARED / "coco" / "data.yaml",
        recipe="int8-minmax",
        overrides=SETTINGS,
        measure=measure,
        parts=("both",),
        fast=fast,
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
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    by_error, seconds = ranking("error", None)
    by_map, seconds_map = ranking("map", images)
    errors = {result.name: result.cost for result in by_error.sensitivities}
    drops = {result.name: result.cost for result in by_map.sensitivities}
    names = list(errors)
    table = Table("rank", "by error of boxes and scores", "cost", f"by mAP on {images} images", "mAP50-95 lost")
    for rank, (a, b) in enumerate(zip(by_error.sensitivities[:10], by_map.sensitivities[:10], strict=True), start=1):
        table.add_row(str(rank), a.name, f"{a.cost:.4f}", b.name, f"{b.cost:.2f}")
    console = Console()
    console.print(table)
    correlation = spearman(np.array([errors[name] for name in names]), np.array([drops[name] for name in names]))
    console.print(f"Spearman's rank correlation over {len(names)} layers: {correlation:.3f}")
    console.print(f"{seconds:.0f} s without labels, {seconds_map:.0f} s by mAP")


if __name__ == "__main__":
    main()

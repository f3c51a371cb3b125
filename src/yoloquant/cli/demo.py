"""`yoloquant demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import Json, command
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


@command(example="yoloquant demo --target openvino --output demo")
def demo(
    output: Annotated[Path, typer.Option(help="Folder to write.")] = Path("yoloquant-demo"),
    target: Annotated[str, typer.Option(help="Deployment target.")] = "onnxruntime",
    as_json: Json = False,
) -> None:
    """Quantize the shipped detector on a generated data set: no download, no data, under two minutes."""
    from yoloquant.flows.demo import run_demo

    result, careless = run_demo(output, target, RichReporter())
    OUT.print(on_screen(result.table()))
    OUT.print(
        f"careless INT8 (extremes, one scale for each tensor) would have kept {careless.map50_95:.2f} mAP50-95; "
        f"this one keeps {result.rows[1].evaluation.map50_95:.2f}"  # type: ignore[union-attr]
    )
    OUT.print(f"written to {output}: open {output / 'report.html'}", markup=False)
    tell_figures(result.to_dict(), as_json)
    tell_next("quantize", "model.pt", "--data", "data.yaml", "--target", target)

"""`yoloquant benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import BatchSize, Json, command
from yoloquant.cli.results import tell_figures, tell_next
from yoloquant.cli.tables import on_screen


@command(earlier="bench", example="yoloquant benchmark yolov8n.onnx out --runtime onnxruntime")
def benchmark(
    files: Annotated[list[Path], typer.Argument(help="Models; ratios are against the first.")],
    runtime: Annotated[list[str] | None, typer.Option(help="torch, onnxruntime, openvino, tensorrt; repeatable.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of each runtime; 0 lets it choose.")] = 0,
    batch_size: BatchSize = 1,
    runs: Annotated[int, typer.Option(min=1, help="Counted calls of each.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Calls of each before those that count.")] = 3,
    layers: Annotated[int, typer.Option(min=0, help="Number of each file's slowest operators to show.")] = 0,
    as_json: Json = False,
) -> None:
    """Time models in turns, and count the layers that each runtime really computes in integers."""
    from yoloquant.flows.benchmark import benchmark as run

    found = run(
        files,
        runtimes=runtime,
        threads=threads,
        batch_size=batch_size,
        runs=runs,
        warmup=warmup,
        layers=layers > 0,
        reporter=RichReporter(),
    )
    OUT.print(on_screen(found.table()))
    for key in found.layers:
        OUT.print(on_screen(found.layer_table(key, layers)))
    tell_figures(found.to_dict(), as_json)
    tell_next("evaluate", files[-1], "--data", "data.yaml")

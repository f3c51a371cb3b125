"""`yoloquant benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yoloquant.cli.console import OUT, RichReporter
from yoloquant.cli.options import BatchSize, app


@app.command("bench", hidden=True)
@app.command()
def benchmark(
    files: Annotated[list[Path], typer.Argument(help="Models; ratios are against the first.")],
    runtime: Annotated[list[str] | None, typer.Option(help="torch, onnxruntime, openvino, tensorrt; repeatable.")] = None,
    threads: Annotated[int, typer.Option(min=0, help="Of each runtime; 0 lets it choose.")] = 0,
    batch_size: BatchSize = 1,
    runs: Annotated[int, typer.Option(min=1, help="Counted calls of each.")] = 50,
    warmup: Annotated[int, typer.Option(min=0, help="Calls of each before those that count.")] = 3,
    layers: Annotated[int, typer.Option(min=0, help="Show so many of each file's slowest operators.")] = 0,
) -> None:
    """Time models in turns, and count the layers that each runtime really computes in integers."""
    from yoloquant.cli.tables import latency_table, layer_table
    from yoloquant.evaluation.latency import measure_latency
    from yoloquant.runtime.executed_layers import executed_layers
    from yoloquant.runtime.native import NATIVE, executed_native, native_file
    from yoloquant.runtime.open import open_model
    from yoloquant.runtime.profile import layer_times
    from yoloquant.runtime.registry import RUNTIMES

    names = runtime or [name for name in RUNTIMES if RUNTIMES[name].is_installed()]
    own = {str(path): file for path in files if (file := native_file(path)) is not None}
    # A runtime's own file is run by that one alone.
    runtimes = {path: [NATIVE[own[path].suffix].runtime] if path in own else names for path in map(str, files)}
    runners = {(path, name): open_model(path, name, threads=threads) for path in runtimes for name in runtimes[path]}
    with RichReporter().step("Measure latency") as update:
        labelled = {"\n".join(key): runner for key, runner in runners.items()}
        times = measure_latency(labelled, batch_size=batch_size, runs=runs, warmup=warmup, progress=update)
    executed = {key: executed_layers(Path(key[0]), key[1]) for key in runners if key[1] in RUNTIMES and key[0].endswith(".onnx")}
    executed |= {key: executed_native(own[key[0]]) for key in runners if key[0] in own}
    OUT.print(latency_table({key: times["\n".join(key)] for key in runners}, executed))
    for path, name in (key for key in executed if key[0] not in own) if layers else ():
        profile = layer_times(Path(path), name, batch_size=runners[path, name].batch_size or batch_size, threads=threads)
        OUT.print(layer_table(path, name, profile, layers))

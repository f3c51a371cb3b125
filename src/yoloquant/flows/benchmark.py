"""The flow behind `yoloquant benchmark`: time models in turns, and count what each runtime computes in integers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yoloquant.evaluation.latency import measure_latency
from yoloquant.flows.measure import installed
from yoloquant.progress import Reporter, Silent
from yoloquant.results.benchmark import Benchmark
from yoloquant.runtime.executed_layers import executed_layers
from yoloquant.runtime.native import NATIVE, executed_native, native_file
from yoloquant.runtime.open import open_runner
from yoloquant.runtime.profile import layer_times
from yoloquant.runtime.registry import RUNTIMES


def benchmark(
    files: str | Path | Sequence[str | Path],
    *,
    runtimes: Sequence[str] | None = None,
    threads: int = 0,
    batch_size: int = 1,
    runs: int = 50,
    warmup: int = 3,
    layers: bool = False,
    reporter: Reporter | None = None,
) -> Benchmark:
    """Time models in turns, and count the layers that each runtime really computes in integers.

    Args:
        files: Checkpoints, ONNX files, quantized folders and runtimes' own files; ratios are against the first.
        runtimes: "torch", "onnxruntime", "openvino", "tensorrt"; all that are installed by default, without torch.
        threads: Threads of each runtime; 0 lets it choose.
        batch_size: Number of images in a call; a file with a fixed batch size gets its own.
        runs: Number of counted calls of each.
        warmup: Calls of each before those that count.
        layers: Profile the operators of ONNX files, too.
        reporter: Receives progress.

    Raises:
        YoloquantError: A file cannot be read, or a runtime cannot run it.
    """
    tell, names = reporter or Silent(), tuple(runtimes or installed())
    given = [files] if isinstance(files, str | Path) else files
    own = {str(path): file for path in given if (file := native_file(Path(path))) is not None}
    # A runtime's own file is run by that one alone.
    where = {path: (NATIVE[own[path].suffix].runtime,) if path in own else names for path in map(str, given)}
    runners = {(path, name): open_runner(path, name, threads=threads) for path in where for name in where[path]}
    with tell.step("Measure latency") as update:
        labelled = {"\n".join(key): runner for key, runner in runners.items()}
        times = measure_latency(labelled, batch_size=batch_size, runs=runs, warmup=warmup, progress=update)
    asked = [(path, name) for path, name in runners if name in RUNTIMES and path.endswith(".onnx")]
    executed = {(path, name): executed_layers(Path(path), name) for path, name in asked}
    executed |= {key: executed_native(own[key[0]]) for key in runners if key[0] in own}
    profiles = {
        (path, name): tuple(
            layer_times(Path(path), name, batch_size=runners[path, name].batch_size or batch_size, threads=threads)
        )
        for path, name in asked
        if layers
    }
    return Benchmark(latency={key: times["\n".join(key)] for key in runners}, executed=executed, layers=profiles)

"""What the machine can do in int8 and float32, and what files reach of it: `python benchmarks/roofline.py float.onnx int8.onnx`.

The rates are measured here, with one large convolution or product at a time, in the runtimes themselves; the bandwidth is that of
copying an array larger than the caches, and of one that fits. A layer's bound is the longer of its multiplications at the best
rate and its bytes at the cached bandwidth; a file's bound is the sum of its layers'. `THREADS=2` sets the threads.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from yoloquant.checking.findings import runs_in_integers
from yoloquant.checking.qdq_graph import QdqGraph
from yoloquant.evaluation.latency import measure_latency
from yoloquant.runtime.profile import PROFILERS
from yoloquant.runtime.registry import open_onnx
from yoloquant.targets.registry import get_target

THREADS = int(os.environ.get("THREADS", "2"))
RUNS = int(os.environ.get("RUNS", "30"))
RUNTIMES = ("onnxruntime", "openvino")
# Name -> input channels, output channels, kernel, side of the map.
KERNELS = {
    "convolution 3x3, 128 to 128, 80x80": (128, 128, 3, 80),
    "convolution 1x1, 256 to 256, 80x80": (256, 256, 1, 80),
    "convolution 3x3, 256 to 256, 20x20": (256, 256, 3, 20),
    "product 6400 x 1024 x 1024": (1024, 1024, 1, 80),
}


def best_seconds(call: Callable[[], object]) -> float:
    """The fastest of several calls, which is nearest to what the machine can do."""
    times = []
    for _ in range(RUNS + 3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[3:])


def kernel_model(inputs: int, outputs: int, kernel: int, side: int, *, quantized: bool) -> onnx.ModelProto:
    """One convolution; with Q/DQ on its input, weight and answer, if quantized. Only its corner is answered with."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (outputs, inputs, kernel, kernel), dtype=np.int8)
    constants = [numpy_helper.from_array(np.float32(1 / 255), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
    constants += [numpy_helper.from_array(np.float32(0.01), "w_scale"), numpy_helper.from_array(np.int8(0), "w_zero")]
    node = helper.make_node
    if quantized:
        constants.append(numpy_helper.from_array(weight, "w_integers"))
        nodes = [
            node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            node("DequantizeLinear", ["xq", "scale", "zero"], ["xd"]),
            node("DequantizeLinear", ["w_integers", "w_scale", "w_zero"], ["w"]),
            node("Conv", ["xd", "w"], ["y"], pads=[kernel // 2] * 4),
            node("QuantizeLinear", ["y", "scale", "zero"], ["yq"]),
            node("DequantizeLinear", ["yq", "scale", "zero"], ["yd"]),
        ]
    else:
        constants.append(numpy_helper.from_array(weight.astype(np.float32) * np.float32(0.01), "w"))
        nodes = [node("Conv", ["x", "w"], ["yd"], pads=[kernel // 2] * 4)]
    constants += [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in (("from", [0]), ("to", [1]), ("axis", [1]))]
    nodes.append(node("Slice", ["yd", "from", "to", "axis"], ["answer"]))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "answer")]
    values[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs, side, side])
    graph = helper.make_graph(nodes, "kernel", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def kernel_seconds(model: onnx.ModelProto, runtime: str, folder: Path) -> float:
    """Time of the convolution alone, by the runtime's profile."""
    path = folder / "kernel.onnx"
    onnx.save(model, str(path))
    sides = [dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim]
    images = np.random.default_rng(0).random(sides, dtype=np.float32)
    calls = PROFILERS[runtime](path, images, THREADS, RUNS)
    return min(milliseconds for _, kind, milliseconds in calls if "Conv" in kind) / 1000.0


def rates(console: Console) -> dict[bool, float]:
    """Best multiplications per second, in integers and in float, over all kernels and runtimes."""
    table = Table("kernel", "runtime", "float32 GMAC/s", "int8 GMAC/s", "ratio")
    best = {True: 0.0, False: 0.0}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (inputs, outputs, kernel, side) in KERNELS.items():
            work = inputs * outputs * kernel**2 * side**2
            for runtime in RUNTIMES:
                found = {}
                for quantized in (False, True):
                    seconds = kernel_seconds(
                        kernel_model(inputs, outputs, kernel, side, quantized=quantized), runtime, Path(scratch)
                    )
                    found[quantized] = work / seconds
                    best[quantized] = max(best[quantized], found[quantized])
                cells = f"{found[False] / 1e9:.0f}", f"{found[True] / 1e9:.0f}", f"{found[True] / found[False]:.2f}"
                table.add_row(name, runtime, *cells)
    console.print(table)
    return best


def bandwidth(mebibytes: int) -> float:
    """Bytes per second read and written by copying, with one thread."""
    source = np.ones(mebibytes << 20, np.uint8)
    target = np.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: np.copyto(target, source))


def bound_seconds(graph: QdqGraph, runtime: str, best: dict[bool, float], speed: float) -> tuple[float, float, float]:
    """A file's bound by multiplications alone and by the longer of multiplications and bytes, and its multiplications."""
    compute = longest = work = 0.0
    for node in graph.weighted():
        integers = runs_in_integers(graph, node, get_target(runtime))
        count = graph.multiplications(node)
        values = sum(int(np.prod(graph.shapes.get(name, (0,)))) for name in (node.input[0], node.output[0]))
        seconds = count / best[integers]
        compute, work = compute + seconds, work + count
        longest += max(seconds, values * (1 if integers else 4) / speed)
    return compute, longest, work


def main() -> None:
    console = Console(width=150)
    best = rates(console)
    speeds = {size: bandwidth(size) for size in (4, 256)}
    console.print(", ".join(f"copying {size} MiB: {speed / 1e9:.1f} GB/s" for size, speed in speeds.items()))
    files = [Path(name) for name in sys.argv[1:]]
    runners = {(str(path), runtime): open_onnx(path, runtime, threads=THREADS) for path in files for runtime in RUNTIMES}
    times = measure_latency({"\n".join(key): runner for key, runner in runners.items()}, runs=RUNS)
    table = Table("file", "runtime", "fastest ms", "GMAC", "GMAC/s", "bound by multiplications ms", "and by bytes ms", "reached")
    for path in files:
        graph = QdqGraph(onnx.load(str(path)))
        for runtime in RUNTIMES:
            compute, longest, work = bound_seconds(graph, runtime, best, speeds[4])
            seconds = times[f"{path}\n{runtime}"].minimum / 1000.0
            cells = (f"{seconds * 1e3:.1f}", f"{work / 1e9:.2f}", f"{work / seconds / 1e9:.0f}", f"{compute * 1e3:.1f}")
            table.add_row(path.name, runtime, *cells, f"{longest * 1e3:.1f}", f"{longest / seconds:.0%}")
    console.print(table)


if __name__ == "__main__":
    main()

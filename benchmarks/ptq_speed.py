"""Time and peak memory of calibrating YOLOv5n at 640, ours and nncf's in turns.

`YOLOQUANT_SHARED=... python benchmarks/ptq_speed.py`; needs `pip install "yoloquant[nncf]"`. Both sides get the same decoded
photographs from this project's loader, each run is a process of its own, and peak memory is that of the process.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
# Runs of each side, in turns.
ROUNDS = int(os.environ.get("ROUNDS", "3"))


def entries(count: int) -> list:
    from yoloquant.data.sample import calibration_images

    found = calibration_images(SHARED / "coco" / "data.yaml", count)
    # The train split has fewer images than the largest run wants; repeating them costs the same.
    return (found * (count // len(found) + 1))[:count]


def ours(count: int) -> float:
    from yoloquant.algorithms.calibrate import calibrate
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.data.loader import ImageLoader
    from yoloquant.graph.capture import capture
    from yoloquant.quant.quantized_detector import quantized_from
    from yoloquant.targets.registry import get_target

    detector = read_detector(SHARED / "weights" / "yolov5n.pt")
    loader = ImageLoader(entries(count), (640, 640), 8)
    start = time.perf_counter()
    graph_module = capture(detector.network, (640, 640))
    quantized = quantized_from(detector, get_target("openvino").place(graph_module), graph_module)
    calibrate(quantized, (batch.images for batch in loader))
    return time.perf_counter() - start


def nncf_quantize(count: int) -> float:
    import nncf
    import openvino

    from yoloquant.data.loader import ImageLoader

    model = openvino.Core().read_model(str(SHARED / "weights" / "yolov5n.onnx"))
    loader = ImageLoader(entries(count), (640, 640), 1)
    batches = (batch.images.float().div(255).numpy() for batch in loader)

    class Stream:
        """Images one by one, loaded ahead like ours."""

        def __iter__(self):
            return iter(batches)

    start = time.perf_counter()
    nncf.quantize(model, nncf.Dataset(Stream()), subset_size=count, preset=nncf.QuantizationPreset.MIXED)
    return time.perf_counter() - start


def child(side: str, count: str) -> None:
    seconds = (ours if side == "yoloquant" else nncf_quantize)(int(count))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"RESULT {seconds} {peak}")


def run(side: str, count: int) -> tuple[float, float]:
    output = subprocess.run([sys.executable, __file__, side, str(count)], capture_output=True, text=True, check=True).stdout
    line = next(line for line in output.splitlines() if line.startswith("RESULT"))
    seconds, peak = line.split()[1:]
    return float(seconds), float(peak)


def main() -> None:
    results: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for _ in range(ROUNDS):
        for side in ("yoloquant", "nncf"):
            results.setdefault((side, 128), []).append(run(side, 128))
    results["yoloquant", 512] = [run("yoloquant", 512)]
    table = Table("tool", "images", "seconds (median)", "peak memory MiB")
    for (side, count), runs in results.items():
        times, peaks = zip(*runs, strict=True)
        table.add_row(side, str(count), f"{statistics.median(times):.1f}", f"{statistics.median(peaks):.0f}")
    ratios = [a[0] / b[0] for a, b in zip(results["yoloquant", 128], results["nncf", 128], strict=True)]
    console = Console()
    console.print(table)
    console.print(f"yoloquant / nncf, time: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        child(sys.argv[1], sys.argv[2])
    else:
        main()

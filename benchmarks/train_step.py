"""Seconds and peak memory of a training step of YOLOv5n, float and quantized, the same batch and loss.

`YOLOQUANT_SHARED=... python benchmarks/train_step.py [BATCH [SIZE]]`; Linux only. Each run is a process of its own, in turns;
memory is the peak of the process over its steps, less what it had before the first. The float network is trained as it is, with
BatchNorm, and with BatchNorm folded, which is what quantizers stand in.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from torch import nn

    from yoloquant.models.detector import Detector

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
ROUNDS, STEPS, WARM = int(os.environ.get("ROUNDS", "3")), 8, 2
# Row -> target (none for float), what becomes of weight and of activation scales.
ROWS: dict[str, tuple[str | None, str, str]] = {
    "float": (None, "", ""),
    "float, BatchNorm folded": (None, "", ""),
    "INT8, fixed scales": ("tensorrt", "fixed", "fixed"),
    "INT8, learned scales": ("tensorrt", "lsq", "lsq"),
    "INT8, observed scales": ("tensorrt", "observed", "observed"),
    "power-of-two, learned scales": ("npu-pow2", "lsq", "lsq"),
}


def network_of(row: str, size: int) -> tuple[nn.Module, Detector]:
    """The network to train, and its detector."""
    import torch

    from yoloquant.algorithms.calibrate import calibrate
    from yoloquant.checkpoint.read import read_detector
    from yoloquant.graph.capture import capture
    from yoloquant.quant.quantized_detector import quantized_from
    from yoloquant.targets.registry import get_target
    from yoloquant.training.quantized.step import Train
    from yoloquant.training.quantized.trainable import begin_training

    detector = read_detector(SHARED / "weights" / "yolov5n.pt")
    target, weights, activations = ROWS[row]
    if row == "float":
        return detector.network.train(), detector
    graph_module = capture(detector.network, (size, size))
    if target is not None:
        quantized = quantized_from(detector, get_target(target).place(graph_module), graph_module)
        calibrate(quantized, [torch.randint(0, 256, (1, 3, size, size), dtype=torch.uint8)])
        begin_training(quantized, Train(weights=weights, activations=activations))
    return graph_module, detector


def child(row: str, batch: int, size: int) -> None:
    """Print seconds of a step and MiB that steps add."""
    import torch

    from yoloquant.data.images import to_input
    from yoloquant.models.yolov5.loss import YOLOv5Loss

    torch.manual_seed(0)
    network, detector = network_of(row, size)
    network.to(memory_format=torch.channels_last).requires_grad_(requires_grad=True)
    loss = YOLOv5Loss(detector.head.anchors, detector.strides, len(detector.names))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-6, momentum=0.9)
    x = to_input(torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8))
    targets = torch.rand(8 * batch, 6) * torch.tensor([batch, 80, 1.0, 1.0, 0.3, 0.3])
    targets[:, :2] = targets[:, :2].floor()
    gc.collect()
    # Capture and calibration had a peak of their own, which Linux forgets on request.
    Path("/proc/self/clear_refs").write_text("5")
    start_memory = memory("VmRSS")
    times = []
    for _ in range(WARM + STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(list(network(x)), targets).total.backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    print(f"RESULT {statistics.median(times[WARM:])} {memory('VmHWM') - start_memory}")


def memory(key: str) -> float:
    """MiB of this process: resident now (VmRSS) or at its peak (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return float(next(line for line in status.splitlines() if line.startswith(key)).split()[1]) / 1024


def run(row: str, batch: int, size: int) -> tuple[float, float]:
    """Seconds and MiB of one process."""
    command = [sys.executable, __file__, "child", row, str(batch), str(size)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, added = next(line for line in output.splitlines() if line.startswith("RESULT")).split()[1:]
    return float(seconds), float(added)


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
        return
    batch, size = int((sys.argv[1:2] or ["4"])[0]), int((sys.argv[2:3] or ["640"])[0])
    results: dict[str, list[tuple[float, float]]] = {row: [] for row in ROWS}
    for _ in range(ROUNDS):
        for row in ROWS:
            results[row].append(run(row, batch, size))
    table = Table("network", "seconds a step", "against float", "MiB", "against float", title=f"batch {batch} at {size}")
    medians = {row: [statistics.median(values) for values in zip(*runs, strict=True)] for row, runs in results.items()}
    base = medians["float"]
    for row, (seconds, memory) in medians.items():
        table.add_row(row, f"{seconds:.3f}", f"{seconds / base[0]:.2f}", f"{memory:.0f}", f"{memory / base[1]:.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""mAP, time and memory of the presets on YOLOv5n and 634 photographs: `YOLOQUANT_SHARED=... python benchmarks/accuracy.py [ROW
...]`.

Each row is quantized in a process of its own, whose time and peak memory are those of the whole way from the checkpoint to the
verified file, and then evaluated in torch and in the target's runtimes.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Row name -> target (none for the preset's own), preset.
ROWS: dict[str, tuple[str | None, str]] = {
    "onnxruntime int8": ("onnxruntime", "int8"),
    "openvino int8": ("openvino", "int8"),
    "tensorrt int8": ("tensorrt", "int8"),
    "openvino int8-accurate": ("openvino", "int8-accurate"),
    "openvino int8-reconstructed": ("openvino", "int8-reconstructed"),
    "tensorrt int8-reconstructed": ("tensorrt", "int8-reconstructed"),
    "int8-power-of-two": (None, "int8-power-of-two"),
    "int8-power-of-two-aligned": (None, "int8-power-of-two-aligned"),
    "int8-power-of-two-zero-point": (None, "int8-power-of-two-zero-point"),
    "8w8f": (None, "8w8f"),
    "4w8f-plain": (None, "4w8f-plain"),
    "4w8f-plain-percentile": (None, "4w8f-plain-percentile"),
    "4w8f-plain-first-six": (None, "4w8f-plain-first-six"),
    "4w8f": (None, "4w8f"),
    "4w8f-first-six": (None, "4w8f-first-six"),
    "4w8f-channel": (None, "4w8f-channel"),
    "4w4f": (None, "4w4f"),
    "mixed-4-8": (None, "mixed-4-8"),
    "tensorrt qat-distillation": ("tensorrt", "qat-distillation"),
    "qat-aligned": (None, "qat-aligned"),
    "qat-aligned-zero-point": (None, "qat-aligned-zero-point"),
    "qat-4w8f": (None, "qat-4w8f"),
    "qat-4w4f": (None, "qat-4w4f"),
}
SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))


def quantized(target: str | None, preset: str, folder: Path) -> dict[str, float]:
    """Quantize into a folder; seconds and peak MiB of this process."""
    from yoloquant.flows.options import Measure
    from yoloquant.flows.quantize import quantize

    start = time.perf_counter()
    data = SHARED / "coco" / "data.yaml"
    quantize(
        SHARED / "weights" / "yolov5n.pt", data, target=target, recipe=preset, output=folder, measure=Measure(evaluate=False)
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": time.perf_counter() - start, "MiB": peak}


def scores(model: Path, runtimes: list[str]) -> dict[str, tuple[float, float]]:
    """Runtime -> mAP50-95 and mAP50."""
    from yoloquant.data.dataset import load_dataset
    from yoloquant.flows.evaluate import evaluate

    dataset = load_dataset(SHARED / "coco" / "data.yaml")
    found = {}
    for runtime in runtimes:
        evaluation = evaluate(model, dataset, runtime=runtime)
        found[runtime] = (evaluation.map50_95, evaluation.map50)
    return found


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        target, preset = ROWS[sys.argv[2]]
        print("RESULT " + json.dumps(quantized(target, preset, Path(sys.argv[3]))))
        return
    plain = scores(SHARED / "weights" / "yolov5n.pt", ["torch"])["torch"]
    table = Table("recipe", "runtime", "mAP50-95", "drop", "mAP50", "drop", "seconds to quantize", "peak MiB")
    console = Console(width=140)
    for name in sys.argv[1:] or list(ROWS):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "out"
            command = [sys.executable, __file__, "child", name, str(folder)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            cost = json.loads(next(line for line in output.splitlines() if line.startswith("RESULT")).removeprefix("RESULT "))
            runtimes = ["torch", "openvino"] if ROWS[name][0] == "openvino" else ["torch", "onnxruntime"]
            for runtime, (strict, loose) in scores(folder, runtimes).items():
                drops = f"{plain[0] - strict:.2f}", f"{plain[1] - loose:.2f}"
                costs = f"{cost['seconds']:.0f}", f"{cost['MiB']:.0f}"
                table.add_row(name, runtime, f"{strict:.2f}", drops[0], f"{loose:.2f}", drops[1], *costs)
        console.print(table)


if __name__ == "__main__":
    main()

"""mAP of the presets on YOLOv5n and 634 photographs: `YOLOQUANT_SHARED=... python benchmarks/accuracy.py [ROW ...]`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from yoloquant.pipeline import quantize

# Row name -> target, preset.
ROWS = {
    "onnxruntime int8": ("onnxruntime", "int8"),
    "openvino int8": ("openvino", "int8"),
    "tensorrt int8": ("tensorrt", "int8"),
    "8w8f": ("reference", "8w8f"),
}


def main() -> None:
    shared = Path(os.environ["YOLOQUANT_SHARED"])
    wanted = sys.argv[1:] or list(ROWS)
    table = Table("recipe", "runtime", "float", "quantized", "drop mAP50-95", "drop mAP50", "seconds to quantize")
    for name in wanted:
        target, preset = ROWS[name]
        start = time.perf_counter()
        result = quantize(shared / "weights" / "yolov5n.pt", shared / "coco" / "data.yaml", target=target, recipe=preset)
        total = time.perf_counter() - start - result.seconds["measure"]
        for row in result.rows:
            if row.model == "float" or row.evaluation is None:
                continue
            reference = result.row("float", row.runtime).evaluation
            assert reference is not None
            table.add_row(
                name,
                row.runtime,
                f"{reference.map50_95:.2f}",
                f"{row.evaluation.map50_95:.2f}",
                f"{reference.map50_95 - row.evaluation.map50_95:.2f}",
                f"{reference.map50 - row.evaluation.map50:.2f}",
                f"{total:.0f}",
            )
        Console(width=140).print(table)


if __name__ == "__main__":
    main()

"""How much of what quantization cost is chance, because only so many photographs were evaluated?

`YOLOQUANT_SHARED=... python benchmarks/drop_noise.py FOLDER...`: quantized folders of YOLOv5n on the val split, in torch. Printed
are each one's drop of mAP50-95 against float, and its standard error by the jackknife: the photographs are dealt to 20 groups,
each group is left out once, and float and quantized are measured on the same rest (Efron and Tibshirani 1993, chapter 11). Two
drops that differ by less than about two of these errors are not told apart.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from yoloquant.checkpoint.read import read_detector
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import table_from_rows
from yoloquant.evaluation.evaluator import evaluate, labelled_split
from yoloquant.exporting.folder import load_quantized
from yoloquant.runtime.torch_runner import TorchRunner

SHARED = Path(os.environ.get("YOLOQUANT_SHARED", "YOLOQUANT_SHARED-is-not-set"))
GROUPS = 20

Rows = list[dict[str, Any]]


def left_out(truth: dict[str, Any], rows: Rows, groups: list[set[int]]) -> np.ndarray:
    """mAP50-95 of all images, and then without each group."""
    everything = set().union(*groups)
    kept = [everything, *(everything - group for group in groups)]
    table = table_from_rows(rows)
    figures = [coco_figures(truth, table, sorted(ids))[0] for ids in kept]
    return np.array([found["mAP50-95"] for found in figures])


def drop_and_error(float_maps: np.ndarray, quantized_maps: np.ndarray) -> tuple[float, float]:
    """Drop, and its standard error, from what `left_out` answers."""
    drops = float_maps - quantized_maps
    groups = len(drops) - 1
    return float(drops[0]), float(np.sqrt((groups - 1) / groups * np.square(drops[1:] - drops[1:].mean()).sum()))


def main() -> None:
    """Print the table."""
    folders = [Path(given) for given in sys.argv[1:]]
    detector = read_detector(SHARED / "weights" / "yolov5n.pt")
    dataset = labelled_split(detector.names, SHARED / "coco" / "data.yaml")
    truth = dataset.ground_truth
    order = np.random.default_rng(0).permutation([image["id"] for image in truth["images"]])
    groups = [set(part.tolist()) for part in np.array_split(order, GROUPS)]
    reference = left_out(truth, evaluate(TorchRunner(detector), dataset).rows, groups)
    table = Table("folder", "mAP50-95", "drop", "standard error", title=f"float {reference[0]:.2f}, {len(order)} photographs")
    for folder in folders:
        maps = left_out(truth, evaluate(TorchRunner(load_quantized(folder)), dataset).rows, groups)
        drop, error = drop_and_error(reference, maps)
        table.add_row(str(folder), f"{maps[0]:.2f}", f"{drop:.2f}", f"{error:.2f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

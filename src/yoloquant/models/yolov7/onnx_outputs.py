"""Rows that YOLOv7's exporter writes behind its suppression."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.detector import Head
from yoloquant.models.onnx.outputs import OnnxFacts, OnnxOutputs


@architecture("yoloquant.BatchRowsHead")
class BatchRowsHead(Head):
    """Rows of YOLOv7's export with suppression: image number, corners, class number, score; for one image."""

    fields: ClassVar[dict[str, Field]] = {"class_count": Field((int,)), "count": Field((int,), 300)}
    layout = "rows_final"

    def __init__(self, class_count: int, count: int = 300):
        """`count`: rows of the output, filled with zeros."""
        super().__init__()
        self.class_count, self.count = class_count, count

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """`[(n, 7)]` -> `(1, count, 6)`: corners, score, class number."""
        rows = raw_maps[0][: self.count]
        ordered = torch.cat([rows[:, 1:5], rows[:, 6:7], rows[:, 5:6]], 1)
        missing = rows.new_zeros(self.count - len(rows), 6)
        return torch.cat([ordered, missing])[None]


def onnx_facts(outputs: OnnxOutputs) -> OnnxFacts | None:
    """Rows `(n, 7)` of all images."""
    first = outputs.shapes[0]
    if len(first) != 2 or first[1] != 7:
        return None
    names = outputs.names_or()
    return OnnxFacts(names, outputs.strides, outputs.input_size, BatchRowsHead.layout, BatchRowsHead(len(names)))

"""Decoding of YOLOX's rows, which its exporter leaves undecoded."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.detector import Head


@architecture("yoloquant.GridHead")
class GridHead(Head):
    """YOLOX's rows before decoding (Ge et al. 2021): centre in cells from its cell's corner, logarithm of the size in cells.

    Objectness and class probabilities are sigmoids already.
    """

    layout = "rows_objectness"
    fields: ClassVar[dict[str, Field]] = {
        "class_count": Field((int,)),
        "strides": Field((list, tuple)),
        "input_size": Field((list, tuple)),
    }

    def __init__(self, class_count: int, strides: list[int], input_size: tuple[int, int]):
        """Keep the constants.

        Args:
            class_count: C.
            strides: Strides of the levels, pixels.
            input_size: `(height, width)` of the images, pixels, which rows alone do not determine.
        """
        super().__init__()
        self.class_count, self.strides, self.input_size = class_count, list(strides), list(input_size)

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """`[rows (N, A, 5+C)]` -> rows with centre and size in pixels."""
        rows = raw_maps[0]
        cells, strides = [], []
        for stride in self.strides:
            height, width = (side // stride for side in self.input_size)
            columns = torch.arange(width, device=rows.device, dtype=rows.dtype)
            lines = torch.arange(height, device=rows.device, dtype=rows.dtype)
            cells.append(torch.stack([columns.expand(height, width), lines[:, None].expand(height, width)], -1).view(-1, 2))
            strides.append(torch.full((height * width, 1), float(stride), device=rows.device))
        corner, scale = torch.cat(cells), torch.cat(strides)
        return torch.cat([(rows[..., :2] + corner) * scale, rows[..., 2:4].exp() * scale, rows[..., 4:]], -1)

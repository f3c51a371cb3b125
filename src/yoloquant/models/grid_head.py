"""Decoding of outputs that exporters leave undecoded."""

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
            strides: of the levels, pixels.
            input_size: `(height, width)` of the images, pixels, which rows alone do not tell.
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


@architecture("yoloquant.JoinedMapsHead")
class JoinedMapsHead(Head):
    """Maps of YOLOv8 and later before decoding, box channels and class channels in one map for each level."""

    fields: ClassVar[dict[str, Field]] = {"class_count": Field((int,))}
    layout = "columns_classes"

    def __init__(self, decoder: Head):
        """`decoder`: a `DistanceHead`, which takes both apart."""
        super().__init__()
        self.class_count = decoder.class_count
        self.decoder = decoder

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """List of `(N, 4*bins+C, H, W)`, finest first -> decoded output."""
        pairs: list[Tensor] = []
        for raw in raw_maps:
            boxes = raw.shape[1] - self.class_count
            pairs += raw.split([boxes, self.class_count], 1)
        out: Tensor = self.get_submodule("decoder")(pairs)
        return out


@architecture("yoloquant.RawAnchorsHead")
class RawAnchorsHead(Head):
    """Maps of YOLOv5 and YOLOv7 before decoding, where an exporter has them as `(N, anchors, H, W, values)`."""

    fields: ClassVar[dict[str, Field]] = {"class_count": Field((int,))}
    layout = "rows_objectness"

    def __init__(self, decoder: Head):
        """`decoder`: an `AnchorHead`."""
        super().__init__()
        self.class_count = decoder.class_count
        self.decoder = decoder

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """List of `(N, A, H, W, 5+C)` or `(N, A*(5+C), H, W)`, finest first -> decoded output."""
        maps = [raw.permute(0, 1, 4, 2, 3).flatten(1, 2) if raw.dim() == 5 else raw for raw in raw_maps]
        out: Tensor = self.get_submodule("decoder")(maps)
        return out


@architecture("yoloquant.BatchRowsHead")
class BatchRowsHead(Head):
    """Rows of YOLOv7's export with suppression: image number, corners, class number, score; for one image."""

    fields: ClassVar[dict[str, Field]] = {"class_count": Field((int,)), "count": Field((int,), 300)}
    layout = "rows_final"

    def __init__(self, class_count: int, count: int = 300):
        """`count`: rows of the answer, filled with zeros."""
        super().__init__()
        self.class_count, self.count = class_count, count

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """`[(n, 7)]` -> `(1, count, 6)`: corners, score, class number."""
        rows = raw_maps[0][: self.count]
        ordered = torch.cat([rows[:, 1:5], rows[:, 6:7], rows[:, 5:6]], 1)
        missing = rows.new_zeros(self.count - len(rows), 6)
        return torch.cat([ordered, missing])[None]

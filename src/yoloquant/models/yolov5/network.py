"""YOLOv5's network and head: raw maps, and their decoding."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.detector import Head


@architecture("models.yolo.Detect")
class Detect(nn.Module):
    """The last convolutions, one for each level; decoding is in `AnchorHead`."""

    fields: ClassVar[dict[str, Field]] = {"nc": Field((int,)), "na": Field((int,))}
    m: nn.ModuleList

    def __init__(self, nc: int, na: int, channels: list[int]):
        super().__init__()
        self.nc, self.na = nc, na
        self.m = nn.ModuleList(nn.Conv2d(width, na * (nc + 5), 1) for width in channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, Ci, Hi, Wi)` -> list of `(N, na*(5+nc), Hi, Wi)`."""
        return [conv(x) for conv, x in zip(self.m, maps, strict=True)]


@architecture("yoloquant.AnchorHead")
class AnchorHead(Head):
    """Decodes anchor-based maps (YOLOv5, YOLOv7).

    With s the sigmoid of a cell's values, cell index c and anchor size a in pixels: centre `(2 s - 0.5 + c) * stride`, size
    `(2 s)^2 * a`; objectness and class probabilities are sigmoids.
    """

    layout = "rows_objectness"
    fields: ClassVar[dict[str, Field]] = {
        "class_count": Field((int,)),
        "strides": Field((list, tuple)),
        "anchors": Field((list, tuple)),
    }

    def __init__(self, class_count: int, strides: list[int], anchors: list[list[list[float]]]):
        """Keep the constants.

        Args:
            class_count: C.
            strides: of the levels, pixels.
            anchors: level -> anchor -> width and height in pixels.
        """
        super().__init__()
        self.class_count, self.strides, self.anchors = class_count, list(strides), anchors

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """List of `(N, A*(5+C), H, W)` -> `(N, sum A*H*W, 5+C)`."""
        levels = zip(raw_maps, self.strides, self.anchors, strict=True)
        return torch.cat([self._decode(raw, stride, anchors) for raw, stride, anchors in levels], 1)

    def _decode(self, raw: Tensor, stride: int, anchors: list[list[float]]) -> Tensor:
        batch, _, height, width = raw.shape
        values = self.class_count + 5
        count = len(anchors)
        cells = raw.view(batch, count, values, height, width).permute(0, 1, 3, 4, 2).sigmoid()
        columns = torch.arange(width, device=raw.device, dtype=raw.dtype)
        rows = torch.arange(height, device=raw.device, dtype=raw.dtype)
        grid = torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)], -1)
        sizes = torch.tensor(anchors, device=raw.device, dtype=raw.dtype).view(1, count, 1, 1, 2)
        centers = (cells[..., 0:2] * 2.0 - 0.5 + grid) * stride
        extents = (cells[..., 2:4] * 2.0) ** 2 * sizes
        return torch.cat([centers, extents, cells[..., 4:]], -1).reshape(batch, count * height * width, values)

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
            strides: Strides of the levels, pixels.
            anchors: Mapping level -> anchor -> width and height in pixels.
        """
        super().__init__()
        self.class_count, self.strides, self.anchors = class_count, list(strides), anchors

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """List of `(N, A*(5+C), H, W)` -> `(N, sum A*H*W, 5+C)`."""
        levels = zip(raw_maps, self.strides, self.anchors, strict=True)
        return torch.cat([rows for level in levels for rows in self._decode(*level)], 1)

    def _decode(self, raw: Tensor, stride: int, anchors: list[list[float]]) -> list[Tensor]:
        """Rows `(N, H*W, 5+C)` of each anchor.

        Runtimes fuse a sigmoid that follows the convolution at once, and those that keep channels last take permutation and
        flattening together for a view; one anchor after the other then needs no transposition.
        """
        values = self.class_count + 5
        height, width = raw.shape[2:]
        cells = raw.sigmoid().permute(0, 2, 3, 1).flatten(1, 2)
        columns = torch.arange(width, device=raw.device, dtype=raw.dtype)
        lines = torch.arange(height, device=raw.device, dtype=raw.dtype)
        grid = torch.stack([columns.expand(height, width), lines[:, None].expand(height, width)], -1).view(-1, 2)
        rows = []
        for first, anchor in zip(range(0, values * len(anchors), values), anchors, strict=True):
            centers = (cells[..., first : first + 2] * 2.0 - 0.5 + grid) * stride
            extents = (cells[..., first + 2 : first + 4] * 2.0) ** 2 * torch.tensor(anchor, device=raw.device, dtype=raw.dtype)
            rows.append(torch.cat([centers, extents, cells[..., first + 4 : first + values]], -1))
        return rows

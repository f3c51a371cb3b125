"""Decoding of anchor-free maps: distances from a cell's centre to the four sides of its box (YOLOv6, YOLOv8 and later)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.detector import Head
from yoloquant.models.output_formats import Candidates


@architecture("yoloquant.DistanceHead")
class DistanceHead(Head):
    """Decodes pairs of maps, box map and class map of each level.

    A box map holds for each side a distribution over `bins` distances 0, 1, ... in units of the stride, whose mean is taken
    (Li et al. 2020, "Generalized Focal Loss", section 3.3), or one distance if `bins` is 1. The cell's centre lies at half a
    cell. Class probabilities are sigmoids.

    Layouts: `columns_classes` and `rows_objectness` (objectness 1) with centre and size, or `rows_final`: the `max_detections`
    best pairs of box and class, chosen among the boxes with the best scores (Wang et al. 2024, "YOLOv10", section 3.1).
    """

    fields: ClassVar[dict[str, Field]] = {
        "layout": Field((str,)),
        "class_count": Field((int,)),
        "strides": Field((list, tuple)),
        "bins": Field((int,)),
        "max_detections": Field((int,), 300),
        "branch": Field((str, type(None)), None),
    }

    def __init__(self, layout: str, class_count: int, strides: list[int], bins: int, max_detections: int = 300):
        """Keep the constants.

        Args:
            layout: Layout of the decoded output.
            class_count: C.
            strides: Strides of the levels, pixels.
            bins: Distances that a distribution is over; 1 if boxes are given directly.
            max_detections: Maximum number of boxes of the layout `rows_final`.
        """
        super().__init__()
        self.layout, self.class_count, self.strides = layout, class_count, list(strides)
        self.bins, self.max_detections = bins, max_detections

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """`[box map (N, 4*bins, H, W), class map (N, C, H, W), ...]` level by level -> decoded output."""
        corners, scores = self._decode(raw_maps)
        if self.layout == "rows_final":
            return self._best(corners.transpose(1, 2), scores.transpose(1, 2))
        first, second = corners.split(2, 1)
        boxes = torch.cat([(first + second) / 2, second - first], 1)
        if self.layout == "columns_classes":
            return torch.cat([boxes, scores], 1)
        return torch.cat([boxes, torch.ones_like(boxes[:, :1]), scores], 1).transpose(1, 2)

    def candidates(self, raw_maps: list[Tensor]) -> Candidates:
        """Boxes and scores of all cells, whatever the layout."""
        corners, scores = self._decode(raw_maps)
        return Candidates(corners.transpose(1, 2), scores.transpose(1, 2))

    def _decode(self, raw_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Corners `(N, 4, A)` in pixels and scores `(N, C, A)`."""
        corners, scores = [], []
        for boxes, classes, stride in zip(raw_maps[::2], raw_maps[1::2], self.strides, strict=True):
            left_top, right_bottom = self._distances(boxes).split(2, 1)
            center = cell_centers(boxes)
            corners.append(torch.cat([center - left_top, center + right_bottom], 1) * stride)
            scores.append(classes.flatten(2).sigmoid())
        return torch.cat(corners, 2), torch.cat(scores, 2)

    def _distances(self, boxes: Tensor) -> Tensor:
        """Box map -> distances `(N, 4, H*W)` in units of the stride: left, top, right, bottom."""
        if self.bins == 1:
            return boxes.flatten(2)
        batch, _, height, width = boxes.shape
        shares = boxes.view(batch, 4, self.bins, height * width).softmax(2)
        values = torch.arange(self.bins, dtype=boxes.dtype, device=boxes.device).view(1, 1, -1, 1)
        return (shares * values).sum(2)

    def _best(self, corners: Tensor, scores: Tensor) -> Tensor:
        """Corners `(N, A, 4)` and scores `(N, A, C)` -> `(N, K, 6)`."""
        count = min(self.max_detections, corners.shape[1])
        index = scores.amax(2).topk(count, 1).indices
        scores = scores.gather(1, index[..., None].expand(-1, -1, self.class_count))
        values, pairs = scores.flatten(1).topk(count, 1)
        boxes = index.gather(1, pairs // self.class_count)
        corners = corners.gather(1, boxes[..., None].expand(-1, -1, 4))
        classes = (pairs % self.class_count).to(corners.dtype)
        return torch.cat([corners, values[..., None], classes[..., None]], 2)


def output_channels(branches: nn.ModuleList) -> int:
    """Channels of the maps of box branches or class branches, by the last convolution of the first level."""
    last = [module for module in branches[0].modules() if isinstance(module, nn.Conv2d)][-1]
    return last.out_channels


def cell_centers(raw_map: Tensor) -> Tensor:
    """`(2, H*W)`: x and y of the cells' centres, in cells."""
    height, width = raw_map.shape[2:]
    columns = torch.arange(width, device=raw_map.device, dtype=raw_map.dtype) + 0.5
    rows = torch.arange(height, device=raw_map.device, dtype=raw_map.dtype) + 0.5
    return torch.stack([columns.expand(height, width), rows[:, None].expand(height, width)]).flatten(1)

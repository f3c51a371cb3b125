"""YOLOv5's training loss: CIoU for boxes, objectness with a balance between levels, binary cross entropy for classes.

The formulas are those of the YOLOv5 documentation ("Architecture Summary", losses and target building) and, for CIoU,
of Zheng et al., "Distance-IoU Loss", AAAI 2020.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

# Weight of the objectness of a level, small objects first.
OBJECTNESS_BALANCE = {3: (4.0, 1.0, 0.4), 4: (4.0, 1.0, 0.25, 0.06)}


@dataclass(frozen=True)
class Matches:
    """The cells of one level that answer for an object.

    Attributes:
        image: `(M,)` index in the batch.
        anchor: `(M,)`.
        row: `(M,)` cell.
        column: `(M,)` cell.
        boxes: `(M, 4)` centre relative to the cell's corner, width, height; in cells.
        classes: `(M,)`.
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    boxes: Tensor
    classes: Tensor


def match_anchors(targets: Tensor, anchors: Tensor, height: int, width: int, threshold: float = 4.0) -> Matches:
    """Which cells and anchors of a level answer for which objects.

    An anchor fits an object if neither side differs by a factor of `threshold` or more. The object's own cell answers, and
    of its neighbours the nearer one in each direction, where it exists; a centre exactly between has no nearer one.

    Args:
        targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
        anchors: `(A, 2)` width and height in cells.
        height: of the map, cells.
        width: of the map, cells.
        threshold: `anchor_t`.
    """
    gain = torch.tensor([width, height, width, height], dtype=anchors.dtype, device=anchors.device)
    boxes = targets[:, 2:6] * gain
    ratio = boxes[:, None, 2:4] / anchors[None]
    fits = torch.maximum(ratio, 1 / ratio).amax(-1) < threshold
    row_of, anchor = fits.nonzero(as_tuple=True)
    centers = boxes[row_of, :2]
    size = gain[:2]
    near_low = (centers % 1 < 0.5) & (centers > 1)
    near_high = ((size - centers) % 1 < 0.5) & (size - centers > 1)
    moves = [(0, 0), (-1, 0), (0, -1), (1, 0), (0, 1)]
    taken = [torch.ones_like(near_low[:, 0]), near_low[:, 0], near_low[:, 1], near_high[:, 0], near_high[:, 1]]
    chosen = torch.stack(taken)
    direction, member = chosen.nonzero(as_tuple=True)
    # Half a cell: from anywhere in the nearer half this reaches the neighbour.
    shift = torch.tensor(moves, dtype=centers.dtype, device=centers.device)[direction] * 0.5
    row_of, anchor, centers = row_of[member], anchor[member], centers[member]
    cells = (centers + shift).floor().long()
    column, row = cells[:, 0].clamp(0, width - 1), cells[:, 1].clamp(0, height - 1)
    corner = torch.stack([column, row], -1)
    return Matches(
        targets[row_of, 0].long(),
        anchor,
        row,
        column,
        torch.cat([centers - corner, boxes[row_of, 2:4]], -1),
        targets[row_of, 1].long(),
    )


def complete_iou(first: Tensor, second: Tensor, epsilon: float = 1e-7) -> Tensor:
    """CIoU: intersection over union, less the distance of the centres and the difference of the aspect ratios.

    Args:
        first: `(M, 4)` centre x, centre y, width, height.
        second: of the same shape.
        epsilon: keeps divisions finite.

    Returns:
        `(M,)`, -1.5 to 1.
    """
    low1, high1 = first[:, :2] - first[:, 2:] / 2, first[:, :2] + first[:, 2:] / 2
    low2, high2 = second[:, :2] - second[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2
    overlap = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(-1)
    iou = overlap / (first[:, 2:].prod(-1) + second[:, 2:].prod(-1) - overlap + epsilon)
    diagonal = (torch.maximum(high1, high2) - torch.minimum(low1, low2)).square().sum(-1) + epsilon
    distance = (first[:, :2] - second[:, :2]).square().sum(-1)
    angles = [torch.atan(boxes[:, 2] / (boxes[:, 3] + epsilon)) for boxes in (first, second)]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    # The trade-off is a constant of the optimisation, as in the paper.
    trade_off = (shape / (shape - iou + 1 + epsilon)).detach()
    return iou - distance / diagonal - trade_off * shape


@dataclass(frozen=True)
class LossParts:
    """A loss and what it is made of, for logs.

    Attributes:
        total: scalar to minimise; the sum of the weighted parts times the batch size.
        parts: name -> weighted mean, detached.
    """

    total: Tensor
    parts: dict[str, Tensor]


class YOLOv5Loss(nn.Module):
    """The loss on raw maps."""

    def __init__(
        self,
        anchors: list[list[list[float]]],
        strides: tuple[int, ...],
        class_count: int,
        *,
        box: float = 0.05,
        cls: float = 0.5,
        obj: float = 1.0,
        cls_pw: float = 1.0,
        obj_pw: float = 1.0,
        anchor_t: float = 4.0,
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep the settings; weights are taken as they are, whatever the image size and the number of classes and levels.

        Args:
            anchors: level -> anchor -> width and height in pixels (`AnchorHead.anchors`).
            strides: of the levels, pixels.
            class_count: C.
            box: weight of the boxes.
            cls: weight of the classes.
            obj: weight of the objectness.
            cls_pw: weight of positive classes.
            obj_pw: weight of positive objectness.
            anchor_t: threshold of matching, see `match_anchors`.
            label_smoothing: 0..1; a class is `1 - label_smoothing/2`, the others `label_smoothing/2`.
        """
        super().__init__()
        self.strides, self.class_count, self.anchor_t = tuple(strides), class_count, anchor_t
        self.weights = {"box": box, "obj": obj, "cls": cls}
        self.positive, self.negative = 1 - 0.5 * label_smoothing, 0.5 * label_smoothing
        self.balance = OBJECTNESS_BALANCE.get(len(strides), (1.0,) * len(strides))
        self.anchors: Tensor
        self.class_weight: Tensor
        self.objectness_weight: Tensor
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.register_buffer("class_weight", torch.tensor([cls_pw]))
        self.register_buffer("objectness_weight", torch.tensor([obj_pw]))

    def forward(self, raw_maps: list[Tensor], targets: Tensor) -> LossParts:
        """Compute the loss.

        Args:
            raw_maps: list of `(N, A*(5+C), h, w)`.
            targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
        """
        zero = raw_maps[0].new_zeros(())
        sums = {"box": zero, "obj": zero, "cls": zero}
        for level, raw in enumerate(raw_maps):
            parts = self._level(raw.float(), targets, self.anchors[level] / self.strides[level])
            sums["box"] = sums["box"] + parts[0]
            sums["obj"] = sums["obj"] + parts[1] * self.balance[level]
            sums["cls"] = sums["cls"] + parts[2]
        weighted = {name: value * self.weights[name] for name, value in sums.items()}
        total = (weighted["box"] + weighted["obj"] + weighted["cls"]) * raw_maps[0].shape[0]
        return LossParts(total, {name: value.detach() for name, value in weighted.items()})

    def _level(self, raw: Tensor, targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of box, objectness and class loss of a level; anchors in cells."""
        batch, _, height, width = raw.shape
        cells = raw.view(batch, len(anchors), self.class_count + 5, height, width).permute(0, 1, 3, 4, 2)
        matches = match_anchors(targets, anchors, height, width, self.anchor_t)
        # Contiguous, unlike the permuted cells, since it is filled through a flat view.
        objectness = raw.new_zeros(cells.shape[:-1])
        box_loss = class_loss = raw.new_zeros(())
        if len(matches.image):
            where = (matches.image, matches.anchor, matches.row, matches.column)
            chosen = cells[where]
            squashed = chosen[:, :4].sigmoid()
            boxes = torch.cat([squashed[:, :2] * 2 - 0.5, (squashed[:, 2:] * 2) ** 2 * anchors[matches.anchor]], -1)
            overlap = complete_iou(boxes, matches.boxes)
            box_loss = (1 - overlap).mean()
            # Where several objects claim a cell, the best covered one counts, whatever the order.
            quality = overlap.detach().clamp(min=0)
            flat = ((matches.image * len(anchors) + matches.anchor) * height + matches.row) * width + matches.column
            objectness.view(-1).scatter_reduce_(0, flat, quality, "amax")
            if self.class_count > 1:
                wanted = torch.full_like(chosen[:, 5:], self.negative)
                wanted[torch.arange(len(wanted), device=raw.device), matches.classes] = self.positive
                class_loss = binary_cross_entropy_with_logits(chosen[:, 5:], wanted, pos_weight=self.class_weight)
        objectness_loss = binary_cross_entropy_with_logits(cells[..., 4], objectness, pos_weight=self.objectness_weight)
        return box_loss, objectness_loss, class_loss

"""YOLOv5's training loss: CIoU for boxes, objectness with a balance between levels, binary cross entropy for classes.

The formulas are those of the YOLOv5 documentation ("Architecture Summary", losses and target building) and, for CIoU,
of Zheng et al., "Distance-IoU Loss", AAAI 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloquant.distributed import process_count, sum_over_processes
from yoloquant.models.family import LossRequest
from yoloquant.models.losses.overlap import complete_iou
from yoloquant.models.losses.parts import LossParts, weighted
from yoloquant.models.output_formats import corners
from yoloquant.models.yolov5.network import AnchorHead

# Weight of the objectness of a level, small objects first: of three levels, and of any other number of them up to five.
_THREE_LEVELS = (4.0, 1.0, 0.4)
_OTHER_LEVELS = (4.0, 1.0, 0.25, 0.06, 0.02)


def objectness_balance(levels: int) -> tuple[float, ...]:
    """Weights of the levels' objectness as YOLOv5 and YOLOv7 have them; levels beyond the fifth count as the fifth."""
    if levels == len(_THREE_LEVELS):
        return _THREE_LEVELS
    return (_OTHER_LEVELS + _OTHER_LEVELS[-1:] * max(levels - len(_OTHER_LEVELS), 0))[:levels]


@dataclass(frozen=True)
class Matches:
    """The cells of one level that are assigned to an object.

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


def match_anchors(
    targets: Tensor, anchors: Tensor, height: int, width: int, threshold: float = 4.0, reach: float = 0.5
) -> Matches:
    """Which cells and anchors of a level are assigned to which objects.

    An anchor fits an object if neither side differs by a factor of `threshold` or more. The object's own cell is assigned, and
    of its neighbours the nearer one in each direction, where it exists; a centre exactly between has no nearer one. With a reach
    of 1 all four neighbours are assigned.

    Args:
        targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
        anchors: `(A, 2)` width and height in cells.
        height: Height of the map, cells.
        width: Width of the map, cells.
        threshold: `anchor_t`.
        reach: Maximum distance of the centre from a neighbour's edge, cells.
    """
    gain = torch.tensor([width, height, width, height], dtype=anchors.dtype, device=anchors.device)
    boxes = targets[:, 2:6] * gain
    ratio = boxes[:, None, 2:4] / anchors[None]
    fits = torch.maximum(ratio, 1 / ratio).amax(-1) < threshold
    row_of, anchor = fits.nonzero(as_tuple=True)
    centers = boxes[row_of, :2]
    size = gain[:2]
    near_low = (centers % 1 < reach) & (centers > 1)
    near_high = ((size - centers) % 1 < reach) & (size - centers > 1)
    moves = [(0, 0), (-1, 0), (0, -1), (1, 0), (0, 1)]
    taken = [torch.ones_like(near_low[:, 0]), near_low[:, 0], near_low[:, 1], near_high[:, 0], near_high[:, 1]]
    chosen = torch.stack(taken)
    direction, member = chosen.nonzero(as_tuple=True)
    # From anywhere within reach of the neighbour this leads into it.
    shift = torch.tensor(moves, dtype=centers.dtype, device=centers.device)[direction] * reach
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
            anchors: Mapping level -> anchor -> width and height in pixels (`AnchorHead.anchors`).
            strides: Strides of the levels, pixels.
            class_count: C.
            box: Weight of the boxes.
            cls: Weight of the classes.
            obj: Weight of the objectness.
            cls_pw: Weight of positive classes.
            obj_pw: Weight of positive objectness.
            anchor_t: Threshold of matching, see `match_anchors`.
            label_smoothing: 0..1; a class is `1 - label_smoothing/2`, the others `label_smoothing/2`.
        """
        super().__init__()
        self.strides, self.class_count, self.anchor_t = tuple(strides), class_count, anchor_t
        self.weights = {"box": box, "obj": obj, "cls": cls}
        self.positive, self.negative = 1 - 0.5 * label_smoothing, 0.5 * label_smoothing
        self.balance = objectness_balance(len(strides))
        self.anchors: Tensor
        self.class_weight: Tensor
        self.objectness_weight: Tensor
        self.register_buffer("anchors", torch.tensor(anchors, dtype=torch.float32))
        self.register_buffer("class_weight", torch.tensor([cls_pw]))
        self.register_buffer("objectness_weight", torch.tensor([obj_pw]))

    def forward(self, raw_maps: list[Tensor], targets: Tensor) -> LossParts:
        """Compute the loss.

        Args:
            raw_maps: List of `(N, A*(5+C), h, w)`.
            targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
        """
        targets, zero = targets.float(), raw_maps[0].new_zeros(())
        sums = {"box": zero, "obj": zero, "cls": zero}
        for level, raw in enumerate(raw_maps):
            box, objectness, classes = self._level(raw.float(), targets, self.anchors[level] / self.strides[level])
            sums["box"] = sums["box"] + box
            sums["obj"] = sums["obj"] + objectness * self.balance[level]
            sums["cls"] = sums["cls"] + classes
        return weighted(sums, self.weights, raw_maps[0].shape[0] * process_count())

    def _level(self, raw: Tensor, targets: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of box, objectness and class loss of a level; anchors in cells."""
        batch, _, height, width = raw.shape
        cells = raw.view(batch, len(anchors), self.class_count + 5, height, width).permute(0, 1, 3, 4, 2)
        return self.compare(cells, match_anchors(targets, anchors, height, width, self.anchor_t), anchors)

    def compare(self, cells: Tensor, matches: Matches, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of box, objectness and class loss of a level, given which cells are assigned to which objects.

        Args:
            cells: `(N, A, H, W, 5+C)`.
            matches: Matches of the level.
            anchors: `(A, 2)` in cells.
        """
        # Contiguous, unlike the permuted cells, since it is filled through a flat view.
        objectness = cells.new_zeros(cells.shape[:-1])
        box_loss = class_loss = cells.new_zeros(())
        count = sum_over_processes(objectness.new_tensor(float(len(matches.image)))).clamp(min=1.0)
        if len(matches.image):
            where = (matches.image, matches.anchor, matches.row, matches.column)
            chosen = cells[where]
            overlap = complete_iou(corners(decode_cells(chosen, anchors[matches.anchor])), corners(matches.boxes))
            box_loss = (1 - overlap).sum() / count
            # Where several objects claim a cell, the best covered one counts, whatever the order.
            quality = overlap.detach().clamp(min=0)
            anchor_count, height, width = objectness.shape[1:]
            flat = ((matches.image * anchor_count + matches.anchor) * height + matches.row) * width + matches.column
            objectness.view(-1).scatter_reduce_(0, flat, quality, "amax")
            if self.class_count > 1:
                class_loss = self._classes(chosen[:, 5:], matches.classes) / (count * self.class_count)
        objectness_loss = binary_cross_entropy_with_logits(cells[..., 4], objectness, pos_weight=self.objectness_weight)
        return box_loss, objectness_loss / process_count(), class_loss

    def _classes(self, logits: Tensor, classes: Tensor) -> Tensor:
        wanted = torch.full_like(logits, self.negative)
        wanted[torch.arange(len(wanted), device=wanted.device), classes] = self.positive
        return binary_cross_entropy_with_logits(logits, wanted, pos_weight=self.class_weight, reduction="sum")


def anchor_settings(head: AnchorHead, request: LossRequest) -> dict[str, float]:
    """Settings of the losses of anchor-based families, with weights for the size of a detector and of its images.

    Gains are given for 80 classes, images of 640 pixels and three levels: `box` and `cls` are multiplied by 3 over the number of
    levels, `cls` by the classes over 80, `obj` by the area of the images over 640 x 640.

    Args:
        head: Head of the detector.
        request: Gains and size of the images.
    """
    p, levels = request.parameters, 3 / len(head.strides)
    return {
        "box": p.box * levels,
        "cls": p.cls * levels * head.class_count / 80,
        "obj": p.obj * levels * (request.image_size / 640) ** 2,
        "cls_pw": p.cls_pw,
        "obj_pw": p.obj_pw,
        "anchor_t": p.anchor_t,
        "label_smoothing": p.label_smoothing,
    }


def decode_cells(cells: Tensor, anchors: Tensor) -> Tensor:
    """Logits `(M, 5+C)` and anchors `(M, 2)` in cells -> centre from the cell's corner, width, height `(M, 4)`, in cells."""
    squashed = cells[:, :4].sigmoid()
    return torch.cat([squashed[:, :2] * 2 - 0.5, (squashed[:, 2:] * 2) ** 2 * anchors], -1)

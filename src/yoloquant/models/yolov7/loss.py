"""YOLOv7's training loss: YOLOv5's terms on cells that are chosen by what they cost, and auxiliary heads beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from yoloquant.distributed import process_count
from yoloquant.models.losses.overlap import plain_iou
from yoloquant.models.losses.parts import LossParts, weighted
from yoloquant.models.output_formats import corners
from yoloquant.models.yolov5.loss import Matches, YOLOv5Loss, decode_cells, match_anchors

# Auxiliary heads count so much (Wang et al. 2022, "YOLOv7", section 4.2, has them guided by the lead head).
AUXILIARY_GAIN = 0.25
IOU_COST = 3.0


class Proposals(NamedTuple):
    """Cells of all levels that may be assigned, one after the other.

    Attributes:
        image: `(M,)` index in the batch.
        boxes: `(M, 4)` corners of the box that the cell finds, pixels.
        classes: `(M, C)` logits of class times objectness.
    """

    image: Tensor
    boxes: Tensor
    classes: Tensor


def choose_cells(proposals: Proposals, targets: Tensor, boxes: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """SimOTA (Ge et al. 2021, "YOLOX", section 2.3): which proposals are assigned to which objects.

    An object gets as many cells as the IoUs of its `most` best overlapping ones add up to, rounded down and at least one, and
    of all cells of its image those of the minimum cost: the cross entropy of the classes plus three times the logarithm of the
    IoU, negated. A cell that several objects want goes to the object of its image of minimum cost, be that one of these or
    another, as in the original code.

    Args:
        proposals: Proposed cells.
        targets: `(n, 6)`, as of a loss.
        boxes: `(n, 4)` of the targets, corners, pixels.
        most: IoUs that count.

    Returns:
        Indices of proposals and, for each, of its target.
    """
    chosen, owners = (
        [torch.zeros(0, dtype=torch.long, device=boxes.device)],
        [torch.zeros(0, dtype=torch.long, device=boxes.device)],
    )
    for image in targets[:, 0].long().unique():
        objects = (targets[:, 0] == image).nonzero()[:, 0]
        members = (proposals.image == image).nonzero()[:, 0]
        if not len(members):
            continue
        overlap = plain_iou(boxes[objects][:, None], proposals.boxes[members][None])
        logits = proposals.classes[members]
        # Binary cross entropy against one class: the sum over all as if none were wanted, less that one's logit.
        entropy = softplus(logits).sum(1)[None] - logits[:, targets[objects, 1].long()].T
        cost = entropy - IOU_COST * torch.log(overlap + 1e-8)
        best = overlap.topk(min(most, len(members)), 1).values
        # The millionth is for sums that rounding leaves just under a whole number.
        counts = (best.sum(1) + 1e-6).long().clamp(min=1)
        # Stable: two objects may name the same cell, which then stands here twice.
        rank = cost.argsort(dim=1, stable=True).argsort(1)
        wanted = rank < counts[:, None]
        claims = wanted.sum(0)
        owner = torch.where(claims > 1, cost.argmin(0), wanted.int().argmax(0))
        taken = claims > 0
        chosen.append(members[taken])
        owners.append(objects[owner[taken]])
    return torch.cat(chosen), torch.cat(owners)


class YOLOv7Loss(YOLOv5Loss):
    """The loss on raw maps; maps of auxiliary heads stand behind those of the lead heads while the network trains.

    Auxiliary heads learn cells that are chosen by the outputs of the lead heads, from all four neighbours of an object's cell and
    among the twenty best overlaps instead of ten.

    Attributes:
        chooses: Whether `choose_cells` assigns cells; otherwise all cells that fit learn, as YOLOv5's do.
    """

    def __init__(
        self,
        anchors: list[list[list[float]]],
        strides: tuple[int, ...],
        class_count: int,
        *,
        chooses: bool = True,
        **settings: float,
    ) -> None:
        """Keep the settings.

        Args:
            anchors: Mapping level -> anchor -> width and height in pixels (`AnchorHead.anchors`).
            strides: Strides of the levels, pixels.
            class_count: C.
            chooses: Same as in the class.
            settings: Settings by name, as of `YOLOv5Loss`.
        """
        super().__init__(anchors, strides, class_count, **settings)
        self.chooses = chooses

    def forward(self, raw_maps: list[Tensor], targets: Tensor) -> LossParts:
        """See `YOLOv5Loss.forward`."""
        levels, targets = len(self.strides), targets.float()
        lead, beside = (self._cells(maps) for maps in (raw_maps[:levels], raw_maps[levels:]))
        sums = self._sums(lead, self._matches(lead, targets, reach=0.5, most=10))
        if beside:
            others = self._sums(beside, self._matches(lead, targets, reach=1.0, most=20))
            sums = {name: value + AUXILIARY_GAIN * others[name] for name, value in sums.items()}
        return weighted(sums, self.weights, raw_maps[0].shape[0] * process_count())

    def _cells(self, raw_maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps -> `(N, A, H, W, 5+C)`."""
        shape = (len(self.anchors[0]), self.class_count + 5)
        return [raw.float().view(len(raw), *shape, *raw.shape[2:]).permute(0, 1, 3, 4, 2) for raw in raw_maps]

    def _sums(self, cells: list[Tensor], matches: list[Matches]) -> dict[str, Tensor]:
        """Box, objectness and class loss, summed over levels."""
        sums = {name: cells[0].new_zeros(()) for name in self.weights}
        for level, (maps, chosen) in enumerate(zip(cells, matches, strict=True)):
            box, objectness, classes = self.compare(maps, chosen, self._anchors_of(level))
            sums["box"] = sums["box"] + box
            sums["obj"] = sums["obj"] + objectness * self.balance[level]
            sums["cls"] = sums["cls"] + classes
        return sums

    def _anchors_of(self, level: int) -> Tensor:
        return self.anchors[level] / self.strides[level]

    @torch.no_grad()
    def _matches(self, lead: list[Tensor], targets: Tensor, reach: float, most: int) -> list[Matches]:
        """The assigned cells of each level."""
        levels, parts = [], []
        for level, cells in enumerate(lead):
            height, width = cells.shape[2:4]
            # The number of the target travels in the place of its class.
            numbered = torch.cat([targets[:, :1], torch.arange(len(targets)).to(targets)[:, None], targets[:, 2:]], 1)
            near = match_anchors(numbered, self._anchors_of(level), height, width, self.anchor_t, reach)
            levels.append(near)
            if self.chooses:
                parts.append(self._proposals(cells, near, level))
        if not self.chooses:
            return [replace(near, classes=targets[near.classes, 1].long()) for near in levels]
        proposals = Proposals(*(torch.cat(values) for values in zip(*parts, strict=True)))
        height, width = (side * self.strides[0] for side in lead[0].shape[2:4])
        boxes = corners(targets[:, 2:6] * targets.new_tensor([width, height, width, height]))
        chosen, owners = choose_cells(proposals, targets, boxes, most)
        return self._by_level(levels, chosen, targets[owners], lead)

    def _proposals(self, cells: Tensor, near: Matches, level: int) -> Proposals:
        answers = cells[near.image, near.anchor, near.row, near.column]
        found = decode_cells(answers, self._anchors_of(level)[near.anchor])
        corner = torch.stack([near.column, near.row], 1)
        found = torch.cat([found[:, :2] + corner, found[:, 2:]], 1) * self.strides[level]
        # The logit of the square root of class times objectness.
        probability = (answers[:, 5:].sigmoid() * answers[:, 4:5].sigmoid()).sqrt().clamp(1e-6, 1 - 1e-6)
        return Proposals(near.image, corners(found), torch.logit(probability))

    def _by_level(self, levels: list[Matches], chosen: Tensor, targets: Tensor, lead: list[Tensor]) -> list[Matches]:
        """Chosen proposals as matches of their levels, each with the target it was chosen for."""
        answers, start = [], 0
        for near, cells in zip(levels, lead, strict=True):
            here = (chosen >= start) & (chosen < start + len(near.image))
            index, target = chosen[here] - start, targets[here]
            start += len(near.image)
            column, row = near.column[index], near.row[index]
            size = target.new_tensor([cells.shape[3], cells.shape[2]])
            center = target[:, 2:4] * size - torch.stack([column, row], 1)
            boxes = torch.cat([center, target[:, 4:6] * size], 1)
            answers.append(Matches(near.image[index], near.anchor[index], row, column, boxes, target[:, 1].long()))
        return answers

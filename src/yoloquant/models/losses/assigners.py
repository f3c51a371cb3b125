"""Which cells are assigned to which objects, for heads without anchors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from yoloquant.models.losses.overlap import Overlap, plain_iou
from yoloquant.models.output_formats import Candidates, corners

# What the packages add to an object's best alignment before they divide by it.
_ALIGNMENT_EPSILON = 1e-9


class Cells(NamedTuple):
    """The cells of all levels, finest first.

    Attributes:
        centers: `(A, 2)` x and y, pixels.
        strides: `(A,)` pixels.
        counts: Number of cells of each level.
    """

    centers: Tensor
    strides: Tensor
    counts: tuple[int, ...]


class Objects(NamedTuple):
    """The objects of each image, filled up to the same number G.

    Attributes:
        boxes: `(N, G, 4)` corners, pixels.
        classes: `(N, G)`.
        real: `(N, G)` whether it is an object and no filling.
    """

    boxes: Tensor
    classes: Tensor
    real: Tensor


class Assignment(NamedTuple):
    """Target of each cell.

    Attributes:
        scores: `(N, A, C)`, 0 where no object is.
        boxes: `(N, A, 4)` corners, pixels; of no meaning where all scores are 0.
    """

    scores: Tensor
    boxes: Tensor


class Assigner(Protocol):
    """Chooses."""

    def __call__(self, found: Candidates, cells: Cells, objects: Objects) -> Assignment:
        """Targets of the cells, given their outputs now."""
        ...


def group_objects(targets: Tensor, images: int, width: int, height: int) -> Objects:
    """Targets by image.

    Args:
        targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
        images: N.
        width: Width of the images, pixels.
        height: Height of the images, pixels.
    """
    image = targets[:, 0].long()
    counts = torch.bincount(image, minlength=images)
    order = image.argsort(stable=True)
    image, sorted_targets = image[order], targets[order]
    place = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]
    most = int(counts.max()) if len(image) else 0
    boxes = targets.new_zeros(images, most, 4)
    classes = torch.zeros(images, most, dtype=torch.long, device=targets.device)
    size = targets.new_tensor([width, height, width, height])
    boxes[image, place] = corners(sorted_targets[:, 2:6] * size)
    classes[image, place] = sorted_targets[:, 1].long()
    return Objects(boxes, classes, torch.arange(most, device=counts.device) < counts[:, None])


@dataclass(frozen=True)
class TaskAligned:
    """Task-aligned assignment (Feng et al. 2021, "TOOD", section 3.2).

    Of the cells whose centre is inside of an object those `top` are assigned to it whose alignment `score^alpha * overlap^beta`
    is best. A cell that several objects claim takes the one it overlaps best, be that one of these or another; as in the packages
    that train these families. Its score is the alignment, scaled so that an object's best cell gets the object's best overlap.

    Attributes:
        top: Maximum number of cells of an object.
        alpha: Exponent of the score.
        beta: Exponent of the overlap.
        overlap: Overlap of boxes.
        anywhere: Whether a cell outside of an object may still be given to it where others claim the cell (YOLOv6).
        keep: Cells that an object has in the end, those of the best alignment (YOLO26); by default all.
        smallest: Side in pixels that smaller sides of an object count as, when cells inside of it are looked for (YOLO26).
    """

    top: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    overlap: Overlap = plain_iou
    anywhere: bool = False
    keep: int | None = None
    smallest: float = 0.0

    @torch.no_grad()
    def __call__(self, found: Candidates, cells: Cells, objects: Objects) -> Assignment:
        """See `Assigner`."""
        inside = _is_inside(cells, objects, self.smallest)
        overlap = self.overlap(objects.boxes[:, :, None], found.boxes[:, None]).clamp(min=0)
        overlap = overlap * (objects.real[..., None] if self.anywhere else inside)
        wanted = objects.classes[:, :, None].expand(-1, -1, found.scores.shape[1])
        score = found.scores.transpose(1, 2).gather(1, wanted.clamp(max=found.scores.shape[2] - 1))
        alignment = score.pow(self.alpha) * overlap.pow(self.beta)
        claimed = _is_among_best(alignment * inside, self.top) & inside
        claimed = _leave_to_one(claimed, overlap)
        if self.keep is not None:
            claimed = claimed & _is_among_best(alignment * claimed, self.keep)
        alignment, overlap = alignment * claimed, overlap * claimed
        best = overlap.amax(-1, keepdim=True) / (alignment.amax(-1, keepdim=True) + _ALIGNMENT_EPSILON)
        return _assigned(claimed, objects, alignment * best, found.scores.shape[2])


@dataclass(frozen=True)
class AdaptiveSelection:
    """Adaptive training sample selection (Zhang et al. 2020, "ATSS", algorithm 1).

    Of each level the `top` cells nearest to an object's centre are candidates; those whose square of `side` strides overlaps the
    object more than the candidates' mean and standard deviation together, and whose centre is inside of it, are assigned to it. A
    cell that several objects claim takes the one of all that its square overlaps best. The score is the IoU of the box that the
    cell finds.

    Attributes:
        top: Maximum number of candidates of a level.
        side: Side of the squares, in strides.
    """

    top: int = 9
    side: float = 5.0

    @torch.no_grad()
    def __call__(self, found: Candidates, cells: Cells, objects: Objects) -> Assignment:
        """See `Assigner`."""
        half = cells.strides[:, None] * self.side / 2
        squares = torch.cat([cells.centers - half, cells.centers + half], -1)
        overlap = plain_iou(objects.boxes[:, :, None], squares) * objects.real[..., None]
        middle = (objects.boxes[..., :2] + objects.boxes[..., 2:]) / 2
        distance = (middle[:, :, None] - cells.centers).square().sum(-1)
        near = torch.cat([_is_among_best(-part, self.top) for part in distance.split(cells.counts, -1)], -1)
        count = near.sum(-1, keepdim=True)
        mean = (overlap * near).sum(-1, keepdim=True) / count
        deviation = (((overlap - mean) * near).square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
        claimed = near & (overlap > mean + deviation) & _is_inside(cells, objects)
        claimed = _leave_to_one(claimed, overlap)
        quality = plain_iou(objects.boxes[:, :, None], found.boxes[:, None]) * claimed
        return _assigned(claimed, objects, quality, found.scores.shape[2])


def _is_inside(cells: Cells, objects: Objects, smallest: float = 0.0) -> Tensor:
    """`(N, G, A)`: the cell's centre is inside of the object, whose sides are taken for at least `smallest`."""
    low, high = objects.boxes[:, :, None, :2], objects.boxes[:, :, None, 2:]
    if smallest > 0:
        missing = (smallest - (high - low)).clamp(min=0) / 2
        low, high = low - missing, high + missing
    from_low, to_high = cells.centers - low, high - cells.centers
    return (torch.minimum(from_low, to_high).amin(-1) > 1e-9) & objects.real[..., None]


def _is_among_best(values: Tensor, count: int) -> Tensor:
    """`(N, G, A)`: the value is among the `count` largest over A."""
    best = values.topk(min(count, values.shape[-1]), -1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(-1, best, value=True)


def _leave_to_one(claimed: Tensor, overlap: Tensor) -> Tensor:
    """`(N, G, A)`: a cell that several objects claim goes to the one with the largest overlap, whether or not it claims it."""
    if not claimed.shape[1]:
        return claimed
    winner = torch.zeros_like(claimed).scatter_(1, overlap.argmax(1, keepdim=True), value=True)
    return torch.where(claimed.sum(1, keepdim=True) > 1, winner, claimed)


def _assigned(claimed: Tensor, objects: Objects, quality: Tensor, class_count: int) -> Assignment:
    """Gather the target of each cell; at most one object claims it."""
    images, most, cells = claimed.shape
    if not most:
        return Assignment(quality.new_zeros(images, cells, class_count), quality.new_zeros(images, cells, 4))
    owner = claimed.float().argmax(1)
    boxes = objects.boxes.gather(1, owner[..., None].expand(-1, -1, 4))
    classes = one_hot(objects.classes.gather(1, owner), class_count)
    # Quality is 0 wherever nobody claims the cell.
    score = (quality * claimed).amax(1)
    return Assignment(classes.to(quality.dtype) * score[..., None], boxes)

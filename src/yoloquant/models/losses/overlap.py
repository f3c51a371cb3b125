"""How far two boxes cover each other: IoU and what losses made of it. Boxes `(..., 4)` are corners x1, y1, x2, y2.

All functions broadcast, so that `f(a[:, None], b[None])` compares all pairs, and give `(...)` in the boxes' type.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Overlap = Callable[[Tensor, Tensor], Tensor]
_EPSILON = 1e-7


def areas(boxes: Tensor) -> Tensor:
    """Areas; 0 where corners are the wrong way round."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0.0).prod(-1)


def plain_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, 0..1."""
    inner, union = _inner_and_union(a, b)
    return inner / union


def generalized_iou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU, -1..1: IoU less the share of the hull that neither box covers (Rezatofighi et al. 2019, algorithm 1)."""
    inner, union = _inner_and_union(a, b)
    hull = _hull(a, b).prod(-1) + _EPSILON
    return inner / union - (hull - union) / hull


def complete_iou(a: Tensor, b: Tensor) -> Tensor:
    """CIoU, -1.5..1: IoU less the distance of centres and the difference of aspect ratios (Zheng et al. 2020, eq. 7 to 11)."""
    iou = plain_iou(a, b)
    diagonal = _hull(a, b).square().sum(-1) + _EPSILON
    distance = _between_centers(a, b).square().sum(-1)
    angles = [torch.atan(w / (h + _EPSILON)) for w, h in ((boxes[..., 2:] - boxes[..., :2]).unbind(-1) for boxes in (a, b))]
    shape = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    # The trade-off is a constant of the optimisation, as in the paper.
    trade_off = (shape / (shape - iou + 1 + _EPSILON)).detach()
    return iou - distance / diagonal - trade_off * shape


def angle_iou(a: Tensor, b: Tensor) -> Tensor:
    """SIoU, -2..1: IoU less half of a distance cost, which grows with the angle between centres, and a shape cost.

    Gevorgyan 2022, "SIoU Loss", equations 1 to 18, with theta 4. The angle cost `1 - 2 sin^2(arcsin x - pi/4)` is the sine of
    twice the angle.
    """
    moved = _between_centers(a, b)
    angle = 2 * moved.abs().prod(-1) / (moved.square().sum(-1) + _EPSILON)
    share = (moved / (_hull(a, b) + _EPSILON)).square()
    distance = (1 - torch.exp((angle - 2).unsqueeze(-1) * share)).sum(-1)
    sides = [boxes[..., 2:] - boxes[..., :2] for boxes in (a, b)]
    differs = (sides[0] - sides[1]).abs() / (torch.maximum(*sides) + _EPSILON)
    shape = (1 - torch.exp(-differs)).pow(4).sum(-1)
    return plain_iou(a, b) - 0.5 * (distance + shape)


OVERLAPS: dict[str, Overlap] = {"iou": plain_iou, "giou": generalized_iou, "ciou": complete_iou, "siou": angle_iou}


def _inner_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inner = areas(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], -1))
    return inner, areas(a) + areas(b) - inner + _EPSILON


def _hull(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of the smallest box around both, `(..., 2)`."""
    return (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0.0)


def _between_centers(a: Tensor, b: Tensor) -> Tensor:
    """`(..., 2)`."""
    return (b[..., :2] + b[..., 2:] - a[..., :2] - a[..., 2:]) / 2

"""The loss on maps of a `DistanceHead`: cells are assigned, then boxes, distributions and classes are compared."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from yoloquant.distributed import process_count, sum_over_processes
from yoloquant.models.distance_head import DistanceHead, cell_centers
from yoloquant.models.losses.assigners import Assigner, Assignment, Cells, group_objects
from yoloquant.models.losses.overlap import Overlap
from yoloquant.models.losses.parts import LossParts, weighted

# Logits and wanted scores, both (N, A, C) -> scalar, the sum.
ClassLoss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy_sum(logits: Tensor, wanted: Tensor) -> Tensor:
    """Binary cross entropy with soft targets."""
    return binary_cross_entropy_with_logits(logits, wanted, reduction="sum")


def varifocal_sum(logits: Tensor, wanted: Tensor, alpha: float = 0.75, gamma: float = 2.0) -> Tensor:
    """VariFocal loss: positives weighted by their score, negatives by `alpha p^gamma` (Zhang et al. 2021, eq. 2)."""
    weight = torch.where(wanted > 0, wanted, alpha * logits.sigmoid().pow(gamma))
    return (binary_cross_entropy_with_logits(logits, wanted, reduction="none") * weight).sum()


def distribution_focal(logits: Tensor, wanted: Tensor) -> Tensor:
    """Distribution focal loss of distances (Li et al. 2020, "Generalized Focal Loss", eq. 6).

    Args:
        logits: `(n, 4, bins)`.
        wanted: `(n, 4)` in units of the stride; what the last bin does not reach is cut.

    Returns:
        `(n,)`, mean over the four sides.
    """
    bins = logits.shape[-1]
    wanted = wanted.clamp(0, bins - 1 - 0.01)
    low = wanted.floor()
    share = wanted - low
    flat, low = logits.flatten(0, 1), low.long().flatten()
    below, above = (cross_entropy(flat, index, reduction="none").view_as(wanted) for index in (low, low + 1))
    return (below * (1 - share) + above * share).mean(-1)


class DistanceLoss(nn.Module):
    """Loss over pairs of box map and class map.

    All three parts are divided by the sum of the wanted scores, at least 1; boxes and distributions are weighted with them.
    """

    def __init__(self, head: DistanceHead, overlap: Overlap, class_loss: ClassLoss, gains: dict[str, float]) -> None:
        """Keep the settings.

        Args:
            head: Head of the detector.
            overlap: Overlap of boxes; the box loss is 1 less it.
            class_loss: Class loss of logits.
            gains: Weights of `box`, `cls` and `dfl`, or `l1` for heads without distributions; taken as they are.
        """
        super().__init__()
        self.strides, self.bins, self.class_count = tuple(head.strides), head.bins, head.class_count
        # Not a child: a head is never trained.
        self._decode = head.candidates
        self.overlap, self.class_loss, self.gains = overlap, class_loss, gains

    def compare(self, raw_maps: list[Tensor], targets: Tensor, assigner: Assigner, factor: float = 1.0) -> LossParts:
        """Compute the loss.

        Args:
            raw_maps: Box map `(N, 4*bins, h, w)`, class map `(N, C, h, w)`, level by level.
            targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
            assigner: Assigner of cells.
            factor: Factor of the total.
        """
        raw_maps = [raw.float() for raw in raw_maps]
        height, width = (side * self.strides[0] for side in raw_maps[0].shape[2:])
        found = self._decode(raw_maps)
        cells = self._cells(raw_maps)
        objects = group_objects(targets.float(), len(raw_maps[0]), width, height)
        wanted = assigner(found, cells, objects)
        total = sum_over_processes(wanted.scores.sum()).clamp(min=1.0)
        logits = torch.cat([raw.flatten(2) for raw in raw_maps[1::2]], 2).transpose(1, 2)
        sums = {"box": self._boxes(found.boxes, wanted), "cls": self.class_loss(logits, wanted.scores)}
        if self.bins > 1:
            sums["dfl"] = self._distributions(raw_maps[::2], cells, wanted)
        elif "l1" in self.gains:
            sums["l1"] = self._absolute(raw_maps[::2], cells, wanted, (width, height))
        return weighted({name: value / total for name, value in sums.items()}, self.gains, factor)

    def images_in_all(self, raw_maps: list[Tensor]) -> int:
        """Images of the batch, in all processes together."""
        return len(raw_maps[0]) * process_count()

    def _boxes(self, found: Tensor, wanted: Assignment) -> Tensor:
        weight = wanted.scores.sum(-1)
        chosen = weight > 0
        return ((1 - self.overlap(found[chosen], wanted.boxes[chosen])) * weight[chosen]).sum()

    def _absolute(self, box_maps: list[Tensor], cells: Cells, wanted: Assignment, size: tuple[int, int]) -> Tensor:
        """Mean absolute error of the four distances as shares of the image's sides; `size` is width and height, pixels."""
        weight = wanted.scores.sum(-1)
        chosen = weight > 0
        found = torch.cat([raw.flatten(2) for raw in box_maps], 2).transpose(1, 2) * cells.strides[:, None]
        low_high = torch.cat([cells.centers - wanted.boxes[..., :2], wanted.boxes[..., 2:] - cells.centers], -1)
        errors = ((found - low_high) / found.new_tensor([*size, *size]))[chosen].abs().mean(-1)
        return (errors * weight[chosen]).sum()

    def _distributions(self, box_maps: list[Tensor], cells: Cells, wanted: Assignment) -> Tensor:
        weight = wanted.scores.sum(-1)
        chosen = weight > 0
        logits = torch.cat([raw.flatten(2) for raw in box_maps], 2).transpose(1, 2)[chosen].view(-1, 4, self.bins)
        low_high = torch.cat([cells.centers - wanted.boxes[..., :2], wanted.boxes[..., 2:] - cells.centers], -1)
        distances = (low_high / cells.strides[:, None])[chosen]
        return (distribution_focal(logits, distances) * weight[chosen]).sum()

    def _cells(self, raw_maps: list[Tensor]) -> Cells:
        levels = list(zip(raw_maps[::2], self.strides, strict=True))
        counts = tuple(raw.shape[2] * raw.shape[3] for raw, _ in levels)
        centers = torch.cat([cell_centers(raw).T * stride for raw, stride in levels])
        strides = [centers.new_full((count,), float(stride)) for count, (_, stride) in zip(counts, levels, strict=True)]
        return Cells(centers, torch.cat(strides), counts)

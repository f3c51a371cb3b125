"""The training loss of YOLOv6."""

from __future__ import annotations

from torch import Tensor

from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.losses.assigners import AdaptiveSelection, Assigner, TaskAligned
from yoloquant.models.losses.distance import DistanceLoss, varifocal_sum
from yoloquant.models.losses.overlap import OVERLAPS
from yoloquant.models.losses.parts import LossParts


class YOLOv6Loss(DistanceLoss):
    """SIoU or GIoU, distribution focal loss where the head has distributions, and VariFocal loss (Li et al. 2022, section 2.3).

    Cells are assigned by ATSS in the first epochs, where asked, and task-aligned after. The sum is not multiplied by the batch
    size. Branches that some releases train beside (anchors, distillation) have no part.
    """

    def __init__(
        self,
        head: DistanceHead,
        *,
        iou_type: str = "giou",
        atss_warmup_epoch: int = 0,
        box: float = 2.5,
        cls: float = 1.0,
        dfl: float = 0.5,
    ) -> None:
        """Keep the settings, which hold for any image size and number of classes and levels.

        Args:
            head: Head of the detector.
            iou_type: A key of `OVERLAPS`; official configurations have siou for size n, giou for the others.
            atss_warmup_epoch: First epochs, with ATSS; official configurations have 4 for the sizes with four levels, else 0.
            box: Weight of the boxes.
            cls: Weight of the classes.
            dfl: Weight of the distributions.
        """
        super().__init__(head, OVERLAPS[iou_type], varifocal_sum, {"box": box, "cls": cls, "dfl": dfl})
        self._warmup, self._epoch = atss_warmup_epoch, 0

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0."""
        self._epoch = epoch

    def forward(self, raw_maps: list[Tensor], targets: Tensor) -> LossParts:
        """See `DistanceLoss.compare`."""
        assigner: Assigner = AdaptiveSelection() if self._epoch < self._warmup else TaskAligned(13, 1.0, 6.0, anywhere=True)
        return self.compare(raw_maps, targets, assigner)

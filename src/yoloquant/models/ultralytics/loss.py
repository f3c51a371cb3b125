"""The training loss of YOLOv8 and the families after it."""

from __future__ import annotations

from torch import Tensor

from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.losses.assigners import TaskAligned
from yoloquant.models.losses.distance import DistanceLoss, cross_entropy_sum
from yoloquant.models.losses.overlap import complete_iou
from yoloquant.models.losses.parts import LossParts


class YOLOv8Loss(DistanceLoss):
    """CIoU, distribution focal loss and binary cross entropy on task-aligned cells; the sum is multiplied by the batch size.

    A network that answers without suppression (YOLOv10, YOLO26) has its second pair of branches behind the first while it
    trains: each object is assigned to one cell of the first and to several of the second, and both losses add up (Wang et al.
    2024, "YOLOv10", section 3.1).
    """

    def __init__(self, head: DistanceHead, *, box: float = 7.5, cls: float = 0.5, dfl: float = 1.5) -> None:
        """Keep the gains, which hold for any image size and number of classes and levels."""
        super().__init__(head, complete_iou, cross_entropy_sum, {"box": box, "cls": cls, "dfl": dfl})
        self._one_to_one = head.layout == "rows_final"

    def forward(self, raw_maps: list[Tensor], targets: Tensor) -> LossParts:
        """See `DistanceLoss.compare`."""
        count, images = 2 * len(self.strides), self.images_in_all(raw_maps)
        first = TaskAligned(1 if self._one_to_one else 10, 0.5, 6.0, complete_iou)
        result = self.compare(raw_maps[:count], targets, first, images)
        if len(raw_maps) == count:
            return result
        beside = self.compare(raw_maps[count:], targets, TaskAligned(10, 0.5, 6.0, complete_iou), images)
        parts = {name: value + beside.parts[name] for name, value in result.parts.items()}
        return LossParts(result.total + beside.total, parts)

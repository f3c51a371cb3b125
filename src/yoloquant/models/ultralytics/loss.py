"""The training losses of YOLOv8 and the families after it."""

from __future__ import annotations

from torch import Tensor

from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.losses.assigners import TaskAligned
from yoloquant.models.losses.distance import DistanceLoss, cross_entropy_sum
from yoloquant.models.losses.overlap import complete_iou
from yoloquant.models.losses.parts import LossParts


class YOLOv8Loss(DistanceLoss):
    """CIoU, distribution focal loss and binary cross entropy on task-aligned cells; the sum is multiplied by the batch size.

    A network with two pairs of branches (YOLOv10) outputs both while it trains, with the one that it uses first: each object
    is assigned to one cell of the one-to-one pair and to several of the other, and both losses add up (Wang et al. 2024,
    "YOLOv10", section 3.1).
    """

    one = TaskAligned(1, 0.5, 6.0, complete_iou)
    many = TaskAligned(10, 0.5, 6.0, complete_iou)

    def __init__(self, head: DistanceHead, *, box: float = 7.5, cls: float = 0.5, dfl: float = 1.5) -> None:
        """Keep the gains, which hold for any image size and number of classes and levels."""
        super().__init__(head, complete_iou, cross_entropy_sum, {"box": box, "cls": cls, "dfl": dfl})
        self._one_to_one = head.layout == "rows_final"

    def forward(self, raw_maps: list[Tensor], targets: Tensor) -> LossParts:
        """See `DistanceLoss.compare`."""
        count, images = 2 * len(self.strides), self.images_in_all(raw_maps)
        if len(raw_maps) == count:
            return self.compare(raw_maps, targets, self.one if self._one_to_one else self.many, images)
        halves = raw_maps[:count], raw_maps[count:]
        of_one, of_many = halves if self._one_to_one else halves[::-1]
        first = self.compare(of_one, targets, self.one, images)
        second = self.compare(of_many, targets, self.many, images)
        one, many = self.shares()
        parts = {name: one * value + many * second.parts[name] for name, value in first.parts.items()}
        return LossParts(one * first.total + many * second.total, parts)

    def shares(self) -> tuple[float, float]:
        """Weights of the losses of the one-to-one pair and of the other."""
        return 1.0, 1.0


class YOLO26Loss(YOLOv8Loss):
    """As YOLOv8's, with what YOLO26 changed, after the package ultralytics, release 8.4 (`E2ELoss`, `TaskAlignedAssigner`).

    - Boxes are distances without a distribution: in the place of its loss stands the mean absolute error of the four distances,
      each as a share of the image's width or height (`l1`, weighted by the gain `dfl`).
    - Of the seven best cells that an object claims for the one-to-one pair of branches it keeps the best one that is left to it
      when cells claimed twice are given away.
    - Small objects: sides shorter than the second level's stride count as that long when cells inside of an object are looked
      for.
    - The one-to-many pair's share of the loss falls in a line from 0.8 in the first epoch to 0.1 in the last; the other has the
      rest.
    """

    first_share, last_share = 0.8, 0.1

    def __init__(self, head: DistanceHead, *, epochs: int, box: float = 7.5, cls: float = 0.5, dfl: float = 1.5) -> None:
        """Keep the gains.

        Args:
            head: Head of the detector.
            epochs: Number of epochs of the run, over which the shares change.
            box: Weight of the boxes' overlap.
            cls: Weight of the classes.
            dfl: Weight of the distances, or of the distributions where a head has them.
        """
        super().__init__(head, box=box, cls=cls, dfl=dfl)
        if head.bins == 1:
            self.gains = {"box": box, "cls": cls, "l1": dfl}
        smallest = float(self.strides[min(1, len(self.strides) - 1)])
        self.one = TaskAligned(7, 0.5, 6.0, complete_iou, keep=1, smallest=smallest)
        self.many = TaskAligned(10, 0.5, 6.0, complete_iou, smallest=smallest)
        self._epochs, self._epoch = epochs, 0

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0."""
        self._epoch = epoch

    def shares(self) -> tuple[float, float]:
        """See `YOLOv8Loss.shares`."""
        left = max(1 - self._epoch / max(self._epochs - 1, 1), 0.0)
        many = self.last_share + left * (self.first_share - self.last_share)
        return 1 - many, many

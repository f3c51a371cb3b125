"""The detection head of the ultralytics models."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture, flat_package
from yoloquant.models.branches import TwoBranches
from yoloquant.models.layered import LayeredNetwork
from yoloquant.models.reparameterize import part

flat_package("ultralytics.nn.modules.")
architecture("ultralytics.nn.tasks.DetectionModel")(LayeredNetwork)


@architecture("ultralytics.nn.modules.Detect", "ultralytics.nn.modules.v10Detect")
class DecoupledDetect(TwoBranches):
    """A box branch and a class branch for each level; decoding is in `DistanceHead`.

    Files of YOLOv10 and YOLO26 hold both branches twice; the pair `one2one_cv2`, `one2one_cv3` is used without suppression, and
    is used where `end_to_end`, or where it is the only one. In training the other pair is computed, too, behind the used one; the
    one-to-one pair does not reach the layers before the head.
    """

    fields: ClassVar[dict[str, Field]] = {
        "nc": Field((int,)),
        "reg_max": Field((int,), 16),
        "end_to_end": Field((bool,), default=False),
    }
    nc: int
    # Its weights are the constants 0, 1, 2, ..., and `DistanceHead` has those.
    left_out: ClassVar[tuple[str, ...]] = ("dfl",)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, Ci, Hi, Wi)` -> `[box map (N, 4*reg_max, Hi, Wi), class map (N, nc, Hi, Wi), ...]`."""
        if not (self.training and self.has_both()):
            return _pairs(*self.branches(), maps)
        one = _pairs(*self._pair("one2one_"), [x.detach() for x in maps])
        many = _pairs(*self._pair(""), maps)
        return [*one, *many] if self.end_to_end else [*many, *one]

    def has_both(self) -> bool:
        """Both pairs are there."""
        return self._has("one2one_") and self._has("")

    def branches(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Box and class branches that are used."""
        return self._pair("one2one_" if self._has("one2one_") and (self.end_to_end or not self._has("")) else "")

    def _has(self, prefix: str) -> bool:
        return isinstance(getattr(self, f"{prefix}cv2", None), nn.ModuleList)

    def _pair(self, prefix: str) -> tuple[nn.ModuleList, nn.ModuleList]:
        return part(self, f"{prefix}cv2", nn.ModuleList), part(self, f"{prefix}cv3", nn.ModuleList)


def _pairs(boxes: nn.ModuleList, classes: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """Outputs of both branches of each level."""
    raw: list[Tensor] = []
    for x, box_branch, class_branch in zip(maps, boxes, classes, strict=True):
        raw += [box_branch(x), class_branch(x)]
    return raw

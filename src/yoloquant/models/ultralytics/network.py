"""The detection head of the ultralytics models."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.reparameterize import part


@architecture("ultralytics.nn.modules.Detect", "ultralytics.nn.modules.v10Detect")
class DecoupledDetect(nn.Module):
    """A box branch and a class branch for each level; decoding is in `DistanceHead`.

    Files of end-to-end models hold both branches twice; the pair `one2one_cv2`, `one2one_cv3` is the one that answers without
    suppression, and where it is there, it is used. In training the other pair answers, too, behind it, and the first does not
    reach the layers before the head.
    """

    fields: ClassVar[dict[str, Field]] = {"nc": Field((int,)), "reg_max": Field((int,), 16)}
    # Its weights are the constants 0, 1, 2, ..., and `DistanceHead` has those.
    left_out: ClassVar[tuple[str, ...]] = ("dfl",)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, Ci, Hi, Wi)` -> `[box map (N, 4*reg_max, Hi, Wi), class map (N, nc, Hi, Wi), ...]`."""
        if self.training and self._has_both():
            apart = _pairs(*self.branches(), [x.detach() for x in maps])
            return [*apart, *_pairs(part(self, "cv2", nn.ModuleList), part(self, "cv3", nn.ModuleList), maps)]
        return _pairs(*self.branches(), maps)

    def _has_both(self) -> bool:
        return all(isinstance(getattr(self, name, None), nn.ModuleList) for name in ("one2one_cv2", "cv2"))

    def branches(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Box and class branches that are used."""
        if hasattr(self, "one2one_cv2"):
            return self.one2one_cv2, self.one2one_cv3  # type: ignore[return-value]
        return self.cv2, self.cv3  # type: ignore[return-value]


def _pairs(boxes: nn.ModuleList, classes: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """What both branches of each level answer."""
    raw: list[Tensor] = []
    for x, box_branch, class_branch in zip(maps, boxes, classes, strict=True):
        raw += [box_branch(x), class_branch(x)]
    return raw

"""The detection head of the ultralytics models."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture


@architecture("ultralytics.nn.modules.Detect", "ultralytics.nn.modules.v10Detect")
class DecoupledDetect(nn.Module):
    """A box branch and a class branch for each level; decoding is in `DistanceHead`.

    Files of end-to-end models hold both branches twice; the pair `one2one_cv2`, `one2one_cv3` is the one that answers without
    suppression, and where it is there, it is used.
    """

    fields: ClassVar[dict[str, Field]] = {"nc": Field((int,)), "reg_max": Field((int,), 16)}
    # Its weights are the constants 0, 1, 2, ..., and `DistanceHead` has those.
    left_out: ClassVar[tuple[str, ...]] = ("dfl",)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, Ci, Hi, Wi)` -> `[box map (N, 4*reg_max, Hi, Wi), class map (N, nc, Hi, Wi), ...]`."""
        boxes, classes = self.branches()
        raw: list[Tensor] = []
        for x, box_branch, class_branch in zip(maps, boxes, classes, strict=True):
            raw += [box_branch(x), class_branch(x)]
        return raw

    def branches(self) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Box and class branches that are used."""
        if hasattr(self, "one2one_cv2"):
            return self.one2one_cv2, self.one2one_cv3  # type: ignore[return-value]
        return self.cv2, self.cv3  # type: ignore[return-value]

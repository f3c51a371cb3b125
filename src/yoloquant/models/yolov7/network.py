"""YOLOv7's detection heads; their maps decode as YOLOv5's do."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.reparameterize import convolution_like, part
from yoloquant.models.yolov7.blocks import ImplicitA, ImplicitM


@architecture("models.yolo.IDetect", "models.yolo.IAuxDetect")
class IDetect(nn.Module):
    """The last convolutions between implicit values, one for each level.

    IAuxDetect gets as many maps again for its auxiliary heads, which are used only in training, behind the lead heads.
    """

    fields: ClassVar[dict[str, Field]] = {"nc": Field((int,)), "na": Field((int,))}
    nc: int
    m: nn.ModuleList

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, Ci, Hi, Wi)` -> list of `(N, na*(5+nc), Hi, Wi)`."""
        auxiliary: list[Tensor] = []
        if self.training and hasattr(self, "m2"):
            auxiliary = [conv(x) for conv, x in zip(part(self, "m2", nn.ModuleList), maps[len(self.m) :], strict=True)]
        if not hasattr(self, "ia"):
            return [*(conv(x) for conv, x in zip(self.m, maps, strict=False)), *auxiliary]
        levels = zip(part(self, "im", nn.ModuleList), self.m, part(self, "ia", nn.ModuleList), maps, strict=False)
        return [*(scale(conv(shift(x))) for scale, conv, shift, x in levels), *auxiliary]

    def deploy(self) -> None:
        """Fold the implicit values into the convolutions: `m (W (x + a) + b) = (m W) x + m (W a + b)`."""
        if not hasattr(self, "ia"):
            return
        for level, conv in enumerate(self.m):
            assert isinstance(conv, nn.Conv2d)
            self.m[level] = _folded(conv, part(self, f"ia.{level}", ImplicitA), part(self, f"im.{level}", ImplicitM))
        del self.ia, self.im


def _folded(conv: nn.Conv2d, shift: ImplicitA, scale: ImplicitM) -> nn.Conv2d:
    weight = conv.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else conv.bias.detach().double()
    factor = scale.implicit.detach().double().view(-1)
    moved = bias + weight.sum((2, 3)) @ shift.implicit.detach().double().view(-1)
    return convolution_like(conv, weight * factor.view(-1, 1, 1, 1), moved * factor)

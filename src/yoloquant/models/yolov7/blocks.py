"""The building blocks of YOLOv7's detection models that YOLOv5 does not have, under the names that its model YAMLs use."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.reparameterize import convolution_like, fused, identity, padded, part
from yoloquant.models.yolov5.blocks import Conv


@architecture("models.common.MP", "models.common.SP")
class Pool(nn.Module):
    """Max pooling: MP halves the map, SP keeps its size."""

    m: nn.MaxPool2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> `(N, C, H/s, W/s)`."""
        out: Tensor = self.m(x)
        return out


@architecture("models.common.ReOrg")
class ReOrg(nn.Module):
    """Space to depth: each 2x2 square becomes four channels, columns before rows."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> `(N, 4C, H/2, W/2)`."""
        corners = [x[..., row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return torch.cat(corners, 1)


@architecture("models.common.Chuncat")
class Chuncat(nn.Module):
    """Concatenates the first halves of all inputs, then their second halves."""

    fields: ClassVar[dict[str, Field]] = {"d": Field((int,), 1)}

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps of equal size, each with an even number of channels."""
        halves = [x.chunk(2, self.d) for x in maps]  # type: ignore[arg-type]
        return torch.cat([first for first, _ in halves] + [second for _, second in halves], self.d)  # type: ignore[arg-type]


@architecture("models.common.Shortcut")
class Shortcut(nn.Module):
    """Adds its first two inputs."""

    fields: ClassVar[dict[str, Field]] = {"d": Field((int,), 0)}

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Two maps of one shape."""
        return maps[0] + maps[1]


@architecture("models.common.Foldcut")
class Foldcut(nn.Module):
    """Adds the two halves of its input."""

    fields: ClassVar[dict[str, Field]] = {"d": Field((int,), 0)}

    def forward(self, x: Tensor) -> Tensor:
        """`(N, 2C, H, W)` -> `(N, C, H, W)`."""
        first, second = x.chunk(2, self.d)  # type: ignore[arg-type]
        return first + second


@architecture("models.common.Stem", "models.common.GhostStem")
class Stem(nn.Module):
    """Two ways to a quarter of the size, side by side."""

    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module
    pool: nn.MaxPool2d
    cv4: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/4, W/4)`."""
        x = self.cv1(x)
        out: Tensor = self.cv4(torch.cat((self.cv3(self.cv2(x)), self.pool(x)), 1))
        return out


@architecture("models.common.DownC")
class DownC(nn.Module):
    """Strided convolution and pooling side by side."""

    cv1: Conv
    cv2: Conv
    cv3: Conv
    mp: nn.MaxPool2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/k, W/k)`."""
        return torch.cat((self.cv2(self.cv1(x)), self.cv3(self.mp(x))), 1)


@architecture("models.common.SPPCSPC", "models.common.GhostSPPCSPC")
class SPPCSPC(nn.Module):
    """Spatial pyramid pooling inside of a cross-stage partial block."""

    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module
    cv4: nn.Module
    m: nn.ModuleList
    cv5: nn.Module
    cv6: nn.Module
    cv7: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        inner = self.cv4(self.cv3(self.cv1(x)))
        pooled = torch.cat([inner, *(pool(inner) for pool in self.m)], 1)
        out: Tensor = self.cv7(torch.cat((self.cv6(self.cv5(pooled)), self.cv2(x)), 1))
        return out


@architecture("models.common.Res", "models.common.ResX", "models.common.RepRes", "models.common.RepResX")
class Res(nn.Module):
    """Three convolutions with a residual addition where `add`."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y: Tensor = self.cv3(self.cv2(self.cv1(x)))
        return x + y if self.add else y


@architecture("models.common.RepBottleneck", "ultralytics.nn.modules.RepBottleneck")
class RepBottleneck(nn.Module):
    """Two convolutions, the second with branches, and a residual addition where `add`."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    cv1: nn.Module
    cv2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


@architecture("models.common.Ghost")
class Ghost(nn.Module):
    """Ghost bottleneck."""

    conv: nn.Sequential
    shortcut: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        out: Tensor = self.conv(x) + self.shortcut(x)
        return out


def _csp_names(letter: str) -> tuple[str, ...]:
    stages = ("Bottleneck", "Res", "ResX", "Ghost", "RepBottleneck", "RepRes", "RepResX")
    return tuple(f"models.common.{stage}CSP{letter}" for stage in stages)


@architecture(*_csp_names("A"))
class CSPA(nn.Module):
    """Cross-stage partial block; both branches start from the input."""

    cv1: Conv
    cv2: Conv
    cv3: Conv
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return out


@architecture(*_csp_names("B"))
class CSPB(nn.Module):
    """Cross-stage partial block; both branches start from the first convolution."""

    cv1: Conv
    cv2: Conv
    cv3: Conv
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        x = self.cv1(x)
        out: Tensor = self.cv3(torch.cat((self.m(x), self.cv2(x)), 1))
        return out


@architecture(*_csp_names("C"))
class CSPC(nn.Module):
    """Cross-stage partial block with a convolution behind its inner stages."""

    cv1: Conv
    cv2: Conv
    cv3: Conv
    cv4: Conv
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.cv4(torch.cat((self.cv3(self.m(self.cv1(x))), self.cv2(x)), 1))
        return out


@architecture("models.common.RobustConv")
class RobustConv(nn.Module):
    """Depth-wise, then point-wise convolution, with a scale for each channel."""

    conv_dw: Conv
    conv1x1: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        x = self.conv1x1(self.conv_dw(x))
        gamma = getattr(self, "gamma", None)
        return x if gamma is None else x * gamma.reshape(1, -1, 1, 1)


@architecture("models.common.RepConv")
class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution and, where shapes allow, the identity, each with BatchNorm; one convolution once deployed."""

    fields: ClassVar[dict[str, Field]] = {"groups": Field((int,), 1)}
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        if hasattr(self, "rbr_reparam"):
            out: Tensor = self.act(self.get_submodule("rbr_reparam")(x))
            return out
        y = self.get_submodule("rbr_dense")(x) + self.get_submodule("rbr_1x1")(x)
        if hasattr(self, "rbr_identity"):
            y = y + self.get_submodule("rbr_identity")(x)
        out = self.act(y)
        return out

    def deploy(self) -> None:
        """Sum the branches' weights (Ding et al. 2021, "RepVGG", section 3.3)."""
        if hasattr(self, "rbr_reparam"):
            return
        dense = part(self, "rbr_dense.0", nn.Conv2d)
        weight, bias = fused(dense, part(self, "rbr_dense.1", nn.BatchNorm2d))
        small, small_bias = fused(part(self, "rbr_1x1.0", nn.Conv2d), part(self, "rbr_1x1.1", nn.BatchNorm2d))
        weight, bias = weight + padded(small, dense.kernel_size[0]), bias + small_bias
        if hasattr(self, "rbr_identity"):
            norm = part(self, "rbr_identity", nn.BatchNorm2d)
            same, same_bias = identity(norm, dense.in_channels, dense.groups, dense.kernel_size[0])
            weight, bias = weight + same, bias + same_bias
            del self.rbr_identity
        self.rbr_reparam = convolution_like(dense, weight, bias)
        del self.rbr_dense, self.rbr_1x1


@architecture("models.common.ImplicitA")
class ImplicitA(nn.Module):
    """Adds a learned value to each channel."""

    implicit: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        return self.implicit + x


@architecture("models.common.ImplicitM")
class ImplicitM(nn.Module):
    """Multiplies each channel with a learned value."""

    implicit: nn.Parameter

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        return self.implicit * x

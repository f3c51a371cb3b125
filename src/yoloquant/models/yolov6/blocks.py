"""The building blocks of YOLOv6: convolutions, pooling, fusion, and the blocks of the lite models."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture

_COMMON = "yolov6.layers.common."


def common(*names: str) -> tuple[str, ...]:
    """Class paths of names in the repository's module of layers."""
    return tuple(_COMMON + name for name in names)


@architecture(*common("ConvModule", "Conv", "SimConv", "Conv_C3"))
class ConvModule(nn.Module):
    """Convolution, BatchNorm and, in some, an activation; BatchNorm is missing in files that were fused."""

    conv: nn.Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        x = self.conv(x)
        for name in ("bn", "act"):
            if hasattr(self, name):
                x = self.get_submodule(name)(x)
        return x


@architecture(*common("ConvBNReLU", "ConvBNSiLU", "ConvBN", "ConvBNHS", "ConvWrapper", "SimConvWrapper"))
class ConvBlock(nn.Module):
    """A `ConvModule` in a wrapper."""

    block: ConvModule

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        out: Tensor = self.block(x)
        return out


@architecture(*common("SiLU"))
class SiLU(nn.SiLU):
    """The repository's own SiLU, for exports."""


@architecture(*common("Transpose"))
class Transpose(nn.Module):
    """Upsampling by a transposed convolution."""

    upsample_transpose: nn.ConvTranspose2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, 2H, 2W)`."""
        out: Tensor = self.upsample_transpose(x)
        return out


@architecture(*common("SPPFModule"))
class SPPFModule(nn.Module):
    """Spatial pyramid pooling, each pooling of the one before."""

    cv1: nn.Module
    cv2: nn.Module
    m: nn.MaxPool2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [self.cv1(x)]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


@architecture(*common("SimSPPF", "SPPF"))
class SPPF(nn.Module):
    """A pyramid pooling module in a wrapper, or, in releases before 0.4, with its parts its own."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        if hasattr(self, "sppf"):
            out: Tensor = self.get_submodule("sppf")(x)
            return out
        return SPPFModule.forward(self, x)  # type: ignore[arg-type]


@architecture(*common("CSPSPPFModule"))
class CSPSPPFModule(nn.Module):
    """Spatial pyramid pooling inside of a cross-stage partial block."""

    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module
    cv4: nn.Module
    m: nn.MaxPool2d
    cv5: nn.Module
    cv6: nn.Module
    cv7: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [self.cv4(self.cv3(self.cv1(x)))]
        for _ in range(3):
            parts.append(self.m(parts[-1]))
        out: Tensor = self.cv7(torch.cat((self.cv2(x), self.cv6(self.cv5(torch.cat(parts, 1)))), 1))
        return out


@architecture(*common("SimCSPSPPF", "CSPSPPF"))
class CSPSPPF(nn.Module):
    """A `CSPSPPFModule` in a wrapper, or, in releases before 0.4, with its parts its own."""

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        if hasattr(self, "cspsppf"):
            out: Tensor = self.get_submodule("cspsppf")(x)
            return out
        return CSPSPPFModule.forward(self, x)  # type: ignore[arg-type]


@architecture(*common("BiFusion"))
class BiFusion(nn.Module):
    """Brings three neighbouring levels to the size of the middle one and joins them."""

    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module
    upsample: nn.Module
    downsample: nn.Module

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps at half, full and double size -> one map at full size."""
        small, middle, large = maps
        joined = (self.upsample(small), self.cv1(middle), self.downsample(self.cv2(large)))
        out: Tensor = self.cv3(torch.cat(joined, 1))
        return out


@architecture(*common("RepBlock", "DBBBlock"))
class RepBlock(nn.Module):
    """A chain of equal blocks."""

    conv1: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        x = self.conv1(x)
        return self.get_submodule("block")(x) if hasattr(self, "block") else x


@architecture(*common("BottleRep", "BottleRep3"))
class BottleRep(nn.Module):
    """Two or three blocks and, where `shortcut`, a scaled residual addition."""

    fields: ClassVar[dict[str, Field]] = {"shortcut": Field((bool,)), "alpha": Field((int, float, type(None)), None)}
    conv1: nn.Module
    conv2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y: Tensor = self.conv2(self.conv1(x))
        if hasattr(self, "conv3"):
            y = self.get_submodule("conv3")(y)
        return y + self.alpha * x if self.shortcut else y  # type: ignore[operator]


@architecture(*common("BepC3"))
class BepC3(nn.Module):
    """Cross-stage partial block; its second branch is there, but unused, where `concat` is off."""

    fields: ClassVar[dict[str, Field]] = {"concat": Field((bool,), default=True)}
    cv1: nn.Module
    cv2: nn.Module
    cv3: nn.Module
    m: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y = self.m(self.cv1(x))
        out: Tensor = self.cv3(torch.cat((y, self.cv2(x)), 1) if self.concat else y)
        return out


@architecture(*common("MBLABlock"))
class MBLABlock(nn.Module):
    """Multi-branch layer aggregation: chains of different length over slices of the channels, all outputs side by side."""

    fields: ClassVar[dict[str, Field]] = {"split_num": Field((list, tuple))}
    split_num: list[int]
    cv1: nn.Module
    cv2: nn.Module
    m: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        slices = self.cv1(x).split(list(self.split_num), 1)
        parts = [slices[0]]
        for part, chain in zip(slices[1:], self.m, strict=True):
            parts.append(part)
            assert isinstance(chain, nn.Sequential)
            for block in chain:
                parts.append(block(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


@architecture(*common("SEBlock"))
class SEBlock(nn.Module):
    """Squeeze and excitation: each channel is scaled by what two small convolutions make of all channels' means."""

    avg_pool: nn.AdaptiveAvgPool2d
    conv1: nn.Conv2d
    relu: nn.Module
    conv2: nn.Conv2d
    hardsigmoid: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        weights: Tensor = self.hardsigmoid(self.conv2(self.relu(self.conv1(self.avg_pool(x)))))
        return x * weights


def shuffle_halves(x: Tensor) -> Tensor:
    """Interleave the first and the second half of the channels, `(N, C, H, W)` -> the same shape."""
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


@architecture(*common("Lite_EffiBlockS1"))
class LiteBlock(nn.Module):
    """Block of the lite models at stride 1: one half of the channels passes, the other is worked on."""

    conv_pw_1: nn.Module
    conv_dw_1: nn.Module
    se: nn.Module
    conv_1: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        first, second = x.chunk(2, 1)
        second = self.conv_1(self.se(self.conv_dw_1(self.conv_pw_1(second))))
        return shuffle_halves(torch.cat([first, second], 1))


@architecture(*common("Lite_EffiBlockS2"))
class LiteDownBlock(nn.Module):
    """Block of the lite models at stride 2: two ways to half the size, joined."""

    conv_dw_1: nn.Module
    conv_1: nn.Module
    conv_pw_2: nn.Module
    conv_dw_2: nn.Module
    se: nn.Module
    conv_2: nn.Module
    conv_dw_3: nn.Module
    conv_pw_3: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/2, W/2)`."""
        first = self.conv_1(self.conv_dw_1(x))
        second = self.conv_2(self.se(self.conv_dw_2(self.conv_pw_2(x))))
        out: Tensor = self.conv_pw_3(self.conv_dw_3(torch.cat([first, second], 1)))
        return out


@architecture(*common("DPBlock"))
class DPBlock(nn.Module):
    """Depth-wise, then point-wise convolution."""

    conv_dw_1: nn.Module
    conv_pw_1: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        out: Tensor = self.conv_pw_1(self.conv_dw_1(x))
        return out


@architecture(*common("DarknetBlock"))
class DarknetBlock(nn.Module):
    """A point-wise convolution and a `DPBlock`."""

    conv_1: nn.Module
    conv_2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.conv_2(self.conv_1(x))
        return out


@architecture(*common("CSPBlock"))
class CSPBlock(nn.Module):
    """Cross-stage partial block of the lite models."""

    conv_1: nn.Module
    conv_2: nn.Module
    conv_3: nn.Module
    blocks: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.conv_3(torch.cat((self.blocks(self.conv_1(x)), self.conv_2(x)), 1))
        return out

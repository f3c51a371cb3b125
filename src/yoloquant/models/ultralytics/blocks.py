"""Convolutional blocks of the ultralytics models, under the names that their model YAMLs use."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.reparameterize import convolution_like, fused, identity, norm_of, padded, part
from yoloquant.models.yolov5.blocks import Conv


@architecture("ultralytics.nn.modules.Conv2")
class Conv2(nn.Module):
    """A convolution with a 1x1 convolution beside it, under one BatchNorm; files hold it before and after fusing."""

    conv: nn.Conv2d
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        y = self.conv(x)
        if hasattr(self, "cv2"):
            y = y + self.get_submodule("cv2")(x)
        out: Tensor = self.act(self.get_submodule("bn")(y) if hasattr(self, "bn") else y)
        return out

    def deploy(self) -> None:
        """Add the small kernel to the large one."""
        if hasattr(self, "cv2"):
            weight, bias = fused(self.conv, None)
            small, _ = fused(part(self, "cv2", nn.Conv2d), None)
            self.conv = convolution_like(self.conv, weight + padded(small, weight.shape[-1]), bias)
            del self.cv2


@architecture("ultralytics.nn.modules.LightConv")
class LightConv(nn.Module):
    """Point-wise, then depth-wise convolution."""

    conv1: Conv
    conv2: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.conv2(self.conv1(x))
        return out


@architecture("ultralytics.nn.modules.ConvTranspose")
class ConvTranspose(nn.Module):
    """Transposed convolution, BatchNorm, activation."""

    conv_transpose: nn.ConvTranspose2d
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, sH, sW)`."""
        x = self.conv_transpose(x)
        out: Tensor = self.act(self.get_submodule("bn")(x) if hasattr(self, "bn") else x)
        return out


@architecture("ultralytics.nn.modules.RepConv")
class RepConv(nn.Module):
    """A 3x3 and a 1x1 convolution and, in some, the identity, each with BatchNorm; one convolution once deployed."""

    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        if hasattr(self, "conv"):
            out: Tensor = self.act(self.get_submodule("conv")(x))
            return out
        y = self.get_submodule("conv1")(x) + self.get_submodule("conv2")(x)
        if hasattr(self, "bn"):
            y = y + self.get_submodule("bn")(x)
        out = self.act(y)
        return out

    def deploy(self) -> None:
        """Sum the branches' weights (Ding et al. 2021, "RepVGG", section 3.3)."""
        if hasattr(self, "conv"):
            return
        dense = part(self, "conv1.conv", nn.Conv2d)
        weight, bias = fused(dense, norm_of(self, "conv1.bn"))
        small, small_bias = fused(part(self, "conv2.conv", nn.Conv2d), norm_of(self, "conv2.bn"))
        weight, bias = weight + padded(small, weight.shape[-1]), bias + small_bias
        if hasattr(self, "bn"):
            same, same_bias = identity(norm_of(self, "bn"), dense.in_channels, dense.groups, weight.shape[-1])
            weight, bias = weight + same, bias + same_bias
            del self.bn
        self.conv = convolution_like(dense, weight, bias)
        del self.conv1, self.conv2


@architecture("ultralytics.nn.modules.C1")
class C1(nn.Module):
    """A convolution with others beside it."""

    cv1: Conv
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y = self.cv1(x)
        out: Tensor = self.m(y) + y
        return out


@architecture("ultralytics.nn.modules.C2")
class C2(nn.Module):
    """Half of the channels pass through the inner blocks, the other half around them."""

    cv1: Conv
    cv2: Conv
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        first, second = self.cv1(x).chunk(2, 1)
        out: Tensor = self.cv2(torch.cat((self.m(first), second), 1))
        return out


@architecture(
    "ultralytics.nn.modules.C2f",
    "ultralytics.nn.modules.C3k2",
    "ultralytics.nn.modules.C2fCIB",
    "ultralytics.nn.modules.C2fPSA",
)
class C2f(nn.Module):
    """Both halves of the channels and the output of every inner block, side by side."""

    cv1: Conv
    cv2: Conv
    m: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = list(self.cv1(x).chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        out: Tensor = self.cv2(torch.cat(parts, 1))
        return out


@architecture("ultralytics.nn.modules.C3f")
class C3f(nn.Module):
    """Two convolutions of the input and the output of every inner block, side by side."""

    cv1: Conv
    cv2: Conv
    cv3: Conv
    m: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [self.cv2(x), self.cv1(x)]
        for block in self.m:
            parts.append(block(parts[-1]))
        out: Tensor = self.cv3(torch.cat(parts, 1))
        return out


@architecture("ultralytics.nn.modules.RepC3")
class RepC3(nn.Module):
    """Re-parameterised convolutions with a convolution beside them."""

    cv1: Conv
    cv2: Conv
    cv3: nn.Module
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.cv3(self.m(self.cv1(x)) + self.cv2(x))
        return out


@architecture("ultralytics.nn.modules.SCDown")
class SCDown(nn.Module):
    """Point-wise, then strided depth-wise convolution."""

    cv1: Conv
    cv2: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        out: Tensor = self.cv2(self.cv1(x))
        return out


@architecture("ultralytics.nn.modules.RepVGGDW")
class RepVGGDW(nn.Module):
    """A 7x7 and a 3x3 depth-wise convolution in parallel; one convolution once deployed."""

    conv: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        y = self.conv(x)
        if hasattr(self, "conv1"):
            y = y + self.get_submodule("conv1")(x)
        out: Tensor = self.act(y)
        return out

    def deploy(self) -> None:
        """Sum the branches' weights."""
        if not hasattr(self, "conv1"):
            return
        large = part(self, "conv.conv", nn.Conv2d)
        weight, bias = fused(large, norm_of(self, "conv.bn"))
        small, small_bias = fused(part(self, "conv1.conv", nn.Conv2d), norm_of(self, "conv1.bn"))
        self.conv = convolution_like(large, weight + padded(small, weight.shape[-1]), bias + small_bias)
        del self.conv1


@architecture("ultralytics.nn.modules.CIB")
class CIB(nn.Module):
    """Compact inverted block, with a residual addition where `add`."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    cv1: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y: Tensor = self.cv1(x)
        return x + y if self.add else y


@architecture("ultralytics.nn.modules.RepNCSPELAN4", "ultralytics.nn.modules.ELAN1")
class ELAN(nn.Module):
    """Efficient layer aggregation: both halves of the channels and two inner stages, side by side."""

    cv1: Conv
    cv2: nn.Module
    cv3: nn.Module
    cv4: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        first, second = self.cv1(x).chunk(2, 1)
        third = self.cv2(second)
        out: Tensor = self.cv4(torch.cat([first, second, third, self.cv3(third)], 1))
        return out


@architecture("ultralytics.nn.modules.AConv")
class AConv(nn.Module):
    """Average pooling at stride 1, then a strided convolution."""

    cv1: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/2, W/2)`."""
        out: Tensor = self.cv1(nn.functional.avg_pool2d(x, 2, 1))
        return out


@architecture("ultralytics.nn.modules.ADown")
class ADown(nn.Module):
    """Average pooling at stride 1, then a strided convolution of one half beside max pooling of the other."""

    cv1: Conv
    cv2: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/2, W/2)`."""
        first, second = nn.functional.avg_pool2d(x, 2, 1).chunk(2, 1)
        return torch.cat((self.cv1(first), self.cv2(nn.functional.max_pool2d(second, 3, 2, 1))), 1)


@architecture("ultralytics.nn.modules.SPPELAN")
class SPPELAN(nn.Module):
    """Spatial pyramid pooling, each pooling of the one before."""

    cv1: Conv
    cv2: nn.MaxPool2d
    cv3: nn.MaxPool2d
    cv4: nn.MaxPool2d
    cv5: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [self.cv1(x)]
        for pool in (self.cv2, self.cv3, self.cv4):
            parts.append(pool(parts[-1]))
        out: Tensor = self.cv5(torch.cat(parts, 1))
        return out


@architecture("ultralytics.nn.modules.CBLinear")
class CBLinear(nn.Module):
    """One convolution whose channels go to several readers."""

    fields: ClassVar[dict[str, Field]] = {"c2s": Field((list, tuple))}
    c2s: list[int]
    conv: nn.Conv2d

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """`(N, c1, H, W)` -> maps with `c2s` channels."""
        parts: tuple[Tensor, ...] = self.conv(x).split(list(self.c2s), 1)
        return parts


@architecture("ultralytics.nn.modules.CBFuse")
class CBFuse(nn.Module):
    """Adds one map of each reader list, enlarged to the size of the last input."""

    fields: ClassVar[dict[str, Field]] = {"idx": Field((list, tuple))}
    idx: list[int]

    def forward(self, inputs: list[tuple[Tensor, ...] | Tensor]) -> Tensor:
        """Tuples of maps and, last, a map -> a map like the last."""
        total = inputs[-1]
        assert isinstance(total, Tensor)
        for index, maps in zip(self.idx, inputs[:-1], strict=True):
            chosen = maps[index]
            factor = total.shape[-1] // chosen.shape[-1]
            total = total + (chosen if factor == 1 else nn.functional.interpolate(chosen, scale_factor=factor, mode="nearest"))
        return total


@architecture("ultralytics.nn.modules.Index")
class Index(nn.Module):
    """Chooses one of its inputs."""

    fields: ClassVar[dict[str, Field]] = {"index": Field((int,), 0)}
    index: int

    def forward(self, x: list[Tensor]) -> Tensor:
        """A list of maps -> one of them."""
        return x[self.index]


@architecture("ultralytics.nn.modules.HGStem")
class HGStem(nn.Module):
    """PP-HGNet's stem: a convolution, then two small ones beside max pooling, and two more."""

    stem1: Conv
    stem2a: Conv
    stem2b: Conv
    stem3: Conv
    stem4: Conv
    pool: nn.MaxPool2d

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/4, W/4)`."""
        x = nn.functional.pad(self.stem1(x), [0, 1, 0, 1])
        y = nn.functional.pad(self.stem2a(x), [0, 1, 0, 1])
        out: Tensor = self.stem4(self.stem3(torch.cat([self.pool(x), self.stem2b(y)], 1)))
        return out


@architecture("ultralytics.nn.modules.HGBlock")
class HGBlock(nn.Module):
    """PP-HGNet's block: a chain of convolutions, all of whose outputs are concatenated and squeezed."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    m: nn.ModuleList
    sc: Conv
    ec: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [x]
        for block in self.m:
            parts.append(block(parts[-1]))
        y: Tensor = self.ec(self.sc(torch.cat(parts, 1)))
        return y + x if self.add else y

"""YOLOv6's blocks with parallel branches, each with its way into deploy form."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.reparameterize import convolution_like, fused, identity, norm_of, padded, part
from yoloquant.models.yolov6.blocks import common


def _kernel(block: nn.Module, name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a branch: a convolution, or one with a BatchNorm behind it."""
    branch = block.get_submodule(name)
    if isinstance(branch, nn.Conv2d):
        return fused(branch, None)
    return fused(part(branch, "conv", nn.Conv2d), norm_of(branch, "bn"))


@architecture(*common("RepVGGBlock", "QARepVGGBlock", "QARepVGGBlockV2"))
class RepVGGBlock(nn.Module):
    """A 3x3 and a 1x1 convolution and, where shapes allow, the identity and an average over 3x3; ReLU behind.

    RepVGG has a BatchNorm in every branch; QARepVGG only in the 3x3 branch and one more behind the sum (Chu et al. 2022, "Make
    RepVGG Greater Again", section 4), which stays behind the convolution that the branches become.
    """

    fields: ClassVar[dict[str, Field]] = {"groups": Field((int,), 1)}
    nonlinearity: nn.Module
    se: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        if hasattr(self, "rbr_reparam"):
            y = self.get_submodule("rbr_reparam")(x)
        else:
            y = self.get_submodule("rbr_dense")(x) + self.get_submodule("rbr_1x1")(x)
            for name in ("rbr_identity", "rbr_avg"):
                if hasattr(self, name):
                    y = y + self.get_submodule(name)(x)
        y = self.se(y)
        out: Tensor = self.nonlinearity(self.get_submodule("bn")(y) if hasattr(self, "bn") else y)
        return out

    def deploy(self) -> None:
        """Sum the branches' weights."""
        if hasattr(self, "rbr_reparam"):
            return
        dense = part(self, "rbr_dense.conv", nn.Conv2d)
        weight, bias = _kernel(self, "rbr_dense")
        small, small_bias = _kernel(self, "rbr_1x1")
        weight, bias = weight + padded(small, 3), bias + small_bias
        channels = dense.in_channels
        if hasattr(self, "rbr_identity"):
            norm = self.rbr_identity if isinstance(self.rbr_identity, nn.BatchNorm2d) else None
            same, same_bias = identity(norm, channels, dense.groups, 3)
            weight, bias = weight + same, bias + same_bias
            del self.rbr_identity
        if hasattr(self, "rbr_avg"):
            # Zeros of the padding count in its mean, as they do in a convolution.
            same, _ = identity(None, channels, dense.groups, 3)
            weight = weight + same[:, :, 1:2, 1:2].expand(-1, -1, 3, 3) / 9.0
            del self.rbr_avg
        self.rbr_reparam = convolution_like(dense, weight, bias)
        del self.rbr_dense, self.rbr_1x1


@architecture(*common("RealVGGBlock"))
class RealVGGBlock(nn.Module):
    """A convolution, BatchNorm and ReLU: what RepOptimizer trains in place of branches."""

    conv: nn.Conv2d
    relu: nn.Module
    se: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        x = self.conv(x)
        out: Tensor = self.relu(self.se(self.get_submodule("bn")(x) if hasattr(self, "bn") else x))
        return out


@architecture(*common("ScaleLayer"))
class ScaleLayer(nn.Module):
    """A factor and, in some, an offset for each channel."""

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        y = x * self.weight.view(1, -1, 1, 1)
        bias = getattr(self, "bias", None)
        return y if bias is None else y + bias.view(1, -1, 1, 1)


@architecture(*common("LinearAddBlock"))
class LinearAddBlock(nn.Module):
    """Scaled 3x3 and 1x1 convolutions and, where shapes allow, the scaled identity, under one BatchNorm and ReLU."""

    conv: nn.Conv2d
    conv_1x1: nn.Conv2d
    scale_conv: ScaleLayer
    scale_1x1: ScaleLayer
    bn: nn.BatchNorm2d
    relu: nn.Module
    se: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        if hasattr(self, "rbr_reparam"):
            y = self.get_submodule("rbr_reparam")(x)
        else:
            y = self.scale_conv(self.conv(x)) + self.scale_1x1(self.conv_1x1(x))
            if hasattr(self, "scale_identity"):
                y = y + self.get_submodule("scale_identity")(x)
        out: Tensor = self.relu(self.se(self.bn(y)))
        return out

    def deploy(self) -> None:
        """Sum the scaled weights."""
        if hasattr(self, "rbr_reparam"):
            return
        weight = self.conv.weight.double() * self.scale_conv.weight.double().view(-1, 1, 1, 1)
        small = self.conv_1x1.weight.double() * self.scale_1x1.weight.double().view(-1, 1, 1, 1)
        weight = weight + padded(small, 3)
        if hasattr(self, "scale_identity"):
            same, _ = identity(None, self.conv.in_channels, 1, 3)
            scale = part(self, "scale_identity", ScaleLayer).weight
            weight = weight + same * scale.double().view(-1, 1, 1, 1)
            del self.scale_identity
        self.rbr_reparam = convolution_like(self.conv, weight.detach(), torch.zeros(len(weight), dtype=torch.float64))
        for name in ("conv", "conv_1x1", "scale_conv", "scale_1x1"):
            delattr(self, name)

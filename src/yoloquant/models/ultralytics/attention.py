"""Attention blocks of YOLOv10, 11, 12 and 26."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture
from yoloquant.models.yolov5.blocks import Conv


@architecture("ultralytics.nn.modules.Attention")
class Attention(nn.Module):
    """Multi-head self-attention over all cells, with a depth-wise convolution of the values as position encoding."""

    fields: ClassVar[dict[str, Field]] = {
        "num_heads": Field((int,)),
        "head_dim": Field((int,)),
        "key_dim": Field((int,)),
        "scale": Field((int, float)),
    }
    num_heads: int
    head_dim: int
    key_dim: int
    scale: float
    qkv: Conv
    proj: Conv
    pe: Conv

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        batch, channels, height, width = x.shape
        sizes = [self.key_dim, self.key_dim, self.head_dim]
        heads = self.qkv(x).view(batch, self.num_heads, 2 * self.key_dim + self.head_dim, height * width)
        queries, keys, values = heads.split(sizes, 2)
        weights = ((queries * self.scale).transpose(-2, -1) @ keys).softmax(-1)
        mixed = (values @ weights.transpose(-2, -1)).view(batch, channels, height, width)
        out: Tensor = self.proj(mixed + self.pe(values.reshape(batch, channels, height, width)))
        return out


@architecture("ultralytics.nn.modules.PSABlock")
class PSABlock(nn.Module):
    """Attention and two convolutions, with residual additions where `add`."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    attn: Attention
    ffn: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        y: Tensor = self.attn(x)
        x = x + y if self.add else y
        y = self.ffn(x)
        return x + y if self.add else y


@architecture("ultralytics.nn.modules.C2PSA")
class C2PSA(nn.Module):
    """One half of the channels passes around attention blocks, the other through them."""

    cv1: Conv
    cv2: Conv
    m: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> the same."""
        first, second = self.cv1(x).chunk(2, 1)
        out: Tensor = self.cv2(torch.cat((first, self.m(second)), 1))
        return out


@architecture("ultralytics.nn.modules.PSA")
class PSA(nn.Module):
    """As C2PSA with one attention block, whose parts are its own."""

    cv1: Conv
    cv2: Conv
    attn: Attention
    ffn: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> the same."""
        first, second = self.cv1(x).chunk(2, 1)
        second = second + self.attn(second)
        second = second + self.ffn(second)
        out: Tensor = self.cv2(torch.cat((first, second), 1))
        return out


@architecture("ultralytics.nn.modules.AAttn")
class AreaAttention(nn.Module):
    """Multi-head self-attention within `area` equal horizontal stripes of the map (Tian et al. 2025, "YOLOv12", section 3.2)."""

    fields: ClassVar[dict[str, Field]] = {"num_heads": Field((int,)), "head_dim": Field((int,)), "area": Field((int,), 1)}
    qkv: Conv
    proj: Conv
    pe: Conv

    num_heads: int
    head_dim: int
    area: int

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same; H*W must be a multiple of `area`."""
        batch, _, height, width = x.shape
        cells = height * width // self.area
        channels = self.num_heads * self.head_dim
        rows = self.qkv(x).flatten(2).transpose(1, 2).reshape(batch * self.area, cells, 3 * channels)
        heads = rows.view(batch * self.area, cells, self.num_heads, 3 * self.head_dim).permute(0, 2, 3, 1)
        queries, keys, values = heads.split([self.head_dim] * 3, 2)
        weights = ((queries * self.head_dim**-0.5).transpose(-2, -1) @ keys).softmax(-1)
        mixed = self._as_map(values @ weights.transpose(-2, -1), batch, height, width)
        out: Tensor = self.proj(mixed + self.pe(self._as_map(values, batch, height, width)))
        return out

    def _as_map(self, heads: Tensor, batch: int, height: int, width: int) -> Tensor:
        """`(N*area, heads, head_dim, cells)` -> `(N, C, H, W)`."""
        channels = self.num_heads * self.head_dim
        return heads.permute(0, 3, 1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2).contiguous()


@architecture("ultralytics.nn.modules.ABlock")
class ABlock(nn.Module):
    """Area attention and two convolutions, with residual additions."""

    attn: AreaAttention
    mlp: nn.Sequential

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> the same."""
        x = x + self.attn(x)
        y: Tensor = self.mlp(x)
        return x + y


@architecture("ultralytics.nn.modules.A2C2f")
class A2C2f(nn.Module):
    """A convolution and the output of every inner block, side by side; some with a scaled residual addition."""

    cv1: Conv
    cv2: Conv
    m: nn.ModuleList

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [self.cv1(x)]
        for block in self.m:
            parts.append(block(parts[-1]))
        y: Tensor = self.cv2(torch.cat(parts, 1))
        gamma: Tensor | None = getattr(self, "gamma", None)
        return y if gamma is None else x + gamma.view(1, -1, 1, 1) * y

"""The building blocks of YOLOv5's detection models, under the names that its model YAMLs use.

Attribute names are those of the original files, so that layer names stay as users know them.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from yoloquant.models.architecture import Field, architecture


def same_padding(kernel: int, dilation: int = 1) -> int:
    """Padding that keeps the size of a map at stride 1."""
    return (dilation * (kernel - 1) + 1) // 2


@architecture("models.common.Conv", "ultralytics.nn.modules.Conv")
class Conv(nn.Module):
    """Convolution, BatchNorm, activation; BatchNorm is missing in files that were fused."""

    conv: nn.Conv2d
    act: nn.Module

    def __init__(
        self,
        c1: int,
        c2: int,
        k: int = 1,
        s: int = 1,
        p: int | None = None,
        g: int = 1,
        d: int = 1,
        act: bool | nn.Module = True,
    ):
        super().__init__()
        padding = same_padding(k, d) if p is None else p
        self.conv = nn.Conv2d(c1, c2, k, s, padding, groups=g, dilation=d, bias=False)
        self.bn = nn.BatchNorm2d(c2)
        self.act = act if isinstance(act, nn.Module) else nn.SiLU() if act is True else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        x = self.conv(x)
        if hasattr(self, "bn"):
            x = self.bn(x)
        out: Tensor = self.act(x)
        return out


@architecture("models.common.DWConv", "ultralytics.nn.modules.DWConv")
class DWConv(Conv):
    """Depth-wise convolution."""

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, d: int = 1, act: bool = True):
        super().__init__(c1, c2, k, s, g=math.gcd(c1, c2), d=d, act=act)


@architecture("models.common.DWConvTranspose2d", "ultralytics.nn.modules.DWConvTranspose2d")
class DWConvTranspose2d(nn.ConvTranspose2d):
    """Depth-wise transposed convolution."""

    fields: ClassVar[dict[str, Field]] = {
        "stride": Field((list, tuple)),
        "padding": Field((list, tuple)),
        "output_padding": Field((list, tuple)),
        "dilation": Field((list, tuple)),
        "groups": Field((int,)),
    }

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p1: int = 0, p2: int = 0):
        super().__init__(c1, c2, k, s, p1, p2, groups=math.gcd(c1, c2))

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002  (torch's signature)
        """`(N, c1, H, W)` -> `(N, c2, H*s, W*s)`."""
        assert not isinstance(self.padding, str)
        return nn.functional.conv_transpose2d(
            x,
            self.weight,
            getattr(self, "bias", None),
            self.stride,
            self.padding,
            self.output_padding,
            self.groups,
            self.dilation,
        )


@architecture("models.common.Bottleneck", "ultralytics.nn.modules.Bottleneck")
class Bottleneck(nn.Module):
    """Two convolutions with a residual addition where `add`."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    cv1: Conv
    cv2: Conv

    def __init__(self, c1: int, c2: int, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(hidden, c2, 3, 1, g=g)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


@architecture("models.common.CrossConv", "models.experimental.CrossConv")
class CrossConv(nn.Module):
    """A row convolution and a column convolution with a residual addition where `add`."""

    fields: ClassVar[dict[str, Field]] = {"add": Field((bool,))}
    cv1: Conv
    cv2: Conv

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1, g: int = 1, e: float = 1.0, shortcut: bool = False):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden)
        self.cv2 = Conv(hidden, c2, g=g)
        self.cv1.conv = nn.Conv2d(c1, hidden, (1, k), (1, s), (0, k // 2), bias=False)
        self.cv2.conv = nn.Conv2d(hidden, c2, (k, 1), (s, 1), (k // 2, 0), groups=g, bias=False)
        self.add = shortcut and c1 == c2

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


@architecture("models.common.BottleneckCSP", "ultralytics.nn.modules.BottleneckCSP")
class BottleneckCSP(nn.Module):
    """Cross-stage partial block of the first releases."""

    cv1: Conv
    cv2: nn.Conv2d
    cv3: nn.Conv2d
    cv4: Conv
    bn: nn.BatchNorm2d
    act: nn.Module
    m: nn.Sequential

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = nn.Conv2d(c1, hidden, 1, 1, bias=False)
        self.cv3 = nn.Conv2d(hidden, hidden, 1, 1, bias=False)
        self.cv4 = Conv(2 * hidden, c2, 1, 1)
        self.bn = nn.BatchNorm2d(2 * hidden)
        self.act = nn.SiLU()
        self.m = nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, 1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        deep = self.cv3(self.m(self.cv1(x)))
        out: Tensor = self.cv4(self.act(self.bn(torch.cat((deep, self.cv2(x)), 1))))
        return out


@architecture("models.common.C3", "ultralytics.nn.modules.C3", "ultralytics.nn.modules.C3k", "ultralytics.nn.modules.RepCSP")
class C3(nn.Module):
    """Cross-stage partial block with three convolutions."""

    cv1: Conv
    cv2: Conv
    cv3: Conv
    m: nn.Module

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True, g: int = 1, e: float = 0.5):
        super().__init__()
        hidden = int(c2 * e)
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(c1, hidden, 1, 1)
        self.cv3 = Conv(2 * hidden, c2, 1)
        self.m = self.inner(hidden, n, shortcut, g)

    @staticmethod
    def inner(hidden: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """The deep branch; variants of the block differ in it."""
        return nn.Sequential(*(Bottleneck(hidden, hidden, shortcut, g, 1.0) for _ in range(n)))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        out: Tensor = self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))
        return out


@architecture("models.common.C3x", "ultralytics.nn.modules.C3x")
class C3x(C3):
    """C3 of row and column convolutions."""

    @staticmethod
    def inner(hidden: int, n: int, shortcut: bool, g: int) -> nn.Module:
        """See `C3.inner`."""
        return nn.Sequential(*(CrossConv(hidden, hidden, 3, 1, g, 1.0, shortcut) for _ in range(n)))


@architecture("models.common.TransformerLayer", "ultralytics.nn.modules.TransformerLayer")
class TransformerLayer(nn.Module):
    """Self-attention and a two-layer perceptron, both residual, without LayerNorm."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    ma: nn.MultiheadAttention
    fc1: nn.Linear
    fc2: nn.Linear

    def __init__(self, c: int, num_heads: int):
        super().__init__()
        self.q = nn.Linear(c, c, bias=False)
        self.k = nn.Linear(c, c, bias=False)
        self.v = nn.Linear(c, c, bias=False)
        self.ma = nn.MultiheadAttention(c, num_heads)
        self.fc1 = nn.Linear(c, c, bias=False)
        self.fc2 = nn.Linear(c, c, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(L, N, C)` -> `(L, N, C)`."""
        query, key, value = self.q(x), self.k(x), self.v(x)
        attention, heads = self.ma, self.ma.num_heads
        x = nn.functional.multi_head_attention_forward(
            query, key, value, attention.embed_dim, heads, attention.in_proj_weight, attention.in_proj_bias,
            None, None, False, 0.0, attention.out_proj.weight, attention.out_proj.bias, training=False, need_weights=False,
        )[0] + x  # fmt: skip
        out: Tensor = self.fc2(self.fc1(x)) + x
        return out


@architecture("models.common.TransformerBlock", "ultralytics.nn.modules.TransformerBlock")
class TransformerBlock(nn.Module):
    """Transformer layers over the cells of a map, with a learned position embedding."""

    fields: ClassVar[dict[str, Field]] = {"c2": Field((int,))}
    linear: nn.Linear
    tr: nn.Sequential

    def __init__(self, c1: int, c2: int, num_heads: int, num_layers: int):
        super().__init__()
        if c1 != c2:
            self.conv = Conv(c1, c2)
        self.linear = nn.Linear(c2, c2)
        self.tr = nn.Sequential(*(TransformerLayer(c2, num_heads) for _ in range(num_layers)))
        self.c2 = c2

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        if hasattr(self, "conv"):
            x = self.conv(x)
        batch, _, height, width = x.shape
        cells = x.flatten(2).permute(2, 0, 1)
        out: Tensor = self.tr(cells + self.linear(cells)).permute(1, 2, 0).reshape(batch, self.c2, height, width)
        return out


@architecture("models.common.C3TR", "ultralytics.nn.modules.C3TR")
class C3TR(C3):
    """C3 with a transformer inside."""

    @staticmethod
    def inner(hidden: int, n: int, shortcut: bool, g: int) -> nn.Module:  # noqa: ARG004  (the signature of `C3.inner`)
        """See `C3.inner`."""
        return TransformerBlock(hidden, hidden, 4, n)


@architecture("models.common.SPP", "ultralytics.nn.modules.SPP")
class SPP(nn.Module):
    """Spatial pyramid pooling: parallel max pools of several sizes."""

    cv1: Conv
    cv2: Conv
    m: nn.ModuleList

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (5, 9, 13)):
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(hidden * (len(k) + 1), c2, 1, 1)
        self.m = nn.ModuleList(nn.MaxPool2d(size, 1, size // 2) for size in k)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        x = self.cv1(x)
        out: Tensor = self.cv2(torch.cat([x] + [pool(x) for pool in self.m], 1))
        return out


@architecture("models.common.C3SPP")
class C3SPP(C3):
    """C3 with spatial pyramid pooling inside."""

    def __init__(
        self,
        c1: int,
        c2: int,
        k: tuple[int, ...] = (5, 9, 13),
        n: int = 1,
        shortcut: bool = True,
        g: int = 1,
        e: float = 0.5,
    ):
        super().__init__(c1, c2, n, shortcut, g, e)
        hidden = int(c2 * e)
        self.m = SPP(hidden, hidden, k)


@architecture("models.common.SPPF", "ultralytics.nn.modules.SPPF")
class SPPF(nn.Module):
    """Spatial pyramid pooling by one max pool applied again and again, in some with a residual addition."""

    fields: ClassVar[dict[str, Field]] = {"n": Field((int,), 3), "add": Field((bool,), default=False)}
    cv1: Conv
    cv2: Conv
    m: nn.MaxPool2d

    def __init__(self, c1: int, c2: int, k: int = 5):
        super().__init__()
        hidden = c1 // 2
        self.cv1 = Conv(c1, hidden, 1, 1)
        self.cv2 = Conv(hidden * 4, c2, 1, 1)
        self.m = nn.MaxPool2d(k, 1, k // 2)
        self.n, self.add = 3, False

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H, W)`."""
        parts = [self.cv1(x)]
        for _ in range(self.n):
            parts.append(self.m(parts[-1]))
        y: Tensor = self.cv2(torch.cat(parts, 1))
        return x + y if self.add else y


@architecture("models.common.Focus", "ultralytics.nn.modules.Focus")
class Focus(nn.Module):
    """The four pixels of each 2x2 square become channels of one."""

    conv: Conv

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, p: int | None = None, g: int = 1, act: bool = True):
        super().__init__()
        self.conv = Conv(c1 * 4, c2, k, s, p, g, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/2, W/2)`."""
        corners = (x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2])
        out: Tensor = self.conv(torch.cat(corners, 1))
        return out


@architecture("models.common.GhostConv", "ultralytics.nn.modules.GhostConv")
class GhostConv(nn.Module):
    """Half of the channels by a convolution, the other half from these by a cheap one."""

    cv1: Conv
    cv2: Conv

    def __init__(self, c1: int, c2: int, k: int = 1, s: int = 1, g: int = 1, act: bool = True):
        super().__init__()
        half = c2 // 2
        self.cv1 = Conv(c1, half, k, s, None, g, act=act)
        self.cv2 = Conv(half, half, 5, 1, None, half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        y = self.cv1(x)
        return torch.cat((y, self.cv2(y)), 1)


@architecture("models.common.GhostBottleneck", "ultralytics.nn.modules.GhostBottleneck")
class GhostBottleneck(nn.Module):
    """Two ghost convolutions and a shortcut."""

    conv: nn.Sequential
    shortcut: nn.Sequential | nn.Identity

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 1):
        super().__init__()
        half = c2 // 2
        self.conv = nn.Sequential(
            GhostConv(c1, half, 1, 1),
            DWConv(half, half, k, s, act=False) if s == 2 else nn.Identity(),
            GhostConv(half, c2, 1, 1, act=False),
        )
        self.shortcut = nn.Sequential(DWConv(c1, c1, k, s, act=False), Conv(c1, c2, 1, 1, act=False)) if s == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        out: Tensor = self.conv(x) + self.shortcut(x)
        return out


@architecture("models.common.C3Ghost", "ultralytics.nn.modules.C3Ghost")
class C3Ghost(C3):
    """C3 of ghost bottlenecks."""

    @staticmethod
    def inner(hidden: int, n: int, shortcut: bool, g: int) -> nn.Module:  # noqa: ARG004  (the signature of `C3.inner`)
        """See `C3.inner`."""
        return nn.Sequential(*(GhostBottleneck(hidden, hidden) for _ in range(n)))


@architecture("models.common.Contract")
class Contract(nn.Module):
    """Squares of `gain` x `gain` pixels become channels."""

    fields: ClassVar[dict[str, Field]] = {"gain": Field((int,), 2)}

    def __init__(self, gain: int = 2):
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> `(N, C*gain^2, H/gain, W/gain)`."""
        batch, channels, height, width = x.shape
        s = self.gain
        x = x.view(batch, channels, height // s, s, width // s, s).permute(0, 3, 5, 1, 2, 4).contiguous()
        return x.view(batch, channels * s * s, height // s, width // s)


@architecture("models.common.Expand")
class Expand(nn.Module):
    """Channels become squares of `gain` x `gain` pixels."""

    fields: ClassVar[dict[str, Field]] = {"gain": Field((int,), 2)}

    def __init__(self, gain: int = 2):
        super().__init__()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` -> `(N, C/gain^2, H*gain, W*gain)`."""
        batch, channels, height, width = x.shape
        s = self.gain
        x = x.view(batch, s, s, channels // s**2, height, width).permute(0, 3, 4, 1, 5, 2).contiguous()
        return x.view(batch, channels // s**2, height * s, width * s)


@architecture("models.common.Concat", "ultralytics.nn.modules.Concat")
class Concat(nn.Module):
    """Concatenation along dimension `d`."""

    fields: ClassVar[dict[str, Field]] = {"d": Field((int,), 1)}

    def __init__(self, dimension: int = 1):
        super().__init__()
        self.d = dimension

    def forward(self, x: list[Tensor]) -> Tensor:
        """List of `(N, Ci, H, W)` -> `(N, sum Ci, H, W)`."""
        return torch.cat(x, self.d)


@architecture("models.experimental.Sum")
class Sum(nn.Module):
    """Sum of several maps, weighted where `weight`."""

    fields: ClassVar[dict[str, Field]] = {"weight": Field((bool,), default=False)}

    def __init__(self, n: int, weight: bool = False):
        super().__init__()
        self.weight = weight
        if weight:
            self.w = nn.Parameter(-torch.arange(1.0, n) / 2)

    def forward(self, x: list[Tensor]) -> Tensor:
        """List of equal maps -> one."""
        total = x[0]
        for index, part in enumerate(x[1:]):
            total = total + (part * (torch.sigmoid(self.w[index]) * 2) if self.weight else part)
        return total


@architecture("models.experimental.MixConv2d")
class MixConv2d(nn.Module):
    """Convolutions of several kernel sizes side by side."""

    m: nn.ModuleList
    bn: nn.BatchNorm2d
    act: nn.Module

    def __init__(self, c1: int, c2: int, k: tuple[int, ...] = (1, 3), s: int = 1):
        super().__init__()
        shares = [c2 // len(k) + (index < c2 % len(k)) for index in range(len(k))]
        self.m = nn.ModuleList(
            nn.Conv2d(c1, share, size, s, size // 2, groups=math.gcd(c1, share), bias=False)
            for size, share in zip(k, shares, strict=True)
        )
        self.bn = nn.BatchNorm2d(c2)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        """`(N, c1, H, W)` -> `(N, c2, H/s, W/s)`."""
        out: Tensor = self.act(self.bn(torch.cat([conv(x) for conv in self.m], 1)))
        return out

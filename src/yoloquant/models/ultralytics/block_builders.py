"""Blocks of the ultralytics families with random weights, by the names of their model files.

What belongs here: how a block is put together of convolutions. Which family has which block where stands in `plans.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from yoloquant.models.layer_stack import assemble
from yoloquant.models.ultralytics import attention, blocks
from yoloquant.models.yolov5.blocks import C3, SPPF, Bottleneck, Conv
from yoloquant.models.yolov7.blocks import RepBottleneck

# Input channels, output channels and the block's options -> block.
BlockBuilder = Callable[..., nn.Module]


def make_block(kind: str, inputs: int, outputs: int, **options: Any) -> nn.Module:
    """One block.

    Args:
        kind: Key of `BLOCKS`.
        inputs: Number of input channels.
        outputs: Number of output channels.
        options: Options of the kind: `repeats`, the number of inner blocks, and what `plans.py` says beside it.
    """
    return BLOCKS[kind](inputs, outputs, **options)


def _depthwise(channels: int, kernel: int, stride: int = 1, act: bool = True) -> Conv:
    return Conv(channels, channels, kernel, stride, g=channels, act=act)


def _down(inputs: int, outputs: int) -> Conv:
    return Conv(inputs, outputs, 3, 2)


def _separable_down(inputs: int, outputs: int) -> nn.Module:
    return assemble(blocks.SCDown(), cv1=Conv(inputs, outputs), cv2=_depthwise(outputs, 3, 2, act=False))


def _average_down(inputs: int, outputs: int) -> nn.Module:
    return assemble(blocks.AConv(), cv1=Conv(inputs, outputs, 3, 2))


def _split_down(inputs: int, outputs: int) -> nn.Module:
    half = outputs // 2
    return assemble(blocks.ADown(), cv1=Conv(inputs // 2, half, 3, 2), cv2=Conv(inputs // 2, half))


def _bottleneck(channels: int, shortcut: bool = True, expansion: float = 1.0) -> Bottleneck:
    made = Bottleneck(channels, channels, shortcut, e=expansion)
    return assemble(made, cv1=Conv(channels, int(channels * expansion), 3))


def _c2f_of(inputs: int, outputs: int, inner: list[nn.Module], hidden: int) -> blocks.C2f:
    first, last = Conv(inputs, 2 * hidden), Conv((2 + len(inner)) * hidden, outputs)
    return assemble(blocks.C2f(), cv1=first, cv2=last, m=nn.ModuleList(inner))


def _c2f(inputs: int, outputs: int, repeats: int, shortcut: bool = False) -> nn.Module:
    hidden = outputs // 2
    return _c2f_of(inputs, outputs, [_bottleneck(hidden, shortcut) for _ in range(repeats)], hidden)


def _c2f_cib(inputs: int, outputs: int, repeats: int, large: bool = False) -> nn.Module:
    hidden = outputs // 2
    return _c2f_of(inputs, outputs, [_inverted(hidden, large) for _ in range(repeats)], hidden)


def _inverted(channels: int, large: bool) -> nn.Module:
    """Compact inverted block (Wang et al. 2024, "YOLOv10", figure 3b), its middle kernel 7x7 where `large`."""
    wide = 2 * channels
    layers = [
        _depthwise(channels, 3),
        Conv(channels, wide),
        _large_kernel(wide) if large else _depthwise(wide, 3),
        Conv(wide, channels),
        _depthwise(channels, 3),
    ]
    return assemble(blocks.CIB(), cv1=nn.Sequential(*layers), add=True)


def _large_kernel(channels: int) -> nn.Module:
    parallel = {"conv": _depthwise(channels, 7, act=False), "conv1": _depthwise(channels, 3, act=False)}
    return assemble(blocks.RepVGGDW(), act=nn.SiLU(), **parallel)


def _c3k(channels: int) -> C3:
    """Two 3x3 bottlenecks on one half of the channels."""
    made = C3(channels, channels)
    return assemble(made, m=nn.Sequential(*(_bottleneck(channels // 2) for _ in range(2))))


def _c3k2(
    inputs: int, outputs: int, repeats: int, nested: bool = False, expansion: float = 0.5, attentive: bool = False
) -> nn.Module:
    hidden = int(outputs * expansion)

    def inner() -> nn.Module:
        if attentive:
            return nn.Sequential(_bottleneck(hidden, expansion=0.5), _attention_block(hidden))
        return _c3k(hidden) if nested else _bottleneck(hidden, expansion=0.5)

    return _c2f_of(inputs, outputs, [inner() for _ in range(repeats)], hidden)


def _elan(inputs: int, outputs: int, hidden: int) -> nn.Module:
    half, quarter = hidden // 2, hidden // 2
    return assemble(
        blocks.ELAN(),
        cv1=Conv(inputs, hidden),
        cv2=Conv(half, quarter, 3),
        cv3=Conv(quarter, quarter, 3),
        cv4=Conv(hidden + 2 * quarter, outputs),
    )


def _rep_elan(inputs: int, outputs: int, hidden: int, repeats: int) -> nn.Module:
    half = hidden // 2

    def stage() -> nn.Module:
        return nn.Sequential(_rep_csp(half, repeats), Conv(half, half, 3))

    first, last = Conv(inputs, hidden), Conv(2 * hidden, outputs)
    return assemble(blocks.ELAN(), cv1=first, cv2=stage(), cv3=stage(), cv4=last)


def _rep_csp(channels: int, repeats: int) -> C3:
    hidden = channels // 2
    inner = [assemble(RepBottleneck(), cv1=_rep_conv(hidden), cv2=Conv(hidden, hidden, 3), add=True) for _ in range(repeats)]
    return assemble(C3(channels, channels), m=nn.Sequential(*inner))


def _rep_conv(channels: int) -> nn.Module:
    parallel = {"conv1": Conv(channels, channels, 3, act=False), "conv2": Conv(channels, channels, act=False)}
    return assemble(blocks.RepConv(), act=nn.SiLU(), **parallel)


def _elan_pyramid(inputs: int, outputs: int) -> nn.Module:
    half = outputs // 2
    pools = {f"cv{number}": nn.MaxPool2d(5, 1, 2) for number in (2, 3, 4)}
    return assemble(blocks.SPPELAN(), cv1=Conv(inputs, half), **pools, cv5=Conv(4 * half, outputs))


def _pyramid(inputs: int, outputs: int, residual: bool = False) -> nn.Module:
    """Spatial pyramid pooling; the residual form has no activation before the pooling."""
    made = SPPF(inputs, outputs, 5)
    return assemble(made, cv1=Conv(inputs, inputs // 2, act=False), add=inputs == outputs) if residual else made


def _heads(channels: int, of_each: int) -> int:
    """Attention heads of about `of_each` channels, all equally wide."""
    count = max(channels // of_each, 1)
    return next(heads for heads in range(count, 0, -1) if channels % heads == 0)


def _attention(channels: int) -> attention.Attention:
    heads = _heads(channels, 64)
    width = channels // heads
    return assemble(
        attention.Attention(),
        num_heads=heads,
        head_dim=width,
        key_dim=width // 2,
        scale=(width // 2) ** -0.5,
        qkv=Conv(channels, channels + 2 * heads * (width // 2), act=False),
        proj=Conv(channels, channels, act=False),
        pe=_depthwise(channels, 3, act=False),
    )


def _feed_forward(channels: int) -> nn.Sequential:
    return nn.Sequential(Conv(channels, 2 * channels), Conv(2 * channels, channels, act=False))


def _attention_block(channels: int) -> nn.Module:
    return assemble(attention.PSABlock(), attn=_attention(channels), ffn=_feed_forward(channels), add=True)


def _psa(inputs: int, outputs: int) -> nn.Module:
    half = outputs // 2
    inner = {"attn": _attention(half), "ffn": _feed_forward(half)}
    return assemble(attention.PSA(), cv1=Conv(inputs, 2 * half), cv2=Conv(2 * half, outputs), **inner)


def _c2psa(inputs: int, outputs: int, repeats: int) -> nn.Module:
    half = outputs // 2
    inner = nn.Sequential(*(_attention_block(half) for _ in range(repeats)))
    return assemble(attention.C2PSA(), cv1=Conv(inputs, 2 * half), cv2=Conv(2 * half, outputs), m=inner)


def _a2c2f(inputs: int, outputs: int, repeats: int, area: int = 0, residual: bool = False, widening: float = 2.0) -> nn.Module:
    """Blocks of area attention, two by two, or plain ones where `area` is 0."""
    hidden = outputs // 2
    inner = [_area_pair(hidden, area, widening) if area else _c3k(hidden) for _ in range(repeats)]
    first, last = Conv(inputs, hidden), Conv((1 + repeats) * hidden, outputs)
    made = assemble(attention.A2C2f(), cv1=first, cv2=last, m=nn.ModuleList(inner))
    return assemble(made, gamma=nn.Parameter(torch.full((outputs,), 0.01))) if residual and area else made


def _area_pair(channels: int, area: int, widening: float) -> nn.Sequential:
    return nn.Sequential(*(_area_block(channels, area, widening) for _ in range(2)))


def _area_block(channels: int, area: int, widening: float) -> nn.Module:
    heads = _heads(channels, 32)
    attn = assemble(
        attention.AreaAttention(),
        num_heads=heads,
        head_dim=channels // heads,
        area=area,
        qkv=Conv(channels, 3 * channels, act=False),
        proj=Conv(channels, channels, act=False),
        pe=_depthwise(channels, 7, act=False),
    )
    wide = int(channels * widening)
    block = assemble(attention.ABlock(), attn=attn, mlp=nn.Sequential(Conv(channels, wide), Conv(wide, channels, act=False)))
    for conv in [module for module in block.modules() if isinstance(module, nn.Conv2d)]:
        nn.init.trunc_normal_(conv.weight, std=0.02)
    return block


BLOCKS: dict[str, BlockBuilder] = {
    "Conv": _down,
    "SCDown": _separable_down,
    "AConv": _average_down,
    "ADown": _split_down,
    "C2f": _c2f,
    "C2fCIB": _c2f_cib,
    "C3k2": _c3k2,
    "A2C2f": _a2c2f,
    "ELAN1": _elan,
    "RepNCSPELAN4": _rep_elan,
    "SPPF": _pyramid,
    "SPPELAN": _elan_pyramid,
    "PSA": _psa,
    "C2PSA": _c2psa,
}


def box_branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions and the last one; class branches of YOLOv8 and v9 are the same."""
    return nn.Sequential(Conv(inputs, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))


def light_class_branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two pairs of depth-wise and point-wise convolutions and the last one, from YOLOv10 on."""
    first = nn.Sequential(_depthwise(inputs, 3), Conv(inputs, hidden))
    second = nn.Sequential(_depthwise(hidden, 3), Conv(hidden, hidden))
    return nn.Sequential(first, second, nn.Conv2d(hidden, outputs, 1))

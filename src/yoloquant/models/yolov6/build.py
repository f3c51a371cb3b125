"""Build a YOLOv6 detector of release 0.3 or later, size n or s, with random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.layer_stack import assemble, divisible, settle_norms
from yoloquant.models.yolov6.blocks import CSPSPPF, BiFusion, ConvBlock, ConvModule, CSPSPPFModule, RepBlock, Transpose
from yoloquant.models.yolov6.network import Backbone, EfficientDetect, Neck, YOLOv6Network
from yoloquant.models.yolov6.reparameterized import RepVGGBlock

WIDTHS = {"n": 0.25, "s": 0.5}
STRIDES = (8, 16, 32)
# A third of 6, 12, 18 and 6, and of the neck's 12.
REPEATS, NECK_REPEATS = (2, 4, 6, 2), 4
# Probability of a class at the start.
PRIOR = 0.01


def build_yolov6(size: str, names: Sequence[str], input_size: int = 640, width: float | None = None) -> Detector:
    """A detector with random weights, initialised as YOLOv6 initialises them; boxes are plain distances.

    Args:
        size: Size, "n" or "s"; the larger ones have other blocks.
        names: Class names.
        input_size: Side of the square input, pixels.
        width: Multiple of the channels; by default the size's.
    """
    multiple = WIDTHS[size] if width is None else width
    channels = {full: divisible(full * multiple) for full in (64, 128, 256, 512, 1024)}
    network = assemble(
        YOLOv6Network(),
        backbone=_backbone(channels),
        neck=_neck(channels),
        detect=_detect([channels[full] for full in (128, 256, 512)], len(names)),
    )
    head = DistanceHead("rows_objectness", len(names), list(STRIDES), 1)
    settle_norms(network)
    return Detector(network.eval(), head.eval(), tuple(names), STRIDES, (input_size, input_size), "yolov6")


def _backbone(channels: dict[int, int]) -> Backbone:
    stages: list[nn.Sequential] = []
    for inputs, outputs, repeats in zip((64, 128, 256, 512), (128, 256, 512, 1024), REPEATS, strict=True):
        blocks = [_rep_vgg(channels[inputs], channels[outputs], 2), _chain(channels[outputs], channels[outputs], repeats)]
        stages.append(nn.Sequential(*blocks))
    stages[-1].append(_pyramid(channels[1024]))
    named = {f"ERBlock_{number}": stage for number, stage in enumerate(stages, start=2)}
    return assemble(Backbone(), fuse_P2=True, stem=_rep_vgg(3, channels[64], 2), **named)


def _neck(c: dict[int, int]) -> Neck:
    return assemble(
        Neck(),
        reduce_layer0=_conv(c[1024], c[256]),
        Bifusion0=_fusion(c[512], c[256], c[256]),
        Rep_p4=_chain(c[256], c[256], NECK_REPEATS),
        reduce_layer1=_conv(c[256], c[128]),
        Bifusion1=_fusion(c[256], c[128], c[128]),
        Rep_p3=_chain(c[128], c[128], NECK_REPEATS),
        downsample2=_conv(c[128], c[128], 3, 2),
        Rep_n3=_chain(2 * c[128], c[256], NECK_REPEATS),
        downsample1=_conv(c[256], c[256], 3, 2),
        Rep_n4=_chain(2 * c[256], c[512], NECK_REPEATS),
    )


def _detect(channels: list[int], class_count: int) -> EfficientDetect:
    def blocks(kernel: int) -> nn.ModuleList:
        return nn.ModuleList(_conv(width, width, kernel, activation=nn.SiLU) for width in channels)

    classes = nn.ModuleList(nn.Conv2d(width, class_count, 1) for width in channels)
    boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in channels)
    for layers, bias in ((classes, -math.log((1 - PRIOR) / PRIOR)), (boxes, 1.0)):
        for layer in layers:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    stems, of_classes, of_boxes = blocks(1), blocks(3), blocks(3)
    return assemble(
        EfficientDetect(),
        nc=class_count,
        reg_max=0,
        use_dfl=False,
        stems=stems,
        cls_convs=of_classes,
        reg_convs=of_boxes,
        cls_preds=classes,
        reg_preds=boxes,
    )


def _module(inputs: int, outputs: int, kernel: int, stride: int) -> ConvModule:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return assemble(ConvModule(), conv=conv, bn=nn.BatchNorm2d(outputs))


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, activation: type[nn.Module] = nn.ReLU) -> ConvBlock:
    return assemble(ConvBlock(), block=assemble(_module(inputs, outputs, kernel, stride), act=activation()))


def _rep_vgg(inputs: int, outputs: int, stride: int = 1) -> RepVGGBlock:
    block = assemble(
        RepVGGBlock(),
        groups=1,
        nonlinearity=nn.ReLU(),
        se=nn.Identity(),
        rbr_dense=_module(inputs, outputs, 3, stride),
        rbr_1x1=_module(inputs, outputs, 1, stride),
    )
    return assemble(block, rbr_identity=nn.BatchNorm2d(inputs)) if inputs == outputs and stride == 1 else block


def _chain(inputs: int, outputs: int, repeats: int) -> RepBlock:
    more = nn.Sequential(*(_rep_vgg(outputs, outputs) for _ in range(repeats - 1)))
    return assemble(RepBlock(), conv1=_rep_vgg(inputs, outputs), block=more)


def _pyramid(width: int) -> CSPSPPF:
    half = width // 2
    inner = assemble(
        CSPSPPFModule(),
        cv1=_conv(width, half),
        cv2=_conv(width, half),
        cv3=_conv(half, half, 3),
        cv4=_conv(half, half),
        m=nn.MaxPool2d(5, 1, 2),
        cv5=_conv(4 * half, half),
        cv6=_conv(half, half, 3),
        cv7=_conv(2 * half, width),
    )
    return assemble(CSPSPPF(), cspsppf=inner)


def _fusion(middle: int, large: int, outputs: int) -> BiFusion:
    return assemble(
        BiFusion(),
        cv1=_conv(middle, outputs),
        cv2=_conv(large, outputs),
        cv3=_conv(3 * outputs, outputs),
        upsample=assemble(Transpose(), upsample_transpose=nn.ConvTranspose2d(outputs, outputs, 2, 2)),
        downsample=_conv(outputs, outputs, 3, 2),
    )

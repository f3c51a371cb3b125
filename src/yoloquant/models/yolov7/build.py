"""Build a YOLOv7-tiny detector with random weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from yoloquant.models.detector import Detector
from yoloquant.models.family import Anchors
from yoloquant.models.layer_stack import LayerStack, assemble, divisible, initialise_anchor_biases
from yoloquant.models.yolov5.blocks import Concat, Conv
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.models.yolov7.blocks import ImplicitA, ImplicitM, Pool
from yoloquant.models.yolov7.network import IDetect

STRIDES = (8, 16, 32)
ANCHORS: Anchors = (
    ((9, 6), (13, 16), (29, 11)),
    ((29, 28), (66, 26), (51, 62)),
    ((115, 54), (134, 119), (308, 147)),
)


def build_yolov7_tiny(
    names: Sequence[str], input_size: int = 640, width: float | None = None, anchors: Anchors | None = None
) -> Detector:
    """A detector with random weights, initialised as YOLOv7 initialises them.

    Args:
        names: Class names.
        input_size: Side of the square input, pixels.
        width: Multiple of the channels; 1 by default.
        anchors: Mapping level -> anchor -> width and height in pixels; those for COCO by default.
    """
    stack, multiple = LayerStack(), 1.0 if width is None else width

    def conv(full: int, kernel: int = 1, stride: int = 1, source: int = -1) -> int:
        outputs = divisible(full * multiple)
        made = Conv(stack.channels(source), outputs, kernel, stride, act=nn.LeakyReLU(0.1))
        return stack.add(made, outputs, source)

    def join(*sources: int) -> int:
        return stack.add(Concat(1), stack.channels(sources), list(sources))

    def aggregate(full: int) -> int:
        """Two ways into half of the channels, two convolutions behind one of them, all four side by side."""
        conv(full // 2)
        conv(full // 2, source=-2)
        conv(full // 2, 3)
        conv(full // 2, 3)
        join(-1, -2, -3, -4)
        return conv(full)

    def pool(kernel: int, stride: int, source: int = -1) -> int:
        made = assemble(Pool(), m=nn.MaxPool2d(kernel, stride, 0 if stride == 2 else kernel // 2))
        return stack.add(made, stack.channels(source), source)

    conv(32, 3, 2)
    conv(64, 3, 2)
    stages = [aggregate(64)]
    for full in (128, 256, 512):
        pool(2, 2)
        stages.append(aggregate(full))
    conv(256)
    conv(256, source=-2)
    pool(5, 1)
    pool(9, 1, -2)
    pool(13, 1, -3)
    join(-1, -2, -3, -4)
    conv(256)
    join(-1, -7)
    coarse = conv(256)
    laterals = []
    for full, stage in ((256, stages[2]), (128, stages[1])):
        conv(full // 2)
        stack.add(nn.Upsample(None, 2, "nearest"), stack.channels())
        conv(full // 2, source=stage)
        join(-1, -2)
        # Half as wide as the backbone's at this size.
        laterals.append(aggregate(full // 2))
    middle, outputs = laterals[0], [laterals[1]]
    for full, lateral in ((128, middle), (256, coarse)):
        conv(full, 3, 2)
        join(-1, lateral)
        outputs.append(aggregate(full))
    last = [conv(full, 3, source=source) for full, source in zip((128, 256, 512), outputs, strict=True)]
    sizes = [[[float(side) for side in anchor] for anchor in level] for level in anchors or ANCHORS]
    detect = _detect([stack.channels(index) for index in last], len(sizes[0]), len(names))
    stack.add(detect, 0, last)
    head = AnchorHead(len(names), list(STRIDES), sizes)
    return Detector(stack.network().eval(), head.eval(), tuple(names), STRIDES, (input_size, input_size), "yolov7")


def _detect(channels: list[int], anchors: int, class_count: int) -> IDetect:
    outputs = anchors * (class_count + 5)
    last = nn.ModuleList(nn.Conv2d(inputs, outputs, 1) for inputs in channels)
    initialise_anchor_biases(last, anchors, STRIDES, class_count)
    shifts = nn.ModuleList(assemble(ImplicitA(), implicit=_around(0.0, inputs)) for inputs in channels)
    scales = nn.ModuleList(assemble(ImplicitM(), implicit=_around(1.0, outputs)) for _ in channels)
    return assemble(IDetect(), nc=class_count, na=anchors, m=last, ia=shifts, im=scales)


def _around(mean: float, channels: int) -> nn.Parameter:
    """An implicit value for each channel, as they begin."""
    return nn.Parameter(mean + 0.02 * torch.randn(1, channels, 1, 1))
